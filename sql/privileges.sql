-- What an ordinary user cannot do, see or change.
\set VERBOSITY terse
CREATE ROLE regress_lockguard_user;
CREATE ROLE regress_lockguard_stats IN ROLE pg_read_all_stats;
CREATE ROLE regress_lockguard_monitor IN ROLE pg_monitor;
SELECT current_database() AS db \gset

-- No setting, in no way.
SET ROLE regress_lockguard_user;
DO $$
DECLARE
    setting record;
BEGIN
    FOR setting IN
        SELECT name, boot_val FROM pg_settings
        WHERE name LIKE 'lockguard.%' AND name NOT LIKE 'lockguard.debug%' ORDER BY name COLLATE "C"
    LOOP
        BEGIN
            PERFORM set_config(setting.name, setting.boot_val, false);
            RAISE NOTICE 'could set %', setting.name;
        EXCEPTION WHEN insufficient_privilege OR cant_change_runtime_param THEN
            RAISE NOTICE '%', sqlerrm;
        END;
    END LOOP;
END $$;
SET lockguard.exempt = on;
SET LOCAL lockguard.exempt = on;
BEGIN;
SET LOCAL lockguard.priority = 'high';
ROLLBACK;
ALTER ROLE regress_lockguard_user SET lockguard.exempt = on;
ALTER SYSTEM SET lockguard.enabled = off;
RESET ROLE;
GRANT CREATE ON SCHEMA public TO regress_lockguard_user;
SET ROLE regress_lockguard_user;
CREATE FUNCTION public.lift() RETURNS int LANGUAGE sql SET lockguard.exempt = on AS 'SELECT 1';
RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM regress_lockguard_user;

-- What was granted, and no more.
GRANT SET ON PARAMETER lockguard.blocker_timeout TO regress_lockguard_user;
SET ROLE regress_lockguard_user;
SET lockguard.blocker_timeout = '7s';
SHOW lockguard.blocker_timeout;
SELECT settings -> 'blocker_timeout' AS blocker_timeout FROM lockguard.sessions WHERE pid = pg_backend_pid();
RESET lockguard.blocker_timeout;
SET lockguard.idle_blocker_timeout = '7s';
ALTER ROLE regress_lockguard_user SET lockguard.blocker_timeout = '7s';
ALTER ROLE regress_lockguard_user RESET lockguard.blocker_timeout;
DO $$
BEGIN
    ALTER ROLE regress_lockguard_stats SET lockguard.blocker_timeout = '7s';
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'not for another role';
END $$;
RESET ROLE;
REVOKE SET ON PARAMETER lockguard.blocker_timeout FROM regress_lockguard_user;
SET ROLE regress_lockguard_user;
SET lockguard.blocker_timeout = '7s';

-- A limit that the DBA has set for the role is not theirs to reset.
RESET ROLE;
ALTER ROLE regress_lockguard_user SET lockguard.blocker_timeout = '9s';
SET ROLE regress_lockguard_user;
ALTER ROLE regress_lockguard_user RESET lockguard.blocker_timeout;
ALTER ROLE regress_lockguard_user RESET ALL;
SELECT name, setting, source, usename FROM lockguard.limits WHERE usename = 'regress_lockguard_user';
RESET ROLE;
ALTER ROLE regress_lockguard_user RESET ALL;

-- No function that acts.
SET ROLE regress_lockguard_user;
SELECT lockguard.scan();
SELECT lockguard.exempt(pg_backend_pid(), '1h');
SELECT lockguard.pause('1h');
SELECT lockguard.resume();
SELECT lockguard.cancel_blockers(1);
SELECT lockguard.rollback_blockers(1);
SELECT lockguard.terminate_blockers(1);
SELECT lockguard.reset_stats();
SELECT lockguard.reset_history();
RESET ROLE;
SELECT p.oid::regprocedure AS everybody_may_call
FROM pg_proc p
WHERE pronamespace = 'lockguard'::regnamespace
      AND has_function_privilege('regress_lockguard_user', oid, 'EXECUTE')
ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT p.oid::regprocedure AS monitor_may_call
FROM pg_proc p
WHERE pronamespace = 'lockguard'::regnamespace
      AND has_function_privilege('regress_lockguard_monitor', oid, 'EXECUTE')
      AND NOT has_function_privilege('regress_lockguard_user', oid, 'EXECUTE');
SET ROLE regress_lockguard_monitor;
SELECT lockguard.scan();
RESET ROLE;
GRANT EXECUTE ON FUNCTION lockguard.pause(interval), lockguard.resume() TO regress_lockguard_user;
-- What is written to the server log is not sent to the client.
SET ROLE regress_lockguard_user;
SET client_min_messages = log;
SELECT lockguard.pause('1h');
SELECT lockguard.resume();
RESET client_min_messages;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION lockguard.pause(interval), lockguard.resume() FROM regress_lockguard_user;

-- Nothing may be changed, and nothing put beside it.
SET ROLE regress_lockguard_user;
CREATE TABLE lockguard.mine ();
CREATE OR REPLACE VIEW lockguard.stats AS SELECT 1;
DROP VIEW lockguard.stats;
DELETE FROM lockguard.actions;
RESET ROLE;

-- All users may read the views; what others do is masked, as in pg_stat_activity.
\set look 'SELECT usename IS NOT NULL AS usename, state, xact_start IS NOT NULL AS xact_start, backend_start IS NOT NULL AS backend_start, query LIKE ''%this one%'' AS query_seen, query LIKE ''<insuff%'' AS masked FROM lockguard.sessions WHERE pid = pg_backend_pid() /* this one */'
SET ROLE regress_lockguard_user;
SELECT count(*) >= 0 AS lock_tree FROM lockguard.lock_tree;
SELECT count(*) AS idle_locks FROM lockguard.idle_locks;
SELECT count(*) >= 0 AS actions FROM lockguard.actions;
SELECT count(*) >= 0 AS incidents FROM lockguard.incidents;
SELECT count(*) >= 0 AS deadlocks FROM lockguard.deadlocks;
SELECT count(*) >= 0 AS contention FROM lockguard.contention;
SELECT count(*) AS stats FROM lockguard.stats;
SELECT count(*) > 0 AS limits FROM lockguard.limits;
SELECT lockguard.tree();
SELECT count(*) >= 0 AS what_if FROM lockguard.what_if('blocker_timeout', '5s');
:look;
SET ROLE regress_lockguard_stats;
:look;
SET ROLE regress_lockguard_monitor;
:look;
SET SESSION AUTHORIZATION regress_lockguard_user;
RESET SESSION AUTHORIZATION;
:look;

-- Only a superuser may create the extension, and not in a schema that belongs to another role.
SET ROLE regress_lockguard_user;
DROP EXTENSION lockguard;
RESET ROLE;
DROP EXTENSION lockguard;
DROP SCHEMA lockguard;
GRANT CREATE ON DATABASE :"db" TO regress_lockguard_user;
SET ROLE regress_lockguard_user;
CREATE EXTENSION lockguard;
CREATE SCHEMA lockguard;
RESET ROLE;
CREATE EXTENSION lockguard;
SELECT count(*) FROM pg_proc WHERE pronamespace = 'lockguard'::regnamespace;
DROP SCHEMA lockguard;
REVOKE CREATE ON DATABASE :"db" FROM regress_lockguard_user;
CREATE EXTENSION lockguard;
DROP ROLE regress_lockguard_user, regress_lockguard_stats, regress_lockguard_monitor;
