//go:build crdt

package syncengine

const crdtBuilt = true
