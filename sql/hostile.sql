-- Objects that others have planted, settings that change how SQL is read, and
-- places from which the functions are called.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE ROLE regress_lockguard_hostile;
DROP EXTENSION IF EXISTS lockguard CASCADE;
DROP SCHEMA IF EXISTS lockguard;

-- A schema with a better match for whatever is not qualified: operators on all
-- pairs of common types, functions and aggregates on types that the server's
-- own take only by a cast, types, and relations.  Any use of one fails.
CREATE SCHEMA hostile AUTHORIZATION regress_lockguard_hostile;
SET ROLE regress_lockguard_hostile;
DO $$
DECLARE
    types text[] := '{bool,int4,int8,float8,numeric,text,name,oid,timestamptz,text[]}';
    l text;
    r text;
    f text;
BEGIN
    FOREACH l IN ARRAY types LOOP
        FOREACH r IN ARRAY types LOOP
            EXECUTE format('CREATE FUNCTION hostile.hijack(%s, %s) RETURNS bool LANGUAGE plpgsql AS '
                           '''BEGIN RAISE EXCEPTION ''''hijacked: operator on %1$s and %2$s''''; END''', l, r);
            FOREACH f IN ARRAY '{=,<>,<,>,<=,>=,+,-,*,/,||,~~,~,->,->>}'::text[] LOOP
                EXECUTE format('CREATE OPERATOR hostile.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = hostile.hijack)', f, l, r);
            END LOOP;
        END LOOP;
        FOREACH f IN ARRAY '{substr,strpos,lower,unnest,aclexplode,current_database,format,coalesce,tree,scan,pause,resume,report,exempt,
                             cancel_blockers,rollback_blockers,terminate_blockers,_sessions,_base_value,now,clock_timestamp}'::text[] LOOP
            EXECUTE format('CREATE FUNCTION hostile.%I(%s) RETURNS text LANGUAGE plpgsql AS '
                           '''BEGIN RAISE EXCEPTION ''''hijacked: function %1$s''''; END''', f, l);
            EXECUTE format('CREATE FUNCTION hostile.%I(%s, int4) RETURNS text LANGUAGE plpgsql AS '
                           '''BEGIN RAISE EXCEPTION ''''hijacked: function %1$s''''; END''', f, l);
        END LOOP;
    END LOOP;
    FOREACH l IN ARRAY '{bool,int2,int4,int8,float8,text,name,oid,timestamptz,interval,jsonb,inet,regclass,record}'::text[] LOOP
        EXECUTE format('CREATE DOMAIN hostile.%I AS pg_catalog.bytea CHECK (false)', l);
    END LOOP;
    FOREACH l IN ARRAY '{pg_namespace,pg_roles,pg_settings,pg_db_role_setting,pg_database,pg_depend,pg_shdepend,stats,actions,sessions,limits}'::text[] LOOP
        EXECUTE format('CREATE VIEW hostile.%I AS SELECT 1 / 0 AS hijacked', l);
    END LOOP;
END $$;
RESET ROLE;

-- The extension is created, and all of it used, with these before all else.
SET search_path = hostile, pg_catalog;
CREATE EXTENSION lockguard;
\set all 'TABLE lockguard.lock_tree \\g /dev/null \\\\ TABLE lockguard.sessions \\g /dev/null \\\\ TABLE lockguard.idle_locks \\g /dev/null \\\\ TABLE lockguard.actions \\g /dev/null \\\\ TABLE lockguard.incidents \\g /dev/null \\\\ TABLE lockguard.deadlocks \\g /dev/null \\\\ TABLE lockguard.contention \\g /dev/null \\\\ TABLE lockguard.stats \\g /dev/null \\\\ TABLE lockguard.action_counts \\g /dev/null \\\\ TABLE lockguard.limits \\g /dev/null \\\\ SELECT lockguard.tree(), lockguard.scan(), lockguard.resume(), lockguard.exempt(pg_catalog.pg_backend_pid(), NULL) \\g /dev/null'
:all
SET search_path = '';
:all
SET search_path = hostile, lockguard, pg_temp, pg_catalog;
:all
RESET search_path;

-- Its own objects do not depend on any of these.
SELECT count(*) AS of_hostile
FROM pg_depend d JOIN pg_depend e ON e.objid = d.objid AND e.classid = d.classid
WHERE e.refclassid = 'pg_extension'::regclass AND e.deptype = 'e'
      AND d.refobjid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'hostile'::regnamespace
                         UNION ALL SELECT oid FROM pg_operator WHERE oprnamespace = 'hostile'::regnamespace
                         UNION ALL SELECT oid FROM pg_type WHERE typnamespace = 'hostile'::regnamespace
                         UNION ALL SELECT oid FROM pg_class WHERE relnamespace = 'hostile'::regnamespace);
