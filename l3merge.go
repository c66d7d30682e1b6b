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
// A delete counts for all merges up to its version, whichever comes first. One with a condition
// takes what the row has, which its caller has seen, and nothing else: merges that land later
// count, be they older. It makes the base an empty snapshot (emptied): the rows below stay, so that
// their merges are not applied again, until compaction has their dots.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/syncengine-go/syncengine/internal/dotset"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// opRow is a row of sync_ops.
type opRow struct {
	key     string
	ord     uint64
	version uint64 // of a base: of the item's last delete
	at      int64
	kind    string
	hash    []byte // nil: no content. Of a merge: it changed nothing
	content []byte
	applied []byte // of a base: a dotset.Set of merges
	wrong   bool   // its numbers are none
}

// number sets the numbers of a row.
func (r *opRow) number(ord, version int64) {
	r.ord, r.version, r.wrong = uint64(max(0, ord)), uint64(max(0, version)), ord < 0 || version < 0
}

const opColumns = "op, ord, version, updated_at, crdt, content_hash, content, applied"

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
func (s *sqlStore) plan(ctx context.Context, tx *sql.Tx, plain []storedRow, merges []itemMerges, heads map[string]lockedHead, judged map[string]bool) (*plan, error) {
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
	kept    *merged          // what it left, nil for nothing
}

// merge adds to a plan what becomes of the item. over is a record that was to be written first.
func (m *mergingItem) merge(ctx context.Context, tx *sql.Tx, p *plan, over *storedRow, s *sqlStore) error {
	row, live, floor := m.row, m.exists && !m.was.gone(), m.base.version
	version, kind := m.was.Version, m.was.kind
	if m.exists && m.was.gone() && !m.base.empties(m.was.Version) {
		floor = m.was.Version
	}
	if over != nil {
		overLives := !over.Deleted && !over.expired(s.clock)
		row, live, version, kind = *over.Record, overLives, over.Version, over.CRDT
		if !overLives && !m.base.empties(over.Version) {
			floor = over.Version
		}
	}
	version = max(version, m.base.ord)
	var state *merged
	var err error
	if live && kind != "" {
		if state, err = openState(kind, row.Content); err != nil {
			return &RefusedError{Err: fmt.Errorf("item %q: %w", m.id, err)}
		}
	}
	m.applied, _ = dotset.Parse(m.base.applied) // without them only what comes again is counted again
	if m.cut != nil {
		state, live, floor = m.kept, m.kept != nil, m.cut.Version
	}
	var ops []*Record
	for _, op := range m.ops {
		key, err := ParseMergeKey(op.ID)
		if err != nil {
			return err
		}
		if _, ok := m.known[op.ID]; (ok || m.applied.Has(key.Node, key.Seq)) && op.Version > floor && !m.ever {
			continue
		}
		if op.Version <= floor {
			p.above = append(p.above, Meta{ID: op.ID, Version: floor, Deleted: true})
			continue
		}
		if live {
			if err := mayReplace(kind, op); err != nil {
				return err
			}
		}
		seen := false
		if live {
			seen, err = state.Seen(op)
		}
		if seen {
			late, err := m.late(ctx, tx, key)
			if err != nil {
				return err
			}
			seen = !late
		}
		changed := false
		if err == nil && !seen {
			changed, err = m.mergeOne(&state, live, op)
		}
		if err != nil {
			return &RefusedError{Err: fmt.Errorf("item %q: %w", m.id, err)}
		}
		if !changed {
			p.ops = append(p.ops, opRow{key: op.ID, ord: version, version: op.Version, at: op.UpdatedAt.UnixNano(), kind: op.CRDT})
			continue
		}
		live, kind = true, op.CRDT
		ops = append(ops, op)
	}
	if len(ops) == 0 && m.cut == nil {
		if over != nil { // written after all
			p.write(over, m.exists, &m.was.Meta)
			p.covered = slices.DeleteFunc(p.covered, func(r *storedRow) bool { return r == over })
		}
		if live {
			row.ID = m.id
			p.merged = append(p.merged, row)
		}
		return nil
	}
	rec, steps := m.row, uint64(max(1, len(ops)))
	if MaxVersion-version < steps {
		return &RefusedError{Err: staleError(&entry{version: version}, version)}
	}
	if !live { // a delete has left nothing
		rec = *m.cut.Record
		rec.Version = version + 1
		p.gone, p.merged = append(p.gone, m.id), append(p.merged, rec)
		p.write(&storedRow{Record: &rec}, m.exists, &m.was.Meta)
		return nil
	}
	content, err := state.Bytes()
	if err != nil {
		return &RefusedError{Err: fmt.Errorf("item %q: %w", m.id, err)}
	}
	least := version + steps
	for _, op := range ops { // above the version of any merge, so that what waits somewhere is never taken for this
		rec = *op
		least = max(least, min(op.Version+1, MaxVersion))
	}
	rec.ID, rec.Content, rec.ContentHash, rec.Version = m.id, content, hashOf(content), least
	for i, op := range ops {
		p.ops = append(p.ops, opRow{
			key: op.ID, ord: rec.Version - uint64(len(ops)-1-i), version: op.Version, at: op.UpdatedAt.UnixNano(), kind: op.CRDT,
			hash: op.ContentHash[:], content: op.Content,
		})
		if op.UpdatedAt.After(rec.UpdatedAt) {
			rec.UpdatedAt = op.UpdatedAt
		}
	}
	if m.cut != nil || floor > m.base.version {
		base := opRow{key: baseKey(m.id), version: floor, kind: kind}
		if m.base.hash == nil {
			base.ord, base.applied = m.base.ord, m.base.applied
		}
		p.bases = append(p.bases, base)
	}
	packed := rowsOf([]Record{rec}, s.codec)
	if err := s.fits(packed[0].content); err != nil {
		return err
	}
	p.write(&packed[0], m.exists, &m.was.Meta)
	p.merged = append(p.merged, rec)
	return nil
}

