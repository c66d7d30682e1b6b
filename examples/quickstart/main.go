// Command quickstart stores real JSON documents in a syncengine, reads them back from
// every tier, closes and reopens the engine, kills one in the middle of its work, and
// checks each byte that comes back. It needs no server: without flags the ground truth is
// a SQLite file in a temporary directory.
//
//	go run ./examples/quickstart                      # some 300 documents of `go list -json std`
//	go run ./examples/quickstart events.jsonl         # your own, one a line or just one after the other
//	curl … | go run ./examples/quickstart -id user.id
//	go run ./examples/quickstart -redis redis://127.0.0.1:6379/0 -sql 'mysql://user:pass@127.0.0.1:3306/db'
//
// To learn the API read demo.go: each step of it is one function of a few lines. input.go
// reads the documents, report.go prints the table, kill.go is the child process that gets
// killed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/syncengine-go/syncengine"
)

func main() {
	if dir := os.Getenv(victimEnv); dir != "" {
		os.Exit(victim(dir, os.Stdin, os.Stdout)) // we are the child process of kill.go
	}
	// After the first Ctrl-C the steps below end and the engine is closed properly; stop
	// gives a second one its usual meaning.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "quickstart: interrupted; the engine was closed properly")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	file       string // "" or "-": standard input
	idField    string
	dir        string
	keep       bool
	redis, sql string
	durability syncengine.Durability
	group      int
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{durability: syncengine.Logged}
	fs := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, "Usage: quickstart [flags] [FILE]\n\nFILE holds JSON documents, one after the other; \"-\" or none is standard input.\n"+
			"Without input the documents of `go list -json std` are taken.\n\n")
		fs.PrintDefaults()
	}
	fs.StringVar(&o.idField, "id", "", "`FIELD` that is the id, a.b for nested ones (default: \"id\", else the line number)")
	fs.StringVar(&o.dir, "dir", "", "directory of the engine, made if missing and kept (default: a temporary one)")
	fs.BoolVar(&o.keep, "keep", false, "keep the temporary directory")
	fs.StringVar(&o.redis, "redis", "", "`URL` of L2 (default: no L2)")
	fs.StringVar(&o.sql, "sql", "", "`URL` of L3 (default: SQLite in the directory)")
	fs.IntVar(&o.group, "group", 100, "items per SubmitMany; 1: one Submit each")
	fs.Func("durability", "what a write has reached when Submit returns: buffered, logged or archived (default logged)", func(s string) error {
		for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
			if d.String() == s {
				o.durability = d
				return nil
			}
		}
		return errors.New("must be buffered, logged or archived")
	})
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 1 {
		return o, fmt.Errorf("one file at most, got %d: flags come before the file", fs.NArg())
	}
	if o.group < 1 {
		return o, fmt.Errorf("-group must be at least 1, is %d", o.group)
	}
	o.file = fs.Arg(0)
	return o, nil
}

// run is main without the process around it, so that a test can call it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	in, err := readInput(ctx, o, stdin, stderr)
	if err != nil {
		return err
	}
	temp := o.dir == ""
	if temp {
		o.dir, err = os.MkdirTemp("", "quickstart-*")
	} else {
		err = os.MkdirAll(o.dir, 0o700) // the engine does not make it: a wrong path must not look like lost data
	}
	if err != nil {
		return err
	}
	if temp && !o.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	} else {
		defer fmt.Fprintln(stdout, "The data is in "+o.dir)
	}
	return newDemo(o, in, stdout, stderr).run(ctx)
}
