# Floods: of signals, records, settings, readers and connections.  Whatever
# there is a lot of, a session that blocks others is still removed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
max_connections = 100
lockguard.max_actions_per_minute = 8
lockguard.naptime = '50ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

# Those who time out one by one use three quarters of what a minute allows; the
# rest is for those that block.  This has to be the first test.
{
	my $offset = -s $node->logfile;
	my @slow = map { session($node, "slow $_", statement_timeout => '50ms')->start('SELECT pg_sleep(600)') } 1 .. 8;

	ok($observer->poll(q(SELECT string_agg(n || ' ' || result, ', ' ORDER BY result)
		FROM (SELECT count(*) n, result FROM lockguard.actions GROUP BY result) r), '6 released, 2 suppressed'),
		'who times out may use three quarters');
	$node->wait_for_log(qr/max_actions_per_minute \(8\) is reached\n.*DETAIL:  Only limits on blockers may signal sessions/, $offset);
	foreach my $i (1, 2)
	{
		my ($s, $w) = blocked_pair($observer, "in the way $i", ++$key, idle_blocker_timeout => '100ms');
		is_rolled_back($observer, $s, 'idle_blocker_timeout');
		succeeds($w, 'the waiter');
		$w->close;
	}
	my ($s, $w) = blocked_pair($observer, 'one too many', ++$key, idle_blocker_timeout => '100ms');
	is_recorded($observer, $s, 'idle_blocker_timeout rollback suppressed');
	$node->wait_for_log(qr/max_actions_per_minute \(8\) is reached\n.*DETAIL:  Sessions over a limit are left alone/, $offset);
	is_alive($s, 'T');
	$s->close;
	succeeds($w, 'the waiter');
	configure($observer, max_actions_per_minute => 10000);
	$_->close(silent => 1) foreach @slow, $w;
}

# The most memory that a backend has had so far, in kB; undef where the system
# does not tell.
sub memory_of
{
	my ($session) = @_;

	open my $status, '<', '/proc/' . $session->pid . '/status' or return undef;
	my ($peak) = map { /^VmHWM:\s+(\d+) kB/ } <$status>;
	return $peak;
}

# Many share a lock and as many want it for themselves: each pair is a row of
# lock_tree, and each holder the root of an incident.
{
	my @holders = map { my $s = LockguardTest::Session->new($node, "holder $_"); $s->query_ok('SELECT pg_advisory_lock_shared(1000)'); $s } 1 .. 50;
	my @waiters = map { LockguardTest::Session->new($node, "waiter $_")->start('SELECT pg_advisory_lock(1000)') } 1 .. 40;

	is_waiting($observer, $_) foreach @waiters;
	configure($observer, incident_threshold => '100ms', log_incidents => 'off', blocker_timeout => '1h',
		queued_blocker_timeout => '1h', idle_blocker_timeout => '1h', max_blocked_sessions => 1000, lock_wait_timeout => '1h');
	ok($observer->poll("SELECT count(*) >= 50 FROM lockguard.incidents WHERE status = 'open'"), 'each holder has its incident');
	foreach my $view (['lock_tree', 50 * 41], ['tree()', 50 * 41], ['incidents', 50])
	{
		my $reader = LockguardTest::Session->new($node, 'reader');

		$reader->query_ok("SET work_mem = '64kB'");
		$reader->query_ok('SELECT count(*) FROM lockguard.stats');
		my $before = memory_of($reader);
		cmp_ok($reader->value("SELECT count(*) FROM lockguard.$view->[0]"), '>=', $view->[1], "$view->[0] has all of them");
		SKIP:
		{
			skip 'no /proc', 1 unless defined $before;
			cmp_ok(memory_of($reader) - $before, '<', 2500, 'and takes no memory for each');
		}
		$reader->close;
	}
	# Four orders of magnitude less is usual.
	cmp_ok($observer->value('SELECT max_lock_scan_time FROM lockguard.stats'), '<', 1000, 'the worker has no trouble with them');

	# They are removed one by one, and the lock is free soon.
	$_->query_ok("SET lockguard.idle_blocker_timeout = '100ms'") foreach @holders;
	$_->wait_closed foreach @holders;
	is(scalar(grep { $_->error->{C} ne '57P01' } @holders), 0, 'all holders are terminated');
	ok(wait_until(sub { $_->read_some(65536, 0) foreach @waiters; grep { !$_->{busy} } @waiters }), 'a waiter gets the lock');
	configure($observer, map { $_ => undef } qw(incident_threshold log_incidents blocker_timeout
		queued_blocker_timeout idle_blocker_timeout max_blocked_sessions lock_wait_timeout));
	$_->close(silent => 1) foreach @waiters, @holders;
	ok($observer->poll("SELECT count(*) < 20 FROM pg_stat_activity WHERE application_name ~ '^(holder|waiter)'"), 'they are gone')
	  or diag 'still there';
}

