# The server crashes or is stopped in the middle of an outage: it goes down as
# fast as without lockguard, and is guarded again when it comes back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use List::Util qw(max min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'needs /proc' unless -r '/proc/self/status';

my $node = lockguard_node('main', conf => <<'CONF');
restart_after_crash = on
lockguard.incident_threshold = '100ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

sub postmaster_pid
{
	return (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
}

# Is a process there, and no zombie?
sub runs
{
	my ($pid) = @_;
	my $status = eval { slurp_file("/proc/$pid/status") } || '';

	return $status =~ /^State:\s+[^ZX]/m;
}

# A session that blocks three others, who do not wait in vain: a queue.
sub jam
{
	my ($name, %set) = @_;
	my $holder = holder($node, $name, ++$key, %set);

	return ($holder, map { waiter($observer, "$name-$_", $key) } 1 .. 3);
}

# The victim is killed just while it is judged; then the server goes down with
# the worker there.
if (has_wait_points($observer))
{
	foreach my $point (qw(before_look before_judge before_act before_signal after_act))
	{
		configure($observer, enabled => 'off');
		my @jam = jam("killed $point", idle_blocker_timeout => '100ms');
		older_than($observer, 'state_change', '200ms', @jam);
		configure($observer, debug_wait_at => $point, enabled => undef);
		worker_is_at($observer, $point);
		kill 'KILL', $jam[0]->pid if $point ne 'after_act';
		kill 'KILL', $jam[1]->pid if $point eq 'after_act';
		$observer = crash_restart($node, @jam, $observer);
		let_worker_go($observer);
		guards($observer, "after a crash $point");
		is($observer->value("SELECT count(*) FROM lockguard.actions WHERE result = 'pending'"), '0', 'no action is open');
	}

	configure($observer, enabled => 'off');
	my @jam = jam('immediate stop', idle_blocker_timeout => '100ms');
	older_than($observer, 'state_change', '200ms', @jam);
	configure($observer, debug_wait_at => 'before_signal', enabled => undef);
	worker_is_at($observer, 'before_signal');
	$node->stop('immediate');
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	let_worker_go($observer);
	guards($observer, 'after an immediate stop');
}
else
{
	note 'built without wait points: crashes at them are not tested';
}

# The postmaster is killed: no worker stays behind, which would keep the server
# from starting.
{
	my @jam = jam('orphans');
	my $postmaster = postmaster_pid();
	my %left = map { $_ => child_pid($node, $_) } 'lockguard', 'lockguard history';

	$node->kill9;
	ok(wait_until(sub { !runs($left{$_}) }), "$_ ends with the postmaster") foreach sort keys %left;
	# Sessions in a wait for a lock may stay, by PostgreSQL's own rules.
	$_->close(silent => 1) foreach @jam, $observer;
	ok( wait_until(
			sub {
				!grep { runs($_->pid) } @jam, $observer;
			}),
		'and so do the sessions');
	# Its pid counts as taken until its exit status has been read.
	wait_until(sub { !kill 0, $postmaster });
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	guards($observer, 'after the postmaster was killed');
}

# How long does it take to stop a server in the middle of an outage?
sub stop_time
{
	my ($mode) = @_;
	my @jam = jam("$mode stop");
	my $offset = -s $node->logfile;
	my $since = time();

	if ($mode eq 'smart')
	{
		kill 'TERM', postmaster_pid();
		$node->wait_for_log(qr/received smart shutdown request/, $offset);
		# Clients that are not ended can stay as long as they like.
		$_->close(silent => 1) foreach @jam, $observer;
		$since = time();
		wait_until(sub { !-e $node->data_dir . '/postmaster.pid' });
		$since = time() - $since;
		$node->stop('fast', fail_ok => 1);
	}
	else
	{
		$node->stop($mode);
		$since = time() - $since;
	}
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	return $since;
}

# Sleeping as long as it may, and with a limit that has not been passed.
configure($observer, naptime => '1h', idle_blocker_timeout => '1h');
my %with = map { my $mode = $_; $mode => [ map { stop_time($mode) } 1, 2 ] } qw(fast smart);
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$observer = LockguardTest::Session->new($node, 'observer');
my %without = map { my $mode = $_; $mode => [ map { stop_time($mode) } 1, 2 ] } qw(fast smart);
foreach my $mode (qw(fast smart))
{
	note "$mode stop: with lockguard @{ $with{$mode} } s, without @{ $without{$mode} } s";
	cmp_ok(min(@{ $with{$mode} }), '<', max(@{ $without{$mode} }) + 3, "a $mode stop in an outage takes no longer with lockguard");
}

# A smart stop waits for all clients.  Those who wait for each other are freed
# by lockguard, or it would wait for ever.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'lockguard'");
$node->restart;
$observer = LockguardTest::Session->new($node, 'observer');
configure($observer, naptime => undef, idle_blocker_timeout => undef);
{
	my @jam = jam('smart stop');
	my $offset = -s $node->logfile;

	kill 'TERM', postmaster_pid();
	$node->wait_for_log(qr/received smart shutdown request/, $offset);
	my $late = LockguardTest::Session->new($node, 'late', wait => 0);
	is($late->finish->{error}{C}, '57P03', 'no user can log in any more');
	configure($observer, idle_blocker_timeout => '200ms');
	is_rolled_back($observer, $jam[0], 'idle_blocker_timeout');
	$jam[0]->close;
	# Each of the others holds the lock then, and is idle.
	is_terminated($_, 'idle_blocker_timeout') foreach @jam[ 1, 2 ];
	succeeds($jam[3], 'the last one');
	$_->close foreach $jam[3], $observer;
	ok(wait_until(sub { !-e $node->data_dir . '/postmaster.pid' }), 'the server is down');
	$node->stop('fast', fail_ok => 1);
	like(log_since($node, $offset), qr/database system is shut down/, 'in good order');
}

log_is_sound($node);
done_testing();
