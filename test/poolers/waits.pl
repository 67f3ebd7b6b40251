# Sessions that wait for a lock through PgBouncer, clients that wait for a server connection, and which of
# lockguard's limits and PgBouncer's timeouts comes first.

use strict;
use warnings;

use LockguardTest;
use PgBouncer;
use Test::More;

my $node = lockguard_node('waits', conf => <<'CONF');
deadlock_timeout = '100ms'
lockguard.incident_threshold = '100ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $holder = LockguardTest::Session->new($node, 'holder');
my $waiter = LockguardTest::Session->new($node, 'another session');
my $pooler;

create_t($node);
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; GRANT ALL ON t TO app');

my $update = 'UPDATE t SET v = 1 WHERE id = 1';
my $long = 'WITH row AS (UPDATE t SET v = 1 WHERE id = 1 RETURNING id) SELECT pg_sleep(600) FROM row';

note PgBouncer::title();
gives_up($_) foreach 'session', 'transaction', 'statement';
queue();
max_blocked_sessions();
query_wait_timeout();
idle_transaction_timeout();
transaction_timeout();
query_timeout();
client_leaves();
idle_session_timeout();

done_testing();

# A wait that the client gives up: told which session blocked it, as without PgBouncer.
sub gives_up
{
	my ($mode) = @_;
	$pooler = PgBouncer->new($node, $mode);
	my $client = client("$mode client");
	my $told = qr/^lockguard:\ it\ waited\ \d+\ ms\ for\ ShareLock\ on\ transaction\ \d+,\ which\ process\ \d+\ \(user\ "[^"]+",
		\ application\ "holder"\),\ idle\ in\ transaction\ for\ .*,\ held\.$/x;

	hold_row();
	if ($mode ne 'statement')
	{
		$client->query_ok($_) foreach 'BEGIN', "SET LOCAL lock_timeout = '500ms'";
		my $error = $client->query($update)->{error};
		is($error->{C}, '55P03', "$mode, lock_timeout: passed on");
		like($error->{D}, $told, "$mode, lock_timeout: it is told which session blocked it");
		$client->query_ok('ROLLBACK');
	}
	# PgBouncer's one server connection is taken, by that statement.
	$client->start($update);
	seen_waiting();
	my $error = $client->cancel->finish->{error};
	is($error->{C}, '57014', "$mode, cancel by the client: passed on, with all server connections taken");
	like($error->{D}, $told, "$mode, cancel by the client: it is told which session blocked it");
	configure($observer, lock_wait_timeout => '500ms');
	$client->start($update);
	is_cancelled($client, 'lock_wait_timeout');
	like($client->error->{D}, qr/ It waited \d+ ms for .* application "holder"/,
		"$mode, lock_wait_timeout: and which session blocked it");
	configure($observer, lock_wait_timeout => undef);
	$holder->query_ok('ROLLBACK');
	ok(!$client->query($update)->{error}, "$mode: the connection goes on");
	$pooler->stop;
	return;
}

# Clients that wait for a server connection are no sessions of the server.
sub queue
{
	$pooler = PgBouncer->new($node, 'transaction', default_pool_size => 2);
	my @clients = map { client("client $_") } 1 .. 5;

	hold_row();
	$_->start($update) foreach @clients;
	ok(wait_until(sub { ($pooler->pool->{cl_waiting} || 0) == 3 }),
		'of 5 clients, 3 wait for a server connection: SHOW POOLS');
	ok($observer->poll("SELECT blocked_sessions = 2 FROM lockguard.sessions WHERE application_name = 'holder'"),
		'and 2 of them are blocked sessions');
	is($observer->value('SELECT count(*) FROM lockguard.tree()'), 3, 'the tree has these and the one that blocks them');
	$holder->query_ok('ROLLBACK');
	succeeds($_) foreach @clients;
	$pooler->stop;
	return;
}

