package promises

// errors_test.go is about what errors say.

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// callAll makes every call that can fail, and tells of its error.
func callAll(e *syncengine.Engine, tell func(call string, err error)) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	callAllWith(ctx, e, tell)
}

func callAllWith(ctx context.Context, e *syncengine.Engine, tell func(call string, err error)) {
	x := syncengine.Item{ID: "x", Content: []byte(`1`)}
	tell("Submit", e.Submit(ctx, x, syncengine.WithDurability(syncengine.Archived)))
	tell("Insert", e.Insert(ctx, x))
	tell("IfVersion", e.Submit(ctx, x, syncengine.WithIfVersion(7)))
	_, err := e.SubmitMany(ctx, []syncengine.Item{x})
	tell("SubmitMany", err)
	r, err := e.SubmitEach(ctx, slices.Values([]syncengine.Item{x, {ID: "bad"}}), syncengine.EachOptions{})
	tell("SubmitEach", err)
	for _, f := range r.Errors {
		tell("an item of SubmitEach", f.Err)
	}
	_, err = e.Update(ctx, "x", func(it syncengine.Item, _ bool) (syncengine.Item, error) { panic("ouch") })
	tell("Update", err)
	_, err = e.Get(ctx, "absent")
	tell("Get", err)
	_, err = e.GetVerified(ctx, "absent")
	tell("GetVerified", err)
	_, err = e.GetMany(ctx, []string{"absent", "absent-too"})
	tell("GetMany", err)
	_, err = e.GetOrInsertWith(ctx, "made", func(context.Context) (syncengine.Item, error) { panic("ouch") })
	tell("GetOrInsertWith", err)
	for _, err = range e.All(ctx, "") {
		tell("All", err)
	}
	_, err = e.DeletePrefix(ctx, "a")
	tell("DeletePrefix", err)
	_, err = e.Merge(ctx, "n", "PNCounter", []byte("no number"))
	tell("Merge", err)
	tell("Submit of a kind", e.Submit(ctx, syncengine.Item{ID: "n", Content: []byte(`1`), CRDT: "PNCounter"}))
	_, err = e.Compact(ctx)
	tell("Compact", err)
	_, err = e.Rebuild(ctx, "absent")
	tell("Rebuild", err)
	_, err = e.Status(ctx, "absent")
	tell("Status", err)
	_, err = e.Explain(ctx, "")
	tell("Explain", err)
	_, err = e.Verify(ctx, syncengine.VerifyOptions{Deep: true})
	tell("Verify", err)
	_, err = e.MerkleRoot(ctx)
	tell("MerkleRoot", err)
	_, err = e.Quarantined(ctx)
	tell("Quarantined", err)
	_, err = e.RetryQuarantined(ctx)
	tell("RetryQuarantined", err)
	_, err = e.DiscardQuarantined(ctx, "none")
	tell("DiscardQuarantined", err)
	tell("stale", e.Submit(ctx, x, syncengine.WithVersion(1)))
	tell("ahead", e.Submit(ctx, x, syncengine.WithVersion(syncengine.MaxVersion)))
	tell("Flush", e.Flush(ctx))
}

// TestErrorsBeginWithThePackageOnce: those of a healthy engine, of one whose L3 refuses, of one
// whose servers are away, of a closed one, and of Open.
func TestErrorsBeginWithThePackageOnce(t *testing.T) {
	heard := 0
	teller := func(state string) func(string, error) {
		return func(call string, err error) {
			t.Helper()
			if err == nil {
				return
			}
			heard++
			for line := range strings.SplitSeq(err.Error(), "\n") { // of joined errors
				if !strings.HasPrefix(line, "syncengine: ") || strings.Count(line, "syncengine: ") != 1 {
					t.Errorf("%s, %s: %s", state, call, line)
				}
			}
		}
	}
	callAll(lab.Open(t, syncengine.Config{}), teller("well"))

	refusing := lab.Open(t, syncengine.Config{L3: &lab.HookedArchive{ArchiveStore: storetest.NewArchive(),
		OnApply: func(context.Context, []syncengine.Record) error {
			return &syncengine.RefusedError{Err: errors.New("no")}
		}}})
	callAll(refusing, teller("refusing"))

	wires := [2]*faultproxy.Proxy{faultproxy.New(t, testserver.SharedMariaDB(t).Addr()), faultproxy.New(t, testserver.SharedRedis(t).Addr())}
	away := syncengine.Config{Dir: t.TempDir(), SQLURL: lab.Via(t, testserver.SharedMariaDB(t).NewDatabase(t), wires[0]),
		RedisURL: lab.Via(t, testserver.SharedRedis(t).URL(), wires[1]), KeyPrefix: lab.NewPrefix(), CloseTimeout: 100 * time.Millisecond}
	e := lab.Open(t, away)
	wires[0].Cut()
	wires[1].Cut()
	callAll(e, teller("away"))
	callAll(e, teller("away, circuits open"))
	tell := teller("Open")
	_, err := syncengine.Open(context.Background(), syncengine.Config{Dir: away.Dir})
	tell("locked", err)
	reg := prometheus.NewRegistry()
	lab.Open(t, syncengine.Config{Registerer: reg})
	_, err = syncengine.Open(context.Background(), syncengine.Config{Dir: t.TempDir(), Registerer: reg})
	tell("one registry twice", err)
	teller("away")("Close", e.Close())
	callAll(e, teller("closed"))

	_, err = syncengine.Open(context.Background(), syncengine.Config{L1MaxBytes: 1, SQLURL: "mysql://", Compression: "lz4", CompressionLevel: 99})
	tell("config", err)
	wires[0].Restore()
	away.SQLURL = strings.Replace(away.SQLURL, "@", "x@", 1)
	_, err = syncengine.Open(context.Background(), away)
	tell("password", err)
	damaged := syncengine.Config{Dir: t.TempDir()}
	lab.Must(t, os.WriteFile(filepath.Join(damaged.Dir, "wal.db"), []byte(strings.Repeat("no database", 1000)), 0o600))
	_, err = syncengine.Open(context.Background(), damaged)
	tell("damaged", err)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = syncengine.Open(ended, syncengine.Config{Dir: t.TempDir()})
	tell("ended", err)
	item := syncengine.Item{ID: "x", Content: []byte(`"swordfish"`)}
	tell("Decode", item.Decode(new(int)))
	if heard < 60 {
		t.Errorf("only %d errors were heard", heard)
	}
}

// TestWhatAContextSaysComesAsItIs: to a caller that has left it is no outage.
func TestWhatAContextSaysComesAsItIs(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, cfg := range []syncengine.Config{{}, {SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()}} {
		e := lab.Open(t, cfg)
		heard := 0
		callAllWith(ended, e, func(call string, err error) {
			if err == context.Canceled {
				heard++
			} else if errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", call, err)
			}
		})
		if heard < 15 {
			t.Errorf("only %d calls were told", heard)
		}
	}
}

// TestALaterShutdownSaysWhatTheFirstDid, though its context has ended.
func TestALaterShutdownSaysWhatTheFirstDid(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	e := lab.Open(t, syncengine.Config{})
	lab.Must(t, e.Close())
	for range 50 {
		if err := e.Shutdown(ended); err != nil {
			t.Fatal(err)
		}
	}
}
