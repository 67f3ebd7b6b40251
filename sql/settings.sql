-- The settings: defaults, values that are refused, and where they show.
SELECT name, setting, unit, context, min_val, max_val, enumvals
FROM pg_settings
WHERE name LIKE 'lockguard.%' AND name NOT LIKE 'lockguard.debug%'
ORDER BY name COLLATE "C";
SELECT name FROM pg_settings
WHERE name LIKE 'lockguard.%' AND (source <> 'default' OR boot_val <> setting OR short_desc !~ '\.$');

-- Values as PostgreSQL takes them.
SET lockguard.blocker_timeout = '5s';
SHOW lockguard.blocker_timeout;
SET lockguard.blocker_timeout = '0.5s';
SHOW lockguard.blocker_timeout;
SET lockguard.blocker_timeout = 2147483647;
SHOW lockguard.blocker_timeout;
SET lockguard.blocker_timeout TO DEFAULT;
SHOW lockguard.blocker_timeout;
SET lockguard.action = 'CANCEL';
SHOW lockguard.action;
RESET lockguard.action;
SET lockguard.exempt = yes;
SHOW lockguard.exempt;
RESET lockguard.exempt;

-- Values that are refused.
SET lockguard.idle_blocker_timeout = '5 fortnights';
SET lockguard.blocker_timeout = '600h 1';
SET lockguard.blocker_timeout = '25d';
SET lockguard.blocker_timeout = 2147483648;
SET lockguard.lock_wait_timeout = 'soon';
SET lockguard.max_blocked_sessions = '5s';
SET lockguard.max_xmin_age = 'old';
SET lockguard.action = 'kill';
SET lockguard.action = '';
SET lockguard.priority = 'highest';
SET lockguard.exempt = 'perhaps';
ALTER SYSTEM SET lockguard.prepared_transaction_action = 'commit';
ALTER SYSTEM SET lockguard.dry_run = 2;
-- The wording of the next ones depends on the version.
\set VERBOSITY sqlstate
SET lockguard.blocker_timeout = -1;
SET lockguard.max_locks = -1;
SET lockguard.escalation_delay = -1;
ALTER SYSTEM SET lockguard.naptime = '1ms';
ALTER SYSTEM SET lockguard.naptime = '2h';
ALTER SYSTEM SET lockguard.max_actions_per_minute = -1;
ALTER SYSTEM SET lockguard.max_actions_per_minute = 10001;
ALTER SYSTEM SET lockguard.max_history = 9;
ALTER SYSTEM SET lockguard.max_history = 1000001;
\set VERBOSITY default

-- Settings of the server are not a session's to change.
SET lockguard.enabled = off;
SET lockguard.dry_run = on;
SET lockguard.naptime = '10ms';
SET lockguard.max_actions_per_minute = 0;
SET lockguard.prepared_transaction_timeout = '1s';
SET lockguard.prepared_transaction_action = 'rollback';
SET lockguard.max_history = 10;
ALTER ROLE CURRENT_USER SET lockguard.enabled = off;

-- A name that is not known is refused everywhere.
SET lockguard.blocker_timout = '5s';
SELECT set_config('lockguard.unknown', '1', false);
SHOW lockguard.unknown;
CREATE ROLE regress_lockguard_app;
ALTER ROLE regress_lockguard_app SET lockguard.unknown = 1;
ALTER ROLE regress_lockguard_app SET lockguard.blocker_timeout = 'soon';

-- A value of the session shows, with its source, and ends with RESET or the transaction.
CREATE VIEW own AS
SELECT coalesce(settings -> 'blocker_timeout', '{}') AS blocker_timeout, settings -> 'action' AS action
FROM lockguard.sessions WHERE pid = pg_backend_pid();
SELECT * FROM own;
SET lockguard.blocker_timeout = '90s';
SELECT * FROM own;
BEGIN;
SET LOCAL lockguard.blocker_timeout = '1min';
SET LOCAL lockguard.action = 'log';
SELECT * FROM own;
COMMIT;
SELECT * FROM own;
BEGIN;
SET lockguard.blocker_timeout = '2min';
SAVEPOINT s;
SET lockguard.blocker_timeout = '3min';
ROLLBACK TO s;
SELECT * FROM own;
ROLLBACK;
SELECT * FROM own;
CREATE FUNCTION own_setting() RETURNS jsonb LANGUAGE sql
SET lockguard.blocker_timeout = '4min' AS 'SELECT blocker_timeout FROM own';
SELECT own_setting();
SELECT * FROM own;
SET lockguard.blocker_timeout = 0;
SELECT * FROM own;
RESET ALL;
SELECT * FROM own;

-- lockguard.limits: one row for each setting of the server ...
SELECT count(*) FROM lockguard.limits l
     FULL JOIN (SELECT * FROM pg_settings WHERE name LIKE 'lockguard.%') s
       ON s.name = 'lockguard.' || l.name
WHERE l.datname IS NULL AND l.usename IS NULL
      AND (l.setting, l.unit, l.source, l.description) IS DISTINCT FROM (s.setting, s.unit, s.source, s.short_desc);
-- ... and one for each other value, in the same unit.
SELECT current_database() AS db \gset
ALTER ROLE regress_lockguard_app SET lockguard.idle_blocker_timeout = '5s';
ALTER ROLE regress_lockguard_app SET LockGuard.Blocker_Timeout = '1min';
ALTER ROLE regress_lockguard_app SET lockguard.max_locks = 500;
ALTER ROLE regress_lockguard_app SET lockguard.action = 'cancel';
ALTER ROLE regress_lockguard_app SET work_mem = '8MB';
ALTER ROLE regress_lockguard_app IN DATABASE :"db" SET lockguard.idle_blocker_timeout = 3000;
ALTER DATABASE :"db" SET lockguard.exempt = on;
ALTER DATABASE :"db" SET lockguard.idle_blocker_timeout = '0.5 h';
ALTER ROLE ALL SET lockguard.statement_timeout = '1d';
SELECT name, setting, unit, source, datname = current_database() AS here, usename, description <> '' AS described
FROM lockguard.limits
WHERE source NOT IN ('default', 'configuration')
ORDER BY source COLLATE "C", name COLLATE "C";
SHOW lockguard.idle_blocker_timeout;
ALTER ROLE ALL RESET lockguard.statement_timeout;
ALTER DATABASE :"db" RESET lockguard.exempt;
ALTER DATABASE :"db" RESET lockguard.idle_blocker_timeout;
ALTER ROLE regress_lockguard_app IN DATABASE :"db" RESET ALL;
DROP ROLE regress_lockguard_app;
SELECT * FROM lockguard.limits WHERE source NOT IN ('default', 'configuration');
DROP FUNCTION own_setting();
DROP VIEW own;
