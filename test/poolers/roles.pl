# Limits of roles and databases through PgBouncer: which are in force, from when on, and whether clients that share
# a server connection can change them for each other.

use strict;
use warnings;

use LockguardTest;
use PgBouncer;
use Test::More;

my $node = lockguard_node('roles');
my $observer = LockguardTest::Session->new($node, 'observer');
my $waiter = LockguardTest::Session->new($node, 'another session');
my $pooler;

create_t($node);
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE web LOGIN;
CREATE ROLE batch LOGIN;
CREATE ROLE pooler LOGIN;
GRANT ALL ON t TO web, batch;
GRANT batch TO web;
ALTER ROLE web SET lockguard.idle_blocker_timeout = '300ms';
ALTER ROLE batch SET lockguard.idle_blocker_timeout = '1h';
ALTER ROLE pooler SET lockguard.idle_blocker_timeout = '2h';
SQL

note PgBouncer::title();
own_users();
one_user();
auth_user();
taken_over();
startup_parameters();
set_by_clients();
set_role();
exempt();

done_testing();

# Each client user has a pool of its own, whose connections log in as that role.
sub own_users
{
	$pooler = PgBouncer->new($node, 'transaction', USERS => [ 'admin', 'web', 'batch' ]);
	my ($web, $batch) = map { client($_) } 'web', 'batch';

	is(limit($web), '300ms', 'clients as two roles: the first has its limit');
	is(limit($batch), '1h', 'the second has its own');
	is($observer->value("SELECT string_agg(usename || ' ' || (settings->'idle_blocker_timeout'->>'source'), ', '"
			  . ' ORDER BY usename)'
			  . " FROM lockguard.sessions WHERE usename IN ('web', 'batch')"),
		'batch role, web role', 'lockguard.sessions shows that they are those of the roles');
	forget_actions($observer);
	foreach my $client ($web, $batch)
	{
		my $id = $client == $web ? 1 : 2;
		$client->query_ok($_) foreach 'BEGIN', "UPDATE t SET v = 1 WHERE id = $id";
	}
	$waiter->query_ok('UPDATE t SET v = 2 WHERE id = 1');
	my $stays = LockguardTest::Session->new($node, 'yet another session');
	$stays->start('UPDATE t SET v = 2 WHERE id = 2');
	is_waiting($observer, $stays);
	is_actions($observer,
		[
			{
				application_name => 'web', limit_source => 'role', limit_value => '300ms',
				action => 'rollback', result => 'released'
			}
		],
		'only the one that is over its limit is rolled back');
	is_alive($batch, 'T');
	$batch->query_ok('ROLLBACK');
	succeeds($stays);
	$web->query('ROLLBACK');
	$pooler->stop;
	return;
}

# With user= in [databases], all clients are that role to the server.
sub one_user
{
	$pooler = PgBouncer->new($node, 'transaction', USERS => [ 'admin', 'somebody', 'else' ],
		DATABASES => [ 'shop = dbname=postgres user=web', 'shop_batch = dbname=postgres user=batch' ]);
	is(limit(client('somebody', dbname => 'shop')), '300ms', 'user=: the limit is that of the pool\'s user');
	is(limit(client('else', dbname => 'shop')), '300ms', 'for each client');
	is(limit(client('somebody', dbname => 'shop_batch')), '1h', 'another entry for the same database has another limit');
	$pooler->stop;
	return;
}

# auth_user looks passwords up; clients log in as themselves.
sub auth_user
{
	$pooler = PgBouncer->new($node, 'transaction', USERS => ['admin'], DATABASES => ['* = auth_user=pooler'],
		auth_query => q(SELECT rolname, ''::text FROM pg_roles WHERE rolname = $1));
	is(limit(client('web')), '300ms', 'auth_user: the limit is that of the client\'s role');
	is($observer->value("SELECT settings->'idle_blocker_timeout'->>'setting'"
			  . " FROM lockguard.sessions WHERE usename = 'pooler'"),
		'2h', 'its own binds only the connection by which it looks passwords up');
	$pooler->stop;
	return;
}

