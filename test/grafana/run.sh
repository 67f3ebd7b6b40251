#!/bin/bash
# Runs each query of grafana/lockguard.json in a real Prometheus during replayed outages, and checks what it gives.
#
#   test/grafana/run.sh                             PostgreSQL 15
#   PG_CONFIG=/path/pg_config test/grafana/run.sh   another one
#   test/grafana/run.sh --draw docs/dashboard.svg   also draws the panels from what Prometheus has then
#   test/grafana/run.sh --lint                      only what can be said about the file alone: no server
#
# Prometheus scrapes Debian's postgres_exporter each second. Both programs, if they are not installed, are only
# unpacked in the temporary folder, so that no service is installed; they listen on the loopback address only. npm
# brings Grafana's types, with which the file is compiled. Grafana itself is not run: how the panels look is not
# checked, nor that Grafana accepts the file.
#
# test/grafana/expected says what each query is to give. The last line is "N passed, N failed". What cannot be
# had is named in a line "not run: ..." before it, and counts as neither.

. "$(dirname "$0")/../common.sh"

schema=@grafana/schema@13.2.3
sdk=@grafana/grafana-foundation-sdk@0.0.21
typescript=typescript@5.9.3
db1=db1:9187		# the instances; the other one is the same server, and must not show
db2=db2:9187
passed=0
failed=0
not_run=
draw=
lint=

