package sqlkit

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestAStatementIsPreparedOnce(t *testing.T) {
	srv := testserver.MariaDB(t)
	db, ctx := openPool(t, srv), context.Background()
	prepares := func() (n int) {
		var name string
		if err := srv.SQL(t).QueryRowContext(ctx, "SHOW GLOBAL STATUS LIKE 'Com_stmt_prepare'").Scan(&name, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, text := range []string{"SELECT 1", "SELECT 2", "SELECT 3"} {
		var all Statements
		before := prepares()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if st, err := all.Get(ctx, db, text); err != nil || st == nil {
					t.Errorf("%v, %v", st, err)
				}
			})
		}
		wg.Wait()
		if n := prepares() - before; n != 1 {
			t.Errorf("16 callers made the server prepare %d statements, want 1", n)
		}
		if err := all.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWhoWaitsForAStatementEndsWithItsOwnContext(t *testing.T) {
	db, ctx := openPool(t, testserver.MariaDB(t)), context.Background()
	db.pool.SetMaxOpenConns(1)
	only, err := db.pool.Conn(ctx) // to prepare waits for it
	if err != nil {
		t.Fatal(err)
	}
	const text = "SELECT 1"
	var all Statements
	get := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := all.Get(ctx, db, text)
			done <- err
		}()
		return done
	}
	prepares, cancel := context.WithCancel(ctx)
	first := get(prepares)
	underWay := func() *prepared {
		all.mu.Lock()
		defer all.mu.Unlock()
		return all.all[statementKey{db, text}]
	}
	for underWay() == nil {
		time.Sleep(time.Millisecond) // until it prepares
	}
	brief, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	if err := <-get(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who waits while its context ends: %v", err)
	}
	second, was := get(ctx), underWay()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who prepares while its context ends: %v", err)
	}
	for p := underWay(); p == nil || p == was; p = underWay() {
		time.Sleep(time.Millisecond) // until the other one does
	}
	if err := only.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Errorf("who waited for one whose context ended: %v", err)
	}
}

// lateDialer connects to nothing until the deadline of its context has passed, and fails as a dial
// does that it has caught half-way: the network knows of it before the context's timer fires.
type lateDialer chan struct{}

func (d lateDialer) Driver() driver.Driver { return nil }

func (d lateDialer) Connect(ctx context.Context) (driver.Conn, error) {
	at, ok := ctx.Deadline()
	if !ok {
		return nil, errPatient
	}
	close(d)
	for time.Now().Before(at) {
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
}

var errPatient = errors.New("who has no deadline has asked")

func TestWhoWaitsForAStatementGetsNoTimeoutOfAnother(t *testing.T) {
	for range 5 {
		dialing := make(lateDialer)
		pool := sql.OpenDB(dialing)
		db, all := NewDB(pool, MySQL, ""), Statements{}
		brief, stop := context.WithTimeout(context.Background(), 20*time.Millisecond)
		first := make(chan error, 1)
		go func() {
			_, err := all.Get(brief, db, "SELECT 1")
			first <- err
		}()
		<-dialing
		if _, err := all.Get(context.Background(), db, "SELECT 1"); !errors.Is(err, errPatient) {
			t.Errorf("who has no deadline: %v, want that it asks for itself", err)
		}
		if err := <-first; err == nil {
			t.Error("who has 20 ms has a statement")
		}
		stop()
		_ = pool.Close()
	}
}

func openPool(t *testing.T, srv *testserver.Server) *DB {
	t.Helper()
	return poolAt(t, srv.URL())
}

func poolAt(t *testing.T, url string) *DB {
	t.Helper()
	src, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	pools, err := src.Open("", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pools.Close() })
	return pools.Write
}
