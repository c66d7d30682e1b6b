package syncenginetest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/syncenginetest"
)

var t *testing.T // that of the test

func ExampleNew() {
	e := syncenginetest.New(t)
	item, _ := syncengine.NewItem("user.42", map[string]any{"name": "Ada"})
	if err := e.Submit(context.Background(), item); err != nil {
		t.Fatal(err)
	}
	syncenginetest.Settle(t, e)
}

func ExampleServers_On() {
	s := syncenginetest.Start(t)
	e := s.New()
	s.On(syncenginetest.SQLAway)
	item, _ := syncengine.NewItem("user.42", map[string]any{"name": "Ada"})
	if err := e.Submit(context.Background(), item); err != nil { // logged
		t.Fatal(err)
	}
	s.Off(syncenginetest.SQLAway)
	syncenginetest.Settle(t, e)
	if _, err := e.Get(context.Background(), "user.42"); errors.Is(err, syncengine.ErrUnavailable) {
		t.Fatal(err)
	}
}
