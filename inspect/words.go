package inspect

// words.go turns numbers into what people read.

import (
	"fmt"
	"strconv"
	"time"

	"github.com/syncengine-go/syncengine"
)

// num sets thousands apart.
func num(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// size is bytes for people.
func size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/(1<<10), 0
	for f >= 1<<10 && unit < 3 {
		f, unit = f/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGT"[unit])
}

// span is a duration for people.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}

func percent(f float64) string { return fmt.Sprintf("%.1f %%", 100*f) }

// ratio is a share of two counters, "–" of nothing.
func ratio(part, rest uint64) string {
	if part+rest == 0 {
		return "–"
	}
	return percent(float64(part) / float64(part+rest))
}

// short is the beginning of a hash.
func short(hash string) string {
	if len(hash) > 12 {
		return hash[:12] + "…"
	}
	return hash
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02 15:04:05.000Z07:00")
}

// ago is how long ago a time was.
func ago(now, t time.Time) string { return span(max(0, now.Sub(t))) + " ago" }

// offset says how far a clock is from SQL's.
func offset(d time.Duration) string {
	switch {
	case d.Abs() < time.Millisecond: // no look at it is better
		return "as SQL's"
	case d < 0:
		return span(-d) + " behind"
	}
	return span(d) + " ahead"
}

// owes reports whether others wait for something, or copies in Redis are not believed.
func owes(s syncengine.Stats) bool { return s.PushPending > 0 || s.L2Missed != 0 || s.L2Doubted > 0 }

// neighbours are the engines that a page lists.
func neighbours(f syncengine.Fleet) []syncengine.Neighbour {
	return f.Others[:min(len(f.Others), mostOther)]
}

func moreNeighbours(f syncengine.Fleet) int { return max(0, len(f.Others)-mostOther) }

// tier is one copy of an id, with its name.
type tier struct {
	Name string
	syncengine.TierCopy
	Notes []string
}

// tiers are the copies of an id, with what else is known of them.
func tiers(x *syncengine.Explanation) []tier {
	l1 := tier{Name: "L1 memory", TierCopy: x.L1}
	if x.L1.State == syncengine.TierLive || x.L1.State == syncengine.TierTombstone || x.L1.State == syncengine.TierExpired {
		fresh := "not fresh: the tiers below are asked"
		if x.L1Fresh {
			fresh = "fresh"
		}
		l1.Notes = []string{"checked " + span(x.L1Age) + " ago", fresh}
	}
	l2 := tier{Name: "L2 Redis", TierCopy: x.L2}
	if x.L2Owed {
		l2.Notes = append(l2.Notes, "owed writes: not read")
	}
	if x.L2Circuit != "" && x.L2Circuit != "closed" {
		l2.Notes = append(l2.Notes, "circuit "+x.L2Circuit)
	}
	l3 := tier{Name: "L3 SQL", TierCopy: x.L3}
	if x.L3Circuit != "closed" {
		l3.Notes = append(l3.Notes, "circuit "+x.L3Circuit)
	}
	return []tier{l1, l2, l3}
}
