# A rollback that is asked for at a bad moment: the session has gone on, is stopped,
# dies, cannot do it, or may not be touched any more.

use strict;
use warnings;

use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('faults', conf => <<'CONF');
track_activities = on
lockguard.escalation_delay = '400ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $waiter = LockguardTest::Session->new($node, 'waiter');

create_t($node);
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE written (what text);
CREATE FUNCTION in_the_way() RETURNS void LANGUAGE sql AS 'UPDATE public.t SET v = v WHERE id = 1';
SQL

sub idle_session
{
	my ($name, @statements) = @_;
	my $session = LockguardTest::Session->new($node, $name);

	$session->query_ok($_) foreach @statements ? @statements : ('BEGIN', 'SELECT in_the_way()');
	return $session;
}

sub wait_for
{
	my ($session) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$waiter->start('SELECT in_the_way()');
	return is_blocked_by($observer, $waiter, $session);
}

sub ask
{
	my ($session) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($observer->value('SELECT lockguard.rollback_blockers(' . $waiter->pid . ')'),
		'{' . $session->pid . '}', $session->name . ' is asked to roll back');
}

# Stop a session's process; it has done so when its state says so.
sub stop
{
	my ($session) = @_;

	kill 'STOP', $session->pid;
	wait_until(
		sub {
			return slurp_file('/proc/' . $session->pid . '/stat') =~ /\) T /;
		});
	return;
}

# Stopped, asked, and gone on: it is rolled back before it hears of anything else.
my $session = idle_session('stopped');
wait_for($session);
stop($session);
ask($session);
$session->start('COMMIT');
kill 'CONT', $session->pid;
is($session->finish->{error}{C}, '40000', 'a COMMIT that came meanwhile is refused');
succeeds($waiter);
is_actions($observer, [ { action => 'rollback', result => 'released', pid => $session } ]);
$session->close;

# Stopped, asked, and terminated, in the middle of what an abort must undo with care.
foreach my $statements (
	['CREATE TABLE x (i int); INSERT INTO x VALUES (1)'],
	[ 'SAVEPOINT a', 'CREATE TABLE x (i int)', 'SAVEPOINT b', 'ALTER TABLE x ADD COLUMN j int', 'DECLARE c CURSOR FOR SELECT * FROM x' ],
	[ 'ALTER TABLE written ADD COLUMN more int', 'CREATE TEMP TABLE y AS SELECT 1', 'LISTEN x' ])
{
	$session = idle_session('dying', 'BEGIN', @$statements, 'SELECT in_the_way()');
	wait_for($session);
	stop($session);
	ask($session);
	$observer->query_ok('SELECT pg_terminate_backend(' . $session->pid . ')');
	kill 'CONT', $session->pid;
	$session->wait_closed;
	is($session->error->{C}, '57P01', 'it is terminated');
	succeeds($waiter);
}
wait_until(sub { return !grep { $_->{result} eq 'pending' } actions($observer) });
forget_actions($observer);

# Stopped and asked; then nothing is in the way any more, or nothing may be done.
foreach my $case (
	[
		'whose waiter has gone', 'self_resolved',
		sub { $observer->query_ok('SELECT pg_cancel_backend(' . $waiter->pid . ')'); $waiter->finish; }
	],
	[ 'when all is paused', 'logged', sub { $observer->query_ok("SELECT lockguard.pause('1 h')") } ],
	[ 'that has become exempt', 'exempt', sub { $observer->query_ok("SELECT lockguard.exempt($_[0], '1 h')") } ],
	[ 'in a dry run', 'logged', sub { configure($observer, dry_run => 'on') } ],
	[ 'when lockguard is disabled', '', sub { configure($observer, enabled => 'off') } ])
{
	my ($name, $result, $then) = @$case;

	$session = idle_session($name);
	wait_for($session);
	stop($session);
	ask($session);
	$then->($session->pid);
	is_actions($observer, [ { action => 'rollback', result => $result } ], "$name: $result") if $result;
	kill 'CONT', $session->pid;
	$session->query_ok('SELECT 1');
	is($session->{status}, 'T', "$name: it is still in its transaction");
	ok(!$session->query('COMMIT')->{error}, "$name: and commits it");
	$waiter->finish;
	$observer->query_ok('SELECT lockguard.resume()');
	configure($observer, dry_run => undef, enabled => undef);
	is_actions($observer, [ { action => 'rollback', result => 'self_resolved' } ], "$name: self_resolved") if !$result;
	$session->close;
}

