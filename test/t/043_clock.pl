# The wall clock is stepped by an hour while sessions wait and idle: no session
# is acted on too early, limits are still enforced, and what is shown makes
# sense.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC CLOCK_REALTIME);

my ($libfaketime) = grep { -e } glob '/usr/lib*/faketime/libfaketime.so.1 /usr/lib/*/faketime/libfaketime.so.1';
plan skip_all => 'libfaketime is not installed (Debian package libfaketime)'
  unless defined $libfaketime;

# The server's wall clock is off by what this file says; its monotonic clock
# is the machine's.
my $offset_file = PostgreSQL::Test::Utils::tempdir() . '/offset';
$ENV{FAKETIME_TIMESTAMP_FILE} = $offset_file;
$ENV{FAKETIME_NO_CACHE} = 1;
$ENV{FAKETIME_DONT_FAKE_MONOTONIC} = $ENV{DONT_FAKE_MONOTONIC} = 1;
$ENV{NO_FAKE_STAT} = 1;
my $observer;

sub set_clock
{
	my ($offset) = @_;

	open my $file, '>', "$offset_file.new" or die "cannot write $offset_file: $!";
	printf $file "%+d\n", $offset;
	close $file or die;
	rename "$offset_file.new", $offset_file or die;
	return;
}

set_clock(0);
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'lockguard'
max_connections = 50
autovacuum = off
max_prepared_transactions = 5
deadlock_timeout = '2s'
lockguard.incident_threshold = '100ms'
CONF

sub start
{
	local $ENV{LD_PRELOAD} = $libfaketime;
	$node->start;
	return LockguardTest::Session->new($node, 'observer');
}

# The postmaster of 15 starts workers in a signal handler, that is in the middle
# of its select(), where libfaketime leaves the clock alone, in the new process
# for ever.  A worker that it has to start again comes from elsewhere.  (That
# takes an hour, though, where the clock is behind the machine's.)
sub another_worker
{
	my $old = worker_pid($observer);

	kill 'TERM', $old;
	return new_worker($observer, $old);
}

$observer = start();
$observer->query_ok('CREATE EXTENSION lockguard');
another_worker();
create_t($node);
my $key = 0;

# Step the clock, and see to it that the worker has noticed.
sub step_to
{
	my ($offset) = @_;
	my $real = clock_gettime(CLOCK_REALTIME);

	set_clock($offset);
	scan($observer);
	my $off = $observer->value('SELECT extract(epoch FROM last_scan) FROM lockguard.stats') - $real - $offset;
	cmp_ok(abs $off, '<', 600, "the worker's clock is $offset s off");
	return;
}

# What is shown makes sense, whatever the clock has done: nothing is negative,
# nothing has taken an hour, and nothing is seen to begin in the future.
sub is_sane
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @wrong = map { join '|', map { defined $_ ? $_ : '' } @$_ } (
		$observer->rows("SELECT 'session', pid, blocking_since, wait_start FROM lockguard.sessions"
			  . ' WHERE blocking_since > clock_timestamp() OR wait_start > clock_timestamp()'),
		$observer->rows("SELECT 'tree', pid, wait_start FROM lockguard.lock_tree WHERE wait_start > clock_timestamp()"),
		$observer->rows("SELECT 'drawn', tree FROM lockguard.tree() WHERE tree ~ '-\\d+(\\.\\d)? (ms|s|min|h)'"),
		$observer->rows("SELECT 'action', action_id, released_after, longest_wait FROM lockguard.actions"
			  . " WHERE NOT (released_after BETWEEN '0' AND '50 min') OR NOT (longest_wait BETWEEN '0' AND '50 min')"),
		$observer->rows("SELECT 'incident', incident_id, started_at, peak_at, ended_at, longest_wait, total_wait FROM lockguard.incidents"
			  . " WHERE NOT (ended_at - started_at BETWEEN '0' AND '50 min') OR NOT (peak_at - started_at BETWEEN '0' AND '50 min')"
			  . " OR NOT (longest_wait BETWEEN '0' AND '50 min') OR NOT (total_wait BETWEEN '0' AND '50 min')"),
		$observer->rows("SELECT 'contention', total_wait, longest_wait FROM lockguard.contention"
			  . " WHERE NOT (longest_wait BETWEEN '0' AND '50 min') OR NOT (total_wait BETWEEN '0' AND '50 min')"),
		$observer->rows("SELECT 'stats', s FROM lockguard.stats s WHERE s::text ~ '[,(]-' OR blocked_time > 3e6"
			  . ' OR max_scan_time > 3e6 OR max_lock_scan_time > 3e6'),
		$observer->rows("SELECT 'report', line FROM lockguard.incidents, string_to_table(lockguard.report(incident_id), E'\\n') line"
			  . " WHERE line ~ '\\m\\d+ h \\d+ min' OR line ~ '[^0-9:]-\\d+(\\.\\d)? (ms|s|min|h)\\M'"));

	return is(join("\n", @wrong), '', "$when: what is shown makes sense");
}

