package rediskit

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// WatchDials tells of each new connection that a client of somebody else's makes to a server of
// its data, before it is used, until stop is called. The client keeps the hook, which does nothing
// then. Of a type that it does not know it tells what its hooks do.
func WatchDials(client redis.UniversalClient, told func()) (stop func()) {
	w := &dialWatch{}
	w.told.Store(&told)
	node := func(c *redis.Client) { c.AddHook(w) }
	switch c := client.(type) {
	case *redis.ClusterClient:
		c.OnNewNode(node)
		addToShards(c, node)
	case *redis.Ring:
		c.OnNewNode(node)
		addToShards(c, node)
	default:
		client.AddHook(w)
	}
	return func() { w.told.Store(nil) }
}

// addToShards adds to the nodes that a client knows already: it may have to ask, and those that it
// does not know by then are new ones.
func addToShards(c shards, node func(*redis.Client)) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = c.ForEachShard(ctx, func(_ context.Context, c *redis.Client) error {
		node(c)
		return nil
	})
}

// dialWatch is a hook on what dials.
type dialWatch struct{ told atomic.Pointer[func()] }

// DialHook implements redis.Hook.
func (w *dialWatch) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if told := w.told.Load(); err == nil && told != nil {
			(*told)()
		}
		return conn, err
	}
}

// ProcessHook implements redis.Hook.
func (w *dialWatch) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (w *dialWatch) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
