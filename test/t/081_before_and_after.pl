# Before sessions block others, and after they have: by which locks, which session
# would be next, what another limit would have done, and whose statement it was.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
compute_query_id = on
lockguard.incident_threshold = '100ms'
lockguard.naptime = '20ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');

sub session
{
	my ($name, %opt) = @_;
	return LockguardTest::Session->new($node, $name, %opt);
}

# The sessions are done: they end what they have begun, and go.
sub finish
{
	foreach my $session (@_)
	{
		$session->finish if !$session->closed;
		$session->close if !$session->closed;
	}
	ok( $observer->poll('SELECT count(*) FROM pg_stat_activity WHERE pid IN ('
			  . join(', ', map { $_->pid } @_)
			  . ')', 0),
		'the sessions have ended');
	return;
}

# Wait for an open incident of that root with so many blocked; returns its id.
sub is_open
{
	my ($root, $blocked) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $from = 'FROM lockguard.incidents WHERE root_pid = ' . $root->pid . " AND status = 'open'";

	ok($observer->poll("SELECT count(*) $from AND peak_blocked_sessions >= $blocked", 1), 'an incident is open');
	return $observer->value("SELECT max(incident_id) $from");
}

# Wait for the end of an incident.
sub is_closed
{
	my ($id) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok($observer->poll("SELECT status FROM lockguard.incidents WHERE incident_id = $id", 'closed'), 'the incident is closed');
}

# A root that has locked something by these statements, and then sits idle after the
# same one each time, makes the waiter wait.  Ends as soon as there is an incident.
sub block
{
	my ($locks, $wait, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($root, $waiter) = map { session($_, %opt) } qw(root waiter);

	$root->query_ok($_) foreach 'BEGIN', @$locks, 'SELECT 1 AS done';
	$waiter->start($wait);
	my $id = is_open($root, 1);
	$root->query_ok('ROLLBACK');
	is_closed($id);
	finish($waiter, $root);
	return $id;
}

# The rows of contention as lines, without the OIDs.
sub contention
{
	my ($columns, $by) = @_;

	return [ map { join ' ', map { defined $_ ? $_ : '-' } @$_ }
		  ($by || $observer)->rows("SELECT $columns FROM lockguard.contention ORDER BY locktype, relation_name, mode") ];
}

create_t($node);
$node->safe_psql('postgres', $_) foreach 'CREATE DATABASE other', 'CREATE ROLE app LOGIN', 'GRANT ALL ON t TO app';
$node->safe_psql('other', $_) foreach 'CREATE EXTENSION lockguard', 'CREATE TABLE theirs ()';

# One statement of one role, and a row for each kind of lock.
{
	my $columns = 'locktype, relation_name, mode, incidents, blocked_sessions';

	$observer->query_ok('SELECT lockguard.reset_stats()');
	block(['LOCK TABLE t IN SHARE MODE'], 'UPDATE t SET v = 0 WHERE id = 1') foreach 1 .. 2;
	block(['LOCK TABLE t IN ACCESS EXCLUSIVE MODE'], 'SELECT FROM t');
	block(['SELECT pg_advisory_xact_lock(1)'], 'SELECT pg_advisory_lock(1)');
	block(['UPDATE t SET v = 0 WHERE id = 1'], 'UPDATE t SET v = 1 WHERE id = 1');
	block(['LOCK TABLE theirs'], 'TABLE theirs', dbname => 'other');
	is_deeply(
		contention($columns),
		[
			'advisory - ExclusiveLock 1 1',
			'relation t AccessExclusiveLock 1 1',
			'relation t ShareLock 2 2',
			'relation - AccessExclusiveLock 1 1',
			'transactionid - ExclusiveLock 1 1'
		],
		'a row for each lock and mode');
	is($observer->value('SELECT count(DISTINCT queryid) FROM lockguard.contention'), 1, 'of one statement');
	is( $observer->value(q(SELECT count(*) FROM lockguard.contention WHERE relation = 't'::regclass)),
		2, 'with the OID of the table');
	my $other = session('other', dbname => 'other');
	is( $other->value(
			q(SELECT relation_name || datname FROM lockguard.contention WHERE relation = 'theirs'::regclass)),
		'theirsother', 'a name shows in its own database');

	# Several modes of one lock: what is in the way counts.
	$observer->query_ok('SELECT lockguard.reset_stats()');
	my @modes = map { "LOCK TABLE t IN $_ MODE" } 'ROW EXCLUSIVE', 'SHARE UPDATE EXCLUSIVE', 'SHARE';
	block([ @modes[ 0, 1 ] ], $modes[2] =~ s/^/BEGIN; /r);
	block([ @modes[ 2, 0 ] ], $modes[1] =~ s/^/BEGIN; /r);
	block([ @modes[ 1, 2 ] ], $modes[2] =~ s/^/BEGIN; /r);
	is_deeply(
		contention('mode, incidents'),
		[ 'ShareLock 1', 'ShareUpdateExclusiveLock 2' ],
		'the strongest mode that conflicts');
	finish($other);
}

# A signal counts where the waits count.
{
	my ($root, $queued, $waiter) = map { session($_) } qw(root queued waiter);

	$observer->query_ok('SELECT lockguard.reset_stats()');
	$root->query_ok($_) foreach "SET lockguard.idle_blocker_timeout = '400ms'", 'BEGIN', 'LOCK TABLE t';
	$waiter->start('SELECT FROM t');
	is_closed(is_open($root, 1));
	is_deeply(
		contention('relation_name, mode, incidents, actions'),
		['t AccessExclusiveLock 1 1'], 'of a root: where its waits count');
	succeeds($waiter);

	$observer->query_ok('SELECT lockguard.reset_stats()');
	$queued->query_ok("SET lockguard.queued_blocker_timeout = '400ms'");
	$root->query_ok($_) foreach 'ROLLBACK', 'RESET lockguard.idle_blocker_timeout', 'BEGIN', 'SELECT FROM t';
	$queued->start('ALTER TABLE t ADD queued int');
	is_waiting($observer, $queued);
	$waiter->start('SELECT FROM t');
	is_cancelled($queued, 'queued_blocker_timeout');
	succeeds($waiter);
	ok( $observer->poll(
			q(SELECT count(*) FROM lockguard.contention WHERE relation = 't'::regclass)
			  . q( AND mode = 'AccessExclusiveLock' AND incidents = 0 AND actions = 1)
			  . q( AND total_wait = '0'), 1),
		'of a queued blocker: with what it waited for');
	finish($root, $queued, $waiter);
}

done_testing();
