package syncengine

// compact.go is the job that takes old merges out of L3, and the way to rebuild one item. What is
// kept, and why nothing is lost by it, is in l3compact.go.
//
// One goroutine, "compaction", in an engine built with -tags crdt.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// compaction is that department's second half.
type compaction struct {
	archive  *archive
	l1       *l1
	cache    *cache
	queue    *queue
	flush    *flusher
	numbers  *numbers
	bad      *quarantine
	repair   *repair
	news     *news
	cfg      compactConfig
	clock    func() time.Time
	who      string
	mu       sync.Mutex // held during a pass
	interval time.Duration
}

// compactConfig says for how many days rows are kept: of each merge; of each day.
type compactConfig struct{ ops, days int }

func newCompaction(cfg *Config, a *archive, mem *l1, c *cache, q *queue, f *flusher, n *numbers, bad *quarantine, r *repair, news *news) *compaction {
	return &compaction{archive: a, l1: mem, cache: c, queue: q, flush: f, numbers: n, bad: bad, repair: r, news: news, interval: cfg.CompactionInterval,
		cfg: compactConfig{cfg.RetentionFullDays, cfg.RetentionCompactDays}, clock: time.Now, who: newEngineID()}
}

// Run is the loop.
func (c *compaction) Run(ctx context.Context) {
	tick := time.NewTicker(max(c.interval, shortestInterval))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if _, err := c.Compact(ctx); err != nil && ctx.Err() == nil {
			c.news.Log().Warn("compaction ended early, the next one goes on", "error", err)
		}
	}
}

// Compact makes one pass over all items.
func (c *compaction) Compact(ctx context.Context) (total CompactReport, err error) {
	if !c.archive.Compacts() {
		return total, &ConfigError{Field: "L3", Value: "(set)", Rule: "can't be compacted: it keeps no merges"}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	keepOps, keepDays := now.AddDate(0, 0, -c.cfg.ops), now.AddDate(0, 0, -c.cfg.days)
	settled, err := c.archive.Settle(ctx, c.numbers.Node(), c.numbers.SettledMerges(c.bad.LowestMerge))
	if err != nil {
		return total, err
	}
	start := time.Now()
	claimed := time.Time{}
	defer func() {
		if !claimed.IsZero() { // whatever the end; if L3 does not hear of it, the claim ends by itself
			_ = c.archive.UnclaimCompaction(context.WithoutCancel(ctx), c.who)
		}
	}()
	for after, first := "", true; first || after != ""; first = false {
		ids, err := c.archive.MergedAbove(ctx, after)
		if err != nil {
			return total, err
		}
		after = ""
		for _, id := range ids {
			if time.Since(claimed) > claimTime/2 {
				claimed = time.Now()
				mine, err := c.archive.ClaimCompaction(ctx, c.who, now.Add(time.Since(start)), claimTime)
				if err != nil || !mine {
					total.Elsewhere = !mine && err == nil
					return total, err
				}
			}
			if err := c.item(ctx, id, keepOps, keepDays, settled, &total); err != nil {
				return total, err
			}
			after = id
		}
		if len(ids) > 0 {
			c.news.Compacted(total, false)
		}
	}
	c.news.Compacted(total, true)
	return total, nil
}

// shortestInterval is what less than it means.
const shortestInterval = 10 * time.Millisecond

// claimTime is for how long a claim holds that is not given back: an engine that dies while it
// compacts keeps the others from it no longer.
const claimTime = 10 * time.Minute

func (c *compaction) item(ctx context.Context, id string, keepOps, keepDays time.Time, settled map[string]uint64, total *CompactReport) error {
	counted := false
	for more := true; more; {
		var r CompactReport
		var err error
		if r, more, err = c.archive.CompactItem(ctx, id, keepOps, keepDays, settled); err != nil {
			return err
		}
		total.Ops += r.Ops
		total.Snapshots += r.Snapshots
		total.Damaged += r.Damaged
		if r.Items > 0 && !counted {
			counted = true
			total.Items++
		}
	}
	return nil
}

// Rebuild makes an item what its merges make it, in all tiers.
func (c *compaction) Rebuild(ctx context.Context, id string) (Item, error) {
	if !c.archive.Compacts() {
		return Item{}, &ConfigError{Field: "L3", Value: "(set)", Rule: "keeps no merges"}
	}
	if c.queue.Waits(id) {
		if _, err := c.flush.FlushAll(ctx); err != nil {
			return Item{}, err
		}
	}
	rec, err := c.rebuilt(ctx, id)
	return rec.Item, err
}

// rebuilt is Rebuild for a row of L3 of which nothing waits.
func (c *compaction) rebuilt(ctx context.Context, id string) (rec Record, err error) {
	stamp := c.l1.Stamp(id)
	rec, changed, damaged, err := c.archive.Rebuild(ctx, id)
	c.news.DamagedMerges(id, damaged)
	if err != nil {
		if errors.Is(err, ErrNotFound) {
			return rec, &NotFoundError{ID: id}
		}
		return rec, said(ctx, fmt.Errorf("rebuild: %w", err))
	}
	if changed {
		c.news.Healed(id, "L3")
	}
	c.l1.Forget(newEntry(&rec))
	c.l1.Promote(newEntry(&rec), stamp)
	if c.cache.On() && (c.cache.Remove(ctx, []string{id}) != nil || c.repair.Copy(ctx, []string{id}) != nil) {
		c.cache.Miss(ctx, []Record{rec})
	}
	return rec, nil
}
