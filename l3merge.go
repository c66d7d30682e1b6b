package syncengine

// l3merge.go merges in L3 on SQL (MergingStore). A transaction is that of l3write.go; of the items
// that are merged into it also reads
//
//   - the rows of sync_ops with the keys of the merges: those were applied before, and change
//     nothing (retries, unknown COMMITs, replays of the WAL)
//   - the item's base in sync_ops, whose key is the id and a byte 0: it names merges that
//     compaction has taken the rows of, and the version of the last delete
//   - the state
//
// and then writes the state once, at a version above the one it found, however many merges there
// are, and a row of sync_ops for each, whose ord is a version in between: in that order they were
// applied, and replaying them on the base gives the same bytes again (Rebuild).
//
// A delete counts for all merges up to its version, whichever comes first. A merge that changes
// nothing has no version of its own: it is as old as what it met, and a delete that comes later and
// takes that takes it, too. (Else each state that is submitted again would be a write.)
//
// A delete with a condition takes what the row has, which its caller has seen, and nothing else:
// merges that land later count, be they older. It makes the base an empty snapshot (emptied): the
// rows below stay, so that their merges are not applied again, until compaction has their dots.

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine/internal/dotset"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// itemMerges are the merges of one item, in the order of their dots.
type itemMerges struct {
	id  string
	ops []*Record
}

// splitMerges separates the merges of a batch.
func splitMerges(recs []Record) (plain []Record, merges []itemMerges) {
	if !slices.ContainsFunc(recs, func(r Record) bool { return isMerge(r.ID) }) {
		return recs, nil
	}
	at := make(map[string]int)
	for i := range recs {
		if !isMerge(recs[i].ID) {
			plain = append(plain, recs[i])
			continue
		}
		id := itemOf(recs[i].ID)
		k, ok := at[id]
		if !ok {
			k = len(merges)
			at[id] = k
			merges = append(merges, itemMerges{id: id})
		}
		merges[k].ops = append(merges[k].ops, &recs[i])
	}
	for _, m := range merges { // a node's numbers have one width in a key
		slices.SortFunc(m.ops, func(a, b *Record) int { return strings.Compare(a.ID, b.ID) })
	}
	return plain, merges
}

