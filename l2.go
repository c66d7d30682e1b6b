package syncengine

// l2.go is L2 on Redis: one string per id under the key prefix, readable by other tools.
//
// The value is a JSON object whose fields stand in a fixed order:
//
//	{"rank":"<version, 16 hex>.<0|1 deleted>.<content hash, 64 hex>","sum":"<16 hex>",
//	 "version":…,"updated_at":…,[carried fields,]["expires_at":…,]"content":<the very bytes>}
//
// or, for a tombstone, "deleted":true instead of content, kept for TombstoneRetention. The
// rank has a fixed width and sorts as Record.Compare does, so a script compares it bytewise
// before it writes (INV-3). Content is the last field and is embedded byte for byte, white
// space around it included (INV-11).
//
// The sum lets Redis itself tell a sound value from a damaged one (l2digest.go): it has no
// SHA-256. It is the first 64 bits of SHA-1(id | 0x00 | rank | rest), rest being all that follows
// the sum. So it covers every byte that is not literal, and a value copied to another id, which is
// in its key alone, is damaged too, even where the ranks of both are equal.
//
// A reader accepts exactly this form, checks version, content hash and sum, and takes anything
// else for a corrupt copy.
//
// No goroutines. Redis commands and errors live in internal/rediskit.

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine/internal/rediskit"
)

const (
	rankPrefix = `{"rank":"`
	rankDigits = 16 + 1 + 1 + 1 + 64
	rankWidth  = len(rankPrefix) + rankDigits
	headWidth  = rankWidth + len(rediskit.SumMark) + rediskit.SumDigits // of a value, up to its rest
	scanPage   = 1000
)

// redisStore is a CacheStore.
type redisStore struct {
	c      *rediskit.Client
	prefix string
	keep   time.Duration    // of tombstones
	owned  bool             // Close closes the client
	clock  func() time.Time // the clock of L3
}

func newRedisStore(c redis.UniversalClient, prefix string, tombstones time.Duration, owned bool) *redisStore {
	return &redisStore{c: rediskit.New(c, rankPrefix, rankWidth), prefix: prefix, keep: tombstones, owned: owned, clock: time.Now}
}

// Follow sets the clock by which items expire.
func (s *redisStore) Follow(clock func() time.Time) { s.clock = clock }

// lifetime is what Redis keeps a record for, 0 for ever. One that has expired is written, so that
// nothing below it stays, and is gone at once.
func (s *redisStore) lifetime(r *Record) time.Duration {
	switch {
	case r.Deleted && !r.ExpiresAt.IsZero():
		return min(s.keep, keepExpired)
	case r.Deleted:
		return s.keep
	case r.ExpiresAt.IsZero():
		return 0
	}
	return max(r.ExpiresAt.Sub(s.clock()), time.Millisecond)
}

// keepExpired is for how long Redis remembers the tombstone of an item that has expired, against
// copies of older versions that are on their way. Such a tombstone has ExpiresAt set.
const keepExpired = time.Minute

func (s *redisStore) Get(ctx context.Context, id string) (Record, error) {
	b, err := s.c.Get(ctx, s.prefix+id)
	switch {
	case errors.Is(err, rediskit.ErrAbsent):
		return Record{}, ErrNotFound
	case errors.Is(err, rediskit.ErrWrongType):
		return Record{}, unreadable(id)
	case err != nil:
		return Record{}, l2Error(err)
	}
	return decodeEnvelope(id, b)
}

func (s *redisStore) GetMany(ctx context.Context, ids []string) ([]Found, error) {
	vals, errs, err := s.c.GetMany(ctx, s.keys(ids))
	if err != nil {
		return nil, l2Error(err)
	}
	out := make([]Found, len(ids))
	for i, b := range vals {
		switch {
		case errs[i] != nil:
			out[i].Err = unreadable(ids[i])
		case b != nil:
			out[i].Record, out[i].Err = decodeEnvelope(ids[i], b)
			out[i].OK = out[i].Err == nil
		}
	}
	return out, nil
}

