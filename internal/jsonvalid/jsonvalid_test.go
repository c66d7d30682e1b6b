package jsonvalid

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// stdDepth is the depth encoding/json stops at, so that both can be asked the same question.
const stdDepth = 10000

func stdValid(b []byte) bool { return json.Valid(b) && utf8.Valid(b) }

func nest(open, inside, closing string, depth int) string {
	return strings.Repeat(open, depth) + inside + strings.Repeat(closing, depth)
}

var accepted = []string{
	// scalars
	`null`, `true`, `false`, `0`, `-0`, `7`, `10`, `-12`, `1234567890123456789012345678901234567890`,
	`0.5`, `-0.0`, `1.50`, `1e9`, `1E9`, `1e+9`, `1e-9`, `0e0`, `0E+00`, `1.5e007`, `1e999`, `-1e-99999`,
	`""`, `"a"`, `"1234567"`, `"12345678"`, `"123456789"`, `"` + strings.Repeat("x", 1000) + `"`,
	// escapes
	`"\""`, `"\\"`, `"\/"`, `"\b\f\n\r\t"`, `"\u0000"`, `"\uAbCd"`, `"\\u12"`, `"1234567\""`, `"12345678\n12345678"`,
	`"\ud800"`, `"\udc00"`, `"\ud800\ud800"`, `"\ud83d\ude00"`, `"\ud800x"`, `"\\\\\\"`, `"\u007f"`,
	// characters beyond ASCII, at both ends of each length
	"\"\x7f\"", `"é"`, `"日本語"`, `"😀"`, `"привет, мир"`, `"a😀b日cédef"`,
	"\"\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff\"", "\"\ufeff\"", "\"\u2028\u2029\"", "\"\ufffd\"", `{"é":1}`,
	// containers
	`[]`, `{}`, `[[]]`, `[{}]`, `{"a":{}}`, `{"a":[]}`, `[1,2]`, `[1,[2,[3]],{"a":[4,{"b":5}]},6]`,
	`{"a":1,"b":[true,false,null],"c":"x"}`, `{"":0}`, `{"a":1,"a":2}`, `{"a\u0062":1}`, `[[],[],{},{}]`, `[{"a":1},{"b":2}]`,
	// white space
	` 1`, "1 ", "\t\r\n 1 \t\r\n", "[ ]", "{ }", "[ 1 , 2 ]", "{ \"a\" : 1 , \"b\" : 2 }", "[\n]", "\n{\r\"a\"\t:\n[ ] }\n",
	// depth
	nest("[", "", "]", 63), nest("[", "", "]", 64), nest("[", "", "]", 65), nest("[", "1", "]", 128), nest("[", "1,2", "]", 129),
	nest(`{"a":`, "0", "}", 64), nest(`{"a":`, "0", "}", 65), nest(`[{"a":`, "0", "}]", 400), nest("[", "", "]", 512),
	nest("[", "", "]", 513), nest(`[[{"a":`, "[]", `},{"b":0}],1]`, 3000), nest("[", "", "]", stdDepth),
}

