package main

// online.go has the commands that open an engine.

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/syncengine-go/syncengine"
)

// with opens an engine for fn. What can't be flushed at its end is an error.
func (t *tool) with(ctx context.Context, o *options, dir string, fn func(ctx context.Context, e *syncengine.Engine) error) error {
	ctx, cancel := o.within(ctx)
	defer cancel()
	e, done, err := t.open(ctx, o, dir)
	if err != nil {
		return err
	}
	brought := 0
	if o.waited > 0 {
		_ = e.Flush(ctx) // what can't be is an error of done
		brought = int(e.Stats().DrainedOps)
	}
	err = fn(ctx, e)
	if closed := done(); closed != nil {
		if err == errFound {
			err = nil
		}
		return errors.Join(err, closed)
	}
	switch {
	case o.quiet || o.waited == 0:
	case brought < o.waited:
		fmt.Fprintf(t.err, "%d of the %d ops that waited in the WAL of %s were brought to SQL; it refuses the others\n", brought, o.waited, dir)
	default:
		fmt.Fprintf(t.err, "%d ops that waited in the WAL of %s were brought to SQL\n", o.waited, dir)
	}
	return err
}

// flush waits until SQL has what was accepted, but for what it refuses.
func flush(ctx context.Context, e *syncengine.Engine) error {
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		return err
	}
	return nil
}

// drain brings what waits in a directory to SQL, which opening and closing an engine does.
func (t *tool) drain(ctx context.Context, o *options) error {
	dir, err := o.dir()
	if err == nil {
		err = o.only(1)
	}
	if err != nil {
		return err
	}
	return t.with(ctx, o, dir, func(ctx context.Context, e *syncengine.Engine) error {
		err := e.Flush(ctx)
		if errors.Is(err, syncengine.ErrRefused) {
			return foundError{fmt.Sprintf("in quarantine are %d ops: see syncengine quarantine list", e.Stats().Quarantined)}
		}
		return err
	})
}

// optional splits the directory, which may be missing, from n more words.
func (o *options) optional(n int) (dir string, rest []string, err error) {
	if err := o.only(n + 1); err != nil {
		return "", nil, err
	}
	switch len(o.args) {
	case n + 1:
		return o.args[0], o.args[1:], nil
	case n:
		return "", o.args, nil
	}
	return "", nil, usageError{"a word is missing"}
}

func (t *tool) quarantineRetry(ctx context.Context, o *options) error {
	return t.onQuarantine(ctx, o, "retried", func(ctx context.Context, e *syncengine.Engine, ids []string) (int, error) {
		n, err := e.RetryQuarantined(ctx, ids...)
		if flushed := flush(ctx, e); err == nil {
			err = flushed
		}
		return n, err
	})
}

func (t *tool) quarantineDiscard(ctx context.Context, o *options) error {
	return t.onQuarantine(ctx, o, "discarded", func(ctx context.Context, e *syncengine.Engine, ids []string) (int, error) {
		return e.DiscardQuarantined(ctx, ids...)
	})
}

func (t *tool) onQuarantine(ctx context.Context, o *options, did string, fn func(ctx context.Context, e *syncengine.Engine, ids []string) (int, error)) error {
	dir, err := o.dir()
	if err != nil {
		return err
	}
	ids := o.args[1:]
	if len(ids) == 0 != o.all {
		return usageError{"name ids, or say -all"}
	}
	return t.with(ctx, o, dir, func(ctx context.Context, e *syncengine.Engine) error {
		ops, err := e.Quarantined(ctx)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
			return slices.ContainsFunc(ops, func(op syncengine.QuarantinedOp) bool { return op.ID == id })
		})
		if len(missing) > 0 {
			return foundError{fmt.Sprintf("not in quarantine: %q; nothing is %s", missing, did)}
		}
		n, err := fn(ctx, e, ids)
		ops, lerr := e.Quarantined(ctx)
		err = errors.Join(err, lerr)
		superseded := 0
		for _, op := range ops {
			if op.Superseded {
				superseded++
			}
		}
		if o.json {
			err = errors.Join(err, writeJSON(t.out, map[string]int{did: n, "left": len(ops), "superseded": superseded}))
		} else {
			fmt.Fprintf(t.out, "%s %d ops; %d are in quarantine, %d of them superseded\n", did, n, len(ops), superseded)
		}
		if err == nil && len(ops) > superseded {
			return errFound
		}
		return err
	})
}

