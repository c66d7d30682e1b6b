package promises

// config_test.go holds faulty configs against Open, and listens everywhere for a password.

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// configErrors returns every *ConfigError in the tree of err.
func configErrors(err error) (out []*syncengine.ConfigError) {
	switch e := err.(type) {
	case nil:
	case *syncengine.ConfigError:
		out = append(out, e)
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			out = append(out, configErrors(err)...)
		}
	case interface{ Unwrap() error }:
		out = configErrors(e.Unwrap())
	}
	return out
}

// faultyFields opens cfg, which must fail, and returns the fields it is blamed on.
func faultyFields(t testing.TB, cfg syncengine.Config) ([]string, error) {
	t.Helper()
	e, err := syncengine.Open(lab.Bounded(t), cfg)
	if err == nil {
		lab.NoError(t, "close", e.Close())
		return nil, nil
	}
	var fields []string
	for _, ce := range configErrors(err) {
		if ce.Rule == "" || ce.Value == "" || !strings.Contains(err.Error(), ce.Error()) {
			t.Errorf("the text of %+v is not whole in %v", ce, err)
		}
		if !errors.Is(ce, syncengine.ErrInvalidConfig) {
			t.Errorf("%v is not ErrInvalidConfig", ce)
		}
		fields = append(fields, ce.Field)
	}
	slices.Sort(fields)
	return slices.Compact(fields), err
}

// notWritable is a directory in which nobody can make a file, root included.
func notWritable(t testing.TB) string {
	t.Helper()
	if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		return "/proc/self"
	}
	dir := t.TempDir()
	lab.NoError(t, "chmod", os.Chmod(dir, 0o500))
	return dir
}

// sqlHandle is a handle that no test uses for I/O.
func sqlHandle(t testing.TB) *sql.DB { return lab.OpenDriver(t, "mysql", "u:p@tcp(127.0.0.1:1)/db") }

// configFault is one thing wrong with a config and the field to be blamed.
type configFault struct {
	field, what string
	break_      func(t testing.TB, c *syncengine.Config)
}

