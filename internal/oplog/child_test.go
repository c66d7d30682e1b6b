package oplog

// child_test.go starts this test binary again as a child that appends without end, kills it
// with SIGKILL, and keeps what it left on disk, so that other tests can damage copies of it.
// The child says what was acknowledged after the fact, so the parent never knows of more.
//
// Lines of the child:
//
//	ack CLIENT N SEG   payload N of CLIENT is committed, in segment SEG
//	trim SEG           segments up to SEG are about to be trimmed
//	bad N ID           payload N of the quarantine is committed under ID
//	drop ID            it is about to be deleted
//	dropped ID         it is deleted
//	meta N             N is committed under the key "k"
//	pause              the child waits for a line

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	childEnv     = "OPLOG_CHILD"
	childClients = 3
	badClient    = 1 << 20 // names payloads of the quarantine
)

// childLife is what parent and child agree on.
type childLife struct {
	Path    string
	NoSync  bool
	From    int // number of the first payload
	Size    int // payloads are up to this long
	Side    int // one in so many rounds writes beside the loop
	PauseAt int // payloads of each client before the pause, 0: none
}

func init() {
	if text := os.Getenv(childEnv); text != "" {
		var c childLife
		err := json.Unmarshal([]byte(text), &c)
		if err == nil {
			err = c.run(os.Stdin, os.Stdout)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run appends until the process is killed.
func (c *childLife) run(in *os.File, out *os.File) error {
	l, err := Open(context.Background(), Options{Path: c.Path, NoSync: c.NoSync})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(l.Run)
	var mu sync.Mutex // guards out, and keeps "trim" behind the acks it covers
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, format+"\n", args...)
	}
	failed := make(chan error, childClients+1)
	var paused sync.WaitGroup
	paused.Add(childClients)
	resume := make(chan struct{})
	for client := range childClients {
		wg.Go(func() {
			for n := c.From; ; n++ {
				if c.PauseAt > 0 && n == c.From+c.PauseAt {
					paused.Done()
					<-resume
				}
				seg, err := appendWait(l, childPayload(client, n, c.Size))
				if err != nil {
					failed <- err
					return
				}
				say("ack %d %d %d", client, n, seg)
				if rand.IntN(20) == 0 {
					say("trim %d", seg-5)
					l.Trim(seg - 5)
				}
				if c.Side > 0 && rand.IntN(c.Side) == 0 {
					if err := c.beside(l, client*1_000_000+n, say); err != nil {
						failed <- err
						return
					}
				}
			}
		})
	}
	if c.PauseAt > 0 {
		paused.Wait()
		say("pause")
		_, _ = bufio.NewReader(in).ReadString('\n')
	}
	close(resume)
	return <-failed
}

// beside writes to the quarantine and to meta.
func (c *childLife) beside(l *Log, n int, say func(string, ...any)) error {
	ctx := context.Background()
	id, err := l.AddBad(ctx, Bad{Ops: 1, At: int64(n), Attempts: 1, Error: fmt.Sprint("refused ", n), Payload: childPayload(badClient, n, c.Size)})
	if err != nil {
		return err
	}
	say("bad %d %d", n, id)
	if n%3 == 0 {
		say("drop %d", id)
		if err := l.DeleteBad(ctx, id); err != nil {
			return err
		}
		say("dropped %d", id)
	}
	if n < 1_000_000 { // one client alone, so that the last one said is the last one made
		if err := l.SetMeta(ctx, "k", []byte(fmt.Sprint(n))); err != nil {
			return err
		}
		say("meta %d", n)
	}
	return nil
}

// appendWait appends one payload and waits for its commit.
func appendWait(l *Log, payload []byte) (seg int64, err error) {
	done := make(chan error, 1)
	l.Append(&Request{Payload: payload, Ops: 1, At: 7, Max: uint64(len(payload)), Done: func(s *Segment, err error) {
		if err == nil {
			seg = s.ID
		}
		done <- err
	}})
	return seg, <-done
}

// childPayload is a payload that names itself: client, number, length, noise.
func childPayload(client, n, size int) []byte {
	r := rand.New(rand.NewPCG(uint64(client), uint64(n)))
	b := make([]byte, 12+size/8+r.IntN(size))
	binary.BigEndian.PutUint32(b, uint32(client))
	binary.BigEndian.PutUint32(b[4:], uint32(n))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)))
	for i := 12; i+8 <= len(b); i += 8 { // the race detector makes more calls dear
		binary.BigEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

// payload is childPayload, made once.
func (m *crashImage) payload(client, n int) []byte {
	b, ok := m.made[[2]int{client, n}]
	if !ok {
		b = childPayload(client, n, m.life.Size)
		m.made[[2]int{client, n}] = b
	}
	return b
}

// split takes a segment apart and checks each payload in it.
func (m *crashImage) split(b []byte, fn func(client, n int)) error {
	for len(b) > 0 {
		if len(b) < 12 {
			return fmt.Errorf("%d bytes left over", len(b))
		}
		client, n, length := int(binary.BigEndian.Uint32(b)), int(binary.BigEndian.Uint32(b[4:])), int(binary.BigEndian.Uint32(b[8:]))
		if length > len(b) || !bytes.Equal(b[:length], m.payload(client, n)) {
			return fmt.Errorf("payload %d of client %d is not what was appended", n, client)
		}
		fn(client, n)
		b = b[length:]
	}
	return nil
}

// crashImage is what a killed child left, and what it had acknowledged.
type crashImage struct {
	life    childLife
	files   map[string][]byte // by suffix: "", "-wal", "-shm", ".lock"
	paused  map[string][]byte // the same at the pause
	acks    map[[2]int]int64  // client and number -> segment
	last    [childClients]int // number of the last payload acknowledged
	begun   map[[2]int]bool   // not acknowledged when the kill came, may be there
	trimmed int64
	bads    map[int64]int  // id -> number
	dropped map[int64]bool // true: for certain, false: perhaps
	meta    int
	made    map[[2]int][]byte // see payload
}

var imageFiles = []string{"", "-wal", "-shm", ".lock"}

func readImage(path string) map[string][]byte {
	files := make(map[string][]byte)
	for _, suffix := range imageFiles {
		if b, err := os.ReadFile(path + suffix); err == nil {
			files[suffix] = b
		}
	}
	return files
}

func writeImage(t testing.TB, path string, files map[string][]byte) {
	t.Helper()
	for _, suffix := range imageFiles {
		_ = os.Remove(path + suffix)
		if b, ok := files[suffix]; ok {
			if err := os.WriteFile(path+suffix, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// killAfter lets a child make so many acknowledgements and kills it.
func killAfter(t testing.TB, life childLife, acks int) *crashImage {
	t.Helper()
	life.Path = filepath.Join(t.TempDir(), "wal.db")
	img := &crashImage{life: life, acks: make(map[[2]int]int64), begun: make(map[[2]int]bool), made: make(map[[2]int][]byte),
		bads: make(map[int64]int), dropped: make(map[int64]bool), meta: -1}
	img.live(t, acks)
	return img
}

// live starts a child, kills it after so many acknowledgements, and reads what it left.
func (m *crashImage) live(t testing.TB, acks int) {
	t.Helper()
	text, err := json.Marshal(m.life)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range m.last {
		m.last[i] = m.life.From - 1
	}
	acks += len(m.acks)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if lines.Text() == "pause" {
			m.paused = readImage(m.life.Path)
			fmt.Fprintln(stdin, "go on")
			continue
		}
		m.read(lines.Text())
		if len(m.acks) >= acks {
			_ = cmd.Process.Kill() // what is still in the pipe was acknowledged as well
		}
	}
	_ = cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("child: %s", stderr.String())
	}
	m.files = readImage(m.life.Path)
	for client, n := range m.last {
		m.begun[[2]int{client, n + 1}] = true
	}
}

func (m *crashImage) read(line string) {
	var a, b int
	var seg int64
	switch {
	case scanned(line, "ack %d %d %d", &a, &b, &seg):
		m.acks[[2]int{a, b}], m.last[a] = seg, b
	case scanned(line, "trim %d", &seg):
		m.trimmed = max(m.trimmed, seg)
	case scanned(line, "bad %d %d", &a, &seg):
		m.bads[seg] = a
	case scanned(line, "drop %d", &seg):
		m.dropped[seg] = false
	case scanned(line, "dropped %d", &seg):
		m.dropped[seg] = true
	case scanned(line, "meta %d", &a):
		m.meta = a
	} // a line that the kill cut off is none of these
}

func scanned(line, format string, to ...any) bool {
	n, err := fmt.Sscanf(line+"\n", format+"\n", to...)
	return err == nil && n == len(to)
}

// check opens what is at path and compares it with what was acknowledged. reported is the
// error of the log, by Open (refused) or by a read. lost is what it should have reported.
func (m *crashImage) check(path string) (refused bool, reported, lost error) {
	ctx := context.Background()
	l, err := Open(ctx, Options{Path: path})
	if err != nil {
		return true, err, nil
	}
	defer func() { _ = l.CloseFiles() }()
	segs, err1 := l.ReadAfter(ctx, 0, 1<<62, 1<<40)
	bads, err2 := l.Bads(ctx, 0, 1<<62)
	meta, err3 := l.Meta(ctx, "k")
	if err := errors.Join(err1, err2, err3); err != nil {
		return false, err, nil
	}
	return false, nil, m.compare(l, segs, bads, string(meta))
}

func (m *crashImage) compare(l *Log, segs []Segment, bads []Bad, meta string) error {
	found := make(map[[2]int]bool)
	for _, s := range segs {
		ops := 0
		err := m.split(s.Payload, func(client, n int) {
			found[[2]int{client, n}] = true
			ops++
		})
		if err != nil || ops != s.Ops || s.At != 7 {
			return fmt.Errorf("segment %d: %w, or %d ops where %d are, or at %d", s.ID, err, s.Ops, ops, s.At)
		}
		if s.ID >= l.next {
			return fmt.Errorf("segment %d is there, and the next is to be %d", s.ID, l.next)
		}
	}
	for key, seg := range m.acks {
		if !found[key] && seg > m.trimmed {
			return fmt.Errorf("payload %d of client %d, segment %d, is gone: the last are %v, trimmed up to %d", key[1], key[0], seg, m.last, m.trimmed)
		}
	}
	for key := range found {
		if _, ok := m.acks[key]; !ok && !m.begun[key] {
			return fmt.Errorf("payload %d of client %d came from nowhere: the last are %v", key[1], key[0], m.last)
		}
	}
	return m.compareSide(bads, meta)
}

func (m *crashImage) compareSide(bads []Bad, meta string) error {
	found := make(map[int64]bool)
	for _, b := range bads {
		n, known := m.bads[b.ID]
		found[b.ID] = true
		if m.dropped[b.ID] {
			return fmt.Errorf("quarantined payload %d is back", b.ID)
		}
		if known && (!bytes.Equal(b.Payload, m.payload(badClient, n)) || b.Error != fmt.Sprint("refused ", n) || b.At != int64(n)) {
			return fmt.Errorf("quarantined payload %d is not what was stored", b.ID)
		}
	}
	for id := range m.bads {
		if _, dropped := m.dropped[id]; !found[id] && !dropped {
			return fmt.Errorf("quarantined payload %d is gone", id)
		}
	}
	if m.meta < 0 {
		return nil
	}
	var n int
	if _, err := fmt.Sscan(meta, &n); err != nil || n < m.meta {
		return fmt.Errorf("the value is %q, and %d was acknowledged", meta, m.meta)
	}
	return nil
}
