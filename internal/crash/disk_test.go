package crash

// disk_test.go proves what a disk may do to the engine: be full, fail an fsync. The engine
// runs where the disk can be made to: on a small file system of its own, or in a child of
// this test binary under strace. Both need Linux; the first needs root, the second strace.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

const (
	diskEnv     = "SYNCENGINE_DISK_CHILD"
	diskWriters = 4
)

// diskLife is what a child and its parent agree on. The child puts documents under ever new
// ids until it is killed, and appends a line to the file Acks after each: "put ID N" when it
// was acknowledged, "err TEXT" when it was not, and "pid N" at first. The file is outside of
// what is tested, and holds all that was acknowledged at any moment the child is stopped at.
type diskLife struct {
	Dir, Acks string
	NoSync    bool
	Away      bool // L3 takes nothing, so that all is in the WAL alone; else it is SQLite in Dir
	PadTo     int  // length of a document
}

func init() {
	if text := os.Getenv(diskEnv); text != "" {
		var c diskLife
		err := json.Unmarshal([]byte(text), &c)
		if err == nil {
			err = c.run()
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (c *diskLife) config() syncengine.Config {
	cfg := syncengine.Config{Dir: c.Dir, WALNoSync: c.NoSync, BatchFlushInterval: 20 * time.Millisecond}
	if c.Away {
		cfg.L3 = lab.AwayArchive()
	}
	return cfg
}

func (c *diskLife) run() error {
	acks, err := os.OpenFile(c.Acks, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Fprintf(acks, format+"\n", args...) } // one write: lines of several writers don't mix
	e, err := syncengine.Open(context.Background(), c.config())
	if err != nil {
		return err
	}
	say("pid %d", os.Getpid())
	go func() { // the parent holds the other end, and may die before it can kill
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	var wg sync.WaitGroup
	for w := range diskWriters {
		wg.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("%d-%d", w, n)
				err := e.Submit(context.Background(), syncengine.Item{ID: id, Content: c.doc(id, n)})
				if err == nil {
					say("put %s %d", id, n)
				} else {
					say("err %q", err.Error())
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func (c *diskLife) doc(id string, n int) []byte {
	return []byte(fmt.Sprintf(`{"id":%q,"n":%d,"pad":%q}`, id, n, strings.Repeat("x", c.PadTo)))
}

// command returns a child that is about to start, by way of a wrapper such as strace.
func (c *diskLife) command(t testing.TB, wrapper ...string) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(c)
	lab.Must(t, err)
	args := append(wrapper, lab.ChildBinary(t))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), diskEnv+"="+string(text))
	cmd.Stderr = &strings.Builder{}
	_, err = cmd.StdinPipe() // closed with the parent
	lab.Must(t, err)
	return cmd
}

// diskAcks is what a child has said.
type diskAcks struct {
	pid  int
	puts map[string]int
	errs []string
}

func (c *diskLife) acks(t testing.TB) (a diskAcks) {
	t.Helper()
	a.puts = make(map[string]int)
	text, err := os.ReadFile(c.Acks)
	if errors.Is(err, os.ErrNotExist) {
		return a
	}
	lab.Must(t, err)
	for line := range strings.Lines(string(text)) {
		line, whole := strings.CutSuffix(line, "\n")
		if !whole { // the child is writing it
			break
		}
		kind, rest, _ := strings.Cut(line, " ")
		switch kind {
		case "pid":
			a.pid, err = strconv.Atoi(rest)
		case "put":
			id, n, _ := strings.Cut(rest, " ")
			a.puts[id], err = strconv.Atoi(n)
		case "err":
			a.errs = append(a.errs, rest)
		}
		lab.Must(t, err)
	}
	return a
}

// missing returns the first few acknowledged puts that an engine does not answer with.
func (c *diskLife) missing(e *syncengine.Engine, a diskAcks) (out []string) {
	for id, n := range a.puts {
		it, err := e.Get(context.Background(), id)
		if err != nil || string(it.Content) != string(c.doc(id, n)) {
			out = append(out, fmt.Sprintf("%s: %.40q, %v", id, it.Content, err))
		}
	}
	return out
}

// smallDisk mounts a file system of so many MiB. Filling it harms nobody.
func smallDisk(t testing.TB, mib int) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "disk")
	lab.Must(t, os.Mkdir(dir, 0o700))
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm,mode=0700", mib), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("can't mount a small file system: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if held := openBelow(t, dir); len(held) > 0 {
			t.Errorf("closed engines have left open: %q", held)
		}
		// A child that another test starts holds copies of this process's descriptors until it
		// has executed its program, so the disk may be busy a while after all were closed.
		lab.Eventually(t, "the small disk can be unmounted", func() bool {
			return exec.Command("umount", dir).Run() == nil
		})
	})
	return dir
}

