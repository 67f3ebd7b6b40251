# Who blocks whom, in random situations that stand still: lockguard's views
# against pg_blocking_pids() and a graph made of pg_locks in SQL.
#
# pg_blocking_pids() is taken at its word for sessions.  It says only "0" of
# prepared transactions; which one it is comes from pg_locks.  It is known to
# be wrong about the startup process of a standby, which has a test of its own
# (07_hot_standby).
#
# SEED=n repeats a run, SITUATIONS=n makes a longer one.

use strict;
use warnings;

use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $situations = $ENV{SITUATIONS} || 120;
my $seed = $ENV{SEED} || time() ^ $$;
srand($seed);
note "SEED=$seed";

# Deadlocks stay, so that cycles are compared as well.
my $node = lockguard_node('main', conf => <<'CONF');
deadlock_timeout = '1h'
max_prepared_transactions = 10
fsync = off
CONF
my $observer = LockguardTest::Session->new($node, 'observer');

$observer->query_ok($_) foreach split /;\n/, <<'SQL';
CREATE TABLE t1 (id int PRIMARY KEY, v int);
CREATE TABLE t2 (id int PRIMARY KEY, v int);
CREATE TABLE child (id int REFERENCES t1);
CREATE TABLE uniq (id int UNIQUE);
INSERT INTO t1 SELECT i, 0 FROM generate_series(1, 5) i;
INSERT INTO t2 SELECT i, 0 FROM generate_series(1, 5) i;

CREATE TABLE conflict (mode text, other text);
INSERT INTO conflict
SELECT m.mode, o.mode
FROM (VALUES ('AccessShare', '8'), ('RowShare', '78'), ('RowExclusive', '5678'),
             ('ShareUpdateExclusive', '45678'), ('Share', '34678'),
             ('ShareRowExclusive', '345678'), ('Exclusive', '2345678'),
             ('AccessExclusive', '12345678')) m (mode, others)
     JOIN (VALUES (1, 'AccessShare'), (2, 'RowShare'), (3, 'RowExclusive'),
                  (4, 'ShareUpdateExclusive'), (5, 'Share'), (6, 'ShareRowExclusive'),
                  (7, 'Exclusive'), (8, 'AccessExclusive')) o (n, mode)
       ON strpos(m.others, o.n::text) > 0;

-- A waiter and each other that holds what it waits for in a conflicting mode.
CREATE VIEW hard AS
SELECT DISTINCT w.pid AS waiter, coalesce(h.pid::text, p.gid) AS blocker
FROM pg_locks w
     JOIN pg_locks h ON (w.locktype, w.database, w.relation, w.page, w.tuple, w.virtualxid,
                         w.transactionid, w.classid, w.objid, w.objsubid)
         IS NOT DISTINCT FROM (h.locktype, h.database, h.relation, h.page, h.tuple, h.virtualxid,
                               h.transactionid, h.classid, h.objid, h.objsubid)
     JOIN conflict c ON w.mode = c.mode || 'Lock' AND h.mode = c.other || 'Lock'
     LEFT JOIN (pg_locks x JOIN pg_prepared_xacts p ON x.transactionid = p.transaction AND x.granted)
       ON h.pid IS NULL AND x.pid IS NULL AND h.virtualtransaction = x.virtualtransaction
WHERE NOT w.granted AND h.granted AND h.pid IS DISTINCT FROM w.pid;

-- The same and those that wait ahead of it.  Prepared transactions never wait.
CREATE VIEW edge AS
SELECT DISTINCT w.pid AS waiter, b::text AS blocker
FROM (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) w,
     unnest(pg_blocking_pids(w.pid)) b
WHERE b <> 0
UNION
SELECT waiter, blocker FROM hard WHERE blocker !~ '^[0-9]+$';

CREATE VIEW client AS
SELECT pid FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid();

CREATE VIEW expected AS
WITH RECURSIVE e AS MATERIALIZED (SELECT * FROM edge),
reach (top, below) AS (
    SELECT blocker, waiter FROM e
    UNION
    SELECT reach.top, e.waiter FROM reach JOIN e ON e.blocker = reach.below::text),
count (top, n) AS (
    SELECT top, count(*) FROM reach WHERE below::text <> top GROUP BY top),
root AS (
    SELECT DISTINCT blocker AS root FROM e
    WHERE NOT EXISTS (SELECT FROM e x WHERE x.waiter::text = e.blocker))
SELECT pid || ' is blocked by ' ||
       ARRAY(SELECT DISTINCT b FROM unnest(pg_blocking_pids(pid)) b ORDER BY 1)::text AS line