func (s *redisStore) Put(ctx context.Context, recs []Record) error {
	vals := make([]rediskit.Value, len(recs))
	for i := range recs {
		r := &recs[i]
		vals[i] = rediskit.Value{Key: s.prefix + r.ID, Bytes: encodeEnvelope(r), TTL: s.lifetime(r)}
	}
	_, err := s.c.Put(ctx, vals)
	return l2Error(err)
}

func (s *redisStore) Rights(ctx context.Context) (needed, wanted string, err error) {
	needed, wanted, err = s.c.Rights(ctx, s.prefix, s.channel())
	if rediskit.NotLetIn(err) {
		return "", "", &SetupError{Server: "redis", Problem: "the user or the password is wrong, or missing",
			Mend: "give RedisURL, or the client, those that the server knows: redis://user:password@host", Err: err}
	}
	return needed, wanted, l2Error(err)
}

// Claim and Beat: see l2owner.go. No id has a byte 0.
func (s *redisStore) Claim(ctx context.Context, owner string) (held string, err error) {
	held, err = s.c.Claim(ctx, s.prefix+ownerName, owner)
	return held, l2Error(err)
}

const ownerName = "\x00owner"

func (s *redisStore) Claimed(ctx context.Context) (bool, error) {
	_, err := s.c.Get(ctx, s.prefix+ownerName)
	if errors.Is(err, rediskit.ErrAbsent) {
		return false, nil
	}
	return err == nil, l2Error(err)
}

func (s *redisStore) Inner(ctx context.Context, timeout time.Duration, foreign func(owner string) bool, last string) (inner string, err error) {
	found := errors.New("found")
	look := func(keys []string) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		vals, _, err := s.c.GetMany(ctx, keys)
		for i, v := range vals {
			if len(v) > 0 && foreign(string(v)) {
				inner = strings.TrimSuffix(keys[i], ownerName)
				return found
			}
		}
		return err
	}
	if last != "" { // it costs less to see that this one is still there
		err = look([]string{last + ownerName})
	}
	if err == nil {
		err = s.c.ScanNames(ctx, s.prefix, ownerName, timeout, look)
	}
	if err == found {
		return inner, nil
	}
	return "", l2Error(err)
}

func (s *redisStore) Outer(ctx context.Context) (owners []string) {
	if !s.c.IsDefault() { // one that has been given keys of its own is not to try others
		return nil
	}
	keys := make([]string, len(s.prefix))
	for i := range keys {
		keys[i] = s.prefix[:i] + ownerName
	}
	vals, _, _ := s.c.GetMany(ctx, keys)
	for _, v := range vals {
		if len(v) > 0 {
			owners = append(owners, string(v))
		}
	}
	return owners
}

func (s *redisStore) Beat(ctx context.Context) (int64, error) {
	n, err := s.c.Count(ctx, s.prefix+"\x00beat")
	return n, l2Error(err)
}

// Masters asks for INFO, which an account may not have the right to; then nothing is known.
func (s *redisStore) Masters(ctx context.Context) ([]string, error) {
	servers, err := s.c.Info(ctx, "replication")
	if rediskit.Forbidden(err) {
		return nil, nil
	}
	var ids []string
	for _, server := range servers {
		if server.ReplicationID != "" {
			ids = append(ids, server.ReplicationID)
		}
	}
	return ids, l2Error(err)
}

func (s *redisStore) Remove(ctx context.Context, ids []string) error {
	return l2Error(s.c.Delete(ctx, s.keys(ids)))
}

func (s *redisStore) Scan(ctx context.Context, fn func(ids []string) error) error {
	var inner error
	err := s.c.Scan(ctx, s.prefix, scanPage, func(keys []string) error {
		ids := make([]string, 0, len(keys))
		for _, k := range keys {
			if id := k[len(s.prefix):]; checkID(id) == nil { // others are not ours
				ids = append(ids, id)
			}
		}
		inner = fn(ids)
		return inner
	})
	if inner != nil {
		return inner
	}
	return l2Error(err)
}

func (s *redisStore) Ping(ctx context.Context) error { return l2Error(s.c.Ping(ctx)) }

func (s *redisStore) Close() error {
	if !s.owned {
		return nil
	}
	return s.c.Close()
}

