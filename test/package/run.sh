#!/bin/bash
# Builds lockguard's Debian packages and its archive for PGXN, and uses both in clean Debian chroots. Needs root.
#
#   test/package/run.sh                PostgreSQL 15 (bookworm), 17 (trixie), 18 (forky) and 19 (sid, with experimental)
#   test/package/run.sh 15             one of them
#   test/package/run.sh local          without chroots: the package of the PostgreSQL that this Debian has, built
#                                      and looked at, but not installed; and the archive
#   LOCKGUARD_CHROOTS=dir              keeps the chroots there, with what was downloaded, and uses them again
#   LOCKGUARD_MIRROR=url               instead of http://deb.debian.org/debian
#
# The last line is "N passed, N failed". What cannot be had is named in a line "not run: ..." before it, and counts
# as neither. The archive holds what is committed, the packages what is in the checkout.

. "$(dirname "$0")/../common.sh"

passed=0
failed=0
not_run=
dir=

# check TEXT COMMAND ...: with what it said if it fails
check()
{
	local text=$1 status

	shift
	"$@" >"$tmp/said" 2>&1 </dev/null
	status=$?
	checked $status "$text"
	[ $status = 0 ] || tail -n 40 "$tmp/said" | sed 's/^/    /'
	return $status
}

# ---- The archive --------------------------------------------------------------------------------

# make_archive FOLDER: sets $archive, to nothing if it cannot be made
make_archive()
{
	local name

	archive=
	if ! git -C "$top" rev-parse HEAD >"$tmp/said" 2>&1; then
		not_run="${not_run}not run: PGXN archive: no git checkout"$'\n'
		return
	fi
	rm -rf "$tmp/checkout"
	# "make dist" writes where it is.
	git clone -q --no-hardlinks "$top" "$tmp/checkout" &&
		check "make dist" make -C "$tmp/checkout" dist || return
	name=$(sed -nE 's/^\t"version": "(.*)",$/lockguard-\1/p' "$top/META.json")
	archive=$1/$name.zip
	mv "$tmp/checkout/$name.zip" "$archive"
	check "the archive has what is for users, in a folder of its name" archive_has_what_it_should "$name"
}

archive_has_what_it_should()
{
	local file

	perl -MIO::Uncompress::Unzip -e 'my $zip = IO::Uncompress::Unzip->new(shift) or die;
		do { print $zip->getHeaderInfo->{Name}, "\n" } while $zip->nextStream == 1' "$archive" >"$tmp/listed" || return
	! grep -v "^$1/" "$tmp/listed" && ! grep -E "^$1/\.|\.(o|so|bc|zip)$" "$tmp/listed" || return 1
	for file in META.json Makefile README.md CHANGELOG.md LICENSE lockguard.control sql/lockguard--1.0.sql src/lockguard.c \
		docs/operations.md prometheus/alerts.yml debian/control.in test/demo.sh expected/basic.out; do
		grep -qxF "$1/$file" "$tmp/listed" || { echo "not there: $file"; return 1; }
	done
}

# What test/package/meta.pl is there to find.
finds_errors()
{
	local broken=$tmp/broken edit

	mkdir -p "$broken/debian"
	cp -r "$top"/{README.md,CHANGELOG.md,lockguard.control,sql} "$broken"
	cp "$top/debian/changelog" "$broken/debian"
	for edit in '/"name": /d' '/"abstract": /d' '/"maintainer"/d' '/"license"/d' 's/"provides"/"x_provides"/' 's/"meta-spec"/"x_spec"/' \
		's/"version": "1\.0\.0",/"version": "1.0",/' 's/"license": .*/"license": "pg",/' 's/"locks"/"a\/b"/' 's/"runtime"/"run"/' \
		's/>= 15/=> 15/' 's/"tags"/"tag"/' 's/"file": .*/"file": "sql\/none.sql",/' 's/"lockguard": {/"lock guard": {/' \
		's/"version": "1\.0\.0",/"version": "1.0.1",/' 's/"abstract": .*/"abstract": [],/' '$d'; do
		sed "$edit" "$top/META.json" >"$broken/META.json"
		! cmp -s "$top/META.json" "$broken/META.json" || { echo "changes nothing: $edit"; return 1; }
		! perl "$top/test/package/meta.pl" "$broken" || { echo "not found: $edit"; return 1; }
	done
}

