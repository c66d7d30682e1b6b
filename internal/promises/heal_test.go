package promises

// heal_test.go damages rows of L3 from outside and looks at who notices, who heals, and that
// the good copies that are left are never thrown away.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// rot changes the content of a row behind the engine's back.
func rot(t *testing.T, raw *sql.DB, id string) {
	t.Helper()
	if _, err := raw.Exec("UPDATE sync_items SET content = ? WHERE id = ?", []byte(`{"rotten":true}`), id); err != nil {
		t.Fatal(err)
	}
}

// wantL3 reads a row past all caches.
func wantL3(t *testing.T, cfg syncengine.Config, id string, n int) {
	t.Helper()
	rec, err := lab.ArchiveAt(t, cfg.SQLURL).Get(lab.Bounded(t), id)
	if err != nil || string(rec.Content) != string(lab.Doc(id, n)) {
		t.Errorf("L3 holds %s of %s, %v", rec.Content, id, err)
	}
}

func TestADeepCheckFindsRotAndHealsItFromMemoryOrRedis(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		cfg.RedisURL = testserver.Redis(t).URL()
		e := lab.Open(t, cfg)
		for n, id := range []string{"in memory", "in redis", "nowhere", "sound"} {
			lab.Put(t, e, id, n)
		}
		lab.Must(t, e.Flush(ctx))
		lab.Must(t, e.Close())
		e = lab.Open(t, cfg)
		lab.WantContent(t, e, "in memory", 0)
		for _, id := range []string{"in memory", "in redis", "nowhere"} {
			rot(t, raw, id)
		}
		rdb := lab.RedisAt(t, cfg.RedisURL)
		lab.Must(t, rdb.Del(ctx, "sync:in memory", "sync:nowhere").Err())

		r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true})
		lab.Must(t, err)
		slices.Sort(r.Corrupt)
		if !slices.Equal(r.Corrupt, []string{"in memory", "in redis", "nowhere"}) || r.Healed != 0 || r.InSync || r.WrongBranches != 0 {
			t.Errorf("without Repair: %+v", r)
		}
		r, err = e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true})
		lab.Must(t, err)
		if len(r.Corrupt) != 3 || r.Healed != 2 || r.WrongBranches != 0 {
			t.Errorf("with Repair: %+v", r)
		}
		wantL3(t, cfg, "in memory", 0)
		wantL3(t, cfg, "in redis", 1)
		if s := e.Stats(); s.Corruptions < 6 || s.Healed < 2 {
			t.Errorf("counted %d corruptions, %d healed", s.Corruptions, s.Healed)
		}
		r, err = e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true})
		lab.Must(t, err)
		if !slices.Equal(r.Corrupt, []string{"nowhere"}) || r.Healed != 0 {
			t.Errorf("afterwards: %+v", r)
		}
		var ce *syncengine.CorruptionError
		if _, err := e.GetVerified(ctx, "nowhere"); !errors.As(err, &ce) || ce.Tier != "L3" {
			t.Errorf("what nobody has: %v", err)
		}
		lab.WantDigest(t, lab.ArchiveAt(t, cfg.SQLURL))
	})
}

// A row of which the stored hash has rotted differs from its copy in Redis. The copy must not
// be sacrificed to it.
func TestARepairNeverRemovesTheOnlyGoodCopy(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		cfg.RedisURL = testserver.Redis(t).URL()
		e := lab.Open(t, cfg)
		lab.Put(t, e, "x", 1)
		lab.Must(t, e.Flush(ctx))
		lab.Must(t, e.Close())
		for _, hash := range []byte{0x00, 0xff} { // below and above the hash of the copy
			if _, err := raw.Exec("UPDATE sync_items SET content_hash = ? WHERE id = 'x'", slices.Repeat([]byte{hash}, 32)); err != nil {
				t.Fatal(err)
			}
			e = lab.Open(t, cfg)
			_, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true, Deep: true})
			lab.Must(t, err)
			lab.WantContent(t, e, "x", 1)
			wantL3(t, cfg, "x", 1)
			r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true})
			if err != nil || !r.InSync {
				t.Errorf("after the repair: %+v, %v", r, err)
			}
			lab.Must(t, e.Close())
		}
	})
}

// One corrupt row of a GetMany does not hide the others, and is healed when it can be.
func TestGetManyHealsWhatItCanAndAnswersTheRest(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		for n, id := range []string{"a", "b", "c"} {
			lab.Put(t, e, id, n)
		}
		lab.Must(t, e.Flush(ctx))
		rot(t, raw, "b")
		cold := lab.Open(t, cfg)
		got, err := cold.GetMany(ctx, []string{"a", "b", "c"})
		if !errors.Is(err, syncengine.ErrCorruption) || got[0] == nil || got[1] != nil || got[2] == nil {
			t.Errorf("%v, %v", got, err)
		}
		if _, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true}); err != nil {
			t.Fatal(err)
		}
		if got, err = cold.GetMany(ctx, []string{"a", "b", "c"}); err != nil || got[1] == nil {
			t.Errorf("after healing from another engine's memory: %v, %v", got, err)
		}
	})
}

