package rediskit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Value is what Put stores under Key. Key may hold any bytes. Put only reads
// Bytes, and not after it returned. TTL 0 means no expiry; it is rounded up to
// whole milliseconds.
type Value struct {
	Key   string
	Bytes []byte
	TTL   time.Duration
}

// A script runs undisturbed by other clients, so it should not be long; and
// each costs a fixed part, so it should not be short. 100 values take a
// third of a millisecond.
const (
	chunkValues = 100
	chunkBytes  = 1 << 20
)

// putSource stores ARGV[2+i] under KEYS[i] unless the key holds a higher rank.
// ARGV[1] and [2] are the rank's prefix and width; if any value expires, as many
// lifetimes in ms as there are values follow them (0: none). It answers 0, or a
// list of index, error, index, error … of the values it could not process: no
// error ends it, so that one key says nothing about another.
//
// Winners without a lifetime are collected for one MSET, which is twice as fast
// as a SET each; a key that comes again first flushes those before it. MSET does
// all or nothing, and if it is refused each is tried alone. Bytes are compared,
// and not strings with <, which follows the server's locale. GETRANGE gets its
// numbers as strings: formatting them costs as much as the rest of the call.
const putSource = `local prefix, width, n = ARGV[1], tonumber(ARGV[2]), #KEYS
local pcall, sub, byte, plen = redis.pcall, string.sub, string.byte, #ARGV[1]
local ttls, last = #ARGV > n+2, tostring(width-1)
local failed, won, args, m = {}, {}, {}, 0
local function fail(i, err)
  failed[#failed+1] = i
  failed[#failed+1] = err
end
local function below(a, b)
  for j = plen+1, width, 8 do
    local a1, a2, a3, a4, a5, a6, a7, a8 = byte(a, j, j+7)
    local b1, b2, b3, b4, b5, b6, b7, b8 = byte(b, j, j+7)
    if a1 ~= b1 then return a1 < b1 end
    if a2 ~= b2 then return a2 < b2 end
    if a3 ~= b3 then return a3 < b3 end
    if a4 ~= b4 then return a4 < b4 end
    if a5 ~= b5 then return a5 < b5 end
    if a6 ~= b6 then return a6 < b6 end
    if a7 ~= b7 then return a7 < b7 end
    if a8 ~= b8 then return a8 < b8 end
  end
  return false
end
local function flush()
  if m > 0 and pcall('MSET', unpack(args, 1, m)).err then
    for key, i in pairs(won) do
      local err = pcall('SET', key, ARGV[2+i]).err
      if err then fail(i, err) end
    end
  end
  won, args, m = {}, {}, 0
end
for i = 1, n do
  local key, new, err = KEYS[i], ARGV[2+i], nil
  if won[key] then flush() end
  local cur = pcall('GETRANGE', key, '0', last)
  local wins = true
  if type(cur) == 'table' then
    if not string.find(cur.err, 'WRONGTYPE', 1, true) then err = cur.err end
  elseif #cur == width and sub(cur, 1, plen) == prefix then
    local rank = sub(new, 1, width)
    wins = rank == cur or not below(rank, cur)
  end
  if err then
    fail(i, err)
  elseif wins then
    local ttl = ttls and ARGV[2+n+i] or '0'
    if ttl == '0' then
      won[key], args[m+1], args[m+2], m = i, key, new, m+2
    else
      err = pcall('SET', key, new, 'PX', ttl).err
      if err then fail(i, err) end
    end
  end
end
flush()
if #failed > 0 then return failed end
return 0`

var putScript = redis.NewScript(putSource)

// chunk is the half-open range of values one script call gets.
type chunk struct{ lo, hi int }

// Put stores each value, unless its key holds a value of higher rank. Equal rank
// overwrites, which repairs a damaged body; anything without a rank, or of
// another type, is replaced. A key given twice is processed in order.
//
// All values travel in one round trip (per server of a Cluster; one more after
// the server lost its scripts). When err is nil, errs is nil too and every value
// was processed: stored, or lost to a higher rank. Otherwise errs is aligned
// with vals: nil means processed, ErrBadValue (wrapped) never sent, any other
// error unknown: stored or not. err joins them, one of a kind. Repeating a Put
// is harmless whatever happened to the first.
func (c *Client) Put(ctx context.Context, vals []Value) (errs []error, err error) {
	fail := func(i int, why error) {
		if errs == nil {
			errs = make([]error, len(vals))
		}
		errs[i] = why
	}
	calls := c.chunks(vals, func(i int) { fail(i, wrap("put", ErrBadValue)) })
	if len(calls) > 0 {
		noScript := c.send(ctx, vals, calls, "evalsha", putScript.Hash(), fail)
		if len(noScript) > 0 {
			c.send(ctx, vals, noScript, "eval", putSource, fail)
		}
	}
	if errs == nil {
		return nil, nil
	}
	var unknown failures
	for _, err := range errs {
		if err != nil {
			unknown.add(err)
		}
	}
	return errs, unknown.err(len(vals))
}

