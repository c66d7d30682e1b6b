package rediskit

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Rights tries what is done with keys that begin with prefix, and with a channel. needed is the
// statement that gives the account what it lacks, "" if it may do all; wanted the same for what is
// useful, but can be done without: INFO, and messages. An error says that nobody knows.
func (c *Client) Rights(ctx context.Context, prefix, channel string) (needed, wanted string, err error) {
	key, number := prefix+"\x00right", prefix+"\x00right to count"
	publish, subscribe := "publish", "subscribe"
	if c.sharded() {
		publish, subscribe = "spublish", "ssubscribe"
	}
	var must, may rights
	pipe := c.rdb.Pipeline()
	try := func(to *rights, give string, args ...any) {
		to.tried = append(to.tried, attempt{give, pipe.Do(ctx, args...)})
	}
	// What is left behind, if nothing may be removed, ends soon.
	short := time.Second.Milliseconds()
	try(&must, "+get", "get", key)
	try(&must, "+mset", "mset", key, "x")
	try(&must, "+set", "set", key, "x", "px", short)
	try(&must, "+set", "set", number, "1", "px", short)
	try(&must, "+incr", "incr", number)
	try(&must, "+getrange", "getrange", key, "0", "0")
	try(&must, "+exists", "exists", key)
	try(&must, "+evalsha", "evalsha", putScript.Hash(), "0") // it does nothing without keys
	try(&must, "+eval", "eval", "return 1", "0")
	try(&must, "+scan", "scan", "0", "match", globEscape(prefix)+"*", "count", "1")
	try(&must, "+ping", "ping")
	try(&must, "+unlink", "unlink", key)
	try(&must, "+unlink", "unlink", number)
	try(&may, "+info", "info", "replication")
	try(&may, "+"+publish+" +"+subscribe, publish, channel, "")
	// Each tells by itself, unless there was no connection.
	if cmds, err := pipe.Exec(ctx); err != nil && !slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
		if Forbidden(err) && strings.Contains(err.Error(), "'select'") { // which comes first, for another database than 0
			return c.grant(ctx, []string{"+select"}), "", nil
		}
		return "", "", wrap("rights", err)
	}
	keys, channels := "~"+globEscape(prefix)+"*", "&"+globEscape(channel)
	give := map[string]string{"one of the keys": keys, "access a key": keys, // the latter since 7.2
		"one of the channels": channels, "access a channel": channels}
	if err := must.look(give); err != nil {
		return "", "", wrap("rights", err)
	}
	if err := may.look(give); err != nil {
		return "", "", wrap("rights", err)
	}
	return c.grant(ctx, must.lacks), c.grant(ctx, may.lacks), nil
}

// rights are attempts, and what they were refused for.
type rights struct {
	tried []attempt
	lacks []string
}

type attempt struct {
	give string // what to give an account that may not
	cmd  *redis.Cmd
}

func (r *rights) look(give map[string]string) error {
	seen := make(map[string]bool)
	for _, a := range r.tried {
		err := a.cmd.Err()
		if !Forbidden(err) {
			if Classify(err) == Outage || Classify(err) == CallerGone {
				return err
			}
			continue // it was let in
		}
		rule := a.give
		for what, r := range give {
			if strings.Contains(err.Error(), what) {
				rule = r
			}
		}
		if !seen[rule] {
			seen[rule] = true
			r.lacks = append(r.lacks, rule)
		}
	}
	return nil
}

// grant is the statement that gives this client's account some rights.
func (c *Client) grant(ctx context.Context, rules []string) string {
	if len(rules) == 0 {
		return ""
	}
	name, err := c.rdb.Do(ctx, "acl", "whoami").Text()
	if err != nil {
		name = "ACCOUNT"
		switch r := c.rdb.(type) {
		case *redis.Client:
			name = r.Options().Username
		case *redis.ClusterClient:
			name = r.Options().Username
		}
	}
	if name == "" {
		name = "default"
	}
	return "ACL SETUSER " + name + " " + strings.Join(rules, " ")
}
