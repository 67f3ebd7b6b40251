# Every limit on a violator, in each state that it names, and on innocent
# twins beside it that have the same limit.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', conf => "deadlock_timeout = 100ms\nlockguard.max_actions_per_minute = 1000\n");
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

# A session that does not report what it does.
sub quiet
{
	my ($name, %set) = @_;
	my $session = session($node, $name, %set);

	$session->query_ok('SET track_activities = off');
	return $session;
}

# Give a session its limit, and then a state: all statements but the last
# must end, and the last keeps running if it is marked so.
sub put
{
	my ($session, $setting, $value, @statements) = @_;

	$session->query_ok("SET lockguard.$setting = '$value'");
	foreach my $sql (@statements)
	{
		if ($sql =~ s/^& //)
		{
			$session->start($sql);
		}
		else
		{
			$session->query_ok($sql);
		}
	}
	return $session;
}

# The violators go as they are told to, and are recorded; the twins, with the
# transaction status given (undef: busy), are not.
sub judge
{
	my ($setting, $violators, $twins) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	# This one is not the victim's own, but the waiter's.
	my $told = $setting eq 'preempt_timeout' ? 'preempt_timeout of process \d+' : $setting;
	my $since = $observer->value('SELECT clock_timestamp()');

	foreach my $v (@$violators)
	{
		my ($session, $action, $measure) = @$v;

		if ($action eq 'terminate')
		{
			is_terminated($session, $told);
		}
		elsif ($action eq 'cancel')
		{
			is_cancelled($session, $told);
		}
		is_recorded($observer, $session, "$setting $action released");
		is_rolled_back(undef, $session, $told) if $action eq 'rollback';
		like($session->error->{D}, $measure, $session->name . ': the detail says what it did') if $measure;
	}

	# The twins have had their limits for as long by now, and longer.
	$observer->poll("SELECT clock_timestamp() > '$since'::timestamptz + interval '800 ms'");
	scan($observer);
	foreach my $t (@$twins)
	{
		my ($session, $status) = @$t;

		if (defined $status)
		{
			is_untouched($observer, $session, $status);
		}
		else
		{
			is_deeply([ recorded($observer, $session) ], [], $session->name . ' is innocent');
			ok(!$session->closed && $session->{busy}, $session->name . ' continues');
		}
	}
	foreach my $session (map { $_->[0] } @$violators, @$twins)
	{
		$observer->query_ok('SELECT pg_terminate_backend(' . $session->pid . ')') unless $session->closed;
	}
	return;
}

# How an idle session can block.
{
	my (@violators, @twins, @waiters);
	my $limit = '300ms';
	my $blocks = sub {
		my ($session, @how) = @_;
		my $sql = 'SELECT pg_advisory_' . ($how[0] eq 'BEGIN' ? 'xact_' : '') . 'lock(' . ++$key . ')';
		put($session, 'idle_blocker_timeout', $limit, map { $_ eq 'lock' ? $sql : $_ } @how);
		push @waiters, waiter($observer, $session->name . '-waiter', $key);
		return $session;
	};

	push @violators,
	  [ $blocks->(session($node, 'idle'), 'lock'), 'terminate', qr/sat idle while blocking 1 session for \d+ ms; / ],
	  [ $blocks->(session($node, 'idle in transaction'), 'BEGIN', 'lock'), 'rollback', qr/sat idle in transaction while / ],
	  [ $blocks->(session($node, 'reads COPY'), 'lock', '& COPY t FROM STDIN'), 'terminate', qr/sat waiting for its client while / ],
	  [ $blocks->(quiet('quiet'), 'lock'), 'terminate' ],
	  [ $blocks->(quiet('quiet in transaction'), 'BEGIN', 'lock'), 'rollback' ];
	# It holds what it had before the savepoint.
	my $aborted = put(session($node, 'aborted'), 'idle_blocker_timeout', $limit,
		'BEGIN', 'SELECT pg_advisory_xact_lock(' . ++$key . ')', 'SAVEPOINT a');
	$aborted->query('SELECT 1/0');
	push @waiters, waiter($observer, 'aborted-waiter', $key);
	push @violators, [ $aborted, 'rollback', qr/sat idle in transaction \(aborted\) while / ];
	push @twins,
	  [ $blocks->(session($node, 'active'), 'lock', '& SELECT pg_sleep(600)'), undef ],
	  [ put(session($node, 'in nobody\'s way'), 'idle_blocker_timeout', $limit, 'BEGIN', 'SELECT pg_advisory_lock(' . ++$key . ')'), 'T' ];
	judge('idle_blocker_timeout', \@violators, \@twins);

	succeeds($_, 'the waiter') foreach @waiters;
	$_->close foreach @waiters;
}

# Any blocker.
{
	my @v = map { session($node, $_) } 'active', 'idle in transaction', 'COPY';
	my $k = ++$key;
	put($v[0], 'blocker_timeout', '300ms', 'BEGIN', "SELECT pg_advisory_xact_lock($k)", '& SELECT pg_sleep(600)');
	put($v[1], 'blocker_timeout', '300ms', 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ($k + 1) . ')');
	put($v[2], 'blocker_timeout', '300ms', 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ($k + 2) . ')', '& COPY t FROM STDIN');
	my @w = map { waiter($observer, "waiter $_", $k + $_) } 0 .. 2;
	my $k2 = $key += 3;
	my $root = holder($node, 'root', $k2);
	my @t = (
		[ put(session($node, 'active, in nobody\'s way'), 'blocker_timeout', '300ms', '& SELECT pg_sleep(600)'), undef ],
		[ put(session($node, 'not the root'), 'blocker_timeout', '300ms', 'SELECT pg_advisory_lock(' . ++$key . ')', "& SELECT pg_advisory_lock($k2)"), undef ]);
	is_blocked_by($observer, $t[1][0], $root);
	my $behind = waiter($observer, 'behind', $key);

	judge('blocker_timeout',
		[ [ $v[0], 'cancel', qr/ blocked 1 session for \d+ ms; / ], [ $v[1], 'rollback' ], [ $v[2], 'terminate' ] ], \@t);
	succeeds($_, 'the waiter') foreach @w;
	succeeds($behind, 'the waiter');
	$_->close foreach @w, $behind, $root;
}

# A statement in the queue for a table; the head of a row's queue is none.
{
	configure($observer, enabled => 'off');
	my $reader = session($node, 'reader');
	my $writer = session($node, 'writer');
	$observer->query_ok('CREATE TABLE u AS SELECT 1 AS id');
	$reader->query_ok($_) foreach 'BEGIN', 'SELECT FROM u';
	$writer->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
	my $alter = put(session($node, 'ALTER'), 'queued_blocker_timeout', '300ms', '& ALTER TABLE u ADD COLUMN v int');
	my $row = put(session($node, 'row'), 'queued_blocker_timeout', '300ms', '& UPDATE t SET v = 2 WHERE id = 1');
	is_blocked_by($observer, $alter, $reader);
	is_blocked_by($observer, $row, $writer);
	my $behind_alter = session($node, 'behind ALTER')->start('SELECT FROM u');
	my $behind_row = session($node, 'behind row')->start('UPDATE t SET v = 3 WHERE id = 1');
	is_blocked_by($observer, $behind_alter, $alter);
	is_blocked_by($observer, $behind_row, $row);
	configure($observer, enabled => undef);

	judge('queued_blocker_timeout', [ [ $alter, 'cancel', qr/waited for a lock with 1 session waiting behind it for \d+ ms; / ] ],
		[ [ $row, undef ], [ $behind_row, undef ], [ $reader, 'T' ], [ $writer, 'T' ] ]);
	succeeds($behind_alter, 'SELECT');
	$behind_alter->close;
}

# More than so many behind it, each for longer than deadlock_timeout.
{
	my (@s, @w);
	my @name = ('idle, 3 behind', 'active, 3 behind', '2 behind');
	foreach my $i (0 .. 2)
	{
		push @s, put(session($node, $name[$i]), 'max_blocked_sessions', 2, 'BEGIN',
			'SELECT pg_advisory_xact_lock(' . ++$key . ')', $i == 1 ? '& SELECT pg_sleep(600)' : 'SELECT 1');
		push @w, waiter($observer, "behind $i", $key) foreach 1 .. ($i == 2 ? 2 : 3);
	}
	judge('max_blocked_sessions',
		[ [ $s[0], 'rollback', qr/blocked 3 sessions; lockguard\.max_blocked_sessions is 2 / ], [ $s[1], 'cancel' ] ],
		[ [ $s[2], 'T' ] ]);
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach @w;
}

# The wait itself, whatever for.
{
	my $holder = session($node, 'holder');
	$holder->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1', 'LOCK TABLE u', 'SELECT pg_advisory_xact_lock(' . ++$key . ')';
	my $w1 = session($node, 'no limit')->start('UPDATE t SET v = 2 WHERE id = 1');
	is_blocked_by($observer, $w1, $holder);
	my @v = (
		put(session($node, 'tuple'), 'lock_wait_timeout', '300ms', '& UPDATE t SET v = 3 WHERE id = 1'),
		put(session($node, 'transaction'), 'lock_wait_timeout', '300ms', 'BEGIN', '& SELECT FROM t WHERE id = 1 FOR KEY SHARE'),
		put(session($node, 'relation'), 'lock_wait_timeout', '300ms', '& SELECT FROM u'),
		put(session($node, 'advisory'), 'lock_wait_timeout', '300ms', 'BEGIN', "& SELECT pg_advisory_lock($key)"),
		put(quiet('quiet'), 'lock_wait_timeout', '300ms', "& SELECT pg_advisory_lock($key)"));

	# A key share goes with an update of another column: not a wait.
	succeeds($v[1], 'FOR KEY SHARE');
	$v[1]->start('SELECT FROM t WHERE id = 1 FOR SHARE');
	judge('lock_wait_timeout',
		[ map { [ $_, 'cancel', qr/this session waited \d+ ms for a lock; / ] } @v ],
		[
			[ $w1, undef ],
			[ put(session($node, 'waits for nobody'), 'lock_wait_timeout', '300ms', '& SELECT pg_sleep(600)'), undef ],
			[ put(session($node, 'idle'), 'lock_wait_timeout', '300ms', 'BEGIN'), 'T' ],
			[ $holder, 'T' ]
		]);

	# Per wait: many that are short add up to nothing.
	my @h = map { holder($node, "step $_", $key + $_) } 1 .. 4;
	my $patient = put(session($node, 'many waits'), 'lock_wait_timeout', '2s',
		'& SELECT ' . join(', ', map { 'pg_advisory_lock(' . ($key + $_) . ')' } 1 .. 4));
	foreach my $i (1 .. 4)
	{
		is_blocked_by($observer, $patient, $h[ $i - 1 ]);
		ok($observer->poll('SELECT waitstart < clock_timestamp() - interval \'600 ms\' FROM pg_locks WHERE NOT granted AND pid = ' . $patient->pid),
			'for a while');
		$h[ $i - 1 ]->query_ok('COMMIT');
	}
	succeeds($patient, 'all four');
	is_untouched($observer, $patient, 'I');
	$_->close foreach $patient, @h;
	$key += 4;
}

# The age of a transaction.
{
	my $holder = holder($node, 'holder', ++$key);
	my @v = (
		[ put(session($node, 'idle in transaction'), 'transaction_timeout', '400ms', 'BEGIN', 'SELECT 1'), 'rollback', qr/had a transaction open for \d+ ms; / ],
		[ put(session($node, 'active in transaction'), 'transaction_timeout', '400ms', 'BEGIN', '& SELECT pg_sleep(600)'), 'cancel' ],
		[ put(session($node, 'single statement'), 'transaction_timeout', '400ms', '& SELECT pg_sleep(600)'), 'cancel' ],
		[ put(session($node, 'waits for a lock'), 'transaction_timeout', '400ms', 'BEGIN', "& SELECT pg_advisory_lock($key)"), 'cancel' ],
		[ put(session($node, 'COPY'), 'transaction_timeout', '400ms', '& COPY t FROM STDIN'), 'terminate' ],
		[ put(quiet('quiet'), 'transaction_timeout', '400ms', 'BEGIN', 'SELECT 1'), 'rollback' ],
		[ put(quiet('quiet and active'), 'transaction_timeout', '400ms', '& SELECT pg_sleep(600)'), 'cancel' ]);
	my $stubborn = put(session($node, 'stubborn', escalation_delay => '300ms'), 'transaction_timeout', '400ms',
		'& DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$');
	my $aborted = put(session($node, 'aborted'), 'transaction_timeout', '400ms', 'BEGIN');
	$aborted->query('SELECT 1/0');
	my $short = put(session($node, 'many short ones'), 'transaction_timeout', '400ms', 'SELECT 1');
	my $idle = put(session($node, 'idle'), 'transaction_timeout', '400ms', "SELECT pg_advisory_lock(1$key)");
	my $procedure = put(session($node, 'procedure'), 'transaction_timeout', '400ms',
		'& DO $$ BEGIN LOOP PERFORM pg_sleep(0.02); COMMIT; END LOOP; END $$');
	older_than($observer, 'backend_start', '800ms', $short, $idle);
	$short->query_ok('SELECT 1') foreach 1 .. 5;
	judge('transaction_timeout', \@v,
		[ [ $aborted, 'E' ], [ $short, 'I' ], [ $idle, 'I' ], [ $procedure, undef ], [ $holder, 'T' ] ]);
	is_terminated($stubborn, 'transaction_timeout');
	is_recorded($observer, $stubborn, 'transaction_timeout cancel escalated', 'transaction_timeout terminate released');
}

# Idle in transaction, whatever it holds.
judge('idle_in_transaction_timeout',
	[
		[ put(session($node, 'idle in transaction'), 'idle_in_transaction_timeout', '300ms', 'BEGIN'), 'terminate', qr/sat idle in transaction for \d+ ms; / ],
		do {
			my $s = put(session($node, 'aborted'), 'idle_in_transaction_timeout', '300ms', 'BEGIN');
			$s->query('SELECT 1/0');
			[ $s, 'terminate' ];
		},
		[ put(quiet('quiet'), 'idle_in_transaction_timeout', '300ms', 'BEGIN', 'SELECT 1'), 'terminate' ]
	],
	[
		[ put(session($node, 'active in transaction'), 'idle_in_transaction_timeout', '300ms', 'BEGIN', '& SELECT pg_sleep(600)'), undef ],
		[ put(session($node, 'idle'), 'idle_in_transaction_timeout', '300ms', 'SELECT pg_advisory_lock(' . ++$key . ')'), 'I' ],
		[ put(quiet('quiet and idle'), 'idle_in_transaction_timeout', '300ms', 'SELECT 1'), 'I' ],
		[ put(quiet('quiet and active'), 'idle_in_transaction_timeout', '300ms', 'BEGIN', '& SELECT pg_sleep(600)'), undef ]
	]);

# The running statement.
{
	my $holder = holder($node, 'holder', ++$key);
	judge('statement_timeout',
		[
			[ put(session($node, 'statement'), 'statement_timeout', '300ms', '& SELECT pg_sleep(600)'), 'cancel', qr/ran a statement for \d+ ms; / ],
			[ put(session($node, 'in transaction'), 'statement_timeout', '300ms', 'BEGIN', 'SELECT 1', '& SELECT pg_sleep(600)'), 'cancel' ],
			[ put(session($node, 'waits for a lock'), 'statement_timeout', '300ms', "& SELECT pg_advisory_lock($key)"), 'cancel' ],
			[ put(session($node, 'utility'), 'statement_timeout', '300ms', '& DO $$ BEGIN PERFORM pg_sleep(600); END $$'), 'cancel' ],
			[ put(session($node, 'COPY'), 'statement_timeout', '300ms', '& COPY t FROM STDIN'), 'terminate' ],
			[ put(quiet('quiet'), 'statement_timeout', '300ms', '& SELECT pg_sleep(600)'), 'cancel' ]
		],
		[
			[ put(session($node, 'idle'), 'statement_timeout', '300ms', 'SELECT 1'), 'I' ],
			[ put(session($node, 'idle in transaction'), 'statement_timeout', '300ms', 'BEGIN', 'SELECT 1'), 'T' ],
			[ put(quiet('quiet and idle'), 'statement_timeout', '300ms', 'SELECT 1'), 'I' ],
			[ put(quiet('quiet in transaction'), 'statement_timeout', '300ms', 'BEGIN', 'SELECT 1'), 'T' ],
			[ $holder, 'T' ]
		]);
}

# Functions that are called by the fast-path protocol are no statement, and are
# not taken for the one before them, however many there are.
{
	my $calls = put(quiet('fast path'), 'statement_timeout', '1s', 'BEGIN', 'SELECT 1');
	my $sleep = $observer->value("SELECT 'pg_sleep(float8)'::regprocedure::oid");

	foreach my $i (1 .. 6)
	{
		$calls->{busy} = 1;
		$calls->send_message('F', pack('N n n n N a* n', $sleep, 1, 0, 1, 3, '0.3', 0));
		last if $calls->finish->{error};
	}
	is($calls->error, undef, 'six calls of 0.3 s continue');
	is_untouched($observer, $calls, 'T');
	$calls->close;
}

# Idle outside a transaction.
judge('idle_session_timeout',
	[
		[ put(session($node, 'idle'), 'idle_session_timeout', '300ms', 'SELECT 1'), 'terminate', qr/sat idle for \d+ ms; / ],
		[ put(session($node, 'idle with a lock'), 'idle_session_timeout', '300ms', 'SELECT pg_advisory_lock(' . ++$key . ')'), 'terminate' ],
		[ put(quiet('quiet'), 'idle_session_timeout', '300ms', 'SELECT 1'), 'terminate' ]
	],
	[
		[ put(session($node, 'idle in transaction'), 'idle_session_timeout', '300ms', 'BEGIN'), 'T' ],
		[ put(session($node, 'active'), 'idle_session_timeout', '300ms', '& SELECT pg_sleep(600)'), undef ],
		[ put(quiet('quiet in transaction'), 'idle_session_timeout', '300ms', 'BEGIN', 'SELECT 1'), 'T' ],
		[ put(quiet('quiet and active'), 'idle_session_timeout', '300ms', '& SELECT pg_sleep(600)'), undef ]
	]);

# Entries of the shared lock table.  A SELECT's own locks are not among them.
{
	my $locks = sub { "SELECT count(pg_advisory_$_[0]lock_shared(1, i)) FROM generate_series(1, $_[1]) i" };
	# Not before they are idle: who is at work is cancelled.
	configure($observer, enabled => 'off');
	my @over = (
		[ put(session($node, 'idle, 21 locks'), 'max_locks', 20, 'BEGIN', $locks->('xact_', 21)), 'rollback', qr/held at least 21 locks in the shared lock table; lockguard\.max_locks is 20 / ],
		[ put(session($node, 'session locks'), 'max_locks', 20, $locks->('', 30)), 'terminate' ],
		[ put(quiet('quiet'), 'max_locks', 20, 'BEGIN', $locks->('xact_', 25)), 'rollback' ]);
	configure($observer, enabled => undef);
	judge('max_locks', \@over,
		[
			[ put(session($node, '20 locks'), 'max_locks', 20, 'BEGIN', $locks->('xact_', 20), 'SELECT count(*) FROM t'), 'T' ],
			[ put(session($node, 'one after the other'), 'max_locks', 20, map { $locks->('xact_', 20) } 1 .. 4), 'I' ]
		]);
	my $active = put(session($node, 'active'), 'max_locks', 20,
		'& SELECT count(pg_advisory_xact_lock_shared(1, i)), pg_sleep(600) FROM generate_series(1, 40) i');
	is_cancelled($active, 'max_locks');
	is_recorded($observer, $active, 'max_locks cancel released');
	$active->close;
}

# What keeps vacuum from cleaning up.
{
	my $older = session($node, 'older');
	$older->query_ok($_) foreach 'BEGIN', 'INSERT INTO t VALUES (-1)';
	my @v = map { session($node, $_) } 'snapshot', 'transaction id';
	put($v[0], 'max_xmin_age', 100, 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1');
	put($v[1], 'max_xmin_age', 100, 'BEGIN', 'INSERT INTO t VALUES (-2)');
	my $quiet = put(quiet('quiet'), 'max_xmin_age', 100, 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1');
	my $active = put(session($node, 'active'), 'max_xmin_age', 100, '& SELECT pg_sleep(600)');
	my $nothing = put(session($node, 'held nothing back'), 'max_xmin_age', 100, 'BEGIN', 'SELECT 1');
	ok($observer->poll('SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = ' . $active->pid), 'a snapshot is held');

	# VACUUM has a snapshot, and holds nothing back by it.
	my $vacuum = session($node, 'vacuum', max_xmin_age => 100);
	$observer->query_ok('CREATE TABLE large AS SELECT g, repeat(\'x\', 1000) FROM generate_series(1, 2000) g');
	$vacuum->query_ok($_) foreach 'SET vacuum_cost_delay = 100', 'SET vacuum_cost_limit = 1';
	$vacuum->start('VACUUM large');
	ok($observer->poll('SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = ' . $vacuum->pid), 'VACUUM has a snapshot');

	# What has been used since it was first seen is what counts.
	scan($observer);
	my $burn = 'DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$';
	$observer->query_ok(sprintf $burn, 90);
	scan($observer);
	is_deeply([ map { recorded($observer, $_) } @v, $quiet, $active ], [], 'not before there are as many');
	$observer->query_ok(sprintf $burn, 20);

	# A new snapshot is as old as the oldest transaction, and not to blame; nor
	# in a transaction that has gone on for long, without one.
	my $young = put(session($node, 'young'), 'max_xmin_age', 100, 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1');
	$nothing->query_ok('DECLARE c CURSOR FOR SELECT * FROM t');
	cmp_ok($observer->value('SELECT age(backend_xmin) FROM pg_stat_activity WHERE pid = ' . $_->pid), '>', 100, 'it is old at birth')
	  foreach $young, $nothing;
	judge('max_xmin_age',
		[
			[ $v[0], 'rollback', qr/kept vacuum from cleaning up behind \d+ transactions; lockguard\.max_xmin_age is 100 / ],
			[ $v[1], 'rollback' ], [ $quiet, 'rollback' ], [ $active, 'cancel' ]
		],
		[ [ $nothing, 'T' ], [ $young, 'T' ], [ $older, 'T' ] ]);
	is($observer->value('SELECT count(*) FROM pg_stat_progress_vacuum WHERE pid = ' . $vacuum->pid), 1, 'VACUUM continues');
	is_deeply([ recorded($observer, $vacuum) ], [], 'and is innocent');
	$observer->value('SELECT pg_cancel_backend(' . $vacuum->pid . ')');
	$vacuum->finish;
	$vacuum->close;

	# The age of a transaction id of its own is exact, also of what has been used
	# before the worker has seen it.
	my $burst = put(session($node, 'burst'), 'max_xmin_age', 100, 'BEGIN',
		'DO $$ BEGIN FOR i IN 1..150 LOOP BEGIN INSERT INTO t VALUES (-10 - i);'
		  . ' EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$');
	is_rolled_back($observer, $burst, 'max_xmin_age');
}

# Priority: a waiter of higher priority has its blockers removed.
{
	configure($observer, enabled => 'off');
	my $migrator = sub {
		my ($name, $k) = @_;
		my $s = session($node, $name, priority => 'high', preempt_timeout => '300ms');
		return $s->start("SELECT pg_advisory_lock($k)");
	};
	my $k = ++$key;
	$key += 10;
	my @low = map { session($node, $_) } 'idle in transaction', 'active', 'low';
	$low[$_]->query_ok('BEGIN') foreach 0 .. 2;
	$low[$_]->query_ok('SELECT pg_advisory_xact_lock(' . ($k + $_) . ')') foreach 0 .. 2;
	$low[1]->start('SELECT pg_sleep(600)');
	$low[2]->query_ok("SET LOCAL lockguard.priority = 'low'");
	my @high = map { $migrator->("migrator $_", $k + $_) } 0, 1;
	my $normal = session($node, 'normal', preempt_timeout => '300ms')->start('SELECT pg_advisory_lock(' . ($k + 2) . ')');

	# Blocked by equal or higher priority: directly, beside others, behind others.
	my $equal = holder($node, 'equal', $k + 3, priority => 'high');
	my $w3 = $migrator->('migrator 3', $k + 3);
	my @shared = map { session($node, "shared, $_", priority => $_) } 'low', 'high';
	foreach (@shared)
	{
		$_->query_ok('BEGIN');
		$_->query_ok('SELECT pg_advisory_xact_lock_shared(' . ($k + 4) . ')');
	}
	my $w4 = $migrator->('migrator 4', $k + 4);
	my $root = holder($node, 'behind an equal', $k + 5, priority => 'low');
	my $between = session($node, 'between', priority => 'high');
	$between->query_ok('SELECT pg_advisory_lock(' . ($k + 6) . ')');
	$between->start('SELECT pg_advisory_lock(' . ($k + 5) . ')');
	my $w6 = $migrator->('migrator 6', $k + 6);
	my $ordinary = holder($node, 'blocks an ordinary session', $k + 7);
	my $w7 = session($node, 'ordinary', preempt_timeout => '300ms')->start('SELECT pg_advisory_lock(' . ($k + 7) . ')');
	is_waiting($observer, $_) foreach @high, $normal, $w3, $w4, $w6, $w7;
	configure($observer, enabled => undef);

	judge('preempt_timeout',
		[
			[ $low[0], 'rollback', qr/blocked a session of higher priority that had waited \d+ ms; lockguard\.preempt_timeout of process @{[ $high[0]->pid ]} is 300ms\.$/ ],
			[ $low[1], 'cancel' ],
			[ $low[2], 'rollback' ]
		],
		[
			[ $equal, 'T' ], [ $shared[0], 'T' ], [ $shared[1], 'T' ], [ $root, 'T' ], [ $between, undef ], [ $ordinary, 'T' ]
		]);
	succeeds($_, 'the waiter') foreach @high, $normal;
	$_->close foreach @high, $normal, $w3, $w4, $w6, $w7;

	# Two roots of lower priority go both, one after the other.
	my @two = map { session($node, "one of two: $_") } 1, 2;
	foreach (@two)
	{
		$_->query_ok('BEGIN');
		$_->query_ok('SELECT pg_advisory_xact_lock_shared(' . ($k + 8) . ')');
	}
	my $w8 = $migrator->('migrator 8', $k + 8);
	is_rolled_back($observer, $_, 'preempt_timeout of process \d+') foreach @two;
	succeeds($w8, 'the waiter');
	is_recorded($observer, $_, 'preempt_timeout rollback released') foreach @two;
	$w8->close;
}

# Limits may be combined, each counts once.  That on idleness in a transaction is about
# the connection, and has a clock of its own after a rollback.
{
	my $s = session($node, 'combined', transaction_timeout => '300ms', idle_in_transaction_timeout => '500ms',
		idle_blocker_timeout => '10min', blocker_timeout => '10min');
	$s->query_ok('BEGIN');
	$s->wait_closed;
	is($s->error->{C}, '57P01', 'combined is terminated');
	scan($observer);
	is_recorded($observer, $s, 'transaction_timeout rollback released', 'idle_in_transaction_timeout terminate released');
}

$node->stop;
done_testing();
