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
// The root package is a house of departments, lowest first. Each owns its state, its locks and
// its loops, and shows the others its upper-case members only. A file names what is declared in
// its own department and below; the contracts hold what all share.
//
//	contracts   item.go expiry.go entry.go config.go configdir.go errors.go levels.go store.go stats.go
//	            events.go merkle.go builtcompression.go builtnocompression.go builtcrdt.go
//	            builtnocrdt.go change.go mergekey.go kinds.go nokinds.go doc.go
//	news        news.go metrics.go
//	door        door.go
//	server      server.go
//	memory      l1.go eviction.go
//	journal     wal.go walunit.go walspool.go
//	pressure    backpressure.go
//	cache       l2cache.go l2missed.go l2servers.go l2.go l2digest.go l2push.go l2owner.go
//	            l2place.go
//	archive     l3archive.go l3.go l3row.go l3write.go l3cond.go l3digest.go
//	            l3fleet.go l3codec.go l3zstd.go l3nozstd.go l3merge.go l3compact.go l3list.go l3log.go
//	trust       filter.go fleet.go fleettime.go warmup.go
//	push        push.go
//	tail        tail.go
//	pipeline    versions.go mergenumbers.go marks.go ahead.go log.go batch.go landing.go spool.go flush.go
//	            sound.go merging.go settled.go
//	quarantine  quarantine.go retry.go
//	repair      repair.go heal.go promote.go purge.go
//	verifier    verify.go compact.go
//	reader      read.go readmany.go readmerge.go list.go watch.go status.go explain.go
//	writer      write.go merge.go archived.go conditions.go update.go insert.go deleteprefix.go each.go
//	engine      engine.go open.go lifecycle.go recovery.go observe.go calls.go typed.go offline.go
//	            backdoor.go
//
// A test keeps it so (house_walls_test.go).
//
// Below the house, internal/ holds what can be specified without a word about tiers or items: a
// clock (hlc), a loop of calls (eventloop), shared calls (flight), breaker and retries (guard), a
// group-committing log (oplog), SQL dialects (sqlkit), conditional Redis writes (rediskit), set
// digests (digest), an approximate set (cuckoo), who leaves a cache (evict) by a curve (tancurve)
// and remembered frequencies (sketch), a JSON validator (jsonvalid).
//
// # Where tests are
//
// A test file in the root stands beside the department it is about, checks the house itself, or is
// a benchmark. What is promised by the library as a whole is tested through the public API in
// internal/promises, and against models in internal/machines; engines that share one L3 in
// internal/neighbours, and as a fleet in trouble in internal/fleetsim; kills and failing disks in
// internal/crash, items with a CRDT kind in internal/merging. What these share is in internal/lab;
// internal/backdoor lends them the stores.
//
// # Words
//
// item, id, version, content, content hash; tier; archive (what L3 stores); op (a put or a delete
// of one id, with a version); tombstone (a delete that is remembered); pending (accepted, not yet
// in L3); superseded (accepted, but a later op of another engine was in L3 first); flush (write
// pending ops to L3 and L2); batch; group (the ops of one SubmitMany or DeleteMany); WAL (the local
// log); spool (ops that live only in the WAL); drain (flush of spooled ops); pressure, level;
// quarantine (ops L3 refuses for good); heal (replace a corrupt copy by a good one).
package syncengine
