# Which client is behind a session that lockguard acts on, and behind an advisory lock that has outlived its
# transaction.

use strict;
use warnings;

use LockguardTest;
use PgBouncer;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('clients', conf => <<'CONF');
log_line_prefix = '%p %a: '
log_statement = all
lockguard.incident_threshold = '100ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $waiter = LockguardTest::Session->new($node, 'another session');
my $pooler;

create_t($node);
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; GRANT ALL ON t TO app');

with_host();
without_host();
foreach my $mode (qw(transaction statement))
{
	leaked_lock($mode);
	leaked_lock_at_work($mode);
	leaked_lock_at_work_again($mode);
}
reset_query();

done_testing();

# application_name_add_host: every place that names the application has the client's address.
sub with_host
{
	$pooler = PgBouncer->new($node, 'transaction', application_name_add_host => 1);
	note $pooler->title . ', application_name_add_host = 1';
	my $client = client('web');
	my $name = 'web - 127.0.0.1:' . $client->{socket}->sockport;
	my $offset = -s $node->logfile;

	configure($observer, idle_blocker_timeout => '1s');
	$client->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
	is_told($name);
	$waiter->query_ok('RESET statement_timeout');
	$waiter->start('UPDATE t SET v = 2 WHERE id = 1');
	ok($observer->poll("SELECT bool_or(tree LIKE '% app ($name), idle in transaction%') FROM lockguard.tree()"),
		'the lock tree has the address');
	succeeds($waiter, 'what waited for the row');
	is_actions($observer, [ { application_name => $name, action => 'rollback', result => 'released' } ],
		'so has lockguard.actions');
	$observer->poll("SELECT status = 'closed' FROM lockguard.incidents ORDER BY incident_id DESC LIMIT 1");
	is($observer->value('SELECT application_name FROM lockguard.incidents ORDER BY incident_id DESC LIMIT 1'),
		$name, 'and lockguard.incidents');
	like($observer->value('SELECT lockguard.report(max(incident_id)) FROM lockguard.incidents'),
		qr/application `\Q$name\E`/, 'so has its report');
	like(slurp_file($node->logfile, $offset), qr/lockguard: rolls back .*application "\Q$name\E"/,
		'so has the line in the server log');
	is($observer->value('SELECT client_addr FROM lockguard.actions ORDER BY action_id DESC LIMIT 1'),
		undef, 'client_addr is that of PgBouncer: none, over a Unix-domain socket');
	$client->query('ROLLBACK');
	configure($observer, idle_blocker_timeout => undef);

	$client->query_ok("SET application_name = 'reports'");
	is($client->value('SHOW application_name'), 'reports', 'a name that is set later has no address');
	$client->close;

	$client = LockguardTest::Session->new($pooler, 'nameless', user => 'app', tcp => 1,
		startup => { application_name => undef });
	is($client->value('SHOW application_name'), 'app - 127.0.0.1:' . $client->{socket}->sockport,
		'a client without a name is called "app"');
	$client->close;
	$client = LockguardTest::Session->new($pooler, 'web', user => 'app');
	like($client->value('SHOW application_name'), qr/^web - unix\($$\b.*\):\d+$/,
		'over a Unix-domain socket, the process of the client is in the name');
	$client->close;
	$client = client('x' x 50);
	is($client->value('SHOW application_name'),
		substr(('x' x 50) . ' - 127.0.0.1:' . $client->{socket}->sockport, 0, 63),
		'of a long name and the address, 63 bytes are left');
	$client->close;
	$pooler->stop;
	return;
}

# A waiter that gives up is told who was in its way.
sub is_told
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$waiter->query_ok("SET statement_timeout = '300ms'");
	return like($waiter->query('UPDATE t SET v = 2 WHERE id = 1')->{error}{D},
		qr/process \d+ \(user "app", application "\Q$name\E"\)/,
		'a waiter that gives up is told the address');
}

