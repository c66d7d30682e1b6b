package promises

// faults_sql_test.go takes the SQL server away, or has it refuse, in every way it can, while
// an engine works at Logged. Whatever happens: no acknowledged write fails or is lost, groups
// are whole in SQL at every moment, and what waits drains by itself once the server is back.
// The server is a real one, killed, frozen or set by its own means; replies are lost in a proxy.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestSQLAbsentAtOpenRunsDegradedAndRecoversAlone: the first Open of all, so that there is not
// even a table; also with Redis away as well.
func TestSQLAbsentAtOpenRunsDegradedAndRecoversAlone(t *testing.T) {
	for _, redisToo := range []bool{false, true} {
		t.Run(fmt.Sprintf("Redis away too: %v", redisToo), func(t *testing.T) {
			t.Parallel() // they wait more than they work
			ctx := context.Background()
			db, server := testserver.MariaDB(t), testserver.Redis(t)
			db.Kill()
			if redisToo {
				server.Kill()
			}
			outages := make(chan bool, 100)
			cfg := small(t, server.URL())
			cfg.SQLURL, cfg.L3Timeout = db.URL(), 300*time.Millisecond
			cfg.OnEvent.L3Outage = func(down bool, _ error) { outages <- down }
			e := lab.Open(t, cfg)
			if h := e.Health(ctx); h.L3.OK || h.L3.Error == "" || h.L2.OK == redisToo || !h.Live || !h.Ready {
				t.Errorf("Health: %+v", h)
			}
			if s := e.Stats(); !s.L3Down || !told(t, outages) {
				t.Error("nobody is told that SQL is away")
			}
			want := numbered(300, 1)
			want.write(t, e)
			if err := e.Submit(ctx, syncengine.Item{ID: "archived", Content: lab.Doc("archived", 1)}, syncengine.WithDurability(syncengine.Archived)); !errors.Is(err, syncengine.ErrUnavailable) {
				t.Errorf("Archived without SQL: %v", err)
			}
			want["archived"] = 1 // it said that it would come later
			want.read(t, e)
			for name, call := range map[string]func() error{
				"Get":         func() error { _, err := e.Get(ctx, "unknown"); return err },
				"GetVerified": func() error { _, err := e.GetVerified(ctx, "unknown"); return err },
				"GetMany":     func() error { _, err := e.GetMany(ctx, []string{"id-1", "unknown"}); return err },
				"Status":      func() error { _, err := e.Status(ctx, "unknown"); return err },
				"Flush":       func() error { return e.Flush(ctx) },
				"MerkleRoot":  func() error { _, err := e.MerkleRoot(ctx); return err },
				"Verify":      func() error { _, err := e.Verify(ctx, syncengine.VerifyOptions{}); return err },
				"GetOrInsertWith": func() error {
					_, err := e.GetOrInsertWith(ctx, "unknown", func(context.Context) (syncengine.Item, error) { return syncengine.Item{Content: []byte("1")}, nil })
					return err
				},
			} {
				if err := call(); !errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrNotFound) {
					t.Errorf("%s without SQL: %v, want ErrUnavailable", name, err)
				}
			}
			if !e.Contains("unknown") {
				t.Error("Contains denies what nobody could be asked about")
			}
			db.Restart()
			if redisToo {
				server.Restart()
			}
			want.wantDrained(t, e, db.URL())
			if told(t, outages) {
				t.Error("the end of the outage was not told")
			}
			lab.WantContent(t, e, "unknown", -1)
			want.wantRepaired(t, e, cfg, lab.RedisAt(t, server.URL()))
		})
	}
}

// lockWaits counts the transactions that wait for a row just now.
const lockWaits = "innodb_row_lock_current_waits"

