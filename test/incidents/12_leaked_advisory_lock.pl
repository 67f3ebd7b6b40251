# Leaked advisory lock: a session lock outlives the transaction that took it,
# as behind a pooler in transaction mode.
#
# Outcome: the session that has leaked the lock is terminated: it is in no transaction
# that could be rolled back.
# Negative twin: its successor holds the lock for itself alone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
my $observer = LockguardTest::Session->new($node, 'observer');
my ($s1, $s2, $s3) =
  map { LockguardTest::Session->new($node, "S$_") } 1 .. 3;
my $lock = 'SELECT pg_advisory_lock(1000); SELECT 1';

$s1->query_ok($lock);
$s2->start($lock);
is_blocked_by($observer, $s2, $s1);
$s3->start($lock);
is_blocked_by($observer, $s3, $s1, $s2);
is_root_of($observer, $s1, $s2, $s3);
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

# S2 inherits the lock, with S3 behind it, and goes idle: it is next, but with
# the whole limit for itself.
configure($observer, idle_blocker_timeout => '500ms');
is_terminated($s1, 'idle_blocker_timeout');
like($s1->error->{H}, qr/^Release advisory locks/, 'with a hint that helps');
succeeds($s2);
is_terminated($s2, 'idle_blocker_timeout');
succeeds($s3);
my %row = (
	state => 'idle',
	limit_name => 'idle_blocker_timeout',
	limit_value => '500ms',
	limit_source => 'configuration',
	action => 'terminate',
	result => 'released');
my @rows = is_actions(
	$observer,
	[
		{ %row, pid => $s1, blocked => [ $s2, $s3 ] },
		{ %row, pid => $s2, blocked => [$s3] }
	]);
cmp_ok($rows[1]{acted_at} - $rows[0]{acted_at},
	'>=', 0.49, 'S2 started with a clock of its own');

# S3 holds the lock for itself alone.
ok( $observer->poll(
		"SELECT clock_timestamp() - state_change > '1s'"
		  . ' FROM pg_stat_activity WHERE pid = '
		  . $s3->pid),
	'S3 has been idle for longer than the limit');
scan($observer);
is_alive($s3, 'I');
is_actions($observer, [], 'a session that blocks none is left alone');

is_foretold($observer);
$node->stop;
done_testing();
