package syncengine

// l3codec.go says how content lies in a row of L3. A row of sync_items holds it as it is, or
// packed: then it begins with a magic number, which no JSON text does. So rows of both kinds are
// read right whatever wrote them, and the column encoding is for people. Hashes and digests are of
// content as it is.
//
// Packing needs the build tag compression (l3zstd.go; without it l3nozstd.go).

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
)

// codec packs and unpacks content.
type codec interface {
	// Pack returns content as it is stored, and the name of the encoding: "" as it is.
	Pack(content []byte) (stored []byte, encoding string)
	// Unpack returns content from what is stored, which begins with packedMagic.
	Unpack(stored []byte) (content []byte, err error)
}

// errLacksDictionary means that a row was packed with a dictionary that is not known yet.
var errLacksDictionary = errors.New("packed with a dictionary that is not in sync_dictionaries")

// packedMagic is what packed content begins with: a frame of zstd.
var packedMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// rowsFrom is a pool, or a transaction.
type rowsFrom interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// storedRow is a record and its content as L3 stores it.
type storedRow struct {
	*Record
	content  []byte
	encoding string

	known bool     // it is written over a row that is known (l3known.go)
	over  knownRow // which is this
}

// rowsOf packs the contents of records.
func rowsOf(recs []Record, c codec) []storedRow {
	out := make([]storedRow, len(recs))
	for i := range recs {
		out[i] = storedRow{Record: &recs[i]}
		if !recs[i].Deleted {
			out[i].content, out[i].encoding = c.Pack(recs[i].Content)
		}
	}
	return out
}

// unpack returns content from what is stored.
func unpack(stored []byte, c codec) ([]byte, error) {
	if !bytes.HasPrefix(stored, packedMagic) {
		return stored, nil
	}
	return c.Unpack(stored)
}
