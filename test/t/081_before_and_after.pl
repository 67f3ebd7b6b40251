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
deadlock_timeout = '300ms'
track_activity_query_size = 4096
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

# The rows of contention as lines, without the OIDs.  A scan may also find the root
# at the end of its ROLLBACK: that has no incident.
sub contention
{
	my ($columns, $by) = @_;

	return [ map { join ' ', map { defined $_ ? $_ : '-' } @$_ }
		  ($by || $observer)->rows("SELECT $columns FROM lockguard.contention WHERE incidents > 0 ORDER BY locktype, relation_name, mode") ];
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
	is($observer->value('SELECT count(DISTINCT queryid) FROM lockguard.contention WHERE incidents > 0'), 1, 'of one statement');
	is( $observer->value(q(SELECT count(*) FROM lockguard.contention WHERE relation = 't'::regclass AND incidents > 0)),
		2, 'with the OID of the table');
	my $other = session('other', dbname => 'other');
	is( $other->value(
			q(SELECT relation_name || datname FROM lockguard.contention WHERE relation = 'theirs'::regclass AND incidents > 0)),
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

# What an idle session holds.
sub held
{
	my ($session, $by) = @_;
	my ($row) = ($by || $observer)->rows('SELECT held_mode, held_relation_name, held_relation FROM lockguard.sessions'
		  . ' WHERE pid = ' . $session->pid);

	return join ' ', map { defined $_ ? $_ : '-' } @{$row}[ 0, 1 ], $row->[2] ? 'oid' : ();
}

sub idle_locks
{
	my ($by) = @_;

	return join ' ', map { "$_->[0]=$_->[1]" } ($by || $observer)->rows('SELECT mode, sessions FROM lockguard.idle_locks WHERE sessions > 0 ORDER BY mode');
}

# Before it blocks: the strongest lock of an idle session.
{
	my $holder = session('holder');
	my $other = session('other', dbname => 'other');

	$node->safe_psql('postgres', 'CREATE TABLE many (id int) PARTITION BY RANGE (id);'
		  . join ';', map { "CREATE TABLE m$_ PARTITION OF many FOR VALUES FROM ($_) TO ($_ + 1)" } 1 .. 200);
	$holder->query_ok('CREATE TEMP TABLE temporary (id int PRIMARY KEY)');
	is(held($holder), '- -', 'no lock');
	is(idle_locks(), '', 'none at all');
	foreach my $case (
		[ 'AccessShareLock t', 'SELECT FROM t' ],
		[ 'RowShareLock t', 'SELECT FROM t WHERE id = 1 FOR UPDATE' ],
		[ 'RowExclusiveLock t', 'UPDATE t SET v = v WHERE id = 1' ],
		[ 'AccessShareLock many', 'SELECT FROM many' ],
		[ 'RowExclusiveLock m150', 'SELECT FROM many', 'INSERT INTO m150 VALUES (150)' ],
		[ 'ShareUpdateExclusiveLock t', 'LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE' ],
		[ 'ShareLock t', 'LOCK TABLE t IN SHARE MODE', 'SELECT FROM many' ],
		[ 'ShareRowExclusiveLock t', map { "LOCK TABLE t IN $_ MODE" } 'SHARE ROW EXCLUSIVE', 'ACCESS SHARE' ],
		[ 'ExclusiveLock m7', 'SELECT FROM t', 'LOCK TABLE m7 IN EXCLUSIVE MODE' ],
		[ 'AccessExclusiveLock t', 'SELECT FROM many', 'TRUNCATE t' ],
		[ 'AccessExclusiveLock t', 'DROP TABLE t' ],
		[ 'AccessExclusiveLock pg_class', 'LOCK TABLE pg_class', 1 ],
		[ 'AccessShareLock t', 'CREATE TABLE mine (id int PRIMARY KEY)', 'SELECT FROM t' ],
		[ 'AccessShareLock t', 'SELECT FROM t', 'TRUNCATE temporary -- CREATE' ],
		[ 'AccessShareLock t', 'SELECT pg_advisory_xact_lock(1)', 'SELECT FROM t' ])
	{
		my ($expected, @sql) = @$case;
		my $no_catalog = $sql[-1] eq '1' && pop @sql;

		$holder->query_ok($_) foreach 'BEGIN', @sql;
		is(held($holder), $no_catalog ? $expected =~ s/ .*/ - oid/r : "$expected oid", join('; ', @sql));
		is(idle_locks(), $expected =~ s/ .*/=1/r, 'which is counted');
		is(held($holder, $other), $expected =~ s/ .*/ - oid/r, 'from another database: without a name')
		  if $expected =~ /Lock [tm]/ && "@sql" !~ /CREATE/;
		$holder->query_ok('ROLLBACK');
	}

	# The lock is another session's to want: it has been moved to the shared table.
	my $waiter = session('waiter');
	$holder->query_ok($_) foreach 'BEGIN', 'SELECT FROM t';
	$waiter->start('ALTER TABLE t ADD never int');
	is_waiting($observer, $waiter);
	is(held($holder), 'AccessShareLock t oid', 'a lock that others wait for');
	is(held($waiter), '- -', 'a session that waits is not idle');
	$observer->query_ok('SELECT pg_cancel_backend(' . $waiter->pid . ')');
	$waiter->finish;

	# Since when, and only while it is idle.
	is( $observer->value('SELECT s.state_change = a.state_change FROM lockguard.sessions s JOIN pg_stat_activity a USING (pid) WHERE pid = ' . $holder->pid),
		't', 'state_change is that of pg_stat_activity');
	ok( $observer->poll(q(SELECT longest_idle >= '300 ms' AND longest_idle < '10 s' FROM lockguard.idle_locks WHERE mode = 'AccessShareLock')),
		'how long it has been idle');
	$holder->query_ok('LOCK TABLE t');
	$holder->start('SELECT pg_sleep(1000)');
	ok($observer->poll(q(SELECT wait_event FROM pg_stat_activity WHERE pid = ) . $holder->pid, 'PgSleep'), 'it is at work');
	is(held($holder), '- -', 'at work, it holds nothing that would show');
	is(idle_locks(), '', 'and is not counted');
	$observer->query_ok('SELECT pg_cancel_backend(' . $holder->pid . ')');
	$holder->finish;
	$holder->query_ok('ROLLBACK');

	# A savepoint is left in a failed transaction.
	$holder->query_ok($_) foreach 'BEGIN', 'LOCK TABLE t IN SHARE MODE', 'SAVEPOINT a';
	$holder->query('SELECT 1/0');
	is(held($holder), 'ShareLock t oid', 'in a failed transaction');

	# Masked like the state.
	my $app = session('app', user => 'app');
	is(held($holder, $app), '- -', 'another user does not see it');
	is(idle_locks($app), '', 'nor does it count for that user');
	is($app->value('SELECT state_change FROM lockguard.sessions WHERE pid = ' . $holder->pid), undef, 'state_change is masked');
	$holder->query_ok('ROLLBACK');
	$app->query_ok($_) foreach 'BEGIN', 'SELECT FROM t';
	$holder->query_ok('SET ROLE app');
	is(held($app, $holder), 'AccessShareLock t oid', 'the role itself does');
	finish($holder, $other, $waiter, $app);
}

# A session that has locked the catalog of names keeps no view waiting.
{
	my ($holder, $waiter, $other) = map { session($_) } qw(holder waiter other);
	my @views = ('lock_tree', 'tree()', 'contention', 'sessions', 'idle_locks');
	my $counted = q(SELECT count(*) FROM lockguard.contention WHERE relation = 'unnamed'::regclass);

	foreach my $i (0 .. $#views)
	{
		$observer->query_ok("PREPARE view_$i AS SELECT v::text FROM lockguard.$views[$i] v");
		$observer->query_ok("EXECUTE view_$i");
	}
	$other->query_ok('CREATE TABLE unnamed ()');
	my $oid = $other->value(q(SELECT 'unnamed'::regclass::oid));
	$holder->query_ok($_) foreach 'BEGIN', 'LOCK TABLE unnamed';
	$waiter->start('TABLE unnamed');
	ok($other->poll($counted, 1), 'a wait for a table is counted');
	$observer->query_ok("SET statement_timeout = '20s'");

	# Planning a query would wait for the index.
	foreach my $lock ('REINDEX INDEX pg_class_oid_index', 'LOCK TABLE pg_class')
	{
		my $locker = $lock =~ /REINDEX/ ? $other : $holder;

		$other->query_ok('BEGIN') if $locker == $other;
		$locker->query_ok($lock);
		foreach my $i (0 .. $#views)
		{
			my $result = $observer->query("EXECUTE view_$i");

			ok(!$result->{error}, "$views[$i] after $lock");
			like(join(' ', map { $_->[0] } @{ $result->{rows} }), qr/relation $oid in database/, 'with the OID') if $views[$i] eq 'tree()';
		}
		$other->query_ok('ROLLBACK') if $locker == $other;
	}
	is($observer->value("SELECT count(*) > 0 AND count(relation_name) = 0 FROM lockguard.$_ WHERE relation = $oid"), 't', "there is no name in $_")
	  foreach 'lock_tree', 'contention';
	$holder->query_ok('ROLLBACK');
	$observer->query_ok('RESET statement_timeout');
	succeeds($waiter);
	$other->query_ok('DROP TABLE unnamed');
	finish($holder, $waiter, $other);
}

# What a limit would have done about an incident: would_act, the victim's name, action, and
# whether the times are between those given; the note must match.
sub would
{
	my ($id, $limit, $setting, $expected, $note, $between) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($row) = $observer->rows("SELECT coalesce(would_act::text, '-'), coalesce(action, '-'), pid, extract(epoch FROM acts_after),"
		  . " extract(epoch FROM saved), coalesce(note, '') FROM lockguard.what_if('$limit', '$setting') WHERE incident_id = $id");

	is("$row->[0] $row->[1]", $expected, "incident $id, $limit = $setting: $expected");
	like($row->[5], $note, 'with the note');
	return $row if !$between;
	ok($row->[3] >= $between->[0] && $row->[3] <= $between->[1], "it acts between $between->[0] and $between->[1] s")
	  || diag $row->[3];
	ok($row->[4] >= $between->[2] && $row->[4] <= $between->[3], "it saves $between->[2] to $between->[3] s")
	  || diag $row->[4];
	return $row;
}

# Let the waits go on until the first has waited for so long.
sub waited
{
	my ($session, $time) = @_;
	return $observer->poll(
		"SELECT waitstart < clock_timestamp() - interval '$time' FROM pg_locks WHERE NOT granted AND pid = " . $session->pid);
}

# Has the worker seen it as it is now?
sub end_of
{
	my ($id) = @_;
	scan($observer);
	return $observer->value("SELECT extract(epoch FROM ended_at - started_at) FROM lockguard.incidents WHERE incident_id = $id");
}

{
	my ($root, $w1, $w2, $w3, $w4) = map { session($_) } qw(root w1 w2 w3 w4);
	my $update = 'UPDATE t SET v = v + 1 WHERE id = 5';

	# Idle all the time; it ends by itself.
	$root->query_ok($_) foreach 'BEGIN', $update;
	$_->start($update), is_waiting($observer, $_) foreach $w1, $w2;
	my $id = is_open($root, 2);
	would($id, 'idle_blocker_timeout', '1h', '- -', qr/still open/);
	waited($w2, '1200 ms');
	scan($observer);
	$root->query_ok('COMMIT');
	is_closed($id);
	$_->finish foreach $w1, $w2;
	my $end = end_of($id);
	would($id, 'idle_blocker_timeout', '500ms', 'true rollback', qr/^$/, [ 0.5, 0.5, 2 * ($end - 0.6) - 0.2, 2 * ($end - 0.5) + 0.01 ]);
	would($id, 'blocker_timeout', '500ms', 'true rollback', qr/^$/, [ 0.5, 0.5, 2 * ($end - 0.6) - 0.2, 2 * ($end - 0.5) + 0.01 ]);
	would($id, 'max_blocked_sessions', '1', 'true rollback', qr/^$/, [ 0.3, 0.6, 1, 2 * $end ]);
	would($id, 'max_blocked_sessions', '2', 'false -', qr/never so many/);
	would($id, 'queued_blocker_timeout', '500ms', '- -', qr/no lock request/);
	would($id, $_, '1h', 'false -', qr/over before/) foreach qw(idle_blocker_timeout blocker_timeout queued_blocker_timeout);
	would($id, $_, '0', 'false -', qr/off/) foreach qw(idle_blocker_timeout max_blocked_sessions);

	# Others do not learn from it whether the root was idle.
	my $app = session('app', user => 'app');
	is_deeply(
		[ $app->rows("SELECT would_act, pid, action, acts_after, saved, note FROM lockguard.what_if('idle_blocker_timeout', '1s') WHERE incident_id = $id") ],
		[ [ undef, $root->pid, undef, undef, undef, '<insufficient privilege>' ] ], 'masked like the query');

	# Idle for a part of the time, before most were blocked; and one that gave up.
	$root->query_ok($_) foreach 'BEGIN', $update;
	$w1->start($update);
	$id = is_open($root, 1);
	waited($w1, '700 ms');
	scan($observer);
	$root->start('SELECT pg_sleep(1000)');
	$w2->start($update);
	$observer->poll("SELECT peak_blocked_sessions = 2 FROM lockguard.incidents WHERE incident_id = $id");
	$observer->query_ok('SELECT pg_cancel_backend(' . $w2->pid . ')');
	$w2->finish;
	waited($w1, '1500 ms');
	$observer->query_ok('SELECT pg_cancel_backend(' . $root->pid . ')');
	$root->finish;
	$root->query_ok('ROLLBACK');
	is_closed($id);
	$w1->finish;
	would($id, 'idle_blocker_timeout', '500ms', 'true rollback', qr/only part of the time.*1 wait ended/);
	would($id, 'idle_blocker_timeout', '1200ms', 'false -', qr/only part of the time/);
	would($id, 'blocker_timeout', '1200ms', 'true cancel', qr/1 wait ended/);

	# Idle in the transaction for longer than it waited for its client in a statement.
	$root->query_ok($_) foreach 'BEGIN', $update;
	$w1->start($update);
	$id = is_open($root, 1);
	waited($w1, '1200 ms');
	scan($observer);
	$root->start('COPY t (id) FROM STDIN');
	$observer->poll("SELECT state = 'active' AND wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = " . $root->pid);
	$w2->start($update);
	$observer->poll("SELECT peak_blocked_sessions = 2 FROM lockguard.incidents WHERE incident_id = $id");
	$root->send_message('f', "enough\0");
	$root->finish;
	$root->query_ok('ROLLBACK');
	is_closed($id);
	$_->finish foreach $w1, $w2;
	would($id, 'idle_blocker_timeout', '1s', 'true rollback', qr/only part of the time/);
	would($id, 'blocker_timeout', '1s', 'true terminate', qr/^$/);

	# Idle in a transaction that began after it had taken the lock.
	$root->query_ok('SELECT pg_advisory_lock(5)');
	$w1->start('SELECT pg_advisory_lock(5)');
	is_waiting($observer, $w1);
	$root->query_ok($_) foreach 'BEGIN', 'SELECT 1';
	$id = is_open($root, 1);
	waited($w1, '1200 ms');
	scan($observer);
	$root->query_ok($_) foreach 'COMMIT', 'SELECT pg_advisory_unlock_all()';
	is_closed($id);
	$w1->finish;
	$w1->query_ok('SELECT pg_advisory_unlock_all()');
	would($id, $_, '500ms', 'true terminate', qr/^$/) foreach qw(idle_blocker_timeout blocker_timeout);

	# Waits that were given up, one after the other: none was as long as the limit.
	$root->query_ok($_) foreach 'BEGIN', $update;
	$w1->query_ok("SET lock_timeout = '400ms'");
	$id = 0;
	foreach my $wait (1 .. 4)
	{
		$w1->start($update);
		is_waiting($observer, $w1);
		$id ||= is_open($root, 1);
		$w1->finish;
	}
	scan($observer);
	$root->query_ok('ROLLBACK');
	$w1->query_ok('RESET lock_timeout');
	is_closed($id);
	would($id, $_, '1s', '- -', qr/sessions gave up and others came/) foreach qw(idle_blocker_timeout blocker_timeout);

	# A lock request in the queue, and one that waits for something else; the root is
	# never idle.
	$root->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(4) FROM t LIMIT 1';
	$root->start('SELECT pg_sleep(1000)');
	$w1->start('ALTER TABLE t ADD later int');
	is_waiting($observer, $w1);
	$_->start('SELECT FROM t'), is_waiting($observer, $_) foreach $w2;
	waited($w2, '700 ms');
	$w4->start('SELECT pg_advisory_lock(4)');
	is_waiting($observer, $w4);
	$w3->start('SELECT FROM t');
	is_waiting($observer, $w3);
	$id = is_open($root, 4);
	waited($w3, '400 ms');
	$observer->query_ok('SELECT pg_cancel_backend(' . $root->pid . ')');
	$root->finish;
	$root->query_ok('ROLLBACK');
	$_->finish foreach $w1, $w2, $w3, $w4;
	is_closed($id);
	$end = end_of($id);
	my $row = would($id, 'queued_blocker_timeout', '500ms', 'true cancel', qr/exempt.* is not known/, [ 0.4, 0.8, 0.4, 2 * $end - 1 ]);
	is($row->[2], $w1->pid, 'the lock request is the victim');
	would($id, 'queued_blocker_timeout', '800ms', 'true cancel', qr/exempt.* is not known/);
	would($id, 'queued_blocker_timeout', '1h', 'false -', qr/over before/);
	would($id, 'idle_blocker_timeout', '500ms', 'false -', qr/not idle/);
	$row = would($id, 'max_blocked_sessions', '1', 'true cancel', qr/^$/);
	is($row->[2], $root->pid, 'the root is the first with more than one');
	would($id, 'max_blocked_sessions', '4', 'false -', qr/never so many/);

	# A signal of the past has ended it.
	$root->query_ok($_) foreach "SET lockguard.idle_blocker_timeout = '600ms'", 'BEGIN', $update;
	$w1->start($update);
	$id = is_open($root, 1);
	is_closed($id);
	$w1->finish;
	would($id, 'idle_blocker_timeout', '300ms', 'true rollback', qr/a signal ended/);
	would($id, $_, '10s', '- -', qr/a signal ended/) foreach qw(idle_blocker_timeout blocker_timeout queued_blocker_timeout);

	# Nothing may be done about it.
	$root->query_ok($_) foreach 'ROLLBACK', 'RESET lockguard.idle_blocker_timeout', 'SET lockguard.exempt = on', 'BEGIN', $update;
	$w1->start($update);
	$id = is_open($root, 1);
	waited($w1, '500 ms');
	$root->query_ok('ROLLBACK');
	is_closed($id);
	$w1->finish;
	would($id, $_, '300ms', 'false -', qr/exempt/) foreach qw(idle_blocker_timeout blocker_timeout);
	finish($root, $w1, $w2, $w3, $w4, $app);
}

# Where a query comes from: a comment at its end.
{
	my ($root, $waiter) = map { session($_) } qw(root waiter);
	my $comment = "/*controller='orders',traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01'*/";
	my $query = sub { 'UPDATE t SET v = v + 1 WHERE id = 6 AND ' . ' 1 = 1 AND' x 300 . " true $_[0]" };

	$root->query_ok($_) foreach "SET lockguard.idle_blocker_timeout = '400ms'", 'BEGIN', $query->($comment);
	$waiter->start($query->("$comment;"));
	my $id = is_open($root, 1);
	like($observer->value('SELECT query FROM lockguard.sessions WHERE pid = ' . $waiter->pid), qr/^UPDATE t .*AND\.\.\.\Q$comment\E$|^UPDATE t .*\.\.\.\Q$comment\E$/, 'of a live session');
	is_closed($id);
	succeeds($waiter);
	foreach my $view ("incidents WHERE incident_id = $id", "actions WHERE incident_id = $id")
	{
		my $kept = $observer->value("SELECT query FROM lockguard.$view");

		like($kept, qr/^UPDATE t SET v = v \+ 1 WHERE id = 6 AND .*\.\.\.\Q$comment\E$/, "in $view");
		cmp_ok(length $kept, '<', 1024, 'the query is cut');
	}
	foreach my $text ('lock_tree FROM lockguard.incidents WHERE incident_id = ', 'lockguard.report(incident_id) FROM lockguard.incidents WHERE incident_id = ')
	{
		is(() = $observer->value("SELECT $text$id") =~ /\.\.\.\Q$comment\E$/mg, 2, "of both sessions in $text");
	}
	finish($root, $waiter);
}

# All of it survives a restart.
{
	my $sql = q(SELECT w.* FROM (VALUES ('idle_blocker_timeout'), ('blocker_timeout'), ('queued_blocker_timeout')) l (name), lockguard.what_if(name, '500ms') w);
	my @before = ($observer->rows($sql), $observer->rows('SELECT * FROM lockguard.contention'));

	$observer->close;
	$node->restart;
	$observer = session('observer');
	is_deeply([ $observer->rows($sql), $observer->rows('SELECT * FROM lockguard.contention') ], \@before, 'the same after a restart');
}

done_testing();
