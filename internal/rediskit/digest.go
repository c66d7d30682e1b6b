package rediskit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine/internal/digest"
)

// Pages says how Digest and Leaves cut their walk over all keys into script calls.
type Pages struct {
	// Timeout bounds each page; 0 leaves that to the context.
	Timeout time.Duration
	// Work is how long a page lasts on the server, in units of some 0.1 µs; 0 is
	// defaultWork. A value of 500 bytes is 85 of them.
	Work int
	// NoRest asks for the next page at once. Otherwise the walk pauses after each page for
	// as long as it took, so that the server has half its time for others. A client that
	// waits for each reply gets one in per page: measured beside a walk, 140 GET/s without
	// rests and 13,000 with them, of 28,000.
	NoRest bool
}

const (
	defaultWork  = 25_000
	namesPerCall = 100 // large values: the script reads as many as its budget allows
	longestRest  = 20 * time.Millisecond
)

var (
	// errLost says that the state of a walk is gone.
	errLost = errors.New("redis: state of a walk is gone")
	// errForeign is a server that owns nothing of what it holds.
	errForeign = serverError("MOVED all keys belong to another server")
)

// Digest sums up all live values whose keys begin with prefix, as digest.Set does with the
// leaves of their ids (the keys without prefix): the server computes it from the values
// themselves, so nothing that happens to them passes unseen: eviction, expiry, a write by
// somebody else. unreadable are the ids, each once, whose values are not sound (see
// SumMark) or not strings; they are not in the set. A value that contradicts itself nowhere
// is sound: whether it is the right one, the comparison has to tell.
//
// It is not a snapshot. As with Scan, a key that is there from start to end is seen at least
// once; one that comes or goes meanwhile may be missed, and a key that is seen twice,
// because the server resized its table, is in the set twice. Each of these leads to a branch
// that differs from what it should be, never to one that is equal by mistake (unless leaves
// of SHA-1 collide); Leaves of that branch names each key once.
//
// The walk costs the server some 10 µs for a value of 500 bytes (as much as 15 where it shares its
// processor), in pages of 2 to 5 ms, during which it serves nobody else; a value of 16 KB or
// more has a page of its own. About 50 KB per server and 250 bytes per page are on the wire.
// Meanwhile each server holds a key of 50 KB, whose name begins with prefix and the control
// character 1, for up to five minutes. It does without that key where it can't be written or
// doesn't last, and reads up to 25 bytes per key instead.
//
// A proxy that spreads keys over servers is not one server: the walk would see a part.
func (c *Client) Digest(ctx context.Context, prefix string, pages Pages) (set *digest.Set, unreadable []string, err error) {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, nil, wrap("digest", err)
	}
	set = new(digest.Set)
	keep := fmt.Sprintf("%s%sdigest:%08x:", prefix, stateMark, rand.Uint32())
	found := make(map[string]bool)
	for _, node := range nodes {
		w := c.newWalk(node, prefix, pages)
		part, err := w.digest(ctx, keep)
		if errors.Is(err, errLost) {
			w = c.newWalk(node, prefix, pages)
			part, err = w.digest(ctx, "")
		}
		if err != nil {
			return nil, nil, wrap("digest", err)
		}
		for i := range part {
			set[i].Merge(part[i])
		}
		for _, id := range w.bad {
			if !found[id] {
				found[id] = true
				unreadable = append(unreadable, id)
			}
		}
	}
	return set, unreadable, nil
}

// Leaf is the id and the rank, without rankPrefix, of a value; the rank is empty if the
// value is unreadable.
type Leaf struct{ ID, Rank string }

