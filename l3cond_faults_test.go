package syncengine_test

// l3cond_faults_test.go takes the wire away before, in and after the COMMIT of a conditional
// transaction. Whatever the caller is told then, and what Landed answers, agrees with what the
// table holds, now and later.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// theCommit is how a COMMIT of its own looks on the wire: "COMMIT" alone is also in every SET
// TRANSACTION ISOLATION LEVEL READ COMMITTED.
const theCommit = "\x03COMMIT"

// gate is a proxy that stops one COMMIT, whether or not its client waits for it.
type gate struct {
	listener net.Listener
	seen     chan struct{} // closed when the COMMIT is there
	pass     chan bool     // whether it is delivered in the end, or its connection is cut
	armed    atomic.Bool
	pumps    sync.WaitGroup
}

func newGate(t testing.TB, upstream string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	lab.NoError(t, "listen", err)
	g := &gate{listener: l, seen: make(chan struct{}), pass: make(chan bool, 1)}
	g.pumps.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // closed below
			}
			server, err := net.Dial("tcp", upstream)
			if err != nil {
				t.Errorf("gate: %v", err)
				_ = client.Close()
				continue
			}
			g.pumps.Go(func() { _, _ = io.Copy(client, server); _ = client.Close() }) // ends when either is gone
			g.pumps.Go(func() { g.requests(client, server) })
		}
	})
	t.Cleanup(func() { // stores are closed by then, and their connections with them
		_ = l.Close()
		g.pumps.Wait()
	})
	return g
}