# From when on a change is in force.
sub taken_over
{
	$pooler = PgBouncer->new($node, 'transaction', USERS => [ 'admin', 'web' ]);
	my $client = client('web');

	is(limit($client), '300ms', 'ALTER ROLE: before');
	$observer->query_ok("ALTER ROLE web SET lockguard.idle_blocker_timeout = '400ms'");
	is(limit($client), '300ms', 'ALTER ROLE: the server connection has the old limit');
	is(limit(client('web')), '300ms', 'and so has a new client');
	$pooler->{admin}->query_ok('RECONNECT');
	is(limit($client), '400ms', 'RECONNECT: the new limit, for clients that are connected, too');
	$observer->query_ok("ALTER ROLE web IN DATABASE postgres SET lockguard.idle_blocker_timeout = '500ms'");
	$pooler->{admin}->query_ok('RECONNECT');
	is(limit($client), '500ms', 'the same for a role in a database');
	$observer->query_ok('ALTER ROLE web IN DATABASE postgres RESET lockguard.idle_blocker_timeout');
	$observer->query_ok("ALTER ROLE web SET lockguard.idle_blocker_timeout = '300ms'");
	$pooler->{admin}->query_ok('RECONNECT');
	is(limit($client), '300ms', 'as before');
	$observer->query_ok("ALTER DATABASE postgres SET lockguard.lock_wait_timeout = '600ms'");
	is($client->value('SHOW lockguard.lock_wait_timeout'), '0', 'ALTER DATABASE: before');
	$pooler->{admin}->query_ok('RECONNECT');
	is($client->value('SHOW lockguard.lock_wait_timeout'), '600ms', 'RECONNECT: the new limit');
	$observer->query_ok('ALTER DATABASE postgres RESET lockguard.lock_wait_timeout');
	$pooler->{admin}->query_ok('RECONNECT');
	my $pid = $client->value('SELECT pg_backend_pid()');
	configure($observer, lock_wait_timeout => '700ms');
	is($client->value('SHOW lockguard.lock_wait_timeout'), '700ms', 'ALTER SYSTEM: at once');
	is($client->value('SELECT pg_backend_pid()'), $pid, 'in the same server connection');
	configure($observer, lock_wait_timeout => undef);
	$pooler->stop;

	$pooler = PgBouncer->new($node, 'session', USERS => [ 'admin', 'web' ]);
	$client = client('web');
	is(limit($client), '300ms', 'session pooling: before');
	$observer->query_ok("ALTER ROLE web SET lockguard.idle_blocker_timeout = '400ms'");
	$pooler->{admin}->query_ok('RECONNECT');
	is(limit($client), '300ms', 'RECONNECT does not take the server connection from a client');
	$client->close;
	is(limit(client('web')), '400ms', 'the next client has the new limit');
	$observer->query_ok("ALTER ROLE web SET lockguard.idle_blocker_timeout = '300ms'");
	$pooler->stop;
	return;
}

# A limit in the startup packet: refused by PgBouncer, or ignored, and never in force.
sub startup_parameters
{
	my %packet = (
		'the parameter' => { 'lockguard.idle_blocker_timeout' => '1d' },
		'options' => { options => '-c lockguard.idle_blocker_timeout=1d' });

	$pooler = PgBouncer->new($node, 'transaction', USERS => [ 'admin', 'web' ]);
	foreach my $which (sort keys %packet)
	{
		my $client = client('web', wait => 0, startup => $packet{$which});
		$client->finish;
		is($client->error->{C}, '08P01', "$which in the startup packet: refused");
		like($client->error->{M}, qr/^unsupported startup parameter/, 'with: ' . $client->error->{M});
		ok(wait_until(sub { $client->read_some(1, 0.1); $client->closed }), 'and the connection is closed');
	}
	$pooler->stop;

	$pooler = PgBouncer->new($node, 'transaction', USERS => [ 'admin', 'web' ],
		ignore_startup_parameters => 'options, lockguard.idle_blocker_timeout');
	foreach my $which (sort keys %packet)
	{
		is(limit(client('web', startup => $packet{$which})), '300ms',
			"$which in the startup packet, and in ignore_startup_parameters: the role's limit stays");
	}
	$pooler->stop;
	return;
}