# Without it: PgBouncer's console knows which client has which server connection, while it has it.
sub without_host
{
	$pooler = PgBouncer->new($node, 'transaction');
	note $pooler->title;
	my $client = client('web');
	my $port = $client->{socket}->sockport;
	my $pid;

	$client->query_ok('BEGIN');
	$pid = $client->value('SELECT pg_backend_pid()');
	is($client->value('SHOW application_name'), 'web', 'the name alone');
	my ($server) = grep { $_->{remote_pid} == $pid } $pooler->show('SERVERS');
	my ($linked) = grep { $_->{ptr} eq $server->{link} } $pooler->show('CLIENTS');
	is("$linked->{addr}:$linked->{port}", "127.0.0.1:$port", 'SHOW SERVERS and SHOW CLIENTS lead from the process to the client');
	$client->query_ok('COMMIT');
	($server) = grep { $_->{remote_pid} == $pid } $pooler->show('SERVERS');
	is($server->{link}, '', 'but not once its transaction has ended');
	$client->close;
	$pooler->stop;
	return;
}

# A session's advisory lock stays with the server connection, which others use from then on.
sub leaked_lock
{
	my ($mode) = @_;
	$pooler = PgBouncer->new($node, $mode, default_pool_size => 2);
	note $pooler->title;
	my $leaker = client('leaker');
	my $next = client('innocent');
	my $offset = -s $node->logfile;
	my $pid = $leaker->value('SELECT pg_backend_pid() FROM pg_advisory_lock(7)');

	is($next->value('SELECT pg_backend_pid()'), $pid, "$mode, leaked lock: the next client gets the server connection");
	is($next->value('SELECT pg_try_advisory_lock(7)'), 't', "$mode, leaked lock: and with it the lock");
	$next->query_ok('SELECT pg_advisory_unlock(7)');
	$next->query_ok("SELECT 'innocent'");

	$waiter->start('SELECT pg_advisory_lock(7)');
	is_waiting($observer, $waiter);
	is($observer->value('SELECT tree FROM lockguard.tree()') =~ s/ for \S+ ms:/:/r,
		"$pid app (innocent), idle, blocking 1 session: SELECT 'innocent'",
		"$mode, leaked lock: the tree shows whoever had the connection last");
	is($observer->value("SELECT classid || ' ' || objid || ' ' || objsubid FROM pg_locks"
			  . " WHERE locktype = 'advisory' AND granted AND pid = $pid"),
		'0 7 1', "$mode, leaked lock: pg_locks shows its key");
	like(slurp_file($node->logfile, $offset), qr/^$pid leaker: LOG:  statement: .*pg_advisory_lock\(7\)/m,
		"$mode, leaked lock: only the server log tells who took it");

	forget_actions($observer);
	configure($observer, idle_blocker_timeout => '300ms');
	succeeds($waiter, "$mode, leaked lock: what waited for it");
	is_actions($observer,
		[ { pid => $pid, application_name => 'innocent', state => 'idle', action => 'terminate', result => 'released' } ],
		"$mode, leaked lock: the server connection is ended");
	is_undisturbed($_, "$mode, leaked lock") foreach $leaker, $next;
	is($observer->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"), 0,
		"$mode, leaked lock: PgBouncer has opened another server connection");
	clean_up($leaker, $next);
	return;
}

# If the server connection is never idle for that long, only blocker_timeout ends it, and that hits the client that has it.
sub leaked_lock_at_work
{
	my ($mode) = @_;
	$pooler = PgBouncer->new($node, $mode, default_pool_size => 2);
	my $leaker = client('leaker');
	my $next = client('innocent');
	my $pid = $leaker->value('SELECT pg_backend_pid() FROM pg_advisory_lock(7)');

	forget_actions($observer);
	$next->start('SELECT pg_sleep(600)');
	$observer->poll("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $pid");
	$waiter->start('SELECT pg_advisory_lock(7)');
	configure($observer, blocker_timeout => '300ms', escalation_delay => '300ms');
	is_cancelled($next, 'blocker_timeout');
	succeeds($waiter, "$mode, leaked lock, at work: what waited for it");
	is_actions($observer,
		[
			{ pid => $pid, application_name => 'innocent', state => 'active', action => 'cancel', result => 'escalated' },
			{ pid => $pid, application_name => 'innocent', state => 'idle', action => 'terminate', result => 'released' },
		],
		"$mode, leaked lock, at work: a client is cancelled that knows nothing of it, and then the server connection is ended");
	ok(!$next->closed, "$mode, leaked lock, at work: that client stays");
	clean_up($leaker, $next);
	return;
}

