# A commit is not signalled from its point of no return on, whichever statement
# writes its record; before that, it is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Each commit takes 100 ms to be flushed, and then waits for a standby that is
# not there, unless the session does without.
my $node = lockguard_node('main',
	streaming => 1,
	conf => <<'CONF');
max_prepared_transactions = 10
fsync = on
commit_delay = 100000
commit_siblings = 0
synchronous_commit = local
synchronous_standby_names = 'nobody'
CONF
create_t($node);
my $observer = session($node, 'observer', exempt => 'on');
my $reason = 'its commit can no longer be undone';

sub wait_event
{
	my ($session) = @_;

	return 'SELECT wait_event FROM pg_stat_get_activity(' . $session->pid . ')';
}

sub set_server
{
	my ($name, $value) = @_;

	$observer->query_ok("ALTER SYSTEM SET $name = '$value'");
	$observer->query_ok('SELECT pg_reload_conf()');
	return;
}

# How many rows of actions there are about a session.
sub count_rows
{
	my ($session, $condition) = @_;

	return $observer->value('SELECT count(*) FROM lockguard.actions WHERE pid = '
		  . $session->pid . " AND $condition");
}

# A session whose commits wait for the standby.
sub careful
{
	my ($name, %set) = @_;
	my $session = session($node, $name, %set);

	$session->query_ok('SET synchronous_commit = on');
	return $session;
}

my $offset = -s $node->logfile;

# Prepared transactions are finished by a record that has nothing to do with
# the session's own transaction.  Its limit is passed while the record is being
# flushed.  On a slow machine that may be before it is written; then the
# statement is cancelled, and nothing has been done.
foreach my $finish ('COMMIT PREPARED', 'ROLLBACK PREPARED')
{
	my $cancelled = 1;

	foreach my $try (1 .. 20)
	{
		my $session = session($node, "$finish $try");

		$session->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = v + 1 WHERE id = 1',
		  "PREPARE TRANSACTION 'p'", 'SET synchronous_commit = on',
		  "SET lockguard.statement_timeout = '40ms'";
		$session->start("$finish 'p'");
		wait_until(sub { count_rows($session, 'true') > 0 });
		$cancelled = count_rows($session, "action <> 'log'");
		if ($cancelled)
		{
			is($session->finish->{error}{C}, '57014', "$finish: cancelled in time");
			is($observer->value('SELECT count(*) FROM pg_prepared_xacts'), '1', 'nothing is done');
			$observer->query_ok("ROLLBACK PREPARED 'p'");
			next;
		}
		ok($observer->poll(wait_event($session), 'SyncRep'), "$finish waits for the standby");
		is($observer->value("SELECT string_agg(concat_ws(' ', action, result, reason), ', ') FROM lockguard.actions WHERE pid = "
				  . $session->pid), "log protected $reason", 'and is not signalled');
		scan($observer);
		is($observer->value(wait_event($session)), 'SyncRep', 'it waits on');
		set_server('synchronous_standby_names', '');
		succeeds($session, $finish);
		set_server('synchronous_standby_names', 'nobody');
		$session->close;
		last;
	}
	ok(!$cancelled, "$finish has been seen in its commit");
}

# The others, while they wait for the standby.
$observer->query_ok($_) foreach
  'CREATE TABLE part (id int) PARTITION BY LIST (id)',
  'CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1)',
  'CREATE TABLE part2 PARTITION OF part FOR VALUES IN (2)',
  'CREATE INDEX t_v ON t (v)',
  'CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET v = v + 1 WHERE id = 1; COMMIT; END $$';
foreach my $case (
	[ 'an UPDATE', 'UPDATE t SET v = v + 1 WHERE id = 1' ],
	[ 'PREPARE TRANSACTION', "PREPARE TRANSACTION 'p'", 'BEGIN', 'UPDATE t SET v = v + 1 WHERE id = 20' ],
	[ 'COMMIT', 'COMMIT', 'BEGIN', 'UPDATE t SET v = v + 1 WHERE id = 1' ],
	[ 'COMMIT AND CHAIN', 'COMMIT AND CHAIN', 'BEGIN', 'UPDATE t SET v = v + 1 WHERE id = 1' ],
	[ 'a COMMIT in a procedure', 'CALL p()' ],
	[ 'a COMMIT in DO', 'DO $$ BEGIN UPDATE t SET v = v + 1 WHERE id = 1; COMMIT; END $$' ],
	[ 'VACUUM', 'VACUUM (ANALYZE) t' ],
	[ 'CREATE INDEX CONCURRENTLY', 'CREATE INDEX CONCURRENTLY t_v2 ON t (v)' ],
	[ 'REINDEX CONCURRENTLY', 'REINDEX INDEX CONCURRENTLY t_v' ],
	[ 'DETACH CONCURRENTLY', 'ALTER TABLE part DETACH PARTITION part1 CONCURRENTLY' ],
	[ 'CREATE DATABASE', 'CREATE DATABASE made' ],
	[ 'DROP DATABASE', 'DROP DATABASE made' ])
{
	my ($what, $sql, @before) = @$case;
	my $session = careful($what);

	$session->query_ok($_) foreach @before;
	$session->start($sql);
	ok($observer->poll(wait_event($session), 'SyncRep'), "$what waits for the standby");
	configure($observer, statement_timeout => '50ms', transaction_timeout => '50ms');
	ok($observer->poll('SELECT count(*) = 2 FROM lockguard.actions WHERE pid = '
			  . $session->pid . " AND result = 'protected'"), 'it is over two limits');
	is(count_rows($session, "action <> 'log'"), '0', 'and is not signalled');
	configure($observer, statement_timeout => undef, transaction_timeout => undef);
	set_server('synchronous_standby_names', '');
	succeeds($session, $what);
	$observer->query_ok("ROLLBACK PREPARED 'p'") if $what eq 'PREPARE TRANSACTION';
	set_server('synchronous_standby_names', 'nobody');
	$session->close;
}
is($observer->value("SELECT count(*) FROM pg_index WHERE NOT indisvalid"), '0', 'all indexes are valid');