// lockRow holds a row of SQL from outside until the returned function is called.
func lockRow(t testing.TB, db *sql.DB, id string) (tx *sql.Tx, release func()) {
	t.Helper()
	tx, err := db.BeginTx(lab.Bounded(t), nil)
	lab.Must(t, err)
	lab.Must(t, tx.QueryRow("SELECT id FROM sync_items WHERE id = ? FOR UPDATE", id).Scan(new(string)))
	return tx, func() { _ = tx.Rollback() } // fails when its server was killed
}

// TestINV05ADatabaseKilledInMidTransactionHoldsTheWholeGroupOrNothing stops a transaction
// behind a locked row, its first statement done, and kills the server there.
func TestINV05ADatabaseKilledInMidTransactionHoldsTheWholeGroupOrNothing(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	proxy := faultproxy.New(t, db.Addr())
	e := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, db.URL(), proxy), BatchFlushInterval: time.Millisecond})
	_, err := e.SubmitMany(ctx, groupOf("g", 40, 0))
	lab.Must(t, err)
	lab.Must(t, e.Flush(ctx))
	for n := 1; n <= 3; n++ {
		outside := db.SQL(t)
		_, release := lockRow(t, outside, "g-36") // 40 rows are two statements, of 32 and 8
		_, err := e.SubmitMany(ctx, groupOf("g", 40, n))
		lab.Must(t, err)
		lab.Eventually(t, "the transaction stands before the row", func() bool { return lab.ServerStatus(t, outside, lockWaits) == 1 })
		proxy.Cut() // what the crash left is looked at before the engine writes again
		db.Kill()
		release()
		db.Restart()
		old := fmt.Sprintf(`%%"n":%d,%%`, n-1)
		if rows := lab.Number(t, db.SQL(t), "SELECT COUNT(*) FROM sync_items WHERE content LIKE ?", old); rows != 40 {
			t.Errorf("after kill %d the group is torn: %d rows of 40 are old", n, rows)
		}
		proxy.Restore()
		want := make(contents)
		for _, it := range groupOf("g", 40, n) {
			want[it.ID] = n
		}
		want.wantDrained(t, e, db.URL())
	}
}

// TestINV01And05DatabaseKilledAndRestartedUnderLoad: single ops and groups, at Logged, while the
// server dies five times. Its transactions are looked at from outside after each restart.
func TestINV01And05DatabaseKilledAndRestartedUnderLoad(t *testing.T) {
	const size = 12
	ctx := context.Background()
	db := testserver.MariaDB(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), BatchFlushInterval: time.Millisecond, L3Timeout: 2 * time.Second})
	var order, mu sync.Mutex
	want, groups := make(contents), make(contents)
	torn := func() {
		t.Helper()
		if n := lab.Number(t, db.SQL(t), "SELECT COUNT(*) FROM (SELECT LEFT(id, 7) AS g FROM sync_items WHERE id LIKE 'g%' GROUP BY g HAVING COUNT(*) <> ?) AS t", size); n > 0 {
			t.Errorf("%d groups are torn", n)
		}
	}
	load(t, e, 300, 300, want, func(ops int64) {
		if ops%10 == 5 {
			items := groupOf(fmt.Sprintf("g%06d", ops), size, int(ops))
			_, err := e.SubmitMany(ctx, items)
			lab.Must(t, err)
			mu.Lock()
			for _, it := range items {
				groups[it.ID] = int(ops)
			}
			mu.Unlock()
		}
		if ops%480 != 100 && ops%480 != 300 {
			return
		}
		order.Lock()
		defer order.Unlock()
		if ops%480 == 100 {
			db.Kill()
			return
		}
		db.Restart()
		torn()
	})
	db.Restart()
	torn()
	if s := e.Stats(); s.FlushErrors == 0 {
		t.Error("no transaction met a kill")
	}
	maps.Copy(want, groups)
	want.wantDrained(t, e, db.URL())
}

