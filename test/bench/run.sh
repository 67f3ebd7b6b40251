#!/bin/bash
# Measures what lockguard costs and how exact it is, on temporary servers, and prints one table.
#
#   test/bench/run.sh                             PostgreSQL 15, 15 to 20 minutes
#   test/bench/run.sh quick                       4 minutes, with fewer repetitions
#   test/bench/run.sh quick jam                   only one subject, or several of them:
#                                                 quiet, jam, judge, exact, rollback, yield,
#                                                 throughput, memory
#   PG_CONFIG=/path/pg_config test/bench/run.sh   another PostgreSQL
#
# No test: a figure that misses its aim says so in the last column, and the command still succeeds.
# The machine should do nothing else meanwhile.

. "$(dirname "$0")/../common.sh"

windows=10 rounds=200 jam_seconds=4 trials=100 busy_trials=100
pairs=12 run_seconds=2 idle_seconds=60 open_seconds=15 scans=10000 yield_rounds=3 messages=1000
extent=full
if [ "${1:-}" = quick ]; then
	windows=3 rounds=50 jam_seconds=1 trials=10 busy_trials=5
	pairs=1 run_seconds=2 idle_seconds=10 open_seconds=5 scans=2000 yield_rounds=1 messages=200
	extent=quick
	shift
fi
subjects=${*:-quiet jam judge exact rollback yield throughput memory}
for subject in $subjects; do
	case $subject in
	quiet | jam | judge | exact | rollback | yield | throughput | memory) ;;
	*) die "usage: $0 [quick] [quiet] [jam] [judge] [exact] [rollback] [yield] [throughput] [memory]" ;;
	esac
done

say()
{
	printf '%3d s  %s\n' $SECONDS "$*" >&2
}

# server NAME PORT [line of postgresql.conf ...]: a copy of the first one.
server()
{
	local name=$1 port=$2

	shift 2
	as_user cp -a "$tmp/data" "$tmp/$name" &&
		printf '%s\n' "$@" | as_user tee -a "$tmp/$name/postgresql.conf" >/dev/null &&
		as_user pg_ctl -s -w -D "$tmp/$name" -l "$tmp/$name.log" -o "-p $port" start ||
		{ tail -n 30 "$tmp/$name.log"; die "server $name does not start"; }
}

stop()
{
	local name

	for name; do
		as_user pg_ctl -s -w -D "$tmp/$name" -m immediate stop && rm -rf "${tmp:?}/$name"
	done
}

# bench SUBJECT ...: writes rows of the table; see bench.pl.  If it fails, the others continue.
bench()
{
	as_user perl -I "$tmp/plain/test/lib" "$tmp/plain/test/bench/bench.pl" "$@" >>"$tmp/$1.rows" && return
	say "measuring $1 failed"
	echo "$1" >>"$tmp/failed"
}

# Out of reach, so that they cost what they cost and signal no session.
limits=(
	"lockguard.idle_blocker_timeout = 1h" "lockguard.blocker_timeout = 1h"
	"lockguard.queued_blocker_timeout = 1h" "lockguard.max_blocked_sessions = 1000000"
	"lockguard.lock_wait_timeout = 1h" "lockguard.transaction_timeout = 1h"
	"lockguard.idle_in_transaction_timeout = 1h" "lockguard.statement_timeout = 1h"
	"lockguard.idle_session_timeout = 1h" "lockguard.preempt_timeout = 1h"
)
counts=("lockguard.max_locks = 1000000" "lockguard.max_xmin_age = 1000000000")

# For each workload, a server with lockguard (B) and two without (A1, A2) take turns: often and
# shortly, as what else the machine does changes from minute to minute.
throughput()
{
	local workload rep name order worker before

	worker=$(psql -X -A -t -p 5433 -d postgres -c "SELECT worker_pid FROM lockguard.stats")
	for workload in read-only TPC-B 4-hot-rows search-path; do
		for rep in $(seq "$pairs"); do
			case $((rep % 3)) in
			1) order="A1 B A2" ;;
			2) order="B A2 A1" ;;
			0) order="A2 A1 B" ;;
			esac
			for name in $order; do
				before=$(on_cpu $worker)
				echo "$workload $rep $name $(one_run $workload $name) $(($(on_cpu $worker) - before))"
			done
		done
	done
}

# The time for which a process has had a core, in ns.
on_cpu()
{
	cut -d' ' -f1 "/proc/$1/schedstat"
}

one_run()
{
	local arguments port

	case $1 in
	read-only) arguments="-S -c 4" ;;
	TPC-B) arguments="-c 4" ;;
	4-hot-rows) arguments="-f $tmp/hot.sql -c 8" ;;
	search-path) arguments="-f $tmp/path.sql -c 4" ;;
	esac
	case $2 in
	A1) port=5431 ;;
	A2) port=5432 ;;
	B) port=5433 ;;
	esac
	as_user pgbench -n -M prepared -j 2 -T "$run_seconds" -p $port $arguments postgres 2>>"$tmp/pgbench.log" |
		sed -n 's/^tps = \([0-9.]*\).*/\1/p'
}

prepare
load=$(cut -d' ' -f1 /proc/loadavg)
perl -MTest::More -MIO::Socket::UNIX -MTime::HiRes -e 1 2>/dev/null || { apt_update; apt_install perl; }
ulimit -Sn "$(ulimit -Hn)"

