//go:build compression

package lab

import "github.com/syncengine-go/syncengine"

// Compression is what Open sets where a test sets none: all that is tested holds with it, too.
const Compression = syncengine.CompressionZstd