func configFaults() []configFault {
	faults := []configFault{
		{"Dir", "empty", func(_ testing.TB, c *syncengine.Config) { c.Dir = "" }},
		{"Dir", "missing, with its parent", func(_ testing.TB, c *syncengine.Config) { c.Dir += "/missing/missing" }},
		{"Dir", "a link to nothing", func(t testing.TB, c *syncengine.Config) {
			lab.NoError(t, "symlink", os.Symlink(c.Dir+"/missing", c.Dir+"/link"))
			c.Dir += "/link"
		}},
		{"Dir", "can't be created", func(t testing.TB, c *syncengine.Config) { c.Dir = notWritable(t) + "/missing" }},
		{"Dir", "a file", func(t testing.TB, c *syncengine.Config) {
			c.Dir += "/file"
			lab.NoError(t, "write", os.WriteFile(c.Dir, nil, 0o600))
		}},
		{"Dir", "below a file", func(t testing.TB, c *syncengine.Config) {
			lab.NoError(t, "write", os.WriteFile(c.Dir+"/file", nil, 0o600))
			c.Dir += "/file/dir"
		}},
		{"Dir", "not writable", func(t testing.TB, c *syncengine.Config) { c.Dir = notWritable(t) }},
		{"Dir", "with NUL", func(_ testing.TB, c *syncengine.Config) { c.Dir += "\x00" }},
		{"WALPath", "in a missing directory", func(_ testing.TB, c *syncengine.Config) { c.WALPath = c.Dir + "/missing/wal.db" }},
		{"WALPath", "in a directory that is not writable", func(t testing.TB, c *syncengine.Config) { c.WALPath = notWritable(t) + "/wal.db" }},
		{"WALPath", "a directory", func(_ testing.TB, c *syncengine.Config) { c.WALPath = c.Dir }},
		{"KeyPrefix", "too long", func(_ testing.TB, c *syncengine.Config) { c.KeyPrefix = strings.Repeat("p", 257) }},
		{"KeyPrefix", "not UTF-8", func(_ testing.TB, c *syncengine.Config) { c.KeyPrefix = "\xff" }},
		{"InstanceID", "too long", func(_ testing.TB, c *syncengine.Config) { c.InstanceID = strings.Repeat("i", 256) }},
		{"InstanceID", "not UTF-8", func(_ testing.TB, c *syncengine.Config) { c.InstanceID = "\xff" }},
		{"SQLURL", "beside DB", func(t testing.TB, c *syncengine.Config) {
			c.SQLURL, c.DB, c.Dialect = "mysql://127.0.0.1/db", sqlHandle(t), syncengine.DialectMySQL
		}},
		{"SQLURL", "beside L3", func(_ testing.TB, c *syncengine.Config) {
			c.SQLURL, c.L3 = "mysql://127.0.0.1/db", storetest.NewArchive()
		}},
		{"DB", "beside L3", func(t testing.TB, c *syncengine.Config) {
			c.DB, c.Dialect, c.L3 = sqlHandle(t), syncengine.DialectMySQL, storetest.NewArchive()
		}},
		{"Dialect", "missing", func(t testing.TB, c *syncengine.Config) { c.DB = sqlHandle(t) }},
		{"Dialect", "unknown", func(t testing.TB, c *syncengine.Config) { c.DB, c.Dialect = sqlHandle(t), "oracle" }},
		{"Dialect", "without DB", func(_ testing.TB, c *syncengine.Config) { c.Dialect = syncengine.DialectMySQL }},
		{"RedisURL", "beside L2", func(_ testing.TB, c *syncengine.Config) {
			c.RedisURL, c.L2 = "redis://127.0.0.1", storetest.NewCache()
		}},
		{"RedisURL", "beside Redis", func(t testing.TB, c *syncengine.Config) {
			c.RedisURL, c.Redis = "redis://127.0.0.1", lab.RedisAt(t, "redis://127.0.0.1:1")
		}},
		{"Redis", "beside L2", func(t testing.TB, c *syncengine.Config) {
			c.Redis, c.L2 = lab.RedisAt(t, "redis://127.0.0.1:1"), storetest.NewCache()
		}},
		{"L1MaxBytes", "negative", func(_ testing.TB, c *syncengine.Config) { c.L1MaxBytes = -1 }},
		{"L1MaxBytes", "tiny", func(_ testing.TB, c *syncengine.Config) { c.L1MaxBytes = 1 }},
		{"MaxItemBytes", "negative", func(_ testing.TB, c *syncengine.Config) { c.MaxItemBytes = -1 }},
		{"MaxItemBytes", "huge", func(_ testing.TB, c *syncengine.Config) { c.MaxItemBytes = 1<<30 + 1 }},
		{"Durability", "unknown", func(_ testing.TB, c *syncengine.Config) { c.Durability = syncengine.Archived + 1 }},
		{"BatchFlushCount", "negative", func(_ testing.TB, c *syncengine.Config) { c.BatchFlushCount = -1 }},
		{"BatchFlushCount", "huge", func(_ testing.TB, c *syncengine.Config) { c.BatchFlushCount = 100_001 }},
		{"BatchFlushBytes", "negative", func(_ testing.TB, c *syncengine.Config) { c.BatchFlushBytes = -1 }},
		{"FlushConcurrency", "negative", func(_ testing.TB, c *syncengine.Config) { c.FlushConcurrency = -1 }},
		{"FlushConcurrency", "huge", func(_ testing.TB, c *syncengine.Config) { c.FlushConcurrency = 65 }},
		{"WALMaxItems", "negative", func(_ testing.TB, c *syncengine.Config) { c.WALMaxItems = -1 }},
		{"WALMaxItems", "below one batch", func(_ testing.TB, c *syncengine.Config) { c.WALMaxItems = 999 }},
		{"WALMaxItems", "below one batch of another size", func(_ testing.TB, c *syncengine.Config) { c.WALMaxItems, c.BatchFlushCount = 1000, 1001 }},
		{"WALMaxBytes", "negative", func(_ testing.TB, c *syncengine.Config) { c.WALMaxBytes = -1 }},
		{"WALMaxBytes", "below one batch", func(_ testing.TB, c *syncengine.Config) { c.WALMaxBytes = 1<<20 - 1 }},
		{"FilterWarmupBatch", "negative", func(_ testing.TB, c *syncengine.Config) { c.FilterWarmupBatch = -1 }},
		{"FilterSnapshotInserts", "negative", func(_ testing.TB, c *syncengine.Config) { c.FilterSnapshotInserts = -1 }},
		{"RetentionFullDays", "negative", func(_ testing.TB, c *syncengine.Config) { c.RetentionFullDays = -1 }},
		{"RetentionCompactDays", "negative", func(_ testing.TB, c *syncengine.Config) { c.RetentionCompactDays = -1 }},
		{"RetentionCompactDays", "below RetentionFullDays", func(_ testing.TB, c *syncengine.Config) { c.RetentionFullDays, c.RetentionCompactDays = 8, 7 }},
	}
	for _, u := range []string{
		"mysql:", "mysql:/", "mysql://", "MYSQL://h/db", "mysql://h", "mysql://h/", "mysql:///db", "mysql://h:0/db", "mysql://h:65536/db", "mysql://h:x/db",
		"mysql://h:-1/db", "mysql://h:/db/x", "mysql://h/d`b", "mysql://h/db?unknown=1", "mysql://h/db?tls=maybe", "mysql://h/db?max_open_conns=0",
		"mysql://h/db?ca_file=/missing", "mysql://h/db?tls=true&ca_file=/missing",
		"mysql://h/db?max_open_conns=x", "mysql://h/db#f", "mysql://[::1/db", "postgres://h/db", "h/db", "/a/file", "sqlite", "sqlite:", "sqlite:///missing/dir/x.db",
		"sqlite::memory:", "sqlite:/", "sqlite:a\x00b", " mysql://h/db", "mysql://h/db\x00", "mysql://a b/db", "mysql://h/%zz",
	} {
		faults = append(faults, configFault{"SQLURL", u, func(_ testing.TB, c *syncengine.Config) { c.SQLURL = u }})
	}
	for _, u := range []string{
		"redis:", "redis:/", "redis://", "REDIS://h", "http://h", "h:6379", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://h/x", "redis://h/-1",
		"redis://h/0/1", "redis://h?unknown=1", "redis://h?db=x", "redis://h?pool_size=0", "redis://h?read_timeout=-1s", "redis://h?cluster=maybe",
		"redis://h,", "redis://,h", "redis://h1,h2/1", "redis://h?cluster=true&master_name=m", "redis://h?ca_file=/missing", "rediss://h?ca_file=/missing",
		"redis://[::1", "redis://a b", "redis://h?protocol=4", "redis://h?sentinel_password=x", "redis://u@h", "redis://h#f", "redis://h/%zz", "redis://h\x00",
	} {
		faults = append(faults, configFault{"RedisURL", u, func(_ testing.TB, c *syncengine.Config) { c.RedisURL = u }})
	}
	for _, name := range []string{
		"BatchFlushInterval", "FilterSnapshotInterval", "L2Timeout", "L3Timeout", "CloseTimeout", "CompactionInterval", "TombstoneRetention", "L1MaxAge",
	} {
		faults = append(faults, configFault{name, "negative", func(_ testing.TB, c *syncengine.Config) {
			reflect.ValueOf(c).Elem().FieldByName(name).SetInt(-1)
		}})
	}
	for _, name := range thresholdNames {
		for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, -.5, -math.SmallestNonzeroFloat64, math.Nextafter(1, 2), 70} {
			faults = append(faults, configFault{name, fmt.Sprint(v), func(_ testing.TB, c *syncengine.Config) {
				reflect.ValueOf(c).Elem().FieldByName(name).SetFloat(v)
			}})
		}
	}
	return faults
}

