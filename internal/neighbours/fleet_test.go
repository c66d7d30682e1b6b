package neighbours

// fleet_test.go looks at what Health tells of the other engines.

import (
	"context"
	"database/sql"
	"slices"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

func TestHealthShowsTheFleet(t *testing.T) {
	t.Parallel()
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		open := func(name string) *syncengine.Engine {
			cfg := cfg
			cfg.InstanceID = name
			return lab.Open(t, cfg)
		}
		fleet := func(e *syncengine.Engine) syncengine.Fleet { return e.Health(ctx).Fleet }
		start := time.Now()
		one := open("one")
		lab.Eventually(t, "one is alone", func() bool { return fleet(one).Alone })
		if f := fleet(one); !f.Known || !f.Joined || f.Name != "one" || f.ID == "" || len(f.Others) != 0 || f.Others == nil {
			t.Errorf("alone: %+v", f)
		}
		two := open("two")
		lab.Eventually(t, "they know of each other", func() bool {
			a, b := fleet(one), fleet(two)
			return a.Joined && b.Joined && len(a.Others) == 1 && len(b.Others) == 1 && a.Others[0].Noticed && b.Others[0].Noticed
		})
		a, b := fleet(one), fleet(two)
		n := a.Others[0]
		if a.Alone || b.Alone || n.Name != "two" || n.ID != b.ID || b.Others[0].Name != "one" || b.Others[0].ID != a.ID || n.Still {
			t.Errorf("one: %+v\ntwo: %+v", a, b)
		}
		if n.Since.Before(start) || n.Heard.Before(n.Since) || n.Heard.After(time.Now()) || n.Ahead != 0 || a.Ahead != 0 {
			t.Errorf("one knows of two: %+v", n)
		}
		lab.Eventually(t, "one hears two", func() bool { return fleet(one).Others[0].Heard.After(n.Heard) })
		if since := fleet(one).Others[0].Since; !since.Equal(n.Since) {
			t.Errorf("known since %v, and then since %v", n.Since, since)
		}
		// An engine whose time is ahead, and that does not beat.
		clock := int64(syncengine.VersionAt(time.Now().Add(10 * time.Second)))
		_, err := raw.Exec("INSERT INTO sync_instances (id, name, seen, beats, clock, ahead) VALUES ('row', 'owner', 0, -1, ?, 5000000)", clock)
		lab.Must(t, err)
		lab.Eventually(t, "all follow the fastest", func() bool { return fleet(one).Ahead >= 5*time.Second && fleet(two).Ahead >= 5*time.Second })
		others := fleet(one).Others
		if len(others) != 2 || others[1].Name != "owner" || !others[1].Still || others[1].Noticed || others[1].Ahead != 5*time.Second {
			t.Errorf("one knows of %+v", others)
		}
		others[0].Name = "changed by the caller"
		if slices.ContainsFunc(fleet(one).Others, func(n syncengine.Neighbour) bool { return n.Name == "changed by the caller" }) {
			t.Error("callers share what they get")
		}
		lab.Must(t, two.Close())
		if f := fleet(two); f.Known {
			t.Errorf("closed: %+v", f)
		}
		_, err = raw.Exec("DELETE FROM sync_instances WHERE id = 'row'")
		lab.Must(t, err)
		lab.Eventually(t, "one is alone again", func() bool { f := fleet(one); return f.Alone && len(f.Others) == 0 })
	})
}

// A store of one's own keeps no table: nothing is known.
func TestHealthKnowsNoFleetWithoutATable(t *testing.T) {
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive()})
	lab.Put(t, e, "x", 1, syncengine.WithDurability(syncengine.Archived))
	if f := e.Health(context.Background()).Fleet; f.Known || f.Joined || f.Alone || f.Others != nil {
		t.Errorf("%+v", f)
	}
}