# If a client is at work again by then, it loses its connection, too.
sub leaked_lock_at_work_again
{
	my ($mode) = @_;
	$pooler = PgBouncer->new($node, $mode);
	my ($leaker, $first, $second) = map { client($_) } 'leaker', 'first', 'second';
	my $pid = $leaker->value('SELECT pg_backend_pid() FROM pg_advisory_lock(7)');

	forget_actions($observer);
	$first->start('SELECT pg_sleep(600)');
	$observer->poll("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $pid");
	$second->start('SELECT pg_sleep(600)');
	$waiter->start('SELECT pg_advisory_lock(7)');
	configure($observer, blocker_timeout => '300ms', escalation_delay => '500ms');
	is_cancelled($first, 'blocker_timeout');
	succeeds($waiter, "$mode, leaked lock, at work again: what waited for it");
	is_actions($observer,
		[
			{ pid => $pid, application_name => 'first', action => 'cancel', result => 'escalated' },
			{ pid => $pid, application_name => 'second', action => 'terminate', result => 'released' },
		],
		"$mode, leaked lock, at work again: the server connection is ended while another client has it");
	$second->wait_closed;
	is(($second->errors)[0]->{C}, '57P01', "$mode, leaked lock, at work again: which loses its connection");
	clean_up($leaker, $first);
	return;
}

# What gives such locks back.
sub reset_query
{
	my $unlock = 'SELECT pg_advisory_unlock_all()';

	foreach my $mode ('transaction', 'statement')
	{
		$pooler = PgBouncer->new($node, $mode, server_reset_query => $unlock);
		client('leaker')->query_ok('SELECT pg_advisory_lock(7)');
		is(advisory_locks(), 1, "$mode pooling: server_reset_query is not run");
		$pooler->stop;
		no_locks();

		$pooler = PgBouncer->new($node, $mode, server_reset_query => $unlock, server_reset_query_always => 1);
		client('leaker')->query_ok('SELECT pg_advisory_lock(7)');
		ok(wait_until(sub { advisory_locks() == 0 }), "$mode pooling: but with server_reset_query_always: then no lock is left");
		$pooler->stop;
	}

	foreach my $case ([ 0, 'DISCARD ALL' ], [ 1, '' ])
	{
		my ($left, $query) = @$case;
		$pooler = PgBouncer->new($node, 'session', server_reset_query => $query);
		my $leaker = client('leaker');

		my $pid = $leaker->value('SELECT pg_backend_pid() FROM pg_advisory_lock(7)');
		$leaker->close;
		is(client('next')->value('SELECT pg_backend_pid()'), $pid,
			'session pooling, server_reset_query = ' . ($query || '(none)') . ': the next client gets the server connection');
		is(advisory_locks(), $left, $left ? 'and with it the lock' : 'without the lock');
		$pooler->stop;
	}
	no_locks();
	return;
}

sub client
{
	my ($name) = @_;
	return LockguardTest::Session->new($pooler, $name, user => 'app', tcp => 1);
}

sub is_undisturbed
{
	my ($client, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $error = $client->query('SELECT 1')->{error};

	return ok(!$error && !$client->errors, "$what: " . $client->name . ' notices nothing') || diag explain $error;
}

sub advisory_locks
{
	return $observer->value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'");
}

sub no_locks
{
	$observer->poll("SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'");
	return;
}

sub clean_up
{
	$_->close foreach @_;
	$pooler->stop;
	$waiter->query_ok('SELECT pg_advisory_unlock_all()');
	configure($observer, map { $_ => undef } qw(idle_blocker_timeout blocker_timeout escalation_delay));
	no_locks();
	return;
}