SELECT string_agg(pg_get_viewdef(c.oid), '' ORDER BY c.relname) AS views FROM pg_class c
WHERE relnamespace = 'lockguard'::regnamespace AND relkind = 'v' \gset before_

-- With settings that change how text is read or written, and what is allowed.
DROP EXTENSION lockguard;
DROP SCHEMA lockguard;
SELECT current_setting('server_version_num')::int < 190000 AS can_be_off \gset
BEGIN;
\if :can_be_off
SET LOCAL standard_conforming_strings = off;
\endif
SET LOCAL backslash_quote = off;
SET LOCAL quote_all_identifiers = on;
SET LOCAL array_nulls = off;
SET LOCAL transform_null_equals = on;
SET LOCAL DateStyle = 'German, DMY';
SET LOCAL IntervalStyle = 'sql_standard';
SET LOCAL TimeZone = 'Asia/Kathmandu';
SET LOCAL extra_float_digits = -15;
SET LOCAL row_security = off;
SET LOCAL session_replication_role = replica;
SET LOCAL check_function_bodies = off;
SET LOCAL default_tablespace = '';
SET LOCAL transaction_isolation = 'serializable';
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_material = off;
SET LOCAL work_mem = '64kB';
CREATE EXTENSION lockguard;
:all
SELECT name, setting, unit, source FROM lockguard.limits WHERE name IN ('naptime', 'priority') AND usename IS NULL ORDER BY name;
COMMIT;
SELECT string_agg(pg_get_viewdef(c.oid), '' ORDER BY c.relname) = :'before_views' AS same_views FROM pg_class c
WHERE relnamespace = 'lockguard'::regnamespace AND relkind = 'v';

-- Not in a schema that others may put objects into, or have put some into: a
-- function pause(text) would be taken for pause(interval).
DROP EXTENSION lockguard;
DROP SCHEMA lockguard;
CREATE SCHEMA lockguard;
GRANT CREATE ON SCHEMA lockguard TO regress_lockguard_hostile;
CREATE EXTENSION lockguard;
SET ROLE regress_lockguard_hostile;
CREATE FUNCTION lockguard.pause(text) RETURNS void LANGUAGE sql AS '';
RESET ROLE;
REVOKE CREATE ON SCHEMA lockguard FROM regress_lockguard_hostile;
CREATE EXTENSION lockguard;
DROP FUNCTION lockguard.pause(text);
GRANT CREATE ON SCHEMA lockguard TO PUBLIC;
CREATE EXTENSION lockguard;
REVOKE ALL ON SCHEMA lockguard FROM PUBLIC;
GRANT USAGE ON SCHEMA lockguard TO regress_lockguard_hostile;
CREATE EXTENSION lockguard;
DROP EXTENSION lockguard;
DROP SCHEMA lockguard;
ALTER DEFAULT PRIVILEGES GRANT CREATE ON SCHEMAS TO regress_lockguard_hostile;
CREATE EXTENSION lockguard;
ALTER DEFAULT PRIVILEGES REVOKE CREATE ON SCHEMAS FROM regress_lockguard_hostile;

-- The schema of another superuser is as good as one's own: so a dump can be
-- restored.
CREATE ROLE regress_lockguard_boss SUPERUSER;
CREATE SCHEMA lockguard AUTHORIZATION regress_lockguard_boss;
CREATE EXTENSION lockguard;
DROP EXTENSION lockguard;
DROP SCHEMA lockguard;
CREATE EXTENSION lockguard;
DROP SCHEMA hostile CASCADE;
DROP ROLE regress_lockguard_boss;

-- Called for any pid there is, the postmaster's as well: no process ends, and
-- only clients are exempt.
SELECT count(*) AS backends FROM pg_stat_activity
WHERE backend_type <> 'autovacuum worker' \gset
SET client_min_messages = error;
SELECT bool_and(lockguard.cancel_blockers(pid) = '{}') AS cancels_none,
       bool_and(lockguard.rollback_blockers(pid) = '{}') AS rolls_back_none,
       bool_and(lockguard.terminate_blockers(pid) = '{}') AS terminates_none,
       bool_and(lockguard.exempt(pid, '1us') = (backend_type = 'client backend')) AS exempts_clients
