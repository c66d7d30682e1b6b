package syncengine

// explain.go tells what every tier knows of an id, and what a read of it would do, without doing
// it. The decisions are those that reads take (read.go): the same functions, asked here.

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/syncengine-go/syncengine/internal/digest"
)

// TierState is what one tier said of an id.
type TierState string

// The states of a TierCopy.
const (
	TierOff       TierState = "off"       // there is no such tier
	TierAbsent    TierState = "absent"    // it has nothing of the id
	TierLive      TierState = "live"      // it has an item
	TierTombstone TierState = "tombstone" // it remembers that the item was deleted
	TierExpired   TierState = "expired"   // it has an item whose ExpiresAt is past: it is not there
	TierError     TierState = "error"     // it could not be asked, or what it has can't be read
)

// TierCopy is what one tier holds of an id.
type TierCopy struct {
	State       TierState `json:"state"`
	Version     uint64    `json:"version,string,omitempty"` // text in JSON: many readers round such numbers
	ContentHash string    `json:"content_hash,omitempty"`   // hex SHA-256; of live copies
	Bytes       int       `json:"bytes,omitempty"`          // length of the content
	UpdatedAt   time.Time `json:"updated_at,omitzero"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	Error       string    `json:"error,omitempty"` // may name hosts: for operators only
}

// ReadSource is where the answer of a read comes from.
type ReadSource string

// The sources of an Explanation.
const (
	SourceNone   ReadSource = ""       // there is no answer: see Explanation.Outcome
	SourceMemory ReadSource = "memory" // L1
	SourceFilter ReadSource = "filter" // it denies the id
	SourceWAL    ReadSource = "wal"    // an op that waits there, spooled or in quarantine
	SourceL2     ReadSource = "l2"
	SourceL3     ReadSource = "l3"
)

// ReadOutcome is what a read would answer.
type ReadOutcome string

// The outcomes of an Explanation.
const (
	OutcomeFound       ReadOutcome = "found"
	OutcomeNotFound    ReadOutcome = "not_found"   // ErrNotFound
	OutcomeUnavailable ReadOutcome = "unavailable" // ErrUnavailable: nobody who could answer can be asked
	OutcomeCorrupt     ReadOutcome = "corrupt"     // ErrCorruption, unless another tier has a sound copy
	OutcomeRefused     ReadOutcome = "refused"     // ErrBackpressure
	OutcomeWaits       ReadOutcome = "waits"       // until L3 has taken merges of the item; then it is what L3 says
)

// Explanation is what is known of one id at one moment, and what a Get of it would do. As JSON it
// fits an endpoint for operators. It never holds content.
type Explanation struct {
	ID string `json:"id"`
	// Verdict says in one line what a Get would do now, and why.
	Verdict string      `json:"verdict"`
	Source  ReadSource  `json:"source"`
	Outcome ReadOutcome `json:"outcome"`

	L1 TierCopy `json:"l1"`
	L2 TierCopy `json:"l2"`
	L3 TierCopy `json:"l3"`

	// Of the copy in L1: the time since it was written, or last compared with the tiers below, to
	// 100 ms; and whether it may be served without asking them.
	L1Age   time.Duration `json:"l1_age_ns,omitempty"`
	L1Fresh bool          `json:"l1_fresh,omitempty"`
	// L2Owed: Redis has missed a write of this id, or is not known to have all of them. It is not
	// read for this id until that is repaired.
	L2Owed bool `json:"l2_owed,omitempty"`
	// Circuit breakers: "closed", "half-open" or "open"; empty for a tier that is off.
	L2Circuit string `json:"l2_circuit,omitempty"`
	L3Circuit string `json:"l3_circuit,omitempty"`

	Pending  bool `json:"pending,omitempty"`   // an op of this id is on its way to L3; not one in quarantine
	InFlight bool `json:"in_flight,omitempty"` // one is in a batch that is being written to L3
	Spooled  bool `json:"spooled,omitempty"`   // one lives in the WAL alone
	// Ops of this id in quarantine that count, and such as L3 holds something later of.
	Quarantined int    `json:"quarantined,omitempty"`
	Superseded  int    `json:"superseded,omitempty"`
	Refusal     string `json:"refusal,omitempty"` // L3's words about the newest of them
	// WALError: the WAL file could not be asked for what waits there.
	WALError string `json:"wal_error,omitempty"`

	FilterTrusted bool `json:"filter_trusted"`
	// FilterMayContain is of L3: false means that L3 surely has no item of this id. One that is
	// pending there may be all the same.
	FilterMayContain bool `json:"filter_may_contain"`
	Branch           int  `json:"branch"` // of the digest, that the id belongs to

	// Of the newest copy or op that was seen.
	HomeInstanceID string `json:"home_instance_id,omitempty"`
	CRDT           string `json:"crdt,omitempty"`
	MergesWait     bool   `json:"merges_wait,omitempty"` // merges of the item are not yet in L3
}

// String returns Verdict.
func (x Explanation) String() string { return x.Verdict }

// look is what a read would find.
type look struct {
	ent       *entry // in L1; nil: nothing
	waiting   *entry // in the WAL; nil: nothing
	askL3     bool
	walErr    error
	l2, l3    Record
	l2Err     error
	l3Err     error
	merged    Record // with the merges that wait
	known     bool   // merged is known
	merging   bool
	refusal   error // of pressure
	denied    bool
	absent    bool
	freshness freshness
}

func (d *reader) Explain(ctx context.Context, id string) (x Explanation, err error) {
	if err := checkID(id); err != nil {
		return Explanation{}, err
	}
	if err := d.door.Enter(); err != nil {
		return Explanation{}, err
	}
	defer d.door.Exit(ctx, &err)
	x = Explanation{ID: id, Branch: digest.Branch(id)}
	v := d.lookAt(ctx, id)
	d.describe(&x, v)
	x.Source, x.Outcome, x.Verdict = d.predict(&x, v)
	return x, nil
}

// lookAt asks everybody, and changes nothing. The tiers are asked whatever a read would do.
func (d *reader) lookAt(ctx context.Context, id string) *look {
	v := &look{}
	v.merged, v.known, v.merging = d.queue.View(id)
	if ent, ok := d.l1.Peek(id); ok {
		v.ent, v.freshness = ent, d.freshness(ent)
	}
	v.denied = v.ent == nil && d.Denies(id)
	v.absent = v.ent == nil && d.knowsAbsent(id)
	v.refusal = d.pressure.AdmitRead()
	v.waiting, v.askL3, v.walErr = d.bad.Waiting(ctx, id)
	v.l2Err = ErrNotFound
	if d.cache.On() {
		v.l2, v.l2Err = d.cache.Get(ctx, "explain", id)
	}
	v.l3, v.l3Err = d.archive.GetOnce(ctx, "explain", id)
	return v
}

// describe fills in what is known.
func (d *reader) describe(x *Explanation, v *look) {
	id := x.ID
	x.L1, x.L2, x.L3 = TierCopy{State: TierAbsent}, TierCopy{State: TierOff}, d.copyOf(&v.l3, v.l3Err)
	newest := v.l3
	see := func(r *Record) {
		if newest.Version == 0 || r.Version != 0 && r.Compare(&newest) > 0 {
			newest = *r
		}
	}
	if v.ent != nil {
		rec := v.ent.record()
		see(&rec)
		x.L1, x.L1Age, x.L1Fresh = d.copyOf(&rec, nil), d.l1.Age(v.ent), v.freshness != aged
	}
	if d.cache.On() {
		see(&v.l2)
		x.L2, x.L2Owed, x.L2Circuit = d.copyOf(&v.l2, v.l2Err), !d.cache.MayRead(id), d.cache.State()
	}
	x.L3Circuit = d.archive.State()
	if v.waiting != nil {
		rec := v.waiting.record()
		see(&rec)
	}
	if v.known {
		see(&v.merged)
	}
	_, x.Spooled = d.wal.Spooled(d.l1.Hash(id))
	x.Pending, x.InFlight, x.MergesWait = d.queue.Waits(id), d.queue.InFlight(id), v.merging
	x.Quarantined, x.Superseded, x.Refusal = d.bad.Of(id)
	if v.walErr != nil {
		x.WALError = v.walErr.Error()
	}
	x.FilterTrusted, x.FilterMayContain = d.trust.Trusted(), d.trust.MayContain(id)
	x.HomeInstanceID, x.CRDT = newest.HomeInstanceID, newest.CRDT
	if x.CRDT == "" && v.merging {
		if op := d.queue.NewestOf(id); op != nil {
			x.CRDT = op.kind()
		}
	}
}

// copyOf describes the answer of a tier.
func (d *reader) copyOf(r *Record, err error) TierCopy {
	switch {
	case errors.Is(err, ErrNotFound):
		return TierCopy{State: TierAbsent}
	case err != nil:
		return TierCopy{State: TierError, Error: err.Error()}
	case r.Deleted:
		return TierCopy{State: TierTombstone, Version: r.Version, UpdatedAt: r.UpdatedAt}
	}
	c := TierCopy{State: TierLive, Version: r.Version, ContentHash: hex.EncodeToString(r.ContentHash[:]), Bytes: len(r.Content),
		UpdatedAt: r.UpdatedAt, ExpiresAt: r.ExpiresAt}
	if r.expired(d.now) {
		c.State = TierExpired
	}
	return c
}

// predict goes the way of a Get.
func (d *reader) predict(x *Explanation, v *look) (ReadSource, ReadOutcome, string) {
	if v.ent != nil && d.atOnce(v.ent) {
		return d.fromMemory(x, v)
	}
	if v.denied {
		return SourceFilter, OutcomeNotFound, "not found without I/O: the filter is trusted and denies it"
	}
	if v.absent {
		return SourceMemory, OutcomeNotFound, "not found without I/O: SQL said so less than AbsentFor ago, and nothing was heard of it since"
	}
	if v.refusal != nil {
		return SourceNone, OutcomeRefused, "refused: memory does not have it, and " + v.refusal.Error()
	}
	switch {
	case v.known:
		rec := v.merged
		return d.answered(&rec, SourceMemory, "served from memory, with the merges that wait for SQL", "not found: memory holds a delete, beside the merges that wait for SQL")
	case v.merging && d.archive.Down():
		return SourceNone, OutcomeUnavailable, "unavailable: merges of it wait, nobody here knows what they lead to, and SQL takes no writes"
	case v.merging:
		return SourceNone, OutcomeWaits, "waits until SQL has the merges that wait: nobody here knows what they lead to; then SQL answers"
	case v.ent != nil && v.freshness != aged:
		return d.fromMemory(x, v)
	case v.walErr != nil:
		return SourceNone, OutcomeUnavailable, "fails: the WAL holds an op of it and can't be read: " + v.walErr.Error()
	}
	switch d.way(x.ID, v.ent != nil, v.waiting, v.askL3) {
	case fromWAL:
		rec := v.waiting.record()
		return d.answered(&rec, SourceWAL, "served from the WAL: the op waits there for SQL, and memory did not keep it", "not found: a delete waits in the WAL for SQL")
	case fromDenial:
		return SourceFilter, OutcomeNotFound, "not found without I/O: the filter is trusted and denies it"
	}
	return d.fromTiers(x, v)
}

// fromMemory is the answer of L1.
func (d *reader) fromMemory(x *Explanation, v *look) (ReadSource, ReadOutcome, string) {
	why := "fresh, checked " + ago(d.l1.Age(v.ent)) + " ago"
	if v.freshness == unrivaled {
		why = "no other engine writes; checked " + ago(d.l1.Age(v.ent)) + " ago"
	}
	if v.ent.pinned() {
		why += "; not yet in SQL"
	}
	if x.Quarantined > 0 {
		why += "; SQL has refused an op of it"
	}
	rec := v.ent.record()
	return d.answered(&rec, SourceMemory, "served from memory: "+why, "not found without I/O: memory remembers a delete ("+why+")")
}

// answered is the answer of a record that was found.
func (d *reader) answered(r *Record, from ReadSource, live, deleted string) (ReadSource, ReadOutcome, string) {
	if r.expired(d.now) {
		return from, OutcomeNotFound, "not found: the item expired at " + r.ExpiresAt.Format(time.RFC3339Nano) + "; else " + live
	}
	if r.Deleted {
		return from, OutcomeNotFound, deleted
	}
	return from, OutcomeFound, live
}

// fromTiers is the answer of a read that asks L2 and L3.
func (d *reader) fromTiers(x *Explanation, v *look) (ReadSource, ReadOutcome, string) {
	why := "not in memory"
	switch {
	case v.ent != nil:
		why = "the copy in memory was checked " + ago(x.L1Age) + " ago, and other engines may write"
	case v.waiting != nil && x.Quarantined > 0:
		why = "SQL has refused an op of it, and may hold a later one"
	case v.waiting != nil:
		why = "an op of an earlier engine waits in the WAL, and SQL may hold a later one"
	}
	if d.asksL2(x.ID, v.waiting) {
		if v.l2Err == nil {
			return d.orKnown(v, &v.l2, nil, SourceL2, "asks Redis: "+why, "Redis has it", "Redis remembers a delete")
		}
		why += "; Redis " + l2Words(v.l2Err)
	} else if v.waiting == nil && d.cache.On() {
		why += "; Redis is not read since it is owed writes"
	}
	asks := "asks SQL: " + why
	switch verdictOfL3(v.l3Err, v.waiting) {
	case l3Row:
		if v.waiting != nil && aboveL3(v.waiting, &v.l3) {
			return d.opAnswers(v, asks, "the op is above what SQL has")
		}
		return d.orKnown(v, &v.l3, nil, SourceL3, asks, "SQL has it", "SQL remembers a delete")
	case l3None:
		if v.waiting != nil {
			return d.opAnswers(v, asks, "SQL has nothing")
		}
		return d.orKnown(v, &Record{}, ErrNotFound, SourceL3, asks, "", "SQL has nothing")
	case l3Silent:
		return d.opAnswers(v, asks, "SQL can't be asked, or what it has can't be read")
	case l3Corrupt:
		if v.ent != nil {
			return d.orKnown(v, &v.l3, v.l3Err, SourceNone, asks, "", "")
		}
		return SourceNone, OutcomeCorrupt, asks + "; the row does not match its hash: healed if another tier has a sound copy of its version, else an error"
	}
	if v.ent != nil {
		return d.orKnown(v, &v.l3, v.l3Err, SourceNone, asks, "", "")
	}
	return SourceNone, OutcomeUnavailable, asks + "; unavailable: SQL can't be asked"
}

// orKnown decides between the L1 entry past its age and what a tier said.
func (d *reader) orKnown(v *look, r *Record, err error, from ReadSource, asks, live, none string) (ReadSource, ReadOutcome, string) {
	if v.ent != nil && !outdates(v.ent, r, err) {
		rec := v.ent.record()
		what := "nothing newer there, so memory answers"
		switch {
		case err != nil && d.tooStale(v.ent) && errors.Is(err, ErrCorruption):
			return SourceNone, OutcomeCorrupt, asks + "; the row there does not match its hash, and the copy in memory is older than StaleFor allows"
		case err != nil && d.tooStale(v.ent):
			return SourceNone, OutcomeUnavailable, asks + "; no answer there, and the copy in memory is older than StaleFor allows"
		case err != nil:
			what = "no answer there, so memory answers, and says that it is stale"
		}
		return d.answered(&rec, SourceMemory, asks+"; "+what, asks+"; not found: "+what+" with a delete it remembers")
	}
	if err != nil {
		return from, OutcomeNotFound, asks + "; not found: " + none
	}
	return d.answered(r, from, asks+"; "+live, asks+"; not found: "+none)
}

// opAnswers is the answer of the op that waits in the WAL.
func (d *reader) opAnswers(v *look, asks, why string) (ReadSource, ReadOutcome, string) {
	rec := v.waiting.record()
	return d.answered(&rec, SourceWAL, asks+"; "+why+", so the op in the WAL answers", asks+"; not found: "+why+", and the op in the WAL is a delete")
}

// l2Words tells why L2 gave nothing.
func l2Words(err error) string {
	switch {
	case errors.Is(err, ErrNotFound):
		return "does not have it"
	case errors.Is(err, ErrCorruption):
		return "holds what can't be read"
	}
	return "can't be asked"
}

// ago is an age for people.
func ago(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
}
