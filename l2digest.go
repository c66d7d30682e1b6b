package syncengine

// l2digest.go lets Redis sum up what it holds, so that L2 can be compared with L3 without
// listing it: the digest of the live values, branch by branch, computed by Redis from the
// values themselves, and then the leaves of single branches.
//
// It is about what is there now, whoever put it there. A value that is not sound (its sum
// doesn't fit, or it is no string) is in no digest: its id is returned as unreadable.
//
// No goroutines. The scripts live in internal/rediskit.

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/rediskit"
)

// Digest returns the digest of the live values and the ids of the unreadable ones. It walks over
// all keys, in pages of a few milliseconds, each bounded by timeout (0: by ctx alone). What is
// written meanwhile may be in it, or not, or twice: a difference is a suspicion that Leaves and a
// look at both tiers have to confirm. No difference is sure, for what was there all the time.
func (s *redisStore) Digest(ctx context.Context, timeout time.Duration) (set *digest.Set, unreadable []string, err error) {
	set, bad, err := s.c.Digest(ctx, s.prefix, rediskit.Pages{Timeout: timeout})
	if err != nil {
		return nil, nil, l2Error(err)
	}
	return set, ourIDs(bad), nil
}

// Leaves returns the records, tombstones included, whose ids belong to the branches, and the
// unreadable ids that do, in any order, each once. It walks as Digest does.
func (s *redisStore) Leaves(ctx context.Context, timeout time.Duration, branches []int) (leaves []Meta, unreadable []string, err error) {
	found, err := s.c.Leaves(ctx, s.prefix, branches, rediskit.Pages{Timeout: timeout})
	if err != nil {
		return nil, nil, l2Error(err)
	}
	for _, leaf := range found {
		if checkID(leaf.ID) != nil { // not ours, as in Scan
			continue
		}
		if m, ok := parseRank(leaf.ID, leaf.Rank); ok {
			leaves = append(leaves, m)
		} else {
			unreadable = append(unreadable, leaf.ID)
		}
	}
	return leaves, unreadable, nil
}

// Evicts reports whether a server is so full that it drops keys to take others. It takes the right
// to ask for INFO.
func (s *redisStore) Evicts(ctx context.Context, timeout time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	servers, err := s.c.Info(ctx)
	if rediskit.Forbidden(err) {
		return false, nil // nobody can tell
	}
	return slices.ContainsFunc(servers, rediskit.Server.Evicts), l2Error(err)
}

// ourIDs drops what is no id: such keys are not ours, as in Scan.
func ourIDs(ids []string) (ours []string) {
	for _, id := range ids {
		if checkID(id) == nil {
			ours = append(ours, id)
		}
	}
	return ours
}

// parseRank reads what appendRank wrote, and nothing else.
func parseRank(id, rank string) (m Meta, ok bool) {
	if len(rank) != rankDigits {
		return Meta{}, false
	}
	version, err := strconv.ParseUint(rank[:16], 16, 64)
	if err != nil || version > MaxVersion {
		return Meta{}, false
	}
	r := Record{Item: Item{ID: id, Version: version}, Deleted: rank[17] == '1'}
	if _, err := hex.Decode(r.ContentHash[:], []byte(rank[19:])); err != nil {
		return Meta{}, false
	}
	var again [rankDigits]byte
	if string(appendRank(again[:0], &r)) != rank || r.Deleted && r.ContentHash != [32]byte{} {
		return Meta{}, false
	}
	return Meta{ID: id, Version: r.Version, Deleted: r.Deleted, ContentHash: r.ContentHash}, true
}

// cacheDigester is an L2 that knows its digest. timeout bounds each step, of which a large
// cache takes many. unreadable are ids whose values are none of ours.
type cacheDigester interface {
	Digest(ctx context.Context, timeout time.Duration) (set *digest.Set, unreadable []string, err error)
	// Leaves returns what is in branches, perhaps tombstones as well.
	Leaves(ctx context.Context, timeout time.Duration, branches []int) (leaves []Meta, unreadable []string, err error)
	// Evicts reports whether it is so full that it drops something to take more.
	Evicts(ctx context.Context, timeout time.Duration) (bool, error)
}
