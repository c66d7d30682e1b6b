package rediskit

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// SumMark stands between the rank and the sum of a value that Digest can read:
//
//	value = rankPrefix | rank | SumMark | sum, SumDigits hex digits | rest
//	sum   = the first of SHA-1(id | 0x00 | rank | rest)
//
// id is the key without the prefix of all keys. The 18th byte of rank is '0' in a live
// value; any other is a tombstone.
const SumMark = `","sum":"`

// SumDigits is the length of a sum: 64 bits, which chance does not meet.
const SumDigits = 16

const (
	liveAt = 18
	// scanStep is how many places of the key space the server looks at before it counts
	// its work: a page can end only between two steps.
	scanStep = 64
	// wholeLimit: a value of this many bytes or more isn't read in a step, whose keys are
	// not known before. Its key is handed out, to be read by name. So a step reads at most
	// scanStep*wholeLimit bytes: 1 MB, 3 ms.
	wholeLimit = 16 << 10
	// stateTTL is how long the state of a walk that broke off remains.
	stateTTL = "300000"
	// stateMark begins the id of a state. No id begins with a control character.
	stateMark = "\x01"
	// stateTries is how many names are tried for a key that this server of a Cluster owns.
	stateTries = 1000

	stateCursor = 20         // bytes of the cursor in a state
	branchBytes = 20 + 4     // of a branch in a state
	entryBytes  = 2 + 20 + 4 // of a branch in a list of those that a page touched
)

// commonSource walks over a page of keys and hands each sound value to take(id, text, v), text
// being what the leaf is the hash of; skip(id) may say beforehand that an id is of no interest.
//
// ARGV: 1 glob, 2 bytes of the prefix, 3 cursor, 4 budget, 5 of the script itself. Cursor ” is
// no scan: the keys follow from ARGV[6] on, and are read whatever their size.
//
// A page ends by its work, counted in units of some 0.1 µs, and not by the clock: a script's clock
// stands still. An error other than that of a wrong type ends the page, for it says nothing about
// the value. Keys that this server of a Cluster holds and doesn't own (a slot is moving) are left
// to their owner.
const commonSource = `local try, sub, byte, sha1 = redis.pcall, string.sub, string.byte, redis.sha1hex
local plen, start, budget = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local bad, large, seen, foreign, work, failure = {}, {}, 0, 0, 0, nil
local function branch(id) return bit.rshift(tonumber(sub(sha1(id), 1, 3), 16), 1) end
local function sound(id, v)
  if sub(v, 1, $head) ~= $prefix or sub(v, $width+1, $width+$mark) ~= $sumMark then return end
  local text = id .. '\0' .. sub(v, $head+1, $width)
  if sub(sha1(text .. sub(v, $total+1)), 1, $sum) == sub(v, $total-$sum+1, $total) then return text end
end
local function visit(key, whole, skip, take)
  local id = sub(key, plen+1)
  work = work + 10
  if skip and skip(id) then return end
  local v
  if whole then v = try('GET', key) else v = try('GETRANGE', key, '0', $last) end
  if not v then return end
  if type(v) == 'table' then
    if string.find(v.err, 'WRONGTYPE', 1, true) then bad[#bad+1] = id
    elseif string.find(v.err, 'non local key', 1, true) then foreign = foreign + 1
    else failure = v end
    return
  end
  seen, work = seen + 1, work + 50 + #v / 20
  if #v > $last and not whole then
    large[#large+1] = id
    return
  end
  local text = sound(id, v)
  if text then take(id, text, v) else bad[#bad+1] = id end
end
local function walk(skip, take)
  if start == '' then
    for i = 6, #ARGV do
      visit(ARGV[i], true, skip, take)
      if failure then return end
      if work >= budget then return tostring(i-5) end
    end
    return tostring(#ARGV-5)
  end
  local cursor = start
  repeat
    local page = try('SCAN', cursor, 'MATCH', ARGV[1], 'COUNT', $step)
    if page.err then failure = page return end
    cursor, work = page[1], work + 2*$step
    for _, key in ipairs(page[2]) do
      if byte(key, plen+1) ~= $state then visit(key, false, skip, take) end
      if failure then return end
    end
  until cursor == '0' or work >= budget
  return cursor
end
`

// leavesSource answers with id and rank of the keys whose branches ARGV[5] lists, two bytes each.
const leavesSource = `local rows, wanted = {}, {}
for i = 1, #ARGV[5], 2 do wanted[byte(ARGV[5], i)*256 + byte(ARGV[5], i+1)] = true end
local cursor = walk(function(id) return not wanted[branch(id)] end, function(id, _, v)
  rows[#rows+1] = id
  rows[#rows+1] = sub(v, $head+1, $width)
end)
if failure then return failure end
return {cursor, rows, bad, large, seen, foreign}`

