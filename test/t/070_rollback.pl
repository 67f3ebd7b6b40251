# A transaction that is idle and blocks others is rolled back, and its session goes on:
# from every state that an idle transaction can be in, and with whatever the client
# sends next.  That the client is never told a commit that was none.

use strict;
use warnings;

use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('rollback', conf => <<'CONF');
max_prepared_transactions = 5
log_min_messages = warning
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $waiter = LockguardTest::Session->new($node, 'waiter');

create_t($node);
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE written (what text);
CREATE FUNCTION in_the_way() RETURNS void LANGUAGE sql AS 'UPDATE t SET v = v WHERE id = 1';
SQL

# A session that has begun a transaction so, written a row, and sits idle in it.
sub idle_session
{
	my ($name, $begin, %opt) = @_;
	my $session = LockguardTest::Session->new($node, $name, %opt);

	$session->query_ok($_)
	  foreach $begin || 'BEGIN', 'SELECT in_the_way()', "INSERT INTO written VALUES (\$\$$name\$\$)";
	return $session;
}

# Another session waits for it, and has it rolled back.
sub roll_back
{
	my ($session) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$waiter->start('SELECT in_the_way()');
	is_blocked_by($observer, $waiter, $session);
	is($observer->value('SELECT lockguard.rollback_blockers(' . $waiter->pid . ')'),
		'{' . $session->pid . '}', $session->name . ' is asked to roll back');
	succeeds($waiter, 'what waited for it');
	return;
}

# What the statement gives: SQLSTATE, or the command tag, and the transaction status after it.
sub gives
{
	my ($session, $sql, $outcome, $status) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$session->start($sql) if defined $sql;
	my $result = $session->finish;
	my $error = $result->{error};
	my $name = $session->name . ': ' . (defined $sql ? $sql : 'what was sent');

	is($error ? $error->{C} : join(',', @{ $result->{tags} || [] }), $outcome, "$name gives $outcome");
	is($session->{status}, $status, "$name leaves the status $status");
	if ($error)
	{
		like($error->{D}, qr/^lockguard: the transaction was rolled back: this session blocked 1 session; process \d+ asked for this\./,
			"$name: it is told why");
		like($error->{H}, qr/run the transaction again/i, "$name: and what to do");
	}
	return $error;
}

# Nothing of it is left, and the session works.
sub works_on
{
	my ($session) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $pid = $session->pid;

	$session->query('ROLLBACK') if $session->{status} ne 'I';
	is($session->value('SELECT pg_backend_pid()'), $pid, $session->name . ' has its session');
	is($session->value('SELECT count(*) FROM written WHERE what = $$' . $session->name . '$$'),
		0, $session->name . ' has written nothing');
	$session->query_ok('BEGIN; SELECT in_the_way(); COMMIT');
	is($session->{status}, 'I', $session->name . ' commits its next transaction');
	$session->close;
	return;
}

# What the client sends next.
my @follow_ups = (
	[ 'SELECT 1', '25P02', 'E' ],
	[ 'SELECT nonsense', '25P02', 'E' ],
	[ 'BEGIN', '25P02', 'E' ],
	[ 'SAVEPOINT s', '25P02', 'E' ],
	[ 'RELEASE s', '25P02', 'E' ],
	[ 'ROLLBACK TO s', '3B001', 'E' ],
	[ 'FETCH c', '25P02', 'E' ],
	[ 'EXECUTE p', '25P02', 'E' ],
	[ 'SELECT 1; COMMIT', '25P02', 'E' ],
	[ '', '', 'E' ],
	[ 'ROLLBACK', 'ROLLBACK', 'I' ],
	[ 'ABORT', 'ROLLBACK', 'I' ],
	[ 'ROLLBACK AND CHAIN', 'ROLLBACK', 'T' ],
	[ 'COMMIT', '40000', 'I' ],
	[ 'END', '40000', 'I' ],
	[ 'COMMIT AND CHAIN', '40000', 'I' ],
	[ "PREPARE TRANSACTION 'p'", '40000', 'I' ],
	[ 'COMMIT; SELECT 1', '40000', 'I' ],
	[ 'ROLLBACK; SELECT 1', 'ROLLBACK,SELECT 1', 'I' ]);

