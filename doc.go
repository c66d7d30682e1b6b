// Package syncengine keeps JSON items in step across three tiers: this process's
// memory (L1), Redis (L2) and a SQL database (L3, the ground truth: MySQL, MariaDB
// or SQLite). A service opens one [Engine] and calls Submit, Get, Delete, Contains
// and Status on it.
//
// # The promise
//
// No acknowledged write is lost. At the default durability, [Logged], a write is
// fsynced into a local log before Submit returns, whatever Redis and the SQL
// database are doing at that moment. Everything the engine promises is numbered
// INV-1 to INV-16 in ROADMAP.md; code that enforces a promise names it.
//
// # Reading the source
//
// The root package is a house of four floors; a file uses only lower floors.
//
//	3 engine    engine.go open.go lifecycle.go read.go readmany.go insert.go status.go
//	            write.go archived.go conditions.go update.go calls.go verify.go heal.go warmup.go
//	            quarantine.go retry.go l2sync.go l2servers.go promote.go recovery.go observe.go
//	            the only place that knows every room; starts and awaits every goroutine
//	2 pipeline  versions.go batch.go landing.go spool.go flush.go sound.go
//	            moves ops between stores; sees stores as functions
//	1 rooms     l1.go l2.go l2digest.go l3.go l3row.go l3write.go l3cond.go l3digest.go l3fleet.go
//	            wal.go filter.go fleet.go merkle.go eviction.go backpressure.go
//	            resilience.go flight.go eventloop.go metrics.go
//	            each owns one structure or one server
//	0 contracts doc.go item.go config.go configdir.go errors.go store.go stats.go events.go
//	            types and words
//
// A test keeps it so (house_test.go).
//
// Below the floors, internal/ holds what can be specified without a word about
// tiers or items: a clock (hlc), a group-committing log (oplog), SQL dialects
// (sqlkit), conditional Redis writes (rediskit), set digests (digest), an
// approximate set (cuckoo), who leaves a cache (evict) by a curve (tancurve) and
// remembered frequencies (sketch), a JSON validator (jsonvalid).
//
// # Words
//
// item, id, version, content, content hash; tier; archive (what L3 stores); op (a
// put or a delete of one id, with a version); tombstone (a delete that is
// remembered); pending (accepted, not yet in L3); superseded (accepted, but a later
// op of another engine was in L3 first); flush (write pending ops to L3 and L2); batch; group (the ops of one SubmitMany or DeleteMany); WAL (the local
// log); spool (ops that live only in the WAL); drain (flush of spooled ops);
// pressure, level; quarantine (ops L3 refuses for good); heal (replace a corrupt
// copy by a good one).
package syncengine