var thresholdNames = []string{"BackpressureWarn", "BackpressureThrottle", "BackpressureCritical", "BackpressureEmergency", "BackpressureShutdown"}

func TestEveryConfigFaultNamesItsField(t *testing.T) {
	for _, f := range configFaults() {
		t.Run(f.field+"/"+f.what, func(t *testing.T) {
			cfg := syncengine.Config{Dir: t.TempDir()}
			f.break_(t, &cfg)
			fields, err := faultyFields(t, cfg)
			if !errors.Is(err, syncengine.ErrInvalidConfig) || !slices.Equal(fields, []string{f.field}) {
				t.Errorf("blamed on %q, want %s alone: %v", fields, f.field, err)
			}
		})
	}
}

// A config that is right is not blamed: the edges of what is allowed.
func TestConfigsAtTheirLimitsAreAccepted(t *testing.T) {
	for name, change := range map[string]func(*syncengine.Config){
		"zero":              func(*syncengine.Config) {},
		"smallest":          func(c *syncengine.Config) { c.L1MaxBytes, c.MaxItemBytes, c.BatchFlushBytes = 64<<10, 1, 1 },
		"one batch of WAL":  func(c *syncengine.Config) { c.WALMaxItems, c.WALMaxBytes = 1000, 1<<20 },
		"largest batch":     func(c *syncengine.Config) { c.BatchFlushCount, c.FlushConcurrency = 100_000, 64 },
		"dense thresholds":  func(c *syncengine.Config) { setThresholds(c, .1, .1+1e-9, .1+2e-9, .1+3e-9, 1) },
		"smallest interval": func(c *syncengine.Config) { c.BatchFlushInterval, c.TombstoneRetention, c.L1MaxAge = 1, 1, 1 },
		"longest prefix": func(c *syncengine.Config) {
			c.KeyPrefix, c.InstanceID = strings.Repeat("p", 256), strings.Repeat("i", 255)
		},
		"retention":             func(c *syncengine.Config) { c.RetentionFullDays, c.RetentionCompactDays = 5, 5 },
		"SQLite by path":        func(c *syncengine.Config) { c.SQLURL = "sqlite:" + filepath.Join(c.Dir, "my archive?#%41.db") },
		"WAL somewhere else":    func(c *syncengine.Config) { c.WALPath = filepath.Join(c.Dir, "other wal?#%41.db") },
		"a directory with odds": func(c *syncengine.Config) { c.Dir = oddDir(c.Dir) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := syncengine.Config{Dir: t.TempDir()}
			change(&cfg)
			if fields, err := faultyFields(t, cfg); err != nil {
				t.Errorf("blamed on %q: %v", fields, err)
			}
		})
	}
}

func oddDir(parent string) string {
	dir := filepath.Join(parent, "a ?#%41&b=c;d'é")
	_ = os.Mkdir(dir, 0o700) // Open complains if it failed
	return dir
}

func setThresholds(c *syncengine.Config, v ...float64) {
	for i, name := range thresholdNames {
		reflect.ValueOf(c).Elem().FieldByName(name).SetFloat(v[i])
	}
}

