//go:build !crdt

package syncengine

// crdtBuilt says that the engine was built with -tags crdt.
const crdtBuilt = false
