// Package inspect is a page about a running engine, for operators: its state, tiers, queue, log,
// filter and quarantine, the other engines and what is owed to them, small charts of the last
// minutes, and what is known of an id.
//
//	mux.Handle("/debug/sync/", admin(inspect.Handler(engine)))
//
// It works under any path, also behind a prefix that is stripped. The same is there as JSON: at a
// path that ends in "/json", or with the query "format=json".
//
// # Who may see it
//
// The handler knows no users: whoever reaches it sees ids, errors with names of hosts, and L3's
// words about refused rows. Put the service's own authentication in front of it, here called
// admin, or mount it where operators alone can reach it. Contents of documents are shown with
// WithContents only, and nothing can be changed but with WithQuarantineActions.
//
// # What it costs
//
// Nothing while nobody looks: there is no goroutine. A page asks Redis and SQL for a sign of life,
// reads the quarantine if there is one, and each half minute the digest of L3; viewers share what
// is not older than a second. What is to be drawn is noted with each page, so a chart begins with
// the first one.
package inspect

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/syncengine-go/syncengine"
)

const (
	shared    = time.Second      // how old what viewers share may be
	rootEvery = 30 * time.Second // how old the root may be
	patience  = 10 * time.Second // bound on what one page asks
	mostBad   = 100              // ops in quarantine that a page lists
	mostOther = 50               // engines that a page lists
	mostShown = 4 << 10          // bytes of a content that a page shows
	mostForm  = 64 << 10         // bytes of a POST
)

// Option changes what Handler does. nil changes nothing.
type Option func(*handler)

// WithTitle names the engine on the page, as a service with several of them wants it. Without it
// the page says "syncengine".
func WithTitle(title string) Option { return func(h *handler) { h.title = title } }

// WithContents shows contents of documents: of ops in quarantine, and of an id that is looked up,
// if asked for (then the page makes a Get). They may hold secrets. Of each the first 4 KiB.
func WithContents() Option { return func(h *handler) { h.contents = true } }

// WithQuarantineActions lets viewers retry and discard ops in quarantine, by POST. A POST must
// carry the token of this handler's pages, which other sites can't read, and must not say that it
// comes from another site (Sec-Fetch-Site, Origin). That is no protection from those who may see
// the page. A proxy that gives requests another Host makes browsers' POSTs over plain HTTP look as
// if they came from another site.
func WithQuarantineActions() Option { return func(h *handler) { h.actions = true } }

// handler serves the page.
type handler struct {
	e                 *syncengine.Engine
	title             string
	contents, actions bool
	token             string
	cross             *http.CrossOriginProtection

	gather chan struct{} // cap 1: held while the engine is asked

	mu     sync.Mutex // guards the fields below
	at     time.Time  // of now
	now    *View
	rootAt time.Time // of root
	root   rootView
	past   history
	last   string // what the last POST did
}

// Handler returns the page about an engine. The engine stays the caller's; of one that is closed
// the page says so.
func Handler(e *syncengine.Engine, opts ...Option) http.Handler {
	h := &handler{e: e, title: "syncengine", token: secret(), cross: http.NewCrossOriginProtection(), gather: make(chan struct{}, 1)}
	for _, o := range opts {
		if o != nil {
			o(h)
		}
	}
	return h
}

// secret is 32 random bytes, as text.
func secret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand does not fail
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// View is what the page tells, as JSON.
type View struct {
	Title  string            `json:"title"`
	At     time.Time         `json:"at"`
	State  syncengine.State  `json:"state"`
	Health syncengine.Health `json:"health"`
	Stats  syncengine.Stats  `json:"stats"`
	// MerkleRoot is hex, and may be half a minute old; MerkleError tells why there is none.
	MerkleRoot  string `json:"merkle_root,omitempty"`
	MerkleError string `json:"merkle_error,omitempty"`
	// Quarantine lists the oldest 100 ops.
	Quarantine      []BadOp `json:"quarantine"`
	QuarantineError string  `json:"quarantine_error,omitempty"`
	// Explanation is of the id that was asked for, IDError why there is none.
	Explanation *syncengine.Explanation `json:"explanation,omitempty"`
	IDError     string                  `json:"id_error,omitempty"`
	Content     string                  `json:"content,omitempty"`

	samples []sample
}