func TestThresholdsMustRise(t *testing.T) {
	nan, up := math.NaN(), math.Nextafter
	for _, tc := range []struct {
		values []float64
		fields string
	}{
		{[]float64{.1, .2, .3, .4, .5}, ""},
		{[]float64{.1, up(.1, 1), up(up(.1, 1), 1), .4, 1}, ""},
		{[]float64{.1, .1, .3, .4, .5}, "BackpressureThrottle"},
		{[]float64{.2, .1, .3, .4, .5}, "BackpressureThrottle"},
		{[]float64{.1, .2, .3, .5, .4}, "BackpressureShutdown"},
		{[]float64{.5, .4, .3, .2, .1}, "BackpressureCritical BackpressureEmergency BackpressureShutdown BackpressureThrottle"},
		{[]float64{nan, nan, nan, nan, nan}, "BackpressureCritical BackpressureEmergency BackpressureShutdown BackpressureThrottle BackpressureWarn"},
		{[]float64{-.1, .2, nan, .4, 1.1}, "BackpressureCritical BackpressureShutdown BackpressureWarn"},
		{[]float64{.96, 0, 0, 0, 0}, "BackpressureCritical BackpressureEmergency BackpressureThrottle"}, // against the defaults of the others
	} {
		cfg := syncengine.Config{Dir: t.TempDir()}
		setThresholds(&cfg, tc.values...)
		if fields, err := faultyFields(t, cfg); strings.Join(fields, " ") != tc.fields {
			t.Errorf("%v: blamed on %q, want %q: %v", tc.values, fields, tc.fields, err)
		}
	}
}

func TestAllConfigFaultsComeInOneError(t *testing.T) {
	cfg := syncengine.Config{
		Dir: filepath.Join(t.TempDir(), "missing", "missing"), SQLURL: "mysql://h:99999/db", RedisURL: "http://h", Dialect: "oracle", KeyPrefix: "\xff",
		InstanceID: "\xff", L1MaxBytes: -1, MaxItemBytes: -1, Durability: 9, BatchFlushInterval: -1, BatchFlushCount: -1, BatchFlushBytes: -1,
		FlushConcurrency: -1, BackpressureWarn: math.NaN(), BackpressureShutdown: 2, WALMaxItems: -1, WALMaxBytes: -1, FilterWarmupBatch: -1,
		FilterSnapshotInterval: -1, FilterSnapshotInserts: -1, L2Timeout: -1, L3Timeout: -1, CloseTimeout: -1, RetentionFullDays: -1,
		RetentionCompactDays: -2, CompactionInterval: -1, TombstoneRetention: -1, L1MaxAge: -1,
		DB: sqlHandle(t), L3: storetest.NewArchive(), L2: storetest.NewCache(), Redis: lab.RedisAt(t, "redis://127.0.0.1:1"),
	}
	want := []string{
		"BackpressureShutdown", "BackpressureWarn", "BatchFlushBytes", "BatchFlushCount", "BatchFlushInterval", "CloseTimeout", "CompactionInterval",
		"DB", "Dialect", "Dir", "Durability", "FilterSnapshotInserts", "FilterSnapshotInterval", "FilterWarmupBatch", "FlushConcurrency", "InstanceID",
		"KeyPrefix", "L1MaxAge", "L1MaxBytes", "L2Timeout", "L3Timeout", "MaxItemBytes", "Redis", "RedisURL", "RetentionCompactDays", "RetentionFullDays",
		"SQLURL", "TombstoneRetention", "WALMaxBytes", "WALMaxItems",
	}
	fields, err := faultyFields(t, cfg)
	if !slices.Equal(fields, want) {
		t.Errorf("blamed on\n%q, want\n%q:\n%v", fields, want, err)
	}
}

// A fault between two fields, of which one was left to its default, names both.
func TestAFaultOfTwoFieldsNamesWhatWasSet(t *testing.T) {
	fields, err := faultyFields(t, syncengine.Config{Dir: t.TempDir(), RetentionFullDays: 91})
	if !slices.Equal(fields, []string{"RetentionCompactDays"}) || !strings.Contains(err.Error(), "= 90: must be at least RetentionFullDays = 91") {
		t.Errorf("blamed on %q: %v", fields, err)
	}
}

