package neighbours

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV14AnUpdateThatDeclinesHasSeenWhatOthersWrote: the write before it in line has landed, and
// nobody here knows that yet; another engine has written since, and its call has returned. What the
// function says to what was before is no answer, nor is the version.
func TestINV14AnUpdateThatDeclinesHasSeenWhatOthersWrote(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	u, err := url.Parse(dbURL)
	lab.Must(t, err)
	proxy := faultproxy.New(t, u.Host)
	a := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, dbURL, proxy), L3Timeout: 30 * time.Second})
	b := lab.Open(t, syncengine.Config{SQLURL: dbURL})
	raw := testserver.OpenSQL(t, dbURL)
	set := func(e *syncengine.Engine, to string) syncengine.Item {
		t.Helper()
		it, err := e.Update(ctx, "x", func(syncengine.Item, bool) (syncengine.Item, error) { return syncengine.Item{Content: []byte(to)}, nil })
		lab.Must(t, err)
		return it
	}
	set(a, `"0"`)
	set(b, `"0"`)
	proxy.Delay(200 * time.Millisecond) // a hears of what was done after so long
	var busy chan struct{}
	var now syncengine.Item
	for knows := true; knows; {
		busy = make(chan struct{})
		go func() { set(a, `"a"`); close(busy) }()
		lab.Eventually(t, "a write of a has landed", func() bool {
			return lab.Number(t, raw, `SELECT COUNT(*) FROM sync_items WHERE id = 'x' AND content = '"a"'`) == 1
		})
		now = set(b, `"b"`)
		select {
		case <-busy: // this machine stood still: once more
		default:
			knows = false
		}
	}
	declined := errors.New("declined")
	said := make(chan error, 3)
	decline := func(why error, opts ...syncengine.WriteOption) {
		var seen string
		it, err := a.Update(ctx, "x", func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
			seen = string(cur.Content)
			return cur, why
		}, opts...)
		switch {
		case seen != `"b"`:
			err = errors.New("its function was given " + seen)
		case errors.Is(err, why):
			err = nil
		case err == nil && it.Version != now.Version:
			err = errors.New("it returns another version")
		}
		said <- err
	}
	go decline(declined)
	go decline(syncengine.ErrNoChange)
	go decline(declined, syncengine.WithIfVersion(now.Version))
	for range 3 {
		if err := <-said; err != nil {
			t.Error(err)
		}
	}
	<-busy
}

// TestINV01NothingStandsForAPutThatItHasNotSeen: a put of a is on its way, at Archived, when an
// Update of b lands above it. What a makes of that with an Update of its own has not seen the put,
// which therefore has to come after it, or to be refused.
func TestINV01NothingStandsForAPutThatItHasNotSeen(t *testing.T) {
	t.Parallel()
	ctx := lab.Bounded(t)
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	a, b := lab.Open(t, syncengine.Config{SQLURL: url, L3Timeout: 20 * time.Second}), lab.Open(t, syncengine.Config{SQLURL: url})
	raw := testserver.OpenSQL(t, url)
	set := func(e *syncengine.Engine, id, to string) string {
		var saw string
		_, err := e.Update(ctx, id, func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
			saw = string(cur.Content)
			return syncengine.Item{Content: []byte(to)}, nil
		})
		if err != nil {
			t.Errorf("Update: %v", err)
		}
		return saw
	}
	met := 0
	for n := range 10 {
		locked, x := fmt.Sprint("locked", n), fmt.Sprint("x", n)
		submit(t, b, locked, `"0"`, archived)
		submit(t, b, x, `"0"`, archived)
		tx, err := raw.Begin()
		lab.Must(t, err)
		var v int64
		lab.Must(t, tx.QueryRow("SELECT version FROM sync_items WHERE id = ? FOR UPDATE", locked).Scan(&v))
		put, second := make(chan error, 1), make(chan string, 1)
		go func() {
			_, err := a.SubmitMany(ctx, []syncengine.Item{{ID: locked, Content: []byte(`"put"`)}, {ID: x, Content: []byte(`"put"`)}}, archived)
			put <- err
		}()
		time.Sleep(50 * time.Millisecond) // it stands before the row
		first := set(b, x, `"b"`)
		go func() { second <- set(a, x, `"a"`) }()
		time.Sleep(50 * time.Millisecond) // it waits for the put
		lab.Must(t, tx.Rollback())
		saw, acked := <-second, <-put == nil
		b.Invalidate(x)
		it, err := b.Get(ctx, x)
		lab.Must(t, err)
		if first == `"0"` && saw == `"b"` {
			if met++; acked && string(it.Content) != `"put"` {
				t.Errorf("an acknowledged put was seen by nobody, and at the end it is %s", it.Content)
			}
		}
	}
	if met == 0 {
		t.Error("it never came to that")
	}
}

// TestINV14AnUpdateThatDeclinesRestsOnNothingThatMayBeOutranked: a put of its own engine is on its
// way to L3. An Update of another engine that begins after one has declined is given what that saw.
func TestINV14AnUpdateThatDeclinesRestsOnNothingThatMayBeOutranked(t *testing.T) {
	t.Parallel()
	ctx := lab.Bounded(t)
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	a, b := lab.Open(t, syncengine.Config{SQLURL: url, L3Timeout: 20 * time.Second}), lab.Open(t, syncengine.Config{SQLURL: url})
	submit(t, b, "locked", "0", archived)
	submit(t, b, "x", "0", archived)
	tx, err := testserver.OpenSQL(t, url).Begin()
	lab.Must(t, err)
	var v int64
	lab.Must(t, tx.QueryRow("SELECT version FROM sync_items WHERE id = 'locked' FOR UPDATE").Scan(&v))
	_, err = a.SubmitMany(ctx, []syncengine.Item{{ID: "locked", Content: []byte("1")}, {ID: "x", Content: []byte("1")}})
	lab.Must(t, err)
	declined := make(chan string, 1)
	go func() {
		it, err := a.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) { return cur, syncengine.ErrNoChange })
		if err != nil {
			t.Error(err)
		}
		declined <- string(it.Content)
	}()
	saw := ""
	select {
	case saw = <-declined:
	case <-time.After(300 * time.Millisecond): // it waits for the put
	}
	given := ""
	_, err = b.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
		given = string(cur.Content)
		cur.Content = []byte("2")
		return cur, nil
	})
	lab.Must(t, err)
	if saw != "" && given != saw {
		t.Errorf("a said that x is %s, and an Update of b that began then was given %s", saw, given)
	}
	lab.Must(t, tx.Rollback())
	if saw == "" {
		if saw = <-declined; saw != "2" {
			t.Errorf("the put was outranked by 2, and a says that x is %s", saw)
		}
	}
}

// TestGetOrInsertWithSurvivesWhatComesAndGoes: others write and delete the id all the time.
func TestGetOrInsertWithSurvivesWhatComesAndGoes(t *testing.T) {
	t.Parallel()
	ctx := lab.Bounded(t)
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	a, b := lab.Open(t, syncengine.Config{SQLURL: url}), lab.Open(t, syncengine.Config{SQLURL: url})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				lab.NoError(t, "put", b.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("1")}, archived))
				lab.NoError(t, "delete", b.Delete(ctx, "x", archived))
			}
		}
	}()
	for range 300 {
		if _, err := a.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) { return syncengine.Item{Content: []byte("2")}, nil }); err != nil {
			t.Error(err)
			break
		}
		lab.Must(t, a.Delete(ctx, "x", archived))
	}
	close(stop)
	<-stopped
}
