-- What bench.pl measures against: the queries that a DBA or a monitoring tool runs.

CREATE EXTENSION lockguard;

CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i;
CREATE TABLE hot (id int PRIMARY KEY, v int) WITH (fillfactor = 10);
INSERT INTO hot SELECT i, 0 FROM generate_series(1, 4) i;

-- A function that sets its search_path, at each call: since 17, PostgreSQL keeps what it has looked
-- up for that, unless a hook forbids it.
CREATE FUNCTION pinned(i int) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, public AS
    'BEGIN RETURN i; END';

CREATE VIEW blocking_pids AS
SELECT pid, usename, application_name, state, wait_event_type, xact_start, query, pg_blocking_pids(pid)
FROM pg_stat_activity;

-- Who waits for a lock, and who else has to do with it.
CREATE VIEW same_lock AS
SELECT waiting.pid AS waiting, other.pid AS other, other.granted
FROM pg_locks waiting
     JOIN pg_locks other
       ON other.locktype = waiting.locktype
      AND other.database IS NOT DISTINCT FROM waiting.database
      AND other.relation IS NOT DISTINCT FROM waiting.relation
      AND other.page IS NOT DISTINCT FROM waiting.page
      AND other.tuple IS NOT DISTINCT FROM waiting.tuple
      AND other.virtualxid IS NOT DISTINCT FROM waiting.virtualxid
      AND other.transactionid IS NOT DISTINCT FROM waiting.transactionid
      AND other.classid IS NOT DISTINCT FROM waiting.classid
      AND other.objid IS NOT DISTINCT FROM waiting.objid
      AND other.objsubid IS NOT DISTINCT FROM waiting.objsubid
      AND other.pid <> waiting.pid
WHERE NOT waiting.granted;

-- The least that such a join can do: the pids of holders.
CREATE VIEW self_join AS
SELECT waiting, other FROM same_lock WHERE granted;

-- As the PostgreSQL wiki has it ("Lock Monitoring"), and many tools after it: with the sessions of
-- both, and any other session that waits for the same counts as well.  Its rows are only counted, so that this is
-- less than what a client has to wait for.
CREATE VIEW wiki_query AS
SELECT count(*)
FROM same_lock
     JOIN pg_stat_activity waiting_session ON waiting_session.pid = waiting
     JOIN pg_stat_activity other_session ON other_session.pid = other;

-- Milliseconds of each of so many rounds of one of these, within so many seconds in all, with a pause
-- before each.  Planned each time, as if a client had sent it.
CREATE FUNCTION time_query(name regclass, rounds int, seconds float8, pause float8) RETURNS SETOF float8
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + seconds * interval '1 s';
    start timestamptz;
BEGIN
    FOR i IN 1 .. rounds LOOP
        PERFORM pg_sleep(pause);
        PERFORM pg_stat_clear_snapshot();
        start := clock_timestamp();
        EXECUTE 'SELECT * FROM ' || name;
        RETURN NEXT 1000 * extract(epoch FROM clock_timestamp() - start);
        EXIT WHEN clock_timestamp() > deadline;
    END LOOP;
END $$;