// chunks cuts vals into script calls, leaving out the values it calls bad on.
func (c *Client) chunks(vals []Value, bad func(i int)) []chunk {
	limit := chunkValues
	if c.spread {
		limit = 1
	}
	out := make([]chunk, 0, len(vals)/limit+1)
	open, size := false, 0
	for i := range vals {
		if !c.ranked(vals[i].Bytes) || vals[i].TTL < 0 {
			bad(i)
			open = false
			continue
		}
		n := len(vals[i].Key) + len(vals[i].Bytes)
		if last := len(out) - 1; open && i-out[last].lo < limit && size+n <= chunkBytes {
			out[last].hi, size = i+1, size+n
		} else {
			out, open, size = append(out, chunk{i, i + 1}), true, n
		}
	}
	return out
}

func (c *Client) ranked(b []byte) bool {
	return len(c.prefix) <= c.width && len(b) >= c.width && string(b[:len(c.prefix)]) == c.prefix
}

// send runs the script once per chunk, in one pipeline, calls fail for each
// value that was not surely processed, and returns the chunks the server had no
// script for.
func (c *Client) send(ctx context.Context, vals []Value, calls []chunk, command, script string, fail func(int, error)) (noScript []chunk) {
	pipe := c.rdb.Pipeline()
	cmds := make([]*redis.Cmd, len(calls))
	for n, ch := range calls {
		cmds[n] = pipe.Do(ctx, c.args(command, script, vals[ch.lo:ch.hi])...)
	}
	_, execErr := pipe.Exec(ctx)
	if execErr == nil {
		execErr = errReply // for a command without any reply
	}
	for n, cmd := range cmds {
		ch := calls[n]
		reply, err := cmd.Result()
		if command == "evalsha" && redis.HasErrorPrefix(err, "NOSCRIPT") {
			noScript = append(noScript, ch)
			continue
		}
		if err == nil && !readReply(reply, ch, fail) {
			err = execErr
		}
		if err != nil {
			err = wrap("put", err)
			for i := ch.lo; i < ch.hi; i++ {
				fail(i, err)
			}
		}
	}
	return noScript
}

func (c *Client) args(command, script string, vals []Value) []any {
	args := make([]any, 0, 5+3*len(vals))
	args = append(args, command, script, len(vals))
	for i := range vals {
		args = append(args, vals[i].Key)
	}
	args = append(args, c.prefix, c.width)
	expire := false
	for i := range vals {
		args = append(args, vals[i].Bytes)
		expire = expire || vals[i].TTL != 0
	}
	if expire {
		for i := range vals {
			args = append(args, millis(vals[i].TTL))
		}
	}
	return args
}

func millis(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond != 0 {
		ms++
	}
	return strconv.FormatInt(ms, 10)
}

// readReply takes the script's answer apart, and reports whether it is one.
func readReply(reply any, ch chunk, fail func(int, error)) bool {
	if n, ok := reply.(int64); ok {
		return n == 0
	}
	list, ok := reply.([]any)
	if !ok || len(list) == 0 || len(list)%2 != 0 {
		return false
	}
	for k := 0; k < len(list); k += 2 {
		i, ok1 := list[k].(int64)
		text, ok2 := list[k+1].(string)
		if !ok1 || !ok2 || i < 1 || int(i) > ch.hi-ch.lo {
			return false
		}
		fail(ch.lo+int(i)-1, wrap("put", serverError(strings.TrimPrefix(text, "-"))))
	}
	return true
}

// failures joins errors, one for each Reason, so that a thousand values that
// failed alike give one line.
type failures struct {
	n    int
	seen map[string]bool
	errs []error
}

func (f *failures) add(err error) {
	f.n++
	reason := Reason(err)
	if f.seen[reason] {
		return
	}
	if f.seen == nil {
		f.seen = make(map[string]bool)
	}
	f.seen[reason] = true
	f.errs = append(f.errs, err)
}

func (f *failures) err(of int) error {
	if f.n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d: %w", f.n, of, errors.Join(f.errs...))
}
