package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	_ "modernc.org/sqlite" // to damage a row behind the engine's back

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestMain(m *testing.M) { os.Exit(testserver.Run(m)) }

// awayURL is a database that refuses connections.
const awayURL = "mysql://user:secret@127.0.0.1:1/items"

// fixture is a service on a test server.
type fixture struct {
	t   *testing.T
	s   *service
	url string
	log *bytes.Buffer
}

// start serves an engine of cfg until the test ends.
func start(t *testing.T, cfg syncengine.Config) *fixture {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	registry := prometheus.NewRegistry()
	cfg.Registerer = registry
	engine, err := syncengine.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, log: &bytes.Buffer{}}
	f.s = &service{engine: engine, log: slog.New(slog.NewJSONHandler(f.log, nil)), maxBody: 1000, timeout: 10 * time.Second}
	server := httptest.NewServer(f.s.routes(registry))
	f.url = server.URL
	t.Cleanup(func() {
		server.Close()
		if err := engine.Close(); err != nil && !errors.Is(err, syncengine.ErrPending) {
			t.Error(err)
		}
	})
	return f
}

// item is the path of an id.
func item(id string) string {
	// PathEscape leaves dots alone, and HTTP clients and servers clean dot segments away.
	if strings.Trim(id, ".") == "" {
		return "/items/" + strings.ReplaceAll(id, ".", "%2E")
	}
	return "/items/" + url.PathEscape(id)
}

func (f *fixture) do(method, path, body string, header ...string) (*http.Response, string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req) // follows no redirect
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return res, string(got)
}

// want is do with a check of the status; error bodies must be JSON with an error.
func (f *fixture) want(status int, method, path, body string, header ...string) (*http.Response, string) {
	f.t.Helper()
	res, got := f.do(method, path, body, header...)
	if res.StatusCode != status {
		f.t.Fatalf("%s %s: status %d, want %d; body %s", method, path, res.StatusCode, status, got)
	}
	if status >= 400 && !strings.HasPrefix(path, "/readyz") && !strings.HasPrefix(path, "/healthz") {
		var e struct{ Error string }
		if err := json.Unmarshal([]byte(got), &e); err != nil || e.Error == "" {
			f.t.Errorf("%s %s: error body is %q, want {\"error\": …}", method, path, got)
		}
	}
	return res, got
}

func TestBodiesComeBackByteForByte(t *testing.T) {
	f := start(t, syncengine.Config{})
	for i, body := range []string{
		`{"n": 1.0, "n": 2}`, " [1,\t2 ] \n", `"\u00e9 <b>&amp;</b>"`, `12345678901234567890.10e+0`, `null`, "{\"e\":\"é😀\u2028\"}",
	} {
		path := item(strconv.Itoa(i))
		put, _ := f.want(http.StatusNoContent, "PUT", path, body)
		res, got := f.want(http.StatusOK, "GET", path, "")
		if got != body {
			t.Errorf("got %q, want %q", got, body)
		}
		if res.Header.Get("ETag") != put.Header.Get("ETag") || len(res.Header.Get("ETag")) != 66 {
			t.Errorf("ETag of PUT %q, of GET %q", put.Header.Get("ETag"), res.Header.Get("ETag"))
		}
		if ct := res.Header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("Content-Type %q", ct)
		}
	}
}

func TestIDsMayHoldAnything(t *testing.T) {
	f := start(t, syncengine.Config{})
	ids := []string{
		"plain", "a/b", "a//b", "/lead", "trail/", "a b", "a+b", "100%", "%2F", "?q=1&r#f", "é", "e\u0301", "😀", ".", "..", "a/../b",
		"{id}", `"quoted"`, `back\slash`, "A", "a", strings.Repeat("x", syncengine.MaxIDBytes),
	}
	for _, id := range ids {
		f.want(http.StatusNoContent, "PUT", item(id), strconv.Quote("of "+strconv.Quote(id)))
	}
	query := url.Values{}
	for _, id := range ids {
		if _, got := f.want(http.StatusOK, "GET", item(id), ""); got != strconv.Quote("of "+strconv.Quote(id)) {
			t.Errorf("id %q: got %s", id, got)
		}
		query.Add("id", id)
	}
	_, got := f.want(http.StatusOK, "GET", "/items?"+query.Encode(), "")
	var many []struct{ ID string }
	if err := json.Unmarshal([]byte(got), &many); err != nil || len(many) != len(ids) {
		t.Fatalf("GET /items: %v, %s", err, got)
	}
	for i := range ids {
		if many[i].ID != ids[i] {
			t.Errorf("GET /items: %q, want %q", many[i].ID, ids[i])
		}
	}
	if _, got := f.want(http.StatusOK, "GET", "/items/a/b", ""); got != strconv.Quote(`of "a/b"`) {
		t.Errorf("unescaped slash: %s", got)
	}
}

