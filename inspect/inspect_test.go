package inspect_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/inspect"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

const (
	hostileID      = `<script>alert("id")</script>"'><img src=x onerror=alert(1)>`
	hostileContent = `{"poison":"</pre><script>alert('content of poison')</script>"}`
	hostileError   = `<iframe src="javascript:alert(1)"></iframe>`
)

// reply is what a handler answered.
type reply struct {
	status int
	head   http.Header
	body   string
}

func ask(t testing.TB, h http.Handler, r *http.Request) reply {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	lab.Must(t, err)
	return reply{w.Code, w.Result().Header, string(b)}
}

func get(t testing.TB, h http.Handler, target string) reply {
	t.Helper()
	return ask(t, h, httptest.NewRequest("GET", target, nil))
}

// refusing is an engine on an L3 that refuses some contents, with hostile words.
func refusing(t testing.TB) *syncengine.Engine {
	t.Helper()
	return lab.Open(t, syncengine.Config{L3: &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(_ context.Context, recs []syncengine.Record) error {
		for i := range recs {
			if strings.Contains(string(recs[i].Content), "poison") {
				return &syncengine.RefusedError{Err: errors.New(hostileError)}
			}
		}
		return nil
	}}})
}

// poisoned puts a hostile op into quarantine.
func poisoned(t testing.TB, e *syncengine.Engine, id string) {
	t.Helper()
	lab.Must(t, e.Submit(lab.Bounded(t), syncengine.Item{ID: id, Content: []byte(hostileContent), HomeInstanceID: hostileError}))
	if err := e.Flush(lab.Bounded(t)); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
}

func TestWhatIsHostileIsText(t *testing.T) {
	e := refusing(t)
	poisoned(t, e, hostileID)
	h := inspect.Handler(e, inspect.WithContents(), inspect.WithQuarantineActions(), inspect.WithTitle(hostileID))
	for _, target := range []string{"/", "/?id=" + url.QueryEscape(hostileID), "/?content=1&id=" + url.QueryEscape(hostileID), "/?id=" + url.QueryEscape("\x01"+hostileID)} {
		r := get(t, h, target)
		if r.head.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: %v", target, r.head)
		}
		if n := strings.Count(r.body, "<script"); n != 1 {
			t.Errorf("%s: %d scripts, want the page's own", target, n)
		}
		for _, raw := range []string{"<img", "<iframe", "</script>\"", `"javascript:`, "<pre></pre>"} {
			if strings.Contains(r.body, raw) {
				t.Errorf("%s: holds %s", target, raw)
			}
		}
	}
	if r := get(t, h, "/"); !strings.Contains(r.body, "&lt;iframe") || !strings.Contains(r.body, "&lt;script&gt;alert(&#39;content of") {
		t.Error("error and content are not shown")
	}
	if r := get(t, h, "/json?id="+url.QueryEscape(hostileID)); r.head.Get("Content-Type") != "application/json" || strings.Contains(r.body, "<script") {
		t.Errorf("as JSON: %v\n%s", r.head, r.body)
	}
}

func TestThePageLoadsNothingAndRunsNothingOfOthers(t *testing.T) {
	e := lab.Open(t, syncengine.Config{})
	lab.Put(t, e, "x", 1)
	h := inspect.Handler(e)
	nonces := make(map[string]bool)
	for range 2 {
		r := get(t, h, "/?id=x")
		csp := r.head.Get("Content-Security-Policy")
		m := regexp.MustCompile(`script-src 'nonce-([\w-]{40,})'`).FindStringSubmatch(csp)
		if m == nil || !strings.HasPrefix(csp, "default-src 'none';") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Fatalf("policy: %s", csp)
		}
		nonces[m[1]] = true
		for _, tag := range regexp.MustCompile(`<(script|style)[^>]*>`).FindAllString(r.body, -1) {
			if !strings.Contains(tag, `nonce="`+m[1]+`"`) {
				t.Errorf("without the nonce of its answer: %s", tag)
			}
		}
		if found := regexp.MustCompile(`(?i)\s(style|on\w+)\s*=\s*"|https?://|(src|href)="//`).FindAllString(r.body, -1); found != nil {
			t.Errorf("the policy forbids it, or it loads from elsewhere: %q", found)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "same-origin"} {
			if r.head.Get(name) != want {
				t.Errorf("%s: %q", name, r.head.Get(name))
			}
		}
		if !strings.Contains(r.body, `name="viewport"`) || !strings.Contains(r.body, "prefers-color-scheme: dark") {
			t.Error("neither for phones nor for the dark")
		}
	}
	if len(nonces) != 2 {
		t.Error("a nonce was used twice")
	}
}

