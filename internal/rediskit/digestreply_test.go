package rediskit

// digestreply_test.go proves that no answer of a server, however odd, is taken for a digest it is
// not, makes a walk go on for ever, or panics. A hook in the client answers instead of the server.

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// A server of a Cluster that owns nothing of what it holds gives no answer.
func TestDigestOfAServerThatLostItsSlotsIsAnOutage(t *testing.T) {
	c, rdb := digestClient(t, testserver.Redis(t).URL())
	rdb.AddHook(&between{around: func(_ int, cmd *redis.Cmd, _ func() error) error {
		list := []any{"0", "", "", "", []any{}, []any{}, int64(0), int64(3)}
		if len(cmd.Args()[7].(string)) == 2 { // a branch
			list = []any{"0", []any{}, []any{}, []any{}, int64(0), int64(3)}
		}
		cmd.SetVal(list)
		return nil
	}})
	_, _, err := c.Digest(within(t, 5*time.Second), "p:", fast)
	wantClass(t, err, Outage, "moved")
	_, err = c.Leaves(within(t, 5*time.Second), "p:", []int{1}, fast)
	wantClass(t, err, Outage, "moved")
}

// Whatever a server answers, the walk ends: with an error, or with an answer of the right form.
func TestDigestTakesNoMalformedReply(t *testing.T) {
	c, rdb := digestClient(t, testserver.Redis(t).URL())
	var reply any
	rdb.AddHook(&between{around: func(n int, cmd *redis.Cmd, _ func() error) error {
		if n > 100 {
			return errors.New("it goes on for ever")
		}
		cmd.SetVal(reply)
		return nil
	}})
	none, zero := []any{}, int64(0)
	dense := strings.Repeat("\x00", stateCursor+digest.Branches*branchBytes)
	for name, r := range map[string]any{
		"a number": int64(1), "a text": "0", "nothing": none, "nil": nil, "short": []any{"0"}, "nil in it": []any{nil, "", "", "", none, none, zero, zero},
		"half a branch":  []any{"0", "", "", strings.Repeat("\x00", entryBytes-1), none, none, zero, zero},
		"branch 2048":    []any{"0", "", "", "\x08\x00" + strings.Repeat("\x00", entryBytes-2), none, none, zero, zero},
		"a short state":  []any{"0", "", dense[1:], "", none, none, zero, zero},
		"a long state":   []any{"0", "", dense + "x", "", none, none, zero, zero},
		"a bad count":    []any{"0", "", "", "", none, none, "x", zero},
		"bad unreadable": []any{"0", "", "", "", []any{zero}, none, zero, zero},
		"no end of them": []any{"0", "", "", "", none, []any{"a"}, zero, zero},
		"no sums":        []any{"0", nil, nil, nil, none, none, zero, zero},
		"always lost":    []any{""},
	} {
		reply = r
		if set, _, err := c.Digest(within(t, 5*time.Second), "p:", fast); err == nil {
			t.Errorf("%s is taken for a digest: %v", name, set.Root())
		} else if name != "no end of them" && name != "nil" {
			wantClass(t, err, Outage, "")
		}
	}
	reply = []any{"0", []any{"odd"}, none, none, zero, zero}
	_, err := c.Leaves(within(t, 5*time.Second), "p:", []int{1}, fast)
	wantClass(t, err, Outage, "protocol")
	value := rapid.OneOf(rapid.Map(rapid.Int64Range(-1, 3), func(n int64) any { return n }),
		rapid.Map(rapid.SampledFrom([]string{"0", "", "1", dense, "\x00\x01" + strings.Repeat("x", 24)}), func(s string) any { return s }),
		rapid.Just[any](nil), rapid.Just[any](none), rapid.Just[any]([]any{"a", "b"}), rapid.Just[any]([]any{int64(1)}))
	rapid.Check(t, func(t *rapid.T) {
		reply = rapid.SliceOfN(value, 0, 9).Draw(t, "reply")
		_, _, _ = c.Digest(context.Background(), "p:", fast)
		_, _ = c.Leaves(context.Background(), "p:", []int{1}, fast)
	})
}
