# Floods: of signals, records, settings, readers and connections.  Whatever
# anybody makes a lot of, who is in the way of others is removed all the same.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
max_connections = 100
lockguard.max_actions_per_minute = 8
lockguard.naptime = '50ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

# Those who time out one by one use three quarters of what a minute allows; the
# rest is for whoever is in the way.  This has to be the first test.
{
	my $offset = -s $node->logfile;
	my @slow = map { session($node, "slow $_", statement_timeout => '50ms')->start('SELECT pg_sleep(600)') } 1 .. 8;

	ok($observer->poll(q(SELECT string_agg(n || ' ' || result, ', ' ORDER BY result)
		FROM (SELECT count(*) n, result FROM lockguard.actions GROUP BY result) r), '6 released, 2 suppressed'),
		'who times out may use three quarters');
	$node->wait_for_log(qr/max_actions_per_minute \(8\) is reached\n.*DETAIL:  Only limits on blockers may signal anybody/, $offset);
	foreach my $i (1, 2)
	{
		my ($s, $w) = blocked_pair($observer, "in the way $i", ++$key, idle_blocker_timeout => '100ms');
		is_terminated($s, 'idle_blocker_timeout');
		succeeds($w, 'the waiter');
		$w->close;
	}
	my ($s, $w) = blocked_pair($observer, 'one too many', ++$key, idle_blocker_timeout => '100ms');
	is_recorded($observer, $s, 'idle_blocker_timeout terminate suppressed');
	$node->wait_for_log(qr/max_actions_per_minute \(8\) is reached\n.*DETAIL:  Who is over a limit is left alone/, $offset);
	is_alive($s, 'T');
	$s->close;
	succeeds($w, 'the waiter');
	configure($observer, max_actions_per_minute => 10000);
	$_->close(silent => 1) foreach @slow, $w;
}

$node->stop;
done_testing();
