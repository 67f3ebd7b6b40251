-- The extension's objects, and what its functions say on a quiet server.
CREATE EXTENSION lockguard;

\d lockguard.lock_tree
\d lockguard.sessions
\d lockguard.idle_locks
\d lockguard.actions
\d lockguard.incidents
\d lockguard.deadlocks
\d lockguard.contention
\d lockguard.stats
\d lockguard.limits
\d lockguard.action_counts
SELECT p.oid::regprocedure, p.prorettype::regtype, p.proretset AS set,
       p.provolatile AS vol, p.proisstrict AS strict
FROM pg_proc p WHERE pronamespace = 'lockguard'::regnamespace
ORDER BY p.proname LIKE '\_%', p.oid::regprocedure::text COLLATE "C";

-- Every object has a comment.
SELECT pg_describe_object(classid, objid, 0) AS without_comment
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
      AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'lockguard')
      AND classid <> 'pg_type'::regclass
      AND obj_description(objid, classid::regclass::name) IS NULL;
SELECT obj_description('lockguard'::regnamespace) IS NOT NULL AS schema_has_comment;

-- The worker is there, and attached to no database.
SELECT a.datid, a.backend_start = s.worker_start AS same_start
FROM lockguard.stats s JOIN pg_stat_activity a ON a.pid = s.worker_pid
WHERE a.backend_type = 'lockguard';

-- A scan has been made when scan() returns.
SELECT scans, clock_timestamp() AS now FROM lockguard.stats \gset
SELECT lockguard.scan();
SELECT scans > :scans AS scanned, last_scan >= :'now' AS just_now,
       lock_scans > 0 AS looked, max_scan_time > 0 AND scan_time >= max_scan_time AS timed
FROM lockguard.stats;

-- No session waits, and nothing has been done.
SELECT lockguard.reset_history();
SELECT * FROM lockguard.lock_tree;
SELECT * FROM lockguard.actions;
SELECT * FROM lockguard.incidents;
SELECT * FROM lockguard.deadlocks;
SELECT lockguard.tree();
SELECT lockguard.reset_stats();
SELECT cancels, terminations, rollbacks, logged, suppressed, self_resolved, unresponsive,
       blocked_time, stats_reset >= :'now' AS just_reset
FROM lockguard.stats;

-- This session.
SELECT backend_type, datname = current_database() AS datname, usename = session_user AS usename,
       application_name, state, blocked_by, blocked_sessions, blocking_since, wait_start,
       locks, priority, action, exempt, limit_name, limit_at, query LIKE '%this one%' AS query
FROM lockguard.sessions WHERE pid = pg_backend_pid() /* this one */;
SELECT count(*) FROM lockguard.sessions s FULL JOIN pg_stat_activity a USING (pid)
WHERE a.backend_type = 'client backend' AND a.pid = pg_backend_pid()
      AND (s.backend_start, s.xact_start, s.state) IS DISTINCT FROM (a.backend_start, a.xact_start, a.state);

-- It is at work, and whatever it has locked does not show.
BEGIN;
LOCK TABLE pg_class IN SHARE MODE;
SELECT state, state_change IS NOT NULL AS state_change, held_mode, held_relation, held_relation_name
FROM lockguard.sessions WHERE pid = pg_backend_pid();
ROLLBACK;
SELECT mode, sessions >= 0 AS sessions, longest_idle >= '0' AS longest_idle FROM lockguard.idle_locks;

-- What is measured against a limit, and when it will be passed.
SET lockguard.transaction_timeout = '1h';
SET lockguard.statement_timeout = '2h';
SELECT limit_name, limit_at - xact_start AS after, jsonb_pretty(settings)
FROM lockguard.sessions WHERE pid = pg_backend_pid();
RESET lockguard.transaction_timeout;
RESET lockguard.statement_timeout;
BEGIN;
SELECT count(*) FROM (SELECT pg_advisory_xact_lock(i) FROM generate_series(1, 5) i) l;
SELECT locks FROM lockguard.sessions WHERE pid = pg_backend_pid();
ROLLBACK;

