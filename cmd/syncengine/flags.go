package main

// flags.go reads the command line, and opens the engine that it names.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine"
)

// options are the command line.
type options struct {
	args []string // what is no flag

	json, content, quiet       bool
	sql, redis, keyPrefix, wal string
	tables                     string
	withoutRedis               bool
	timeout                    time.Duration
	all                        bool
	deep, repair               bool
	file, prefix               string
	keepVersions               bool
	audit                      bool // Redis is not compared in the background
	fresh                      bool // the directory may be new
	moved                      bool
	waited                     int // ops in its WAL
	dialect, database, user    string
	from                       int
}

// parse reads flags before, between and after what is none.
func (t *tool) parse(name string, c command, args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("syncengine "+name, flag.ContinueOnError)
	flags.SetOutput(t.err)
	flags.Usage = func() {
		fmt.Fprintf(t.err, "usage: syncengine %s [flags] %s\n", name, c.args)
		flags.PrintDefaults()
	}
	c.set(flags, o)
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return nil, err
		} else if err != nil {
			return nil, usageError{"see the flags above"} // flag has said what is wrong
		}
		rest := flags.Args()
		if len(rest) == 0 {
			break
		}
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			o.args = append(o.args, rest...)
			break
		}
		o.args, args = append(o.args, rest[0]), rest[1:]
	}
	if o.timeout < 0 {
		return nil, usageError{"-timeout must not be negative"}
	}
	if flags.Lookup("sql") != nil {
		if o.sql == "" {
			o.sql = t.env("SYNCENGINE_SQL")
		}
		if o.redis == "" && !o.withoutRedis {
			o.redis = t.env("SYNCENGINE_REDIS")
		}
	}
	return o, nil
}

func jsonFlag(fs *flag.FlagSet, o *options) {
	fs.BoolVar(&o.json, "json", false, "write JSON")
}

func walFlag(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.wal, "wal", "", "`file` of the WAL (default wal.db in DIR)")
}

func statusFlags(fs *flag.FlagSet, o *options) {
	jsonFlag(fs, o)
	walFlag(fs, o)
}

func listFlags(fs *flag.FlagSet, o *options) {
	statusFlags(fs, o)
	fs.BoolVar(&o.content, "content", false, "show contents, which may hold secrets")
}

func serverFlags(fs *flag.FlagSet, o *options) {
	walFlag(fs, o)
	fs.StringVar(&o.sql, "sql", "", "`URL` of the SQL database (default $SYNCENGINE_SQL, or archive.db in DIR if that is the service's)")
	fs.StringVar(&o.redis, "redis", "", "`URL` of Redis (default $SYNCENGINE_REDIS, or none)")
	fs.StringVar(&o.keyPrefix, "key-prefix", "", "what precedes ids in Redis (default \"sync:\")")
	tablesFlag(fs, o, `that of DIR, or "sync_"`)
	fs.BoolVar(&o.withoutRedis, "without-redis", false, "go on without the Redis that the directory has known")
	fs.DurationVar(&o.timeout, "timeout", 0, "bound on the whole command (default none)")
	fs.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
}

func explainFlags(fs *flag.FlagSet, o *options) {
	jsonFlag(fs, o)
	serverFlags(fs, o)
}

func quarantineFlags(fs *flag.FlagSet, o *options) {
	jsonFlag(fs, o)
	serverFlags(fs, o)
	fs.BoolVar(&o.all, "all", false, "all ops in quarantine")
}

func drainFlags(fs *flag.FlagSet, o *options) {
	serverFlags(fs, o)
	fs.BoolVar(&o.moved, "moved", false, "also into another database than that for which the ops were accepted")
}

func verifyFlags(fs *flag.FlagSet, o *options) {
	jsonFlag(fs, o)
	serverFlags(fs, o)
	fs.BoolVar(&o.deep, "deep", false, "read all rows and recompute everything")
	fs.BoolVar(&o.repair, "repair", false, "make Redis hold what SQL holds, and heal rows")
}

func fileFlags(fs *flag.FlagSet, o *options) {
	serverFlags(fs, o)
	fs.StringVar(&o.file, "file", "", "`file` to write or read (default standard output or input)")
}

func exportFlags(fs *flag.FlagSet, o *options) {
	fileFlags(fs, o)
	fs.StringVar(&o.prefix, "prefix", "", "only items whose ids begin with `PREFIX`")
}

func importFlags(fs *flag.FlagSet, o *options) {
	jsonFlag(fs, o)
	fileFlags(fs, o)
	o.fresh = true
	fs.BoolVar(&o.keepVersions, "keep-versions", false, "give items the versions of the file; what is older than what is there is left out")
}

func tablesFlag(fs *flag.FlagSet, o *options, byDefault string) {
	fs.StringVar(&o.tables, "table-prefix", "", "what the names of tables begin with (default "+byDefault+")")
}

func schemaFlags(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.dialect, "dialect", "", "mysql, mariadb or sqlite")
	tablesFlag(fs, o, `"sync_"`)
	fs.StringVar(&o.database, "database", "sync", "name of the database, for the rights")
	fs.StringVar(&o.user, "user", "app@'%'", "account of the service, for the rights")
	fs.IntVar(&o.from, "from", 0, "version of the tables to upgrade, 0 for an empty database:\nSELECT MAX(version) FROM sync_schema")
	jsonFlag(fs, o)
}

