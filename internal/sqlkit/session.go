package sqlkit

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Settings of a MySQL session that the statements rely on, whatever the server's defaults are:
// writes outside transactions last, no text becomes NULL or is cut, reads see what is committed.
const (
	sqlMode   = "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"
	isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
	noLimit   = "18446744073709551615" // for rows: the default
	lockWait  = 3 * time.Second        // below any lease: who waits longer should not
	// On a node of a Galera cluster a read, or the begin of a transaction, waits until the node has
	// what was committed on others before. Other servers have no such variable, or no use for it.
	syncWait = "SET SESSION wsrep_sync_wait = 1"
	// Migrations alter tables in ways that others refuse. MariaDB alone has it.
	alterAny = "SET SESSION alter_algorithm = 'DEFAULT'"
)

// pinned sets a session up when it is made.
type pinned struct {
	driver.Connector
	idle time.Duration // after which the server ends a transaction nobody uses; MariaDB alone can
}

func (p pinned) Connect(ctx context.Context) (driver.Conn, error) {
	if err := ask(ctx, connectWait); err != nil {
		return nil, err
	}
	var wire net.Conn
	made, err := p.Connector.Connect(context.WithValue(ctx, wireKey{}, &wire))
	if err != nil {
		return nil, err
	}
	c, ok := made.(mysqlConn)
	if !ok || wire == nil {
		return nil, errors.Join(fmt.Errorf("the driver has made a %T", made), made.Close())
	}
	_, err = c.ExecContext(ctx, isolation, nil)
	optional := []string{syncWait, alterAny}
	if p.idle > 0 {
		optional = append(optional, fmt.Sprintf("SET SESSION idle_transaction_timeout = %d", int((p.idle+time.Second-1)/time.Second)))
	}
	for _, text := range optional {
		if err != nil {
			break
		}
		_, err = c.ExecContext(ctx, text, nil)
		if me, ok := errors.AsType[*mysql.MySQLError](err); ok && me.Number == unknownVariable {
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &session{mysqlConn: c, wire: wire}, nil
}

const unknownVariable = 1193

// dial connects, and tells pinned.Connect what it has connected.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if wire, ok := ctx.Value(wireKey{}).(*net.Conn); ok {
		*wire = c
	}
	return c, err
}

type wireKey struct{}

// session is a connection on which COMMIT and ROLLBACK end with the context of their transaction.
// The driver's own wait for the reply whatever becomes of it, and database/sql has no context for
// them: on a server that stands still, or a network that swallows it, they would wait for ever.
type session struct {
	mysqlConn
	wire   net.Conn
	broken atomic.Bool // nothing can be read from it any more, or soon
}

// mysqlConn is what the driver's connections are.
type mysqlConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
	driver.NamedValueChecker
}

func (s *session) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if opts.Isolation == driver.IsolationLevel(sql.LevelReadCommitted) {
		opts.Isolation = driver.IsolationLevel(sql.LevelDefault) // it is the session's, and to say so is a round trip
	}
	tx, err := s.mysqlConn.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &boundTx{tx: tx, ctx: ctx, session: s}, nil
}

func (s *session) QueryContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	if err := ask(ctx, replyWait); err != nil {
		return nil, err
	}
	made, err := s.mysqlConn.QueryContext(ctx, text, args)
	return rowsOf(ctx, made), err
}

func (s *session) PrepareContext(ctx context.Context, text string) (driver.Stmt, error) {
	if err := ask(ctx, replyWait); err != nil {
		return nil, err
	}
	made, err := s.mysqlConn.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	st, ok := made.(mysqlStmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver has made a %T", made), made.Close())
	}
	return statement{st}, nil
}

// statement is a prepared one of a session.
type statement struct{ mysqlStmt }

// mysqlStmt is what the driver's statements are.
type mysqlStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
}

func (s statement) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := ask(ctx, replyWait); err != nil {
		return nil, err
	}
	made, err := s.mysqlStmt.QueryContext(ctx, args)
	return rowsOf(ctx, made), err
}

// rowsOf returns rows that say to their question, if there is one, when they are closed.
func rowsOf(ctx context.Context, made driver.Rows) driver.Rows {
	if q, ok := ctx.(*question); ok && made != nil {
		return &rows{made, q}
	}
	return made
}

// rows are those of a question.
type rows struct {
	driver.Rows
	q *question
}

func (r *rows) Close() error {
	defer r.q.stop()
	return r.Rows.Close()
}

func (s *session) IsValid() bool { return !s.broken.Load() && s.mysqlConn.IsValid() }

// boundTx is a transaction of a session.
type boundTx struct {
	tx      driver.Tx
	ctx     context.Context
	session *session
}

func (t *boundTx) Commit() error { return t.end(t.tx.Commit) }

func (t *boundTx) Rollback() error { return t.end(t.tx.Rollback) }

func (t *boundTx) end(how func() error) error {
	stop := context.AfterFunc(t.ctx, func() {
		_ = t.session.wire.SetReadDeadline(time.Unix(1, 0)) // long ago; of one that is closed nobody reads
	})
	err := how()
	if stop() {
		return err
	}
	t.session.broken.Store(true) // also when the reply came first: the pool lets go of it
	if err != nil {
		err = fmt.Errorf("%w: %w", t.ctx.Err(), err)
	}
	return err
}