# Cancelled wherever they are just then, the functions leave nothing behind.
{
	my $s = LockguardTest::Session->new($node, 'is cancelled');
	my ($root, $w) = blocked_pair($observer, 'root', ++$key);
	my $calls = join ', ', map { "(SELECT count(*) FROM lockguard.$_ WHERE i > 0)" } qw(lock_tree sessions actions incidents stats tree() scan());
	my $cancelled = 0;

	$s->query_ok("SET statement_timeout = '3ms'");
	foreach my $i (1 .. 100)
	{
		my $error = $s->query("SELECT $calls FROM generate_series(1, $i) i")->{error};

		$cancelled++ if $error && $error->{C} eq '57014';
	}
	cmp_ok($cancelled, '>', 10, 'they are cancelled');
	is($s->query_ok("SET statement_timeout = 0; SELECT $calls FROM generate_series(1, 3) i")->{error}, undef, 'and work still');
	$root->query_ok("SET lockguard.idle_blocker_timeout = '100ms'");
	is_rolled_back($observer, $root, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	$_->close foreach $s, $w;
}

# Twelve sessions do nothing but that, and a session that blocks is removed as ever.
$observer->query_ok('CREATE ROLE setter LOGIN; GRANT SET ON PARAMETER lockguard.blocker_timeout, lockguard.lock_wait_timeout TO setter');
$observer->query_ok("CREATE ROLE comes LOGIN; ALTER ROLE comes SET lockguard.blocker_timeout = '1h'");
$observer->query_ok('CREATE ROLE mon LOGIN IN ROLE pg_monitor');
my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');
foreach my $storm (
	[ 'changes settings', 'setter', q(PERFORM set_config('lockguard.blocker_timeout', (10000 + i % 1000 * 1000)::text, false), set_config('lockguard.lock_wait_timeout', (1000000 - i)::text, i % 2 = 0)) ],
	[ 'has the worker scan', 'mon', 'PERFORM lockguard.scan()' ],
	[ 'reads what is going on', 'comes', 'PERFORM count(*) FROM lockguard.lock_tree, lockguard.sessions; PERFORM lockguard.tree()' ],
	[ 'reads what has been', 'comes', 'PERFORM count(*) FROM lockguard.actions; PERFORM count(*) FROM lockguard.incidents; PERFORM count(*) FROM lockguard.stats, lockguard.contention' ],
	[ 'locks and unlocks', 'comes', 'PERFORM pg_advisory_lock(5000), pg_advisory_unlock(5000)' ],
	[ 'begins transactions', 'comes', 'COMMIT' ],
	[ 'comes and goes', 'comes', undef ])
{
	my ($what, $role, $sql) = @$storm;
	my @s = map { LockguardTest::Session->new($node, $what, user => $role) } 1 .. 12;

	foreach (@s)
	{
		$_->start("DO \$\$ BEGIN FOR i IN 1 .. 100000000 LOOP $sql; END LOOP; END \$\$") if defined $sql;
	}
	my ($root, $w) = blocked_pair($observer, "root while all else $what", ++$key, idle_blocker_timeout => '200ms');
	while (!defined $sql && !recorded($observer, $root))
	{
		LockguardTest::Session->new($node, $what, user => $role)->close foreach 1 .. 10;
	}
	is_rolled_back($observer, $root, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	is_recorded($observer, $root, 'idle_blocker_timeout rollback released');
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach @s;
	$_->close(silent => 1) foreach @s, $w;
}
is($observer->value('SELECT worker_pid FROM lockguard.stats'), $worker, 'the worker has got over all of it');
ok($observer->poll('SELECT max_lock_scan_time < 10000 FROM lockguard.stats'), 'without a long look');

$node->stop;
done_testing();
