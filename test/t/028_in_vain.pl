# A session is left alone if no other could go on without it; and the one that
# holds up others is found in queues of any lock.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = lockguard_node('main', conf => <<'CONF');
lockguard.incident_threshold = '200ms'
CONF
create_t($node);
$node->safe_psql('postgres', 'CREATE TABLE u (id int PRIMARY KEY, v int); INSERT INTO u SELECT i, 0 FROM generate_series(1, 9) i; CREATE SCHEMA s');
my $observer = LockguardTest::Session->new($node, 'observer');
my $in_vain = 'removing it would not unblock any session';

sub reads
{
	my ($name, %set) = @_;
	my $s = session($node, $name, %set);

	$s->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
	return $s;
}

sub starts
{
	my ($name, $sql, %set) = @_;
	my $s = session($node, $name, %set);

	$s->start($sql);
	return begins_to_wait($observer, $s);
}

# What is recorded of it: "limit action result: reason", once.
sub spared
{
	my ($s) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $rows = 'SELECT count(*) FROM lockguard.actions WHERE reason = ' . "'$in_vain' AND action = 'log' AND result = 'logged' AND pid = " . $s->pid;

	ok($observer->poll($rows, 1), $s->name . ' is spared');
	is($observer->value('SELECT spared FROM lockguard.sessions WHERE pid = ' . $s->pid), $in_vain, $s->name . ': and sessions says so');
	usleep(400_000);
	scan($observer);
	is($observer->value($rows), 1, $s->name . ': recorded once');
	return;
}

sub end
{
	$_->close(silent => 1) foreach @_;
	wait_until(sub { $observer->value("SELECT count(*) FROM pg_locks WHERE relation IN ('t'::regclass, 'u'::regclass) AND pid <> pg_backend_pid()") == 0 });
	return;
}

# A parallel dump's leader, whose worker holds the same lock.
{
	my $leader = reads('leader', idle_blocker_timeout => '300ms', blocker_timeout => '400ms');
	my $dump = reads('its worker');
	my $alter = starts('truncate', 'TRUNCATE t');

	spared($leader);
	ok(!$leader->closed, 'the leader is there');
	$dump->query_ok('COMMIT');
	is_rolled_back($observer, $leader, 'idle_blocker_timeout');
	succeeds($alter, 'truncate');
	end($leader, $dump, $alter);
	$node->safe_psql('postgres', 'INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i');
}

# Two idle readers before an ALTER, one of them exempt; then both may go.
{
	my $r1 = reads('reader', idle_blocker_timeout => '300ms');
	my $r2 = reads('exempt reader', idle_blocker_timeout => '300ms', exempt => 'on');
	my $alter = starts('alter', 'ALTER TABLE t ADD c int');

	spared($r1);
	ok(!$_->closed, $_->name . ' is there') foreach $r1, $r2;
	$r2->query_ok('SET lockguard.exempt = off');
	is_rolled_back($observer, $r1, 'idle_blocker_timeout');
	is_rolled_back($observer, $r2, 'idle_blocker_timeout');
	succeeds($alter, 'alter');
	end($r1, $r2, $alter);
}

# An ALTER behind an ALTER behind a healthy reader, then readers.
{
	my $r = reads('healthy reader');
	my $a1 = starts('first alter', 'ALTER TABLE t ADD d int', queued_blocker_timeout => '300ms');
	my $a2 = starts('second alter', 'ALTER TABLE t ADD e int', queued_blocker_timeout => '300ms');

	spared($a1);
	ok($a1->{busy}, 'the first alter still waits');
	my $w = starts('a reader behind', 'SELECT count(*) FROM t');
	is_cancelled($a1, 'queued_blocker_timeout');
	is_cancelled($a2, 'queued_blocker_timeout');
	succeeds($w, 'a reader behind');
	is_alive($r, 'T');
	end($r, $a1, $a2, $w);
}

# A migration that holds a table and waits for a row.
{
	my $a = session($node, 'holds a row');
	my $b = session($node, 'migration', queued_blocker_timeout => '300ms');

	$a->query_ok($_) foreach 'BEGIN', 'UPDATE u SET v = 1 WHERE id = 1';
	$b->query_ok($_) foreach 'BEGIN', 'ALTER TABLE t ADD f int';
	$b->start('UPDATE u SET v = 2 WHERE id = 1');
	begins_to_wait($observer, $b);
	my @w = map { starts("reader $_", 'SELECT count(*) FROM t') } 1 .. 2;
	is_cancelled($b, 'queued_blocker_timeout');
	succeeds($_, $_->name) foreach @w;
	is_alive($a, 'T');
	end($a, $b, @w);
}