func TestConditionalGet(t *testing.T) {
	f := start(t, syncengine.Config{})
	f.want(http.StatusNoContent, "PUT", "/items/a", `1`)
	res, _ := f.want(http.StatusOK, "GET", "/items/a", "")
	tag := res.Header.Get("ETag")
	for _, header := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
		if _, body := f.want(http.StatusNotModified, "GET", "/items/a", "", "If-None-Match", header); body != "" {
			t.Errorf("304 with body %q", body)
		}
	}
	f.want(http.StatusNoContent, "PUT", "/items/a", `2`)
	f.want(http.StatusOK, "GET", "/items/a", "", "If-None-Match", tag)
}

func TestDelete(t *testing.T) {
	f := start(t, syncengine.Config{})
	f.want(http.StatusNoContent, "PUT", "/items/a", `1`)
	f.want(http.StatusNoContent, "DELETE", "/items/a", "")
	f.want(http.StatusNotFound, "GET", "/items/a", "")
	f.want(http.StatusNoContent, "DELETE", "/items/a", "")
	f.want(http.StatusNoContent, "DELETE", "/items/never-there", "")
}

func TestGetManyIsAlignedAndKeepsBytes(t *testing.T) {
	f := start(t, syncengine.Config{})
	f.want(http.StatusNoContent, "PUT", "/items/a?version=7", `{"n": 1}`)
	if _, got := f.want(http.StatusOK, "GET", "/items?id=a&id=no&id=a", ""); got != `[{"id":"a","version":"7","content":{"n": 1}},null,{"id":"a","version":"7","content":{"n": 1}}]`+"\n" {
		t.Errorf("got %s", got)
	}
	f.want(http.StatusBadRequest, "GET", "/items", "")
	f.want(http.StatusBadRequest, "GET", "/items?"+strings.Repeat("id=a&", maxIDs+1), "")
}

func TestClientErrors(t *testing.T) {
	f := start(t, syncengine.Config{MaxItemBytes: 100})
	f.want(http.StatusNotFound, "GET", "/items/nothing", "")

	f.want(http.StatusNoContent, "PUT", "/items/v?version=5", `5`)
	f.want(http.StatusConflict, "PUT", "/items/v?version=4", `4`)
	if res, got := f.want(http.StatusOK, "GET", "/items/v", ""); got != "5" || res.Header.Get("Item-Version") != "5" {
		t.Errorf("after a stale write: version %s, %s", res.Header.Get("Item-Version"), got)
	}
	for _, version := range []string{"0", "-1", "x", "9223372036854775808"} {
		f.want(http.StatusBadRequest, "PUT", "/items/v?version="+version, `6`)
	}

	f.want(http.StatusRequestEntityTooLarge, "PUT", "/items/big", strconv.Quote(strings.Repeat("x", 200)))  // MaxItemBytes
	f.want(http.StatusRequestEntityTooLarge, "PUT", "/items/big", strconv.Quote(strings.Repeat("x", 2000))) // maxBody

	for _, body := range []string{"", "{", "{} {}", "nul", "\"\xff\""} {
		f.want(http.StatusUnprocessableEntity, "PUT", "/items/bad", body)
	}
	for _, id := range []string{"", "a%00b", "%FF", strings.Repeat("x", syncengine.MaxIDBytes+1)} {
		for _, method := range []string{"PUT", "GET", "DELETE"} {
			f.want(http.StatusUnprocessableEntity, method, "/items/"+id, "1")
		}
	}
	if f.log.Len() > 0 {
		t.Errorf("what clients do wrong is logged: %s", f.log)
	}
}

// retryAfter is the header in seconds, which must be at least 1.
func (f *fixture) retryAfter(res *http.Response) {
	f.t.Helper()
	if n, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || n < 1 {
		f.t.Errorf("Retry-After is %q, want a number of seconds", res.Header.Get("Retry-After"))
	}
}

func TestOutageOfSQL(t *testing.T) {
	f := start(t, syncengine.Config{SQLURL: awayURL, WALMaxItems: 40, BatchFlushCount: 10})
	res, _ := f.want(http.StatusServiceUnavailable, "GET", "/items/unknown", "") // not 404: SQL can't be asked
	f.retryAfter(res)
	f.want(http.StatusOK, "GET", "/readyz", "") // writes are still taken

	acked := 0
	for ; acked <= 40; acked++ {
		res, body := f.do("PUT", item(fmt.Sprint("w", acked)), `"private"`)
		if res.StatusCode == http.StatusNoContent {
			continue
		}
		if res.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("status %d, want 503; %s", res.StatusCode, body)
		}
		f.retryAfter(res)
		break
	}
	if acked < 20 || acked > 40 {
		t.Errorf("%d writes were taken, the WAL holds 40", acked)
	}
	for i := range acked {
		f.want(http.StatusOK, "GET", item(fmt.Sprint("w", i)), "")
	}
	if _, got := f.want(http.StatusServiceUnavailable, "GET", "/readyz", ""); !strings.Contains(got, `"l3":{"ok":false`) {
		t.Errorf("readyz: %s", got)
	}
	f.want(http.StatusOK, "GET", "/healthz", "")
	if log := f.log.String(); strings.Contains(log, "private") || strings.Contains(log, "secret") {
		t.Errorf("the log shows content or a password: %s", log)
	}
}

