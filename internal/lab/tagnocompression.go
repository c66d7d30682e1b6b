//go:build !compression

package lab

import "github.com/syncengine-go/syncengine"

// Compression is what Open sets where a test sets none.
const Compression = syncengine.CompressionOff
