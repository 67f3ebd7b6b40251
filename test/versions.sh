#!/bin/bash
# Runs test/check.sh on the PostgreSQL versions of newer Debian releases, each in a chroot. Needs root.
#
#   test/versions.sh           17 (trixie), 18 (forky) and 19 (sid, with experimental)
#   test/versions.sh 18        one of them
#   LOCKGUARD_CHROOTS=dir      keeps the chroots there and uses them again
#   LOCKGUARD_MIRROR=url       instead of http://deb.debian.org/debian
#
# The last line is "N passed, N failed", added up over the versions. 19 may be gone from a mirror: then a
# line before it says that it was not run, and it counts as neither.

. "$(dirname "$0")/chroot.sh"

begin root

run_version()
{
	local suite started=$SECONDS

	suite=$(suite_of "$1") ||
		{ echo "no Debian release known for PostgreSQL $1"; failed=$((failed + 1)); return; }
	echo "==== PostgreSQL $1, Debian $suite"
	: >"$tmp/check.log"
	make_chroot "$suite" && can_be_had "$suite" "$1"
	case $? in
	2) not_run="$not_run $1"; return ;;
	0) in_chroot "$suite" "" PG_CONFIG="/usr/lib/postgresql/$1/bin/pg_config" \
			bash /root/lockguard/test/check.sh 2>&1 | tee "$tmp/check.log" ;;
	esac
	add_counts "$tmp/check.log"
	echo "---- $((SECONDS - started)) s"
}

[ $# != 0 ] || set -- 17 18 19
for version; do
	run_version "$version"
done
for version in $not_run; do
	echo "not run: PostgreSQL $version cannot be had from this mirror"
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