// A refused config leaves nothing behind.
func TestARefusedConfigTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := faultyFields(t, syncengine.Config{Dir: dir, L1MaxBytes: -1}); err == nil {
		t.Fatal("accepted")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestLevelForAtItsThresholds(t *testing.T) {
	for i, threshold := range []float64{.70, .80, .90, .95, .98} {
		level := syncengine.LevelWarn + syncengine.BackpressureLevel(i)
		for pressure, want := range map[float64]syncengine.BackpressureLevel{
			math.Nextafter(threshold, 0): level - 1, threshold: level, math.Nextafter(threshold, 2): level,
			threshold - .01: level - 1, threshold + .001: level,
		} {
			if got := syncengine.LevelFor(pressure); got != want {
				t.Errorf("LevelFor(%v) = %v, want %v", pressure, got, want)
			}
		}
	}
	for pressure, want := range map[float64]syncengine.BackpressureLevel{
		0: syncengine.LevelNormal, -1: syncengine.LevelNormal, math.Inf(-1): syncengine.LevelNormal,
		1: syncengine.LevelShutdown, 2: syncengine.LevelShutdown, math.Inf(1): syncengine.LevelShutdown,
	} {
		if got := syncengine.LevelFor(pressure); got != want {
			t.Errorf("LevelFor(%v) = %v, want %v", pressure, got, want)
		}
	}
	if got := syncengine.LevelFor(math.NaN()); got != syncengine.LevelShutdown {
		t.Errorf("LevelFor(NaN) = %v, want shutdown", got)
	}
}

func TestLevelsTellWhatIsServed(t *testing.T) {
	for _, tc := range []struct {
		level         syncengine.BackpressureLevel
		name          string
		writes, reads bool
		status        int
		retry         time.Duration
	}{
		{syncengine.LevelNormal, "normal", true, true, 0, 0},
		{syncengine.LevelWarn, "warn", true, true, 0, 0},
		{syncengine.LevelThrottle, "throttle", true, true, 429, time.Second},
		{syncengine.LevelCritical, "critical", false, true, 503, 5 * time.Second},
		{syncengine.LevelEmergency, "emergency", false, true, 503, 30 * time.Second},
		{syncengine.LevelShutdown, "shutdown", false, false, 503, 30 * time.Second},
	} {
		l := tc.level
		if l.String() != tc.name || l.AcceptsWrites() != tc.writes || l.AcceptsReads() != tc.reads || l.HTTPStatus() != tc.status || l.RetryAfter() != tc.retry {
			t.Errorf("%v: writes %v, reads %v, status %d, retry %v; want %+v", l, l.AcceptsWrites(), l.AcceptsReads(), l.HTTPStatus(), l.RetryAfter(), tc)
		}
	}
}

func TestAConfigChangedAfterOpenChangesNothing(t *testing.T) {
	redisURL, prefix := testserver.SharedRedis(t).URL(), lab.NewPrefix()
	asked := make(chan string, 10)
	cfg := inputConfig(t)
	cfg.RedisURL, cfg.KeyPrefix, cfg.MaxItemBytes, cfg.Durability = redisURL, prefix, 1000, syncengine.Archived
	cfg.PriorityFunc = func(syncengine.AccessStats) syncengine.Priority { asked <- "mine"; return syncengine.PriorityHigh }
	dir := cfg.Dir
	given := &cfg
	e := openInput(t, *given)
	lab.NoError(t, "submit", e.Submit(lab.Bounded(t), syncengine.Item{ID: "a", Content: []byte(`1`)}))
	v := reflect.ValueOf(given).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("changed")
		case reflect.Int, reflect.Int64:
			f.SetInt(1)
		case reflect.Uint8:
			f.SetUint(1)
		case reflect.Float64:
			f.SetFloat(1e-9)
		case reflect.Bool:
			f.SetBool(true)
		default:
			f.SetZero()
		}
	}
	content := []byte(`"` + strings.Repeat("x", 900) + `"`)
	lab.NoError(t, "submit", e.Submit(lab.Bounded(t), syncengine.Item{ID: "a", Content: content}))
	select {
	case <-asked:
	default:
		t.Error("PriorityFunc was not asked")
	}
	rdb := lab.RedisAt(t, redisURL)
	raw, err := rdb.Get(lab.Bounded(t), prefix+"a").Bytes()
	lab.NoError(t, "get from Redis", err)
	if rec, err := lab.DecodeEnvelope("a", raw); err != nil || !bytes.Equal(rec.Content, content) || rec.Priority != syncengine.PriorityHigh {
		t.Errorf("in Redis under the first prefix: %+v, %v", rec, err)
	}
	rec, err := lab.ArchiveAt(t, "sqlite:"+filepath.Join(dir, "archive.db")).Get(lab.Bounded(t), "a")
	if err != nil || !bytes.Equal(rec.Content, content) {
		t.Errorf("in the first archive: %v", err)
	}
	if l := e.Backpressure(); l != syncengine.LevelNormal {
		t.Errorf("level %v after the thresholds changed", l)
	}
}

// What follows listens for a password.

// canaryPassword has every character that URL parsers trip over. The word stands between
// any two, so that any part that is shown is heard.
const canaryPassword = lab.CanaryWord + "@" + lab.CanaryWord + ":" + lab.CanaryWord + "/" + lab.CanaryWord + "?" + lab.CanaryWord + "#" + lab.CanaryWord + "%" + lab.CanaryWord

// listener collects everything an engine says.
type listener struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
	reg  *prometheus.Registry
}

