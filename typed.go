package syncengine

// typed.go is Store, a typed view: it codes, and leaves all else to the engine. It has no state.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"
)

// Store is a typed view of the items whose ids begin with a prefix: what follows it is the key, and
// what the item contains is a T. It holds nothing of its own, so there may be many of the same
// items, and it is safe for concurrent use. Every call is the Engine's of that name, with its
// durability, blocking and errors; these name the item by its id, prefix and key.
//
// What can't be decoded is a *DecodeError, what can't be encoded is an *InvalidItemError, which
// also wraps the codec's error, and so is what a codec makes that is not JSON. Values returned
// share no memory with the engine, as far as the codec copies; encoding/json does.
type Store[T any] struct {
	e      *Engine
	prefix string
	codec  Codec // nil: encoding/json
}

// Codec turns values into JSON and back, instead of encoding/json. Both methods may be called
// concurrently. Unmarshal must neither change nor keep data: it is the engine's.
type Codec interface {
	Marshal(v any) ([]byte, error)      // v is a pointer to a T
	Unmarshal(data []byte, v any) error // v is a pointer to a zero T
}

// StoreOption changes a Store. The zero value changes nothing.
type StoreOption struct{ codec Codec }

// WithCodec replaces encoding/json. nil changes nothing.
func WithCodec(c Codec) StoreOption { return StoreOption{codec: c} }

// Entry is a key with its value, and the item that it is stored as. Item.Content is read-only.
type Entry[T any] struct {
	Key   string
	Value T
	Item  Item
}

// NewStore makes a view. The prefix may be empty: then keys are ids.
func NewStore[T any](e *Engine, prefix string, opts ...StoreOption) *Store[T] {
	s := &Store[T]{e: e, prefix: prefix}
	for i := range opts {
		if opts[i].codec != nil {
			s.codec = opts[i].codec
		}
	}
	return s
}

func (s *Store[T]) decode(it *Item, v *T) (err error) {
	if s.codec == nil {
		return it.Decode(v)
	}
	if err := s.codec.Unmarshal(it.Content, v); err != nil {
		return &DecodeError{ID: it.ID, Err: err}
	}
	return nil
}

func (s *Store[T]) encode(id string, v *T) (b []byte, err error) {
	codec := jsonCodec
	if s.codec == nil {
		b, err = json.Marshal(v)
	} else {
		codec = fmt.Sprintf("%T", s.codec)
		b, err = s.codec.Marshal(v)
	}
	if err != nil {
		return nil, notEncoded(id, codec, err)
	}
	return b, nil
}

// Get returns the value of a key, or ErrNotFound, as a *NotFoundError.
func (s *Store[T]) Get(ctx context.Context, key string) (v T, err error) {
	it, err := s.get(ctx, key)
	if err == nil {
		err = s.decode(&it, &v)
	}
	return v, err
}

// GetEntry is Get that also returns the item, with its version, as for an ETag, its expiry, and
// whether it is stale.
func (s *Store[T]) GetEntry(ctx context.Context, key string) (en Entry[T], err error) {
	en.Key = key
	if en.Item, err = s.get(ctx, key); err == nil {
		err = s.decode(&en.Item, &en.Value)
	}
	return en, err
}

func (s *Store[T]) get(ctx context.Context, key string) (Item, error) {
	it, err := s.e.Get(ctx, s.prefix+key)
	if errors.Is(err, ErrNotFound) {
		err = &NotFoundError{ID: s.prefix + key}
	}
	return it, err
}

// GetMany returns the values of keys, aligned with them; nil stands for not found. With an error
// the others are there, but for ErrInvalidItem of one key: then none is, and the slice is nil.
func (s *Store[T]) GetMany(ctx context.Context, keys []string) ([]*T, error) {
	items, err := s.e.GetMany(ctx, s.ids(keys))
	if items == nil {
		return nil, err
	}
	out := make([]*T, len(keys))
	for i, it := range items {
		if it == nil {
			continue
		}
		v := new(T)
		if bad := s.decode(it, v); bad != nil {
			err = errors.Join(err, bad)
			continue
		}
		out[i] = v
	}
	return out, err
}

func (s *Store[T]) ids(keys []string) []string {
	if s.prefix == "" {
		return keys
	}
	ids := make([]string, len(keys))
	for i := range keys {
		ids[i] = s.prefix + keys[i]
	}
	return ids
}

// Contains is the Engine's: false is definite.
func (s *Store[T]) Contains(key string) bool { return s.e.Contains(s.prefix + key) }

// Put is Submit, and like it returns no version: GetEntry tells it. IfUnchanged needs the version
// of an Entry, and is ErrInvalidItem here: see PutMany and Update.
func (s *Store[T]) Put(ctx context.Context, key string, v T, opts ...WriteOption) error {
	it, err := s.item(key, &v)
	if err != nil {
		return err
	}
	if comparesItems(opts) {
		return &InvalidItemError{ID: it.ID, Field: "IfUnchanged", Rule: "needs a version: use PutMany with the entry that was read, or Update"}
	}
	return s.e.Submit(ctx, it, opts...)
}

