# Acting: a session that inherits a lock and its queue starts with a clock of its
# own, and none is signalled that has stopped blocking by then.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');

# Handover.  S1 blocks S2 to S4, which queue up behind each other.  When S1
# has ended, S2 blocks those that have waited as long as itself.
sub handover
{
	my ($what, $setting, $begin, $lock, $after) = @_;
	my $in_transaction = $begin eq 'BEGIN';
	my @s = map { session($node, "$what S$_", $setting => '400ms') } 1 .. 4;

	configure($observer, enabled => 'off');
	$_->query_ok($begin) foreach @s;
	$s[0]->query_ok($lock);
	$s[0]->start('SELECT pg_sleep(600)') if $after;
	foreach my $waiting (@s[ 1 .. 3 ])
	{
		$waiting->start($lock . ($after ? '; SELECT pg_sleep(600)' : ''));
		is_waiting($observer, $waiting);
	}
	configure($observer, enabled => undef);

	foreach my $i (0 .. 2)
	{
		if ($after)
		{
			is_cancelled($s[$i], $setting);
		}
		else
		{
			succeeds($s[$i], 'the statement') if $i > 0;
			$in_transaction ? is_rolled_back($observer, $s[$i], $setting) : is_terminated($s[$i], $setting);
		}
	}
	my @rows = is_actions($observer,
		[ map { { pid => $s[$_], blocked_sessions => 3 - $_, result => 'released' } } 0 .. 2 ],
		"$what: one after the other");
	foreach my $i (1, 2)
	{
		# The lock is handed over after the signal: less is too early.
		my $gap = $rows[$i]{acted_at} - $rows[ $i - 1 ]{acted_at};
		cmp_ok($gap, '>=', 0.4, "$what: S" . ($i + 1) . ' has a clock of its own');
	}
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach @s;
	$s[3]->wait_closed;
	return;
}

handover('row', 'idle_blocker_timeout', 'BEGIN', 'UPDATE t SET v = v + 1 WHERE id = 1', 0);
handover('advisory', 'idle_blocker_timeout', 'SELECT 1', 'SELECT pg_advisory_lock(1)', 0);
handover('table', 'idle_blocker_timeout', 'BEGIN', 'LOCK TABLE t', 0);
handover('active', 'blocker_timeout', 'BEGIN', 'SELECT pg_advisory_xact_lock(2)', 1);

# A session that has inherited a queue and lets go before its own limit is
# never touched, though its heirs have waited for longer than that all along.
{
	my $first = holder($node, 'first', 3);
	my @quick = map { session($node, "quick $_", idle_blocker_timeout => '1s', blocker_timeout => '1s') } 1 .. 10;

	$_->query_ok('BEGIN') foreach @quick;
	begins_to_wait($observer, $_->start('SELECT pg_advisory_xact_lock(3); SELECT pg_sleep(0.15); COMMIT'))
	  foreach @quick;
	ok($observer->poll("SELECT max(waitstart) < clock_timestamp() - interval '1.2 s' FROM pg_locks WHERE NOT granted"),
		'all have waited for longer than the limit');
	$first->query_ok('COMMIT');
	succeeds($_, 'holding the lock for a moment') foreach @quick;
	scan($observer);
	is_actions($observer, [], 'those who pass the lock on are left alone');
	$_->close foreach $first, @quick;
}

if (!has_wait_points($observer))
{
	note 'built without wait points: the rest is not tested';
	$node->stop;
	done_testing();
	exit;
}

# From here on, the worker is stopped between judging a session and signalling it.
#
# Each story: the limit; how the session gets over it; what happens while the
# worker waits; and in which state the session must be afterwards.
my $key = 100;

# Have the worker judge $victim over $setting and stop before the signal.
sub judged
{
	my ($setting, $set) = @_;
	my $value = $setting =~ /timeout/ ? '200ms' : 1;

	stop_worker_at($observer, 'before_signal');
	$observer->query_ok("ALTER SYSTEM SET lockguard.$setting = '$value'");
	$observer->query_ok("ALTER SYSTEM SET lockguard.exempt = on");
	$observer->query_ok('SELECT pg_reload_conf()');
	return worker_is_at($observer, 'before_signal');
}

