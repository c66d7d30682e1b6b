// This file owns the servers that all tests of one test binary share.

package testserver

import (
	"sync"
	"testing"
)

type sharedServer struct {
	once   sync.Once
	server *Server
	err    error
}

var sharedMaria, sharedRedis sharedServer

// SharedMariaDB is one MariaDB for the whole test binary, started on first use.
// Each test takes a database of its own from NewDatabase. It can't be killed or
// frozen. It ends with the program; Run also removes its files.
func SharedMariaDB(t testing.TB) *Server {
	t.Helper()
	return sharedMaria.get(t, func() (*Server, error) { return startMariaDB(nil) })
}

// SharedRedis is one Redis for the whole test binary, started on first use. Its
// keys are shared too: tests that run in parallel need prefixes of their own
// and must not use FLUSHALL.
func SharedRedis(t testing.TB) *Server {
	t.Helper()
	return sharedRedis.get(t, func() (*Server, error) { return startRedis(nil) })
}

func (h *sharedServer) get(t testing.TB, start func() (*Server, error)) *Server {
	t.Helper()
	h.once.Do(func() {
		if h.server, h.err = start(); h.err == nil {
			h.server.shared = true
		}
	})
	refuse(t, h.err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(h.server.logTail(0))
		}
	})
	return h.server
}

// Run runs the tests and then ends the shared servers. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(testserver.Run(m)) }
func Run(m *testing.M) int {
	code := m.Run()
	for _, h := range []*sharedServer{&sharedMaria, &sharedRedis} {
		// Taking the Once means that nothing starts the server from here on.
		h.once.Do(func() {})
		if h.server != nil {
			h.server.remove()
		}
	}
	return code
}
