package promises

// config_limits_test.go opens an engine with every number of Config at its limits. A number
// is accepted and the engine then does all its work with it, an outage included, or it is
// refused by an error that names it: never accepted and then fatal.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// limit says which values of a field are taken. 0 is the default and always taken.
type limit struct {
	least, largest float64 // of a threshold
	from, to       int64   // of any other number
	// with sets what else a value needs, nil for nothing.
	with func(c *syncengine.Config)
	// hurried: so little time is given at the least value that calls to servers may fail.
	hurried bool
}

const anyInt = math.MaxInt64

// limits has one entry per number of Config.
var limits = map[string]limit{
	"L1MaxBytes":      {from: 64 << 10, to: anyInt},
	"MaxItemBytes":    {from: 1, to: 1 << 30},
	"GroupMaxItems":   {from: 1, to: anyInt},
	"GroupMaxBytes":   {from: 1, to: anyInt},
	"MaxClockSkew":    {from: 1, to: anyInt},
	"FactoryTimeout":  {from: 1, to: anyInt},
	"DefaultTTL":      {from: 1, to: anyInt},
	"Durability":      {from: int64(syncengine.Buffered), to: int64(syncengine.Archived)},
	"BatchFlushCount": {from: 1, to: 100_000},
	"BatchFlushBytes": {from: 1, to: anyInt, with: func(c *syncengine.Config) {
		c.WALMaxBytes, c.FlushConcurrency = anyInt, 1 // by an even number of batches, the product is negative
	}},
	"WALMaxItems": {from: 1, to: anyInt, with: func(c *syncengine.Config) { c.BatchFlushCount = 1 }},
	"WALMaxBytes": {from: 1 << 10, to: anyInt, with: func(c *syncengine.Config) { c.BatchFlushBytes = 1 }},

	"BatchFlushInterval":     {from: 1, to: anyInt},
	"FlushConcurrency":       {from: 1, to: 64},
	"FilterWarmupBatch":      {from: 1, to: 1_000_000},
	"FilterSnapshotInterval": {from: 1, to: anyInt},
	"FilterSnapshotInserts":  {from: 1, to: anyInt},

	"L2Timeout":    {from: int64(time.Millisecond), to: anyInt, hurried: true},
	"L3Timeout":    {from: int64(time.Millisecond), to: anyInt, hurried: true},
	"CloseTimeout": {from: 1, to: anyInt, hurried: true},
	"L2Breaker":    {from: 1, to: int64(syncengine.BreakerLenient)},
	"L3Breaker":    {from: 1, to: int64(syncengine.BreakerLenient)},

	"RetentionFullDays":    {from: 1, to: 100_000, with: func(c *syncengine.Config) { c.RetentionCompactDays = 100_000 }},
	"RetentionCompactDays": {from: 1, to: 100_000, with: func(c *syncengine.Config) { c.RetentionFullDays = 1 }},
	"CompactionInterval":   {from: 1, to: anyInt},
	"TombstoneRetention":   {from: 1, to: anyInt},
	"L1MaxAge":             {from: 1, to: anyInt},
	"AbsentFor":            {from: 1, to: anyInt},
	"StaleFor":             {from: math.MinInt64, to: anyInt},
	"LockWait":             {from: 0, to: anyInt},
	"ChangeRetention":      {from: int64(10 * time.Second), to: anyInt},
	"VerifyInterval":       {from: math.MinInt64, to: anyInt},
	"CompressionLevel":     compressionLevels,

	"BackpressureWarn":      {least: math.SmallestNonzeroFloat64, largest: math.Nextafter(.80, 0)},
	"BackpressureThrottle":  {least: math.Nextafter(.70, 1), largest: math.Nextafter(.90, 0)},
	"BackpressureCritical":  {least: math.Nextafter(.80, 1), largest: math.Nextafter(.95, 0)},
	"BackpressureEmergency": {least: math.Nextafter(.90, 1), largest: math.Nextafter(.98, 0)},
	"BackpressureShutdown":  {least: math.Nextafter(.95, 1), largest: 1},
}

// atLimit is one value of one field.
type atLimit struct {
	limit
	field, what string
	value       any
	least       bool
}

func (a *atLimit) config() (cfg syncengine.Config) {
	if a.with != nil {
		a.with(&cfg)
	}
	f := reflect.ValueOf(&cfg).Elem().FieldByName(a.field)
	f.Set(reflect.ValueOf(a.value).Convert(f.Type()))
	return cfg
}

