// Package cluster holds tests on servers that are several: Redis Cluster, Sentinel, MariaDB
// Galera. They take minutes, so they are built with -tags cluster alone: make cluster runs them.
// Each counts what was acknowledged, lost and read stale, and the time until all was as before.
package cluster
