//go:build !crdt

package storetest

import (
	"testing"

	"github.com/syncengine-go/syncengine"
)

// RunMerging needs -tags crdt: without it a store refuses to merge.
func RunMerging(t *testing.T, _ func(t *testing.T) syncengine.MergingStore) {
	t.Log("what a MergingStore merges is looked at with -tags crdt")
}

func runSharedMerging(*testing.T, func(t *testing.T) []syncengine.ArchiveStore) {}
