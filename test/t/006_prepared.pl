# Prepared transactions that no client finishes.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Besides the two of lockguard, there is room for one background worker.
my $node = lockguard_node('main',
	streaming => 1,
	conf => <<'CONF');
max_prepared_transactions = 10
max_worker_processes = 3
max_logical_replication_workers = 0
synchronous_commit = local
synchronous_standby_names = 'nobody'
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
$observer->query_ok('CREATE DATABASE other');
$observer->query_ok('CREATE ROLE app LOGIN');
$observer->query_ok('GRANT UPDATE, SELECT ON t TO app');

sub prepare
{
	my ($gid, $id, %opt) = @_;
	my $session = LockguardTest::Session->new($node, $gid, %opt);

	$session->query_ok('BEGIN');
	$session->query_ok($opt{dbname} ? 'CREATE TABLE made ()' : "UPDATE t SET v = $id WHERE id = $id");
	$session->query_ok("PREPARE TRANSACTION '$gid'");
	$session->close;
	return;
}

# "limit action result" of all rows about a prepared transaction.
sub about
{
	my ($gid) = @_;

	return $observer->value("SELECT coalesce(string_agg(concat_ws(' ', limit_name, action, result), ', ' ORDER BY action_id), '')"
		  . " FROM lockguard.actions WHERE gid = '$gid' AND pid = 0");
}

