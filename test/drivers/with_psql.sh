#!/bin/bash
# psql: see run.sh.

row=0

check()
{
	printf '%-8s%s\n' "$([ "$1" = 0 ] && echo ok || echo FAILED)" "$2"
	[ "$1" = 0 ] || sed 's/^/        | /' "$output"
}

seen()
{
	printf '%8s%s\n' '' "$1"
}

# The parts of a script: a transaction that is rolled back, as another session waits for its row.
output=$(mktemp)
trap 'rm -f "$output"' EXIT
work()
{
	row=$((row + 1))
	work="UPDATE t SET v = v + 1000 WHERE id = $row RETURNING 'pid ' || pg_backend_pid();"
	again="UPDATE t SET v = v + 10 WHERE id = $row RETURNING 'pid ' || pg_backend_pid();"
	wait="\\! psql -X -q -U waiter -d postgres -c 'UPDATE t SET v = v + 1 WHERE id = $row'"
}

run_psql()
{
	psql -X -At -h "$DRIVER_HOST" -p "$DRIVER_PORT" -U app -d postgres "$@" >"$output" 2>&1
}

has()
{
	grep -q -- "$1" "$output"
}

# told WHAT SQLSTATE: if the script has shown it with \echo.
told()
{
	has "^ERROR:  " && has "^DETAIL:  lockguard: the transaction was rolled back: " && has "^HINT:  .*again" && has "^state $2$"
	check $? "$1: $2, with DETAIL and HINT"
}

goes_on()
{
	[ "$(grep -c '^pid ' "$output")" = 2 ] && [ "$(grep '^pid ' "$output" | sort -u | wc -l)" = 1 ]
	check $? "$1: same backend"
	[ "$(psql -X -At -U waiter -d postgres -c "SELECT v FROM t WHERE id = $row")" = 11 ]
	check $? "which commits; nothing of the first transaction is there"
}

seen "$(psql --version)"

work
run_psql <<SQL
BEGIN;
$work
$wait
COMMIT;
\echo state :LAST_ERROR_SQLSTATE
$again
SQL
told COMMIT 40000
sed -n '/^ERROR:/,/^HINT:/s/^/        /p' "$output"
goes_on "the next statement"

work
run_psql <<SQL
BEGIN;
$work
$wait
SELECT 1;
\echo state :LAST_ERROR_SQLSTATE
ROLLBACK;
$again
SQL
told "a statement" 25P02
goes_on "after ROLLBACK"

work
run_psql <<SQL
\set AUTOCOMMIT off
$work
$wait
COMMIT;
\echo state :LAST_ERROR_SQLSTATE
$again
COMMIT;
SQL
told "COMMIT with AUTOCOMMIT off" 40000
goes_on "the next statement"

# psql sets a savepoint before each statement then: it shows the error of that, and its variables do not have it.
work
run_psql <<SQL
\set ON_ERROR_ROLLBACK on
BEGIN;
$work
$wait
SELECT 'done';
\echo state :LAST_ERROR_SQLSTATE
COMMIT;
\echo state :LAST_ERROR_SQLSTATE
$again
SQL
! has '^done$' && has '^HINT:  Issue ROLLBACK and run the transaction again'
check $? "a statement with ON_ERROR_ROLLBACK: not run, an error with DETAIL and HINT"
seen "LAST_ERROR_SQLSTATE is $(sed -n '/^state /{s///p;q}' "$output")"
told "COMMIT after it" 40000
goes_on "the next statement"

# A script in one transaction.
for stop in 0 1; do
	work
	printf '%s\n' "$work" "$wait" | run_psql -1 -v ON_ERROR_STOP=$stop -f -
	status=$?
	has "ERROR:  transaction was rolled back"
	check $? "psql --single-transaction, ON_ERROR_STOP=$stop: the error is shown"
	seen "its exit status is $status"
	[ $stop = 0 ] || { [ $status != 0 ]; check $? "and the exit status is not 0"; }
done