// cut takes a late delete out of an item: what is left are the merges above it. They are known as
// long as none of them is in a snapshot; else the delete is outranked.
func (s *sqlStore) cut(ctx context.Context, tx *sql.Tx, m *mergingItem, r *storedRow, p *plan) error {
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
		m.kept, err = openState(rec.CRDT, rec.Content)
	}
	return err
}

// late reports whether a later merge of the node was applied before.
func (m *mergingItem) late(ctx context.Context, tx *sql.Tx, key MergeKey) (late bool, err error) {
	if m.applied.HasAbove(key.Node, key.Seq) {
		return true, nil
	}
	text := "SELECT EXISTS (SELECT 1 FROM sync_ops WHERE op > ? AND op < ?)"
	err = tx.QueryRowContext(ctx, text, []byte(key.String()), []byte(baseKey(m.id)+key.Node+"0")).Scan(&late) // "0" follows "/"
	return late, err
}

// mergeOne merges an op into a state, which it opens if the item is not live.
func (m *mergingItem) mergeOne(state **merged, live bool, op *Record) (changed bool, err error) {
	var before []byte
	if !live {
		*state, err = openState(op.CRDT, nil)
	} else if !isDelta(op.ID) {
		before, err = (*state).Bytes()
	}
	if err == nil {
		err = (*state).Merge(op)
	}
	if err != nil || !live || isDelta(op.ID) {
		return true, err
	}
	after, err := (*state).Bytes()
	return string(after) != string(before), err
}

// baseKey is the key of an item's base.
func baseKey(id string) string { return id + "\x00" }

// emptied is a base after a delete at a version that has taken all there was.
func (r opRow) emptied(id string, at uint64) opRow {
	return opRow{key: baseKey(id), ord: at, version: r.version, applied: r.applied}
}

// empties reports whether a base was emptied by the delete at a version.
func (r *opRow) empties(version uint64) bool { return r.hash == nil && r.ord == version && version > 0 }

func isDelta(key string) bool { return strings.HasSuffix(key, "/d") }

// readMerged returns the rows of sync_ops with the keys of merges, without content, and the bases
// of their items.
func (s *sqlStore) readMerged(ctx context.Context, tx *sql.Tx, merges []itemMerges) (map[string]opRow, error) {
	var keys []string
	for i := range merges {
		keys = append(keys, baseKey(merges[i].id))
		for _, op := range merges[i].ops {
			keys = append(keys, op.ID)
		}
	}
	out := make(map[string]opRow)
	err := s.inChunks(ctx, tx, keys, selectOps, func(rows *sql.Rows) error {
		var key []byte
		var r opRow
		var ord, version int64
		if err := rows.Scan(&key, &ord, &version, &r.hash, &r.applied); err != nil {
			return err
		}
		r.key = string(key)
		if r.number(ord, version); !r.wrong || r.key[len(r.key)-1] != 0 { // a base is left out
			out[r.key] = r
		}
		return nil
	})
	return out, err
}

