# What happens on the server of valgrind.sh: an outage of every kind, and everything that can be asked of
# lockguard, also by a user who may not see it all.
#
#   valgrind.pl outage      leaves an incident open
#   valgrind.pl after       what is left of it after a restart
#   valgrind.pl damaged     the same, with one incident damaged
#
# It is slow there: nothing here is about time.

use strict;
use warnings;

use LockguardServer;
use LockguardTest;

my $server = LockguardServer->new(port => $ENV{PGPORT}, patience => 180);
my $observer = session('observer');
my %phases = (outage => \&outage, after => \&after, damaged => \&damaged);

$phases{ $ARGV[0] }->();
exit;

# A session with settings of its own: session('S1', blocker_timeout => '1s').
sub session
{
	my ($name, %set) = @_;
	my $user = delete $set{user} || 'postgres';
	my $session = LockguardTest::Session->new($server, $name, user => $user);

	$session->query_ok("SET lockguard.$_ = '$set{$_}'") foreach sort keys %set;
	return $session;
}

sub until_true
{
	my ($sql) = @_;
	$observer->poll($sql) or die "not true: $sql";
	return;
}

sub is_recorded
{
	my ($session, $limit, $action, $result) = @_;

	until_true("SELECT EXISTS (SELECT FROM lockguard.actions WHERE pid = "
		  . $session->pid
		  . " AND coalesce(limit_name, 'by hand') = '$limit' AND action = '$action'"
		  . " AND result = '$result')");
	return;
}

sub wait_for_lock
{
	my (@sessions) = @_;

	until_true('SELECT count(*) = '
		  . @sessions
		  . ' FROM pg_locks WHERE NOT granted AND pid IN ('
		  . join(', ', map { $_->pid } @sessions) . ')');
	return;
}

# Every view and function that shows something, for those who may see it and for one who may not.
sub look_at_everything
{
	my @incidents = map { $_->[0] } $observer->rows('SELECT incident_id FROM lockguard.incidents');
	my $somebody = session('somebody', user => 'somebody');

	foreach my $session ($observer, $somebody)
	{
		$session->query_ok("SELECT * FROM lockguard.$_")
		  foreach qw(lock_tree sessions idle_locks actions incidents deadlocks contention stats action_counts limits tree());
		$session->query_ok("SELECT lockguard.report($_)") foreach @incidents;
		$session->query('SELECT lockguard.report(-1)')->{error} or die 'a report of nothing';
	}
	$somebody->query('SELECT lockguard.scan()')->{error} or die 'any user may scan';
	$somebody->close;
	return;
}

