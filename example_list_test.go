package syncengine_test

import (
	"context"
	"fmt"
	"time"

	"github.com/syncengine-go/syncengine"
)

// All lists in order of ids. It sees what has just been written, and what has just been deleted.
func ExampleEngine_All() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()
	for _, id := range []string{"user.2", "user.1", "team.1", "user.3"} {
		_ = engine.Submit(ctx, syncengine.Item{ID: id, Content: []byte(`{}`)})
	}
	_ = engine.Delete(ctx, "user.2")

	for item, err := range engine.All(ctx, "user.") {
		if err != nil {
			panic(err) // the list is not complete
		}
		fmt.Println(item.ID)
	}
	// Output:
	// user.1
	// user.3
}

// DeletePrefix deletes what is below a prefix, and nothing beside it.
func ExampleEngine_DeletePrefix() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()
	for _, id := range []string{"session.1", "session.2", "sessions", "user.1"} {
		_ = engine.Submit(ctx, syncengine.Item{ID: id, Content: []byte(`{}`)})
	}
	n, err := engine.DeletePrefix(ctx, "session.")
	fmt.Println(n, err, engine.Contains("session.1"), engine.Contains("sessions"))
	// Output: 2 <nil> false true
}

// A Store is a view of some items by keys and values.
func ExampleStore() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()
	type user struct {
		Name   string
		Visits int
	}
	users := syncengine.NewStore[user](engine, "user.")
	if err := users.Put(ctx, "7", user{Name: "Ada"}); err != nil {
		panic(err)
	}
	visit := func(u *user) error {
		u.Visits++
		return nil
	}
	ada, err := users.Update(ctx, "7", visit)
	fmt.Println(ada, err)
	_, err = users.UpdateExisting(ctx, "8", visit)
	fmt.Println(err)
	for entry, err := range users.All(ctx) {
		fmt.Println(entry.Key, entry.Value.Name, string(entry.Item.Content), err)
	}
	// Output:
	// {Ada 1} <nil>
	// syncengine: item "user.8" not found
	// 7 Ada {"Name":"Ada","Visits":1} <nil>
}

// A page of a list is a listing that begins behind the last one, and ends early.
func ExampleEngine_AllAfter() {
	engine, done := exampleEngine()
	defer done()
	ctx := context.Background()
	for _, id := range []string{"user.1", "user.2", "user.3"} {
		if err := engine.Submit(ctx, syncengine.Item{ID: id, Content: []byte(`{}`)}); err != nil {
			panic(err)
		}
	}
	page := func(after string, size int) (ids []string, next string) {
		for item, err := range engine.AllAfter(ctx, "user.", after) {
			if err != nil {
				panic(err)
			}
			if len(ids) == size {
				return ids, ids[size-1] // there is more
			}
			ids = append(ids, item.ID)
		}
		return ids, ""
	}
	ids, next := page("", 2)
	fmt.Println(ids, next)
	fmt.Println(page(next, 2))
	// Output:
	// [user.1 user.2] user.2
	// [user.3]
}

// SubmitEach imports what it can, and tells of the rest.
func ExampleEngine_SubmitEach() {
	engine, done := exampleEngine()
	defer done()
	lines := func(yield func(syncengine.Item) bool) {
		for n, line := range []string{`{"name":"Ada"}`, `{"name":`, `{"name":"Grace"}`} {
			if !yield(syncengine.Item{ID: fmt.Sprint("line.", n+1), Content: []byte(line)}) {
				return
			}
		}
	}
	result, err := engine.SubmitEach(context.Background(), lines, syncengine.EachOptions{})
	fmt.Println(result.Succeeded, result.Failed, err)
	for _, e := range result.Errors {
		fmt.Println(e.ID)
	}
	// Output:
	// 2 1 <nil>
	// line.2
}

// Watch tells of what this and other engines write. A token is where it goes on, also after a
// restart.
func ExampleEngine_WatchFrom() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	engine, done := exampleEngine()
	defer done()

	token, err := engine.WatchToken(ctx) // before the list, so that nothing is missed between the two
	if err != nil {
		panic(err)
	}
	_ = engine.Submit(ctx, syncengine.Item{ID: "user.1", Content: []byte(`{"name":"Ada"}`)})
	_ = engine.Submit(ctx, syncengine.Item{ID: "session.1", Content: []byte(`{}`)})
	for change, err := range engine.WatchFrom(ctx, "user.", token) {
		if err != nil {
			panic(err)
		}
		fmt.Println(change.Kind, change.ID, string(change.Item.Content))
		break // and keep change.Token
	}
	// Output: put user.1 {"name":"Ada"}
}

// An item with a time to live is gone when that is over, for every call on every engine.
func ExampleEngine_Touch() {
	ctx := context.Background()
	engine, done := exampleEngine()
	defer done()

	err := engine.Submit(ctx, syncengine.Item{ID: "session.1", Content: []byte(`{}`)}, syncengine.WithTTL(30*time.Minute))
	if err != nil {
		panic(err)
	}
	if err := engine.Touch(ctx, "session.1", time.Hour); err != nil { // an hour from now
		panic(err)
	}
	it, err := engine.Get(ctx, "session.1")
	fmt.Println(time.Until(it.ExpiresAt).Round(time.Hour), err)
	// Output: 1h0m0s <nil>
}