// TestALostReplyToCommitIsAppliedOnceInEffect loses the reply to COMMIT in each round. The
// repeated batch must not undo what another engine wrote between the two.
func TestALostReplyToCommitIsAppliedOnceInEffect(t *testing.T) {
	ctx := context.Background()
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	u, err := url.Parse(dbURL)
	lab.Must(t, err)
	proxy := faultproxy.New(t, u.Host)
	e := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, dbURL, proxy), BatchFlushInterval: time.Hour})
	other := lab.Open(t, syncengine.Config{SQLURL: dbURL})
	outside := testserver.OpenSQL(t, dbURL)
	want := make(contents)
	for n := 1; n <= 8; n++ {
		proxy.SwallowReplyTo("COMMIT")
		done := make(chan error, 1)
		go func() {
			_, err := e.SubmitMany(ctx, groupOf("g", 40, n), syncengine.WithDurability(syncengine.Archived))
			done <- err
		}()
		lab.Eventually(t, "the reply is lost", func() bool { return proxy.Swallowed() == n })
		lab.Eventually(t, "the group is there", func() bool { // it may have been the COMMIT of a heartbeat
			return lab.Number(t, outside, "SELECT COUNT(*) FROM sync_items WHERE content LIKE ?", fmt.Sprintf(`%%"n":%d,%%`, n)) == 40
		})
		lab.Put(t, other, "g-07", 100+n, syncengine.WithDurability(syncengine.Archived))
		lab.Must(t, other.Delete(ctx, "g-08", syncengine.WithDurability(syncengine.Archived)))
		if err := <-done; err != nil {
			t.Fatalf("round %d: the caller sees %v", n, err)
		}
		for _, it := range groupOf("g", 40, n) {
			want[it.ID] = n
		}
		want["g-07"], want["g-08"] = 100+n, -1
		want.read(t, lab.Open(t, syncengine.Config{SQLURL: dbURL}))
	}
	if s := e.Stats(); s.FlushErrors != 0 || s.Quarantined != 0 || s.PendingOps != 0 {
		t.Errorf("losing replies showed: %+v", s)
	}
}

// TestAVictimOfADeadlockIsRepeatedUnseen makes the engine the victim for certain: the server
// spares the transaction that has changed more. Then the same with a lock wait that times out.
func TestAVictimOfADeadlockIsRepeatedUnseen(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t, "--innodb-lock-wait-timeout=1")
	outside := db.SQL(t)
	reg := prometheus.NewRegistry()
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), L3Timeout: 20 * time.Second, Registerer: reg})
	archived := syncengine.WithDurability(syncengine.Archived)
	_, err := e.SubmitMany(ctx, groupOf("g", 40, 0), archived)
	lab.Must(t, err)
	execAll(t, outside, "CREATE TABLE ballast (n INT)", "INSERT INTO ballast VALUES (1)"+strings.Repeat(", (1)", 1999))
	done := make(chan error, 1)
	submit := func(n int) {
		_, err := e.SubmitMany(ctx, groupOf("g", 40, n), archived)
		done <- err
	}
	t.Run("deadlock", func(t *testing.T) {
		before := lab.Deadlocks(t, outside)
		tx, release := lockRow(t, outside, "g-36")
		_, err := tx.Exec("UPDATE ballast SET n = n + 1")
		lab.Must(t, err)
		go submit(1)
		lab.Eventually(t, "the engine waits for the row", func() bool { return lab.ServerStatus(t, outside, lockWaits) == 1 })
		lab.Must(t, tx.QueryRow("SELECT id FROM sync_items WHERE id = 'g-03' FOR UPDATE").Scan(new(string))) // which the engine holds
		release()
		lab.Must(t, <-done)
		if n := lab.Deadlocks(t, outside) - before; n != 1 {
			t.Errorf("%d deadlocks", n)
		}
	})
	t.Run("lock wait", func(t *testing.T) {
		before := lab.ServerStatus(t, outside, "innodb_row_lock_waits")
		_, release := lockRow(t, outside, "g-36")
		go submit(2)
		lab.Eventually(t, "the engine waits a second time", func() bool { return lab.ServerStatus(t, outside, "innodb_row_lock_waits") >= before+2 })
		release()
		lab.Must(t, <-done)
	})
	if s, n := e.Stats(), metric(t, reg, "sync_engine_retries_total"); s.FlushErrors != 0 || s.L3Down || n != 0 {
		t.Errorf("a deadlock was taken for an outage: %v retries, %+v", n, s)
	}
}

