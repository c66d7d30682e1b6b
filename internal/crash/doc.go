// Package crash holds the tests that end a process in the middle of its work, or take its disk from
// it. They start this test binary again with orders in the environment: see crash_child_test.go and
// disk_test.go.
package crash