func TestContentsAreShownOnlyIfAllowed(t *testing.T) {
	e := refusing(t)
	poisoned(t, e, "bad")
	lab.Must(t, e.Submit(lab.Bounded(t), syncengine.Item{ID: "good", Content: []byte(`"tell-tale"`)}))
	for _, target := range []string{"/?id=bad&content=1", "/json?id=bad&content=1", "/?id=good&content=1", "/json?id=good&content=1"} {
		r := get(t, inspect.Handler(e), target)
		if r.status != 200 || strings.Contains(r.body, "content of") || strings.Contains(r.body, "tell-tale") {
			t.Errorf("%s: %d, shows a content:\n%s", target, r.status, r.body)
		}
		r = get(t, inspect.Handler(e, inspect.WithContents()), target)
		if !strings.Contains(r.body, "content of") || strings.Contains(target, "good") != strings.Contains(r.body, "tell-tale") {
			t.Errorf("%s: shows no content, though allowed", target)
		}
	}
}

func TestAnOptionThatIsNilChangesNothing(t *testing.T) {
	if r := get(t, inspect.Handler(lab.Open(t, syncengine.Config{}), nil, inspect.WithTitle("mine"), nil), "/"); r.status != http.StatusOK || !strings.Contains(r.body, "mine") {
		t.Errorf("%d: %.200s", r.status, r.body)
	}
}

