#!/bin/bash
# Builds lockguard without warnings and runs every test on temporary servers.
#
#   test/check.sh                             PostgreSQL 15
#   PG_CONFIG=/path/pg_config test/check.sh   another one
#   test/check.sh test/t/005_limits.pl ...    of the TAP tests only these
#   LOCKGUARD_JOBS=2 test/check.sh            that many TAP tests at a time
#   LOCKGUARD_KEEP=1 test/check.sh            keeps the temporary folder with all logs
#
# The last line is "N passed, N failed", where each build, regression test, isolation test and TAP
# file counts as one.

. "$(dirname "$0")/common.sh"

jobs=${LOCKGUARD_JOBS:-3}
passed=0
failed=0

report()
{
	printf '%-8s%s\n' "$1" "$2"
	case $1 in
	ok) passed=$((passed + 1)) ;;
	*) failed=$((failed + 1)) ;;
	esac
}

# step NAME COMMAND ...: one line, and all that the command said if it fails.
step()
{
	local name=$1

	shift
	if "$@" >"$tmp/step.log" 2>&1 </dev/null; then
		report ok "$name"
	else
		report FAILED "$name"
		tail -n 100 "$tmp/step.log" | sed 's/^/    /'
		return 1
	fi
}

finish()
{
	echo "$passed passed, $failed failed"
	[ $failed = 0 ]
	exit
}

# Hooks and SQL functions have parameters that not every one of them needs. PostgreSQL's own headers
# count as the system's, and its flags for gcc mean nothing to clang.
strict_build()
{
	local compiler=$1 flags

	shift
	flags="-isystem ${LOCKGUARD_HEADERS:-$("$PG_CONFIG" --includedir-server)} -Wall -Wextra -Werror -Wno-unused-parameter"
	[ "$1" != debug ] || [ -z "${LOCKGUARD_COVERAGE:-}" ] || flags="$flags --coverage -O0"
	case $compiler in
	*clang*) flags="$flags -Wno-unknown-warning-option -Wno-ignored-optimization-argument" ;;
	esac
	build "$1" CC="$compiler" COPT="$flags" "${@:2}"
}

