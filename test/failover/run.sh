#!/bin/bash
# A cluster of two under Patroni, with lockguard on both: switchover, a crash that the primary comes back from,
# and a failover with pg_rewind, each with an incident open and a victim signalled. Needs root.
#
#   test/failover/run.sh               PostgreSQL 15, with Debian's Patroni for it
#   test/failover/run.sh 17 18         other versions, each in a chroot of the Debian release that has it
#   LOCKGUARD_CHROOTS=dir              keeps the chroots there and uses them again
#   LOCKGUARD_MIRROR=url               instead of http://deb.debian.org/debian
#
# The store that Patroni keeps the cluster's state in is Debian's etcd. All of it runs in a network namespace
# that has nothing but a loopback address, so that no port is taken on this machine.
#
# The last line is "N passed, N failed", added up over the versions. What cannot be had is named in a line "not
# run: ..." before it, and counts as neither.

. "$(dirname "$0")/../chroot.sh"

begin root

# run_version VERSION
run_version()
{
	local suite

	suite=$(suite_of "$1") ||
		{ echo "no Debian release known for PostgreSQL $1"; failed=$((failed + 1)); return; }
	echo "==== PostgreSQL $1, Debian $suite"
	: >"$tmp/inside.log"
	make_chroot "$suite" && can_be_had "$suite" "$1"
	case $? in
	2) not_run="${not_run}not run: PostgreSQL $1 cannot be had from this mirror"$'\n'; return ;;
	0) in_chroot "$suite" "" PG_CONFIG="/usr/lib/postgresql/$1/bin/pg_config" \
			bash /root/lockguard/test/failover/inside.sh 2>&1 | tee "$tmp/inside.log" ;;
	esac
	not_run=$not_run$(sed -n "s/^not run: /&PostgreSQL $1: /p" "$tmp/inside.log")
	not_run=${not_run:+${not_run%$'\n'}$'\n'}
	add_counts "$tmp/inside.log"
}

[ $# != 0 ] || set -- 15
for version; do
	run_version "$version"
done
printf '%s' "$not_run"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
