package syncengine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/syncengine-go/syncengine"
)

// The smallest program: one directory, no server.
func Example() {
	ctx := context.Background()
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)

	engine, err := syncengine.Open(ctx, syncengine.Config{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer engine.Close()

	item, _ := syncengine.NewItem("user.42", map[string]any{"name": "Ada"})
	if err := engine.Submit(ctx, item); err != nil { // on disk when this returns
		panic(err)
	}
	got, err := engine.Get(ctx, "user.42")
	fmt.Println(string(got.Content), err)
	// Output: {"name":"Ada"} <nil>
}

// What Decode fills is the caller's own, to change at will.
func ExampleItem_Decode() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()

	item, _ := syncengine.NewItem("user.42", map[string]any{"name": "Ada", "age": 36})
	if err := engine.Submit(ctx, item); err != nil {
		panic(err)
	}
	got, err := engine.Get(ctx, "user.42")
	if err != nil {
		panic(err)
	}
	var user struct {
		Name string
		Age  int
	}
	err = got.Decode(&user)
	fmt.Println(user.Name, user.Age, err)
	// Output: Ada 36 <nil>
}

// A group is accepted, logged and committed as a whole, or not at all.
func ExampleEngine_SubmitMany() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()

	result, err := engine.SubmitMany(ctx, []syncengine.Item{
		{ID: "order.7", Content: []byte(`{"total": 30}`)},
		{ID: "stock.apple", Content: []byte(`{"left": 2}`)},
	})
	fmt.Println(result.Succeeded, err)

	_, err = engine.SubmitMany(ctx, []syncengine.Item{
		{ID: "order.8", Content: []byte(`{"total": 5}`)},
		{ID: "stock.pear", Content: []byte(`not JSON`)},
	})
	fmt.Println(errors.Is(err, syncengine.ErrInvalidItem), engine.Len())
	// Output:
	// 2 <nil>
	// true 2
}

// A factory runs once per id, and never when a store merely failed to answer.
func ExampleEngine_GetOrInsertWith() {
	engine, done := exampleEngine()
	defer done()

	item, err := engine.GetOrInsertWith(context.Background(), "settings", func(context.Context) (syncengine.Item, error) {
		return syncengine.Item{Content: []byte(`{"theme":"dark"}`)}, nil
	})
	fmt.Println(string(item.Content), err)
	// Output: {"theme":"dark"} <nil>
}

// Durability can be chosen per call.
func ExampleWithDurability() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()

	counter := syncengine.Item{ID: "page.views", Content: []byte(`{"n":1}`)}
	fmt.Println(engine.Submit(ctx, counter, syncengine.WithDurability(syncengine.Buffered)))
	order := syncengine.Item{ID: "order.9", Content: []byte(`{"paid":true}`)}
	fmt.Println(engine.Submit(ctx, order, syncengine.WithDurability(syncengine.Archived)))
	// Output:
	// <nil>
	// <nil>
}

// A refused write says when to try again. Nothing was changed.
func ExampleBackpressureError() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()
	item := syncengine.Item{ID: "a", Content: []byte(`1`)}
	for {
		err := engine.Submit(ctx, item)
		var refused *syncengine.BackpressureError
		if !errors.As(err, &refused) {
			fmt.Println(err)
			return
		}
		select {
		case <-time.After(refused.RetryAfter):
		case <-ctx.Done():
			return
		}
	}
	// Output: <nil>
}

// Status tells which tiers hold an id.
func ExampleEngine_Status() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()
	_ = engine.Submit(ctx, syncengine.Item{ID: "a", Content: []byte(`1`)})
	_ = engine.Flush(ctx)
	status, err := engine.Status(ctx, "a")
	fmt.Println(status.State, status.InL1, status.InL2, status.InL3, err)
	// Output: synced true false true <nil>
}

// Explain says what a Get would do, and why.
func ExampleEngine_Explain() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()
	_ = engine.Submit(ctx, syncengine.Item{ID: "a", Content: []byte(`1`)})
	_ = engine.Flush(ctx)
	x, err := engine.Explain(ctx, "a")
	fmt.Println(x.Outcome, x.Source, x.L1.State, x.L2.State, x.L3.State, err)
	x, err = engine.Explain(ctx, "b")
	fmt.Println(x.Outcome, x.L3.State, err)
	// Output:
	// found memory live off live <nil>
	// not_found absent <nil>
}

func exampleEngine() (engine *syncengine.Engine, done func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	engine, err = syncengine.Open(context.Background(), syncengine.Config{Dir: dir})
	if err != nil {
		panic(err)
	}
	return engine, func() {
		_ = engine.Close()
		_ = os.RemoveAll(dir)
	}
}

// ExampleEngine_Update counts, and nobody else's count is lost, in this process or in another.
func ExampleEngine_Update() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "syncengine")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	engine, err := syncengine.Open(ctx, syncengine.Config{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer engine.Close()
	for range 3 {
		_, err = engine.Update(ctx, "counter", func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
			n := 0
			if exists {
				if err := cur.Decode(&n); err != nil {
					return cur, err
				}
			}
			cur.Content = fmt.Appendf(nil, "%d", n+1)
			return cur, nil
		})
	}
	counter, _ := engine.Get(ctx, "counter")
	fmt.Println(string(counter.Content), err)
	fmt.Println(errors.Is(engine.Insert(ctx, counter), syncengine.ErrExists))
	// Output:
	// 3 <nil>
	// true
}