# What comes while it rolls back is obeyed then: an abort may take long, and wait for something
# else meanwhile, as that of postgres_fdw does.
SKIP:
{
	skip 'postgres_fdw is not there', 6
	  if !$observer->value("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'");
	my ($host, $port, $user) = ($node->host, $node->port, scalar getpwuid($>));

	$observer->query_ok($_) foreach 'CREATE EXTENSION postgres_fdw', 'CREATE DATABASE empty',
	  "CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres')",
	  "CREATE USER MAPPING FOR CURRENT_USER SERVER itself OPTIONS (user '$user')",
	  "CREATE FOREIGN TABLE far (what text) SERVER itself OPTIONS (table_name 'written')";
	foreach my $how ('pg_terminate_backend()', 'a barrier')
	{
		$session = idle_session("slow abort and $how", 'BEGIN', 'SELECT in_the_way()', 'SELECT count(*) FROM far');
		my $remote = $observer->value("SELECT pid FROM pg_stat_activity WHERE application_name = 'postgres_fdw'");
		my $dropper = LockguardTest::Session->new($node, 'dropper');

		wait_for($session);
		kill 'STOP', $remote;
		ask($session);
		$observer->poll("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = " . $session->pid);
		if ($how eq 'a barrier')
		{
			$dropper->start('DROP DATABASE empty');
			$observer->poll("SELECT wait_event = 'ProcSignalBarrier' FROM pg_stat_activity WHERE pid = " . $dropper->pid);
		}
		else
		{
			$observer->query_ok('SELECT pg_terminate_backend(' . $session->pid . ')');
		}
		kill 'CONT', $remote;
		succeeds($waiter);
		$how eq 'a barrier' ? succeeds($dropper, 'DROP DATABASE') : $session->wait_closed;
		$session->close;
		$dropper->close;
		$observer->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'postgres_fdw'");
	}
	wait_until(sub { return !grep { $_->{result} eq 'pending' } actions($observer) });
	forget_actions($observer);
}

# The settings by which the client has quoted its text are gone, and it does not know yet.
SKIP:
{
	skip 'strings always conform to the standard since 19', 4
	  if $observer->query('SET standard_conforming_strings = off')->{error};
	$observer->query_ok('RESET standard_conforming_strings');
	$session = idle_session('quoting', 'BEGIN', 'SET LOCAL standard_conforming_strings = off', 'SET LOCAL escape_string_warning = off', 'SELECT in_the_way()');
	wait_for($session);
	ask($session);
	succeeds($waiter);
	my $text = "ROLLBACK; INSERT INTO written VALUES ('a\\'); DELETE FROM written; --')";
	is($session->query($text)->{error}{C}, '25P02', 'a ROLLBACK that does not come alone is refused once');
	is($session->{status}, 'E', 'and does nothing');
	ok(!$session->query('ROLLBACK; SELECT 1')->{error}, 'when the client has been told, it is done');
	$session->close;
}

# What a subtransaction has set for itself does not go on.
$session = idle_session('READ ONLY in a savepoint', 'BEGIN', 'SELECT in_the_way()', 'SAVEPOINT a', 'SET TRANSACTION READ ONLY');
wait_for($session);
ask($session);
succeeds($waiter);
$session->query_ok('ROLLBACK AND CHAIN');
is($session->value('SHOW transaction_read_only'), 'off', 'ROLLBACK AND CHAIN goes on READ WRITE');
$session->close;
wait_until(sub { return !grep { $_->{result} eq 'pending' } actions($observer) });
forget_actions($observer);

# By a limit.
configure($observer, idle_blocker_timeout => '300ms');

