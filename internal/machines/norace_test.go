//go:build !race

package machines

const raceDetector = false
