-- What bench.pl measures against: the queries that a DBA or a monitoring tool runs.

CREATE EXTENSION lockguard;

CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i;
CREATE TABLE hot (id int PRIMARY KEY, v int) WITH (fillfactor = 10);
INSERT INTO hot SELECT i, 0 FROM generate_series(1, 4) i;

-- Milliseconds of each of so many rounds, within so many seconds in all, with a pause before each.
-- As a client sends it: parsed and planned each time.
CREATE FUNCTION time_blocking_pids(rounds int, seconds float8, pause float8) RETURNS SETOF float8
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + seconds * interval '1 s';
    start timestamptz;
BEGIN
    FOR i IN 1 .. rounds LOOP
        PERFORM pg_sleep(pause);
        PERFORM pg_stat_clear_snapshot();
        start := clock_timestamp();
        EXECUTE 'SELECT pid, usename, application_name, state, wait_event_type, xact_start, query, pg_blocking_pids(pid)
                 FROM pg_stat_activity';
        RETURN NEXT 1000 * extract(epoch FROM clock_timestamp() - start);
        EXIT WHEN clock_timestamp() > deadline;
    END LOOP;
END $$;

CREATE FUNCTION time_self_join(rounds int, seconds float8, pause float8) RETURNS SETOF float8
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + seconds * interval '1 s';
    start timestamptz;
BEGIN
    FOR i IN 1 .. rounds LOOP
        PERFORM pg_sleep(pause);
        start := clock_timestamp();
        PERFORM blocked.pid, blocking.pid
        FROM pg_locks blocked
             JOIN pg_locks blocking
               ON blocking.locktype = blocked.locktype
              AND blocking.database IS NOT DISTINCT FROM blocked.database
              AND blocking.relation IS NOT DISTINCT FROM blocked.relation
              AND blocking.page IS NOT DISTINCT FROM blocked.page
              AND blocking.tuple IS NOT DISTINCT FROM blocked.tuple
              AND blocking.virtualxid IS NOT DISTINCT FROM blocked.virtualxid
              AND blocking.transactionid IS NOT DISTINCT FROM blocked.transactionid
              AND blocking.classid IS NOT DISTINCT FROM blocked.classid
              AND blocking.objid IS NOT DISTINCT FROM blocked.objid
              AND blocking.objsubid IS NOT DISTINCT FROM blocked.objsubid
              AND blocking.pid <> blocked.pid
        WHERE NOT blocked.granted AND blocking.granted;
        RETURN NEXT 1000 * extract(epoch FROM clock_timestamp() - start);
        EXIT WHEN clock_timestamp() > deadline;
    END LOOP;
END $$;
