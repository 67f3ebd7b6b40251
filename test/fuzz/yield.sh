#!/bin/bash
# Random load for lock requests that step aside: sessions take all kinds of locks in all modes, half of them with
# queue_yield_timeout; they are cancelled, terminated and in deadlocks, and the worker ends at random. No session
# may wait for a lock that is free, each deadlock must be found, and no lock may be left at the end.
#
#   test/fuzz/yield.sh [SECONDS [SEED]]       60 seconds, and a new seed, unless given
#   test/fuzz/yield.sh broken [PATCH ...]     shows that the builds of test/fuzz/broken_yield are caught
#   YIELD_SESSIONS=n                          instead of 24
#   PG_CONFIG=/path/pg_config, LOCKGUARD_KEEP=1   as for test/check.sh
#
# A server built with assertions checks each step. The last line is "N passed, N failed".

. "$(dirname "$0")/common.sh"

passed=0
failed=0

# perl_script NAME FILE: a TAP test, with the build of that name, which is installed.
perl_script()
{
	as_user mkdir -p "$tmp/tap/log"
	as_user env -u PGHOST -u PGUSER -u PGPORT \
		TESTDIR="$tmp/tap" TESTDATADIR="$tmp/tap/tmp_check" TESTLOGDIR="$tmp/tap/tmp_check/log" \
		PG_REGRESS="$pgxs/src/test/regress/pg_regress" top_builddir="$tmp/tap" \
		perl -I "$pgxs/src/test/perl" -I "$tmp/$1/test/lib" "$tmp/$1/$2" </dev/null
}

# load NAME SECONDS SEED: with the build of that name, which is installed.
load()
{
	YIELD_SECONDS=$2 YIELD_SEED=$3 perl_script "$1" test/fuzz/yield.pl >"$tmp/load.log" 2>&1
	grep -E '^(not ok|# )' "$tmp/load.log"
	! grep -rhE 'TRAP: |PANIC: |was terminated by signal (4|6|7|8|11)\b' "$tmp/tap/tmp_check/log" &&
		grep -q '^ok .* no lock is left' "$tmp/load.log" && ! grep -q '^not ok' "$tmp/load.log"
}

# A test or the load has to fail. The first line of a patch says what it does.
try_broken()
{
	local patch=$1 name try caught=

	name=$(basename "$patch" .patch)
	if ! { build "$name" && as_user patch -s -F0 -p1 -d "$tmp/$name" <"$patch" &&
		as_user make -C "$tmp/$name" -s PG_CONFIG="$PG_CONFIG" with_llvm=no clean &&
		as_user make -C "$tmp/$name" -s PG_CONFIG="$PG_CONFIG" with_llvm=no all &&
		as_user make -C "$tmp/$name/test/unit" -s -j 2 PG_CONFIG="$PG_CONFIG" unit &&
		install_build "$name"; } >"$tmp/build.log" 2>&1; then
		tail -n 20 "$tmp/build.log"
		echo "FAILED  $name: does not build"
		failed=$((failed + 1))
		return
	fi
	as_user env ASAN_OPTIONS=detect_leaks=0 "$tmp/$name/test/unit/unit" "step aside" >"$tmp/found.log" 2>&1 ||
		caught="$caught unit tests;"
	rm -rf "$tmp/tap"
	perl_script "$name" test/t/060_yield.pl >"$tmp/found.log" 2>&1 ||
		caught="$caught test/t/060_yield.pl ($(grep -hoE '^not ok.*|timed out.*' "$tmp/found.log" | head -n 1));"
	for try in 1 2; do
		rm -rf "$tmp/tap"
		load "$name" 10 "$try" >"$tmp/found.log" && continue
		caught="$caught the load: $(grep -hoE 'TRAP: .*|not ok.*' "$tmp/found.log" | head -n 1 | cut -c 1-100)"
		break
	done
	if [ -n "$caught" ]; then
		echo "ok      $name:$caught"
		passed=$((passed + 1))
	else
		echo "FAILED  $name is not caught"
		failed=$((failed + 1))
	fi
}

prepare tests
if [ "${1:-}" = broken ]; then
	shift
	[ $# != 0 ] || set -- "$top"/test/fuzz/broken_yield/*.patch
	for patch; do
		try_broken "$top/test/fuzz/broken_yield/$(basename "$patch" .patch).patch"
	done
else
	build plain || exit 1
	install_build plain >/dev/null || exit 1
	if load plain "${1:-60}" "${2:-$((SECONDS + $$))}"; then
		passed=1
	else
		failed=1
		tail -n 60 "$tmp/load.log"
	fi
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