// Leaves returns id and rank of all values, tombstones and unreadable ones included, whose
// keys begin with prefix and whose ids belong to the given branches; each id once, in any
// order. The server chooses them, so only they travel. Else it is as Digest.
func (c *Client) Leaves(ctx context.Context, prefix string, branches []int, pages Pages) ([]Leaf, error) {
	var wanted []byte
	for _, b := range branches {
		if b >= 0 && b < digest.Branches {
			wanted = binary.BigEndian.AppendUint16(wanted, uint16(b))
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, wrap("leaves", err)
	}
	ranks := make(map[string]string)
	for _, node := range nodes {
		w := c.newWalk(node, prefix, pages)
		if err := w.leaves(ctx, string(wanted), ranks); err != nil {
			return nil, wrap("leaves", err)
		}
		for _, id := range w.bad {
			ranks[id] = ""
		}
	}
	leaves := make([]Leaf, 0, len(ranks))
	for id, rank := range ranks {
		leaves = append(leaves, Leaf{id, rank})
	}
	return leaves, nil
}

// walk is one walk over one server.
type walk struct {
	c      *Client
	node   redis.Cmdable
	prefix string
	match  string
	pages  Pages

	bad           []string      // ids of unreadable values
	large         []string      // ids of values still to be read by name
	seen, foreign int64         // keys of this server, and of others
	took          time.Duration // by the page before
}

func (c *Client) newWalk(node redis.Cmdable, prefix string, pages Pages) *walk {
	if pages.Work <= 0 {
		pages.Work = defaultWork
	}
	return &walk{c: c, node: node, prefix: prefix, match: globEscape(prefix) + "*", pages: pages}
}

func (w *walk) digest(ctx context.Context, keep string) (*digest.Set, error) {
	set := new(digest.Set)
	return set, w.run(ctx, w.c.digestScript, keep, func(r *reply) string {
		next := r.text(1)
		addDense(set, r)
		addSparse(set, r)
		return next
	})
}

func (w *walk) leaves(ctx context.Context, wanted string, ranks map[string]string) error {
	return w.run(ctx, w.c.leavesScript, wanted, func(r *reply) string {
		rows := r.texts(1)
		if len(rows)%2 != 0 {
			r.bad = true
			return ""
		}
		for i := 0; i < len(rows); i += 2 {
			ranks[rows[i]] = rows[i+1]
		}
		return wanted
	})
}

// run calls the script page by page, then with the names of the large values. take reads what
// is particular to the script from its reply, and returns what ARGV[5] shall be next.
func (w *walk) run(ctx context.Context, script *redis.Script, arg string, take func(*reply) string) error {
	for cursor := "0"; ; {
		r, err := w.page(ctx, script, cursor, arg, nil)
		if err != nil {
			return err
		}
		arg = take(r)
		if cursor = r.text(0); r.bad {
			return errReply
		}
		if cursor == "0" {
			break
		}
	}
	if w.foreign > 0 && w.seen == 0 {
		return errForeign
	}
	for large := w.large; len(large) > 0; {
		r, err := w.page(ctx, script, "", arg, large[:min(len(large), namesPerCall)])
		if err != nil {
			return err
		}
		take(r)
		n, err := strconv.Atoi(r.text(0)) // how many it did
		if r.bad || err != nil || n < 1 || n > len(large) {
			return errReply
		}
		large = large[n:]
	}
	return nil
}

// page calls the script once, after a pause.
func (w *walk) page(ctx context.Context, script *redis.Script, cursor, arg string, ids []string) (*reply, error) {
	if err := w.rest(ctx); err != nil {
		return nil, err
	}
	args := make([]any, 0, 5+len(ids))
	args = append(args, w.match, len(w.prefix), cursor, w.pages.Work, arg)
	for _, id := range ids {
		args = append(args, w.prefix+id)
	}
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if w.pages.Timeout > 0 {
		bounded, cancel = context.WithTimeout(ctx, w.pages.Timeout)
	}
	start := time.Now()
	list, err := script.Run(bounded, w.node, nil, args...).Slice()
	w.took = time.Since(start)
	cancel()
	if err != nil {
		return nil, err
	}
	r := &reply{list: list}
	if r.text(0) == "" && !r.bad {
		return nil, errLost
	}
	at := len(list) - 4
	w.bad = append(w.bad, r.texts(at)...)
	if large := r.texts(at + 1); ids == nil {
		w.large = append(w.large, large...)
	}
	w.seen += r.number(at + 2)
	w.foreign += r.number(at + 3)
	return r, nil
}

func (w *walk) rest(ctx context.Context) error {
	if w.pages.NoRest || w.took == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(min(w.took, longestRest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// addDense adds the state of a walk, if the reply has one: a cursor and all branches.
func addDense(set *digest.Set, r *reply) {
	all := r.text(2)
	if len(all) == 0 {
		return
	}
	if len(all) != stateCursor+len(set)*branchBytes {
		r.bad = true
		return
	}
	all = all[stateCursor:]
	for i := range set {
		set[i].Merge(sumAt(all[i*branchBytes:]))
	}
}

// addSparse adds the branches that a page touched.
func addSparse(set *digest.Set, r *reply) {
	for list := r.text(3); len(list) > 0; list = list[entryBytes:] {
		if len(list) < entryBytes || int(list[0])<<8|int(list[1]) >= len(set) {
			r.bad = true
			return
		}
		set[int(list[0])<<8|int(list[1])].Merge(sumAt(list[2:]))
	}
}

func sumAt(b string) (s digest.Sum) {
	copy(s.Xor[:], b)
	s.Count = uint64(binary.BigEndian.Uint32([]byte(b[len(s.Xor):branchBytes])))
	return s
}

// reply is the list a script answered with; bad turns true when it is not of the form expected.
type reply struct {
	list []any
	bad  bool
}

func (r *reply) at(i int) any {
	if i < 0 || i >= len(r.list) {
		return nil
	}
	return r.list[i]
}

func (r *reply) text(i int) string {
	s, ok := r.at(i).(string)
	r.bad = r.bad || !ok
	return s
}

func (r *reply) texts(i int) []string {
	list, ok := r.at(i).([]any)
	r.bad = r.bad || !ok
	out := make([]string, len(list))
	for k, v := range list {
		s, ok := v.(string)
		r.bad = r.bad || !ok
		out[k] = s
	}
	return out
}

func (r *reply) number(i int) int64 {
	n, ok := r.at(i).(int64)
	r.bad = r.bad || !ok
	return n
}
