#!/bin/bash
# What test/package/run.sh does in its chroots, where the checkout is /root/lockguard.
#
#   inside.sh build VERSION          the packages for this PostgreSQL, and one of the day before, to /mnt/debs
#   inside.sh use VERSION            with packages only: install, configure, upgrade, remove, purge
#   inside.sh autopkgtest VERSION    the package's own tests, in debian/tests
#   inside.sh pgxn VERSION           from the archive in /mnt/debs
#
# Prints a line "ok ..." or "FAILED ..." for each thing that is checked.

set -u
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
unset CDPATH
checkout=/root/lockguard
debs=/mnt/debs
version=$2
package=postgresql-$version-lockguard
libdir=/usr/lib/postgresql/$version/lib
conf=/etc/postgresql/$version/main/postgresql.conf
log=/var/log/postgresql/postgresql-$version-main.log
said=/root/said			# by the last command
export PG_SUPPORTED_VERSIONS=$version
cd /

# check TEXT COMMAND ...
check()
{
	local text=$1

	shift
	if "$@" >$said 2>&1 </dev/null; then
		echo "ok      $text"
	else
		echo "FAILED  $text"
		tail -n 60 $said | sed 's/^/    /'
		return 1
	fi
}

# As check; what comes after it makes no sense without it.
must()
{
	check "$@" || exit 1
}

apt()
{
	apt-get -y -q "$@"
}

apt_install()
{
	apt install --no-install-recommends "$@"
}

# ---- Building -----------------------------------------------------------------------------------

# copy_to FOLDER
copy_to()
{
	runuser -u builder -- mkdir -p "$1" &&
		tar -C $checkout --exclude='*.o' --exclude='*.bc' --exclude='*.so' --exclude='*.zip' -c . | tar -C "$1" -x &&
		chown -R builder: "$1"
}

# build_in FOLDER OPTION ...
build_in()
{
	local folder=$1

	shift
	cd "$folder" &&
		runuser -u builder -- pg_buildext updatecontrol &&
		runuser -u builder -- dpkg-buildpackage -us -uc "$@"
}

# Its errors, its log and its reports say which build it is.
make_older()
{
	cd /home/builder/older/lockguard-$upstream &&
		sed -i 's/because it blocked other sessions/& (the day before)/' src/victim.c &&
		sed -i 's/limits for the whole server/& (the day before)/' src/worker.c &&
		sed -i 's/"# Incident %lld/& (the day before)/' src/report.c &&
		[ "$(grep -l '(the day before)' src/*.c | wc -l)" = 3 ] &&
		sed -i "1s/ (\(.*\)) / (\1~daybefore) /" debian/changelog &&
		build_in "$PWD" -b
}