// verifyView is the JSON of verify.
type verifyView struct {
	InSync            bool     `json:"in_sync"`
	RootL2            string   `json:"root_l2,omitempty"`
	RootL3            string   `json:"root_l3"`
	DivergentBranches int      `json:"divergent_branches"`
	Divergent         []string `json:"divergent"`
	Repaired          int      `json:"repaired"`
	Corrupt           []string `json:"corrupt"`
	Healed            int      `json:"healed"`
	WrongBranches     int      `json:"wrong_branches"`
}

func (t *tool) verify(ctx context.Context, o *options) error {
	dir, _, err := o.optional(0)
	if err != nil {
		return err
	}
	if o.redis == "" && !o.deep {
		return usageError{"without Redis there is nothing to compare: name it by -redis, or say -deep"}
	}
	o.audit = true
	return t.with(ctx, o, dir, func(ctx context.Context, e *syncengine.Engine) error {
		t.out.ctx = ctx
		if err := flush(ctx, e); err != nil {
			return err
		}
		t.progress(o, "").say("comparing…")
		r, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: o.repair, Deep: o.deep})
		if err != nil {
			return err
		}
		root, err := e.MerkleRoot(ctx)
		if err != nil {
			return err
		}
		v := verifyView{InSync: r.InSync, RootL3: hex.EncodeToString(root[:]), DivergentBranches: r.DivergentBranches, Repaired: r.Repaired,
			Divergent: append([]string{}, r.Divergent...), Corrupt: append([]string{}, r.Corrupt...), Healed: r.Healed, WrongBranches: r.WrongBranches}
		if o.redis != "" {
			v.RootL2 = hex.EncodeToString(r.RootL2[:])
		}
		if o.json {
			err = writeJSON(t.out, v)
		} else {
			_, err = fmt.Fprintf(t.out, "in sync: %v\nroot of SQL: %s\ndivergent: %d ids, %d repaired\ncorrupt: %d rows, %d healed\nwrong branches of the digest: %d\n",
				v.InSync, v.RootL3, len(v.Divergent), v.Repaired, len(v.Corrupt), v.Healed, v.WrongBranches)
			for _, id := range v.Divergent {
				fmt.Fprintf(t.out, "divergent %q\n", id)
			}
			for _, id := range v.Corrupt {
				fmt.Fprintf(t.out, "corrupt %q\n", id)
			}
		}
		if err == nil && !r.InSync {
			return errFound
		}
		return err
	})
}

func (t *tool) explain(ctx context.Context, o *options) error {
	dir, rest, err := o.optional(1)
	if err != nil {
		return err
	}
	return t.with(ctx, o, dir, func(ctx context.Context, e *syncengine.Engine) error {
		x, err := e.Explain(ctx, rest[0])
		if err != nil {
			return err
		}
		if o.json {
			err = writeJSON(t.out, x)
		} else {
			fmt.Fprintln(t.out, x.Verdict)
			for _, c := range []struct {
				name string
				syncengine.TierCopy
			}{{"memory", x.L1}, {"redis", x.L2}, {"sql", x.L3}} {
				fmt.Fprintf(t.out, "%-7s %s", c.name, c.State)
				if c.Version > 0 {
					fmt.Fprintf(t.out, "  version %d  %d bytes  %s", c.Version, c.Bytes, c.ContentHash)
				}
				if c.Error != "" {
					fmt.Fprintf(t.out, "  %s", c.Error)
				}
				fmt.Fprintln(t.out)
			}
			fmt.Fprintf(t.out, "pending %v, spooled %v, quarantined %d, superseded %d%s\n", x.Pending, x.Spooled, x.Quarantined, x.Superseded, note(x.Refusal != "", ": "+x.Refusal))
			_, err = fmt.Fprintf(t.out, "branch  %d%s%s\n", x.Branch, note(x.HomeInstanceID != "", "  home "+x.HomeInstanceID), note(x.CRDT != "", "  kind "+x.CRDT))
		}
		switch {
		case err != nil:
			return err
		case x.Outcome == syncengine.OutcomeNotFound:
			return errFound
		case x.Outcome == syncengine.OutcomeCorrupt:
			return syncengine.ErrCorruption
		case x.Outcome == syncengine.OutcomeUnavailable:
			return syncengine.ErrUnavailable
		}
		return nil
	})
}
