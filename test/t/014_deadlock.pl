# Time in a deadlock counts towards no limit: when the server has ended one
# statement, the others have not blocked any session for as long as it lasted.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
deadlock_timeout = '1h'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
$observer->query_ok("CREATE TABLE $_ ()") foreach 'a', 'b';
$observer->query_ok(<<'SQL');
-- Wait for a lock, and catch the server's error.  Returns when that came, after
-- so many seconds, by the clock of the server; what was locked before stays so.
CREATE FUNCTION provoke(seconds float8) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	at timestamptz;
BEGIN
	BEGIN
		LOCK b;
	EXCEPTION WHEN deadlock_detected THEN
		at := clock_timestamp();
		PERFORM pg_sleep(seconds);
	END;
	RETURN extract(epoch FROM at);
END $$
SQL
# Two in a deadlock of a second and a half, and a third behind the second.  The
# first one gets the error.
sub deadlock
{
	my ($seconds) = @_;
	my @s = map { session($node, "S$_") } 1 .. 3;

	$_->query_ok('BEGIN') foreach @s;
	$s[0]->query_ok("SET deadlock_timeout = '1500ms'");
	$s[0]->query_ok('LOCK a IN ACCESS SHARE MODE');
	$s[1]->query_ok('LOCK b');
	$s[1]->start('LOCK a');
	is_waiting($observer, $s[1]);
	$s[2]->start('SELECT count(*) FROM a');
	is_waiting($observer, $s[2]);
	$s[0]->start("SELECT provoke($seconds)");
	return @s;
}

# Their locks stay, so that the second then waits.
{
	configure($observer, queued_blocker_timeout => '800ms');
	my @s = deadlock(0);
	my $ended = $s[0]->finish->{rows}[0][0];

	ok($ended, 'the first one gets the error');
	is_cancelled($s[1], 'queued_blocker_timeout');
	my $acted_at;

	# The row is written after the signal.
	wait_until(
		sub {
			($acted_at) = map { $_->[0] } $observer->rows(
				'SELECT extract(epoch FROM acted_at) FROM lockguard.actions WHERE pid = ' . $s[1]->pid);
			return defined $acted_at;
		});
	note 'the second one was cancelled ', $acted_at - $ended, ' s later';
	cmp_ok($acted_at - $ended, '>=', 0.8, 'the clock of the second one began anew');
	cmp_ok($acted_at - $ended, '<', 5, 'and went on');
	is_alive($s[0], 'T');
	$s[0]->query_ok('ROLLBACK');
	succeeds($s[2], 'SELECT');
	$_->close foreach @s;
	configure($observer, queued_blocker_timeout => undef);
}

# While the first one sees to its error, no session in its tree is signalled.
# Its own clock continues: it had blocked before.
{
	configure($observer, blocker_timeout => '300ms', queued_blocker_timeout => '300ms');
	my @s = deadlock(600);
	my $pids = join ',', map { $_->pid } @s;

	ok( $observer->poll("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = " . $s[0]->pid),
		'the first one gets the error');
	ok( $observer->poll(
			'SELECT bool_and(clock_timestamp() > state_change + INTERVAL \'3 s\')'
			  . " FROM pg_stat_activity WHERE pid IN ($pids)"),
		'and takes its time');
	scan($observer);
	is_deeply([ map { recorded($observer, $_) } @s ], [], 'no session is signalled');

	# Out of reach, as otherwise what now comes to block the third one is removed.
	configure($observer, blocker_timeout => undef, queued_blocker_timeout => undef);
	$observer->query_ok('SELECT pg_cancel_backend(' . $s[0]->pid . ')');
	is($s[0]->finish->{error}{M}, 'canceling statement due to user request', 'it is ended');
	$s[0]->query_ok('ROLLBACK');
	succeeds($s[1], 'the second one');
	$s[1]->query_ok('ROLLBACK');
	succeeds($s[2], 'the third one');
	$_->close foreach @s;
}

# Nor does it help to provoke one deadlock after the other in one statement: that
# is no undoing.
{
	my $shielded = session($node, 'shielded', blocker_timeout => '2s');
	my $peer = session($node, 'peer');
	my $waiter = session($node, 'waiter');

	$observer->query_ok('SELECT pg_advisory_lock(1)');
	$shielded->query_ok($_) foreach "SET deadlock_timeout = '700ms'", 'BEGIN', 'LOCK a';
	$waiter->start('SELECT count(*) FROM a');
	is_waiting($observer, $waiter);

	# It has what the peer wants, and asks for what the peer has, every second; each
	# deadlock lasts long enough for the worker to see it.
	$peer->query_ok('SELECT pg_advisory_lock(2)');
	$shielded->query_ok('SELECT pg_advisory_lock(3)');
	$peer->start('SELECT pg_advisory_lock(3)');
	is_waiting($observer, $peer);
	$shielded->start('DO $$ BEGIN FOR i IN 1..60 LOOP'
		  . ' BEGIN PERFORM pg_advisory_lock(2); EXCEPTION WHEN deadlock_detected THEN NULL; END;'
		  . ' PERFORM pg_sleep(1); END LOOP; END $$');
	is_cancelled($shielded, 'blocker_timeout');
	$shielded->query_ok('ROLLBACK');
	succeeds($waiter, 'SELECT');
	$shielded->query_ok('SELECT pg_advisory_unlock_all()');
	succeeds($peer, 'the lock of the peer');
	$observer->query_ok('SELECT pg_advisory_unlock_all()');
	$_->close foreach $shielded, $peer, $waiter;
}

$node->stop;
done_testing();