FROM (SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type <> 'autovacuum worker'
      UNION ALL SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)::int, 'postmaster'
      UNION ALL SELECT unnest('{-2147483648,-1,0,1,2147483647}'::int[]), 'none') p;
SET client_min_messages = warning;
SELECT count(*) >= :backends AS all_there FROM pg_stat_activity WHERE backend_type <> 'autovacuum worker';
DO $$
BEGIN
    PERFORM lockguard.pause('infinity');
EXCEPTION WHEN invalid_datetime_format THEN
    NULL;		-- there is none before PostgreSQL 17
END $$;
SELECT lockguard.resume();
SELECT lockguard.pause(make_interval(years => -2147483648 / 12));
SELECT lockguard.pause(make_interval(secs => -1e-6));
SELECT length(lockguard._base_value(repeat('x', 1000000), repeat('9', 1000000)));
SELECT lockguard._base_value('blocker_timeout', repeat('9', 1000)) = repeat('9', 1000) AS not_a_number,
       lockguard._base_value('blocker_timeout', '1e300 s'), lockguard._base_value('blocker_timeout', E'5s\n'),
       lockguard._base_value(NULL, '5s'), lockguard._base_value('', ''), lockguard._base_value('action', '5s');

-- In a transaction that is read only, in a subtransaction that fails, from
-- cursors that are not read to their end, and that outlive the transaction.
BEGIN TRANSACTION READ ONLY;
:all
SELECT lockguard.pause('1us');
SAVEPOINT a;
SELECT lockguard.report(-1);
ROLLBACK TO a;
DECLARE c CURSOR WITH HOLD FOR SELECT pid > 0 AS pid FROM lockguard.sessions;
DECLARE d SCROLL CURSOR FOR SELECT lockguard.tree();
FETCH 1 FROM c;
FETCH LAST FROM d;
FETCH PRIOR FROM d;
COMMIT;
FETCH 1 FROM c \g /dev/null
CLOSE c;
DO $$
BEGIN
    FOR i IN 1 .. 200 LOOP
        BEGIN
            PERFORM lockguard.scan(), lockguard.tree();
            PERFORM lockguard.report(-i);
        EXCEPTION WHEN undefined_object THEN
            PERFORM count(*) FROM lockguard.sessions;
        END;
    END LOOP;
END $$;

-- From triggers, a default, a check, and a function that claims to be
-- safe in a parallel worker.
CREATE FUNCTION use_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lockguard.scan(), lockguard.tree(), lockguard.resume();
    PERFORM FROM lockguard.sessions, lockguard.stats, lockguard.limits;
    RETURN new;
END $$;
CREATE TABLE hostile (pid int DEFAULT pg_backend_pid(), seen bool DEFAULT lockguard.exempt(pg_backend_pid(), '0'),
                      CHECK (lockguard._base_value('naptime', pid::text) IS NOT NULL));
CREATE TRIGGER use_all BEFORE INSERT ON hostile FOR EACH ROW EXECUTE FUNCTION use_all();
CREATE CONSTRAINT TRIGGER use_all_late AFTER INSERT ON hostile DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION use_all();
INSERT INTO hostile SELECT FROM generate_series(1, 3);
SELECT count(*), bool_and(seen) FROM hostile;
CREATE FUNCTION in_parallel(what text) RETURNS text PARALLEL SAFE LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    EXECUTE 'SELECT count(x) FROM (SELECT ' || what || ') x' INTO n;
    RETURN n || CASE WHEN leader_pid IS NULL THEN ' as the leader' ELSE ' as a worker' END
    FROM pg_stat_activity WHERE pid = pg_backend_pid();
END $$;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
SET max_parallel_workers_per_gather = 2;
ALTER TABLE hostile SET (parallel_workers = 2);
SELECT min(in_parallel('* FROM lockguard.stats')), min(in_parallel('lockguard.scan()')),
       min(in_parallel('lockguard.resume()')), min(in_parallel('lockguard.pause(''1us'')')),
       min(in_parallel('lockguard.tree()')), min(in_parallel('lockguard.exempt(0, NULL)')),
       min(in_parallel('lockguard.cancel_blockers(0)')),
       min(in_parallel('1 FROM lockguard.sessions WHERE pid = ' || pid))
FROM hostile;
DROP TABLE hostile;
DROP FUNCTION in_parallel(text), use_all();
DROP ROLE regress_lockguard_hostile;
SELECT lockguard.scan();