func compareVersions(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// plan is what a batch does, merges included. judged tells that conditions were decided, by ids:
// then merges are to be applied whatever is known of their dots, since they are resolved by the
// nonce of their transaction.
func (s *sqlStore) plan(ctx context.Context, tx *sqlkit.Tx, plain []storedRow, merges []itemMerges, heads map[string]lockedHead, judged map[string]bool) (*plan, error) {
	p, err := planOf(plain, merges, heads)
	if err != nil || len(merges)+len(p.late)+len(p.gone) == 0 {
		return p, err
	}
	var seen []string // items whose deletes have a condition
	p.gone = slices.DeleteFunc(p.gone, func(id string) bool {
		if judged[id] {
			seen = append(seen, id)
		}
		return judged[id]
	})
	late := make(map[string]*storedRow, len(p.late))
	for _, r := range p.late {
		late[r.ID] = r
		if !slices.ContainsFunc(merges, func(m itemMerges) bool { return m.id == r.ID }) {
			merges = append(merges, itemMerges{id: r.ID})
		}
	}
	asked := merges
	for _, id := range seen {
		asked = append(asked, itemMerges{id: id})
	}
	if len(asked) == 0 {
		return p, nil
	}
	known, err := s.readMerged(ctx, tx, asked)
	if err != nil {
		return nil, err
	}
	for i := range plain {
		if r := &plain[i]; slices.Contains(seen, r.ID) {
			p.bases = append(p.bases, known[baseKey(r.ID)].emptied(r.ID, r.Version))
			known[baseKey(r.ID)] = p.bases[len(p.bases)-1]
		}
	}
	states, err := s.readStates(ctx, tx, merges, heads)
	if err != nil {
		return nil, err
	}
	covered := make(map[string]*storedRow, len(p.covered))
	for _, r := range p.covered {
		covered[r.ID] = r
	}
	for i := range merges {
		id := merges[i].id
		m := mergingItem{itemMerges: merges[i], known: known, base: known[baseKey(id)], ever: judged != nil}
		m.was, m.exists = heads[id]
		if state, ok := states[id]; ok {
			m.row, err = state.Record, state.Err
		}
		if err != nil {
			if m.row, err = s.rebuild(ctx, tx, id, m.was.Version, err); err != nil {
				return nil, err
			}
		}
		if r := late[id]; r != nil {
			if err := s.cut(ctx, tx, &m, r, p); err != nil {
				return nil, err
			}
		}
		if err := m.merge(ctx, tx, p, covered[id], s); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// mergingItem is an item that is merged into.
type mergingItem struct {
	itemMerges
	was     lockedHead // its row
	exists  bool
	row     Record           // the same with its content, of a live row
	known   map[string]opRow // see readMerged
	base    opRow            // zero: none
	applied dotset.Set       // of base
	ever    bool             // see plan
	cut     *storedRow       // a late delete that was taken out of the state

	// What it is as merges are applied, one after the other.
	live    bool
	state   *merged // nil: it is not live, or plain
	kind    string
	version uint64
	floor   uint64 // merges up to that version don't count
}

// merge adds to a plan what becomes of the item. over is a record that was to be written first.
func (m *mergingItem) merge(ctx context.Context, tx *sqlkit.Tx, p *plan, over *storedRow, s *sqlStore) error {
	if err := m.begin(over, s.clock); err != nil {
		return err
	}
	var ops []*Record // that change something
	for _, op := range m.ops {
		changed, err := m.apply(ctx, tx, p, op)
		if err != nil {
			return err
		}
		if changed {
			ops = append(ops, op)
		}
	}
	switch steps := uint64(max(1, len(ops))); {
	case len(ops) == 0 && m.cut == nil:
		if over != nil { // written after all
			p.write(over, m.exists, &m.was)
			p.covered = slices.DeleteFunc(p.covered, func(r *storedRow) bool { return r == over })
		}
		if m.live {
			m.row.ID = m.id
			p.merged = append(p.merged, m.row)
		}
		return nil
	case m.version+steps > MaxVersion-1:
		return &RefusedError{Err: staleError(&entry{version: m.version}, m.version)}
	case !m.live: // a delete has left nothing
		rec := *m.cut.Record
		rec.Version = m.version + 1
		p.gone, p.merged = append(p.gone, m.id), append(p.merged, rec)
		p.write(&storedRow{Record: &rec}, m.exists, &m.was)
		return nil
	}
	return m.write(p, ops, s)
}

// begin sets what the merges meet.
func (m *mergingItem) begin(over *storedRow, clock func() time.Time) (err error) {
	m.live, m.floor = m.exists && !m.was.gone(), m.base.version
	m.version, m.kind = m.was.Version, m.was.kind
	if m.exists && m.was.gone() && !m.base.empties(m.was.Version) {
		m.floor = m.was.Version
	}
	if over != nil {
		m.row, m.live, m.version, m.kind = *over.Record, !over.Deleted && !over.expired(clock), over.Version, over.CRDT
		if !m.live && !m.base.empties(over.Version) {
			m.floor = over.Version
		}
	}
	m.version = max(m.version, m.base.ord)
	m.applied, _ = dotset.Parse(m.base.applied) // without them only what comes again is counted again
	if m.cut != nil {
		m.live, m.floor = m.state != nil, m.cut.Version
		return nil
	}
	if m.live && m.kind != "" {
		m.state, err = openState(m.kind, m.row.Content)
	}
	return m.refused(err)
}

func (m *mergingItem) refused(err error) error {
	if err == nil {
		return nil
	}
	return &RefusedError{Err: fmt.Errorf("item %q: %w", m.id, err)}
}

// apply applies a merge, and reports whether it has changed anything.
func (m *mergingItem) apply(ctx context.Context, tx *sqlkit.Tx, p *plan, op *Record) (changed bool, err error) {
	key, err := ParseMergeKey(op.ID)
	if err != nil {
		return false, err
	}
	_, known := m.known[op.ID]
	switch {
	case op.Version <= m.floor:
		p.above = append(p.above, Meta{ID: op.ID, Version: m.floor, Deleted: true})
		return false, nil
	case (known || m.applied.Has(key.Node, key.Seq)) && !m.ever:
		return false, nil
	}
	seen := false
	if m.live {
		if err := mayReplace(m.kind, op); err != nil {
			return false, err
		}
		if seen, err = m.state.Seen(op); err != nil {
			return false, m.refused(err)
		}
	}
	if seen {
		late, err := m.late(ctx, tx, key)
		if err != nil {
			return false, err
		}
		seen = !late
	}
	if !seen {
		if changed, err = m.mergeOne(op); err != nil {
			return false, m.refused(err)
		}
	}
	if !changed {
		p.ops = append(p.ops, opRow{key: op.ID, ord: m.version, version: op.Version, at: op.UpdatedAt.UnixNano(), kind: op.CRDT})
		return false, nil
	}
	m.live, m.kind = true, op.CRDT
	return true, nil
}

// write adds the row of the item, and those of the merges that have made it.
func (m *mergingItem) write(p *plan, ops []*Record, s *sqlStore) error {
	content, err := m.state.Bytes()
	if err != nil {
		return m.refused(err)
	}
	rec, view, views := m.row, m.version, viewNumbers{m.version, viewRoom}
	for _, op := range m.ops { // above what was shown of any, so that this is never taken for that
		view = views.With(op.Version, view)
	}
	if len(ops) > 0 {
		rec = *ops[len(ops)-1]
	}
	rec.ID, rec.Content, rec.ContentHash, rec.Version = m.id, content, hashOf(content), rowVersion(view)
	for i, op := range ops {
		p.ops = append(p.ops, opRow{
			key: op.ID, ord: rec.Version - uint64(len(ops)-1-i), version: op.Version, at: op.UpdatedAt.UnixNano(), kind: op.CRDT,
			hash: op.ContentHash[:], content: op.Content,
		})
		if op.UpdatedAt.After(rec.UpdatedAt) {
			rec.UpdatedAt = op.UpdatedAt
		}
	}
	if m.cut != nil || m.floor > m.base.version {
		base := opRow{key: baseKey(m.id), version: m.floor, kind: m.kind, applied: m.base.applied}
		if m.base.hash == nil {
			base.ord = m.base.ord
		}
		p.bases = append(p.bases, base)
	}
	packed := rowsOf([]Record{rec}, s.codec)
	if err := s.fits(packed[0].content); err != nil {
		return err
	}
	p.write(&packed[0], m.exists, &m.was)
	p.merged = append(p.merged, rec)
	return nil
}

// cut takes a late delete out of an item: what is left are the merges above it. They are known as
// long as none of them is in a snapshot; else the delete is outranked.
func (s *sqlStore) cut(ctx context.Context, tx *sqlkit.Tx, m *mergingItem, r *storedRow, p *plan) error {
	if r.Version <= m.base.version {
		return nil // it was taken out before
	}
	rows, err := s.itemRows(ctx, tx, m.id)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(rows, func(o opRow) bool { return isSnapshot(o.key) && o.hash != nil && o.version > r.Version }) || damagedRows(rows, m.was.kind) > 0 {
		p.above = append(p.above, m.was.Meta)
		return nil
	}
	dead := func(o opRow) bool { return m.base.hash == nil && o.ord <= m.base.ord }
	kept := slices.DeleteFunc(slices.Clone(rows), func(o opRow) bool {
		return isSnapshot(o.key) || o.version <= r.Version || dead(o)
	})
	for _, o := range rows {
		if isSnapshot(o.key) || o.version <= r.Version {
			p.drop = append(p.drop, o.key)
		}
	}
	m.cut = r
	if rec, ok := replay(m.id, kept); ok {
		m.state, err = openState(rec.CRDT, rec.Content)
	}
	return err
}

// late reports whether a later merge of the node was applied before.
func (m *mergingItem) late(ctx context.Context, tx *sqlkit.Tx, key MergeKey) (late bool, err error) {
	if m.applied.HasAbove(key.Node, key.Seq) {
		return true, nil
	}
	text := "SELECT EXISTS (SELECT 1 FROM sync_ops WHERE op > ? AND op < ?)"
	err = tx.QueryRowContext(ctx, text, []byte(key.String()), []byte(baseKey(m.id)+key.Node+"0")).Scan(&late) // "0" follows "/"
	return late, err
}

// mergeOne merges an op into the state.
func (m *mergingItem) mergeOne(op *Record) (changed bool, err error) {
	var before []byte
	if !m.live {
		m.state, err = openState(op.CRDT, nil)
	} else if !isDelta(op.ID) {
		before, err = m.state.Bytes()
	}
	if err == nil {
		err = m.state.Merge(op)
	}
	if err != nil || !m.live || isDelta(op.ID) {
		return true, err
	}
	after, err := m.state.Bytes()
	return string(after) != string(before), err
}

// readStates returns the live rows with a kind of the items that are merged into.
func (s *sqlStore) readStates(ctx context.Context, tx *sqlkit.Tx, merges []itemMerges, heads map[string]lockedHead) (map[string]Found, error) {
	var ids []string
	for i := range merges {
		if h, ok := heads[merges[i].id]; ok && !h.Deleted && h.kind != "" {
			ids = append(ids, h.ID)
		}
	}
	out := make(map[string]Found, len(ids))
	err := s.inChunks(ctx, tx, ids, selectStates, func(rows *sql.Rows) error {
		var row scanned
		if err := rows.Scan(row.fields()...); err != nil {
			return err
		}
		rec, err := row.record(s.codec)
		out[string(row.id)] = Found{Record: rec, OK: err == nil, Err: err}
		return nil
	})
	return out, err
}

func selectStates(n int) string { return selectMany(columns, n) }