// readStates returns the live rows with a kind of the items that are merged into.
func (s *sqlStore) readStates(ctx context.Context, tx *sql.Tx, merges []itemMerges, heads map[string]lockedHead) (map[string]Found, error) {
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

// inChunks runs a prepared SELECT for many keys in a transaction.
func (s *sqlStore) inChunks(ctx context.Context, tx *sql.Tx, keys []string, text func(n int) string, fn func(*sql.Rows) error) error {
	for len(keys) > 0 {
		n := min(len(keys), maxLookup)
		args := make([]any, places(n))
		for i := range args {
			args[i] = keys[min(i, n-1)]
			if text(1) == selectOps(1) {
				args[i] = []byte(keys[min(i, n-1)]) // bytes in both dialects
			}
		}
		st, err := s.stmt(ctx, s.pools.Write, text(n))
		if err != nil {
			return err
		}
		rows, err := tx.StmtContext(ctx, st).QueryContext(ctx, args...)
		if err != nil {
			return err
		}
		for rows.Next() && err == nil {
			err = fn(rows)
		}
		if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

func selectOps(n int) string {
	return "SELECT op, ord, version, content_hash, applied FROM sync_ops WHERE op IN (?" + strings.Repeat(",?", places(n)-1) + ")"
}

func selectStates(n int) string { return selectMany(columns, n) }

const (
	opPlace   = "(?,?,?,?,?,?,?,?)"
	replaceOp = "REPLACE INTO sync_ops (" + opColumns + ") VALUES " + opPlace
	deleteOps = "DELETE FROM sync_ops WHERE op >= ? AND op < ?"
)

func insertOps(n int) string {
	return "INSERT INTO sync_ops (" + opColumns + ") VALUES " + opPlace + strings.Repeat(","+opPlace, n-1)
}

// mergeTexts are the statements that a transaction of n records may need for merges.
func (s *sqlStore) mergeTexts(n int) []string {
	texts := []string{replaceOp, deleteOps}
	for k := 1; ; k *= 2 {
		texts = append(texts, selectOps(k), selectStates(k))
		if k <= maxChunk {
			texts = append(texts, insertOps(k))
		}
		if k >= 2*n || k >= maxLookup { // a key for each, and for each base
			return texts
		}
	}
}

func (r *opRow) args(to []any) []any {
	return append(to, []byte(r.key), int64(r.ord), int64(r.version), r.at, r.kind, r.hash, r.content, r.applied)
}

// rangeOf is where the rows of an item are in sync_ops.
func rangeOf(id string) (from, below []byte) { return []byte(id + "\x00"), []byte(id + "\x01") }

// writeOps writes what a batch changes in sync_ops.
func (s *sqlStore) writeOps(ctx context.Context, tx *sql.Tx, p *plan) error {
	for _, id := range p.gone {
		from, below := rangeOf(id)
		if err := s.exec(ctx, tx, deleteOps, from, below); err != nil {
			return err
		}
	}
	if err := s.deleteKeys(ctx, tx, p.drop); err != nil {
		return err
	}
	for i := range p.bases {
		if err := s.exec(ctx, tx, replaceOp, p.bases[i].args(nil)...); err != nil {
			return err
		}
	}
	rest := p.ops
	for len(rest) > 0 {
		n, size := 0, 0
		for n < len(rest) && n < maxChunk {
			if size += len(rest[n].content) + rowOverheadSQL; size > chunkBytes/4 && n > 0 {
				break
			}
			n++
		}
		for n&(n-1) != 0 { // a power of two
			n &= n - 1
		}
		args := make([]any, 0, 8*n)
		for i := range rest[:n] {
			args = rest[i].args(args)
		}
		if err := s.exec(ctx, tx, insertOps(n), args...); err != nil {
			if sqlkit.IsDuplicate(err) { // of a transaction that began when the item was not there
				return errors.Join(errRaced, err)
			}
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// rebuild returns the live row of an item as its merges make it, for one that can't be read for a
// reason.
func (s *sqlStore) rebuild(ctx context.Context, tx *sql.Tx, id string, version uint64, why error) (rec Record, err error) {
	ops, err := s.itemRows(ctx, tx, id)
	if err != nil {
		return rec, err
	}
	rec, ok := replay(id, ops)
	if !ok {
		return rec, &RefusedError{Err: fmt.Errorf("the state is damaged, and there are no merges to rebuild it from: %w", why)}
	}
	rec.Version = version
	return rec, nil
}
