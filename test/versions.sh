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
mirror=${LOCKGUARD_MIRROR:-http://deb.debian.org/debian}
passed=0
failed=0

[ "$(id -u)" = 0 ] || { echo "test/versions.sh must run as root" >&2; exit 1; }

tmp=$(mktemp -d "${TMPDIR:-/tmp}/lockguard.XXXXXX") || exit 1
trap 'rm -rf --one-file-system "$tmp"' EXIT
trap 'exit 1' INT TERM HUP
chroots=${LOCKGUARD_CHROOTS:-$tmp}

install_debootstrap()
{
	command -v debootstrap >/dev/null && return
	echo "Installing debootstrap"
	apt-get -qq -o DPkg::Lock::Timeout=300 update &&
		DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
			install --no-install-recommends debootstrap debian-archive-keyring </dev/null >"$tmp/apt.log" 2>&1 ||
		{ cat "$tmp/apt.log"; return 1; }
}

# make_chroot SUITE: unless a complete one is there. Older debootstraps know every suite as sid.
make_chroot()
{
	local dir=$chroots/$1

	[ ! -x "$dir/usr/bin/apt-get" ] || [ -d "$dir/debootstrap" ] || return 0
	install_debootstrap || return
	echo "Making a chroot of Debian $1"
	rm -rf --one-file-system "$dir"
	mkdir -p "$dir"
	debootstrap --variant=minbase "$1" "$dir" "$mirror" /usr/share/debootstrap/scripts/sid \
		>"$tmp/debootstrap.log" 2>&1 </dev/null || { tail -n 30 "$tmp/debootstrap.log"; return 1; }
	# How this machine reaches the mirror: proxies, and a clock that may differ.
	apt-config dump | grep -E '^Acquire::(https?::(Proxy|[^:]*::Proxy)|Check-|Retries|Force)' \
		>"$dir/etc/apt/apt.conf.d/99host"
}

# check_in SUITE VERSION. Mounts and processes live in namespaces that end with the command.
check_in()
{
	local dir=$chroots/$1 propagation=

	cp -L /etc/resolv.conf "$dir/etc/resolv.conf"
	rm -rf "$dir/root/lockguard"
	mkdir -p "$dir/root/lockguard"
	tar -C "$top" --exclude=./.git -c . | tar -C "$dir/root/lockguard" --no-same-owner -x || return
	# Inside a chroot, / is no mount point whose propagation could be changed.
	mountpoint -q / || propagation="--propagation unchanged"
	unshare --mount ${propagation:-} --pid --ipc --fork --kill-child bash -c '
		mount --bind "$1" "$1" && mount --make-private "$1" && cd "$1" &&
		mount -t proc proc "$1/proc" &&
		mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm" &&
		exec chroot "$1" env -u TMPDIR HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin \
			PG_CONFIG="$2" bash /root/lockguard/test/check.sh' \
		- "$dir" "/usr/lib/postgresql/$2/bin/pg_config" </dev/null
}

run_version()
{
	local suite started=$SECONDS counts

	case $1 in
	17) suite=trixie ;;
	18) suite=forky ;;
	*) echo "no Debian release known for PostgreSQL $1"; failed=$((failed + 1)); return ;;
	esac
	echo "==== PostgreSQL $1, Debian $suite"
	: >"$tmp/check.log"
	make_chroot $suite && check_in $suite "$1" 2>&1 | tee "$tmp/check.log"
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
