#!/bin/bash
# Runs PostgreSQL's own regression and isolation tests, and those of its recovery tests that concern
# standbys and prepared transactions, with lockguard loaded: it scans every 10 ms, and every limit is
# set, but out of reach. PostgreSQL is built from Debian's source package, with assertions. Needs root.
#
#   test/upstream.sh 15        or 17, 18 or 19: in a Debian chroot, unless this is the Debian of that version
#   LOCKGUARD_BUILDS=dir       keeps the builds of PostgreSQL there, in a folder per version, and uses
#                              them again
#   LOCKGUARD_UPSTREAM="regression isolation recovery"   which suites
#   LOCKGUARD_YIELD=1ms        lockguard.queue_yield_timeout for all sessions
#   LOCKGUARD_WAKE=1           at each scan, a third of all processes get the message that wakes a session
#                              which is to roll back, though none is
#   LOCKGUARD_CHROOTS=dir, LOCKGUARD_MIRROR=url          as for test/versions.sh
#   LOCKGUARD_KEEP=1           keeps the temporary folder with all logs
#
# The last line is "N passed, N failed", where each test of PostgreSQL's counts as one. So does the
# search of all server logs for a failed assertion, a crash or an error of lockguard's processes.

. "$(dirname "$0")/common.sh"

suites=${LOCKGUARD_UPSTREAM:-regression isolation recovery}
recovery_tests="001_stream_rep 009_twophase 012_subtransactions 021_row_visibility
	031_recovery_conflict 040_standby_failover_slots_sync"
needed="bison bzip2 dpkg-dev flex gcc libc6-dev libipc-run-perl libreadline-dev make perl pkg-config
	xz-utils zlib1g-dev"
passed=0
failed=0

version=${1:-}
[ "$(id -u)" = 0 ] || die "test/upstream.sh must run as root"
make_tmp
bindir=$tmp					# of the server to be stopped; see build_postgres()
trap cleanup EXIT
trap 'exit 1' INT TERM HUP
. "$top/test/chroot.sh"
suite=$(suite_of "$version") || die "usage: test/upstream.sh 15|17|18|19"
if [ -n "${LOCKGUARD_BUILDS:-}" ]; then
	mkdir -p "$LOCKGUARD_BUILDS" || exit 1
	builds=$(cd "$LOCKGUARD_BUILDS" && pwd)
else
	builds=$tmp/builds
fi

report()
{
	printf '%-8s%s\n' "$1" "$2"
	case $1 in
	ok) passed=$((passed + 1)) ;;
	FAILED) failed=$((failed + 1)) ;;
	esac
}

finish()
{
	echo "$passed passed, $failed failed"
	[ $failed = 0 ]
	exit
}

give_up()
{
	tail -n 50 "$tmp/build.log" | sed 's/^/    /'
	report FAILED "$1"
	finish
}

# Debian's source package without Debian's patches: those hardcode the folder of the system's
# libraries, into which "make install" would then write.
fetch_source()
{
	local apt=$tmp/apt

	mkdir -p "$apt/lists/partial" "$build/source" "$tmp/download"
	echo "deb-src $mirror $suite main" >"$apt/sources.list"
	[ "$suite" != sid ] || echo "deb-src $mirror experimental main" >>"$apt/sources.list"
	cd "$tmp/download" || return
	set -- -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=- \
		-o Dir::State::Lists="$apt/lists" -o APT::Sandbox::User=root
	apt-get -qq "$@" update &&
		apt-get -qq "$@" source --download-only "postgresql-$version" &&
		tar -C "$build/source" --strip-components=1 --no-same-owner -xf postgresql-*.orig.tar.*
}

install_needed()
{
	local package packages=

	for package in $needed; do
		dpkg -s "$package" >/dev/null 2>&1 || packages="$packages $package"
	done
	[ -z "$packages" ] && return
	echo "Installing$packages"
	apt_update
	apt_install $packages
}

