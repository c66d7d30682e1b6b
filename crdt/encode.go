package crdt

// encode.go writes canonical JSON: no spaces, no escape that isn't needed, the shortest one where
// it is, integers in plain digits. Each kind writes its fields in alphabetical order.

import "strconv"

const hexDigits = "0123456789abcdef"

// appendString appends a quoted string. s is UTF-8.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		ch := s[i]
		if !special(ch) {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch ch {
		case '"', '\\':
			b = append(b, '\\', ch)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[ch>>4], hexDigits[ch&15])
		}
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// appendList appends an array or an object: open, what each appends, close.
func appendList[T any](b []byte, brackets string, list []T, each func([]byte, T) []byte) []byte {
	b = append(b, brackets[0])
	for i, x := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = each(b, x)
	}
	return append(b, brackets[1])
}

func appendStrings(b []byte, list []string) []byte {
	return appendList(b, "[]", list, appendString)
}

func appendUint(b []byte, v uint64) []byte { return strconv.AppendUint(b, v, 10) }
