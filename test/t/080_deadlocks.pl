# Deadlocks that the server has resolved, as lockguard.deadlocks has them: each is
# compared with what the server log says about it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', streaming => 1, conf => <<'CONF');
deadlock_timeout = '1h'
compute_query_id = on
lockguard.max_history = 100
max_worker_processes = 16
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $seen = 0;

$observer->query_ok($_)
  foreach 'CREATE TABLE t (id int PRIMARY KEY, v int)', 'INSERT INTO t SELECT g, 0 FROM generate_series(1, 20) g',
  (map { "CREATE TABLE $_ (i int)" } qw(a b c big)), 'INSERT INTO big SELECT generate_series(1, 1000)';

# One that gets the error, if it comes to a deadlock; the others wait for an hour.
sub victim
{
	my ($name, %opt) = @_;
	my $session = session($node, $name, %opt);

	$session->query_ok("SET deadlock_timeout = '5ms'");
	return $session;
}

# What the server log has on the deadlocks since then, each as the view's graph
# would begin, by the pid of the process that logged it; and all of its DETAIL.
sub logged
{
	my ($offset, $logfile) = @_;
	my $log = slurp_file($logfile || $node->logfile, $offset);
	my %logged;

	while ($log =~ /^[^\t\n][^\n]*\[(\d+)\] [^\n]*ERROR:  deadlock detected\n[^\t\n][^\n]*\[\1\] [^\n]*DETAIL:  ((?:[^\n]*\n)(?:\t[^\n]*\n)*)/mg)
	{
		my ($pid, $detail) = ($1, $2);
		my $edges = '';

		while ($detail =~ /^\t?Process (\d+) waits for (\w+) on ([^\n;]*); blocked by process (\d+)\.$/mg)
		{
			my ($waiter, $mode, $lock, $blocker) = ($1, $2, $3, $4);

			$lock =~ s/^tuple \(\d+,\d+\)/tuple/;
			$lock =~ s/ of database / in database /;
			$lock =~ s/^advisory lock \[\d+,0,(\d+),1\]$/advisory lock $1/;
			$edges .= "$waiter waits for $mode on $lock, blocked by $blocker\n";
		}
		$logged{$pid} = { edges => $edges, detail => $detail };
	}
	return \%logged;
}

# There is one more row, of this session, with the cycle that is in the server log, in
# which there are so many sessions.  Returns it as a hash.
sub is_recorded_deadlock
{
	my ($what, $offset, $victim, $sessions, $reader) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @names = qw(deadlock_id pid datname usename application_name query graph queryids);
	my @rows = ($reader || $observer)->rows('SELECT ' . join(', ', @names)
		  . " FROM lockguard.deadlocks WHERE deadlock_id > $seen ORDER BY deadlock_id");
	my %row;
	my $log = logged($offset);
	my ($process) = keys %$log;

	is(scalar @rows, 1, "$what: one row");
	return {} if @rows != 1;
	@row{@names} = @{ $rows[0] };
	$seen = $row{deadlock_id};
	is($row{pid}, $victim->pid, "$what: of the session that got the error");
	is(scalar keys %$log, 1, "$what: one error in the log");
	my @edges = $row{graph} =~ /^(\d+ waits for [^\n]*\n)/mg;
	my $edges = join '', @edges;
	is($edges, $log->{$process}{edges}, "$what: the cycle of the server log");
	is(scalar @edges, $sessions, "$what: with so many sessions");
	return \%row;
}

# The statement of a process in a graph.
sub statement_of
{
	my ($row, $session) = @_;
	my $pid = ref $session ? $session->pid : $session;
	my ($statement) = $row->{graph} =~ /^$pid (?!waits for )[^\n]*?: ([^\n]*)$/m;

	return $statement;
}

