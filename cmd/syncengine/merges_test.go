//go:build crdt

package main_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// The tests' binary is built without the tag: its engine opens no directory in which merges wait,
// and no command changes anything there.
func TestMergesThatTheCommandDoesNotKnowStayWhereTheyAre(t *testing.T) {
	db := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: db.URL()}
	e := lab.Open(t, cfg)
	db.Kill()
	_, err := e.Merge(lab.Bounded(t), "c", "PNCounter", []byte("5"))
	lab.Must(t, err)
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	db.Restart()
	was := run(t, nil, "", "status", "-json", cfg.Dir)
	for _, args := range [][]string{{"explain", cfg.Dir, "c"}, {"drain", cfg.Dir}, {"drain", "-moved", cfg.Dir}} {
		run(t, []string{"SYNCENGINE_SQL=" + db.URL()}, "", args...).want(t, 2, "-tags crdt")
	}
	if is := run(t, nil, "", "status", "-json", cfg.Dir); is != was {
		t.Errorf("the directory was %v, is %v", was, is)
	}
	e = lab.Open(t, cfg)
	lab.Must(t, e.Flush(lab.Bounded(t)))
	it, err := e.Get(lab.Bounded(t), "c")
	if err != nil || !strings.Contains(string(it.Content), ":5}") {
		t.Errorf("%s, %v", it.Content, err)
	}
}
