package oplog

// damage_test.go damages what a killed process left on disk, in many places and ways, one at
// a time, and opens it. Whatever the damage, the log must either hold all that was
// acknowledged, byte for byte, or say ErrCorrupt and leave the files as they are.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// trials is how often each kind of damage is done to each image; more of them by
// OPLOG_DAMAGE_TRIALS.
func trials(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("OPLOG_DAMAGE_TRIALS")); err == nil {
		return n
	}
	if testing.Short() {
		return 1
	}
	return 4
}

// damage changes files, and says what it did.
type damage func(r *rand.Rand, m *crashImage, files map[string][]byte) string

func flipBits(suffix string, from, to int) damage {
	return func(r *rand.Rand, _ *crashImage, files map[string][]byte) string {
		b := files[suffix]
		i := from + r.IntN(min(to, len(b))-from)
		bit := byte(1) << r.IntN(8)
		b[i] ^= bit
		return fmt.Sprintf("bit %#02x of byte %d of %d", bit, i, len(b))
	}
}

func cut(suffix string, unit int) damage {
	return func(r *rand.Rand, _ *crashImage, files map[string][]byte) string {
		n := r.IntN((len(files[suffix])+unit-1)/unit) * unit
		if suffix == "-wal" && unit > 1 && n > 0 {
			n += 32 // the header of the file
		}
		files[suffix] = files[suffix][:min(n, len(files[suffix]))]
		return fmt.Sprintf("cut at %d", n)
	}
}

func blot(suffix string) damage {
	return func(r *rand.Rand, _ *crashImage, files map[string][]byte) string {
		b := files[suffix]
		i := r.IntN(len(b)/4096) * 4096
		clear(b[i : i+4096])
		return fmt.Sprintf("zeroes from %d to %d", i, i+4096)
	}
}

func misplace(suffix string) damage {
	return func(r *rand.Rand, _ *crashImage, files map[string][]byte) string {
		b := files[suffix]
		from, to := r.IntN(len(b)/4096)*4096, r.IntN(len(b)/4096)*4096
		copy(b[to:to+4096], b[from:from+4096])
		return fmt.Sprintf("a copy of %d at %d", from, to)
	}
}

func remove(suffixes ...string) damage {
	return func(_ *rand.Rand, _ *crashImage, files map[string][]byte) string {
		for _, s := range suffixes {
			delete(files, s)
		}
		return "removed"
	}
}

// oldCopy puts files of the pause in place.
func oldCopy(suffixes ...string) damage {
	return func(_ *rand.Rand, m *crashImage, files map[string][]byte) string {
		for _, s := range suffixes {
			if files[s] = bytes.Clone(m.paused[s]); files[s] == nil {
				delete(files, s)
			}
		}
		return "an old copy"
	}
}

// checkpoint copies pages of the -wal file into the main file as SQLite does, in their order,
// and stops half-way.
func checkpoint(then damage) damage {
	return func(r *rand.Rand, m *crashImage, files map[string][]byte) string {
		wal, main := files["-wal"], files[""]
		pages, pending := make(map[uint32][]byte), make(map[uint32][]byte)
		for at := 32; at+walFrame <= len(wal) && bytes.Equal(wal[at+8:at+16], wal[16:24]); at += walFrame { // the salts of this round
			pending[binary.BigEndian.Uint32(wal[at:])] = wal[at+24 : at+walFrame]
			if binary.BigEndian.Uint32(wal[at+4:]) != 0 { // a commit
				maps.Copy(pages, pending)
				clear(pending)
			}
		}
		order := slices.Sorted(maps.Keys(pages))
		upTo := r.IntN(len(order) + 1)
		for _, n := range order[:upTo] {
			if end := int(n) * 4096; end > len(main) {
				main = append(main, make([]byte, end-len(main))...)
			}
			copy(main[(n-1)*4096:], pages[n])
		}
		files[""] = main
		return fmt.Sprintf("%d of %d pages, then %s", upTo, len(order), then(r, m, files))
	}
}

const (
	walFrame = 4096 + 24
	ofHeader = "main, bits of the header"
)

