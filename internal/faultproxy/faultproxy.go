// Package faultproxy is a TCP proxy in front of a loopback server that makes the
// wire fail on command: cut, hang, delay, break in the middle of a request, lose
// a reply.
//
// It owns its listener and connections and must never interpret what passes
// through, beyond SwallowReplyTo's search for a piece of text. Goroutines: one
// accept loop per listener and two pumps per connection; Close awaits them all.
package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/filelock"
)

// quiet is how long a server must say nothing before a swallowed reply counts
// as complete: a pipeline is then executed to its end, not to its first reply.
const quiet = 50 * time.Millisecond

// Proxy forwards connections to one upstream address. Its methods are safe for
// concurrent use and apply to open and new connections alike.
type Proxy struct {
	t        testing.TB
	upstream string
	addr     string
	ctx      context.Context // ends at Close
	stop     context.CancelFunc
	pumps    sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	listener net.Listener
	links    map[*link]struct{}
	accepted int
	closed   bool          // Close was called: no new links
	open     chan struct{} // closed unless held
	delay    time.Duration
	budget   int64 // bytes client to server until the cut; < 0: no limit
	swallow  bool
	match    []byte // swallow the reply to a request with this text; nil: none
	mutes    bool   // mute the connection instead
	lost     int
}

// link is one client connection with its connection to the server.
type link struct {
	client, server net.Conn
	done           chan struct{} // closed with the connections
	swallow        bool          // guarded by Proxy.mu: drop replies, then close
	muted, counted bool          // guarded by Proxy.mu: drop replies; and one was
}

// New starts a proxy in front of upstream (host:port) that is closed when the
// test ends.
func New(t testing.TB, upstream string) *Proxy {
	t.Helper()
	p := &Proxy{t: t, upstream: upstream, links: map[*link]struct{}{}, open: make(chan struct{}), budget: -1}
	close(p.open)
	p.ctx, p.stop = context.WithCancel(context.Background())
	// Not port 0: a port from the kernel's range for outgoing connections could
	// go to somebody else, even to the redialling client itself, during a Cut.
	err := errors.New("no free port")
	for try := 0; try < 100 && err != nil; try++ {
		port := 30000 + rand.IntN(2700)
		p.addr = fmt.Sprintf("127.0.0.1:%d", port)
		// Other programs' proxies are not to take it during a Cut either.
		var mine *filelock.Lock
		if mine, err = filelock.Acquire(filepath.Join(os.TempDir(), fmt.Sprintf("syncengine-proxy-%d.lock", port))); err != nil {
			continue
		}
		if err = p.listen(); err == nil {
			t.Cleanup(func() {
				p.Close()
				_ = mine.Release() // it ends with the program at the latest
			})
			return p
		}
		_ = mine.Release()
	}
	t.Fatalf("faultproxy: %v", err)
	return p
}

// Addr is the host:port that clients dial. It stays the same.
func (p *Proxy) Addr() string { return p.addr }

// Connections counts the connections accepted so far.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Swallowed counts the connections whose reply was lost on purpose.
func (p *Proxy) Swallowed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Cut closes all connections and refuses new ones until Restore.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutLinks()
	if p.listener != nil {
		_ = p.listener.Close() // open for sure: it is closed only here
		p.listener = nil
	}
}

// Restore ends a Cut. Harmless without one.
func (p *Proxy) Restore() {
	if err := p.listen(); err != nil {
		p.t.Errorf("faultproxy: %v", err)
	}
}

// CutConnections closes all connections and goes on to accept new ones.
func (p *Proxy) CutConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutLinks()
}

// Hold keeps accepting connections and requests, and forwards nothing in either
// direction until Release: a server that hangs.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default: // held already
	}
}

// Release ends a Hold; what was held back is delivered.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// Delay adds d to every piece of data in each direction; 0 ends it. Pieces of
// one connection wait one after the other, so it also limits throughput.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// CutAfter delivers n more bytes from clients to the server, over all
// connections together, and then closes all connections, once. New connections
// are served as usual. A negative n calls it off.
func (p *Proxy) CutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget = n
}

// SwallowReplies, while on, delivers requests, drops whatever the server
// replies, and closes the connection once the server has fallen silent: work
// done, outcome unknown.
func (p *Proxy) SwallowReplies(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow = on
}

// SwallowReplyTo does the same once, for the next request that contains text,
// for example "COMMIT". An empty text calls it off. Text that spans two TCP
// segments is not seen.
func (p *Proxy) SwallowReplyTo(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.match = nil
	if text != "" {
		p.match = []byte(text)
	}
}

