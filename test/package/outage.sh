#!/bin/bash
# Makes an outage on a running server: a transaction that sits idle and blocks an UPDATE.
#
#   test/package/outage.sh TIME     for that long, at most, the UPDATE waits
#
# psql's environment says which server, and the user has to be a superuser there. Prints what the first client is
# told at its COMMIT. The exit status is zero if the UPDATE has succeeded, and the first transaction has not.

set -u
export PGDATABASE=postgres
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

sql()
{
	psql -X -q -At -v ON_ERROR_STOP=1 "$@"
}

sql -c "CREATE TABLE IF NOT EXISTS outage AS SELECT 0 AS v" 2>"$dir/notice" || { cat "$dir/notice"; exit 1; }
sql -c "UPDATE outage SET v = 0" || exit 1
mkfifo "$dir/in"
PGAPPNAME=outage psql -X -q <"$dir/in" >"$dir/out" 2>&1 &
first=$!
exec 8>"$dir/in"
echo 'BEGIN; UPDATE outage SET v = v + 1;' >&8
until [ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outage' AND state = 'idle in transaction'")" = 1 ]; do
	kill -0 $first 2>/dev/null || { cat "$dir/out"; exit 1; }
	sleep 0.1
done
PGOPTIONS="-c statement_timeout=$1" sql -c "UPDATE outage SET v = v + 10" 8>&- 2>&1
status=$?
echo 'COMMIT;' >&8
exec 8>&-
wait $first
cat "$dir/out"
[ $status = 0 ] && [ "$(sql -c "SELECT v FROM outage")" = 10 ]
