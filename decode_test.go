package syncengine_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

func TestDecodeFollowsEncodingJSON(t *testing.T) {
	it := syncengine.Item{ID: "user.42", Content: []byte(`{"name":"Ada","tags":["a","b"]}`)}
	var v struct {
		Name string
		Tags []string
	}
	if err := it.Decode(&v); err != nil || v.Name != "Ada" || len(v.Tags) != 2 {
		t.Errorf("decoded %+v, %v", v, err)
	}
}

func TestINV11WhatDecodeFillsSharesNoMemoryWithContent(t *testing.T) {
	const text = `{"raw":{"a":1},"s":"abc"}`
	it := syncengine.Item{ID: "a", Content: []byte(text)}
	var v struct{ Raw json.RawMessage }
	whole := it.Content // as a caller may reuse it
	for _, to := range []any{&v, &whole} {
		if err := it.Decode(to); err != nil {
			t.Fatal(err)
		}
	}
	if string(whole) != text || string(v.Raw) != `{"a":1}` {
		t.Errorf("decoded %s and %s", whole, v.Raw)
	}
	for _, b := range []json.RawMessage{v.Raw, whole} {
		clear(b)
	}
	other := syncengine.Item{ID: "b", Content: []byte(`{"another":"one"}`)}
	mine := it.Content
	if err := other.Decode(&mine); err != nil {
		t.Fatal(err)
	}
	if string(it.Content) != text {
		t.Errorf("content is now %q", it.Content)
	}
}

func TestDecodeSaysWhatIsWrongAndWithWhichItem(t *testing.T) {
	it := syncengine.Item{ID: "user.42", Content: []byte(`"text"`)}
	var n int
	err := it.Decode(&n)
	var te *json.UnmarshalTypeError
	if !errors.As(err, &te) || !strings.Contains(err.Error(), "user.42") || errors.Is(err, syncengine.ErrInvalidItem) {
		t.Errorf("text as a number: %v", err)
	}
	var ie *json.InvalidUnmarshalError
	if err := it.Decode(n); !errors.As(err, &ie) {
		t.Errorf("no pointer: %v", err)
	}
	if err := it.Decode((*json.RawMessage)(nil)); !errors.As(err, &ie) {
		t.Errorf("a nil pointer: %v", err)
	}
	if err := (&syncengine.Item{ID: "user.42"}).Decode(&n); err == nil || !strings.Contains(err.Error(), "user.42") {
		t.Errorf("without content: %v", err)
	}
	if err := (*syncengine.Item)(nil).Decode(&n); err == nil {
		t.Error("no item at all, and no error")
	}
}

// What a replicator numbers by its own clock stands between what the engine numbers before and
// after.
func TestVersionAtOrdersLikeTime(t *testing.T) {
	e := lab.Open(t, syncengine.Config{})
	before := time.Now().Truncate(time.Millisecond)
	lab.Put(t, e, "a", 1)
	after := time.Now().Add(time.Millisecond)
	it, err := e.Get(lab.Bounded(t), "a")
	if err != nil || it.Version < syncengine.VersionAt(before) || it.Version >= syncengine.VersionAt(after) {
		t.Errorf("version %d lies outside of %d to %d: %v", it.Version, syncengine.VersionAt(before), syncengine.VersionAt(after), err)
	}
	if v := syncengine.VersionAt(time.Unix(-1, 0)); v != 0 {
		t.Errorf("before 1970: %d", v)
	}
	if v := syncengine.VersionAt(time.Unix(1<<60, 0)); v != syncengine.MaxVersion {
		t.Errorf("the far future: %d", v)
	}
}