func TestDeadlineIsATimeout(t *testing.T) {
	cfg := syncengine.Config{Dir: t.TempDir()}
	f := start(t, cfg)
	f.want(http.StatusNoContent, "PUT", "/items/a", `1`)
	if err := f.s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	f = start(t, cfg) // with nothing in memory, and a filter that can't deny the id
	f.s.timeout = time.Nanosecond
	f.want(http.StatusGatewayTimeout, "PUT", "/items/a", `2`)
	f.want(http.StatusGatewayTimeout, "GET", "/items/a", "")
}

func TestClosedEngine(t *testing.T) {
	f := start(t, syncengine.Config{})
	f.want(http.StatusNoContent, "PUT", "/items/a", `1`)
	if err := f.s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	f.want(http.StatusServiceUnavailable, "GET", "/items/a", "")
	f.want(http.StatusServiceUnavailable, "PUT", "/items/a", `2`)
	f.want(http.StatusServiceUnavailable, "GET", "/readyz", "")
	f.want(http.StatusServiceUnavailable, "GET", "/healthz", "")
}

func TestCorruptRowIsAServerError(t *testing.T) {
	dir := t.TempDir()
	engine, err := syncengine.Open(t.Context(), syncengine.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Submit(t.Context(), syncengine.Item{ID: "a", Content: []byte(`"sound"`)}); err != nil {
		t.Fatal(err)
	}
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "archive.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`UPDATE sync_items SET content = ?`, []byte(`"rotten"`)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f := start(t, syncengine.Config{Dir: dir})
	if _, got := f.want(http.StatusInternalServerError, "GET", "/items/a", ""); strings.Contains(got, "rotten") {
		t.Errorf("the damaged bytes are shown: %s", got)
	}
}

func TestRealServersAreSeen(t *testing.T) {
	redis, db := testserver.Redis(t), testserver.SharedMariaDB(t).NewDatabase(t)
	f := start(t, syncengine.Config{RedisURL: redis.URL(), SQLURL: db})
	f.want(http.StatusNoContent, "PUT", "/items/a", `1`)
	var r readiness
	_, got := f.want(http.StatusOK, "GET", "/readyz", "")
	if err := json.Unmarshal([]byte(got), &r); err != nil || !r.Ready || r.L2 == nil || !r.L2.OK || r.L3 == nil || !r.L3.OK {
		t.Errorf("readyz: %v, %s", err, got)
	}
	redis.Kill()
	if _, got := f.want(http.StatusOK, "GET", "/readyz", ""); !strings.Contains(got, `"l2":{"ok":false`) {
		t.Errorf("readyz without Redis: %s", got)
	}
	f.want(http.StatusOK, "GET", "/items/a", "")
}

func TestMetrics(t *testing.T) {
	f := start(t, syncengine.Config{})
	f.want(http.StatusNoContent, "PUT", "/items/secret-id", `1`)
	_, got := f.want(http.StatusOK, "GET", "/metrics", "")
	if !strings.Contains(got, "sync_engine_l1_items 1") || strings.Contains(got, "secret-id") {
		t.Errorf("metrics: %s", got)
	}
}

// TestConditionsOfARequest: If-Match and If-None-Match make PUT and DELETE conditional.
// TestAPageAboutTheEngine is that of package inspect, as it is mounted here.
func TestAPageAboutTheEngine(t *testing.T) {
	f := start(t, syncengine.Config{})
	if err := f.s.engine.Submit(t.Context(), syncengine.Item{ID: "a", Content: []byte(`"tell-tale"`)}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/debug/sync/?id=a": "served from memory", "/debug/sync/json?id=a": `"outcome": "found"`} {
		reply, err := http.Get(f.url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(reply.Body)
		_ = reply.Body.Close()
		if err != nil || reply.StatusCode != http.StatusOK || !strings.Contains(string(body), want) || strings.Contains(string(body), "tell-tale") {
			t.Errorf("%s: %d %v %s", path, reply.StatusCode, err, body)
		}
	}
	reply, err := http.Post(f.url+"/debug/sync/", "application/x-www-form-urlencoded", strings.NewReader("action=discard&id=a"))
	if err != nil {
		t.Fatal(err)
	}
	_ = reply.Body.Close()
	if reply.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", reply.StatusCode)
	}
}

func TestConditionsOfARequest(t *testing.T) {
	f := start(t, syncengine.Config{})
	with := func(want int, method, body, header, value string) {
		t.Helper()
		req, err := http.NewRequest(method, f.url+"/items/c", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(header, value)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s with %s: %s is %d, want %d", method, header, value, res.StatusCode, want)
		}
	}
	tag := func() string {
		res, _ := f.want(http.StatusOK, "GET", "/items/c", "")
		return res.Header.Get("ETag")
	}
	with(http.StatusPreconditionFailed, "PUT", `1`, "If-Match", "*")
	with(http.StatusPreconditionFailed, "DELETE", "", "If-Match", "*")
	with(http.StatusNoContent, "PUT", `1`, "If-None-Match", "*")
	with(http.StatusPreconditionFailed, "PUT", `2`, "If-None-Match", "*")
	first := tag()
	with(http.StatusNoContent, "PUT", `3`, "If-Match", first)
	with(http.StatusPreconditionFailed, "PUT", `4`, "If-Match", first)
	with(http.StatusPreconditionFailed, "DELETE", "", "If-Match", first)
	if _, got := f.want(http.StatusOK, "GET", "/items/c", ""); got != "3" {
		t.Errorf("the item is %s", got)
	}
	with(http.StatusNoContent, "DELETE", "", "If-Match", `"other", `+tag())
	f.want(http.StatusNotFound, "GET", "/items/c", "")
}

func TestOtherMethodsAreRefused(t *testing.T) {
	f := start(t, syncengine.Config{})
	if res, _ := f.do("POST", "/items/a", "1"); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", res.StatusCode)
	}
}

