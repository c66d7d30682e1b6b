package promises

// deleteprefix_test.go is about DeletePrefix: what it deletes, and what it leaves.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestINV04WhatIsDeletedBelowAPrefixStaysDeleted(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		want := make(map[string]int)
		for n, id := range []string{"j", "k", "k%", "k%1", "kX1", "k_", "K%1", "l", "k%\u00ff", "k%日", "ké", "kê", "日本", "日月"} {
			lab.Put(t, e, id, n, syncengine.WithDurability(everyLevel[n%3]))
			want[id] = n
		}
		for n := range 2500 {
			id := fmt.Sprintf("k_%04d", n)
			lab.Put(t, e, id, n, syncengine.WithDurability(everyLevel[n%2]))
			want[id] = n
		}
		for i, prefix := range []string{"k%", "k_", "nothing", "日", "k\xc3", "\xff"} {
			below := 0
			for id := range want {
				if strings.HasPrefix(id, prefix) {
					below++
					delete(want, id)
				}
			}
			n, err := e.DeletePrefix(ctx, prefix, syncengine.WithDurability(everyLevel[i%3]), syncengine.WithPriority(syncengine.PriorityHigh))
			if err != nil || n != below {
				t.Errorf("below %q: %d, %v; want %d", prefix, n, err, below)
			}
			if n, err := e.DeletePrefix(ctx, prefix); err != nil || n != 0 {
				t.Errorf("below %q again: %d, %v", prefix, n, err)
			}
			wantListed(t, e, "", want)
		}
		lab.Must(t, e.Close())
		e = lab.Open(t, cfg)
		lab.WantContent(t, e, "k_0001", -1)
		wantListed(t, e, "", want)
	})
}

func TestDeletePrefixRefusesWhatItCantDo(t *testing.T) {
	e := lab.Open(t, syncengine.Config{})
	lab.Put(t, e, "a", 1)
	for field, call := range map[string]func() (int, error){
		"prefix":      func() (int, error) { return e.DeletePrefix(context.Background(), "") },
		"IfUnchanged": func() (int, error) { return e.DeletePrefix(context.Background(), "a", syncengine.IfUnchanged()) },
		"WithIfVersion": func() (int, error) {
			return e.DeletePrefix(context.Background(), "a", syncengine.WithIfVersion(0))
		},
		"WithVersion": func() (int, error) { return e.DeletePrefix(context.Background(), "a", syncengine.WithVersion(7)) },
	} {
		var ie *syncengine.InvalidItemError
		if n, err := call(); !errors.As(err, &ie) || ie.Field != field || n != 0 {
			t.Errorf("%s: %d, %v", field, n, err)
		}
	}
	if _, err := e.DeletePrefix(context.Background(), strings.Repeat("a", 513)); !errors.Is(err, syncengine.ErrInvalidItem) {
		t.Errorf("a prefix longer than ids: %v", err)
	}
	lab.WantContent(t, e, "a", 1)
}

// A group fits whatever is the limit.
func TestDeletePrefixKeepsTheLimitsOfGroups(t *testing.T) {
	for name, cfg := range map[string]syncengine.Config{
		"items":  {GroupMaxItems: 3},
		"bytes":  {GroupMaxBytes: 40},
		"memory": {L1MaxBytes: 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			e := lab.Open(t, cfg)
			for n := range 100 {
				lab.Put(t, e, fmt.Sprintf("k.%02d%s", n, strings.Repeat("x", n)), n)
			}
			if n, err := e.DeletePrefix(context.Background(), "k"); n != 100 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
}

// A delete takes what L3 refuses to hold, and rows that nobody can read; any L3 will do.
func TestDeletePrefixTakesWhatIsRefusedOrDamaged(t *testing.T) {
	ctx := context.Background()
	c := lab.NewChoosy(t)
	defer c.Release()
	e := lab.Open(t, syncengine.Config{L3: c})
	for n, id := range []string{"k", "k.a", "k.b", "other"} {
		lab.Put(t, e, id, n)
	}
	poisonous(t, e, "k.a", "k.c")
	if n, err := e.DeletePrefix(ctx, "k"); n != 4 || err != nil {
		t.Errorf("refused ones: %d, %v", n, err)
	}
	if ids, _ := listed(t, e, ""); !slices.Equal(ids, []string{"other"}) {
		t.Errorf("left: %s", ids)
	}

	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: testserver.SharedMariaDB(t).NewDatabase(t)}
	e = lab.Open(t, cfg)
	lab.Put(t, e, "k.1", 1)
	lab.Must(t, e.Close())
	rot(t, testserver.OpenSQL(t, cfg.SQLURL), "k.1")
	if n, err := lab.Open(t, cfg).DeletePrefix(ctx, "k"); n != 1 || err != nil {
		t.Errorf("a damaged one: %d, %v", n, err)
	}

	e = lab.Open(t, syncengine.Config{L3: storetest.NewArchive()})
	lab.Put(t, e, "k.1", 1)
	if n, err := e.DeletePrefix(ctx, "k"); n != 1 || err != nil {
		t.Errorf("in a store that lists no contents: %d, %v", n, err)
	}
}

// What was deleted before an error is counted, and the next call takes the rest.
func TestINV08DeletePrefixGoesOnAfterAnOutage(t *testing.T) {
	ctx := context.Background()
	c := lab.NewChoosy(t)
	defer c.Release()
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	var gone atomic.Int64
	apply := c.OnApply
	c.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		for i := range recs {
			if recs[i].Deleted && gone.Add(1) == 300 {
				cancel()
			}
		}
		return apply(ctx, recs)
	}
	e := lab.Open(t, syncengine.Config{L3: c, GroupMaxItems: 100})
	for n := range 2500 {
		lab.Put(t, e, fmt.Sprintf("k.%04d", n), n, syncengine.WithDurability(syncengine.Buffered))
	}
	lab.Must(t, e.Flush(ctx))
	c.Away.Store(true)
	if n, err := e.DeletePrefix(ctx, "k"); n != 0 || !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("while L3 is away: %d, %v", n, err)
	}
	c.Away.Store(false)
	lab.Eventually(t, "writes are taken again", func() bool { return e.Flush(ctx) == nil })
	first, err := e.DeletePrefix(bounded, "k", syncengine.WithDurability(syncengine.Archived))
	if !errors.Is(err, context.Canceled) || first < 100 || first > 400 {
		t.Fatalf("%d, %v; want a part, and Canceled", first, err)
	}
	rest, err := e.DeletePrefix(ctx, "k")
	if err != nil || first+rest < 2400 || first+rest > 2500 { // of one group nobody knew
		t.Errorf("%d, then %d, %v", first, rest, err)
	}
	if ids, _ := listed(t, e, ""); len(ids) != 0 {
		t.Errorf("left: %s", ids)
	}
}