# SET by clients.
sub set_by_clients
{
	my $parameter = 'lockguard.idle_blocker_timeout';

	$pooler = PgBouncer->new($node, 'transaction', USERS => [ 'admin', 'web' ]);
	my ($client, $other) = (client('web'), client('web'));

	is($client->query("SET $parameter = 0")->{error}{C}, '42501', 'SET: refused');
	$observer->query_ok("GRANT SET ON PARAMETER $parameter TO web");
	$client->query_ok($_) foreach 'BEGIN', "SET LOCAL $parameter = '1min'";
	is(limit($client), '1min', 'SET LOCAL, if granted: in force');
	$client->query_ok('COMMIT');
	is(limit($other), '300ms', 'and gone with the transaction');
	$client->query_ok("SET $parameter = '1min'");
	is(limit($other), '1min', 'SET, if granted, with transaction pooling: in force for other clients');
	$other->query_ok('RESET ALL');
	is(limit($client), '300ms', 'RESET ALL brings back that of the role');
	$client->query_ok("SET lock_timeout = '7s'");
	is($other->value('SHOW lock_timeout'), '7s', 'the same with PostgreSQL\'s own timeouts');
	$pooler->stop;

	$pooler = PgBouncer->new($node, 'transaction', USERS => [ 'admin', 'web' ], server_reset_query_always => 1);
	$client = client('web');
	$client->query_ok("SET $parameter = '1min'");
	is(limit($client), '300ms', 'with server_reset_query_always: gone, for the same client, too');
	$pooler->stop;

	$pooler = PgBouncer->new($node, 'session', USERS => [ 'admin', 'web' ]);
	$client = client('web');
	$client->query_ok("SET $parameter = '1min'");
	is(limit($client), '1min', 'session pooling: in force');
	my $pid = $client->value('SELECT pg_backend_pid()');
	$client->close;
	$client = client('web');
	is(limit($client), '300ms', 'DISCARD ALL brings back that of the role for the next client');
	is($client->value('SELECT pg_backend_pid()'), $pid, 'on the same server connection');
	$observer->query_ok("REVOKE SET ON PARAMETER $parameter FROM web");
	$pooler->stop;
	return;
}

# The limits are those of the role that has logged in, and the role that was set is there for other clients.
sub set_role
{
	$pooler = PgBouncer->new($node, 'transaction', USERS => [ 'admin', 'web' ]);
	my ($client, $other) = (client('web'), client('web'));

	$client->query_ok($_) foreach 'BEGIN', 'SET LOCAL ROLE batch';
	is($client->value('SELECT current_user'), 'batch', 'SET LOCAL ROLE: another role');
	is(limit($client), '300ms', 'with the limit of the one that has logged in');
	forget_actions($observer);
	$client->query_ok('UPDATE t SET v = 1 WHERE id = 1');
	$waiter->query_ok('UPDATE t SET v = 2 WHERE id = 1');
	is_actions($observer,
		[ { limit_value => '300ms', limit_source => 'role', action => 'rollback', result => 'released' } ],
		'which is enforced');
	$client->query('COMMIT');
	$client->query_ok($_) foreach 'BEGIN', 'SET LOCAL ROLE batch', 'COMMIT';
	is($other->value('SELECT current_user'), 'web', 'SET LOCAL ROLE is gone with the transaction');
	$client->query_ok('SET ROLE batch');
	is($other->value('SELECT current_user'), 'batch', 'SET ROLE is in force for other clients');
	is(limit($other), '300ms', 'with the limit of the one that has logged in');
	$pooler->stop;
	return;
}

# What is exempt is the server connection, so each client that gets it.
sub exempt
{
	$pooler = PgBouncer->new($node, 'transaction', USERS => [ 'admin', 'web' ]);
	my ($client, $other) = (client('web'), client('web'));
	my $pid = $client->value('SELECT pg_backend_pid()');

	$observer->query_ok("SELECT lockguard.exempt($pid, '1h')");
	forget_actions($observer);
	$other->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
	$waiter->start('UPDATE t SET v = 2 WHERE id = 1');
	is_actions($observer, [ { pid => $pid, result => 'exempt' } ],
		'exempt(): also for another client on the same server connection');
	$other->query_ok('COMMIT');
	succeeds($waiter);
	$pooler->stop;
	return;
}

# The user is the name, too.
sub client
{
	my ($user, %opt) = @_;
	return LockguardTest::Session->new($pooler, $user, user => $user, %opt);
}

sub limit
{
	my ($client) = @_;
	return $client->value('SHOW lockguard.idle_blocker_timeout');
}
