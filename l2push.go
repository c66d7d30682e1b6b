package syncengine

// l2push.go carries messages between engines that share a Redis. Nobody relies on one to arrive.

import "context"

// messenger is an L2 that carries messages.
type messenger interface {
	// Publish sends a message to all who listen now.
	Publish(ctx context.Context, message []byte) error
	// Subscribe calls ready when it listens, and fn with each message, until ctx ends or it can't.
	Subscribe(ctx context.Context, ready func(), fn func(message []byte)) error
}

// channel is no key, and ids with this prefix are none of its business.
func (s *redisStore) channel() string { return s.prefix + "!changes" }

func (s *redisStore) Publish(ctx context.Context, message []byte) error {
	return l2Error(s.c.Publish(ctx, s.channel(), message))
}

func (s *redisStore) Subscribe(ctx context.Context, ready func(), fn func(message []byte)) error {
	return l2Error(s.c.Subscribe(ctx, s.channel(), ready, fn))
}

// Carries reports whether L2 carries messages.
func (c *cache) Carries() bool { return c.messenger != nil }

// Publish sends a message to the other engines.
func (c *cache) Publish(ctx context.Context, message []byte) error {
	if err := c.barred(); err != nil {
		return err
	}
	return c.DoFor(ctx, "publish", min(c.Timeout, loopTime), func(ctx context.Context) error { return c.messenger.Publish(ctx, message) })
}

// Subscribe listens to the other engines: see messenger. Its end does not count for the breaker.
func (c *cache) Subscribe(ctx context.Context, ready func(), fn func(message []byte)) error {
	return c.messenger.Subscribe(ctx, ready, fn)
}
