// Package jsonvalid tells whether bytes are one JSON text, fast enough to ask it of every document
// that is written.
//
// The judge is RFC 8259, read to the letter: white space is space, tab, LF and CR; the text is
// UTF-8 throughout and a byte order mark is not white space; numbers have no limit of size or
// precision (1e999 is JSON); names may repeat; an escape like \ud800 without its other half is
// JSON, because the grammar allows it. With a maxDepth of 10000, Check says the same as
// encoding/json.Valid together with utf8.Valid, which is how it is tested.
//
// It exists because encoding/json.Valid calls a function for every byte. Check looks at the inside
// of strings eight bytes at a time, and allocates nothing up to a depth of 512. It doesn't recurse,
// so that the depth of a hostile text costs one bit a level and not a stack frame.
//
// It owns no state, keeps no reference to the bytes, and starts no goroutine.
package jsonvalid

// Check returns nil if b is exactly one JSON text, white space around it allowed, whose arrays and
// objects are nested at most maxDepth deep: a number has depth 0, [] has depth 1. Otherwise it
// returns a *SyntaxError about the first byte in the way. It doesn't keep b, and is safe for
// concurrent use as long as nobody writes to b.
func Check(b []byte, maxDepth int) error {
	offset, why := scan(b, maxDepth)
	if why == valid {
		return nil
	}
	return &SyntaxError{Offset: int64(offset), Reason: phrases[why]}
}

// scan returns where it stopped and why. Each turn of its loop begins where a value must begin.
func scan(b []byte, maxDepth int) (int, reason) {
	var open nesting
	var why reason
	i := 0
	for {
		i = skipSpace(b, i)
		if i == len(b) {
			return i, unexpectedEnd
		}
		switch c := b[i]; c {
		case '"':
			i, why = scanString(b, i+1)
		case '{', '[':
			if open.depth >= maxDepth {
				return i, tooDeep
			}
			i = skipSpace(b, i+1)
			if i < len(b) && b[i] == c+2 { // '}' is '{'+2, ']' is '['+2
				i++
				break
			}
			open.push(c)
			if c == '{' {
				if i, why = scanName(b, i); why != valid {
					return i, why
				}
			}
			continue
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			i, why = scanNumber(b, i)
		default:
			i, why = scanLiteral(b, i)
		}
		if why != valid {
			return i, why
		}

		var more bool
		if i, more, why = scanAfterValue(b, i, &open); !more {
			return i, why
		}
	}
}

// scanAfterValue goes from the end of a value to the start of the next: over the brackets that
// close here and the comma, in an object also over the name and its colon. more is false at the end
// of the text and on an error.
func scanAfterValue(b []byte, i int, open *nesting) (_ int, more bool, _ reason) {
	for {
		i = skipSpace(b, i)
		if i == len(b) {
			if open.depth == 0 {
				return i, false, valid
			}
			return i, false, unexpectedEnd
		}
		switch c := b[i]; {
		case open.depth == 0:
			return i, false, trailingCharacter
		case c == ',' && open.inObject():
			var why reason
			i, why = scanName(b, i+1)
			return i, why == valid, why
		case c == ',':
			return i + 1, true, valid
		case c == open.closer():
			open.pop()
			i++
		default:
			return i, false, unexpectedCharacter
		}
	}
}

// scanName goes over a member's name and the colon, white space before each included.
func scanName(b []byte, i int) (int, reason) {
	i = skipSpace(b, i)
	if i == len(b) {
		return i, unexpectedEnd
	}
	if b[i] != '"' {
		return i, unexpectedCharacter
	}
	i, why := scanString(b, i+1)
	if why != valid {
		return i, why
	}
	i = skipSpace(b, i)
	if i == len(b) {
		return i, unexpectedEnd
	}
	if b[i] != ':' {
		return i, unexpectedCharacter
	}
	return i + 1, valid
}

// skipSpace is short enough to be inlined, and usually there is nothing to skip.
func skipSpace(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && isSpace[b[i]] {
		i++
	}
	return i
}

var isSpace = [' ' + 1]bool{' ': true, '\t': true, '\n': true, '\r': true}
