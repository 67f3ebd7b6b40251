# Storms of reloads, with settings changed to and fro, in the middle of
# outages: no session is hit by a value that is not in force, and the last one is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC usleep);

my $node = lockguard_node('main', conf => "log_statement = none\n");
my $observer = LockguardTest::Session->new($node, 'observer');
my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
my $key = 0;

# Change these settings to and fro, each in its turn, while the condition is
# true; each change comes with a few reloads more, to the worker alone, too.
sub storm
{
	my ($while, %values) = @_;
	my $worker = worker_pid($observer);
	my $i = 0;

	while ($while->())
	{
		foreach my $name (sort keys %values)
		{
			my @values = @{ $values{$name} };

			$observer->query_ok("ALTER SYSTEM SET lockguard.$name = '$values[ $i % @values ]'");
		}
		kill 'HUP', $worker;
		$observer->query_ok('SELECT pg_reload_conf()');
		kill 'HUP', $postmaster, $worker foreach 1 .. 3;
		$i++;
	}
	$observer->query_ok("ALTER SYSTEM RESET lockguard.$_") foreach keys %values;
	configure($observer);
	is(worker_pid($observer), $worker, 'the worker is the same');
	return $i;
}

# The server's limit is off or far away at any time: none of the values applies
# to any session.  Own values of sessions still hold.
{
	my ($unlimited, $unlimited_waiter) = blocked_pair($observer, 'by the server', ++$key);
	my ($far, $far_waiter) = blocked_pair($observer, 'own, far away', ++$key, idle_blocker_timeout => '1h', blocker_timeout => '1h');
	my $begun = clock_gettime(CLOCK_MONOTONIC);
	my ($near, $near_waiter) = blocked_pair($observer, 'own, near', ++$key, idle_blocker_timeout => '2s');
	my ($idle, $old) = map { session($node, $_) } 'idle', 'in transaction';
	$old->query_ok('BEGIN');
	my $least = 60;
	my $count = "SELECT count(*) FROM lockguard.actions WHERE action = 'rollback' AND pid = " . $near->pid;
	my $rounds = storm(
		sub { return !$observer->value($count) || $least-- > 0; },
		idle_blocker_timeout => [ 0, '1h', '30min' ],
		blocker_timeout => [ '1h', 0 ],
		lock_wait_timeout => [ '1h', 0, '2h' ],
		idle_in_transaction_timeout => [ 0, '1h' ],
		idle_session_timeout => [ '1h', 0 ],
		transaction_timeout => [ '24d', '1h', 0 ],
		naptime => [ '10ms', '1h', '1s' ],
		priority => [ 'low', 'high', 'normal' ],
		action => [ 'terminate', 'cancel', 'rollback', 'log' ],
		incident_threshold => [ '10ms', 0, '1h' ]);
	note "$rounds rounds of changes";

	# Its action is the server's, which may have been less than to roll back.
	my $took = clock_gettime(CLOCK_MONOTONIC) - $begun;
	is_rolled_back($observer, $near, 'idle_blocker_timeout');
	cmp_ok($took, '>=', 2, 'who has a near one is not hit before its time');
	is($observer->value($count), '1', 'and once');
	cmp_ok($observer->value('SELECT min(longest_wait) FROM lockguard.actions WHERE pid = ' . $near->pid), 'ge', '00:00:02', 'by the record, too');
	succeeds($near_waiter, 'the waiter');
	is($observer->value('SELECT count(*) FROM lockguard.actions WHERE pid <> ' . $near->pid), '0', 'no other session was acted on');
	is_alive($unlimited, 'T');
	is_alive($far, 'T');
	is_alive($old, 'T');
	is_alive($idle, 'I');

	# The last word of the next storm is a short limit, which is in force then.
	my $n = 0;
	storm(sub { $n++ < 30 }, idle_blocker_timeout => [ 0, '1h' ]);
	configure($observer, idle_blocker_timeout => '200ms');
	is_rolled_back($observer, $unlimited, 'idle_blocker_timeout');
	like($unlimited->error->{D}, qr/lockguard\.idle_blocker_timeout is 200ms \(set in the configuration\)/, 'the last value is in force');
	is_untouched($observer, $far, 'T');
	$_->close(silent => 1) foreach $unlimited_waiter, $far_waiter, $near_waiter, $far, $idle, $old;
	configure($observer, idle_blocker_timeout => undef);
}

# Off and on.  Who comes over a limit while it is off is hit when it is on at
# last, and only then.
{
	my $n = 0;

	configure($observer, enabled => 'off');
	my ($s, $w) = blocked_pair($observer, 'off and on', ++$key);
	storm(sub { $n++ < 50 }, enabled => [ 'on', 'off' ]);
	configure($observer, enabled => 'off', idle_blocker_timeout => '100ms');
	older_than($observer, 'state_change', '500ms', $s, $w);
	is_untouched($observer, $s, 'T');
	like($observer->value("SELECT string_agg(setting, ' ') FROM lockguard.limits WHERE name = 'enabled'"), qr/^off$/, 'the last value shows');
	older_than($observer, 'state_change', '300ms', $s);
	$n = 0;
	storm(sub { $n++ < 50 }, dry_run => [ 'on', 'on' ], naptime => [ '10ms', '1h' ]);
	is_deeply([ recorded($observer, $s) ], [], 'nothing happens while it is off');
	configure($observer, enabled => undef, naptime => '1h');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	is_recorded($observer, $s, 'idle_blocker_timeout rollback released');
	$w->close;
	configure($observer, idle_blocker_timeout => undef, naptime => undef);
}

# Dry run and no dry run: while it is on, no session is hit.
{
	configure($observer, dry_run => 'on', idle_blocker_timeout => '50ms');
	my @pairs = map { [ blocked_pair($observer, "dry run $_", ++$key) ] } 1 .. 3;
	my $n = 0;
	storm(sub { $n++ < 50 }, naptime => [ '10ms', '1h' ], escalation_delay => [ '0', '1h' ]);
	is_recorded($observer, $_->[0], 'idle_blocker_timeout rollback logged') foreach @pairs;
	is_alive($_->[0], 'T') foreach @pairs;
	configure($observer, dry_run => undef);
	foreach (@pairs)
	{
		is_rolled_back($observer, $_->[0], 'idle_blocker_timeout');
		succeeds($_->[1], 'the waiter');
		$_->[1]->close;
	}
	configure($observer, idle_blocker_timeout => undef);
}

guards($observer, 'in the end');
$node->stop;
log_is_sound($node);
done_testing();
