# What comes of it: escalation, what may be done to whom, and in which order.

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
my $key = 0;

# At most two signals in a minute: between trees, those with the most sessions
# behind them come first.  This has to be the first test of this server.
{
	configure($observer, max_actions_per_minute => 2, enabled => 'off');
	my (@roots, @waiters);
	my $offset = -s $node->logfile;

	foreach my $blocked (2, 1, 3)
	{
		push @roots, holder($node, "with $blocked", ++$key, idle_blocker_timeout => '200ms');
		push @waiters, waiter($observer, "of $blocked", $key) foreach 1 .. $blocked;
	}
	older_than($observer, 'state_change', '300ms', @roots, @waiters);
	configure($observer, enabled => undef);
	is_rolled_back($observer, $roots[$_], 'idle_blocker_timeout') foreach 2, 0;
	is_recorded($observer, $roots[1], 'idle_blocker_timeout rollback suppressed');
	scan($observer);
	is_actions($observer,
		[
			{ pid => $roots[2], result => 'released', blocked_sessions => 3 },
			{ pid => $roots[0], result => 'released', blocked_sessions => 2 },
			{ pid => $roots[1], result => 'suppressed', blocked_sessions => 1 }
		]);
	my @warnings = slurp_log($offset) =~ /WARNING:  lockguard: max_actions_per_minute \(2\) is reached/g;
	is(scalar @warnings, 1, 'there is one warning');
	is_alive($roots[1], 'T');

	# When more is allowed, it goes, too.
	configure($observer, max_actions_per_minute => 1000);
	is_rolled_back($observer, $roots[1], 'idle_blocker_timeout');
	forget_actions($observer);
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach @waiters;
}

sub slurp_log
{
	my ($offset) = @_;
	return PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset);
}

# Its wait ends, and another begins.
sub wait_anew
{
	my ($waiter, $wanted) = @_;

	$observer->query_ok('SELECT pg_cancel_backend(' . $waiter->pid . ')');
	$waiter->finish;
	$waiter->start("SELECT pg_advisory_lock($wanted)");
	begins_to_wait($observer, $waiter);
	return;
}

# Sessions that do not react at all.  The outcome is checked at the end.
my ($stopped, $stopped_waiter) = blocked_pair($observer, 'stopped', ++$key, in => 'session');
my $unresponsive_from = -s $node->logfile;
kill 'STOP', $stopped->pid;
{
	# Its own value is not read any more; that of the server is.
	configure($observer, idle_blocker_timeout => '300ms');
	is_recorded($observer, $stopped, 'idle_blocker_timeout terminate pending');
	configure($observer, idle_blocker_timeout => undef);
}
# Put it back in force, as "over its limit" is what is followed.
configure($observer, idle_blocker_timeout => '1min');
# One that is asked to roll back, and whose connection may not be ended.
my ($asked, $asked_waiter) = blocked_pair($observer, 'asked', ++$key, idle_blocker_timeout => '3s', action => 'rollback');
kill 'STOP', $asked->pid;
END { kill 'CONT', $_->pid foreach grep { $_ } $stopped, $asked; }

# Cancel, then roll back: a cancel frees no row that was locked before a
# savepoint.  The twin has none, and is left alone.
{
	my @s = map { session($node, $_, blocker_timeout => '300ms', escalation_delay => '500ms') }
	  'savepoint', 'none';
	my @w;

	foreach my $i (0, 1)
	{
		$s[$i]->query_ok('BEGIN');
		$s[$i]->query_ok("UPDATE t SET v = 1 WHERE id = 1$i");
		$s[$i]->query_ok('SAVEPOINT a') if $i == 0;
		$s[$i]->start('SELECT pg_sleep(600)');
		push @w, begins_to_wait($observer, session($node, "waiter $i")->start("UPDATE t SET v = 2 WHERE id = 1$i"));
	}
	is_cancelled($_, 'blocker_timeout') foreach @s;
	succeeds($w[1], 'the waiter of the twin');
	succeeds($w[0], 'the waiter');
	is_rolled_back(undef, $s[0], 'blocker_timeout');
	is_recorded($observer, $s[0], 'blocker_timeout cancel escalated', 'blocker_timeout rollback released');
	is_recorded($observer, $s[1], 'blocker_timeout cancel released');
	cmp_ok(
		$observer->value('SELECT extract(epoch FROM max(acted_at) - min(acted_at)) FROM lockguard.actions WHERE pid = ' . $s[0]->pid),
		'>=', 0.5, 'the delay was kept to');
	is_alive($s[1], 'E');
	$_->close foreach @s, @w;
	forget_actions($observer);
}

