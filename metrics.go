package syncengine

// metrics.go exports the engine to Prometheus. Gauges and counters that the engine keeps
// anyway are read at scrape time (engineCollector); the rest are vectors with labels of a
// few fixed values, never an id. All series are there from the start, so that a rate or an alert
// need not wait for the first event.
//
// A Get that memory answers, or that the filter denies at once, is counted and not timed: to read
// the clock twice takes some 110 ns, longer than such a Get on a small set (BenchmarkMetrics).

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const metricPrefix = "sync_engine_"

// metrics are the vectors. A nil *metrics counts nothing.
type metrics struct {
	reg         prometheus.Registerer
	operations  *prometheus.CounterVec   // tier, operation, status
	seconds     *prometheus.HistogramVec // tier, operation
	batchSize   prometheus.Histogram
	batchBytes  prometheus.Histogram
	corruptions *prometheus.CounterVec // tier
	divergence  prometheus.Gauge
	gets        [len(answerers)]prometheus.Observer
	submits     [len(writeKinds)]prometheus.Observer

	pushLag       prometheus.Histogram
	verifySeconds *prometheus.HistogramVec // status
	all           []prometheus.Collector
}

// newMetrics registers all metrics, or none and returns why. stats and circuit are called
// at scrape time.
func newMetrics(reg prometheus.Registerer, stats func() Stats, circuit func(tier string) string, retries func() uint64) (*metrics, error) {
	if reg == nil {
		return nil, nil
	}
	m := &metrics{
		reg: reg,
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricPrefix + "operations_total",
			Help: "Calls to a tier by outcome."}, []string{"tier", "operation", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: metricPrefix + "operation_seconds",
			Help: "Duration of calls to a tier.", Buckets: prometheus.ExponentialBuckets(50e-6, 4, 10)}, []string{"tier", "operation"}),
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricPrefix + "batch_size",
			Help: "Ops per flushed batch.", Buckets: prometheus.ExponentialBuckets(1, 4, 9)}),
		batchBytes: prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricPrefix + "batch_bytes",
			Help: "Bytes per flushed batch.", Buckets: prometheus.ExponentialBuckets(256, 4, 10)}),
		corruptions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricPrefix + "corruption_detected_total",
			Help: "Copies that did not match their hash."}, []string{"tier"}),
		divergence: prometheus.NewGauge(prometheus.GaugeOpts{Name: metricPrefix + "merkle_divergent_ids",
			Help: "Ids in which L2 differed from L3 at the last verification."}),
		pushLag: prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricPrefix + "push_lag_seconds",
			Help: "From an announcement of another engine to its receipt, by SQL's clock.", Buckets: prometheus.ExponentialBuckets(250e-6, 4, 8)}),
		verifySeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: metricPrefix + "verify_seconds",
			Help: "Duration of verifications.", Buckets: prometheus.ExponentialBuckets(1e-3, 4, 10)}, []string{"status"}),
	}
	gets := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: metricPrefix + "get_seconds",
		Help: "Duration of a Get that memory did not answer at once, by what answered.", Buckets: prometheus.ExponentialBuckets(1e-6, 4, 12)}, []string{"tier"})
	submits := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: metricPrefix + "submit_seconds",
		Help: "Duration of a write that succeeded.", Buckets: prometheus.ExponentialBuckets(1e-6, 4, 12)}, []string{"durability"})
	for i, name := range answerers {
		m.gets[i] = gets.WithLabelValues(name)
	}
	for i, name := range writeKinds {
		m.submits[i] = submits.WithLabelValues(name)
	}
	m.begin()
	m.all = []prometheus.Collector{m.operations, m.seconds, m.batchSize, m.batchBytes, m.corruptions, m.divergence, m.pushLag, m.verifySeconds, gets, submits,
		newEngineCollector(stats, circuit, retries)}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			for _, done := range m.all[:i] {
				reg.Unregister(done)
			}
			return nil, errors.Join(&ConfigError{Field: "Registerer", Value: "(set)",
				Rule: "must accept the engine's metrics; give each engine of a process its own labels with prometheus.WrapRegistererWith"}, says(err))
		}
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

// call counts one call to a tier.
func (m *metrics) call(tier, op string, start time.Time, err error) {
	if m == nil {
		return
	}
	m.operations.WithLabelValues(tier, op, statusOf(err)).Inc()
	m.seconds.WithLabelValues(tier, op).Observe(time.Since(start).Seconds())
}

// operations are the calls to each tier.
var operations = map[string][]string{
	"l2": {"claim", "digest", "evicts", "explain", "get", "get_many", "leaves", "place", "promote", "publish", "put", "remove", "repair", "rights", "scan", "status"},
	"l3": {"apply", "apply_if", "beat", "compact", "digest", "evict", "expired", "explain", "get", "get_many", "heads", "heal", "join", "landed", "leave",
		"leaves", "list", "log", "members", "purge", "rebuild", "recount", "scan", "status", "warmup"},
}

