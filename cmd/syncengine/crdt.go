//go:build crdt

package main

// crdtBuilt says that the command knows merges: it was built with -tags crdt.
const crdtBuilt = true
