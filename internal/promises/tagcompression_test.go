//go:build compression

package promises

var compressionLevels = limit{from: 1, to: 22}