var damages = map[string]damage{
	"nothing":                       remove(),
	"main, bits":                    flipBits("", 0, 1<<30),
	ofHeader:                        flipBits("", 0, 100),
	"main, bits of the first pages": flipBits("", 0, 7*4096),
	"main, cut":                     cut("", 1),
	"main, cut between pages":       cut("", 4096),
	"main, a page of zeroes":        blot(""),
	"main, a page twice":            misplace(""),
	"main, removed":                 remove(""),
	"main, an old copy":             oldCopy(""),
	"-wal, bits":                    flipBits("-wal", 0, 1<<30),
	"-wal, bits of the header":      flipBits("-wal", 0, 32),
	"-wal, bits of the first frame": flipBits("-wal", 32, 32+walFrame),
	"-wal, cut":                     cut("-wal", 1),
	"-wal, cut between frames":      cut("-wal", walFrame),
	"-wal, zeroes":                  blot("-wal"),
	"-wal, blocks misplaced":        misplace("-wal"),
	"-wal, removed":                 remove("-wal"),
	"-wal and -shm removed":         remove("-wal", "-shm"),
	"-wal, an old copy":             oldCopy("-wal"),
	"-wal, a checkpoint cut off":    checkpoint(remove()),
	"-wal, also removed":            checkpoint(remove("-wal")),
	"-wal, also cut":                checkpoint(cut("-wal", walFrame)),
	"-shm, bits":                    flipBits("-shm", 0, 1<<30),
	"all, an old copy":              oldCopy("", "-wal", "-shm"),
	"all but the lock removed":      remove("", "-wal", "-shm"),
}

func TestNoDamageOfACrashedLogLosesAnythingSilently(t *testing.T) {
	for name, c := range map[string]struct {
		life childLife
		acks int
		then func(*testing.T, *crashImage)
	}{
		"all in the -wal file":        {childLife{Size: 300, Side: 12, PauseAt: 20}, 150, nil},
		"checkpoints":                 {childLife{Size: 40_000, Side: 20, PauseAt: 40}, 260, nil},
		"nothing beside the loop":     {childLife{Size: 2_000, PauseAt: 60}, 400, nil},
		"large segments":              {childLife{Size: 150_000, PauseAt: 10}, 60, nil},
		"two crashes":                 {childLife{Size: 400, Side: 12, PauseAt: 20}, 150, crashAgain},
		"closed after the crash":      {childLife{Size: 400, Side: 6, PauseAt: 20}, 300, closeImage},
		"closed, payloads over pages": {childLife{Size: 20_000, Side: 6, PauseAt: 20}, 150, closeImage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // the time goes into fsync
			m := killAfter(t, c.life, c.acks+rand.IntN(c.acks/2))
			if c.then != nil {
				c.then(t, m)
			}
			for kind, fn := range damages {
				damageOften(t, m, kind, fn)
			}
		})
	}
}

// crashAgain has the main file hold an older state of the same pages.
func crashAgain(t *testing.T, m *crashImage) {
	m.life.From, m.life.PauseAt = 1000, 0
	m.live(t, 1+rand.IntN(4)) // few: a new page would be missed by SQLite, too
}

// closeImage opens and closes what the child left, so that all is in the main file.
func closeImage(t *testing.T, m *crashImage) {
	t.Helper()
	_, stop := open(t, m.life.Path)
	stop()
	m.files = readImage(m.life.Path)
	if len(m.files["-wal"]) > 0 {
		t.Fatalf("after Close the -wal file holds %d bytes", len(m.files["-wal"]))
	}
}

// damageOften does one kind of damage to copies of an image.
func damageOften(t *testing.T, m *crashImage, kind string, fn damage) {
	t.Helper()
	if len(m.files["-wal"]) < 2*walFrame && strings.HasPrefix(kind, "-") {
		return
	}
	path := filepath.Join(t.TempDir(), "wal.db")
	n, sound := 0, 0
	for n == 0 || n < trials(t) {
		n++
		seed := rand.Uint64()
		files := make(map[string][]byte)
		for s, b := range m.files {
			files[s] = bytes.Clone(b)
		}
		did := fn(rand.New(rand.NewPCG(seed, 0)), m, files)
		writeImage(t, path, files)
		refused, reported, lost := m.check(path)
		what := fmt.Sprintf("%s: %s (seed %d)", kind, did, seed)
		switch {
		case lost != nil:
			t.Errorf("%s: not noticed: %v", what, lost)
		case reported == nil:
			sound++
		case !errors.Is(reported, ErrCorrupt):
			if kind != ofHeader { // SQLite refuses some of that as a file of another version
				t.Errorf("%s: %v, want ErrCorrupt", what, reported)
			}
		case refused:
			wantFiles(t, path, files, what)
		}
		if did == "removed" || did == "an old copy" {
			break
		}
	}
	if (kind == "nothing" || kind == "-wal, a checkpoint cut off") && sound != n {
		t.Errorf("an image without damage is refused")
	}
	t.Logf("%-30s %d of %d sound", kind, sound, n)
}

// wantFiles checks that a refused log was left as it was found.
func wantFiles(t *testing.T, path string, files map[string][]byte, what string) {
	t.Helper()
	for _, s := range []string{"", "-wal", ".lock"} {
		if now, _ := os.ReadFile(path + s); !bytes.Equal(now, files[s]) {
			t.Errorf("%s: the log was refused, and wal.db%s changed from %d to %d bytes", what, s, len(files[s]), len(now))
		}
	}
}