-- exempt() takes no session for another, and no time that is none.
SELECT lockguard.exempt(NULL, '1h');
SELECT lockguard.exempt(0, '1h');
SELECT lockguard.exempt(-1, '1h');
SELECT lockguard.exempt(2147483647, '1h');
SELECT lockguard.exempt(2147483647, NULL);
SELECT lockguard.exempt(pg_backend_pid(), '-1s');
SELECT lockguard.exempt(pg_backend_pid(), '-1 month 1 s');
SELECT lockguard.exempt(pg_backend_pid(), '300000 years');
SELECT lockguard.exempt(pg_backend_pid(), '200000 years');
SELECT exempt FROM lockguard.sessions WHERE pid = pg_backend_pid();
SELECT lockguard.exempt(pg_backend_pid(), NULL);
SELECT exempt FROM lockguard.sessions WHERE pid = pg_backend_pid();
SELECT lockguard.exempt(pg_backend_pid(), '1h');
SELECT lockguard.exempt(pg_backend_pid(), '0');
SELECT exempt FROM lockguard.sessions WHERE pid = pg_backend_pid();
SELECT lockguard.exempt(pg_backend_pid(), '1us');
SELECT exempt FROM lockguard.sessions WHERE pid = pg_backend_pid();
-- A process that is no client session; its pid is not the same each time.
SET client_min_messages = error;
SELECT lockguard.exempt(worker_pid, '1h') FROM lockguard.stats;
SELECT lockguard.exempt(pid, '1h') FROM pg_stat_activity WHERE backend_type = 'checkpointer';
RESET client_min_messages;

-- No such incident.
SELECT lockguard.report(NULL);
SELECT lockguard.report(0);
SELECT lockguard.report(-1);
SELECT lockguard.report(9223372036854775807);

-- What a limit would have done: which limits, and which values.
SELECT * FROM lockguard.what_if('idle_blocker_timeout', '5s');
SELECT * FROM lockguard.what_if('blocker_timeout', NULL);
SELECT * FROM lockguard.what_if('queued_blocker_timeout', '0');
SELECT * FROM lockguard.what_if('max_blocked_sessions', '10');
SELECT * FROM lockguard.what_if('statement_timeout', '10s');
SELECT * FROM lockguard.what_if('no_such_limit', '10s');
SELECT * FROM lockguard.what_if('blocker_timeout', '5 apples');
SELECT * FROM lockguard.what_if('blocker_timeout', '25d');
SELECT * FROM lockguard.what_if('max_blocked_sessions', '10s');
SHOW lockguard.blocker_timeout;

SELECT lockguard.pause(NULL);
SELECT lockguard.pause('-1s');
SELECT lockguard.pause('300000 years');
SELECT lockguard.pause('0');
SELECT lockguard.pause('200000 years');
SELECT lockguard.resume();
SELECT lockguard.resume();

SELECT lockguard.cancel_blockers(NULL), lockguard.rollback_blockers(NULL), lockguard.terminate_blockers(NULL);
SELECT lockguard.cancel_blockers(0);
SELECT lockguard.cancel_blockers(-1);
SELECT lockguard.cancel_blockers(2147483647);
SELECT lockguard.rollback_blockers(0);
SELECT lockguard.terminate_blockers(0);
SELECT lockguard.terminate_blockers(2147483647);
SET client_min_messages = error;
SELECT lockguard.cancel_blockers(pg_backend_pid());
SELECT lockguard.rollback_blockers(pg_backend_pid());
SELECT lockguard.terminate_blockers(pg_backend_pid());
SELECT lockguard.terminate_blockers(worker_pid) FROM lockguard.stats;
RESET client_min_messages;
SELECT count(*) AS actions FROM lockguard.actions;

-- Functions in a transaction that fails leave no harm behind.
BEGIN;
SELECT lockguard.pause('-1s');
ROLLBACK;
SELECT lockguard.scan();

-- The extension can be dropped and created again.
CREATE VIEW public.depends AS SELECT pid FROM lockguard.sessions;
DROP EXTENSION lockguard;
DROP EXTENSION lockguard CASCADE;
SELECT pg_describe_object('pg_proc'::regclass, oid, 0) FROM pg_proc
WHERE pronamespace = 'lockguard'::regnamespace;
CREATE EXTENSION lockguard;
DROP EXTENSION lockguard;
DROP SCHEMA lockguard;
CREATE EXTENSION lockguard SCHEMA public;
CREATE EXTENSION lockguard;
ALTER EXTENSION lockguard SET SCHEMA public;
SELECT lockguard.tree();