func (g *gate) requests(client, server net.Conn) {
	defer server.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.HasSuffix(buf[:n], []byte(theCommit)) && g.armed.CompareAndSwap(true, false) {
			close(g.seen)
			if !<-g.pass {
				_ = client.Close()
				return
			}
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// hostOf is where a database is.
func hostOf(t testing.TB, dbURL string) string {
	t.Helper()
	u, err := url.Parse(dbURL)
	lab.NoError(t, "url", err)
	return u.Host
}

// throughProxy opens a store behind a proxy, and one of the same engine that goes past it.
func throughProxy(t *testing.T, dbURL string) (p *faultproxy.Proxy, s, direct syncengine.ConditionalStore) {
	t.Helper()
	p = faultproxy.New(t, hostOf(t, dbURL))
	direct = memberAt(t, dbURL, "a")
	s = lab.ArchiveAt(t, lab.Via(t, dbURL, p)).(syncengine.ConditionalStore)
	s.(syncengine.Registrar).Fence("a")
	return p, s, direct
}

// wantToldRight asserts that what ApplyIf and Landed say is what the table holds, and that it
// stays so. It returns whether the id is there.
func wantToldRight(t testing.TB, s, direct syncengine.ConditionalStore, nonce uint64, id string, verdicts []syncengine.Verdict, told error) bool {
	t.Helper()
	unknown := errors.Is(told, syncengine.ErrUnknownOutcome)
	landed, err := s.Landed(lab.Bounded(t), nonce)
	lab.NoError(t, "landed", err)
	_, err = direct.Get(lab.Bounded(t), id)
	held := err == nil
	if err != nil && !errors.Is(err, syncengine.ErrNotFound) {
		t.Fatal(err)
	}
	if landed != held || told == nil && !held || told != nil && !unknown && held {
		t.Errorf("nonce %d: the caller was told %v, landed %v, the row is there: %v", nonce, told, landed, held)
	}
	if told != nil && !errors.Is(told, syncengine.ErrUnavailable) {
		t.Errorf("nonce %d: %v, want ErrUnavailable", nonce, told)
	}
	if (told == nil || unknown) != (len(verdicts) == 1) {
		t.Errorf("nonce %d: verdicts %v with %v", nonce, verdicts, told)
	}
	wantLanded(t, s, nonce, landed)
	wantLanded(t, direct, nonce, landed)
	return held
}

func TestINV14ALostCommitIsToldByLanded(t *testing.T) {
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	p, s, direct := throughProxy(t, dbURL)
	for n, test := range []struct {
		name    string
		arm     func()
		unknown bool
	}{
		{"executed, and no reply", func() { p.SwallowReplyTo(theCommit) }, true},
		{"cut after the reply", func() {}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			nonce, id := uint64(n+1), fmt.Sprint("id-", n)
			test.arm()
			verdicts, err := s.ApplyIf(lab.Bounded(t), nonce, insertOf(id, 1))
			p.Cut()
			p.Restore()
			if held := wantToldRight(t, s, direct, nonce, id, verdicts, err); !held || errors.Is(err, syncengine.ErrUnknownOutcome) != test.unknown {
				t.Errorf("the row is there: %v, and the caller was told %v", held, err)
			}
		})
	}
	if p.Swallowed() != 1 {
		t.Errorf("%d replies were lost", p.Swallowed())
	}
	lab.WantDigest(t, direct)
}

// TestINV14AWireCutAnywhereTellsNoLie cuts the connection after every few bytes that a
// conditional transaction sends.
func TestINV14AWireCutAnywhereTellsNoLie(t *testing.T) {
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	p, s, direct := throughProxy(t, dbURL)
	mustApply(t, s, 1, insertOf("id", 1)) // prepares statements, which later ones do not again
	kinds := make(map[string]int)
	for n := 0; n < 1000; n++ {
		nonce, id := uint64(n+2), fmt.Sprint("id-", n)
		p.CutAfter(int64(1 + n*5)) // a COMMIT has 11
		verdicts, err := s.ApplyIf(lab.Bounded(t), nonce, insertOf(id, 1))
		p.CutAfter(-1)
		held := wantToldRight(t, s, direct, nonce, id, verdicts, err)
		kinds[fmt.Sprintf("unknown %v, held %v", errors.Is(err, syncengine.ErrUnknownOutcome), held)]++
		if err == nil {
			break
		}
	}
	t.Logf("%v", kinds)
	if kinds["unknown false, held true"] != 1 || kinds["unknown false, held false"] == 0 || kinds["unknown true, held false"] == 0 {
		t.Errorf("not every kind of cut was met: %v", kinds)
	}
	lab.WantDigest(t, direct)
}

// TestINV14ACommitOnItsWayHoldsUpTheAnswer: a COMMIT hangs between client and server, and the
// caller leaves, or doesn't. Whoever asks is not answered before it has arrived, or can't any more.
func TestINV14ACommitOnItsWayHoldsUpTheAnswer(t *testing.T) {
	t.Parallel()
	db := testserver.MariaDB(t, "--innodb-lock-wait-timeout=1")
	outside := db.SQL(t)
	for _, leaves := range []bool{true, false} {
		for _, arrives := range []bool{true, false} {
			t.Run(fmt.Sprintf("caller leaves %v, COMMIT arrives %v", leaves, arrives), func(t *testing.T) {
				dbURL := db.NewDatabase(t)
				g := newGate(t, hostOf(t, dbURL))
				direct := memberAt(t, dbURL, "a")
				s := lab.ArchiveAt(t, strings.Replace(dbURL, hostOf(t, dbURL), g.listener.Addr().String(), 1)).(syncengine.ConditionalStore)
				s.(syncengine.Registrar).Fence("a")
				g.armed.Store(true)
				ctx, leave := context.WithCancel(lab.Bounded(t))
				defer leave()
				type reply struct {
					verdicts []syncengine.Verdict
					err      error
				}
				done := make(chan reply, 1)
				type landed struct {
					yes bool
					err error
				}
				answer := make(chan landed, 1)
				go func() {
					verdicts, err := s.ApplyIf(ctx, 1, insertOf("id", 1))
					done <- reply{verdicts, err}
				}()
				<-g.seen
				var got reply
				if leaves {
					leave()
					got = <-done
					if !errors.Is(got.err, syncengine.ErrUnknownOutcome) || !errors.Is(got.err, context.Canceled) || len(got.verdicts) != 1 {
						t.Errorf("the caller was told %v, %v", got.verdicts, got.err)
					}
				}
				before := lab.ServerStatus(t, outside, "innodb_row_lock_waits")
				go func() {
					yes, err := direct.Landed(lab.Bounded(t), 1)
					answer <- landed{yes, err}
				}()
				lab.Eventually(t, "the question waits a second time", func() bool { return lab.ServerStatus(t, outside, "innodb_row_lock_waits") >= before+2 })
				if len(answer) > 0 {
					t.Error("there is an answer while the COMMIT is on its way")
				}
				g.pass <- arrives
				if a := <-answer; a.err != nil || a.yes != arrives {
					t.Errorf("landed: %v, %v", a.yes, a.err)
				}
				if !leaves {
					got = <-done
					if arrives && got.err != nil || !arrives && !errors.Is(got.err, syncengine.ErrUnknownOutcome) {
						t.Errorf("the caller was told %v", got.err)
					}
					wantToldRight(t, s, direct, 1, "id", got.verdicts, got.err)
				}
				wantLanded(t, direct, 1, arrives)
				wantLanded(t, s, 1, arrives)
				if rows := lab.RowsOf(t, direct); len(rows) == 1 != arrives {
					t.Errorf("the table holds %v", rows)
				}
				lab.WantDigest(t, direct)
			})
		}
	}
}

// TestINV12ACommitThatHangsEnds: the driver's own waits for its reply whatever becomes of its
// context.
func TestINV12ACommitThatHangsEnds(t *testing.T) {
	t.Parallel()
	db := testserver.SharedMariaDB(t)
	for _, pool := range []string{"by URL", "the caller's"} {
		t.Run(pool, func(t *testing.T) {
			dbURL := db.NewDatabase(t)
			g := newGate(t, hostOf(t, dbURL))
			behind := strings.Replace(dbURL, hostOf(t, dbURL), g.listener.Addr().String(), 1)
			cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: behind, L3Timeout: 3 * time.Second, CloseTimeout: time.Second}
			if pool != "by URL" {
				cfg.SQLURL, cfg.DB, cfg.Dialect = "", testserver.OpenSQL(t, behind), "mysql"
			}
			e, err := syncengine.Open(context.Background(), cfg)
			lab.Must(t, err)
			t.Cleanup(func() { _ = e.Close() }) // the gate waits for its connections
			ctx := lab.Bounded(t)
			lab.Eventually(t, "SQL has been reached", func() bool {
				return e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("1")}, syncengine.WithDurability(syncengine.Archived)) == nil
			})
			lab.Must(t, e.Flush(ctx)) // what an earlier try has left in the log
			g.armed.Store(true)
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("2")}))
			<-g.seen
			closed := make(chan error, 1)
			go func() { closed <- e.Close() }()
			select {
			case err := <-closed:
				if pending := (*syncengine.PendingError)(nil); !errors.As(err, &pending) {
					t.Errorf("closed: %v", err)
				}
			case <-ctx.Done():
				t.Error("Close waits for a COMMIT")
			}
			g.pass <- false
		})
	}
}
