package rediskit

import (
	"net/url"
	"strings"
)

const hidden = "xxxxx"

// Redact makes a URL fit for logs: scheme://user:xxxxx@host:port/db and those
// options that Open knows and that are no password. Of anything Open would not
// take apart it shows no more than the scheme. It never panics.
func Redact(rawURL string) string {
	u, err := split(rawURL)
	if err != nil {
		if scheme, _, found := strings.Cut(rawURL, "://"); found && (scheme == "redis" || scheme == "rediss") {
			return scheme + "://[redacted]"
		}
		return "[redacted]"
	}
	if !addresses(u.hosts) {
		return u.scheme + "://[redacted]" // user:password without a host?
	}
	var b strings.Builder
	b.WriteString(u.scheme + "://")
	if u.hasUser {
		b.WriteString(u.rawUser + ":" + hidden + "@")
	}
	b.WriteString(strings.Join(u.hosts, ","))
	if _, err := number(strings.TrimPrefix(u.path, "/"), 0, 1<<20); u.path != "" && err == nil {
		b.WriteString(u.path)
	} else if u.path != "" {
		b.WriteString("/[redacted]")
	}
	redactQuery(&b, u.query)
	return b.String()
}

func redactQuery(b *strings.Builder, query url.Values) {
	shown, dropped := url.Values{}, false
	for name, values := range query {
		switch _, known := urlOptions[name]; {
		case !known:
			dropped = true // a password with an & in it, or a misspelt option
		case name == "sentinel_password":
			shown.Set(name, hidden)
		case name == "addr" && !addresses(values):
			dropped = true
		default:
			shown[name] = values
		}
	}
	sep := "?"
	if len(shown) > 0 {
		b.WriteString(sep + shown.Encode())
		sep = "&"
	}
	if dropped {
		b.WriteString(sep + "[redacted]")
	}
}

func addresses(hosts []string) bool {
	for _, host := range hosts {
		if _, err := address(host, "6379"); err != nil {
			return false
		}
	}
	return true
}
