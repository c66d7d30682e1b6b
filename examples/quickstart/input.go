package main

// input.go reads the documents: from a file, from standard input, or from the Go
// distribution. It keeps the very bytes of each document, spaces and all, because that is
// what the engine keeps.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// document is one JSON document of the input.
type document struct {
	id      string
	content json.RawMessage
	line    int // where it begins, from 1
}

// input is all that was read.
type input struct {
	source string
	docs   []document
	bytes  int64 // of all contents
}

// stdinPatience is how long a silent standard input is waited for. Programs that start
// others often leave them a pipe that never says anything; the demo must not hang on it.
const stdinPatience = 3 * time.Second

// readInput finds the documents.
func readInput(ctx context.Context, o options, stdin io.Reader, stderr io.Writer) (input, error) {
	var data []byte
	var err error
	in := input{source: o.file}
	switch o.file {
	case "", "-":
		in.source = "standard input"
		if data, err = readStdin(ctx, stdin, o.file == "-", stderr); err == nil && len(bytes.TrimSpace(data)) == 0 {
			if o.file == "-" || o.idField != "" {
				return in, errors.New("standard input is empty")
			}
			in.source = "`go list -json std`"
			o.idField = goListField
			data, err = goList(ctx)
		}
	default:
		data, err = os.ReadFile(o.file)
	}
	if err != nil {
		return in, err
	}
	if in.docs, err = decode(data, o.idField); err != nil {
		return in, fmt.Errorf("%s: %w", in.source, err)
	}
	if len(in.docs) == 0 {
		return in, fmt.Errorf("%s: holds no document", in.source)
	}
	for i := range in.docs {
		if o.idField == goListField {
			in.docs[i].id = "std." + strings.ReplaceAll(in.docs[i].id, "/", ".")
		}
		in.bytes += int64(len(in.docs[i].content))
	}
	return in, nil
}

const goListField = "ImportPath"

// goList asks the go command about the packages of its standard library.
func goList(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-json", "std")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("no input was given, and `go list -json std` failed: %w\n%s", err, stderr.Bytes())
	}
	return out, ctx.Err()
}

// readStdin returns what standard input holds, or nothing when it is a terminal, /dev/null
// or silent. With wait it is read whatever it is.
func readStdin(ctx context.Context, stdin io.Reader, wait bool, stderr io.Writer) ([]byte, error) {
	var tooLong <-chan time.Time // nil: never
	if !wait {
		if stdin == nil || isTerminal(stdin) {
			return nil, nil
		}
		tooLong = time.After(stdinPatience)
	}
	// Reads can't be cancelled, so they happen on a goroutine of their own, which is left
	// behind on Ctrl-C.
	began, done := make(chan bool, 1), make(chan struct{})
	var data []byte
	var err error
	go func() {
		defer close(done)
		r := bufio.NewReader(stdin)
		_, _ = r.Peek(1)
		began <- true
		data, err = io.ReadAll(r)
	}()
	select {
	case <-began:
	case <-tooLong:
		fmt.Fprintf(stderr, "Nothing came on standard input within %v: going on without. (Give - as the file to wait for it.)\n", stdinPatience)
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-done:
		return data, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// isTerminal reports whether f is a terminal (or /dev/null, which is as silent).
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	st, err := file.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// decode splits data into documents. They may stand on one line each, span many lines, or
// follow one another without any space.
func decode(data []byte, idField string) ([]document, error) {
	var docs []document
	dec := json.NewDecoder(bytes.NewReader(data))
	line, counted := 1, 0 // line is that of data[counted]
	for {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if err == io.EOF {
			return docs, nil
		}
		if err != nil {
			return nil, badDocument(data, int(dec.InputOffset()), len(docs)+1, err)
		}
		end := int(dec.InputOffset())
		start := end - len(raw)
		line += bytes.Count(data[counted:start], []byte{'\n'})
		counted = start
		doc := document{content: raw, line: line}
		if doc.id, err = idOf(raw, idField, line); err != nil {
			return nil, fmt.Errorf("document %d, line %d: %w", len(docs)+1, line, err)
		}
		docs = append(docs, doc)
	}
}

// badDocument says where the n-th document, which begins after offset, goes wrong.
func badDocument(data []byte, offset, n int, err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		offset = min(max(0, int(syntax.Offset)-1), len(data)) // Offset counts the bad byte too
	case errors.Is(err, io.ErrUnexpectedEOF):
		offset, err = len(data), errors.New("the input ends within the document")
	}
	return fmt.Errorf("document %d is not JSON: line %d, byte %d: %w", n, 1+bytes.Count(data[:offset], []byte{'\n'}), offset, err)
}

// idOf finds the id of a document. Only the default field may be missing.
func idOf(content []byte, field string, line int) (string, error) {
	name := field
	if name == "" {
		name = "id"
	}
	switch v := lookUp(content, name).(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case nil:
		if field == "" {
			return strconv.Itoa(line), nil
		}
		return "", fmt.Errorf("has no field %q, which is to be the id", field)
	default:
		return "", fmt.Errorf("field %q is to be the id, but is neither a string nor a number", name)
	}
}

// lookUp returns the value of a field, or nil. In "a.b", "b" is a field of the object "a",
// unless there is a field with the name "a.b" itself.
func lookUp(content []byte, field string) any {
	var object map[string]json.RawMessage
	if json.Unmarshal(content, &object) != nil {
		return nil
	}
	if raw, ok := object[field]; ok {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber() // 12345678901234567890 must not become 1.2345678901234567e19
		var v any
		_ = dec.Decode(&v) // raw is valid: it was decoded once
		return v
	}
	if first, rest, nested := strings.Cut(field, "."); nested {
		return lookUp(object[first], rest)
	}
	return nil
}
