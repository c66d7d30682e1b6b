package syncengine

// properties_test.go feeds malformed data to everything that decodes: values in Redis,
// payloads of the WAL, ids, items and URLs. Whatever comes in, nothing panics, nothing
// wrong comes out, and no password is shown.

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine/internal/jsonvalid"
	"github.com/syncengine-go/syncengine/internal/rediskit"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// genID draws valid ids, odd ones among them.
func genID() *rapid.Generator[string] {
	odd := rapid.SampledFrom([]string{"a", "A", "a ", "\u00e9", "e\u0301", "{x}", "}{", `\`, `"`, "'", "%", "_", "sync:", "\U0001f600", strings.Repeat("x", MaxIDBytes)})
	plain := rapid.StringN(1, 64, MaxIDBytes).Filter(func(s string) bool { return checkID(s) == nil })
	return rapid.OneOf(odd, plain)
}

// genContent draws JSON texts with white space of their own.
func genContent() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		space := rapid.SampledFrom([]string{"", " ", "\n", "\t\r\n"})
		text := rapid.OneOf(
			rapid.SampledFrom([]string{`0`, `-0`, `1e999`, `null`, `{}`, `[]`, `{"a":1,"a":2}`, `"\ud800"`, `"}"`, `",\"deleted\":true}"`, `{"content":{"rank":"0"}}`}),
			rapid.Map(rapid.String(), func(s string) string { b, _ := json.Marshal(s); return string(b) }), // a string always can be
			rapid.Map(rapid.SliceOf(rapid.Int()), func(v []int) string { b, _ := json.Marshal(v); return string(b) }),
		).Draw(t, "text")
		return []byte(space.Draw(t, "before") + text + space.Draw(t, "after"))
	})
}

// genRecord draws records as the engine makes them.
func genRecord() *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		carried := func(name string, most int) string {
			return rapid.OneOf(rapid.Just(""), rapid.StringN(0, -1, most)).Draw(t, name)
		}
		r := Record{Deleted: rapid.Bool().Draw(t, "deleted"), Item: Item{
			ID: genID().Draw(t, "id"), Version: rapid.Uint64Range(1, MaxVersion).Draw(t, "version"),
			UpdatedAt: time.Unix(0, rapid.Int64Range(-9e18, 9e18).Draw(t, "updated at")).UTC(),
			Priority:  Priority(rapid.IntRange(int(PriorityLow), int(PriorityCritical)).Draw(t, "priority")),
			CRDT:      carried("crdt", 32), TraceParent: carried("trace parent", maxTraceParent),
			TraceState: carried("trace state", maxTraceState), HomeInstanceID: carried("home", maxHomeInstance),
		}}
		if !r.Deleted {
			r.Content = genContent().Draw(t, "content")
			r.ContentHash = hashOf(r.Content)
			if rapid.Bool().Draw(t, "expires") {
				r.ExpiresAt = expiryAt(rapid.Int64Range(1, 250_000_000_000_000).Draw(t, "at")) // to the year 9892
			}
		}
		return r
	})
}

func sameRecord(a, b *Record) bool {
	return a.ExpiresAt.Equal(b.ExpiresAt) && a.ID == b.ID && a.Version == b.Version && a.Deleted == b.Deleted && a.UpdatedAt.Equal(b.UpdatedAt) && bytes.Equal(a.Content, b.Content) &&
		a.ContentHash == b.ContentHash && a.Priority == b.Priority && a.CRDT == b.CRDT && a.TraceParent == b.TraceParent &&
		a.TraceState == b.TraceState && a.HomeInstanceID == b.HomeInstanceID
}

func TestEnvelopeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := genRecord().Draw(t, "record")
		value := encodeEnvelope(&r)
		got, err := decodeEnvelope(r.ID, value)
		if err != nil || !sameRecord(&got, &r) {
			t.Fatalf("%v\n got %+v\nwant %+v\nfrom %q", err, got, r, value)
		}
		// Other tools read the value as JSON, and find the same there; the id is in the key.
		var plain struct {
			Version uint64          `json:"version"`
			Home    string          `json:"home"`
			Deleted bool            `json:"deleted"`
			Content json.RawMessage `json:"content"`
		}
		if err := json.Unmarshal(value, &plain); err != nil || plain.Version != r.Version || plain.Deleted != r.Deleted ||
			plain.Home != r.HomeInstanceID || !bytes.Equal(bytes.TrimSpace(plain.Content), bytes.TrimSpace(r.Content)) {
			t.Fatalf("as JSON: %v, %+v from %q", err, plain, value)
		}
	})
}