// begin makes all series.
func (m *metrics) begin() {
	for tier, ops := range operations {
		for _, op := range ops {
			m.seconds.WithLabelValues(tier, op)
			for _, status := range statuses {
				m.operations.WithLabelValues(tier, op, status)
			}
		}
	}
	for _, tier := range [...]string{"L1", "L2", "L3", "WAL"} {
		m.corruptions.WithLabelValues(tier)
	}
	for _, status := range statuses {
		m.verifySeconds.WithLabelValues(status)
	}
}

// answerer is who answered a Get.
type answerer uint8

const (
	byNone answerer = iota // nobody could
	byL1                   // memory, though not at once
	byWAL
	byFilter
	byL2
	byL3
)

var answerers = [...]string{byNone: "none", byL1: "l1", byWAL: "wal", byFilter: "filter", byL2: "l2", byL3: "l3"}

func (m *metrics) got(by answerer, start time.Time, err error) {
	if m == nil {
		return
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		by = byNone
	}
	m.gets[by].Observe(time.Since(start).Seconds())
}

// writeKinds are the durabilities, and writes with a condition, which are decided in L3 where that
// is shared.
var writeKinds = [...]string{Buffered - 1: "buffered", Logged - 1: "logged", Archived - 1: "archived", Archived: "condition"}

func (m *metrics) wrote(d Durability, conditional bool, start time.Time, err error) {
	if m == nil || err != nil {
		return
	}
	if conditional {
		d = Archived + 1
	}
	m.submits[d-1].Observe(time.Since(start).Seconds())
}

var statuses = [...]string{"ok", "not_found", "corrupt", "refused", "unavailable", "error"}

// statusOf is the status label of an outcome.
func statusOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrNotFound):
		return "not_found"
	case errors.Is(err, ErrCorruption):
		return "corrupt"
	case errors.Is(err, ErrRefused):
		return "refused"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	}
	return "error"
}

func (m *metrics) batch(ops int, bytes int64) {
	if m == nil {
		return
	}
	m.batchSize.Observe(float64(ops))
	m.batchBytes.Observe(float64(bytes))
}

func (m *metrics) heard(lag time.Duration) {
	if m != nil {
		m.pushLag.Observe(lag.Seconds())
	}
}

func (m *metrics) corruption(tier string) {
	if m != nil {
		m.corruptions.WithLabelValues(tier).Inc()
	}
}

func (m *metrics) verified(took time.Duration, divergent int, err error) {
	if m == nil {
		return
	}
	m.verifySeconds.WithLabelValues(statusOf(err)).Observe(took.Seconds())
	if err == nil {
		m.divergence.Set(float64(divergent))
	}
}

// engineCollector reads the engine at scrape time.
type engineCollector struct {
	stats   func() Stats
	values  []scraped
	hits    *prometheus.Desc
	circuit *prometheus.Desc
	state   func(tier string) string
	retries func() uint64
	retried *prometheus.Desc
}

// scraped is one value of Stats.
type scraped struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	get  func(*Stats) float64
}

