package jsonvalid

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special marks, by the high bit of its byte, the first of eight bytes that needs a look inside a
// string: a control character, a quote, a backslash, or anything that isn't ASCII. A subtraction
// carries into the next byte only where it made a mark, so marks above the lowest may be false, and
// the lowest is true. Bytes beyond ASCII need no term of their own: their high bit is set already,
// and no byte loses it in both control and quote.
func special(x uint64) uint64 {
	control := x - ' '*ones
	quote := (x ^ '"'*ones) - ones
	backslash := (x ^ '\\'*ones) - ones
	return (control | quote | backslash) & highs
}

// scanString goes from behind the opening quote to behind the closing one.
func scanString(b []byte, i int) (int, reason) {
	for {
		if i+8 <= len(b) {
			mark := special(binary.LittleEndian.Uint64(b[i:]))
			if mark == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(mark) >> 3
		}
		if i >= len(b) {
			return len(b), unexpectedEnd
		}
		var why reason
		switch c := b[i]; {
		case c == '"':
			return i + 1, valid
		case c == '\\':
			i, why = scanEscape(b, i)
		case c < ' ':
			return i, controlCharacter
		case c >= utf8.RuneSelf:
			i, why = scanRunes(b, i)
		default:
			i++ // one of the last seven bytes of the text
		}
		if why != valid {
			return i, why
		}
	}
}

// scanRunes goes over characters beyond ASCII: where one is, the next is likely to be one too. Two
// bytes hold most of the alphabets, and going over them here is twice as fast as DecodeRune
// (BenchmarkCheck/cyrillic).
func scanRunes(b []byte, i int) (int, reason) {
	for i < len(b) && b[i] >= utf8.RuneSelf {
		if i+1 < len(b) && b[i]-0xc2 <= 0xdf-0xc2 && b[i+1]-0x80 <= 0xbf-0x80 {
			i += 2
			continue
		}
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i, invalidUTF8
		}
		i += size
	}
	return i, valid
}

// scanEscape starts at the backslash.
func scanEscape(b []byte, i int) (int, reason) {
	if i+1 == len(b) {
		return i + 1, unexpectedEnd
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, valid
	case 'u':
	default:
		return i + 1, invalidEscape
	}
	for end := i + 6; ; i++ {
		switch at := i + 2; {
		case at == end:
			return at, valid
		case at == len(b):
			return at, unexpectedEnd
		case !isHex[b[at]]:
			return at, invalidEscape
		}
	}
}

var isHex = func() (t [256]bool) {
	for _, c := range "0123456789abcdefABCDEF" {
		t[c] = true
	}
	return t
}()

// scanNumber starts at the sign or the first digit: -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]?
// [0-9]+)?
func scanNumber(b []byte, i int) (int, reason) {
	var why reason
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++ // a digit after it is refused as what it is: a character where a value has ended
	} else if i, why = scanDigits(b, i); why != valid {
		return i, why
	}
	if i < len(b) && b[i] == '.' {
		if i, why = scanDigits(b, i+1); why != valid {
			return i, why
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return scanDigits(b, i)
	}
	return i, valid
}

// scanDigits wants at least one.
func scanDigits(b []byte, i int) (int, reason) {
	start := i
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	switch {
	case i > start:
		return i, valid
	case i == len(b):
		return i, unexpectedEnd
	default:
		return i, invalidNumber
	}
}

// scanLiteral starts where a value must start and no other kind of value does.
func scanLiteral(b []byte, i int) (int, reason) {
	var word string
	switch b[i] {
	case 't':
		word = "true"
	case 'f':
		word = "false"
	case 'n':
		word = "null"
	default:
		return i, unexpectedCharacter
	}
	if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
		return i + len(word), valid
	}
	for k := range len(word) { // find the byte to blame
		if i+k == len(b) {
			return i + k, unexpectedEnd
		}
		if b[i+k] != word[k] {
			return i + k, unexpectedCharacter
		}
	}
	return i + len(word), valid
}