func TestAnswerTo(t *testing.T) {
	pressure := func(l syncengine.BackpressureLevel) error {
		return fmt.Errorf("wrapped: %w", &syncengine.BackpressureError{Level: l, RetryAfter: l.RetryAfter()})
	}
	for _, c := range []struct {
		err    error
		status int
		retry  time.Duration
	}{
		{pressure(syncengine.LevelNormal), 503, time.Second},
		{pressure(syncengine.LevelThrottle), 429, time.Second},
		{pressure(syncengine.LevelCritical), 503, 5 * time.Second},
		{pressure(syncengine.LevelShutdown), 503, 30 * time.Second},
		{fmt.Errorf("x: %w", syncengine.ErrNotFound), 404, 0},
		{syncengine.ErrStaleVersion, 409, 0},
		{syncengine.ErrKindMismatch, 409, 0},
		{&syncengine.ConflictError{ID: "a", Want: 1, Have: 2}, 412, 0},
		{errPrecondition, 412, 0},
		{fmt.Errorf("%w: %w", syncengine.ErrUnknownOutcome, syncengine.ErrUnavailable), 504, 0},
		{&syncengine.InvalidItemError{Field: "ID"}, 422, 0},
		{&syncengine.InvalidItemError{Field: "Content", TooLarge: true}, 413, 0},
		{&syncengine.RefusedError{Err: errors.New("too long for a column")}, 422, 0},
		{&http.MaxBytesError{Limit: 1}, 413, 0},
		{&badRequest{"x"}, 400, 0},
		{fmt.Errorf("outcome unknown: %w", context.DeadlineExceeded), 504, 0},
		{context.Canceled, statusClientGone, 0},
		{fmt.Errorf("x: %w", syncengine.ErrUnavailable), 503, time.Second},
		{fmt.Errorf("%w: %w", syncengine.ErrUnavailable, context.DeadlineExceeded), 503, time.Second},
		{syncengine.ErrClosed, 503, 0},
		{&syncengine.CorruptionError{ID: "a", Tier: "L3"}, 500, 0},
		{errors.New("unforeseen"), 500, 0},
	} {
		if status, retry := answerTo(c.err); status != c.status || retry != c.retry {
			t.Errorf("%v: got %d, %v, want %d, %v", c.err, status, retry, c.status, c.retry)
		}
	}
}

func TestRetryAfterIsRoundedUp(t *testing.T) {
	s := &service{log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		wait time.Duration
		want string
	}{{time.Millisecond, "1"}, {time.Second, "1"}, {1001 * time.Millisecond, "2"}, {30 * time.Second, "30"}} {
		w := httptest.NewRecorder()
		s.fail(w, httptest.NewRequest("PUT", "/items/a", nil), &syncengine.BackpressureError{Level: syncengine.LevelCritical, RetryAfter: c.wait})
		if got := w.Header().Get("Retry-After"); got != c.want {
			t.Errorf("%v: Retry-After %s, want %s", c.wait, got, c.want)
		}
	}
}
