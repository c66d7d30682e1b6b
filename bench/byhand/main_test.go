package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestMain(m *testing.M) { os.Exit(testserver.Run(m)) }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// replica is one process of the service on a database and a Redis.
func replica(t *testing.T, dsn string, redis *testserver.Server) (*storage, string) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	s, err := openStorage(ctx, dsn, redis.URL())
	ok(t, err)
	server := httptest.NewServer(newCatalogue(ctx, s))
	t.Cleanup(func() {
		end() // streams end first
		server.Close()
		ok(t, s.close())
	})
	return s, server.URL
}

// byHand is the first replica on a database of its own, and an empty Redis.
func byHand(t *testing.T) (s *storage, at, dsn string, redis *testserver.Server) {
	t.Helper()
	dsn = testserver.DSN(t, testserver.SharedMariaDB(t).NewDatabase(t))
	redis = testserver.Redis(t)
	s, at = replica(t, dsn, redis)
	return s, at, dsn, redis
}

// example is examples/catalogue, in a process.
func example(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "catalogue")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/syncengine-go/syncengine/examples/catalogue").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	addr := l.Addr().String()
	ok(t, l.Close())
	cmd := exec.Command(bin, "-addr", addr, "-dir", t.TempDir())
	cmd.Stderr = os.Stderr
	ok(t, cmd.Start())
	t.Cleanup(func() {
		ok(t, cmd.Process.Signal(os.Interrupt))
		ok(t, cmd.Wait())
	})
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) { // nothing tells that it listens
		c, err := net.Dial("tcp", addr)
		if err == nil {
			ok(t, c.Close())
			return "http://" + addr
		}
		if time.Since(start) > time.Minute {
			t.Fatal(err)
		}
	}
}

