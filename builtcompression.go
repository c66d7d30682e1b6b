//go:build compression

package syncengine

const compressionBuilt = true
