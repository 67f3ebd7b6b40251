# Row queue behind an idle writer: one waits for the writer, all others for
# the first of the queue, who looks like the one to blame.
#
# Outcome: the idle writer's transaction is rolled back, and the first of the queue
# is left alone.
# Negative twin: others only read the row.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my ($s1, @writers) =
  map { LockguardTest::Session->new($node, "S$_") } 1 .. 5;
my $s2 = $writers[0];

configure($observer, enabled => 'off');
$s1->query_ok($_)
  foreach "SET lockguard.idle_blocker_timeout = '500ms'", 'BEGIN',
  'UPDATE t SET v = 100 WHERE id = 7';
foreach my $i (0 .. $#writers)
{
	$writers[$i]->start('UPDATE t SET v = v + 1 WHERE id = 7');
	# Each waits for the first, and for those before it in the queue.
	is_blocked_by($observer, $writers[$i],
		$i == 0 ? $s1 : @writers[ 0 .. $i - 1 ]);
}
is_root_of($observer, $s1, @writers);
scan($observer);
is_actions($observer, [], 'without lockguard nothing is done');

configure($observer, enabled => 'on');
is_rolled_back($observer, $s1, 'idle_blocker_timeout');
succeeds($_) foreach @writers;
is($observer->value('SELECT v FROM t WHERE id = 7'),
	4, 'every write is there but that of S1');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			state => 'idle in transaction',
			limit_name => 'idle_blocker_timeout',
			limit_value => '500ms',
			limit_source => 'session',
			action => 'rollback',
			result => 'released',
			blocked => \@writers
		}
	]);

# Negative twin: as idle, but the others only read the row.
{
	my ($writer, $reader) = map { LockguardTest::Session->new($node, $_) } 'writer', 'reader';

	$writer->query_ok($_)
	  foreach "SET lockguard.idle_blocker_timeout = '500ms'", 'BEGIN',
	  'UPDATE t SET v = 100 WHERE id = 7';
	is($reader->value('SELECT v FROM t WHERE id = 7'), 4, 'the row can be read');
	left_alone($observer, $writer);
}

is_foretold($observer);
$node->stop;
done_testing();