// pin adds to the options of connections what is set in one statement with others.
func pin(cfg *mysql.Config) {
	if cfg.Params == nil {
		cfg.Params = make(map[string]string)
	}
	cfg.Params["autocommit"], cfg.Params["completion_type"] = "1", "0"
	cfg.Params["sql_mode"] = "'" + sqlMode + "'"
	cfg.Params["sql_safe_updates"], cfg.Params["sql_select_limit"] = "0", noLimit
	cfg.Params["sql_big_selects"] = "1" // else max_join_size is a limit
	cfg.Params["character_set_client"], cfg.Params["character_set_connection"] = "utf8mb4", "utf8mb4"
	// The second is for locks of tables. MySQL notices that a client has left when it has the lock.
	cfg.Params["innodb_lock_wait_timeout"] = fmt.Sprint(int(lockWait / time.Second))
	cfg.Params["lock_wait_timeout"] = fmt.Sprint(int(lockWait / time.Second))
}

// Unfit is something about a server, a database or an account that a person has to mend. Mend is
// what mends it: a statement where there is one.
type Unfit struct {
	Problem, Mend string
	Err           error
}

func (u *Unfit) Error() string {
	text := u.Problem + "; " + u.Mend
	if u.Err != nil {
		text += " (" + u.Err.Error() + ")"
	}
	return text
}

func (u *Unfit) Unwrap() error { return u.Err }

// backslashed are the character sets in which a backslash may be the second byte of a character:
// what a driver escapes (interpolateParams) is something else to the server then.
var backslashed = []string{"big5", "cp932", "gb18030", "gb2312", "gbk", "sjis"}

// CheckSession returns what makes a pool of the caller's own, or a database, unfit.
func CheckSession(ctx context.Context, db *DB, d Dialect) error {
	if d == SQLite {
		var encoding string
		if err := db.QueryRowContext(ctx, "PRAGMA encoding").Scan(&encoding); err != nil {
			return err
		}
		if encoding != "UTF-8" { // ids would be in another order than they have in Go
			return &Unfit{Problem: "the database has the encoding " + encoding, Mend: "use another file: the encoding of one that has tables can't be changed"}
		}
		return nil
	}
	var commits, null, safe, big int
	var most, join uint64
	var ends, client, text, bytes string
	var ahead sql.NullInt64 // seconds
	const sent, arrives = "\u00e9", "C3A9"
	if err := db.QueryRowContext(ctx, "SELECT @@autocommit, '' IS NULL, @@sql_safe_updates, @@sql_select_limit, @@completion_type, TIMESTAMPDIFF(SECOND, SYSDATE(), NOW()), "+
		"@@character_set_client, HEX(?), HEX(?), @@sql_big_selects, @@max_join_size", sent, []byte(sent)).
		Scan(&commits, &null, &safe, &most, &ends, &ahead, &client, &text, &bytes, &big, &join); err != nil {
		return err
	}
	switch {
	case ends != "NO_CHAIN":
		return &Unfit{Problem: "sessions have completion_type = " + ends + ": a transaction would follow each", Mend: "add completion_type=0 to the DSN"}
	case max(ahead.Int64, -ahead.Int64) > 60:
		return &Unfit{Problem: "sessions have a timestamp of their own: their clock stands", Mend: "take timestamp out of the DSN"}
	case slices.Contains(backslashed, client):
		return &Unfit{Problem: "sessions have character_set_client = " + client + ", in which a backslash may be half of a character", Mend: "have charset=utf8mb4 alone in the DSN"}
	case commits == 0:
		return &Unfit{Problem: "sessions have autocommit = 0: nothing that is written by itself would last", Mend: "add autocommit=1 to the DSN, or SET GLOBAL autocommit = 1"}
	case null != 0:
		return &Unfit{Problem: "sql_mode has EMPTY_STRING_IS_NULL", Mend: "add sql_mode='" + sqlMode + "' to the DSN"}
	case safe != 0:
		return &Unfit{Problem: "sessions have sql_safe_updates = 1, which refuses statements that the engine needs", Mend: "add sql_safe_updates=0 to the DSN"}
	case most < 1<<32:
		return &Unfit{Problem: fmt.Sprintf("sessions have sql_select_limit = %d: what is read would be cut", most), Mend: "add sql_select_limit=" + noLimit + " to the DSN"}
	case big == 0 && join < 1<<32:
		return &Unfit{Problem: fmt.Sprintf("sessions have sql_big_selects = 0 and max_join_size = %d: statements that the engine needs are refused", join), Mend: "add sql_big_selects=1 to the DSN"}
	case text != arrives || bytes != arrives:
		return &Unfit{Problem: "sessions convert what is sent, since character_set_client is not character_set_connection", Mend: "have charset=utf8mb4 alone in the DSN"}
	}
	return checkVariables(ctx, db.pool)
}

