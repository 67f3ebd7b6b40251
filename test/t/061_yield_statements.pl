# Every kind of statement, and every lock mode, whose request can hold up others
# that its holder would let through: they pass, and the statement does its work.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
max_prepared_transactions = 5
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $version = $observer->value("SELECT current_setting('server_version_num')::int / 10000");

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE migrator SUPERUSER LOGIN;
ALTER ROLE migrator SET lockguard.queue_yield_timeout = '50ms';
CREATE TABLE a (id int PRIMARY KEY, v int);
INSERT INTO a SELECT i, i FROM generate_series(1, 100) i;
CREATE TABLE b (id int REFERENCES a);
CREATE TABLE c (id int);
CREATE TABLE p (id int) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (id int);
CREATE MATERIALIZED VIEW m AS SELECT id FROM a;
CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS
$$ BEGIN PERFORM count(*) FROM c; ALTER TABLE a ALTER v SET STATISTICS 10; LOCK TABLE a; END $$;
CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
SQL

my $reads = 'SELECT count(*) FROM a';
my $writes = 'UPDATE a SET v = v WHERE id = 1';
my $writes_too = 'UPDATE a SET v = v WHERE id = 2';

# The statement, what its holder has done in a transaction, what passes (undef: it
# does not hold up others), and how the transaction ends, unless by COMMIT.
my @statements = (
	[ 'ALTER TABLE a ADD COLUMN w int', $reads, $reads ],
	[ 'ALTER TABLE a DROP COLUMN w', $reads, $reads ],
	[ 'ALTER TABLE a ALTER v TYPE bigint', $reads, $reads ],
	[ 'BEGIN; DROP TABLE a CASCADE; ROLLBACK', $reads, $reads ],
	[ 'TRUNCATE b', 'SELECT * FROM b', 'SELECT * FROM b' ],
	[ 'BEGIN; TRUNCATE a CASCADE; ROLLBACK', 'SELECT * FROM b', 'SELECT * FROM b' ],
	[ 'CREATE INDEX a_v ON a (v)', $writes, $writes_too ],
	[ 'CREATE INDEX CONCURRENTLY a_v2 ON a (v)', 'LOCK TABLE a IN SHARE UPDATE EXCLUSIVE MODE', undef ],
	[ 'DROP INDEX a_v', $reads, $reads ],
	[ 'REINDEX TABLE a', $writes, $writes_too ],
	[ 'CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION t()', $writes, $writes_too ],
	[ 'DROP TRIGGER t ON a', $reads, $reads ],
	[ 'CREATE RULE r AS ON UPDATE TO c DO ALSO NOTHING', 'SELECT * FROM c', 'SELECT * FROM c' ],
	[ 'ALTER TABLE c ADD FOREIGN KEY (id) REFERENCES a', $writes, $writes_too ],
	[ 'ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)', 'SELECT * FROM p2',
		'SELECT * FROM p2' ],
	[ 'ALTER TABLE p DETACH PARTITION p2', 'SELECT * FROM p2', 'SELECT * FROM p2' ],
	[ 'DROP TABLE p2', 'SELECT * FROM p2', 'SELECT * FROM p2' ],
	[ 'VACUUM FULL a', $reads, $reads ],
	[ 'CLUSTER a USING a_pkey', $reads, $reads ],
	[ 'VACUUM a', 'LOCK TABLE a IN SHARE MODE', 'LOCK TABLE a IN SHARE MODE' ],
	[ 'ANALYZE a', 'LOCK TABLE a IN SHARE MODE', 'LOCK TABLE a IN SHARE MODE' ],
	[ 'REFRESH MATERIALIZED VIEW m', 'SELECT * FROM m', 'SELECT * FROM m' ],
	[ 'DO $$ BEGIN PERFORM count(*) FROM c; LOCK TABLE a; END $$', $reads, $reads ],
	[ 'SELECT f()', $reads, $reads ],
	[ 'WITH x AS (SELECT count(*) FROM c) SELECT pg_advisory_xact_lock(count) FROM x',
		'SELECT pg_advisory_xact_lock_shared(0)', 'SELECT pg_advisory_xact_lock_shared(0)' ],
	[ 'BEGIN; INSERT INTO c VALUES (NULL); SAVEPOINT s; ALTER TABLE a ADD w int; COMMIT', $reads, $reads ],
	[ "BEGIN; LOCK TABLE a; ROLLBACK", "$reads; PREPARE TRANSACTION 'p'", $reads, "COMMIT PREPARED 'p'" ],
	[ 'BEGIN; LOCK TABLE c, a; ROLLBACK', $reads, $reads ],
	map({ [ "BEGIN; LOCK TABLE a IN $_->[0] MODE; ROLLBACK", "LOCK TABLE a IN $_->[1] MODE", "LOCK TABLE a IN $_->[1] MODE" ] }
		[ 'ROW EXCLUSIVE', 'SHARE' ],
		[ 'SHARE UPDATE EXCLUSIVE', 'SHARE' ],
		[ 'SHARE', 'ROW EXCLUSIVE' ],
		[ 'SHARE ROW EXCLUSIVE', 'ROW EXCLUSIVE' ],
		[ 'EXCLUSIVE', 'ROW SHARE' ],
		[ 'ACCESS EXCLUSIVE', 'ACCESS SHARE' ]),

	# Whatever conflicts with these conflicts with their holder, too.
	[ 'BEGIN; LOCK TABLE a IN ACCESS SHARE MODE; ROLLBACK', 'LOCK TABLE a', undef ],
	[ 'BEGIN; LOCK TABLE a IN ROW SHARE MODE; ROLLBACK', 'LOCK TABLE a IN EXCLUSIVE MODE', undef ]);
push @statements, [ 'REPACK a', $reads, $reads ] if $version >= 19;

foreach my $statement (@statements)
{
	my ($sql, $held, $passes, $end) = @$statement;
	my $holder = session($node, 'holder');
	my $s = session($node, $sql, user => 'migrator');

	$holder->query_ok($_) foreach 'BEGIN', split /; /, $held;
	$s->start($sql);
	begins_to_wait($observer, $s);
	if (defined $passes)
	{
		foreach my $n (1 .. 2)
		{
			my $other = session($node, 'passes');
			my $error = $other->query("BEGIN; $passes; COMMIT")->{error};

			ok(!$error && $s->{busy}, "$sql: $passes passes, $n") || diag explain $error;
		}
	}
	$holder->query_ok($end || 'COMMIT');
	succeeds($s);
	defined $passes
	  ? is_recorded($observer, $s, 'queue_yield_timeout yield released')
	  : is_recorded($observer, $s);
	$_->close foreach $holder, $s;
}
done_testing();
