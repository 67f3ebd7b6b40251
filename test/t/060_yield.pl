# A lock request that waits lets others pass: it keeps its place, is granted when
# those are gone that it waited for, and no session sees an error.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = lockguard_node('main', conf => <<'CONF');
deadlock_timeout = '300ms'
lockguard.incident_threshold = '400ms'
restart_after_crash = on
CONF
create_t($node);
$node->safe_psql('postgres', 'CREATE TABLE u AS SELECT * FROM t');
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

# A session in a transaction that has read a table.
sub reader
{
	my ($name, $table, %set) = @_;
	my $s = session($node, $name, %set);

	$s->query_ok($_) foreach 'BEGIN', "SELECT count(*) FROM $table";
	return $s;
}

# A session that waits with this statement.
sub waits_with
{
	my ($name, $sql, %set) = @_;
	my $s = session($node, $name, %set);

	$s->start($sql);
	return begins_to_wait($observer, $s);
}

sub yielding
{
	my ($s) = @_;

	return $observer->value('SELECT coalesce(bool_or(yielding), false) FROM lockguard.lock_tree WHERE pid = '
		  . $s->pid) eq 't';
}

sub begins_to_yield
{
	my ($s) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(wait_until(sub { yielding($s) }), $s->name . ' lets others pass');
}