func (s *redisStore) keys(ids []string) []string {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = s.prefix + id
	}
	return keys
}

// l2Error puts a Redis error into the engine's words.
func l2Error(err error) error {
	if err == nil || rediskit.Classify(err) == rediskit.CallerGone {
		return err
	}
	return fmt.Errorf("redis: %w: %w", ErrUnavailable, err)
}

func unreadable(id string) error {
	return &CorruptionError{ID: id, Tier: "L2", Expected: "a value of this engine", Actual: "unreadable"}
}

// encodeEnvelope returns the value of a record.
func encodeEnvelope(r *Record) []byte {
	// The rest is written first, behind room for what is summed up before it, and then for
	// the head of the value: one buffer, one pass over it.
	room := max(headWidth, len(r.ID)+1+rankDigits)
	b := make([]byte, room, room+len(r.ID)+len(r.Content)+len(r.TraceParent)+len(r.TraceState)+192)
	b = appendRest(b, r)
	text := b[room-len(r.ID)-1-rankDigits:]
	appendRank(append(append(text[:0], r.ID...), 0), r)
	sum := sha1.Sum(text)

	value := b[room-headWidth:]
	head := append(value[:0], rankPrefix...)
	head = appendRank(head, r)
	head = append(head, rediskit.SumMark...)
	hex.AppendEncode(head, sum[:rediskit.SumDigits/2])
	return value
}

// appendRest appends what follows the sum.
func appendRest(b []byte, r *Record) []byte {
	b = append(b, `","version":`...)
	b = strconv.AppendUint(b, r.Version, 10)
	b = append(b, `,"updated_at":"`...)
	b = r.UpdatedAt.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	if r.Priority != PriorityNormal {
		b = append(b, `,"priority":`...)
		b = strconv.AppendInt(b, int64(r.Priority), 10)
	}
	for _, f := range [...]struct{ name, value string }{
		{`,"crdt":`, r.CRDT}, {`,"traceparent":`, r.TraceParent}, {`,"tracestate":`, r.TraceState}, {`,"home":`, r.HomeInstanceID},
	} {
		if f.value != "" {
			b = append(b, f.name...)
			b = appendJSONString(b, f.value)
		}
	}
	if r.Deleted {
		return append(b, `,"deleted":true}`...)
	}
	if ms := millis(r.ExpiresAt); ms != 0 {
		b = append(b, `,"expires_at":"`...)
		b = expiryAt(ms).AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	b = append(b, `,"content":`...)
	b = append(b, r.Content...)
	return append(b, '}')
}

// decodeEnvelope reads a value back. Whatever b holds, the result is a record of id whose
// content matches its hash, or a *CorruptionError. The record shares b.
func decodeEnvelope(id string, b []byte) (Record, error) {
	var stack [MaxIDBytes + 32]byte
	r := Record{Item: Item{ID: id}}
	d := envelope{b: b, ok: true}
	d.literal(rankPrefix)
	rank := d.take(rankDigits)
	d.literal(rediskit.SumMark)
	sum := d.take(rediskit.SumDigits)
	rest := d.b
	d.literal(`","version":`)
	r.Version = d.digits()
	d.literal(`,"updated_at":"`)
	at, err := time.Parse(time.RFC3339Nano, string(d.until('"')))
	d.ok = d.ok && err == nil
	r.UpdatedAt = at.UTC()
	if d.has(`,"priority":`) {
		neg := d.has("-")
		n := d.digits()
		d.ok = d.ok && n <= uint64(PriorityCritical)
		if r.Priority = Priority(n); neg {
			r.Priority = -r.Priority
		}
		d.ok = d.ok && r.Priority.valid()
	}
	for _, f := range [...]struct {
		name string
		to   *string
	}{{`,"crdt":`, &r.CRDT}, {`,"traceparent":`, &r.TraceParent}, {`,"tracestate":`, &r.TraceState}, {`,"home":`, &r.HomeInstanceID}} {
		if d.has(f.name) {
			*f.to = d.text()
		}
	}
	if d.has(`,"deleted":true}`) {
		r.Deleted = true
		d.ok = d.ok && len(d.b) == 0
	} else {
		if d.has(`,"expires_at":"`) {
			at, err := time.Parse(time.RFC3339Nano, string(d.until('"')))
			d.ok = d.ok && err == nil
			r.ExpiresAt = expiryAt(millis(at))
		}
		d.literal(`,"content":`)
		if n := len(d.b) - 1; n > 0 && d.b[n] == '}' {
			r.Content = d.b[:n:n]
		} else {
			d.ok = false
		}
	}
	if !d.ok || r.Version > math.MaxInt64 {
		return Record{}, unreadable(id)
	}
	if !r.Deleted {
		r.ContentHash = hashOf(r.Content)
	}
	if want := appendRank(stack[:0], &r); !bytes.Equal(want, rank) {
		return Record{}, &CorruptionError{ID: id, Tier: "L2", Expected: string(rank[len(rank)-64:]), Actual: hex.EncodeToString(r.ContentHash[:])}
	}
	if got := sumOf(id, rank, rest); !bytes.Equal(hex.AppendEncode(stack[:0], got[:]), sum) {
		return Record{}, &CorruptionError{ID: id, Tier: "L2", Expected: string(sum), Actual: hex.EncodeToString(got[:])}
	}
	return r, nil
}

// sumOf returns the sum of a value.
func sumOf(id string, rank, rest []byte) (sum [rediskit.SumDigits / 2]byte) {
	var text [MaxIDBytes + 1 + rankDigits]byte
	h := sha1.New()
	h.Write(append(append(append(text[:0], id...), 0), rank...))
	h.Write(rest)
	var whole [sha1.Size]byte
	copy(sum[:], h.Sum(whole[:0]))
	return sum
}

// appendRank appends the part of the rank between the quotes.
func appendRank(b []byte, r *Record) []byte {
	b = appendHex64(b, r.Version)
	if r.Deleted {
		b = append(b, ".1."...)
	} else {
		b = append(b, ".0."...)
	}
	return hex.AppendEncode(b, r.ContentHash[:])
}

func appendHex64(b []byte, v uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[v>>shift&15])
	}
	return b
}