// BadOp is an op in quarantine.
type BadOp struct {
	ID         string    `json:"id"`
	Version    uint64    `json:"version,string"` // text: many readers round such numbers
	Deleted    bool      `json:"deleted,omitempty"`
	Bytes      int       `json:"bytes"`
	Content    string    `json:"content,omitempty"` // with WithContents
	Group      []string  `json:"group,omitempty"`
	Error      string    `json:"error"`
	Attempts   int       `json:"attempts"`
	At         time.Time `json:"at"`
	Superseded bool      `json:"superseded,omitempty"`
}

type rootView struct{ root, err string }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	nonce := secret()
	head := w.Header()
	head.Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+nonce+"'; script-src 'nonce-"+nonce+
		"'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "same-origin") // without one a POST would come from nowhere
	head.Set("Cross-Origin-Resource-Policy", "same-origin")
	head.Set("Cross-Origin-Opener-Policy", "same-origin")
	head.Set("Cache-Control", "no-store")
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		h.show(w, r, nonce)
	case r.Method == http.MethodPost && h.actions:
		h.act(w, r)
	default:
		head.Set("Allow", "GET, HEAD")
		http.Error(w, "this page changes nothing", http.StatusMethodNotAllowed)
	}
}

// show answers with the page, or the same as JSON.
func (h *handler) show(w http.ResponseWriter, r *http.Request, nonce string) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	now, err := h.look(ctx)
	if err != nil {
		http.Error(w, "the engine did not answer in time", http.StatusServiceUnavailable)
		return
	}
	view, status := *now, http.StatusOK
	query := r.URL.Query()
	if id := query.Get("id"); query.Has("id") && id != "" {
		if !h.explain(ctx, &view, id, query.Get("content") != "") {
			status = http.StatusBadRequest
		}
	}
	if strings.HasSuffix(r.URL.Path, "/json") || query.Get("format") == "json" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(view) // the viewer may have left
		return
	}
	h.mu.Lock()
	p := page{View: &view, Nonce: nonce, Asked: query.Get("id"), ShowsContents: h.contents, Last: h.last, Charts: charts(view.samples)}
	h.mu.Unlock()
	if h.actions {
		p.Token = h.token
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = pageTemplate.Execute(w, p) // the viewer may have left
}

// explain adds what is known of an id. It reports whether the id can be one.
func (h *handler) explain(ctx context.Context, v *View, id string, content bool) bool {
	x, err := h.e.Explain(ctx, id)
	if err != nil {
		v.IDError = err.Error()
		return !errors.Is(err, syncengine.ErrInvalidItem)
	}
	v.Explanation = &x
	if h.contents && content {
		it, err := h.e.Get(ctx, id)
		if err != nil {
			v.IDError = err.Error()
		}
		v.Content = shown(it.Content)
	}
	return true
}

