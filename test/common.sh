# Sourced by the commands that build and run lockguard: finds PostgreSQL, installs what is missing, keeps one temporary
# folder, builds in it, and runs servers and tests as an ordinary user.

set -u
unset CDPATH
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LC_ALL=C
export PATH=$PATH:/usr/sbin:/sbin	# which "su" leaves out
umask 022
supported="15 16 17 18 19"		# versions of PostgreSQL
createcluster=/etc/postgresql-common/createcluster.conf
policy=/usr/sbin/policy-rc.d
held=				# which of these two hold_services() has changed
at_exit=:				# a command for cleanup to run first

# A PGHOST or PGOPTIONS of the caller must not reach the tests, nor what would change a build.
for var in "${!PG@}"; do
	case $var in PG_*) ;; *) unset "$var" ;; esac
done
unset COPT DESTDIR MAKEFLAGS PROFILE

die()
{
	echo "$*" >&2
	exit 1
}

# Sets tmp to a new folder. The user that servers run as has to get there, and the paths of sockets in it
# may have 107 bytes.
make_tmp()
{
	local dir=${TMPDIR:-/tmp}

	case $dir in
	/*) ;;
	*) dir=/tmp ;;
	esac
	[ "$(id -u)" != 0 ] || runuser -u nobody -- test -x "$dir" || dir=/tmp
	[ ${#dir} -le 60 ] || dir=/tmp
	tmp=$(mktemp -d "$dir/lockguard.XXXXXX") || exit 1
}

# checked STATUS TEXT: a line for something that was checked; counts it in passed or failed, which the caller has
# set to 0.
checked()
{
	if [ "$1" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
	printf '%-8s%s\n' "$([ "$1" = 0 ] && echo ok || echo FAILED)" "$2"
}

# The version that Debian's postgresql-NN packages of this pg_config have in their names; nothing for another
# PostgreSQL.
debian_version()
{
	local bin

	bin=$("$1" --bindir 2>/dev/null) || bin=$(dirname "$1")
	echo "$bin" | sed -n 's|^/usr/lib/postgresql/\([0-9]*\)/bin$|\1|p'
}

# The major version of that PostgreSQL, or of the one that Debian would install there.
major_version()
{
	local version

	version=$("$1" --version 2>/dev/null | sed -nE 's/^PostgreSQL ([0-9]+).*/\1/p')
	echo "${version:-$(debian_version "$1")}"
}

# Whether lockguard is for a major version of PostgreSQL.
is_supported()
{
	case " $supported " in
	*" $1 "*) return 0 ;;
	esac
	return 1
}

# missing_files PG_CONFIG [tests]: which files of that PostgreSQL are needed and not there. That some are
# does not mean much: clients bring pg_config and pgxs.mk along.
missing_files()
{
	local bin pgxs file

	if ! bin=$("$1" --bindir 2>/dev/null); then
		bin=$(dirname "$1")
		echo "$1"
		[ -e "$bin/postgres" ] || echo "$bin/postgres"
		return
	fi
	pgxs=$("$1" --pgxs)
	set -- "${2:-}" "$bin"/{postgres,initdb,pg_ctl,psql} "$pgxs" "$("$1" --includedir-server)/postgres.h"
	pgxs=${pgxs%/makefiles/pgxs.mk}/test
	[ "$1" != tests ] ||
		set -- "$@" "$pgxs/regress/pg_regress" "$pgxs"/isolation/{pg_isolation_regress,isolationtester} \
			"$pgxs/perl/PostgreSQL/Test/Cluster.pm"
	shift
	for file; do
		[ -e "$file" ] || echo "$file"
	done
}

# choose_postgres [tests]: sets PG_CONFIG. Unless the caller did: one that is complete, version 15 before
# the one on PATH; else a server whose other packages can be installed; else what Debian offers.
choose_postgres()
{
	local found missing version on_path

	if [ -n "${PG_CONFIG:-}" ]; then
		found=$(type -P "$PG_CONFIG") || found=$PG_CONFIG
		# Later commands run in another folder.
		case $found in
		/*) PG_CONFIG=$found ;;
		*) PG_CONFIG=$PWD/$found ;;
		esac
		version=$(major_version "$PG_CONFIG")
		[ -z "$version" ] || is_supported "$version" ||
			die "lockguard is for PostgreSQL ${supported%% *} to ${supported##* }; $PG_CONFIG belongs to $version"
		return
	fi
	on_path=$(type -P pg_config)
	for found in /usr/lib/postgresql/15/bin/pg_config $on_path /usr/lib/postgresql/*/bin/pg_config; do
		[ -x "$found" ] && is_supported "$(major_version "$found")" || continue
		missing=$(missing_files "$found" "$@")
		[ -n "$missing" ] || { PG_CONFIG=$found; return; }
		[ "$found" != "$on_path" ] || [ -n "$(debian_version "$found")" ] ||
			echo "Not using $found, which lacks" $missing
	done
	for version in $supported; do
		PG_CONFIG=/usr/lib/postgresql/$version/bin/pg_config
		[ ! -x "/usr/lib/postgresql/$version/bin/postgres" ] || return 0
	done
	[ "$(id -u)" != 0 ] || apt_update
	version=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p')
	PG_CONFIG=/usr/lib/postgresql/${version:-15}/bin/pg_config
	is_supported "$version" || PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
}

