package main

// service.go is the routes. A handler turns a request into one call of the engine, and its
// result into a response; errors go to fail.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/inspect"
)

// service answers requests with an engine.
type service struct {
	engine  *syncengine.Engine
	log     *slog.Logger
	maxBody int64
	timeout time.Duration // bound on the work of one request
}

// maxIDs bounds the ids of one GET /items.
const maxIDs = 1000

func (s *service) routes(gatherer prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	// {id...} takes the rest of the path, so a/b and a%2Fb are the same id. A path with
	// empty or dot segments is redirected to its clean form unless they are escaped.
	mux.HandleFunc("PUT /items/{id...}", s.put)
	mux.HandleFunc("GET /items/{id...}", s.get)
	mux.HandleFunc("DELETE /items/{id...}", s.delete)
	mux.HandleFunc("GET /items", s.getMany)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /debug/sync/", inspect.Handler(s.engine))
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	return s.bounded(mux)
}

// bounded gives every request a deadline, which each call of the engine honours.
func (s *service) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), s.timeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// put stores the body. 204 means that it is in the local log, on disk; with a condition (If-Match,
// or If-None-Match: *), that the database has it. A condition that does not hold is 412.
func (s *service) put(w http.ResponseWriter, r *http.Request) {
	opts, err := optionsOf(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	// The engine checks the size too; this keeps us from reading more than that.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.maxBody))
	if err != nil {
		if _, tooLong := errors.AsType[*http.MaxBytesError](err); !tooLong {
			err = &badRequest{"the body could not be read to its end"}
		}
		s.fail(w, r, err)
		return
	}
	item := syncengine.Item{ID: r.PathValue("id"), Content: body, TraceParent: traceParent(r)}
	if err := s.store(r, item, opts); err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("ETag", etag(sha256.Sum256(body)))
	w.WriteHeader(http.StatusNoContent)
}

// errPrecondition means that If-Match names none of what is there.
var errPrecondition = errors.New("the item is not what If-Match says")

// store submits an item on the conditions of the request. A tag is a content hash, so the item has
// to be looked at: Update gives it to us and stores ours only if nobody writes in between.
func (s *service) store(r *http.Request, item syncengine.Item, opts []syncengine.WriteOption) error {
	match := r.Header.Get("If-Match")
	switch {
	case match != "":
		_, err := s.engine.Update(r.Context(), item.ID, func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
			if !exists || !matches(match, cur.ContentHash) {
				return cur, errPrecondition
			}
			return item, nil
		}, opts...)
		return err
	case strings.TrimSpace(r.Header.Get("If-None-Match")) == "*":
		return s.engine.Insert(r.Context(), item, opts...)
	}
	return s.engine.Submit(r.Context(), item, opts...)
}

// optionsOf reads ?version=N, for replicators that carry versions from elsewhere.
func optionsOf(r *http.Request) ([]syncengine.WriteOption, error) {
	text := r.URL.Query().Get("version")
	if text == "" {
		return nil, nil // the engine gives the next one
	}
	version, err := strconv.ParseUint(text, 10, 64)
	if err != nil || version == 0 || version > syncengine.MaxVersion {
		return nil, &badRequest{"version must be a number from 1 to 2^63 - 1"}
	}
	return []syncengine.WriteOption{syncengine.WithVersion(version)}, nil
}

// traceParent carries a trace context along with the item, if it is one.
func traceParent(r *http.Request) string {
	if tp := r.Header.Get("Traceparent"); len(tp) == 55 {
		return tp
	}
	return ""
}

func (s *service) get(w http.ResponseWriter, r *http.Request) {
	item, err := s.engine.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	h := w.Header()
	h.Set("ETag", etag(item.ContentHash))
	h.Set("Item-Version", strconv.FormatUint(item.Version, 10))
	h.Set("Cache-Control", "no-cache") // may be kept, must be asked about
	if matches(r.Header.Get("If-None-Match"), item.ContentHash) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(item.Content)))
	h.Set("Last-Modified", item.UpdatedAt.UTC().Format(http.TimeFormat))
	_, _ = w.Write(item.Content) // fails only if the client has gone
}