# A blocker in the pool can block one session less than the pool is large.
sub max_blocked_sessions
{
	$pooler = PgBouncer->new($node, 'transaction', default_pool_size => 3);
	my ($client, @clients) = map { client("client $_") } 1 .. 8;

	forget_actions($observer);
	configure($observer, max_blocked_sessions => 2);
	$client->query_ok($_) foreach 'BEGIN', $update;
	$_->start($update) foreach @clients;
	ok(wait_until(sub { ($pooler->pool->{cl_waiting} || 0) == 5 }),
		'max_blocked_sessions = 2, a pool of 3: 5 of 7 clients wait in the pool');
	ok( $observer->poll('SELECT count(*) = 2 FROM lockguard.sessions'
			  . " WHERE wait_start < clock_timestamp() - interval '500 ms'"),
		'and 2 for the lock');
	scan($observer);
	is_actions($observer, [], 'max_blocked_sessions = 2: not passed');
	configure($observer, max_blocked_sessions => 1);
	succeeds($_) foreach @clients;
	is_actions($observer,
		[ { limit_name => 'max_blocked_sessions', action => 'rollback', result => 'released', blocked_sessions => 2 } ],
		'max_blocked_sessions = 1: passed, and all 7 get through');
	configure($observer, max_blocked_sessions => undef);
	$client->query('ROLLBACK');
	$pooler->stop;
	return;
}

# A client in PgBouncer's queue loses its connection if the jam lasts, and gets through if lockguard ends it before.
sub query_wait_timeout
{
	foreach my $limit (undef, '300ms')
	{
		$pooler = PgBouncer->new($node, 'transaction', query_wait_timeout => $limit ? 10 : 1);
		my ($client, $blocked, $queued) = map { client($_) } 'client', 'blocked', 'queued';

		configure($observer, idle_blocker_timeout => $limit);
		hold_row();
		$blocked->start($update);
		seen_waiting() if !$limit;
		$queued->start('SELECT 1');
		if ($limit)
		{
			succeeds($queued, 'idle_blocker_timeout before query_wait_timeout: what waited in the pool');
			succeeds($blocked, 'and what waited for the lock');
			is(error_of($holder->query('COMMIT')), '40000', 'the blocker is rolled back');
		}
		else
		{
			$queued->wait_closed;
			is(told($queued), '08P01 query_wait_timeout',
				'query_wait_timeout before any limit: what waited in the pool is disconnected');
			ok($blocked->{busy}, 'what waits for the lock waits on');
			$holder->query_ok('COMMIT');
			succeeds($blocked);
		}
		$pooler->stop;
	}
	configure($observer, idle_blocker_timeout => undef);
	return;
}

# PgBouncer's own timeout for idle transactions closes both connections.
sub idle_transaction_timeout
{
	foreach my $limit (undef, '300ms')
	{
		$pooler = PgBouncer->new($node, 'transaction', idle_transaction_timeout => $limit ? 4 : 1);
		my $client = client('client');

		forget_actions($observer);
		configure($observer, idle_blocker_timeout => $limit);
		$client->query_ok($_) foreach 'BEGIN', $update;
		$waiter->query_ok($update);
		if ($limit)
		{
			is_actions($observer, [ { application_name => 'client', action => 'rollback', result => 'released' } ],
				'idle_blocker_timeout before idle_transaction_timeout: the transaction is rolled back');
			$client->query_ok('ROLLBACK');
			is(client('next')->query('SELECT 1')->{error}, undef, 'and the client is in time for its ROLLBACK');
			$client->query_ok($_) foreach 'BEGIN', $update;
			$waiter->query_ok($update);
		}
		$client->wait_closed;
		is(told($client), '08P01 idle transaction timeout',
			($limit
				? 'a client that does not come back after the rollback'
				: 'idle_transaction_timeout before any limit: the client')
			  . ' is disconnected, without a reason');
		is_actions($observer, [], 'lockguard does nothing') if !$limit;
		ok($observer->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'client'"),
			'and the server connection is closed');
		$pooler->stop;
	}
	configure($observer, idle_blocker_timeout => undef);
	return;
}