case ${1:-} in
"") ;;
--draw)
	draw=${2:?which file?}
	[[ $draw == /* ]] || draw=$PWD/$draw
	;;
--lint) lint=yes ;;
*) die "usage: $0 [--draw FILE | --lint]" ;;
esac

# panels COMMAND [ARGUMENT ...]: adds its checks to those here.
panels()
{
	local command=$1 status

	shift
	perl "$top/test/grafana/panels.pl" "$command" "$top" "$@" >"$tmp/panels.out" 2>"$tmp/panels.err"
	status=$?
	cat "$tmp/panels.out" "$tmp/panels.err"
	passed=$((passed + $(grep -c '^ok ' "$tmp/panels.out")))
	failed=$((failed + $(grep -c '^FAILED' "$tmp/panels.out")))
	[ $status = 0 ] || checked 1 "panels.pl $command"
}

# Compiles the file with Grafana's own types.
check_types()
{
	install_for npm npm
	mkdir -p "$tmp/types" && cd "$tmp/types" &&
		npm install --ignore-scripts --no-audit --no-fund --silent $schema $sdk $typescript >"$tmp/npm.log" 2>&1 || {
		not_run="not run: the dashboard with Grafana's types: npm cannot install them"
		tail -n 3 "$tmp/npm.log"
		cd "$tmp"
		return
	}
	cp "$top/test/grafana/schema.ts" .
	{
		echo "import { Checked } from './schema';"
		printf 'export const dashboard: Checked = '
		cat "$top/grafana/lockguard.json"
	} >dashboard.ts
	npx tsc --noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext --target es2022 dashboard.ts >"$tmp/types.log" 2>&1
	status=$?
	checked $status "the file is a dashboard by Grafana's types ($schema)"
	[ $status = 0 ] || cut -c1-300 "$tmp/types.log"
	cd "$tmp"
}

stop_all()
{
	local pidfile

	for pidfile in "$tmp/prometheus.pid" "$tmp/exporter.pid"; do
		[ ! -s "$pidfile" ] || kill "$(cat "$pidfile")" 2>/dev/null
	done
	# Prometheus writes to its folder until it has ended.
	[ ! -s "$tmp/prometheus.pid" ] || wait_for 30 gone "$(cat "$tmp/prometheus.pid")"
}

gone()
{
	! kill -0 "$1" 2>/dev/null
}

# wait_for SECONDS COMMAND ...
wait_for()
{
	local deadline=$((SECONDS + $1))

	shift
	until "$@"; do
		[ $SECONDS -lt $deadline ] || return 1
		sleep 0.1
	done
}

free_port()
{
	perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport'
}

# start NAME PROGRAM [ARGUMENT ...]: in the background, with its process id in NAME.pid.
start()
{
	local name=$1

	shift
	as_user sh -c 'echo $$ >"$0" && exec "$@"' "$tmp/$name.pid" "$@" >"$tmp/$name.log" 2>&1 9<&- &
}

# The value of a query that has one; nothing if it has none.
value()
{
	curl -sf "$PROMETHEUS/api/v1/query" --data-urlencode "query=$1" | sed -nE 's/.*"value":\[[^,]*,"([^"]*)"\].*/\1/p'
}

has_value()
{
	awk -v a="$(value "$1")" -v b="$2" 'BEGIN { exit !(a != "" && a + 0 >= b + 0) }'
}

# Waits until Prometheus has scraped all that there is now.
settle()
{
	local now=$EPOCHREALTIME instance

	for instance in $db1 $db2; do
		wait_for 60 has_value "timestamp(lockguard_worker_up{instance=\"$instance\"})" "$now" ||
			{ cat "$tmp/prometheus.log"; die "Prometheus does not scrape $instance"; }
	done
}

sql()
{
	psql -X -q -At -d shop "$@" 9<&-
}

until_true()
{
	wait_for 60 is_true "$1" || die "gave up waiting until: $1"
}

is_true()
{
	[ "$(sql -c "SELECT $1")" = t ]
}

# session NAME ROLE DATABASE: a client that stays, told by "tell NAME SQL".
declare -A pipe
declare -A client
session()
{
	local fd

	as_user mkfifo "$tmp/$1.in"
	PGAPPNAME=$1 psql -X -q -At -U "$2" -d "$3" <"$tmp/$1.in" >"$tmp/$1.out" 2>&1 9<&- &
	client[$1]=$!
	exec {fd}>"$tmp/$1.in"
	pipe[$1]=$fd
}

tell()
{
	echo "$2" >&"${pipe[$1]}"
}

leave()
{
	local fd=${pipe[$1]}

	exec {fd}>&-
	wait "${client[$1]}" 2>/dev/null
}

# ask NAME ROLE DATABASE SQL: a client that waits for its one statement.
ask()
{
	PGAPPNAME=$1 psql -X -q -At -U "$2" -d "$3" -c "$4" >"$tmp/$1.out" 2>&1 9<&- &
	client[$1]=$!
}

done_with()
{
	local name

	for name; do
		wait "${client[$name]}" 2>/dev/null
	done
}

is_idle()
{
	until_true "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = '$1' AND state = 'idle in transaction')"
}

waits()
{
	until_true "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = '$1' AND wait_event_type = 'Lock')"
}

# facts SET SQL: of two columns, legend and value.
facts()
{
	sql -c "SELECT '$1', x.* FROM ($2) x" >>"$tmp/facts"
}

# counter SET COLUMN [LEGEND]: how much a column of lockguard.stats has grown since it all began.
counter()
{
	facts "$1" "SELECT '${3:-}$db1', (s.$2 - b.$2)${4:-} FROM lockguard.stats s, begun b"
}

# check MOMENT: with facts that are already there.
check()
{
	panels check "$top/test/grafana/expected" "$tmp/facts" "$1"
}

prepare
install_for perl prove
panels lint
panels list | sort >"$tmp/targets"
sed -nE 's/^[^# ]+ +[^ ]+ +[^ ]+ +[^ ]+ +//p' "$top/test/grafana/expected" | sort -u | diff "$tmp/targets" - >"$tmp/expectations.log"
status=$?
checked $status "test/grafana/expected has each query of each panel"
[ $status = 0 ] || cat "$tmp/expectations.log"
check_types
if [ -n "$lint" ]; then
	[ -z "$not_run" ] || echo "$not_run"
	echo "$passed passed, $failed failed"
	[ $failed = 0 ]
	exit
fi

need prometheus prometheus
prometheus=$found
need prometheus-postgres-exporter prometheus-postgres-exporter
exporter=$found
install_for curl curl
build plain >"$tmp/build.log" 2>&1 && install_build plain >>"$tmp/build.log" 2>&1 ||
	{ cat "$tmp/build.log"; die "lockguard does not build"; }

start_server "lockguard.incident_threshold = '200ms'" "lockguard.naptime = '100ms'" "deadlock_timeout = '300ms'" || exit 1
psql -X -q -d postgres -c 'CREATE DATABASE shop' -c 'CREATE DATABASE other' 9<&-
for role in web app batch reader leaver migrator yielder stubborn; do
	echo "CREATE ROLE $role LOGIN;"
done | sql || exit 1
sql <<'SQL' || exit 1
CREATE EXTENSION lockguard;
CREATE ROLE exporter LOGIN;
GRANT pg_monitor TO exporter;
ALTER ROLE leaver SET lockguard.idle_blocker_timeout = '1s';
ALTER ROLE migrator SET lockguard.queued_blocker_timeout = '1s';
ALTER ROLE yielder SET lockguard.queue_yield_timeout = '200ms';
ALTER ROLE stubborn SET lockguard.blocker_timeout = '500ms';
ALTER ROLE stubborn SET lockguard.action = 'cancel';
CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t SELECT i, 0 FROM generate_series(1, 9) i;
CREATE TABLE u (v int);
CREATE ROLE owner;
GRANT owner TO migrator, yielder;
GRANT ALL ON SCHEMA public TO owner;
ALTER TABLE u OWNER TO owner;
GRANT ALL ON t, u TO PUBLIC;
SQL
psql -X -q -d other -c 'CREATE TABLE t (id int, v int)' -c 'INSERT INTO t VALUES (1, 0)' -c 'GRANT ALL ON t TO PUBLIC' 9<&-

at_exit=stop_all
port=$(free_port)
DATA_SOURCE_NAME="host=$tmp port=$PGPORT user=exporter dbname=shop sslmode=disable" \
	start exporter "$exporter" --web.listen-address="127.0.0.1:$port" \
	--extend.query-path="$tmp/plain/prometheus/lockguard.postgres_exporter.yml" \
	--disable-default-metrics --disable-settings-metrics --no-collector.database --no-collector.bgwriter
cat >"$tmp/prometheus.yml" <<YAML
scrape_configs:
  - job_name: lockguard
    scrape_interval: 1s
    scrape_timeout: 1s
    static_configs:
      - targets: ['127.0.0.1:$port']
        labels: { instance: '$db1' }
  - job_name: the same server once more
    scrape_interval: 1s
    scrape_timeout: 1s
    static_configs:
      - targets: ['127.0.0.1:$port']
        labels: { instance: '$db2' }
YAML
port=$(free_port)
as_user mkdir "$tmp/tsdb"
start prometheus "$prometheus" --config.file="$tmp/prometheus.yml" --storage.tsdb.path="$tmp/tsdb" --web.listen-address="127.0.0.1:$port"
export PROMETHEUS=http://127.0.0.1:$port

# The roles that are there before anything happens: what they cost is counted from zero.
for role in web app batch reader leaver migrator yielder stubborn; do
	session "$role" $role shop
done
session leaver2 leaver shop
session batch2 batch other
session web2 web other
until_true "(SELECT count(DISTINCT usename) FROM pg_stat_activity WHERE usename <> 'postgres') >= 9"
settle
BEGUN=$(value "timestamp(lockguard_worker_up{instance=\"$db1\"})")
export BEGUN
sql -c 'CREATE TABLE begun AS SELECT * FROM lockguard.stats'
cat >"$tmp/facts" <<FACTS
zero|$db1|0
one|$db1|1
two|$db1|2
three|$db1|3
suppressed|suppressed, $db1|2
FACTS
check calm

values=$(curl -sf "$PROMETHEUS/api/v1/series" --data-urlencode 'match[]=lockguard_role_sessions{instance=~"db1:9187"}' | grep -oE '"database":"[^"]*"' | sort -u | tr -d '\n')
[ "$values" = '"database":"""database":"other""database":"shop"' ] || [ "$values" = '"database":"other""database":"shop"' ]
checked $? "the variable for the database has what it needs: $values"

# Has a lock on a table that lets others write to it, and comes before any other.
tell batch2 'BEGIN; UPDATE t SET v = 1 WHERE id = 1;'
is_idle batch2

# A transaction left open: rolled back by a limit.
tell leaver 'BEGIN; UPDATE t SET v = 1 WHERE id = 1;'
is_idle leaver
ask a1 web shop 'UPDATE t SET v = 2 WHERE id = 1'
ask a2 app shop 'UPDATE t SET v = 2 WHERE id = 1'
done_with a1 a2
tell leaver 'ROLLBACK;'

# A queue behind ALTER TABLE: cancelled by a limit.
tell reader 'BEGIN; SELECT count(*) FROM u;'
is_idle reader
ask b0 migrator shop 'ALTER TABLE u ADD w int'
waits b0
ask b1 web shop 'SELECT count(*) FROM u'
ask b2 app shop 'SELECT count(*) FROM u'
done_with b0 b1 b2

# And one that steps aside.
ask c0 yielder shop 'ALTER TABLE u ADD x int'
waits c0
ask c1 web shop 'SELECT count(*) FROM u'
ask c2 web shop 'SELECT count(*) FROM u'
ask c3 app shop 'SELECT count(*) FROM u'
ask c4 app shop 'SELECT count(*) FROM u'
done_with c1 c2 c3 c4
tell reader 'COMMIT;'
done_with c0

# Deadlocks.
for n in 1 2 3; do
	tell web 'BEGIN; UPDATE t SET v = 3 WHERE id = 2;'
	tell app 'BEGIN; UPDATE t SET v = 3 WHERE id = 3;'
	is_idle web
	is_idle app
	tell web 'UPDATE t SET v = 3 WHERE id = 3;'
	tell app 'UPDATE t SET v = 3 WHERE id = 2;'
	until_true "(SELECT deadlocks = $n FROM lockguard.stats)"
	tell web 'ROLLBACK;'
	tell app 'ROLLBACK;'
	until_true "NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name IN ('web', 'app') AND state <> 'idle')"
done

# No more actions are allowed, and then they are.
sql -c "ALTER SYSTEM SET lockguard.max_actions_per_minute = 0" -c 'SELECT pg_reload_conf()' >/dev/null
tell leaver 'BEGIN; UPDATE t SET v = 1 WHERE id = 4;'
tell leaver2 'BEGIN; UPDATE t SET v = 1 WHERE id = 7;'
is_idle leaver
is_idle leaver2
ask d1 web shop 'UPDATE t SET v = 2 WHERE id = 4'
ask d2 web shop 'UPDATE t SET v = 2 WHERE id = 7'
until_true '(SELECT suppressed = 2 FROM lockguard.stats)'
settle
sql -c 'ALTER SYSTEM RESET lockguard.max_actions_per_minute' -c 'SELECT pg_reload_conf()' >/dev/null
done_with d1 d2
tell leaver 'ROLLBACK;'
tell leaver2 'ROLLBACK;'

# The jam: transactions left open that no limit covers, in two databases; a statement that will not be cancelled;
# an idle session with a table locked.
tell batch 'BEGIN; UPDATE t SET v = 1 WHERE id = 5;'
tell reader 'BEGIN; LOCK TABLE u IN SHARE MODE;'
is_idle batch
is_idle reader
ask e1 web shop 'UPDATE t SET v = 2 WHERE id = 5'
ask e2 web shop 'UPDATE t SET v = 2 WHERE id = 5'
waits e1
waits e2
tell web2 'UPDATE t SET v = 2 WHERE id = 1;'
ask stubborn2 stubborn shop "DO \$\$ BEGIN
	UPDATE t SET v = 1 WHERE id = 6;
	LOOP
		BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
	END LOOP;
END \$\$"
until_true "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'stubborn2' AND wait_event = 'PgSleep')"
ask e3 app shop 'UPDATE t SET v = 2 WHERE id = 6'
waits e3
until_true "EXISTS (SELECT FROM lockguard.actions WHERE result = 'unresponsive')"
ask e4 app shop 'UPDATE t SET v = 2 WHERE id = 5'
waits e4
settle
facts now "SELECT '$db1', extract(epoch FROM clock_timestamp())"
facts blocked "SELECT '$db1', 5"
facts open "SELECT '$db1', 3"
facts longest_wait "SELECT '$db1', extract(epoch FROM min(wait_start)) FROM lockguard.lock_tree WHERE level > 0"
facts waiting "SELECT r || ' in ' || d || ', $db1', n FROM (VALUES ('web', 'shop', 2), ('app', 'shop', 2), ('web', 'other', 1)) v (r, d, n)"
facts waiting_other "SELECT 'web in other, $db1', 1"
for database in shop other; do
	facts waits "SELECT usename || ' in ' || datname || ', $db1', extract(epoch FROM min(wait_start))
		FROM lockguard.lock_tree WHERE level > 0 AND datname = '$database' GROUP BY usename, datname"
done
facts waits_other "SELECT 'web in other, $db1', extract(epoch FROM min(wait_start)) FROM lockguard.lock_tree WHERE datname = 'other' AND level > 0"
facts idle_lock "SELECT '$db1', extract(epoch FROM state_change) FROM pg_stat_activity WHERE application_name = 'reader'"
facts idle_locks "SELECT mode || ', $db1', sessions FROM lockguard.idle_locks WHERE sessions > 0"
# Fast-path locks, which do not count, are those of pg_locks with "fastpath".
locks="SELECT usename || ' in ' || datname || ', $db1', count(*)
		/ current_setting('max_locks_per_transaction')::numeric / current_setting('max_connections')::int
	FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE granted AND NOT fastpath AND usename <> 'postgres'"
facts locks "$locks GROUP BY usename, datname"
facts locks_other "$locks AND datname = 'other' GROUP BY usename, datname"
SHOWN=$(value "timestamp(lockguard_worker_up{instance=\"$db1\"})")
export SHOWN
check jam

# One root is rolled back by hand, and the others end.
sql -c "SELECT lockguard.rollback_blockers(pid) FROM pg_stat_activity WHERE application_name = 'e1'" >/dev/null
done_with e1 e2 e4
tell batch 'ROLLBACK;'
tell batch2 'ROLLBACK;'
tell reader 'ROLLBACK;'
sql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'stubborn2'" >/dev/null
done_with stubborn2 e3
until_true "NOT EXISTS (SELECT FROM lockguard.incidents WHERE status = 'open') AND NOT EXISTS (SELECT FROM lockguard.lock_tree)"
sql -c 'ALTER SYSTEM SET lockguard.dry_run = on' -c 'SELECT pg_reload_conf()' >/dev/null
settle
settle
check dry
sql -c "SELECT lockguard.pause('1h')" >/dev/null
settle
settle
check paused
sql -c 'SELECT lockguard.resume()' >/dev/null

# No scan for a minute. Meanwhile all rates have gone down to nothing.
sql -c 'ALTER SYSTEM RESET lockguard.dry_run' -c 'ALTER SYSTEM SET lockguard.enabled = off' -c 'SELECT pg_reload_conf()' >/dev/null
until_true "(SELECT setting FROM pg_settings WHERE name = 'lockguard.enabled') = 'off'"
wait_for 120 is_true "(SELECT last_scan < now() - interval '63 seconds' FROM lockguard.stats)"
longest="SELECT max_partition_lock_time FROM lockguard.stats"
for try in 1 2 3 4 5 6 7 8 9 10; do
	before=$(sql -c "$longest")
	settle
	[ "$before" != "$(sql -c "$longest")" ] || break
done
facts last_scan "SELECT '$db1', extract(epoch FROM last_scan) FROM lockguard.stats"
cost="SELECT usename || ' in ' || datname || ', $db1', extract(epoch FROM sum(total_wait)) FROM lockguard.contention"
facts cost "$cost GROUP BY usename, datname HAVING sum(total_wait) > '0'"
facts cost_other "$cost WHERE datname = 'other' GROUP BY usename, datname"
counter lost blocked_time '' ' / 1000'
facts by_limit "SELECT action || ' by ' || coalesce(limit_name, 'hand') || ', $db1', actions FROM lockguard.action_counts"
facts by_action "SELECT a || ', $db1', coalesce(sum(actions), 0)
	FROM unnest('{log,yield,cancel,rollback,terminate}'::text[]) a LEFT JOIN lockguard.action_counts ON action = a GROUP BY a"
facts lateness "SELECT l || ', $db1', n FROM lockguard.stats, LATERAL (VALUES ('0-1ms', acted_within_1ms),
	('1-10ms', acted_within_10ms - acted_within_1ms), ('10-100ms', acted_within_100ms - acted_within_10ms),
	('100ms-1s', acted_within_1s - acted_within_100ms), ('over 1s', acted_later)) v (l, n)"
