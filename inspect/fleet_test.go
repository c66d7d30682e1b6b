package inspect_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/inspect"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// section is the part of a page below a heading.
func section(t testing.TB, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "<h2>"+heading)
	if !ok {
		t.Fatalf("no section %q", heading)
	}
	part, _, _ := strings.Cut(rest, "</section>")
	return part
}

func TestTheFleetIsShown(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{SQLURL: url, InstanceID: "orders-1"})
	lab.Eventually(t, "it is alone", func() bool { return e.Health(ctx).Fleet.Alone })
	if part := section(t, get(t, inspect.Handler(e), "/").body, "Fleet"); !strings.Contains(part, "alone") || !strings.Contains(part, "orders-1") {
		t.Errorf("alone: %s", part)
	}
	lab.Open(t, syncengine.Config{SQLURL: url, InstanceID: hostileID})
	lab.Eventually(t, "they know of each other", func() bool {
		f := e.Health(ctx).Fleet
		return len(f.Others) == 1 && f.Others[0].Noticed
	})
	r := get(t, inspect.Handler(e), "/")
	part := section(t, r.body, "Fleet")
	for _, want := range []string{"1 other engine<", "&lt;script&gt;alert(&#34;id&#34;)", "<dt>heard</dt>", " ago</dd>", "<dt>knows of this one</dt><dd>yes</dd>", "as SQL&#39;s"} {
		if !strings.Contains(part, want) {
			t.Errorf("the page does not say %q:\n%s", want, part)
		}
	}
	if strings.Count(r.body, "<script") != 1 {
		t.Error("the name of another engine is markup")
	}
	var v struct {
		Health struct {
			Fleet syncengine.Fleet `json:"fleet"`
		} `json:"health"`
	}
	lab.Must(t, json.Unmarshal([]byte(get(t, inspect.Handler(e), "/json").body), &v))
	f := v.Health.Fleet
	if !f.Known || !f.Joined || f.Alone || f.Name != "orders-1" || len(f.Others) != 1 || f.Others[0].Name != hostileID || time.Since(f.Others[0].Heard) > time.Minute {
		t.Errorf("as JSON: %+v", f)
	}
}

func TestAFleetThatIsNotKnownIsNotShown(t *testing.T) {
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive()})
	if part := section(t, get(t, inspect.Handler(e), "/").body, "Fleet"); !strings.Contains(part, "not known") || strings.Contains(part, "this engine") {
		t.Errorf("%s", part)
	}
}

// TestManyEnginesAreNoLongPage: the JSON has all of them.
func TestManyEnginesAreNoLongPage(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	e := lab.Open(t, syncengine.Config{SQLURL: url})
	for range 60 { // those that do not beat are not removed
		_, err := testserver.OpenSQL(t, url).Exec("INSERT INTO sync_instances (id, name, seen, beats) VALUES (UUID(), 'many', 0, -1)")
		lab.Must(t, err)
	}
	lab.Eventually(t, "all are seen", func() bool { return len(e.Health(context.Background()).Fleet.Others) == 60 })
	h := inspect.Handler(e)
	part := section(t, get(t, h, "/").body, "Fleet")
	if n := strings.Count(part, "<h3>many"); n != 50 || !strings.Contains(part, "and 10 more") || strings.Count(part, "does not beat") != 50 {
		t.Errorf("%d of 60 are shown:\n%s", n, part)
	}
	if n := strings.Count(get(t, h, "/json").body, `"name": "many"`); n != 60 {
		t.Errorf("%d of 60 are in the JSON", n)
	}
}

func TestDebtsAreShown(t *testing.T) {
	server := testserver.Redis(t)
	e := lab.Open(t, syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: server.URL(), L2Timeout: 200 * time.Millisecond})
	lab.Eventually(t, "Redis was compared", func() bool { return e.Stats().L2Missed == 0 })
	if part := section(t, get(t, inspect.Handler(e), "/").body, "Debts"); !strings.Contains(part, "none") || strings.Contains(part, "not believed") {
		t.Errorf("none: %s", part)
	}
	server.Kill()
	for n := range 3 {
		lab.Put(t, e, []string{"a", "b", "c"}[n], n)
	}
	lab.Must(t, e.Flush(context.Background()))
	lab.Eventually(t, "Redis lacks them", func() bool { return e.Stats().L2Missed == 3 })
	r := get(t, inspect.Handler(e), "/")
	part := section(t, r.body, "Debts")
	for _, want := range []string{"some", "<dt>Redis lacks</dt><dd>3</dd>", "<dt>Redis may lack</dt><dd>0</dd>", "<dt>to tell other engines</dt><dd>0</dd>", "not believed"} {
		if !strings.Contains(part, want) {
			t.Errorf("the page does not say %q:\n%s", want, part)
		}
	}
	if r := get(t, inspect.Handler(e), "/json"); !strings.Contains(r.body, `"L2Missed": 3`) || !strings.Contains(r.body, `"L2Doubted": 0`) || !strings.Contains(r.body, `"PushPending": 0`) {
		t.Error("the JSON does not say so")
	}
	alone := lab.Open(t, syncengine.Config{})
	if part := section(t, get(t, inspect.Handler(alone), "/").body, "Debts"); strings.Contains(part, "Redis") {
		t.Errorf("without Redis: %s", part)
	}
}
