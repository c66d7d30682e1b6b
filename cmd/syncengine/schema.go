package main

// schema.go prints what a DBA needs.

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/syncengine-go/syncengine"
)

// schemaView is the JSON of schema print.
type schemaView struct {
	Dialect string   `json:"dialect"`
	Tables  []string `json:"tables"` // statements, in order
	Rights  []string `json:"rights"`
}

// account is a MySQL account as GRANT takes it: name@'host' or 'name'@'host'.
var account = regexp.MustCompile(`^('[^'\\]+'|[\w$]+)(@('[^'\\]*'|[\w.%-]+))?$`)

func (t *tool) schema(_ context.Context, o *options) error {
	if err := o.only(0); err != nil {
		return err
	}
	if o.from < 0 {
		return usageError{"-from is a version: what SELECT MAX(version) FROM sync_schema says"}
	}
	v := schemaView{Dialect: o.dialect, Rights: []string{}}
	d := syncengine.DialectMySQL
	switch o.dialect {
	case "mysql", "mariadb":
		if !account.MatchString(o.user) || o.database == "" || strings.ContainsAny(o.database, "`\x00") {
			return usageError{"-user takes name@'host', -database a name without `"}
		}
		v.Rights = []string{fmt.Sprintf("GRANT SELECT, INSERT, UPDATE, DELETE ON `%s`.* TO %s", o.database, o.user)}
	case "sqlite":
		d = syncengine.DialectSQLite
	default:
		return usageError{"-dialect is mysql, mariadb or sqlite"}
	}
	v.Tables = syncengine.SchemaUpgrade(d, o.tables, o.from)
	switch {
	case syncengine.SchemaUpgrade(d, o.tables, 0) == nil:
		return usageError{"-table-prefix takes up to 32 lower-case letters, digits and _"}
	case o.from > 0 && syncengine.SchemaUpgrade(d, o.tables, o.from-1) == nil:
		return usageError{fmt.Sprintf("-from: there is no version %d", o.from)}
	}
	if o.json {
		return writeJSON(t.out, v)
	}
	what := "for an empty database"
	if o.from > 0 {
		what = fmt.Sprintf("where they have version %d", o.from)
	}
	fmt.Fprintf(t.out, "-- The tables of syncengine for %s, %s. An engine whose user may make\n-- tables makes them itself.\n\n", o.dialect, what)
	for _, text := range v.Tables {
		fmt.Fprintf(t.out, "%s;\n\n", strings.ReplaceAll(text, "\n\t\t", "\n\t"))
	}
	for _, text := range v.Rights {
		fmt.Fprintf(t.out, "-- What the service needs while it runs. Where it is to bring the tables of an earlier\n-- version up to date itself: also CREATE, ALTER, INDEX.\n%s;\n", text)
	}
	return nil
}