say "building lockguard for $pg_version"
build plain >"$tmp/build.log" 2>&1 && install_build plain >>"$tmp/build.log" 2>&1 ||
	{ cat "$tmp/build.log"; die "lockguard does not build"; }
start_server "autovacuum = off" "max_wal_size = 8GB" "checkpoint_timeout = 1h" "jit = off" >&2 || exit 1
psql -X -q -v ON_ERROR_STOP=1 -d postgres -f "$tmp/plain/test/bench/setup.sql" 9<&- || exit 1
as_user pgbench -i -q -s 10 postgres >/dev/null 2>&1 || die "pgbench -i failed"
stop_server
cat >"$tmp/hot.sql" <<'SQL'
\set id random(1, 4)
UPDATE hot SET v = v + 1 WHERE id = :id;
SQL
echo "SELECT sum(pinned(i)) FROM generate_series(1, 200) i;" >"$tmp/path.sql"
cat >"$tmp/churn.sql" <<'SQL'
\set id random(1, 4)
BEGIN;
UPDATE hot SET v = v + 1 WHERE id = :id;
\sleep 5 ms
COMMIT;
SQL

# Every subject's servers are its own.
measure_quiet()
{
	local size

	for size in 100 1000 10000; do
		say "quiet server, max_connections = $size"
		server quiet 5440 "max_connections = $size" "lockguard.naptime = 10ms" "${limits[@]}"
		bench quiet 5440 $size $windows $rounds
		stop quiet
	done
}

# After deadlock_timeout each waiter searches the whole queue for a deadlock, with all lock
# partitions held exclusively: with 1,000 of them the server would do nothing else for a minute.
measure_jam()
{
	say "jammed server"
	server jam 5441 "max_connections = 1020" "max_locks_per_transaction = 200" "deadlock_timeout = 1h" \
		"lockguard.naptime = 10ms" "lockguard.incident_threshold = 100ms" "${limits[@]}"
	bench jam 5441 $jam_seconds
	stop jam
}

measure_judge()
{
	say "jammed server, limits passed"
	server judge 5445 "max_connections = 1020" "max_locks_per_transaction = 200" "deadlock_timeout = 1h" \
		"lockguard.naptime = 10ms" "lockguard.incident_threshold = 100ms" "lockguard.dry_run = on" \
		"lockguard.idle_blocker_timeout = 1s" "lockguard.blocker_timeout = 1s" \
		"lockguard.queued_blocker_timeout = 1s"
	bench judge 5445 $jam_seconds
	stop judge
}

measure_exact()
{
	say "from limit to release"
	server exact 5442 "max_connections = 600" "deadlock_timeout = 10s" "lockguard.max_actions_per_minute = 10000"
	bench exact 5442 $trials
	say "from limit to release, 500 waiters and pgbench on both cores"
	bench busy 5442 $busy_trials
	stop exact
}

measure_rollback()
{
	say "rolled back or terminated"
	server rollback 5447 "max_connections = 100" "lockguard.max_actions_per_minute = 10000" \
		"lockguard.max_history = 10000"
	bench rollback 5447 $trials $messages
	stop rollback
}

# The waits of pgbench's clients, and of an ALTER TABLE, behind a slow reader.
measure_yield()
{
	say "an ALTER TABLE that lets others pass"
	server yield 5446 "max_connections = 100"
	bench yield 5446 $yield_rounds "$tmp"
	stop yield
}

measure_throughput()
{
	local idle

	say "throughput; meanwhile, wake-ups of an idle server"
	server A1 5431 "shared_preload_libraries = ''"
	server A2 5432 "shared_preload_libraries = ''"
	server B 5433 "${limits[@]}" "${counts[@]}"
	server idle 5443 "lockguard.idle_blocker_timeout = 500ms"
	bench idle 5443 $idle_seconds $open_seconds &
	idle=$!
	throughput >"$tmp/tps"
	bench throughput "$tmp/tps" "$run_seconds"
	wait $idle
	stop A1 A2 B idle
}

measure_memory()
{
	say "memory under churn"
	server memory 5444 "max_connections = 1000" "lockguard.incident_threshold = 10ms" \
		"lockguard.max_history = 100" "${limits[@]}" "${counts[@]}"
	as_user pgbench -n -p 5444 -f "$tmp/churn.sql" -c 20 -T 600 postgres >/dev/null 2>&1 &
	as_user pgbench -n -p 5444 -C -S -c 2 -T 600 postgres >/dev/null 2>&1 &
	bench memory 5444 $scans
	stop memory
}

for subject in $subjects; do
	measure_$subject
done

cat <<TABLE

# $pg_version, $(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)), Linux $(uname -r)
# $(date -u +%Y-%m-%d), $extent run of $((SECONDS / 60)) min $((SECONDS % 60)) s; load average before it $load
#
# Each figure is a median (minimum to maximum over the repetitions), unless it says otherwise.

TABLE
for subject in quiet jam judge exact busy rollback yield throughput idle memory; do
	cat "$tmp/$subject.rows" 2>/dev/null
done >"$tmp/rows"
bench table "$tmp/rows"
cat "$tmp/table.rows"
[ ! -e "$tmp/failed" ]