foreach my $follow_up (@follow_ups)
{
	my ($sql, $outcome, $status) = @$follow_up;
	my $session = idle_session("then $sql");

	$session->query_ok($_)
	  foreach 'SAVEPOINT s', 'DECLARE c CURSOR FOR SELECT 1', 'PREPARE p AS SELECT 1';
	roll_back($session);
	gives($session, $sql, $outcome, $status);
	gives($session, 'COMMIT', '40000', 'I') if $status eq 'E';
	works_on($session);
}

# The states in which it can be rolled back.
my %begins = (
	'in a savepoint' => 'BEGIN; SAVEPOINT a; SAVEPOINT b; INSERT INTO written VALUES (0)',
	'with released savepoints' => 'BEGIN; SAVEPOINT a; INSERT INTO written VALUES (0); RELEASE a',
	'with a cursor' => 'BEGIN; DECLARE c CURSOR FOR SELECT * FROM t; FETCH c',
	'with a holdable cursor' => 'BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT * FROM t; FETCH h',
	'with a temporary table' => 'BEGIN; CREATE TEMP TABLE x ON COMMIT DROP AS SELECT * FROM t',
	'that has created a table' => 'BEGIN; CREATE TABLE x (i int); INSERT INTO x VALUES (1); CREATE INDEX ON x (i)',
	'that has changed a table' => 'BEGIN; ALTER TABLE written ADD COLUMN more int; DECLARE c CURSOR FOR SELECT * FROM written; ALTER TABLE t ADD CHECK (v >= 0)',
	'that has changed a table in a savepoint' => 'BEGIN; SAVEPOINT s; ALTER TABLE written ADD COLUMN more int; SAVEPOINT s2; CREATE TABLE y (i int)',
	'that listens' => 'BEGIN; LISTEN channel; NOTIFY channel',
	'serializable' => 'BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM t',
	'with a lock' => 'BEGIN; LOCK written; SELECT pg_advisory_xact_lock(1)',
	'with a temporary file' => "BEGIN; SET LOCAL work_mem = '64kB'; DECLARE c CURSOR FOR SELECT i FROM generate_series(1, 100000) i ORDER BY -i; FETCH c",
	'with a large object' => 'BEGIN; SELECT lo_open(lo_create(4711), 131072)');

foreach my $name (sort keys %begins)
{
	my $session = idle_session($name, $begins{$name});

	roll_back($session);
	# The locks go first.
	$observer->poll("SELECT state = 'idle in transaction (aborted)' AND wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = " . $session->pid);
	is( join(
			'|',
			map { defined $_ ? $_ : 'null' } map { @$_ } $observer->rows(
				"SELECT state, wait_event, xact_start, backend_xid, backend_xmin, (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid)"
				  . ' FROM pg_stat_activity a WHERE pid = ' . $session->pid)),
		'idle in transaction (aborted)|ClientRead|null|null|null|0',
		"$name: no snapshot, transaction id or lock is left");
	is($observer->value('SELECT count(*) FROM pg_ls_tmpdir()'), 0, "$name: nor a temporary file");
	gives($session, 'COMMIT', '40000', 'I');
	is($session->value('SELECT count(*) FROM pg_cursors'), 0, "$name: no cursor is left");
	is($session->value("SELECT count(*) FROM pg_class WHERE relname IN ('x', 'y')"), 0, "$name: no table is left");
	is($session->value('SELECT count(*) FROM pg_listening_channels()'), 0, "$name: it does not listen");
	works_on($session);
}

