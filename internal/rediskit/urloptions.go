package rediskit

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An option is read by a function that stores it in the target, and returns the
// rule its value broke: it must not quote the value.
var urlOptions = map[string]func(t *target, value string) error{
	"addr":              nil, // read by setAddrs
	"db":                nil, // read by setDB
	"cluster":           nil, // read by setMode
	"master_name":       func(t *target, v string) error { return text(&t.opts.MasterName, v) },
	"sentinel_username": func(t *target, v string) error { return text(&t.opts.SentinelUsername, v) },
	"sentinel_password": func(t *target, v string) error { return text(&t.opts.SentinelPassword, v) },
	"client_name":       (*target).setClientName,
	"protocol":          func(t *target, v string) error { return integer(&t.opts.Protocol, v, 2, 3) },

	"pool_size":          func(t *target, v string) error { return integer(&t.opts.PoolSize, v, 1, maxConns) },
	"pipeline_pool_size": func(t *target, v string) error { return integer(&t.opts.PipelinePoolSize, v, 1, maxConns) },
	"min_idle_conns":     func(t *target, v string) error { return integer(&t.opts.MinIdleConns, v, 0, maxConns) },
	"max_idle_conns":     func(t *target, v string) error { return integer(&t.opts.MaxIdleConns, v, 0, maxConns) },
	"max_active_conns":   func(t *target, v string) error { return integer(&t.opts.MaxActiveConns, v, 0, maxConns) },

	"pool_timeout":       func(t *target, v string) error { return duration(&t.opts.PoolTimeout, v) },
	"dial_timeout":       func(t *target, v string) error { return duration(&t.opts.DialTimeout, v) },
	"read_timeout":       func(t *target, v string) error { return duration(&t.opts.ReadTimeout, v) },
	"write_timeout":      func(t *target, v string) error { return duration(&t.opts.WriteTimeout, v) },
	"conn_max_idle_time": func(t *target, v string) error { return duration(&t.opts.ConnMaxIdleTime, v) },
	"conn_max_lifetime":  func(t *target, v string) error { return duration(&t.opts.ConnMaxLifetime, v) },

	"insecure_skip_verify": (*target).setSkipVerify,
	"ca_file":              (*target).setCAFile,
}

const (
	maxConns  = 100_000
	maxCAFile = 4 << 20
)

// setOptions reads the query and returns what it says of cluster: "", "true" or
// "false".
func (t *target) setOptions(query url.Values) (cluster string, err error) {
	for _, name := range sortedKeys(query) {
		values := query[name]
		set, known := urlOptions[name]
		switch {
		case !known:
			return "", unknownOption(name, query)
		case len(values) > 1 && name != "addr":
			return "", fmt.Errorf("redis URL: option %s is given twice", name)
		case name == "cluster":
			on, err := boolean(values[0])
			if err != nil {
				return "", fmt.Errorf("redis URL: cluster %w", err)
			}
			cluster = strconv.FormatBool(on)
		case set != nil:
			if err := set(t, values[0]); err != nil {
				return "", fmt.Errorf("redis URL: %s %w", name, err)
			}
		}
	}
	return cluster, nil
}

// unknownOption names the option, unless it may be the rest of a sentinel
// password with an & in it, or does not look like a name.
func unknownOption(name string, query url.Values) error {
	plain := len(name) <= 32 && !strings.ContainsFunc(name, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })
	if !plain || query.Has("sentinel_password") {
		return errors.New("redis URL: an option nobody knows; & = % in a value must be percent-encoded")
	}
	return fmt.Errorf("redis URL: unknown option %s; known are %s", name, strings.Join(sortedKeys(urlOptions), ", "))
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (t *target) setClientName(v string) error {
	if strings.ContainsFunc(v, func(r rune) bool { return r < '!' || r > '~' }) {
		return errors.New("must be printable ASCII without spaces")
	}
	return text(&t.opts.ClientName, v)
}

var errNotTLS = errors.New("needs rediss://")

func (t *target) setSkipVerify(v string) error {
	skip, err := boolean(v)
	switch {
	case err != nil:
		return err
	case t.tls == nil && skip:
		return errNotTLS
	case t.tls != nil:
		t.tls.InsecureSkipVerify = skip
	}
	return nil
}

func (t *target) setCAFile(path string) error {
	if t.tls == nil {
		return errNotTLS
	}
	pem, err := readFile(path)
	if err != nil {
		var inPath *fs.PathError
		if errors.As(err, &inPath) {
			err = inPath.Err // without the path
		}
		return fmt.Errorf("can't be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return errors.New("must hold certificates in PEM form")
	}
	t.tls.RootCAs = pool
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCAFile))
}

func text(to *string, v string) error {
	if v == "" {
		return errors.New("must not be empty")
	}
	*to = v
	return nil
}

func integer(to *int, v string, low, high int) error {
	n, err := number(v, low, high)
	if err == nil {
		*to = n
	}
	return err
}

// number reads plain decimal digits.
func number(v string, low, high int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || v[0] == '+' || v[0] == '-' || n < low || n > high {
		return 0, fmt.Errorf("must be a number from %d to %d", low, high)
	}
	return n, nil
}

func boolean(v string) (bool, error) {
	switch v {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, errors.New("must be true or false")
}

func duration(to *time.Duration, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		d, err = time.ParseDuration(v + "s")
	}
	if err != nil || d <= 0 || d > 24*time.Hour {
		return errors.New("must be a duration like 500ms or 2s, above 0 and up to 24h")
	}
	*to = d
	return nil
}
