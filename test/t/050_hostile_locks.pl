# Locks that a session keeps over the end of its transactions: a session that runs
# one statement after the other cannot wear a limit out by that.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', conf => "lockguard.naptime = '50ms'\n");
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

my $sleep = 'SELECT pg_sleep(600)';
my $commits = 'DO $$ BEGIN LOOP COMMIT; END LOOP; END $$';

# Run a statement again whenever it has been cancelled, until the connection is
# closed.  Returns how often it was cancelled.
sub run_again
{
	my ($session, $sql) = @_;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
	my $cancelled = 0;

	while (!$session->closed && time() < $deadline)
	{
		if (!$session->{busy})
		{
			$cancelled++;
			$session->start($sql);
		}
		$session->read_some(65536, 0.1);
	}
	return $cancelled;
}

# A cancel that the next statement shrugs off is followed by the termination,
# not by another cancel.
foreach my $case ([ 'blocker_timeout', '200ms', $sleep ], [ 'max_locks', 10, $sleep ],
	[ 'blocker_timeout', '200ms', $commits ])
{
	my ($limit, $value, $sql) = @$case;
	my $s = session($node, $limit, escalation_delay => '400ms', $limit => $value);
	my $w;

	$key += 100;
	my $locks = "SELECT pg_advisory_lock(i) FROM generate_series($key, $key + 20) i";

	# Who is over max_locks must not be idle in between: that is not cancelled.
	$s->query_ok($locks) if $limit ne 'max_locks';
	$s->start($limit eq 'max_locks' ? "$locks; $sql" : $sql);
	$w = waiter($observer, 'waiter', $key) if $limit eq 'blocker_timeout';
	cmp_ok(run_again($s, $sql), '<=', $sql eq $sleep ? 1 : 2, "$limit, $sql: cancelled once");
	is($s->error->{C}, '57P01', 'then terminated');
	like($s->error->{D}, qr/lockguard\.$limit is $value/, 'and told why');
	if ($sql eq $sleep)
	{
		is_recorded($observer, $s, "$limit cancel escalated", "$limit terminate released");
	}
	else
	{
		# It is at the end of a transaction at nearly every look.
		ok(wait_until(sub { (recorded($observer, $s))[-1] eq "$limit terminate released" }), 'which is recorded');
		cmp_ok(scalar(recorded($observer, $s)), '<=', 6, 'in few rows');
	}
	if ($w)
	{
		succeeds($w, 'the waiter');
		$w->close;
	}
}

# The same for a session that makes way for one of higher priority.
{
	my $low = holder($node, 'low', ++$key, in => 'session', priority => 'low', escalation_delay => '400ms');
	$low->start($sleep);
	my $high = waiter($observer, 'high', $key, priority => 'high', preempt_timeout => '200ms');

	is(run_again($low, $sleep), 1, 'preempted: cancelled once');
	succeeds($high, 'who has the priority');
	is_recorded($observer, $low, 'preempt_timeout cancel escalated', 'preempt_timeout terminate released');
	$high->close;
}
{
	my $low = holder($node, 'low and idle', ++$key, in => 'session', priority => 'low', escalation_delay => '400ms');
	$low->start($sleep);
	my $high = waiter($observer, 'high', $key, priority => 'high', preempt_timeout => '200ms');

	$low->finish;
	$low->wait_closed;
	succeeds($high, 'who has the priority');
	is_recorded($observer, $low, 'preempt_timeout cancel escalated', 'preempt_timeout terminate released');
	$high->close;
}

# A session that may not be touched is one episode, whatever it runs.
{
	my ($s, $w) = blocked_pair($observer, 'exempt', ++$key, in => 'session', exempt => 'on', blocker_timeout => '100ms');

	ok(wait_until(sub { $s->query_ok('SELECT 1'); recorded($observer, $s) }), 'it is recorded');
	foreach (1 .. 20)
	{
		$s->query_ok('SELECT 1') foreach 1 .. 20;
		scan($observer);
	}
	is_recorded($observer, $s, 'blocker_timeout log exempt');
	is_alive($s, 'I');

	# Once another session waits, after longer than the limit, it is another episode.
	$w->close(silent => 1);
	$observer->query_ok('SELECT pg_terminate_backend(' . $w->pid . ')');
	ok($observer->poll('SELECT count(*) FROM pg_stat_activity WHERE pid = ' . $w->pid, 0), 'the waiter is gone');
	$s->query_ok($_) foreach 'SELECT pg_sleep(0.2)', 'SELECT 1';
	my $w2 = waiter($observer, 'another', $key);
	ok(wait_until(sub { $s->query_ok('SELECT 1'); recorded($observer, $s) > 1 }), 'another wait: recorded again');
	is_recorded($observer, $s, ('blocker_timeout log exempt') x 2);
	$_->close(silent => 1) foreach $s, $w2;
}