# In a failed subtransaction.  The error is the client's own; that COMMIT fails is not.
my $session = idle_session('after an error in a savepoint');
$session->query_ok('SAVEPOINT s');
$session->query('SELECT 1 / 0');
is($session->{status}, 'E', 'it is in a failed savepoint');
roll_back($session);
gives($session, 'ROLLBACK TO s', '3B001', 'E');
gives($session, 'COMMIT', '40000', 'I');
works_on($session);

# What it had set is as it was before the transaction, and the rest as it was.
$session = LockguardTest::Session->new($node, 'with settings');
$session->query_ok($_)
  foreach "SET work_mem = '5MB'", 'PREPARE kept AS SELECT 1', 'CREATE TEMP TABLE mine AS SELECT 1 AS i',
  'SELECT pg_advisory_lock_shared(77)', 'DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 5)',
  "BEGIN; SET LOCAL statement_timeout = '1h'; SET work_mem = '9MB'; SET search_path = pg_temp, public; INSERT INTO mine VALUES (2); SELECT public.in_the_way()";
roll_back($session);
gives($session, 'COMMIT', '40000', 'I');
is($session->value('SHOW statement_timeout'), '0', 'what was SET LOCAL is undone');
is($session->value('SHOW work_mem'), '5MB', 'so is what was SET, and what was set before is not');
is($session->value('EXECUTE kept'), 1, 'a prepared statement is kept');
is($session->value('SELECT sum(i) FROM mine'), 1, 'a temporary table is kept, without what was written to it');
is(scalar($session->rows('FETCH 2 FROM held')), 2, 'a cursor from before the transaction is kept');
is($session->value('SELECT pg_advisory_unlock_shared(77)'), 't', 'a lock of the session is kept');
$session->close;

# ROLLBACK AND CHAIN goes on with what the transaction was.
foreach my $characteristics (
	[ 'ISOLATION LEVEL SERIALIZABLE', 'transaction_isolation', 'serializable' ],
	[ 'ISOLATION LEVEL REPEATABLE READ', 'transaction_isolation', 'repeatable read' ],
	[ 'READ ONLY', 'transaction_read_only', 'on' ],
	[ 'ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE', 'transaction_deferrable', 'on' ])
{
	my ($mode, $setting, $value) = @$characteristics;

	$session = LockguardTest::Session->new($node, "with $mode");
	$session->query_ok("BEGIN TRANSACTION $mode");
	$session->query_ok('SELECT pg_advisory_xact_lock(5)');
	$waiter->start('SELECT pg_advisory_xact_lock(5)');
	is_blocked_by($observer, $waiter, $session);
	$observer->query_ok('SELECT lockguard.rollback_blockers(' . $waiter->pid . ')');
	succeeds($waiter);
	gives($session, 'ROLLBACK AND CHAIN', 'ROLLBACK', 'T');
	is($session->value("SHOW $setting"), $value, "$mode goes on");
	$session->query_ok('ROLLBACK');
	is($session->value("SHOW $setting"),
		$setting eq 'transaction_isolation' ? 'read committed' : 'off', "and ends with the next one");
	$session->close;
}

# By the protocol: a portal that is fetched from, and commands without an answer.
sub parse_bind
{
	my ($session, $portal, $sql) = @_;

	$session->send_message('P', "\0$sql\0" . pack('n', 0));
	$session->send_message('B', "$portal\0\0" . pack('nnn', 0, 0, 0));
	return;
}

sub sync
{
	my ($session) = @_;

	$session->{busy} = 1;
	$session->{result} = { rows => [] };
	$session->send_message('S', '');
	return $session->finish;
}

$session = idle_session('with a portal');
parse_bind($session, 'rows', 'SELECT * FROM t');
$session->send_message('E', "rows\0" . pack('N', 2));
sync($session);
is($session->{status}, 'T', 'two rows are fetched');
roll_back($session);
$session->send_message('E', "rows\0" . pack('N', 2));
sync($session);
gives($session, undef, '34000', 'E');
parse_bind($session, '', 'COMMIT');
$session->send_message('E', "\0" . pack('N', 0));
sync($session);
gives($session, undef, '40000', 'I');
works_on($session);