func ask(t *testing.T, method, url, body string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	ok(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	ok(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// answer is what a request is answered with. The text of an error is each one's own.
func answer(t *testing.T, method, url, body string) string {
	t.Helper()
	res := ask(t, method, url, body)
	text, err := io.ReadAll(res.Body)
	ok(t, err)
	if res.StatusCode != http.StatusOK {
		text = nil
	}
	return fmt.Sprintf("%d %s", res.StatusCode, text)
}

func want(t *testing.T, reply, method, url, body string) {
	t.Helper()
	if got := strings.TrimSpace(answer(t, method, url, body)); got != reply {
		t.Errorf("%s %s: %s, want %s", method, url, got, reply)
	}
}

type event struct{ id, kind, data string }

// stream follows the changes that come after an event; all if it is nil.
func stream(t *testing.T, at string, header ...string) (next func() event) {
	t.Helper()
	res := ask(t, "GET", at+"/changes", "", header...)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: %d %s", at, res.StatusCode, res.Header)
	}
	lines := bufio.NewScanner(res.Body)
	return func() event {
		fields := map[string]string{}
		for lines.Scan() && lines.Text() != "" {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			fields[name] = value
		}
		return event{fields["id"], fields["event"], fields["data"]}
	}
}

// TestAnswersLikeTheExample asks both the same: what the test of the example asks, and the edges.
func TestAnswersLikeTheExample(t *testing.T) {
	theirs := example(t)
	_, ours, _, _ := byHand(t)
	told := [2]func() event{stream(t, theirs), stream(t, ours)}
	same := func(method, path, body, like string) {
		t.Helper()
		a, b := answer(t, method, theirs+path, body), answer(t, method, ours+path, body)
		if a != b || !strings.HasPrefix(a, like) {
			t.Errorf("%s %.40s: the example answers %.200q…, this %.200q…, want %.200q…", method, path, a, b, like)
		}
	}
	same("PUT", "/products/lamp", `{"name":"Lamp","cents":4900}`, `200 {"name":"Lamp"`)
	var seen [2]event
	for i, next := range told {
		if seen[i] = next(); seen[i].kind != "put" || seen[i].data != `{"id":"product.lamp","product":{"name":"Lamp","cents":4900}}` {
			t.Errorf("told of %v", seen[i])
		}
	}
	same("PUT", "/products/lamp", `{"name":`, "400")
	same("PUT", "/products/lamp", `{"name":"`+strings.Repeat("x", 1<<20)+`"}`, "400")
	same("PUT", "/products/"+strings.Repeat("x", 600), `{}`, "400")
	same("PUT", "/products/a%00b", `{}`, "400")
	same("PUT", "/products/a%ffb", `{}`, "400")
	same("GET", "/products/a%00b", "", "400")
	same("GET", "/products/none", "", "404")
	same("DELETE", "/products/none", "", "200 null")
	same("DELETE", "/products/a%00b", "", "400")
	for n := range 3 {
		same("GET", "/products/lamp", "", fmt.Sprintf(`200 {"name":"Lamp","cents":4900,"views":%d}`, n+1))
	}
	same("PUT", "/products/%C3%A4%20%22%3C", `{"name":"Ä <&> \u0000","cents":-1}`, "200")
	same("GET", "/products/%C3%A4%20%22%3C", "", "200")
	same("POST", "/import", "", `200 {"bad":[],"stored":0}`)
	same("POST", "/import", `{"sku":"chair","product":{"name":"Chair","cents":8900}}`+"\nnot JSON\n"+`{"sku":"","product":{"name":"Nothing"}}`,
		`200 {"bad":["line 2: invalid character 'o' in literal null (expecting 'u')","line 3: no sku"],"stored":1}`)
	same("POST", "/import", strings.Repeat("x", 70_000), "500")
	var many strings.Builder
	for i := range 1234 {
		fmt.Fprintf(&many, `{"sku":"many-%03d","product":{"name":"One of many","cents":%d}}`+"\n", i%1000, i)
	}
	same("POST", "/import", many.String(), `200 {"bad":[],"stored":1234}`)
	same("GET", "/products/many-007", "", `200 {"name":"One of many","cents":1007,`)
	same("GET", "/products", "", `200 {"product":{"name":"Chair","cents":8900},"sku":"chair"}`)
	same("DELETE", "/products/chair", "", "200 null")
	same("GET", "/products/chair", "", "404")
	same("GET", "/products", "", `200 {"product":{"name":"Lamp"`)
	same("PUT", "/products/chair", `{"name":"Chair, again"}`, "200")
	same("GET", "/products/chair", "", `200 {"name":"Chair, again"`)
	same("DELETE", "/products/chair", "", "200 null")
	same("PUT", "/carts/me", `{"lamp":2}`, `200 {"lamp":2}`)
	same("GET", "/carts/me", "", `200 {"lamp":2}`)
	same("PUT", "/carts/me", `[]`, "400")
	same("PUT", "/carts/me", `null`, "200 null")
	same("GET", "/carts/me", "", "200 null")
	same("GET", "/carts/you", "", "404")
	same("PUT", "/carts/a%00b", `{}`, "400")
	same("GET", "/carts/a%00b", "", "400")
	same("POST", "/products/lamp", "", "405")
	same("GET", "/", "", "404")
	same("PUT", "/products/end", `{}`, "200")
	var last [2]map[string]string // that was told of an id
	for i, at := range []string{theirs, ours} {
		last[i] = map[string]string{}
		next := stream(t, at, "Last-Event-ID", seen[i].id)
		for e := next(); ; e = next() {
			id, _, _ := strings.Cut(e.data, `,"product"`)
			last[i][id] = e.kind + e.data
			if e.id == "" || id == `{"id":"product.end"` {
				break
			}
		}
		next = stream(t, at, "Last-Event-ID", "nonsense")
		if e := next(); e != (event{"", "again", "list again, too much has happened"}) {
			t.Errorf("%s tells who comes with nonsense of %v", at, e)
		}
	}
	if len(last[0]) != 1004 || !maps.Equal(last[0], last[1]) { // of 1000, chair, end, none, and one with odd letters
		t.Errorf("the example tells of %d products, this of %d, or of others", len(last[0]), len(last[1]))
	}
}

// TestAnOldCopyNeverReplacesANewerOne: who read before a write may remember after it.
func TestAnOldCopyNeverReplacesANewerOne(t *testing.T) {
	s, at, dsn, redis := byHand(t)
	_, other := replica(t, dsn, redis)
	put := func(name string) {
		want(t, `200 {"name":"`+name+`","cents":0}`, "PUT", at+"/products/lamp", `{"name":"`+name+`"}`)
	}
	put("one")
	old := document{id: "lamp", doc: []byte(`{"name":"one"}`), version: 1}
	put("two")
	s.remember(t.Context(), "product.", cacheFor, old)
	want(t, `200 {"name":"two","cents":0,"views":1}`, "GET", other+"/products/lamp", "")
	want(t, "200 null", "DELETE", other+"/products/lamp", "")
	s.remember(t.Context(), "product.", cacheFor, old)
	want(t, "404", "GET", at+"/products/lamp", "")
	put("three") // has a higher version than the delete
	want(t, `200 {"name":"three","cents":0,"views":2}`, "GET", other+"/products/lamp", "")
}

// TestReadsSurviveEitherServer: without Redis they come from SQL, and the other way round if there
// is a copy.
func TestReadsSurviveEitherServer(t *testing.T) {
	maria, redis := testserver.MariaDB(t), testserver.Redis(t)
	dsn := testserver.DSN(t, maria.NewDatabase(t))
	_, at := replica(t, dsn, redis)
	want(t, `200 {"name":"Lamp","cents":1}`, "PUT", at+"/products/lamp", `{"name":"Lamp","cents":1}`)
	want(t, `200 {"lamp":1}`, "PUT", at+"/carts/me", `{"lamp":1}`)
	maria.Kill()
	want(t, `200 {"name":"Lamp","cents":1,"views":0}`, "GET", at+"/products/lamp", "")
	want(t, `200 {"lamp":1}`, "GET", at+"/carts/me", "")
	want(t, "503", "GET", at+"/products/chair", "")
	want(t, "503", "PUT", at+"/products/lamp", `{}`)
	want(t, "503", "GET", at+"/changes", "")
	maria.Restart()
	redis.Kill()
	want(t, `200 {"name":"Lamp","cents":1,"views":1}`, "GET", at+"/products/lamp", "")
	want(t, `200 {"name":"Chair","cents":0}`, "PUT", at+"/products/chair", `{"name":"Chair"}`)
	want(t, `200 {"name":"Chair","cents":0,"views":1}`, "GET", at+"/products/chair", "")
	want(t, `200 {"lamp":1}`, "GET", at+"/carts/me", "")
}

// TestAnImportTellsWhatSQLRefuses, and stores the others.
func TestAnImportTellsWhatSQLRefuses(t *testing.T) {
	s, at, _, _ := byHand(t)
	_, err := s.db.Exec(`ALTER TABLE products ADD CONSTRAINT no_cursed CHECK (sku <> 'cursed')`)
	ok(t, err)
	res := answer(t, "POST", at+"/import", `{"sku":"z"}`+"\n{\n"+`{"sku":"cursed"}`+"\n"+`{"sku":"a"}`)
	if !strings.Contains(res, `"stored":2`) || !strings.Contains(res, `"line 3: Error 4025 (23000)`) || strings.Count(res, "line ") != 2 {
		t.Error(res)
	}
	want(t, `200 {"product":{"name":"","cents":0},"sku":"a"}`+"\n"+`{"product":{"name":"","cents":0},"sku":"z"}`, "GET", at+"/products", "")
}

// TestCartsEndByTheClockOfSQL, whatever Redis has, and each look gives them another half an hour.
func TestCartsEndByTheClockOfSQL(t *testing.T) {
	s, at, _, redis := byHand(t)
	set := func(to string) {
		t.Helper()
		_, err := s.db.Exec(`UPDATE carts SET expires_at = NOW(6) + INTERVAL ` + to)
		ok(t, err)
	}
	left := func() (n int) {
		t.Helper()
		ok(t, s.db.QueryRow(`SELECT TIMESTAMPDIFF(MINUTE, NOW(), expires_at) FROM carts`).Scan(&n))
		return n
	}
	want(t, `200 {"lamp":1}`, "PUT", at+"/carts/me", `{"lamp":1}`)
	set("1 MINUTE")
	redis.Do(t, "DEL", "cart.me")
	want(t, `200 {"lamp":1}`, "GET", at+"/carts/me", "")
	if n := left(); n < 28 {
		t.Errorf("%d minutes are left", n)
	}
	if ttl, err := s.redis.PTTL(t.Context(), "cart.me").Result(); err != nil || ttl <= 0 || ttl > time.Minute {
		t.Errorf("the copy has %v, %v", ttl, err)
	}
	set("-1 SECOND")
	want(t, "404", "GET", at+"/carts/me", "") // though Redis has a copy
	redis.Do(t, "DEL", "cart.me")
	want(t, "404", "GET", at+"/carts/me", "")
}

// TestPurgeLeavesWhatIsNotOver, and who was cut off before what is gone has to list again.
func TestPurgeLeavesWhatIsNotOver(t *testing.T) {
	s, at, _, _ := byHand(t)
	next := stream(t, at)
	for _, sku := range []string{"gone", "kept", "deleted"} {
		want(t, `200 {"name":"","cents":0}`, "PUT", at+"/products/"+sku, `{}`)
	}
	var ids []string
	for range 3 {
		ids = append(ids, next().id)
	}
	for _, id := range []string{"gone", "kept"} {
		want(t, `200 {}`, "PUT", at+"/carts/"+id, `{}`)
	}
	want(t, "200 null", "DELETE", at+"/products/gone", "")
	want(t, "200 null", "DELETE", at+"/products/deleted", "")
	for _, statement := range []string{
		`UPDATE carts SET expires_at = NOW() - INTERVAL 2 HOUR WHERE id = 'gone'`,
		`UPDATE products SET deleted_at = NOW() - INTERVAL 2 DAY WHERE sku = 'gone'`,
		`UPDATE changes SET at = NOW() - INTERVAL 2 DAY WHERE number < 3`,
	} {
		_, err := s.db.Exec(statement)
		ok(t, err)
	}
	purged := func() (carts, products, changes int) {
		ok(t, s.db.QueryRow(`SELECT (SELECT COUNT(*) FROM carts), (SELECT COUNT(*) FROM products), (SELECT COUNT(*) FROM changes)`).Scan(&carts, &products, &changes))
		return
	}
	ctx, end := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.purge(ctx) }()
	for start, is := time.Now(), [3]int{}; is != [3]int{1, 2, 3}; {
		is[0], is[1], is[2] = purged()
		if time.Since(start) > time.Minute {
			t.Fatalf("there are %d", is)
		}
	}
	end()
	<-done
	if e := stream(t, at, "Last-Event-ID", ids[0])(); e.kind != "again" {
		t.Errorf("who was before what is gone is told of %v", e)
	}
	if e := stream(t, at, "Last-Event-ID", ids[1])(); e.id != ids[2] {
		t.Errorf("who was just at what is kept is told of %v", e)
	}
	if e := stream(t, at, "Last-Event-ID", "999")(); e.kind != "again" {
		t.Errorf("who comes from another database is told of %v", e)
	}
}

// TestAStreamMissesNothing while two replicas write what the other writes, too, one by one and in
// groups, some of which end a deadlock.
func TestAStreamMissesNothing(t *testing.T) {
	_, a, dsn, redis := byHand(t)
	_, b := replica(t, dsn, redis)
	next := stream(t, a)
	const writers, writes = 8, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			at := []string{a, b}[w%2]
			for n := range writes {
				if w < 4 {
					want(t, fmt.Sprintf(`200 {"name":"%d","cents":%d}`, w, n), "PUT", at+fmt.Sprintf("/products/own-%d-%d", w, n), fmt.Sprintf(`{"name":"%d","cents":%d}`, w, n))
					continue
				}
				var lines strings.Builder
				for i := range 20 {
					fmt.Fprintf(&lines, `{"sku":"shared-%d"}`+"\n", (i*7+w)%20)
				}
				fmt.Fprintf(&lines, `{"sku":"own-%d-%d"}`, w, n)
				want(t, `200 {"bad":[],"stored":21}`, "POST", at+"/import", lines.String())
			}
		})
	}
	go func() {
		wg.Wait()
		want(t, `200 {"name":"","cents":0}`, "PUT", a+"/products/end", `{}`)
	}()
	owns := map[string]bool{}
	for last := int64(0); ; {
		e := next()
		number, err := strconv.ParseInt(e.id, 10, 64)
		if err != nil || number <= last {
			t.Fatalf("%v after %d", e, last)
		}
		last = number
		if strings.Contains(e.data, "product.end") {
			break
		} else if strings.Contains(e.data, "own-") {
			owns[e.data] = true
		}
	}
	if len(owns) != writers*writes {
		t.Errorf("told of %d, want %d", len(owns), writers*writes)
	}
}