# It does not answer: the next remedy follows.
$session = idle_session('stopped for long');
wait_for($session);
stop($session);
$observer->poll('SELECT count(*) = 2 FROM lockguard.actions WHERE pid = ' . $session->pid);
kill 'CONT', $session->pid;
is_terminated($session, 'idle_blocker_timeout');
succeeds($waiter);
my ($rollback, $terminate) = is_actions(
	$observer,
	[
		{ action => 'rollback', result => 'escalated', pid => $session },
		{ action => 'terminate', result => 'released', pid => $session }
	],
	'it is terminated when it has not rolled back');
cmp_ok($terminate->{acted_at} - $rollback->{acted_at}, '>=', 1, 'a second later');

# It has rolled back, but holds a lock of the session.
$session = idle_session('lock of the session', 'SELECT pg_advisory_lock(1)', 'BEGIN', 'SELECT in_the_way()');
$waiter->start('SELECT pg_advisory_lock(1), pg_advisory_unlock(1)');
is_terminated($session, 'idle_blocker_timeout');
succeeds($waiter);
($rollback, $terminate) = is_actions(
	$observer,
	[
		{ action => 'rollback', result => 'escalated', state => 'idle in transaction' },
		{ action => 'terminate', result => 'released', state => 'idle in transaction (aborted)' }
	],
	'it is terminated when that has not helped');
cmp_ok($terminate->{acted_at} - $rollback->{acted_at}, '>=', 0.4, 'after escalation_delay');

# Nothing is left to roll back.
$session = LockguardTest::Session->new($node, 'failed before');
$session->query_ok($_) foreach 'SELECT pg_advisory_lock(1)', 'BEGIN';
$session->query('SELECT 1 / 0');
$waiter->start('SELECT pg_advisory_lock(1), pg_advisory_unlock(1)');
is_terminated($session, 'idle_blocker_timeout');
succeeds($waiter);
is_actions($observer, [ { action => 'terminate', result => 'released', state => 'idle in transaction (aborted)' } ]);

# In the middle of a statement that waits for its client.
SKIP:
{
	skip 'the kernel does not tell what clients do', 2 unless kernel_tells_traffic();

	foreach my $activities ('on', 'off')
	{
		$session = idle_session("COPY, track_activities $activities", "SET track_activities = $activities", 'BEGIN', 'SELECT in_the_way()');
		$session->start('COPY written FROM STDIN');
		wait_for($session);
		is_terminated($session, 'idle_blocker_timeout');
		succeeds($waiter);

		# What it is at shows only if it reports its activity.  To be asked has
		# woken it, and it takes time to see that its client has not moved.
		wait_until(sub { return !grep { $_->{result} eq 'pending' } actions($observer) });
		like(
			join(' ', map { "$_->{action}:$_->{result}" } actions($observer)),
			$activities eq 'on' ? qr/^terminate:released$/ : qr/^(rollback:self_resolved )*rollback:escalated terminate:released$/,
			"COPY, track_activities $activities: not rolled back");
		forget_actions($observer);
	}

	# Nor in a block that the client has not begun, and does not know to be in.
	$session = LockguardTest::Session->new($node, 'pipeline');
	$session->query_ok('SET track_activities = off');
	foreach my $sql ("INSERT INTO written VALUES ('pipeline')", 'SELECT in_the_way()')
	{
		$session->send_message('P', "\0$sql\0" . pack('n', 0));
		$session->send_message('B', "\0\0" . pack('nnn', 0, 0, 0));
		$session->send_message('E', "\0" . pack('N', 0));
	}
	$session->send_message('H', '');
	$observer->poll("SELECT wait_event = 'ClientRead' AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND relation = 't'::regclass)"
		  . ' FROM pg_stat_activity a WHERE pid = ' . $session->pid);
	wait_for($session);
	is_terminated($session, 'idle_blocker_timeout');
	succeeds($waiter);
	wait_until(sub { return !grep { $_->{result} eq 'pending' } actions($observer) });
	like(
		join(' ', map { "$_->{action}:$_->{result}" } actions($observer)),
		qr/^(rollback:self_resolved )*rollback:escalated terminate:released$/,
		'a pipeline is not rolled back');
	forget_actions($observer);
}

