package promises

// expiry_test.go is about what may be said of expiry in a call, and in Config. How items expire is
// in internal/neighbours.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestDefaultTTLIsOfPutsWithoutATimeOfTheirOwn, by every call that puts; a time of the call goes
// before, 0 among them, and that of the item counts for nothing.
func TestDefaultTTLIsOfPutsWithoutATimeOfTheirOwn(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{DefaultTTL: time.Hour})
	s := syncengine.NewStore[int](e, "typed/")
	item := func(id string) syncengine.Item {
		return syncengine.Item{ID: id, Content: []byte(`1`), ExpiresAt: time.Unix(1, 0)}
	}
	first := func(_ any, err error) error { return err }
	puts := map[string]func(id string, opts ...syncengine.WriteOption) error{
		"Submit": func(id string, opts ...syncengine.WriteOption) error { return e.Submit(ctx, item(id), opts...) },
		"Insert": func(id string, opts ...syncengine.WriteOption) error { return e.Insert(ctx, item(id), opts...) },
		"SubmitMany": func(id string, opts ...syncengine.WriteOption) error {
			return first(e.SubmitMany(ctx, []syncengine.Item{item(id)}, opts...))
		},
		"SubmitEach": func(id string, opts ...syncengine.WriteOption) error {
			return first(e.SubmitEach(ctx, slices.Values([]syncengine.Item{item(id)}), syncengine.EachOptions{}, opts...))
		},
		"Update": func(id string, opts ...syncengine.WriteOption) error {
			return first(e.Update(ctx, id, func(syncengine.Item, bool) (syncengine.Item, error) { return item(id), nil }, opts...))
		},
		"GetOrInsertWith": func(id string, opts ...syncengine.WriteOption) error {
			return first(e.GetOrInsertWith(ctx, id, func(context.Context) (syncengine.Item, error) { return item(id), nil }, opts...))
		},
		"typed/GetOrInsertWith": func(id string, opts ...syncengine.WriteOption) error {
			return first(s.GetOrInsertWith(ctx, id[len("typed/"):], func(context.Context) (int, error) { return 1, nil }, opts...))
		},
		"typed/Put": func(id string, opts ...syncengine.WriteOption) error {
			return s.Put(ctx, id[len("typed/"):], 1, opts...)
		},
	}
	for call, put := range puts {
		for n, want := range []time.Duration{time.Hour, 0, time.Minute} {
			id := fmt.Sprint(call, n)
			var opts []syncengine.WriteOption
			if n > 0 {
				opts = append(opts, syncengine.WithTTL(want))
			}
			before := time.Now()
			lab.NoError(t, call, put(id, opts...))
			it, err := e.Get(ctx, id)
			lab.NoError(t, call, err)
			if earliest, latest := before.Add(want), time.Now().Add(want+time.Millisecond); want == 0 && !it.ExpiresAt.IsZero() ||
				want > 0 && (it.ExpiresAt.Before(earliest) || it.ExpiresAt.After(latest) || it.ExpiresAt.Location() != time.UTC) {
				t.Errorf("%s with %v: expires at %v", id, want, it.ExpiresAt)
			}
		}
	}
	// What is written over an item has a time of its own.
	lab.Must(t, e.Submit(ctx, item("Submit0"), syncengine.WithTTL(0)))
	if it, err := e.Get(ctx, "Submit0"); err != nil || !it.ExpiresAt.IsZero() {
		t.Errorf("written over: %v, %v", it.ExpiresAt, err)
	}
	lab.Must(t, s.Touch(ctx, "Put1", time.Minute))
	if it, err := e.Get(ctx, "typed/Put1"); err != nil || time.Until(it.ExpiresAt) > time.Minute+time.Millisecond || string(it.Content) != "1" {
		t.Errorf("Touch: %+v, %v", it, err)
	}
	lab.Must(t, e.Touch(ctx, "typed/Put1", 0))
	if it, err := e.Get(ctx, "typed/Put1"); err != nil || !it.ExpiresAt.IsZero() {
		t.Errorf("Touch with 0: %+v, %v", it, err)
	}
}

