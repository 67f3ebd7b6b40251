# CREATE INDEX CONCURRENTLY waits for an idle transaction, and VACUUM for
# CREATE INDEX CONCURRENTLY, which must not be the victim: it would leave an
# invalid index.
#
# Outcome: the idle transaction is rolled back, and the index becomes valid.
# Negative twin: an idle transaction without a snapshot, of another table.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my ($s1, $s2, $s3) =
  map { LockguardTest::Session->new($node, "S$_") } 1 .. 3;

$s1->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 3 WHERE id = 3';
$s2->start('CREATE INDEX CONCURRENTLY i ON t (v)');
is_blocked_by($observer, $s2, $s1);
is( $observer->value(
		'SELECT locktype FROM pg_locks WHERE NOT granted AND pid = '
		  . $s2->pid),
	'virtualxid',
	'it waits for the end of the transaction');
$s3->start('VACUUM t');
is_blocked_by($observer, $s3, $s2);
is_root_of($observer, $s1, $s2, $s3);
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

configure($observer, idle_blocker_timeout => '500ms');
is_rolled_back($observer, $s1, 'idle_blocker_timeout');
succeeds($s2, 'CREATE INDEX CONCURRENTLY');
succeeds($s3, 'VACUUM');
is( $observer->value(
		"SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass"),
	't',
	'the index is valid');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			state => 'idle in transaction',
			limit_name => 'idle_blocker_timeout',
			limit_value => '500ms',
			limit_source => 'configuration',
			action => 'rollback',
			result => 'released',
			blocked => [ $s2, $s3 ]
		}
	]);

# Negative twin: as idle, but it has no snapshot, and has not touched the table.
{
	my ($idle, $builder) = map { LockguardTest::Session->new($node, $_) } 'idle', 'builder';

	$idle->query_ok($_) foreach 'BEGIN', 'SELECT 1';
	$builder->query_ok('CREATE INDEX CONCURRENTLY j ON t (v)');
	left_alone($observer, $idle);
}

is_foretold($observer);
$node->stop;
done_testing();