// TestTwoEnginesOnHotIDsBothDrain has two engines write the same few ids in groups, each with
// many transactions in flight. No call fails, no batch fails, SQL ends with the newest of each.
func TestTwoEnginesOnHotIDsBothDrain(t *testing.T) {
	const ids, writers, groups = 12, 6, 40
	ctx := context.Background()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	server := testserver.SharedMariaDB(t)
	dbURL := server.NewDatabase(t)
	outside := testserver.OpenSQL(t, dbURL)
	before := lab.Deadlocks(t, outside)
	var engines [2]*syncengine.Engine
	for i := range engines {
		engines[i] = lab.Open(t, syncengine.Config{SQLURL: dbURL, FlushConcurrency: 8, BatchFlushCount: 4, BatchFlushInterval: time.Millisecond})
	}
	var wg sync.WaitGroup
	for i, e := range engines {
		for w := range writers {
			rng := rand.New(rand.NewPCG(seed, uint64(i*writers+w)))
			wg.Go(func() {
				for n := range groups {
					var items []syncengine.Item
					var names []string
					for _, k := range rng.Perm(ids)[:2+rng.IntN(5)] {
						names = append(names, fmt.Sprint("hot-", k))
						items = append(items, syncengine.Item{ID: names[len(names)-1], Content: lab.Doc(fmt.Sprint(i, w), n)})
					}
					var err error
					if rng.IntN(4) == 0 {
						_, err = e.DeleteMany(ctx, names)
					} else {
						_, err = e.SubmitMany(ctx, items)
					}
					lab.Must(t, err)
				}
			})
		}
	}
	wg.Wait()
	for i, e := range engines {
		lab.Must(t, e.Flush(ctx))
		if s := e.Stats(); s.FlushErrors != 0 || s.PendingOps != 0 {
			t.Errorf("engine %d: %d batches failed, %d ops left", i, s.FlushErrors, s.PendingOps)
		}
	}
	t.Logf("%d deadlocks", lab.Deadlocks(t, outside)-before)
	cold := lab.Open(t, syncengine.Config{SQLURL: dbURL})
	for k := range ids {
		id := fmt.Sprint("hot-", k)
		in3, err3 := cold.Get(ctx, id)
		agree := false
		for i, e := range engines { // each still holds its own last op of the id
			own, err := e.Get(ctx, id)
			agree = agree || own.Version == in3.Version && string(own.Content) == string(in3.Content) && (err == nil) == (err3 == nil)
			if err == nil && err3 == nil && own.Version > in3.Version {
				t.Errorf("%s: SQL holds version %d, engine %d wrote %d", id, in3.Version, i, own.Version)
			}
		}
		if !agree {
			t.Errorf("%s: SQL holds what neither engine wrote last", id)
		}
	}
}

func TestINV01ConnectionsKilledUnderLoadSurfaceNowhere(t *testing.T) {
	db := testserver.MariaDB(t)
	outside := db.SQL(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), BatchFlushInterval: time.Millisecond, BatchFlushCount: 20})
	want := make(contents)
	var mu sync.Mutex
	killed := 0
	load(t, e, 300, 300, want, func(ops int64) {
		if ops%40 == 0 {
			mu.Lock()
			defer mu.Unlock()
			killed += lab.KillConnections(t, outside, "sync")
		}
	})
	if killed == 0 { // how many depends on how soon the engine comes back
		t.Error("no connection was killed")
	}
	want.wantDrained(t, e, db.URL())
}