// The rank of two values compares bytewise as Record.Compare does their records.
func TestEnvelopeRanksSortLikeRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genRecord().Draw(t, "a"), genRecord().Draw(t, "b")
		if rapid.Bool().Draw(t, "same version") {
			b.Version = a.Version
		}
		ranks := bytes.Compare(encodeEnvelope(&a)[:rankWidth], encodeEnvelope(&b)[:rankWidth])
		if want := a.Compare(&b); ranks != want {
			t.Fatalf("ranks compare %d, records %d:\n%+v\n%+v", ranks, want, a, b)
		}
		if a.Compare(&b) != -b.Compare(&a) || a.Compare(&a) != 0 {
			t.Fatalf("Compare is no order: %+v, %+v", a, b)
		}
	})
}

// soundEnvelope fails unless the answer for id is sound: a record of id whose content
// matches its hash, or a *CorruptionError of id.
func soundEnvelope(t interface {
	Fatalf(string, ...any)
	Helper()
}, id string, value []byte,
) {
	t.Helper()
	r, err := decodeEnvelope(id, value)
	var ce *CorruptionError
	switch {
	case err != nil:
		if !errors.As(err, &ce) || ce.ID != id || ce.Tier != "L2" {
			t.Fatalf("error %v for %q from %q", err, id, value)
		}
	case r.ID != id || r.Version > MaxVersion || !r.Priority.valid():
		t.Fatalf("%+v for %q from %q", r, id, value)
	case r.Deleted && (len(r.Content) != 0 || r.ContentHash != [32]byte{}):
		t.Fatalf("a tombstone with content: %+v from %q", r, value)
	case !r.Deleted && (len(r.Content) == 0 || r.ContentHash != hashOf(r.Content)):
		t.Fatalf("content that does not match its hash: %+v from %q", r, value)
	}
}

// mutate draws changes to bytes: flips, cuts, insertions, repetitions.
func mutate(t *rapid.T, b []byte) []byte {
	b = bytes.Clone(b)
	for range rapid.IntRange(1, 4).Draw(t, "changes") {
		at := rapid.IntRange(0, len(b)).Draw(t, "at")
		to := rapid.IntRange(at, min(len(b), at+40)).Draw(t, "to")
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			if at < len(b) {
				b[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			}
		case 1:
			b = b[:at]
		case 2:
			b = b[at:]
		case 3:
			b = append(bytes.Clone(b[:at]), b[to:]...)
		case 4:
			b = append(append(bytes.Clone(b[:at]), rapid.SliceOfN(rapid.Byte(), 1, 8).Draw(t, "bytes")...), b[at:]...)
		case 5:
			b = append(bytes.Clone(b[:to]), b[at:]...)
		}
	}
	return b
}

// reseal gives a value the sum that it should have, so that what lies behind the sum is
// tested too.
func reseal(id string, value []byte) []byte {
	if len(value) < headWidth {
		return value
	}
	value = bytes.Clone(value)
	sum := sumOf(id, value[len(rankPrefix):rankWidth], value[headWidth:])
	hex.Encode(value[headWidth-rediskit.SumDigits:], sum[:])
	return value
}

func TestMutatedEnvelopesNeverGiveAWrongItem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := genRecord().Draw(t, "record")
		value := encodeEnvelope(&r)
		if !bytes.Equal(reseal(r.ID, value), value) {
			t.Fatalf("the sum of %q is not that of its bytes", value)
		}
		mutated := mutate(t, value)
		soundEnvelope(t, r.ID, mutated)
		if _, err := decodeEnvelope(r.ID, mutated); err == nil && !bytes.Equal(mutated, value) {
			t.Fatalf("%q was read although it was written as %q", mutated, value)
		}
		soundEnvelope(t, r.ID, reseal(r.ID, mutated))
	})
}

func TestTheEnvelopeOfAnotherIDIsCorrupt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, id := genRecord().Draw(t, "record"), genID().Draw(t, "id")
		if _, err := decodeEnvelope(id, encodeEnvelope(&r)); id != r.ID && !errors.Is(err, ErrCorruption) {
			t.Fatalf("%q read as %q: %v", r.ID, id, err)
		}
	})
}