sub is_about
{
	my ($gid, $expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_until(sub { about($gid) eq $expected });
	return is(about($gid), $expected, "'$gid': recorded as it was");
}

sub exists_still
{
	my ($gid) = @_;
	return $observer->value("SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = '$gid')") eq 't';
}

# By default it is only logged, once, even if it blocks.
prepare('logged', 1);
my $waiter = session($node, 'waiter')->start('UPDATE t SET v = 100 WHERE id = 1');
is_blocked_by($observer, $waiter, 0);
is($observer->value('SELECT concat_ws(\' \', root_pid, level, pid, gid, backend_type) FROM lockguard.lock_tree WHERE level = 0'),
	'0 0 0 logged prepared transaction', 'it is the root of the tree, with its gid');
configure($observer, prepared_transaction_timeout => '300ms');
is_about('logged', 'prepared_transaction_timeout log logged');
scan($observer);
is_about('logged', 'prepared_transaction_timeout log logged');
ok(exists_still('logged'), 'it is there still');
is($observer->value("SELECT concat_ws(' ', limit_value, limit_source, blocked_sessions, blocked_pids, datname, usename IS NOT NULL, reason)"
		  . " FROM lockguard.actions WHERE gid = 'logged'"),
	'300ms configuration 1 {' . $waiter->pid . '} postgres t lockguard.prepared_transaction_action is log',
	'with all that is known');

# Nothing is rolled back while lockguard is not to act.
configure($observer, prepared_transaction_action => 'rollback', dry_run => 'on');
prepare('dry run', 2);
is_about('dry run', 'prepared_transaction_timeout rollback logged');
ok(exists_still($_), "$_ is there still") foreach 'logged', 'dry run';
$observer->query_ok("ROLLBACK PREPARED 'dry run'");

# Rolled back, in its own database, whichever role prepared it.
configure($observer, dry_run => undef);
prepare('of app', 3, user => 'app');
prepare('elsewhere', 4, dbname => 'other');
succeeds($waiter, 'the update behind it');
is_about('logged', 'prepared_transaction_timeout log logged, prepared_transaction_timeout rollback released');
is_about('of app', 'prepared_transaction_timeout rollback released');
is_about('elsewhere', 'prepared_transaction_timeout rollback released');
is($observer->value('SELECT count(*) FROM pg_prepared_xacts'), '0', 'all are gone');
is($observer->value('SELECT string_agg(v::text, \' \' ORDER BY id) FROM t WHERE id IN (1, 2, 3)'), '100 0 0', 'and what they did');
is($node->safe_psql('other', "SELECT to_regclass('made') IS NULL"), 't', 'in the other database, too');
is($observer->value('SELECT rollbacks FROM lockguard.stats'), '3', 'they are counted');

# The limit is on each one's own age: the twin is new.
configure($observer, prepared_transaction_timeout => '1h');
prepare('twin', 4);
scan($observer);
is_about('twin', '');
ok(exists_still('twin'), 'a younger one is left alone');
$observer->query_ok("COMMIT PREPARED 'twin'");

# No worker can be started: failed, and tried again.
{
	$observer->query_ok('CREATE FUNCTION slow(int) RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS'
		  . ' $$ BEGIN PERFORM pg_sleep(600); RETURN $1; END $$');
	$observer->query_ok('ALTER TABLE t SET (parallel_workers = 1)');
	my $query = session($node, 'parallel');
	$query->query_ok("SET $_") foreach 'min_parallel_table_scan_size = 0', 'parallel_setup_cost = 0', 'parallel_tuple_cost = 0';
	$query->start('SELECT sum(slow(v)) FROM t');
	ok($observer->poll('SELECT count(*) FROM pg_stat_activity WHERE leader_pid = ' . $query->pid, '1'), 'the only slot is taken');
	my $offset = -s $node->logfile;
	prepare('no slot', 5);
	configure($observer, prepared_transaction_timeout => '100ms');
	is_about('no slot', 'prepared_transaction_timeout rollback failed');
	$node->wait_for_log(qr/WARNING:  lockguard: .*could not be rolled back/, $offset);
	ok(exists_still('no slot'), 'it is there still');
	$observer->query_ok('SELECT pg_cancel_backend(' . $query->pid . ')');
	is($query->finish->{error}{C}, '57014', 'the slot is free');
	is_about('no slot', 'prepared_transaction_timeout rollback released');
	ok(!exists_still('no slot'), 'it is rolled back at the next try');
	$query->close;
}

# A pause, and a configuration, are for the process that rolls back, too: it has
# been asked for, but the postmaster comes to start it only later.
SKIP:
{
	skip 'needs signals', 1 if $PostgreSQL::Test::Utils::windows_os;
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my %stop = (
		'paused by lockguard.pause()' => [
			sub { $observer->query_ok("SELECT lockguard.pause('1 h')"); },
			sub { $observer->query_ok('SELECT lockguard.resume()'); } ],
		'lockguard.dry_run is on' => [ sub { worker_reads(dry_run => 'on'); }, sub { worker_reads(dry_run => 'off'); } ],
		'lockguard.prepared_transaction_action is log' => [
			sub { worker_reads(prepared_transaction_action => 'log'); },
			sub { worker_reads(prepared_transaction_action => 'rollback'); } ],
		'disabled' => [ sub { worker_reads(enabled => 'off'); }, sub { worker_reads(enabled => 'on'); } ]);

	# The worker alone reads the configuration anew: the postmaster is stopped.
	sub worker_reads
	{
		my (%set) = @_;
		my $offset = -s $node->logfile;

		$observer->query_ok("ALTER SYSTEM SET lockguard.$_ = '$set{$_}'") foreach keys %set;
		kill 'HUP', $observer->value('SELECT worker_pid FROM lockguard.stats');
		$node->wait_for_log(qr/lockguard: (limits for the whole server|no limit is set|disabled)/, $offset);
		return;
	}

	foreach my $reason (sort keys %stop)
	{
		prepare($reason, 7);
		kill 'STOP', $postmaster;
		configure_worker('100ms');
		is_about($reason, 'prepared_transaction_timeout rollback pending');
		$stop{$reason}[0]->();
		kill 'CONT', $postmaster;
		if ($reason eq 'disabled')
		{
			# Its outcome is not recorded; it has ended by then.
			my $offset = -s $node->logfile;

			$node->reload;
			$node->wait_for_log(qr/received SIGHUP/, $offset);
			ok($observer->poll("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'lockguard rollback'", '0'),
				'the rollback has ended');
		}
		else
		{
			is_about($reason, 'prepared_transaction_timeout rollback logged');
			is($observer->value("SELECT reason FROM lockguard.actions WHERE gid = '$reason' AND action = 'rollback'"),
				$reason, 'the reason is recorded');
		}
		ok(exists_still($reason), 'it is there still');
		$stop{$reason}[1]->();
		is_about($reason, 'prepared_transaction_timeout rollback released');
		ok(!exists_still($reason), 'it is rolled back after that');
		configure_worker('0');
	}

	sub configure_worker { worker_reads(prepared_transaction_timeout => $_[0]); return; }
}

# A session is finishing it at this moment: a commit that waits for a standby.
{
	configure($observer, prepared_transaction_timeout => undef);
	prepare('busy', 6);
	my $commit = session($node, 'commit');
	$commit->query_ok('SET synchronous_commit = on');
	$commit->start("COMMIT PREPARED 'busy'");
	ok($observer->poll("SELECT coalesce(max(wait_event), '') FROM pg_stat_activity WHERE pid = " . $commit->pid, 'SyncRep'),
		'the commit waits');
	configure($observer, prepared_transaction_timeout => '100ms');
	is_about('busy', 'prepared_transaction_timeout rollback failed');
	$observer->query_ok("ALTER SYSTEM SET synchronous_standby_names = ''");
	$observer->query_ok('SELECT pg_reload_conf()');
	succeeds($commit, 'COMMIT PREPARED');
	is($observer->value('SELECT v FROM t WHERE id = 6'), '6', 'it is committed');
	is($observer->value('SELECT count(*) FROM pg_prepared_xacts'), '0', 'and gone');
	is(scalar(() = $observer->rows("SELECT FROM lockguard.actions WHERE gid = 'busy'")), 1, 'there is one row');
	$commit->close;
}

# A server whose table of prepared transactions has another layout.  The limit is
# without effect; the worker says so, once, and no other process does.
SKIP: {
	skip 'built without wait points', 1 if !has_wait_points($observer);
	my $said = sub { scalar(() = slurp_file($node->logfile, $_[0]) =~ /LOG:  lockguard: prepared_transaction_timeout has no effect in this server\n/g) };
	my $offset = -s $node->logfile;

	configure($observer, prepared_transaction_timeout => undef);
	prepare('unknown', 7);
	$observer->query_ok("ALTER SYSTEM SET lockguard.debug_error_at = 'twophase_layout'");
	$observer->close;
	$node->restart;
	$observer = LockguardTest::Session->new($node, 'observer');
	scan($observer);
	is($said->($offset), 0, 'nothing is said while there is no limit');
	configure($observer, prepared_transaction_timeout => '10ms');
	ok(wait_until(sub { $said->($offset) > 0 }), 'that it is without effect is said');
	configure($observer, idle_blocker_timeout => $_) foreach '1h', undef;
	my $waiter = session($node, 'waiter')->start('UPDATE t SET v = 100 WHERE id = 7');
	is_blocked_by($observer, $waiter, 0);
	is($observer->value('SELECT count(*) FROM lockguard.lock_tree'), 2, 'a tree is shown');
	is($observer->value("SELECT coalesce(max(gid), 'none') FROM lockguard.lock_tree"), 'none', 'without a gid');
	scan($observer);
	ok(exists_still('unknown'), 'nothing is done');
	is_about('unknown', '');
	is($said->($offset), 1, 'it is said once');
	unlike(slurp_file($node->logfile, $offset), qr/lockguard: limits for the whole server:[^\n]*prepared_transaction_timeout/,
		'and it is not named as a limit in force');
	$observer->query_ok("ROLLBACK PREPARED 'unknown'");
	succeeds($waiter, 'the waiter');
	$waiter->close;
	$observer->close;
	$node->restart;
	$observer = LockguardTest::Session->new($node, 'observer');
	ok(wait_until(sub { $said->($offset) == 2 }), 'at the start, too');
}

$node->stop;
done_testing();