var refused = []struct {
	text   string
	offset int64
	reason reason
}{
	// no value, or more than one
	{"", 0, unexpectedEnd}, {" ", 1, unexpectedEnd}, {"\n\t", 2, unexpectedEnd}, {"1 2", 2, trailingCharacter}, {"{}[]", 2, trailingCharacter},
	{`""""`, 2, trailingCharacter}, {"1,", 1, trailingCharacter}, {"[]]", 2, trailingCharacter}, {"{}}", 2, trailingCharacter},
	{"1\x00", 1, trailingCharacter}, {"[]\x0b", 2, trailingCharacter}, {"null null", 5, trailingCharacter}, {"truex", 4, trailingCharacter},
	{"[]//", 2, trailingCharacter}, {"\"a\"\xff", 3, trailingCharacter},
	// not a value
	{"]", 0, unexpectedCharacter}, {"}", 0, unexpectedCharacter}, {",", 0, unexpectedCharacter}, {":", 0, unexpectedCharacter},
	{"a", 0, unexpectedCharacter}, {"'a'", 0, unexpectedCharacter}, {"\x00", 0, unexpectedCharacter}, {"\x0c1", 0, unexpectedCharacter},
	{"\ufeff{}", 0, unexpectedCharacter}, {"\u00a01", 0, unexpectedCharacter}, {"\x80", 0, unexpectedCharacter}, {"/**/1", 0, unexpectedCharacter},
	{"NaN", 0, unexpectedCharacter}, {"Infinity", 0, unexpectedCharacter}, {"True", 0, unexpectedCharacter}, {"undefined", 0, unexpectedCharacter},
	// literals
	{"t", 1, unexpectedEnd}, {"tru", 3, unexpectedEnd}, {"fals", 4, unexpectedEnd}, {"nul", 3, unexpectedEnd}, {"trUe", 2, unexpectedCharacter},
	{"nulL", 3, unexpectedCharacter}, {"nan", 1, unexpectedCharacter}, {"[tru]", 4, unexpectedCharacter}, {"[fa\x00se]", 3, unexpectedCharacter},
	// numbers
	{"-", 1, unexpectedEnd}, {"+1", 0, unexpectedCharacter}, {".5", 0, unexpectedCharacter}, {"1.", 2, unexpectedEnd}, {"01", 1, trailingCharacter},
	{"-01", 2, trailingCharacter}, {"00", 1, trailingCharacter}, {"[01]", 2, unexpectedCharacter}, {"--1", 1, invalidNumber}, {"-a", 1, invalidNumber},
	{"-.5", 1, invalidNumber}, {"1.e5", 2, invalidNumber}, {"1..2", 2, invalidNumber}, {"1.2.3", 3, trailingCharacter}, {"1e", 2, unexpectedEnd},
	{"1e+", 3, unexpectedEnd}, {"1ee", 2, invalidNumber}, {"1e5.5", 3, trailingCharacter}, {"1e+-5", 3, invalidNumber}, {"0x10", 1, trailingCharacter},
	{"[1.]", 3, invalidNumber}, {"[-]", 2, invalidNumber}, {"1_000", 1, trailingCharacter}, {"- 1", 1, invalidNumber}, {"[1\xff]", 2, unexpectedCharacter},
	// strings
	{`"`, 1, unexpectedEnd}, {`"a`, 2, unexpectedEnd}, {`"12345678`, 9, unexpectedEnd}, {`"123456789abcdef`, 16, unexpectedEnd},
	{"\"\n\"", 1, controlCharacter}, {"\"\x00\"", 1, controlCharacter}, {"\"\x1f\"", 1, controlCharacter}, {"\"1234567\t\"", 8, controlCharacter},
	{"\"12345678\x01 0123456789\"", 9, controlCharacter}, {"{\"a\nb\":1}", 3, controlCharacter},
	{`"\`, 2, unexpectedEnd}, {`"\"`, 3, unexpectedEnd}, {`"\a"`, 2, invalidEscape}, {`"\x41"`, 2, invalidEscape}, {`"\'"`, 2, invalidEscape},
	{`"\0"`, 2, invalidEscape}, {`"\U0041"`, 2, invalidEscape}, {"\"\\\n\"", 2, invalidEscape}, {"\"\\\xc3\xa9\"", 2, invalidEscape},
	{`"\u`, 3, unexpectedEnd}, {`"\u12`, 5, unexpectedEnd}, {`"\u123`, 6, unexpectedEnd}, {`"\u1234`, 7, unexpectedEnd}, {`"\u"`, 3, invalidEscape},
	{`"\u123"`, 6, invalidEscape}, {`"\u12G4"`, 5, invalidEscape}, {`"\u-123"`, 3, invalidEscape}, {"\"\\u00\xc3\xa9\"", 5, invalidEscape},
	// UTF-8: stray, cut short, longer than needed, surrogates, beyond the last character
	{"\"\x80\"", 1, invalidUTF8}, {"\"\xbf\"", 1, invalidUTF8}, {"\"\xff\"", 1, invalidUTF8}, {"\"\xfe\"", 1, invalidUTF8}, {"\"\xc3\"", 1, invalidUTF8},
	{"\"\xe2\x82\"", 1, invalidUTF8}, {"\"\xf0\x9f\x98\"", 1, invalidUTF8}, {"\"\xc3", 1, invalidUTF8}, {"\"\xc0\x80\"", 1, invalidUTF8},
	{"\"\xc1\xbf\"", 1, invalidUTF8}, {"\"\xe0\x9f\xbf\"", 1, invalidUTF8}, {"\"\xf0\x8f\xbf\xbf\"", 1, invalidUTF8}, {"\"\xed\xa0\x80\"", 1, invalidUTF8},
	{"\"\xed\xbf\xbf\"", 1, invalidUTF8}, {"\"\xf4\x90\x80\x80\"", 1, invalidUTF8}, {"\"\xf5\x80\x80\x80\"", 1, invalidUTF8},
	{"\"\xc3\xc0\"", 1, invalidUTF8}, {"\"\xc3\x7f\"", 1, invalidUTF8}, {"\"\xdf\xff\"", 1, invalidUTF8}, {"\"\xc3\xa9\xe9\xa9\"", 3, invalidUTF8},
	{"\"abc\xc3\xa9\xc3def\"", 6, invalidUTF8}, {"\"12345678\xe9t\xe9 12345678\"", 9, invalidUTF8}, {"{\"\xff\":1}", 2, invalidUTF8},
	// arrays
	{"[", 1, unexpectedEnd}, {"[1", 2, unexpectedEnd}, {"[1,", 3, unexpectedEnd}, {"[1,]", 3, unexpectedCharacter}, {"[,1]", 1, unexpectedCharacter},
	{"[1 2]", 3, unexpectedCharacter}, {"[1,,2]", 3, unexpectedCharacter}, {"[1}", 2, unexpectedCharacter}, {"[}", 1, unexpectedCharacter},
	{"[1:2]", 2, unexpectedCharacter}, {`["a":1]`, 4, unexpectedCharacter}, {"[[]", 3, unexpectedEnd}, {"[\x0c]", 1, unexpectedCharacter},
	{"[\u00a0]", 1, unexpectedCharacter}, {"[[],", 4, unexpectedEnd}, {"[{]}", 2, unexpectedCharacter},
	// objects
	{"{", 1, unexpectedEnd}, {"{ ", 2, unexpectedEnd}, {`{"a"`, 4, unexpectedEnd}, {`{"a" `, 5, unexpectedEnd}, {`{"a":`, 5, unexpectedEnd},
	{`{"a":1`, 6, unexpectedEnd}, {`{"a":1,`, 7, unexpectedEnd}, {`{"a":1,}`, 7, unexpectedCharacter}, {`{,"a":1}`, 1, unexpectedCharacter},
	{`{a:1}`, 1, unexpectedCharacter}, {`{'a':1}`, 1, unexpectedCharacter}, {`{1:1}`, 1, unexpectedCharacter}, {`{"a"}`, 4, unexpectedCharacter},
	{`{"a",1}`, 4, unexpectedCharacter}, {`{"a"=1}`, 4, unexpectedCharacter}, {`{"a"::1}`, 5, unexpectedCharacter}, {`{"a":}`, 5, unexpectedCharacter},
	{`{"a":1]`, 6, unexpectedCharacter}, {`{]`, 1, unexpectedCharacter}, {`{"a":1 "b":2}`, 7, unexpectedCharacter}, {`{"a":1,,"b":2}`, 7, unexpectedCharacter},
	{`{[]:1}`, 1, unexpectedCharacter}, {`{null:1}`, 1, unexpectedCharacter}, {`{"a":1;}`, 6, unexpectedCharacter}, {`{"a" "b"}`, 5, unexpectedCharacter},
	// depth, and the right bracket at every word border of the bit stack
	{nest("[", "", "]", stdDepth+1), stdDepth, tooDeep}, {strings.Repeat("[", 100000), stdDepth, tooDeep},
	{strings.Repeat(`{"":`, 100000), 4 * stdDepth, tooDeep}, {strings.Repeat("[", 600), 600, unexpectedEnd},
	{nest("[", "}", "]", 64), 64, unexpectedCharacter}, {`{"a":` + nest("[", "", "]", 63) + "]", 5 + 126, unexpectedCharacter},
	{`{"a":` + nest("[", "", "]", 64) + "]", 5 + 128, unexpectedCharacter}, {`{"a":` + nest("[", "", "]", 512) + "]", 5 + 1024, unexpectedCharacter},
	{`[` + nest(`{"":`, "1", "}", 700) + "}", 1 + 5*700 + 1, unexpectedCharacter},
}

func TestCheckAcceptsJSON(t *testing.T) {
	for _, text := range accepted {
		if err := Check([]byte(text), stdDepth); err != nil {
			t.Errorf("%.80q: %v", text, err)
		}
		if !stdValid([]byte(text)) {
			t.Errorf("%.80q: the table is wrong, encoding/json refuses it", text)
		}
	}
}

func TestCheckRefusesTheRestAndSaysWhere(t *testing.T) {
	for _, test := range refused {
		err := Check([]byte(test.text), stdDepth)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%.80q is accepted", test.text)
			continue
		}
		if syntax.Offset != test.offset || syntax.Reason != phrases[test.reason] {
			t.Errorf("%.80q: %v, want %q at %d", test.text, err, phrases[test.reason], test.offset)
		}
		if stdValid([]byte(test.text)) {
			t.Errorf("%.80q: the table is wrong, encoding/json accepts it", test.text)
		}
	}
}