// TestNumbersAreSeenInTheOrderOfCommits: who has one and has not committed holds up who wants the
// next.
func TestNumbersAreSeenInTheOrderOfCommits(t *testing.T) {
	s, at, _, _ := byHand(t)
	next := stream(t, at)
	tx, err := s.db.Begin()
	ok(t, err)
	ok(t, logChanges(t.Context(), tx, document{id: "first"}))
	second := make(chan struct{})
	go func() {
		defer close(second)
		want(t, `200 {"name":"","cents":0}`, "PUT", at+"/products/second", `{}`)
	}()
	for waits := 0; waits == 0; {
		ok(t, tx.QueryRow(`SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'Innodb_row_lock_current_waits'`).Scan(&waits))
		select {
		case <-second:
			t.Fatal("the second did not wait")
		default:
		}
	}
	ok(t, tx.Commit())
	<-second
	for _, sku := range []string{"first", "second"} {
		if e := next(); !strings.Contains(e.data, "product."+sku) {
			t.Errorf("told of %v, want %s", e, sku)
		}
	}
}

// TestADeadlockIsTriedAgain: two transactions that wait for each other both take place.
func TestADeadlockIsTriedAgain(t *testing.T) {
	s, at, _, _ := byHand(t)
	for _, sku := range []string{"a", "b"} {
		want(t, "200 {\"name\":\"\",\"cents\":0}", "PUT", at+"/products/"+sku, "{}")
	}
	var both, all sync.WaitGroup
	both.Add(2)
	for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		var first sync.Once
		all.Go(func() {
			err := s.transact(t.Context(), func(tx *sql.Tx) error {
				const lock = `UPDATE products SET version = version + 1 WHERE sku = ?`
				if _, err := tx.Exec(lock, order[0]); err != nil {
					return err
				}
				first.Do(both.Done)
				both.Wait()
				_, err := tx.Exec(lock, order[1])
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	var versions int
	ok(t, s.db.QueryRow(`SELECT SUM(version) FROM products`).Scan(&versions))
	if versions != 6 {
		t.Errorf("the versions come to %d", versions)
	}
}

// TestManyWhoWaitAskSQLOnce, and one who leaves takes nothing from the others.
func TestManyWhoWaitAskSQLOnce(t *testing.T) {
	s, at, _, redis := byHand(t)
	want(t, `200 {"name":"Lamp","cents":0}`, "PUT", at+"/products/lamp", `{"name":"Lamp"}`)
	redis.Do(t, "DEL", "product.lamp")
	tx, err := s.db.Begin() // holds up who asks
	ok(t, err)
	_, err = tx.Exec(`SELECT 1 FROM products FOR UPDATE`)
	ok(t, err)
	const blocked = selectProduct + ` FOR UPDATE`
	first, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { _, err := cached[Product](first, s, "product.", "lamp", blocked); left <- err }()
	running := func() (n int) {
		ok(t, tx.QueryRow(`SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT doc%'`).Scan(&n))
		return n
	}
	asked := func() int {
		n := 0
		_, stats, _ := strings.Cut(redis.Do(t, "INFO", "commandstats"), "cmdstat_hget:calls=")
		_, _ = fmt.Sscan(strings.Split(stats, ",")[0], &n)
		return n
	}
	for running() == 0 {
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if p, err := cached[Product](t.Context(), s, "product.", "lamp", blocked); err != nil || p.Name != "Lamp" {
				t.Error(p, err)
			}
		})
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for asked() < 11 {
	}
	for range 50 { // who does not wait asks soon
		if n := running(); n != 1 {
			t.Fatalf("%d ask", n)
		}
	}
	ok(t, tx.Rollback())
	wg.Wait()
}