// openBelow returns the files below a directory that this process has open.
func openBelow(t testing.TB, dir string) (open []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	lab.Must(t, err)
	for _, fd := range fds {
		// One that is gone meanwhile, such as that of ReadDir, is no error.
		if to, _ := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); strings.HasPrefix(to, dir+"/") {
			open = append(open, to)
		}
	}
	return open
}

// ballast takes so many bytes of a disk, all that is left for 0.
func ballast(t testing.TB, dir, name string, bytes int) (remove func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE, 0o600)
	lab.Must(t, err)
	defer f.Close()
	block := make([]byte, 4096)
	for n := 0; bytes == 0 || n < bytes; n += len(block) {
		if _, err := f.Write(block); err != nil {
			if bytes != 0 {
				t.Fatal(err)
			}
			break
		}
	}
	return func() { lab.Must(t, os.Remove(f.Name())) }
}

// diskModel notes what was acknowledged.
type diskModel struct {
	mu    sync.Mutex // guards the fields below
	acked map[string]int
	next  int
}

// fill submits from several goroutines until each has been refused, and checks the refusals.
func (m *diskModel) fill(t *testing.T, e *syncengine.Engine) {
	t.Helper()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for m.submit(t, e) {
			}
		})
	}
	wg.Wait()
}

// submit puts one new id and reports whether it was acknowledged.
func (m *diskModel) submit(t *testing.T, e *syncengine.Engine) bool {
	m.mu.Lock()
	n := m.next
	m.next++
	m.mu.Unlock()
	id := fmt.Sprint("id-", n)
	err := e.Submit(context.Background(), syncengine.Item{ID: id, Content: largeDoc(n)})
	if err == nil {
		m.mu.Lock()
		m.acked[id] = n
		m.mu.Unlock()
		return true
	}
	if !errors.Is(err, syncengine.ErrUnavailable) && !errors.Is(err, syncengine.ErrBackpressure) || !strings.Contains(err.Error(), "full") {
		t.Errorf("a refusal of a full disk: %v", err)
	}
	if _, err := e.Get(context.Background(), id); !errors.Is(err, syncengine.ErrNotFound) && !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("%s was refused, and reading it says %v", id, err)
	}
	return false
}

func (m *diskModel) check(t *testing.T, e *syncengine.Engine) {
	t.Helper()
	for id, n := range m.acked {
		if it, err := e.Get(context.Background(), id); err != nil || string(it.Content) != string(largeDoc(n)) {
			t.Fatalf("%s of %d: %.40q, %v", id, len(m.acked), it.Content, err)
		}
	}
}

func largeDoc(n int) []byte {
	return []byte(fmt.Sprintf(`{"n":%d,"pad":%q}`, n, strings.Repeat("x", 16_000)))
}