# Cancel, then roll back, then terminate: a lock of the session outlives all but
# its end.  Each step has the delay of its own.
{
	my ($s, $w) = blocked_pair($observer, 'all three', ++$key, in => 'session',
		blocker_timeout => '300ms', escalation_delay => '500ms');

	# A transaction that began after the wait could not help.
	$s->query_ok($_) foreach 'BEGIN', 'SAVEPOINT a';
	wait_anew($w, $key);
	$s->start('SELECT pg_sleep(600)');
	is_cancelled($s, 'blocker_timeout');
	is_terminated($s, 'blocker_timeout');
	succeeds($w, 'the waiter');
	is_recorded($observer, $s, 'blocker_timeout cancel escalated', 'blocker_timeout rollback escalated',
		'blocker_timeout terminate released');
	cmp_ok(
		$observer->value('SELECT extract(epoch FROM min(gap)) FROM (SELECT acted_at - lag(acted_at) OVER (ORDER BY action_id) gap'
			  . ' FROM lockguard.actions WHERE pid = ' . $s->pid . ') a'),
		'>=', 0.5, 'the delay was kept to, twice');
	$w->close;
	forget_actions($observer);
}

# action = rollback goes as far, and no further: the connection is not ended.
{
	my ($s, $w) = blocked_pair($observer, 'rollback only', ++$key, in => 'session', action => 'rollback',
		blocker_timeout => '300ms', escalation_delay => '200ms');

	# A transaction that began after the wait could not help.
	$s->query_ok($_) foreach 'BEGIN', 'SAVEPOINT a';
	wait_anew($w, $key);
	$s->start('SELECT pg_sleep(600)');
	is_cancelled($s, 'blocker_timeout');
	is_rolled_back($observer, $s, 'blocker_timeout');
	ok(older_than($observer, 'state_change', '800ms', $s), 'a while goes by');
	scan($observer);
	is((recorded($observer, $s))[0], 'blocker_timeout cancel escalated', 'the cancel was not enough');
	is($observer->value("SELECT count(*) FROM lockguard.actions WHERE action = 'terminate' AND pid = " . $s->pid), '0',
		'it is not terminated');
	is_alive($s, 'I');
	$_->close(silent => 1) foreach $w, $s;
	forget_actions($observer);
}

# It is at work again after a cancel, from a savepoint: the delay still counts, and
# it is terminated.  So it does for the twin, which begins a new transaction, but
# keeps the lock.
{
	my @s = map { session($node, $_, blocker_timeout => '300ms', escalation_delay => '2s') }
	  'goes on', 'begins anew';
	my @w;

	foreach my $i (0, 1)
	{
		$s[$i]->query_ok('BEGIN');
		$s[$i]->query_ok('SELECT pg_advisory_lock(' . ++$key . ')');
		$s[$i]->query_ok('SAVEPOINT a');
		push @w, waiter($observer, "waiter $i", $key);
		$s[$i]->start('SELECT pg_sleep(600)');
	}
	is_cancelled($_, 'blocker_timeout') foreach @s;
	$s[0]->start('ROLLBACK TO a; SELECT pg_sleep(600)');
	$s[1]->start('ROLLBACK; BEGIN; SELECT pg_sleep(600)');
	foreach (@s)
	{
		is_terminated($_, 'blocker_timeout');
		is_recorded($observer, $_, 'blocker_timeout cancel escalated', 'blocker_timeout terminate released');
	}
	succeeds($_, 'the waiter') foreach @w;
	$_->close foreach @w;
	forget_actions($observer);
}

