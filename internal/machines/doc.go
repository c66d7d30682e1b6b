// Package machines holds the tests that draw what is asked of an engine and what becomes of its
// stores, and compare its answers with a model: sequences of calls, crowds, histories of several
// engines, and the sweep in which each call of a store goes wrong once.
package machines
