//go:build race

package machines

// raceDetector makes everything some ten times slower: what takes a server's timeout is given more.
const raceDetector = true
