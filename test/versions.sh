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

set -u
export LC_ALL=C
top=$(cd "$(dirname "$0")/.." && pwd)
passed=0
failed=0
not_run=

[ "$(id -u)" = 0 ] || { echo "test/versions.sh must run as root" >&2; exit 1; }

tmp=$(mktemp -d "${TMPDIR:-/tmp}/lockguard.XXXXXX") || exit 1
trap 'rm -rf --one-file-system "$tmp"' EXIT
trap 'exit 1' INT TERM HUP
. "$top/test/chroot.sh"

run_version()
{
	local suite started=$SECONDS counts

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
	counts=$(sed -nE '$s/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$tmp/check.log")
	# No last line: it did not get far enough to count.
	set -- ${counts:-0 1}
	passed=$((passed + $1))
	failed=$((failed + $2))
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
