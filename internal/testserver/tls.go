// This file owns certificates for servers, and servers that have one.

package testserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Certificate is a certificate for 127.0.0.1, and that of the authority that made it, in files.
type Certificate struct{ CA, Cert, Key string }

// NewCertificate makes a new authority, and a certificate.
func NewCertificate(t testing.TB) Certificate {
	t.Helper()
	c, err := newCertificate(t.TempDir())
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	return c
}

func newCertificate(dir string) (Certificate, error) {
	c := Certificate{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	leafKey, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return c, err
	}
	for _, t := range []*x509.Certificate{ca, leaf} {
		t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	caDER, err1 := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	leafDER, err2 := x509.CreateCertificate(rand.Reader, leaf, ca, &leafKey.PublicKey, caKey)
	keyDER, err3 := x509.MarshalPKCS8PrivateKey(leafKey)
	write := func(path, kind string, der []byte) error {
		return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	}
	return c, errors.Join(err1, err2, err3, write(c.CA, "CERTIFICATE", caDER), write(c.Cert, "CERTIFICATE", leafDER), write(c.Key, "PRIVATE KEY", keyDER))
}

// TLSMariaDB is MariaDB whose account in URL gets in by TLS alone.
func TLSMariaDB(t testing.TB, c Certificate) *Server {
	t.Helper()
	s := MariaDB(t, "--ssl-ca="+c.CA, "--ssl-cert="+c.Cert, "--ssl-key="+c.Key)
	if _, err := s.SQL(t).Exec("ALTER USER '" + mariaUser + "'@'%' REQUIRE SSL"); err != nil {
		t.Fatalf("testserver: %v", err)
	}
	return s
}

// TLSRedis is a Redis that speaks TLS on a port of its own, at the address that is returned.
func TLSRedis(t testing.TB, c Certificate) (s *Server, addr string) {
	t.Helper()
	port, err := reservePort()
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	t.Cleanup(func() { releasePort(port) })
	s = Redis(t, "--tls-port", strconv.Itoa(port), "--tls-ca-cert-file", c.CA, "--tls-cert-file", c.Cert, "--tls-key-file", c.Key, "--tls-auth-clients", "no")
	return s, net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
