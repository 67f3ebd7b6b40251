# Catalogs locked: every login hangs, and so does every look at
# pg_stat_activity.
#
# Outcome: the idle transaction that has locked the catalogs is rolled back, and logins succeed again.
# Negative twin: as idle, with a lock that only keeps others from changing the catalogs.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
# All sessions that the test needs are from before the outage.
my $observer = LockguardTest::Session->new($node, 'observer');
my ($s1, $s2) = map { LockguardTest::Session->new($node, "S$_") } 1 .. 2;
# It has looked before, and so has the catalog entries in its cache.
scan($observer);
is_actions($observer, [], 'nothing has happened');

$s1->query_ok($_)
  foreach 'BEGIN',
  'LOCK TABLE pg_authid, pg_database IN ACCESS EXCLUSIVE MODE';
$s2->start('SELECT count(*) FROM pg_stat_activity');
is_blocked_by($observer, $s2, $s1);
my $login = LockguardTest::Session->new($node, 'S3', wait => 0);
my $waiters = 'SELECT pid FROM pg_locks WHERE NOT granted ORDER BY 1';
wait_until(sub { $observer->rows($waiters) == 2 });
my @waiters = map { $_->[0] } $observer->rows($waiters);
is(scalar @waiters, 2, 'a login hangs');

scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

configure_file($node, idle_blocker_timeout => '500ms');
succeeds($s2, 'SELECT from pg_stat_activity');
succeeds($login, 'login');
is_rolled_back(undef, $s1, 'idle_blocker_timeout');
is_alive($login, 'I');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			limit_name => 'idle_blocker_timeout',
			limit_value => '500ms',
			limit_source => 'configuration',
			action => 'rollback',
			result => 'released',
			blocked => \@waiters
		}
	]);

# Negative twin: as idle, but with locks that no session has to wait for.
{
	my $idle = LockguardTest::Session->new($node, 'idle');

	$idle->query_ok($_)
	  foreach 'BEGIN', 'LOCK TABLE pg_authid, pg_database IN SHARE MODE';
	is_alive(LockguardTest::Session->new($node, 'login'), 'I');
	left_alone($observer, $idle);
}

is_foretold($observer);
$node->stop;
done_testing();