// TestEveryByteEverywhereInAString puts each byte at each place of a string, so that each goes
// through each lane of the eight-byte scan and through the tail.
func TestEveryByteEverywhereInAString(t *testing.T) {
	for length := range 20 {
		for at := range length {
			text := []byte(`"` + strings.Repeat("~", length) + `"`)
			for c := range 256 {
				text[1+at] = byte(c)
				if got, want := Check(text, 0) == nil, stdValid(text); got != want {
					t.Fatalf("%q: accepted is %v, want %v", text, got, want)
				}
			}
		}
	}
}

// TestCheckDoesNotLookBehindTheEnd cuts texts short where the rest still stands in memory.
func TestCheckDoesNotLookBehindTheEnd(t *testing.T) {
	for _, text := range accepted {
		for end := range min(len(text), 200) {
			got, want := Check([]byte(text)[:end], stdDepth), Check([]byte(text[:end]), stdDepth)
			if (got == nil) != (want == nil) || got != nil && *got.(*SyntaxError) != *want.(*SyntaxError) {
				t.Fatalf("%.40q cut at %d: %v with the rest behind it, %v without", text, end, got, want)
			}
		}
	}
}

// TestEveryPairInASpecialWord looks for marks that a carry moves to a byte before the first special
// one.
func TestEveryPairInASpecialWord(t *testing.T) {
	isSpecial := func(c int) bool { return c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf }
	for a := range 256 {
		for b := range 256 {
			x := uint64(a) | uint64(b)<<8 | 0x7e7e7e7e7e7e<<16
			low := special(x) & -special(x)
			var want uint64
			switch {
			case isSpecial(a):
				want = 0x80
			case isSpecial(b):
				want = 0x8000
			}
			if low != want {
				t.Fatalf("bytes %#x %#x: lowest mark %#x, want %#x", a, b, low, want)
			}
		}
	}
}

