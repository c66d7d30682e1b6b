package syncengine_test

import (
	"encoding"
	"testing"

	"github.com/syncengine-go/syncengine"
)

// TestEachNameIsReadBack: of what JSON has by its name.
func TestEachNameIsReadBack(t *testing.T) {
	for s := range syncengine.StateClosed + 1 {
		var back syncengine.State
		readBack(t, s, &back, func() bool { return back == s })
	}
	for s := range syncengine.StatusSynced + 1 {
		var back syncengine.SyncState
		readBack(t, s, &back, func() bool { return back == s })
	}
	for l := range syncengine.LevelShutdown + 1 {
		var back syncengine.BackpressureLevel
		readBack(t, l, &back, func() bool { return back == l })
	}
}

func readBack(t *testing.T, v encoding.TextMarshaler, back encoding.TextUnmarshaler, same func() bool) {
	t.Helper()
	text, err := v.MarshalText()
	if err == nil {
		err = back.UnmarshalText(text)
	}
	if err != nil || !same() {
		t.Errorf("%s comes back as %v, %v", v, back, err)
	}
	for _, other := range []string{"", "unknown", "READY"} {
		if back.UnmarshalText([]byte(other)) == nil || !same() {
			t.Errorf("%q is read as %v", other, back)
		}
	}
}
