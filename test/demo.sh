#!/bin/bash
# Replays two real outages on a temporary server, first without a limit, then with one.
#
#   test/demo.sh                             PostgreSQL 15
#   PG_CONFIG=/path/pg_config test/demo.sh   another one

. "$(dirname "$0")/common.sh"

heading()
{
	printf '\n%s\n%s\n\n' "$*" "${*//?/=}"
}

step()
{
	printf '\n--- %s\n\n' "$*"
}

say()
{
	echo "$*" | fold -s -w 90 | sed 's/ *$//'
}

indent()
{
	sed 's/^/    /'
}

shop()
{
	psql -X -q -d shop "$@" 9<&-
}

# wait_until CONDITION: the sessions run at their own pace.
wait_until()
{
	local deadline=$((SECONDS + 30))

	until [ "$(shop -At -c "SELECT $1")" = t ]; do
		[ $SECONDS -lt $deadline ] || die "gave up waiting until: $1"
		sleep 0.05
	done
}

# open_session NAME ROLE: a client that stays connected. What it prints is written to $tmp/NAME.out.
declare -A pipe
open_session()
{
	local fd

	rm -f "$tmp/$1.in"
	mkfifo "$tmp/$1.in"
	PGAPPNAME=$1 shop -U "$2" <"$tmp/$1.in" >"$tmp/$1.out" 2>&1 &
	exec {fd}>"$tmp/$1.in"
	pipe[$1]=$fd
}

tell()
{
	echo "$2" >&"${pipe[$1]}"
}

close_session()
{
	local fd=${pipe[$1]}

	exec {fd}>&-
}

# start_crowd NAME COUNT SQL: that many clients of the application with one statement each.
crowd=()
start_crowd()
{
	local i

	crowd=()
	started=$EPOCHREALTIME
	for i in $(seq "$2"); do
		PGAPPNAME=$1 shop -U app -c "$3" >/dev/null 2>&1 &
		crowd+=($!)
	done
	wait_until "count(*) = $2 FROM pg_stat_activity WHERE application_name = '$1' AND wait_event_type = 'Lock'"
}

