//go:build !race

package cuckoo

// raceDetector: see race_test.go.
const raceDetector = false
