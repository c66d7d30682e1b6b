package main

// line.go has the lines of export and import: how an item becomes one, and how one is read.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/syncengine-go/syncengine"
)

// line is an item as export writes it. Content is kept byte for byte, as text, when it is written
// otherwise than JSON encoders do: with spaces, say.
type line struct {
	ID          string              `json:"id"`
	Version     version             `json:"version"`
	UpdatedAt   time.Time           `json:"updated_at"`
	ExpiresAt   time.Time           `json:"expires_at,omitzero"`
	Content     json.RawMessage     `json:"content,omitempty"`
	Text        string              `json:"content_text,omitempty"` // instead of Content
	Priority    syncengine.Priority `json:"priority,omitempty"`
	CRDT        string              `json:"crdt,omitempty"`
	TraceParent string              `json:"trace_parent,omitempty"`
	TraceState  string              `json:"trace_state,omitempty"`
	Home        string              `json:"home_instance_id,omitempty"`
}

// version is text in JSON: many readers round such numbers.
type version uint64

func (v version) MarshalJSON() ([]byte, error) {
	return []byte(`"` + strconv.FormatUint(uint64(v), 10) + `"`), nil
}

func (v *version) UnmarshalJSON(b []byte) error {
	if string(b) == "null" { // as encoding/json has it
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return errors.New(`a version is text, as in "version":"5"`)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	*v = version(n)
	return err
}

func lineOf(it *syncengine.Item) line {
	l := line{ID: it.ID, Version: version(it.Version), UpdatedAt: it.UpdatedAt, ExpiresAt: it.ExpiresAt, Priority: it.Priority, CRDT: it.CRDT,
		TraceParent: it.TraceParent, TraceState: it.TraceState, Home: it.HomeInstanceID}
	var compact bytes.Buffer
	// The encoder of a line compacts a json.RawMessage, and turns U+2028 into an escape.
	if json.Compact(&compact, it.Content) == nil && bytes.Equal(compact.Bytes(), it.Content) && !bytes.Contains(it.Content, []byte("\u2028")) && !bytes.Contains(it.Content, []byte("\u2029")) {
		l.Content = it.Content
	} else {
		l.Text = string(it.Content)
	}
	return l
}

func (l *line) item() syncengine.Item {
	it := syncengine.Item{ID: l.ID, UpdatedAt: l.UpdatedAt, ExpiresAt: l.ExpiresAt, Content: l.Content, Priority: l.Priority, CRDT: l.CRDT,
		TraceParent: l.TraceParent, TraceState: l.TraceState, HomeInstanceID: l.Home}
	if l.Text != "" {
		it.Content = json.RawMessage(l.Text)
	}
	return it
}

// read reads a line, which is one value and has no other members. What a decoder would turn into
// U+FFFD is refused: an id would be another one.
func (l *line) read(text []byte) error {
	if !utf8.Valid(text) {
		return errors.New("it is not UTF-8")
	}
	rest, content := cutContent(text)
	dec := json.NewDecoder(bytes.NewReader(rest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(l); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows the value")
	}
	if loneSurrogate(rest) {
		return errors.New(`an escape like \ud800 is half of a character`)
	}
	if err := checkNames(rest); err != nil {
		return err
	}
	if content == nil {
		return nil
	}
	return json.Unmarshal(content, &l.Content) // copies it
}

// checkNames refuses members of a valid line that say two things of one, of which the decoder would
// take the last: it knows names in letters of any case, too.
func checkNames(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	_, _ = dec.Token() // the brace, or null
	seen := make(map[string]bool)
	for dec.More() {
		token, _ := dec.Token()
		name, _ := token.(string)
		if name = strings.ToLower(name); seen[name] {
			return fmt.Errorf("%q is there twice", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
	}
	if seen["content"] && seen["content_text"] {
		return errors.New("it has both content and content_text")
	}
	return nil
}

// cutContent returns a line with null for its content, and the content, nil if there is none. The
// decoder of a line takes what is as deep as the engine takes it only when it stands alone. Of a
// text that is not JSON the decoder says so, of one part or the other.
func cutContent(text []byte) (rest, content []byte) {
	from, depth := 0, 0 // of what is not in rest yet
	for i := 0; i < len(text); {
		switch text[i] {
		case '"':
			end := stringEnd(text, i)
			value, isName := behindColon(text, end)
			if depth != 1 || !isName || string(text[i:end]) != `"content"` {
				i = end
				continue
			}
			if content != nil { // named twice: the decoder knows which counts
				return text, nil
			}
			i = valueEnd(text, value)
			content = text[value:i:i]
			rest, from = append(append(rest, text[from:value]...), "null"...), i
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		i++
	}
	return append(rest, text[from:]...), content
}

// behindColon returns where the value begins whose name ends at i, if it is a name.
func behindColon(text []byte, i int) (value int, isName bool) {
	const space = " \t\r\n"
	left := bytes.TrimLeft(text[i:], space)
	if len(left) == 0 || left[0] != ':' {
		return 0, false
	}
	return len(text) - len(bytes.TrimLeft(left[1:], space)), true
}

// stringEnd returns the place behind the string that begins at i, with a quote.
func stringEnd(text []byte, i int) int {
	for i++; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return len(text)
}

// valueEnd returns the place behind the value that begins at i.
func valueEnd(text []byte, i int) int {
	for depth := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i = stringEnd(text, i) - 1
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
			continue
		default: // of a number or a word
			continue
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(text)
}

// loneSurrogate reports whether an escape in valid JSON is half of a pair.
func loneSurrogate(text []byte) bool {
	for {
		i := bytes.IndexByte(text, '\\')
		if i < 0 {
			return false
		}
		size := 2
		if r := escaped(text[i:]); utf16.IsSurrogate(r) {
			if utf16.DecodeRune(r, escaped(text[i+6:])) == unicode.ReplacementChar {
				return true
			}
			size = 12
		}
		text = text[i+size:]
	}
}

// escaped is what an escape like \u00e9 at the beginning stands for, -1 if there is none.
func escaped(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}