// TestINV01FullDiskRefusesLosesNothingAndRecovers lets others fill the disk of the WAL to the
// last byte, and then the WAL itself, in an outage of L3.
func TestINV01FullDiskRefusesLosesNothingAndRecovers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := smallDisk(t, 32)
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	cfg := syncengine.Config{Dir: dir, L3: l3, L1MaxBytes: 1 << 20, CloseTimeout: 5 * time.Second}
	e := lab.Open(t, cfg)
	l3.Away.Store(true)
	m := &diskModel{acked: make(map[string]int)}
	removeSome := ballast(t, dir, "some", 12<<20)
	m.fill(t, e)
	removeRest := ballast(t, dir, "rest", 0)
	m.check(t, e)
	if m.submit(t, e) {
		t.Error("a write was accepted with no byte left on the disk")
	}
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close on a full disk: %v", err)
	}
	e = lab.Open(t, cfg) // a full disk keeps nobody from reading
	l3.Away.Store(true)
	m.check(t, e)
	filled := len(m.acked)
	removeSome()
	removeRest()
	lab.Eventually(t, "with space freed, writes are accepted again", func() bool { return m.submit(t, e) })
	m.fill(t, e) // now it is the WAL that fills the disk
	if len(m.acked) < filled+200 {
		t.Errorf("%d writes were accepted before space was freed, %d after", filled, len(m.acked)-filled)
	}
	m.check(t, e)
	l3.Away.Store(false)
	lab.Eventually(t, "the drain succeeds on a full disk", func() bool { return e.Flush(ctx) == nil })
	lab.Eventually(t, "the drain makes room for writes", func() bool { return m.submit(t, e) })
	for range 200 {
		if !m.submit(t, e) {
			t.Fatal("the log does not get its space back")
		}
	}
	lab.Must(t, e.Flush(ctx))
	lab.Must(t, e.Close())
	m.check(t, lab.Open(t, syncengine.Config{L3: l3}))
}

// TestINV01FullDiskOfWALAndArchive has both on one disk, which fills up under load.
func TestINV01FullDiskOfWALAndArchive(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := smallDisk(t, 48)
	cfg := syncengine.Config{Dir: dir, L1MaxBytes: 1 << 20}
	e := lab.Open(t, cfg)
	m := &diskModel{acked: make(map[string]int)}
	for range 200 {
		m.submit(t, e)
	}
	var remove func()
	var wg sync.WaitGroup
	wg.Go(func() { remove = ballast(t, dir, "ballast", 0) })
	m.fill(t, e)
	wg.Wait()
	if len(m.acked) < 200 {
		t.Fatalf("%d writes were accepted", len(m.acked))
	}
	m.check(t, e)
	remove()
	lab.Eventually(t, "with space freed, writes are accepted again", func() bool { return m.submit(t, e) })
	lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	m.check(t, e)
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	if s := e.Stats(); s.PendingOps != 0 || s.Quarantined != 0 {
		t.Errorf("after Flush and Close: %d pending, %d in quarantine", s.PendingOps, s.Quarantined)
	}
	m.check(t, e)
}

// straced returns the command that makes fsync of one file fail, and what strace has seen.
func straced(t testing.TB, file, when string) (wrapper []string, seen func() string) {
	t.Helper()
	if out, err := exec.Command("strace", "-f", "-qq", "-o", os.DevNull, os.Args[0], "-test.list=^$").CombinedOutput(); err != nil {
		t.Skipf("needs strace, and to be allowed to trace: %v: %s", err, out)
	}
	log := filepath.Join(t.TempDir(), "strace")
	wrapper = []string{"strace", "-f", "-qq", "-o", log, "-P", file, "-e", "trace=fsync,fdatasync,unlink,ftruncate",
		"-e", "inject=fsync,fdatasync:error=EIO:when=" + when}
	return wrapper, func() string {
		b, _ := os.ReadFile(log) // missing at first
		return string(b)
	}
}

const injected = "(INJECTED)"

