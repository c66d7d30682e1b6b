// Package storetest holds stores for tests, and tests for stores.
//
// NewCache and NewArchive are in-memory twins of Redis and SQL: correct, conditional and
// safe for concurrent use, for tests that are not about servers. RunCache and RunArchive
// hold any store against the doc comments of its interface, sentence by sentence, and
// RunSharedCache and RunSharedArchive several on the same records; every
// store of the library runs them, the twins included. IDs and Contents are the odd but
// valid ones that every tier must keep apart and keep byte for byte.
//
// No goroutines but those of a running test.
package storetest

import (
	"context"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

// IDs are valid ids that something between caller and disk may take for another one.
func IDs() []string {
	return []string{
		"a", "A", "a ", " a", "a  ", "\u00e9", "e\u0301", "e", "\u00df", "ss", "SS", "\U0001f600", "\U0001f601",
		"a\u200d", "a\u200db", "ab", "a\u200f", "a\u200fb", "\ufeffa", "\u00a0", "\u2028", "\ufffd",
		"'; DROP TABLE sync_items; --", `\`, `\\`, `a\`, `"`, `'`, "`", `\u0061`, "%", "%%", "_", "%a%", "__", "?", "*", "[a]", "$1", ":1",
		"{x}", "}{", "{}", "{x}y", "{", "}", "a:b", "a:b:c", ":", ".a", "a.", "a..b", "a.b", "a.b.c", ".", "..", "../a", "a/b", "/",
		strings.Repeat(".", 300), "0", "00", "1", "1.0", "1e0", "-1", "NULL", "null", "true", "NaN",
		"sync:", "sync:a", "l2_missed", "wal", "merkle:root", "merkle:0", "sync_items", "sync_schema", "segment:hash", "rank",
		strings.Repeat("x", syncengine.MaxIDBytes), strings.Repeat("x", syncengine.MaxIDBytes-1) + "y", strings.Repeat("x", syncengine.MaxIDBytes-1),
		strings.Repeat("\U0001f600", syncengine.MaxIDBytes/4), strings.Repeat("\u00e9", syncengine.MaxIDBytes/2),
	}
}

// Contents are JSON texts that a tier which parses, prints, trims or guesses would change.
func Contents() []string {
	return []string{
		`0`, `""`, `null`, `true`, `[]`, `{}`, `{"a":1}`, `{"a":1,"a":2}`, `{"b":1,"a":2}`, `{"a":{"b":1,"b":1}}`,
		`9007199254740993`, `18446744073709551616`, `1e999`, `-1e-999`, `-0`, `-0.0`, `1.0`, `1.50`, `1E5`, `1e+5`, `123456789012345678901234567890.123456789`,
		`"\ud800"`, `"\udc00"`, `"\ud83d\ude00"`, `"\uD83D\uDE00"`, "\"\U0001f600\"", `"\u0000"`, `"\u00e9"`, "\"\u00e9\"", "\"e\u0301\"", `"\/"`, `"/"`,
		"\"\x7f\"", "\"\u2028\"", "\"\ufeff\"", "\"\ufffd\"", `"<>&"`, `"\u003c"`, `"'; DROP TABLE sync_items; --"`, `"\\"`, `"%s %d \\x00 ?"`,
		" 1", "1 ", "\n1\n", "\t\r\n {\n\t\"a\" :\r\n 1 } \t\r\n", "[ ]", "{ }", "  \"x\"  ",
		`"(µ/ý"`, `"(\u00b5\/\u00fd"`, "\"(\u00b5/\u00fd\"", // the zstd magic 28 b5 2f fd as characters
		strings.Repeat("[", 500) + strings.Repeat("]", 500), strings.Repeat(`{"a":`, 500) + "1" + strings.Repeat("}", 500),
		`{"content":{"deleted":true}}`, `{"rank":"0"}`, `"}"`, `",\"deleted\":true}"`, `"` + strings.Repeat("x", 70_000) + `"`,
	}
}

// Put makes the record of a put.
func Put(id string, version uint64, content string) syncengine.Record {
	return syncengine.Record{Item: syncengine.Item{
		ID: id, Version: version, UpdatedAt: time.Unix(1_700_000_000, int64(version%1e9)).UTC(),
		Content: []byte(content), ContentHash: sha256.Sum256([]byte(content)),
	}}
}

// Tombstone makes the record of a delete.
func Tombstone(id string, version uint64) syncengine.Record {
	return syncengine.Record{Deleted: true, Item: syncengine.Item{
		ID: id, Version: version, UpdatedAt: time.Unix(1_700_000_000, int64(version%1e9)).UTC(),
	}}
}

// Diff names the first field in which what a store gave back differs from what it was
// given; "" when none does.
func Diff(got, want *syncengine.Record) string {
	switch {
	case got.ID != want.ID:
		return "ID"
	case got.Version != want.Version:
		return "Version"
	case got.Deleted != want.Deleted:
		return "Deleted"
	case string(got.Content) != string(want.Content):
		return "Content"
	case got.ContentHash != want.ContentHash:
		return "ContentHash"
	case !got.UpdatedAt.Equal(want.UpdatedAt) || got.UpdatedAt.Location() != time.UTC:
		return "UpdatedAt"
	case !got.ExpiresAt.Equal(want.ExpiresAt) || got.ExpiresAt.Location() != time.UTC:
		return "ExpiresAt"
	case got.Priority != want.Priority:
		return "Priority"
	case got.CRDT != want.CRDT:
		return "CRDT"
	case got.TraceParent != want.TraceParent:
		return "TraceParent"
	case got.TraceState != want.TraceState:
		return "TraceState"
	case got.HomeInstanceID != want.HomeInstanceID:
		return "HomeInstanceID"
	}
	return ""
}

// deadline bounds one test of a store: one that hangs fails instead of stopping the run.
const deadline = 30 * time.Second

func newContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// short makes long texts fit for a message.
func short(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