# NOTIFY takes a lock in the middle of COMMIT, and has it until the commit has
# reached the standby.  What waits for it there can still be undone.
{
	my $first = careful('first');
	my @second = map { session($node, "second $_") } 0 .. 2;

	$first->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 100 WHERE id = 2', 'NOTIFY c';
	$first->start('COMMIT');
	ok($observer->poll(wait_event($first), 'SyncRep'), 'a commit with NOTIFY waits for the standby');
	foreach my $i (0 .. 2)
	{
		my $limit = (qw(lock_wait_timeout statement_timeout transaction_timeout))[$i];

		$second[$i]->query_ok($_) foreach "SET lockguard.$limit = '700ms'",
		  'BEGIN', 'UPDATE t SET v = 100 WHERE id = ' . ($i + 3), 'NOTIFY c';
		$second[$i]->start('COMMIT');
		begins_to_wait($observer, $second[$i]);
		is_cancelled($second[$i], $limit);
		is_recorded($observer, $second[$i], "$limit cancel released");
		is($second[$i]->value('SELECT v FROM t WHERE id = ' . ($i + 3)), '0', 'its transaction is undone');
	}
	is($observer->value(wait_event($first)), 'SyncRep', 'the first one waits on');
	set_server('synchronous_standby_names', '');
	succeeds($first, 'COMMIT');
	is(count_rows($first, 'true'), '0', 'it was left alone');
	$_->close foreach $first, @second;
}

