// This file owns how three MariaDBs become a Galera cluster, and how one of them comes back after
// it was killed.

package testserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const galeraNodes = 3

// GaleraCluster is a MariaDB Galera cluster of three nodes.
type GaleraCluster struct {
	// Nodes can be killed, frozen and restarted. One that comes back while another one is up gets
	// what it has missed from there.
	Nodes []*Server
}

// Galera starts a Galera cluster and returns once all nodes take part. args are appended to the
// command line of each. It takes some ten seconds, so use it for few tests.
func Galera(t testing.TB, args ...string) *GaleraCluster {
	t.Helper()
	c, err := startGalera(t, args)
	refuse(t, err)
	return c
}

// galeraLibrary is where packages put the provider.
func galeraLibrary() (string, error) {
	for _, path := range []string{"/usr/lib/galera/libgalera_smm.so", "/usr/lib64/galera-4/libgalera_smm.so", "/usr/lib/libgalera_smm.so"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", &missingError{"libgalera_smm.so"}
}

// galeraNode is what a node needs beside what each MariaDB does.
type galeraNode struct {
	provider     string
	members      string // addresses of all
	group        int    // ports
	state, whole int
	first        bool // it makes the cluster, once
	extra        []string
}

func startGalera(t testing.TB, extra []string) (*GaleraCluster, error) {
	bin, err := find("mariadbd")
	if err != nil {
		return nil, err
	}
	provider, err := galeraLibrary()
	if err != nil {
		return nil, err
	}
	if _, err := find("rsync"); err != nil { // nodes send each other data with it
		return nil, err
	}
	template, err := prepareMariaDB(bin)
	if err != nil {
		return nil, err
	}
	nodes := make([]*galeraNode, galeraNodes)
	var members []string
	for i := range nodes {
		n := &galeraNode{provider: provider, first: i == 0, extra: extra}
		for _, port := range []*int{&n.group, &n.state, &n.whole} {
			if *port, err = reservePort(); err != nil {
				return nil, err
			}
			t.Cleanup(func() { releasePort(*port) })
		}
		nodes[i], members = n, append(members, fmt.Sprintf("127.0.0.1:%d", n.group))
	}
	as, err := galeraAccount()
	if err != nil {
		return nil, err
	}
	c := &GaleraCluster{}
	for i, n := range nodes {
		n.members = strings.Join(members, ",")
		s, err := newServer(&Server{kind: kindMariaDB, bin: bin, ready: galeraReady, args: n.args, as: as, slow: true}, func(dir string) error {
			return copyFor(as, filepath.Join(dir, "data"), template)
		})
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, giveTo(t, s, nil))
		if i > 0 {
			continue
		}
		// The others begin with what the first one has then: so none has to be sent all of it.
		if err := s.shutDown(); err != nil {
			return nil, err
		}
		template, n.first = filepath.Join(t.TempDir(), "data"), true
		if err := os.CopyFS(template, os.DirFS(filepath.Join(s.dir, "data"))); err != nil {
			return nil, err
		}
		if err := s.start(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// shutDown ends a MariaDB as its administrator would.
func (s *Server) shutDown() error {
	db, err := openMaria(s.Addr(), "")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec("SHUTDOWN"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	<-s.proc.done
	s.proc = nil
	return nil
}

// galeraAccount is whom nodes run as. The scripts by which they send each other data fail for root.
func galeraAccount() (*account, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("mysql")
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return &account{uid, gid}, errors.Join(err1, err2)
}

// copyFor copies a directory, for an account.
func copyFor(as *account, to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil || as == nil {
		return err
	}
	return filepath.WalkDir(filepath.Dir(to), func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, as.uid, as.gid))
	})
}

func (n *galeraNode) args(s *Server) []string {
	args := append(mariaServerArgs(s),
		"--binlog-format=ROW", "--innodb-autoinc-lock-mode=2", "--wsrep-on=ON", "--wsrep-provider="+n.provider,
		"--wsrep-sst-method=rsync", "--wsrep-cluster-address=gcomm://"+n.members,
		"--wsrep-node-address=127.0.0.1", fmt.Sprintf("--wsrep-sst-receive-address=127.0.0.1:%d", n.whole),
		fmt.Sprintf("--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:%d; ist.recv_addr=127.0.0.1:%d; gcache.size=64M; "+
			"evs.keepalive_period=PT0.5S; evs.suspect_timeout=PT2S; evs.inactive_timeout=PT5S; evs.inactive_check_period=PT0.5S", n.group, n.state),
	)
	if n.first {
		args, n.first = append(args, "--wsrep-new-cluster"), false
	} else if at := n.recovered(s); at != "" {
		args = append(args, "--wsrep-start-position="+at)
	}
	return append(args, n.extra...)
}

// recovered returns up to where a node that was killed has all.
func (n *galeraNode) recovered(s *Server) string {
	if saved, _ := os.ReadFile(filepath.Join(s.dir, "data", "grastate.dat")); !strings.Contains(string(saved), "seqno:   -1") {
		return "" // it never ran, or ended properly
	}
	log := filepath.Join(s.dir, "recover.log")
	_ = os.Remove(log)
	p, err := startProcess(s.bin, append(mariaServerArgs(s), "--wsrep-recover"), log, s.as)
	if err != nil {
		return ""
	}
	<-p.done // the log tells
	f, err := os.Open(log)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if _, at, ok := strings.Cut(lines.Text(), "Recovered position: "); ok {
			return at
		}
	}
	return ""
}

// galeraReady holds when a node takes part in its cluster, with all that the others have.
func galeraReady(ctx context.Context, s *Server, pid int) error {
	if err := mariaReady(ctx, s, pid); err != nil {
		return err
	}
	db, err := openMaria(s.Addr(), "")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var name, state string
	if err := db.QueryRowContext(ctx, "SHOW STATUS LIKE 'wsrep_local_state_comment'").Scan(&name, &state); err != nil {
		return err
	}
	if state != "Synced" {
		return fmt.Errorf("the node is %s", state)
	}
	return nil
}
