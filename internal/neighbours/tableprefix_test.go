package neighbours

// tableprefix_test.go is about namespaces in one database.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestNamespacesInOneDatabaseKnowNothingOfEachOther(t *testing.T) {
	ctx := context.Background()
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			dbURL := srv.URL(t)
			raw := srv.Raw(t, dbURL)
			prefixes := []string{"blue_", "green_sync_", "_2"}
			open := func(prefix string) *syncengine.Engine {
				return lab.Open(t, syncengine.Config{SQLURL: dbURL, TablePrefix: prefix, TombstoneRetention: time.Second})
			}
			engines := make(map[string]*syncengine.Engine)
			for _, prefix := range prefixes {
				e := open(prefix)
				engines[prefix] = e
				for n := range 50 {
					lab.Put(t, e, fmt.Sprint("x", n), len(prefix), archived)
				}
				lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "brief", Content: []byte("1")}, archived, syncengine.WithTTL(time.Millisecond)))
			}
			blue := engines["blue_"]
			lab.Must(t, blue.Delete(ctx, "x0", archived))
			_, err := blue.DeletePrefix(ctx, "x1", archived)
			lab.Must(t, err)
			lab.Must(t, blue.Insert(ctx, syncengine.Item{ID: "x0", Content: []byte("2")}, archived))
			for _, prefix := range prefixes {
				e := engines[prefix]
				lab.Eventually(t, "what has expired and what was deleted is purged", func() bool {
					var n int
					lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM "+prefix+"items WHERE id = 'brief'").Scan(&n))
					return n == 0
				})
				again := open(prefix)
				for _, e := range []*syncengine.Engine{e, again} {
					n := 0
					for it, err := range e.All(ctx, "") {
						lab.Must(t, err)
						if n++; it.ID != "x0" && string(it.Content) != string(lab.Doc(it.ID, len(prefix))) {
							t.Errorf("%s has %s", prefix, it.Content)
						}
					}
					if want := map[bool]int{true: 39, false: 50}[prefix == "blue_"]; n != want {
						t.Errorf("%s has %d items, want %d", prefix, n, want)
					}
					if r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true}); err != nil || r.Repaired != 0 {
						t.Errorf("%s: %+v, %v", prefix, r, err)
					}
					if h := e.Health(ctx); !h.L3.OK || len(h.Fleet.Others) > 1 {
						t.Errorf("%s: %+v", prefix, h)
					}
				}
				lab.Must(t, again.Close())
			}
			var names []string
			text := "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
			if strings.HasPrefix(dbURL, "mysql") {
				text = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
			}
			rows, err := raw.Query(text)
			lab.Must(t, err)
			for rows.Next() {
				var name string
				lab.Must(t, rows.Scan(&name))
				if names = append(names, name); !strings.HasPrefix(name, prefixes[0]) && !strings.HasPrefix(name, prefixes[1]) && !strings.HasPrefix(name, prefixes[2]) {
					t.Errorf("the table %s is of no namespace", name)
				}
			}
			lab.Must(t, errors.Join(rows.Err(), rows.Close()))
			if len(names) < 24 || len(names)%3 != 0 {
				t.Errorf("tables %q", names)
			}
		})
	}
}

// Where both write to one Redis, under one KeyPrefix, the second is refused, as one on another
// database is.
func TestNamespacesNeedAPlaceOfTheirOwnInRedis(t *testing.T) {
	cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()}
	cfg.TablePrefix = "blue_"
	blue := lab.Open(t, cfg)
	submit(t, blue, "x", "1", archived)
	cfg.TablePrefix = "green_"
	openFails(t, cfg)
	cfg.KeyPrefix = lab.NewPrefix()
	green := lab.Open(t, cfg)
	if got := reads["Get"](green, "x"); got == "1" {
		t.Error("green has what blue has written")
	}
}

func TestATablePrefixIsLookedAt(t *testing.T) {
	for _, prefix := range []string{"1x", "Up_", "x-", "x y", "x`", "sqlite_", strings.Repeat("x", 33), "ä_", "x\x00"} {
		_, err := syncengine.Open(context.Background(), syncengine.Config{Dir: t.TempDir(), TablePrefix: prefix})
		var ce *syncengine.ConfigError
		if !errors.As(err, &ce) || ce.Field != "TablePrefix" {
			t.Errorf("%q: %v", prefix, err)
		}
	}
	for _, prefix := range []string{"", "sync_", "x", "_", strings.Repeat("x", 32)} {
		e := lab.Open(t, syncengine.Config{TablePrefix: prefix})
		lab.Put(t, e, "a", 1, archived)
	}
}
