# Who is never signalled, whatever he blocks.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main',
	streaming => 1,
	conf => <<'CONF');
wal_level = logical
max_prepared_transactions = 5
max_worker_processes = 16
synchronous_commit = local
synchronous_standby_names = 'nobody'
deadlock_timeout = 100ms
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');

# All limits on blockers at once.
my %limits = (
	blocker_timeout => '300ms',
	idle_blocker_timeout => '300ms',
	max_blocked_sessions => 1);

# A session that is not ours to touch, as it is recorded; its pid is 0 for a
# prepared transaction.
sub is_protected
{
	my ($what, $pid, $reason) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok($observer->poll("SELECT EXISTS (SELECT FROM lockguard.actions WHERE pid = $pid AND result = 'protected')"),
		"$what is recorded as protected");
	is(
		$observer->value("SELECT string_agg(DISTINCT concat_ws(' ', action, result, reason), ', ')"
			  . " FROM lockguard.actions WHERE pid = $pid"),
		"log protected $reason",
		"$what is not signalled, for a reason");
	return;
}

# The WARNING that the observer has just got names the way out.
sub is_hinted
{
	my ($what, $hint) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is(($observer->{result}{notices} || [ {} ])->[0]{H}, $hint, "$what: the way out");
}

# The worker that applies changes of a publication, in a trigger that takes
# its time.
$observer->query_ok($_) foreach 'CREATE DATABASE subscriber',
  'CREATE TABLE published (id int PRIMARY KEY)',
  'CREATE PUBLICATION p FOR TABLE published',
  "SELECT pg_create_logical_replication_slot('sub', 'pgoutput')";
$node->safe_psql('subscriber', <<SQL);
CREATE TABLE published (id int PRIMARY KEY);
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
  \$\$ BEGIN PERFORM pg_advisory_xact_lock(4), pg_sleep(600); RETURN NEW; END \$\$;
CREATE TRIGGER slow BEFORE INSERT ON published FOR EACH ROW EXECUTE FUNCTION slow();
ALTER TABLE published ENABLE ALWAYS TRIGGER slow;
CREATE SUBSCRIPTION sub CONNECTION '@{[ $node->connstr ]} dbname=postgres' PUBLICATION p
  WITH (create_slot = false, copy_data = false);
SQL
$observer->query_ok('INSERT INTO published VALUES (1)');
my $subscriber = LockguardTest::Session->new($node, 'subscriber', dbname => 'subscriber');
ok($subscriber->poll("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"
		  . " AND database = (SELECT oid FROM pg_database WHERE datname = 'subscriber'))"),
	'the apply worker holds a lock');
my $apply = $subscriber->value("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
	  . " AND database = (SELECT oid FROM pg_database WHERE datname = 'subscriber')");
my @waiters = LockguardTest::Session->new($node, 'behind apply worker', dbname => 'subscriber')
  ->start('SELECT pg_advisory_lock(4)');
is_waiting($observer, $waiters[0]);

# Others who block a session, each.  The twin is an ordinary one.
my ($twin, $twin_waiter) = blocked_pair($observer, 'twin', 1);

my $prepared = holder($node, 'prepared', 2);
$prepared->query_ok('UPDATE t SET v = 1 WHERE id = 2');
$prepared->query_ok("PREPARE TRANSACTION 'the gid'");
$prepared->close;
push @waiters, waiter($observer, 'behind prepared', 2);

my $walsender = session_with($node, 'walsender', replication => 'database');
$walsender->query_ok('BEGIN');
$walsender->query_ok('SELECT pg_advisory_xact_lock(3)');
push @waiters, waiter($observer, 'behind walsender', 3);

# A commit that waits for a synchronous standby that is not there.  It is
# over the limits on its age, too.
my $commit = session($node, 'commit', transaction_timeout => '1s', statement_timeout => '1s');
$commit->query_ok('SET synchronous_commit = on');
$commit->start('BEGIN; UPDATE t SET v = 1 WHERE id = 5; COMMIT');
ok($observer->poll("SELECT coalesce(max(wait_event), '') FROM pg_stat_activity WHERE pid = " . $commit->pid, 'SyncRep'),
	'the commit waits for it');
push @waiters, session($node, 'behind commit')->start('UPDATE t SET v = 2 WHERE id = 5');
is_waiting($observer, $waiters[-1]);

configure($observer, %limits);
is_rolled_back($observer, $twin, 'idle_blocker_timeout');
succeeds($twin_waiter, 'the waiter of the twin');
is_protected('a prepared transaction', 0, 'prepared transaction');
is($observer->value("SELECT string_agg(DISTINCT gid, ',') FROM lockguard.actions WHERE pid = 0"), 'the gid', 'with its gid');
is_protected('a walsender', $walsender->pid, 'walsender');
is_protected('a background worker', $apply, 'background worker');
ok($observer->poll("SELECT count(*) >= 2 FROM lockguard.actions WHERE limit_name IN ('transaction_timeout', 'statement_timeout') AND pid = "
		  . $commit->pid), 'the commit is over the limits on its age, too');
is_protected('a commit', $commit->pid, 'its commit can no longer be undone');
scan($observer);
is_alive($walsender, 'T');
is($observer->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $apply AND wait_event = 'PgSleep'"), '1',
	'the background worker is at work');
