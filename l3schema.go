package syncengine

// l3schema.go are the tables of L3 on SQL, and how they became what they are.

import (
	"slices"
	"strings"

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const schemaTable = "sync_schema"

var migrations = map[sqlkit.Dialect][][]string{
	sqlkit.MySQL: {{`CREATE TABLE IF NOT EXISTS sync_items (
		id            VARBINARY(512) NOT NULL PRIMARY KEY,
		version       BIGINT NOT NULL,
		updated_at    BIGINT NOT NULL COMMENT 'unix nanoseconds',
		deleted       TINYINT NOT NULL DEFAULT 0,
		deleted_at    BIGINT NULL COMMENT 'unix nanoseconds; NULL unless deleted',
		content_hash  BINARY(32) NULL,
		content       LONGBLOB NULL,
		priority      TINYINT NOT NULL DEFAULT 0,
		crdt          VARBINARY(32) NOT NULL DEFAULT '',
		trace_parent  VARBINARY(64) NOT NULL DEFAULT '',
		trace_state   VARBINARY(512) NOT NULL DEFAULT '',
		home_instance VARBINARY(255) NOT NULL DEFAULT '',
		KEY sync_items_deleted (deleted_at)
	) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin`,
		`CREATE TABLE IF NOT EXISTS sync_digest (
		id     TINYINT NOT NULL PRIMARY KEY,
		digest MEDIUMBLOB NOT NULL
	) ENGINE=InnoDB`,
		`INSERT IGNORE INTO sync_digest (id, digest) VALUES (1, '')`,
		`CREATE TABLE IF NOT EXISTS sync_deltas (
		id    BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
		delta MEDIUMBLOB NOT NULL
	) ENGINE=InnoDB`,
		`CREATE TABLE IF NOT EXISTS sync_instances (
		id     VARBINARY(64) NOT NULL PRIMARY KEY,
		ticket BIGINT NOT NULL AUTO_INCREMENT UNIQUE,
		name   VARBINARY(255) NOT NULL,
		seen   BIGINT NOT NULL,
		beats  BIGINT NOT NULL
	) ENGINE=InnoDB`},
		// One statement: it happens as a whole or not at all, and may be repeated (sqlkit.Migrate).
		{`ALTER TABLE sync_deltas ADD COLUMN engine VARBINARY(64) NULL, ADD COLUMN nonce BIGINT NULL,
		ADD UNIQUE KEY sync_deltas_nonce (engine, nonce)`},
		{`ALTER TABLE sync_items ADD COLUMN encoding VARBINARY(16) NOT NULL DEFAULT '' COMMENT 'of content: empty for none'`,
			`CREATE TABLE IF NOT EXISTS sync_dictionaries (
		id         INT NOT NULL PRIMARY KEY,
		dictionary MEDIUMBLOB NOT NULL,
		sha256     BINARY(32) NOT NULL
	) ENGINE=InnoDB`},
		{`CREATE TABLE IF NOT EXISTS sync_ops (
		op           VARBINARY(600) NOT NULL PRIMARY KEY COMMENT 'id of the item, a byte 0, node/number/s or d',
		ord          BIGINT NOT NULL COMMENT 'version of the item when it had this op',
		version      BIGINT NOT NULL,
		updated_at   BIGINT NOT NULL COMMENT 'unix nanoseconds',
		crdt         VARBINARY(32) NOT NULL,
		content_hash BINARY(32) NULL,
		content      LONGBLOB NULL,
		applied      MEDIUMBLOB NULL
	) ENGINE=InnoDB ROW_FORMAT=DYNAMIC`},
		{`ALTER TABLE sync_instances ADD COLUMN clock BIGINT NOT NULL DEFAULT 0 COMMENT 'as a version',
		ADD COLUMN ahead BIGINT NOT NULL DEFAULT 0 COMMENT 'of the server, in microseconds'`,
			`CREATE TABLE IF NOT EXISTS sync_fences (
		engine VARBINARY(64) NOT NULL,
		slot   TINYINT NOT NULL,
		writes BIGINT NOT NULL DEFAULT 0,
		PRIMARY KEY (engine, slot)
	) ENGINE=InnoDB`},
		{`CREATE TABLE IF NOT EXISTS sync_meta (name VARBINARY(64) NOT NULL PRIMARY KEY, value VARBINARY(255) NOT NULL) ENGINE=InnoDB`,
			`INSERT IGNORE INTO sync_meta (name, value) VALUES ('identity', UUID())`},
		{`ALTER TABLE sync_deltas ADD COLUMN changes MEDIUMBLOB NULL, ADD COLUMN at BIGINT NULL COMMENT 'unix microseconds'`,
			`CREATE TABLE IF NOT EXISTS sync_log (
		id      BIGINT NOT NULL PRIMARY KEY,
		engine  VARBINARY(64) NOT NULL,
		at      BIGINT NOT NULL COMMENT 'unix microseconds',
		changes MEDIUMBLOB NOT NULL
	) ENGINE=InnoDB`, `INSERT IGNORE INTO sync_meta (name, value) VALUES ('log_trimmed', '0')`},
		{`ALTER TABLE sync_items ADD COLUMN expires_at BIGINT NULL COMMENT 'unix milliseconds; NULL for never',
		ADD KEY sync_items_expires (expires_at)`},
		{`CREATE TABLE IF NOT EXISTS sync_due (
		kind TINYINT NOT NULL COMMENT '1: at is deleted_at; 2: expires_at',
		at   BIGINT NOT NULL,
		id   VARBINARY(512) NOT NULL,
		PRIMARY KEY (kind, at, id)
	) ENGINE=InnoDB ROW_FORMAT=DYNAMIC`,
			// Each is one transaction: one that was cut off has filled in all by the time that it
			// is repeated, or nothing.
			fillDues[0] + " AND (SELECT COUNT(*) FROM (SELECT 1 FROM sync_due WHERE kind = 1 LIMIT 1) AS t) = 0",
			fillDues[1] + " AND (SELECT COUNT(*) FROM (SELECT 1 FROM sync_due WHERE kind = 2 LIMIT 1) AS t) = 0",
			`ALTER TABLE sync_items DROP KEY sync_items_deleted, DROP KEY sync_items_expires`}},
	sqlkit.SQLite: {{`CREATE TABLE IF NOT EXISTS sync_items (
		id            TEXT NOT NULL PRIMARY KEY,
		version       INTEGER NOT NULL,
		updated_at    INTEGER NOT NULL, -- unix nanoseconds
		deleted       INTEGER NOT NULL DEFAULT 0,
		deleted_at    INTEGER NULL,     -- unix nanoseconds; NULL unless deleted
		content_hash  BLOB NULL,
		content       BLOB NULL,
		priority      INTEGER NOT NULL DEFAULT 0,
		crdt          TEXT NOT NULL DEFAULT '',
		trace_parent  TEXT NOT NULL DEFAULT '',
		trace_state   TEXT NOT NULL DEFAULT '',
		home_instance TEXT NOT NULL DEFAULT ''
	)`, `CREATE INDEX IF NOT EXISTS sync_items_deleted ON sync_items (deleted_at) WHERE deleted_at IS NOT NULL`,
		`CREATE TABLE IF NOT EXISTS sync_digest (id INTEGER PRIMARY KEY, digest BLOB NOT NULL)`,
		`INSERT OR IGNORE INTO sync_digest (id, digest) VALUES (1, X'')`,
		`CREATE TABLE IF NOT EXISTS sync_deltas (id INTEGER PRIMARY KEY AUTOINCREMENT, delta BLOB NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS sync_instances (ticket INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
		name TEXT NOT NULL, seen INTEGER NOT NULL, beats INTEGER NOT NULL)`},
		{`ALTER TABLE sync_deltas ADD COLUMN engine TEXT NULL`, `ALTER TABLE sync_deltas ADD COLUMN nonce INTEGER NULL`,
			`CREATE UNIQUE INDEX IF NOT EXISTS sync_deltas_nonce ON sync_deltas (engine, nonce)`},
		{`ALTER TABLE sync_items ADD COLUMN encoding TEXT NOT NULL DEFAULT ''`,
			`CREATE TABLE IF NOT EXISTS sync_dictionaries (id INTEGER PRIMARY KEY, dictionary BLOB NOT NULL, sha256 BLOB NOT NULL)`},
		{`CREATE TABLE IF NOT EXISTS sync_ops (op BLOB NOT NULL PRIMARY KEY, ord INTEGER NOT NULL, version INTEGER NOT NULL,
		updated_at INTEGER NOT NULL, crdt TEXT NOT NULL, content_hash BLOB NULL, content BLOB NULL, applied BLOB NULL) WITHOUT ROWID`},
		{`ALTER TABLE sync_instances ADD COLUMN clock INTEGER NOT NULL DEFAULT 0`,
			`ALTER TABLE sync_instances ADD COLUMN ahead INTEGER NOT NULL DEFAULT 0`,
			`CREATE TABLE IF NOT EXISTS sync_fences (engine TEXT NOT NULL, slot INTEGER NOT NULL, writes INTEGER NOT NULL DEFAULT 0,
		PRIMARY KEY (engine, slot)) WITHOUT ROWID`},
		{`CREATE TABLE IF NOT EXISTS sync_meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)`,
			`INSERT OR IGNORE INTO sync_meta (name, value) VALUES ('identity', lower(hex(randomblob(16))))`},
		{`ALTER TABLE sync_deltas ADD COLUMN changes BLOB NULL`, `ALTER TABLE sync_deltas ADD COLUMN at INTEGER NULL`,
			`CREATE TABLE IF NOT EXISTS sync_log (id INTEGER PRIMARY KEY, engine TEXT NOT NULL, at INTEGER NOT NULL, changes BLOB NOT NULL)`,
			`INSERT OR IGNORE INTO sync_meta (name, value) VALUES ('log_trimmed', '0')`},
		{`ALTER TABLE sync_items ADD COLUMN expires_at INTEGER NULL`, // unix milliseconds; NULL for never
			`CREATE INDEX IF NOT EXISTS sync_items_expires ON sync_items (expires_at) WHERE expires_at IS NOT NULL`}},
}

// Schema returns the statements that make the tables of L3 in an empty database, in order, for a
// service whose user may not make them itself: Open finds nothing to do then. For a dialect that
// there is not it returns nil.
//
// While it runs the engine needs SELECT, INSERT, UPDATE and DELETE on these tables, no more.
func Schema(d Dialect) []string { return SchemaUpgrade(d, "", 0) }

// SchemaUpgrade returns the statements that bring the tables of an earlier version up to date, in
// order, each to be run once; none if they are, and nil as well for a dialect or a version that
// there is not, and for a prefix that can't be one. tablePrefix is Config.TablePrefix. The version
// of tables is what SELECT MAX(version) FROM sync_schema says; 0 is that of an empty database.
func SchemaUpgrade(d Dialect, tablePrefix string, version int) []string {
	known := migrations[sqlkit.Dialect(d)]
	if known == nil || version < 0 || !isTablePrefix(tablePrefix) {
		return nil
	}
	return sqlkit.Script(tablePrefix, schemaTable, known, version)
}

// tables are what an account must have rights on.
var tables = []sqlkit.Table{
	{Name: "sync_items", Columns: strings.Split(written, ", ")},
	{Name: "sync_digest", Columns: []string{"id", "digest"}},
	{Name: "sync_deltas", Columns: []string{"delta", "engine", "nonce", "changes", "at"}},
	{Name: "sync_log", Columns: []string{"id", "engine", "at", "changes"}},
	{Name: "sync_instances", Columns: []string{"id", "name", "seen", "beats", "clock", "ahead"}},
	{Name: "sync_fences", Columns: []string{"engine", "slot", "writes"}},
	{Name: "sync_meta", Columns: []string{"name", "value"}},
	{Name: "sync_dictionaries", Columns: []string{"id", "dictionary", "sha256"}},
	{Name: "sync_ops", Columns: strings.Split(opColumns, ", ")},
}

// tablesOf are those of a dialect.
func tablesOf(d sqlkit.Dialect) []sqlkit.Table {
	if d == sqlkit.MySQL {
		return append(slices.Clone(tables), sqlkit.Table{Name: "sync_due", Columns: []string{"kind", "at", "id"}})
	}
	return tables
}
