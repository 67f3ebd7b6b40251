#!/bin/bash
# Builds the image of cloudnativepg/Dockerfile with buildah, mounts it read-only at /extensions/lockguard, as
# CloudNativePG does, and runs test/t/090_extension_path.pl with it. CloudNativePG's own image of the server
# cannot be had: a Debian chroot with Debian's PostgreSQL is taken for it. Needs root.
#
#   test/cloudnativepg/run.sh        18 (forky) and 19 (sid, with experimental)
#   test/cloudnativepg/run.sh 18     one of them
#   LOCKGUARD_CHROOTS=dir            keeps the chroots there, in "cloudnativepg", and uses them again
#   LOCKGUARD_MIRROR=url             instead of http://deb.debian.org/debian
#
# The last line is "N passed, N failed". 19 may be gone from a mirror: then a line before it says that it was
# not run, and it counts as neither.

. "$(dirname "$0")/../chroot.sh"

begin root
# Of their own: those of other tests have a compiler, which the Dockerfile has to install.
chroots=$chroots/cloudnativepg

run_version()
{
	local suite

	suite=$(suite_of "$1") && [ "$1" -ge 18 ] ||
		{ echo "no extension images for PostgreSQL $1"; failed=$((failed + 1)); return; }
	echo "==== PostgreSQL $1, Debian $suite"
	make_chroot "$suite" && can_be_had "$suite" "$1"
	case $? in
	0) ;;
	2) not_run="$not_run $1"; return ;;
	*) failed=$((failed + 1)); return ;;
	esac
	in_chroot "$suite" "" bash /root/lockguard/test/cloudnativepg/in_chroot.sh "$1" 2>&1 | tee "$tmp/log"
	# It says "done" unless it ended early.
	passed=$((passed + $(grep -c '^ok  ' "$tmp/log")))
	failed=$((failed + $(grep -c '^FAILED  ' "$tmp/log")))
	[ "$(tail -n 1 "$tmp/log")" = "done" ] || failed=$((failed + 1))
}

[ $# != 0 ] || set -- 18 19
for version; do
	run_version "$version"
done
for version in $not_run; do
	echo "not run: PostgreSQL $version cannot be had from this mirror"
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
