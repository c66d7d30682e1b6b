//go:build race

package cuckoo

// raceDetector makes everything some ten times slower: tests of one goroutine then leave out their
// largest sizes.
const raceDetector = true
