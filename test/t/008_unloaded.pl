# Without lockguard in shared_preload_libraries; and with it, when the worker
# or the server fails, is full, or goes down.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Not loaded: the extension can be created, and each of its views and
# functions says what is missing.
{
	my $plain = PostgreSQL::Test::Cluster->new('plain');

	$plain->init;
	$plain->start;
	$plain->safe_psql('postgres', 'CREATE EXTENSION lockguard');
	my $observer = LockguardTest::Session->new($plain, 'observer');
	my @calls = (
		(map { "SELECT * FROM lockguard.$_->[0]" } $observer->rows(
			"SELECT viewname FROM pg_views WHERE schemaname = 'lockguard' ORDER BY 1")),
		(map { "SELECT lockguard.$_->[0]" } $observer->rows(
			"SELECT format('%I(%s)', proname, (SELECT string_agg(format('NULL::%s', t::regtype), ', ') FROM unnest(proargtypes) t))"
			  . " FROM pg_proc WHERE pronamespace = 'lockguard'::regnamespace AND NOT proisstrict ORDER BY 1")),
		(map { "SELECT lockguard.$_" } 'scan()', 'tree()', 'report(1)', "pause('1s')", 'resume()', 'reset_stats()',
			'reset_history()', 'cancel_blockers(1)', 'rollback_blockers(1)', 'terminate_blockers(1)', "exempt(1, '1s')"));
	my $check = sub {
		my ($when) = @_;

		foreach my $sql (@calls)
		{
			my $error = $observer->query($sql)->{error} || {};

			is("$error->{C}: $error->{M}", '55000: lockguard is not running in this server', "$when: $sql");
			is($error->{H}, 'Add lockguard to shared_preload_libraries and restart the server.', 'with what to do');
		}
	};

	$check->('not loaded');
	$observer->query_ok("LOAD 'lockguard'");
	$check->('LOAD');
	is($observer->query('SHOW lockguard.blocker_timeout')->{error}{C}, '42704', 'LOAD defines no setting');
	$observer->query_ok("SET lockguard.blocker_timeout = '1s'");

	# What is not known here may mean something later: an ordinary user may not
	# lay it up for then.
	$observer->query_ok('CREATE ROLE web');
	$observer->query_ok('SET ROLE web');
	is($observer->query('ALTER ROLE web SET lockguard.exempt = on')->{error}{C}, '42501', 'no setting can be planted');
	$observer->query_ok('RESET ROLE');
	$observer->query_ok($_) foreach 'BEGIN', 'CREATE TABLE x ()', 'SAVEPOINT a', 'ROLLBACK TO a', 'COMMIT', 'DROP TABLE x';
	$observer->query_ok('DROP EXTENSION lockguard');
	$observer->query_ok('CREATE EXTENSION lockguard');
	my $loaded = session_with($plain, 'session_preload', options => '-c session_preload_libraries=lockguard');
	is($loaded->value('SELECT 1'), '1', 'session_preload_libraries does no harm either');
	is($observer->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'lockguard%'"), '0', 'there is no worker');
	$plain->stop;
}

my $node = lockguard_node('main', conf => <<'CONF');
max_connections = 20
superuser_reserved_connections = 3
restart_after_crash = on
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

sub worker_pid
{
	return $observer->value("SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'lockguard'");
}

# Another worker than the one with this pid is there, and does its work.
sub works_again
{
	my ($what, $old) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(wait_until(sub { my $pid = worker_pid(); $pid != 0 && $pid != $old }), "$what: there is a new worker");
	my ($s, $w) = blocked_pair($observer, $what, ++$key, idle_blocker_timeout => '200ms');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	is_recorded($observer, $s, 'idle_blocker_timeout rollback released');
	ok($observer->poll('SELECT worker_pid = (SELECT pid FROM pg_stat_activity WHERE backend_type = \'lockguard\') FROM lockguard.stats'),
		"$what: the statistics name it");
	$w->close;
	return;
}

# The worker is killed.
{
	my $old = worker_pid();
	my $actions = $observer->value('SELECT count(*) FROM lockguard.actions');
	$observer->query_ok("SELECT pg_terminate_backend($old)");
	works_again('terminated', $old);
	$observer->query_ok('SELECT pg_cancel_backend(' . worker_pid() . ')');
	works_again('cancelled', 0);
	cmp_ok($observer->value('SELECT count(*) FROM lockguard.actions'), '>', $actions, 'what was recorded stays');
}

# It fails, wherever that is.
if (has_wait_points($observer))
{
	foreach my $point (qw(before_look before_judge before_act before_signal after_act))
	{
		my $old = worker_pid();
		my $offset = -s $node->logfile;
		my ($s, $w);

		configure($observer, enabled => 'off');
		($s, $w) = blocked_pair($observer, "fails $point", ++$key, idle_blocker_timeout => '100ms');
		older_than($observer, 'state_change', '200ms', $s, $w);
		$observer->query_ok("ALTER SYSTEM SET lockguard.debug_error_at = '$point'");
		$observer->query_ok('ALTER SYSTEM RESET lockguard.enabled');
		$observer->query_ok('SELECT pg_reload_conf()');
		$node->wait_for_log(qr/ERROR:  lockguard: made to fail at "$point"/, $offset);
		my $early = $point eq 'after_act';
		is_rolled_back($observer, $s, 'idle_blocker_timeout') if $early;
		$observer->query_ok('ALTER SYSTEM RESET lockguard.debug_error_at');
		$observer->query_ok('SELECT pg_reload_conf()');

		# The next worker sees to it, and to what the last one has begun.
		is_rolled_back($observer, $s, 'idle_blocker_timeout') unless $early;
		succeeds($w, 'the waiter');
		is_recorded($observer, $s, 'idle_blocker_timeout rollback released');
		$w->close;
		works_again("after $point", $old);
	}

	# A session that waits for a scan is not left waiting for ever.
	stop_worker_at($observer, 'before_look');
	worker_is_at($observer, 'before_look');
	my $old = worker_pid();
	my $caller = LockguardTest::Session->new($node, 'caller')->start('SELECT lockguard.scan()');
	ok($observer->poll("SELECT state = 'active' AND wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = " . $caller->pid), 'scan() waits');
	$observer->query_ok('SELECT pg_cancel_backend(' . $caller->pid . ')');
	is($caller->finish->{error}{C}, '57014', 'and can be cancelled');
	$caller->start('SELECT lockguard.scan()');
	$observer->query_ok("SELECT pg_terminate_backend($old)");
	$observer->query_ok('ALTER SYSTEM RESET lockguard.debug_wait_at');
	$observer->query_ok('SELECT pg_reload_conf()');
	my $error = $caller->finish->{error};
	like($error ? $error->{C} : '55000', qr/^55000$/, 'it ends with the worker, or is served by the next');
	works_again('killed while waited for', $old);
	$caller->close;
}
else
{
	note 'built without debug points: failures of the worker are not tested';
}

# No connection is left, and the root is still removed.  No session can look at that.
{
	my $root = holder($node, 'root', ++$key);
	my @w;

	configure($observer, idle_blocker_timeout => '400ms', enabled => 'off');
	foreach my $i (1 .. 40)
	{
		my $w = LockguardTest::Session->new($node, "waiter $i", wait => 0);
		my $error = $w->finish->{error};

		last if $error;
		$w->start("SELECT pg_advisory_xact_lock($key)");
		push @w, $w;
	}
	cmp_ok(scalar @w, '>=', 17, 'all connections are taken');
	$observer->query_ok('ALTER SYSTEM RESET lockguard.enabled');
	$observer->query_ok('SELECT pg_reload_conf()');
	is_rolled_back($observer, $root, 'idle_blocker_timeout');
	foreach (@w)
	{
		succeeds($_, 'the waiter');
		$_->close;
	}
	is_recorded($observer, $root, 'idle_blocker_timeout rollback released');
	configure($observer, idle_blocker_timeout => undef);
}

# A database can be dropped, however seldom the worker scans.
foreach my $set ([ naptime => '1h' ], [ enabled => 'off' ])
{
	configure($observer, @$set);
	$observer->query_ok('CREATE DATABASE dropped');
	my $s = LockguardTest::Session->new($node, 'in it', dbname => 'dropped');
	$s->query_ok($_) foreach 'CREATE TABLE x AS SELECT 1', 'BEGIN', 'LOCK x';
	my $w = LockguardTest::Session->new($node, 'waits', dbname => 'dropped')->start('SELECT FROM x');
	is_waiting($observer, $w);
	$observer->query_ok('SELECT lockguard.scan()');
	$s->close;
	succeeds($w, 'the waiter');
	$w->close;
	$observer->query_ok('SET statement_timeout = 60000');
	my $error;
	wait_until(sub { $error = $observer->query('DROP DATABASE dropped')->{error}; !$error || $error->{C} ne '55006' });
	is($error, undef, "DROP DATABASE with @$set");
	$observer->query_ok('RESET statement_timeout');
	configure($observer, $set->[0] => undef);
}

# The server crashes, and comes back with its worker.
{
	my $old = worker_pid();
	my $victim = LockguardTest::Session->new($node, 'victim');

	$node->append_conf('postgresql.conf', "lockguard.idle_blocker_timeout = '200ms'");
	$node->reload;
	kill 'KILL', $victim->pid;
	$_->wait_closed foreach $victim, $observer;
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'lockguard'")
	  or die 'no worker after a crash';
	$observer = LockguardTest::Session->new($node, 'observer');
	works_again('after a crash', $old);
	my ($s, $w) = blocked_pair($observer, 'limit of the server', ++$key);
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	$w->close(silent => 1);
	$old = worker_pid();
	$node->restart;
	$observer = LockguardTest::Session->new($node, 'observer');
	works_again('after a restart', $old);
}

# A shutdown is not held up by a jam, or by the worker.
{
	configure($observer, enabled => 'off');
	my ($s, $w) = blocked_pair($observer, 'jam', ++$key);
	my $offset = -s $node->logfile;

	$node->stop('fast');
	ok(slurp_file($node->logfile, $offset) =~ /database system is shut down/, 'fast shutdown in a jam');
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	configure($observer, enabled => undef);
	$observer->close;
	$offset = -s $node->logfile;
	$node->stop('smart');
	ok(slurp_file($node->logfile, $offset) =~ /database system is shut down/, 'smart shutdown when no session is left');
}

done_testing();