# await_crowd NAME: until all its clients are done; sets $finished and $took to say so.
await_crowd()
{
	local pid count=0

	wait_until "count(*) = 0 FROM pg_stat_activity WHERE application_name = '$1'"
	for pid in "${crowd[@]}"; do
		! wait "$pid" || count=$((count + 1))
	done
	[ $count = ${#crowd[@]} ] || die "only $count of ${#crowd[@]} clients succeeded"
	finished="all $count $1s have finished"
	took="$(echo "$started $EPOCHREALTIME" | awk '{printf "%.1f", $2 - $1}') seconds"
}

show_tree()
{
	local lines=8 count

	echo "    shop=# SELECT * FROM lockguard.tree();"
	shop -At -c "SELECT * FROM lockguard.tree()" >"$tmp/tree"
	head -n $lines "$tmp/tree" | indent
	count=$(wc -l <"$tmp/tree")
	[ "$count" -le $lines ] || echo "    ... and $((count - lines)) more lines"
}

# still_blocked NAME SECONDS: lets the outage last, and says how bad it is.
still_blocked()
{
	wait_until "min(clock_timestamp() - waitstart) > '$2 s' FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE application_name = '$1' AND NOT granted"
	say "The $1s start. $2 seconds later $(shop -At -c "SELECT count(*) FROM pg_stat_activity
		WHERE application_name = '$1' AND wait_event_type = 'Lock'") of ${#crowd[@]} are still blocked:"
	echo
	show_tree
}

# show_error NAME: what that client was told, without what psql adds about its connection.
show_error()
{
	local deadline=$((SECONDS + 10))

	until grep -q HINT "$tmp/$1.out"; do
		[ $SECONDS -lt $deadline ] || { cat "$tmp/$1.out"; die "$1 was not told why"; }
		sleep 0.05
	done
	grep -E '^(FATAL|ERROR|DETAIL|HINT): ' "$tmp/$1.out" | grep -A 2 lockguard -B 1 |
		fold -s -w 86 | sed 's/ *$//' | indent
}

show_record()
{
	wait_until "result <> 'pending' FROM lockguard.actions ORDER BY action_id DESC LIMIT 1"
	echo "    shop=# SELECT * FROM lockguard.actions;    (some of its columns)"
	shop -x -c "SELECT usename, state, query, limit_name, limit_value, limit_source, action, result,
		released_after, blocked_sessions, longest_wait
		FROM lockguard.actions ORDER BY action_id DESC LIMIT 1" | sed 1d | indent | sed '/^ *$/d'
}

# A migration batch: 10,000 rows in, one update, then an error that only undoes a savepoint.
half_failed_batch()
{
	open_session batch app
	tell batch "BEGIN;
		INSERT INTO accounts SELECT 1000 + i, 0 FROM generate_series(1, 10000) i;
		UPDATE accounts SET balance = 1 WHERE id = 1;
		SAVEPOINT s;
		SELECT 1/0;"
	wait_until "count(*) = 1 FROM pg_stat_activity WHERE application_name = 'batch' AND state LIKE 'idle in transaction%'
		AND query LIKE '%1/0%'"
	start_crowd writer 19 "UPDATE accounts SET balance = balance + 1 WHERE id = 1"
}

alter_behind_report()
{
	open_session report reporting
	tell report "BEGIN ISOLATION LEVEL REPEATABLE READ;
		LOCK TABLE accounts IN ACCESS SHARE MODE;
		SELECT pg_sleep(600);"
	wait_until "count(*) = 1 FROM pg_stat_activity WHERE application_name = 'report' AND wait_event = 'PgSleep'"
	open_session migration migrator
	tell migration "ALTER TABLE accounts ADD COLUMN note text;"
	wait_until "count(*) = 1 FROM pg_stat_activity WHERE application_name = 'migration' AND wait_event_type = 'Lock'"
	start_crowd reader 10 "SELECT count(*) FROM accounts"
}

prepare
say "lockguard on $pg_version: building it and starting a temporary server."
build plain >"$tmp/build.log" 2>&1 && install_build plain >>"$tmp/build.log" 2>&1 ||
	{ cat "$tmp/build.log"; die "lockguard does not build"; }
start_server || exit 1
psql -X -q -d postgres -c "CREATE DATABASE shop" 9<&-
shop -v ON_ERROR_STOP=1 <<'SQL' || exit 1
CREATE EXTENSION lockguard;
CREATE ROLE app LOGIN;
CREATE ROLE reporting LOGIN;
CREATE ROLE migrator LOGIN;
CREATE TABLE accounts (id int PRIMARY KEY, balance int);
INSERT INTO accounts SELECT i, 0 FROM generate_series(1, 1000) i;
ALTER TABLE accounts OWNER TO migrator;
GRANT SELECT, INSERT, UPDATE ON accounts TO app, reporting;
SQL

heading "Outage 1: a migration batch fails half-way and leaves its transaction open"

say "A batch has updated a row when one of its statements fails. The client does nothing more:" \
	"its session sits idle in transaction and keeps the row locked. 19 clients of the" \
	"application want to update that row. In July 2025 this cost a company 20 minutes."

step "Without a limit"
half_failed_batch
still_blocked writer 4
echo
say "Nothing would change until the session is found. The demo ends it by hand."
shop -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'batch'" >/dev/null
await_crowd writer
say "Now $finished."
close_session batch

step "With a limit: ALTER ROLE app SET lockguard.idle_blocker_timeout = '2s'"
shop -c "ALTER ROLE app SET lockguard.idle_blocker_timeout = '2s'"
half_failed_batch
say "The same again: the 19 writers are blocked. This time the demo only waits."
await_crowd writer
say "By itself: $finished, after $took."
echo
say "The batch's session is still connected. When its client comes back, it is told why its" \
	"transaction is gone:"
echo
tell batch "COMMIT;"
show_error batch
close_session batch
echo
say "And this is on record:"
echo
show_record

heading "Outage 2: a schema change waits behind a long report, and all queries behind it"

say "A report reads a table for minutes, which blocks no other session. Then a migration wants" \
	"to alter the table. It has to wait for the report, and from then on every query of the table" \
	"queues behind the migration. Known from many companies, up to a used-up connection limit."

step "Without a limit"
alter_behind_report
still_blocked reader 4
echo
say "Nothing would change until the report ends. The demo cancels the migration by hand."
shop -c "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'migration'" >/dev/null
await_crowd reader
say "Now $finished."
shop -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name IN ('report', 'migration')" >/dev/null
close_session migration
close_session report

step "With a limit: ALTER ROLE migrator SET lockguard.queued_blocker_timeout = '2s'"
shop -c "ALTER ROLE migrator SET lockguard.queued_blocker_timeout = '2s'"
alter_behind_report
say "The same again: the 10 readers are blocked. This time the demo only waits."
await_crowd reader
say "By itself: $finished, after $took, and the report is still" \
	"$(shop -At -c "SELECT CASE state WHEN 'active' THEN 'running' ELSE state END FROM pg_stat_activity
		WHERE application_name = 'report'")."
echo
say "The migration can be repeated later. Its client was told:"
echo
show_error migration
echo
say "And this is on record:"
echo
show_record
shop -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'report'" >/dev/null
close_session migration
close_session report

heading "The morning after"

say "What stopped the database, which sessions were blocked, for how long, and what ended it?" \
	"One query writes the postmortem, in Markdown. Its beginning, for the first outage:"
echo
echo "    shop=# SELECT lockguard.report(incident_id) FROM lockguard.actions ...;"
echo
shop -At -c "SELECT lockguard.report(incident_id) FROM lockguard.actions
	WHERE limit_name = 'idle_blocker_timeout'" | sed '/^```mermaid/,$d' | fold -s -w 110 | indent

heading "That was it"
say "Two outages ended by themselves within seconds, and both left a record. The temporary server" \
	"and its files are removed now; lockguard stays installed in $("$PG_CONFIG" --pkglibdir)."