// valuesOf returns what is to be accepted and what refused of a field.
func valuesOf(f reflect.StructField, l limit) (good, bad []atLimit) {
	add := func(to *[]atLimit, what string, v any, least bool) {
		*to = append(*to, atLimit{l, f.Name, what, v, least})
	}
	switch kind := f.Type.Kind(); kind {
	case reflect.Float64:
		add(&good, "least", l.least, true)
		add(&good, "largest", l.largest, false)
		for _, v := range []float64{-1, math.Nextafter(1, 2), math.MaxFloat64, math.Inf(1), math.NaN()} {
			add(&bad, fmt.Sprint(v), v, false)
		}
	default:
		top, bottom := int64(math.MaxInt64), int64(math.MinInt64)
		if kind == reflect.Uint8 {
			top, bottom = math.MaxUint8, 0
		}
		if l.to > 0 { // else nothing but 0 is taken
			add(&good, "least", l.from, true)
			add(&good, "largest", l.to, false)
		}
		for _, v := range []int64{-1, 1, l.from - 1, l.to + 1, top, bottom} { // l.to+1 may be the bottom
			if v != 0 && v >= bottom && v <= top && (v < l.from || v > l.to) {
				add(&bad, fmt.Sprint(v), v, false)
			}
		}
	}
	add(&good, "zero", reflect.Zero(f.Type).Interface(), false)
	return good, bad
}

func TestEveryNumberOfConfigWorksAtItsLimitsOrIsRefused(t *testing.T) {
	redis := testserver.SharedRedis(t).URL()
	for _, f := range reflect.VisibleFields(reflect.TypeFor[syncengine.Config]()) {
		if k := f.Type.Kind(); k < reflect.Int || k > reflect.Float64 {
			continue
		}
		l, ok := limits[f.Name]
		if !ok {
			t.Errorf("Config.%s has no entry in limits", f.Name)
			continue
		}
		good, bad := valuesOf(f, l)
		for _, a := range bad {
			t.Run(f.Name+"/refused "+a.what, func(t *testing.T) { a.wantRefusal(t) })
		}
		for _, a := range good {
			t.Run(f.Name+"/"+a.what, func(t *testing.T) {
				t.Parallel()
				a.wantWork(t, redis)
			})
		}
	}
}

func (a *atLimit) wantRefusal(t *testing.T) {
	cfg := a.config()
	cfg.Dir = t.TempDir()
	fields, err := faultyFields(t, cfg)
	named := slices.Contains(fields, a.field) && errors.Is(err, syncengine.ErrInvalidConfig)
	if errors.Is(err, syncengine.ErrFeatureNotBuilt) {
		named = strings.Contains(err.Error(), a.field)
	}
	if !named {
		t.Errorf("%s = %v: blamed on %q: %v", a.field, a.value, fields, err)
	}
}

// worker uses an engine and remembers what was acknowledged.
type worker struct {
	t     *testing.T
	cfg   syncengine.Config
	acked map[string]bool // whether it exists
}

// spools tells whether an outage puts ops into the WAL alone: not when few or tiny ones fit, or
// memory takes all.
func (a *atLimit) spools() bool {
	switch a.field {
	case "L1MaxBytes":
		return a.least
	case "WALMaxItems", "WALMaxBytes", "MaxItemBytes":
		return !a.least
	}
	return true
}

func (w *worker) content() []byte {
	if m := w.cfg.MaxItemBytes; m > 0 && m < 400 {
		return []byte("7")
	}
	return lab.Doc("x", 7)
}

// note takes the result of a write: pressure may refuse it, and a group may be too large.
func (w *worker) note(err error, group, exists bool, ids ...string) bool {
	w.t.Helper()
	tooLarge := group && (w.cfg.GroupMaxItems == 1 || w.cfg.GroupMaxBytes == 1 || w.cfg.WALMaxItems == 1)
	if err != nil {
		if !errors.Is(err, syncengine.ErrBackpressure) && !(tooLarge && errors.Is(err, syncengine.ErrInvalidItem)) {
			w.t.Fatalf("write of %v: %v", ids, err)
		}
		return false
	}
	for _, id := range ids {
		w.acked[id] = exists && w.cfg.DefaultTTL != 1
	}
	return true
}

func (w *worker) put(e *syncengine.Engine, id string) bool {
	w.t.Helper()
	d := syncengine.WithDurability(syncengine.Logged) // Archived waits for an outage to end
	return w.note(e.Submit(lab.Bounded(w.t), syncengine.Item{ID: id, Content: w.content()}, d), false, true, id)
}

// work writes n ids, one of them by a factory, deletes one, and writes a group.
func (w *worker) work(e *syncengine.Engine, name string, n int) (accepted int) {
	w.t.Helper()
	logged := syncengine.WithDurability(syncengine.Logged)
	for i := range n {
		if w.put(e, fmt.Sprintf("%s-%d", name, i)) {
			accepted++
		}
	}
	gone := name + "-0"
	w.note(e.Delete(lab.Bounded(w.t), gone, logged), false, false, gone)
	var group []syncengine.Item
	for i := range 3 {
		group = append(group, syncengine.Item{ID: fmt.Sprintf("%s-group-%d", name, i), Content: w.content()})
	}
	_, err := e.SubmitMany(lab.Bounded(w.t), group, logged)
	w.note(err, true, true, group[0].ID, group[1].ID, group[2].ID)
	if w.cfg.DefaultTTL == 1 {
		time.Sleep(2 * time.Millisecond) // what was put last expires
	}
	return accepted
}