$session = idle_session('with a pipeline');
roll_back($session);
foreach my $sql ("INSERT INTO written VALUES ('with a pipeline')", 'COMMIT', "INSERT INTO written VALUES ('with a pipeline')")
{
	parse_bind($session, '', $sql);
	$session->send_message('E', "\0" . pack('N', 0));
}
sync($session);
gives($session, undef, '25P02', 'E');
works_on($session);

$session = idle_session('with a function call');
roll_back($session);
$session->{busy} = 1;
$session->{result} = { rows => [] };
$session->send_message('F', pack('N n n n', 1598, 0, 0, 0));    # random()
gives($session, undef, '25P02', 'E');
works_on($session);

# A command of which half has come.
$session = idle_session('in the middle of a message');
my $message = "INSERT INTO written VALUES ('in the middle of a message')\0";
syswrite $session->{socket}, 'Q' . pack('N', length($message) + 4) . substr($message, 0, 20);
roll_back($session);
syswrite $session->{socket}, substr($message, 20);
$session->{busy} = 1;
$session->{result} = { rows => [] };
gives($session, undef, '25P02', 'E');
works_on($session);

# Text in an encoding that the transaction had set.
$session = idle_session('with an encoding', "BEGIN; SET client_encoding = 'LATIN1'");
roll_back($session);
gives($session, "SELECT '\xe9'", '22021', 'E');
gives($session, 'COMMIT', '40000', 'I');
works_on($session);

# A session that does not report its activity.
$session = LockguardTest::Session->new($node, 'without track_activities');
$session->query_ok('SET track_activities = off');
$session->query_ok($_)
  foreach 'BEGIN', 'SELECT in_the_way()', "INSERT INTO written VALUES ('without track_activities')";
roll_back($session);
gives($session, 'COMMIT', '40000', 'I');
works_on($session);

# A client's own error is none of ours: not before, and not after a rollback.
$session = idle_session('own error');
roll_back($session);
$session->query_ok('ROLLBACK');
$session->query_ok('BEGIN');
$session->query('SELECT 1 / 0');
my $error = $session->query('SELECT 1')->{error};
is($error->{C}, '25P02', 'a failed transaction of its own');
is($error->{D}, undef, 'is not explained');
is_deeply($session->query('COMMIT')->{tags}, ['ROLLBACK'], 'and COMMIT rolls it back');
$session->query_ok('BEGIN; SAVEPOINT s');
$session->query('SELECT 1 / 0');
$error = $session->query('SELECT 1')->{error};
is($error->{D}, undef, 'nor one in a savepoint');
is_deeply($session->query('COMMIT')->{tags}, ['ROLLBACK'], 'which COMMIT rolls back, too');
works_on($session);

# Several in a row, in one session.
$session = LockguardTest::Session->new($node, 'again');
foreach (1 .. 3)
{
	$session->query_ok('BEGIN; SELECT in_the_way()');
	roll_back($session);
	gives($session, 'COMMIT', '40000', 'I');
}
works_on($session);

# Whoever is told nothing by PostgreSQL still does not take it for a commit.
$session = LockguardTest::Session->new($node, 'quiet');
$session->query_ok($_) foreach "SET log_min_messages = 'fatal'", 'BEGIN', 'SELECT in_the_way()';
roll_back($session);
is($session->query('SELECT 1')->{error}{C}, '25P02', 'refused without our words');
gives($session, 'COMMIT', '40000', 'I');
$session->close;

is($observer->value('SELECT count(*) FROM written'), 0, 'no rolled back transaction has left a row');
is( join(' ', map { "$_->[0]:$_->[1]" } $observer->rows("SELECT action, result FROM lockguard.actions GROUP BY 1, 2")),
	'rollback:released', 'all were rolled back');
is($observer->value("SELECT count(*) FROM pg_prepared_xacts"), 0, 'no transaction was prepared');

done_testing();
