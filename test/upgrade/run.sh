#!/bin/bash
# Upgrades, with lockguard in place: pg_upgrade from PostgreSQL 15 to 18, pg_dump and restore, ALTER EXTENSION
# lockguard UPDATE, and history files of other versions. Needs root.
#
#   test/upgrade/run.sh
#   LOCKGUARD_CHROOTS=dir      keeps the chroot there, in a folder "upgrade", and uses it again
#   LOCKGUARD_MIRROR=url       instead of http://deb.debian.org/debian
#   LOCKGUARD_KEEP=1           keeps the temporary folder, which is in the chroot
#
# Both servers are in one chroot: that of the Debian release that has 18, with 15 from the release that has that.
# The next version of the extension, and of the history file, are made up in the temporary folder.
#
# The last line is "N passed, N failed". What cannot be had is named in a line "not run: ..." before it, and counts
# as neither.

. "$(dirname "$0")/../chroot.sh"

begin root
old=15
new=18
# The chroots of other tests are to have one release only.
chroots=$chroots/upgrade
mkdir -p "$chroots"
suite=$(suite_of $new)

# As add_experimental() does, but nothing is taken from there that is not asked for.
add_release_of()
{
	local etc=$chroots/$suite/etc/apt release

	release=$(suite_of "$1")
	echo "deb $mirror $release main" >"$etc/sources.list.d/$release.list"
	printf '%s\n' "Package: *" "Pin: release n=$release" "Pin-Priority: 100" >"$etc/preferences.d/$release"
}

not_run()
{
	echo "not run: PostgreSQL $1 cannot be had from this mirror"
	echo "0 passed, 0 failed"
	exit 0
}

make_chroot "$suite" && add_release_of $old || { echo "0 passed, 1 failed"; exit 1; }
for version in $old $new; do
	can_be_had "$suite" $version
	case $? in
	2) not_run $version ;;
	0) ;;
	*) echo "0 passed, 1 failed"; exit 1 ;;
	esac
done
in_chroot "$suite" "" ${LOCKGUARD_KEEP:+LOCKGUARD_KEEP=$LOCKGUARD_KEEP} \
	bash /root/lockguard/test/upgrade/inside.sh $old $new 2>&1 | tee "$tmp/inside.log" | sed '/^[0-9]* passed, [0-9]* failed$/d'
# No such line: it did not get far enough to count.
counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$tmp/inside.log") || counts="0 passed, 1 failed"
echo "$counts"
[[ $counts == *" 0 failed" ]]
