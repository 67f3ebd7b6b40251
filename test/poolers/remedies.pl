# Each remedy through PgBouncer, in its three modes: what the client is told, and what the pool does with the
# server connection.

use strict;
use warnings;

use LockguardTest;
use PgBouncer;
use Test::More;

my $node = lockguard_node('remedies');
my $observer = LockguardTest::Session->new($node, 'observer');
my $waiter = LockguardTest::Session->new($node, 'another session');
my $pooler;

create_t($node);
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; GRANT ALL ON t TO app');

# Takes a row for a session, and ends by itself only after long.
my $long = 'WITH row AS (UPDATE t SET v = 1 WHERE id = 1 RETURNING id) SELECT pg_sleep(600) FROM row';
my $stubborn = 'DO $$ BEGIN UPDATE t SET v = 1 WHERE id = 1; LOOP BEGIN PERFORM pg_sleep(600);'
  . ' EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$';

foreach my $mode (qw(session transaction statement))
{
	$pooler = PgBouncer->new($node, $mode);
	note $pooler->title;
	cancelled($mode);
	if ($mode ne 'statement')
	{
		rolled_back($mode);
		left_alone_by_client($mode);
		terminated_in_transaction($mode);
	}
	terminated_at_work($mode);
	terminated_idle($mode);
	stopped_reading($mode);
	$pooler->stop;
}

done_testing();

# A statement at work is cancelled, and both connections stay.
sub cancelled
{
	my ($mode) = @_;
	my $client = client("$mode client");
	my $before = pid_of($client);

	configure($observer, blocker_timeout => '300ms');
	$client->query_ok('BEGIN') if $mode ne 'statement';
	$client->start($long);
	waiter_gets_row($client);
	is_cancelled($client, 'blocker_timeout');
	is($client->{status}, $mode eq 'statement' ? 'I' : 'E', "$mode, cancel: and its connection stays");
	$client->query_ok('ROLLBACK') if $mode ne 'statement';
	is(pid_of($client), $before, "$mode, cancel: so does the server connection");
	reset_limits();
	$client->close;
	return;
}

# An idle transaction is rolled back.  The server connection is kept for the client until that has ended its
# transaction; then it goes to the next one, clean.
sub rolled_back
{
	my ($mode) = @_;
	my $client = client("$mode client");
	my $before = pid_of($client);
	my $next;

	configure($observer, idle_blocker_timeout => '300ms');
	$client->query_ok($_) foreach 'BEGIN', 'CREATE TEMP TABLE left_over ()', 'UPDATE t SET v = 1 WHERE id = 1';
	waiter_gets_row($client);
	$next = client('next');
	$next->start('SELECT 1');
	# It takes PgBouncer a moment to open another one, if it may.
	ok(wait_until(sub { ($pooler->pool->{cl_waiting} || 0) == 1 && $pooler->pool->{maxwait} >= 1 }),
		"$mode, rollback: the server connection is kept for the client");
	is_rolled_back($observer, $client, 'idle_blocker_timeout');
	is(pid_of($client), $before, "$mode, rollback: and the server connection") if $mode eq 'session';
	$client->close if $mode eq 'session';
	$next->finish;
	is(pid_of($next), $before, "$mode, rollback: the next client gets it then");
	is($next->{status}, 'I', "$mode, rollback: outside a transaction");
	is($next->value("SELECT to_regclass('left_over')"), undef, "$mode, rollback: without what the first had made");
	is($observer->value("SELECT count(*) FROM pg_locks WHERE pid = $before"), 0, "$mode, rollback: and without a lock");
	reset_limits();
	$_->close foreach grep { !$_->closed } $client, $next;
	return;
}

# The client of a transaction that was rolled back hangs up.
sub left_alone_by_client
{
	my ($mode) = @_;
	my $client = client("$mode client");
	my $before = pid_of($client);

	configure($observer, idle_blocker_timeout => '300ms');
	$client->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
	waiter_gets_row($client);
	$client->close;
	$client = client('next');
	isnt(pid_of($client), $before, "$mode, rollback: PgBouncer closes the server connection if the client leaves then");
	reset_limits();
	$client->close;
	return;
}

# An idle transaction whose connection is ended.
sub terminated_in_transaction
{
	my ($mode) = @_;
	my $client = client("$mode client");
	my $before = pid_of($client);

	configure($observer, idle_in_transaction_timeout => '300ms');
	$client->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
	is_thrown_out($client, 'idle_in_transaction_timeout', "$mode, terminate, idle in transaction");
	goes_on($before, "$mode, terminate, idle in transaction");
	reset_limits();
	return;
}

