package syncengine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// smallHouse has a log for a hundred ops and ten thousand bytes.
func smallHouse(t *testing.T, on syncengine.Events) *syncengine.House {
	return syncengine.HouseOn(t, syncengine.Plan{L3: storetest.NewArchive(), Config: syncengine.Config{
		WALMaxItems: 100, WALMaxBytes: 10_000, L1MaxBytes: 1 << 20, BatchFlushCount: 10, BatchFlushBytes: 1000, OnEvent: on,
	}})
}

// tenBytes are n ops of so much each.
func tenBytes(n int) (ops []*syncengine.OpEntry) {
	for range n {
		ops = append(ops, syncengine.NewEntry("x", 0, strings.Repeat("1", 9)))
	}
	return ops
}

func TestINV10WhoIsLetInHasAPlaceAndWhoIsRefusedHasNone(t *testing.T) {
	gone, leave := context.WithCancel(context.Background())
	leave()
	h := smallHouse(t, syncengine.Events{})
	lab.Must(t, h.Pressure.Admit(context.Background(), tenBytes(60)))
	if now := h.Pressure.Now(); now != .6 {
		t.Errorf("60 of 100 ops are let in: pressure %v", now)
	}
	for name, try := range map[string]func() error{
		"a group for which there is no room": func() error { return h.Pressure.Admit(context.Background(), tenBytes(41)) },
		"an op that is too large": func() error {
			return h.Pressure.Admit(context.Background(), []*syncengine.OpEntry{syncengine.NewEntry("x", 0, strings.Repeat("1", 9500))})
		},
		"a caller who has left": func() error { return h.Pressure.Admit(gone, tenBytes(1)) },
	} {
		err := try()
		if now := h.Pressure.Now(); now != .6 || !errors.Is(err, syncengine.ErrBackpressure) && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, pressure %v", name, err, now)
		}
	}
	lab.Must(t, h.Pressure.Reserve(tenBytes(31))) // others had their places before
	var refused *syncengine.BackpressureError
	if err := h.Pressure.Admit(context.Background(), tenBytes(1)); !errors.As(err, &refused) || refused.Level != syncengine.LevelCritical || h.Pressure.Now() != .91 {
		t.Errorf("when it is full: %v, pressure %v", err, h.Pressure.Now())
	}
}

// TestALevelRisesAtOnceAndFallsOnlyWhenPressureIsClearlyBelow: or a level would come and go with
// each op.
func TestALevelRisesAtOnceAndFallsOnlyWhenPressureIsClearlyBelow(t *testing.T) {
	var told [][2]syncengine.BackpressureLevel // by the loop of events, until the house ends
	h := smallHouse(t, syncengine.Events{BackpressureChanged: func(from, to syncengine.BackpressureLevel) {
		told = append(told, [2]syncengine.BackpressureLevel{from, to})
	}})
	want := func(when string, want syncengine.BackpressureLevel) {
		t.Helper()
		if now := h.Pressure.Observe(); now != want || h.Pressure.Level() != want {
			t.Errorf("%s: level %v, want %v", when, now, want)
		}
	}
	lab.Must(t, h.Pressure.Reserve(tenBytes(69)))
	want("at .69", syncengine.LevelNormal)
	lab.Must(t, h.Pressure.Reserve(tenBytes(1)))
	want("at .70", syncengine.LevelWarn)
	h.Journal.Release(tenBytes(1))
	want("at .69 again", syncengine.LevelWarn)
	lab.Must(t, h.Pressure.Reserve(tenBytes(11)))
	want("at .80", syncengine.LevelThrottle)
	h.Journal.Release(tenBytes(13))
	want("at .67", syncengine.LevelNormal)
	h.End()
	if want := [][2]syncengine.BackpressureLevel{{0, 1}, {1, 2}, {2, 0}}; !slices.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}

// TestReadsAreLetInLongerThanWrites, and a refusal says what the engine is full of.
func TestReadsAreLetInLongerThanWrites(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		fill   func(h *syncengine.House)
		reason string
	}{
		{"ops", func(h *syncengine.House) {
			lab.Must(t, h.Pressure.Reserve(tenBytes(89)))
			lab.Must(t, h.Pressure.Reserve(tenBytes(11)))
		}, "ops"},
		{"bytes", func(h *syncengine.House) {
			for _, size := range []int{8000, 1899} {
				lab.Must(t, h.Pressure.Reserve([]*syncengine.OpEntry{syncengine.NewEntry("x", 0, strings.Repeat("1", size))}))
			}
		}, "bytes"},
		{"memory", func(h *syncengine.House) {
			h.Memory.Accept(syncengine.NewEntry("x", 1, strings.Repeat("1", 1<<20)), true)
		}, "memory"},
	} {
		h := smallHouse(t, syncengine.Events{})
		if err := h.Pressure.AdmitRead(); err != nil {
			t.Errorf("%s: a read while there is room: %v", c.name, err)
		}
		c.fill(h)
		err := h.Pressure.Allow(ctx)
		if !errors.Is(err, syncengine.ErrBackpressure) || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: a write when it is full: %v", c.name, err)
		}
		var refused *syncengine.BackpressureError
		if err := h.Pressure.AdmitRead(); !errors.As(err, &refused) || refused.Level != syncengine.LevelShutdown || refused.RetryAfter == 0 || !strings.Contains(refused.Reason, c.reason) {
			t.Errorf("%s: a read when it is full: %v", c.name, err)
		}
	}
	h := smallHouse(t, syncengine.Events{})
	lab.Must(t, h.Pressure.Reserve(tenBytes(89)))
	lab.Must(t, h.Pressure.Reserve(tenBytes(2)))
	if err := h.Pressure.Allow(ctx); !errors.Is(err, syncengine.ErrBackpressure) {
		t.Errorf("a write at .91: %v", err)
	}
	if err := h.Pressure.AdmitRead(); err != nil {
		t.Errorf("a read at .91: %v", err)
	}
}