// Content is changed inside an otherwise sound value: the hash tells, or the rank.
func TestChangedContentInAnEnvelopeIsCorrupt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := genRecord().Filter(func(r Record) bool { return !r.Deleted }).Draw(t, "record")
		changed := r
		changed.Content = genContent().Draw(t, "other content")
		if bytes.Equal(changed.Content, r.Content) {
			return
		}
		if _, err := decodeEnvelope(r.ID, encodeEnvelope(&changed)); !errors.Is(err, ErrCorruption) {
			t.Fatalf("%v", err)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	r := Record{Item: Item{ID: `{"x"}`, Version: 7, UpdatedAt: time.Unix(1, 5), Content: []byte(` {"a":1}`), ContentHash: hashOf([]byte(` {"a":1}`)),
		Priority: PriorityHigh, CRDT: "ORSet", TraceParent: "p", TraceState: "s\n", HomeInstanceID: `h"\`}}
	f.Add(r.ID, encodeEnvelope(&r))
	dead := Record{Deleted: true, Item: Item{ID: "a", Version: math.MaxInt64, UpdatedAt: time.Unix(1, 5)}}
	f.Add("a", encodeEnvelope(&dead))
	f.Add("a", []byte(`{"id":"a","version":1,"content":{}}`))
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, id string, value []byte) {
		soundEnvelope(t, id, value)
		soundEnvelope(t, id, reseal(id, value))
	})
}

// genUnits draws units of ops as the WAL gets them.
func genUnits() *rapid.Generator[[][]Record] {
	return rapid.SliceOfN(rapid.SliceOfN(genRecord(), 1, 4), 1, 4)
}

func encodeUnits(units [][]Record) (payload []byte) {
	for _, recs := range units {
		payload = encodeUnit(payload, opsOf(recs), false)
	}
	return payload
}

// opsOf makes ops of records; some were refused before.
func opsOf(recs []Record) []*entry {
	ops := make([]*entry, len(recs))
	for i := range recs {
		ops[i] = newEntry(&recs[i])
		ops[i].attempts = uint8(recs[i].Version % 3)
	}
	return ops
}

func TestUnitsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genUnits().Draw(t, "units")
		payload := encodeUnits(want)
		got, err := decodeUnits(payload)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%v: %d units, want %d", err, len(got), len(want))
		}
		clear(payload) // what came out has memory of its own
		for i := range want {
			if len(got[i]) != len(want[i]) {
				t.Fatalf("unit %d: %d ops, want %d", i, len(got[i]), len(want[i]))
			}
			for j := range want[i] {
				if r := got[i][j].record(); !sameRecord(&r, &want[i][j]) || got[i][j].attempts != uint8(r.Version%3) {
					t.Fatalf("unit %d, op %d:\n got %+v\nwant %+v", i, j, r, want[i][j])
				}
			}
		}
	})
}

func TestUnitSizeIsAnUpperBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, recs := range genUnits().Draw(t, "units") {
			ops := opsOf(recs)
			if n := len(encodeUnit(nil, ops, true)); n > unitSize(ops) {
				t.Fatalf("%d bytes, unitSize said %d", n, unitSize(ops))
			}
		}
	})
}

// soundUnits fails unless decodeUnits gives an error or ops that the engine may use.
func soundUnits(t interface {
	Fatalf(string, ...any)
	Helper()
}, payload []byte,
) {
	t.Helper()
	units, err := decodeUnits(payload)
	if err != nil {
		if !errors.Is(walError(err), ErrWALCorrupt) {
			t.Fatalf("%v is not ErrWALCorrupt", err)
		}
		return
	}
	bytes := 0
	for _, ops := range units {
		if len(ops) == 0 {
			t.Fatalf("an empty unit from %x", payload)
		}
		for _, e := range ops {
			r := e.record()
			bytes += len(r.ID) + len(e.content())
			switch {
			case len(r.ID) == 0 || len(r.ID) > MaxIDBytes || r.Version > MaxVersion || !r.Priority.valid():
				t.Fatalf("%+v from %x", r, payload)
			case !r.Deleted && r.ContentHash != hashOf(r.Content) && e.state.Load()&stateDamaged == 0:
				t.Fatalf("content that does not match its hash: %+v from %x", r, payload)
			}
			_ = e.size()
		}
	}
	if bytes > len(payload) {
		t.Fatalf("%d bytes out of a payload of %d", bytes, len(payload))
	}
}

func TestAnyBytesAreUnitsOrAnError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { soundUnits(t, rapid.SliceOf(rapid.Byte()).Draw(t, "payload")) })
}

func TestMutatedUnitsAreUnitsOrAnError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { soundUnits(t, mutate(t, encodeUnits(genUnits().Draw(t, "units")))) })
}

// Every payload cut short is an error, unless the cut is between two units: never a part
// of a group (INV-5).
func TestAPayloadCutShortIsNeverAPartOfAGroup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		units := genUnits().Draw(t, "units")
		payload := encodeUnits(units)
		ends := map[int]int{0: 0} // length of a prefix of whole units -> how many
		for i := range units {
			ends[len(encodeUnits(units[:i+1]))] = i + 1
		}
		for n := range len(payload) {
			got, err := decodeUnits(payload[:n])
			whole, ok := ends[n]
			if ok != (err == nil) || ok && len(got) != whole {
				t.Fatalf("the first %d of %d bytes: %d units, %v", n, len(payload), len(got), err)
			}
		}
	})
}

func FuzzUnits(f *testing.F) {
	r := Record{Item: Item{ID: "a", Version: 7, UpdatedAt: time.Unix(1, 5), Content: []byte(`{"a":1}`), Priority: PriorityLow, TraceState: "s"}}
	dead := Record{Deleted: true, Item: Item{ID: "b", Version: 8, UpdatedAt: time.Unix(1, 5)}}
	f.Add(encodeUnits([][]Record{{r}}))
	f.Add(encodeUnits([][]Record{{r, dead}, {dead}}))
	f.Add([]byte{1, 0, 0, 1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, payload []byte) { soundUnits(t, payload) })
}

// validID is the rule of Item.ID, written in another way.
func validID(id string) bool {
	if id == "" || len(id) > MaxIDBytes || !utf8.ValidString(id) {
		return false
	}
	return !strings.ContainsFunc(id, unicode.IsControl)
}

func checkIDRule(t interface {
	Fatalf(string, ...any)
	Helper()
}, id string,
) {
	t.Helper()
	err := checkID(id)
	if (err == nil) != validID(id) {
		t.Fatalf("checkID(%q) = %v", id, err)
	}
	var ie *InvalidItemError
	if err != nil && (!errors.As(err, &ie) || ie.Field != "ID" || ie.Rule == "" || !errors.Is(err, ErrInvalidItem) || !utf8.ValidString(err.Error())) {
		t.Fatalf("checkID(%q): error %q", id, err)
	}
}

func TestIDsAreCheckedByTheRule(t *testing.T) {
	ids := rapid.OneOf(rapid.String(), rapid.StringN(0, 600, 600), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(t *rapid.T) { checkIDRule(t, ids.Draw(t, "id")) })
	for r := rune(0); r < 0x3000; r++ {
		checkIDRule(t, string(r))
		checkIDRule(t, "a"+string(r)+"b")
	}
	for n := MaxIDBytes - 2; n < MaxIDBytes+3; n++ {
		checkIDRule(t, strings.Repeat("x", n))
		checkIDRule(t, strings.Repeat("\u00e9", n/2)+strings.Repeat("x", n%2))
	}
}

func FuzzID(f *testing.F) {
	for _, id := range []string{"", "a", "\x00", "\u0085", "\xff", "\u00e9", "e\u0301", "\U0001f600", strings.Repeat("x", 513)} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		checkIDRule(t, id)
		it := Item{ID: id, Content: []byte(`1`)}
		if err := checkItem(&it, 1); (err == nil) != validID(id) {
			t.Fatalf("checkItem: %v", err)
		}
		if validID(id) { // every valid id survives L2 and the WAL
			r := Record{Item: Item{ID: id, Version: 1, UpdatedAt: time.Unix(1, 0), Content: it.Content, ContentHash: hashOf(it.Content)}}
			if got, err := decodeEnvelope(id, encodeEnvelope(&r)); err != nil || got.ID != id {
				t.Fatalf("L2: %v", err)
			}
			if units, err := decodeUnits(encodeUnits([][]Record{{r}})); err != nil || units[0][0].id() != id {
				t.Fatalf("WAL: %v", err)
			}
		}
	})
}

// Content passes iff it is one JSON text in UTF-8 of the right size; what is refused is
// never quoted.
func TestItemsAreCheckedByTheRule(t *testing.T) {
	content := rapid.OneOf(genContent(), rapid.SliceOf(rapid.Byte()), rapid.Custom(func(t *rapid.T) []byte {
		return mutate(t, genContent().Draw(t, "content"))
	}))
	rapid.Check(t, func(t *rapid.T) {
		it := Item{ID: "id", Content: content.Draw(t, "content")}
		most := rapid.Int64Range(1, 60).Draw(t, "most")
		before := string(it.Content)
		err := checkItem(&it, most)
		want := len(it.Content) > 0 && int64(len(it.Content)) <= most && json.Valid(it.Content) && utf8.Valid(it.Content)
		if (err == nil) != want || string(it.Content) != before {
			t.Fatalf("checkItem(%q, %d) = %v", before, most, err)
		}
		var ie *InvalidItemError
		if err != nil && (!errors.As(err, &ie) || ie.Field != "Content") {
			t.Fatalf("%v", err)
		}
		secret := "s3cr3t-c0nt3nt"
		it.Content = []byte(`{"` + secret + `": ` + secret + `}`)
		if err := checkItem(&it, 1000); err == nil || strings.Contains(err.Error(), secret) {
			t.Fatalf("%v", err)
		}
	})
}

func TestJSONNestingIsCheckedToTheLevel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		depth := rapid.IntRange(1, 600).Draw(t, "depth")
		limit := depth + rapid.IntRange(-1, 1).Draw(t, "off")
		var open, end strings.Builder
		for range depth {
			if rapid.Bool().Draw(t, "array") {
				open.WriteString("[")
				end.WriteString("]")
			} else {
				open.WriteString(`{"a":`)
				end.WriteString("}")
			}
		}
		closing := []byte(end.String())
		for i, j := 0, len(closing)-1; i < j; i, j = i+1, j-1 {
			closing[i], closing[j] = closing[j], closing[i]
		}
		if err := jsonvalid.Check([]byte(open.String()+"1"+string(closing)), limit); (err == nil) != (depth <= limit) {
			t.Fatalf("depth %d, limit %d: %v", depth, limit, err)
		}
	})
}

// genValue draws what a caller may marshal, nested.
func genValue(depth int) *rapid.Generator[any] {
	leaf := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }), rapid.Map(rapid.Int64(), func(n int64) any { return n }),
		rapid.Map(rapid.Float64(), func(f float64) any { return f }), rapid.Map(rapid.Bool(), func(b bool) any { return b }), rapid.Just(any(nil)),
	)
	if depth == 0 {
		return leaf
	}
	inner := rapid.Deferred(func() *rapid.Generator[any] { return genValue(depth - 1) })
	return rapid.OneOf(leaf,
		rapid.Map(rapid.SliceOfN(inner, 0, 4), func(v []any) any { return v }),
		rapid.Map(rapid.MapOfN(rapid.String(), inner, 0, 4), func(m map[string]any) any { return m }))
}

// What NewItem makes is what checkItem takes, and survives L2 and the WAL.
func TestNewItemMakesValidItems(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id, v := genID().Draw(t, "id"), genValue(5).Draw(t, "value")
		it, err := NewItem(id, v)
		want, marshalErr := json.Marshal(v)
		if (err == nil) != (marshalErr == nil) {
			t.Fatalf("%v, json.Marshal: %v", err, marshalErr)
		}
		if err != nil {
			if !errors.Is(err, ErrInvalidItem) {
				t.Fatalf("%v", err)
			}
			return
		}
		if it.ID != id || !bytes.Equal(it.Content, want) {
			t.Fatalf("%+v, want %s", it, want)
		}
		if err := checkItem(&it, 1<<20); err != nil {
			t.Fatalf("%v", err)
		}
		r := Record{Item: it}
		r.Version, r.UpdatedAt, r.ContentHash = 1, time.Unix(1, 0).UTC(), hashOf(it.Content)
		if got, err := decodeEnvelope(id, encodeEnvelope(&r)); err != nil || !sameRecord(&got, &r) {
			t.Fatalf("L2: %v, %+v", err, got)
		}
	})
}

const urlSecret = "s3cr3tb1rd"

// genSecretURL draws URLs, right and wrong, with a password where a password belongs:
// between the user and the last @. Every part of it is the word.
func genSecretURL() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		scheme := rapid.SampledFrom([]string{"mysql://", "mysql:", "redis://", "rediss://", "sqlite://", "http://", "MYSQL://", "", "://", "//", " "}).Draw(t, "scheme")
		var pass strings.Builder
		for range rapid.IntRange(1, 4).Draw(t, "parts") {
			pass.WriteString(urlSecret + rapid.SampledFrom([]string{"", "@", ":", "/", "?", "#", "%", "%41", "%4", "&", "=", "+", ",", "[", "]", "\\", "'", "\"", " ", "\x00", "\xff", "\u00e9"}).Draw(t, "sep"))
		}
		p := pass.String()
		if rapid.Bool().Draw(t, "encoded") {
			p = url.QueryEscape(p)
		}
		host := rapid.OneOf(rapid.SampledFrom([]string{"h", "h:3306", "h:99999", "h:x", "", "[::1]", "[::1", "h1,h2", "tcp(h:1)", "a b", "%zz"}),
			rapid.StringMatching(`[a-z:.,\[\]()]{0,12}`)).Draw(t, "host")
		rest := rapid.OneOf(rapid.SampledFrom([]string{"", "/", "/db", "/0", "/db?tls=true", "/0?db=1", "?x=1", "/db#f", "/d/b", "/db?tls=%zz", "?cluster=true"}),
			rapid.StringMatching(`[a-z/?#=&%0-9]{0,16}`)).Draw(t, "rest")
		user := rapid.SampledFrom([]string{"", "bird", "bi%41rd", "bi%zz"}).Draw(t, "user")
		return scheme + user + ":" + p + "@" + host + rest
	})
}

func TestINV13URLsAreReadWithoutShowingThePassword(t *testing.T) {
	silent := func(t *rapid.T, what, text, raw string) {
		t.Helper()
		if strings.Contains(text, urlSecret) {
			t.Fatalf("%s of %q shows the password: %s", what, raw, text)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		raw := genSecretURL().Draw(t, "url")
		isSQLite := strings.HasPrefix(raw, "sqlite:") // has no password
		if !isSQLite {
			silent(t, "sqlkit.Redact", sqlkit.Redact(raw), raw)
		}
		silent(t, "rediskit.Redact", rediskit.Redact(raw), raw)
		if src, err := sqlkit.Parse(raw); err != nil {
			silent(t, "sqlkit.Parse", err.Error(), raw)
		} else if !isSQLite {
			silent(t, "a source", fmt.Sprintf("%v %+v", src, src), raw)
		}
		if c, err := rediskit.Open(raw); err != nil {
			silent(t, "rediskit.Open", err.Error(), raw)
		} else {
			silent(t, "a client", fmt.Sprintf("%v %+v", c, c), raw)
			_ = c.Close() // was never connected
		}
	})
}

// Any text at all: no panic.
func TestAnyTextIsAURLOrAnError(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`(mysql|redis|rediss|sqlite)(://|:|)[ -~]{0,40}`),
		rapid.Custom(func(t *rapid.T) string { return string(mutate(t, []byte(genSecretURL().Draw(t, "url")))) }))
	rapid.Check(t, func(t *rapid.T) {
		raw := text.Draw(t, "text")
		_, _ = sqlkit.Redact(raw), rediskit.Redact(raw)
		if _, err := sqlkit.Parse(raw); err != nil && err.Error() == "" {
			t.Fatal("an error without words")
		}
		if c, err := rediskit.Open(raw); err == nil {
			_ = c.Close() // was never connected
		}
	})
}

// A password survives the way through a URL, percent-encoded or, for SQL, raw.
func TestAnyPasswordWorksInAURL(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pass := rapid.StringMatching(`[!-~]{1,20}`).Draw(t, "password")
		u := url.URL{Scheme: "mysql", User: url.UserPassword("bird", pass), Host: "h:1", Path: "/db"}
		if _, err := sqlkit.Parse(u.String()); err != nil {
			t.Fatalf("%q: %v", u.String(), err)
		}
		if _, err := sqlkit.Parse("mysql://bird:" + pass + "@h:1/db"); err != nil {
			t.Fatalf("raw %q: %v", pass, err)
		}
		u = url.URL{Scheme: "redis", User: url.UserPassword("bird", pass), Host: "h:1"}
		c, err := rediskit.Open(u.String())
		if err != nil {
			t.Fatalf("%q: %v", u.String(), err)
		}
		_ = c.Close() // was never connected
	})
}