# A statement that no cancel ends.
sub terminated_at_work
{
	my ($mode) = @_;
	my $client = client("$mode client");
	my $before = pid_of($client);

	configure($observer, blocker_timeout => '300ms', escalation_delay => '200ms');
	$client->start($stubborn);
	waiter_gets_row($client);
	is_thrown_out($client, 'blocker_timeout', "$mode, terminate, at work");
	goes_on($before, "$mode, terminate, at work");
	reset_limits();
	return;
}

# A server connection that is idle outside a transaction, with a lock of the session.
sub terminated_idle
{
	my ($mode) = @_;
	my $client = client("$mode client");
	my $before = pid_of($client);

	$client->query_ok('SELECT pg_advisory_lock(1)');
	configure($observer, idle_blocker_timeout => '300ms');
	$waiter->start('SELECT pg_advisory_lock(1)');
	succeeds($waiter, "$mode, terminate, idle: what waited for the lock");
	if ($mode eq 'session')
	{
		is_thrown_out($client, 'idle_blocker_timeout', "$mode, terminate, idle");
		$client = client('next');
	}
	is_told_nothing($client, "$mode, terminate, idle");
	isnt(pid_of($client), $before, "$mode, terminate, idle: it has another server connection now");
	like($pooler->log_text, qr/got packet 'E' from server when not linked/,
		"$mode, terminate, idle: PgBouncer's log has a line")
	  if $mode ne 'session';
	$waiter->query_ok('SELECT pg_advisory_unlock(1)');
	reset_limits();
	$client->close;
	return;
}

# A client that does not read its result.
sub stopped_reading
{
	my ($mode) = @_;
	my $client = client("$mode client");
	my $before = pid_of($client);

	forget_actions($observer);
	configure($observer, idle_blocker_timeout => '500ms');
	$client->start("SELECT repeat('x', 1000) FROM t, generate_series(1, 20)");
	$observer->poll("SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = $before");
	$waiter->start('ALTER TABLE t ALTER v SET DEFAULT 0');
	succeeds($waiter, "$mode, terminate, stopped reading: what waited for the table");
	is_actions($observer,
		[ { application_name => "$mode client", state => 'active', action => 'terminate', result => 'released' } ],
		"$mode, terminate, stopped reading: recorded as it was");
	$client->wait_closed;
	ok(@{ $client->{result}{rows} } < 20000,
		"$mode, terminate, stopped reading: the client gets a part of the rows, and its connection is closed");
	note 'after ' . scalar(@{ $client->{result}{rows} }) . ' rows of 20000, with '
	  . (join(', ', map { "$_->{C} $_->{M}" } $client->errors) || 'no error');
	goes_on($before, "$mode, terminate, stopped reading");
	reset_limits();
	return;
}

sub client
{
	my ($name) = @_;
	return LockguardTest::Session->new($pooler, $name, user => 'app');
}

# The server process behind a client.  That is what the checks of LockguardTest know it by.
sub pid_of
{
	my ($client) = @_;
	return $client->{pid} = $client->value('SELECT pg_backend_pid()');
}

# The client has the row by now, or will have it in a moment; then the waiter waits for it, and gets it.
sub waiter_gets_row
{
	my ($client) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$observer->poll("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $client->{pid}"
		  . " AND locktype = 'transactionid') AND NOT EXISTS (SELECT FROM pg_stat_activity"
		  . " WHERE pid = $client->{pid} AND state = 'active' AND wait_event IS DISTINCT FROM 'PgSleep')");
	$waiter->start('UPDATE t SET v = 2 WHERE id = 1');
	return succeeds($waiter, 'what waited for the row');
}

# The server's error comes through, with what lockguard says; then one of PgBouncer's own, and the end.
sub is_thrown_out
{
	my ($client, $setting, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$client->wait_closed;
	my ($server, $own) = ($client->errors)[ -2, -1 ];
	is($server->{C}, '57P01', "$what: the client gets the server's error");
	like($server->{D}, qr/^lockguard: .*\blockguard\.$setting is /, "$what: and is told which setting it has passed");
	like($server->{H}, qr/\S/, "$what: and gets a hint");
	is("$own->{C} $own->{M}", '08P01 server conn crashed?', "$what: then an error of PgBouncer's own, and the end");
	return;
}

# The pool opens another server connection for the next client.
sub goes_on
{
	my ($before, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $client = client('next');

	isnt(pid_of($client), $before, "$what: the next client gets another server connection");
	$client->close;
	return;
}

sub is_told_nothing
{
	my ($client, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $error = $client->query('SELECT 1')->{error};

	return ok(!$error && !$client->errors, "$what: the client notices nothing") || diag explain $error;
}

sub reset_limits
{
	configure($observer, map { $_ => undef }
		  qw(idle_blocker_timeout blocker_timeout idle_in_transaction_timeout escalation_delay));
	return;
}
