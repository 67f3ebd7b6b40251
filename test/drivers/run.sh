#!/bin/bash
# What client drivers and PgBouncer make of a transaction that lockguard has rolled back while it was idle.
#
#   test/drivers/run.sh                             PostgreSQL 15
#   PG_CONFIG=/path/pg_config test/drivers/run.sh   another one
#   test/drivers/run.sh asyncpg jdbc ...            of "psql psycopg2 psycopg3 asyncpg pg jdbc npgsql pgbouncer"
#                                                   only these
#   LOCKGUARD_KEEP=1 test/drivers/run.sh            keeps the temporary folder with all logs
#
# The drivers are Debian's, but for node-postgres, which npm brings into the temporary folder; Debian's Python
# modules are for /usr/bin/python3. PgBouncer, if it is not installed, is only unpacked there, so that no service
# is installed. JDBC needs TCP: the server listens on the loopback address, and asks for a password there.
#
# Each check is a line "ok" or "FAILED"; indented lines tell what else was seen. The last line is "N passed, N
# failed". What cannot be had is named in a line "not run: ..." before it, and counts as neither.

. "$(dirname "$0")/../common.sh"
. "$top/test/pgbouncer.sh"

all="psql psycopg2 psycopg3 asyncpg pg jdbc npgsql pgbouncer"
passed=0
failed=0
not_run=
pgbouncer=

# cannot NAME WHY
cannot()
{
	not_run="${not_run}not run: $(title_of "$1"): $2"$'\n'
	chosen=${chosen/ $1 / }
}

wants()
{
	[[ $chosen == *" $1 "* ]]
}

has_module()
{
	/usr/bin/python3 -c "import $1" 2>/dev/null
}

has_jdk()
{
	java -XX:-UsePerfData --list-modules 2>/dev/null | grep -q '^jdk.compiler'
}

jdbc_jar=/usr/share/java/postgresql.jar

# Lists "DRIVER PACKAGE" for each package that is missing. Of PgBouncer's own packages it is the libraries that
# have to be installed.
missing_drivers()
{
	local package

	{ wants psycopg2 || wants pgbouncer; } && ! has_module psycopg2 && echo psycopg2 python3-psycopg2
	wants psycopg3 && ! has_module psycopg && echo psycopg3 python3-psycopg
	wants psycopg3 && ! has_module psycopg_pool && echo psycopg3 python3-psycopg-pool
	wants asyncpg && ! has_module asyncpg && echo asyncpg python3-asyncpg
	{ wants pg || wants pgbouncer; } && ! command -v node >/dev/null && echo pg nodejs
	{ wants pg || wants pgbouncer; } && ! command -v npm >/dev/null && echo pg npm
	wants jdbc && [ ! -e $jdbc_jar ] && echo jdbc libpostgresql-jdbc-java
	wants jdbc && ! has_jdk && echo jdbc default-jdk-headless
	if wants pgbouncer; then
		for package in $(pgbouncer_libraries); do echo pgbouncer "$package"; done
	fi
}

# Installs what is missing. A driver that this Debian does not have is not run.
install_drivers()
{
	local driver package packages=

	[ "$(id -u)" != 0 ] || [ -z "$(missing_drivers)" ] || apt_update
	while read -r driver package; do
		if [ -n "$(available_version "$package")" ]; then
			packages="$packages $package"
		elif wants "$driver"; then
			cannot "$driver" "apt knows no package $package"
		fi
	done < <(missing_drivers)
	[ -n "$packages" ] || return 0
	[ "$(id -u)" = 0 ] || die "missing; install as root: apt-get install$packages"
	echo "Installing$packages"
	apt_install $packages
}

get_node_postgres()
{
	as_user mkdir -p "$tmp/node" && cd "$tmp/node" &&
		as_user npm install --no-audit --no-fund --silent pg >"$tmp/npm.log" 2>&1 ||
		{ tail -n 3 "$tmp/npm.log" >&2; cannot pg "npm cannot install pg"; }
	cd "$tmp" || exit 1
}

stop_pgbouncer()
{
	local pid

	[ -s "$tmp/pgbouncer.pid" ] || return 0
	pid=$(cat "$tmp/pgbouncer.pid")
	kill "$pid" 2>/dev/null
	while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
	rm -f "$tmp/pgbouncer.pid"
}

# start_pgbouncer MODE: with one server connection, so that all its clients have to share that.
start_pgbouncer()
{
	local deadline=$((SECONDS + 10))

	stop_pgbouncer
	as_user tee "$tmp/pgbouncer.ini" >/dev/null <<INI
[databases]
postgres = host=$tmp port=$port user=app
[pgbouncer]
unix_socket_dir = $tmp
listen_port = 6432
auth_type = trust
auth_file = $tmp/users.txt
pool_mode = $1
default_pool_size = 1
pidfile = $tmp/pgbouncer.pid
logfile = $tmp/pgbouncer.$1.log
INI
	echo '"app" ""' | as_user tee "$tmp/users.txt" >/dev/null
	as_user "$pgbouncer" -d "$tmp/pgbouncer.ini" >"$tmp/pgbouncer.log" 2>&1
	until PGUSER=app PGPORT=6432 sql -c "SELECT 1" >>"$tmp/pgbouncer.log" 2>&1; do
		[ $SECONDS -lt $deadline ] || { cat "$tmp/pgbouncer.log" "$tmp/pgbouncer.$1.log"; return 1; }
		sleep 0.1
	done
}