// digestSource sums up the live values of a page by branch.
//
// A page of 500 keys touches 440 branches, so handing out every page would cost a quarter of a
// listing. Therefore the sums of the pages so far are kept in a key, and handed out once at the
// end. ARGV[5] names it; at the start it is only how its name begins: the script looks for one that
// this server owns, which in a Cluster depends on the name. The state is the cursor it is good for
// and all branches. It is not replicated: it is of no use elsewhere.
//
// Without a name, or when the state can't be stored (memory is full, no permission, a replica), the
// sums are handed out and the rest of the walk goes without. A state that is gone (evicted,
// failover) or good for another cursor (this call is the repetition of one whose reply was lost:
// its keys must not be counted twice) answers ”, and the walk has to begin again without.
const digestSource = `local keep, old = ARGV[5], nil
if keep ~= '' and start ~= '' and start ~= '0' then
  old = try('GET', keep)
  if type(old) ~= 'string' or sub(old, 1, $cursor) ~= start .. string.rep(' ', $cursor - #start) then return {''} end
end
local n, a, b, c, d, e = {}, {}, {}, {}, {}, {}
local bxor, pack, unpack, tonumber = bit.bxor, struct.pack, struct.unpack, tonumber
local cursor = walk(nil, function(id, text, v)
  if byte(v, $head+$live) ~= 48 then return end
  local k, h = branch(id), sha1(text)
  n[k] = (n[k] or 0) + 1
  a[k] = bxor(a[k] or 0, tonumber(sub(h, 1, 8), 16))
  b[k] = bxor(b[k] or 0, tonumber(sub(h, 9, 16), 16))
  c[k] = bxor(c[k] or 0, tonumber(sub(h, 17, 24), 16))
  d[k] = bxor(d[k] or 0, tonumber(sub(h, 25, 32), 16))
  e[k] = bxor(e[k] or 0, tonumber(sub(h, 33, 40), 16))
end)
if failure then return failure end
local parts = {}
if keep == '' or start == '' or start == '0' and cursor == '0' then
  for k, m in pairs(n) do parts[#parts+1] = pack('>I2I4I4I4I4I4I4', k, a[k], b[k], c[k], d[k], e[k], m) end
  return {cursor, '', '', table.concat(parts), bad, large, seen, foreign}
end
old = old or string.rep('\0', $cursor + $branches*$branch)
parts[1] = cursor .. string.rep(' ', $cursor - #cursor)
local from = $cursor + 1
for k = 0, $branches-1 do
  if n[k] then
    local at = $cursor + $branch*k + 1
    local o, p, q, r, s, m = unpack('>I4I4I4I4I4I4', old, at)
    parts[#parts+1] = sub(old, from, at-1)
    parts[#parts+1] = pack('>I4I4I4I4I4I4', bxor(o, a[k]), bxor(p, b[k]), bxor(q, c[k]), bxor(r, d[k]), bxor(s, e[k]), m + n[k])
    from = at + $branch
  end
end
parts[#parts+1] = sub(old, from)
local all = table.concat(parts)
if cursor == '0' then
  try('UNLINK', keep)
  return {cursor, '', all, '', bad, large, seen, foreign}
end
if start == '0' then
  for i = 1, $tries do
    local r = try('EXISTS', keep .. i)
    if type(r) ~= 'table' or not string.find(r.err, 'non local key', 1, true) then
      keep = keep .. i
      break
    end
  end
end
local quiet = pcall(redis.set_repl, redis.REPL_NONE)
local stored = try('SET', keep, all, 'PX', $ttl)
if quiet then redis.set_repl(redis.REPL_ALL) end
if stored.err then return {cursor, '', all, '', bad, large, seen, foreign} end
return {cursor, keep, '', '', bad, large, seen, foreign}`

// walkScript makes a script for values of this form.
func walkScript(rankPrefix string, rankWidth, branches int, source string) *redis.Script {
	number := strconv.Itoa
	return redis.NewScript(strings.NewReplacer(
		"$head", number(len(rankPrefix)), "$prefix", luaString(rankPrefix), "$width", number(rankWidth),
		"$sumMark", luaString(SumMark), "$mark", number(len(SumMark)), "$total", number(rankWidth+len(SumMark)+SumDigits), "$sum", number(SumDigits),
		"$live", number(liveAt), "$last", number(wholeLimit-1), "$step", number(scanStep), "$state", number(int(stateMark[0])),
		"$cursor", number(stateCursor), "$branches", number(branches), "$branch", number(branchBytes),
		"$tries", number(stateTries), "$ttl", stateTTL,
	).Replace(commonSource + source))
}

// luaString writes s as a Lua string.
func luaString(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, `\%03d`, s[i])
	}
	return "'" + b.String() + "'"
}
