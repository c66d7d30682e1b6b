// Package rediskit keeps opaque ranked values in Redis: it opens a client from
// a URL, writes a value only over one of equal or lower rank, reads, scans,
// lets the server sum up what it holds, and says what an error means.
//
// It owns the four Lua scripts and everything the library knows about
// go-redis; it must never look inside a value beyond its rank and sum, print a
// password, or retry a command that may have been executed and is not safe to
// repeat (all of its own are). It starts no goroutine.
//
// # Rank
//
// The rank of a value is its first rankWidth bytes, which begin with
// rankPrefix. Ranks are compared byte by byte. Lua's own < is not used: it
// follows the server's locale, and in a Danish one "aa" sorts after "ab", so
// that even fixed-width lowercase hex is misordered.
//
// # Digest
//
// Digest and Leaves walk over all keys in pages of a few milliseconds, one
// script call each, and compute on the server what internal/digest computes
// here. The scripts name no keys in advance, as legacy scripts may: Redis,
// Valkey and what is built from them allow it, in a Cluster too, where a script
// may touch every key of its server. They use sha1hex, bit and struct, which
// are there since Redis 2.8; keeping their sums on the server takes 5.0.
//
// # Deadlines
//
// go-redis ends a call in flight at the deadline of its context (with
// ContextTimeoutEnabled, which Open sets), but a plain cancel without a
// deadline only ends calls that wait for a connection. Callers give every
// context a deadline; without one, the client's read timeout bounds each
// command.
package rediskit
