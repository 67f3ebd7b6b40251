# The worker ends in the middle of things, in each way that there is: what it
# has begun is taken up, nothing is done twice, and no other session is signalled.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc' unless -r '/proc/self/status';

my $node = lockguard_node('main', conf => <<'CONF');
restart_after_crash = on
lockguard.incident_threshold = '100ms'
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;
my $begin = -s $node->logfile;
my @stopped;
END { kill 'CONT', map { $_->pid } @stopped; }

# Waits until the worker has ended, and another is there.
sub end_worker
{
	my ($way) = @_;
	my $old = worker_pid($observer);

	if ($way eq 'SIGTERM')
	{
		kill 'TERM', $old;
	}
	else
	{
		my $offset = -s $node->logfile;

		$observer->query_ok("ALTER SYSTEM SET lockguard.debug_error_at = '$way'");
		$observer->query_ok('SELECT pg_reload_conf()');
		$node->wait_for_log(qr/ERROR:  lockguard: made to fail at "$way"/, $offset);
		$observer->query_ok('ALTER SYSTEM RESET lockguard.debug_error_at');
		$observer->query_ok('SELECT pg_reload_conf()');
	}
	return new_worker($observer, $old);
}

my @ways = 'SIGTERM';
push @ways, qw(before_look before_judge before_act before_signal after_act)
  if has_wait_points($observer);
note 'built without debug points: the worker only gets SIGTERM' if @ways == 1;

# One long outage, in which the worker ends again and again.
{
	# Terminated, and does not react as yet; and asked to roll back.
	my ($stopped, $stopped_waiter) = blocked_pair($observer, 'stopped', ++$key, in => 'session', idle_blocker_timeout => '200ms');
	push @stopped, $stopped;
	kill 'STOP', $stopped->pid;
	my ($asked, $asked_waiter) = blocked_pair($observer, 'asked', ++$key, idle_blocker_timeout => '200ms', action => 'rollback');
	push @stopped, $asked;
	kill 'STOP', $asked->pid;

	# Cancelled, which does not help, and then rolled back, which does not either;
	# the last escalation is due when some workers have come and gone.
	my $stubborn = session($node, 'stubborn', blocker_timeout => '100ms', escalation_delay => '2s');
	$stubborn->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_lock(' . ++$key . ')', 'SAVEPOINT a';
	$stubborn->start('SELECT pg_sleep(600)');
	my $stubborn_waiter = waiter($observer, 'behind stubborn', $key);

	# Not to be touched, each for a reason of its own.
	my @innocent = (
		holder($node, 'blocks nobody', ++$key, idle_blocker_timeout => '100ms'),
		(blocked_pair($observer, 'within its limit', ++$key, idle_blocker_timeout => '1h')),
		(blocked_pair($observer, 'without a limit', ++$key)));
	my ($exempt, $exempt_waiter) = blocked_pair($observer, 'exempt for a time', ++$key);
	is($observer->value('SELECT lockguard.exempt(' . $exempt->pid . ", '1h')"), 't', 'exempt for a time');
	$exempt->query_ok("SET lockguard.idle_blocker_timeout = '100ms'");

	is_recorded($observer, $stopped, 'idle_blocker_timeout terminate pending');
	is_recorded($observer, $asked, 'idle_blocker_timeout rollback pending');
	is_cancelled($stubborn, 'blocker_timeout');
	foreach my $way (@ways)
	{
		# There is a session to act on, or the worker would not reach all points.
		my ($s, $w) = blocked_pair($observer, "at the end by $way", ++$key, idle_blocker_timeout => '500ms');

		end_worker($way);
		is_rolled_back($observer, $s, 'idle_blocker_timeout');
		succeeds($w, 'the waiter');
		is_recorded($observer, $s, 'idle_blocker_timeout rollback released');
		$w->close;
	}

	is_terminated($stubborn, 'blocker_timeout');
	succeeds($stubborn_waiter, 'behind stubborn');
	is_recorded($observer, $stubborn, 'blocker_timeout cancel escalated', 'blocker_timeout rollback escalated',
		'blocker_timeout terminate released');
	cmp_ok(
		$observer->value('SELECT extract(epoch FROM max(acted_at) - min(acted_at)) FROM lockguard.actions WHERE pid = ' . $stubborn->pid),
		'>=', 4, 'the delay was kept to');
	kill 'CONT', $stopped->pid;
	is_terminated($stopped, 'idle_blocker_timeout');
	succeeds($stopped_waiter, 'behind stopped');
	is_recorded($observer, $stopped, 'idle_blocker_timeout terminate released');
	kill 'CONT', $asked->pid;
	is_rolled_back($observer, $asked, 'idle_blocker_timeout');
	succeeds($asked_waiter, 'behind asked');
	is_recorded($observer, $asked, 'idle_blocker_timeout rollback released');

	is_untouched($observer, $innocent[$_], 'T') foreach 0, 1, 3;
	is($observer->value("SELECT string_agg(DISTINCT concat_ws(' ', action, result), ', ') FROM lockguard.actions WHERE pid = " . $exempt->pid),
		'log exempt', 'who is exempt stays so');
	is_alive($exempt, 'T');
	foreach my $session ($stopped, $stubborn)
	{
		is(count_in_log($node, $begin, 'lockguard: terminated process ' . $session->pid . ' '),
			1, $session->name . ' was terminated once');
	}
	foreach my $session ($asked, $stubborn)
	{
		is(count_in_log($node, $begin, 'lockguard: rolls back the transaction of process ' . $session->pid . ' '),
			1, $session->name . ' was asked to roll back once');
	}
	is($observer->value("SELECT count(*) FROM lockguard.actions WHERE result = 'pending'"), '0', 'nothing is left open');
	is($observer->value("SELECT count(*) FROM lockguard.incidents WHERE root_pid = " . $innocent[1]->pid),
		'1', 'an incident continues under its number');
	is($observer->value("SELECT status FROM lockguard.incidents WHERE root_pid = " . $innocent[1]->pid),
		'open', 'and is open still');
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')')
	  foreach @innocent, $exempt, $exempt_waiter;
}

