package rediskit

import (
	"context"
	"strings"
	"time"
)

// defaultScanCount is how many keys a server looks at per step.
const defaultScanCount = 1000

// Scan hands fn, page by page, all keys that begin with prefix, taken literally,
// on every master of a Cluster. fn runs in the caller's goroutine, may block,
// owns the slice, and ends the scan with an error, which is returned as it is.
//
// A key that is there from start to end is delivered at least once, possibly
// twice; one that comes or goes meanwhile may be delivered or not, and in a
// Cluster that is moving slots may be missed. count is a hint for the work per
// step; 0 or less is 1000. The deadline of ctx bounds the whole scan; without
// one, the read timeout bounds each step.
func (c *Client) Scan(ctx context.Context, prefix string, count int, fn func(keys []string) error) error {
	if count <= 0 {
		count = defaultScanCount
	}
	return c.scan(ctx, globEscape(prefix)+"*", count, 0, fn)
}

// ScanNames is Scan of the keys that end with name, too, with something between; each step is
// bounded by timeout.
func (c *Client) ScanNames(ctx context.Context, prefix, name string, timeout time.Duration, fn func(keys []string) error) error {
	return c.scan(ctx, globEscape(prefix)+"?*"+globEscape(name), defaultScanCount, timeout, fn)
}

func (c *Client) scan(ctx context.Context, match string, count int, timeout time.Duration, fn func(keys []string) error) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return wrap("scan", err)
	}
	// One server after the other: fn needs no lock, and a scan is never urgent.
	for _, node := range nodes {
		for cursor := uint64(0); ; {
			bounded, cancel := ctx, context.CancelFunc(func() {})
			if timeout > 0 {
				bounded, cancel = context.WithTimeout(ctx, timeout)
			}
			keys, next, err := node.Scan(bounded, cursor, match, int64(count)).Result()
			cancel()
			if err != nil {
				return wrap("scan", err)
			}
			if len(keys) > 0 {
				if err := fn(keys); err != nil {
					return err
				}
			}
			if next == 0 {
				break
			}
			cursor = next
		}
	}
	return nil
}

var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// globEscape makes s match itself in a Redis glob pattern.
func globEscape(s string) string { return globEscaper.Replace(s) }
