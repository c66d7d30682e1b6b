package syncengine_test

// update_bench_test.go measures read-change-write beside what one would do by hand on the same
// server, in the same run, in turns.

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// BenchmarkUpdate: 16 goroutines add to one counter. By hand it is UPDATE … SET n = n + 1, each a
// transaction of its own.
func BenchmarkUpdate(b *testing.B) {
	for _, c := range []struct {
		name    string
		engines int
		url     func(b *testing.B) string
	}{
		{"private SQLite", 1, func(*testing.B) string { return "" }},
		{"MariaDB, 1 engine", 1, func(b *testing.B) string { return testserver.SharedMariaDB(b).NewDatabase(b) }},
		{"MariaDB, 2 engines", 2, func(b *testing.B) string { return testserver.SharedMariaDB(b).NewDatabase(b) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			url := c.url(b)
			var engines []*syncengine.Engine
			for range c.engines {
				e := lab.Open(b, syncengine.Config{SQLURL: url})
				_, err := e.Update(context.Background(), "first", lab.Increment) // for which it waits until the others know it
				lab.Must(b, err)
				engines = append(engines, e)
			}
			hand := byHand(b, url)
			var ours, theirs time.Duration
			total := 0
			for total < b.N {
				n := min(1600, b.N-total) / 16
				n = max(n, 1)
				ours += race16(b, n, func(g int) error {
					_, err := engines[g%len(engines)].Update(context.Background(), "counter", lab.Increment)
					return err
				})
				theirs += race16(b, n, func(int) error {
					_, err := hand.Exec("UPDATE counter SET n = n + 1 WHERE id = 1")
					return err
				})
				total += 16 * n
			}
			b.ReportMetric(float64(total)/ours.Seconds(), "updates/s")
			b.ReportMetric(float64(total)/theirs.Seconds(), "by-hand/s")
			it, err := engines[0].Get(context.Background(), "counter")
			if len(engines) == 1 && (err != nil || string(it.Content) != fmt.Sprint(total)) {
				b.Errorf("the counter is %s, %v, want %d", it.Content, err, total)
			}
		})
	}
}

// byHand opens a table with one counter, in SQLite when there is no url.
func byHand(b *testing.B, url string) *sql.DB {
	b.Helper()
	var db *sql.DB
	if url == "" {
		var err error
		db, err = sql.Open("sqlite", "file:"+b.TempDir()+"/hand.db?_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
		lab.Must(b, err)
		db.SetMaxOpenConns(1)
		b.Cleanup(func() { _ = db.Close() })
	} else {
		db = testserver.OpenSQL(b, url)
		db.SetMaxIdleConns(16)
	}
	for _, text := range []string{"CREATE TABLE counter (id INT PRIMARY KEY, n BIGINT)", "INSERT INTO counter VALUES (1, 0)"} {
		_, err := db.Exec(text)
		lab.Must(b, err)
	}
	return db
}

// race16 has 16 goroutines do something n times each.
func race16(b *testing.B, n int, do func(g int) error) time.Duration {
	start := time.Now()
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for range n {
				if err := do(g); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// updateEnv makes this binary a child with an engine on the URL in it: for each number on its
// standard input it adds to the counter so often, by 8 goroutines, and says so.
const updateEnv = "SYNCENGINE_UPDATE_CHILD"

func init() {
	if url := os.Getenv(updateEnv); url != "" {
		if err := runUpdateChild(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

func runUpdateChild(url string) error {
	dir, err := os.MkdirTemp("", "update-child-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	e, err := syncengine.Open(context.Background(), syncengine.Config{Dir: dir, SQLURL: url})
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }()
	lab.Say("ready")
	for n := 0; ; lab.Say("done") {
		if _, err := fmt.Scanln(&n); err != nil {
			return nil // the parent has closed it
		}
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for range cap(errs) {
			wg.Go(func() {
				for range n {
					if _, err := e.Update(context.Background(), "counter", lab.Increment); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		wg.Wait()
		select {
		case err := <-errs:
			return err
		default:
		}
	}
}

// startUpdateChild returns what asks a child for n updates by each of its goroutines, and waits.
func startUpdateChild(b *testing.B, url string) (ask func(n int)) {
	cmd := exec.Command(lab.ChildBinary(b))
	cmd.Env = append(os.Environ(), updateEnv+"="+url)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	lab.Must(b, err)
	out, err := cmd.StdoutPipe()
	lab.Must(b, err)
	lab.Must(b, cmd.Start())
	b.Cleanup(func() { _, _ = in.Close(), cmd.Wait() })
	lines := bufio.NewScanner(out)
	await := func(want string) {
		if !lines.Scan() || lines.Text() != want {
			b.Fatalf("the child says %q, want %q", lines.Text(), want)
		}
	}
	await("ready")
	return func(n int) {
		_, err := fmt.Fprintln(in, n)
		lab.Must(b, err)
		await("done")
	}
}

// BenchmarkUpdateByTwoProcesses is BenchmarkUpdate with two engines in processes of their own.
func BenchmarkUpdateByTwoProcesses(b *testing.B) {
	url := testserver.SharedMariaDB(b).NewDatabase(b)
	hand := byHand(b, url)
	var children []func(n int)
	for range 2 {
		children = append(children, startUpdateChild(b, url))
	}
	var ours, theirs time.Duration
	total := 0
	for total < b.N {
		n := max(1, min(1600, b.N-total)/16)
		start := time.Now()
		var wg sync.WaitGroup
		for _, ask := range children {
			wg.Go(func() { ask(n) })
		}
		wg.Wait()
		ours += time.Since(start)
		theirs += race16(b, n, func(int) error {
			_, err := hand.Exec("UPDATE counter SET n = n + 1 WHERE id = 1")
			return err
		})
		total += 16 * n
	}
	b.ReportMetric(float64(total)/ours.Seconds(), "updates/s")
	b.ReportMetric(float64(total)/theirs.Seconds(), "by-hand/s")
	it, err := lab.Open(b, syncengine.Config{SQLURL: url}).Get(context.Background(), "counter")
	if err != nil || string(it.Content) != fmt.Sprint(total) {
		b.Fatalf("the counter is %s, %v, want %d", it.Content, err, total)
	}
}
