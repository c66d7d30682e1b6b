package crdt

// json.go is a strict JSON reader. encoding/json is too lax for states: it matches field names in
// any case, takes null for a number, the last of two equal keys, and replaces broken UTF-8. All of
// that would change a state in silence.
//
// A cursor goes once over the text and never back. It knows nothing of kinds: these call object,
// array, str, ... in the order they expect, and get an error where something else stands.

import (
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// cursor reads one JSON text. Strings that it returns are part of the text where they can be, and
// the text is a copy of the caller's bytes.
type cursor struct {
	text     string
	at       int
	limits   Limits // with defaults
	bad      error  // ErrInvalidState or ErrInvalidDelta
	elements int    // met so far
	depth    int    // within an unknown field
}

func newCursor(b []byte, limits Limits, bad error) (*cursor, error) {
	if len(b) > limits.Bytes {
		return nil, moreThan(limits.Bytes, "bytes")
	}
	c := &cursor{text: string(b), limits: limits, bad: bad}
	if !utf8.ValidString(c.text) {
		return nil, c.fail("not UTF-8")
	}
	return c, nil
}

func (c *cursor) fail(what string) error { return &fault{base: c.bad, what: what} }

// want says that something else was expected here.
func (c *cursor) want(what string) error {
	found := "no JSON"
	switch b := c.peek(); {
	case c.at == len(c.text):
		found = "the end"
	case b == '{':
		found = "an object"
	case b == '[':
		found = "an array"
	case b == '"':
		found = "a string"
	case b == 't' || b == 'f':
		found = "a boolean"
	case b == 'n':
		found = "null"
	case b == '-' || isDigit(b):
		found = "a number"
	}
	return c.fail("want " + what + ", found " + found)
}

// peek returns the next byte that is no space, 0 at the end.
func (c *cursor) peek() byte {
	for c.at < len(c.text) {
		switch b := c.text[c.at]; b {
		case ' ', '\t', '\n', '\r':
			c.at++
		default:
			return b
		}
	}
	return 0
}

// end checks that nothing follows.
func (c *cursor) end() error {
	if c.peek(); c.at < len(c.text) {
		return c.fail("something after the end")
	}
	return nil
}

// object calls fn for each key, and fn reads the value. It doesn't mind equal keys.
func (c *cursor) object(fn func(i int, key string) error) error {
	if c.peek() != '{' {
		return c.want("an object")
	}
	c.at++
	if c.peek() == '}' {
		c.at++
		return nil
	}
	for i := 0; ; i++ {
		key, err := c.str()
		if err != nil {
			return under(err, index(i))
		}
		if c.peek() != ':' {
			return c.want("a colon")
		}
		c.at++
		if err := fn(i, key); err != nil {
			return err
		}
		switch c.peek() {
		case ',':
			c.at++
		case '}':
			c.at++
			return nil
		default:
			return c.want("a comma or the end of an object")
		}
	}
}

// table is an object whose keys are content: fn is called for each, and reads the value.
func (c *cursor) table(fn func(key string) error) error {
	return c.object(func(i int, key string) error {
		if err := fn(key); err != nil {
			return under(err, index(i))
		}
		return nil
	})
}

// fields is an object with the given fields, of which the first so many are required: fn is called
// with the index of each field that is there, and reads the value. Others are skipped. It returns
// one bit for each field that was there.
func (c *cursor) fields(required int, names []string, fn func(field int) error) (seen uint, err error) {
	err = c.object(func(_ int, key string) error {
		for field, name := range names {
			if key != name {
				continue
			}
			if seen&(1<<field) != 0 {
				return under(c.fail("the field is there twice"), "."+name)
			}
			seen |= 1 << field
			if err := fn(field); err != nil {
				return under(err, "."+name)
			}
			return nil
		}
		if err := c.skip(); err != nil {
			return under(err, ".(unknown field)")
		}
		return nil
	})
	for field := 0; err == nil && field < required; field++ {
		if seen&(1<<field) == 0 {
			err = c.fail("no field " + names[field])
		}
	}
	return seen, err
}

// array calls fn for each element, and fn reads it.
func (c *cursor) array(fn func(i int) error) error {
	if c.peek() != '[' {
		return c.want("an array")
	}
	c.at++
	if c.peek() == ']' {
		c.at++
		return nil
	}
	for i := 0; ; i++ {
		if err := fn(i); err != nil {
			return under(err, index(i))
		}
		switch c.peek() {
		case ',':
			c.at++
		case ']':
			c.at++
			return nil
		default:
			return c.want("a comma or the end of an array")
		}
	}
}

// tuple is an array of exactly n elements.
func (c *cursor) tuple(n int, fn func(i int) error) error {
	if c.peek() != '[' {
		return c.want("an array")
	}
	c.at++
	for i := range n {
		if c.peek() == ']' {
			return c.fail("want " + strconv.Itoa(n) + " elements, found " + strconv.Itoa(i))
		}
		if err := fn(i); err != nil {
			return under(err, index(i))
		}
		if c.peek() == ',' && i < n-1 {
			c.at++
		} else if c.peek() != ']' {
			break
		}
	}
	switch c.peek() {
	case ']':
		c.at++
		return nil
	case ',':
		return c.fail("want " + strconv.Itoa(n) + " elements, found more")
	}
	return c.want("a comma or the end of an array")
}

// str reads a string.
func (c *cursor) str() (string, error) {
	if c.peek() != '"' {
		return "", c.want("a string")
	}
	c.at++
	rest := c.text[c.at:]
	n := 0
	for n < len(rest) && !special(rest[n]) {
		n++
	}
	switch {
	case n > c.limits.StringBytes:
		return "", moreThan(c.limits.StringBytes, "bytes in a string")
	case n == len(rest):
		return "", c.fail("a string without an end")
	case rest[n] == '"':
		c.at += n + 1
		return rest[:n], nil
	}
	c.at += n
	return c.unescape(rest[:n])
}

// special bytes can't stand for themselves within a string.
func special(b byte) bool { return b < ' ' || b == '"' || b == '\\' }

// unescape reads the rest of a string that has escapes.
func (c *cursor) unescape(begin string) (string, error) {
	s := append(make([]byte, 0, len(begin)+32), begin...)
	for c.at < len(c.text) {
		if len(s) > c.limits.StringBytes {
			break
		}
		switch b := c.text[c.at]; {
		case b == '"':
			c.at++
			return string(s), nil
		case b < ' ':
			return "", c.fail("a control character in a string")
		case b != '\\':
			s = append(s, b)
			c.at++
		default:
			r, ok := c.escape()
			if !ok {
				return "", c.fail("a bad escape in a string")
			}
			s = utf8.AppendRune(s, r)
		}
	}
	if len(s) > c.limits.StringBytes {
		return "", moreThan(c.limits.StringBytes, "bytes in a string")
	}
	return "", c.fail("a string without an end")
}

// escape reads one escape, or two if they are the halves of a character. Half a character alone is
// no text, and ok is false.
func (c *cursor) escape() (r rune, ok bool) {
	rest := c.text[c.at:]
	if len(rest) < 2 {
		return 0, false
	}
	c.at += 2
	switch rest[1] {
	case '"', '\\', '/':
		return rune(rest[1]), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	r, ok = hex4(rest)
	if !ok {
		return 0, false
	}
	c.at += 4
	if !utf16.IsSurrogate(r) {
		return r, true
	}
	low, ok := hex4(rest[6:])
	r = utf16.DecodeRune(r, low)
	c.at += 6
	return r, ok && r != utf8.RuneError
}

// hex4 reads \uXXXX from the beginning of s.
func hex4(s string) (r rune, ok bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	for _, b := range []byte(s[2:6]) {
		switch {
		case isDigit(b):
			b -= '0'
		case 'a' <= b && b <= 'f':
			b -= 'a' - 10
		case 'A' <= b && b <= 'F':
			b -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(b)
	}
	return r, true
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// uint64 reads an integer. A fraction, an exponent and a sign are errors, even if they change
// nothing.
func (c *cursor) uint64() (uint64, error) {
	if !isDigit(c.peek()) {
		return 0, c.want("an unsigned integer")
	}
	start := c.at
	var v uint64
	for ; c.at < len(c.text) && isDigit(c.text[c.at]); c.at++ {
		digit := uint64(c.text[c.at] - '0')
		if v > (math.MaxUint64-digit)/10 {
			return 0, c.fail("an integer of more than 64 bits")
		}
		v = v*10 + digit
	}
	if c.text[start] == '0' && c.at > start+1 {
		return 0, c.fail("an integer with a leading zero")
	}
	if c.at < len(c.text) {
		switch c.text[c.at] {
		case '.', 'e', 'E':
			return 0, c.fail("want an integer in plain digits, found another number")
		}
	}
	return v, nil
}

// int64 reads an integer, as uint64 does. The only sign is "-", and -0 is an error.
func (c *cursor) int64() (int64, error) {
	negative := c.peek() == '-'
	if negative {
		if c.at++; c.at == len(c.text) || !isDigit(c.text[c.at]) {
			return 0, c.fail("a sign without a number")
		}
	} else if !isDigit(c.peek()) {
		return 0, c.want("an integer")
	}
	v, err := c.uint64()
	switch {
	case err != nil:
		return 0, err
	case negative && v == 0:
		return 0, c.fail("a negative zero")
	case negative && v > 1<<63, !negative && v > math.MaxInt64:
		return 0, c.fail("an integer of more than 64 bits")
	case negative:
		return -int64(v), nil // right for 1<<63, too
	}
	return int64(v), nil
}

// skip reads any value: that of a field that this version doesn't know.
func (c *cursor) skip() error {
	if c.depth == maxDepth {
		return moreThan(maxDepth, "levels")
	}
	c.depth++
	defer func() { c.depth-- }()
	switch b := c.peek(); {
	case b == '{':
		return c.object(func(int, string) error { return c.skip() })
	case b == '[':
		return c.array(func(int) error { return c.skip() })
	case b == '"':
		_, err := c.str()
		return err
	case b == '-' || isDigit(b):
		return c.number()
	}
	for _, word := range []string{"null", "true", "false"} {
		if len(c.text)-c.at >= len(word) && c.text[c.at:c.at+len(word)] == word {
			c.at += len(word)
			return nil
		}
	}
	return c.want("a value")
}

// number reads any number.
func (c *cursor) number() error {
	digits := func() bool {
		start := c.at
		for c.at < len(c.text) && isDigit(c.text[c.at]) {
			c.at++
		}
		return c.at > start
	}
	next := func(set string) bool {
		for i := 0; i < len(set) && c.at < len(c.text); i++ {
			if c.text[c.at] == set[i] {
				c.at++
				return true
			}
		}
		return false
	}
	next("-")
	ok := next("0") || digits()
	if ok && next(".") {
		ok = digits()
	}
	if ok && next("eE") {
		next("+-")
		ok = digits()
	}
	if !ok {
		return c.fail("a bad number")
	}
	return nil
}

// node reads a node id.
func (c *cursor) node() (string, error) {
	s, err := c.str()
	if err != nil {
		return "", err
	}
	return s, c.checkNode(s)
}

func (c *cursor) checkNode(s string) error {
	if 0 < len(s) && len(s) <= MaxNodeBytes { // it is UTF-8, as the whole text
		return nil
	}
	return c.fail(nodeFault(s))
}

// room guesses how many entries of about so many bytes may follow, for the capacity of a slice.
func (c *cursor) room(bytes int) int { return min((len(c.text)-c.at)/bytes, 256) }

// element counts one more element of the state or delta.
func (c *cursor) element() error {
	if c.elements++; c.elements > c.limits.Elements {
		return moreThan(c.limits.Elements, "elements")
	}
	return nil
}

// strs reads an array of elements, in its order.
func (c *cursor) strs() ([]string, error) {
	list := make([]string, 0, c.room(16))
	err := c.array(func(int) error {
		if err := c.element(); err != nil {
			return err
		}
		s, err := c.str()
		list = append(list, s)
		return err
	})
	return list, err
}
