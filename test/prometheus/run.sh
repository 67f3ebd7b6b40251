#!/bin/bash
# Reads lockguard's metrics with the real postgres_exporter, and checks the alert rules with promtool.
#
#   test/prometheus/run.sh                             PostgreSQL 15
#   PG_CONFIG=/path/pg_config test/prometheus/run.sh   another one
#
# Both programs are Debian's. If they are not installed, their packages are only unpacked in the
# temporary folder, so that no service is installed. Everything listens on the loopback address only,
# and is stopped at the end.

. "$(dirname "$0")/../common.sh"

passed=0
failed=0

stop_exporter()
{
	[ ! -s "$tmp/exporter.pid" ] || kill "$(cat "$tmp/exporter.pid")" 2>/dev/null
}

scrape()
{
	curl -sf "http://127.0.0.1:$port/metrics" >"$tmp/metrics"
}

# scrape_until PATTERN: metrics are of the moment when they are read.
scrape_until()
{
	local deadline=$((SECONDS + 30))

	until scrape && grep -qE "$1" "$tmp/metrics"; do
		[ $SECONDS -lt $deadline ] || return 1
		sleep 0.2
	done
}

# line METRIC VALUE: that line of /metrics, as a pattern. The exporter adds a label for the server.
line()
{
	echo "^$1(\\{[^}]*\\})? $2\$"
}

has()
{
	grep -qE "$(line "$1" "$2")" "$tmp/metrics"
	checked $? "/metrics has $1 $2"
}

sql()
{
	psql -X -q -At -d postgres "$@" 9<&-
}

sql_from()
{
	psql -X -q -At -d postgres -U app <"$1" 9<&-
}

files=$top/prometheus
prepare
need prometheus promtool
promtool=$found
need prometheus-postgres-exporter prometheus-postgres-exporter
exporter=$found
install_for curl curl

"$promtool" check rules "$files/alerts.yml" >"$tmp/rules.log" 2>&1
checked $? "promtool accepts the alert rules" || cat "$tmp/rules.log"
cp "$files/alerts.yml" "$top/test/prometheus/alerts_test.yml" "$tmp"
"$promtool" test rules "$tmp/alerts_test.yml" >"$tmp/alerts.log" 2>&1
status=$?
checked $status "the alerts fire when they should"
[ $status = 0 ] || cat "$tmp/alerts.log"

build plain >"$tmp/build.log" 2>&1 && install_build plain >>"$tmp/build.log" 2>&1 ||
	{ cat "$tmp/build.log"; die "lockguard does not build"; }
start_server "lockguard.incident_threshold = '100ms'" "lockguard.naptime = '100ms'" || exit 1
sql <<'SQL' || exit 1
CREATE EXTENSION lockguard;
CREATE ROLE exporter LOGIN;
CREATE ROLE app LOGIN;
ALTER ROLE app SET lockguard.idle_blocker_timeout = '500ms';
CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t VALUES (1, 0), (2, 0);
GRANT ALL ON t TO app;
SQL