// look asks the engine, unless somebody has just done so.
func (h *handler) look(ctx context.Context) (*View, error) {
	select {
	case h.gather <- struct{}{}:
		defer func() { <-h.gather }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	h.mu.Lock()
	now, at, root, rootAt := h.now, h.at, h.root, h.rootAt
	h.mu.Unlock()
	if now != nil && time.Since(at) < shared {
		return now, nil
	}
	// Others get this, too, so it must not end with the first viewer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	v := &View{Title: h.title, At: time.Now(), Health: h.e.Health(ctx), Stats: h.e.Stats(), Quarantine: []BadOp{}}
	v.State = v.Stats.State
	if time.Since(rootAt) > rootEvery || rootAt.IsZero() {
		root, rootAt = h.merkle(ctx, v.Health.L3.OK), time.Now()
	}
	v.MerkleRoot, v.MerkleError = root.root, root.err
	if v.Stats.Quarantined > 0 {
		h.quarantine(ctx, v)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.past.add(sampleOf(&v.Stats, time.Now()))
	v.samples = h.past.all()
	h.now, h.at, h.root, h.rootAt = v, time.Now(), root, rootAt
	return v, nil
}

func (h *handler) merkle(ctx context.Context, up bool) rootView {
	if !up {
		return rootView{err: "not asked: SQL does not answer"}
	}
	root, err := h.e.MerkleRoot(ctx)
	if err != nil {
		return rootView{err: err.Error()}
	}
	return rootView{root: hex.EncodeToString(root[:])}
}

func (h *handler) quarantine(ctx context.Context, v *View) {
	ops, err := h.e.Quarantined(ctx)
	if err != nil { // of what is damaged; the others are here
		v.QuarantineError = err.Error()
	}
	for _, op := range ops[:min(len(ops), mostBad)] {
		b := BadOp{ID: op.ID, Version: op.Version, Deleted: op.Deleted, Bytes: len(op.Content), Group: op.GroupIDs,
			Error: op.Error, Attempts: op.Attempts, At: op.At, Superseded: op.Superseded}
		if h.contents {
			b.Content = shown(op.Content)
		}
		v.Quarantine = append(v.Quarantine, b)
	}
}

// shown is what a page shows of a content.
func shown(b []byte) string {
	if len(b) > mostShown {
		return strings.ToValidUTF8(string(b[:mostShown]), "") + "…"
	}
	return string(b)
}

// act does what a form of the page asks for.
func (h *handler) act(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, mostForm)
	if err := h.cross.Check(r); err != nil {
		http.Error(w, "this comes from another site", http.StatusForbidden)
		return
	}
	if err := r.ParseForm(); err != nil {
		http.Error(w, "this is no form of this page", http.StatusBadRequest)
		return
	}
	if subtle.ConstantTimeCompare([]byte(r.PostForm.Get("token")), []byte(h.token)) != 1 {
		http.Error(w, "the page is older than the process: load it again", http.StatusForbidden)
		return
	}
	ids := r.PostForm["id"]
	if len(ids) == 0 || ids[0] == "" { // without ids the engine would take all
		http.Error(w, "which id?", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	var n int
	var err error
	var did string
	switch r.PostForm.Get("action") {
	case "retry":
		did = "retried"
		n, err = h.e.RetryQuarantined(ctx, ids...)
	case "discard":
		did = "discarded"
		n, err = h.e.DiscardQuarantined(ctx, ids...)
	default:
		http.Error(w, "retry or discard?", http.StatusBadRequest)
		return
	}
	last := fmt.Sprintf("%s: %s %d ops of %q", time.Now().Format(time.DateTime), did, n, ids)
	if err != nil {
		last += ": " + err.Error()
	}
	h.mu.Lock()
	h.last, h.now = last, nil
	h.mu.Unlock()
	w.Header().Set("Location", "?") // this page, whatever was stripped of its path
	w.WriteHeader(http.StatusSeeOther)
}

// page is what the template draws.
type page struct {
	*View
	Nonce, Token, Asked, Last string
	ShowsContents             bool
	Charts                    []chart
}

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"num": num, "size": size, "span": span, "percent": percent, "short": short, "when": when, "ratio": ratio,
	"version": func(v uint64) string { return fmt.Sprint(v) },
	"int64":   func(n int) int64 { return int64(n) },
	"uint":    func(n uint64) int64 { return int64(n) },
	"tiers":   tiers, "owes": owes, "ago": ago, "offset": offset, "neighbours": neighbours, "moreNeighbours": moreNeighbours,
}).Parse(pageText))