func TestDepthIsCountedInArraysAndObjects(t *testing.T) {
	for _, test := range []struct {
		text  string
		depth int
	}{
		{`1`, 0}, {`"[[[["`, 0}, {`[]`, 1}, {`{}`, 1}, {`[1,2,[],[],3]`, 2}, {`{"a":[{}],"b":[]}`, 3}, {nest("[", "", "]", 700), 700},
		{`[` + strings.Repeat("[[]],", 50) + `0]`, 3},
	} {
		if err := Check([]byte(test.text), test.depth); err != nil {
			t.Errorf("%.40q at depth %d: %v", test.text, test.depth, err)
		}
		err := Check([]byte(test.text), test.depth-1)
		if test.depth > 0 && (err == nil || err.(*SyntaxError).Reason != phrases[tooDeep]) {
			t.Errorf("%.40q at depth %d: %v", test.text, test.depth-1, err)
		}
	}
	if err := Check([]byte(`1`), -1); err != nil {
		t.Errorf("a number has no depth: %v", err)
	}
}

func TestErrorHoldsNoContent(t *testing.T) {
	for _, text := range []string{`{"password":hunter2}`, `"hunter2`, "\"hunter2\n\"", `"\hunter2"`, `hunter2`, `1hunter2`, `nhunter2`} {
		err := Check([]byte(text), 10)
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "password") {
			t.Errorf("%q: %v", text, err)
		}
		var known bool
		for _, phrase := range phrases {
			known = known || err.(*SyntaxError).Reason == phrase
		}
		if !known {
			t.Errorf("%q: reason %q is none of the fixed ones", text, err)
		}
	}
	if got := (&SyntaxError{Offset: 12, Reason: "unexpected end"}).Error(); got != "invalid JSON at byte 12: unexpected end" {
		t.Error(got)
	}
}

