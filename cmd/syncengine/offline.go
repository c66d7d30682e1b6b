package main

// offline.go has the commands that read a directory and change nothing there.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine"
)

// statusView is the JSON of status.
type statusView struct {
	Dir string `json:"dir"`
	syncengine.DirStatus
	Quarantined int              `json:"quarantined"` // superseded ones included
	Superseded  int              `json:"superseded"`
	Files       map[string]int64 `json:"files"` // bytes
}

func (t *tool) status(ctx context.Context, o *options) error {
	v, err := o.look(ctx, nil)
	if err != nil {
		return err
	}
	if o.json {
		if err := writeJSON(t.out, v); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(t.out, "wal         %d ops, %d bytes\n", v.Ops, v.Bytes)
		if v.Ops > 0 {
			fmt.Fprintf(t.out, "segments    %d to %d\noldest      accepted %s\n", v.Trimmed+1, v.Segments, v.Oldest.Format(time.RFC3339))
		}
		if v.Database != "" {
			fmt.Fprintf(t.out, "database    %s, tables %s…\n", v.Database, v.TablePrefix)
		}
		if v.Discarded > 0 {
			fmt.Fprintf(t.out, "discarded   %d of them\n", v.Discarded)
		}
		fmt.Fprintf(t.out, "quarantine  %d ops, %d of them superseded\n", v.Quarantined, v.Superseded)
		switch {
		case v.L2Missed:
			fmt.Fprintln(t.out, "redis       has missed writes, or may have; it is compared at the next start")
		case v.MetRedis:
			fmt.Fprintln(t.out, "redis       has all that SQL has, as far as is known")
		}
		for _, name := range []string{"wal.db", "wal.db-wal", "archive.db", "archive.db-wal"} {
			if n, ok := v.Files[name]; ok {
				fmt.Fprintf(t.out, "%-11s %d bytes\n", name, n)
			}
		}
	}
	if v.Ops > v.Discarded || v.Quarantined > v.Superseded {
		return errFound
	}
	return nil
}

// look reads the directory.
func (o *options) look(ctx context.Context, each func(syncengine.LoggedOp) error) (v statusView, err error) {
	dir, err := o.dir()
	if err == nil {
		err = o.only(1)
	}
	if err != nil {
		return v, err
	}
	v = statusView{Dir: dir, Files: make(map[string]int64)}
	if v.DirStatus, err = syncengine.ReadOffline(ctx, syncengine.Config{Dir: dir, WALPath: o.wal}, each); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return v, fmt.Errorf("%s has no WAL of an engine: %w", dir, err)
		}
		return v, err
	}
	v.Quarantined = len(v.Quarantine)
	for _, op := range v.Quarantine {
		if op.Superseded {
			v.Superseded++
		}
	}
	for _, name := range []string{"wal.db", "wal.db-wal", "archive.db", "archive.db-wal"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err == nil {
			v.Files[name] = st.Size()
		}
	}
	return v, nil
}

// listedOp is the JSON of an op in the WAL.
type listedOp struct {
	syncengine.LoggedOp
	Bytes   int    `json:"bytes"`
	Content string `json:"content,omitempty"`
}

func (t *tool) walList(ctx context.Context, o *options) error {
	n := 0
	_, err := o.look(ctx, func(op syncengine.LoggedOp) error {
		n++
		if o.json {
			l := listedOp{LoggedOp: op, Bytes: len(op.Content)}
			if o.content {
				l.Content = string(op.Content)
			}
			return writeJSON(t.out, l)
		}
		_, err := fmt.Fprintf(t.out, "%d.%d  %d  %s  %-7s %7d bytes  %q%s%s\n", op.Segment, op.Unit, op.Version, op.UpdatedAt.Format(time.RFC3339),
			kindOf(op), len(op.Content), op.ID, note(op.Discarded, "  discarded"), contentOf(o.content, op.Content))
		return err
	})
	if err == nil && n > 0 {
		return errFound
	}
	return err
}

func kindOf(op syncengine.LoggedOp) string {
	switch {
	case op.Deleted:
		return "delete"
	case op.Merge:
		return "merge"
	}
	return "put"
}

func note(on bool, text string) string {
	if on {
		return text
	}
	return ""
}

// contentOf is a content that is to be shown, on a line of its own.
func contentOf(on bool, b []byte) string {
	if !on || len(b) == 0 {
		return ""
	}
	return "\n    " + strings.ReplaceAll(string(b), "\n", "\n    ")
}

// badOp is the JSON of an op in quarantine.
type badOp struct {
	ID         string    `json:"id"`
	Version    uint64    `json:"version,string"`
	Deleted    bool      `json:"deleted,omitempty"`
	Bytes      int       `json:"bytes"`
	Group      []string  `json:"group,omitempty"`
	Error      string    `json:"error"`
	Attempts   int       `json:"attempts"`
	At         time.Time `json:"at"`
	Superseded bool      `json:"superseded,omitempty"`
	Content    string    `json:"content,omitempty"`
}

func (t *tool) quarantineList(ctx context.Context, o *options) error {
	v, err := o.look(ctx, nil)
	if err != nil {
		return err
	}
	for _, op := range v.Quarantine {
		if o.json {
			b := badOp{ID: op.ID, Version: op.Version, Deleted: op.Deleted, Bytes: len(op.Content), Group: op.GroupIDs, Error: op.Error,
				Attempts: op.Attempts, At: op.At, Superseded: op.Superseded}
			if o.content {
				b.Content = string(op.Content)
			}
			if err := writeJSON(t.out, b); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(t.out, "%q  version %d, accepted %s, refused %d times%s%s: %q%s\n", op.ID, op.Version, op.At.Format(time.RFC3339), op.Attempts,
			note(op.GroupIDs != nil, fmt.Sprintf(", in a group of %d", len(op.GroupIDs))), note(op.Superseded, ", superseded"), op.Error, contentOf(o.content, op.Content))
	}
	if v.Quarantined > v.Superseded {
		return errFound
	}
	return nil
}