# Every limit on a time, each on a session of its own that has just begun what
# it limits.  Then the clock is stepped, after the worker has seen them, or
# before (it is held up meanwhile).  None may be hit before so long, by the
# clock on the wall of this test.
my $limit = 2;
configure($observer, prepared_transaction_timeout => '2s', prepared_transaction_action => 'rollback', max_actions_per_minute => 1000);

sub step
{
	my ($from, $to, $seen) = @_;
	my $name = sprintf '%+d to %+d, %s', $from, $to, $seen ? 'seen before' : 'not seen before';
	my $worker = worker_pid($observer);
	my (%victim, %begun, @others);

	kill 'STOP', $worker unless $seen;

	# A root of another session's wait, with all of these as they may be.
	$begun{idle_blocker_timeout} = clock_gettime(CLOCK_MONOTONIC);
	($victim{idle_blocker_timeout}, $others[0]) = blocked_pair($observer, "idle blocker $name", ++$key, idle_blocker_timeout => '2s');
	$begun{blocker_timeout} = clock_gettime(CLOCK_MONOTONIC);
	$victim{blocker_timeout} = holder($node, "blocker $name", ++$key, blocker_timeout => '2s');
	$victim{blocker_timeout}->start('SELECT pg_sleep(86400)');
	push @others, waiter($observer, 'behind blocker', $key);
	$begun{max_blocked_sessions} = clock_gettime(CLOCK_MONOTONIC);
	$victim{max_blocked_sessions} = holder($node, "with many behind $name", ++$key, max_blocked_sessions => 1);
	push @others, map { waiter($observer, "many $_", $key) } 1, 2;
	($others[4], $victim{lock_wait_timeout}) = blocked_pair($observer, "patient $name", ++$key);
	$observer->query_ok('SELECT pg_cancel_backend(' . $victim{lock_wait_timeout}->pid . ')');
	$victim{lock_wait_timeout}->finish;
	$begun{lock_wait_timeout} = clock_gettime(CLOCK_MONOTONIC);
	$victim{lock_wait_timeout}->query_ok("SET lockguard.lock_wait_timeout = '2s'");
	begins_to_wait($observer, $victim{lock_wait_timeout}->start("SELECT pg_advisory_lock($key)"));
	$begun{preempt_timeout} = clock_gettime(CLOCK_MONOTONIC);
	$victim{preempt_timeout} = holder($node, "of low priority $name", ++$key, priority => 'low');
	push @others, waiter($observer, 'of high priority', $key, priority => 'high', preempt_timeout => '2s');

	my $reader = session($node, 'reader');
	$reader->query_ok($_) foreach 'BEGIN', 'LOCK t IN ACCESS SHARE MODE';
	$begun{queued_blocker_timeout} = clock_gettime(CLOCK_MONOTONIC);
	$victim{queued_blocker_timeout} = session($node, "ALTER $name", queued_blocker_timeout => '2s');
	$victim{queued_blocker_timeout}->start('ALTER TABLE t ADD c int');
	is_waiting($observer, $victim{queued_blocker_timeout});
	push @others, session($node, 'behind ALTER')->start('SELECT count(*) FROM t');
	is_waiting($observer, $others[-1]);

	foreach my $case (
		[ transaction_timeout => 'BEGIN' ],
		[ idle_in_transaction_timeout => 'BEGIN' ],
		[ idle_session_timeout => 'SELECT 1' ])
	{
		$begun{ $case->[0] } = clock_gettime(CLOCK_MONOTONIC);
		$victim{ $case->[0] } = session($node, "$case->[0] $name", $case->[0] => '2s');
		$victim{ $case->[0] }->query_ok($case->[1]);
	}
	$begun{statement_timeout} = clock_gettime(CLOCK_MONOTONIC);
	$victim{statement_timeout} = session($node, "statement $name", statement_timeout => '2s');
	$victim{statement_timeout}->start('SELECT pg_sleep(86400)');

	$begun{prepared_transaction_timeout} = clock_gettime(CLOCK_MONOTONIC);
	my $prepared = session($node, "prepared $name");
	$prepared->query_ok($_) foreach 'BEGIN', 'SELECT pg_current_xact_id()', "PREPARE TRANSACTION '$name'";
	my $twin = holder($node, "blocks nobody $name", ++$key, idle_blocker_timeout => '2s', blocker_timeout => '2s');

	# Cancelled before the clock is stepped; the escalation is due after that.
	$begun{escalation_delay} = clock_gettime(CLOCK_MONOTONIC);
	my $stubborn = session($node, "stubborn $name", blocker_timeout => '200ms', escalation_delay => '2s');
	$stubborn->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_lock(' . ++$key . ')', 'SAVEPOINT a';
	$stubborn->start('SELECT pg_sleep(86400)');
	push @others, waiter($observer, 'behind stubborn', $key);

	# The worker has seen them all, or none; and it is not yet time.
	if ($seen)
	{
		is_cancelled($stubborn, 'blocker_timeout');
		scan($observer);
	}
	set_clock($to);

	# What it has not seen before begins with the step.
	unless ($seen)
	{
		$_ = clock_gettime(CLOCK_MONOTONIC) foreach values %begun;
	}
	kill 'CONT', $worker;
	step_to($to);

	my %at;
	my %rolled_back = map { $_ => 1 } qw(idle_blocker_timeout max_blocked_sessions preempt_timeout transaction_timeout);
	my $aborted = "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction (aborted)'";
	wait_until(
		sub {
			foreach my $setting (keys %victim)
			{
				my $session = $victim{$setting};

				next if $rolled_back{$setting};

				$session->read_some(65536, 0);
				$at{$setting} = clock_gettime(CLOCK_MONOTONIC)
				  if !defined $at{$setting} && ($session->{result}{error} || $session->closed);
			}
			my %aborted = map { $_->[0] => 1 } $observer->rows($aborted);
			foreach my $setting (grep { $aborted{ $victim{$_}->pid } } keys %rolled_back)
			{
				$at{$setting} = clock_gettime(CLOCK_MONOTONIC) if !defined $at{$setting};
			}
			$at{prepared_transaction_timeout} = clock_gettime(CLOCK_MONOTONIC)
			  if !defined $at{prepared_transaction_timeout}
			  && $observer->value('SELECT count(*) FROM pg_prepared_xacts') == 0;
			$stubborn->read_some(65536, 0);
			$at{escalation_delay} = clock_gettime(CLOCK_MONOTONIC)
			  if !defined $at{escalation_delay} && $stubborn->closed;
			return keys %at == 2 + keys %victim;
		});
	foreach my $setting (sort(keys %victim), 'escalation_delay', 'prepared_transaction_timeout')
	{
		my $after = defined $at{$setting} ? $at{$setting} - $begun{$setting} : -1;

		cmp_ok($after, '>=', $limit, "$name: $setting is enforced, and not too early");
	}
	$victim{$_}->query('COMMIT') foreach keys %rolled_back;
	foreach my $setting (sort keys %victim)
	{
		like($victim{$setting}->error->{D}, qr/^lockguard: .*lockguard\.$setting /, "$setting: the session is told so");
	}
	is_sane($name);
	$others[4]->query_ok('COMMIT');
	foreach (@others[ 0 .. 3, 5 .. $#others ])
	{
		succeeds($_, 'the waiter');
		$_->close;
	}
	is_untouched($observer, $twin, 'T');
	$_->close foreach grep { !$_->closed } values %victim, @others, $reader, $prepared, $twin;
	return;
}

step(0, 3600, 1);
step(3600, 0, 1);
step(0, 3600, 0);
step(3600, 0, 0);

# The brakes have clocks of their own.
{
	configure($observer, prepared_transaction_timeout => undef, prepared_transaction_action => undef);
	my ($exempt, $behind_exempt) = blocked_pair($observer, 'exempt', ++$key);
	$observer->query_ok("SELECT lockguard.pause('30 min'), lockguard.exempt(" . $exempt->pid . ", '30 min')");
	step_to(3600);
	$exempt->query_ok("SET lockguard.idle_blocker_timeout = '200ms'");
	my ($s, $w) = blocked_pair($observer, 'paused', ++$key, idle_blocker_timeout => '200ms');
	is_recorded($observer, $s, 'idle_blocker_timeout rollback logged');
	is_alive($s, 'T');

	# A signal of before the step counts still.
	configure($observer, max_actions_per_minute => 1);
	$observer->query_ok('SELECT lockguard.resume()');
	is_recorded($observer, $s, 'idle_blocker_timeout rollback logged', 'idle_blocker_timeout rollback suppressed');
	is_alive($s, 'T');
	configure($observer, max_actions_per_minute => 1000);
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	is($observer->value("SELECT string_agg(DISTINCT result, ' ') FROM lockguard.actions WHERE pid = " . $exempt->pid),
		'exempt', 'who is exempt stays so');
	is_alive($exempt, 'T');
	$w->close;

	# Both end although the clock is put back.
	$observer->query_ok("SELECT lockguard.pause('1s'), lockguard.exempt(" . $exempt->pid . ", '1s')");
	step_to(0);
	is_rolled_back($observer, $exempt, 'idle_blocker_timeout');
	succeeds($behind_exempt, 'behind exempt');
	$behind_exempt->close;
}

# Stepped while the worker is in the middle of a scan.
if (has_wait_points($observer))
{
	foreach my $case ([ 3600, 'before_look' ], [ 0, 'before_look' ], [ 3600, 'before_judge' ], [ 0, 'before_judge' ])
	{
		my ($to, $point) = @$case;

		# One that has not seen any step.
		another_worker();
		stop_worker_at($observer, $point);
		worker_is_at($observer, $point);
		set_clock($to);
		my @s = (
			session($node, 'transaction', transaction_timeout => '30min'),
			session($node, 'idle', idle_in_transaction_timeout => '30min'),
			blocked_pair($observer, 'blocker', ++$key, blocker_timeout => '30min', idle_blocker_timeout => '30min'),
			session($node, 'statement', statement_timeout => '30min'));
		$_->query_ok('BEGIN') foreach @s[ 0, 1 ];
		$s[4]->start('SELECT pg_sleep(86400)');
		let_worker_go($observer);
		scan($observer);
		is_untouched($observer, $_, 'T') foreach @s[ 0, 1, 2 ];
		is_deeply([ recorded($observer, $s[4]) ], [], 'the statement is left alone');
		$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach @s;
	}
}

# The clock is stepped while there is no worker: the next one cannot tell what was
# before that, and takes nothing for older than itself.
{
	my ($s, $w) = blocked_pair($observer, 'blocks over the step', ++$key, idle_blocker_timeout => '30min');
	my @idle = map { session($node, "idle over the step $_") } 0 .. 1;
	my $old = worker_pid($observer);

	# Its incident stays open, though it is no longer the cause.
	ok( $observer->poll('SELECT EXISTS (SELECT FROM lockguard.incidents WHERE status = $$open$$ AND root_pid = ' . $s->pid . ')'),
		'an incident is open');
	$idle[0]->query_ok($_) foreach "SET lockguard.idle_in_transaction_timeout = '30min'", 'BEGIN';
	$idle[1]->query_ok($_) foreach "SET lockguard.transaction_timeout = '30min'", 'BEGIN';
	kill 'TERM', $old;
	set_clock(3600);
	new_worker($observer, $old);
	scan($observer);
	is_untouched($observer, $_, 'T') foreach $s, @idle;
	is( $observer->value(
			"SELECT status = 'open' AND clock_timestamp() - started_at < '30 min' FROM lockguard.incidents WHERE root_pid = "
			  . $s->pid),
		't', 'the incident continues');
	$_->close foreach $s, @idle;
	succeeds($w, 'the waiter');
	is_sane('after a step without a worker');
	$w->close;
	step_to(0);
}

# What happened in times to come is read again by a server that starts earlier.
{
	my $history = 'SELECT string_agg(i::text, $$ $$ ORDER BY incident_id) FROM lockguard.incidents i';

	$observer->poll('SELECT NOT EXISTS (SELECT FROM lockguard.incidents WHERE status = $$open$$)');
	my $before = $observer->value($history);

	step_to(3600);
	guards($observer, 'before the restart');
	$node->stop;
	set_clock(0);
	$observer = start();
	another_worker();
	is(substr($observer->value($history), 0, length $before), $before, 'history is as it was');
	is_sane('after a restart in the past');
	guards($observer, 'after the restart');
}

$node->stop;
log_is_sound($node);
done_testing();
