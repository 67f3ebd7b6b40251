# Sourced by the commands that build and run lockguard: finds PostgreSQL, installs what is missing, keeps one temporary
# folder, builds in it, and runs servers and tests as an ordinary user.

set -u
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LC_ALL=C
at_exit=:				# a command for cleanup to run first

# A PGHOST or PGOPTIONS of the caller must not reach the tests.
for var in "${!PG@}"; do
	case $var in PG_*) ;; *) unset "$var" ;; esac
done

die()
{
	echo "$*" >&2
	exit 1
}

# Sets PG_CONFIG, unless the caller did: version 15, else what is on PATH, else what Debian offers.
choose_postgres()
{
	local version

	[ -z "${PG_CONFIG:-}" ] || return 0
	PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
	if [ ! -x "$PG_CONFIG" ] && [ -f "$(pg_config --pgxs 2>/dev/null)" ]; then
		PG_CONFIG=$(command -v pg_config)
	elif [ ! -x "$PG_CONFIG" ] && [ "$(id -u)" = 0 ]; then
		apt-get -qq update
		version=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p')
		PG_CONFIG=/usr/lib/postgresql/${version:-15}/bin/pg_config
	fi
}

# Lists the Debian packages that are missing. $PG_CONFIG names the PostgreSQL packages by its path.
missing_packages()
{
	local bin version

	bin=$(dirname "$PG_CONFIG")
	version=$(echo "$bin" | sed -n 's|^/usr/lib/postgresql/\([0-9]*\)/bin$|\1|p')
	if [ -n "$version" ]; then
		[ -x "$bin/postgres" ] || echo "postgresql-$version"
		[ -x "$PG_CONFIG" ] && [ -f "$("$PG_CONFIG" --pgxs)" ] || echo "postgresql-server-dev-$version"
	elif [ ! -f "$("$PG_CONFIG" --pgxs)" ]; then
		die "$PG_CONFIG belongs to no complete PostgreSQL installation"
	fi
	command -v make >/dev/null || echo make
	command -v gcc >/dev/null || echo gcc
	[ -e /usr/include/stdio.h ] || echo libc6-dev
	[ "${1:-}" = tests ] || return 0
	[ -n "$(find_clang)" ] || echo clang
	command -v cppcheck >/dev/null || echo cppcheck
	command -v prove >/dev/null || echo perl
	perl -MIPC::Run -e 1 2>/dev/null || echo libipc-run-perl
	[ -z "${LOCKGUARD_COVERAGE:-}" ] || command -v lcov >/dev/null || echo lcov
	ls /usr/lib*/faketime/libfaketime.so.1 /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null | grep -q . || echo libfaketime
}

# The newest clang there is; postgresql-server-dev brings one along as clang-NN.
find_clang()
{
	command -v clang || ls /usr/bin/clang-[0-9]* 2>/dev/null | sort -V | tail -n 1
}

apt_install()
{
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
		install --no-install-recommends "$@" </dev/null >"$tmp/apt.log" 2>&1 ||
		{ tail -n 30 "$tmp/apt.log" >&2; die "cannot install: $*"; }
}

# install_for NAME COMMAND: what only a few tests need, from the package of that name.
install_for()
{
	command -v "$2" >/dev/null && return
	[ "$(id -u)" = 0 ] || die "missing; install as root: apt-get install $1"
	echo "Installing $1"
	apt-get -qq -o DPkg::Lock::Timeout=300 update && apt_install "$1"
}

install_missing()
{
	local packages conf=/etc/postgresql-common/createcluster.conf

	packages=$(missing_packages "$@") || exit 1
	[ -n "$packages" ] || return 0
	packages=$(echo $packages)
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		die "missing; install as root: apt-get install $packages"
	fi
	echo "Installing $packages"
	apt-get -qq -o DPkg::Lock::Timeout=300 update || die "apt-get update failed"
	case $packages in
	*postgresql-[0-9]*)
		# A new PostgreSQL package would create and start a server of its own.
		[ -e $conf ] || apt_install postgresql-common
		cp -p $conf "$tmp/createcluster.conf"
		echo "create_main_cluster = false" >>$conf
		apt_install $packages
		cat "$tmp/createcluster.conf" >$conf
		;;
	*)
		apt_install $packages
		;;
	esac
	[ -z "$(missing_packages "$@")" ] || die "still missing: $(missing_packages "$@")"
}