func TestJSONTellsTheSame(t *testing.T) {
	cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Flush(lab.Bounded(t)))
	for _, target := range []string{"/json?id=x", "/?format=json&id=x", "/debug/sync/json?id=x"} {
		var v inspect.View
		r := get(t, inspect.Handler(e, inspect.WithTitle("orders")), target)
		var raw map[string]any
		lab.Must(t, json.Unmarshal([]byte(r.body), &raw))
		health := raw["health"].(map[string]any)
		if raw["state"] != "running" || raw["title"] != "orders" || health["l3"].(map[string]any)["ok"] != true || health["l2"].(map[string]any)["ok"] != true {
			t.Errorf("%s: %s", target, r.body)
		}
		v.Explanation = &syncengine.Explanation{}
		b, err := json.Marshal(raw["explanation"])
		lab.Must(t, err)
		lab.Must(t, json.Unmarshal(b, v.Explanation))
		root, err := e.MerkleRoot(lab.Bounded(t))
		lab.Must(t, err)
		if v.Explanation.Outcome != syncengine.OutcomeFound || v.Explanation.L3.State != syncengine.TierLive || raw["merkle_root"] != hexOf(root) {
			t.Errorf("%s: %s", target, r.body)
		}
	}
	for _, target := range []string{"/json?id=%01", "/?id=%01"} {
		if r := get(t, inspect.Handler(e), target); r.status != http.StatusBadRequest || !strings.Contains(r.body, "control characters") {
			t.Errorf("%s: %d %s", target, r.status, r.body)
		}
	}
	page := get(t, inspect.Handler(e), "/?id=x").body
	for _, want := range []string{"served from memory", "L2 Redis: <span class=\"good\">ok</span>", "L3 SQL: <span class=\"good\">ok</span>", "running, ready", "<svg"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func TestServersThatAreAwayAndAClosedEngineAreShown(t *testing.T) {
	db, server := testserver.MariaDB(t), testserver.Redis(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), RedisURL: server.URL()})
	db.Kill()
	server.Kill()
	lab.Put(t, e, "x", 1)
	h := inspect.Handler(e)
	r := get(t, h, "/?id=x")
	for _, want := range []string{"L2 Redis: <span class=\"bad\">away</span>", "L3 SQL: <span class=\"bad\">away</span>", "not asked: SQL does not answer", "not yet in SQL",
		"<span class=\"pill bad\">SQL away</span>", "<span class=\"pill warn\">Redis away</span>"} {
		if !strings.Contains(r.body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	_ = e.Close() // SQL is away
	if r := get(t, inspect.Handler(e), "/?id=x"); r.status != 200 || !strings.Contains(r.body, "closed, not ready") || !strings.Contains(r.body, "engine is closed") {
		t.Errorf("closed: %d\n%s", r.status, r.body)
	}
}

// TestViewersShareWhatTheEngineIsAsked: a crowd of them is no load on the servers.
func TestViewersShareWhatTheEngineIsAsked(t *testing.T) {
	var pings atomic.Int64
	e := lab.Open(t, syncengine.Config{L3: &lab.AroundArchive{In: storetest.NewArchive(), Fn: func(_ context.Context, _, call string, do func() error) error {
		if call == "Ping" {
			pings.Add(1)
		}
		return do()
	}}})
	h := inspect.Handler(e)
	before := pings.Load()
	for range 20 {
		get(t, h, "/")
	}
	if n := pings.Load() - before; n < 1 || n > 5 {
		t.Errorf("%d questions for 20 pages", n)
	}
}

func TestNothingCanBeChangedUnlessItIsAllowed(t *testing.T) {
	e := refusing(t)
	poisoned(t, e, "bad")
	h := inspect.Handler(e)
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		r := ask(t, h, post(method, url.Values{"action": {"discard"}, "id": {"bad"}}))
		if r.status != http.StatusMethodNotAllowed || r.head.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d", method, r.status)
		}
	}
	get(t, h, "/?action=discard&id=bad")
	get(t, inspect.Handler(e, inspect.WithQuarantineActions()), "/?action=discard&id=bad")
	if page := get(t, h, "/").body; strings.Contains(page, "<button name=\"action\"") || strings.Contains(page, "token") {
		t.Error("the page has buttons, or a token")
	}
	if n := e.Stats().Quarantined; n != 1 {
		t.Errorf("%d in quarantine", n)
	}
}

