// Package promises holds the tests about what the library promises as a whole, whichever
// department keeps it: INV-1 to INV-16 of PROMISES.md, in outages, under load, with hostile input,
// at the limits of each number of a Config. They use an engine by its public API.
package promises
