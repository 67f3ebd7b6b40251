# REPACK, and the processes that are new with it in PostgreSQL 19: a session in
# REPACK is a holder and a queued blocker like any other; the worker that decodes
# for REPACK (CONCURRENTLY), and those of a parallel autovacuum, are no victims.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
my $observer = LockguardTest::Session->new($node, 'observer');
my $version = $observer->value('SHOW server_version_num');

$observer->close;
plan skip_all => 'no REPACK before PostgreSQL 19' if $version < 190000;
$node->append_conf('postgresql.conf', <<'CONF');
wal_level = replica
max_worker_processes = 16
autovacuum_naptime = 1s
autovacuum_max_parallel_workers = 4
autovacuum_vacuum_cost_delay = 100ms
autovacuum_vacuum_cost_limit = 20
min_parallel_index_scan_size = 0
CONF
$node->restart;
$observer = LockguardTest::Session->new($node, 'observer');
create_t($node);

# Building this index takes long, but only where the session asks for it.
$observer->query_ok(<<'SQL');
CREATE FUNCTION slow(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_setting('test.slow', true) = 'on' THEN
		PERFORM pg_sleep(600);
	END IF;
	RETURN i;
END $$
SQL
$observer->query_ok('CREATE INDEX t_slow ON t (slow(v))');

# Does a session behind it get its lock, and does the REPACK end by this limit?
# The only signal is the one to the session that runs it.
sub is_freed
{
	my ($what, $repack, $setting, @behind) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_cancelled($repack, $setting);
	succeeds($_, "$what: the statement behind it") foreach @behind;
	is_actions($observer,
		[ { pid => $repack, limit_name => $setting, action => 'cancel', result => 'released', blocked => \@behind } ],
		"$what: one action");
	is($observer->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'REPACK%'"), 0,
		"$what: no worker is left");
	return;
}

sub begin_repack
{
	my ($name, $sql, %set) = @_;
	my $slow = delete $set{slow};
	my $repack = session($node, $name, %set);

	$repack->query_ok("SET test.slow = 'on'") if $slow;
	return $repack->start($sql);
}

# At work, with the table locked.
{
	my $repack = begin_repack('holder', 'REPACK t', slow => 1, blocker_timeout => '500ms');
	ok($observer->poll('SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = \'PgSleep\' AND pid = '
			  . $repack->pid . ')'), 'REPACK has locked the table');
	my $reader = session($node, 'reader')->start('SELECT count(*) FROM t');
	is_freed('REPACK as holder', $repack, 'blocker_timeout', $reader);
}

# Behind a reader that has no limit, with others behind it.
{
	my $root = session($node, 'root');
	$root->query_ok('BEGIN');
	$root->query_ok('SELECT count(*) FROM t');
	my $repack = begin_repack('queued', 'REPACK t', queued_blocker_timeout => '500ms');
	is_blocked_by($observer, $repack, $root);
	my @readers = map { session($node, "reader $_")->start('SELECT count(*) FROM t') } 1, 2;
	is_freed('REPACK in the queue', $repack, 'queued_blocker_timeout', @readers);
	is_alive($root, 'T');
	$root->close;
}

# With its worker, while it copies: who wants to change the table waits.  The
# worker is of the session's lock group and counts as it.
my %ages = (
	transaction_timeout => '100ms',
	statement_timeout => '100ms',
	idle_session_timeout => '100ms',
	lock_wait_timeout => '100ms',
	max_locks => 1,
	max_xmin_age => 1);
{
	my $repack = begin_repack('concurrently', 'REPACK (CONCURRENTLY) t', slow => 1, blocker_timeout => '1s');
	my $worker;

	ok(wait_until(sub {
		$worker = $observer->value("SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'REPACK decoding worker'");
		return defined $worker;
	}), 'REPACK (CONCURRENTLY) has a worker');
	ok($observer->poll('SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = \'PgSleep\' AND pid = '
			  . $repack->pid . ')'), 'and copies the table');
	my $alter = session($node, 'alter')->start('ALTER TABLE t ADD COLUMN w int');
	is_blocked_by($observer, $alter, $repack);
	is_root_of($observer, $repack, $alter);
	is($observer->value("SELECT count(*) FROM lockguard.sessions WHERE pid = $worker AND limit_name IS NOT NULL"), 0,
		'no limit is for the worker');
	is_freed('REPACK (CONCURRENTLY) as holder', $repack, 'blocker_timeout', $alter);
}

# At its end it wants the table for itself, and waits for who reads it.
{
	my $root = session($node, 'root');
	$root->query_ok('BEGIN');
	$root->query_ok('SELECT count(*) FROM t');
	my $repack = begin_repack('concurrently queued', 'REPACK (CONCURRENTLY) t', queued_blocker_timeout => '500ms');
	is_blocked_by($observer, $repack, $root);
	my $reader = session($node, 'reader')->start('SELECT count(*) FROM t');
	is_freed('REPACK (CONCURRENTLY) in the queue', $repack, 'queued_blocker_timeout', $reader);
	is_alive($root, 'T');
	$root->close;
}

# Limits on ages, for the whole server: a worker that decodes is not meant.
{
	my $repack = begin_repack('aged', 'REPACK (CONCURRENTLY) t', slow => 1,
		transaction_timeout => 0, statement_timeout => 0, max_locks => 0, max_xmin_age => 0, lock_wait_timeout => 0);
	ok($observer->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'REPACK decoding worker'"
			  . " AND backend_start < clock_timestamp() - interval '300 ms'"), 'a worker that is old');
	$observer->query_ok("SET lockguard.$_ = 0") foreach sort keys %ages;
	configure($observer, %ages);
	scan($observer);
	is_actions($observer, [], 'neither the session, which has limits of its own, nor the worker is acted upon');
	ok($observer->value("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'REPACK decoding worker'"),
		'the worker is there');
	configure($observer, map { $_ => undef } keys %ages);
	$observer->query_ok('SELECT pg_cancel_backend(' . $repack->pid . ')');
	$repack->finish;
	is($repack->error->{C}, '57014', 'it ends by hand');
	ok(!defined $repack->error->{D}, 'which lockguard has nothing to say of');
}

# A parallel autovacuum, slow enough to be looked at.
{
	$observer->query_ok($_) foreach
	  'CREATE TABLE vacuumed (a int, b int, c int) WITH (autovacuum_enabled = off, autovacuum_parallel_workers = 4,'
	  . ' autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)',
	  'INSERT INTO vacuumed SELECT i, i, i FROM generate_series(1, 50000) i',
	  (map { "CREATE INDEX ON vacuumed ($_)" } qw(a b c)),
	  'DELETE FROM vacuumed WHERE a % 2 = 0',
	  'ALTER TABLE vacuumed SET (autovacuum_enabled = on)',
	  'ALTER SYSTEM SET autovacuum = on';
	configure($observer, %ages);
	my $workers = "FROM pg_stat_activity w JOIN pg_stat_activity l ON l.pid = w.leader_pid"
	  . " WHERE l.backend_type = 'autovacuum worker'";
	ok($observer->poll("SELECT count(*) > 0 $workers AND w.backend_start < clock_timestamp() - interval '300 ms'"),
		'autovacuum has parallel workers');
	scan($observer);
	ok($observer->value("SELECT count(*) > 0 $workers"), 'they go on');
	is_actions($observer, [], 'no process of it is acted upon');
	configure($observer, map { $_ => undef } keys %ages);
}

$observer->close;
$node->stop;
done_testing();