func (l *listener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// line returns the first line so far that has a text in it.
func (l *listener) line(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.SplitSeq(l.text.String(), "\n") {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

// note writes down v in every form a program may print it in.
func (l *listener) note(what string, v any) {
	fmt.Fprintf(l, "%s: %v | %+v | %#v\n", what, v, v, v)
}

// noteErr is note for errors, the whole chain.
func (l *listener) noteErr(what string, err error) {
	fmt.Fprintf(l, "%s: %v | %+v\n", what, err, err)
}

// config adds the listener to a config at every place where an engine speaks.
func (l *listener) config(cfg syncengine.Config) syncengine.Config {
	l.reg = prometheus.NewRegistry()
	cfg.Registerer = l.reg
	cfg.Logger = slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
	cfg.PriorityFunc = func(s syncengine.AccessStats) syncengine.Priority { panic(fmt.Sprintf("priority of %+v", s)) }
	cfg.OnEvent = syncengine.Events{
		StateChanged:        func(from, to syncengine.State) { l.note("state", []any{from, to}) },
		BackpressureChanged: func(from, to syncengine.BackpressureLevel) { l.note("level", []any{from, to}) },
		CircuitChanged:      func(tier, from, to string) { l.note("circuit", []any{tier, from, to}) },
		L3Outage:            func(down bool, cause error) { l.noteErr(fmt.Sprint("L3 outage ", down), cause) },
		L2Outage:            func(down bool, cause error) { l.noteErr(fmt.Sprint("L2 outage ", down), cause) },
		Quarantined:         func(op syncengine.QuarantinedOp) { l.note("quarantined", op) },
		Corrupted:           func(err *syncengine.CorruptionError) { l.noteErr("corrupted", err) },
		Verified:            func(r syncengine.VerifyReport) { l.note("verified", r) },
		Flushed:             func(b syncengine.FlushedBatch) { l.noteErr("flushed", b.Err) },
	}
	return cfg
}

// use does everything with an engine that may make it speak.
func (l *listener) use(t testing.TB, e *syncengine.Engine) {
	t.Helper()
	ctx := lab.Bounded(t)
	content := []byte(`{"a":1}`)
	l.noteErr("submit", e.Submit(ctx, syncengine.Item{ID: "a", Content: content}))
	l.noteErr("submit again", e.Submit(ctx, syncengine.Item{ID: "a", Content: content})) // PriorityFunc panics
	l.noteErr("flush", e.Flush(ctx))
	_, err := e.Get(ctx, "absent")
	l.noteErr("get", err)
	_, err = e.GetMany(ctx, []string{"a", "absent", "b"})
	l.noteErr("get many", err)
	_, err = e.GetOrInsertWith(ctx, "made", func(context.Context) (syncengine.Item, error) { panic("factory") })
	l.noteErr("factory", err)
	status, err := e.Status(ctx, "a")
	l.note("status", status)
	l.noteErr("status", err)
	report, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true})
	l.note("verify", report)
	l.noteErr("verify", err)
	_, err = e.MerkleRoot(ctx)
	l.noteErr("root", err)
	ops, err := e.Quarantined(ctx)
	l.note("quarantined", ops)
	l.noteErr("quarantined", err)
	l.note("health", e.Health(ctx))
	l.note("stats", e.Stats())
	l.noteErr("delete", e.Delete(ctx, "a"))
	families, err := l.reg.Gather()
	l.noteErr("gather", err)
	for _, f := range families {
		fmt.Fprintln(l, f.String())
	}
}

// run opens an engine, uses it, closes it, and returns Open's error.
func (l *listener) run(t testing.TB, cfg syncengine.Config) error {
	t.Helper()
	e, err := syncengine.Open(lab.Bounded(t), l.config(cfg))
	l.noteErr("open", err)
	if err != nil {
		return err
	}
	l.use(t, e)
	l.noteErr("close", e.Close())
	l.note("closed health", e.Health(lab.Bounded(t)))
	return nil
}

// silent asserts that none of the words was heard, nor lies in a file of the engine, and
// that anything was heard at all.
func (l *listener) silent(t testing.TB, dir string, words ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() == 0 {
		t.Error("nothing was heard")
	}
	texts := map[string]string{"what was said": l.text.String(), "what go-redis logged": lab.GoRedisLog.String()}
	files, err := os.ReadDir(dir)
	lab.NoError(t, "read dir", err)
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		lab.NoError(t, "read", err)
		texts["file "+f.Name()] = string(b)
	}
	for where, text := range texts {
		for _, word := range words {
			if at := strings.Index(text, word); at >= 0 {
				t.Errorf("%s holds the password: …%s…", where, text[max(0, at-200):min(len(text), at+200)])
			}
		}
	}
}

// canaryMaria makes an account with the canary's password on the shared MariaDB and
// returns URLs of a new database for it: percent-encoded, and raw.
func canaryMaria(t testing.TB) (encoded, raw string) {
	t.Helper()
	base := testserver.SharedMariaDB(t).NewDatabase(t)
	db := testserver.OpenSQL(t, base)
	for _, stmt := range []string{
		"CREATE USER IF NOT EXISTS 'bird'@'%' IDENTIFIED BY '" + canaryPassword + "'", "GRANT ALL ON *.* TO 'bird'@'%'",
	} {
		_, err := db.ExecContext(lab.Bounded(t), stmt)
		lab.NoError(t, "account", err)
	}
	u, err := url.Parse(base)
	lab.NoError(t, "parse", err)
	u.User = url.UserPassword("bird", canaryPassword)
	return u.String(), "mysql://bird:" + canaryPassword + "@" + u.Host + u.Path
}

func redisURL(addr, password string) string {
	u := url.URL{Scheme: "redis", Host: addr, User: url.UserPassword("", password)}
	return u.String()
}