# Since 1.25, PgBouncer has a transaction_timeout of its own.
sub transaction_timeout
{
	my $title = 'transaction_timeout of PgBouncer';

	return note "not run: $title: it is there from 1.25 on" if PgBouncer::version() < 1025;
	$pooler = PgBouncer->new($node, 'transaction', transaction_timeout => 1);
	my $client = client('client');
	$client->query_ok($_) foreach 'BEGIN', $update;
	$client->wait_closed;
	is(told($client), '08P01 transaction timeout', "$title: the client is disconnected, without a reason");
	ok($observer->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'client'"),
		'and the server connection is closed');
	$pooler->stop;
	return;
}

# A statement whose client PgBouncer has disconnected goes on in the server, and blocks on.
sub query_timeout
{
	$pooler = PgBouncer->new($node, 'transaction', query_timeout => 1);
	my $client = client('client');

	$client->start($long);
	$client->wait_closed;
	is(told($client), '08P01 query timeout', 'query_timeout: the client is disconnected');
	blocks_on_without_client('query_timeout');
	$pooler->stop;
	return;
}

# So does one whose client has hung up by itself.
sub client_leaves
{
	$pooler = PgBouncer->new($node, 'transaction');
	my $client = client('client');

	$client->start($long);
	$observer->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'client' AND wait_event = 'PgSleep'");
	$client->close;
	ok(wait_until(sub { !$pooler->show('SERVERS') }), 'a client hangs up: PgBouncer has let go of the server connection');
	blocks_on_without_client('a client hangs up');

	$observer->query_ok($_)
	  foreach "ALTER SYSTEM SET client_connection_check_interval = '200ms'", 'SELECT pg_reload_conf()';
	$client = client('client');
	is($client->value('SHOW client_connection_check_interval'), '200ms', 'with client_connection_check_interval');
	$client->start($long);
	$observer->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'client' AND wait_event = 'PgSleep'");
	$client->close;
	ok($observer->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'client'"),
		'a client hangs up: the server ends its statement');
	$observer->query_ok($_) foreach 'ALTER SYSTEM RESET client_connection_check_interval', 'SELECT pg_reload_conf()';
	$pooler->stop;
	return;
}

sub blocks_on_without_client
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($observer->value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'client' AND state = 'active'"), 1,
		"$what: its statement goes on in the server");
	forget_actions($observer);
	$waiter->start($update);
	is_waiting($observer, $waiter);
	configure($observer, blocker_timeout => '300ms');
	succeeds($waiter, 'what waited for it');
	is_actions($observer, [ { application_name => 'client', action => 'cancel', result => 'released' } ],
		"$what: and blocks, until blocker_timeout cancels it");
	configure($observer, blocker_timeout => undef);
	return;
}

# A server connection that PgBouncer keeps for later.
sub idle_session_timeout
{
	foreach my $mode ('transaction', 'session')
	{
		$pooler = PgBouncer->new($node, $mode);
		my $client = client('client');
		my $pid = $client->value('SELECT pg_backend_pid()');

		configure($observer, idle_session_timeout => '300ms');
		ok($observer->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"),
			"$mode, idle_session_timeout: the server connection is ended");
		configure($observer, idle_session_timeout => undef);
		if ($mode eq 'transaction')
		{
			ok(wait_until(sub { !$pooler->show('SERVERS') }), 'PgBouncer has noticed');
			isnt($client->value('SELECT pg_backend_pid()'), $pid,
				"$mode, idle_session_timeout: the client gets another one, and notices nothing");
		}
		else
		{
			$client->wait_closed;
			is(($client->errors)[0]->{C}, '57P01', "$mode, idle_session_timeout: and so is its client");
		}
		$pooler->stop;
	}
	return;
}

sub client
{
	my ($name) = @_;
	return LockguardTest::Session->new($pooler, $name, user => 'app');
}

sub hold_row
{
	$holder->query_ok($_) foreach 'BEGIN', $update;
	return;
}

# The worker has seen a wait: it can tell the session which one blocks it.
sub seen_waiting
{
	$observer->poll("SELECT count(*) > 0 FROM lockguard.sessions WHERE wait_start < clock_timestamp() - interval '300 ms'");
	scan($observer);
	return;
}

sub told
{
	my ($client) = @_;
	return join ', ', map { "$_->{C} $_->{M}" } $client->errors;
}

sub error_of
{
	my ($result) = @_;
	return $result->{error} ? $result->{error}{C} : '';
}
