// Command syncengine looks after directories and databases of engines while their service does not
// run.
//
//	syncengine status DIR               what waits in the WAL, and in quarantine
//	syncengine wal list DIR             the ops in the WAL
//	syncengine quarantine list DIR      the ops that SQL refuses
//	syncengine quarantine retry DIR ID...    puts them back into the queue, and waits for SQL; -all for all
//	syncengine quarantine discard DIR ID...  forgets them for good; -all for all
//	syncengine drain DIR                brings what waits in the WAL to SQL; -moved if it is another database
//	syncengine verify [DIR]             compares Redis with SQL; -deep reads all rows, -repair repairs
//	syncengine explain [DIR] ID         what each tier knows of an id
//	syncengine export [DIR]             items as lines of JSON, to standard output or -file; -prefix P
//	syncengine import [DIR]             lines of JSON, from standard input or -file
//	syncengine schema print -dialect D  the tables and rights for a DBA: mysql, mariadb, sqlite
//
// # What opens the directory, and what does not
//
// status, wal list and quarantine list read files, and change nothing on disk. All others but
// schema open an engine on DIR, as the service does: what waits in its WAL is written to SQL. So
// they must be told of the service's servers, by -sql and -redis: another database would get the
// ops. Where DIR shows that the service has servers that were not named, the command refuses to
// begin (-without-redis is for a Redis that is no more). Without -sql it opens archive.db in DIR
// only where that is what the service had last, not where it has gone to another database since,
// or had one of which DIR knows no name (Config.DB, Config.L3). A directory that a running service
// has open is refused: exit code 4; and while a command runs, the service can't start on it.
// Without DIR a temporary one is used, which goes well beside a running service, as one more
// process of it; then -sql must be given. The file in the directory of a service that has no other
// database can be read so, and not written.
//
// Of import, lines before one that can't be imported are stored, those after it are not. A line is
// one value of JSON in UTF-8, as export writes it. Its version is text: "version":"5".
//
// # Servers
//
// -sql and -redis take URLs like Config.SQLURL and Config.RedisURL. Without them they are taken
// from the environment, SYNCENGINE_SQL and SYNCENGINE_REDIS, where passwords are better kept:
// command lines are visible to other users. -key-prefix is
// Config.KeyPrefix, -table-prefix is Config.TablePrefix, which DIR knows.
//
// # Output
//
// Results go to standard output, with -json as JSON (of lists one object a line), those of export
// always; drain has none. Progress and errors go to standard error. Contents are shown by export,
// and by the lists with -content, only.
//
// # Exit codes
//
//	0  all is well, or was done
//	1  something was found: ops that wait, a quarantine that is not empty, differences, an id that
//	   does not exist or is not in quarantine, a line that could not be imported, or that SQL refused
//	2  the command line is wrong
//	3  a server can't be reached, or did not answer in time; or -timeout is over, also where it was
//	   the input that did not come, or an output that nobody read
//	4  the directory is in use by a running service
//	5  the WAL, or stored content, is damaged
//	6  another error, as of writing the output
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/syncengine-go/syncengine"
)

// The exit codes.
const (
	exitOK = iota
	exitFound
	exitUsage
	exitUnavailable
	exitLocked
	exitCorrupt
	exitError
)

// errFound is the error of a command that has done its work, and found something.
var errFound = errors.New("found")

// foundError is errFound with words, which are shown as those of other errors.
type foundError struct{ text string }

func (e foundError) Error() string { return e.text }

// Is makes it errFound.
func (e foundError) Is(target error) bool { return target == errFound }

// usageError is a wrong command line.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)   // a second signal ends the process at once
	signal.Ignore(syscall.SIGPIPE) // a write that fails for it is enough: there is something to tidy up
	t := &tool{in: os.Stdin, out: &output{w: os.Stdout}, err: os.Stderr, env: os.Getenv}
	code := t.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// tool is one run of the command.
type tool struct {
	in  io.Reader
	out *output
	err io.Writer
	env func(string) string
}

// command is a subcommand.
type command struct {
	args string // after its name
	run  func(t *tool, ctx context.Context, o *options) error
	set  func(fs *flag.FlagSet, o *options) // its own flags
}

var commands = map[string]command{
	"status":             {"DIR", (*tool).status, statusFlags},
	"wal list":           {"DIR", (*tool).walList, listFlags},
	"quarantine list":    {"DIR", (*tool).quarantineList, listFlags},
	"quarantine retry":   {"DIR ID... | -all", (*tool).quarantineRetry, quarantineFlags},
	"quarantine discard": {"DIR ID... | -all", (*tool).quarantineDiscard, quarantineFlags},
	"verify":             {"[DIR]", (*tool).verify, verifyFlags},
	"explain":            {"[DIR] ID", (*tool).explain, explainFlags},
	"drain":              {"DIR", (*tool).drain, drainFlags},
	"export":             {"[DIR]", (*tool).export, exportFlags},
	"import":             {"[DIR]", (*tool).imports, importFlags},
	"schema print":       {"-dialect mysql|mariadb|sqlite", (*tool).schema, schemaFlags},
}

