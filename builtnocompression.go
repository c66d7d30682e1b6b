//go:build !compression

package syncengine

// compressionBuilt says that the engine was built with -tags compression.
const compressionBuilt = false
