//go:build !compression

package promises

var compressionLevels = limit{} // nothing is taken that is not built in
