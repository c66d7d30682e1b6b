package main

// kill.go shows what durability means: a child process submits documents, one by one, and
// is killed in the middle of it, without any chance to close its engine. Then we look
// which of the writes it had reported as acknowledged are there.

import (
	"bufio"
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

	"github.com/syncengine-go/syncengine"
)

const (
	// victimEnv, set to "DURABILITY:DIRECTORY", makes this program the child.
	victimEnv = "SYNCENGINE_QUICKSTART_VICTIM"
	// killSample bounds the documents it is given.
	killSample = 400
)

// victimItem is a document on its way to the child.
type victimItem struct {
	ID      string
	Content []byte // base64 keeps each byte; a nested document would be compacted
}

// victim is the child: it stores each document it reads, and prints a number per
// acknowledged one. It waits to be killed; it never closes its engine.
func victim(arg string, stdin io.Reader, stdout io.Writer) (exit int) {
	level, dir, _ := strings.Cut(arg, ":")
	durability, _ := strconv.Atoi(level)
	ctx := context.Background()
	engine, err := syncengine.Open(ctx, syncengine.Config{Dir: dir, Durability: syncengine.Durability(durability)})
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart: child:", err)
		return 1
	}
	dec := json.NewDecoder(stdin)
	for n := 1; ; n++ {
		var it victimItem
		if err := dec.Decode(&it); err != nil {
			return 1 // the parent has gone
		}
		if err := engine.Submit(ctx, syncengine.Item{ID: it.ID, Content: it.Content}); err != nil {
			fmt.Fprintln(os.Stderr, "quickstart: child:", err)
			return 1
		}
		fmt.Fprintln(stdout, n) // one write call: what is in the pipe survives us
	}
}

// killOne starts a child on a directory of its own, kills it halfway, and counts.
func (d *demo) killOne(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "quickstart-kill-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ids := d.ids[:min(killSample, len(d.ids))]
	start := time.Now()
	acked, err := d.runVictim(ctx, dir, ids)
	if err != nil {
		return err
	}
	d.row(fmt.Sprintf("child: Submit, %s, kill -9", d.durability), acked, time.Since(start), fmt.Sprintf("killed after %s", plural(acked, "acknowledged write")))
	there, took, err := d.countThere(ctx, dir, ids[:acked])
	if err != nil {
		return err
	}
	result := fmt.Sprintf("%d of %d acknowledged identical", there, acked)
	switch {
	case d.durability != syncengine.Buffered:
		d.lost += acked - there
	case there < acked:
		d.note("at -durability buffered a killed process loses what was not flushed yet, as the child above shows.")
	}
	d.row("open after the kill, read: Get", acked, took, result)
	return nil
}

// runVictim returns how many writes the child had reported when it died.
func (d *demo) runVictim(ctx context.Context, dir string, ids []string) (acked int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self) // it is killed as well when ctx ends
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d:%s", victimEnv, d.durability, dir))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() { // ends at the latest when the child's death breaks the pipe
		enc := json.NewEncoder(in)
		for _, id := range ids {
			if enc.Encode(victimItem{id, d.want[id].content}) != nil {
				return
			}
		}
	}()
	half := (len(ids) + 1) / 2
	lines := bufio.NewScanner(out)
	for lines.Scan() { // reads on after the kill: what the child said before counts
		if acked++; acked == half {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait() // "signal: killed"
	if acked < half && ctx.Err() == nil {
		return acked, errors.New("the child process ended by itself")
	}
	return acked, ctx.Err()
}

// countThere opens what the child left and counts the ids whose content is identical. took
// includes the recovery from the WAL.
func (d *demo) countThere(ctx context.Context, dir string, ids []string) (there int, took time.Duration, err error) {
	start := time.Now()
	engine, err := syncengine.Open(ctx, syncengine.Config{Dir: dir})
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if cerr := engine.Close(); !errors.Is(cerr, syncengine.ErrPending) { // pending ops are in the WAL, not lost
			err = errors.Join(err, cerr)
		}
	}()
	for _, id := range ids {
		item, err := engine.Get(ctx, id)
		switch {
		case err == nil:
			there += d.compare(id, &item)
		case !errors.Is(err, syncengine.ErrNotFound):
			return there, 0, err
		}
	}
	return there, time.Since(start), nil
}
