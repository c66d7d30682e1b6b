// Package postgres is an example of a store of your own: L3 on Postgres, for Config.L3. It is a
// module of its own, so that its driver is not a dependency of the library.
package postgres
