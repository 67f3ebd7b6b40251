# While nobody is at work the worker dozes, whatever is open; and whoever comes
# to wait for a lock wakes it, by whichever way of the protocol.

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

# It begins to doze a second after the last statement, for a second; this
# returns early in it.
sub dozes
{
	return wait_until(sub { wake_ups(0.2) <= 1 });
}

ok(dozes(), 'it dozes while nobody is in a transaction');

# What may be open all the same: no statement can come to wait for it unseen.
{
	my $reader = session($node, 'reader');
	my $writer = session($node, 'writer');
	my $failed = session($node, 'failed');

	$_->query_ok('BEGIN') foreach $reader, $writer, $failed;
	$reader->query_ok('SELECT count(*) FROM t');
	$writer->query_ok('UPDATE t SET v = 1 WHERE id = 1');
	$failed->query('SELECT 1 / 0');
	ok(dozes(), 'it dozes while sessions are idle in transaction');
	$_->close foreach $reader, $writer, $failed;
}

# What may not: a reader waits for a strong lock before it tells us of itself,
# a COPY may go on at any moment, and who reports nothing may be at work.
foreach my $case (
	[ 'with a table locked', 'LOCK TABLE t' ],
	[ 'with a table altered', 'ALTER TABLE t ALTER v SET DEFAULT 1' ],
	[ 'in a COPY', 'COPY t FROM STDIN' ],
	[ 'that reports no activity', 'SET track_activities = off' ])
{
	my ($what, $sql) = @$case;
	my $session = session($node, $what);

	$session->query_ok('BEGIN');
	$session->start($sql);
	$session->finish unless $sql =~ /^COPY/;
	wake_ups(1.5);				# when it would begin to doze
	cmp_ok(wake_ups(1), '>=', 20, "it does not doze while there is a session $what");
	$session->close(silent => 1);
}

# Whoever comes to wait is seen at once.
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
		is_terminated($blocker, 'idle_blocker_timeout');
		ok(!$waiter->finish->{error}, "$way goes on");
		$waiter->close;
	}
	my ($acted, $late) = @{ ($observer->rows(
		'SELECT acted_within_1s + acted_later, max_lateness FROM lockguard.stats'))[0] };
	is($acted, 3, 'all are counted');
	note "$way: $late ms late at most";
	cmp_ok($late, '<', 400, "$way wakes the worker");
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

	is_terminated($s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	like(slurp_file($large->logfile), qr/lockguard: the list of connected processes is read in place/,
		'the list of those is where it is expected');
	$large->stop;
}
done_testing();