# Each holds what the one before it waits for; the last one gets the error.
sub deadlock
{
	my ($what, $first, $second, @sessions) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $victim = $sessions[-1];
	my $offset = -s $node->logfile;

	foreach my $i (0 .. $#sessions)
	{
		$sessions[$i]->query_ok('BEGIN');
		$sessions[$i]->query_ok($first->($i));
	}
	foreach my $i (0 .. $#sessions - 1)
	{
		$sessions[$i]->start($second->($i + 1));
		is_waiting($observer, $sessions[$i]);
	}
	$victim->query($second->(0));
	is($victim->error->{C}, '40P01', "$what: the error");
	$victim->query('ROLLBACK');
	foreach my $session (reverse @sessions[ 0 .. $#sessions - 1 ])
	{
		succeeds($session, $what);
		$session->query_ok('ROLLBACK');
	}
	return $offset;
}

# A statement that has the lock by now, and has gone on to the next one, is still
# shown as it was: also if the subtransaction is rolled back long before the error is
# reported.  Returns the row's graph and query ids.
sub late
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @s = (session($node, 'S1'), victim('S2'));
	my $last = $observer->value('SELECT coalesce(max(deadlock_id), 0) FROM lockguard.deadlocks');

	$observer->query_ok(<<'SQL');
CREATE OR REPLACE FUNCTION lock_late() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM pg_advisory_xact_lock(1);
		PERFORM pg_advisory_xact_lock(4);
		PERFORM pg_advisory_xact_lock(2);
	EXCEPTION WHEN deadlock_detected THEN
		PERFORM pg_advisory_lock(3);
		RAISE;
	END;
END $$
SQL
	$observer->query_ok('SELECT pg_advisory_lock(3), pg_advisory_lock(4)');
	$s[0]->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(2)';
	$s[1]->start('SELECT lock_late()');
	is_waiting($observer, $s[1]);
	$s[0]->start('SELECT pg_advisory_xact_lock(1)');
	is_waiting($observer, $s[0]);
	$observer->query_ok('SELECT pg_advisory_unlock(4)');
	ok($observer->poll("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = @{[ $s[1]->pid ]} AND objid = 3", 1),
		"$what: the error is caught");
	succeeds($s[0], $what);
	$s[0]->query_ok('SELECT 42, 43');
	is($observer->value("SELECT count(*) FROM lockguard.deadlocks WHERE deadlock_id > $last"), 0, "$what: not reported yet");
	$observer->query_ok('SELECT pg_advisory_unlock(3)');
	is($s[1]->finish->{error}{C}, '40P01', "$what: the error");
	my ($graph, $ids) = @{ ($observer->rows("SELECT graph, queryids FROM lockguard.deadlocks WHERE deadlock_id > $last"))[0] };
	my ($victim, $other) = map { $_->pid } @s[ 1, 0 ];
	like($graph, qr/\A$victim waits for ExclusiveLock on advisory lock 2, blocked by $other\n$other waits for ExclusiveLock on advisory lock 1, blocked by $victim\n/,
		"$what: the cycle");
	is(statement_of({ graph => $graph }, $s[0]), 'SELECT pg_advisory_xact_lock(1)', "$what: the statement of that time");
	like($ids, qr/^\{-?\d+\}$/, "$what: the query id of another statement is not taken for its");
	$_->close foreach @s;
	$seen = $last + 1;
	return;
}

my $by_hand = sub { "SELECT pg_advisory_xact_lock(" . ($_[0] + 1) . ")" };

# Two on rows, three on tables, ten on advisory locks.
{
	my @s = (session($node, 'S1'), victim('S2'));
	my $update = sub { 'UPDATE t SET v = v + 1 WHERE id = ' . ($_[0] + 1) };
	my $offset = deadlock('rows', $update, $update, @s);
	my $row = is_recorded_deadlock('rows', $offset, $s[1], 2);

	is($row->{query}, 'UPDATE t SET v = v + 1 WHERE id = 1', 'its statement');
	is($row->{application_name}, 'S2', 'its application');
	is($row->{datname}, 'postgres', 'its database');
	is(statement_of($row, $s[0]), 'UPDATE t SET v = v + 1 WHERE id = 2', 'the statement of the other');
	is(statement_of($row, $s[1]), $row->{query}, 'and its own');
	like($row->{graph}, qr/^@{[ $s[0]->pid ]} \S+ \(S1\): UPDATE/m, 'with names');
	like($row->{queryids}, qr/^\{-?[1-9]\d*\}$/, 'both have the same query id, which is there once');

	my $report = $observer->value("SELECT lockguard.deadlock_report($row->{deadlock_id})");
	my ($victim, $other) = map { $_->pid } @s[ 1, 0 ];
	like($report, qr/^# Deadlock $row->{deadlock_id}: 2 sessions$/m, 'the report: its heading');
	like($report, qr/^    n0\["$victim S2"\]\n    n1\["$other S1"\]$/m, 'its sessions');
	like($report, qr/^    n0 -->\|"ShareLock, transaction \d+"\| n1\n    n1 -->\|"ShareLock, transaction \d+"\| n0$/m, 'its cycle');
	like($report, qr/Process $victim had changed or locked a row that process $other waited for, and process $other one that process $victim waited for\. If both took their rows in the same order/, 'what would have avoided it');
	unlike($report, qr/same order do not deadlock/, 'nothing general');

	# The same again has the same query ids.
	deadlock('again', $update, $update, @s);
	is($observer->value("SELECT queryids FROM lockguard.deadlocks WHERE deadlock_id = $seen + 1"),
		$row->{queryids}, 'the same statements: the same query ids');
	is($observer->value('SELECT max(n) FROM (SELECT count(*) AS n FROM lockguard.deadlocks GROUP BY queryids) g'),
		2, 'by which they can be grouped');
	$seen++;
	$_->close foreach @s;
}
{
	my @s = (session($node, 'S1'), session($node, 'S2'), victim('S3'));
	my $lock = sub { 'LOCK ' . (qw(a b c))[ $_[0] ] };
	my $row = is_recorded_deadlock('tables', deadlock('tables', $lock, $lock, @s), $s[2], 3);

	is(statement_of($row, $s[$_]), 'LOCK ' . (qw(b c a))[$_], "statement $_") foreach 0 .. 2;
	is($row->{queryids} =~ tr/,//, 2, 'three query ids');
	my ($a, $b, $c) = map { $observer->value("SELECT '$_'::regclass::oid") } qw(a b c);
	like($row->{graph}, qr/^@{[ $s[2]->pid ]} waits for AccessExclusiveLock on relation $a in database \d+, blocked by @{[ $s[0]->pid ]}$/m,
		'which table');
	my $report = $observer->value("SELECT lockguard.deadlock_report($row->{deadlock_id})");
	like($report, qr/same order do not deadlock/, 'of three, the report has only general advice');
	$_->close foreach @s;
}
{
	my @s = ((map { session($node, "S$_") } 1 .. 9), victim('S10'));
	my $row = is_recorded_deadlock('ten', deadlock('ten', $by_hand, $by_hand, @s), $s[9], 10);

	is(statement_of($row, $s[$_]), 'SELECT pg_advisory_xact_lock(' . (($_ + 1) % 10 + 1) . ')', "statement $_")
	  foreach 0 .. 9;

	# With long statements and names, all ten are there still.
	my $long = sub { $by_hand->(@_) . " /* \xc3\xa9" . ('x' x 3000) . '*/' };
	$_->query_ok("SET application_name = '" . ('n' x 63) . "'") foreach @s;
	$row = is_recorded_deadlock('ten long', deadlock('ten long', $by_hand, $long, @s), $s[9], 10);
	foreach my $i (0 .. 9)
	{
		my $statement = statement_of($row, $s[$i]);

		like($statement, qr/^SELECT pg_advisory_xact_lock\(\d+\) /, "statement $i");
		cmp_ok(length $statement, '>', 200, 'much of it');
	}

	# Of eleven, ten.
	@s = (session($node, 'S0'), @s);
	my $offset = deadlock('eleven', $by_hand, $by_hand, @s);
	my $logged = logged($offset)->{ $s[10]->pid };
	my $graph = $observer->value("SELECT graph FROM lockguard.deadlocks WHERE deadlock_id = $seen + 1");
	my @edges = split /\n/, $logged->{edges};

	is(scalar @edges, 11, 'eleven in the log');
	is(join("\n", (split /\n/, $graph)[ 0 .. 9 ]), join("\n", @edges[ 0 .. 9 ]), 'the first ten are kept');
	like($graph, qr/^\.\.\. and 1 more$/m, 'and how many are not');
	like($observer->value("SELECT lockguard.deadlock_report($seen + 1)"),
		qr/^    n9 -->\|"ExclusiveLock, advisory lock \d+"\| n10\n    n10 --> n0$/m, 'as the report draws it');
	is($graph =~ s/^\d+ \S+ \(\w+\): SELECT pg_advisory_xact_lock\(\d+\)$//mgr =~ tr/://, 0, 'no statement has another in it');
	$seen++;
	$_->close foreach @s;
}

# What two of them would have had to do.
foreach my $case (
	[ 'tables', ['LOCK a'], ['LOCK b'], qr/Process VICTIM held relation \d+ in database \d+ and waited for relation \d+ in database \d+; process OTHER held .* If both took these locks in the same order/ ],
	[ 'stronger', ['LOCK a IN SHARE MODE'], undef, qr/Both held a lock on relation \d+ in database \d+ and waited for a stronger one/ ],
	[ 'mixed', ['SELECT pg_advisory_xact_lock(7)'], ['UPDATE t SET v = 1 WHERE id = 9'], qr/Process VICTIM held (?:a row of transaction \d+|advisory lock 7) and waited for (?:a row of transaction \d+|advisory lock 7); / ])
{
	my ($what, $one, $two, $expected) = @$case;
	my @s = (session($node, 'S1'), victim('S2'));
	my @held = ($one->[0], $two ? $two->[0] : $one->[0]);
	my @wanted = $two ? @held : ('LOCK a IN EXCLUSIVE MODE') x 2;
	my $offset = deadlock($what, sub { $held[ $_[0] ] }, sub { $wanted[ $_[0] ] }, @s);
	my $row = is_recorded_deadlock($what, $offset, $s[1], 2);
	my ($victim, $other) = ($s[1]->pid, $s[0]->pid);

	$expected =~ s/VICTIM/$victim/g;
	$expected =~ s/OTHER/$other/g;
	like($observer->value("SELECT lockguard.deadlock_report($row->{deadlock_id})"), qr/$expected/, "$what: the advice");
	$_->close foreach @s;
}

# A queue is a part of the cycle, which no other order of it would resolve: by
# another holder of the same lock, it has a second cycle.
{
	my ($queued, $reader, $holder) = map { session($node, $_) } qw(queued reader holder);
	my $victim = victim('victim');
	my $offset = -s $node->logfile;

	$_->query_ok('BEGIN') foreach $queued, $reader, $holder, $victim;
	$reader->query_ok('SELECT pg_advisory_xact_lock_shared(1)');
	$holder->query_ok('SELECT pg_advisory_xact_lock_shared(1)');
	$victim->query_ok($_) foreach 'LOCK a IN ACCESS SHARE MODE', 'SELECT pg_advisory_xact_lock(2)';
	$queued->start('LOCK a');
	is_waiting($observer, $queued);
	$reader->start('LOCK a IN ACCESS SHARE MODE');
	is_waiting($observer, $reader);
	$holder->start('SELECT pg_advisory_xact_lock(2)');
	is_waiting($observer, $holder);
	$victim->query('SELECT pg_advisory_xact_lock(1)');
	is($victim->error->{C}, '40P01', 'soft edge: the error');
	$victim->query('ROLLBACK');
	succeeds($queued, 'soft edge');
	$queued->query_ok('ROLLBACK');
	succeeds($_, 'soft edge') foreach $reader, $holder;
	my $row = is_recorded_deadlock('soft edge', $offset, $victim, 3);
	like($row->{graph}, qr/^@{[ $reader->pid ]} waits for AccessShareLock on relation \d+ in database \d+, blocked by @{[ $queued->pid ]}$/m,
		'soft edge: the one in the queue blocks');
	$_->close foreach $queued, $reader, $holder, $victim;
}

# Parallel workers get the error, each by itself, and their leader raises it again.
{
	my $other = session($node, 'other');
	my $leader = victim('leader');
	my $offset;

	$observer->query_ok(<<'SQL');
CREATE FUNCTION lock_b(int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE COST 1000000 AS $$
BEGIN EXECUTE 'LOCK b IN ACCESS SHARE MODE'; RETURN $1; END $$
SQL
	$leader->query_ok("SET $_") foreach 'parallel_setup_cost = 0', 'parallel_tuple_cost = 0',
	  'min_parallel_table_scan_size = 0', 'max_parallel_workers_per_gather = 2', 'parallel_leader_participation = off';
	$_->query_ok('BEGIN') foreach $other, $leader;
	$leader->query_ok('LOCK a');
	$other->query_ok('LOCK b');
	$other->start('LOCK a');
	is_waiting($observer, $other);
	$offset = -s $node->logfile;
	$leader->query('SELECT sum(lock_b(i)) FROM big');
	is($leader->error->{C}, '40P01', 'parallel: the error');

	# Its leader has logged it, too, but not the statements.
	cmp_ok(count_in_log($node, $offset, qr/ERROR:  deadlock detected/), '>=', 2, 'parallel: logged more than once');
	my @rows = $observer->rows("SELECT pid, query, graph FROM lockguard.deadlocks WHERE deadlock_id > $seen");
	is(scalar @rows, 1, 'parallel: one row');
	is($rows[0][0], $leader->pid, 'parallel: of the leader');
	is($rows[0][1], 'SELECT sum(lock_b(i)) FROM big', 'parallel: its statement');
	my ($waiter) = $rows[0][2] =~ /^(\d+) waits for AccessShareLock/;
	isnt($waiter, $leader->pid, 'parallel: the worker waited');
	like($rows[0][2], qr/^$waiter \(parallel worker of @{[ $leader->pid ]}\) \S+ \(leader\): SELECT sum/m, 'parallel: which is said');
	like($rows[0][2], qr/^@{[ $other->pid ]} \S+ \(other\): LOCK a$/m, 'parallel: and the other one');
	$seen++;
	$leader->query('ROLLBACK');
	succeeds($other, 'parallel');
	$_->close foreach $other, $leader;
}

# What people put into names and statements does not pass for anything else.
{
	my $role = qq(m"al\nlory; waits for x);

	# Since 19 a role's name is on one line by itself.
	$role =~ s/\n/ / if $observer->value('SHOW server_version_num') >= 190000;
	$observer->query_ok('CREATE ROLE ' . $observer->value("SELECT quote_ident(\$x\$$role\$x\$)") . ' LOGIN SUPERUSER');
	my @s = (session($node, "na\tme \e[31m", user => $role), session($node, 'S2'), victim('S3'));
	my $pids = join ',', map { $_->pid } @s;
	my ($p1, $p2, $p3) = map { $_->pid } @s;
	my $forged = join '', map { "\nProcess $_: SELECT 'forged $_'" } $p2, $p3, $p1;
	my $offset = deadlock('hostile', $by_hand,
		sub { $by_hand->(@_) . ($_[0] == 1 ? "/* \\ \x01 ; blocked by process $p3.$forged */" : "/* $_[0] */") }, @s);
	my $row = is_recorded_deadlock('hostile', $offset, $s[2], 3);
	my @lines = split /\n/, $row->{graph};

	is(scalar @lines, 6, 'no line is added');
	like(statement_of($row, $s[0]), qr{^SELECT pg_advisory_xact_lock\(2\)/\* \\ \S* ?; blocked by process $p3\. Process $p2: SELECT 'forged $p2' Process }, 'it stays in its statement');
	is(statement_of($row, $s[1]), 'SELECT pg_advisory_xact_lock(3)/* 2 */', 'the second one has its own');
	is(statement_of($row, $s[2]), 'SELECT pg_advisory_xact_lock(1)/* 0 */', 'and the third one');
	unlike($row->{graph}, qr/[\x00-\x09\x0b-\x1f]/, 'no control character');
	like($row->{graph}, qr/^$p1 m"al lory; waits for x \(.*\): /m, 'names are on one line');
	my $report = $observer->value("SELECT lockguard.deadlock_report($row->{deadlock_id})");
	unlike($report =~ s/^(`{3,}).*?^\1$//msgr =~ s/`[^`\n]*`//gr =~ s{<code>.*?</code>}{}gr, qr/forged|mal|lory/, 'in the report they are in code only');
	$_->close foreach @s;
}

# Another encoding; statements that the server has cut.
{
	$observer->query_ok("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
	my @s = map { session($node, $_, dbname => 'latin') } 'S1', 'S2';
	$s[1]->query_ok("SET deadlock_timeout = '5ms'");
	$_->query_ok("SET client_encoding = 'LATIN1'") foreach @s;
	my $offset = deadlock('encoding', $by_hand, sub { $by_hand->(@_) . " /* caf\xe9 */" }, @s);
	my $row = is_recorded_deadlock('encoding', $offset, $s[1], 2);

	like($row->{query}, $observer->value('SHOW server_encoding') eq 'UTF8' ? qr{/\* caf\? \*/$} : qr{/\* caf\xe9 \*/$}, 'bytes of another encoding are replaced');
	is($row->{datname}, 'latin', 'the database');
	$_->close foreach @s;
	@s = (session($node, 'S1'), victim('S2'));
	$offset = deadlock('long', $by_hand, sub { $by_hand->(@_) . ' /* ' . ('0123456789' x 1000) . " $_[0] */" }, @s);
	$row = is_recorded_deadlock('long', $offset, $s[1], 2);
	is(length $row->{query}, $observer->value("SELECT setting FROM pg_settings WHERE name = 'track_activity_query_size'") - 1, 'cut as the server cuts it');
	like($row->{queryids}, qr/^\{-?\d+\}$/, 'with its query id');
	$_->close foreach @s;
}

# Who may see what.
{
	$observer->query_ok('CREATE ROLE alice LOGIN');
	$observer->query_ok('CREATE ROLE bob LOGIN');
	$observer->query_ok('GRANT SET ON PARAMETER deadlock_timeout TO bob');
	my @s = (session($node, 'A', user => 'alice'), victim('B', user => 'bob'));
	my $offset = deadlock('masked', $by_hand, sub { $by_hand->(@_) . " /* secret $_[0] */, $_[0]" . '::text' x ($_[0] == 0) }, @s);
	my $row = is_recorded_deadlock('masked', $offset, $s[1], 2);

	is($row->{queryids} =~ tr/,//, 1, 'two query ids');
	foreach my $user (qw(alice bob))
	{
		my $reader = LockguardTest::Session->new($node, 'reader', user => $user);
		my ($graph, $query, $ids) = @{ ($reader->rows("SELECT graph, query, queryids FROM lockguard.deadlocks WHERE deadlock_id = $seen"))[0] };
		my $report = $reader->value("SELECT lockguard.deadlock_report($seen)");
		my $mine = $user eq 'alice' ? 1 : 0;
		my $other = 1 - $mine;

		foreach ([ graph => $graph ], [ report => $report ])
		{
			like($_->[1], qr/secret $mine/, "$user sees the statement of that role in the $_->[0]");
			unlike($_->[1], qr/secret $other/, 'and no other');
			like($_->[1], qr/<insufficient privilege>/, 'which is said');
		}
		is($query, $user eq 'bob' ? $row->{query} : '<insufficient privilege>', "$user: the statement that got the error");
		like($ids, qr/^\{-?\d+\}$/, "$user: one query id");
		$reader->close;
	}
	$_->close foreach @s;
}

late('late');

# One that is caught is not seen.
{
	my @s = (session($node, 'S1'), victim('S2'));
	my $deadlocks = sub {
		return $observer->value("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'");
	};

	my $before = $deadlocks->();
	$s[0]->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(2)';
	$s[1]->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(1)';
	$s[0]->start('SELECT pg_advisory_xact_lock(1)');
	is_waiting($observer, $s[0]);
	is($s[1]->query('DO $$ BEGIN PERFORM pg_advisory_xact_lock(2); EXCEPTION WHEN deadlock_detected THEN NULL; END $$')->{error},
		undef, 'caught: no error');
	$s[1]->query_ok('ROLLBACK');
	succeeds($s[0], 'caught');
	$_->close foreach @s;
	ok(wait_until(sub { $deadlocks->() > $before }), 'caught: the server has counted it');
	is($observer->value("SELECT count(*) FROM lockguard.deadlocks WHERE deadlock_id > $seen"), 0, 'caught: no row');
}

# An error that only says so is none.
$observer->query(q(DO $$ BEGIN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01', DETAIL = 'Process 1 waits for ShareLock on transaction 1; blocked by process 2.'; END $$));
is($observer->error->{C}, '40P01', 'an error of a function');
is($observer->value("SELECT count(*) FROM lockguard.deadlocks WHERE deadlock_id > $seen"), 0, 'is no deadlock');

# With errors left out of the server log, nothing is seen.
{
	my @s = (session($node, 'S1'), victim('S2'));

	$s[1]->query_ok("SET log_min_messages = 'fatal'");
	deadlock('not logged', $by_hand, $by_hand, @s);
	is($observer->value("SELECT count(*) FROM lockguard.deadlocks WHERE deadlock_id > $seen"), 0, 'not logged: no row');
	$_->close foreach @s;
}

# Counters, and functions with what is not there.
is($observer->value('SELECT deadlocks FROM lockguard.stats'), $seen, 'all were counted');
$observer->query_ok('SELECT lockguard.reset_stats()');
is($observer->value('SELECT deadlocks FROM lockguard.stats'), 0, 'until the counters are reset');
is($observer->query('SELECT lockguard.deadlock_report(1000000)')->{error}{C}, '42704', 'no such deadlock: an error');
like($observer->error->{M}, qr/^deadlock 1000000 does not exist$/, 'that says so');
ok($observer->query("SELECT lockguard.deadlock_report($_)")->{error}, "deadlock_report($_): an error")
  foreach '0', '-1', '9223372036854775807', '-9223372036854775808';

# On a standby.
{
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	$node->backup('backup');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	my $reader = LockguardTest::Session->new($standby, 'reader');
	my @s = map { LockguardTest::Session->new($standby, $_) } 'S1', 'S2';
	my $offset = -s $standby->logfile;

	$_->query_ok('BEGIN') foreach @s;
	$s[1]->query_ok("SET deadlock_timeout = '5ms'");
	$s[0]->query_ok('SELECT pg_advisory_xact_lock(1)');
	$s[1]->query_ok('SELECT pg_advisory_xact_lock(2)');
	$s[0]->start('SELECT pg_advisory_xact_lock(2)');
	is_waiting($reader, $s[0]);
	$s[1]->query('SELECT pg_advisory_xact_lock(1)');
	$s[1]->query('ROLLBACK');
	succeeds($s[0], 'standby');
	my $graph = $reader->value('SELECT graph FROM lockguard.deadlocks WHERE pid = ' . $s[1]->pid . ' ORDER BY 1 DESC LIMIT 1');
	is(join('', $graph =~ /^(\d+ waits for [^\n]*\n)/mg), logged($offset, $standby->logfile)->{ $s[1]->pid }{edges}, 'standby: the cycle');
	$_->close foreach $reader, @s;
	$standby->stop;
}

# Very many: the last ones are kept.
my $kept;
sub history { return join "\n", map { join '|', @$_ } $observer->rows('TABLE lockguard.deadlocks'); }
{
	my @s = (session($node, 'S1'), victim('S2'));

	foreach my $i (1 .. 200)
	{
		$_->query_ok('BEGIN') foreach @s;
		$s[0]->query_ok('SELECT pg_advisory_xact_lock(1)');
		$s[1]->query_ok('SELECT pg_advisory_xact_lock(2)');
		$s[0]->start('SELECT pg_advisory_xact_lock(2)');
		$s[1]->query("SELECT pg_advisory_xact_lock(1), $i");
		if (!$s[1]->error || $s[1]->error->{C} ne '40P01')
		{
			fail("deadlock $i");
			last;
		}
		$s[1]->query_ok('ROLLBACK');
		$s[0]->finish;
		$s[0]->query_ok('ROLLBACK');
	}
	is($observer->value("SELECT count(*) || ' ' || min(deadlock_id) - $seen || ' ' || max(deadlock_id) - $seen FROM lockguard.deadlocks"),
		'100 101 200', 'of 200, the last 100 are kept');
	is($observer->value('SELECT query FROM lockguard.deadlocks ORDER BY deadlock_id LIMIT 1'),
		'SELECT pg_advisory_xact_lock(1), 101', 'the oldest are lost');
	is($observer->value('SELECT deadlocks FROM lockguard.stats'), 200, 'all are counted');
	$_->close foreach @s;
	$kept = history();
}

# They survive a restart, and all but what is damaged survives damage.
{
	my $file = $node->data_dir . '/pg_stat/lockguard.stat';

	$observer->close;
	$node->restart;
	$observer = LockguardTest::Session->new($node, 'observer');
	is(history(), $kept, 'a restart keeps them');
	$observer->close;
	$node->stop;

	my $bytes = slurp_file($file);
	my $at = index $bytes, 'SELECT pg_advisory_xact_lock(1), 150';
	cmp_ok($at, '>', 0, 'the file has them');
	substr($bytes, $at, 1) = 's';
	open my $out, '>:raw', $file or die $!;
	print $out $bytes;
	close $out;
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	is($observer->value("SELECT count(*) || ' ' || count(*) FILTER (WHERE query LIKE '%, 150') FROM lockguard.deadlocks"),
		'99 0', 'of a damaged file all but the damaged one');
	ok(-f "$file.damaged" || $observer->poll(q(SELECT count(*) FROM pg_ls_dir('pg_stat') f WHERE f LIKE '%damaged'), 1), 'which is moved aside');
	my @s = (session($node, 'S1'), victim('S2'));
	deadlock('next', $by_hand, $by_hand, @s);
	is($observer->value('SELECT max(deadlock_id) FROM lockguard.deadlocks'), $seen + 201, 'numbers go on');
	$_->close foreach @s;
	$observer->query_ok('SELECT lockguard.reset_history()');
	is($observer->value('SELECT count(*) FROM lockguard.deadlocks'), 0, 'reset_history() forgets them');
}

# In languages that have another order of words.
SKIP:
{
	my $configure = `"$ENV{PG_CONFIG}" --configure` || '';
	my @languages = qw(de ja zh_CN ru ko);

	# With a locale that is there always, the translations can be chosen by this.
	skip 'the server has no translations', 1 if $configure !~ /enable-nls/;
	foreach my $language (@languages)
	{
		$observer->close;
		$node->stop;
		{
			local $ENV{LANGUAGE} = $language;
			$node->start;
		}
		$observer = LockguardTest::Session->new($node, 'observer');
		$observer->query_ok($_) foreach "ALTER SYSTEM SET lc_messages = 'C.UTF-8'", 'SELECT pg_reload_conf()';
		$observer->poll('SHOW lc_messages', 'C.UTF-8');
		my $detail = '';
		my %lock = (
			'row' => sub { 'UPDATE t SET v = v + 1 WHERE id = ' . ($_[0] + 1) },
			'table' => sub { 'LOCK ' . (qw(a b c))[ $_[0] ] },
			'advisory' => $by_hand);
		foreach my $kind (sort keys %lock)
		{
			my @s = (session($node, 'S1'), session($node, 'S2'), victim('S3'));
			my ($p1, $p2, $p3) = map { $_->pid } @s;

			deadlock("$language $kind", $lock{$kind}, $lock{$kind}, @s);
			$detail = $s[2]->{errors}[0]{D};
			my $graph = $observer->value('SELECT graph FROM lockguard.deadlocks ORDER BY deadlock_id DESC LIMIT 1');
			my $what = {
				row => qr/ShareLock on transaction \d+/,
				table => qr/AccessExclusiveLock on relation \d+ in database \d+/,
				advisory => qr/ExclusiveLock on advisory lock \d/
			}->{$kind};
			like($graph, qr/\A$p3 waits for $what, blocked by $p1\n$p1 waits for $what, blocked by $p2\n$p2 waits for $what, blocked by $p3\n/,
				"$language $kind: the cycle");
			is(statement_of({ graph => $graph }, $s[$_]), $lock{$kind}->(($_ + 1) % 3), "$language $kind: statement $_") foreach 0 .. 2;
			$_->close foreach @s;
		}
		late("$language late");
		isnt($detail, '', "$language: a DETAIL");
		# The server's translations may be of another version, or not installed.
		note "$language: which was not translated" if $detail =~ /waits for/;
	}
}

$observer->close;
$node->stop;
done_testing();