// MuteAt is SwallowReplyTo for all replies of that connection, which stays open.
func (p *Proxy) MuteAt(text string) {
	p.SwallowReplyTo(text)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mutes = true
}

// Close cuts everything and returns once all goroutines have ended. The test's
// cleanup calls it; calling it twice is harmless.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.Cut()
	p.pumps.Wait()
}

func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil || p.closed {
		return nil
	}
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.listener = l
	p.pumps.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return // closed by Cut
		}
		p.mu.Lock()
		if p.listener != l { // accepted in the moment of a Cut
			p.mu.Unlock()
			_ = client.Close()
			continue
		}
		p.accepted++
		k := &link{client: client, done: make(chan struct{})}
		p.links[k] = struct{}{}
		p.pumps.Go(func() { p.serve(k) })
		p.mu.Unlock()
	}
}

// serve dials the server and runs both directions until the link is closed.
func (p *Proxy) serve(k *link) {
	defer p.drop(k)
	server, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(p.ctx, "tcp", p.upstream)
	if err != nil {
		return // to the client this is a server that went away
	}
	p.mu.Lock()
	_, alive := p.links[k]
	k.server = server
	p.mu.Unlock()
	if !alive {
		_ = server.Close()
		return
	}
	p.pumps.Go(func() { p.pumpReplies(k) })
	p.pumpRequests(k)
}

// drop closes a link; harmless when it is closed already.
func (p *Proxy) drop(k *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(k)
}

func (p *Proxy) cutLinks() {
	for k := range p.links {
		p.dropLocked(k)
	}
}

func (p *Proxy) dropLocked(k *link) {
	if _, alive := p.links[k]; !alive {
		return
	}
	delete(p.links, k)
	close(k.done)
	_ = k.client.Close() // a cut has no use for errors
	if k.server != nil {
		_ = k.server.Close()
	}
}

// pumpRequests ends on its own with the client's end of data, which it passes
// on; the replies may still be on their way then.
func (p *Proxy) pumpRequests(k *link) {
	buf := make([]byte, 32<<10)
	for {
		n, err := k.client.Read(buf)
		if n > 0 && !p.pass(k) {
			return
		}
		if n > 0 {
			n, cut := p.admit(k, buf[:n])
			if _, err := k.server.Write(buf[:n]); err != nil {
				return
			}
			if cut {
				p.CutConnections()
				return
			}
		}
		if err != nil {
			if half, ok := k.server.(*net.TCPConn); ok && err == io.EOF {
				_ = half.CloseWrite() // fails only if the link is closed
				<-k.done
			}
			return
		}
	}
}

func (p *Proxy) pumpReplies(k *link) {
	defer p.drop(k)
	buf := make([]byte, 32<<10)
	for {
		n, err := k.server.Read(buf)
		if n > 0 {
			if !p.pass(k) {
				return
			}
			if p.mute(k) {
				continue
			}
			if p.swallows(k) {
				discard(k.server, buf)
				p.countLost()
				return
			}
			if _, err := k.client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits out Hold and Delay; false means that the link was closed.
func (p *Proxy) pass(k *link) bool {
	p.mu.Lock()
	open, delay := p.open, p.delay
	p.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-k.done:
			return false
		}
	}
	select {
	case <-open:
		return true
	case <-k.done:
		return false
	}
}

// admit says how many bytes of a request go through and whether the connections
// are cut after them, and notes if its reply is to be swallowed.
func (p *Proxy) admit(k *link, request []byte) (n int, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.match != nil && bytes.Contains(request, p.match) {
		p.match, k.swallow, k.muted, p.mutes = nil, !p.mutes, p.mutes, false
	}
	n = len(request)
	if p.budget < 0 {
		return n, false
	}
	if int64(n) < p.budget {
		p.budget -= int64(n)
		return n, false
	}
	n, p.budget = int(p.budget), -1
	return n, true
}

func (p *Proxy) swallows(k *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.swallow || k.swallow
}

// mute reports whether a reply is dropped, and counts the first.
func (p *Proxy) mute(k *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.muted && !k.counted {
		k.counted = true
		p.lost++
	}
	return k.muted
}

func (p *Proxy) countLost() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost++
}

// discard reads from conn until it has been silent for a while or fails.
func discard(conn net.Conn, buf []byte) {
	for {
		_ = conn.SetReadDeadline(time.Now().Add(quiet)) // fails only if closed; then Read does too
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}