# A version of sid and experimental: the mirror may list it and have it no more.
fetch_or_finish()
{
	fetch_source >"$tmp/build.log" 2>&1 && return
	if [ "$suite" = sid ] && grep -qE '404 +Not Found|Unable to find a source package' "$tmp/build.log"; then
		echo "not run: the source of PostgreSQL $version cannot be had from this mirror"
		finish
	fi
	give_up "fetch the source of PostgreSQL $version"
}

# With every check that PostgreSQL has. --enable-injection-points is ignored before version 17.
compile()
{
	mkdir -p "$build/build" && cd "$build/build" &&
		"$build/source/configure" -q --prefix="$build/install" --enable-cassert --enable-debug \
			--enable-tap-tests --enable-injection-points --without-icu \
			CFLAGS="-O1 -g -fno-omit-frame-pointer" &&
		make -s -j"$(nproc)" && make -s -j"$(nproc)" -C contrib &&
		make -s install && make -s -C contrib install
}

build_postgres()
{
	build=$builds/$version
	PG_CONFIG=$build/install/bin/pg_config
	bindir=$build/install/bin
	server_user=postgres
	id -u $server_user >/dev/null 2>&1 || server_user=nobody
	install_needed
	if [ ! -e "$build/complete" ]; then
		echo "Building PostgreSQL $version with assertions"
		rm -rf "$build"
		fetch_or_finish
		compile >>"$tmp/build.log" 2>&1 || give_up "build PostgreSQL $version"
		chown -R "$server_user" "$build"
		touch "$build/complete"
	fi
	chown "$server_user" "$tmp"
	# The user that servers run as has to get there.
	chmod o+x "$builds"
}

build_lockguard()
{
	local flags=${LOCKGUARD_WAKE:+LOCKGUARD_DEBUG=1}

	build lockguard $flags >"$tmp/build.log" 2>&1 && install_build lockguard $flags >>"$tmp/build.log" 2>&1 ||
		give_up "build lockguard"
}

write_conf()
{
	cat >"$tmp/lockguard.conf" <<-'CONF'
		log_line_prefix = '%m %b[%p] %q%a '
		shared_preload_libraries = 'lockguard'
		lockguard.naptime = '10ms'
		lockguard.incident_threshold = '10ms'
		lockguard.idle_blocker_timeout = '1h'
		lockguard.blocker_timeout = '1h'
		lockguard.queued_blocker_timeout = '1h'
		lockguard.max_blocked_sessions = 1000
		lockguard.lock_wait_timeout = '1h'
		lockguard.transaction_timeout = '1h'
		lockguard.idle_in_transaction_timeout = '1h'
		lockguard.statement_timeout = '1h'
		lockguard.idle_session_timeout = '1h'
		lockguard.max_locks = 1000000
		lockguard.max_xmin_age = 2000000000
		lockguard.preempt_timeout = '1h'
		lockguard.prepared_transaction_timeout = '1h'
		lockguard.prepared_transaction_action = 'rollback'
	CONF
	[ -z "${LOCKGUARD_WAKE:-}" ] ||
		echo "lockguard.debug_error_at = 'wake_some'" >>"$tmp/lockguard.conf"
	[ -z "${LOCKGUARD_YIELD:-}" ] ||
		echo "lockguard.queue_yield_timeout = '$LOCKGUARD_YIELD'" >>"$tmp/lockguard.conf"
}

# run_suite FOLDER [make argument ...]: its "make check", on what is installed instead of a temporary
# installation of its own. The output goes to $tmp/check.log.
run_suite()
{
	local folder=$build/build/src/test/$1

	shift
	chown -R "$server_user" "$folder/"
	as_user env PATH="$bindir:$PATH" TEMP_CONFIG="$tmp/lockguard.conf" \
		make -C "$folder" -s check NO_TEMP_INSTALL=1 with_temp_install= "$@" >"$tmp/check.log" 2>&1 </dev/null
}

