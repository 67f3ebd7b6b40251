# A client that has stopped, and others that keep its session awake: they cannot
# shield it by that.  And one that is only slow is never taken for stopped,
# whatever disturbs it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

plan skip_all => 'the kernel does not tell what a client has taken and sent' unless kernel_tells_traffic();

my $node = lockguard_node('main', conf => <<'CONF');
listen_addresses = '127.0.0.1'
track_activities = on
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
$observer->query_ok('CREATE TABLE f (a text)');
my $key = 0;

# What the client does not read, or send.  One byte of a long row is on its way.
my %stall = (
	'COPY TO' => sub { $_[0]->start("COPY (SELECT repeat('x', 8000) FROM generate_series(1, 100000)) TO STDOUT") },
	'SELECT' => sub { $_[0]->start("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)") },
	'one long row' => sub { $_[0]->start("SELECT repeat('x', 50000000)") },
	'COPY FROM' => sub { $_[0]->start('COPY f FROM STDIN') },
	'no Sync' => sub { execute($_[0]) });

# Execute and Flush: the answer comes, but the statement is not at its end.
sub execute
{
	my ($session) = @_;

	$session->{busy} = 1;
	$session->send_message('P', "\0SELECT 1\0\0\0");
	$session->send_message('B', "\0\0\0\0\0\0\0\0");
	$session->send_message('E', "\0\0\0\0\0");
	$session->send_message('H', '');
	return;
}

# A session that blocks another and whose client is about to stop.
sub stalled_pair
{
	my ($what, $how, %set) = @_;
	my $name = "$what, $how";
	my $session = session($node, $name, tcp => $how eq 'TCP', %set);
	my $waiter = LockguardTest::Session->new($node, "$name: waiter");

	$key++;
	$session->query_ok($_) foreach 'LISTEN c', 'BEGIN', "SELECT pg_advisory_xact_lock($key)";
	$stall{$what}->($session);
	waits_for_client($session);
	$waiter->start("SELECT pg_advisory_xact_lock($key)");
	return ($session, $waiter);
}

# Wake all that are stalled, five times a second.
sub disturb
{
	my $noise = LockguardTest::Session->new($node, 'noise');

	$noise->start('DO $$ BEGIN LOOP PERFORM pg_notify(\'c\', \'\'); COMMIT;'
		  . ' PERFORM pg_log_backend_memory_contexts(pid) FROM pg_stat_activity'
		  . " WHERE application_name ~ '(TCP|Unix|untracked)\$';"
		  . ' PERFORM pg_sleep(0.2); END LOOP; END $$');
	return $noise;
}

sub waits_for_client
{
	my ($session) = @_;
	return ok($observer->poll("SELECT wait_event LIKE 'Client%' AND state <> 'idle in transaction'"
			  . ' FROM pg_stat_activity WHERE pid = ' . $session->pid),
		$session->name . ': waits for its client');
}

sub longest_wait
{
	my ($session) = @_;
	return $observer->value('SELECT extract(epoch FROM longest_wait) FROM lockguard.actions WHERE pid = ' . $session->pid);
}

my $noise = disturb();

# The kernel counts what goes over TCP, so that it is as if nothing disturbed.
# Over a Unix-domain socket it takes longer.
{
	my %waits;

	foreach my $how ('TCP', 'Unix')
	{
		$waits{"$_, $how"} = [ stalled_pair($_, $how, idle_blocker_timeout => '500ms') ] foreach sort keys %stall;
	}
	foreach my $name (sort keys %waits)
	{
		my ($session, $waiter) = @{ $waits{$name} };

		succeeds($waiter, 'the waiter');
		is_recorded($observer, $session, 'idle_blocker_timeout terminate released');
		my $waited = longest_wait($session);
		note("$name: $waited s");
		cmp_ok($waited, '>=', 0.5, "$name: not early");
		cmp_ok($waited, '<', 7, "$name: soon") if $name =~ /TCP/;
		$_->close(silent => 1) foreach $session, $waiter;
	}
}

