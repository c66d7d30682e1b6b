// Package bench compares the engine with others. It is a module of its own, so that what it
// needs is not a dependency of the library.
//
//	go test -bench .              # reads from memory beside otter and a raw map
//	go test -run Table ./table    # the table of BENCHMARKS.md (make table)
//	go run ./hitratio -traces DIR # what stays in memory, beside otter, LRU and random
//	go run ./overload             # more writes than SQLite takes
//	go run ./byhand/lines         # lines of examples/catalogue beside the same by hand (make lines)
package bench