# The most that may be done to a session is up to the session.
{
	my %set = (
		'cancel and idle' => { action => 'cancel' },
		'rollback, no transaction' => { action => 'rollback', in => 'session' },
		'log' => { action => 'log' },
		'exempt' => { exempt => 'on' });
	my %expected = (
		'cancel and idle' => 'idle_blocker_timeout log logged',
		'rollback, no transaction' => 'idle_blocker_timeout log logged',
		'log' => 'idle_blocker_timeout log logged',
		'exempt' => 'idle_blocker_timeout log exempt');
	my %reason = (
		'cancel and idle' => 'lockguard.action is cancel, which cannot reach this session',
		'rollback, no transaction' => 'lockguard.action is rollback, which cannot reach this session',
		'log' => 'lockguard.action is log',
		'exempt' => 'lockguard.exempt is on');
	my (@all, %s);

	foreach my $name (sort keys %set)
	{
		my ($s, $w) = blocked_pair($observer, $name, ++$key, idle_blocker_timeout => '200ms', %{ $set{$name} });
		$s{$name} = $s;
		push @all, $s, $w;
	}
	my ($twin, $twin_waiter) = blocked_pair($observer, 'twin', ++$key, idle_blocker_timeout => '200ms', action => 'rollback');
	is_rolled_back($observer, $twin, 'idle_blocker_timeout');
	is_recorded($observer, $s{$_}, $expected{$_}) foreach sort keys %set;
	scan($observer);
	foreach my $name (sort keys %set)
	{
		is_recorded($observer, $s{$name}, $expected{$name});
		is($observer->value('SELECT reason FROM lockguard.actions WHERE pid = ' . $s{$name}->pid),
			$reason{$name}, "$name: with the reason");
		is_alive($s{$name}, $set{$name}{in} ? 'I' : 'T');
	}
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach @all;
	$_->close(silent => 1) foreach $twin_waiter;
	forget_actions($observer);
}

# What is not done is recorded once, for however many it would have been done.
{
	my $s = holder($node, 'in the way of two', ++$key, exempt => 'on', priority => 'low');
	my @w;

	$s->query_ok('SELECT pg_advisory_xact_lock(' . ($key + 1) . ')');
	push @w, waiter($observer, "more important $_", $key + $_, preempt_timeout => '200ms') foreach 0, 1;
	$key++;
	is_recorded($observer, $s, 'preempt_timeout log exempt');
	older_than($observer, 'state_change', '400ms', @w);
	scan($observer) foreach 1 .. 3;
	is_recorded($observer, $s, 'preempt_timeout log exempt');
	$_->close(silent => 1) foreach @w, $s;
	forget_actions($observer);
}

# action = cancel reaches who is at work, and does not escalate.
{
	my $s = session($node, 'cancel only', action => 'cancel', blocker_timeout => '200ms', escalation_delay => 0);
	$s->query_ok('BEGIN');
	$s->query_ok('UPDATE t SET v = 1 WHERE id = 20');
	$s->query_ok('SAVEPOINT a');
	$s->start('SELECT pg_sleep(600)');
	my $w = begins_to_wait($observer, session($node, 'waiter')->start('UPDATE t SET v = 2 WHERE id = 20'));

	is_cancelled($s, 'blocker_timeout');
	older_than($observer, 'state_change', '500ms', $s);
	scan($observer);
	is_alive($s, 'E');
	succeeds($w, 'the waiter');
	is_recorded($observer, $s, 'blocker_timeout cancel released');
	$_->close foreach $s, $w;
}

# exempt() is for a time, and for that session only.
{
	my ($s1, $w1) = blocked_pair($observer, 'for a time', ++$key);
	my ($s2, $w2) = blocked_pair($observer, 'taken back', ++$key);
	is($observer->value('SELECT lockguard.exempt(' . $s1->pid . ", '2s')"), 't', 'exempt for a time');
	is($observer->value('SELECT lockguard.exempt(' . $s2->pid . ", '1h')"), 't', 'exempt for long');
	my $since = $observer->value('SELECT clock_timestamp()');

	configure($observer, idle_blocker_timeout => '200ms');
	is_rolled_back($observer, $s1, 'idle_blocker_timeout');
	is_recorded($observer, $s1, 'idle_blocker_timeout log exempt', 'idle_blocker_timeout rollback released');
	cmp_ok(
		$observer->value("SELECT extract(epoch FROM max(acted_at) - '$since') FROM lockguard.actions WHERE pid = " . $s1->pid),
		'>=', 1.9, 'not before the time was over');
	is_recorded($observer, $s2, 'idle_blocker_timeout log exempt');
	is_alive($s2, 'T');
	is($observer->value('SELECT reason FROM lockguard.actions WHERE pid = ' . $s2->pid),
		'exempt for a time by lockguard.exempt()', 'with the reason');
	is($observer->value('SELECT lockguard.exempt(' . $s2->pid . ', NULL)'), 't', 'taken back');
	is_rolled_back($observer, $s2, 'idle_blocker_timeout');
	configure($observer, idle_blocker_timeout => '1min');
	$_->close(silent => 1) foreach $w1, $w2;
	forget_actions($observer);
}

