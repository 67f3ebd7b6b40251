#!/bin/bash
# Runs test/demo.sh, and test/check.sh with one TAP test, on machines that have nothing, or only a part, of
# what they need: Debian chroots, each brought into one such state. Needs root.
#
#   test/fresh.sh                every state but "full"
#   test/fresh.sh STATE ...      these
#   test/fresh.sh list           what the states are
#   test/fresh.sh full           the whole of test/check.sh, from nothing but git
#   LOCKGUARD_SUITE=trixie       or forky, instead of bookworm
#   LOCKGUARD_CHROOTS=dir        keeps there a chroot to copy, and the packages that were downloaded
#   LOCKGUARD_MIRROR=url         instead of http://deb.debian.org/debian
#   LOCKGUARD_KEEP=1             keeps the chroots of states that failed
#
# A command that can do its work in a state has to succeed, and to leave nothing but installed packages and
# lockguard: no process, no file, no Debian cluster, and a server that was running keeps running. One that cannot
# has to name the packages. The last line is "N passed, N failed".

set -u
export LC_ALL=C
unset CDPATH
top=$(cd "$(dirname "$0")/.." && pwd)
export PATH=/usr/local/sbin:/usr/local/bin:$PATH
checkout=$top
kept=/root/fresh			# inside: what was there before, and what the commands said

# ---- Inside a chroot ----------------------------------------------------------------------------

wrong()
{
	echo "WRONG: $*"
	exit 1
}

# have PACKAGE ...: as the machine's owner has installed them, with a cluster that runs.
have()
{
	echo "---- has $*"
	DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$@" </dev/null >$kept/apt 2>&1 ||
		{ cat $kept/apt; wrong "the state cannot be made"; }
}

# have_not PACKAGE ...: nor what is no more needed then.
have_not()
{
	DEBIAN_FRONTEND=noninteractive apt-get -qq purge "$@" </dev/null >$kept/apt 2>&1 ||
		{ cat $kept/apt; wrong "the state cannot be made"; }
}

# pretend VERSION PACKAGE ...: as if they were of that version, which no source of apt has.
pretend()
{
	local version=$1 package

	shift
	for package; do
		VERSION=$version PACKAGE=$package perl -00 -pi -e '
			if (/^Package: \Q$ENV{PACKAGE}\E$/m)
			{
				s/^Version: .*$/Version: $ENV{VERSION}/m;
				s/\b(postgresql-client-\d+|libpq5) \((>?=) [^)]*\)/$1 ($2 $ENV{VERSION})/g;
			}' /var/lib/dpkg/status
	done
	apt-get -qq check || wrong "the state cannot be made"
}

# own_postgres FOLDER: a whole PostgreSQL that is not Debian's; its programs find the rest of it from where
# they are.
own_postgres()
{
	have "postgresql-$version" "postgresql-server-dev-$version" make gcc libc6-dev
	mkdir -p "$1/lib/postgresql" "$1/share/postgresql" "$1/include/postgresql"
	cp -a "/usr/lib/postgresql/$version" "$1/lib/postgresql/"
	cp -a "/usr/share/postgresql/$version" "$1/share/postgresql/"
	cp -a "/usr/include/postgresql/$version" "$1/include/postgresql/"
	own=$1/lib/postgresql/$version
	have_not "postgresql-$version" "postgresql-client-$version" "postgresql-server-dev-$version" \
		postgresql-common postgresql-client-common libpq-dev
	[ ! -e /usr/lib/postgresql ] || wrong "Debian's PostgreSQL is still there"
}

# The server that the machine is there for.
server_pid()
{
	head -qn 1 "/var/lib/postgresql/$version/main/postmaster.pid" 2>/dev/null
}

files()
{
	find / -xdev -path "$kept" -prune -o -path /mnt -prune -o ! -type d ! -lname "/etc/alternatives/*" -print | sort
}

clusters()
{
	ls -d /etc/postgresql/*/* /var/lib/postgresql/*/* 2>/dev/null
}