# Runs a command as the user that servers run as: PostgreSQL refuses root.
as_user()
{
	if [ "$(id -u)" = 0 ]; then
		HOME=$tmp runuser -u "$server_user" -- "$@" 9<&-
	else
		HOME=$tmp "$@" 9<&-
	fi
}

# prepare [tests]: everything before the first build. Leaves the caller in the temporary folder.
prepare()
{
	local dir

	tmp=$(mktemp -d "${TMPDIR:-/tmp}/lockguard.XXXXXX") || exit 1
	trap cleanup EXIT
	trap 'exit 1' INT TERM HUP
	choose_postgres
	install_missing "$@"
	dir=$("$PG_CONFIG" --pkglibdir)
	[ "$(id -u)" = 0 ] || [ -w "$dir" ] || die "cannot install into $dir; run as root"

	bindir=$("$PG_CONFIG" --bindir)
	pgxs=$(cd "$(dirname "$("$PG_CONFIG" --pgxs)")/../.." && pwd)
	pg_version=$("$PG_CONFIG" --version)
	server_user=postgres
	id -u $server_user >/dev/null 2>&1 || server_user=nobody
	[ "$(id -u)" != 0 ] || chown "$server_user" "$tmp"
	export TMPDIR=$tmp PATH=$bindir:$PATH
	cd "$tmp" || exit 1

	# Two runs on one PostgreSQL would test each other's build.
	exec 9<"$dir"
	flock -n 9 || { echo "Waiting for another run on this PostgreSQL"; flock 9; }
}

cleanup()
{
	local status=$?

	trap '' INT TERM HUP
	cd /
	find "$tmp" -name postmaster.pid 2>/dev/null | while read -r pidfile; do
		as_user "$bindir/pg_ctl" -s -D "$(dirname "$pidfile")" -m immediate stop >/dev/null 2>&1
	done
	$at_exit || status=1
	if [ -n "${LOCKGUARD_KEEP:-}" ]; then
		echo "Kept: $tmp"
	else
		rm -rf "$tmp"
	fi
	exit $status
}

# copy_checkout NAME: so that builds never share an object.
copy_checkout()
{
	as_user mkdir -p "$tmp/$1" &&
		tar -C "$top" --exclude=./.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' \
			--exclude=tmp_check --exclude=results --exclude=output_iso -c . |
		as_user tar -C "$tmp/$1" --no-same-owner -x
}

# build NAME [make argument ...]: in a copy of the checkout.
build()
{
	local name=$1

	shift
	copy_checkout "$name" &&
		as_user make -C "$tmp/$name" -s PG_CONFIG="$PG_CONFIG" with_llvm=no "$@" all
}

# install_build NAME [make argument ...]
install_build()
{
	local name=$1

	shift
	make -C "$tmp/$name" -s PG_CONFIG="$PG_CONFIG" with_llvm=no "$@" install
}

# For at_exit, where another build than the plain one has been installed.
restore_plain_build()
{
	{ [ -d "$tmp/plain" ] || build plain; } && install_build plain >/dev/null
}

# start_server [line of postgresql.conf ...]: reachable by its socket in the temporary folder only.
start_server()
{
	as_user initdb -D "$tmp/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$tmp/initdb.log" 2>&1 ||
		{ cat "$tmp/initdb.log"; return 1; }
	printf '%s\n' "shared_preload_libraries = 'lockguard'" "listen_addresses = ''" \
		"unix_socket_directories = '$tmp'" "fsync = off" "$@" |
		as_user tee -a "$tmp/data/postgresql.conf" >/dev/null
	export PGHOST=$tmp PGPORT=5432 PGUSER=postgres
	as_user pg_ctl -s -w -D "$tmp/data" -l "$tmp/server.log" start || { cat "$tmp/server.log"; return 1; }
}

stop_server()
{
	as_user pg_ctl -s -w -D "$tmp/data" -m fast stop
}