# count_tests SUITE: pg_regress says "test NAME ... ok" up to version 15, then "ok 1 - NAME".
count_tests()
{
	local good bad name log

	good=$(grep -cE '\.\.\. +ok |^ok +[0-9]+ ' "$tmp/check.log")
	grep -oE '[^ ]+ +\.\.\. +FAILED|^not ok +[0-9]+ +[-+] +[^ ]+' "$tmp/check.log" |
		sed -E 's/ +\.\.\. +FAILED//; s/^not ok +[0-9]+ +[-+] +//' >"$tmp/bad"
	while read -r name; do
		report FAILED "$1 test $name"
	done <"$tmp/bad"
	bad=$(wc -l <"$tmp/bad")
	passed=$((passed + good))
	echo "ok      $good $1 tests"
	if [ "$2" != 0 ] || [ "$good" = 0 ]; then
		[ "$bad" != 0 ] || report FAILED "$1 tests"
		tail -n 20 "$tmp/check.log" | sed 's/^/    /'
		for log in "$3"/regression.diffs "$3"/output_iso/regression.diffs; do
			[ ! -f "$log" ] || head -n 200 "$log"
		done
	fi
}

regression()
{
	local status=0

	run_suite regress || status=1
	count_tests regression $status "$build/build/src/test/regress"
	logs="$logs $build/build/src/test/regress/log"
}

isolation()
{
	local status=0

	run_suite isolation || status=1
	count_tests isolation $status "$build/build/src/test/isolation"
	logs="$logs $build/build/src/test/isolation/output_iso/log"
}

# Each TAP file counts as one test; one that PostgreSQL itself skips does not count.
recovery()
{
	local folder=$build/build/src/test/recovery source name tests=

	source=$(sed -n 's/^abs_top_srcdir = //p' "$build/build/src/Makefile.global")
	for name in $recovery_tests; do
		[ ! -f "$source/src/test/recovery/t/$name.pl" ] || tests="$tests t/$name.pl"
	done
	run_suite recovery PROVE_TESTS="$tests"
	for name in $tests; do
		if grep -qE "^$name \.+ ok" "$tmp/check.log"; then
			report ok "recovery test $(basename "$name" .pl)"
		elif grep -qE "^$name \.+ skipped" "$tmp/check.log"; then
			report skipped "recovery test $(basename "$name" .pl)$(sed -nE "s|^$name \.+ skipped||p" "$tmp/check.log")"
		else
			report FAILED "recovery test $(basename "$name" .pl)"
			tail -n 20 "$folder/tmp_check/log/regress_log_$(basename "$name" .pl)" | sed 's/^/    /'
		fi
	done
	logs="$logs $folder/tmp_check/log"
}

# What a server log may not have, and what it has to.
search_logs()
{
	local bad='TRAP: |PANIC: |was terminated by signal (4|6|7|8|11)\b| lockguard[a-z ]*\[[0-9]+\] +(WARNING|ERROR|FATAL):'

	if grep -rEh "$bad" $logs | grep -v 'FATAL:  terminating background worker' >"$tmp/bad"; then
		head -n 20 "$tmp/bad" | sed 's/^/    /'
		report FAILED "no assertion failed, no server crashed, lockguard had no error"
	elif ! grep -rqE 'lockguard: limits for the whole server: .*preempt_timeout = 1h' $logs; then
		report FAILED "lockguard was loaded"
	else
		report ok "no assertion failed, no server crashed, lockguard had no error"
	fi
}

# sid calls itself by the name of the next release.
if [ -z "${LOCKGUARD_IN_CHROOT:-}" ] && [ "$(. /etc/os-release && echo "$VERSION_CODENAME")" != "$suite" ]; then
	echo "==== PostgreSQL $version, Debian $suite"
	if make_chroot "$suite"; then
		mkdir -p "$builds"
		in_chroot "$suite" "$builds" LOCKGUARD_IN_CHROOT=1 LOCKGUARD_BUILDS=/mnt LOCKGUARD_UPSTREAM="$suites" \
			LOCKGUARD_MIRROR="$mirror" LOCKGUARD_KEEP="${LOCKGUARD_KEEP:-}" bash /root/lockguard/test/upstream.sh "$version"
		exit
	fi
	failed=1
	finish
fi

build_postgres
build_lockguard
write_conf
"$bindir/postgres" --version
logs=
for suite_name in $suites; do
	$suite_name
done
search_logs
finish
