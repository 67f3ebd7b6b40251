#!/bin/bash
# lockguard behind the PgBouncer of this system, in session, transaction and statement pooling: called by run.sh.
#
#   test/poolers/here.sh                             PostgreSQL 15
#   PG_CONFIG=/path/pg_config test/poolers/here.sh   another one
#   test/poolers/here.sh roles waits ...             of "remedies clients roles waits prepared" only these
#   LOCKGUARD_KEEP=1 test/poolers/here.sh            keeps the temporary folder with all logs
#
# Everything listens in the temporary folder and on the loopback address only. Each check is a line "ok" or "FAILED";
# indented lines tell what else was seen. The last line is "N passed, N failed".

. "$(dirname "$0")/../common.sh"
. "$top/test/pgbouncer.sh"

all="remedies clients roles waits prepared"
passed=0
failed=0
not_run=

# Those that a test which was interrupted has left.
stop_pgbouncers()
{
	local file

	for file in "$tmp"/*/pid; do
		[ ! -s "$file" ] || kill -9 "$(cat "$file")" 2>/dev/null
	done
	true
}

run()
{
	local status log=$tmp/$1.log count

	as_user mkdir -p "$tmp/tap/log"
	# Up to version 15 the tests find their folder by TESTDIR, from 16 on by the other two.
	as_user env -u PGHOST -u PGUSER -u PGPORT PGBOUNCER="$pgbouncer" \
		TESTDIR="$tmp/tap" TESTDATADIR="$tmp/tap/tmp_check" TESTLOGDIR="$tmp/tap/tmp_check/log" \
		PG_REGRESS="$pgxs/src/test/regress/pg_regress" top_builddir="$tmp/tap" \
		perl -I "$pgxs/src/test/perl" -I "$tmp/plain/test/lib" -I "$tmp/plain/test/poolers" \
		"$tmp/plain/test/poolers/$1.pl" </dev/null 2>&1 |
		sed -uE -e 's/^ok [0-9]+ - /ok      /; s/^not ok [0-9]+ - /FAILED  /; /^1\.\./d' \
			-e '/^# initializing database system/d; s/^# (not run: )/\1/; s/^# (PgBouncer )/\n\1/; s/^#/       /' |
		tee "$log" | grep --line-buffered -v '^not run: '
	status=${PIPESTATUS[0]}
	count=$(grep -c '^FAILED ' "$log")
	passed=$((passed + $(grep -c '^ok ' "$log")))
	failed=$((failed + count))
	not_run=$not_run$(sed -n 's/^not run: .*/&\n/p' "$log" | grep .)$'\n'
	if [ "$status" != 0 ] && [ "$count" = 0 ]; then
		echo "FAILED  $1.pl ended with status $status"
		failed=$((failed + 1))
		tail -n 40 "$tmp/tap/tmp_check/log/regress_log_$1"
	fi
}

for name; do
	case " $all " in
	*" $name "*) ;;
	*) die "not one of $all: $name" ;;
	esac
done
prepare
at_exit=stop_pgbouncers
missing=$(missing_files "$PG_CONFIG" tests)
[ -z "$missing" ] || die "$PG_CONFIG lacks" $missing
packages=$(pgbouncer_libraries; perl -MIPC::Run -e 1 2>/dev/null || echo libipc-run-perl)
if [ -n "$packages" ]; then
	[ "$(id -u)" = 0 ] || die "missing; install as root: apt-get install" $packages
	echo "Installing" $packages
	apt_update
	apt_install $packages
fi
find_pgbouncer || { echo "not run: PgBouncer: $why_not"; echo "0 passed, 0 failed"; exit; }
build plain >"$tmp/build.log" 2>&1 && install_build plain >>"$tmp/build.log" 2>&1 ||
	{ cat "$tmp/build.log"; die "lockguard does not build"; }
echo "$pg_version, $PG_CONFIG"

for name in ${*:-$all}; do
	run "$name"
done

echo
printf '%s' "$not_run" | grep .
echo "$passed passed, $failed failed"
[ $failed = 0 ]
