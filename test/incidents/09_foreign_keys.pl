# Foreign keys: an idle transaction has inserted a child, and the DELETE of
# its parent waits.
#
# Outcome: the transaction of the idle writer of the child is rolled back.
# Negative twin: the parent is updated, not deleted.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE parent (id int PRIMARY KEY, v int);
CREATE TABLE child (pid int REFERENCES parent ON DELETE CASCADE);
INSERT INTO parent VALUES (1, 0), (2, 0);
SQL
my $observer = LockguardTest::Session->new($node, 'observer');
my ($s1, $s2, $s3, $s4) =
  map { LockguardTest::Session->new($node, "S$_") } 1 .. 4;

$s1->query_ok($_) foreach 'BEGIN', 'INSERT INTO child (pid) VALUES (1)';
$s2->start('UPDATE parent SET v = v + 1 WHERE id = 1');
succeeds($s2, 'UPDATE of the parent that leaves its key alone');
$s3->start('DELETE FROM parent WHERE id = 1');
is_blocked_by($observer, $s3, $s1);
$s4->start('INSERT INTO child (pid) VALUES (1)');
succeeds($s4, 'INSERT of another child');
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');
is_blocked_by($observer, $s3, $s1);
is_root_of($observer, $s1, $s3);

configure($observer, idle_blocker_timeout => '500ms');
is_rolled_back($observer, $s1, 'idle_blocker_timeout');
succeeds($s3, 'DELETE of the parent');
is($observer->value('SELECT count(*) FROM child'),
	0, 'the parent took its children along');
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
			blocked => [$s3]
		}
	]);

# Negative twin: the parent's key stays as it is.
{
	my ($child, $parent) = map { LockguardTest::Session->new($node, $_) } 'child', 'parent';

	$child->query_ok($_) foreach 'BEGIN', 'INSERT INTO child (pid) VALUES (2)';
	$parent->query_ok('UPDATE parent SET v = v + 1 WHERE id = 2');
	left_alone($observer, $child);
}

is_foretold($observer);
$node->stop;
done_testing();
