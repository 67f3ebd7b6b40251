#!/bin/bash
# Runs a server in valgrind through outages of every kind (see valgrind.pl), a restart, and one with a
# damaged history file: no process may read or write what it should not.
#
#   test/valgrind.sh
#   LOCKGUARD_KEEP=1           keeps the temporary folder, with valgrind's logs in valgrind/
#   PG_CONFIG=/path/pg_config  as for test/check.sh
#
# PostgreSQL has to be built for valgrind to be seen through entirely; on other builds only what overruns
# a whole block of memory, or was never set since it was got from the operating system, is found.
#
# The last line is "N processes, N errors".

. "$(dirname "$0")/common.sh"

# What valgrind has found, and how much.
report()
{
	local processes errors

	processes=$(ls "$tmp/valgrind" | wc -l)
	errors=$(awk '/ERROR SUMMARY/ { n += $4 } END { print n + 0 }' "$tmp"/valgrind/*.log)
	sed -n '/^==[0-9]*== \(Invalid\|Conditional\|Use\|Syscall\|Source\|Mismatched\|Jump\|Process terminating\)/,/^==[0-9]*== *$/p' \
		"$tmp"/valgrind/*.log | head -n 200
	grep -L 'ERROR SUMMARY' "$tmp"/valgrind/*.log | sed 's/.*/no summary in the log of &/' | grep . && errors=$((errors + 1))
	echo "$processes processes, $errors errors"
	[ "$errors" = 0 ] && [ "$processes" -gt 20 ]
}

give_up()
{
	tail -n 30 "$tmp/server.log"
	report
	die "$*"
}

start_in_valgrind()
{
	as_user pg_ctl -s -w -t 180 -D "$tmp/data" -l "$tmp/server.log" -p "$tmp/postgres" start ||
		give_up "the server does not start"
}

# Its log is whole when the process has gone, which is after its pid file.
stop()
{
	local pid

	pid=$(head -n 1 "$tmp/data/postmaster.pid")
	as_user pg_ctl -s -w -t 180 -D "$tmp/data" -m fast stop || give_up "the server does not stop"
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.1
	done
}

happens()
{
	as_user perl -I "$tmp/symbols/test/lib" "$tmp/symbols/test/valgrind.pl" "$1" ||
		give_up "what should happen does not"
}

prepare tests
install_for valgrind valgrind
build symbols COPT="-O1 -g" || exit 1
at_exit=restore_plain_build
install_build symbols COPT="-O1 -g" >/dev/null || exit 1

as_user mkdir "$tmp/valgrind"
cat >"$tmp/postgres" <<SCRIPT
#!/bin/sh
exec valgrind --log-file="$tmp/valgrind/%p.%n.log" --trace-children=yes --leak-check=no --num-callers=25 \\
	--error-limit=no --suppressions="$tmp/symbols/test/valgrind.supp" "$bindir/postgres" "\$@"
SCRIPT
chmod a+rx "$tmp/postgres"

# The server has not been told to use valgrind here: initdb is not under test.
start_server "max_prepared_transactions = 5" "autovacuum = off" "jit = off" "shared_buffers = 4MB" \
	"max_connections = 30" "lockguard.naptime = 200ms" "lockguard.incident_threshold = 300ms" \
	"lockguard.prepared_transaction_timeout = 2s" || exit 1
stop
start_in_valgrind
happens outage
stop
start_in_valgrind
happens after
stop

echo damaged | as_user dd of="$tmp/data/pg_stat/lockguard.stat" conv=notrunc status=none bs=1 \
	seek=$(($(stat -c %s "$tmp/data/pg_stat/lockguard.stat") / 2))
start_in_valgrind
happens damaged
stop
grep -q "is damaged or of another version" "$tmp/server.log" || give_up "the server has not noticed the damage"

report
