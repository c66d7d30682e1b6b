package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/syncengine-go/syncengine"
)

// Product is a document of the catalogue.
type Product struct {
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

// Cart maps SKUs to pieces.
type Cart map[string]int

const cartFor = 30 * time.Minute

type catalogue struct {
	engine   *syncengine.Engine
	products *syncengine.Store[Product]
	views    *syncengine.Store[int]
	carts    *syncengine.Store[Cart]
	ends     context.Context // when streams end
}

func newCatalogue(ends context.Context, e *syncengine.Engine) http.Handler {
	c := &catalogue{
		engine:   e,
		products: syncengine.NewStore[Product](e, "product."),
		views:    syncengine.NewStore[int](e, "views."),
		carts:    syncengine.NewStore[Cart](e, "cart."),
		ends:     ends,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /products/{sku}", c.handle(c.putProduct))
	mux.HandleFunc("GET /products/{sku}", c.handle(c.getProduct))
	mux.HandleFunc("DELETE /products/{sku}", c.handle(c.deleteProduct))
	mux.HandleFunc("GET /products", c.list)
	mux.HandleFunc("POST /import", c.handle(c.importLines))
	mux.HandleFunc("PUT /carts/{id}", c.handle(c.putCart))
	mux.HandleFunc("GET /carts/{id}", c.handle(c.getCart))
	mux.HandleFunc("GET /changes", c.changes)
	return mux
}

// handle answers with what fn returns, or its error.
func (c *catalogue) handle(fn func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(r)
		if err != nil {
			var full *syncengine.BackpressureError
			if errors.As(err, &full) {
				w.Header().Set("Retry-After", fmt.Sprint(max(1, int(full.RetryAfter.Seconds()))))
			}
			http.Error(w, err.Error(), statusOf(err))
			return
		}
		_ = json.NewEncoder(w).Encode(v) // the client has left, or it works
	}
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, syncengine.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, syncengine.ErrInvalidItem), errors.Is(err, errBadBody):
		return http.StatusBadRequest
	case errors.Is(err, syncengine.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, syncengine.ErrBackpressure), errors.Is(err, syncengine.ErrUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

var errBadBody = errors.New("the body can't be read")

func body[T any](r *http.Request) (v T, err error) {
	if err = json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20)).Decode(&v); err != nil {
		err = fmt.Errorf("%w: %w", errBadBody, err)
	}
	return v, err
}

func (c *catalogue) putProduct(r *http.Request) (any, error) {
	p, err := body[Product](r)
	if err != nil {
		return nil, err
	}
	return p, c.products.Put(r.Context(), r.PathValue("sku"), p)
}

func (c *catalogue) deleteProduct(r *http.Request) (any, error) {
	return nil, c.products.Delete(r.Context(), r.PathValue("sku"))
}

// getProduct counts each look. On a SQL server of several engines that decides what an Update
// becomes, and while it is away looks are not counted; on SQLite a crash may lose the last ones.
func (c *catalogue) getProduct(r *http.Request) (any, error) {
	sku := r.PathValue("sku")
	p, err := c.products.Get(r.Context(), sku)
	if err != nil {
		return nil, err
	}
	views, err := c.views.Update(r.Context(), sku, func(n *int) error { *n++; return nil }, syncengine.WithDurability(syncengine.Buffered))
	err = unlessAway(err)
	return struct {
		Product
		Views int `json:"views"`
	}{p, views}, err
}

// list streams in bounded memory, however many there are.
func (c *catalogue) list(w http.ResponseWriter, r *http.Request) {
	out := json.NewEncoder(w)
	for entry, err := range c.products.All(r.Context()) {
		if err == nil {
			err = out.Encode(map[string]any{"sku": entry.Key, "product": entry.Value})
		}
		if err != nil {
			panic(http.ErrAbortHandler) // so that the client does not take it for the end
		}
	}
}

// importLines stores what is in order, and tells what is not.
func (c *catalogue) importLines(r *http.Request) (any, error) {
	lines := bufio.NewScanner(r.Body)
	bad := []string{}
	var skipped []int // lines that are no item
	items := func(yield func(syncengine.Item) bool) {
		for n := 1; lines.Scan(); n++ {
			var line struct {
				SKU     string
				Product Product
			}
			err := json.Unmarshal(lines.Bytes(), &line)
			var it syncengine.Item
			if err == nil && line.SKU == "" {
				err = errors.New("no sku")
			}
			if err == nil {
				it, err = syncengine.NewItem("product."+line.SKU, line.Product)
			}
			if err != nil {
				skipped = append(skipped, n)
				bad = append(bad, fmt.Sprintf("line %d: %v", n, err))
			} else if !yield(it) {
				return
			}
		}
	}
	tell := syncengine.EachOptions{OnError: func(e syncengine.ItemError) {
		n := e.Index + 1
		for _, before := range skipped {
			if before <= n {
				n++
			}
		}
		bad = append(bad, fmt.Sprintf("line %d: %v", n, e.Err))
	}}
	res, err := c.engine.SubmitEach(r.Context(), items, tell)
	if err == nil {
		err = lines.Err()
	}
	return map[string]any{"stored": res.Succeeded, "bad": bad}, err
}

func (c *catalogue) putCart(r *http.Request) (any, error) {
	cart, err := body[Cart](r)
	if err != nil {
		return nil, err
	}
	return cart, c.carts.Put(r.Context(), r.PathValue("id"), cart, syncengine.WithTTL(cartFor))
}

func (c *catalogue) getCart(r *http.Request) (any, error) {
	cart, err := c.carts.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return cart, unlessAway(c.carts.Touch(r.Context(), r.PathValue("id"), cartFor))
}

// unlessAway forgives what could not be done while SQL is away, for what a page can do without.
func unlessAway(err error) error {
	if errors.Is(err, syncengine.ErrUnavailable) {
		return nil
	}
	return err
}

// changes tells what happens to products. A browser that was cut off names the last event it got,
// whose id is a token, and misses nothing.
func (c *catalogue) changes(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(c.ends, cancel)()
	seq := c.engine.Watch(ctx, "product.")
	if token := r.Header.Get("Last-Event-ID"); token != "" {
		seq = c.engine.WatchFrom(ctx, "product.", token)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	stream := http.NewResponseController(w)
	_ = stream.Flush() // the client sees that it is on
	for change, err := range seq {
		switch {
		case errors.Is(err, syncengine.ErrWatchExpired):
			fmt.Fprint(w, "event: again\ndata: list again, too much has happened\n\n")
			return
		case err != nil:
			return
		}
		data := change.Item.Content
		if data == nil {
			data = json.RawMessage("null")
		}
		fmt.Fprintf(w, "id: %s\nevent: %s\ndata: {\"id\":%q,\"product\":%s}\n\n", change.Token, change.Kind, change.ID, data)
		if stream.Flush() != nil {
			return
		}
	}
}
