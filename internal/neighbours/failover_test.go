package neighbours

import (
	"net"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV15AFailoverThatLosesLessThanABeatIsNoticed, by an engine whose client is the user's own
// and keeps its connections: the server gets the data of its replica, and is a master again.
func TestINV15AFailoverThatLosesLessThanABeatIsNoticed(t *testing.T) {
	t.Parallel()
	replicate := func(s, of *testserver.Server) {
		t.Helper()
		host, port, err := net.SplitHostPort(of.Addr())
		lab.Must(t, err)
		s.Do(t, "REPLICAOF", host, port)
		lab.Eventually(t, "it is in step", func() bool {
			return strings.Contains(s.Do(t, "INFO", "replication"), "master_link_status:up")
		})
	}
	server := testserver.Redis(t, "--repl-diskless-sync-delay", "0")
	replica := testserver.Redis(t, "--repl-diskless-sync-delay", "0")
	replicate(replica, server)
	prefix := lab.NewPrefix()
	e := lab.Open(t, syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), Redis: lab.RedisAt(t, server.URL()), KeyPrefix: prefix})
	holds := func(s *testserver.Server, content string) {
		t.Helper()
		lab.Eventually(t, "Redis holds "+content, func() bool { return strings.HasSuffix(s.Do(t, "GET", prefix+"x"), `"content":`+content+"}") })
	}
	submit(t, e, "x", "1", archived)
	holds(replica, "1")
	lab.Eventually(t, "all was compared", func() bool { return e.Stats().L2Missed == 0 })
	beat := func(s *testserver.Server) string { return s.Do(t, "GET", prefix+"\x00beat") }
	last := beat(server)
	lab.Eventually(t, "it beats", func() bool { return beat(server) != last && beat(replica) == beat(server) })
	// The next one is a second away.

	testserver.CutReplica(t, replica, server)
	submit(t, e, "x", "2", archived)
	holds(server, "2")
	if lost := beat(server) != beat(replica); lost {
		t.Log("the machine is slow: a beat is lost as well")
	}
	replica.Do(t, "REPLICAOF", "NO", "ONE")
	replicate(server, replica)
	holds(server, "1")
	server.Do(t, "REPLICAOF", "NO", "ONE")
	holds(server, "2")
	if got := reads["GetVerified"](e, "x"); got != "2" {
		t.Errorf("read %s", got)
	}
}
