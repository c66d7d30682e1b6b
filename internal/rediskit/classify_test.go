package rediskit

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestClassify(t *testing.T) {
	reply := func(s string) error { return serverError(s) }
	for _, tc := range []struct {
		err    error
		class  Class
		reason string
	}{
		{nil, Answered, ""},
		{ErrAbsent, Answered, "absent"},
		{fmt.Errorf("x: %w", ErrWrongType), Answered, "wrongtype"},
		{redis.Nil, Answered, "absent"},
		{fmt.Errorf("redis: all sentinels specified in configuration are unreachable: %w", errors.Join(redis.Nil)), Outage, "sentinel"},
		{fmt.Errorf("redis: all sentinels specified in configuration are unreachable: %w", errors.Join(context.Canceled)), CallerGone, "canceled"},
		{fmt.Errorf("redis: all sentinels specified in configuration are unreachable: %w", errors.Join(io.EOF, os.ErrDeadlineExceeded)), Outage, "timeout"},
		{ErrBadValue, Other, "badvalue"},
		{context.Canceled, CallerGone, "canceled"},
		{&net.OpError{Op: "dial", Err: context.Canceled}, CallerGone, "canceled"},
		{context.DeadlineExceeded, Outage, "timeout"},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, Outage, "timeout"},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, Outage, "refused"},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, Outage, "reset"},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, Outage, "unreachable"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}, Outage, "dns"},
		{&net.OpError{Op: "read", Err: net.ErrClosed}, Outage, "network"},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(40)}, Outage, "tls"},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, Outage, "tls"},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, Outage, "tls"},
		{io.EOF, Outage, "eof"},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), Outage, "eof"},
		{redis.ErrPoolTimeout, Outage, "pool"},
		{redis.ErrPoolExhausted, Outage, "pool"},
		{redis.ErrClosed, Other, "closed"},
		{redis.ErrNoScript, Other, "noscript"},
		{redis.ErrCrossSlot, Other, "crossslot"},
		{reply("LOADING Redis is loading the dataset in memory"), Outage, "loading"},
		{reply("MASTERDOWN Link with MASTER is down"), Outage, "masterdown"},
		{reply("CLUSTERDOWN The cluster is down"), Outage, "clusterdown"},
		{reply("ERR Script attempted to execute a command while the cluster is down"), Outage, "clusterdown"},
		{reply("TRYAGAIN Multiple keys request during rehashing of slot"), Outage, "tryagain"},
		{reply("READONLY You can't write against a read only replica."), Outage, "readonly"},
		{reply("ERR Error running script: @user_script:1: -READONLY You can't write against a read only replica."), Outage, "readonly"},
		{reply("OOM command not allowed when used memory > 'maxmemory'."), Outage, "oom"},
		{reply("MISCONF Redis is configured to save RDB snapshots"), Outage, "misconf"},
		{reply("NOAUTH Authentication required."), Outage, "noauth"},
		{reply("WRONGPASS invalid username-password pair"), Outage, "wrongpass"},
		{reply("NOPERM this user has no permissions"), Outage, "noperm"},
		{reply("ERR ACL failure in script: User a has no permissions to run the 'set' command"), Outage, "noperm"},
		{reply("BUSY Redis is busy running a script."), Outage, "busy"},
		{reply("NOREPLICAS Not enough good replicas to write."), Outage, "noreplicas"},
		{reply("ERR max number of clients reached"), Outage, "maxclients"},
		{reply("MOVED 1 127.0.0.1:1"), Outage, "moved"},
		{reply("WRONGTYPE Operation against a key"), Answered, "wrongtype"},
		{reply("ERR something new"), Other, "server"},
		{errors.New("redis: cluster has no nodes"), Outage, "clusterdown"},
		{errors.New("redis: connection is not usable"), Outage, "client"},
		{errors.New(`redis: can't parse "body"`), Outage, "protocol"},
		{errors.New("disk on fire"), Other, "other"},
		{errors.Join(ErrBadValue, io.EOF), Outage, "eof"},
		{errors.Join(io.EOF, context.Canceled), Outage, "eof"},
		{errors.Join(ErrBadValue, context.Canceled), CallerGone, "canceled"},
		{fmt.Errorf("2 of 3: %w", errors.Join(ErrBadValue, fmt.Errorf("x: %w", reply("OOM x")))), Outage, "oom"},
	} {
		if c, r := Classify(tc.err), Reason(tc.err); c != tc.class || r != tc.reason {
			t.Errorf("%v is %v/%s, want %v/%s", tc.err, c, r, tc.class, tc.reason)
		}
		if c := Classify(wrap("op", tc.err)); c != tc.class {
			t.Errorf("wrapped %v is %v, want %v", tc.err, c, tc.class)
		}
	}
}

func TestErrorsQuoteNeitherArgumentsNorReplies(t *testing.T) {
	for _, err := range []error{
		serverError("ERR unknown command 'AUTH', with args beginning with: '" + canary + "'"),
		fmt.Errorf("failed: %w", serverError("ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `u`, `"+canary+"`, ")),
		fmt.Errorf("redis: can't parse %.100q", canary),
		fmt.Errorf("redis: invalid reply: %q", canary),
	} {
		noSecret(t, wrap("get", err), canary)
	}
}

// breakDisk makes the server's snapshots fail, and waits until it noticed.
func breakDisk(t *testing.T, srv *testserver.Server) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(srv.Dir(), "none"), 0o700); err != nil { // where the snapshot belongs
		t.Fatal(err)
	}
	srv.Do(t, "BGSAVE")
	deadline := time.Now().Add(10 * time.Second)
	for info := ""; ; info = srv.Do(t, "INFO", "persistence") {
		if strings.Contains(info, "rdb_last_bgsave_status:err") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the snapshot did not fail: %s", info)
		}
	}
}

// certificate makes a self-signed certificate for 127.0.0.1.
func certificate(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func testCertificate(t *testing.T) string { cert, _ := certificate(t); return string(cert) }

// TestTLS puts a TLS terminator before a plain server.
func TestTLS(t *testing.T) {
	srv := testserver.Redis(t)
	certPEM, keyPEM := certificate(t)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", srv.Addr())
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, certPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, good := range []string{"?insecure_skip_verify=true", "?ca_file=" + url.QueryEscape(ca)} {
		c, _ := connect(t, "rediss://"+l.Addr().String()+good)
		put(t, c, Value{Key: "k", Bytes: ranked(1, 0, 0, good)})
		if err := c.Ping(within(t, 5*time.Second)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	strict, _ := connect(t, "rediss://"+l.Addr().String())
	wantClass(t, strict.Ping(within(t, 5*time.Second)), Outage, "tls") // unknown authority
	_, port, _ := net.SplitHostPort(l.Addr().String())
	named, _ := connect(t, "rediss://localhost:"+port+"?ca_file="+url.QueryEscape(ca))
	wantClass(t, named.Ping(within(t, 5*time.Second)), Outage, "tls") // the certificate names another host
	plain, _ := connect(t, "redis://"+l.Addr().String())
	wantClass(t, plain.Ping(within(t, 300*time.Millisecond)), Outage, "")
}
