# Prepared statements of the protocol with transaction pooling, which PgBouncer knows since version 1.21
# (max_prepared_statements): what lockguard shows of them, and whether they outlive its remedies.

use strict;
use warnings;

use LockguardTest;
use PgBouncer;
use Test::More;

if (PgBouncer::version() < 1021)
{
	note PgBouncer::title();
	note 'not run: prepared statements in transaction pooling: they are there from 1.21 on';
	plan skip_all => 'no max_prepared_statements';
}

my $node = lockguard_node('prepared', conf => <<'CONF');
compute_query_id = on
lockguard.incident_threshold = '100ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $waiter = LockguardTest::Session->new($node, 'another session');

create_t($node);
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; GRANT ALL ON t TO app');

my $update = 'UPDATE t SET v = v + 1 WHERE id = 1';
my $pooler = PgBouncer->new($node, 'transaction', max_prepared_statements => 10);
my ($client, $other) = map { LockguardTest::Session->new($pooler, $_, user => 'app') } 'client', 'other client';
note $pooler->title;

# Two clients, each of which has given another name to the same statement.
prepare($client, 'my_update', $update);
prepare($other, 'update_of_another', $update);
configure($observer, idle_blocker_timeout => '300ms');

is(run($client, 'my_update'), 'UPDATE 1', 'a prepared statement works');
blocks_and_is_rolled_back('my_update');
ok($observer->poll('SELECT query FROM lockguard.actions ORDER BY action_id DESC LIMIT 1', $update),
	'lockguard.actions has the statement, without any name');
$observer->poll("SELECT status = 'closed' FROM lockguard.incidents ORDER BY incident_id DESC LIMIT 1");
my $queryid = $observer->value('SELECT queryid FROM lockguard.incidents ORDER BY incident_id DESC LIMIT 1');
ok($queryid, 'lockguard.incidents has a query id');
is(run($client, 'my_update'), 'UPDATE 1', 'after the rollback the same client can execute it again');
is(run($other, 'update_of_another'), 'UPDATE 1', 'and so can the other one');

blocks_and_is_rolled_back('update_of_another', $other);
$observer->poll("SELECT count(*) = 2 AND bool_and(status = 'closed') FROM lockguard.incidents");
is($observer->value('SELECT queryid FROM lockguard.incidents ORDER BY incident_id DESC LIMIT 1'), $queryid,
	'with another name, by another client, it has the same query id');

# The server connection is ended while no client has it: PgBouncer prepares the statement anew on the next one.
my $pid = $client->value('SELECT pg_backend_pid() FROM pg_advisory_lock(7)');
is($observer->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"), 1, 'a lock is left on the server connection');
$waiter->query_ok('SELECT pg_advisory_lock(7)');
is(run($client, 'my_update'), 'UPDATE 1', 'once that is ended, the prepared statement works on the next one');
isnt($client->value('SELECT pg_backend_pid()'), $pid, 'which is another one');
$pooler->stop;

done_testing();

sub blocks_and_is_rolled_back
{
	my ($statement, $session) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$session ||= $client;
	$session->query_ok('BEGIN');
	run($session, $statement);
	$waiter->query_ok('UPDATE t SET v = 0 WHERE id = 1');
	is_rolled_back(undef, $session, 'idle_blocker_timeout');
	return;
}

sub prepare
{
	my ($session, $name, $sql) = @_;

	$session->send_message('P', "$name\0$sql\0" . pack('n', 0));
	sync($session);
	return;
}

# Returns the tag of the command, or the error.
sub run
{
	my ($session, $name) = @_;

	$session->send_message('B', "\0$name\0" . pack('nnn', 0, 0, 0));
	$session->send_message('E', "\0" . pack('N', 0));
	my $result = sync($session);
	return $result->{error} ? "$result->{error}{C} $result->{error}{M}" : $result->{tags}[0];
}

sub sync
{
	my ($session) = @_;

	$session->{result} = { rows => [] };
	$session->{busy} = 1;
	$session->send_message('S', '');
	return $session->finish;
}