// unused is an address at which nobody listens.
func unused(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	lab.NoError(t, "listen", err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestINV13ThePasswordWorksAndIsNeverShown(t *testing.T) {
	encoded, raw := canaryMaria(t)
	rdb := testserver.Redis(t, "--requirepass", canaryPassword)
	for name, sqlURL := range map[string]string{"encoded": encoded, "raw": raw} {
		t.Run(name, func(t *testing.T) {
			var l listener
			cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: sqlURL, RedisURL: redisURL(rdb.Addr(), canaryPassword), KeyPrefix: lab.NewPrefix()}
			lab.NoError(t, "open", l.run(t, cfg))
			for _, want := range []string{"OK:true", "sync_engine_operations_total", "PriorityFunc panicked", "factory panicked", "running", "close: <nil>"} {
				if !strings.Contains(l.text.String(), want) {
					t.Errorf("%q was not heard: the test does not listen well", want)
				}
			}
			if strings.Contains(l.text.String(), "OK:false Latency") && strings.Contains(l.text.String(), "Configured:true OK:false") {
				t.Errorf("a server was not reached with its password")
			}
			l.silent(t, cfg.Dir, lab.CanaryWord)
		})
	}
	t.Run("of testserver", func(t *testing.T) {
		var l listener
		base := testserver.SharedMariaDB(t).NewDatabase(t)
		u, err := url.Parse(base)
		lab.NoError(t, "parse", err)
		password, _ := u.User.Password()
		cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: base}
		lab.NoError(t, "open", l.run(t, cfg))
		l.silent(t, cfg.Dir, password, strings.TrimPrefix(u.User.String(), u.User.Username()+":"), "w/o?", "w%2Fo")
	})
}

func TestINV13APasswordIsNotShownWhenServersAreAway(t *testing.T) {
	var l listener
	cfg := syncengine.Config{
		Dir: t.TempDir(), CloseTimeout: time.Second, L3Timeout: time.Second,
		SQLURL:   "mysql://bird:" + canaryPassword + "@" + unused(t) + "/db",
		RedisURL: redisURL(unused(t), canaryPassword),
	}
	lab.NoError(t, "open", l.run(t, cfg))
	for _, want := range []string{"refused", "L3 takes no writes", "OK:false", "close: syncengine: closed with"} {
		if !strings.Contains(l.text.String(), want) {
			t.Errorf("%q was not heard", want)
		}
	}
	l.silent(t, cfg.Dir, lab.CanaryWord)
}

func TestINV13APasswordIsNotShownWhenItIsWrong(t *testing.T) {
	maria := testserver.SharedMariaDB(t)
	base, err := url.Parse(maria.NewDatabase(t))
	lab.NoError(t, "parse", err)
	open := testserver.SharedRedis(t)
	closed := testserver.Redis(t, "--requirepass", "another")
	for name, cfg := range map[string]syncengine.Config{
		"MariaDB":                      {SQLURL: "mysql://" + base.User.Username() + ":" + url.QueryEscape(canaryPassword) + "@" + base.Host + base.Path},
		"MariaDB, raw":                 {SQLURL: "mysql://" + base.User.Username() + ":" + canaryPassword + "@" + base.Host + base.Path},
		"MariaDB, database":            {SQLURL: "mysql://" + base.User.String() + "@" + base.Host + "/missing"},
		"Redis":                        {RedisURL: redisURL(closed.Addr(), canaryPassword)},
		"Redis, user":                  {RedisURL: "redis://bird:" + url.QueryEscape(canaryPassword) + "@" + closed.Addr()},
		"Redis that needs none":        {RedisURL: redisURL(open.Addr(), canaryPassword)},
		"Redis that needs none, user":  {RedisURL: "redis://bird:" + url.QueryEscape(canaryPassword) + "@" + open.Addr()},
		"Redis, Cluster that is none":  {RedisURL: redisURL(closed.Addr(), canaryPassword) + "?cluster=true"},
		"Redis, sentinel that is none": {RedisURL: redisURL(closed.Addr(), canaryPassword) + "?master_name=m&sentinel_password=" + url.QueryEscape(canaryPassword)},
		"Redis, database":              {RedisURL: redisURL(open.Addr(), canaryPassword) + "/99"},
		"Redis that quotes":            {RedisURL: redisURL(quotingServer(t), canaryPassword)},
	} {
		t.Run(name, func(t *testing.T) {
			var l listener
			cfg.Dir, cfg.KeyPrefix = t.TempDir(), lab.NewPrefix()
			err := l.run(t, cfg)
			// Of what Redis says, a wrong password is an error, too.
			refused := slices.Contains([]string{"Redis", "Redis, user", "Redis that needs none, user", "Redis, Cluster that is none"}, name)
			if (cfg.SQLURL != "" || refused) != (err != nil) || refused && !errors.Is(err, syncengine.ErrSetup) {
				t.Errorf("open: %v", err)
			}
			if err != nil && errors.Is(err, syncengine.ErrUnavailable) {
				t.Errorf("a wrong password is taken for an outage: %v", err)
			}
			l.silent(t, cfg.Dir, lab.CanaryWord)
		})
	}
}

// quotingServer answers every command with an error that quotes it, as a server does that
// knows neither HELLO nor AUTH.
func quotingServer(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	lab.NoError(t, "listen", err)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards conns
	var conns []net.Conn
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				quoteAll(conn)
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func quoteAll(conn net.Conn) {
	in := bufio.NewReader(conn)
	for {
		var n int
		if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
			return
		}
		var words []string
		for range n {
			var size int
			if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
				return
			}
			word := make([]byte, size+2)
			for at := 0; at < len(word); {
				k, err := in.Read(word[at:])
				if err != nil {
					return
				}
				at += k
			}
			words = append(words, "'"+string(word[:size])+"'")
		}
		if _, err := fmt.Fprintf(conn, "-ERR unknown command %s, with args beginning with: %s\r\n", words[0], strings.Join(words[1:], " ")); err != nil {
			return
		}
	}
}