// TestINV01AServerThatLetsNobodyInOrWriteSurfacesInNoLoggedCall: the call goes on, the cause is
// told, and all is in SQL when the server has come to itself.
func TestINV01AServerThatLetsNobodyInOrWriteSurfacesInNoLoggedCall(t *testing.T) {
	for name, fault := range sqlFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			db := testserver.MariaDB(t, fault.args...)
			outside := db.SQL(t)
			causes := make(chan error, 1000)
			e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), BatchFlushInterval: time.Millisecond, FlushConcurrency: 8, BatchFlushCount: 10,
				OnEvent: syncengine.Events{L3Outage: func(down bool, cause error) {
					if down {
						causes <- cause
					}
				}}})
			want := numbered(200, 1)
			want.write(t, e)
			lab.Eventually(t, "all is in SQL", func() bool { return e.Flush(ctx) == nil }) // a slow machine may take a timeout
			mend := fault.strike(t, outside)
			load(t, e, 40, 40, want, func(int64) {})
			if fault.says != "" {
				if cause := told(t, causes); !strings.Contains(cause.Error(), fault.says) || !errors.Is(cause, syncengine.ErrUnavailable) {
					t.Errorf("the cause is told as %v, want %q", cause, fault.says)
				}
				if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
					t.Errorf("Flush: %v, want ErrUnavailable", err)
				}
			}
			want.read(t, e)
			mend()
			want.wantDrained(t, e, db.URL())
		})
	}
}

// sqlFaults are ways of a server to refuse everybody. says is what the driver is told.
var sqlFaults = map[string]struct {
	args   []string
	says   string
	strike func(t *testing.T, outside *sql.DB) (mend func())
}{
	"read-only server": {says: "read-only", strike: func(t *testing.T, outside *sql.DB) func() {
		execAll(t, outside, "SET GLOBAL read_only = 1")
		return func() { execAll(t, outside, "SET GLOBAL read_only = 0") }
	}},
	"too many connections": {args: []string{"--max-connections=10"}, says: "Too many connections", strike: func(t *testing.T, outside *sql.DB) func() {
		var held []*sql.Conn
		most := 10
		if testserver.IsMySQL() {
			most++ // one comes in beyond that, who may do more than others
		}
		for len(held) < most {
			lab.KillConnections(t, outside, "sync")
			if c, err := outside.Conn(lab.Bounded(t)); err == nil {
				held = append(held, c)
			}
		}
		return func() {
			for _, c := range held {
				lab.Must(t, c.Close())
			}
			outside.SetMaxIdleConns(1)
		}
	}},
	// One may come in: what works goes on, the rest is tried again.
	"one connection for the user": {strike: func(t *testing.T, outside *sql.DB) func() {
		execAll(t, outside, "ALTER USER 'sync'@'%' WITH MAX_USER_CONNECTIONS 1")
		lab.KillConnections(t, outside, "sync")
		return func() { execAll(t, outside, "ALTER USER 'sync'@'%' WITH MAX_USER_CONNECTIONS 0") }
	}},
}

// TestINV08AServerThatTakesNoWritesIsStillRead: that writes fail opens no circuit to reads.
func TestINV08AServerThatTakesNoWritesIsStillRead(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), L3Breaker: syncengine.BreakerAggressive})
	other := lab.Open(t, syncengine.Config{SQLURL: db.URL()})
	lab.Must(t, other.Submit(ctx, syncengine.Item{ID: "there", Content: []byte(`1`)}, syncengine.WithDurability(syncengine.Archived)))
	mend := sqlFaults["read-only server"].strike(t, db.SQL(t))
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "mine", Content: []byte(`2`)}))
	for range 3 { // of several tries each
		if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) || !strings.Contains(err.Error(), "read-only") {
			t.Fatalf("Flush: %v", err)
		}
	}
	if it, err := e.Get(ctx, "there"); err != nil || string(it.Content) != `1` {
		t.Errorf("Get: %s, %v", it.Content, err)
	}
	if h := e.Health(ctx); h.L3.OK || h.L3.Circuit != "closed" {
		t.Errorf("Health: %+v", h.L3)
	}
	mend()
	lab.Eventually(t, "writes are taken again", func() bool { return e.Flush(ctx) == nil })
}