# missing_packages [tests]: lists the Debian packages that are missing.
missing_packages()
{
	local version files cc

	files=$(missing_files "$PG_CONFIG" "$@")
	version=$(debian_version "$PG_CONFIG")
	if [ -n "$files" ] && [ -z "$version" ]; then
		[ -x "$PG_CONFIG" ] || die "there is no program $PG_CONFIG"
		"$PG_CONFIG" --bindir >/dev/null 2>"$tmp/pg_config.log" ||
			die "$PG_CONFIG does not work: $(cat "$tmp/pg_config.log")"
		set -- "$PG_CONFIG belongs to no complete PostgreSQL installation; it lacks" $files
		case $files in
		*/PostgreSQL/Test/*) set -- "$* (which PostgreSQL installs if configured with --enable-tap-tests)" ;;
		esac
		die "$*"
	fi
	echo "$files" | sed -nE "s/.*\/bin\/(postgres|initdb|pg_ctl)$/postgresql-$version/p" | sort -u
	echo "$files" | grep -qvE '^$|/bin/(postgres|initdb|pg_ctl)$' && server_dev "$version"
	command -v make >/dev/null || echo make
	command -v gcc >/dev/null || echo gcc
	cc=$("$PG_CONFIG" --cc 2>/dev/null)
	case ${cc%% *} in
	"" | gcc | *-gcc | cc) ;;
	*) command -v "${cc%% *}" >/dev/null || die "$PG_CONFIG was built with ${cc%% *}, which is missing" ;;
	esac
	has_header stdio.h || echo libc6-dev
	! grep -qs '^#define USE_OPENSSL' "$("$PG_CONFIG" --includedir-server 2>/dev/null)/pg_config.h" ||
		has_header openssl/ssl.h || echo libssl-dev
	[ "${1:-}" = tests ] || return 0
	[ -n "$(find_clang)" ] || echo clang
	command -v cppcheck >/dev/null || echo cppcheck
	command -v prove >/dev/null || echo perl
	perl -MIPC::Run -e 1 2>/dev/null || echo libipc-run-perl
	[ -z "${LOCKGUARD_COVERAGE:-}" ] || command -v lcov >/dev/null || echo lcov
	ls /usr/lib*/faketime/libfaketime.so.1 /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null | grep -q . || echo libfaketime
}

# The package with the server's headers, of the version that the server has if apt knows it: some of another
# version would have the server upgraded.
server_dev()
{
	local package=postgresql-server-dev-$1 version

	version=$(installed_version "postgresql-$1")
	if [ -n "$version" ] && [ "$version" != "$(available_version "$package")" ] &&
		apt-cache madison "$package" | awk '{ print $3 }' | grep -qxF "$version"; then
		package=$package=$version
	fi
	echo "$package"
}

# The version of a package that is installed, or that apt would install; nothing if there is none.
installed_version()
{
	dpkg-query -W -f '${db:Status-Status} ${Version}' "$1" 2>/dev/null | sed -n 's/^installed //p'
}

available_version()
{
	apt-cache policy "$1" 2>/dev/null | sed -nE 's/^ *Candidate: ([^(].*)/\1/p'
}

# A compiler may look in other folders as well.
has_header()
{
	[ -e "/usr/include/$1" ] || echo "#include <$1>" | gcc $("$PG_CONFIG" --cppflags 2>/dev/null) -E - >/dev/null 2>&1
}

# The newest clang there is; postgresql-server-dev brings one along as clang-NN.
find_clang()
{
	command -v clang || ls /usr/bin/clang-[0-9]* 2>/dev/null | sort -V | tail -n 1
}

# Once. That a source does not answer matters only if it is the one that is needed.
apt_update()
{
	[ ! -e "$tmp/update.log" ] || return 0
	apt-get -qq -o DPkg::Lock::Timeout=300 update >"$tmp/update.log" 2>&1
}

# While packages are installed they start no service, and a new PostgreSQL makes no server of its own.
hold_services()
{
	if [ ! -e $policy ]; then
		held="$held policy"
		printf '#!/bin/sh\n# Of %s, while it runs.\n! kill -0 %s 2>/dev/null || exit 101\n' "$top/test" $$ >$policy
		chmod 755 $policy
	fi
	if [ -e $createcluster ]; then
		cp -p $createcluster "$tmp/createcluster.conf" && held="$held conf"
		printf '\ncreate_main_cluster = false\n' >>$createcluster
	fi
}

release_services()
{
	case $held in *policy*) rm -f $policy ;; esac
	case $held in *conf*) cat "$tmp/createcluster.conf" >$createcluster ;; esac
	held=
}

# Without being told, apt-get also upgrades whatever comes from the same source as a new package: a server
# that is older than its headers, and so restarts it.
apt_get_install()
{
	DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTBUGS_FRONTEND=none APT_LISTCHANGES_FRONTEND=none \
		apt-get -qq -o DPkg::Lock::Timeout=300 -o APT::Get::Upgrade-By-Source-Package=false \
		install --no-install-recommends "$@" </dev/null
}