# The same, found by the number of those behind it.
{
	my $a = session($node, 'holds a row');
	my $b = session($node, 'migration', max_blocked_sessions => 2);

	$a->query_ok($_) foreach 'BEGIN', 'UPDATE u SET v = 1 WHERE id = 1';
	$b->query_ok($_) foreach 'BEGIN', 'ALTER TABLE t ADD g int';
	$b->start('UPDATE u SET v = 2 WHERE id = 1');
	begins_to_wait($observer, $b);
	my @w = map { starts("reader $_", 'SELECT count(*) FROM t') } 1 .. 3;
	is_cancelled($b, 'max_blocked_sessions');
	succeeds($_, $_->name) foreach @w;
	is_alive($a, 'T');
	end($a, $b, @w);
}

# An exclusive request for an advisory lock in the middle of shared ones.
{
	my $a = session($node, 'shared');
	$a->query_ok('SELECT pg_advisory_lock_shared(1)');
	my $b = starts('exclusive', 'SELECT pg_advisory_lock(1)', queued_blocker_timeout => '300ms');
	my @w = map { starts("shared $_", 'SELECT pg_advisory_lock_shared(1)') } 1 .. 2;

	is_cancelled($b, 'queued_blocker_timeout');
	succeeds($_, $_->name) foreach @w;
	is_alive($a, 'I');
	end($a, $b, @w);
}

# CREATE TABLE, DROP SCHEMA, CREATE TABLE in one schema.
{
	my $a = session($node, 'creates');
	$a->query_ok($_) foreach 'BEGIN', 'CREATE TABLE s.x ()';
	my $b = starts('drops the schema', 'DROP SCHEMA s', queued_blocker_timeout => '300ms');
	my $w = starts('creates another', 'CREATE TABLE s.y ()');

	is_cancelled($b, 'queued_blocker_timeout');
	succeeds($w, 'creates another');
	is_alive($a, 'T');
	$a->query_ok('COMMIT');
	end($a, $b, $w);
}

# Queues in which each wants the lock for itself: only the root may go.
foreach my $story (
	[ 'advisory', 'SELECT pg_advisory_xact_lock(7)', 'SELECT pg_advisory_xact_lock(7)' ],
	[ 'table', 'LOCK TABLE t IN ACCESS EXCLUSIVE MODE', 'BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; COMMIT' ],
	[ 'row', 'UPDATE u SET v = 1 WHERE id = 1', 'UPDATE u SET v = 2 WHERE id = 1' ])
{
	my ($name, $hold, $want) = @$story;
	my $a = session($node, "$name, holder");

	$a->query_ok($_) foreach 'BEGIN', $hold;
	my @w = map { starts("$name $_", $want, queued_blocker_timeout => '300ms', max_blocked_sessions => 1) } 1 .. 4;
	spared($w[0]) unless $name eq 'row';
	usleep(300_000) if $name eq 'row';
	scan($observer);
	is($observer->value("SELECT count(*) FROM lockguard.actions WHERE action <> 'log' AND pid IN (" . join(',', map { $_->pid } @w) . ')'), 0, "$name: none of the queue is hit");
	ok($_->{busy}, $_->name . ' still waits') foreach @w;
	$a->query_ok("SET lockguard.idle_blocker_timeout = '300ms'");
	is_rolled_back($observer, $a, 'idle_blocker_timeout');
	succeeds($_, $_->name) foreach @w;
	end($a, @w);
}

# An action belongs to an incident, even if it comes before incident_threshold.
{
	configure($observer, incident_threshold => '1h');
	my ($a, $w) = blocked_pair($observer, 'early', 8, idle_blocker_timeout => '300ms');

	is_rolled_back($observer, $a, 'idle_blocker_timeout');
	ok($observer->poll('SELECT count(*) FROM lockguard.actions JOIN lockguard.incidents USING (incident_id) WHERE pid = ' . $a->pid, 1), 'the action has its incident');
	end($a, $w);
}

# What the verdict rests on is proved again: the lock that was waited for in all that time.
SKIP:
{
	skip 'lockguard was built without LOCKGUARD_DEBUG', 1 unless has_wait_points($observer);
	foreach my $first (9, 10)
	{
		my $other = $first == 9 ? 10 : 9;
		my $a = session($node, "holds both, $first", blocker_timeout => '1s');

		$a->query_ok($_) foreach "SELECT pg_advisory_lock($first)", "SELECT pg_advisory_lock($other)";
		my $w1 = starts('waits long', "SELECT pg_advisory_lock($first)");
		my $w2 = session($node, 'waits shortly');
		stop_worker_at($observer, 'before_signal');
		usleep(700_000);
		$w2->start("SELECT pg_advisory_lock($other)");
		begins_to_wait($observer, $w2);
		worker_is_at($observer, 'before_signal');
		$a->query_ok("SELECT pg_advisory_unlock($first)");
		succeeds($w1, 'waits long');
		let_worker_go($observer);
		ok($observer->poll("SELECT count(*) FROM lockguard.actions WHERE result = 'self_resolved' AND pid = " . $a->pid, 1), 'it is not signalled');
		ok(!$a->closed, 'it is there');
		end($a, $w1, $w2);
	}
}

done_testing();
