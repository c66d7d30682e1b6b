package storetest

import (
	"context"

	"github.com/syncengine-go/syncengine"
)

func (a *archive) Heads(ctx context.Context, ids []string) ([]syncengine.Meta, error) {
	found, err := a.GetMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	var out []syncengine.Meta
	for i := range found {
		if r := &found[i].Record; found[i].OK {
			out = append(out, metaOf(r))
		}
	}
	return out, nil
}
