/* sql/lockguard--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION lockguard" to load this file. \quit

-- Another role may have created a schema of that name, or may create objects in
-- it: a function pause(text) there would be taken for lockguard's.
DO $$
DECLARE
    existing pg_catalog.oid := (SELECT oid FROM pg_catalog.pg_namespace
                                WHERE nspname OPERATOR(pg_catalog.=) 'lockguard');
    trusted pg_catalog.oid[] := ARRAY(SELECT oid FROM pg_catalog.pg_roles
                                      WHERE rolsuper OR rolname OPERATOR(pg_catalog.=) CURRENT_USER);
BEGIN
    IF (SELECT nspowner OPERATOR(pg_catalog.<>) ALL (trusted)
        FROM pg_catalog.pg_namespace WHERE oid OPERATOR(pg_catalog.=) existing) THEN
        RAISE EXCEPTION 'schema "lockguard" already exists and belongs to another role'
            USING HINT = 'Drop or rename it, or give it to the user who creates the extension.';
    END IF;
    IF EXISTS (SELECT
               FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
               WHERE n.oid OPERATOR(pg_catalog.=) existing
                     AND a.privilege_type OPERATOR(pg_catalog.=) 'CREATE'
                     AND a.grantee OPERATOR(pg_catalog.<>) ALL (trusted))
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_depend d
                       JOIN pg_catalog.pg_shdepend o
                         ON o.classid OPERATOR(pg_catalog.=) d.classid
                            AND o.objid OPERATOR(pg_catalog.=) d.objid
                       JOIN pg_catalog.pg_database c
                         ON c.oid OPERATOR(pg_catalog.=) o.dbid
                            AND c.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
                  WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
                        AND d.refobjid OPERATOR(pg_catalog.=) existing
                        AND o.deptype OPERATOR(pg_catalog.=) 'o'
                        AND o.refobjid OPERATOR(pg_catalog.<>) ALL (trusted)) THEN
        RAISE EXCEPTION 'schema "lockguard" already exists and other roles may create objects in it, or have done so'
            USING HINT = 'Drop or rename it.';
    END IF;
END $$;

GRANT USAGE ON SCHEMA lockguard TO PUBLIC;
COMMENT ON SCHEMA lockguard IS 'sessions that block others, and what lockguard did about them';

-- Functions behind the views.  They mask by themselves what the caller may
-- not see, so that all users may call them.

CREATE FUNCTION lockguard._lock_tree(
    OUT root_pid int, OUT level int, OUT path int[], OUT pid int, OUT gid text,
    OUT blocked_by int[], OUT blocked_sessions int, OUT block_kind text,
    OUT locktype text, OUT database oid, OUT relation oid, OUT relation_name text,
    OUT mode text, OUT wait_start timestamptz, OUT yielding bool, OUT state text,
    OUT wait_event_type text, OUT wait_event text, OUT xact_start timestamptz,
    OUT backend_type text, OUT datname text, OUT usename text,
    OUT application_name text, OUT query text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_lock_tree'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._lock_tree() IS 'internal: see view lockguard.lock_tree';

CREATE FUNCTION lockguard._sessions(
    OUT pid int, OUT backend_type text, OUT datname text, OUT usename text,
    OUT application_name text, OUT backend_start timestamptz,
    OUT xact_start timestamptz, OUT state text, OUT state_change timestamptz,
    OUT blocked_by int[], OUT blocked_sessions int,
    OUT blocking_since timestamptz, OUT wait_start timestamptz, OUT locks int,
    OUT held_mode text, OUT held_relation oid, OUT held_relation_name text,
    OUT priority text,
    OUT action text, OUT exempt bool, OUT limit_name text,
    OUT limit_at timestamptz, OUT spared text, OUT settings text,
    OUT query text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_sessions'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._sessions() IS 'internal: see view lockguard.sessions';

CREATE FUNCTION lockguard._idle_locks(
    OUT mode text, OUT sessions bigint, OUT longest_idle interval)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_idle_locks'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._idle_locks() IS 'internal: see view lockguard.idle_locks';

CREATE FUNCTION lockguard._actions(
    OUT action_id bigint, OUT incident_id bigint, OUT acted_at timestamptz,
    OUT pid int, OUT backend_start timestamptz, OUT gid text, OUT datname text,
    OUT usename text, OUT application_name text, OUT client_addr text,
    OUT state text, OUT query text, OUT limit_name text, OUT limit_value text,
    OUT limit_source text, OUT requested_by text, OUT action text,
    OUT dry_run bool, OUT result text, OUT reason text,
    OUT released_after interval, OUT blocked_sessions int,
    OUT blocked_pids int[], OUT longest_wait interval)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_actions'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._actions() IS 'internal: see view lockguard.actions';

CREATE FUNCTION lockguard._stats(
    OUT scans bigint, OUT scan_time float8, OUT max_scan_time float8,
    OUT lock_scans bigint, OUT lock_scan_time float8, OUT max_lock_scan_time float8,
    OUT max_partition_lock_time float8, OUT acted_within_1ms bigint,
    OUT acted_within_10ms bigint, OUT acted_within_100ms bigint,
    OUT acted_within_1s bigint, OUT acted_later bigint,
    OUT max_lateness float8, OUT cancels bigint,
    OUT terminations bigint, OUT rollbacks bigint, OUT yields bigint,
    OUT let_pass bigint, OUT deadlocks bigint, OUT logged bigint,
    OUT suppressed bigint, OUT self_resolved bigint, OUT unresponsive bigint,
    OUT incidents bigint, OUT open_incidents bigint, OUT blocked_time float8,
    OUT worker_pid int, OUT worker_start timestamptz,
    OUT last_scan timestamptz, OUT paused_until timestamptz,
    OUT stats_reset timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_stats'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._stats() IS 'internal: see view lockguard.stats';

CREATE FUNCTION lockguard._action_counts(
    OUT limit_name text, OUT action text, OUT actions bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_action_counts'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._action_counts() IS 'internal: see view lockguard.action_counts';

CREATE FUNCTION lockguard._incidents(
    OUT incident_id bigint, OUT status text, OUT started_at timestamptz,
    OUT ended_at timestamptz, OUT root_pid int, OUT gid text, OUT usename text,
    OUT datname text, OUT application_name text, OUT client_addr text,
    OUT backend_type text, OUT state text, OUT query text, OUT queryid bigint,
    OUT locktype text, OUT peak_blocked_sessions int, OUT peak_at timestamptz,
    OUT longest_wait interval, OUT total_wait interval, OUT waits bigint,
    OUT gave_up bigint, OUT resolution text, OUT replaced_by bigint, OUT lock_tree text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_incidents'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._incidents() IS 'internal: see view lockguard.incidents';

CREATE FUNCTION lockguard._deadlocks(
    OUT deadlock_id bigint, OUT detected_at timestamptz, OUT pid int,
    OUT datname text, OUT usename text, OUT application_name text,
    OUT query text, OUT graph text, OUT queryids bigint[])
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_deadlocks'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._deadlocks() IS 'internal: see view lockguard.deadlocks';

CREATE FUNCTION lockguard._contention(
    OUT datname text, OUT usename text, OUT queryid bigint,
    OUT locktype text, OUT relation oid, OUT relation_name text, OUT mode text,
    OUT incidents bigint, OUT blocked_sessions bigint, OUT total_wait interval,
    OUT longest_wait interval, OUT actions bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_contention'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._contention() IS 'internal: see view lockguard.contention';

CREATE FUNCTION lockguard._server_settings(
    OUT name text, OUT setting text, OUT source text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_server_settings'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard._server_settings() IS 'internal: see view lockguard.limits';

CREATE FUNCTION lockguard._base_value(name text, setting text) RETURNS text
AS 'MODULE_PATHNAME', 'lockguard_base_value'
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION lockguard._base_value(text, text) IS 'internal: see view lockguard.limits';

-- Views

CREATE VIEW lockguard.lock_tree AS SELECT * FROM lockguard._lock_tree();
COMMENT ON VIEW lockguard.lock_tree IS 'which session waits for which right now: each session below each root blocker';

CREATE VIEW lockguard.sessions AS
SELECT pid, backend_type, datname, usename, application_name, backend_start,
       xact_start, state, state_change, blocked_by, blocked_sessions,
       blocking_since, wait_start, locks, held_mode, held_relation,
       held_relation_name, priority, action, exempt, limit_name, limit_at,
       spared, settings::pg_catalog.jsonb AS settings, query
FROM lockguard._sessions();
COMMENT ON VIEW lockguard.sessions IS 'each session: what is measured, which limits bind it, and which it will pass next';

CREATE VIEW lockguard.idle_locks AS SELECT * FROM lockguard._idle_locks();
COMMENT ON VIEW lockguard.idle_locks IS 'how many idle sessions hold a table lock, by mode of the strongest one, and for how long';

CREATE VIEW lockguard.actions AS
SELECT action_id, incident_id, acted_at, pid, backend_start, gid, datname,
       usename, application_name, client_addr::pg_catalog.inet AS client_addr,
       state, query, limit_name, limit_value, limit_source, requested_by,
       action, dry_run, result, reason, released_after, blocked_sessions,
       blocked_pids, longest_wait
FROM lockguard._actions();
COMMENT ON VIEW lockguard.actions IS 'what lockguard did, or would have done, to which session, why, and the outcome';

CREATE VIEW lockguard.incidents AS
SELECT incident_id, status, started_at, ended_at, root_pid, gid, usename,
       datname, application_name, client_addr::pg_catalog.inet AS client_addr,
       backend_type, state, query, queryid, locktype, peak_blocked_sessions,
       peak_at, longest_wait, total_wait, waits, gave_up, resolution,
       replaced_by, lock_tree
FROM lockguard._incidents();
COMMENT ON VIEW lockguard.incidents IS 'each outage: which session blocked how many others, for how long, and how it ended';

CREATE VIEW lockguard.deadlocks AS SELECT * FROM lockguard._deadlocks();
COMMENT ON VIEW lockguard.deadlocks IS 'each deadlock that the server has resolved: which session got the error, and which waited for which';

CREATE VIEW lockguard.contention AS SELECT * FROM lockguard._contention();
COMMENT ON VIEW lockguard.contention IS 'what each database, role and statement has cost the sessions that it blocked, by lock';

CREATE VIEW lockguard.stats AS SELECT * FROM lockguard._stats();
COMMENT ON VIEW lockguard.stats IS 'counters since the last reset; times in milliseconds';

CREATE VIEW lockguard.action_counts AS SELECT * FROM lockguard._action_counts();
COMMENT ON VIEW lockguard.action_counts IS 'actions since the last reset, by limit (null: asked for by hand) and kind (log: no session was signalled)';

CREATE VIEW lockguard.limits AS
SELECT pg_catalog.substr(s.name, 11) AS name,
       coalesce(v.setting, s.setting) AS setting, s.unit,
       coalesce(v.source,
                CASE s.source WHEN 'default' THEN 'default' ELSE 'configuration' END) AS source,
       NULL::pg_catalog.name AS datname, NULL::pg_catalog.name AS usename,
       s.short_desc AS description
FROM pg_catalog.pg_settings s
     LEFT JOIN lockguard._server_settings() v
       ON s.name OPERATOR(pg_catalog.=) ('lockguard.' OPERATOR(pg_catalog.||) v.name)
WHERE s.name OPERATOR(pg_catalog.~~) 'lockguard.%'
UNION ALL
-- no row; but without any setting above, only this says that lockguard is not running
SELECT v.name, NULL, NULL, NULL, NULL, NULL, NULL
FROM lockguard._server_settings() v WHERE v.name IS NULL
UNION ALL
SELECT o.name,
       lockguard._base_value(o.name, o.setting), s.unit,
       CASE WHEN r.setrole OPERATOR(pg_catalog.=) 0 AND r.setdatabase OPERATOR(pg_catalog.=) 0 THEN 'all roles'
            WHEN r.setrole OPERATOR(pg_catalog.=) 0 THEN 'database'
            WHEN r.setdatabase OPERATOR(pg_catalog.=) 0 THEN 'role'
            ELSE 'role in database' END,
       d.datname, a.rolname, s.short_desc
FROM pg_catalog.pg_db_role_setting r
     CROSS JOIN LATERAL pg_catalog.unnest(r.setconfig) c (entry)
     CROSS JOIN LATERAL (SELECT pg_catalog.lower(pg_catalog.substr(c.entry, 11, pg_catalog.strpos(c.entry, '=') OPERATOR(pg_catalog.-) 11)) AS name,
                                pg_catalog.substr(c.entry, pg_catalog.strpos(c.entry, '=') OPERATOR(pg_catalog.+) 1) AS setting) o
     JOIN pg_catalog.pg_settings s
       ON s.name OPERATOR(pg_catalog.=) ('lockguard.' OPERATOR(pg_catalog.||) o.name)
     LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) r.setdatabase
     LEFT JOIN pg_catalog.pg_roles a ON a.oid OPERATOR(pg_catalog.=) r.setrole
WHERE pg_catalog.lower(c.entry) OPERATOR(pg_catalog.~~) 'lockguard.%';
COMMENT ON VIEW lockguard.limits IS 'each setting: the server''s own value, and each role, database, or role in a database with another';

GRANT SELECT ON lockguard.lock_tree, lockguard.sessions, lockguard.idle_locks,
                lockguard.actions, lockguard.incidents, lockguard.deadlocks,
                lockguard.contention, lockguard.stats, lockguard.action_counts,
                lockguard.limits TO PUBLIC;

-- Functions for people

CREATE FUNCTION lockguard.tree() RETURNS SETOF text
AS 'MODULE_PATHNAME', 'lockguard_tree'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.tree() IS 'the lock trees as text, for a terminal';

CREATE FUNCTION lockguard.report(incident_id bigint) RETURNS text
AS 'MODULE_PATHNAME', 'lockguard_report'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.report(bigint) IS 'an incident as a postmortem in Markdown, with Mermaid diagrams';

CREATE FUNCTION lockguard.deadlock_report(deadlock_id bigint) RETURNS text
AS 'MODULE_PATHNAME', 'lockguard_deadlock_report'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.deadlock_report(bigint) IS 'a deadlock as a postmortem in Markdown, with a Mermaid diagram';

CREATE FUNCTION lockguard.what_if(
    limit_name text, setting text, OUT incident_id bigint, OUT would_act bool,
    OUT pid int, OUT action text, OUT acts_after interval, OUT saved interval,
    OUT note text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'lockguard_what_if'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.what_if(text, text) IS 'what a limit would have done about each incident on record';

CREATE FUNCTION lockguard.scan() RETURNS void
AS 'MODULE_PATHNAME', 'lockguard_scan'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.scan() IS 'have the worker scan now, looking at every waiter; returns when it has';

CREATE FUNCTION lockguard.exempt(pid int, duration interval) RETURNS bool
AS 'MODULE_PATHNAME', 'lockguard_exempt'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.exempt(int, interval) IS 'leave a session alone for a time; null or zero ends it';

CREATE FUNCTION lockguard.pause(duration interval) RETURNS void
AS 'MODULE_PATHNAME', 'lockguard_pause'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.pause(interval) IS 'signal no session for a time; watching and recording continue';

CREATE FUNCTION lockguard.resume() RETURNS void
AS 'MODULE_PATHNAME', 'lockguard_resume'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.resume() IS 'end a pause';

CREATE FUNCTION lockguard.cancel_blockers(pid int) RETURNS int[]
AS 'MODULE_PATHNAME', 'lockguard_cancel_blockers'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.cancel_blockers(int) IS 'cancel the root blockers that a session waits for; returns the pids signalled';

CREATE FUNCTION lockguard.rollback_blockers(pid int) RETURNS int[]
AS 'MODULE_PATHNAME', 'lockguard_rollback_blockers'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.rollback_blockers(int) IS 'roll back the idle transactions, and cancel the statements, of the root blockers that a session waits for, keeping their connections; returns the pids signalled';

CREATE FUNCTION lockguard.terminate_blockers(pid int) RETURNS int[]
AS 'MODULE_PATHNAME', 'lockguard_terminate_blockers'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.terminate_blockers(int) IS 'terminate the root blockers that a session waits for; returns the pids signalled';

CREATE FUNCTION lockguard.reset_stats() RETURNS void
AS 'MODULE_PATHNAME', 'lockguard_reset_stats'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.reset_stats() IS 'set the counters of lockguard.stats, lockguard.action_counts and lockguard.contention to zero';

CREATE FUNCTION lockguard.reset_history() RETURNS void
AS 'MODULE_PATHNAME', 'lockguard_reset_history'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lockguard.reset_history() IS 'remove all recorded actions, incidents and deadlocks';

REVOKE ALL ON FUNCTION lockguard.scan(), lockguard.exempt(int, interval),
    lockguard.pause(interval), lockguard.resume(), lockguard.cancel_blockers(int),
    lockguard.rollback_blockers(int), lockguard.terminate_blockers(int),
    lockguard.reset_stats(),
    lockguard.reset_history() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lockguard.scan() TO pg_monitor;
