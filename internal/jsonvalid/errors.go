package jsonvalid

import "strconv"

// SyntaxError says where a text stops being JSON, and never what stands there: contents must not
// reach a log by way of an error (INV-13).
type SyntaxError struct {
	Offset int64  // index of the first byte that can't be accepted; the length of the text if it ends too early
	Reason string // one of a fixed set of phrases; never holds bytes of the text
}

func (e *SyntaxError) Error() string {
	return "invalid JSON at byte " + strconv.FormatInt(e.Offset, 10) + ": " + e.Reason
}

// reason is what the scanner returns instead of a phrase: one register instead of two. The zero
// value means "valid".
type reason uint8

const (
	valid reason = iota
	unexpectedEnd
	unexpectedCharacter
	trailingCharacter
	controlCharacter
	invalidEscape
	invalidUTF8
	invalidNumber
	tooDeep
)

var phrases = [...]string{
	valid:               "",
	unexpectedEnd:       "unexpected end",
	unexpectedCharacter: "unexpected character",
	trailingCharacter:   "unexpected character after the value",
	controlCharacter:    "control character in a string",
	invalidEscape:       "invalid escape in a string",
	invalidUTF8:         "invalid UTF-8",
	invalidNumber:       "invalid number",
	tooDeep:             "nested too deeply",
}
