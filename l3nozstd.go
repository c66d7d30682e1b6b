//go:build !compression

package syncengine

import (
	"context"
	"fmt"
)

// noCodec is what stands for a codec in an engine built without one.
type noCodec struct{}

func newCodec(*Config) (codec, error) { return noCodec{}, nil }

func (noCodec) Pack(content []byte) (stored []byte, encoding string) { return content, "" }

func (noCodec) Unpack([]byte) ([]byte, error) {
	return nil, fmt.Errorf("compressed with zstd: %w: build with -tags compression", ErrFeatureNotBuilt)
}

func (s *sqlStore) recall(context.Context, rowsFrom) error { return nil }

func (s *sqlStore) learn(context.Context, []storedRow) {}