// etag is the content hash: equal tags mean equal bytes.
func etag(hash [32]byte) string { return `"` + hex.EncodeToString(hash[:]) + `"` }

// matches reports whether an If-Match or If-None-Match header names the hash.
func matches(header string, hash [32]byte) bool {
	if strings.TrimSpace(header) == "*" {
		return true
	}
	for tag := range strings.SplitSeq(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag(hash) {
			return true
		}
	}
	return false
}

// delete removes an id. 204 also when there was nothing to remove, unless If-Match asks for
// something.
func (s *service) delete(w http.ResponseWriter, r *http.Request) {
	if err := s.remove(r, r.PathValue("id")); err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// remove deletes an id on the condition of the request: what If-Match names is looked up, and the
// delete holds for that version only.
func (s *service) remove(r *http.Request, id string) error {
	match := r.Header.Get("If-Match")
	if match == "" {
		return s.engine.Delete(r.Context(), id)
	}
	cur, err := s.engine.Get(r.Context(), id)
	switch {
	case errors.Is(err, syncengine.ErrNotFound):
		return errPrecondition
	case err != nil:
		return err
	case !matches(match, cur.ContentHash):
		return errPrecondition
	}
	return s.engine.Delete(r.Context(), id, syncengine.WithIfVersion(cur.Version))
}

// getMany answers with an array aligned with the ids. It is put together by hand, since
// encoding/json would compact the contents.
func (s *service) getMany(w http.ResponseWriter, r *http.Request) {
	ids := r.URL.Query()["id"]
	if len(ids) == 0 || len(ids) > maxIDs {
		s.fail(w, r, &badRequest{fmt.Sprintf("give 1 to %d ids as ?id=a&id=b", maxIDs)})
		return
	}
	items, err := s.engine.GetMany(r.Context(), ids)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	var b bytes.Buffer
	b.WriteByte('[')
	for i, item := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		if item == nil {
			b.WriteString("null")
			continue
		}
		id, _ := json.Marshal(item.ID) // a string always has a JSON form
		// The version is a string: it may be above 2^53, where many readers round numbers.
		fmt.Fprintf(&b, `{"id":%s,"version":"%d","content":%s}`, id, item.Version, item.Content)
	}
	b.WriteString("]\n")
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b.Bytes())
}

// healthz tells whether the process should live. It looks at no server: restarting us does
// not bring Redis back.
func (s *service) healthz(w http.ResponseWriter, _ *http.Request) {
	state := s.engine.State()
	status := http.StatusOK
	if state == syncengine.StateClosed {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, map[string]string{"state": state.String()})
}

// readiness is the body of /readyz.
type readiness struct {
	Ready       bool   `json:"ready"`
	State       string `json:"state"`
	Level       string `json:"level"`
	L2          *tier  `json:"l2,omitempty"`
	L3          *tier  `json:"l3,omitempty"`
	PendingOps  int    `json:"pending_ops"`
	Quarantined int    `json:"quarantined"`
}

type tier struct {
	OK        bool    `json:"ok"`
	LatencyMS float64 `json:"latency_ms"`
	Circuit   string  `json:"circuit"`
}

// readyz tells whether we should get traffic. Redis or SQL being away does not change that:
// the engine goes on without them. The errors of the probes are logged, not shown: they
// name hosts.
func (s *service) readyz(w http.ResponseWriter, r *http.Request) {
	h := s.engine.Health(r.Context())
	status := http.StatusOK
	if !h.Ready {
		status = http.StatusServiceUnavailable
	}
	show := func(name string, p syncengine.Probe) *tier {
		if !p.Configured {
			return nil
		}
		if !p.OK {
			s.log.Warn("a tier does not answer", "tier", name, "error", p.Error)
		}
		return &tier{p.OK, float64(p.Latency.Microseconds()) / 1000, p.Circuit}
	}
	writeJSON(w, status, readiness{
		Ready: h.Ready, State: h.State.String(), Level: h.Level.String(), L2: show("L2", h.L2), L3: show("L3", h.L3),
		PendingOps: h.PendingOps, Quarantined: h.Quarantined,
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only if the client has gone
}
