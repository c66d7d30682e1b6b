package rediskit

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Delete removes keys, whatever they hold, in one round trip (per server of a Cluster).
// After an error any of them may be gone; repeating it is harmless.
func (c *Client) Delete(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	pipe := c.rdb.Pipeline()
	cmds := make([]*redis.IntCmd, len(keys))
	for i, key := range keys {
		cmds[i] = pipe.Unlink(ctx, key)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return wrap("delete", err)
	}
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil {
			return wrap("delete", err)
		}
	}
	return nil
}