# DROP DATABASE removes the files before it commits: a cancel then leaves a
# database that can no longer be used.  It waits here for a session that does not
# read what it has asked for to release the files.
{
	$observer->query_ok('CREATE DATABASE dropped');
	my $deaf = session($node, 'deaf');
	my $drop = session($node, 'DROP DATABASE');

	$deaf->start("SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
	ok($observer->poll(wait_event($deaf), 'ClientWrite'), 'a client does not read');
	$drop->query_ok("SET lockguard.statement_timeout = '300ms'");
	$drop->start('DROP DATABASE dropped');
	ok($observer->poll('SELECT count(*) FROM lockguard.actions WHERE pid = ' . $drop->pid, '1'),
		'DROP DATABASE takes too long');
	is($observer->value("SELECT concat_ws(' ', action, result, reason) FROM lockguard.actions WHERE pid = " . $drop->pid),
		'log protected it drops a database or a tablespace, which cannot be undone',
		'it is not signalled');
	ok($observer->poll(wait_event($drop), 'ProcSignalBarrier'), 'it waits');
	$deaf->close(silent => 1);
	succeeds($drop, 'DROP DATABASE');
	is($observer->value("SELECT count(*) FROM pg_database WHERE datname = 'dropped' OR datconnlimit = -2"), '0',
		'it is gone, and no database is invalid');

	# Not while it waits for a lock: nothing has been done by then.
	$observer->query_ok('CREATE DATABASE kept');
	my $comment = session($node, 'COMMENT');
	$comment->query_ok($_) foreach 'BEGIN', "COMMENT ON DATABASE kept IS 'kept'";
	$drop->start('DROP DATABASE kept');
	begins_to_wait($observer, $drop);
	is_cancelled($drop, 'statement_timeout');
	$comment->query_ok('COMMIT');
	is($node->safe_psql('kept', 'SELECT 1'), '1', 'the database is as it was');
	$_->close foreach $comment, $drop;
}

# A statement that only looks like one of these protects nothing: it has failed,
# and the transaction continues.
set_server('synchronous_standby_names', '');
foreach my $case (
	[ 'after COMMIT PREPARED in a savepoint', 'SAVEPOINT s', "! COMMIT PREPARED 'nosuch'", 'ROLLBACK TO s' ],
	[ 'after DROP DATABASE in a savepoint', 'SAVEPOINT s', '! DROP DATABASE nosuch', 'ROLLBACK TO s' ],
	[ 'after DROP DATABASE in a block',
		q{DO $$ BEGIN EXECUTE 'DROP DATABASE nosuch'; EXCEPTION WHEN OTHERS THEN NULL; END $$} ])
{
	my ($what, @statements) = @$case;
	my $session = session($node, $what, idle_in_transaction_timeout => '500ms');

	$session->query_ok('BEGIN');
	foreach my $sql (@statements)
	{
		my $fails = $sql =~ s/^! //;
		is(!!$session->query($sql)->{error}, !!$fails, $sql);
	}
	is_terminated($session, 'idle_in_transaction_timeout');
	is_recorded($observer, $session, 'idle_in_transaction_timeout terminate released');
}

# A commit that comes to its end between two steps of the proof.
SKIP:
{
	skip 'no wait points compiled in', 11 unless has_wait_points($observer);
	set_server('synchronous_standby_names', 'nobody');
	my $commit = careful('blocker', blocker_timeout => '300ms');
	my $waiter = session($node, 'waiter');

	$observer->query_ok('CREATE TABLE go ()');
	$commit->start('DO $$ BEGIN UPDATE t SET v = 1 WHERE id = 10;'
		  . ' WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$');
	ok($observer->poll(wait_event($commit), 'PgSleep'), 'a session has locked a row');
	stop_worker_at($observer, 'before_signal');
	$waiter->start('UPDATE t SET v = 2 WHERE id = 10');
	my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');
	worker_is_at($observer, 'before_signal');
	$observer->query_ok('INSERT INTO go DEFAULT VALUES');
	ok($observer->poll(wait_event($commit), 'SyncRep'), 'it commits meanwhile');

	# The worker has locks of the lock manager from here on: no catalogs.
	$observer->query_ok('ALTER SYSTEM SET lockguard.debug_wait_at = in_proof');
	$observer->query_ok('SELECT pg_reload_conf()');
	ok($observer->poll("SELECT query FROM pg_stat_get_activity($worker)", 'in_proof'),
		'the worker has read what it does');
	set_server('synchronous_standby_names', '');
	ok($observer->poll(wait_event($commit), 'LockManager'), 'the commit is done, but for its locks');
	$observer->query_ok('ALTER SYSTEM RESET lockguard.debug_wait_at');
	$observer->query_ok('SELECT pg_reload_conf()');
	succeeds($commit, 'the commit');
	succeeds($waiter, 'the update behind it');
	is_recorded($observer, $commit, 'blocker_timeout log protected');
	is_alive($commit, 'I');
	$_->close foreach $commit, $waiter;
}

# The worker is held up between its last look at a session and the signal, for
# an unusually long time: a commit that begins meanwhile waits for it.
SKIP:
{
	skip 'no wait points compiled in', 10 unless has_wait_points($observer);
	my $commit = session($node, 'slow blocker');
	my $waiter = session($node, 'slow waiter');
	my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');
	my $query = "SELECT concat_ws(' ', state, query) FROM pg_stat_get_activity($worker)";

	$observer->query_ok($query);
	$commit->start('DO $$ BEGIN UPDATE t SET v = v + 10 WHERE id = 11;'
		  . " WHILE (pg_stat_file('go', true)).size IS NULL LOOP PERFORM pg_sleep(0.01); END LOOP; END \$\$");
	ok($observer->poll(wait_event($commit), 'PgSleep'), 'a session has locked a row');
	$waiter->start('UPDATE t SET v = v + 1 WHERE id = 11');
	is_waiting($observer, $waiter);
	$observer->query_ok("ALTER SYSTEM SET lockguard.$_") foreach 'debug_wait_at = in_proof', "blocker_timeout = '300ms'";
	$observer->query_ok('SELECT pg_reload_conf()');
	ok($observer->poll($query, 'active in_proof'), 'the worker has read what it does');
	my $since = $observer->value('SELECT clock_timestamp()');
	append_to_file($node->data_dir . '/go', '');
	ok($observer->poll("SELECT clock_timestamp() > '$since'::timestamptz + interval '2 s'"), 'it is held up');
	is($observer->value('SELECT state FROM pg_stat_get_activity(' . $commit->pid . ')'), 'active',
		'the commit has not come to its end');
	$observer->query_ok('ALTER SYSTEM RESET lockguard.debug_wait_at');
	$observer->query_ok('SELECT pg_reload_conf()');
	is_cancelled($commit, 'blocker_timeout');
	configure($observer, blocker_timeout => undef);
	succeeds($waiter, 'the update behind it');
	is($observer->value('SELECT v FROM t WHERE id = 11'), '1', 'it is undone');
	$_->close foreach $commit, $waiter;
}

unlike(slurp_file($node->logfile, $offset), qr/canceling (the )?wait for synchronous replication/,
	'no wait for the standby was ended by a signal');
$node->stop;
done_testing();