func TestNothingIsAllocatedForValidJSON(t *testing.T) {
	for _, text := range [][]byte{document, []byte(nest("[", "", "]", 512))} {
		if n := testing.AllocsPerRun(100, func() {
			if err := Check(text, 1000); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations for %.40q", n, text)
		}
	}
}

// agree is what every random text is put to.
func agree(t interface {
	Helper()
	Fatalf(string, ...any)
}, text []byte) {
	t.Helper()
	before := bytes.Clone(text)
	err := Check(text, stdDepth)
	if want := stdValid(text); (err == nil) != want {
		t.Fatalf("%q: %v, but encoding/json says valid: %v", text, err, want)
	}
	if !bytes.Equal(before, text) {
		t.Fatalf("%q was written to", before)
	}
	if err == nil {
		return
	}
	syntax := err.(*SyntaxError)
	if syntax.Offset < 0 || syntax.Offset > int64(len(text)) {
		t.Fatalf("%q: offset %d", text, syntax.Offset)
	}
	if syntax.Reason == phrases[unexpectedEnd] != (syntax.Offset == int64(len(text))) {
		t.Fatalf("%q: %v, the length is %d", text, err, len(text))
	}
}

// jsonText draws valid JSON with white space and escapes in every place the grammar allows.
func jsonText(depth int) *rapid.Generator[string] {
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n", "\t\r ", "  \n  "})
	str := rapid.Custom(func(t *rapid.T) string {
		part := rapid.OneOf(
			rapid.SampledFrom([]string{`\"`, `\\`, `\/`, `\n`, `\u0000`, `\ud800`, `\uDBFF\uDFFF`, "é", "日", "😀", "\x7f", "\u2028", "{", "]", ","}),
			rapid.StringMatching(`[ !#-\[\]-~]{0,20}`),
		)
		return `"` + strings.Join(rapid.SliceOfN(part, 0, 6).Draw(t, "parts"), "") + `"`
	})
	scalar := rapid.OneOf(
		rapid.SampledFrom([]string{"null", "true", "false", "0", "-0", "1e999", "-0.0E-0", `""`}),
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,4})?`),
		str,
	)
	return rapid.Custom(func(t *rapid.T) string {
		pad := func(s string) string { return space.Draw(t, "before") + s + space.Draw(t, "after") }
		kind := rapid.IntRange(0, 3).Draw(t, "kind")
		if depth == 0 || kind > 1 {
			return pad(scalar.Draw(t, "scalar"))
		}
		var members []string
		for range rapid.IntRange(0, 4).Draw(t, "members") {
			member := jsonText(depth-1).Draw(t, "member")
			if kind == 0 {
				member = pad(str.Draw(t, "name")) + ":" + member
			}
			members = append(members, member)
		}
		if kind == 0 {
			return pad("{" + pad(strings.Join(members, ",")) + "}")
		}
		return pad("[" + pad(strings.Join(members, ",")) + "]")
	})
}

// jsonByte draws the bytes that matter to a JSON scanner more often than the others.
var jsonByte = rapid.OneOf(
	rapid.SampledFrom([]byte("{}[]:,\"\\/ \t\r\n0123456789+-.eEtrufalsn\x00\x1f\x7f\x80\xbf\xc0\xc3\xa9\xed\xa0\xef\xbb\xbf\xf0\x9f\xf4\x90\xff")),
	rapid.Byte(),
)

func TestCheckAgreesOnGeneratedJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(jsonText(4).Draw(t, "text"))
		if err := Check(text, stdDepth); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		agree(t, text)
	})
}

func TestCheckAgreesOnDamagedJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(jsonText(3).Draw(t, "text"))
		for range rapid.IntRange(1, 3).Draw(t, "wounds") {
			at := rapid.IntRange(0, len(text)).Draw(t, "at")
			switch kind := rapid.SampledFrom([]string{"insert", "cut", "remove", "replace", "flip"}).Draw(t, "kind"); {
			case kind == "insert":
				text = append(text[:at:at], append([]byte{jsonByte.Draw(t, "byte")}, text[at:]...)...)
			case kind == "cut":
				text = text[:at]
			case at == len(text):
			case kind == "remove":
				text = append(text[:at:at], text[at+1:]...)
			case kind == "replace":
				text[at] = jsonByte.Draw(t, "byte")
			case kind == "flip":
				text[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			}
		}
		agree(t, text)
	})
}

func TestCheckAgreesOnNoise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		agree(t, rapid.SliceOfN(jsonByte, 0, 40).Draw(t, "text"))
	})
}

func FuzzCheck(f *testing.F) {
	for _, text := range accepted {
		if len(text) < 1000 {
			f.Add([]byte(text))
		}
	}
	for _, test := range refused {
		if len(test.text) < 1000 {
			f.Add([]byte(test.text))
		}
	}
	f.Add(document)
	f.Fuzz(func(t *testing.T, text []byte) { agree(t, text) })
}

// document has 300 bytes, as the items of the other benchmarks do.
var document = []byte(`{"id":"cust-0001234567","name":"Jane Example","email":"jane@example.com","tags":["alpha","beta","gamma"],` +
	`"active":true,"score":12.75,"visits":1024,"address":{"street":"12 Long Street","city":"Springfield","zip":"01234"},` +
	`"note":"Called, wants the \"large\" box; see ticket.","updated":"2024-05-17T12"}`)

func TestDocumentHas300Bytes(t *testing.T) {
	if len(document) != 300 {
		t.Fatalf("it has %d", len(document))
	}
}

func BenchmarkCheck(b *testing.B) {
	cyrillic := []byte(`{"заголовок":"` + strings.Repeat("Съешь ещё этих мягких булок. ", 5) + `"}`)
	longText := []byte(fmt.Sprintf(`{"text":%q}`, strings.Repeat("The quick brown fox jumps over the lazy dog. ", 200)))
	pretty, err := json.MarshalIndent(json.RawMessage(document), "", "  ")
	if err != nil {
		b.Fatal(err)
	}
	numbers := []byte("[" + strings.Repeat("12345,-0.25,", 24) + "1e10]")
	for _, text := range []struct {
		name string
		text []byte
	}{{"object300", document}, {"indented", pretty}, {"numbers", numbers}, {"cyrillic", cyrillic}, {"text9k", longText}} {
		b.Run(text.name+"/Check", func(b *testing.B) {
			b.SetBytes(int64(len(text.text)))
			b.ReportAllocs()
			for b.Loop() {
				if Check(text.text, stdDepth) != nil {
					b.Fatal("refused")
				}
			}
		})
		b.Run(text.name+"/encodingjson", func(b *testing.B) {
			b.SetBytes(int64(len(text.text)))
			b.ReportAllocs()
			for b.Loop() {
				if !stdValid(text.text) {
					b.Fatal("refused")
				}
			}
		})
	}
}
