// Package syncengine keeps JSON items in step across three tiers: this process's memory (L1), Redis
// (L2) and a SQL database (L3, the truth: MySQL, MariaDB or SQLite). It is for services that read
// the same documents far more often than they write them, and must not lose a write when Redis
// restarts, SQL is away for an hour, the process is killed, or another replica writes the same id.
//
// # Using it
//
// A service opens one [Engine] with [Open] and closes it last. [Engine.Submit] and [Engine.Delete]
// write, [Engine.Get] and [Engine.GetMany] read, [Engine.Update] reads, changes and writes without
// losing what others write meanwhile. [Store] is a typed view of the items below a prefix. All
// methods are safe for concurrent use.
//
//	engine, err := syncengine.Open(ctx, syncengine.Config{Dir: "data"})
//	...
//	defer engine.Close()
//	item, err := syncengine.NewItem("user.42", user)
//	err = engine.Submit(ctx, item)          // on disk when this returns
//	got, err := engine.Get(ctx, "user.42")  // from memory
//
// Without [Config.SQLURL] L3 is a SQLite file in Dir; without [Config.RedisURL] there is no L2.
//
// # What is promised
//
// No acknowledged write is lost. At the default durability, [Logged], a write is fsynced into a
// local log before Submit returns, whatever Redis and SQL are doing at that moment; [Buffered]
// waits for less and [Archived] for more. From then on this engine reads it; other engines on the
// same database do within milliseconds after it has reached SQL and Redis, or after
// [Config.L1MaxAge]. Of two writes of one id the one with the higher version stays, in all tiers.
// Versions are times of SQL's clock, which the engine makes.
//
// An error is not a miss: [ErrNotFound] means that L3 or a remembered delete said so, or a filter
// that knows all ids of L3. While no tier can answer, the error is [ErrUnavailable]. A full engine
// refuses with [*BackpressureError] before anything is changed. Errors are told apart by errors.Is
// and errors.As. Their texts begin with "syncengine: ", but for what a context says
// (context.DeadlineExceeded, of Close, too), and what a function of the caller's returns.
//
// What is promised in full is numbered INV-1 to INV-16, in PROMISES.md, with the tests of each.
//
// # Where to read on
//
// README.md has a picture, docs/ has concepts, recipes, operations, what happens when something is
// down, and the reference of [Config]. Package syncenginetest helps to test a service, package
// inspect shows an engine to operators, cmd/syncengine looks after a directory while the service
// does not run. How the source is laid out is in CONTRIBUTING.md.
package syncengine