# But locks of a transaction go with it: the next one has a clock of its own.
{
	my $s = holder($node, 'in transactions', ++$key, blocker_timeout => '300ms', escalation_delay => '100ms');
	$s->start($sleep);
	my $w = waiter($observer, 'waiter', $key);

	is_cancelled($s, 'blocker_timeout');
	$s->query_ok('ROLLBACK');
	succeeds($w, 'the waiter');
	$w->query_ok("SELECT pg_advisory_unlock($key)");
	$s->query_ok($_) foreach 'BEGIN', "SELECT pg_advisory_xact_lock($key)";
	$s->start($sleep);
	$w->start("SELECT pg_advisory_lock($key)");
	is_cancelled($s, 'blocker_timeout');
	$s->query_ok('ROLLBACK');
	succeeds($w, 'the waiter');
	is_recorded($observer, $s, ('blocker_timeout cancel released') x 2);
	$_->close foreach $s, $w;
}

# The same with the worker standing still in between, so that nothing is left to
# chance.
SKIP:
{
	skip 'built without debug points', 1 unless has_wait_points($observer);

	# Another transaction has begun between judging and proving: the lock is the
	# session's, and that is proof enough.
	my $s = session($node, 'commits meanwhile', escalation_delay => '400ms');
	$s->query_ok('SELECT pg_advisory_lock(' . ++$key . ')');
	$s->start('DO $$ BEGIN LOOP PERFORM pg_sleep(0.01); COMMIT; END LOOP; END $$');
	my $w = waiter($observer, 'waiter', $key);
	configure($observer, blocker_timeout => '200ms', debug_wait_at => 'before_signal');
	worker_is_at($observer, 'before_signal');
	my $xact = $observer->value('SELECT xact_start FROM pg_stat_activity WHERE pid = ' . $s->pid);
	ok($observer->poll("SELECT xact_start > '$xact' FROM pg_stat_activity WHERE pid = " . $s->pid), 'it is in another transaction');
	let_worker_go($observer);
	run_again($s, $sleep);
	like(($s->errors)[0]{D} || '', qr/^lockguard: /, 'it is told why, in another transaction than the one judged');
	is($s->error->{C}, '57P01', 'it is terminated in the end');
	succeeds($w, 'the waiter');
	is_recorded($observer, $s, 'blocker_timeout cancel escalated', 'blocker_timeout terminate released');
	$w->close;
	configure($observer, blocker_timeout => undef);

	# A new transaction that blocks before the worker looks again is not
	# taken for the one that was cancelled.
	$s = holder($node, 'blocks anew', ++$key, escalation_delay => '200ms');
	$s->start($sleep);
	$w = waiter($observer, 'waiter', $key);
	configure($observer, blocker_timeout => '1s', debug_wait_at => 'before_signal');
	worker_is_at($observer, 'before_signal');
	$observer->query_ok($_) foreach "ALTER SYSTEM SET lockguard.debug_wait_at = 'after_act'", 'SELECT pg_reload_conf()';
	worker_is_at($observer, 'after_act');
	is($s->finish->{error}{C}, '57014', 'cancelled');
	$s->query_ok($_) foreach 'ROLLBACK', 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ++$key . ')';
	$s->start($sleep);
	my $w2 = waiter($observer, 'another waiter', $key);
	let_worker_go($observer);
	is_cancelled($s, 'blocker_timeout');
	$s->query_ok('ROLLBACK');
	is_recorded($observer, $s, ('blocker_timeout cancel released') x 2);
	succeeds($_, 'the waiter') foreach $w, $w2;
	$_->close foreach $s, $w, $w2;
}

$node->stop;
done_testing();
