//go:build linux

package crash

// powerloss_test.go shows what a loss of power leaves. A child writes into a file system that
// lies in a file, by way of a loop device. At random moments it is stopped, and the file is
// copied: that is what the disk has been told to keep, without what waits in memory. The copy
// is mounted, which replays the journal as after a crash, and opened.
//
// Needs root and a loop device.

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// diskImage makes an ext4 file system in a file.
func diskImage(t testing.TB) (path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a disk image")
	}
	path = filepath.Join(t.TempDir(), "image")
	lab.Must(t, os.WriteFile(path, nil, 0o600))
	lab.Must(t, os.Truncate(path, 64<<20))
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", path).CombinedOutput(); err != nil {
		t.Skipf("needs mkfs.ext4: %v: %s", err, out)
	}
	return path
}

// mountImage mounts a disk image until the test ends, or unmount is called.
func mountImage(t testing.TB, image string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("can't mount a disk image, is there a loop device? %v: %s", err, out)
	}
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		for try := 0; ; try++ {
			out, err := exec.Command("umount", dir).CombinedOutput()
			if err == nil {
				return
			}
			if try == 20 {
				t.Errorf("umount: %v: %s", err, out)
				return
			}
			time.Sleep(100 * time.Millisecond) // what has just ended may still hold it
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// stopChild freezes a child and returns once every thread of it stands still.
func stopChild(t testing.TB, pid int) {
	t.Helper()
	lab.Must(t, syscall.Kill(pid, syscall.SIGSTOP))
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED, nil)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}

// copyStill copies a file that may be written to meanwhile, by the kernel alone, until two
// copies are the same: then they are the state of one moment.
func copyStill(t testing.TB, from string) (to string) {
	t.Helper()
	last, err := os.ReadFile(from)
	lab.Must(t, err)
	for range 100 {
		now, err := os.ReadFile(from)
		lab.Must(t, err)
		if bytes.Equal(now, last) {
			to = filepath.Join(t.TempDir(), "copy")
			lab.Must(t, os.WriteFile(to, now, 0o600))
			return to
		}
		last = now
	}
	t.Fatal("the disk image is never at rest")
	return ""
}

// losePower lets a child write and returns, for each of some rounds, how many acknowledged puts
// a loss of power took, all of them when the log does not even open.
func losePower(t *testing.T, life diskLife, rounds int) (lost []int) {
	t.Helper()
	image := diskImage(t)
	dir, _ := mountImage(t, image)
	life.Dir, life.Acks = dir, filepath.Join(t.TempDir(), "acks")
	child := life.command(t)
	lab.Must(t, child.Start())
	ended := false
	end := func() {
		if !ended {
			ended = true
			_ = child.Process.Kill()
			_ = child.Wait()
		}
	}
	t.Cleanup(end) // before the file system is unmounted
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for target := 0; len(lost) < rounds; {
		target += 20 + random.IntN(100)
		lab.Eventually(t, "the child writes", func() bool { return len(life.acks(t).puts) >= target })
		stopChild(t, child.Process.Pid)
		acks := life.acks(t)
		lost = append(lost, afterPowerLoss(t, life, copyStill(t, image), acks))
		target = len(acks.puts)
		lab.Must(t, child.Process.Signal(syscall.SIGCONT))
	}
	end()
	return lost
}

// afterPowerLoss opens the engine on a copy of the disk and counts what is missing.
func afterPowerLoss(t *testing.T, life diskLife, image string, acks diskAcks) int {
	t.Helper()
	defer func() { lab.Must(t, os.Remove(image)) }()
	dir, unmount := mountImage(t, image)
	defer unmount()
	life.Dir, life.NoSync = dir, false
	e, err := syncengine.Open(context.Background(), life.config())
	if err != nil {
		t.Logf("of %d puts none can be read: %v", len(acks.puts), err)
		return len(acks.puts)
	}
	defer func() {
		if err := e.Close(); err != nil && !errors.Is(err, syncengine.ErrPending) {
			t.Error(err)
		}
	}()
	missing := life.missing(e, acks)
	if len(missing) > 0 {
		t.Logf("of %d puts %d are missing, such as %s", len(acks.puts), len(missing), missing[0])
	}
	return len(missing)
}

// TestINV01NothingAcknowledgedIsLostByPowerLoss does so at Logged: with all in the WAL alone,
// and with SQLite as L3 on the same disk and documents large enough for checkpoints.
func TestINV01NothingAcknowledgedIsLostByPowerLoss(t *testing.T) {
	t.Parallel()
	for name, life := range map[string]diskLife{
		"the WAL alone":          {Away: true, PadTo: 300},
		"the WAL and an archive": {PadTo: 6000},
	} {
		t.Run(name, func(t *testing.T) {
			for round, n := range losePower(t, life, 10) {
				if n > 0 {
					t.Errorf("round %d: %d acknowledged puts are lost", round, n)
				}
			}
		})
	}
}

// TestPowerLossTakesWhatWasNotSynced is the proof that the test above can fail: without fsync
// the same loses much.
func TestPowerLossTakesWhatWasNotSynced(t *testing.T) {
	t.Parallel()
	all := 0
	for _, n := range losePower(t, diskLife{NoSync: true, Away: true, PadTo: 300}, 3) {
		all += n
	}
	if all == 0 {
		t.Error("nothing is lost without fsync: then this is no power loss")
	}
}
