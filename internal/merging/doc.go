// Package merging holds the tests of items with a CRDT kind in an engine, which need -tags crdt.
package merging