# apt_install PACKAGE ...: never at the price of what is there.
apt_install()
{
	local plan changed

	plan=$(apt_get_install -s "$@" 2>"$tmp/apt.log") || cannot_install "$@"
	changed=$(echo "$plan" | sed -nE 's/^Remv ([^ ]+) .*/\1/p; s/^Inst (postgresql-[0-9]+) \[.*/\1/p')
	[ -z "$changed" ] || die "cannot install $* without upgrading or removing" $changed \
		"- do it when servers may be restarted: apt-get install $*"
	hold_services
	if [ ! -e $createcluster ] && echo "$plan" | grep -q '^Inst postgresql-[0-9]'; then
		# This brings the file that says whether a server is made.
		apt_get_install postgresql-common >"$tmp/apt.log" 2>&1 || cannot_install "$@"
		hold_services
	fi
	apt_get_install "$@" >"$tmp/apt.log" 2>&1 || cannot_install "$@"
	release_services
}

# cannot_install PACKAGE ...: the last line names those that are to blame; all if none is in particular.
cannot_install()
{
	local package name unknown= unfit= server=

	cat "$tmp/update.log" "$tmp/apt.log" 2>/dev/null | tail -n 20 >&2
	for package; do
		name=${package%%=*}
		if [ -z "$(available_version "$name")" ]; then
			unknown="$unknown $name"
		elif ! apt_get_install -s "$package" >/dev/null 2>&1; then
			unfit="$unfit $name"
			server=$(installed_version "postgresql-${name##*-}")
			server=${server:+ (postgresql-${name##*-} $server: does apt have the source that it came from?)}
		fi
	done
	[ -z "$unknown" ] || die "cannot install$unknown: apt knows no such package; look at /etc/apt/sources.list"
	[ -z "$unfit" ] || die "cannot install$unfit beside what is installed$server"
	die "cannot install $*"
}

# install_for NAME COMMAND: what only a few tests need, from the package of that name.
install_for()
{
	command -v "$2" >/dev/null && return
	[ "$(id -u)" = 0 ] || die "missing; install as root: apt-get install $1"
	echo "Installing $1"
	apt_update
	apt_install "$1"
}

# unpack_package PACKAGE: its files, in the temporary folder only, so that no service is installed.
unpack_package()
{
	mkdir -p "$tmp/unpacked" &&
		(cd "$tmp/unpacked" && apt-get -qq download "$1" 2>"$tmp/apt.log" && dpkg-deb -x "$1"_*.deb .)
}

# need PACKAGE PROGRAM: sets found to the program: the one that is installed, or of the package, unpacked.
need()
{
	found=$(command -v "$2") && return
	found=$tmp/unpacked/usr/bin/$2
	[ -x "$found" ] || unpack_package "$1" || { cat "$tmp/apt.log"; die "cannot get Debian's package $1"; }
}

install_missing()
{
	local packages

	packages=$(missing_packages "$@") || exit 1
	[ -n "$packages" ] || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		die "missing; install as root: apt-get install" $packages
	fi
	apt_update
	packages=$(missing_packages "$@")
	echo "Installing" $packages
	apt_install $packages
	packages=$(missing_packages "$@") || exit 1
	[ -z "$packages" ] || die "installed, and still not found:" $packages
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

	make_tmp
	trap cleanup EXIT
	trap 'exit 1' INT TERM HUP
	choose_postgres "$@"
	install_missing "$@"
	for dir in "$("$PG_CONFIG" --sharedir)/extension" "$("$PG_CONFIG" --pkglibdir)"; do
		[ -w "$dir" ] || die "cannot install into $dir; run as root"
	done

	bindir=$("$PG_CONFIG" --bindir)
	pgxs=$(cd "$(dirname "$("$PG_CONFIG" --pgxs)")/../.." && pwd)
	pg_version=$("$PG_CONFIG" --version)
	server_user=postgres
	id -u $server_user >/dev/null 2>&1 || server_user=nobody
	[ "$(id -u)" != 0 ] || chown "$server_user" "$tmp"
	as_user "$bindir/postgres" --version >/dev/null 2>"$tmp/version.log" ||
		die "user $server_user cannot run $bindir/postgres: $(cat "$tmp/version.log")"
	# The unit tests are built there.
	printf '#!/bin/sh\n' >"$tmp/program" && chmod +x "$tmp/program"
	[ "${1:-}" != tests ] || "$tmp/program" 2>/dev/null ||
		die "no program can be run in $tmp; set TMPDIR to another folder"
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
	release_services
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

# build NAME [make argument ...]: in a copy of the checkout. LOCKGUARD_HEADERS=dir: with these headers of the
# server instead of those of PG_CONFIG.
build()
{
	local name=$1

	shift
	copy_checkout "$name" &&
		as_user make -C "$tmp/$name" -s PG_CONFIG="$PG_CONFIG" with_llvm=no \
			${LOCKGUARD_HEADERS:+includedir_server="$LOCKGUARD_HEADERS"} "$@" all
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