// check reads all that was acknowledged, in every way.
func (w *worker) check(e *syncengine.Engine) {
	w.t.Helper()
	ctx := lab.Bounded(w.t)
	refused := func(err error) bool { // no answer is not a wrong one
		return errors.Is(err, syncengine.ErrBackpressure) || errors.Is(err, syncengine.ErrUnavailable)
	}
	for id, exists := range w.acked {
		it, err := e.Get(ctx, id)
		if exists && (err != nil || string(it.Content) != string(w.content())) || !exists && !errors.Is(err, syncengine.ErrNotFound) {
			if !refused(err) {
				w.t.Fatalf("%s, which exists: %v, is read as %.20q, %v", id, exists, it.Content, err)
			}
		}
		if got := e.Contains(id); exists && !got {
			w.t.Fatalf("Contains(%s) is false", id)
		}
		many, err := e.GetMany(ctx, []string{id})
		if !refused(err) && (err != nil || (many[0] != nil) != exists) {
			w.t.Fatalf("GetMany(%s), which exists: %v: %v, %v", id, exists, many, err)
		}
	}
}

// wantWork has an engine do all its work: open, write, read, flush, through an outage and a
// drain, close, and open again.
func (a *atLimit) wantWork(t *testing.T, redis string) {
	w := &worker{t: t, cfg: a.config(), acked: make(map[string]bool)}
	w.cfg.Dir, w.cfg.RedisURL, w.cfg.KeyPrefix = t.TempDir(), redis, lab.NewPrefix()
	if w.cfg.L1MaxBytes == 0 && a.field != "L1MaxBytes" {
		w.cfg.L1MaxBytes = 64 << 10 // so that an outage spools
	}
	store, err := lab.OpenSQLStore("sqlite:" + filepath.Join(w.cfg.Dir, "archive.db"))
	lab.NoError(t, "store", err)
	t.Cleanup(func() { _ = store.Close() })
	l3 := &lab.FaultyArchive{ArchiveStore: store}
	w.cfg.L3 = l3
	hurried := a.hurried && a.least

	e, err := syncengine.Open(lab.Bounded(t), w.cfg)
	lab.NoError(t, "open", err)
	t.Cleanup(func() { _ = e.Close() })
	if w.work(e, "up", 10) == 0 {
		t.Error("not one write was accepted")
	}
	w.check(e)
	if err := e.Flush(lab.Bounded(t)); err != nil && !hurried {
		t.Fatalf("flush: %v", err)
	}
	l3.Away.Store(true)
	w.work(e, "away", 150)
	if s := e.Stats(); a.spools() && s.SpooledOps == 0 {
		t.Errorf("nothing of %d pending ops is spooled", s.PendingOps)
	}
	w.check(e)
	l3.Away.Store(false)
	if !hurried {
		lab.Eventually(t, "the backlog is drained", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return e.Flush(ctx) == nil && e.Stats().PendingOps == 0
		})
		w.check(e)
	}
	if err := e.Close(); err != nil && !(hurried && (errors.Is(err, syncengine.ErrPending) || errors.Is(err, context.DeadlineExceeded))) {
		t.Fatalf("close: %v", err)
	}
	plain := syncengine.Config{Dir: w.cfg.Dir, L3: l3, RedisURL: redis, KeyPrefix: w.cfg.KeyPrefix}
	again, err := syncengine.Open(lab.Bounded(t), plain)
	lab.NoError(t, "open again", err)
	t.Cleanup(func() { _ = again.Close() })
	lab.NoError(t, "flush again", again.Flush(lab.Bounded(t)))
	w.check(again)
}

func TestDirIsCreatedWhenItsParentExists(t *testing.T) {
	for name, suffix := range map[string]string{"plain": "/data", "with a slash": "/data/", "with odds": "/da ?#%41'é"} {
		t.Run(name, func(t *testing.T) {
			cfg := syncengine.Config{Dir: t.TempDir() + suffix}
			e := lab.Open(t, cfg)
			lab.Put(t, e, "a", 1)
			lab.Must(t, e.Close())
			st, err := os.Stat(cfg.Dir)
			lab.Must(t, err)
			if got := st.Mode().Perm(); got != 0o700 {
				t.Errorf("made with mode %o, want 700", got)
			}
			lab.WantContent(t, lab.Open(t, cfg), "a", 1)
		})
	}
}

// A directory is made for a config without a fault only.
func TestDirIsNotCreatedForARefusedConfig(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if fields, err := faultyFields(t, syncengine.Config{Dir: dir, L1MaxBytes: -1}); !slices.Equal(fields, []string{"L1MaxBytes"}) {
		t.Errorf("blamed on %q: %v", fields, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}
