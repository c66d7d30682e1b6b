package promises

// typed_test.go is about Store: that it is the engine's calls, and how it codes.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

type thing struct {
	Name string
	N    int
}

func TestAStoreIsAViewOfItsPrefix(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		s := syncengine.NewStore[thing](e, "thing.")
		lab.Put(t, e, "things", 1)
		lab.Must(t, s.Put(ctx, "a", thing{"a", 1}))
		lab.Must(t, s.Insert(ctx, "b", thing{"b", 2}))
		if err := s.Insert(ctx, "b", thing{}); !errors.Is(err, syncengine.ErrExists) {
			t.Errorf("Insert of what is there: %v", err)
		}
		if _, err := s.PutMany(ctx, []syncengine.Entry[thing]{{Key: "c", Value: thing{"c", 3}}, {Key: "", Value: thing{"none", 0}}}); err != nil {
			t.Error(err)
		}
		made, err := s.GetOrInsertWith(ctx, "d", func(context.Context) (thing, error) { return thing{"d", 4}, nil })
		if err != nil || made != (thing{"d", 4}) {
			t.Errorf("GetOrInsertWith: %v, %v", made, err)
		}
		lab.Must(t, s.Delete(ctx, "a"))
		var none *syncengine.NotFoundError
		if _, err := s.Get(ctx, "a"); !errors.Is(err, syncengine.ErrNotFound) || !errors.As(err, &none) || !strings.HasSuffix(none.ID, "a") || !s.Contains("b") {
			t.Errorf("Get of what was deleted: %v", err)
		}
		many, err := s.GetMany(ctx, []string{"b", "a", "d"})
		if err != nil || *many[0] != (thing{"b", 2}) || many[1] != nil || *many[2] != (thing{"d", 4}) {
			t.Errorf("GetMany: %v, %v", many, err)
		}
		if it, err := e.Get(ctx, "thing.b"); err != nil || string(it.Content) != `{"Name":"b","N":2}` {
			t.Errorf("the item is %s, %v", it.Content, err)
		}
		one, err := s.GetEntry(ctx, "b")
		if err != nil || one.Key != "b" || one.Value != (thing{"b", 2}) || one.Item.ID != "thing.b" || one.Item.Version == 0 {
			t.Errorf("GetEntry: %v, %v", one, err)
		}
		if _, err := s.GetEntry(ctx, "a"); !errors.As(err, &none) {
			t.Errorf("GetEntry of what was deleted: %v", err)
		}
		var all []syncengine.Entry[thing]
		var got []string
		for entry, err := range s.All(ctx) {
			lab.Must(t, err)
			all = append(all, entry)
			got = append(got, fmt.Sprintf("%s=%s%d", entry.Key, entry.Value.Name, entry.Value.N))
		}
		if strings.Join(got, " ") != "=none0 b=b2 c=c3 d=d4" {
			t.Errorf("All: %s", got)
		}
		all[1].Value.N = 7
		if _, err := s.PutMany(ctx, all, syncengine.IfUnchanged()); err != nil {
			t.Errorf("PutMany of what was listed: %v", err)
		}
		if _, err := s.PutMany(ctx, all, syncengine.IfUnchanged()); !errors.Is(err, syncengine.ErrConflict) {
			t.Errorf("PutMany of what has changed since: %v", err)
		}
		if _, err := s.DeleteMany(ctx, []string{"b", "c"}); err != nil || s.Contains("thing.b") {
			t.Errorf("DeleteMany: %v", err)
		}
	})
}

func TestINV14TypedUpdatesCountExactly(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		s := syncengine.NewStore[thing](lab.Open(t, cfg), "thing.")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 25 {
					_, err := s.Update(ctx, "n", func(v *thing) error { v.N++; return nil })
					lab.NoError(t, "Update", err)
				}
			})
		}
		wg.Wait()
		// What a function does before it says that nothing is to be done is not returned.
		v, err := s.Update(ctx, "n", func(v *thing) error { v.N = -1; return syncengine.ErrNoChange })
		if err != nil || v.N != 200 {
			t.Errorf("counted %d, %v; want 200", v.N, err)
		}
		if v, err := s.Update(ctx, "absent", func(v *thing) error { v.N = -1; return syncengine.ErrNoChange }); err != nil || v.N != 0 || s.Contains("absent") {
			t.Errorf("no change of what is not there: %v, %v", v, err)
		}
		if _, err := s.UpdateExisting(ctx, "absent", func(*thing) error { t.Error("fn was called"); return nil }); !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("UpdateExisting: %v", err)
		}
		if v, err := s.UpdateExisting(ctx, "n", func(v *thing) error { v.N++; return nil }); err != nil || v.N != 201 {
			t.Errorf("UpdateExisting: %v, %v", v, err)
		}
		mine := errors.New("mine")
		if _, err := s.Update(ctx, "n", func(*thing) error { return mine }); err != mine {
			t.Errorf("an error of fn: %v", err)
		}
	})
}

