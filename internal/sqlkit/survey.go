package sqlkit

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// madeTable is a table and the number of the migration that makes it.
type madeTable struct {
	name string
	by   int
}

// tablesMade returns the tables that migrations make, in order.
func tablesMade(migrations [][]string) (out []madeTable) {
	for n, stmts := range migrations {
		for _, stmt := range stmts {
			if strings.HasPrefix(stmt, "CREATE TABLE") {
				out = append(out, madeTable{tableOf(stmt), n + 1})
			}
		}
	}
	return out
}

var namesTable = regexp.MustCompile(`\b(?:TABLE|INTO|ON)(?: IF NOT EXISTS)? (\w+)`)

// tableOf returns the table that a statement of a migration is about, "" if it names none.
func tableOf(stmt string) string {
	if m := namesTable.FindStringSubmatch(stmt); m != nil {
		return m[1]
	}
	return ""
}

// atTable is an error of a statement about a table, by the code's name for it.
type atTable struct {
	table string
	err   error
}

func (a *atTable) Error() string { return a.err.Error() }

func (a *atTable) Unwrap() error { return a.err }

// survey looks at what there is in a database before it is migrated.
type survey struct {
	conn  *sql.Conn
	db    *DB
	d     Dialect
	table string // of records
	made  []madeTable
}

// version returns the highest migration that is recorded, 0 in an empty database. The error is an
// *Unfit if there is something under one of our names that the records don't tell of: it is another
// program's, and must not be altered; or if what they tell of is not there. Of a version above
// known it tells nothing.
func (s *survey) version(ctx context.Context, known int) (int, error) {
	there, err := s.look(ctx)
	if err != nil {
		return 0, err
	}
	if !there[s.table] {
		// Who has no right on it does not see it; or another process has just made it.
		if err := s.probe(ctx, s.table); isNoTable(err) {
			return 0, s.unrecorded(there, "is gone", 0)
		} else if err != nil {
			return 0, err
		}
	}
	rows, have, err := s.recorded(ctx)
	switch {
	case err != nil || have > known:
		return have, err
	case rows == 0:
		return 0, s.unrecorded(there, "has no rows", 0)
	}
	for _, t := range s.made {
		if t.by > have || there[t.name] {
			continue
		}
		if err := s.probe(ctx, t.name); err != nil { // else it was made since
			return 0, err
		}
	}
	upTo := have
	if s.d == MySQL { // a migration that was interrupted has left tables
		upTo++
	}
	return have, s.unrecorded(there, fmt.Sprintf("says version %d, which has no such table", have), upTo)
}

// look returns which tables there are of those by our names. What is no table is an *Unfit.
func (s *survey) look(ctx context.Context) (map[string]bool, error) {
	names := map[string]string{s.db.Named(s.table): s.table}
	for _, t := range s.made {
		names[s.db.Named(t.name)] = t.name
	}
	marks := strings.TrimPrefix(strings.Repeat(", ?", len(names)), ", ")
	text := "SELECT name, type, 1 FROM sqlite_master WHERE type <> 'trigger' AND lower(name) IN (" + marks + ")"
	if s.d == MySQL {
		text = "SELECT table_name, table_type, @@lower_case_table_names FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN (" + marks + ")"
	}
	var args []any
	for name := range names {
		args = append(args, name)
	}
	Step(ctx)
	rows, err := s.conn.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	there := make(map[string]bool)
	for rows.Next() {
		var name, kind string
		var folds int // names that differ in case are the same
		if err := rows.Scan(&name, &kind, &folds); err != nil {
			return nil, err
		}
		if folds != 0 {
			name = strings.ToLower(name)
		}
		ours, ok := names[name]
		if !ok {
			continue
		}
		switch kind = strings.ToLower(kind); kind {
		case "table", "base table", "system versioned":
			there[ours] = true
		default:
			return nil, &Unfit{Problem: "the table " + name + " is another program's: it is a " + kind, Mend: "set Config.TablePrefix, use another " + s.d.place() + ", or make the " + kind + " under another name"}
		}
	}
	return there, rows.Err()
}

// probe returns what a table fails with.
func (s *survey) probe(ctx context.Context, table string) error {
	Step(ctx)
	rows, err := s.conn.QueryContext(ctx, "SELECT 1 FROM "+s.db.Named(table)+" WHERE 1 = 0")
	if err != nil {
		return &atTable{table, err}
	}
	return rows.Close()
}

// recorded returns how many rows the table of records has, and the highest migration in it.
func (s *survey) recorded(ctx context.Context) (rows, have int, err error) {
	Step(ctx)
	var is string
	err = s.conn.QueryRowContext(ctx, "SELECT COUNT(*) + 0 * COUNT(applied_at), COALESCE(MAX(version), 0) FROM "+s.db.Named(s.table)).Scan(&rows, &is)
	if err != nil {
		return 0, 0, &atTable{s.table, err}
	}
	if have, err = strconv.Atoi(is); err != nil {
		return 0, 0, another(s.db, s.d, s.table, err)
	}
	return rows, have, nil
}

// unrecorded returns an *Unfit for the first table that is of a migration above upTo. how says what
// is the matter with the table of records, unless the table is another program's.
func (s *survey) unrecorded(there map[string]bool, how string, upTo int) error {
	for _, t := range s.made {
		if t.by > upTo && there[t.name] {
			u := another(s.db, s.d, t.name, nil)
			records := s.db.Named(s.table)
			u.Problem += ", or the engine's while the table " + records + " " + how
			u.Mend += "; if it is the engine's, restore " + records + " from the backup that it is from, or " + s.db.anew()
			return u
		}
	}
	return nil
}

// place is what a namespace is in.
func (d Dialect) place() string {
	if d == SQLite {
		return "file"
	}
	return "database"
}

// another returns what is said of another program's table.
func another(db *DB, d Dialect, table string, err error) *Unfit {
	table = db.Named(table)
	rename := "RENAME TABLE " + table + " TO something else"
	if d == SQLite {
		rename = "ALTER TABLE " + table + " RENAME TO something else"
	}
	return &Unfit{Problem: "the table " + table + " is another program's", Mend: "set Config.TablePrefix, use another " + d.place() + ", or " + rename, Err: err}
}

// Lost returns what is said of one of the engine's own tables that has lost something: how is what.
func Lost(db *DB, table, how string, err error) *Unfit {
	table = db.Named(table)
	return &Unfit{Problem: "the table " + table + " " + how, Mend: "restore " + table + " from the backup that the other tables are from, or " + db.anew(), Err: err}
}

// anew is how to begin anew.
func (d *DB) anew() string {
	return d.Named("begin anew: drop all tables of the engine (sync_schema, sync_items and the others named sync_*), which loses all items in them")
}