# What has become of the one that does not roll back?  (Before requests are withdrawn
# by a pause.)
is_recorded($observer, $asked, 'idle_blocker_timeout rollback unresponsive');
$node->wait_for_log(
	qr/WARNING:  lockguard: process @{[ $asked->pid ]} has not rolled its transaction back for 10 s/,
	$unresponsive_from);
pass('there is a warning');
kill 'CONT', $asked->pid;
is_rolled_back($observer, $asked, 'idle_blocker_timeout');
succeeds($asked_waiter, 'the waiter');
is_recorded($observer, $asked, 'idle_blocker_timeout rollback released');
$_->close foreach $asked, $asked_waiter;
undef $asked;
forget_actions($observer);

# dry_run, pause and enabled = off: no session is signalled.  All but the last
# record what would have been done.
foreach my $how (
	[ 'dry_run', sub { configure($observer, dry_run => 'on') }, sub { configure($observer, dry_run => undef) }, 1 ],
	[ 'pause', sub { $observer->query_ok("SELECT lockguard.pause('1h')") }, sub { $observer->query_ok('SELECT lockguard.resume()') }, 1 ],
	[ 'pause for a time', sub { $observer->query_ok("SELECT lockguard.pause('3s')") }, sub { }, 1 ],
	[ 'enabled', sub { configure($observer, enabled => 'off') }, sub { configure($observer, enabled => undef) }, 0 ])
{
	my ($name, $on, $off, $logged) = @$how;
	my @row = $logged ? ('idle_blocker_timeout rollback logged') : ();

	$on->();
	my ($s, $w) = blocked_pair($observer, $name, ++$key, idle_blocker_timeout => '200ms');
	older_than($observer, 'state_change', '400ms', $s, $w);
	$observer->query_ok('SELECT lockguard.scan()');
	if ($name eq 'pause for a time')
	{
		is((recorded($observer, $s))[0], $row[0], "$name: recorded");
	}
	else
	{
		is_recorded($observer, $s, @row);
		is($observer->value('SELECT dry_run FROM lockguard.actions WHERE pid = ' . $s->pid),
			$name eq 'dry_run' ? 't' : 'f', "$name: dry_run shows") if $logged;
		is_alive($s, 'T');
	}
	$off->();
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	is_recorded($observer, $s, @row, 'idle_blocker_timeout rollback released');
	succeeds($w, 'the waiter');
	$w->close;
}
forget_actions($observer);

