# Sourced by versions.sh, upstream.sh and others: Debian chroots, for the PostgreSQL versions of other Debian
# releases than this one. The caller has a temporary folder $tmp, from common.sh or from begin(). Needs root.
#
#   LOCKGUARD_CHROOTS=dir      keeps the chroots there and uses them again
#   LOCKGUARD_MIRROR=url       instead of http://deb.debian.org/debian

set -u
export LC_ALL=C
export PATH=$PATH:/usr/sbin:/sbin	# which "su" leaves out
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mirror=${LOCKGUARD_MIRROR:-http://deb.debian.org/debian}
chroots=${LOCKGUARD_CHROOTS:-${tmp:-}}

# begin [root]: for a command that runs next to nothing outside of chroots. Makes a temporary folder, and removes it
# at the end. With "root", only root gets further.
begin()
{
	[ "${1:-}" != root ] || [ "$(id -u)" = 0 ] || { echo "$0 must run as root" >&2; exit 1; }
	passed=0
	failed=0
	not_run=
	tmp=$(mktemp -d "${TMPDIR:-/tmp}/lockguard.XXXXXX") || exit 1
	trap 'rm -rf --one-file-system "$tmp"' EXIT
	trap 'exit 1' INT TERM HUP
	chroots=${LOCKGUARD_CHROOTS:-$tmp}
}

# add_counts FILE: adds "N passed, N failed", the last line of what a command has said, to passed and failed.
add_counts()
{
	local counts

	counts=$(sed -nE '$s/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$1")
	# No such line: it did not get far enough to count.
	set -- ${counts:-0 1}
	passed=$((passed + $1))
	failed=$((failed + $2))
}

# The Debian release that has this PostgreSQL version.
suite_of()
{
	case $1 in
	15) echo bookworm ;;
	17) echo trixie ;;
	18) echo forky ;;
	19) echo sid ;;			# with experimental, see add_experimental()
	*) return 1 ;;
	esac
}

install_debootstrap()
{
	command -v debootstrap >/dev/null && return
	echo "Installing debootstrap"
	apt-get -qq -o DPkg::Lock::Timeout=300 update >"$tmp/apt.log" 2>&1
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
		install --no-install-recommends debootstrap debian-archive-keyring </dev/null >>"$tmp/apt.log" 2>&1 ||
		{ cat "$tmp/apt.log"; echo "cannot install debootstrap debian-archive-keyring"; return 1; }
}

# PostgreSQL 19 may be in experimental only. Nothing else is taken from there, but what it needs.
add_experimental()
{
	echo "deb $mirror experimental main" >"$1/etc/apt/sources.list.d/experimental.list"
	cat >"$1/etc/apt/preferences.d/experimental" <<-'PIN'
		Package: src:postgresql-19:any
		Pin: release a=experimental
		Pin-Priority: 500
	PIN
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
	[ "$1" != sid ] || add_experimental "$dir"
}

# in_chroot SUITE FOLDER COMMAND ...: runs a command in a copy of the checkout, in which it is
# /root/lockguard. FOLDER, unless empty, is seen as /mnt there. Mounts and processes live in
# namespaces that end with the command.
in_chroot()
{
	local dir=$chroots/$1 folder=$2 propagation=

	shift 2
	cp -L /etc/resolv.conf "$dir/etc/resolv.conf"
	rm -rf "$dir/root/lockguard"
	mkdir -p "$dir/root/lockguard"
	tar -C "$top" --exclude=./.git -c . | tar -C "$dir/root/lockguard" --no-same-owner -x || return
	# Inside a chroot, / is no mount point whose propagation could be changed.
	mountpoint -q / || propagation="--propagation unchanged"
	unshare --mount $propagation --pid --ipc --fork --kill-child bash -c '
		dir=$1 folder=$2
		shift 2
		mount --bind "$dir" "$dir" && mount --make-private "$dir" && cd "$dir" &&
		mount -t proc proc "$dir/proc" &&
		mount -t tmpfs -o mode=1777 tmpfs "$dir/dev/shm" &&
		{ [ -z "$folder" ] || mount --bind "$folder" "$dir/mnt"; } &&
		exec chroot "$dir" env -u TMPDIR HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"' \
		- "$dir" "$folder" "$@" </dev/null
}

# can_be_had SUITE VERSION: whether that PostgreSQL is in the chroot, or can be installed there. Returns 2
# if the mirror does not have it (anymore).
can_be_had()
{
	[ ! -x "$chroots/$1/usr/lib/postgresql/$2/bin/postgres" ] || return 0
	in_chroot "$1" "" apt-get -qq update >"$tmp/apt.log" 2>&1 || { cat "$tmp/apt.log"; return 1; }
	in_chroot "$1" "" apt-cache policy "postgresql-$2" | grep -q '^ *Candidate: [^(]' || return 2
}
