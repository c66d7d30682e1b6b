package neighbours

import (
	"context"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestINV15WhatIsToldWhileAnOpIsOnItsWayIsNotForgotten: an op is in L3, and its batch still waits
// for Redis, when this engine hears that another one has written the id since.
func TestINV15WhatIsToldWhileAnOpIsOnItsWayIsNotForgotten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a, b, raw, p := lab.BehindRedis(t)
	submit(t, a, "x", "0", archived)
	submit(t, a, "y", "0", archived)
	submit(t, b, "z", "0", archived)
	lab.Must(t, a.Flush(ctx))
	p.Hold()
	submit(t, a, "x", "1")
	lab.Eventually(t, "SQL has the op", func() bool {
		return lab.Number(t, raw, "SELECT COUNT(*) FROM sync_items WHERE id = 'x' AND content = '1'") == 1
	})
	submit(t, b, "x", "2", archived)
	submit(t, b, "y", "2", archived)
	lab.Eventually(t, "it was told of both", func() bool { return a.Len() == 1 }) // y is gone
	p.Release()
	lab.Eventually(t, "it reads what the other one has written", func() bool { return reads["Get"](a, "x") == "2" })
}

// TestINV15WhatIsToldWhileAConditionIsDecidedIsNotForgotten: the same for an op that L3 has
// decided.
func TestINV15WhatIsToldWhileAConditionIsDecidedIsNotForgotten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a, b, raw, p := lab.BehindRedis(t)
	submit(t, a, "y", "0", archived)
	submit(t, b, "z", "0", archived)
	lab.Must(t, a.Flush(ctx))
	p.Hold()
	done := make(chan error, 1)
	go func() { done <- a.Insert(ctx, syncengine.Item{ID: "x", Content: []byte("1")}) }()
	lab.Eventually(t, "SQL has the op", func() bool {
		return lab.Number(t, raw, "SELECT COUNT(*) FROM sync_items WHERE id = 'x' AND content = '1'") == 1
	})
	submit(t, b, "x", "2", archived)
	submit(t, b, "y", "2", archived)
	lab.Eventually(t, "it was told of both", func() bool { return a.Len() == 0 }) // y is gone
	p.Release()
	lab.Must(t, <-done)
	lab.Eventually(t, "it reads what the other one has written", func() bool { return reads["Get"](a, "x") == "2" })
}

// TestINV15WhatOneThatCameAndWentHasWrittenIsTold: it has gone before the log is read again.
func TestINV15WhatOneThatCameAndWentHasWrittenIsTold(t *testing.T) {
	t.Parallel()
	for _, server := range lab.SQLServers {
		t.Run(server.Name, func(t *testing.T) {
			t.Parallel()
			for range 6 {
				cfg := syncengine.Config{SQLURL: server.URL(t), L1MaxAge: time.Hour}
				a := lab.Open(t, cfg)
				submit(t, a, "x", "1", archived)
				b := lab.Open(t, cfg)
				submit(t, b, "x", "2", archived)
				lab.Must(t, b.Close())
				lab.Eventually(t, "it reads what the other one has written", func() bool { return reads["Get"](a, "x") == "2" })
				lab.Must(t, a.Close())
			}
		})
	}
}
