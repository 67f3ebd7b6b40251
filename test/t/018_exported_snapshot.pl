# A session that has exported a snapshot is not idle: others work on its
# behalf, as the workers of a parallel pg_dump do for the leader.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', conf => "deadlock_timeout = '100ms'\n");
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $snapshots = $node->data_dir . '/pg_snapshots';

# A leader: holds a snapshot, and a table's lock.
sub leader
{
	my ($name, %set) = @_;
	my $session = session($node, $name, %set);

	$session->query_ok('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $snapshot = $session->value('SELECT pg_export_snapshot()');
	$session->query_ok('LOCK t IN ACCESS SHARE MODE');
	ok(-e "$snapshots/$snapshot", "$name has exported a snapshot");
	return ($session, $snapshot);
}

# The limit that comes next, by lockguard.sessions.
sub next_limit
{
	my ($session) = @_;
	return $observer->value("SELECT coalesce(max(limit_name), 'none') FROM lockguard.sessions WHERE pid = " . $session->pid);
}

# By hand.  The worker has the leader's snapshot, and lasts longer than the limit.
{
	my ($leader, $snapshot) = leader('leader', idle_blocker_timeout => '500ms', idle_in_transaction_timeout => '500ms');
	my $worker = session($node, 'worker', idle_blocker_timeout => '500ms');
	my $truncate = session($node, 'TRUNCATE');

	$worker->query_ok($_) foreach 'BEGIN ISOLATION LEVEL REPEATABLE READ', "SET TRANSACTION SNAPSHOT '$snapshot'";
	$worker->start('SELECT count(*), pg_sleep(2) FROM t');
	$observer->poll("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = " . $worker->pid);
	$truncate->start('TRUNCATE t');
	is_waiting($observer, $truncate);
	is(next_limit($leader), 'none', 'no limit comes next');
	succeeds($worker);
	is($worker->{result}{rows}[0][0], '1000', 'the worker has seen all rows');
	scan($observer);
	is_untouched($observer, $leader, 'T');

	# The next transaction of the same session is another matter.
	$leader->query_ok($_) foreach 'COMMIT', 'BEGIN', 'LOCK TABLE pg_description IN ACCESS SHARE MODE';
	$worker->query_ok('COMMIT');
	succeeds($truncate, 'TRUNCATE');
	is_terminated($leader, 'idle_in_transaction_timeout');
}

# After its transaction, and after one that was rolled back, it counts as idle.
foreach my $end ('COMMIT', 'ROLLBACK')
{
	my ($leader) = leader($end, idle_blocker_timeout => '500ms');
	my $alter = session($node, 'ALTER');

	$alter->start('ALTER TABLE t ADD c int');
	is_waiting($observer, $alter);
	ok(older_than($observer, 'state_change', '1s', $leader, $alter), 'a while goes by');
	scan($observer);
	$leader->query_ok($_) foreach $end, 'BEGIN', 'LOCK t IN ACCESS SHARE MODE';
	succeeds($alter, 'ALTER TABLE, after the transaction');
	is_deeply([ recorded($observer, $leader) ], [], "$end: nothing was done");
	$leader->query_ok($_) foreach 'ROLLBACK', 'BEGIN', 'LOCK t IN ACCESS SHARE MODE';
	is(next_limit($leader), 'none', 'it blocks no session');
	$alter->start('ALTER TABLE t DROP c');
	is_rolled_back($observer, $leader, 'idle_blocker_timeout');
	succeeds($alter, 'ALTER TABLE');
}

# The snapshot of another session, or one that a crash has left, shields no session.
{
	my ($leader) = leader('exporter', idle_blocker_timeout => '500ms');
	my $other = session($node, 'other', idle_blocker_timeout => '500ms');
	my $alter = session($node, 'ALTER');

	$observer->query_ok('CREATE TABLE of_other ()');
	$other->query_ok($_) foreach 'BEGIN', 'LOCK of_other IN ACCESS SHARE MODE';
	my ($number, $lxid) = split m{/},
	  $observer->value("SELECT virtualtransaction FROM pg_locks WHERE locktype = 'virtualxid' AND pid = " . $other->pid);

	# Of its last transaction; the first of the next one; not the first of this one.
	append_to_file("$snapshots/" . sprintf('%08X-%08X-%d', $number, @$_), "vxid:0/0\n")
	  foreach [ $lxid - 1, 1 ], [ $lxid + 1, 1 ], [ $lxid, 2 ];
	append_to_file("$snapshots/" . sprintf('%08X-%08X-1.tmp', $number, $lxid), "vxid:0/0\n");
	$alter->start('ALTER TABLE of_other ADD d int');
	is_rolled_back($observer, $other, 'idle_blocker_timeout');
	scan($observer);
	is_untouched($observer, $leader, 'T');
	succeeds($alter, 'ALTER TABLE');
	$leader->query_ok('ROLLBACK');
	unlink glob "$snapshots/*";
}

# It blocks all the same, idle or not; with it waits a queue, which goes first.
{
	my ($leader) = leader('blocker', blocker_timeout => '700ms', idle_blocker_timeout => '500ms');
	my $alter = session($node, 'ALTER');

	$alter->start('ALTER TABLE t ADD e int');
	is_waiting($observer, $alter);
	is(next_limit($leader), 'blocker_timeout', 'the limit on blockers counts');
	is_rolled_back($observer, $leader, 'blocker_timeout');
	succeeds($alter, 'ALTER TABLE');
}
{
	my ($leader) = leader('root');
	my $alter = session($node, 'ALTER');
	my @readers = map { session($node, "reader $_") } 1, 2;

	$alter->start('ALTER TABLE t ADD f int');
	is_waiting($observer, $alter);
	$_->start('SELECT count(*) FROM t') foreach @readers;
	is_waiting($observer, $_) foreach @readers;
	ok(older_than($observer, 'query_start', '500ms', @readers), 'both are over the limit');
	configure($observer, max_blocked_sessions => 1);
	is_cancelled($alter, 'max_blocked_sessions');
	succeeds($_) foreach @readers;
	configure($observer, max_blocked_sessions => undef);
	is_untouched($observer, $leader, 'T');
	$leader->query_ok('ROLLBACK');
}

# Where it cannot be seen, doing nothing is better.
SKIP:
{
	skip 'root may look at everything', 4 if $> == 0;
	my $session = session($node, 'unseen', idle_blocker_timeout => '300ms');
	my $alter = session($node, 'ALTER');

	$session->query_ok($_) foreach 'BEGIN', 'LOCK t IN ACCESS SHARE MODE';
	chmod 0, $snapshots or die "chmod: $!";
	$alter->start('ALTER TABLE t ADD g int');
	is_waiting($observer, $alter);
	ok(older_than($observer, 'state_change', '800ms', $session, $alter), 'a while goes by');
	scan($observer);
	my @rows = recorded($observer, $session);
	chmod 0700, $snapshots or die "chmod: $!";
	is_deeply(\@rows, [], 'nothing is done');
	is_rolled_back($observer, $session, 'idle_blocker_timeout');
	succeeds($alter, 'ALTER TABLE');
}

# A real dump, while a session wants to truncate a table that it has yet to come
# to.  PostgreSQL sees to it that this fails aloud.  If the leader were removed,
# the dump would succeed without the rows.
{
	my $dump = $node->basedir . '/dump';
	my $errors = $node->basedir . '/dump.errors';
	my @tables = qw(-t slow1 -t slow2 -t later);

	$node->safe_psql('postgres', <<'SQL');
CREATE TABLE slow1 AS SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 20000) i;
CREATE TABLE slow2 AS SELECT * FROM slow1;
CREATE TABLE later AS SELECT i FROM generate_series(1, 100) i;
SQL
	configure($observer, idle_blocker_timeout => '500ms');
	local $ENV{PGAPPNAME} = 'pg_dump';
	my $leader = open my $pipe, '-|', 'sh', '-c', "exec \"\$@\" 2>'$errors'", 'sh',
	  $node->installed_command('pg_dump'), qw(-Fd -j2 -Z0), @tables, '-f', $dump, '-d', $node->connstr('postgres')
	  or die "cannot start pg_dump: $!";
	my @stopped;
	wait_until(
		sub {
			@stopped = children($leader);
			return 0 if @stopped < 2;
			kill 'STOP', @stopped;
			my $copies = $observer->value(
				"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' AND query LIKE 'COPY public.slow%'");
			return 1 if $copies == 2;
			kill 'CONT', @stopped;
			return 0;
		}) or die 'pg_dump does not begin to dump';
	my $truncate = LockguardTest::Session->new($node, 'TRUNCATE');
	$truncate->start('TRUNCATE later');
	is_waiting($observer, $truncate);
	ok(older_than($observer, 'query_start', '2s', $truncate), 'a while goes by');
	is($observer->value("SELECT count(*) FROM lockguard.actions WHERE application_name = 'pg_dump'"),
		'0', 'the leader is left alone');
	kill 'CONT', @stopped;
	ok(!close $pipe, 'pg_dump fails');
	like(slurp_file($errors), qr/could not obtain lock on relation "public.later"/, 'because of that');
	succeeds($truncate, 'TRUNCATE');
	is($observer->value('SELECT count(*) FROM lockguard.actions WHERE application_name = \'pg_dump\''),
		'0', 'and for no other reason');
}

# The children of a process.
sub children
{
	my ($parent) = @_;

	return map { m{^/proc/(\d+)/} ? $1 : () }
	  grep { (eval { slurp_file($_) } || '') =~ /^PPid:\s+$parent$/m } glob '/proc/[0-9]*/status';
}

$node->stop;
done_testing();
