# Not an outage: a healthy leader holds its advisory lock in an idle
# transaction, and the others only ask whether it is free.  To remove it would
# make two leaders.
#
# Outcome: no session is signalled.
# Negative twin: it is one itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
my $observer = LockguardTest::Session->new($node, 'observer');
my ($s1, $s2) = map { LockguardTest::Session->new($node, "S$_") } 1 .. 2;

configure(
	$observer,
	map { $_ => '100ms' }
	  qw(idle_blocker_timeout blocker_timeout queued_blocker_timeout
	  lock_wait_timeout));
$s1->query_ok('BEGIN');
is($s1->value('SELECT pg_try_advisory_lock(7)'), 't', 'S1 is the leader');
foreach my $i (1 .. 10)
{
	is($s2->value('SELECT pg_try_advisory_lock(7)'),
		'f', 'S2 asks without waiting');
	scan($observer);
}
ok( $observer->poll(
		"SELECT clock_timestamp() - state_change > '1s'"
		  . ' FROM pg_stat_activity WHERE pid = '
		  . $s1->pid),
	'the leader has been idle for ten times the limit');
scan($observer);
is_alive($s1, 'T');
is($s2->value('SELECT pg_try_advisory_lock(7)'),
	'f', 'S1 is the leader still');
is_actions($observer, [], 'nothing happens');

$node->stop;
done_testing();
