// Package fleetsim is a simulation of a fleet: five places, each with a Dir, a way to one MariaDB
// and a way to one Redis, in which engines come and go. Some are in this process, some in children
// that are killed.
//
// In each place a client writes and reads, as a seed says. Meanwhile a plan drawn from the same
// seed makes trouble: engines are opened, closed and killed, with Redis, without it, or without
// messages, on hosts whose clocks are an hour wrong or jump; the ways to the servers are cut,
// held, slow, or lose the reply to a COMMIT; the servers are restarted or frozen, and Redis is
// emptied. Goroutines run side by side, so a seed gives the same plan, not the same run.
//
// # The model
//
// Most ids have one writer, the client of a place, who numbers what it writes. So of each read it
// is known which numbers are right: at the writer's own engine the last one that was accepted, or
// one whose outcome nobody knows (INV-1, INV-2); anywhere else at least the last that was known to
// be in L3 a while before, if L3 was there for the reader (INV-15); and never one that was
// refused. Other ids have many writers: counters (INV-14), ids that are inserted once (INV-7), and
// ids that all write, whose versions and whose order in time are known (INV-3, INV-16). Followers
// keep a copy of L3 by WatchFrom, going on at any engine, sometimes from an older token.
//
// After each phase all faults are healed and all is flushed. Then every engine, every follower and
// every tier must say the same, and that must be what the model allows.
//
//	go test ./internal/fleetsim -fleetsim.for=10m -fleetsim.seed=7
package fleetsim