// The repair of the digest began while the look at it still held its connection.
func TestADeepCheckNeedsNoSecondConnection(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		dialect := syncengine.DialectMySQL
		if strings.HasPrefix(cfg.SQLURL, "sqlite:") {
			dialect = syncengine.DialectSQLite
		}
		raw.SetMaxOpenConns(1)
		e := lab.Open(t, syncengine.Config{DB: raw, Dialect: dialect})
		for n := range 10 {
			lab.Put(t, e, fmt.Sprint("id-", n), n)
		}
		lab.Must(t, e.Flush(ctx))
		_, err := raw.ExecContext(ctx, "DELETE FROM sync_items WHERE id = 'id-3'")
		lab.Must(t, err)
		r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true})
		if err != nil || r.WrongBranches != 1 {
			t.Errorf("Verify: %+v, %v", r, err)
		}
		if r, err = e.Verify(ctx, syncengine.VerifyOptions{Deep: true}); err != nil || !r.InSync {
			t.Errorf("Verify once more: %+v, %v", r, err)
		}
	})
}

// What L3 holds and can't read is not missing.
func TestStatusOfADamagedRowIsAnError(t *testing.T) {
	ctx := context.Background()
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		e := lab.Open(t, cfg)
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("1")}, syncengine.WithDurability(syncengine.Archived)))
		_, err := raw.Exec("UPDATE sync_items SET content = '2' WHERE id = 'x'")
		lab.Must(t, err)
		if st, err := e.Status(ctx, "x"); !errors.Is(err, syncengine.ErrCorruption) || st.InL3 || !st.InL1 {
			t.Errorf("with a copy in memory: %+v, %v", st, err)
		}
		e.Invalidate("x")
		if st, err := e.Status(ctx, "x"); !errors.Is(err, syncengine.ErrCorruption) || st.InL3 {
			t.Errorf("%+v, %v", st, err)
		}
		if st, err := e.Status(ctx, "absent"); err != nil || st.State != syncengine.StatusMissing {
			t.Errorf("absent: %+v, %v", st, err)
		}
	})
}

// TestINV07ARowFromABackupIsFoundAfterInvalidate: the filter never saw it come.
func TestINV07ARowFromABackupIsFoundAfterInvalidate(t *testing.T) {
	ctx := context.Background()
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		archived := syncengine.WithDurability(syncengine.Archived)
		e := lab.Open(t, cfg)
		lab.Put(t, e, "x", 1, archived)
		exec := func(query string) {
			t.Helper()
			_, err := raw.Exec(query)
			lab.Must(t, err)
		}
		exec("CREATE TABLE backup AS SELECT * FROM sync_items")
		lab.Must(t, e.Delete(ctx, "x", archived))
		lab.Must(t, e.Close())
		e = lab.Open(t, cfg)
		lab.Trusted(t, e)
		exec("REPLACE INTO sync_items SELECT * FROM backup")
		if e.Contains("x") {
			t.Error("the filter has heard of it")
		}
		e.Invalidate("x")
		if !e.Contains("x") {
			t.Error("it is denied")
		}
		lab.WantContent(t, e, "x", 1)
	})
}

// TestINV11ARowOfNoKindIsDamaged: its hash is of the content alone.
func TestINV11ARowOfNoKindIsDamaged(t *testing.T) {
	ctx := context.Background()
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		e := lab.Open(t, cfg)
		lab.Put(t, e, "x", 1, syncengine.WithDurability(syncengine.Archived))
		_, err := raw.Exec("UPDATE sync_items SET crdt = 'Zebra' WHERE id = 'x'")
		lab.Must(t, err)
		e.Invalidate("x")
		if it, err := e.Get(ctx, "x"); !errors.Is(err, syncengine.ErrCorruption) {
			t.Errorf("kind %q, %v", it.CRDT, err)
		}
		if rep, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true}); err != nil || len(rep.Corrupt) == 0 {
			t.Errorf("a deep check: %+v, %v", rep, err)
		}
		lab.Put(t, e, "x", 2, syncengine.WithDurability(syncengine.Archived))
		lab.WantContent(t, e, "x", 2)
	})
}

// A deep check ends where SQL hangs: each of its steps has L3Timeout.
func TestADeepCheckDoesNotWaitForAServerThatHangs(t *testing.T) {
	t.Parallel()
	db, ctx := testserver.MariaDB(t), lab.Bounded(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), L3Timeout: time.Second, CloseTimeout: time.Second})
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Flush(ctx))
	db.Stop()
	defer db.Resume()
	_, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true})
	if ctx.Err() != nil || !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("it ended with %v, the call's context with %v", err, ctx.Err())
	}
}