build()
{
	upstream=$(sed -nE '1s/.* \((.*)-[^-]*\) .*/\1/p' $checkout/debian/changelog)
	must "build tools are installed" apt_install build-essential lintian
	must "and what debian/control asks for" apt build-dep --no-install-recommends $checkout
	# Newer than the one that this Debian has in postgresql-server-dev-all.
	[ -d "/usr/include/postgresql/$version/server" ] || must "and the headers" apt_install "postgresql-server-dev-$version"
	useradd -m builder
	copy_to /home/builder/lockguard-$upstream
	copy_to /home/builder/older/lockguard-$upstream
	tar -C /home/builder --exclude=./lockguard-$upstream/debian --exclude="lockguard-$upstream/debian" \
		-cJf /home/builder/lockguard_$upstream.orig.tar.xz lockguard-$upstream
	must "source and binary packages are built by a user without rights" build_in /home/builder/lockguard-$upstream
	check "lintian has no errors or warnings" runuser -u builder -- \
		lintian --fail-on error,warning /home/builder/lockguard_*.changes
	must "a package of the day before is built" make_older
	mkdir -p $debs
	cp /home/builder/lockguard-$upstream/debian/control $debs
	cp /home/builder/*.deb /home/builder/older/*.deb $debs
}

# ---- Using --------------------------------------------------------------------------------------

sql()
{
	runuser -u postgres -- psql -X -q -At -v ON_ERROR_STOP=1 -d postgres "$@"
}

server_pid()
{
	head -n 1 /var/lib/postgresql/$version/main/postmaster.pid
}

# same_server PID: it has not been restarted
same_server()
{
	[ "$(server_pid)" = "$1" ] && [ "$(sql -c 'SELECT 1')" = 1 ]
}

cluster()
{
	pg_ctlcluster $version main "$@"
}

# By its socket only: the network, and so its ports, is not the chroot's own.
first_start()
{
	pg_conftool $version main set listen_addresses '' && cluster start
}

# wait_for SQL: until that is true
wait_for()
{
	local deadline=$((SECONDS + 60))

	until [ "$(sql -c "$1")" = t ]; do
		[ $SECONDS -lt $deadline ] || { echo "not true: $1"; tail -n 20 $log; return 1; }
		sleep 0.1
	done
}

outage()
{
	runuser -u postgres -- bash /tmp/outage.sh "$1"
}

outage_lasts()
{
	! outage 3s >/root/outage 2>&1
	local status=$?

	cat /root/outage
	[ $status = 0 ] && grep -q 'canceling statement due to statement timeout' /root/outage
}

# outage_ends [older]: by which build
outage_ends()
{
	outage 60s >/root/outage 2>&1
	local status=$?

	cat /root/outage
	[ $status = 0 ] && grep -q 'transaction was rolled back because it blocked other sessions' /root/outage || return 1
	[ "$(grep -c '(the day before)' /root/outage)" = $([ "${1:-}" = older ] && echo 1 || echo 0) ]
}

two_lines()
{
	printf '%s\n' "shared_preload_libraries = 'lockguard'" "lockguard.idle_blocker_timeout = '1s'" >>$conf
}

without_line()
{
	sed -i '/^shared_preload_libraries = /d' $conf
}

# A worker that is restarted by the postmaster.
restart_worker()
{
	local old

	old=$(sql -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'lockguard'")
	[ -n "$old" ] && sql -c "SELECT pg_terminate_backend($old)" &&
		wait_for "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'lockguard' AND pid <> $old"
}

# Another worker is started for that.
rolls_back_prepared()
{
	sql -c "BEGIN" -c "UPDATE outage SET v = 1" -c "PREPARE TRANSACTION 'forgotten'" &&
		wait_for "SELECT NOT EXISTS (SELECT FROM pg_prepared_xacts)"
}

# What is loaded is of the day before, what is on disk is not.
workers_are_older()
{
	[ "$(grep -c 'limits for the whole server (the day before)' $log)" -gt "$1" ] &&
		! grep -q 'the day before' $libdir/lockguard.so
}

# views_work [older]: by which build
views_work()
{
	sql -c "SELECT count(*) FROM lockguard.sessions" &&
		sql -c "SELECT lockguard.report(max(incident_id)) FROM lockguard.incidents" >/root/report &&
		grep -q "^# Incident [0-9]*$([ "${1:-}" != older ] || echo ' (the day before)'): " /root/report &&
		[ "$(sql -c "SELECT action || ' ' || result FROM lockguard.actions ORDER BY action_id LIMIT 1")" = "rollback released" ]
}

# How apt-get has warned of the cluster, or that it did not.
warns()
{
	local word

	for word in "WARNING: PostgreSQL cluster $version main cannot be started once this package is removed" "$@"; do
		grep -qF "$word" $said || { echo "not said: $word"; return 1; }
	done
}

is_quiet()
{
	! grep -iE 'lockguard.*(warning|start)|WARNING: PostgreSQL' $said
}

# and TEXT COMMAND ...: about what the command before has said
and()
{
	local text=$1

	shift
	if "$@" >/root/and 2>&1; then
		echo "ok      $text"
	else
		echo "FAILED  $text"
		tail -n 20 $said /root/and | sed 's/^/    /'
	fi
}

start_fails()
{
	! cluster start && tail -n 20 $log | tee /dev/stderr | grep -q 'could not access file "lockguard"'
}

# Only the history is left, which belongs to the cluster.
nothing_is_left()
{
	dpkg-query -W "$package" && return 1
	find / -xdev \( -path $checkout -o -path /mnt -o -path /proc \) -prune -o -name '*lockguard*' -print | tee /dev/stderr |
		[ "$(grep -vxF "/var/lib/postgresql/$version/main/pg_stat/lockguard.stat")" = "" ]
}

no_such_package()
{
	[ ! -e $libdir/lockguard.so ] && [ ! -e /usr/share/postgresql/$version/extension/lockguard.control ] &&
		[ ! -e "/usr/share/doc/$package" ]
}

# The files that other programs read can be read as they are.
has_files()
{
	local doc=/usr/share/doc/$package file

	for file in README.md SECURITY.md docs/operations.md docs/reference.md; do
		[ -e "$doc/$file" ] || [ -e "$doc/$file.gz" ] || { echo "no $file"; return 1; }
	done
	for file in changelog.gz changelog.Debian.gz copyright; do
		[ -e "$doc/$file" ] || { echo "no $file"; return 1; }
	done
	for file in $(cd $checkout && ls prometheus/* grafana/*.json 2>/dev/null); do
		cmp "$checkout/$file" "$doc/$file" || return 1
	done
}

use()
{
	local older newer pid count

	older=$(ls $debs/${package}_*~daybefore_*.deb)
	newer=$(ls $debs/${package}_*.deb | grep -v daybefore)
	install -m 755 $checkout/test/package/outage.sh /tmp/outage.sh
	check "this system has no compiler" eval '! command -v gcc && ! command -v make'
	must "apt installs PostgreSQL" apt_install "postgresql-$version"
	must "its server starts" first_start
	pid=$(server_pid)
	check "without lockguard, an outage lasts" outage_lasts
	must "apt installs ${older##*/}" apt_install "$older"
	and "which is all that it installs" grep -q ' 1 newly installed, 0 to remove' $said
	check "the server was not restarted for that" same_server "$pid"
	two_lines
	must "after two lines in postgresql.conf, the server restarts" cluster restart
	check "an outage ends by itself" outage_ends older
	check "CREATE EXTENSION" sql -c "CREATE EXTENSION lockguard"
	check "the views show it" views_work older

	printf '%s\n' "max_prepared_transactions = 5" "lockguard.prepared_transaction_timeout = '1s'" \
		"lockguard.prepared_transaction_action = 'rollback'" >>$conf
	must "the server restarts" cluster restart
	pid=$(server_pid)
	must "apt upgrades it to ${newer##*/}" apt_install "$newer"
	and "without a warning" is_quiet
	check "the server was not restarted for that" same_server "$pid"
	check "an outage ends, by the library that is loaded" outage_ends older
	check "the views and functions work, from there too" views_work older
	count=$(grep -c 'limits for the whole server (the day before)' $log)
	check "the worker, killed, comes back" restart_worker
	check "in the library that is loaded" workers_are_older "$count"
	check "an outage ends" outage_ends older
	check "a prepared transaction is rolled back, by a worker of its own" rolls_back_prepared
	must "the server restarts" cluster restart
	check "an outage ends, by the new library" outage_ends
	check "the views work, and have what was recorded before" views_work
	check "a prepared transaction is rolled back" rolls_back_prepared
	check "the documents and the files for Prometheus and Grafana are there" has_files

	pid=$(server_pid)
	must "apt removes it while it is in shared_preload_libraries" apt remove "$package"
	and "with a warning that says which cluster will not start" warns "in postgresql.conf" "until it is stopped"
	check "its files are gone" no_such_package
	check "the server runs on" same_server "$pid"
	check "an outage ends" outage_ends
	check "the worker, killed, comes back" restart_worker
	check "an outage ends" outage_ends
	check "a prepared transaction is rolled back" rolls_back_prepared
	must "the server stops" cluster stop
	check "and does not start, and its log says why" start_fails
	must "apt installs it again" apt_install "$newer"
	must "the server starts" cluster start
	check "an outage ends" outage_ends

	without_line
	must "taken out of shared_preload_libraries, the server restarts" cluster restart
	check "an outage lasts" outage_lasts
	must "apt removes it" apt remove "$package"
	and "without a warning" is_quiet
	must "the server restarts" cluster restart

	must "apt installs it again" apt_install "$newer"
	sql -c "ALTER SYSTEM SET shared_preload_libraries = 'lockguard'"
	must "apt purges it, set with ALTER SYSTEM" apt purge "$package"
	and "with a warning that says so" warns "set with ALTER SYSTEM"
	sql -c "ALTER SYSTEM RESET shared_preload_libraries"
	check "nothing of it is left, but the history in the data directory" nothing_is_left
	must "the server restarts, with its settings still there" cluster restart

	must "apt installs it again" apt_install "$newer"
	two_lines
	cluster stop
	must "apt purges PostgreSQL with it" apt purge "$package" "postgresql-$version"
	and "with a warning, and all the same" warns "in postgresql.conf"
}

