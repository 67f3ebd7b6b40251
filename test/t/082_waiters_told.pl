# A statement whose wait for a lock fails is told which session blocked it: the right
# session, or nothing.

use strict;
use warnings;

use LockguardTest;
use Test::More;

my $node = lockguard_node('told', conf => <<'CONF');
max_connections = 100
max_prepared_transactions = 5
lockguard.incident_threshold = '200ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');

create_t($node);
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE app LOGIN;
GRANT ALL ON t TO app;
CREATE FUNCTION patient() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		SET LOCAL lock_timeout = '300ms';
		PERFORM pg_advisory_xact_lock(1);
	EXCEPTION WHEN lock_not_available THEN
	END;
	PERFORM pg_sleep(100);
END $$;
SQL

sub session
{
	my ($name, @statements) = @_;
	my $session = LockguardTest::Session->new($node, $name, user => 'app');

	$session->query_ok($_) foreach @statements;
	return $session;
}

# The error that a statement ends with, and what it is told.
sub told
{
	my ($session, $sqlstate, $detail, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $error = $session->finish->{error} || {};

	is($error->{C}, $sqlstate, "$what: $sqlstate");
	return defined $detail
	  ? like($error->{D}, $detail, "$what: it is told")
	  : is($error->{D}, undef, "$what: it is told nothing");
}

# 'process 4711 (user "app", application "name"), idle in transaction for 0.5 s'
sub is_process
{
	my ($session, $state) = @_;
	my $pid = $session->pid;
	my $name = quotemeta $session->name;

	return qr/process $pid \(user "app", application "$name"\), $state for [\d.]+ m?s/;
}

my $waited = qr/lockguard: it waited \d+ ms for/;
my $holder = session('holder', 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1', 'SELECT pg_advisory_xact_lock(1)');
my $waiter = session('waiter', "SET lock_timeout = '600ms'");
my $holds = is_process($holder, 'idle in transaction');

# Each kind of lock, and each way in which a wait can end.
$waiter->start('UPDATE t SET v = 2 WHERE id = 1');
told($waiter, '55P03', qr/^$waited ShareLock on transaction \d+, which $holds, held\.$/, 'a row');
$waiter->start('SELECT pg_advisory_xact_lock(1)');
told($waiter, '55P03', qr/^$waited ExclusiveLock on advisory lock 1, which $holds, held\.$/, 'an advisory lock');
$waiter->start('TRUNCATE t');
told($waiter, '55P03', qr/^$waited AccessExclusiveLock on relation \d+ in database \d+, which $holds, held\.$/, 'a table');
$waiter->query_ok("SET lock_timeout = 0; SET statement_timeout = '600ms'");
$waiter->start('SELECT pg_advisory_lock(1)');
told($waiter, '57014', qr/^$waited ExclusiveLock on advisory lock 1, which $holds, held\.$/, 'statement_timeout');
$waiter->start('SELECT pg_sleep(100)');
told($waiter, '57014', undef, 'statement_timeout after an earlier wait');
$waiter->query_ok('RESET statement_timeout');
$waiter->start('SELECT pg_advisory_lock(1)');
is_blocked_by($observer, $waiter, $holder);
scan($observer);
$observer->query_ok('SELECT pg_cancel_backend(' . $waiter->pid . ')');
told($waiter, '57014', qr/^$waited ExclusiveLock on advisory lock 1, which $holds, held\.$/, 'a cancel');

# With what lockguard itself has to say.
configure($observer, lock_wait_timeout => '500ms');
$waiter->start('SELECT pg_advisory_lock(1)');
told($waiter, '57014',
	qr/^lockguard: this session waited \d+ ms for a lock; lockguard\.lock_wait_timeout is 500ms \(set in the configuration\)\.  It waited \d+ ms for ExclusiveLock on advisory lock 1, which $holds, held\.$/,
	'lock_wait_timeout');
configure($observer, lock_wait_timeout => undef);

# A wait that was given up earlier is not what ends a statement later.
$waiter->start('SELECT patient()');
$observer->poll("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = " . $waiter->pid);
$observer->query_ok('SELECT pg_cancel_backend(' . $waiter->pid . ')');
told($waiter, '57014', undef, 'cancelled after an error that it has caught');

# In a row's queue: the session ahead, and the root.
my $first = session('first');
my $ahead = is_process($first, 'active');
$first->start('UPDATE t SET v = 3 WHERE id = 1');
is_blocked_by($observer, $first, $holder);
$waiter->query_ok("SET lock_timeout = '600ms'");
$waiter->start('UPDATE t SET v = 4 WHERE id = 1');
told($waiter, '55P03', qr/^$waited ExclusiveLock on tuple of relation \d+ in database \d+, which $ahead, held, behind $holds\.$/, "a row's queue");

# In a table's queue, behind a request that only waits itself.
$observer->query_ok('SELECT pg_cancel_backend(' . $first->pid . ')');
$first->finish;
$first->query_ok('BEGIN');
$first->start('LOCK TABLE t IN ACCESS EXCLUSIVE MODE');
is_blocked_by($observer, $first, $holder);
$waiter->start('SELECT count(*) FROM t');
told($waiter, '55P03', qr/^$waited AccessShareLock on relation \d+ in database \d+, for which $ahead, waited ahead of it, behind $holds\.$/, "a table's queue");

# A session that is cancelled has left the queue.
$observer->query_ok('SELECT pg_cancel_backend(' . $first->pid . ')');
$first->finish;
$first->query_ok('ROLLBACK');

# A prepared transaction.
my $preparer = session('preparer', 'BEGIN', 'UPDATE t SET v = 5 WHERE id = 2', "PREPARE TRANSACTION 'two'");
$waiter->start('UPDATE t SET v = 6 WHERE id = 2');
told($waiter, '55P03', qr/^$waited ShareLock on transaction \d+, which prepared transaction \d+ held\.$/, 'a prepared transaction');
$preparer->query_ok("ROLLBACK PREPARED 'two'");

# An application name that would break the line, or the encoding.
my $hostile = session('hostile', "SET application_name = E'a\"b\\nlockguard: \303\251'", 'BEGIN', 'SELECT pg_advisory_xact_lock(9)');
$waiter->query_ok("SET client_encoding = 'SQL_ASCII'");
$waiter->start('SELECT pg_advisory_lock(9)');
my $error = $waiter->finish->{error};
is($error->{C}, '55P03', 'a hostile name');
like($error->{D}, qr/application "[^\n]*"\), idle in transaction for/, 'stays in its line');
$waiter->query_ok('RESET client_encoding');

# What was seen is not so any more, and the worker has not looked since.
my $next = session('next');
my $before = session('before', 'BEGIN', 'SELECT pg_advisory_xact_lock(20)');
my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');
$next->query_ok('BEGIN');
$next->start('SELECT pg_advisory_xact_lock(20)');
is_blocked_by($observer, $next, $before);
$waiter->query_ok("SET lock_timeout = '1500ms'");
$waiter->start('SELECT pg_advisory_lock(20)');
is_blocked_by($observer, $waiter, $before, $next);
scan($observer);
kill 'STOP', $worker;
$before->query_ok('COMMIT');
succeeds($next);
told($waiter, '55P03', undef, 'one that has gone, and another that has come');
kill 'CONT', $worker;
$next->query_ok('COMMIT');
$waiter->query_ok("SET lock_timeout = '600ms'");

# Too short to be seen: the right one, or nothing.
$waiter->query_ok("SET lock_timeout = '3ms'");
$waiter->start('SELECT pg_advisory_lock(1)');
$error = $waiter->finish->{error};
is($error->{C}, '55P03', 'a short wait');
ok(!defined $error->{D} || $error->{D} =~ $holds, 'is told of the right session, or nothing');

# Many at random, while the holders change: a session that is named holds that very lock.
my @holders = map { session("holder$_") } 0 .. 7;
my @waiters = map { session("waiter$_", 'SET lock_timeout = ' . (50 + 40 * $_)) } 0 .. 7;
my %held;
my ($named, $silent, $wrong) = (0, 0, 0);

foreach my $round (1 .. 40)
{
	foreach my $one (@holders)
	{
		next if rand() < 0.5;
		$one->query_ok('ROLLBACK') if $one->{status} ne 'I';
		delete $held{$_} foreach grep { $held{$_} == $one->pid } keys %held;
		my @free = grep { !$held{$_} } 100 .. 107;
		my $key = $free[ rand @free ];

		$one->query_ok("BEGIN; SELECT pg_advisory_xact_lock($key)");
		$held{$key} = $one->pid;
	}
	my @keys = keys %held;
	my %wants;

	foreach my $one (@waiters)
	{
		my $key = $wants{ $one->pid } = $keys[ rand @keys ];
		$one->start("SELECT pg_advisory_xact_lock_shared($key)");
	}
	foreach my $one (@waiters)
	{
		my $error = $one->finish->{error} or next;
		my ($pid) = ($error->{D} || '') =~ /which process (\d+)/;
		my $key = $wants{ $one->pid };

		$silent++ if !defined $pid;
		$named++ if defined $pid;
		$wrong++ if defined $pid && ($pid != $held{$key} || $error->{D} !~ /advisory lock $key,/);
		diag "wanted $key of $held{$key}: $error->{D}" if $wrong;
	}
}
is($wrong, 0, "of 320 waits that failed at random, none is told of a wrong session ($named are told, $silent are not)");
cmp_ok($named, '>', 160, 'most are told');

configure($observer, explain_waits => 'off');
$waiter->query_ok("SET lock_timeout = '600ms'");
$waiter->start('SELECT pg_advisory_lock(1)');
told($waiter, '55P03', undef, 'explain_waits = off');

done_testing();