// PutMany is SubmitMany of the keys and values of entries; of their items it takes the version
// alone, for IfUnchanged.
func (s *Store[T]) PutMany(ctx context.Context, entries []Entry[T], opts ...WriteOption) (BatchResult, error) {
	items := make([]Item, len(entries))
	for i := range entries {
		it, err := s.item(entries[i].Key, &entries[i].Value)
		if err != nil {
			return BatchResult{Total: len(entries), Failed: len(entries)}, at(i, err)
		}
		it.Version = entries[i].Item.Version
		items[i] = it
	}
	return s.e.SubmitMany(ctx, items, opts...)
}

// Insert stores a value under a key that must not exist, else the error is ErrExists. It returns no
// version: GetEntry tells it.
func (s *Store[T]) Insert(ctx context.Context, key string, v T, opts ...WriteOption) error {
	it, err := s.item(key, &v)
	if err != nil {
		return err
	}
	return s.e.Insert(ctx, it, opts...)
}

func (s *Store[T]) item(key string, v *T) (it Item, err error) {
	it.ID = s.prefix + key
	it.Content, err = s.encode(it.ID, v)
	return it, err
}

// Update changes the value of a key: it calls fn with what is there, or with a zero T when there is
// nothing, and stores what fn has made of it, if that is still there; else it begins again, with
// the new one. It returns the value that fn has made, not decoded from what is stored: what the
// codec leaves out or makes of it, and a merge of an item with a CRDT kind, a Get tells. With
// ErrNoChange of fn nothing is written, and what is there is returned, with a nil error. It can't
// delete: for that take the version from GetEntry, and Delete with WithIfVersion. UpdateExisting
// tells the two beginnings apart.
func (s *Store[T]) Update(ctx context.Context, key string, fn func(v *T) error, opts ...WriteOption) (T, error) {
	return s.update(ctx, key, fn, nil, opts)
}

// UpdateExisting is Update of what must be there: else it returns ErrNotFound, with no call of fn.
func (s *Store[T]) UpdateExisting(ctx context.Context, key string, fn func(v *T) error, opts ...WriteOption) (T, error) {
	return s.update(ctx, key, fn, &NotFoundError{ID: s.prefix + key}, opts)
}

func (s *Store[T]) update(ctx context.Context, key string, fn func(v *T) error, absent error, opts []WriteOption) (T, error) {
	var v, none T
	if fn == nil {
		return none, missing(s.prefix+key, "fn")
	}
	written := false
	it, err := s.e.Update(ctx, s.prefix+key, func(cur Item, exists bool) (_ Item, err error) {
		v, written = none, false
		switch {
		case exists:
			err = s.decode(&cur, &v)
		default:
			err = absent
		}
		if err == nil {
			err = fn(&v)
		}
		if err != nil {
			return cur, err
		}
		cur.Content, err = s.encode(cur.ID, &v)
		written = true
		return cur, err
	}, opts...)
	if err != nil || it.ID == "" {
		return none, err
	}
	if !written { // fn may have changed what it was given all the same
		v = none
		err = s.decode(&it, &v)
	}
	return v, err
}

// GetOrInsertWith returns the value of a key, or what factory makes, which it inserts.
func (s *Store[T]) GetOrInsertWith(ctx context.Context, key string, factory func(context.Context) (T, error), opts ...WriteOption) (v T, err error) {
	id := s.prefix + key
	if factory == nil {
		return v, missing(id, "factory")
	}
	it, err := s.e.GetOrInsertWith(ctx, id, func(ctx context.Context) (it Item, err error) {
		made, err := factory(ctx)
		if err != nil {
			return it, err
		}
		it.ID = id
		it.Content, err = s.encode(id, &made)
		return it, err
	}, opts...)
	if err != nil {
		return v, err
	}
	err = s.decode(&it, &v)
	return v, err
}

// Touch gives the item of a key another expiry, and none with a ttl of 0.
func (s *Store[T]) Touch(ctx context.Context, key string, ttl time.Duration) error {
	return s.e.Touch(ctx, s.prefix+key, ttl)
}

// Delete removes a key.
func (s *Store[T]) Delete(ctx context.Context, key string, opts ...WriteOption) error {
	return s.e.Delete(ctx, s.prefix+key, opts...)
}

// DeleteMany removes keys as a group.
func (s *Store[T]) DeleteMany(ctx context.Context, keys []string, opts ...WriteOption) (BatchResult, error) {
	return s.e.DeleteMany(ctx, s.ids(keys), opts...)
}

// All yields the entries in order of keys. One that can't be decoded comes with its *DecodeError,
// Key and Item, and the loop goes on.
func (s *Store[T]) All(ctx context.Context) iter.Seq2[Entry[T], error] { return s.AllAfter(ctx, "") }

// AllAfter is All from the first key above after; see Engine.AllAfter.
func (s *Store[T]) AllAfter(ctx context.Context, after string) iter.Seq2[Entry[T], error] {
	if after != "" {
		after = s.prefix + after
	}
	return func(yield func(Entry[T], error) bool) {
		for it, err := range s.e.AllAfter(ctx, s.prefix, after) {
			entry := Entry[T]{Item: it}
			if err == nil {
				entry.Key = it.ID[len(s.prefix):]
				err = s.decode(&it, &entry.Value)
			}
			if !yield(entry, err) {
				return
			}
		}
	}
}