# All but this shell, the dead, and what the server has begun. Not for a pipe, whose processes would be among them.
processes()
{
	local dir stat server

	server=$(server_pid)
	for dir in /proc/[0-9]*; do
		[ "$dir" != /proc/$$ ] && stat=$(cat "$dir/stat" 2>/dev/null) || continue
		set -- ${stat##*) }
		[ "$1" = Z ] || [ "$2" = "$server" ] || echo "${dir#/proc/} $(tr '\0' ' ' <"$dir/cmdline")"
	done
}

shared_memory()
{
	ls /dev/shm
	tail -n +2 /proc/sysvipc/shm | awk '{ print $1, $2 }'
}

server()
{
	server_pid
	dpkg-query -W -f '${db:Status-Status} ${Version}\n' "postgresql-$version" 2>/dev/null | grep '^installed'
}

look_before()
{
	local what

	for what in files clusters processes shared_memory server; do
		$what >"$kept/$what"
	done
	cp /etc/postgresql-common/createcluster.conf $kept/conf 2>/dev/null
	touch $kept/stamp
}

# What packages own, write and remember; lockguard itself.
is_installed='^/(etc|run|var/(lib|cache|log|backups|run|mail))/
^/usr/.*/__pycache__/
^/usr/lib/(python3|x86_64-linux-gnu/(gconv|perl)|ssl|locale)
^/usr/(share/(info|perl|mime|applications|fonts|icons|postgresql/[0-9]+/tsearch_data)|local/(lib|share))/
^/usr/bin/pg_config\.libpq-dev$
/lockguard\.(so|control)$
/extension/lockguard--[0-9.]*\.sql$'

left_nothing()
{
	local tries=0 what left

	# What they have killed may take a moment to be gone.
	until processes >$kept/now && ! grep -vxFf $kept/processes $kept/now >$kept/left; do
		tries=$((tries + 1))
		[ $tries -lt 50 ] || wrong "left processes: $(cat $kept/left)"
		sleep 0.1
	done
	files | comm -13 $kept/files - |
		grep -vxFf <(cat /var/lib/dpkg/info/*.list | sed -E 's#^/(bin|sbin|lib|lib64)/#/usr/\1/#' | sort -u) |
		grep -vE "$is_installed" >$kept/left
	[ ! -s $kept/left ] || wrong "left files: $(cat $kept/left)"
	left=$(find "$checkout" -newer $kept/stamp)
	[ -z "$left" ] || wrong "changed the checkout: $left"
	for what in clusters shared_memory; do
		$what | cmp -s $kept/$what - || wrong "changed $what: $($what | diff $kept/$what -)"
	done
	[ ! -s $kept/server ] || server | cmp -s $kept/server - || wrong "changed the server: $(server | diff $kept/server -)"
	[ -z "$(server_pid)" ] || kill -0 "$(server_pid)" || wrong "ended the server"
	what=/etc/postgresql-common/createcluster.conf
	if [ -e $kept/conf ]; then
		cmp $kept/conf $what || wrong "changed $what"
	elif grep -s '^create_main_cluster' $what; then
		wrong "left that in $what"
	fi
	[ ! -e /usr/sbin/policy-rc.d ] || wrong "left /usr/sbin/policy-rc.d"
}

run()
{
	echo "---- $*"
	look_before
	"$@" >$kept/output 2>&1 </dev/null
	status=$?
	cat $kept/output
	! grep -v 'warning: setlocale' $kept/output | grep -qE 'bash: |line [0-9]+: |command not found|not permitted' ||
		wrong "an error of the shell"
	left_nothing
}

demo()
{
	run "$@" bash "$checkout/test/demo.sh"
	[ $status = 0 ] && grep -q "Two outages ended by themselves" $kept/output || wrong "the demo failed"
}

check()
{
	run "$@" bash "$checkout/test/check.sh" test/t/043_clock.pl
	[ $status = 0 ] && tail -n 1 $kept/output | grep -qE '^[0-9]+ passed, 0 failed$' || wrong "the check failed"
	grep -qE '/043_clock.pl \.+ ok' $kept/output || wrong "the TAP test was not run"
}

# says WORD ...: that the last command had to give up, and gave them as the reason in its last line.
says()
{
	local word

	[ $status != 0 ] || wrong "it succeeded"
	for word; do
		tail -n 1 $kept/output | grep -qF -- "$word" || wrong "its last line does not say: $word"
	done
	[ "$(wc -l <$kept/output)" -lt 40 ] || wrong "it says too much"
}

installs_nothing()
{
	! grep -q '^Installing' $kept/output || wrong "it has installed something"
}

# State bare: nothing but what every Debian has
state_bare()
{
	demo
	check
}

# State git: nothing but git
state_git()
{
	have git
	demo
	check
}

# State full: nothing but git; the whole of test/check.sh
state_full()
{
	have git
	run bash "$checkout/test/check.sh"
	[ $status = 0 ] && tail -n 1 $kept/output | grep -qE '^[0-9]+ passed, 0 failed$' || wrong "the check failed"
}

# State server: a server that runs, as a DBA has it
state_server()
{
	have "postgresql-$version"
	[ -n "$(server_pid)" ] || wrong "no server is running"
	demo
	check
}

# State client: psql, which brings pg_config and pgxs.mk along
state_client()
{
	have "postgresql-client-$version"
	demo
	check
}

# State libpq: the development files of clients, with another pg_config
state_libpq()
{
	have libpq-dev
	demo
	check
}

# State common: what all versions of PostgreSQL have in common, with a pg_config that only refuses
state_common()
{
	have postgresql-common
	run env PG_CONFIG=/usr/bin/pg_config bash "$checkout/test/demo.sh"
	says /usr/bin/pg_config postgresql-server-dev-NN
	demo
}

# State dev: the server's headers without a server, nor a compiler
state_dev()
{
	have "postgresql-server-dev-$version"
	demo
	check
}

# State nocompiler: server and headers, and make
state_nocompiler()
{
	have "postgresql-$version" "postgresql-server-dev-$version" make
	demo
}

# State nolibc: a compiler, without the headers of libc
state_nolibc()
{
	have gcc make "postgresql-client-$version"
	[ ! -e /usr/include/stdio.h ] || wrong "the headers are there"
	demo
}

# State built: all that the demo needs, none of what the tests need
state_built()
{
	have "postgresql-$version" "postgresql-server-dev-$version" make gcc libc6-dev
	demo
	installs_nothing
	check
	demo
	installs_nothing
}

# State removed: a server whose package was removed, and whose cluster was kept
state_removed()
{
	have "postgresql-$version"
	pg_ctlcluster "$version" main stop
	DEBIAN_FRONTEND=noninteractive apt-get -qq remove "postgresql-$version" >$kept/apt 2>&1
	[ -e "/etc/postgresql/$version/main/postgresql.conf" ] || wrong "the cluster is gone"
	demo
}

# State old: another major version, which lockguard does not know
state_old()
{
	mkdir -p /usr/lib/postgresql/14/bin
	printf '#!/bin/sh\n[ "$1" != --version ] || echo "PostgreSQL 14.9"\n[ "$1" != --bindir ] || echo %s\n' \
		/usr/lib/postgresql/14/bin >/usr/lib/postgresql/14/bin/pg_config
	cp /usr/lib/postgresql/14/bin/pg_config /usr/lib/postgresql/14/bin/postgres
	chmod +x /usr/lib/postgresql/14/bin/*
	ln -s /usr/lib/postgresql/14/bin/pg_config /usr/local/bin/pg_config
	demo
	run env PG_CONFIG=/usr/lib/postgresql/14/bin/pg_config bash "$checkout/test/demo.sh"
	says "15 to 19" "14"
	run env PG_CONFIG=pg_config bash "$checkout/test/demo.sh"
	says "15 to 19" "14"
}

# State other: PG_CONFIG names a version that this Debian does not have
state_other()
{
	local other=16

	have "postgresql-$version"
	run env PG_CONFIG=/usr/lib/postgresql/$other/bin/pg_config bash "$checkout/test/demo.sh"
	says "postgresql-$other" "postgresql-server-dev-$other"
	run env PG_CONFIG=/nowhere/pg_config bash "$checkout/test/demo.sh"
	says /nowhere/pg_config
	# This one asks Debian's newest.
	demo env PG_CONFIG=pg_config
}

# State newer: a server from another repository, newer than all that apt can have
state_newer()
{
	have "postgresql-$version"
	pretend "$version.99-1.pgdg" "postgresql-$version" "postgresql-client-$version" libpq5
	run bash "$checkout/test/demo.sh"
	says "postgresql-server-dev-$version" "postgresql-$version $version.99-1.pgdg"
	run bash "$checkout/test/check.sh"
	says "postgresql-server-dev-$version"
}

# State older: a server older than what apt has, which must not be restarted
state_older()
{
	have "postgresql-$version"
	pretend "$version.0-1" "postgresql-$version" "postgresql-client-$version" libpq5
	# Where the headers need the client of their own version, and this one its server, it would be upgraded.
	if apt-cache show "postgresql-server-dev-$version" | grep -q "postgresql-client-$version (="; then
		run bash "$checkout/test/demo.sh"
		says "postgresql-server-dev-$version" "postgresql-$version"
	else
		demo
	fi
}

# State bound: a server that would have to be upgraded for the headers, and so restarted
state_bound()
{
	have "postgresql-$version"
	pretend "$version.0-1" "postgresql-$version" "postgresql-client-$version" libpq5
	perl -00 -pi -e 's/^Depends: /Depends: libpq5 (= '$version.0-1'), /m if /^Package: postgresql-'$version'$/m' \
		/var/lib/dpkg/status
	apt-get -qq check || wrong "the state cannot be made"
	run bash "$checkout/test/demo.sh"
	says "postgresql-server-dev-$version" "upgrading" "postgresql-$version"
}

# State held: a library that is held at an older version
state_held()
{
	have "postgresql-client-$version"
	pretend "$version.0-1" "postgresql-client-$version" libpq5
	apt-mark hold libpq5
	run bash "$checkout/test/demo.sh"
	says "postgresql-server-dev-$version"
}

# State local: a PostgreSQL of one's own, first on PATH
state_local()
{
	own_postgres /usr/local/pg
	ln -s "$own/bin/pg_config" /usr/local/bin/pg_config
	demo
	installs_nothing
	check
	grep -q "$own\|/usr/local/bin/pg_config" $kept/output || wrong "it has used another one"
	[ ! -e /usr/lib/postgresql ] || wrong "it has installed Debian's"
}

# State headless: a PostgreSQL of one's own, first on PATH, without its headers
state_headless()
{
	own_postgres /usr/local/pg
	ln -s "$own/bin/pg_config" /usr/local/bin/pg_config
	rm -r /usr/local/pg/include
	run env PG_CONFIG="$own/bin/pg_config" bash "$checkout/test/demo.sh"
	says "$own/bin/pg_config" "/usr/local/pg/include/postgresql/$version/server/postgres.h"
	demo
	grep -q "/usr/local/pg/include.*postgres.h" $kept/output || wrong "it does not say why it is not used"
}

# State notap: a PostgreSQL of one's own, first on PATH, without its Perl modules
state_notap()
{
	own_postgres /usr/local/pg
	ln -s "$own/bin/pg_config" /usr/local/bin/pg_config
	rm -r "$own/lib/pgxs/src/test/perl"
	demo
	installs_nothing
	run env PG_CONFIG="$own/bin/pg_config" bash "$checkout/test/check.sh"
	says "PostgreSQL/Test/Cluster.pm" "--enable-tap-tests"
	check
}

# State locked: a PostgreSQL of one's own where the user that runs servers cannot go
state_locked()
{
	own_postgres /root/pg
	chmod 700 /root
	run env PG_CONFIG="$own/bin/pg_config" bash "$checkout/test/demo.sh"
	says "user postgres cannot run $own/bin/postgres"
}

# The rest is done as a user without rights.
become_user()
{
	useradd -m -s /bin/bash dba
	cp -a "$checkout" /home/dba/
	chown -R dba: /home/dba
	checkout=/home/dba/lockguard
}

# install_what_it_says: for a user, who then cannot install lockguard
install_what_it_says()
{
	local packages

	packages=$(sed -n 's/^missing; install as root: apt-get install //p' $kept/output)
	[ -n "$packages" ] || wrong "it does not say what to install"
	have $packages
}

# State user: no rights; nothing is there, then what it has asked for
state_user()
{
	become_user
	run runuser -u dba -- bash "$checkout/test/demo.sh"
	says "apt-get install" "postgresql-$version" "postgresql-server-dev-$version" make gcc libc6-dev
	install_what_it_says
	run runuser -u dba -- bash "$checkout/test/demo.sh"
	says "run as root" "/usr/share/postgresql/$version/extension"
	run runuser -u dba -- bash "$checkout/test/check.sh"
	says "apt-get install" cppcheck libipc-run-perl libfaketime
	install_what_it_says
	run runuser -u dba -- bash "$checkout/test/check.sh"
	says "run as root"
	demo
	installs_nothing
	check
	installs_nothing
}

# State userserver: no rights, on a machine with a server
state_userserver()
{
	have "postgresql-$version"
	become_user
	run runuser -u dba -- bash "$checkout/test/demo.sh"
	says "apt-get install" "postgresql-server-dev-$version" make gcc libc6-dev
	! tail -n 1 $kept/output | grep -q "postgresql-$version" || wrong "it asks for what is there"
}

# State userown: no rights, but a PostgreSQL of the user's own
state_userown()
{
	own_postgres /home/own
	have cppcheck clang libfaketime libipc-run-perl perl
	become_user
	chown -R dba: /home/own
	demo runuser -u dba -- env PG_CONFIG="$own/bin/pg_config"
	check runuser -u dba -- env PATH="$own/bin:$PATH"
}

# State offline: apt has no sources at all
state_offline()
{
	rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*
	run bash "$checkout/test/demo.sh"
	says "postgresql-$version" "postgresql-server-dev-$version" make gcc libc6-dev
	run bash "$checkout/test/check.sh"
	says "postgresql-$version" cppcheck libfaketime libipc-run-perl
}

# State unreachable: the machine's mirror does not answer, after the demo's packages were installed
state_unreachable()
{
	have "postgresql-$version" "postgresql-server-dev-$version" make gcc libc6-dev
	echo "deb http://127.0.0.1:9/debian bookworm main" >/etc/apt/sources.list
	rm -rf /var/lib/apt/lists/*
	demo
	run bash "$checkout/test/check.sh"
	says cppcheck libfaketime libipc-run-perl
}

# State stale: the mirror does not answer, and apt's lists are from when it did
state_stale()
{
	rm /etc/apt/apt.conf.d/99archives
	sed -i "s|http://[^ ]*|http://127.0.0.1:9/debian|" /etc/apt/sources.list
	( cd /var/lib/apt/lists && for file in *_dists_*; do mv "$file" "127.0.0.1:9_debian_dists_${file#*_dists_}"; done )
	apt-cache policy make | grep -q 'Candidate: [0-9]' || wrong "apt has no lists"
	run bash "$checkout/test/demo.sh"
	says "postgresql-$version" "postgresql-server-dev-$version" make gcc libc6-dev
}

# State thirdparty: one of apt's sources is broken, and Debian's is not
state_thirdparty()
{
	echo "deb file:/nowhere stable main" >/etc/apt/sources.list.d/other.list
	! apt-get -qq update || wrong "the source is not broken"
	demo
}

# State failing: dpkg fails
state_failing()
{
	have postgresql-common
	echo 'DPkg::Pre-Invoke { "echo no room is left >&2; exit 1"; };' >/etc/apt/apt.conf.d/99failing
	run bash "$checkout/test/demo.sh"
	says "postgresql-$version" "postgresql-server-dev-$version"
	grep -q "no room is left" $kept/output || wrong "it does not say why"
}

# State su: the PATH that "su" leaves to root
state_su()
{
	demo env PATH=/usr/local/bin:/usr/bin:/bin
	check env PATH=/usr/local/bin:/usr/bin:/bin
}

# State locale: in German, and in a language that is not there
state_locale()
{
	have locales
	localedef -i de_DE -f UTF-8 de_DE.UTF-8
	demo env -u LC_ALL LANG=de_DE.UTF-8 LANGUAGE=de LC_CTYPE=de_DE.UTF-8
	check env LC_ALL=de_DE.UTF-8 LANG=de_DE.UTF-8 LANGUAGE=de
	demo env LC_ALL=tlh_KX.UTF-8 LANGUAGE=tlh
}

# State environment: what a DBA's shell may have set
state_environment()
{
	checkout="/root/with a blank/lockguard"
	mkdir -p "$checkout" "/root/private"
	cp -a /root/lockguard/. "$checkout"
	umask 077
	demo env CDPATH=.:/root TMPDIR=/root/private PGHOST=db.example PGPORT=6543 PGUSER=dba PGPASSWORD=x PGSERVICE=shop \
		PGOPTIONS="-c lockguard.dry_run=on" MAKEFLAGS=-n DESTDIR=/root/private COPT=-Wno-such PROFILE=-Wno-such \
		PSQLRC=/dev/full
	check env CDPATH=.:/root TMPDIR=/root/private PGHOST=db.example PGPORT=6543 PGUSER=dba PGDATABASE=shop \
		MAKEFLAGS=-n DESTDIR=/root/private COPT=-Wno-such PROVE_TESTS=none REGRESS=none
	# Sockets are in there, and their paths cannot be longer than 107 bytes.
	mkdir -p "/tmp/$(printf 'long%.0s' {1..20})"
	demo env TMPDIR="/tmp/$(printf 'long%.0s' {1..20})"
}

# State noexec: no program can be run in /tmp
state_noexec()
{
	mount -t tmpfs -o noexec,mode=1777 tmpfs /tmp || wrong "the state cannot be made"
	demo
	run bash "$checkout/test/check.sh"
	says /tmp TMPDIR
	check env TMPDIR=/var/tmp
}

inside()
{
	mkdir -p $kept
	# Packages start servers only where there is an init with a runlevel.
	printf '#!/bin/sh\necho N 2\n' >/usr/sbin/runlevel
	chmod +x /usr/sbin/runlevel
	cp /usr/sbin/runlevel /usr/sbin/init
	"state_$1"
}

if [ "${1:-}" = --inside ]; then
	inside "$2"
	exit
fi

# ---- Outside ------------------------------------------------------------------------------------

states()
{
	sed -nE 's/^# State ([a-z]+): .*/\1/p' "$top/test/fresh.sh"
}

describe()
{
	sed -n "s/^# State $1: //p" "$top/test/fresh.sh"
}

# The chroot that all others are copies of, with apt's lists.
make_base()
{
	make_chroot "$suite" || return
	# Packages are downloaded once. apt's own user must get there.
	mkdir -p "$chroots/archives-$suite"
	chmod 755 "$chroots" "$chroots/archives-$suite"
	echo 'Dir::Cache::Archives "/mnt";' >"$chroots/$suite/etc/apt/apt.conf.d/99archives"
	in_chroot "$suite" "$chroots/archives-$suite" apt-get -qq update
}

run_state()
{
	local started=$SECONDS result=ok

	dir=$chroots/state-$1
	rm -rf --one-file-system "$dir"
	cp -a --reflink=auto "$chroots/$suite" "$dir" &&
		in_chroot "state-$1" "$chroots/archives-$suite" version="$version" LOCKGUARD_KEEP= bash /root/lockguard/test/fresh.sh --inside "$1" \
			>"$tmp/state.log" 2>&1
	if [ $? = 0 ]; then
		passed=$((passed + 1))
	else
		result=FAILED
		failed=$((failed + 1))
	fi
	printf '%-8s%-13s%s (%d s)\n' $result "$1" "$(describe "$1")" $((SECONDS - started))
	[ $result = ok ] || tail -n 60 "$tmp/state.log" | sed 's/^/    /'
	if [ $result = ok ] || [ -z "${LOCKGUARD_KEEP:-}" ]; then
		rm -rf --one-file-system "$dir"
	else
		echo "Kept: $dir"
	fi
	dir=
}

if [ "${1:-}" = list ]; then
	for state in $(states); do
		printf '%-13s%s\n' "$state" "$(describe "$state")"
	done
	exit
fi
for state; do
	[ -n "$(describe "$state")" ] || { echo "no such state: $state" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "test/fresh.sh must run as root" >&2; exit 1; }

passed=0
failed=0
suite=${LOCKGUARD_SUITE:-bookworm}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lockguard.XXXXXX") || exit 1
dir=
trap 'rm -rf --one-file-system "$tmp" "$dir"' EXIT
trap 'exit 1' INT TERM HUP
. "$top/test/chroot.sh"
chroots=$chroots/fresh
for version in 15 17 18 ""; do
	[ "$(suite_of "$version")" != "$suite" ] || break
done
[ -n "$version" ] || { echo "no PostgreSQL version known for Debian $suite" >&2; exit 1; }
make_base || exit 1

[ $# != 0 ] || set -- $(states | grep -vx full)
for state; do
	run_state "$state"
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