# Let it go, with the limit gone, too: nothing may come after.
sub judged_no_more
{
	my ($setting) = @_;

	let_worker_go($observer, $setting => undef, exempt => undef);
	return;
}

# The control: nothing happens in the meantime, and the signal is sent.
{
	my ($s1, $w1) = blocked_pair($observer, 'stays', ++$key, exempt => 'off');

	judged('idle_blocker_timeout');
	judged_no_more('idle_blocker_timeout');
	is_rolled_back($observer, $s1, 'idle_blocker_timeout');
	succeeds($w1, 'the waiter');
	is_recorded($observer, $s1, 'idle_blocker_timeout rollback released');
}

sub self_resolved
{
	my ($setting, $session, $meanwhile, $state) = @_;

	judged($setting);
	$meanwhile->();
	judged_no_more($setting);
	is_recorded($observer, $session, "$setting log self_resolved");
	is_alive($session, $state) if defined $state;
	return;
}

{
	my ($s1, $w1) = blocked_pair($observer, 'commits', ++$key, exempt => 'off');

	self_resolved('idle_blocker_timeout', $s1,
		sub { $s1->query_ok('COMMIT'); succeeds($w1, 'the waiter'); }, 'I');
	$_->close foreach $s1, $w1;
}
{
	# Even if it still blocks.
	my ($s1, $w1) = blocked_pair($observer, 'works', ++$key, exempt => 'off', in => 'session');

	self_resolved('idle_blocker_timeout', $s1,
		sub { $s1->query_ok('SELECT 1'); }, 'I');
	$_->close(silent => 1) foreach $w1, $s1;
}
{
	my ($s1, $w1) = blocked_pair($observer, 'another transaction', ++$key, exempt => 'off', in => 'session');

	$s1->query_ok('BEGIN');
	self_resolved('idle_blocker_timeout', $s1,
		sub { $s1->query_ok('COMMIT'); $s1->query_ok('BEGIN'); }, 'T');
	$_->close(silent => 1) foreach $w1, $s1;
}
{
	my ($s1, $w1) = blocked_pair($observer, 'nobody waits', ++$key, exempt => 'off');

	self_resolved('idle_blocker_timeout', $s1,
		sub {
			$observer->query_ok('SELECT pg_cancel_backend(' . $w1->pid . ')');
			is($w1->finish->{error}{C}, '57014', 'the waiter is cancelled');
		},
		'T');
	$_->close foreach $s1, $w1;
}
{
	# Another session waits by then: a new wait, for which it is not to blame.
	my ($s1, $w1) = blocked_pair($observer, 'another waits', ++$key, exempt => 'off');
	my $w2;

	self_resolved('idle_blocker_timeout', $s1,
		sub {
			$observer->query_ok('SELECT pg_cancel_backend(' . $w1->pid . ')');
			$w1->finish;
			$w2 = waiter($observer, 'another waiter', $key);
		},
		'T');
	$_->close(silent => 1) foreach $w2, $s1, $w1;
}
{
	# Its place is taken by another session, which may have got its PGPROC.
	my ($s1, $w1) = blocked_pair($observer, 'leaves', ++$key, exempt => 'off');
	my $heir;

	self_resolved('idle_blocker_timeout', $s1,
		sub {
			$s1->close;
			succeeds($w1, 'the waiter');
			$heir = holder($node, 'heir', $key + 1000);
		},
		undef);
	is_alive($heir, 'T');
	is_alive($w1, 'I');
	$_->close foreach $heir, $w1;
	$key++;
}
{
	my $holder = holder($node, 'holder', ++$key);
	my $s1 = waiter($observer, 'gets it', $key, exempt => 'off');

	self_resolved('lock_wait_timeout', $s1,
		sub { $holder->query_ok('COMMIT'); succeeds($s1, 'the wait'); }, 'I');
	$_->close foreach $holder, $s1;
}
{
	# The same session waits again, for the same lock.
	my $holder = holder($node, 'holder', ++$key);
	my $s1 = waiter($observer, 'waits again', $key, exempt => 'off');

	self_resolved('lock_wait_timeout', $s1,
		sub {
			$holder->query_ok('COMMIT');
			succeeds($s1, 'the wait');
			$s1->query_ok("SELECT pg_advisory_unlock($key)");
			$holder->query_ok('BEGIN');
			$holder->query_ok("SELECT pg_advisory_xact_lock($key)");
			$s1->start("SELECT pg_advisory_lock($key)");
			is_waiting($observer, $s1);
		},
		undef);
	$holder->query_ok('COMMIT');
	succeeds($s1, 'the next wait');
	$_->close foreach $holder, $s1;
}
{
	my $reader = session($node, 'reader');
	my $s1 = session($node, 'ALTER', exempt => 'off');
	my $w1 = session($node, 'behind');

	$reader->query_ok('BEGIN');
	$reader->query_ok('SELECT FROM t LIMIT 1');
	$s1->start('ALTER TABLE t ADD COLUMN w int');
	is_waiting($observer, $s1);
	$w1->start('SELECT FROM t LIMIT 1');
	is_waiting($observer, $w1);
	self_resolved('queued_blocker_timeout', $s1,
		sub { $reader->query_ok('COMMIT'); succeeds($s1, 'ALTER'); succeeds($w1, 'SELECT'); }, 'I');
	$_->close foreach $reader, $s1, $w1;
}

