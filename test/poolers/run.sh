#!/bin/bash
# lockguard behind PgBouncer, in session, transaction and statement pooling: here.sh for several versions of PgBouncer.
#
#   test/poolers/run.sh              1.18 (Debian bookworm) and 1.26 (forky)
#   test/poolers/run.sh 1.26         one of them
#   LOCKGUARD_CHROOTS=dir            keeps the chroots there and uses them again
#   LOCKGUARD_MIRROR=url             instead of http://deb.debian.org/debian
#
# The version that this system has is run here, with PG_CONFIG or PostgreSQL 15. The others run with the PostgreSQL of
# their Debian release in a chroot, for which root is needed. The last line is "N passed, N failed", added up over the
# versions. What cannot be had is named in a line "not run: ..." before it, and counts as neither.

. "$(dirname "$0")/../chroot.sh"

begin

# The PostgreSQL version of the Debian release that has it.
postgres_with()
{
	case $1 in
	1.18) echo 15 ;;
	1.26) echo 18 ;;
	esac
}

# The first two numbers of the version that is installed here, or that apt would install.
version_here()
{
	local version

	version=$(PATH=$PATH:/usr/sbin pgbouncer --version 2>/dev/null) ||
		version=$(apt-cache policy pgbouncer 2>/dev/null | grep '^ *Candidate:')
	echo "$version" | sed -nE '1s/[^0-9]*([0-9]+\.[0-9]+).*/\1/p'
}

# cannot VERSION WHY
cannot()
{
	not_run="${not_run}not run: PgBouncer $1: $2"$'\n'
}

run_version()
{
	local version=$1 postgres suite found started=$SECONDS

	: >"$tmp/here.log"
	if [ "$(version_here)" = "$version" ]; then
		echo "==== PgBouncer $version"
		bash "$top/test/poolers/here.sh" 2>&1 </dev/null | tee "$tmp/here.log"
	else
		postgres=$(postgres_with "$version")
		suite=$(suite_of "$postgres") || { cannot "$version" "no Debian release known that has it"; return; }
		[ "$(id -u)" = 0 ] || { cannot "$version" "a chroot of Debian $suite needs root"; return; }
		echo "==== PgBouncer $version, Debian $suite"
		if make_chroot "$suite" && in_chroot "$suite" "" apt-get -qq update >"$tmp/apt.log" 2>&1; then
			found=$(in_chroot "$suite" "" apt-cache policy pgbouncer | sed -nE 's/^ *Candidate: ([^(].*)/\1/p')
			[[ $found == "$version".* ]] || { cannot "$version" "Debian $suite has ${found:-none}"; return; }
			in_chroot "$suite" "" PG_CONFIG="/usr/lib/postgresql/$postgres/bin/pg_config" \
				bash /root/lockguard/test/poolers/here.sh 2>&1 | tee "$tmp/here.log"
		else
			cat "$tmp/apt.log"
		fi
	fi
	not_run=$not_run$(sed -nE "s/^(not run: )(PgBouncer: )?/\1PgBouncer $version: /p" "$tmp/here.log")$'\n'
	add_counts "$tmp/here.log"
	echo "---- $((SECONDS - started)) s"
}

[ $# != 0 ] || set -- 1.18 1.26
for version; do
	run_version "$version"
done
printf '%s' "$not_run" | grep .
echo "$passed passed, $failed failed"
[ $failed = 0 ]