// appendJSONString appends valid UTF-8 as a JSON string in the one form that decodeEnvelope
// expects.
func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', '0'+c>>4, "0123456789abcdef"[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// envelope reads from the front of b; ok turns false at the first thing out of form.
type envelope struct {
	b  []byte
	ok bool
}

func (d *envelope) has(lit string) bool {
	if len(d.b) < len(lit) || string(d.b[:len(lit)]) != lit {
		return false
	}
	d.b = d.b[len(lit):]
	return true
}

func (d *envelope) literal(lit string) {
	if !d.has(lit) {
		d.ok, d.b = false, nil
	}
}

func (d *envelope) take(n int) []byte {
	if n > len(d.b) {
		d.ok, d.b = false, nil
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *envelope) until(c byte) []byte {
	n := bytes.IndexByte(d.b, c)
	if n < 0 {
		d.ok, d.b = false, nil
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n+1:]
	return p
}

func (d *envelope) digits() (v uint64) {
	n := 0
	for n < len(d.b) && d.b[n] >= '0' && d.b[n] <= '9' && n < 20 {
		n++
	}
	v, err := strconv.ParseUint(string(d.take(n)), 10, 64)
	d.ok = d.ok && err == nil
	return v
}

// text reads a string that appendJSONString wrote.
func (d *envelope) text() string {
	d.literal(`"`)
	var out []byte
	for {
		n := bytes.IndexAny(d.b, `"\`)
		if n < 0 {
			d.ok, d.b = false, nil
			return ""
		}
		out = append(out, d.b[:n]...)
		c := d.b[n]
		d.b = d.b[n+1:]
		if c == '"' {
			return string(out)
		}
		switch esc := d.take(1); {
		case !d.ok:
			return ""
		case esc[0] == '"' || esc[0] == '\\':
			out = append(out, esc[0])
		case esc[0] == 'u':
			v, err := strconv.ParseUint(string(d.take(4)), 16, 8)
			d.ok = d.ok && err == nil
			out = append(out, byte(v))
		default:
			d.ok = false
		}
	}
}
