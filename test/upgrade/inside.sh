#!/bin/bash
# Run by run.sh in a chroot: inside.sh OLD NEW, two versions of PostgreSQL.

. "$(dirname "$0")/../common.sh"

old=$1
new=$2
passed=0
failed=0

# same FOUND EXPECTED WHAT
same()
{
	[ "$1" = "$2" ]
	checked $? "$3"
	[ "$1" = "$2" ] || printf '        found    %s\n        expected %s\n' "${1//$'\n'/$'\n'                 }" \
		"${2//$'\n'/$'\n'                 }"
}

# holds FILE PATTERN WHAT
holds()
{
	grep -qE -- "$2" "$1"
	checked $? "$3" || true
	grep -qE -- "$2" "$1" || sed 's/^/        /' "$1" | tail -n 15
}

# until_true COMMAND ...
until_true()
{
	local deadline=$((SECONDS + 60))

	until "$@"; do
		[ $SECONDS -lt $deadline ] || return 1
		sleep 0.1
	done
}

bin()
{
	echo "/usr/lib/postgresql/$1/bin"
}

# The headers without LLVM, which they depend on: the builds here have no bitcode.
install_both()
{
	local version file

	tmp=$(mktemp -d) || exit 1
	if [ ! -x "$(bin $old)/postgres" ] || [ ! -x "$(bin $new)/postgres" ] || ! command -v gcc >/dev/null ||
		! [ -e /usr/include/gssapi/gssapi.h ] || ! [ -e /usr/include/openssl/ssl.h ]; then
		echo "Installing PostgreSQL $old and $new"
		apt_update
		apt_install postgresql-$old postgresql-$new make gcc libc6-dev libssl-dev libkrb5-dev
	fi
	for version in $old $new; do
		file=$(bin $version)/pg_config
		[ ! -e "$file" ] || [ ! -e "$("$file" --includedir-server)/postgres.h" ] || continue
		apt_update
		(cd "$tmp" && apt-get -qq download postgresql-server-dev-$version 2>"$tmp/apt.log" &&
			dpkg-deb -x postgresql-server-dev-${version}_*.deb /) ||
			{ cat "$tmp/apt.log"; die "cannot get postgresql-server-dev-$version"; }
	done
	rm -rf "$tmp"
}