counter incidents incidents
counter yields yields 'stepped aside, '
facts passed "SELECT 'sessions that passed, $db1', 4"
counter scans scans 'scans, '
counter lock_scans lock_scans 'lock scans, '
counter scan_time scan_time 'scans, ' ' / 1000'
counter lock_scan_time lock_scan_time 'lock scans, ' ' / 1000'
facts late "SELECT 'signal late, $db1', max_lateness / 1000 FROM lockguard.stats"
facts scan "SELECT 'scan, $db1', max_scan_time / 1000 FROM lockguard.stats"
facts partition_lock "SELECT 'partition lock, $db1', max_partition_lock_time / 1000 FROM lockguard.stats"
check off

# That the views themselves have what was replayed.
sql -c "SELECT coalesce(limit_name, 'hand'), action, actions FROM lockguard.action_counts ORDER BY 1, 2" >"$tmp/actions.out"
diff - "$tmp/actions.out" <<'ACTIONS'
blocker_timeout|cancel|1
hand|rollback|1
idle_blocker_timeout|log|2
idle_blocker_timeout|rollback|3
queue_yield_timeout|yield|1
queued_blocker_timeout|cancel|1
ACTIONS
checked $? "the outages ended as they were meant to"

if [ -n "$draw" ]; then
	panels draw "$draw"
	echo "drawn: $draw ($(wc -c <"$draw") bytes)"
fi
[ -z "$not_run" ] || echo "$not_run"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