func post(method string, form url.Values) *http.Request {
	r := httptest.NewRequest(method, "http://ops.example/debug/sync/", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func TestAPOSTNeedsTheTokenAndComesFromThePage(t *testing.T) {
	db := testserver.SharedMariaDB(t).NewDatabase(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db})
	raw := testserver.OpenSQL(t, db)
	_, err := raw.Exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')")
	lab.Must(t, err)
	poisoned(t, e, "a")
	poisoned(t, e, "b")
	h := inspect.Handler(e, inspect.WithQuarantineActions())
	token := regexp.MustCompile(`name="token" value="([^"]+)"`).FindStringSubmatch(get(t, h, "/").body)[1]
	other := regexp.MustCompile(`name="token" value="([^"]+)"`).FindStringSubmatch(get(t, inspect.Handler(e, inspect.WithQuarantineActions()), "/").body)[1]
	form := func(token, action string, ids ...string) url.Values {
		return url.Values{"token": {token}, "action": {action}, "id": ids}
	}
	with := func(f url.Values, name, value string) *http.Request {
		r := post("POST", f)
		r.Header.Set(name, value)
		return r
	}
	for name, c := range map[string]struct {
		r    *http.Request
		want int
	}{
		"no token":            {post("POST", url.Values{"action": {"discard"}, "id": {"a"}}), 403},
		"an empty token":      {post("POST", form("", "discard", "a")), 403},
		"another's token":     {post("POST", form(other, "discard", "a")), 403},
		"token in the query":  {httptest.NewRequest("POST", "/?token="+token+"&action=discard&id=a", nil), 403},
		"from another site":   {with(form(token, "discard", "a"), "Sec-Fetch-Site", "cross-site"), 403},
		"from a sister site":  {with(form(token, "discard", "a"), "Sec-Fetch-Site", "same-site"), 403},
		"of another origin":   {with(form(token, "discard", "a"), "Origin", "http://evil.example"), 403},
		"of no origin":        {with(form(token, "discard", "a"), "Origin", "null"), 403},
		"no id, which is all": {post("POST", form(token, "discard")), 400},
		"an empty id":         {post("POST", form(token, "discard", "")), 400},
		"another action":      {post("POST", form(token, "drop", "a")), 400},
		"too much":            {post("POST", form(token, "discard", strings.Repeat("x", 100<<10))), 400},
	} {
		if r := ask(t, h, c.r); r.status != c.want {
			t.Errorf("%s: %d, want %d: %s", name, r.status, c.want, r.body)
		}
	}
	if n := e.Stats().Quarantined; n != 2 {
		t.Fatalf("%d in quarantine", n)
	}
	same := with(form(token, "discard", "a"), "Sec-Fetch-Site", "same-origin")
	same.Header.Set("Origin", "http://ops.example")
	if r := ask(t, http.StripPrefix("/debug/sync", h), same); r.status != http.StatusSeeOther || r.head.Get("Location") != "?" {
		t.Errorf("discard: %d %v %s", r.status, r.head, r.body)
	}
	_, err = raw.Exec("ALTER TABLE sync_items DROP CONSTRAINT no_poison")
	lab.Must(t, err)
	if r := ask(t, h, with(form(token, "retry", "b"), "Origin", "http://ops.example")); r.status != http.StatusSeeOther {
		t.Errorf("retry: %d %s", r.status, r.body)
	}
	lab.Must(t, e.Flush(lab.Bounded(t)))
	if _, err := e.Get(lab.Bounded(t), "a"); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("discarded: %v", err)
	}
	if _, err := e.Get(lab.Bounded(t), "b"); err != nil || e.Stats().Quarantined != 0 {
		t.Errorf("retried: %v", err)
	}
	if page := get(t, h, "/").body; !strings.Contains(page, "retried 1 ops of [&#34;b&#34;]") {
		t.Error("the page does not say what was done")
	}
}

func hexOf(b [32]byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

func ExampleHandler() {
	mux := http.NewServeMux()
	mount := func(engine *syncengine.Engine, admin func(http.Handler) http.Handler) {
		mux.Handle("/debug/sync/", admin(inspect.Handler(engine, inspect.WithTitle("orders"))))
	}
	_ = mount
}

// TestWhatTheJSONTellsCanBeReadBack into the types it is of.
func TestWhatTheJSONTellsCanBeReadBack(t *testing.T) {
	e := refusing(t)
	lab.Must(t, e.Submit(lab.Bounded(t), syncengine.Item{ID: hostileID, Content: []byte(hostileContent)}))
	if err := e.Flush(lab.Bounded(t)); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	text := get(t, inspect.Handler(e), "/json?id="+url.QueryEscape(hostileID)).body
	var v inspect.View
	lab.Must(t, json.Unmarshal([]byte(text), &v))
	again, err := json.MarshalIndent(v, "", "  ")
	lab.Must(t, err)
	if string(again)+"\n" != text || v.State != syncengine.StateRunning || len(v.Quarantine) != 1 {
		t.Errorf("%s\ncomes back as\n%s", text, again)
	}
}
