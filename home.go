package syncengine

// home.go keeps, in the WAL file, for which database its ops were accepted: what waits there lands
// in no other one. A service that is started without its SQL URL, or with another one, would
// drain acknowledged writes to where nobody looks for them.
//
// A database is known by its identity, which is in its tables, once it has answered; until then by
// its place, which is what Config says. It is another one when both differ: one that has moved has
// its identity, and one that was made anew has its place. While nothing waits, a Dir may go to any
// database.
//
// What is not noticed: a change of the URL of a database that has never answered, or while neither
// answers: what is accepted then waits together with what did before. A Config.L3 has no identity.

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const homeKey = "home"

// home is a database.
type home struct {
	Identity string `json:"identity,omitempty"` // "" while it has not answered
	// Place is without user and password; "" for a handle or a store of the caller's, which may be
	// any.
	Place  string `json:"place,omitempty"`
	Prefix string `json:"table_prefix,omitempty"`
}

// placeInDir is what the place of the file in a Dir begins with.
const placeInDir = "archive.db in "

// inDir reports whether a place is that of the file in a Dir.
func inDir(place string) bool { return strings.HasPrefix(place, placeInDir) }

// homeOf is what a Config says.
func homeOf(cfg *Config) home {
	h := home{Prefix: cfg.TablePrefix}
	switch {
	case cfg.L3 != nil:
		return home{}
	case cfg.DB != nil:
	case cfg.SQLURL == "":
		h.Place = placeInDir + cfg.Dir
		if abs, err := filepath.Abs(cfg.Dir); err == nil {
			h.Place = placeInDir + abs
		}
	default:
		if src, err := sqlkit.Parse(cfg.SQLURL); err == nil {
			h.Place = src.Place()
		}
	}
	return h
}

// other reports whether b is surely not a.
func (a home) other(b home) bool {
	if a.Place != "" && a.Place == b.Place && a.Prefix == b.Prefix {
		return false
	}
	if a.Identity != "" && b.Identity != "" {
		return a.Identity != b.Identity
	}
	// The file in the Dir would answer.
	return a.Place != "" && b.Place != "" && inDir(a.Place) != inDir(b.Place)
}

func (a home) String() string {
	if a.Place == "" {
		return "the database with the identity " + a.Identity
	}
	return a.Place
}

// homeKeeper compares L3 with the home of what waits.
type homeKeeper struct {
	wal *journal

	mu  sync.Mutex // guards is, and that one goroutine compares
	is  home
	cfg home
}

// Load is told whether anything waits. identity is that of L3, "" while it does not answer.
func (k *homeKeeper) Load(ctx context.Context, cfg *Config, waits bool, identity string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cfg = homeOf(cfg)
	b, err := k.wal.Meta(ctx, homeKey)
	if err != nil {
		return err
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &k.is); err != nil {
			return walError(fmt.Errorf("%w: home: %w", ErrWALCorrupt, err))
		}
	}
	if len(b) == 0 || !waits {
		is := k.cfg
		if is.Identity = identity; identity == "" && is.Place != "" && k.is.Place == is.Place && k.is.Prefix == is.Prefix {
			is.Identity = k.is.Identity
		}
		if err := k.set(ctx, is); err != nil {
			return err
		}
	}
	if k.is.Prefix != k.cfg.Prefix && k.cfg.Prefix != "" && k.is.Prefix != "" {
		return &ConfigError{Field: "TablePrefix", Value: strconv.Quote(k.cfg.Prefix),
			Rule: fmt.Sprintf("must be %q, as it was, until what waits in the WAL or in quarantine has landed", k.is.Prefix)}
	}
	return k.check(ctx, identity)
}

// Check is told whenever L3 has answered, before anything is written there. The error is a
// *SetupError if what waits is not for it.
func (k *homeKeeper) Check(ctx context.Context, identity string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.check(ctx, identity)
}

func (k *homeKeeper) check(ctx context.Context, identity string) error {
	now := k.cfg
	now.Identity = identity
	if k.is.other(now) {
		return &SetupError{Server: "SQL", Problem: "what waits in Dir was accepted for another database: " + k.is.String(),
			Mend: "name that one in Config, or in a command, until nothing waits any more; if the other one is meant: syncengine drain -moved, or ForgetDatabase"}
	}
	if identity == "" {
		return nil
	}
	return k.set(ctx, now)
}

func (k *homeKeeper) set(ctx context.Context, is home) error {
	if is == k.is {
		return nil
	}
	b, err := json.Marshal(is)
	if err != nil {
		return err
	}
	if err := k.wal.SetMeta(ctx, homeKey, b); err != nil {
		return err
	}
	k.is = is
	return nil
}
