package neighbours

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestTLSToBothServers, with an authority of the user's own; an engine that does not know it gets
// nothing.
func TestTLSToBothServers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cert := testserver.NewCertificate(t)
	maria := testserver.TLSMariaDB(t, cert)
	_, redis := testserver.TLSRedis(t, cert)
	ca := "ca_file=" + url.QueryEscape(cert.CA)
	cfg := syncengine.Config{SQLURL: maria.URL() + "?tls=true&" + ca, RedisURL: "rediss://" + redis + "?" + ca}
	a, b := lab.Open(t, cfg), lab.Open(t, cfg)
	listening(t, a, b)
	for n := range 100 {
		id := "x" + strings.Repeat("y", n)
		submit(t, a, id, "1", archived)
		if got := reads["Get"](b, id); got != "1" {
			t.Errorf("acknowledged, and read as %s", got)
		}
	}
	for _, e := range []*syncengine.Engine{a, b} {
		if h := e.Health(ctx); !h.L2.OK || !h.L3.OK {
			t.Errorf("%+v", h)
		}
	}
	cfg.L3Timeout = 100 * time.Millisecond
	cfg.SQLURL, cfg.RedisURL = maria.URL()+"?tls=true", "rediss://"+redis
	if h := lab.Open(t, cfg).Health(ctx); h.L2.OK || h.L3.OK {
		t.Errorf("%+v", h)
	}
}