# What is counted must still be there: that it blocks any session is not enough.
{
	my ($s1, $w1) = blocked_pair($observer, 'too many', ++$key, exempt => 'off');
	my @w = map { waiter($observer, "one of $_", $key) } 2 .. 3;

	# One of three goes, and there are more than one all the same.
	older_than($observer, 'query_start', '1.1 s', $w1, @w);
	judged('max_blocked_sessions');
	$observer->query_ok('SELECT pg_cancel_backend(' . $w[0]->pid . ')');
	$w[0]->finish;
	judged_no_more('max_blocked_sessions');
	is_rolled_back($observer, $s1, 'max_blocked_sessions');
	succeeds($w1, 'the waiter');
	$_->close(silent => 1) foreach $w1, @w;
}
{
	my ($s1, $w1) = blocked_pair($observer, 'not so many', ++$key, exempt => 'off');
	my $w2 = waiter($observer, 'gives up', $key);

	self_resolved('max_blocked_sessions', $s1,
		sub {
			$observer->query_ok('SELECT pg_cancel_backend(' . $w2->pid . ')');
			$w2->finish;
		},
		'T');
	$_->close(silent => 1) foreach $w1, $w2, $s1;
}
{
	# The second waits for a session that no longer waits for it.
	my ($s1, $w1) = blocked_pair($observer, 'cut off', $key += 2, exempt => 'off');
	my $between = holder($node, 'between', $key + 1, in => 'session');
	$between->start("SELECT pg_advisory_lock($key)");
	begins_to_wait($observer, $between);
	my $w2 = waiter($observer, 'behind it', $key + 1);

	older_than($observer, 'query_start', '1.1 s', $w1, $between, $w2);
	self_resolved('max_blocked_sessions', $s1,
		sub {
			$observer->query_ok('SELECT pg_cancel_backend(' . $between->pid . ')');
			$between->finish;
		},
		'T');
	is_blocked_by($observer, $w2, $between);
	$_->close(silent => 1) foreach $w1, $w2, $between, $s1;
	$key++;
}
{
	# The same on the way to a session of higher priority.
	my @low = map { holder($node, "low $_", $key + $_, in => 'session', priority => 'low', exempt => 'off') } 1 .. 3;
	my $high;

	foreach my $i (1, 2)
	{
		$low[$i]->start('SELECT pg_advisory_lock(' . ($key + $i) . ')');
		begins_to_wait($observer, $low[$i]);
	}
	$high = waiter($observer, 'high', $key + 3, priority => 'high');
	self_resolved('preempt_timeout', $low[0],
		sub {
			$observer->query_ok('SELECT pg_cancel_backend(' . $low[2]->pid . ')');
			$low[2]->finish;
			is_blocked_by($observer, $high, $low[2]);
		},
		'I');
	$_->close(silent => 1) foreach $high, @low;
	$key += 3;
}