FROM client
UNION ALL
SELECT pid || ' blocks ' || coalesce(n, 0) FROM client LEFT JOIN count ON top = pid::text
UNION ALL
SELECT root || ' is a root with ' || n FROM root JOIN count ON top = root
UNION ALL
SELECT below || ' is below ' || CASE WHEN root ~ '^[0-9]+$' THEN root ELSE '0' END
FROM root JOIN reach ON top = root;

CREATE VIEW shown AS
WITH tree AS MATERIALIZED (
    SELECT *, EXISTS (SELECT FROM pg_locks l WHERE l.pid = root_pid AND NOT granted) AS cycle
    FROM lockguard.lock_tree)
SELECT pid || ' is blocked by ' ||
       ARRAY(SELECT DISTINCT b FROM unnest(blocked_by) b ORDER BY 1)::text AS line
FROM lockguard.sessions WHERE pid IN (TABLE client)
UNION ALL
SELECT pid || ' blocks ' || blocked_sessions
FROM lockguard.sessions WHERE pid IN (TABLE client)
UNION ALL
SELECT coalesce(gid, pid::text) || ' is a root with ' || blocked_sessions
FROM tree WHERE level = 0 AND NOT cycle
UNION ALL
SELECT pid || ' is below ' || root_pid FROM tree WHERE level > 0 AND NOT cycle;

-- What is wrong with the tree in itself.
CREATE VIEW wrong AS
WITH RECURSIVE e AS MATERIALIZED (SELECT * FROM edge),
h AS MATERIALIZED (SELECT * FROM hard),
tree AS MATERIALIZED (SELECT * FROM lockguard.lock_tree),
reach (top, below) AS (
    SELECT blocker, waiter FROM e
    UNION
    SELECT reach.top, e.waiter FROM reach JOIN e ON e.blocker = reach.below::text)
SELECT 'path ' || path::text || ' of ' || pid || ' at level ' || level || ' below ' || root_pid AS line
FROM tree
WHERE path[1] <> root_pid OR path[cardinality(path)] <> pid OR level <> cardinality(path) - 1
UNION ALL
SELECT pid || ' is not blocked by ' || path[level] || ' as a ' || block_kind
FROM tree
WHERE level > 0 AND CASE
    WHEN path[level] = 0 THEN
        block_kind <> 'holder' OR NOT EXISTS (SELECT FROM h WHERE waiter = pid AND blocker !~ '^[0-9]+$')
    ELSE
        NOT EXISTS (SELECT FROM e WHERE waiter = pid AND blocker = path[level]::text) OR
        (block_kind = 'holder') <> EXISTS (SELECT FROM h WHERE waiter = pid AND blocker = path[level]::text)
    END
UNION ALL
SELECT pid || ' does not wait for ' || mode || ' on ' || locktype
FROM tree
WHERE level > 0 AND NOT EXISTS (SELECT FROM pg_locks l
    WHERE l.pid = tree.pid AND NOT granted AND l.mode = tree.mode AND l.locktype = tree.locktype
        AND l.relation IS NOT DISTINCT FROM tree.relation AND l.database IS NOT DISTINCT FROM tree.database)
UNION ALL
SELECT DISTINCT waiter || ' is missing' FROM e WHERE waiter NOT IN (SELECT pid FROM tree)
UNION ALL
SELECT root_pid || ' is not the lowest of its cycle'
FROM tree
WHERE level = 0 AND root_pid IN (SELECT waiter FROM e) AND
      root_pid IS DISTINCT FROM (SELECT min(a.below) FROM reach a
          JOIN reach b ON b.top = a.below::text AND b.below = root_pid WHERE a.top = root_pid::text);
SQL

my @sessions =
  map { LockguardTest::Session->new($node, "S$_") } 1 .. 12;
my @modes = ('ACCESS SHARE', 'ROW SHARE', 'ROW EXCLUSIVE', 'SHARE UPDATE EXCLUSIVE',
	'SHARE', 'SHARE ROW EXCLUSIVE', 'EXCLUSIVE', 'ACCESS EXCLUSIVE');
my $ngids = 0;
my %seen;

sub pick { return $_[ rand @_ ]; }

