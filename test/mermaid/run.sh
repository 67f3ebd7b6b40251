#!/bin/bash
# Renders the Mermaid diagrams and the Markdown of lockguard.report() in a real browser, for
# incidents with harmless and with hostile names and queries.
#
#   test/mermaid/run.sh                             PostgreSQL 15
#   PG_CONFIG=/path/pg_config test/mermaid/run.sh   another one
#   LOCKGUARD_KEEP=1 test/mermaid/run.sh            keeps the temporary folder with reports and page.png
#
# Needs npm for the package mermaid, and installs Debian's chromium.

. "$(dirname "$0")/../common.sh"

sql()
{
	psql -X -q -At -d postgres "$@" 9<&-
}

wait_until()
{
	local deadline=$((SECONDS + 60))

	until [ "$(sql -c "SELECT $1")" = t ]; do
		[ $SECONDS -lt $deadline ] || die "gave up waiting until: $1"
		sleep 0.1
	done
}

# An application's name has at most 63 bytes.
hostile=(
	'nightly import'
	'"]; click n0 href "javascript:pwned=1"; n9["x'
	'%%{init: {"securityLevel":"loose","theme":"dark"}}%%'
	'end'
	'a`b``c```mermaid'
	'<img src=x onerror="pwned=1">'
	'<script>pwned=1</script>'
	'x | y || z \| <img src=x onerror="pwned=1">'
	'\`<img src=x onerror="pwned=1">\`'
	'#quot;]; style n0 fill:red #59; &quot;&lt;b&gt;'
	'`**bold** _x_ ~~y~~ [l](javascript:pwned=1)`'
	'- 1. # > item'
	'--> n0; subgraph s; direction TB; end; classDef default'
	'$$\href{javascript:pwned=1}{x}$$ fa:fa-ban'
	'100% : crit, 0, 9 ; section x'
	"';\"'\\ \\\\ :::class @{ shape: rect }"
)

prepare
command -v npm >/dev/null || die "missing: npm"
command -v chromium >/dev/null || { apt_update; apt_install chromium; }
as_user mkdir -p "$tmp/page"
(cd "$tmp/page" && as_user npm install --no-audit --no-fund --silent mermaid >"$tmp/npm.log" 2>&1) ||
	{ cat "$tmp/npm.log"; die "cannot install mermaid"; }

build plain >"$tmp/build.log" 2>&1 && install_build plain >>"$tmp/build.log" 2>&1 ||
	{ cat "$tmp/build.log"; die "lockguard does not build"; }
start_server "lockguard.incident_threshold = '200ms'" "lockguard.naptime = '50ms'" \
	"max_prepared_transactions = 20" "max_connections = 200" || exit 1
sql -c "CREATE EXTENSION lockguard" -c "CREATE TABLE t (id int PRIMARY KEY, v int)" \
	-c "INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i" || exit 1

# For each text: a session of that name, role and query in the way of three others, one of which has
# a table lock in its queue; and a prepared transaction of that name.
clients=()
row=0
for text in "${hostile[@]}"; do
	row=$((row + 2))
	printf 'CREATE ROLE :"role" SUPERUSER LOGIN;\n' | sql -v role="${text:0:50}$row" || exit 1
	{
		printf 'BEGIN;\nUPDATE t SET v = 1 WHERE id = %d /* %s */;\nSELECT pg_sleep(4);\nCOMMIT;\n' $row "${text//\*\//}"
	} >"$tmp/root.$row.sql"
	PGAPPNAME=$text sql -U "${text:0:50}$row" -f "$tmp/root.$row.sql" >/dev/null 2>&1 &
	clients+=($!)
	printf "BEGIN;\nUPDATE t SET v = 1 WHERE id = %d;\nPREPARE TRANSACTION :'gid';\n" $((row + 1)) |
		sql -v gid="$text" || exit 1
done
wait_until "count(*) = ${#hostile[@]} FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
row=0
for text in "${hostile[@]}"; do
	row=$((row + 2))
	for id in $row $row $((row + 1)); do
		printf 'UPDATE t SET v = 2 WHERE id = %d /* %s\n%s */;\n' $id "${text//\*\//}" "${text//\*\//}" >"$tmp/waiter.$id.sql"
		PGAPPNAME=$text sql -f "$tmp/waiter.$id.sql" >/dev/null 2>&1 &
		clients+=($!)
	done
done
wait_until "count(*) = ${#hostile[@]} FROM lockguard.incidents WHERE peak_blocked_sessions = 2"
wait_until "count(*) = ${#hostile[@]} FROM lockguard.incidents WHERE gid IS NOT NULL"
for text in "${hostile[@]}"; do
	printf "COMMIT PREPARED :'gid';\n" | sql -v gid="$text"
done
wait "${clients[@]}"
wait_until "count(*) = 0 FROM lockguard.incidents WHERE status = 'open'"

# The label of a node: process and application, or the gid; at most 40 bytes of it. All sessions of a
# tree have the same name here.
sql >"$tmp/reports.js" <<'SQL' || exit 1
CREATE FUNCTION cut(name text) RETURNS text LANGUAGE sql
RETURN (SELECT CASE WHEN length(n) > 37 THEN rtrim(left(n, 37)) || '...' ELSE n END
        FROM (SELECT trim(regexp_replace(name, '\s+', ' ', 'g')) AS n) s);
SELECT 'const reports = ' || json_agg(json_build_object(
    'id', incident_id, 'text', lockguard.report(incident_id), 'labels',
    (SELECT json_agg(coalesce(pid[1], 'prepared') || ' ' || cut(coalesce(gid, application_name)))
     FROM (SELECT regexp_match(line, '^ *(?:-> )?(\d+) ') AS pid
           FROM regexp_split_to_table(lock_tree, '\n') line) l))) || ';'
FROM lockguard.incidents;
SQL
sql -c "SELECT lockguard.report(1)" >"$tmp/report.md"
cp "$top/test/mermaid/page.html" "$tmp/reports.js" "$tmp/page"
browse()
{
	as_user chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
		--user-data-dir="$tmp/chromium" --virtual-time-budget=120000 "$@" "file://$tmp/page/page.html" 2>"$tmp/chromium.log"
}
browse --dump-dom >"$tmp/dom.html"
sed -n '/<pre id="result">/,/<\/pre>/p' "$tmp/dom.html" | sed 's/<[^>]*>//g' >"$tmp/result"
[ -z "${LOCKGUARD_KEEP:-}" ] || browse --screenshot="$tmp/page.png" --window-size=1400,6000
cat "$tmp/result"
! grep -q FAILED "$tmp/result" && grep -q "^$((4 * ${#hostile[@]})) diagrams" "$tmp/result"