// TestINV01FailedFsync makes fsync fail in a writing child: in commits of the WAL, one or
// several in a row, so that closing and reopening fails as well; in checkpoints; and in the
// archive. Then it kills the child. strace counts the calls of each thread by itself, so they
// fail more often than the cases say.
func TestINV01AFailedFsyncLosesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file, when string
		padTo      int
		refused    bool // callers are told
	}{
		"the first commits":         {"wal.db-wal", "2", 200, true},
		"a later commit":            {"wal.db-wal", "9", 200, true},
		"every seventh":             {"wal.db-wal", "5+7", 200, true},
		"several in a row":          {"wal.db-wal", "4..7", 200, true},
		"many in a row, and reopen": {"wal.db-wal", "6..20", 200, true},
		"a checkpoint of the WAL":   {"wal.db", "1..3", 20_000, false},
		"a commit of the archive":   {"archive.db-wal", "3..5", 200, false},
		"a checkpoint there":        {"archive.db", "1..2", 20_000, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			life := &diskLife{Dir: dir, Acks: filepath.Join(t.TempDir(), "acks"), PadTo: c.padTo}
			lab.Must(t, lab.Open(t, life.config()).Close()) // makes the files, which is another matter
			wrapper, seen := straced(t, filepath.Join(dir, c.file), c.when)
			child := life.command(t, wrapper...)
			lab.Must(t, child.Start())
			before := 0
			lab.Eventually(t, "an fsync fails", func() bool {
				before = len(life.acks(t).puts)
				return strings.Contains(seen(), injected)
			})
			lab.Eventually(t, "writes go on", func() bool { return len(life.acks(t).puts) >= before+300 })
			p, err := os.FindProcess(life.acks(t).pid)
			lab.Must(t, err)
			lab.Must(t, p.Kill())
			_ = child.Wait() // strace ends as its child does
			if text := fmt.Sprint(child.Stderr); text != "" {
				t.Errorf("the child says %s", text)
			}
			acks := life.acks(t)
			if c.refused != (len(acks.errs) > 0) {
				t.Errorf("%d callers were told of the failure: %.300v", len(acks.errs), acks.errs)
			}
			for _, text := range acks.errs {
				if !strings.Contains(text, "unavailable") {
					t.Errorf("a caller was told %s", text)
				}
			}
			// What fsync failed for is never built upon: the -wal file is removed or emptied.
			_, after, _ := strings.Cut(seen(), injected)
			if c.refused && !strings.Contains(after, "unlink(") && !strings.Contains(after, ", 0)") {
				t.Errorf("after the failure the -wal file was not started anew:\n%.1000s", after)
			}
			e := lab.Open(t, life.config())
			if lost := life.missing(e, acks); len(lost) > 0 {
				t.Errorf("%d of %d acknowledged puts are lost, such as %s", len(lost), len(acks.puts), lost[0])
			}
			lab.Must(t, e.Flush(context.Background()))
			t.Logf("%d acknowledged, %d refused, %d failed fsyncs", len(acks.puts), len(acks.errs), strings.Count(seen(), injected))
		})
	}
}

// TestINV01AWALThatLostItsEndIsRefused takes the -wal file away from what a killed child left,
// which SQLite alone would not notice, and gives it back.
func TestINV01AWALThatLostItsEndIsRefused(t *testing.T) {
	ctx := context.Background()
	life := &diskLife{Dir: t.TempDir(), Acks: filepath.Join(t.TempDir(), "acks"), Away: true, PadTo: 200}
	child := life.command(t)
	lab.Must(t, child.Start())
	lab.Eventually(t, "the child writes", func() bool { return len(life.acks(t).puts) >= 200 })
	lab.Must(t, child.Process.Kill())
	_ = child.Wait()
	acks := life.acks(t)
	log := filepath.Join(life.Dir, "wal.db-wal")
	kept, err := os.ReadFile(log)
	lab.Must(t, err)
	lab.Must(t, os.Remove(log))
	for range 2 {
		e, err := syncengine.Open(ctx, life.config())
		if err == nil {
			_ = e.Close()
			t.Fatalf("opened without wal.db-wal; %d puts are missing", len(life.missing(e, acks)))
		}
		if !errors.Is(err, syncengine.ErrWALCorrupt) || !strings.Contains(err.Error(), "wal.db.lock") {
			t.Fatalf("Open: %v, want ErrWALCorrupt and what to do", err)
		}
	}
	lab.Must(t, os.WriteFile(log, kept, 0o600))
	e := lab.Open(t, life.config())
	if lost := life.missing(e, acks); len(lost) > 0 {
		t.Errorf("restored, the WAL lacks %d of %d puts, such as %s", len(lost), len(acks.puts), lost[0])
	}
}