// run runs a command line and returns its exit code.
func (t *tool) run(ctx context.Context, args []string) int {
	err := t.dispatch(ctx, args)
	if failed := t.out.err; failed != nil && !errors.Is(err, failed) {
		if err == errFound { // nobody has read what
			err = nil
		}
		err = errors.Join(err, failed)
	}
	var wrong usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case err == errFound: // it has said what
		return exitFound
	case errors.As(err, &wrong):
		fmt.Fprintln(t.err, "syncengine:", wrong.text)
		return exitUsage
	case errors.Is(err, syncengine.ErrLocked):
		fmt.Fprintln(t.err, "syncengine: the directory is in use by a running service: stop it, or ask it (package inspect):", plain(err))
		return exitLocked
	}
	fmt.Fprintln(t.err, "syncengine:", plain(err))
	return codeOf(err)
}

// plain is the text of an error without the name of the library, which the command's begin with.
func plain(err error) string { return strings.ReplaceAll(err.Error(), "syncengine: ", "") }

// codeOf is the exit code of an error that is no matter of the command line.
func codeOf(err error) int {
	switch {
	case errors.Is(err, syncengine.ErrInvalidConfig), errors.Is(err, syncengine.ErrInvalidItem), errors.Is(err, syncengine.ErrFeatureNotBuilt):
		return exitUsage
	case errors.Is(err, syncengine.ErrWALCorrupt), errors.Is(err, syncengine.ErrCorruption):
		return exitCorrupt
	case errors.Is(err, syncengine.ErrUnavailable), errors.Is(err, syncengine.ErrPending), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syncengine.ErrBackpressure):
		return exitUnavailable
	case errors.As(err, new(*writeError)):
		return exitError
	case errors.Is(err, errFound): // and nothing worse
		return exitFound
	}
	return exitError
}

// dispatch finds the command, one word or two, and runs it.
func (t *tool) dispatch(ctx context.Context, args []string) error {
	for n := min(2, len(args)); n > 0; n-- {
		name := args[0]
		if n == 2 {
			name += " " + args[1]
		}
		if c, ok := commands[name]; ok {
			o, err := t.parse(name, c, args[n:])
			if err != nil {
				return err
			}
			return c.run(t, ctx, o)
		}
	}
	switch {
	case len(args) == 0:
		fmt.Fprint(t.err, overview)
		return usageError{"which command?"}
	case args[0] == "help" || isHelp(args[0]):
		fmt.Fprint(t.err, overview)
		return flag.ErrHelp
	}
	return t.family(args)
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

// family shows, or names, the commands that begin with a word: quarantine, say.
func (t *tool) family(args []string) error {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(commands)) {
		if first, _, _ := strings.Cut(name, " "); first == args[0] {
			names = append(names, name)
		}
	}
	switch {
	case len(names) == 0:
		return usageError{fmt.Sprintf("there is no command %q; try syncengine help", args[0])}
	case len(args) < 2 || !isHelp(args[1]):
		return usageError{fmt.Sprintf("commands that begin with %q: %s", args[0], strings.Join(names, ", "))}
	}
	for _, name := range names {
		if _, err := t.parse(name, commands[name], args[1:2]); !errors.Is(err, flag.ErrHelp) {
			return err
		}
	}
	return flag.ErrHelp
}

const overview = `syncengine looks after directories and databases of engines while their service does not run.

  syncengine status DIR                     what waits in the WAL, and in quarantine
  syncengine wal list DIR                   the ops in the WAL
  syncengine quarantine list DIR            the ops that SQL refuses
  syncengine quarantine retry DIR ID...     puts them back into the queue; -all for all
  syncengine quarantine discard DIR ID...   forgets them for good; -all for all
  syncengine drain DIR                      brings what waits in the WAL to SQL; -moved
  syncengine verify [DIR]                   compares Redis with SQL; -deep, -repair
  syncengine explain [DIR] ID               what each tier knows of an id
  syncengine export [DIR]                   all items as lines of JSON
  syncengine import [DIR]                   lines of JSON
  syncengine schema print -dialect D        the tables and rights for a DBA: mysql, mariadb, sqlite

syncengine COMMAND -h lists the flags of a command. Servers are named by -sql and -redis, or by
SYNCENGINE_SQL and SYNCENGINE_REDIS in the environment, where passwords are better kept.

Exit codes: 0 well, or done; 1 something was found; 2 wrong command line; 3 a server can't be reached;
4 the directory is in use by a running service; 5 the WAL or a content is damaged; 6 another error.
`
