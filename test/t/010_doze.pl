# While nothing is at work the worker dozes, whatever is open; and what comes to
# wait for a lock is seen in time, by whichever way of the protocol.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'needs /proc' unless -r "/proc/$$/status";

# A limit of 100 ms has the worker look every 10 ms when it does not doze.
my $node = lockguard_node('main', conf => <<'CONF');
lockguard.naptime = '1s'
lockguard.idle_blocker_timeout = '100ms'
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');

# Asking the server would wake the worker: this is from outside.
sub wake_ups
{
	my ($seconds) = @_;
	my $before = switches();

	usleep($seconds * 1_000_000);
	return switches() - $before;
}

sub switches
{
	my ($n) = slurp_file("/proc/$worker/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	return $n;
}

# It begins to doze a second after the last statement, for as long as the
# smallest limit: 5 times in half a second, not 50 times.
sub dozes
{
	return wait_until(sub { wake_ups(0.5) <= 15 });
}

ok(dozes(), 'it dozes while no session is in a transaction');

# What may be open all the same.
foreach my $case (
	[ 'that has read', 'SELECT count(*) FROM t' ],
	[ 'that has written', 'UPDATE t SET v = 1 WHERE id = 1' ],
	[ 'that has failed', 'SELECT 1 / 0' ],
	[ 'with a table locked', 'LOCK TABLE t' ],
	[ 'with a table altered', 'ALTER TABLE t ALTER v SET DEFAULT 1' ],
	[ 'that reports no activity', 'SET track_activities = off' ])
{
	my ($what, $sql) = @$case;
	my $session = session($node, $what);

	$session->query_ok('BEGIN');
	$session->query($sql);
	ok(dozes(), "it dozes while there is a session $what");
	$session->close(silent => 1);
}

# What may not.
{
	my $busy = session($node, 'busy');

	$busy->start('SELECT pg_sleep(600)');
	wake_ups(1.5);				# when it would begin to doze
	cmp_ok(wake_ups(1), '>=', 20, 'it does not doze while a session is at work');
	$busy->close(silent => 1);
	ok($observer->poll('SELECT pg_terminate_backend(' . $busy->pid . ')', 'f')
		  || $observer->poll('SELECT count(*) FROM pg_stat_activity WHERE pid = ' . $busy->pid, '0'),
		'the session ends');
}

# What comes to wait is seen before the limit is passed.
sub blocker
{
	my ($name, $sql) = @_;
	my $blocker = session($node, $name);

	$blocker->query_ok('BEGIN');
	$blocker->query_ok($sql);
	return $blocker;
}

sub extended
{
	my ($session, @messages) = @_;

	$session->{busy} = 1;
	$session->send_message(@$_) foreach @messages, [ 'S', '' ];
	return;
}

my $advisory_lock = $observer->value("SELECT 'pg_advisory_lock(bigint)'::regprocedure::oid");
my %ways = (
	'a statement' => {
		lock => 'UPDATE t SET v = 1 WHERE id = 1',
		wait => sub { $_[0]->start('UPDATE t SET v = 2 WHERE id = 1'); }
	},
	'a utility statement' => {
		lock => 'SELECT count(*) FROM t',
		wait => sub { $_[0]->start('LOCK TABLE t'); }
	},
	'a portal of which rows have been fetched' => {
		lock => 'UPDATE t SET v = 1 WHERE id = 1',
		prepare => sub {
			my ($session) = @_;
			extended($session,
				[ 'P', "\0SELECT id FROM t WHERE id <= 2 ORDER BY id DESC FOR UPDATE\0\0\0" ],
				[ 'B', "p\0\0" . "\0\0" x 3 ],
				[ 'E', "p\0" . pack('N', 1) ]);
			$session->finish;
		},
		wait => sub { extended($_[0], [ 'E', "p\0" . pack('N', 1) ]); }
	},
	'a function called without a statement' => {
		lock => 'SELECT pg_advisory_xact_lock(1)',
		wait => sub {
			my ($session) = @_;
			$session->{busy} = 1;
			$session->send_message('F', pack('N n n n N', $advisory_lock, 1, 0, 1, 1) . '1' . "\0\0");
		}
	});
# One that is not seen waits for the end of a doze, up to 500 ms.
configure($observer, idle_blocker_timeout => '500ms');
foreach my $way (sort keys %ways)
{
	$observer->query_ok('SELECT lockguard.reset_stats()');
	foreach my $trial (1 .. 3)
	{
		my $waiter = session($node, "waiter $trial");
		my $blocker = blocker("blocker $trial", $ways{$way}{lock});

		$waiter->query_ok('BEGIN');
		$ways{$way}{prepare}->($waiter) if $ways{$way}{prepare};
		dozes() or die 'it does not doze';
		$ways{$way}{wait}->($waiter);
		is_rolled_back($observer, $blocker, 'idle_blocker_timeout');
		ok(!$waiter->finish->{error}, "$way: the waiter continues");
		$waiter->close;
	}
	my ($acted, $late) = @{ ($observer->rows(
		'SELECT acted_within_1s + acted_later, max_lateness FROM lockguard.stats'))[0] };
	is($acted, 3, 'all are counted');
	note "$way: $late ms late at most";
	cmp_ok($late, '<', 350, "$way is seen in time");
}
configure($observer, idle_blocker_timeout => '100ms');

# A lock that has more than one holder counts from when it is seen with an active
# one: a utility statement wakes the worker.
{
	configure($observer, idle_blocker_timeout => undef, blocker_timeout => '800ms');
	$observer->query_ok('SELECT lockguard.reset_stats()');
	my $blocker = session($node, 'active blocker');
	my $waiter = session($node, 'waiter');

	$waiter->query_ok('SELECT count(*) FROM t');
	usleep(1_500_000);
	$blocker->start("DO \$\$ BEGIN LOCK TABLE t; PERFORM pg_sleep(600); END \$\$");
	$observer->poll('SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND pid = '
		  . $blocker->pid . " AND mode = 'AccessExclusiveLock')");
	$waiter->start('SELECT count(*) FROM t');
	is_cancelled($blocker, 'blocker_timeout');
	ok(!$waiter->finish->{error}, 'the waiter continues');
	my $waited = $observer->value('SELECT extract(milliseconds FROM longest_wait) FROM lockguard.actions ORDER BY action_id DESC LIMIT 1');
	note "waited $waited ms";
	cmp_ok($waited, '<', 1250, 'the clock has begun soon after the wait');
	$_->close foreach $blocker, $waiter;
	configure($observer, blocker_timeout => undef, idle_blocker_timeout => '100ms');
}

# A limit on ages that is passed in the middle of a doze.
{
	$observer->query_ok('SELECT lockguard.reset_stats()');
	my $idle = session($node, 'idle', idle_session_timeout => '1500ms');

	is_terminated($idle, 'idle_session_timeout');
	cmp_ok($observer->value('SELECT max_lateness FROM lockguard.stats'),
		'<', 300, 'a doze ends in time');
}

$node->stop;

# With many connections allowed, the worker passes over those that there are.
{
	my $large = lockguard_node('large', conf => <<'CONF');
max_connections = 600
log_min_messages = debug1
lockguard.naptime = '100ms'
CONF
	my $seen = LockguardTest::Session->new($large, 'observer');
	my ($s, $w) = blocked_pair($seen, 'among few', 1, idle_blocker_timeout => '200ms');

	is_rolled_back($seen, $s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	like(slurp_file($large->logfile), qr/lockguard: the list of connected processes is read in place/,
		'the list of those is where it is expected');
	$large->stop;
}
done_testing();