// TestAGroupBeyondOnePacketAnd65535ParametersIsSplit: a group of more rows than a statement has
// parameters for, one of more bytes than the server takes, and a question for more ids.
func TestAGroupBeyondOnePacketAnd65535ParametersIsSplit(t *testing.T) {
	for name, group := range map[string]struct {
		url         string
		items, asks int
		content     func(n int) []byte
	}{
		"parameters": {testserver.SharedMariaDB(t).NewDatabase(t), 8500, 66_000, func(n int) []byte { return fmt.Append(nil, n) }},
		"bytes":      {testserver.MariaDB(t, "--max-allowed-packet=1M").URL(), 600, 600, func(n int) []byte { return lab.BigDoc(8 + n%2) }},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			e := lab.Open(t, syncengine.Config{SQLURL: group.url, L3Timeout: time.Minute})
			archived := syncengine.WithDurability(syncengine.Archived)
			ids := make([]string, group.asks)
			var items []syncengine.Item
			for n := range ids {
				if ids[n] = fmt.Sprint("row-", n); n < group.items {
					items = append(items, syncengine.Item{ID: ids[n], Content: group.content(n)})
				}
			}
			_, err := e.SubmitMany(ctx, items, archived)
			lab.Must(t, err)
			got, err := lab.Open(t, syncengine.Config{SQLURL: group.url, L3Timeout: time.Minute}).GetMany(ctx, ids)
			lab.Must(t, err)
			for n, it := range got {
				if (it != nil) != (n < len(items)) || it != nil && string(it.Content) != string(items[n].Content) {
					t.Fatalf("GetMany of %s: %.40v", ids[n], it)
				}
			}
			_, err = e.DeleteMany(ctx, ids[1:len(items)], archived)
			lab.Must(t, err)
			if n := lab.Number(t, testserver.OpenSQL(t, group.url), "SELECT COUNT(*) FROM sync_items WHERE deleted = 0"); n != 1 {
				t.Errorf("%d rows are left of a group deleted but for one", n)
			}
		})
	}
}

// TestINV09ARowBeyondThePacketIsQuarantinedAloneOrWithItsGroup: the server could never take it.
func TestINV09ARowBeyondThePacketIsQuarantinedAloneOrWithItsGroup(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t, "--max-allowed-packet=1M")
	e := lab.OpenAsIs(t, syncengine.Config{SQLURL: db.URL(), BatchFlushInterval: time.Hour})
	want := make(contents)
	for n := range 499 {
		want[fmt.Sprint("id-", n)] = n
	}
	want.write(t, e)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "large", Content: lab.BigDoc(2048)}))
	_, err := e.SubmitMany(ctx, append(groupOf("g", 5, 1), syncengine.Item{ID: "g-large", Content: lab.BigDoc(1100)}))
	lab.Must(t, err)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v, want ErrRefused", err)
	}
	ops, err := e.Quarantined(ctx)
	if err != nil || len(ops) != 7 {
		t.Fatalf("%d ops in quarantine, %v; want the large one and the group of 6", len(ops), err)
	}
	for _, op := range ops {
		if !strings.Contains(op.Error, "max_allowed_packet") || (op.ID == "large") != (op.GroupIDs == nil) {
			t.Errorf("%s: %q, group %v", op.ID, op.Error, op.GroupIDs)
		}
	}
	if n := lab.Number(t, db.SQL(t), "SELECT COUNT(*) FROM sync_items"); n != 499 {
		t.Errorf("SQL holds %d rows, want the 499 neighbours", n)
	}
	want.read(t, lab.OpenAsIs(t, syncengine.Config{SQLURL: db.URL()}))
}