# make_server NAME VERSION [option of initdb ...]
make_server()
{
	local name=$1 version=$2

	shift 2
	versions[$name]=$version
	ports[$name]=$((5400 + ${#ports[@]}))
	as_user "$(bin $version)/initdb" -D "$tmp/$name" -U postgres -A trust -E UTF8 --no-locale --no-sync "$@" \
		>"$tmp/initdb.log" 2>&1 || { cat "$tmp/initdb.log"; exit 1; }
	configure "$name" "listen_addresses = ''" "unix_socket_directories = '$tmp'" "port = ${ports[$name]}" "fsync = off" \
		"lockguard.incident_threshold = '200ms'"
}

# configure NAME LINE ...
configure()
{
	local name=$1

	shift
	printf '%s\n' "$@" | as_user tee -a "$tmp/$name/postgresql.conf" >/dev/null
}

preload()
{
	configure "$1" "shared_preload_libraries = 'lockguard'"
}

start()
{
	as_user "$(bin ${versions[$1]})/pg_ctl" -s -w -D "$tmp/$1" -l "$tmp/$1.log" start || { tail "$tmp/$1.log"; exit 1; }
}

stop()
{
	as_user "$(bin ${versions[$1]})/pg_ctl" -s -w -D "$tmp/$1" -m fast stop
}

# sql NAME DATABASE [argument of psql ...]
sql()
{
	local name=$1 database=$2

	shift 2
	"$(bin ${versions[$name]})/psql" -X -q -At -h "$tmp" -p "${ports[$name]}" -U postgres -d "$database" "$@" 9<&-
}

# program NAME PROGRAM ...: one of that server's version, for that server.
program()
{
	local name=$1 file

	file=$(bin ${versions[$1]})/$2
	shift 2
	PGHOST=$tmp PGPORT=${ports[$name]} PGUSER=postgres "$file" "$@" 9<&-
}

# ends_jam NAME: is it ended by the limit of role app, and is it recorded?
ends_jam()
{
	local name=$1 pid last

	last=$(sql $name shop -c "SELECT coalesce(max(action_id), 0) FROM lockguard.actions")
	rm -f "$tmp/fifo"
	mkfifo "$tmp/fifo"
	sql $name shop -U app <"$tmp/fifo" >"$tmp/holder.log" 2>&1 &
	pid=$!
	exec 8>"$tmp/fifo"
	echo "BEGIN; SELECT 'held' FROM pg_advisory_xact_lock(1);" >&8
	until_true grep -q held "$tmp/holder.log" &&
		PGOPTIONS="-c statement_timeout=30s" sql $name shop -U waiter -c "SELECT pg_advisory_lock(1)" >"$tmp/waiter.log" 2>&1 8>&-
	checked $? "$name: a jam ends"
	echo "COMMIT;" >&8
	exec 8>&-
	wait $pid
	holds "$tmp/holder.log" 'lockguard.idle_blocker_timeout is 1s \(set for role "app"\)' "$name: by the limit of the role"
	until_true is_recorded $name $last
	checked $? "$name: it is recorded"
}

is_recorded()
{
	[ "$(sql $1 shop -c "SELECT count(*) FROM lockguard.actions a JOIN lockguard.incidents i USING (incident_id)
		WHERE action_id > $2 AND a.result = 'released' AND i.status = 'closed'")" = 1 ]
}

# What others have made of the extension in a database: its version, who but its owner may do what, a view that
# depends on it; and their own table. What an owner may do, and how a view is printed, differs between versions.
inventory()
{
	sql $1 $2 <<-'SQL'
		SELECT 'version ' || extversion FROM pg_extension WHERE extname = 'lockguard';
		SELECT 'function ' || oid::regprocedure || ' ' || (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(proacl) a)
		FROM pg_proc WHERE pronamespace = 'lockguard'::regnamespace AND proacl IS NOT NULL ORDER BY 1;
		SELECT concat_ws(' ', 'view', oid::regclass, (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(relacl) a
			WHERE a::text NOT LIKE relowner::regrole || '=%'))
		FROM pg_class WHERE relnamespace = 'lockguard'::regnamespace AND relkind = 'v' ORDER BY 1;
		SELECT concat_ws(' ', 'schema', nspname, nspacl) FROM pg_namespace WHERE nspname = 'lockguard';
		SELECT 'recent ' || attname || ' ' || atttypid::regtype
		FROM pg_attribute WHERE attrelid = 'oncall.recent'::regclass AND attnum > 0 ORDER BY attnum;
		SELECT DISTINCT 'recent of ' || refobjid::regclass FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass
			AND r.oid = d.objid AND r.ev_class = 'oncall.recent'::regclass
		WHERE refclassid = 'pg_class'::regclass AND refobjid <> r.ev_class ORDER BY 1;
		SELECT 'rows ' || count(*) FROM accounts;
	SQL
}

# The values of roles and databases, and who may set a setting.
values()
{
	sql $1 postgres <<-'SQL'
		SELECT concat_ws(' ', coalesce(d.datname, '-'), coalesce(r.rolname, '-'), s.setconfig)
		FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = setdatabase LEFT JOIN pg_roles r ON r.oid = setrole ORDER BY 1;
		SELECT concat_ws(' ', parname, paracl) FROM pg_parameter_acl;
	SQL
}

values_of_roles()
{
	values $1 | grep '^- '
}

history()
{
	sql $1 shop -c "SELECT a FROM lockguard.actions a ORDER BY action_id" -c "SELECT i FROM lockguard.incidents i ORDER BY incident_id"
}

# A build for a version: in_version VERSION COMMAND ...
in_version()
{
	local PG_CONFIG

	PG_CONFIG=$(bin $1)/pg_config
	shift
	"$@"
}

remove_build()
{
	make -C "$tmp/for_$1" -s PG_CONFIG="$(bin $1)/pg_config" with_llvm=no uninstall
}

install_both
export PG_CONFIG
PG_CONFIG=$(bin $new)/pg_config
prepare
declare -A versions=() ports=()
for version in $old $new; do
	in_version $version build for_$version >"$tmp/build.log" 2>&1 && in_version $version install_build for_$version >>"$tmp/build.log" 2>&1 ||
		{ cat "$tmp/build.log"; die "lockguard does not build for $version"; }
done
echo "$("$(bin $old)/postgres" --version), $("$(bin $new)/postgres" --version)"

printf '\npg_upgrade from %s to %s\n' $old $new
make_server before $old
preload before
start before
sql before postgres -v ON_ERROR_STOP=1 <<'SQL' || exit 1
CREATE ROLE app LOGIN;
CREATE ROLE waiter LOGIN;
CREATE ROLE oncall LOGIN;
CREATE DATABASE shop;
ALTER ROLE app SET lockguard.idle_blocker_timeout = '1s';
ALTER DATABASE shop SET lockguard.escalation_delay = '7s';
ALTER ROLE app IN DATABASE shop SET lockguard.max_locks = 5000;
GRANT SET ON PARAMETER lockguard.priority TO oncall;
\c shop
CREATE EXTENSION lockguard;
GRANT EXECUTE ON FUNCTION lockguard.cancel_blockers(int), lockguard.pause(interval) TO oncall;
REVOKE SELECT ON lockguard.incidents FROM PUBLIC;
GRANT SELECT ON lockguard.incidents TO oncall;
CREATE SCHEMA oncall;
CREATE VIEW oncall.recent AS SELECT action_id, usename, result FROM lockguard.actions ORDER BY action_id DESC;
CREATE TABLE accounts AS SELECT i AS id FROM generate_series(1, 100) i;
SQL
ends_jam before
inventory=$(inventory before shop)
values=$(values before)
stop before
history_file=$tmp/before/pg_stat/lockguard.stat
before_sum=$(sha256sum <"$history_file")

# upgrade NAME [option ...]: the new cluster is there.
upgrade()
{
	local name=$1

	shift
	mkdir -p "$tmp/pg_upgrade" && chown "$server_user" "$tmp/pg_upgrade"
	(cd "$tmp/pg_upgrade" && as_user "$(bin $new)/pg_upgrade" -U postgres -b "$(bin $old)" -B "$(bin $new)" -d "$tmp/before" \
		-D "$tmp/$name" -s "$tmp" -p 5390 -P 5391 --no-sync "$@" >"$tmp/pg_upgrade.log" 2>&1 9<&-)
}

make_server bare $new --no-data-checksums
remove_build $new
! upgrade bare --check
checked $? "without the library for the new version, pg_upgrade refuses"
find "$tmp" -name loadable_libraries.txt -exec cat {} + >"$tmp/libraries.txt" 2>/dev/null
holds "$tmp/libraries.txt" 'could not load library "lockguard"' "and names it"
in_version $new install_build for_$new >/dev/null

upgrade bare
checked $? "pg_upgrade, if the new configuration does not name lockguard"
start bare
same "$(values bare)" "$values" "values of roles and databases are there, and grants on settings"
preload bare
stop bare && start bare
same "$(inventory bare shop)" "$inventory" "the extension, what depends on it, and grants are there"
ends_jam bare
stop bare

make_server after $new --no-data-checksums
preload after
# They must not end what pg_upgrade does.
configure after "lockguard.statement_timeout = '1ms'" "lockguard.idle_session_timeout = '1ms'"
upgrade after
checked $? "pg_upgrade, if it does, and has limits"
configure after "lockguard.statement_timeout = 0" "lockguard.idle_session_timeout = 0"
start after
same "$(values after)" "$values" "values of roles and databases are there, and grants on settings"
same "$(inventory after shop)" "$inventory" "the extension, what depends on it, and grants are there"
same "$(history after)" "" "the history stays with the old cluster"
same "$(sha256sum <"$history_file")" "$before_sum" "where it is left alone"
ends_jam after

printf '\npg_dump and restore\n'
program after pg_dump -Fc -f "$tmp/shop.dump" shop
checked $? "pg_dump"
program after pg_dumpall -r -f "$tmp/roles.sql"
holds "$tmp/roles.sql" "ALTER ROLE app SET \"?lockguard.idle_blocker_timeout\"? TO '1s'" "pg_dumpall -r has the values of roles"
! grep -q max_locks "$tmp/roles.sql"
checked $? "but not those of a role in a database"
program after pg_dump -C -s shop >"$tmp/create.sql"
holds "$tmp/create.sql" "ALTER DATABASE shop SET \"?lockguard.escalation_delay\"? TO '7s'" "those of databases are in pg_dump -C"
holds "$tmp/create.sql" "ALTER ROLE app IN DATABASE shop SET \"?lockguard.max_locks\"? TO '5000'" "and so are those"

# restored_into NAME DATABASE WHAT
restored_into()
{
	checked $? "$3"
	same "$(inventory $1 $2)" "$inventory" "with the extension, what depends on it, and grants"
}

program after createdb copy
program after pg_restore --exit-on-error -d copy "$tmp/shop.dump"
restored_into after copy "pg_restore into another database"
program after pg_restore --exit-on-error --clean --if-exists -d copy "$tmp/shop.dump"
restored_into after copy "pg_restore --clean --if-exists, over it"
program after pg_dump --clean --if-exists shop >"$tmp/shop.sql"
sql after copy -v ON_ERROR_STOP=1 -f "$tmp/shop.sql" >/dev/null
restored_into after copy "pg_dump --clean --if-exists, and psql"
program after createdb empty
program after pg_restore --exit-on-error --clean --if-exists -d empty "$tmp/shop.dump"
restored_into after empty "pg_restore --clean --if-exists into an empty database"

# Elsewhere: not loaded.
make_server elsewhere $new
start elsewhere
sql elsewhere postgres -c "CREATE DATABASE shop"
sed '/ROLE postgres/d' "$tmp/roles.sql" >"$tmp/roles_but_postgres.sql"
sql elsewhere postgres -v ON_ERROR_STOP=1 -f "$tmp/roles_but_postgres.sql" >"$tmp/roles.log" 2>&1
checked $? "in a server without lockguard, values of roles are restored"
program elsewhere pg_restore --exit-on-error -d shop "$tmp/shop.dump"
restored_into elsewhere shop "and so is the database"
same "$(values_of_roles elsewhere)" "$(values_of_roles after)" "with their values"
sql elsewhere shop -c "SELECT * FROM lockguard.actions" >"$tmp/said" 2>&1
holds "$tmp/said" "ERROR:  lockguard is not running in this server" "its views say that it does not run"
same "$(sql elsewhere shop -U app -c "SHOW lockguard.idle_blocker_timeout" 2>&1)" 1s "a role with a value logs in"
preload elsewhere
stop elsewhere && start elsewhere
ends_jam elsewhere
stop elsewhere

# Not installed.
remove_build $new
make_server nothing $new
start nothing
sql nothing postgres -c "CREATE DATABASE shop"
sql nothing postgres -v ON_ERROR_STOP=1 -f "$tmp/roles_but_postgres.sql" >"$tmp/roles.log" 2>&1
checked $? "where it is not installed, values of roles are restored"
! program nothing pg_restore -d shop "$tmp/shop.dump" >"$tmp/restore.log" 2>&1
checked $? "pg_restore fails"
holds "$tmp/restore.log" 'extension "lockguard" is not available' "over the extension"
same "$(sql nothing shop -c "SELECT count(*) FROM accounts")" 100 "the tables are restored"
stop nothing
in_version $new install_build for_$new >/dev/null

printf '\nALTER EXTENSION lockguard UPDATE\n'
# The next version: a function in C more, another one behind a view, with a column more, and one replaced.
copy_checkout next
cat >"$tmp/next/src/next.c" <<'C'
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(lockguard_next);
PG_FUNCTION_INFO_V1(lockguard_action_counts_next);

Datum
lockguard_next(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text("of the next version"));
}

Datum
lockguard_action_counts_next(PG_FUNCTION_ARGS)
{
	Datum		values[4];
	bool		nulls[4] = {0};

	InitMaterializedSRF(fcinfo, 0);
	values[0] = CStringGetTextDatum("blocker_timeout");
	values[1] = CStringGetTextDatum("cancel");
	values[2] = Int64GetDatum(1);
	values[3] = CStringGetTextDatum("the new column");
	tuplestore_putvalues(((ReturnSetInfo *) fcinfo->resultinfo)->setResult,
						 ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc, values, nulls);
	return (Datum) 0;
}
C
cat >"$tmp/next/sql/lockguard--1.0--1.1.sql" <<'SQL'
\echo Use "ALTER EXTENSION lockguard UPDATE TO '1.1'" to load this file. \quit
CREATE FUNCTION lockguard.next() RETURNS text
AS 'MODULE_PATHNAME', 'lockguard_next' LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
CREATE FUNCTION lockguard._action_counts_next(
    OUT limit_name text, OUT action text, OUT actions bigint, OUT added text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_action_counts_next' LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
CREATE OR REPLACE VIEW lockguard.action_counts AS SELECT * FROM lockguard._action_counts_next();
DROP FUNCTION lockguard._action_counts();
CREATE OR REPLACE FUNCTION lockguard.cancel_blockers(pid int) RETURNS int[]
AS 'MODULE_PATHNAME', 'lockguard_cancel_blockers'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
SQL
sed -i "s/^default_version = .*/default_version = '1.1'/" "$tmp/next/lockguard.control"
sed -i 's|^DATA = .*|& sql/lockguard--1.0--1.1.sql|' "$tmp/next/Makefile"
chown -R "$server_user" "$tmp/next"
as_user make -C "$tmp/next" -s PG_CONFIG="$PG_CONFIG" with_llvm=no all >"$tmp/build.log" 2>&1 ||
	{ cat "$tmp/build.log"; die "the next version does not build"; }

sql after shop -c "CREATE VIEW oncall.counts AS SELECT * FROM lockguard.action_counts" \
	-c "GRANT SELECT ON lockguard.action_counts TO oncall"
inventory=$(inventory after shop)
history=$(history after)
version()
{
	sql $1 shop -c "SELECT extversion FROM pg_extension WHERE extname = 'lockguard'"
}
# What is the same if it is asked again.
answers()
{
	sql $1 shop -c "SELECT format('SELECT count(*) >= 0 FROM lockguard.%I', viewname) FROM pg_views WHERE schemaname = 'lockguard' ORDER BY 1" \
		>"$tmp/all_views.sql"
	sed 's/$/;/' "$tmp/all_views.sql" | sql $1 shop -v ON_ERROR_STOP=1 >"$tmp/answers" 2>&1 &&
		sql $1 shop -v ON_ERROR_STOP=1 >>"$tmp/answers" 2>&1 <<-'SQL'
			SELECT lockguard.scan();
			SELECT * FROM lockguard.tree();
			SELECT lockguard.report(min(incident_id)) FROM lockguard.incidents;
			SELECT count(*) FROM lockguard.what_if('idle_blocker_timeout', '1s');
			SELECT lockguard.pause('1ms');
			SELECT lockguard.resume();
			SELECT lockguard.exempt(pg_backend_pid(), '0s');
			SELECT lockguard.cancel_blockers(pg_backend_pid());
		SQL
	checked $? "$1: $2"
	[ "$(grep -c ERROR "$tmp/answers")" = 0 ] || tail -n 3 "$tmp/answers"
}

make -C "$tmp/next" -s PG_CONFIG="$PG_CONFIG" with_llvm=no install
! sql after shop -c "ALTER EXTENSION lockguard UPDATE" >"$tmp/said" 2>&1
checked $? "before the server has been restarted, the update fails"
holds "$tmp/said" 'could not find function "lockguard_next"' "as the library is the old one"
same "$(inventory after shop)" "$inventory" "and nothing has changed"
ends_jam after
history=$(history after)
stop after && start after
same "$(version after)" 1.0 "after a restart, the extension is of the old version"
answers after "its views and functions work with the new library"
same "$(history after)" "$history" "the history is there"
ends_jam after
history=$(history after)
sql after shop -c "ALTER EXTENSION lockguard UPDATE"
checked $? "ALTER EXTENSION lockguard UPDATE"
same "$(version after)" 1.1 "it is of the next version"
same "$(sql after shop -c "SELECT lockguard.next()")" "of the next version" "with its new function"
same "$(sql after shop -c "SELECT added FROM lockguard.action_counts")" "the new column" "and a new column of a view"
same "$(inventory after shop | grep -v '^version')" "$(echo "$inventory" | grep -v '^version')" \
	"the views of others, and grants, are as they were"
same "$(sql after shop -U oncall -c "SELECT limit_name, actions FROM lockguard.action_counts")" "blocker_timeout|1" \
	"a role may still read what it could"
same "$(sql after shop -c "SELECT count(*) FROM pg_attribute WHERE attrelid = 'oncall.counts'::regclass AND attnum > 0")" 3 \
	"a view of others has the columns that it had"
answers after "the views and functions work"
same "$(history after)" "$history" "the history is there"
same "$(sql after copy -c "SELECT extversion FROM pg_extension WHERE extname = 'lockguard'")" 1.0 "another database has the old version still"
same "$(sql after copy -c "SELECT count(*) > 0 FROM lockguard.actions")" t "which works beside it"
ends_jam after
history=$(history after)

# Back to the old library.
stop after
rm -f "$("$PG_CONFIG" --sharedir)/extension/lockguard--1.0--1.1.sql"
in_version $new install_build for_$new >/dev/null
start after
sql after shop -c "SELECT lockguard.next()" >"$tmp/said" 2>&1
holds "$tmp/said" 'could not find function "lockguard_next"' "with the old library, what is new fails"
ends_jam after
history=$(history after)
sql after shop -c "ALTER EXTENSION lockguard UPDATE" >"$tmp/said" 2>&1
holds "$tmp/said" 'extension "lockguard" has no update path from version "1.1" to version "1.0"' "and there is no way back"
sql after shop -v ON_ERROR_STOP=1 -c "DROP VIEW oncall.recent, oncall.counts" -c "DROP EXTENSION lockguard" -c "CREATE EXTENSION lockguard"
checked $? "but to drop and to create it"
same "$(history after)" "$history" "which the history survives"

printf '\nThe history file\n'
aside=$tmp/after/pg_stat/lockguard.stat.damaged
file=$tmp/after/pg_stat/lockguard.stat
stop after
old_sum=$(sha256sum <"$file")
grep -q '^#define FILE_VERSION' "$tmp/next/src/history.c"
checked $? "it has a version"
sed -i -E 's/^#define FILE_VERSION.*/#define FILE_VERSION 1000/' "$tmp/next/src/history.c"
as_user make -C "$tmp/next" -s PG_CONFIG="$PG_CONFIG" with_llvm=no all >"$tmp/build.log" 2>&1 &&
	make -C "$tmp/next" -s PG_CONFIG="$PG_CONFIG" with_llvm=no install || { cat "$tmp/build.log"; die "it does not build"; }
: >"$tmp/after.log"
start after
until_true [ -e "$aside" ]
checked $? "a build with a later version of it moves the file aside"
same "$(sha256sum <"$aside")" "$old_sum" "as it is"
holds "$tmp/after.log" 'WARNING:  lockguard: history file ".*" is damaged or of another version' "and says so"
same "$(history after)" "" "the history begins anew"
ends_jam after
until_true [ -e "$file" ]
stop after
new_sum=$(sha256sum <"$file")

rm -f "$("$PG_CONFIG" --sharedir)/extension/lockguard--1.0--1.1.sql"
in_version $new install_build for_$new >/dev/null
start after
until_true [ -e "$aside.1" ]
checked $? "the old build moves that of the later one aside"
same "$(sha256sum <"$aside.1")" "$new_sum" "as it is"
same "$(sha256sum <"$aside")" "$old_sum" "beside the one from before"
stop after
as_user mv "$aside" "$file"
start after
same "$(history after)" "$history" "its own can be put back"
stop after

# Of the same build for another version of PostgreSQL.
as_user cp "$history_file" "$file"
: >"$tmp/after.log"
start after
until_true [ -e "$aside" ]
checked $? "a file of PostgreSQL $old is moved aside by $new"
same "$(sha256sum <"$aside")" "$before_sum" "as it is"
same "$(history after)" "" "and nothing is taken from it"
stop after

echo
echo "$passed passed, $failed failed"
[ $failed = 0 ]