title_of()
{
	case $1 in
	psycopg*) echo "psycopg ${1#psycopg}" ;;
	pg) echo node-postgres ;;
	jdbc) echo JDBC ;;
	*) echo "$1" ;;
	esac
}

sql()
{
	psql -X -q -At -d postgres "$@" 9<&-
}

# run TITLE PROGRAM ...: each of its transactions that are rolled back has a row of its own in table t, which
# its work adds 1000 to, the session that waits 1, and the second try 10.
run()
{
	local title=$1 last status

	shift
	printf '\n%s\n' "$title"
	last=$(sql -c "UPDATE t SET v = 0" -c "SELECT coalesce(max(action_id), 0) FROM lockguard.actions")
	as_user timeout 180 "$@" >"$tmp/program.log" 2>&1 </dev/null
	status=$?
	cat "$tmp/program.log"
	passed=$((passed + $(grep -c '^ok ' "$tmp/program.log")))
	failed=$((failed + $(grep -c '^FAILED ' "$tmp/program.log")))
	[ $status = 0 ] && grep -q '^ok ' "$tmp/program.log" || checked 1 "the program ended with status $status"

	for _ in {1..50}; do
		[ "$(sql -c "SELECT count(*) FROM lockguard.actions WHERE result = 'pending'")" != 0 ] || break
		sleep 0.1
	done
	sql -F ' ' -c "SELECT count(*) FILTER (WHERE action = 'rollback' AND result = 'released'), count(*),
		(SELECT count(*) FROM t WHERE v <> 0), (SELECT count(*) FROM t WHERE v NOT IN (0, 1, 11))
		FROM lockguard.actions WHERE action_id > $last" >"$tmp/actions"
	read -r rolled_back actions rows wrong <"$tmp/actions"
	[ "$rolled_back" = "$actions" ] && [ "$actions" = "$rows" ]
	checked $? "rolled back by lockguard: $rolled_back of $rows transactions; other actions: $((actions - rolled_back))"
	[ "$wrong" = 0 ]
	checked $? "the table shows none of the work that was rolled back"
}

# run_program NAME TITLE: through PgBouncer if pooling is set.
run_program()
{
	local files=$tmp/plain/test/drivers

	export DRIVER_HOST=$PGHOST DRIVER_PORT=${pooling:+6432} DRIVER_POOLING=${pooling:-}
	DRIVER_PORT=${DRIVER_PORT:-$port}
	case $1 in
	psql) run "$2" bash "$files/with_psql.sh" ;;
	psycopg2 | psycopg3 | asyncpg) run "$2" /usr/bin/python3 "$files/with_$1.py" ;;
	pg) run "$2" env NODE_PATH="$tmp/node/node_modules" node "$files/with_pg.js" ;;
	jdbc) run "$2" java -XX:-UsePerfData -cp "$jdbc_jar" "$files/WithJdbc.java" ;;
	esac
}

for name; do
	case " $all " in
	*" $name "*) ;;
	*) die "not one of $all: $name" ;;
	esac
done
chosen=" ${*:-$all} "
prepare
wants npgsql && cannot npgsql "Debian has no package of it"
install_drivers
! wants pgbouncer || find_pgbouncer || cannot pgbouncer "$why_not"
! wants pg && ! wants pgbouncer || ! command -v npm >/dev/null || get_node_postgres

build plain >"$tmp/build.log" 2>&1 && install_build plain >>"$tmp/build.log" 2>&1 ||
	{ cat "$tmp/build.log"; die "lockguard does not build"; }
port=$(perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport')
printf '%s\n' "local all all trust" "host postgres app 127.0.0.1/32 scram-sha-256" | as_user tee "$tmp/hba.conf" >/dev/null
start_server "listen_addresses = '127.0.0.1'" "port = $port" "hba_file = '$tmp/hba.conf'" \
	"lockguard.idle_blocker_timeout = '300ms'" "lockguard.max_actions_per_minute = 10000" || exit 1
PGPORT=$port
PGPASSWORD=$(od -An -N 16 -t x1 /dev/urandom | tr -d ' \n')
export PGPASSWORD
sql -v ON_ERROR_STOP=1 <<SQL || exit 1
CREATE EXTENSION lockguard;
CREATE ROLE app LOGIN PASSWORD '$PGPASSWORD';
CREATE ROLE waiter LOGIN;
ALTER ROLE waiter SET statement_timeout = '20s';
CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i;
GRANT SELECT, UPDATE ON t TO app, waiter;
SQL
echo "$pg_version, $PG_CONFIG"

for name in psql psycopg2 psycopg3 asyncpg pg jdbc; do
	! wants $name || run_program $name "$(title_of $name)"
done
if wants pgbouncer; then
	at_exit=stop_pgbouncer
	"$pgbouncer" --version | head -n 1
	for pooling in session transaction statement; do
		start_pgbouncer $pooling || { checked 1 "PgBouncer starts, $pooling pooling"; continue; }
		! has_module psycopg2 || run_program psycopg2 "psycopg 2, PgBouncer, $pooling pooling"
		[ ! -d "$tmp/node/node_modules/pg" ] || run_program pg "node-postgres, PgBouncer, $pooling pooling"
		echo
		sed -nE 's/.* closing because: (.*) \(age.*/\1/p' "$tmp/pgbouncer.$pooling.log" |
			grep -v "^client close request" | sort | uniq -c |
			sed -E 's/^ *([0-9]+) (.*)/        PgBouncer has closed connections, \1 times: \2/'
	done
fi

echo
printf '%s' "$not_run"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