func TestWhatCantBeDecodedNamesItsItem(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{})
	s := syncengine.NewStore[thing](e, "thing.")
	lab.Must(t, s.Put(ctx, "a", thing{N: 1}))
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "thing.b", Content: []byte(`{"N":"no number"}`)}))
	lab.Must(t, s.Put(ctx, "c", thing{N: 3}))
	want := func(what string, err error) {
		t.Helper()
		var de *syncengine.DecodeError
		var je *json.UnmarshalTypeError
		if !errors.As(err, &de) || de.ID != "thing.b" || !errors.As(err, &je) || !strings.Contains(err.Error(), `"thing.b"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := s.Get(ctx, "b")
	want("Get", err)
	many, err := s.GetMany(ctx, []string{"a", "b", "c"})
	want("GetMany", err)
	if many[0].N != 1 || many[1] != nil || many[2].N != 3 {
		t.Errorf("GetMany: %v", many)
	}
	_, err = s.Update(ctx, "b", func(*thing) error { t.Error("fn was called"); return nil })
	want("Update", err)
	var keys []string
	for entry, err := range s.All(ctx) {
		if entry.Key == "b" {
			want("All", err)
		} else {
			lab.Must(t, err)
		}
		keys = append(keys, entry.Key)
	}
	if !slices.Equal(keys, []string{"a", "b", "c"}) {
		t.Errorf("All: %s", keys)
	}
	if err := syncengine.NewStore[func()](e, "").Put(ctx, "f", func() {}); !errors.Is(err, syncengine.ErrInvalidItem) {
		t.Errorf("Put of a function: %v", err)
	}
}

// wrapping is a codec that puts values into an array, or makes what is no JSON.
type wrapping struct{ noJSON bool }

func (w wrapping) Marshal(v any) ([]byte, error) {
	if w.noJSON {
		return []byte("\x01"), nil
	}
	return json.Marshal([]any{v})
}

func (wrapping) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, &[]any{v}) }

func TestAStoreHasTheCodecOfItsCaller(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{})
	s := syncengine.NewStore[thing](e, "", syncengine.WithCodec(wrapping{}), syncengine.StoreOption{})
	lab.Must(t, s.Put(ctx, "a", thing{"a", 1}))
	it, err := e.Get(ctx, "a")
	v, gerr := s.Get(ctx, "a")
	if err != nil || gerr != nil || string(it.Content) != `[{"Name":"a","N":1}]` || v != (thing{"a", 1}) {
		t.Errorf("%s, %v; %v, %v", it.Content, err, v, gerr)
	}
	bad := syncengine.NewStore[thing](e, "", syncengine.WithCodec(wrapping{noJSON: true}))
	if err := bad.Put(ctx, "b", thing{}); !errors.Is(err, syncengine.ErrInvalidItem) {
		t.Errorf("a codec that makes no JSON: %v", err)
	}
	fails := syncengine.NewStore[thing](e, "", syncengine.WithCodec(failing{}))
	err = fails.Put(ctx, "b", thing{})
	wantInvalid(t, "a codec that fails", err, "Content", "can't be encoded by promises.failing")
	if strings.Contains(err.Error(), "secret") || !errors.Is(err, errTelling) {
		t.Errorf("%v: it is to wrap the codec's error, and not to quote it", err)
	}
}

// failing is a codec whose error quotes the value.
type failing struct{ wrapping }

func (failing) Marshal(any) ([]byte, error) { return nil, errTelling }

// leaving is a codec that leaves the name out, and is given a pointer.
type leaving struct{ wrapping }

func (leaving) Marshal(v any) ([]byte, error) {
	return json.Marshal([]any{thing{N: v.(*thing).N}})
}

// Update returns the value that its function has made; a Get tells what the codec made of it.
func TestATypedUpdateReturnsWhatItsFunctionMade(t *testing.T) {
	ctx := context.Background()
	s := syncengine.NewStore[thing](lab.Open(t, syncengine.Config{}), "", syncengine.WithCodec(leaving{}))
	made, err := s.Update(ctx, "a", func(v *thing) error { *v = thing{"a", 1}; return nil })
	is, gerr := s.Get(ctx, "a")
	if err != nil || gerr != nil || made != (thing{"a", 1}) || is != (thing{"", 1}) {
		t.Errorf("%v, %v; %v, %v", made, err, is, gerr)
	}
}

// A function that runs again gets what is there then, and nothing of what it did before.
func TestATypedUpdateBeginsAgainFromWhatIsThere(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		s := syncengine.NewStore[map[string]int](lab.Open(t, cfg), "m.")
		runs := 0
		got, err := s.Update(ctx, "a", func(m *map[string]int) error {
			if runs++; runs == 1 {
				*m = map[string]int{"mine": 1}
				return s.Put(ctx, "a", map[string]int{"other": 1})
			}
			(*m)["again"] = 1
			return nil
		})
		if err != nil || runs < 2 || fmt.Sprint(got) != "map[again:1 other:1]" {
			t.Errorf("%v after %d runs, %v", got, runs, err)
		}
	})
}

// Conditions that contradict a call, or have no version to compare with, are refused.
func TestAConditionThatCanNotBeMeantIsRefused(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{})
	s := syncengine.NewStore[int](e, "s.")
	item := syncengine.Item{ID: "x", Content: []byte("1")}
	for what, err := range map[string]error{
		"Insert at a version":     e.Insert(ctx, item, syncengine.WithIfVersion(7)),
		"Insert of what is not":   e.Insert(ctx, item, syncengine.WithIfVersion(0)),
		"Insert of what is read":  e.Insert(ctx, item, syncengine.IfUnchanged()),
		"Put of what nobody read": s.Put(ctx, "x", 1, syncengine.IfUnchanged()),
	} {
		if !errors.Is(err, syncengine.ErrInvalidItem) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, id := range []string{"x", "s.x"} {
		if _, err := e.Get(ctx, id); !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// TestGetManyOfAStoreIsTheEngines: with a key that can't be one there is no slice.
func TestGetManyOfAStoreIsTheEngines(t *testing.T) {
	s := syncengine.NewStore[int](lab.Open(t, syncengine.Config{}), "")
	if values, err := s.GetMany(t.Context(), []string{"a", ""}); values != nil || !errors.Is(err, syncengine.ErrInvalidItem) {
		t.Errorf("%v, %v", values, err)
	}
	if values, err := s.GetMany(t.Context(), []string{"a", "b"}); len(values) != 2 || err != nil {
		t.Errorf("%v, %v", values, err)
	}
}
