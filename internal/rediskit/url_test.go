package rediskit

import (
	"errors"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestGoodURLs(t *testing.T) {
	for _, tc := range []struct {
		url   string
		mode  mode
		addrs string
		check func(*target) bool
	}{
		{"redis://h", modeSingle, "h:6379", nil},
		{"redis://h/", modeSingle, "h:6379", nil},
		{"redis://h:7000/5", modeSingle, "h:7000", func(t *target) bool { return t.opts.DB == 5 }},
		{"redis://h:7000?db=5", modeSingle, "h:7000", func(t *target) bool { return t.opts.DB == 5 }},
		{"redis://h:7000/5?db=5", modeSingle, "h:7000", func(t *target) bool { return t.opts.DB == 5 }},
		{"redis://[::1]:7000", modeSingle, "[::1]:7000", nil},
		{"redis://[::1]", modeSingle, "[::1]:6379", nil},
		{"redis://?addr=h:1", modeSingle, "h:1", nil},
		{"redis://:@h", modeSingle, "h:6379", func(t *target) bool { return t.opts.Password == "" }},
		{"redis://u:p@h", modeSingle, "h:6379", func(t *target) bool { return t.opts.Username == "u" && t.opts.Password == "p" }},
		{"redis://:p:q@r@h", modeSingle, "h:6379", func(t *target) bool { return t.opts.Username == "" && t.opts.Password == "p:q@r" }},
		{"redis://u:p%40%3A%2F%3F%23%25+@h", modeSingle, "h:6379", func(t *target) bool { return t.opts.Password == "p@:/?#%+" }},
		{"redis://h1:1,h2:2", modeCluster, "h1:1 h2:2", func(t *target) bool { return t.opts.IsClusterMode }},
		{"redis://u:p@h1,h2:2/0?cluster=true", modeCluster, "h1:6379 h2:2", nil},
		{"redis://h1?addr=h2:2&addr=h3", modeCluster, "h1:6379 h2:2 h3:6379", nil},
		{"redis://h1?cluster=1", modeCluster, "h1:6379", func(t *target) bool { return t.opts.IsClusterMode }},
		{"redis://h1?cluster=false", modeSingle, "h1:6379", func(t *target) bool { return !t.opts.IsClusterMode }},
		{"redis://s1,s2:7/2?master_name=m&sentinel_username=su&sentinel_password=s%26p", modeSentinel, "s1:26379 s2:7", func(t *target) bool {
			return t.opts.MasterName == "m" && t.opts.SentinelUsername == "su" && t.opts.SentinelPassword == "s&p" && t.opts.DB == 2
		}},
		{"rediss://h", modeSingle, "h:6379", func(t *target) bool { return t.tls != nil && t.opts.TLSConfig == t.tls && !t.tls.InsecureSkipVerify }},
		{"rediss://h?insecure_skip_verify=true", modeSingle, "h:6379", func(t *target) bool { return t.tls.InsecureSkipVerify }},
		{"redis://h?pool_size=7&pipeline_pool_size=3&min_idle_conns=1&max_idle_conns=2&max_active_conns=9&client_name=me&protocol=2", modeSingle, "h:6379", func(t *target) bool {
			o := t.opts
			return o.PoolSize == 7 && o.PipelinePoolSize == 3 && o.MinIdleConns == 1 && o.MaxIdleConns == 2 && o.MaxActiveConns == 9 &&
				o.ClientName == "me" && o.Protocol == 2
		}},
		{"redis://h?pool_timeout=1&dial_timeout=2s&read_timeout=300ms&write_timeout=4s&conn_max_idle_time=5m&conn_max_lifetime=6h", modeSingle, "h:6379", func(t *target) bool {
			o := t.opts
			return o.PoolTimeout == time.Second && o.DialTimeout == 2*time.Second && o.ReadTimeout == 300*time.Millisecond &&
				o.WriteTimeout == 4*time.Second && o.ConnMaxIdleTime == 5*time.Minute && o.ConnMaxLifetime == 6*time.Hour
		}},
	} {
		got, err := parse(tc.url)
		if err != nil {
			t.Errorf("%s: %v", tc.url, err)
			continue
		}
		o := got.opts
		if got.mode != tc.mode || strings.Join(o.Addrs, " ") != tc.addrs || (tc.check != nil && !tc.check(got)) {
			t.Errorf("%s: mode %d addrs %v opts %+v", tc.url, got.mode, o.Addrs, o)
		}
		if o.MaxRetries != -1 || o.DialerRetries != 1 || !o.ContextTimeoutEnabled {
			t.Errorf("%s: retries or deadlines are left to go-redis", tc.url)
		}
	}
}

// canary stands where a password may stand in a mistyped URL.
const canary = "hunter2canary"

func TestBadURLsNeverShowThePassword(t *testing.T) {
	bad := []string{
		"", "h:6379", ":CANARY@h", "u:CANARY@h:6379", "http://u:CANARY@h", "unix:///CANARY", "REDIS://:CANARY@h", "redis:/u:CANARY@h", "redis:CANARY",
		"redis://", "redis:///0", "redis://u:CANARY@", "redis://u:CANARY@/0", "redis://u:CANARY@h,,h2", "redis://CANARY@h", "redis://CANARY:@h",
		"redis://u:CANARY", "redis://:CANARY", "redis://u:CANARY@h:port", "redis://u:CANARY@h:0", "redis://u:CANARY@h:65536", "redis://u:CANARY@h:-1",
		"redis://u:CANARY@h:1:2", "redis://u:CANARY@[::1", "redis://u:CANARY@[CANARY]", "redis://u:CANARY@[127.0.0.1]:1", "redis://u:CANARY@h:+1",
		"redis://u:CANARY@h/x", "redis://u:CANARY@h/-1", "redis://u:CANARY@h/1/2", "redis://u:CANARY@h/99999999999999999999", "redis://h/CANARY",
		"redis://u:CANARY@h?db=x", "redis://u:CANARY@h/1?db=2", "redis://u:CANARY@h1,h2/1", "redis://u:CANARY@h1/1?cluster=true",
		// Unescaped: what follows is taken for a path, a query, a fragment, an escape.
		"redis://u:p/CANARY@h:6379", "redis://u:p?CANARY@h:6379", "redis://u:p#CANARY@h:6379", "redis://u:CANARY%@h:6379", "redis://u:%zzCANARY@h",
		"redis://u:1/CANARY@h:6379/0", "redis://u:1?CANARY@h:6379/0", "redis://u:1?CANARY=x@h/0", "redis://u:1#CANARY@h/0", "redis://u:1?CANARY", "redis://u:1?a=CANARY@h",
		"redis://u:CAN ARY CANARY@h", "redis://u:CANARY\n@h", "redis://u:CANARY@h\x00", "redis://u:CANARY@ho st",
		"redis://h?master_name=m&sentinel_password=a&CANARY=1", "redis://h?master_name=m&sentinel_password=a&CANARY", "redis://h?master_name=m&sentinel_password=a#CANARY",
		"redis://h?master_name=m&sentinel_password=CANARY%", "redis://h?master_name=m&sentinel_password=CANARY@", "redis://h?sentinel_password=CANARY",
		"redis://h?master_name=m&sentinel_password=CANARY&sentinel_password=CANARY", "redis://h?sentinel_username=x", "redis://h?password=CANARY",
		"redis://u:CANARY@h?master_name=", "redis://u:CANARY@h?master_name=m&cluster=true", "redis://u:CANARY@h1,h2?cluster=false", "redis://u:CANARY@h?cluster=maybe",
		"redis://u:CANARY@h?unknown=1", "redis://u:CANARY@h?max_retries=3", "redis://u:CANARY@h?Pool_Size=3", "redis://u:CANARY@h?pool_size=0",
		"redis://u:CANARY@h?pool_size=x", "redis://u:CANARY@h?pool_size=1&pool_size=2", "redis://u:CANARY@h?read_timeout=0", "redis://u:CANARY@h?read_timeout=-1s",
		"redis://u:CANARY@h?dial_timeout=soon", "redis://u:CANARY@h?dial_timeout=", "redis://u:CANARY@h?protocol=4", "redis://u:CANARY@h?client_name=a%20b",
		"redis://u:CANARY@h?insecure_skip_verify=true", "redis://u:CANARY@h?ca_file=x", "rediss://u:CANARY@h?ca_file=/nowhere/CANARY", "rediss://u:CANARY@h?ca_file=/dev/null",
		"rediss://u:CANARY@h?insecure_skip_verify=perhaps", "redis://u:CANARY@h?a=%zz", "redis://u:CANARY@h?pool_size=3;CANARY", "redis://u:CANARY@h?addr=x:y",
		"redis://u:CANARY@h?addr=", "redis://u:CANARY@h#CANARY",
	}
	for _, raw := range bad {
		raw = strings.ReplaceAll(raw, "CANARY", canary)
		c, err := Open(raw)
		if err == nil {
			_ = c.Close()
			t.Errorf("%q was accepted", raw)
			continue
		}
		noSecret(t, err, canary)
		if strings.Contains(err.Error(), "u:") || strings.Contains(err.Error(), raw) && raw != "" {
			t.Errorf("%q: %v quotes the URL", raw, err)
		}
		if r := Redact(raw); strings.Contains(r, canary) && !strings.Contains(raw, "ca_file") {
			t.Errorf("Redact(%q) = %q", raw, r)
		}
	}
}

func TestUnknownOptionIsNamed(t *testing.T) {
	_, err := Open("redis://h?pool_sise=3")
	if err == nil || !strings.Contains(err.Error(), "pool_sise") || !strings.Contains(err.Error(), "pool_size") {
		t.Errorf("%v", err)
	}
	// Unless it may be the rest of a password.
	_, err = Open("redis://h?master_name=m&sentinel_password=first&second")
	if err == nil || strings.Contains(err.Error(), "second") {
		t.Errorf("%v", err)
	}
}

func TestRedact(t *testing.T) {
	for raw, want := range map[string]string{
		"redis://h:1/2":                      "redis://h:1/2",
		"redis://u:p@h:1/2":                  "redis://u:xxxxx@h:1/2",
		"redis://:p%40@h":                    "redis://:xxxxx@h",
		"rediss://u:a@b:c@h1:1,h2:2?addr=h3": "rediss://u:xxxxx@h1:1,h2:2?addr=h3",
		"redis://s/0?master_name=m&sentinel_password=pw&sentinel_username=su": "redis://s/0?master_name=m&sentinel_password=xxxxx&sentinel_username=su",
		"redis://h?pasword=pw":      "redis://h?[redacted]",
		"redis://h?db=1&pasword=pw": "redis://h?db=1&[redacted]",
		"redis://h/pw":              "redis://h/[redacted]",
		"redis://u:p/w@h":           "redis://[redacted]",
		"redis://u:pw":              "redis://[redacted]",
		"redis://%zz:pw@h":          "redis://[redacted]",
		"http://u:pw@h":             "[redacted]",
		"pw":                        "[redacted]",
		"":                          "[redacted]",
	} {
		if got := Redact(raw); got != want {
			t.Errorf("Redact(%q) = %q, want %q", raw, got, want)
		}
	}
}

func FuzzURL(f *testing.F) {
	f.Add("redis", "u", "p@:/?#%", "h:1", "/0", "db=0")
	f.Add("rediss", "", "x", "h1,h2", "", "cluster=true&sentinel_password=a")
	f.Fuzz(func(t *testing.T, scheme, user, password, host, path, query string) {
		Redact(scheme + "://" + user + ":" + password + "@" + host + path + "?" + query)
		if strings.Contains(query, "ca_file") {
			return // reads files
		}
		secret := url.PathEscape(canary + password)
		raw := scheme + "://" + url.PathEscape(user) + ":" + secret + "@" + host + path + "?" + query
		c, err := Open(raw)
		if err == nil {
			_ = c.Close()
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("error shows the password: %v", err)
		}
		if strings.Contains(user+host+path+query, "canary") {
			return
		}
		if r := Redact(raw); strings.Contains(r, canary) {
			t.Errorf("redacted shows the password: %s", r)
		}
	})
}

// TestEscapedPasswordIsSentAsMeant talks to a server with a password that has
// everything a URL trips over.
func TestEscapedPasswordIsSentAsMeant(t *testing.T) {
	const password = `p@:/?#%+ &=;"é`
	srv := testserver.Redis(t)
	srv.Do(t, "ACL", "SETUSER", "us@er:/", "on", ">"+password, "+@all", "~*")
	srv.Do(t, "ACL", "SETUSER", "default", "off")
	escape := func(s string) string {
		return strings.NewReplacer("%", "%25", "@", "%40", ":", "%3A", "/", "%2F", "?", "%3F", "#", "%23", " ", "%20").Replace(s)
	}
	for _, escape := range []func(string) string{escape, func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }} {
		c, _ := connect(t, "redis://"+escape("us@er:/")+":"+escape(password)+"@"+srv.Addr())
		if err := c.Ping(within(t, 5*time.Second)); err != nil {
			t.Error(err)
		}
	}
}

func TestCAFileIsReadAtOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, []byte(testCertificate(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := parse("rediss://h?ca_file=" + url.QueryEscape(path))
	if err != nil || got.tls.RootCAs == nil {
		t.Fatalf("%v", err)
	}
	_, err = parse("rediss://h?ca_file=/nowhere")
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestOptionsAreListedInTheDocumentation(t *testing.T) {
	source, err := os.ReadFile("url.go")
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(source), "\nfunc Open(")
	for _, name := range slices.Sorted(maps.Keys(urlOptions)) {
		if name != "sentinel_username" && !strings.Contains(head, name) {
			t.Errorf("option %s is not mentioned at Open", name)
		}
	}
}