# It goes on just when it is asked: then it is asked again.
my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');
foreach my $action ('terminate', 'rollback')
{
	$session = idle_session("missed, action = $action");
	wait_for($session);
	configure($observer, action => $action, idle_blocker_timeout => undef, blocker_timeout => '300ms', debug_wait_at => 'in_proof');
	# In its proof it holds locks that a view with names would need.
	$observer->poll("SELECT state = 'active' AND query = 'in_proof' FROM pg_stat_get_activity($worker)");
	$session->query_ok('SELECT 1');
	$observer->query_ok($_) foreach 'ALTER SYSTEM RESET lockguard.debug_wait_at', 'SELECT pg_reload_conf()';
	succeeds($waiter);
	is_rolled_back(undef, $session, 'blocker_timeout');
	wait_until(sub { return !grep { $_->{result} eq 'pending' } actions($observer) });
	my $rows = join ' ', map { "$_->{action}:$_->{result}" } actions($observer);
	like($rows, qr/^(?:(?:rollback|log):self_resolved )+rollback:released$/, "action = $action: it is asked again");
	forget_actions($observer);
	$session->close;
	configure($observer, blocker_timeout => undef);
}

# A lock of the session, and nothing but rollbacks allowed: its later transactions do not
# help the one that waits, and are left alone.
configure($observer, action => 'rollback', idle_blocker_timeout => '200ms', blocker_timeout => '200ms');
$session = idle_session('leak', 'SELECT pg_advisory_lock(1)');
$waiter->start('SELECT pg_advisory_lock(1), pg_advisory_unlock(1)');
is_blocked_by($observer, $waiter, $session);
my $refused = 0;
foreach (1 .. 4)
{
	$session->query_ok('BEGIN; SELECT 1');
	ok( $observer->poll(q(SELECT state_change < clock_timestamp() - interval '600 ms' FROM pg_stat_activity WHERE pid = ) . $session->pid),
		'idle for longer than both limits');
	scan($observer);
	$refused++ if $session->query('COMMIT')->{error};
}
is($refused, 0, 'no transaction is rolled back that cannot help');
$session->close;
succeeds($waiter);
wait_until(sub { return !grep { $_->{result} eq 'pending' } actions($observer) });
forget_actions($observer);
configure($observer, blocker_timeout => undef, idle_blocker_timeout => '300ms');

# The most that may be done is to roll back.
configure($observer, action => 'rollback');
$session = idle_session('action = rollback');
wait_for($session);
is_rolled_back($observer, $session, 'idle_blocker_timeout');
succeeds($waiter);
is_actions($observer, [ { action => 'rollback', result => 'released' } ]);

$session->query_ok('SELECT pg_advisory_lock(1)');
$waiter->start('SELECT pg_advisory_lock(1), pg_advisory_unlock(1)');
$observer->poll("SELECT count(*) > 0 FROM lockguard.actions WHERE result = 'logged' AND pid = " . $session->pid);
$session->query_ok('SELECT pg_advisory_unlock(1)');
succeeds($waiter);
is( join(' ', map { "$_->{action}:$_->{result}" } actions($observer)),
	'log:logged', 'one that is idle outside a transaction keeps its connection');
is($observer->value('SELECT reason FROM lockguard.actions ORDER BY action_id DESC LIMIT 1'),
	'lockguard.action is rollback, which cannot reach this session', 'and the row says why');
forget_actions($observer);

configure($observer, blocker_timeout => '300ms');
$session->query_ok('BEGIN; SELECT in_the_way()');
$session->start('SELECT pg_sleep(100)');
wait_for($session);
is_cancelled($session, 'blocker_timeout');
succeeds($waiter);
is_actions($observer, [ { action => 'cancel', result => 'released' } ]);
$session->query_ok('ROLLBACK');

# With a savepoint, the cancel does not help: then the transaction goes.
$session->query_ok($_) foreach 'BEGIN', 'SELECT in_the_way()', 'SAVEPOINT s';
$session->start('SELECT pg_sleep(100)');
wait_for($session);
is_cancelled($session, 'blocker_timeout');
succeeds($waiter);
is_rolled_back(undef, $session, 'blocker_timeout');
is_actions(
	$observer,
	[ { action => 'cancel', result => 'escalated' }, { action => 'rollback', result => 'released' } ]);
