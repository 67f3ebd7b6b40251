# DDL convoy behind an idle reader: a forgotten transaction has read the
# table, ALTER TABLE waits for it, and all others for ALTER TABLE.
#
# Outcome: the idle reader's transaction is rolled back, and the migration succeeds.
# Negative twin: reads the same table, but no session wants to change it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
create_t($node);
$node->safe_psql('postgres',
	"ALTER DATABASE postgres SET lockguard.idle_blocker_timeout = '500ms'");
my $observer = LockguardTest::Session->new($node, 'observer');
configure($observer, enabled => 'off');
my ($s1, $s2, $s3, $s4) =
  map { LockguardTest::Session->new($node, "S$_") } 1 .. 4;

$s1->query_ok('BEGIN');
$s1->query_ok('SELECT count(*) FROM t');
$s2->start('ALTER TABLE t ADD c int');
is_blocked_by($observer, $s2, $s1);
$s3->start('SELECT count(*) FROM t');
is_blocked_by($observer, $s3, $s2);
$s4->start('UPDATE t SET v = 2 WHERE id = 2');
is_blocked_by($observer, $s4, $s2);
is_root_of($observer, $s1, $s2, $s3, $s4);
scan($observer);
is_actions($observer, [], 'without lockguard nothing is done');

configure($observer, enabled => 'on');
is_rolled_back($observer, $s1, 'idle_blocker_timeout');
succeeds($s2, 'ALTER TABLE');
succeeds($s3, 'SELECT');
succeeds($s4, 'UPDATE');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			state => 'idle in transaction',
			limit_name => 'idle_blocker_timeout',
			limit_value => '500ms',
			limit_source => 'database',
			action => 'rollback',
			result => 'released',
			blocked => [ $s2, $s3, $s4 ]
		}
	]);

# Negative twin: as idle, but the others only read and write.
{
	my ($reader, $writer) = map { LockguardTest::Session->new($node, $_) } 'reader', 'writer';

	$reader->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
	$writer->query_ok('UPDATE t SET v = 3 WHERE id = 3');
	left_alone($observer, $reader);
}

is_foretold($observer);
$node->stop;
done_testing();