is($observer->value('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $commit->pid), 'SyncRep',
	'the commit waits on');
is($observer->value("SELECT gid FROM pg_prepared_xacts"), 'the gid', 'the prepared transaction is there');
is(
	$observer->value("SELECT count(*) FROM lockguard.actions WHERE action <> 'log' AND pid <> " . $twin->pid),
	'0', 'no other session has been signalled');

# Asked for by hand, the answer is the same.
my $error = $observer->query('SELECT lockguard.terminate_blockers(' . $waiters[-1]->pid . ')');
is($error->{rows}[0][0], '{}', 'not even by hand is a commit signalled');
is_hinted('a commit', 'Its commit waits for a synchronous standby; see synchronous_standby_names.');
is($observer->value('SELECT lockguard.terminate_blockers(' . $waiters[1]->pid . ')'), '{}', 'nor a prepared transaction');
is_hinted('a prepared transaction', "ROLLBACK PREPARED 'the gid' in its database ends it.");
is($observer->value('SELECT lockguard.cancel_blockers(' . $waiters[2]->pid . ')'), '{}', 'nor a walsender');
is_hinted('a walsender', 'pg_terminate_backend(' . $walsender->pid . ') ends it; it may be started again.');
is($observer->value('SELECT lockguard.terminate_blockers(' . $waiters[0]->pid . ')'), '{}', 'nor a background worker');
is_hinted('a background worker', "pg_terminate_backend($apply) ends it; it may be started again.");

# All come to their end as they would without lockguard.
configure($observer, map { $_ => undef } keys %limits);
$observer->query_ok("ALTER SYSTEM SET synchronous_standby_names = ''");
$observer->query_ok('SELECT pg_reload_conf()');
succeeds($commit, 'COMMIT');
succeeds($waiters[-1], 'the update behind it');
is($observer->value('SELECT v FROM t WHERE id = 5'), '2', 'both are there');
$observer->query_ok("COMMIT PREPARED 'the gid'");
$walsender->query_ok('COMMIT');
succeeds($waiters[$_], 'the waiter') foreach 1, 2;
$observer->query_ok("SELECT pg_terminate_backend(" . $waiters[0]->pid . ')');
$subscriber->query_ok('ALTER SUBSCRIPTION sub DISABLE');
$subscriber->query_ok('ALTER SUBSCRIPTION sub SET (slot_name = NONE)');
$observer->query_ok("SELECT pg_terminate_backend($apply)");
ok($observer->poll("SELECT count(*) FROM pg_stat_activity WHERE pid = $apply", '0'), 'the apply worker ends');
$subscriber->query_ok('DROP SUBSCRIPTION sub');
$subscriber->close;
forget_actions($observer);

# A parallel query: its leader is signalled, once, and none of its workers.
{
	$observer->query_ok('CREATE FUNCTION slow(int) RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS'
		  . ' $$ BEGIN PERFORM pg_sleep(60); RETURN $1; END $$');
	my $leader = session($node, 'leader');
	my $alter = session($node, 'ALTER');

	$leader->query_ok("SET $_") foreach 'min_parallel_table_scan_size = 0', 'parallel_setup_cost = 0',
	  'parallel_tuple_cost = 0', 'max_parallel_workers_per_gather = 3';
	$observer->query_ok('ALTER TABLE t SET (parallel_workers = 3)');
	$leader->start('SELECT sum(slow(v)) FROM t');
	ok($observer->poll('SELECT count(*) > 0 FROM pg_stat_activity WHERE leader_pid = ' . $leader->pid),
		'the query has parallel workers');
	$alter->start('ALTER TABLE t ADD COLUMN w int');
	is_blocked_by($observer, $alter, $leader);
	is_root_of($observer, $leader, $alter);
	configure($observer, blocker_timeout => '300ms');
	is_cancelled($leader, 'blocker_timeout');
	succeeds($alter, 'ALTER');
	is_actions($observer, [ { pid => $leader, action => 'cancel', result => 'released', blocked => [$alter] } ],
		'the leader alone is signalled');
	is_alive($leader, 'I');
	configure($observer, blocker_timeout => undef);
	$_->close foreach $leader, $alter;
}

# A backend that is still logging in: a cancel would end the login.  The twin
# is logged in.
{
	my $root = session($node, 'root');
	my $twin = session($node, 'logged in');

	$root->query_ok('BEGIN');
	$root->query_ok('LOCK pg_authid IN ACCESS EXCLUSIVE MODE');
	configure($observer, lock_wait_timeout => '300ms');
	my $login = LockguardTest::Session->new($node, 'login', wait => 0);
	ok($observer->poll("SELECT count(*) FROM pg_locks WHERE relation = 'pg_authid'::regclass AND NOT granted", '1'),
		'a login waits');
	$twin->start('SELECT count(*) FROM pg_authid');
	is_cancelled($twin, 'lock_wait_timeout');
	ok($observer->poll("SELECT bool_and(waitstart < clock_timestamp() - interval '600 ms') FROM pg_locks WHERE NOT granted"),
		'the login waits for longer than that');
	scan($observer);
	is($observer->value('SELECT count(*) FROM pg_locks WHERE NOT granted'), '1', 'it is left alone');
	$root->query_ok('COMMIT');
	succeeds($login, 'the login');
	is_alive($login, 'I');
	is_actions($observer, [ { pid => $twin, action => 'cancel', result => 'released' } ]);
}

$node->stop;
done_testing();