port=$(perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport')
at_exit=stop_exporter
DATA_SOURCE_NAME="host=$tmp port=$PGPORT user=exporter dbname=postgres sslmode=disable" \
	as_user sh -c 'echo $$ >"$0" && exec "$@"' "$tmp/exporter.pid" "$exporter" --web.listen-address="127.0.0.1:$port" --extend.query-path="$tmp/plain/prometheus/lockguard.postgres_exporter.yml" \
	--disable-default-metrics --disable-settings-metrics --no-collector.database --no-collector.bgwriter \
	>"$tmp/exporter.log" 2>&1 &
scrape_until "$(line lockguard_worker_up 1)" || { cat "$tmp/exporter.log"; die "no metrics of lockguard"; }
has lockguard_blocked_sessions '0'
has lockguard_open_incidents '0'
has lockguard_incidents_total '0'
grep -qE '^lockguard_idle_lock_holders\{.*mode="AccessExclusiveLock".*\} 0$' "$tmp/metrics"
checked $? "/metrics has a row for each lock mode"
has lockguard_enabled '1'
has lockguard_dry_run '0'
has lockguard_paused '0'
sql -c "SELECT lockguard.pause('1h')" >/dev/null
scrape_until "$(line lockguard_paused 1)"
checked $? "a pause shows"
sql -c "SELECT lockguard.resume()" >/dev/null

# A counter that appears only once it is 1 has not increased, by Prometheus's lights.
missing=
for limit in "" $(sed -nE '/^### Limits/,/^### How/ s/^\| `([a-z_]+)`.*/\1/p' "$top/docs/reference.md") prepared_transaction_timeout; do
	grep -qE "^lockguard_actions_total\{.*action=\"log\",limit=\"$limit\".*\} 0\$" "$tmp/metrics" || missing="$missing '$limit'"
done
[ -z "$missing" ]
checked $? "/metrics has the actions by each limit before there are any${missing:+; not by$missing}"

# One transaction rolled back by a limit, and then one that nothing is done about.
fifo=$tmp/root.in
as_user mkfifo "$fifo"
sql_from "$fifo" >"$tmp/root.out" 2>&1 &
rolled_back=$!
exec 8>"$fifo"
echo 'BEGIN; UPDATE t SET v = 1 WHERE id = 1;' >&8
until [ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")" = 1 ]; do sleep 0.05; done
sql -c 'UPDATE t SET v = 2 WHERE id = 1'
exec 8>&-
wait $rolled_back 2>/dev/null
sql -c 'BEGIN; UPDATE t SET v = 1 WHERE id = 2; SELECT pg_sleep(1000)' >/dev/null 2>&1 &
root=$!
until [ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")" = 1 ]; do sleep 0.05; done
sql -c 'UPDATE t SET v = 2 WHERE id = 2' >/dev/null 2>&1 &
waiter=$!
scrape_until "$(line lockguard_open_incidents 1)"
checked $? "/metrics has the open incident"
has lockguard_blocked_sessions '1'
has lockguard_longest_wait_seconds '[0-9.e-]*[1-9][0-9.e-]*'
has lockguard_incidents_total '2'
grep -qE '^lockguard_actions_total\{.*action="rollback",limit="idle_blocker_timeout".*\} 1$' "$tmp/metrics"
checked $? "/metrics has the action, with its limit"
grep -qE '^lockguard_actions_total\{.*action="cancel",limit="idle_blocker_timeout".*\} 0$' "$tmp/metrics"
checked $? "and those that there were none of"
grep -qE '^lockguard_role_waiting_sessions\{database="postgres",role="postgres".*\} 1$' "$tmp/metrics"
checked $? "/metrics has the role that waits"
grep -qE '^lockguard_role_blocking_seconds\{database="postgres",role="app".*\} (0\.[4-9]|[1-9])[0-9.]*$' "$tmp/metrics"
checked $? "/metrics has the role that others have lost time to"
[ "$(awk '/^lockguard_signals_total/ { n += $NF } END { print n }' "$tmp/metrics")" = 1 ]
checked $? "/metrics has the signal, by how late it was"
has lockguard_max_lateness_seconds '[0-9.e-]*[1-9][0-9.e-]*'
has lockguard_lock_table_size "$(sql -c "SELECT current_setting('max_locks_per_transaction')::int * current_setting('max_connections')::int")"
has lockguard_scans_total '[1-9][0-9]*'
has lockguard_scan_seconds_total '[0-9.e-]*[1-9][0-9.e-]*'
has lockguard_blocked_seconds_total '[0-9.e-]*[1-9][0-9.e-]*'
has lockguard_last_scan_timestamp_seconds '[0-9.e+]+'
grep -q '^# TYPE lockguard_incidents_total counter$' "$tmp/metrics"
checked $? "which tells counters from gauges"
! grep -E '^pg_exporter_(last_scrape_error|user_queries_load_error).* 1$' "$tmp/metrics"
checked $? "the exporter reports no error"
sql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'" >/dev/null
wait $root $waiter 2>/dev/null

# promtool knows Prometheus's conventions; "limit" and so on are ours.
grep -E '^(# [A-Z]+ )?lockguard_' "$tmp/metrics" | "$promtool" check metrics >"$tmp/lint.log" 2>&1
status=$?
checked $status "promtool finds nothing wrong with the names"
[ $status = 0 ] || cat "$tmp/lint.log"

# Every alert is about metrics that there are.
missing=
for metric in $(grep -oE '\blockguard_[a-z_]+' "$files/alerts.yml" | sort -u); do
	grep -qE "^$metric[{ ]" "$tmp/metrics" || missing="$missing $metric"
done
[ -z "$missing" ]
checked $? "the alerts' metrics exist${missing:+; not:$missing}"

# The other file has the same metrics, and its queries run.
diff <(grep -oE '^lockguard_[a-z_]+' "$tmp/metrics" | sort -u) \
	<(sed -nE 's/^ *- metric_name: //p' "$files/lockguard.sql_exporter.yml" | sort -u)
checked $? "the file for sql_exporter has the same metrics"
diff <(awk '/^  query: /,/^  metrics:/' "$files/lockguard.postgres_exporter.yml" | sed -nE 's/^    //p') \
	<(sed '1,/^queries:/d' "$files/lockguard.sql_exporter.yml" | sed -nE 's/^      //p')
checked $? "and the same queries"
awk '/^queries:/ { on = 1 } on && /^  - query_name:/ { if (q) print q ";"; q = ""; next }
	on && !/^ *query: \|/ && !/^queries:/ { q = q " " $0 } END { print q ";" }' \
	"$files/lockguard.sql_exporter.yml" >"$tmp/queries.sql"
sql -U exporter -v ON_ERROR_STOP=1 -f "$tmp/queries.sql" >"$tmp/queries.out" 2>&1
status=$?
[ $status != 0 ] || [ "$(wc -l <"$tmp/queries.out")" -ge 2 ]
checked $? "which run"
[ $status = 0 ] || cat "$tmp/queries.out"

echo "$passed passed, $failed failed"
[ $failed = 0 ]