# This statement of another session ends, though the request waits.
sub passes
{
	my ($s, $sql, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $other = session($node, "passes " . $s->name);
	my $error = $other->query($sql)->{error};

	ok(!$error && $s->{busy}, ($what || $sql) . ' passes') || diag explain $error;
	return $other;
}

# It waits, and goes on to.
sub does_not_pass
{
	my ($sql, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $other = waits_with('waits', $sql);

	scan($observer);
	usleep(300_000);
	$other->read_some(65536, 0);
	ok($other->{busy}, $what);
	return $other;
}

sub row_of
{
	my ($s) = @_;

	return ($observer->rows(
		'SELECT limit_name, action, result, blocked_sessions, dry_run, reason FROM lockguard.actions WHERE pid = '
		  . $s->pid
		  . ' ORDER BY action_id DESC LIMIT 1'))[0];
}

# Readers pass an ALTER TABLE.
{
	my $slow = reader('slow reader', 't');
	my $alter = waits_with('ALTER', 'ALTER TABLE t ADD COLUMN a int', queue_yield_timeout => '1s');
	my $first = waits_with('first', 'SELECT count(*) FROM t');

	is($observer->value('SELECT limit_name FROM lockguard.sessions WHERE pid = ' . $alter->pid),
		'queue_yield_timeout', 'the next limit');
	succeeds($first, 'the first that was held up');
	begins_to_yield($alter);
	like(join("\n", map { $_->[0] } $observer->rows('SELECT * FROM lockguard.tree()')),
		qr/ALTER\) waits .* for AccessExclusiveLock on t, letting others pass/, 'the tree says so');
	passes($alter, 'SELECT count(*) FROM t') foreach 1 .. 3;
	passes($alter, 'UPDATE t SET v = v + 1 WHERE id = 1');
	is_deeply([ @{ row_of($alter) }[ 0 .. 2 ] ], [qw(queue_yield_timeout yield pending)],
		'while it waits');
	is_blocked_by($observer, $alter, $slow);
	$slow->query_ok('COMMIT');
	succeeds($alter);
	is_recorded($observer, $alter, 'queue_yield_timeout yield released');
	cmp_ok(row_of($alter)->[3], '>=', 5, 'how many have passed');
	my ($yields, $let_pass, $partition) = @{
		($observer->rows('SELECT yields, let_pass, max_partition_lock_time FROM lockguard.stats'))[0] };
	cmp_ok($yields, '>=', 5, 'steps are counted');
	cmp_ok($let_pass, '>=', 5, 'and those that have passed');
	cmp_ok($partition, '>', 0, 'and for how long the partition was locked');
	is($observer->value("SELECT actions FROM lockguard.action_counts WHERE action = 'yield'"), 1,
		'one action');
	ok($observer->poll('SELECT resolution FROM lockguard.incidents WHERE root_pid = ' . $slow->pid, 'released'),
		'an incident, as the ALTER waited long, and no remedy');
	like($observer->value('SELECT lockguard.report(incident_id) FROM lockguard.incidents WHERE root_pid = ' . $slow->pid),
		qr/lockguard let \d+ sessions pass the lock request of process ${\ $alter->pid}, released after/,
		'and its report says so');
}

# What is done to the session makes no difference; the server's switches do.
{
	my $slow = reader('slow reader', 't');
	my $alter = waits_with(
		'ALTER, exempt', 'ALTER TABLE t ADD COLUMN b int',
		queue_yield_timeout => '100ms',
		exempt => 'on',
		action => 'log');

	succeeds(waits_with('waits', 'SELECT count(*) FROM t'), 'exempt, action = log: a reader');
	foreach my $off (
		[ 'enabled = off', enabled => 'off' ],
		[ 'dry_run = on', dry_run => 'on' ])
	{
		configure($observer, $off->[1] => $off->[2]);
		my $waits = does_not_pass('SELECT count(*) FROM t', $off->[0] . ': no reader passes');
		ok(!yielding($alter), $off->[0] . ': it does not yield');
		configure($observer, $off->[1] => undef);
		succeeds($waits, 'afterwards');
	}
	$observer->query_ok("SELECT lockguard.pause('1 h')");
	my $waits = does_not_pass('SELECT count(*) FROM t', 'pause(): no reader passes');
	$observer->query_ok('SELECT lockguard.resume()');
	succeeds($waits, 'afterwards');
	configure($observer, queue_yield_timeout => '1h');
	passes($alter, 'SELECT count(*) FROM t', 'with another value for the server, a reader');
	configure($observer, queue_yield_timeout => undef);
	$slow->query_ok('COMMIT');
	succeeds($alter);
}

# A dry run says what would be done, once.
{
	my $slow = reader('slow reader', 't');

	configure($observer, dry_run => 'on');
	my $alter = waits_with('ALTER, dry run', 'ALTER TABLE t ADD COLUMN c int', queue_yield_timeout => '100ms');
	my $waits = does_not_pass('SELECT count(*) FROM t', 'dry run: no reader passes');
	is_deeply([ @{ row_of($alter) }[ 0 .. 2, 4, 5 ] ],
		[ 'queue_yield_timeout', 'yield', 'logged', 't', 'lockguard.dry_run is on' ],
		'what would have been done');
	scan($observer);
	is_recorded($observer, $alter, 'queue_yield_timeout yield logged');
	ok( $node->log_contains(qr/lockguard: does not let others pass the lock request of process ${\ $alter->pid} .*\n.*otherwise it would have been passed by others/),
		'and in the log');
	configure($observer, dry_run => undef);
	succeeds($waits);
	$slow->query_ok('COMMIT');
	succeeds($alter);
}

# It gives up.
foreach my $how ('lock_timeout', 'cancel', 'terminate')
{
	my $slow = reader('slow reader', 't');
	my $alter = waits_with("ALTER, $how",
		($how eq 'lock_timeout' ? "SET lock_timeout = '2s'; " : '') . 'ALTER TABLE t ADD COLUMN d int',
		queue_yield_timeout => '100ms');

	succeeds(waits_with('waits', 'SELECT count(*) FROM t'), "$how: a reader");
	begins_to_yield($alter) if $how ne 'lock_timeout';
	$observer->query_ok("SELECT pg_${how}_backend(" . $alter->pid . ')') if $how ne 'lock_timeout';
	$how eq 'terminate' ? $alter->wait_closed : $alter->finish;
	is($alter->error->{C}, $how eq 'lock_timeout' ? '55P03' : $how eq 'cancel' ? '57014' : '57P01',
		"$how: as without lockguard");
	is_recorded($observer, $alter, 'queue_yield_timeout yield self_resolved');
	$slow->query_ok('COMMIT');
}

# It stands when the slow reader that it waited for is gone, and the next slow one,
# which has passed, holds others up once more; those in the queue meanwhile wait.
{
	my $slow = reader('slow reader 1', 't');
	my $alter = waits_with('ALTER, two slow readers', 'ALTER TABLE t ADD COLUMN e int',
		queue_yield_timeout => '1s');

	succeeds(waits_with('waits', 'SELECT count(*) FROM t'), 'the first set: a reader');
	my $next = session($node, 'slow reader 2');
	$next->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
	passes($alter, 'SELECT count(*) FROM t');
	$slow->query_ok('COMMIT');

	my $waits = waits_with('waits', 'SELECT count(*) FROM t');
	my $start = time();
	ok(wait_until(sub { !yielding($alter) }), 'it stands');
	succeeds($waits, 'the second set: a reader');
	cmp_ok(time() - $start, '>', 0.5, 'after it has been held up for the limit again');
	passes($alter, 'SELECT count(*) FROM t');
	$next->query_ok('COMMIT');
	succeeds($alter);
	is_recorded($observer, $alter, 'queue_yield_timeout yield released');
}

# Others want what the session holds: they must not wait for longer.
{
	my $slow = reader('slow reader', 'u');
	my $migration = session($node, 'migration', queue_yield_timeout => '100ms');

	$migration->query_ok($_) foreach 'BEGIN', 'ALTER TABLE t ADD COLUMN f int';
	$migration->start('ALTER TABLE u ADD COLUMN f int');
	begins_to_wait($observer, $migration);
	succeeds(waits_with('waits', 'SELECT count(*) FROM u'), 'no session wants t: a reader of u');
	begins_to_yield($migration);

	my $wants = waits_with('wants t', 'SELECT count(*) FROM t');
	ok(wait_until(sub { !yielding($migration) }), 'with a session waiting for t it stands');
	my $held_up = does_not_pass('SELECT count(*) FROM u', 'no reader of u passes');
	$observer->query_ok('SELECT pg_cancel_backend(' . $wants->pid . ')');
	$wants->finish;
	succeeds($held_up, 'no session wants t any more: a reader of u');
	$slow->query_ok('COMMIT');
	succeeds($migration);
	$migration->query_ok('ROLLBACK');
}

# Two requests in one queue: both must step aside.
{
	my $slow = reader('slow reader', 't');
	my $one = waits_with('ALTER 1', 'ALTER TABLE t ADD COLUMN g int', queue_yield_timeout => '100ms');
	my $two = waits_with('ALTER 2', 'ALTER TABLE t ADD COLUMN h int', queue_yield_timeout => '100ms');

	succeeds(waits_with('waits', 'SELECT count(*) FROM t'), 'both yield: a reader');
	begins_to_yield($_) foreach $one, $two;
	passes($one, 'SELECT count(*) FROM t');

	my $three = waits_with('ALTER 3', 'ALTER TABLE t ADD COLUMN i int');
	my $held_up = does_not_pass('SELECT count(*) FROM t', 'one that does not yield stands in the way');
	is($observer->value("SELECT string_agg(substr(query, length(query) - 4, 1), '' ORDER BY waitstart)"
			. ' FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND query LIKE $$ALTER%$$'),
		'ghi', 'in their order');
	$slow->query_ok('COMMIT');
	succeeds($_) foreach $one, $two, $three, $held_up;
}

# A migration that has read the table, and another one behind it, which so waits for
# what the first holds: both let others pass.
{
	my $slow = reader('slow reader', 't');
	my $one = session($node, 'reads, then ALTER', queue_yield_timeout => '100ms');

	$one->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
	$one->start('ALTER TABLE t ADD COLUMN o int');
	begins_to_wait($observer, $one);
	my $two = waits_with('ALTER 2', 'ALTER TABLE t ADD COLUMN p int', queue_yield_timeout => '100ms');

	succeeds(waits_with('waits', 'SELECT count(*) FROM t'), 'a reader');
	passes($one, 'SELECT count(*) FROM t');
	$slow->query_ok('COMMIT');
	succeeds($one);
	$one->query_ok('COMMIT');
	succeeds($two);
}

# Where none can pass there is nothing to say.
{
	my $slow = reader('slow reader', 't');
	$slow->query_ok('LOCK TABLE t IN EXCLUSIVE MODE');
	my @queue = map { waits_with("EXCLUSIVE $_", 'BEGIN; LOCK TABLE t IN EXCLUSIVE MODE; COMMIT', queue_yield_timeout => '50ms') } 1 .. 3;

	begins_to_yield($queue[0]);
	$slow->query_ok('COMMIT');
	succeeds($_) foreach @queue;
	is_recorded($observer, $_) foreach @queue;
}

# A session that keeps what it holds over its transactions is still waited for.
{
	my ($first, $keeps) = map { session($node, $_) } 'first', 'keeps it';
	$first->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock_shared(8)';
	my $exclusive = waits_with('exclusive', 'SELECT pg_advisory_lock(8)', queue_yield_timeout => '500ms');

	succeeds(waits_with('waits', 'SELECT pg_advisory_lock_shared(8), pg_advisory_unlock_shared(8)'), 'another');
	$keeps->query_ok('SELECT pg_advisory_lock_shared(8)');
	$first->query_ok('COMMIT');
	succeeds(waits_with('waits', 'SELECT pg_advisory_lock_shared(8), pg_advisory_unlock_shared(8)'), 'another');
	begins_to_yield($exclusive);
	foreach (1 .. 5)
	{
		$keeps->query_ok('SELECT 1');
		passes($exclusive, 'SELECT pg_advisory_lock_shared(8), pg_advisory_unlock_shared(8)');
	}
	ok(yielding($exclusive), 'it has let others pass all the time');
	$keeps->query_ok('SELECT pg_advisory_unlock_shared(8)');
	succeeds($exclusive);
}

# A request that conflicts with no holder passes another that yields as well.
{
	my $slow = reader('slow reader', 't');
	my $alter = waits_with('ALTER', 'ALTER TABLE t ADD COLUMN j int', queue_yield_timeout => '100ms');
	my $index = waits_with('CREATE INDEX', 'CREATE INDEX ON t (v)', queue_yield_timeout => '100ms');

	succeeds(waits_with('waits', 'UPDATE t SET v = v WHERE id = 2'), 'a writer');
	succeeds($index);
	$slow->query_ok('COMMIT');
	succeeds($alter);
}

# Advisory locks and schemas; rows never.
{
	my $shared = session($node, 'shared');
	$shared->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock_shared(1)';
	my $exclusive = waits_with('exclusive', 'SELECT pg_advisory_xact_lock(1)', queue_yield_timeout => '100ms');
	succeeds(waits_with('waits', 'SELECT pg_advisory_xact_lock_shared(1)'), 'a shared advisory lock');
	begins_to_yield($exclusive);
	passes($exclusive, 'SELECT pg_advisory_xact_lock_shared(1)');
	$shared->query_ok('COMMIT');
	succeeds($exclusive);

	$observer->query_ok('CREATE SCHEMA s');
	my $creates = session($node, 'creates');
	$creates->query_ok($_) foreach 'BEGIN', 'CREATE TABLE s.t ()', 'DROP TABLE s.t';
	my $drop = waits_with('DROP SCHEMA', 'DROP SCHEMA s', queue_yield_timeout => '100ms');
	succeeds(waits_with('waits', 'BEGIN; CREATE TABLE s.other (); ROLLBACK'), 'a table in the schema');
	passes($drop, 'BEGIN; CREATE TABLE s.other (); ROLLBACK');
	$creates->query_ok('COMMIT');
	succeeds($drop);

	my $holder = session($node, 'holder');
	$holder->query_ok($_) foreach 'BEGIN', 'SELECT FROM t WHERE id = 7 FOR KEY SHARE';
	my $update = waits_with('deletes a row', 'DELETE FROM t WHERE id = 7', queue_yield_timeout => '50ms');
	my $share = does_not_pass('SELECT FROM t WHERE id = 7 FOR UPDATE', 'a queue for a row stays as it is');
	is_recorded($observer, $update);
	$holder->query_ok('COMMIT');
	succeeds($_) foreach $update, $share;
}

# A deadlock with a request that yields is found as without: who has passed waits
# for what the request's session holds.
{
	my $slow = reader('slow reader', 'u');
	my $migration = session($node, 'migration', queue_yield_timeout => '50ms');

	$migration->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(3)';
	$migration->start('ALTER TABLE u ADD COLUMN k int');
	begins_to_wait($observer, $migration);
	succeeds(waits_with('waits', 'SELECT count(*) FROM u'), 'a reader');
	begins_to_yield($migration);

	# The migration's own check for a deadlock is over by then.
	$observer->poll("SELECT bool_and(waitstart < clock_timestamp() - interval '600 ms') FROM pg_locks"
		  . ' WHERE NOT granted AND pid = ' . $migration->pid);
	my $passes = session($node, 'passes');
	$passes->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM u';
	is($passes->query('SELECT pg_advisory_xact_lock(3)')->{error}{C}, '40P01', 'the deadlock is found');
	$passes->query_ok('ROLLBACK');
	$slow->query_ok('COMMIT');
	succeeds($migration);
	$migration->query_ok('ROLLBACK');
}

# Limits on blockers: a slow reader is not spared because of those that have passed,
# and queued_blocker_timeout has no reason.
{
	my $slow = reader('idle reader', 't', idle_blocker_timeout => '2s');
	my $alter = waits_with('ALTER', 'ALTER TABLE t ADD COLUMN l int',
		queue_yield_timeout => '100ms', queued_blocker_timeout => '600ms');
	my @busy = map { session($node, "busy $_") } 1 .. 3;
	my $until = time() + 20;

	while (!recorded($observer, $slow) && time() < $until)
	{
		foreach my $s (@busy)
		{
			$s->finish if $s->{busy};
			$s->start('BEGIN; SELECT count(*), pg_sleep(0.05) FROM t; COMMIT');
		}
	}
	is_rolled_back($observer, $slow, 'idle_blocker_timeout');
	$_->finish foreach @busy;
	succeeds($alter);
	is_recorded($observer, $alter, 'queue_yield_timeout yield released');
}

# The worker ends, and the next one goes on.
{
	my $slow = reader('slow reader', 't');
	my $alter = waits_with('ALTER', 'ALTER TABLE t ADD COLUMN m int', queue_yield_timeout => '100ms');

	succeeds(waits_with('waits', 'SELECT count(*) FROM t'), 'a reader');
	begins_to_yield($alter);
	my $old = worker_pid($observer);
	kill 'TERM', $old;
	new_worker($observer, $old);
	succeeds(waits_with('waits', 'SELECT count(*) FROM t'), 'with the next worker, a reader');
	begins_to_yield($alter);
	passes($alter, 'SELECT count(*) FROM t');
	$slow->query_ok('COMMIT');
	succeeds($alter);
	is_recorded($observer, $alter, 'queue_yield_timeout yield self_resolved',
		'queue_yield_timeout yield released');
}
is($observer->value("SELECT count(*) FROM pg_locks WHERE locktype IN ('relation', 'advisory')"
		  . ' AND pid <> pg_backend_pid()'), 0, 'no lock is left');
is($observer->value("SELECT count(*) FROM lockguard.actions WHERE result = 'pending'"), 0,
	'no row is left open');

# It is killed in the middle of a step: a crash like any other.
SKIP:
{
	skip 'built without debug points', 2 unless has_wait_points($observer);
	my $slow = reader('slow reader', 't');
	my $alter = waits_with('ALTER', 'ALTER TABLE t ADD COLUMN n int', queue_yield_timeout => '100ms');
	my $worker = worker_pid($observer);
	my $probe = LockguardTest::Session->new($node, 'probe');

	stop_worker_at($observer, 'taken_out');
	session($node, 'waits')->start('SELECT count(*) FROM t');

	# A session that needs that partition of the lock table waits as well.
	wait_until(
		sub {
			return 1 if $probe->{busy} && !$probe->read_some(65536, 1);
			return 1 if !$probe->{busy} && ($probe->{rows}[0][0] || '') eq 'taken_out';
			$probe->start("SELECT query FROM pg_stat_activity WHERE pid = $worker");
			$probe->read_some(65536, 1);
			return 0;
		});
	my $offset = -s $node->logfile;
	$node->append_conf('postgresql.auto.conf', "lockguard.debug_wait_at = ''");
	kill 'KILL', $worker;
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	$observer = LockguardTest::Session->new($node, 'observer');
	is($observer->value('SELECT count(*) FROM u'), 1000, 'the tables are there');
	is($observer->value("SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid()"), 0,
		'no lock is left');
}

done_testing();
