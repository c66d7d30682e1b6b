// Command hitratio runs access patterns through the engine's memory tier and, beside it, through
// otter (an adaptive W-TinyLFU), a plain LRU and random eviction, all with room for the same
// number of items, and prints the share of reads that each answered from memory.
//
//	go run ./hitratio [-traces DIR] [-only NAME]
//
// The engine is a real one on an L3 that counts how often it is asked. Traces are files of one
// key per line, gzip, as *.txt.gz; those of the figures in README are web07 (cache2k), gli, multi1,
// sprite and loop (LIRS), all in the resources of Caffeine's simulator.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"text/tabwriter"
)

func main() {
	traces := flag.String("traces", "", "directory of traces to run as well")
	only := flag.String("only", "", "run this pattern alone")
	flag.Parse()
	if err := run(*traces, *only); err != nil {
		log.Fatal(err)
	}
}

func run(traces, only string) error {
	ps, err := patterns(traces)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "pattern\tcache\tengine %\totter %\tlru %\trandom %\tengine - otter\t")
	runs, below, diffs, worst := 0, 0, 0., 0.
	for _, p := range ps {
		if only != "" && p.name != only {
			continue
		}
		peer := newCountingOtter
		if p.sizes != nil {
			peer = newOtter
		}
		for _, room := range p.rooms() {
			var got [4]float64
			for i, mk := range []func(int64) (cache, error){newEngine, peer, newLRU, newRandom} {
				if got[i], err = p.hits(mk, room); err != nil {
					return err
				}
			}
			diff := got[0] - got[1]
			if runs, diffs, worst = runs+1, diffs+diff, min(worst, diff); diff < -.05 {
				below++
			}
			fmt.Fprintf(out, "%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%+.2f\t\n", p.name, room/itemCost, got[0], got[1], got[2], got[3], diff)
			_ = out.Flush()
		}
	}
	fmt.Fprintf(out, "%d runs: on average %+.2f points beside otter, below it in %d, by at most %.2f\n", runs, diffs/float64(runs), below, -worst)
	return out.Flush()
}