sub outage
{
	my ($root, @waiters, $hand);

	$observer->query_ok($_)
	  foreach 'CREATE EXTENSION lockguard',
	  'CREATE TABLE t AS SELECT id, 0 AS v FROM generate_series(1, 100) id',
	  'ALTER TABLE t ADD PRIMARY KEY (id)', 'CREATE ROLE somebody LOGIN',
	  'GRANT ALL ON t TO somebody', 'ALTER ROLE somebody SET lockguard.transaction_timeout = \'1h\'',
	  'ALTER DATABASE postgres SET lockguard.max_locks = 10000';

	# An idle root, and a queue for its row: it is rolled back, and told why.
	$root = session('idle', idle_blocker_timeout => '2s');
	$root->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
	@waiters = map { session("waiter $_", user => $_ == 2 ? 'somebody' : 'postgres') } 1 .. 3;
	$_->start('UPDATE t SET v = v + 1 WHERE id = 1') foreach @waiters;
	wait_for_lock(@waiters);
	look_at_everything();
	is_recorded($root, 'idle_blocker_timeout', 'rollback', 'released');
	foreach my $sql ('SELECT 1', 'ROLLBACK TO s', 'COMMIT')
	{
		$root->query($sql);
		$root->error->{D} =~ /lockguard: / or die 'the victim is not told why';
	}
	$_->finish foreach @waiters;

	# The same outside a transaction: it is terminated, and told why.
	$root->query_ok('SELECT pg_advisory_lock(1)');
	$waiters[0]->start('SELECT pg_advisory_xact_lock(1)');
	is_recorded($root, 'idle_blocker_timeout', 'terminate', 'released');
	$root->wait_closed;
	$root->error->{D} =~ /lockguard: / or die 'the victim is not told why';
	$waiters[0]->finish;

	# An active root whose cancel does not help, nor does it to roll back: escalated, twice.
	$root = session('active', blocker_timeout => '1s', escalation_delay => '1s');
	$root->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_lock(2)', 'SAVEPOINT s';
	$root->start('SELECT pg_sleep(600)');
	$waiters[0]->start('SELECT pg_advisory_xact_lock(2)');
	is_recorded($root, 'blocker_timeout', 'cancel', 'escalated');
	is_recorded($root, 'blocker_timeout', 'rollback', 'escalated');
	is_recorded($root, 'blocker_timeout', 'terminate', 'released');
	$waiters[0]->finish;

	# A convoy behind a schema change.
	$root = session('reader');
	$root->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
	$hand = session('migration', queued_blocker_timeout => '1s');
	$hand->start('ALTER TABLE t ADD c int');
	wait_for_lock($hand);
	$_->start('SELECT count(*) FROM t') foreach @waiters;
	is_recorded($hand, 'queued_blocker_timeout', 'cancel', 'released');
	$_->finish foreach $hand, @waiters;

	# A session gets through, for its priority; the reader is removed.
	$hand->query_ok("SET lockguard.queued_blocker_timeout = 0");
	$hand->query_ok("SET lockguard.$_") foreach "priority = 'high'", "preempt_timeout = '1s'";
	$hand->query_ok('ALTER TABLE t ADD c int');
	is_recorded($root, 'preempt_timeout', 'rollback', 'released');

	# Limits on a session's own affairs, and one that is only recorded.
	$root = session('waits too long', lock_wait_timeout => '1s');
	$hand->query_ok($_) foreach 'BEGIN', 'LOCK t';
	$root->start('SELECT * FROM t');
	is_recorded($root, 'lock_wait_timeout', 'cancel', 'released');
	$hand->query_ok('COMMIT');
	$root = session('statement', statement_timeout => '1s');
	$root->start('SELECT pg_sleep(600)');
	is_recorded($root, 'statement_timeout', 'cancel', 'released');
	$root = session('transaction', transaction_timeout => '1s', exempt => 'on');
	$root->query_ok('BEGIN');
	is_recorded($root, 'transaction_timeout', 'log', 'exempt');
	$root = session('idle in transaction', idle_in_transaction_timeout => '1s');
	$root->query_ok('BEGIN');
	is_recorded($root, 'idle_in_transaction_timeout', 'terminate', 'released');
	$root = session('idle session', idle_session_timeout => '1s');
	is_recorded($root, 'idle_session_timeout', 'terminate', 'released');
	$root = session('locks', max_locks => 5);
	$root->start('BEGIN; SELECT count(pg_advisory_xact_lock(i)) FROM generate_series(1, 20) i; SELECT pg_sleep(600)');
	is_recorded($root, 'max_locks', 'cancel', 'released');
	$root = session('xmin', max_xmin_age => 5);
	$root->query_ok('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$root->query_ok('SELECT 1');
	$observer->query_ok('SELECT lockguard.scan()');
	$observer->query_ok('SELECT pg_current_xact_id()') foreach 1 .. 10;
	is_recorded($root, 'max_xmin_age', 'rollback', 'released');

	# More behind one than it may have.
	$root = session('crowd', max_blocked_sessions => 2);
	$root->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 3';
	$_->start('UPDATE t SET v = v + 1 WHERE id = 3') foreach @waiters;
	is_recorded($root, 'max_blocked_sessions', 'rollback', 'released');
	$_->finish foreach @waiters;

	# A prepared transaction is rolled back.
	$root = session('prepares');
	$root->query_ok($_)
	  foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 4', "PREPARE TRANSACTION 'forgotten'";
	$waiters[0]->start('UPDATE t SET v = v + 1 WHERE id = 4');
	wait_for_lock($waiters[0]);
	look_at_everything();
	until_true("SELECT EXISTS (SELECT FROM lockguard.actions WHERE gid = 'forgotten' AND action = 'log')");
	$observer->query_ok("ALTER SYSTEM SET lockguard.prepared_transaction_action = 'rollback'");
	$observer->query_ok('SELECT pg_reload_conf()');
	until_true("SELECT EXISTS (SELECT FROM lockguard.actions WHERE gid = 'forgotten' AND action = 'rollback'"
		  . " AND result = 'released')");
	$waiters[0]->finish;

	# Lock requests let others pass: two in one queue, one of which gives up.
	$root = session('reads');
	$root->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
	my @requests = map { session("request $_", queue_yield_timeout => '100ms') } 1 .. 2;
	foreach my $request (@requests)
	{
		$request->start('ALTER TABLE t ADD COLUMN c int; ALTER TABLE t DROP COLUMN c');
		wait_for_lock($request);
	}
	$waiters[0]->query_ok('SELECT count(*) FROM t') foreach 1 .. 3;
	look_at_everything();
	$observer->query_ok('SELECT pg_cancel_backend(' . $requests[1]->pid . ')');
	$requests[1]->finish;
	is_recorded($requests[1], 'queue_yield_timeout', 'yield', 'self_resolved');
	$root->query_ok('COMMIT');
	$requests[0]->finish;
	is_recorded($requests[0], 'queue_yield_timeout', 'yield', 'released');

	# By hand; with a pause, an exemption, and what resets.
	foreach my $function ('cancel_blockers', 'rollback_blockers', 'terminate_blockers')
	{
		$root = session($function);
		$root->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 5';
		$root->start('SELECT pg_sleep(600)') if $function ne 'rollback_blockers';
		$waiters[0]->start('UPDATE t SET v = v + 1 WHERE id = 5');
		wait_for_lock($waiters[0]);
		$observer->query_ok("SELECT lockguard.exempt(" . $root->pid . ", '1 min')");
		$observer->query_ok("SELECT lockguard.pause('1 min')");
		$observer->query_ok("SELECT lockguard.$function(" . $waiters[0]->pid . ')');
		$observer->query_ok('SELECT lockguard.resume()');
		is_recorded($root, 'by hand', ($function =~ /^([a-z]+)_/)[0], 'released');
		$waiters[0]->finish;
	}
	look_at_everything();
	$observer->query_ok('SELECT lockguard.reset_stats()');

	# One more, that is there still when the server stops.
	$root = session('last');
	$root->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 6';
	$waiters[0]->start('UPDATE t SET v = v + 1 WHERE id = 6');
	until_true("SELECT EXISTS (SELECT FROM lockguard.incidents WHERE status = 'open' AND root_pid = "
		  . $root->pid . ')');
	return;
}

sub after
{
	$observer->value("SELECT count(*) > 5 FROM lockguard.incidents") eq 't'
	  or die 'the incidents are not there after the restart';
	look_at_everything();
	return;
}

sub damaged
{
	$observer->value("SELECT count(*) > 5 FROM lockguard.actions") eq 't'
	  or die 'what is intact was not taken from the file';
	look_at_everything();
	$observer->query_ok('SELECT lockguard.reset_history()');
	look_at_everything();
	return;
}
