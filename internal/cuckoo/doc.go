// Package cuckoo is a set of string ids that takes about 2.4 bytes an id, and in return answers "is
// it there?" with "certainly not" or "probably". It grows, its hash is keyed, many goroutines may
// use it at once, and it can be written to a snapshot and read back. The buckets are those of
// github.com/seiflotfy/cuckoofilter.
//
// # The promise
//
// Contains never denies an id whose Insert has returned: not after growth, not beside other
// goroutines, not after a snapshot, not when the filter underneath fails. INV-7 rests on it. That
// it affirms an id which was never inserted happens to less than one id in a thousand, as long as
// the set holds no more ids than it was made for (about 0.07 % then).
//
// # How it works
//
// A filter of the dependency has 2^k slots of one byte, in buckets of four. An id is a fingerprint
// of 8 bits in one of two buckets; inserting into full buckets kicks fingerprints to their other
// bucket. Such a filter affirms 2.7 % of all absent ids. So there are two of them, fed with
// independent digests of the id, and only what both affirm is affirmed: 0.07 %, at two bytes a
// slot.
//
// Two filters, a lock and a count make a partition, and some number of equal partitions, never mind
// which number, makes a layer. The id's hash picks the partition. Partitions are what makes the
// size fit: the dependency rounds each filter up to a power of two, so one pair of filters would be
// half empty after each doubling. They also let goroutines pass each other.
//
// A partition takes ids until one of its filters is 85 % full. New plans the first layer so that
// all expected ids find room, although hashing spreads them unevenly: that some partition fills up
// early has a chance of one in a thousand. An id whose partition is full goes to the next layer,
// which is added when it is first needed, so Insert never fails. Since nothing is ever taken out, a
// full partition stays full, and a lookup goes on to the next layer only if it met a full
// partition: one layer that has room answers alone.
//
// A second layer is a makeshift. Its answers add to the false positives, and a filter can't be
// enlarged without the ids. So NeedsRebuild asks the owner, who has the ids, to make a new set in
// the background and to feed it all of them. There is room meanwhile: the second layer has a tenth
// of the first one's, and as long as the set has up to about 6 % more ids than it was made for,
// false positives stay below 0.1 % and bytes near 2.6. Each further layer has twice the size of the
// one before, so a set that nobody rebuilds grows to 100 times its planned size with 10 layers and
// 0.7 % false positives.
//
// # Size
//
// With n the number New was told, and n ids inserted (Bytes over n, the worst n of each range):
//
//	n             10 k   1 M    10 M  |  1 k-3 k   3 k-10 k  10 k-30 k  30 k-100 k  100 k-1 M   above
//	bytes an id   2.52   2.44   2.40  |  4.3       3.25      2.95       2.75        2.6         2.45
//
// Below some 800 ids a set takes 2.4 KB. An owner that wants room for growth tells New a larger
// number, and pays for it in proportion: 8 % more room turn 2.40 into 2.59.
//
// # Why it never denies what it holds
//
// What a filter holds of an id is a fingerprint and a pair of buckets. A kick moves the fingerprint
// within the pair, so the filter goes on affirming the id whatever else is inserted. What could
// lose a fingerprint, and why it doesn't:
//
//   - Deleting. The dependency's Delete takes out somebody else's fingerprint if the id was never
//     inserted (2.7 % of tries), or if two ids share one. There is no delete here. An owner that
//     deletes ids reports their number (AddStale), goes on getting "probably" for them, and is
//     asked for a rebuild when a fifth of the set is stale.
//   - Skipping. Insert puts a fingerprint into a filter only if that filter doesn't affirm the id
//     already, maybe for another id's sake. With a delete that would be a trap: deleting the other
//     id takes this one out too. Without, it is sound, since the answer of a filter never turns
//     from yes to no. It also makes repeats free: inserting one id nine times would overflow its
//     two buckets.
//   - A full filter. When the dependency gives up kicking (mostly from a load of 95 % on), it drops
//     the fingerprint kicked last, which is anybody's. 85 % is far from there: of 76,000 filters of
//     1024 slots and more, none failed before 92 %. Should one fail all the same, its partition
//     affirms every id from then on, and Poisoned and NeedsRebuild say so.
//   - A reader beside a kick. The fingerprint is in no bucket for a moment; a partition's lock
//     keeps readers out.
//   - A snapshot that is damaged, or of another hash. SHA-256 covers all of it, and a canary stands
//     for what the dependency makes of known digests: a version that hashes otherwise, or a program
//     that calls its SetDefaultHasher, would find nothing. Such a program must call it before it
//     makes its first set. Later, it breaks all sets there are, and only Encode would notice.
//
// # The key
//
// The hash is SipHash-2-4 with a key of 128 random bits, the Seed: who doesn't know it can't choose
// ids that collide, fill one partition, or are affirmed though absent. The dependency's own hash
// has a fixed seed, colliding ids for it are found in seconds, and it sees nothing but our digests.
// Not protected: who can time lookups learns which absent ids are affirmed, and can ask for those
// again and again until the next rebuild, which brings a new seed. A snapshot holds the seed, so
// keep it as private as the ids. Its SHA-256 detects accidents; who can write the file can write
// another one.
//
// # Rejected
//
//   - The dependency's ScalableCuckooFilter: 8.4 MB for 1 M ids, 5.5 % false positives, and deletes
//     that lose others' ids.
//   - One pair of large filters: up to 4.7 bytes an id after a doubling, and one lock.
//   - Growing partitions one by one: a filter knows no ids, so a partition could only be refilled
//     by reading all of them.
//   - Choosing the emptier of two partitions: they would fill more evenly, but each lookup of an
//     absent id would need both.
//   - Deletes where the owner proves that the id was inserted once: they need each id to have its
//     own fingerprint, so every insert would have to be of a new id; an upsert knows that only
//     after it asked the store.
//   - XXH64, maphash or SHA-256 for the hash: for the first, two ids of 64 bytes are easily made
//     that collide under half of all seeds; the seed of the second can't be stored; the third takes
//     as long as the rest of a lookup.
//   - Lookups without a lock: the dependency writes its buckets with plain stores.
package cuckoo