# ---- The package's own tests --------------------------------------------------------------------

autopkgtest()
{
	must "autopkgtest is installed" apt_install autopkgtest
	useradd -m tester
	mkdir /root/tree && tar -C $checkout --exclude='*.o' --exclude='*.bc' --exclude='*.so' -c . | tar -C /root/tree -x
	# Its "@" are the packages of this release.
	cp $debs/control /root/tree/debian
	chmod 755 /root
	check "autopkgtest passes" command autopkgtest --no-built-binaries --user=tester /root/tree \
		$(ls $debs/${package}_*.deb | grep -v daybefore) -- null
	and "with all regression and isolation tests" all_were_run
}

all_were_run()
{
	local test

	for test in basic settings privileges hostile $(cd $checkout/test/specs && ls *.spec | sed 's/\.spec$//'); do
		grep -qE "(^| )(test|ok +[0-9]+ +[-+]) +$test +.*([0-9]+ ms)" $said || { echo "not run, or not passed: $test"; return 1; }
	done
}

# ---- PGXN ---------------------------------------------------------------------------------------

build_and_install()
{
	runuser -u builder -- make -C "$1" PG_CONFIG=$libdir/../bin/pg_config &&
		make -C "$1" PG_CONFIG=$libdir/../bin/pg_config install
}