# One tree: an idle root first, then the queued blocker, then an active root; but one that helps
# alone before one that only helps together with others.
foreach my $case (
	[ 'idle root before queued', 'i', 'q', 'i' ],
	[ 'queued before active root', 'a', 'q', 'q' ],
	[ 'alone before together', 'ia', 'q', 'q' ],
	[ 'idle root before active root', 'ia', '', 'via' ],
	[ 'exempt does not end the search', 'e', 'q', 'qe' ])
{
	my ($name, $roots, $queued_limit, $order) = @$case;

	configure($observer, enabled => 'off');
	my %s = (
		i => session($node, 'idle root', idle_blocker_timeout => '200ms'),
		e => session($node, 'exempt root', idle_blocker_timeout => '200ms', exempt => 'on'),
		a => session($node, 'active root', blocker_timeout => '200ms'),
		q => session($node, 'queued', $queued_limit ? (queued_blocker_timeout => '200ms') : ()));
	my $reader = session($node, 'reader', lock_wait_timeout => 0);
	my %limit = (i => 'idle_blocker_timeout', e => 'idle_blocker_timeout', a => 'blocker_timeout', q => 'queued_blocker_timeout');

	foreach my $root (@s{ split //, $roots })
	{
		$root->query_ok($_) foreach 'BEGIN', 'SELECT FROM t LIMIT 1';
	}
	$s{a}->start('SELECT pg_sleep(600)');
	$s{q}->start('ALTER TABLE t ADD COLUMN IF NOT EXISTS w int');
	is_waiting($observer, $s{q});
	$reader->start('SELECT FROM t LIMIT 1');
	is_waiting($observer, $reader);
	older_than($observer, 'state_change', '400ms', values %s, $reader);
	configure($observer, enabled => undef);

	my @expected;
	foreach my $c (split //, $order)
	{
		my %row = (pid => $s{$c}, limit_name => $limit{$c}, action => $c eq 'i' ? 'rollback' : 'cancel', result => 'released');

		%row = (pid => $s{$c}, limit_name => $limit{$c}, result => 'exempt') if $c eq 'e';

		# How long an active one has held its lock is not known before the first look.
		%row = (pid => $s{i}, limit_name => $limit{i}, action => 'log', result => 'logged') if $c eq 'v';
		is_rolled_back($observer, $s{$c}, $limit{$c}) if $c eq 'i';
		is_cancelled($s{$c}, $limit{$c}) if $c eq 'a' || $c eq 'q';
		push @expected, \%row;
	}
	succeeds($s{q}, 'ALTER') if $order !~ /q/;
	succeeds($reader, 'SELECT');
	scan($observer);
	is_actions($observer, \@expected, "$name: in order");
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach @s{qw(i e a)};
	$_->close(silent => 1) foreach values %s, $reader;
}

# A session has reacted to its signal since this scan looked: it is not over its limit any more, and
# what the look says of those behind it is out of date.
SKIP:
{
	skip 'lockguard was built without LOCKGUARD_DEBUG', 1 unless has_wait_points($observer);
	my $root = session($node, 'root');
	my @q = map { session($node, "reacts late $_", queued_blocker_timeout => $_ ? '2s' : '200ms') } 0, 1;
	my $reader = session($node, 'reader');
	my $between = session($node, 'reader between them');

	$_->query_ok('BEGIN') foreach $root, @q;
	$root->query_ok('SELECT FROM t LIMIT 1');
	$q[0]->start('LOCK TABLE t');
	is_waiting($observer, $q[0]);
	kill 'STOP', $q[0]->pid;
	$between->start('SELECT FROM t LIMIT 1');
	is_waiting($observer, $between);
	$q[1]->start('LOCK TABLE t');
	is_waiting($observer, $q[1]);
	$reader->start('SELECT FROM t LIMIT 1');
	is_waiting($observer, $reader);
	is_recorded($observer, $q[0], 'queued_blocker_timeout cancel pending');
	stop_worker_at($observer, 'before_judge');
	worker_is_at($observer, 'before_judge');
	older_than($observer, 'state_change', '2500ms', $reader);
	kill 'CONT', $q[0]->pid;
	is_cancelled($q[0], 'queued_blocker_timeout');
	$root->query_ok('ROLLBACK');
	let_worker_go($observer);
	is_recorded($observer, $q[0], 'queued_blocker_timeout cancel released');
	scan($observer);
	is_deeply([ map { recorded($observer, $_) } @q ], ['queued_blocker_timeout cancel released'], 'and nothing else');
	$_->close foreach $root, @q, $reader, $between;
	forget_actions($observer);
}

# Of two queued blockers, the one nearest the root: it has the most behind it.  The other is spared also
# while the first no longer waits, but has not yet released what it holds.
foreach my $undo (0, 1)
{
	$observer->query_ok("SELECT lockguard.pause('1h')");
	$observer->query_ok('CREATE TABLE IF NOT EXISTS u ()');
	my $root = session($node, 'root');
	my @q = map { session($node, "queued $_", queued_blocker_timeout => '200ms') } 1, 2;
	my $reader = session($node, 'reader');

	$root->query_ok('BEGIN');
	$root->query_ok('SELECT FROM t LIMIT 1');
	$q[0]->query_ok('BEGIN');
	$q[0]->query_ok('LOCK TABLE u IN SHARE MODE');
	$q[0]->start(
		$undo
		? 'DO $$ BEGIN LOCK TABLE t; EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(1); RAISE; END $$'
		: 'LOCK TABLE t');
	is_waiting($observer, $q[0]);
	$q[1]->start("ALTER TABLE u ADD COLUMN w$undo int");
	is_waiting($observer, $q[1]);
	$reader->start('SELECT FROM u');
	is_waiting($observer, $reader);
	# Since when an active session holds a lock is known from looking only.
	is_recorded($observer, $q[0], 'queued_blocker_timeout cancel logged');
	older_than($observer, 'state_change', '400ms', @q, $reader);
	scan($observer);
	forget_actions($observer);
	$observer->query_ok('SELECT lockguard.resume()');
	is_cancelled($q[0], 'queued_blocker_timeout');
	succeeds($q[1], 'ALTER');
	succeeds($reader, 'SELECT');
	is_actions($observer, [ { pid => $q[0], blocked => [ $q[1], $reader ], result => 'released' } ],
		'of queued blockers the one nearest the root' . ($undo ? ', which takes its time' : ''));
	is_alive($root, 'T');
	$_->close foreach $root, @q, $reader;
}

# What has become of the one that does not react?
is_recorded($observer, $stopped, 'idle_blocker_timeout terminate unresponsive');
$node->wait_for_log(
	qr/WARNING:  lockguard: process @{[ $stopped->pid ]} has not reacted to being terminated for 10 s/,
	$unresponsive_from);
pass('there is a warning');
is($observer->value('SELECT unresponsive FROM lockguard.stats'), '2', 'both are counted');
kill 'CONT', $stopped->pid;
is_terminated($stopped, 'idle_blocker_timeout');
succeeds($stopped_waiter, 'the waiter');
is_recorded($observer, $stopped, 'idle_blocker_timeout terminate released');
undef $stopped;

# A lock of the session outlives the transaction that the cancel has ended.
foreach my $begin ('BEGIN', 'SELECT 1')
{
	my ($s, $w) = blocked_pair($observer, "session lock after $begin", ++$key, in => 'session',
		blocker_timeout => '300ms', escalation_delay => '500ms');

	$s->query_ok($begin);
	$s->start('SELECT pg_sleep(600)');
	is_cancelled($s, 'blocker_timeout');
	is_terminated($s, 'blocker_timeout');
	succeeds($w, 'the waiter');
	is_recorded($observer, $s, 'blocker_timeout cancel escalated', 'blocker_timeout terminate released');
	cmp_ok(
		$observer->value('SELECT extract(epoch FROM max(acted_at) - min(acted_at)) FROM lockguard.actions WHERE pid = ' . $s->pid),
		'>=', 0.5, 'the delay was kept to');
	$w->close;
}

# The next session in the place of one that was rolled back: before 17 it can have a
# transaction of the same local number, which is another one.
{
	my $number = "SELECT split_part(virtualtransaction, '/', 2)::int FROM pg_locks WHERE locktype = 'virtualxid' AND pid = pg_backend_pid()";
	my ($w, @s) = map { session($node, "place $_") } 0 .. 2;

	$s[1]->query_ok('SELECT 1') foreach 1 .. 100;
	$s[1]->query_ok($_) foreach "SET lockguard.idle_blocker_timeout = '100ms'", 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ++$key . ')';
	my $last = $s[1]->value($number);
	$w->start("SELECT pg_advisory_xact_lock($key)");
	succeeds($w, 'the waiter');
	is_rolled_back($observer, $s[1], 'idle_blocker_timeout');

	# It takes the PGPROC of the one, and the backend id of the other.
	foreach (@s)
	{
		$_->close;
		ok($observer->poll('SELECT count(*) FROM pg_stat_activity WHERE pid = ' . $_->pid, '0'), $_->name . ' has ended');
	}
	my $next = session($node, 'next in its place', idle_blocker_timeout => '100ms');
	my $now = 0;
	$now = $next->value($number) while $now < $last - 2;
	while ($now < $last)
	{
		$next->query_ok('COMMIT') if $next->{status} eq 'T';
		$next->query_ok('BEGIN');
		$now = $next->value($number);
	}
	$next->query_ok('BEGIN') if $next->{status} ne 'T';
	note "transaction $last, then $now";
	$next->query_ok("SELECT pg_advisory_xact_lock($key)");
	$w->start("SELECT pg_advisory_xact_lock($key)");
	is_recorded($observer, $next, 'idle_blocker_timeout rollback released');
	is_rolled_back(undef, $next, 'idle_blocker_timeout');
	$_->close(silent => 1) foreach $next, $w;
}

$node->stop;
done_testing();
