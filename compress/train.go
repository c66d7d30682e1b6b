package compress

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/dict"
	"github.com/klauspost/compress/zstd"
)

const (
	// FirstID is the lowest id that a dictionary may have: those below are reserved by the format.
	FirstID = 1 << 15
	// LastID is the highest.
	LastID = 1<<31 - 1

	dictionaryBytes = 16 << 10 // larger ones gain nothing on documents of some hundred bytes
)

// Train makes a dictionary of samples: some hundred documents of the kind that will be packed. It
// takes about a tenth of a second for a thousand. Codecs tell dictionaries by their ids. Samples
// that have too little in common are an error.
func Train(id uint32, samples [][]byte) (dictionary []byte, err error) {
	if id < FirstID || id > LastID {
		return nil, fmt.Errorf("compress: the id of a dictionary must be from %d to %d, is %d", FirstID, LastID, id)
	}
	defer func() {
		if p := recover(); p != nil { // the trainer does, for samples it can't use
			dictionary, err = nil, fmt.Errorf("compress: no dictionary comes of these samples: %v", p)
		}
	}()
	dictionary, err = dict.BuildZstdDict(samples, dict.Options{MaxDictSize: dictionaryBytes, HashBytes: 6, ZstdDictID: id, ZstdLevel: zstd.SpeedFastest})
	if err != nil {
		return nil, fmt.Errorf("compress: no dictionary comes of these samples: %w", err)
	}
	if info, err := zstd.InspectDictionary(dictionary); err != nil || info.ID() != id {
		return nil, errors.New("compress: no dictionary comes of these samples")
	}
	return dictionary, nil
}