static_analysis()
{
	# cppcheck does not see PostgreSQL's headers.
	local version=${pg_version#PostgreSQL }

	version=${version%%[^0-9]*}0000
	cppcheck -q -DPG_VERSION_NUM=$version -j 2 --error-exitcode=1 --enable=warning,performance,portability \
		--inline-suppr --suppress=missingInclude --suppress=missingIncludeSystem \
		--suppress=normalCheckLevelMaxBranches \
		"$tmp/plain/src"
}

# A version that lockguard is not for: "make" says so, and so does the compiler. Both name the same versions.
refuses_others()
{
	local which="lockguard is for PostgreSQL ${supported%% *} to ${supported##* }" version

	for version in $((${supported%% *} - 1)) $((${supported##* } + 1)); do
		! make -C "$tmp/plain" -s PG_CONFIG="$PG_CONFIG" MAJORVERSION=$version all >"$tmp/make.log" 2>&1 &&
			grep -F "$which;" "$tmp/make.log" || { echo "make: $version"; return 1; }
		! printf '#include "postgres.h"\n#undef PG_VERSION_NUM\n#define PG_VERSION_NUM %s0000\n#include "compat.h"\n' \
			$version | gcc -I "$("$PG_CONFIG" --includedir-server)" -I "$tmp/plain/src" -fsyntax-only -x c - \
			>"$tmp/make.log" 2>&1 && grep -F "$which\"" "$tmp/make.log" || { echo "gcc: $version"; return 1; }
	done
}

# Nothing but the proof may send a signal.
one_file_signals()
{
	local files

	files=$(cd "$tmp/plain" && grep -lE '\bkill ?\(' src/*.[ch])
	[ "$files" = src/proof.c ] || { echo "calls kill():" $files; return 1; }
}

# Single files outside the server; test/unit/run.sh shows them one by one, and does more.
unit_tests()
{
	as_user make -C "$tmp/plain/test/unit" -s -j 2 PG_CONFIG="$PG_CONFIG" unit &&
		as_user env ASAN_OPTIONS=detect_leaks=0 "$tmp/plain/test/unit/unit"
}

# regression REGRESS|ISOLATION: counts the tests one by one from what pg_regress says.
regression()
{
	local other=ISOLATION diffs=regression.diffs line name

	[ "$1" = REGRESS ] || { other=REGRESS; diffs=output_iso/regression.diffs; }
	as_user make -C "$tmp/debug" -s PG_CONFIG="$PG_CONFIG" $other= TAP_TESTS= installcheck \
		>"$tmp/regress.log" 2>&1 </dev/null && status=0 || status=1
	while read -r line; do
		name=$(echo "$line" | sed -E 's/^(test|(not )?ok +[0-9]+ +[-+]) +([^ ]+).*/\3/')
		case $line in
		"not ok"* | *FAILED*) report FAILED "${1,,} test $name" ;;
		*) report ok "${1,,} test $name" ;;
		esac
	done < <(grep -E '^(test |ok |not ok )' "$tmp/regress.log")
	[ $status = 1 ] || return 0
	[ $failed != 0 ] || report FAILED "make installcheck"
	tail -n 30 "$tmp/regress.log"
	[ ! -f "$tmp/debug/$diffs" ] || head -n 300 "$tmp/debug/$diffs"
	echo "---- server log"
	tail -n 40 "$tmp/server.log"
}

tap_tests()
{
	local file name log

	cd "$tmp/debug" || exit 1
	if [ $# = 0 ]; then
		shopt -s nullglob
		set -- test/t/*.pl test/incidents/*.pl
		shopt -u nullglob
	fi
	[ $# != 0 ] || { report FAILED "no TAP tests found"; return; }
	as_user mkdir -p "$tmp/tap/log"
	# Up to version 15 the tests find their folder by TESTDIR, from 16 on by the other two.
	as_user env -u PGHOST -u PGUSER -u PGPORT \
		TESTDIR="$tmp/tap" TESTDATADIR="$tmp/tap/tmp_check" TESTLOGDIR="$tmp/tap/tmp_check/log" \
		PG_REGRESS="$pgxs/src/test/regress/pg_regress" top_builddir="$tmp/tap" \
		prove --timer -j "$jobs" -I "$pgxs/src/test/perl" -I "$tmp/debug/test/lib" "$@" </dev/null 2>&1 |
		tee "$tmp/prove.log"
	for file; do
		name=$(basename "$file" .pl)
		# One that dies before its first test is "skipped" without a reason.
		if grep -qE "$file \.+ (ok|skipped: [^(])" "$tmp/prove.log"; then
			passed=$((passed + 1))
			continue
		fi
		report FAILED "$file"
		for log in "$tmp"/tap/tmp_check/log/regress_log_"$name" "$tmp"/tap/tmp_check/log/"$name"_*.log; do
			[ ! -f "$log" ] || { echo "---- $(basename "$log")"; tail -n 40 "$log"; }
		done
	done
}

# A line for each outage of test/incidents: its expected outcome, and its negative twin.
outages()
{
	local file name

	echo
	for file in "$tmp"/debug/test/incidents/*.pl; do
		name=$(basename "$file" .pl)
		printf 'outage %s %-8s%-30s%s Negative twin: %s\n' "$(echo "$pg_version" | cut -d " " -f 2)" \
			"$(grep -qE "/$name.pl \.+ ok" "$tmp/prove.log" && echo ok || echo FAILED)" "${name//_/ }" \
			"$(sed -n 's/^# Outcome: //p' "$file")" "$(sed -n '/^# Negative twin: /{s///p;q}' "$file")"
	done
	echo
}

# A crash that the server recovered from may escape the tests.
no_crash()
{
	! grep -rE 'TRAP: |PANIC: |terminated by signal (4|6|7|8|11)\b' "$tmp/server.log" "$tmp"/tap/tmp_check/log
}

# The share of lines reached in each file, and which were not.
coverage()
{
	local info=$tmp/coverage.info

	lcov -q -c -d "$tmp/debug/src" -o "$info" >"$tmp/lcov.log" 2>&1 &&
		lcov -q -e "$info" "$tmp/debug/src/*" -o "$info" >>"$tmp/lcov.log" 2>&1 || { cat "$tmp/lcov.log"; return 1; }
	awk -F '[:,]' '
		/^SF:/ { file = $2; sub(/.*\//, "", file); all = hit = 0; missed = ""; from = 0 }
		/^DA:/ { all++; if ($3 > 0) { hit++; flush_range() } else { if (!from) from = $2; to = $2 } }
		/^end_of_record/ { flush_range(); lines += all; hits += hit
			printf "%-14s %5.1f %% of %4d lines; not reached:%s\n", file, 100 * hit / all, all, missed }
		END { printf "%-14s %5.1f %% of %4d lines\n", "all of src/", 100 * hits / lines, lines; exit hits < 0.9 * lines }
		function flush_range() { if (from) missed = missed " " from (to > from ? "-" to : ""); from = 0 }
		' "$info"
}

prepare tests
echo "$pg_version, $PG_CONFIG"

step "builds with gcc" strict_build gcc plain || finish
step "builds with $(basename "$(find_clang)")" strict_build "$(find_clang)" clang
step "builds with wait points" strict_build gcc debug LOCKGUARD_DEBUG=1 || finish
step "cppcheck" static_analysis
step "no circle of includes" make -C "$tmp/plain" -s PG_CONFIG="$PG_CONFIG" include-graph
step "one file sends signals" one_file_signals
step "refuses other versions" refuses_others
step "unit tests" unit_tests

at_exit=restore_plain_build
step "installs" install_build debug LOCKGUARD_DEBUG=1 || finish
if step "server starts" start_server "max_prepared_transactions = 10"; then
	regression REGRESS
	regression ISOLATION
	step "server stops" stop_server
fi
tap_tests "$@"
step "no server crashed" no_crash
[ $# != 0 ] || outages
if [ -n "${LOCKGUARD_COVERAGE:-}" ]; then
	coverage && report ok "at least 90 % of the lines are reached" || report FAILED "coverage"
fi
finish