# A statement that may have to wait.
sub random_statement
{
	my ($session) = @_;
	my $t = pick('t1', 't2');
	my $id = 1 + int rand 5;
	my $kind = int rand 12;

	return 'ROLLBACK; BEGIN' if $session->{status} eq 'E';
	if ($session->{status} eq 'I')
	{
		return "CREATE INDEX CONCURRENTLY ci ON $t (v)" if rand() < 0.02;
		return "SELECT pg_advisory_lock$_($id)" foreach rand() < 0.1 ? pick('', '_shared') : ();
		return 'BEGIN' . (rand() < 0.3 ? ' ISOLATION LEVEL REPEATABLE READ' : '');
	}
	return "LOCK TABLE $t IN " . pick(@modes) . ' MODE' if $kind < 3;
	return "UPDATE $t SET v = v + 1 WHERE id = $id" if $kind < 6;
	return "SELECT FROM $t WHERE id = $id FOR "
	  . pick('UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE')
	  if $kind == 6;
	return 'SELECT pg_advisory_xact_lock' . pick('', '_shared') . "($id)" if $kind == 7;
	return "INSERT INTO uniq VALUES ($id)" if $kind == 8;
	return "INSERT INTO child VALUES ($id)" if $kind == 9;
	return pick("ALTER TABLE $t ADD x int", "TRUNCATE $t CASCADE", "CREATE INDEX ON $t (v)",
		"DELETE FROM $t WHERE id = $id", "SELECT count(*) FROM $t", 'DROP TABLE child')
	  if $kind == 10;
	return $ngids < 3 && rand() < 0.5 ? "PREPARE TRANSACTION 'g" . ++$ngids . "'" : 'SELECT 1';
}

# Wait until every session is either done or waits for a lock.
sub settle
{
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

	while (time() < $deadline)
	{
		my @busy = grep { $_->{busy} } @sessions;

		$_->read_some(65536, 0) foreach @busy;
		@busy = grep { $_->{busy} } @busy or return 1;
		return 1
		  if $observer->value(
			'SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pid IN ('
			  . join(',', map { $_->pid } @busy)
			  . ')') == @busy;
		usleep(2_000);
	}
	return 0;
}

sub differences
{
	return map { $_->[0] } $observer->rows(<<'SQL');
SELECT 'not shown: ' || line FROM (TABLE expected EXCEPT ALL TABLE shown) x
UNION ALL SELECT 'shown: ' || line FROM (TABLE shown EXCEPT ALL TABLE expected) x
UNION ALL SELECT line FROM wrong
SQL
}

# Release all of them.
sub clear
{
	while (my @busy = grep { $_->{busy} } @sessions)
	{
		$observer->query_ok('SELECT pg_cancel_backend(pid) FROM unnest(ARRAY['
			  . join(',', map { $_->pid } @busy)
			  . ']) pid');
		$_->read_some(65536, 0.005) foreach @busy;
	}
	$_->start('ROLLBACK; SELECT pg_advisory_unlock_all()') foreach @sessions;
	$_->finish foreach @sessions;
	$observer->query_ok("ROLLBACK PREPARED '$_->[0]'")
	  foreach $observer->rows('SELECT gid FROM pg_prepared_xacts');
	$observer->query_ok('DROP INDEX IF EXISTS ci');
	$ngids = 0;
	return;
}

my ($compared, $waiters, $failed) = (0, 0, 0);
foreach my $situation (1 .. $situations)
{
	my $steps = 2 + int rand 5;

	foreach (1 .. $steps)
	{
		$_->start(random_statement($_)) foreach grep { !$_->{busy} } @sessions;
		settle() or die "situation $situation does not settle";
	}
	my @differences = differences();

	# A wait can be seen before it is over.
	if (@differences && settle())
	{
		@differences = differences();
	}
	if (@differences && $failed++ < 5)
	{
		fail("situation $situation");
		diag "SEED=$seed\n" . join "\n", @differences;
		diag join "\n", map { join ' ', map { defined $_ ? $_ : '-' } @$_ } $observer->rows(
			'SELECT pid, locktype, relation::regclass, transactionid, objid, mode, granted, waitstart'
			  . ' FROM pg_locks ORDER BY granted, pid');
	}
	$compared++;
	$waiters += grep { $_->{busy} } @sessions;
	$seen{ $_->[0] }++ foreach $observer->rows(<<'SQL');
SELECT locktype FROM pg_locks WHERE NOT granted
UNION SELECT block_kind FROM lockguard.lock_tree WHERE level > 0
UNION SELECT 'prepared' FROM lockguard.lock_tree WHERE pid = 0
UNION SELECT 'cycle' FROM lockguard.lock_tree JOIN pg_locks USING (pid) WHERE level = 0 AND NOT granted
UNION SELECT 'two roots' FROM lockguard.lock_tree GROUP BY pid HAVING count(DISTINCT root_pid) > 1
SQL
	clear();
}
is($failed, 0, "$compared situations with $waiters waits are shown as PostgreSQL has them");
note join ', ', map { "$_: $seen{$_}" } sort keys %seen;
ok($seen{$_}, "situations with: $_")
  foreach qw(relation transactionid tuple advisory holder queue prepared cycle), 'two roots';

$node->stop;
done_testing();
