package sqlkit

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// behind returns a pool of one connection, behind a proxy.
func behind(t *testing.T) (*DB, *faultproxy.Proxy) {
	t.Helper()
	u, err := url.Parse(testserver.MariaDB(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := faultproxy.New(t, u.Host)
	u.Host = proxy.Addr()
	db := poolAt(t, u.String())
	db.pool.SetMaxOpenConns(1)
	return db, proxy
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came: " + what)
		}
	}
}

func TestACallerThatLeavesLeavesItsConnection(t *testing.T) {
	ctx := context.Background()
	reads := map[string]func(ctx context.Context, db *DB, all *Statements) error{
		"a row": func(ctx context.Context, db *DB, _ *Statements) error {
			var one int
			return db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
		},
		"rows": func(ctx context.Context, db *DB, _ *Statements) error {
			rows, err := db.QueryContext(ctx, "SELECT 1")
			if err != nil {
				return err
			}
			return rows.Close()
		},
		"a row of a statement": func(ctx context.Context, db *DB, all *Statements) error {
			st, err := all.Get(ctx, db, "SELECT 2")
			if err != nil {
				return err
			}
			var two int
			return st.QueryRowContext(ctx).Scan(&two)
		},
		"rows of a statement": func(ctx context.Context, db *DB, all *Statements) error {
			st, err := all.Get(ctx, db, "SELECT 3")
			if err != nil {
				return err
			}
			rows, err := st.QueryContext(ctx)
			if err != nil {
				return err
			}
			return rows.Close()
		},
		"a statement that is not prepared": func(ctx context.Context, db *DB, _ *Statements) error {
			_, err := new(Statements).Get(ctx, db, "SELECT 4")
			return err
		},
	}
	db, proxy := behind(t)
	var all Statements
	for name, read := range reads {
		if err := read(ctx, db, &all); err != nil { // it connects, and prepares
			t.Fatalf("%s: %v", name, err)
		}
		before := proxy.Connections()
		for range 3 {
			proxy.Hold()
			brief, stop := context.WithTimeout(ctx, 20*time.Millisecond)
			if err := read(brief, db, &all); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: who has 20 ms gets %v", name, err)
			}
			stop()
			leaves, leave := context.WithCancel(ctx)
			time.AfterFunc(10*time.Millisecond, leave)
			if err := read(leaves, db, &all); !errors.Is(err, context.Canceled) { // it waits for the connection
				t.Errorf("%s: who leaves gets %v", name, err)
			}
			proxy.Release()
			if err := read(ctx, db, &all); err != nil {
				t.Errorf("%s: the next one gets %v", name, err)
			}
		}
		if n := proxy.Connections() - before; n != 0 {
			t.Errorf("%s: three callers that left cost %d connections", name, n)
		}
		eventually(t, "nothing in use", func() bool { return db.pool.Stats().InUse == 0 })
	}
	if err := all.Close(); err != nil {
		t.Error(err)
	}
}

func TestAConnectionIsMadeThoughItsCallerHasLeft(t *testing.T) {
	db, proxy := behind(t)
	ctx := context.Background()
	var one int
	proxy.Hold()
	brief, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	if err := db.QueryRowContext(brief, "SELECT 1").Scan(&one); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who has 20 ms gets %v", err)
	}
	proxy.Release()
	if err := db.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		t.Error(err)
	}
	if n := proxy.Connections(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

// A server that hangs keeps no connection for good, and no goroutine.
func TestAReplyThatDoesNotComeIsNotAwaitedForLong(t *testing.T) {
	db, proxy := behind(t)
	ctx := context.Background()
	var id, was int
	if err := db.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&was); err != nil {
		t.Fatal(err)
	}
	brief, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	if err := db.QueryRowContext(brief, "SELECT SLEEP(3600)").Scan(&id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who has 20 ms gets %v", err)
	}
	bounded, end := context.WithTimeout(ctx, time.Minute)
	defer end()
	if err := db.QueryRowContext(bounded, "SELECT CONNECTION_ID()").Scan(&id); err != nil || id == was {
		t.Errorf("the next one gets connection %d after %d, %v", id, was, err)
	}
	if n := proxy.Connections(); n != 2 {
		t.Errorf("%d connections were made, want 2", n)
	}
}

func TestRowsEndWithTheirCaller(t *testing.T) {
	db, _ := behind(t)
	const endless = "SELECT REPEAT('x', 100000) FROM information_schema.collations AS a, information_schema.collations AS b"
	brief, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	rows, err := db.QueryContext(brief, endless)
	if err != nil {
		t.Fatal(err)
	}
	if !rows.Next() {
		t.Fatal(rows.Err())
	}
	<-brief.Done()
	for rows.Next() {
	}
	if err := rows.Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("rows whose caller has left: %v, want its timeout", err)
	}
	if err := rows.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "nothing in use", func() bool { return db.pool.Stats().InUse == 0 })
	var one int
	if err := db.QueryRowContext(context.Background(), "SELECT 1").Scan(&one); err != nil {
		t.Error(err)
	}
}
