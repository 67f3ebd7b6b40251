#!/bin/bash
# Runs test/check.sh on the PostgreSQL versions of newer Debian releases, each in a chroot. Needs root.
#
#   test/versions.sh           17 (trixie) and 18 (forky)
#   test/versions.sh 18        one of them
#   LOCKGUARD_CHROOTS=dir      keeps the chroots there and uses them again
#   LOCKGUARD_MIRROR=url       instead of http://deb.debian.org/debian
#
# The last line is "N passed, N failed", added up over the versions.

set -u
export LC_ALL=C
top=$(cd "$(dirname "$0")/.." && pwd)
passed=0
failed=0

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
	make_chroot "$suite" &&
		in_chroot "$suite" "" PG_CONFIG="/usr/lib/postgresql/$1/bin/pg_config" \
			bash /root/lockguard/test/check.sh 2>&1 | tee "$tmp/check.log"
	counts=$(sed -nE '$s/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$tmp/check.log")
	# No last line: it did not get far enough to count.
	set -- ${counts:-0 1}
	passed=$((passed + $1))
	failed=$((failed + $2))
	echo "---- $((SECONDS - started)) s"
}

[ $# != 0 ] || set -- 17 18
for version; do
	run_version "$version"
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