# Who has been signalled, and is about to be again but is not, is told the
# reason for the first signal.
{
	my $holder = holder($node, 'holder', ++$key);
	my $s1 = waiter($observer, 'told', $key, exempt => 'off', escalation_delay => '100ms');

	judged('lock_wait_timeout');
	kill 'STOP', $s1->pid;
	let_worker_go($observer);
	is_recorded($observer, $s1, 'lock_wait_timeout cancel pending');
	judged('statement_timeout');
	$observer->query_ok('SELECT lockguard.exempt(' . $s1->pid . ", '1h')");
	judged_no_more('statement_timeout');
	is_recorded($observer, $s1, 'lock_wait_timeout cancel pending', 'statement_timeout log exempt');
	kill 'CONT', $s1->pid;
	is_cancelled($s1, 'lock_wait_timeout');
	configure($observer, lock_wait_timeout => undef);
	$_->close foreach $s1, $holder;
}

# Limits on ages are verified as strictly.
foreach my $case (
	[ 'transaction_timeout', 'BEGIN', 'COMMIT; BEGIN', 'T' ],
	[ 'idle_in_transaction_timeout', 'BEGIN', 'SELECT 1', 'T' ],
	[ 'idle_session_timeout', 'SELECT 1', 'SELECT 1', 'I' ],
	[ 'max_locks', 'BEGIN; SELECT pg_advisory_xact_lock(1), pg_advisory_xact_lock(2)', 'COMMIT; BEGIN', 'T' ])
{
	my ($setting, $begin, $meanwhile, $state) = @$case;
	my $s1 = session($node, $setting, exempt => 'off');

	$s1->query_ok($_) foreach split /; /, $begin;
	self_resolved($setting, $s1,
		sub { $s1->query_ok($_) foreach split /; /, $meanwhile; }, $state);
	$s1->close;
}
{
	my $s1 = session($node, 'statement', exempt => 'off');

	$s1->query_ok('BEGIN');
	# As long as no session holds the lock up, and it has nothing else to do.
	my $holder = holder($node, 'holder', ++$key);
	$s1->start("SELECT pg_advisory_xact_lock($key)");
	self_resolved('statement_timeout', $s1,
		sub {
			$holder->query_ok('COMMIT');
			succeeds($s1, 'the statement');
			$holder->query_ok("SELECT pg_advisory_lock(1$key)");
			$s1->start("SELECT pg_advisory_xact_lock(1$key)");
			is_waiting($observer, $s1);
		},
		undef);
	$holder->query_ok("SELECT pg_advisory_unlock(1$key)");
	succeeds($s1, 'the next statement');
	$_->close foreach $s1, $holder;
}

# What happens between looking and judging is no different.
foreach my $point (qw(before_judge before_act))
{
	configure($observer, enabled => 'off');
	my ($s1, $w1) = blocked_pair($observer, $point, ++$key, idle_blocker_timeout => '200ms');
	older_than($observer, 'state_change', '300ms', $s1, $w1);
	configure($observer, enabled => 'on', debug_wait_at => $point);
	worker_is_at($observer, $point);
	$s1->query_ok('COMMIT');
	let_worker_go($observer);
	is_recorded($observer, $s1, 'idle_blocker_timeout log self_resolved');
	is_alive($s1, 'I');
	$_->close foreach $s1, $w1;
}

$node->stop;
done_testing();