says_no_checkout()
{
	! make -C "$1" PG_CONFIG=$libdir/../bin/pg_config dist && grep -q 'this is no git checkout' $said
}

pgxn()
{
	local archive name

	archive=$(ls $debs/*.zip)
	name=$(basename "$archive" .zip)
	install -m 755 $checkout/test/package/outage.sh /tmp/outage.sh
	must "what README.md asks for is installed" apt_install make gcc libc6-dev "postgresql-$version" "postgresql-server-dev-$version"
	must "and unzip" apt_install unzip
	useradd -m builder
	must "the archive is unpacked" runuser -u builder -- unzip -q "$archive" -d /home/builder
	check "META.json is in order there" perl $checkout/test/package/meta.pl /home/builder/$name
	must "make, make install" build_and_install /home/builder/$name
	check "make dist says that this is no checkout" says_no_checkout /home/builder/$name
	two_lines
	must "the server starts, with two lines" first_start
	check "an outage ends" outage_ends
	check "CREATE EXTENSION" sql -c "CREATE EXTENSION lockguard"
	check "the views work" views_work
	check "make uninstall" make -C /home/builder/$name PG_CONFIG=$libdir/../bin/pg_config uninstall
	check "leaves nothing" no_such_package

	must "pgxnclient is installed" apt_install pgxnclient
	must "pgxn install ./$name.zip, without a network" unshare --net pgxn install --yes \
		--pg_config $libdir/../bin/pg_config "$archive"
	must "the server restarts" cluster restart
	check "an outage ends" outage_ends
	check "the views work" views_work
}

"$1"