# The brakes hold, whichever worker it is.
{
	guards($observer, 'one signal');
	configure($observer, max_actions_per_minute => 1);
	end_worker('SIGTERM');
	my ($s, $w) = blocked_pair($observer, 'one too many', ++$key, idle_blocker_timeout => '100ms');
	is_recorded($observer, $s, 'idle_blocker_timeout rollback suppressed');
	is_alive($s, 'T');
	configure($observer, max_actions_per_minute => 1000);
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	$w->close;

	$observer->query_ok("SELECT lockguard.pause('1h')");
	end_worker('SIGTERM');
	($s, $w) = blocked_pair($observer, 'paused', ++$key, idle_blocker_timeout => '100ms');
	is_recorded($observer, $s, 'idle_blocker_timeout rollback logged');
	is_alive($s, 'T');
	$observer->query_ok('SELECT lockguard.resume()');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	$w->close;
}

# Signals that mean nothing to it: the limit is kept, by the same worker.
{
	my $worker = worker_pid($observer);
	my $history = child_pid($node, 'lockguard history');
	my ($s, $w) = blocked_pair($observer, 'under noise', ++$key, idle_blocker_timeout => '1s');
	my ($twin, $twin_waiter) = blocked_pair($observer, 'twin', ++$key, idle_blocker_timeout => '1h');
	my $sent = 0;

	isnt($history, undef, 'the worker of the history is found');
	while ($sent++ < 20 || recorded($observer, $s) == 0)
	{
		foreach my $signal (qw(INT USR1 HUP USR2 URG PIPE))
		{
			kill $signal, $worker;
			kill $signal, $history if defined $history && $signal ne 'USR2';
		}
		$observer->query_ok("SELECT pg_cancel_backend($worker), pg_log_backend_memory_contexts($worker)") if $sent % 10 == 0;
		last if $sent > 10_000;
	}
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	is_recorded($observer, $s, 'idle_blocker_timeout rollback released');
	cmp_ok($observer->value('SELECT min(longest_wait) FROM lockguard.actions WHERE pid = ' . $s->pid),
		'ge', '00:00:01', 'not before its time');
	is_untouched($observer, $twin, 'T');
	is(worker_pid($observer), $worker, 'the worker is the same');
	is(child_pid($node, 'lockguard history'), $history, 'and so is that of the history');
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach $twin, $twin_waiter;
	$w->close;
}

# The worker that writes the history is ended: it writes what is new, and
# another one continues.
my $file = $node->data_dir . '/pg_stat/lockguard.stat';

sub is_written
{
	my ($pattern, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(wait_until(sub { -f $file && slurp_file($file) =~ /$pattern/s }), $what);
}

{
	my $old = child_pid($node, 'lockguard history');

	guards($observer, 'before the end of the history worker');
	kill 'TERM', $old;
	ok( wait_until(
			sub {
				my $pid = child_pid($node, 'lockguard history');
				return $pid && $pid != $old;
			}),
		'another writes the history');
	guards($observer, 'with another history worker');
	is_written('with another history worker', 'and does');
}

# Either is killed: the server starts anew, with all that was written.
foreach my $title ('lockguard', 'lockguard history')
{
	my $name = "before $title is killed";

	guards($observer, $name);

	# A signal and an incident that are open, also in the file.
	my $s = session($node, "open when $title is killed", blocker_timeout => '100ms', escalation_delay => '1h');
	$s->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_lock(' . ++$key . ')', 'SAVEPOINT a';
	$s->start('SELECT pg_sleep(600)');
	my $w = waiter($observer, 'in the outage', $key);
	is_cancelled($s, 'blocker_timeout');
	is_recorded($observer, $s, 'blocker_timeout cancel pending');
	is_written("$name.*$s->{name}.*$s->{name}", 'the history is written');
	my $known = $observer->value('SELECT max(action_id) FROM lockguard.actions');
	kill 'KILL', child_pid($node, $title);
	$observer = crash_restart($node, $observer, $s, $w);
	is($observer->value("SELECT result FROM lockguard.actions WHERE application_name = '$name'"),
		'released', 'what was written is there');
	is_recorded($observer, $s, 'blocker_timeout cancel released');
	is($observer->value('SELECT status || $$ $$ || resolution FROM lockguard.incidents WHERE root_pid = ' . $s->pid),
		'closed server restarted', 'what was open went with the server');
	guards($observer, "after $title was killed");
	cmp_ok($observer->value('SELECT max(action_id) FROM lockguard.actions'), '>=', $known, 'numbers continue');
}

$node->stop;
log_is_sound($node, qr/made to fail at/);
done_testing();
