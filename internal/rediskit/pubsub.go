package rediskit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// subscribeWait bounds the wait for the reply to a subscription.
const subscribeWait = time.Second

// Publish sends a message to all who are subscribed to a channel now. On a cluster the channel is a
// sharded one (Redis 7): one node has it, instead of all.
func (c *Client) Publish(ctx context.Context, channel string, message []byte) error {
	if c.sharded() {
		return c.rdb.SPublish(ctx, channel, message).Err()
	}
	return c.rdb.Publish(ctx, channel, message).Err()
}

// Subscribe calls ready once it is subscribed to a channel, and fn with each message from then on,
// until ctx ends, or the connection, or the channel has moved to another node. A connection on
// which nothing comes is asked every pingEvery, and has as long to answer.
func (c *Client) Subscribe(ctx context.Context, channel string, ready func(), fn func(message []byte)) error {
	subscribe := c.rdb.Subscribe
	if c.sharded() {
		subscribe = c.rdb.SSubscribe
	}
	first, cancel := context.WithTimeout(ctx, subscribeWait)
	defer cancel()
	sub := subscribe(first, channel)
	// Closing waits for a connection that is being made, and so for a server that hangs.
	defer func() { time.AfterFunc(0, func() { _ = sub.Close() }) }()
	if _, err := sub.ReceiveTimeout(first, subscribeWait); err != nil {
		return err
	}
	ready()
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // which ends a wait
	for asked := false; ; {
		m, err := sub.ReceiveTimeout(ctx, pingEvery)
		if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() && !asked {
			asked, err = true, sub.Ping(ctx)
		} else if err == nil {
			asked = false
		}
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *redis.Message:
			fn([]byte(m.Payload))
		case *redis.Subscription:
			if m.Count == 0 {
				return fmt.Errorf("the subscription to %s has ended", channel)
			}
		}
	}
}

const pingEvery = 2 * time.Second

func (c *Client) sharded() bool {
	_, ok := c.rdb.(masters)
	return ok
}
