package rediskit

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// Claim sets a key to a value unless it has one, and returns what it has then.
func (c *Client) Claim(ctx context.Context, key, value string) (held string, err error) {
	held, err = c.rdb.Get(ctx, key).Result()
	if !errors.Is(err, redis.Nil) {
		return held, err
	}
	set, err := c.rdb.SetNX(ctx, key, value, 0).Result()
	if err != nil || set {
		return value, err
	}
	return c.rdb.Get(ctx, key).Result()
}

// Count adds one to a number, and returns it.
func (c *Client) Count(ctx context.Context, key string) (int64, error) {
	return c.rdb.Incr(ctx, key).Result()
}

// Set sets a key.
func (c *Client) Set(ctx context.Context, key, value string) error {
	return c.rdb.Set(ctx, key, value, 0).Err()
}