// dir returns the directory that must be named.
func (o *options) dir() (string, error) {
	if len(o.args) == 0 {
		return "", usageError{"which directory?"}
	}
	return o.args[0], nil
}

// only refuses more words than a command has.
func (o *options) only(n int) error {
	if len(o.args) > n {
		return usageError{fmt.Sprintf("what is %q?", o.args[n])}
	}
	return nil
}

// open opens an engine, on a temporary directory when dir is "". done closes it: its error is that
// of what could not be flushed. SQL must answer.
func (t *tool) open(ctx context.Context, o *options, dir string) (e *syncengine.Engine, done func() error, err error) {
	if err := o.mayOpen(ctx, dir); err != nil {
		return nil, nil, err
	}
	if o.moved {
		if err := syncengine.ForgetDatabase(ctx, syncengine.Config{Dir: dir, WALPath: o.wal}); err != nil {
			return nil, nil, err
		}
	}
	temp := ""
	if dir == "" {
		if temp, err = os.MkdirTemp("", "syncengine-"); err != nil {
			return nil, nil, err
		}
		dir = temp
	}
	remove := func() error {
		if temp == "" {
			return nil
		}
		return os.RemoveAll(temp)
	}
	cfg := syncengine.Config{Dir: dir, WALPath: o.wal, SQLURL: o.sql, RedisURL: o.redis, KeyPrefix: o.keyPrefix, TablePrefix: o.tables, InstanceID: "syncengine command"}
	if o.audit {
		cfg.VerifyInterval = -1
	}
	if e, err = syncengine.Open(ctx, cfg); err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	done = func() error {
		if err := e.Close(); err != nil {
			if temp != "" {
				return fmt.Errorf("%w; it is in %s", err, temp)
			}
			return err
		}
		return remove()
	}
	if h := e.Health(ctx); !h.L3.OK {
		return nil, nil, errors.Join(fmt.Errorf("SQL: %w: %s", syncengine.ErrUnavailable, h.L3.Error), ignorePending(done()))
	} else if o.redis != "" && !h.L2.OK {
		return nil, nil, errors.Join(fmt.Errorf("redis: %w: %s", syncengine.ErrUnavailable, h.L2.Error), ignorePending(done()))
	}
	return e, done, nil
}

// ignorePending drops the error of ops that stay where they were.
func ignorePending(err error) error {
	if errors.Is(err, syncengine.ErrPending) {
		return nil
	}
	return err
}

// mayOpen refuses to open an engine on other servers than those of the service.
func (o *options) mayOpen(ctx context.Context, dir string) error {
	if dir == "" {
		if o.sql == "" {
			return usageError{"name a directory, or a database by -sql"}
		}
		return nil
	}
	st, err := syncengine.ReadOffline(ctx, syncengine.Config{Dir: dir, WALPath: o.wal}, nil)
	if errors.Is(err, fs.ErrNotExist) && o.fresh {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no WAL of an engine: %w", dir, err)
	}
	if err != nil {
		return err
	}
	if o.sql == "" {
		if err := isInDir(dir, st.Database); err != nil {
			return err
		}
	}
	o.waited = st.Ops - st.Discarded
	if st.TablePrefix != "" && o.tables != "" && st.TablePrefix != o.tables {
		return usageError{fmt.Sprintf("the tables of the service of %s have names that begin with %q", dir, st.TablePrefix)}
	}
	o.tables = cmp.Or(o.tables, st.TablePrefix)
	if st.MetRedis && o.redis == "" && !o.withoutRedis {
		return usageError{"the service of " + dir + " has a Redis: name it by -redis, or say -without-redis if it is no more"}
	}
	return nil
}

// isInDir refuses a directory whose service has, or may have, a database that is not archive.db in
// it. An archive.db may be there from before.
func isInDir(dir, database string) error {
	if database == "" { // a handle of the service's own, say
		return usageError{"which database the service of " + dir + " has is not known: name it by -sql"}
	}
	if !strings.HasPrefix(database, "archive.db in ") {
		return usageError{"the service of " + dir + " has the database " + database + ": name it by -sql"}
	}
	if _, err := os.Stat(filepath.Join(dir, "archive.db")); err != nil {
		return usageError{dir + " has no archive.db any more: bring it back, or name a database by -sql"}
	}
	return nil
}

// within bounds a command.
func (o *options) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, o.timeout)
}

// writeJSON writes one value a line.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// progress tells of long work, every two seconds.
type progress struct {
	w    io.Writer
	what string
	last time.Time
}

func (t *tool) progress(o *options, what string) *progress {
	p := &progress{w: t.err, what: what, last: time.Now()}
	if o.quiet {
		p.w = io.Discard
	}
	return p
}

func (p *progress) at(n int) {
	if time.Since(p.last) > 2*time.Second {
		p.last = time.Now()
		fmt.Fprintf(p.w, "%d %s…\n", n, p.what)
	}
}

// say tells of one thing.
func (p *progress) say(text string) { fmt.Fprintln(p.w, text) }

func (p *progress) end(n int) { fmt.Fprintf(p.w, "%d %s\n", n, p.what) }