check_meta()
{
	check "META.json is valid by the rules of the PGXN Meta Spec" perl "$top/test/package/meta.pl" "$top"
	check "and would not be, with one of 17 errors" finds_errors
}

# ---- Without chroots ----------------------------------------------------------------------------

build_package()
{
	cd "$tmp/build/lockguard" &&
		as_user pg_buildext updatecontrol &&
		as_user dpkg-buildpackage -us -uc -b
}

package_has_what_it_should()
{
	local lib=./usr/lib/postgresql/$version/lib share=./usr/share/postgresql/$version/extension
	local doc=./usr/share/doc/postgresql-$version-lockguard file

	(cd "$unpacked" && find . ! -type d) | sort >"$tmp/listed"
	for file in $lib/lockguard.so $share/lockguard.control $share/lockguard--1.0.sql $doc/copyright \
		$(cd "$top" && ls prometheus/* grafana/*.json 2>/dev/null | sed "s|^|$doc/|"); do
		grep -qxF -- "$file" "$tmp/listed" || { echo "not there: $file"; return 1; }
	done
	grep -qE "^$doc/docs/operations.md(\.gz)?$" "$tmp/listed" || { echo "not there: the documents"; return 1; }
	! grep -vE "^($lib|$share|$doc|./usr/share/lintian/overrides)/" "$tmp/listed"
}

depends_on_server()
{
	dpkg-deb -f "$deb" Depends | tee /dev/stderr | grep -q "postgresql-$version\b"
}

# prerm EXPECTED ARGUMENT ...: what it says to that is like EXPECTED, nothing if that is empty. It succeeds always.
prerm()
{
	local expected=$1

	shift
	DPKG_MAINTSCRIPT_PACKAGE=postgresql-$version-lockguard PG_CLUSTER_CONF_ROOT=$tmp/clusters \
		sh -e "$tmp/control/prerm" "$@" >"$tmp/prerm.out" 2>"$tmp/prerm.err" || { cat "$tmp/prerm.err"; return 1; }
	[ ! -s "$tmp/prerm.out" ] || { cat "$tmp/prerm.out"; return 1; }
	if [ -n "$expected" ]; then
		grep -qE "$expected" "$tmp/prerm.err" || { echo "not said: $expected"; cat "$tmp/prerm.err"; return 1; }
	elif [ -s "$tmp/prerm.err" ]; then
		cat "$tmp/prerm.err"
		return 1
	fi
}

# cluster VERSION "LINE OF postgresql.conf" ["LINE OF postgresql.auto.conf"]: the only one there is
cluster()
{
	local conf=$tmp/clusters/$1/night

	rm -rf "$tmp/clusters" "$tmp/cluster-data"
	mkdir -p "$conf" "$tmp/cluster-data"
	echo "$1" >"$tmp/cluster-data/PG_VERSION"
	printf '%s\n' "data_directory = '$tmp/cluster-data'" "port = 65432" "$2" >"$conf/postgresql.conf"
	printf '%s\n' "${3:-}" >"$tmp/cluster-data/postgresql.auto.conf"
	chown -R "$server_user" "$tmp/clusters" "$tmp/cluster-data"
}

warns()
{
	local value

	for value in lockguard "'lockguard'" "'\$libdir/lockguard'" "'pg_stat_statements, lockguard'" "'\"lockguard\",auto_explain'" \
		"'lockguard.so'" "'/usr/lib/postgresql/$version/lib/lockguard.so'"; do
		cluster "$version" "shared_preload_libraries = $value"
		prerm "cluster $version night cannot be started" remove &&
			prerm "in postgresql.conf or a file that it includes" remove in-favour other 1 || { echo "$value"; return 1; }
	done
	cluster "$version" "" "shared_preload_libraries = 'lockguard'"
	prerm "set with ALTER SYSTEM" remove || return
	cluster "$version" "include 'more.conf'"
	echo "shared_preload_libraries = 'lockguard'" >"$tmp/clusters/$version/night/more.conf"
	prerm "in postgresql.conf or a file that it includes" remove || return
	cluster "$version" "log_line_prefix = '%m \\c '"$'\n'"shared_preload_libraries = 'lockguard'"
	prerm "cluster $version night cannot be started" remove || return
	cluster "$version" "session_preload_libraries = 'lockguard'"
	prerm "no session can log in to PostgreSQL cluster $version night" remove || return
	cluster "$version" "this is no line of a configuration"
	prerm "cluster $version night cannot be read" remove || return
	# Neither does it wait for ever, nor show what only root may read.
	mkfifo "$tmp/waits" && cluster "$version" "include '$tmp/waits'"
	prerm "cluster $version night cannot be read" remove || return
	cluster "$version" "include '/etc/shadow'"
	prerm "" remove || return
	cluster "$version" "this is no line of a configuration"
	mkdir "$tmp/clusters/$version/other"
	echo "shared_preload_libraries = 'lockguard'" >"$tmp/clusters/$version/other/postgresql.conf"
	prerm "cluster $version other cannot be started" remove
}

is_quiet()
{
	local value

	for value in "''" "'lockguarding'" "'/opt/lockguard/lockguard'" "'pg_stat_statements'"; do
		cluster "$version" "shared_preload_libraries = $value"
		prerm "" remove || { echo "$value"; return 1; }
	done
	cluster "$version" "#shared_preload_libraries = 'lockguard'"
	prerm "" remove || return
	cluster "$version" "shared_preload_libraries = 'lockguard'" "shared_preload_libraries = ''"
	prerm "" remove || return
	cluster $((version - 1)) "shared_preload_libraries = 'lockguard'"
	prerm "" remove || return
	cluster "$version" "shared_preload_libraries = 'lockguard'"
	prerm "" upgrade 1.0.0-2 && prerm "" failed-upgrade 1.0.0-0 && prerm "" deconfigure in-favour other 1
}

ends_outage()
{
	as_user env PGHOST="$PGHOST" PGPORT="$PGPORT" PGUSER="$PGUSER" bash "$tmp/build/lockguard/test/package/outage.sh" 60s |
		tee /dev/stderr | grep -q 'transaction was rolled back because it blocked other sessions'
}

run_local()
{
	local package packages= deb unpacked version

	prepare
	unpacked=$tmp/unpacked
	version=$(debian_version "$PG_CONFIG")
	[ -n "$version" ] || die "$PG_CONFIG is not from a package of PostgreSQL; set PG_CONFIG to one that is"
	for package in build-essential debhelper lintian postgresql-server-dev-all; do
		[ -n "$(installed_version $package)" ] || packages="$packages $package"
	done
	if [ -n "$packages" ]; then
		[ "$(id -u)" = 0 ] || die "missing; install as root: apt-get install$packages"
		echo "Installing$packages"
		apt_update
		apt_install $packages
	fi
	check_meta
	make_archive "$tmp"

	export PG_SUPPORTED_VERSIONS=$version
	as_user mkdir -p "$tmp/build"
	copy_checkout build/lockguard
	check "a user without rights builds the package of PostgreSQL $version" build_package || return
	deb=$(ls "$tmp"/build/postgresql-"$version"-lockguard_*.deb)
	cp "$tmp/said" "$tmp/build.log"
	check "lintian has no errors or warnings" as_user lintian --fail-on error,warning "$tmp"/build/lockguard_*.changes
	dpkg-deb -x "$deb" "$unpacked"
	dpkg-deb -e "$deb" "$tmp/control"
	chmod -R go+rX "$unpacked"
	check "the package has what it should, and nothing else" package_has_what_it_should
	check "it depends on the server" depends_on_server
	check "its removal warns of a cluster that names it, wherever that is" warns
	check "and of no other; upgrades never do" is_quiet
	start_server "shared_preload_libraries = '$unpacked/usr/lib/postgresql/$version/lib/lockguard'" \
		"lockguard.idle_blocker_timeout = '1s'" >"$tmp/said" 2>&1
	checked $? "a server starts with its library, by the path" || { tail -n 20 "$tmp/said"; return; }
	check "an outage ends" ends_outage
	stop_server
}

# ---- In chroots ---------------------------------------------------------------------------------

# Copies of it are clean.
make_base()
{
	make_chroot "$1" || return
	# Packages are downloaded once. apt's own user must get there.
	mkdir -p "$chroots/shared-$1/archives/partial"
	chmod 755 "$chroots" "$chroots/shared-$1" "$chroots/shared-$1/archives"
	echo 'Dir::Cache::Archives "/mnt/archives";' >"$chroots/$1/etc/apt/apt.conf.d/99archives"
	# What is thrown away soon need not reach the disk.
	echo force-unsafe-io >"$chroots/$1/etc/dpkg/dpkg.cfg.d/unsafe-io"
}

# run_step STEP SUITE VERSION: in a copy of the chroot
run_step()
{
	local status started=$SECONDS

	echo "-- $1"
	dir=$chroots/step-$1-$3
	rm -rf --one-file-system "$dir"
	cp -a --reflink=auto "$chroots/$2" "$dir" || { checked 1 "copy of the chroot"; return 1; }
	in_chroot "step-$1-$3" "$chroots/shared-$2" bash /root/lockguard/test/package/inside.sh "$1" "$3" >"$tmp/step.log" 2>&1
	status=$?
	cat "$tmp/step.log"
	passed=$((passed + $(grep -c '^ok ' "$tmp/step.log")))
	failed=$((failed + $(grep -c '^FAILED ' "$tmp/step.log")))
	[ $status = 0 ] || grep -q '^FAILED ' "$tmp/step.log" || checked 1 "$1 ended with status $status"
	echo "-- $((SECONDS - started)) s"
	rm -rf --one-file-system "$dir"
	dir=
	return $status
}

run_version()
{
	local suite

	suite=$(suite_of "$1") || { checked 1 "no Debian release known for PostgreSQL $1"; return; }
	echo "==== PostgreSQL $1, Debian $suite"
	make_base "$suite" && in_chroot "$suite" "$chroots/shared-$suite" apt-get -qq update >"$tmp/said" 2>&1 ||
		{ tail -n 20 "$tmp/said"; checked 1 "a chroot of Debian $suite"; return; }
	if ! in_chroot "$suite" "" apt-cache policy "postgresql-$1" | grep -q '^ *Candidate: [^(]'; then
		not_run="${not_run}not run: PostgreSQL $1 cannot be had from this mirror"$'\n'
		return
	fi
	rm -rf "$chroots/shared-$suite/debs"
	mkdir -p "$chroots/shared-$suite/debs"
	[ -z "$archive" ] || cp "$archive" "$chroots/shared-$suite/debs"
	if run_step build "$suite" "$1"; then
		run_step use "$suite" "$1"
		run_step autopkgtest "$suite" "$1"
	fi
	[ -z "$archive" ] || run_step pgxn "$suite" "$1"
}

finish()
{
	echo
	printf '%s' "$not_run"
	echo "$passed passed, $failed failed"
	[ $failed = 0 ]
	exit
}

if [ "${1:-}" = local ]; then
	run_local
	finish
fi
[ "$(id -u)" = 0 ] || die "test/package/run.sh must run as root"
make_tmp
trap 'rm -rf --one-file-system "$tmp" "$dir"' EXIT
trap 'exit 1' INT TERM HUP
. "$top/test/chroot.sh"
chroots=$chroots/package
mkdir -p "$chroots"
install_for make make
install_for perl prove
check_meta
make_archive "$tmp"
[ $# != 0 ] || set -- 15 17 18 19
for version; do
	run_version "$version"
done
finish
