// Package syncenginetest helps to test programs that use syncengine: engines that live as long as
// a test, real servers that fail by name, and the suites that a store of your own has to pass.
//
// [New] opens an engine on SQLite alone. [Start] starts a Redis and a MariaDB, [Servers.New] opens
// an engine on them, and [Servers.On] makes one of them fail. [Settle] waits until everything that
// was accepted is in L3 and L2. [TestArchiveStore] and [TestCacheStore] hold a store against the
// doc comments of its interface.
//
// No goroutines but those of the engines and servers, which end with the test.
package syncenginetest
