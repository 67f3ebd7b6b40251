# DDL that is working, and no connection left: readers pile up behind it until
# no user can log in any more, the DBA included.
#
# Outcome: the DDL with too many behind it is cancelled.
# Negative twin: as many behind it as the limit allows.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $connections = 20;
my $node = lockguard_node('main', conf => <<"CONF");
max_connections = $connections
superuser_reserved_connections = 3
deadlock_timeout = 200ms
CONF
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE big AS SELECT generate_series(1, 1000) AS id;
CREATE FUNCTION slow(id int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(1);
	RETURN id;
END $$;
SQL

# This connection is from before the outage; the rest of the test must do with
# it.
my $observer = LockguardTest::Session->new($node, 'observer');
my $s1 = LockguardTest::Session->new($node, 'S1');
$s1->query_ok('BEGIN');
$s1->query_ok('ALTER TABLE big ADD w int');
$s1->start('CREATE INDEX ON big (slow(id))');

my @readers;
foreach my $i (2 .. $connections - 1)
{
	my $reader = LockguardTest::Session->new($node, "S$i");
	$reader->start('SELECT count(*) FROM big');
	is_blocked_by($observer, $reader, $s1);
	push @readers, $reader;
}
ok(!eval { LockguardTest::Session->new($node, 'DBA') },
	'no user can log in, not even a superuser');
is_root_of($observer, $s1, @readers);
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

configure_file($node, max_blocked_sessions => 5);
is_cancelled($s1, 'max_blocked_sessions');
succeeds($_, 'SELECT') foreach @readers;
is_alive($s1, 'E');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			state => 'active',
			limit_name => 'max_blocked_sessions',
			limit_value => '5',
			limit_source => 'configuration',
			action => 'cancel',
			result => 'released',
			blocked => \@readers
		}
	]);

# Negative twin: as many as the limit allows.
$s1->query_ok($_) foreach 'BEGIN', 'LOCK TABLE big';
$_->start('SELECT count(*) FROM big') foreach @readers[ 0 .. 4 ];
ok( $observer->poll(
		"SELECT count(*) = 5 FROM pg_locks WHERE clock_timestamp() - waitstart > '1s'"
	),
	'five readers wait');
scan($observer);
is_actions($observer, [], 'who blocks no more than the limit is left alone');
$s1->query_ok('COMMIT');
succeeds($_, 'SELECT') foreach @readers[ 0 .. 4 ];

is_foretold($observer);
$node->stop;
done_testing();
