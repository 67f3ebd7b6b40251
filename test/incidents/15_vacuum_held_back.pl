# Vacuum held back: a forgotten snapshot blocks no session, and yet no dead row
# can be removed any more.
#
# Outcome: the transaction with the old snapshot is rolled back.
# Negative twin: a new snapshot that is old at birth.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', conf => 'synchronous_commit = off');
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $other = LockguardTest::Session->new($node, 'other');

sub burn
{
	$other->query_ok(
		'DO $$ BEGIN FOR i IN 1 .. 2000 LOOP'
		  . ' PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
	return;
}

my ($s1, $s2, $s3, $s4) =
  map { LockguardTest::Session->new($node, "S$_") } 1 .. 4;
$s1->query_ok($_)
  foreach 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1';
burn();
# VACUUM gives back the end of the table once the rows there are gone.
my $size = "SELECT pg_relation_size('t')";
my $full = $other->value($size);
$other->query_ok('DELETE FROM t WHERE id > 500');
$other->query_ok('VACUUM t');
is($other->value($size), $full, 'VACUUM can remove nothing');
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

# S2 is idle in a transaction too, but has no snapshot.
$s2->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM pg_class';
configure($observer, max_xmin_age => 1000);
# What counts is what is used up from the worker's first look on.
wait_until(
	sub {
		burn();
		return $observer->value('SELECT count(*) FROM lockguard.actions') == 1;
	});
is_rolled_back($observer, $s1, 'max_xmin_age');
scan($observer);
is_alive($s2, 'T');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			state => 'idle in transaction',
			limit_name => 'max_xmin_age',
			limit_value => '1000',
			limit_source => 'configuration',
			action => 'rollback',
			result => 'released',
			blocked => []
		}
	]);
$other->query_ok('VACUUM t');
cmp_ok($other->value($size), '<', $full, 'VACUUM can remove the dead rows');

# Negative twin: a new snapshot inherits the oldest transaction id running, and
# is old at birth.
$s3->query_ok($_)
  foreach 'SET lockguard.exempt = on', 'BEGIN',
  'SELECT pg_current_xact_id()';
scan($observer);
burn();
$s4->query_ok($_)
  foreach 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1';
cmp_ok(
	$observer->value(
		'SELECT age(backend_xmin) FROM pg_stat_activity WHERE pid = '
		  . $s4->pid),
	'>', 1000,
	'the snapshot of S4 is old at birth');
scan($observer);
is_alive($_, 'T') foreach $s3, $s4;
is_actions(
	$observer,
	[ { pid => $s3, limit_name => 'max_xmin_age', result => 'exempt' } ],
	'no session is signalled');

$node->stop;
done_testing();