func newEngineCollector(stats func() Stats, circuit func(string) string, retries func() uint64) *engineCollector {
	c := &engineCollector{
		stats: stats, state: circuit, retries: retries,
		hits:    prometheus.NewDesc(metricPrefix+"reads_total", "Reads by the tier that was asked.", []string{"tier", "result"}, nil),
		circuit: prometheus.NewDesc(metricPrefix+"circuit_state", "0 closed, 1 half-open, 2 open.", []string{"tier"}, nil),
		retried: prometheus.NewDesc(metricPrefix+"retries_total", "Calls to L3 that were repeated.", nil, nil),
	}
	add := func(name, help string, kind prometheus.ValueType, get func(*Stats) float64) {
		c.values = append(c.values, scraped{prometheus.NewDesc(metricPrefix+name, help, nil, nil), kind, get})
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	add("l1_items", "Items in memory.", gauge, func(s *Stats) float64 { return float64(s.L1Items) })
	add("l1_bytes", "Bytes of L1 and the queue.", gauge, func(s *Stats) float64 { return float64(s.L1Bytes) })
	add("pending_ops", "Ops accepted and not yet in L3.", gauge, func(s *Stats) float64 { return float64(s.PendingOps) })
	add("oldest_pending_seconds", "Age of the oldest pending op.", gauge, func(s *Stats) float64 { return s.OldestPending.Seconds() })
	add("wal_items", "Ops in the WAL.", gauge, func(s *Stats) float64 { return float64(s.WALItems) })
	add("wal_bytes", "Bytes of ops in the WAL.", gauge, func(s *Stats) float64 { return float64(s.WALBytes) })
	add("wal_drained_total", "Ops flushed after they were read back from the WAL.", counter, func(s *Stats) float64 { return float64(s.DrainedOps) })
	add("flushed_ops_total", "Ops that reached L3.", counter, func(s *Stats) float64 { return float64(s.FlushedOps) })
	add("filter_entries", "Ids in the filter, an estimate: each delete lowers it, until the filter is built anew.", gauge, func(s *Stats) float64 { return float64(s.FilterEntries) })
	add("filter_trusted", "1 when the filter may deny.", gauge, func(s *Stats) float64 { return b2f(s.FilterTrusted) })
	add("evictions_total", "Entries evicted from L1.", counter, func(s *Stats) float64 { return float64(s.Evictions) })
	add("memory_pressure", "See Engine.MemoryPressure.", gauge, func(s *Stats) float64 { return s.Pressure })
	add("backpressure_level", "0 normal to 5 shutdown.", gauge, func(s *Stats) float64 { return float64(s.Level) })
	add("quarantined_ops", "Ops that L3 refuses.", gauge, func(s *Stats) float64 { return float64(s.Quarantined) })
	add("expired_items_total", "Items purged from SQL by this engine, their time being past.", counter, func(s *Stats) float64 { return float64(s.Expired) })
	add("superseded_ops_total", "Accepted ops that lost to a later one of another engine.", counter, func(s *Stats) float64 { return float64(s.Superseded) })
	add("healed_total", "Corrupt copies that were replaced.", counter, func(s *Stats) float64 { return float64(s.Healed) })
	add("push_told_ids_total", "Ids announced to other engines.", counter, func(s *Stats) float64 { return float64(s.PushTold) })
	add("push_untold_ids_total", "Ids that could not be announced.", counter, func(s *Stats) float64 { return float64(s.PushUntold) })
	add("push_heard_ids_total", "Ids that other engines have announced.", counter, func(s *Stats) float64 { return float64(s.PushHeard) })
	add("state", "0 created to 8 closed.", gauge, func(s *Stats) float64 { return float64(s.State) })
	add("l1_pinned_bytes", "The part of l1_bytes that can't be evicted.", gauge, func(s *Stats) float64 { return float64(s.L1Pinned) })
	add("spooled_ops", "The part of pending_ops that is in the WAL only.", gauge, func(s *Stats) float64 { return float64(s.SpooledOps) })
	add("flush_batches_total", "Batches that landed.", counter, func(s *Stats) float64 { return float64(s.FlushBatches) })
	add("flush_errors_total", "Batches that failed and went back.", counter, func(s *Stats) float64 { return float64(s.FlushErrors) })
	add("l3_down", "1 while what is to be written to L3 waits.", gauge, func(s *Stats) float64 { return b2f(s.L3Down) })
	add("push_listens", "1 while this engine hears the others.", gauge, func(s *Stats) float64 { return b2f(s.PushListens) })
	add("push_pending_ids", "Ids that other engines are still to be told of.", gauge, func(s *Stats) float64 { return float64(s.PushPending) })
	add("l2_doubted_ids", "Ids that other engines have written, of which L2 is not yet said to have that.", gauge, func(s *Stats) float64 { return float64(s.L2Doubted) })
	add("l2_missed_ids", "Ids not read from L2 until repaired; -1 is all.", gauge, func(s *Stats) float64 { return float64(s.L2Missed) })
	return c
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (c *engineCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range c.values {
		ch <- v.desc
	}
	ch <- c.hits
	ch <- c.circuit
	ch <- c.retried
}

// Collect implements prometheus.Collector.
func (c *engineCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for _, v := range c.values {
		ch <- prometheus.MustNewConstMetric(v.desc, v.kind, v.get(&s))
	}
	for _, r := range [...]struct {
		tier         string
		hits, misses uint64
	}{{"l1", s.L1Hits, s.L1Misses}, {"l2", s.L2Hits, s.L2Misses}, {"l3", s.L3Hits, s.L3Misses}} {
		ch <- prometheus.MustNewConstMetric(c.hits, prometheus.CounterValue, float64(r.hits), r.tier, "hit")
		ch <- prometheus.MustNewConstMetric(c.hits, prometheus.CounterValue, float64(r.misses), r.tier, "miss")
	}
	for _, tier := range [...]string{"l2", "l3"} {
		ch <- prometheus.MustNewConstMetric(c.circuit, prometheus.GaugeValue, circuitNumber(c.state(tier)), tier)
	}
	ch <- prometheus.MustNewConstMetric(c.retried, prometheus.CounterValue, float64(c.retries()))
}

func circuitNumber(state string) float64 {
	switch state {
	case "half-open":
		return 1
	case "open":
		return 2
	}
	return 0
}