# Nor does it help to report no activity.
{
	my ($session, $waiter) = map { session($node, $_, tcp => 1, idle_blocker_timeout => '500ms') } 'untracked', 'waiter';

	$key++;
	$session->query_ok($_) foreach 'LISTEN c', 'SET track_activities = off', 'BEGIN', "SELECT pg_advisory_xact_lock($key)";
	$stall{'COPY TO'}->($session);
	waits_for_client($session);
	$waiter->start("SELECT pg_advisory_xact_lock($key)");
	succeeds($waiter);
	is_recorded($observer, $session, 'idle_blocker_timeout terminate released');
	$_->close(silent => 1) foreach $session, $waiter;
}

# Slow clients.  Each takes or sends something every 200 ms or so, for longer
# than it takes to be sure of one that has stopped.
{
	my @slow;
	my $limit = 1;
	my $longest = 0;
	my %move = (
		'COPY TO' => sub { $_[0]->read_some(65536, 0) },
		'SELECT' => sub { $_[0]->read_some(1000000, 0) },
		'one long row' => sub { $_[0]->read_some(65536, 0) },
		'COPY FROM' => sub { syswrite $_[0]->{socket}, 'x' },
		'no Sync' => sub { execute($_[0]) });

	foreach my $how ('TCP', 'Unix')
	{
		foreach my $what (sort keys %stall)
		{
			my ($session, $waiter) = stalled_pair($what, $how);

			# A message of 1000 bytes begins.
			syswrite $session->{socket}, 'd' . pack('N', 1000) if $what eq 'COPY FROM';
			push @slow, [ $session, $waiter, $move{$what} ];
		}

		# Less than a packet or a buffer at a time.
		my ($session, $waiter) = stalled_pair('COPY TO', $how);
		push @slow, [ $session, $waiter, sub { $_[0]->read_some(100, 0) } ];
	}
	configure($observer, idle_blocker_timeout => 1000 * $limit);
	my $begin = time();
	my $last = $begin;
	while (time() - $begin < 17 * $limit)
	{
		foreach my $slow (@slow)
		{
			$slow->[2]->($slow->[0]);
		}
		my $now = time();
		$longest = $now - $last if $now - $last > $longest;
		$last = $now;
		usleep(200_000);
	}
  SKIP:
	{
		skip 'this test has paused for longer than the limit', 1 if $longest >= $limit;
		note(sprintf 'longest pause %.3f s', $longest);
		foreach my $slow (@slow)
		{
			my ($session, $waiter) = @$slow;

			is_deeply([ recorded($observer, $session) ], [], $session->name . ': is left alone');
			ok(!$session->closed && $waiter->{busy}, $session->name . ': still blocks');
		}
	}
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach map { @$_[ 0, 1 ] } @slow;
	$_->close(silent => 1) foreach map { @$_[ 0, 1 ] } @slow;
}
$observer->query_ok('SELECT pg_terminate_backend(' . $noise->pid . ')');
$noise->close(silent => 1);
configure($observer, idle_blocker_timeout => undef);

# At the last moment the client reads something, though not so much that its
# session takes note.
SKIP:
{
	skip 'built without debug functions', 6 if !has_wait_points($observer);
	my ($session, $waiter) = stalled_pair('COPY TO', 'Unix', idle_blocker_timeout => '500ms');

	stop_worker_at($observer, 'before_signal');
	worker_is_at($observer, 'before_signal');
	is($session->read_some(1000, 0), 1000, 'it reads on');
	let_worker_go($observer);
	is_recorded($observer, $session, 'idle_blocker_timeout log self_resolved', 'idle_blocker_timeout terminate released');
	succeeds($waiter, 'the waiter, when it has stopped again');
	cmp_ok($observer->value('SELECT extract(epoch FROM max(acted_at) - min(acted_at)) FROM lockguard.actions WHERE pid = ' . $session->pid),
		'>=', 0.45, 'a whole limit later');
}

$node->stop;
done_testing();