// TestAnUpdateKeepsTheTimeToLive that the item has, none included, unless it is given one.
func TestAnUpdateKeepsTheTimeToLive(t *testing.T) {
	ctx := context.Background()
	for name, url := range map[string]string{"SQLite": "", "MariaDB": testserver.SharedMariaDB(t).NewDatabase(t)} {
		e := lab.Open(t, syncengine.Config{SQLURL: url, DefaultTTL: 24 * time.Hour})
		for id, ttl := range map[string]time.Duration{"hour": time.Hour, "ever": 0} {
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: []byte(`1`)}, syncengine.WithTTL(ttl)))
			lab.Must(t, e.Flush(ctx))
			was, err := e.Get(ctx, id)
			lab.Must(t, err)
			for range 2 {
				it, err := e.Update(ctx, id, lab.Increment)
				if err != nil || !it.ExpiresAt.Equal(was.ExpiresAt) || it.Version <= was.Version {
					t.Errorf("%s: %s: %v, %v; it was %v", name, id, it.ExpiresAt, err, was.ExpiresAt)
				}
			}
			lab.Must(t, e.Flush(ctx))
			e.Invalidate(id)
			if it, err := e.Get(ctx, id); err != nil || !it.ExpiresAt.Equal(was.ExpiresAt) {
				t.Errorf("%s: %s in SQL: %v, %v; it was %v", name, id, it.ExpiresAt, err, was.ExpiresAt)
			}
			it, err := e.Update(ctx, id, lab.Increment, syncengine.WithTTL(2*time.Hour))
			if d := time.Until(it.ExpiresAt); err != nil || d < 119*time.Minute || d > 121*time.Minute {
				t.Errorf("%s: %s with a time of its own: %v, %v", name, id, it.ExpiresAt, err)
			}
		}
	}
}

// TestATimeToLiveThatCannotBeIsRefused, and nothing is changed by that.
func TestATimeToLiveThatCannotBeIsRefused(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{})
	lab.Put(t, e, "there", 1)
	many := func(_ any, err error) error { return err }
	for what, err := range map[string]error{
		"less than 0":                 e.Submit(ctx, syncengine.Item{ID: "a", Content: []byte(`1`)}, syncengine.WithTTL(-1)),
		"Touch with less":             e.Touch(ctx, "there", -1),
		"of a delete":                 e.Delete(ctx, "there", syncengine.WithTTL(time.Hour)),
		"of deletes":                  many(e.DeleteMany(ctx, []string{"there"}, syncengine.WithTTL(time.Hour))),
		"of deletes below a prefix":   many(e.DeletePrefix(ctx, "the", syncengine.WithTTL(time.Hour))),
		"Touch of what is no id":      e.Touch(ctx, "", time.Hour),
		"a condition on what is made": many(e.GetOrInsertWith(ctx, "a", nil, syncengine.WithIfVersion(1))),
		"a version of what is made":   many(e.GetOrInsertWith(ctx, "a", nil, syncengine.WithVersion(1))),
		"0 of a delete means nothing": e.Delete(ctx, "there", syncengine.WithTTL(0)),
	} {
		if !errors.Is(err, syncengine.ErrInvalidItem) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := e.Touch(ctx, "absent", time.Hour); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("Touch of what is not there: %v", err)
	}
	lab.WantContent(t, e, "there", 1)

	plain := struct{ syncengine.ConditionalStore }{storetest.NewArchive().(syncengine.ConditionalStore)} // no ExpiringStore
	other := lab.Open(t, syncengine.Config{L3: plain})
	var ce *syncengine.ConfigError
	if err := other.Submit(ctx, syncengine.Item{ID: "a", Content: []byte(`1`)}, syncengine.WithTTL(time.Hour)); !errors.As(err, &ce) || ce.Field != "L3" {
		t.Errorf("an L3 that finds nothing expired: %v", err)
	}
	lab.Must(t, other.Submit(ctx, syncengine.Item{ID: "a", Content: []byte(`1`)}, syncengine.WithTTL(0)))
	_, err := syncengine.Open(ctx, syncengine.Config{Dir: t.TempDir(), L3: plain, DefaultTTL: time.Hour})
	if !errors.As(err, &ce) || ce.Field != "DefaultTTL" {
		t.Errorf("and DefaultTTL: %v", err)
	}
}