// checkVariables is about variables that not every server has: see syncWait and alterAny.
func checkVariables(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "SHOW VARIABLES WHERE Variable_name IN ('wsrep_on', 'wsrep_sync_wait', 'alter_algorithm', 'log_bin', 'binlog_format')")
	if err != nil {
		return err
	}
	has := make(map[string]string)
	for rows.Next() && err == nil {
		var name, value string
		err = rows.Scan(&name, &value)
		has[name] = value
	}
	if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
		return err
	}
	if bits, _ := strconv.Atoi(has["wsrep_sync_wait"]); strings.EqualFold(has["wsrep_on"], "ON") && bits&1 == 0 {
		return &Unfit{Problem: "sessions on this Galera node read what other nodes have overwritten", Mend: "add wsrep_sync_wait=1 to the DSN"}
	}
	if has["log_bin"] == "ON" && has["binlog_format"] == "STATEMENT" {
		return &Unfit{Problem: "the server keeps a binary log of statements, and refuses transactions at READ COMMITTED for that", Mend: "SET GLOBAL binlog_format = ROW"}
	}
	if alter := has["alter_algorithm"]; alter == "NOCOPY" || alter == "INSTANT" {
		return &Unfit{Problem: "sessions have alter_algorithm = " + alter + ", which refuses changes of tables", Mend: "add alter_algorithm='DEFAULT' to the DSN"}
	}
	return nil
}

// Table is a table with columns that are read and written.
type Table struct {
	Name    string
	Columns []string
}

// CheckTables tries what is done with tables, on no rows. The error is an *Unfit for a right that
// is missing, or a table of the same name that is somebody else's.
func CheckTables(ctx context.Context, db *DB, d Dialect, tables []Table) error {
	if d == SQLite { // it has no rights: who may read a table with these columns may do all
		all := make([]string, len(tables))
		for i, t := range tables {
			all[i] = "SELECT 1 FROM (SELECT " + strings.Join(t.Columns, ", ") + " FROM " + t.Name + " WHERE 1 = 0)"
		}
		if _, err := db.ExecContext(ctx, strings.Join(all, " UNION ALL ")); err == nil {
			return nil
		} // else it is looked which one it is
	}
	for _, t := range tables {
		columns := strings.Join(t.Columns, ", ")
		tries := []string{
			"SELECT " + columns + " FROM " + t.Name + " WHERE 1 = 0",
			"INSERT INTO " + t.Name + " (" + columns + ") SELECT " + columns + " FROM " + t.Name + " WHERE 1 = 0",
			"UPDATE " + t.Name + " SET " + t.Columns[0] + " = " + t.Columns[0] + " WHERE 1 = 0",
			"DELETE FROM " + t.Name + " WHERE 1 = 0",
		}
		if d == SQLite {
			tries = tries[:1]
		}
		for _, stmt := range tries {
			Step(ctx)
			if _, err := db.ExecContext(ctx, stmt); err != nil {
				return Fit(ctx, db, d, t.Name, err)
			}
		}
	}
	return nil
}

// Fit returns an *Unfit for an error of setting up a table that a person has to mend, else err. An
// error of Migrate's knows better which table that is.
func Fit(ctx context.Context, db *DB, d Dialect, table string, err error) error {
	if u, ok := errors.AsType[*Unfit](err); ok {
		return u
	}
	if isAltered(err) {
		return Lost(db, table, "is older than the other tables", err)
	}
	if a, ok := errors.AsType[*atTable](err); ok && a.table != "" {
		table = a.table
	}
	if isNoTable(err) {
		return Lost(db, table, "is lost: it was there before", err)
	}
	if isOther(err) {
		return another(db, d, table, err)
	}
	me, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return err
	}
	switch me.Number {
	case deniedTable, deniedColumn, deniedDatabase, deniedPrivilege:
		problem, rights := "the account lacks a right", Rights
		if right, _, ok := strings.Cut(me.Message, " command denied"); ok {
			problem = "the account lacks the right " + right
			if strings.Contains(dailyRights, right) { // the tables are there, or the right to make them is
				rights = dailyRights
			}
		}
		return &Unfit{Problem: problem, Mend: grants(ctx, db, rights), Err: err}
	}
	return err
}

const (
	deniedDatabase  = 1044
	deniedTable     = 1142
	deniedColumn    = 1143
	deniedPrivilege = 1227
)

// Rights are those that an account needs; those after SELECT, INSERT, UPDATE, DELETE to make and to
// upgrade the tables.
const (
	dailyRights = "SELECT, INSERT, UPDATE, DELETE"
	Rights      = dailyRights + ", CREATE, ALTER, INDEX"
)

// grants is the statement that gives an account rights.
func grants(ctx context.Context, db *DB, rights string) string {
	database, account := "DATABASE", "'ACCOUNT'@'HOST'"
	_ = db.QueryRowContext(ctx, "SELECT DATABASE(), CURRENT_USER()").Scan(&database, &account) // else as it stands
	if user, host, ok := strings.Cut(account, "@"); ok && !strings.HasPrefix(account, "'") {
		account = "'" + user + "'@'" + host + "'"
	}
	return "GRANT " + rights + " ON `" + database + "`.* TO " + account
}