// oddPasswords are spellings of a password in a URL, right and wrong ones.
func oddPasswords() []string {
	return []string{
		canaryPassword, strings.ReplaceAll(url.QueryEscape(canaryPassword), "+", "%20"), lab.CanaryWord, lab.CanaryWord + "%", "%zz" + lab.CanaryWord,
		lab.CanaryWord + "\x00", lab.CanaryWord + " " + lab.CanaryWord, "[" + lab.CanaryWord, lab.CanaryWord + ",x", lab.CanaryWord + "&" + lab.CanaryWord, lab.CanaryWord + ";" + lab.CanaryWord,
	}
}

// What is wrong with a URL is said, and nothing of the password is shown: where it
// belongs, and in options named after it.
func TestINV13APasswordInABadURLIsNotShown(t *testing.T) {
	var urls []string
	for _, pass := range oddPasswords() {
		for _, u := range []string{
			"bird:PASS@h:99999/db", "bird:PASS@h", "bird:PASS@/db", "bird:PASS@h:x/db", "bird:PASS@h/db?unknown=1", "bird:PASS@h/db?tls=no", "bird:PASS@h/db#f",
			":PASS@h:0/db", "bird:PASS@[::1/db", "bird:PASS@a b/db", "bird:PASS@@h:0/db", "bird:PASS@", "bird:PASS@h1,h2:0/3", "bird:PASS@tcp(h:0)/db",
			"bird:PASS@h/db/x", "bird:PASS@h/\x00", "bird:PASS@%zz/db",
		} {
			urls = append(urls, strings.ReplaceAll(u, "PASS", pass))
		}
	}
	escaped := url.QueryEscape(canaryPassword)
	urls = append(urls, "h/db?password="+escaped, "h:6379?password="+escaped, "h?sentinel_password="+escaped, "h?x=1&password="+escaped+"&y", "h?PASSWORD="+escaped)
	for _, scheme := range []string{"mysql://", "mysql:", "mysql:/", "redis://", "rediss://", "redis:", "http://", "postgres://", "", "//", "\x00", " mysql://", " redis://"} {
		t.Run(scheme, func(t *testing.T) {
			for _, field := range []string{"SQLURL", "RedisURL"} {
				for _, u := range urls {
					wantSilentRefusal(t, field, scheme+u)
				}
			}
		})
	}
}

// A host that was forgotten makes the password look like a port, or like a host.
func TestINV13APasswordWithoutAHostIsNotShown(t *testing.T) {
	for _, scheme := range []string{"mysql://", "redis://", "rediss://", "postgres://"} {
		for _, field := range []string{"SQLURL", "RedisURL"} {
			t.Run(field+" "+scheme, func(t *testing.T) {
				for _, pass := range oddPasswords() {
					for _, u := range []string{"bird:PASS", ":PASS", "bird:PASS/db", "bird:PASS/0"} {
						wantSilentRefusal(t, field, scheme+strings.ReplaceAll(u, "PASS", pass))
					}
				}
			})
		}
	}
}

// wantSilentRefusal opens with u as the field. Another fault of the config keeps Open from
// connecting where u is accepted.
func wantSilentRefusal(t *testing.T, field, u string) {
	t.Helper()
	if t.Failed() {
		return // one is enough to see
	}
	cfg := syncengine.Config{Dir: os.TempDir(), L1MaxBytes: -1}
	reflect.ValueOf(&cfg).Elem().FieldByName(field).SetString(u)
	_, err := syncengine.Open(context.Background(), cfg)
	if err == nil {
		t.Fatal("accepted")
	}
	if text := fmt.Sprintf("%v %+v", err, err); strings.Contains(text, lab.CanaryWord) {
		t.Errorf("%s %q: the error shows the password: %v", field, u, err)
	}
}

// Redis clients of the caller's own: the engine knows no more than the client.
func TestACallersOwnHandlesWorkAndStayOpen(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: testserver.SharedRedis(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	db := lab.OpenDriver(t, "mysql", testserver.DSN(t, testserver.SharedMariaDB(t).NewDatabase(t)))
	cfg := inputConfig(t)
	cfg.Redis, cfg.DB, cfg.Dialect, cfg.KeyPrefix = rdb, db, syncengine.DialectMySQL, lab.NewPrefix()
	e, err := syncengine.Open(lab.Bounded(t), cfg)
	lab.NoError(t, "open", err)
	lab.NoError(t, "submit", e.Submit(lab.Bounded(t), syncengine.Item{ID: "a", Content: []byte(`1`)}))
	lab.NoError(t, "close", e.Close())
	lab.NoError(t, "ping Redis", rdb.Ping(lab.Bounded(t)).Err())
	lab.NoError(t, "ping MariaDB", db.PingContext(lab.Bounded(t)))
	lab.WantRows(t, db, 1)
}