$session->close;
configure($observer, action => undef, blocker_timeout => undef, idle_blocker_timeout => undef);

# A transaction with the same local id, and in the same place, as one that another session
# has rolled back: up to 16, these ids do not belong to the place.
sub local_id
{
	my ($session) = @_;

	return $session->value("SELECT split_part(virtualtransaction, '/', 2) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'virtualxid'");
}
my $before = LockguardTest::Session->new($node, 'before');
$session = LockguardTest::Session->new($node, 'rolled back');
$session->query_ok('BEGIN; COMMIT') foreach local_id($session) .. local_id($before) + 50;
$session->query_ok('BEGIN');
my $id = local_id($session);
$session->query_ok('SELECT in_the_way()');
wait_for($session);
ask($session);
succeeds($waiter);
foreach my $one ($before, $session)
{
	$one->close;
	wait_until(sub { return !kill 0, $one->pid });
}
$session = LockguardTest::Session->new($node, 'same id');
$session->query_ok('BEGIN; COMMIT') foreach local_id($session) + 1 .. $id - 1;
$session->query_ok('BEGIN; SELECT in_the_way()');
note 'local transaction id ' . local_id($session) . ', was ' . $id;
wait_for($session);
ask($session);
succeeds($waiter);
is($session->query('COMMIT')->{error}{C}, '40000', 'it is rolled back all the same');
$session->close;
wait_until(sub { return !grep { $_->{result} eq 'pending' } actions($observer) });
forget_actions($observer);

# A limit that is about no blocking is named in the message.
configure($observer, transaction_timeout => '300ms');
$session = idle_session('old transaction');
$observer->poll("SELECT count(*) > 0 FROM lockguard.actions WHERE result = 'released' AND pid = " . $session->pid);
is_rolled_back(undef, $session, 'transaction_timeout');
is($session->error->{M}, 'transaction was rolled back because it was over lockguard.transaction_timeout', 'the limit is named');
configure($observer, transaction_timeout => undef);
is_actions($observer, [ { action => 'rollback', result => 'released', limit_name => 'transaction_timeout' } ]);
$session->close;

# A client that comes back at the very moment.  It goes through unharmed, or is refused,
# or its statement is cancelled; what it was told is what is in the table.
my $tries = 1000;
my %told = (committed => 0, refused => 0, cancelled => 0);
my @committed;

$session = LockguardTest::Session->new($node, 'comes back');
foreach my $i (1 .. $tries)
{
	$session->query_ok("BEGIN; INSERT INTO written VALUES ('$i'); SELECT in_the_way()");
	$waiter->start('SELECT in_the_way()');
	$observer->poll('SELECT pg_blocking_pids(' . $waiter->pid . ') <> ' . q('{}'));
	$observer->start('SELECT lockguard.rollback_blockers(' . $waiter->pid . ')');
	select undef, undef, undef, 0.0005 * rand if $i % 2;
	my $insert = $session->query("INSERT INTO written VALUES ('$i')")->{error};
	my $commit = $session->query('COMMIT')->{error};
	if ($commit)
	{
		# One that has not begun to commit can still be cancelled.
		$told{ $commit->{C} eq '57014' ? 'cancelled' : 'refused' }++;
		die "COMMIT: $commit->{C} $commit->{M}" if $commit->{C} !~ /^(?:40000|57014)$/;
		die "INSERT: $insert->{C}" if $insert && $insert->{C} ne '25P02';
	}
	elsif ($insert)
	{
		$told{cancelled}++;
		die "INSERT: $insert->{C}" if $insert->{C} ne '57014';
	}
	else
	{
		$told{committed}++;
		push @committed, $i, $i;
	}
	$session->query('ROLLBACK') if $session->{status} ne 'I';
	$observer->finish;
	$waiter->finish;
}
note join ', ', map { "$_: $told{$_}" } sort keys %told;
cmp_ok($told{$_}, '>', 0, "some of $tries were $_") foreach 'committed', 'refused';
is( $observer->value('SELECT string_agg(what, $$,$$ ORDER BY what::int) FROM written'),
	join(',', @committed), 'all that was told to be committed is there, and nothing else');
is($session->value('SELECT 1'), 1, 'and it still has its connection');
done_testing();
