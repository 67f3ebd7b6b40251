# Incidents: each way in which one can end, and the figures that are kept,
# compared with what the test did.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

chomp(my $libdir = `pg_config --pkglibdir`);
my $statements = -e "$libdir/pg_stat_statements.so"
  || -e "$libdir/pg_stat_statements.dylib";

my $node = lockguard_node('main', conf => <<"CONF");
shared_preload_libraries = '@{[ $statements ? 'pg_stat_statements, ' : '' ]}lockguard'
compute_query_id = on
max_prepared_transactions = 5
lockguard.incident_threshold = '300ms'
lockguard.naptime = '20ms'
CONF
create_t($node);
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE app LOGIN;
CREATE ROLE nosy LOGIN;
CREATE ROLE monitor LOGIN IN ROLE pg_read_all_stats;
GRANT ALL ON t TO app;
SQL
my $observer = LockguardTest::Session->new($node, 'observer');

sub session
{
	my ($name, %opt) = @_;
	return LockguardTest::Session->new($node, $name, %opt);
}

# The sessions are done: commit, and go.
sub finish
{
	foreach my $session (@_)
	{
		$session->finish if !$session->closed;
		$session->query('ROLLBACK') if !$session->closed;
		$session->close if !$session->closed;
	}
	return;
}

# Let it be the root: in a transaction, with that row locked.
sub lock_row
{
	my ($session, $id) = @_;

	$session->query_ok('BEGIN') if $session->{status} eq 'I';
	$session->query_ok("UPDATE t SET v = v + 1 WHERE id = $id");
	return;
}

sub wait_for_row
{
	my ($session, $id) = @_;

	$session->start("UPDATE t SET v = v + 1 WHERE id = $id");
	is_waiting($observer, $session);
	return;
}

# The row of the last incident with that root, as a hash; times as epochs.
sub incident
{
	my ($root, $by) = @_;
	my @columns = qw(incident_id status root_pid gid usename datname
	  application_name backend_type state query queryid locktype
	  peak_blocked_sessions resolution replaced_by lock_tree);
	my @times = qw(started_at ended_at peak_at longest_wait total_wait);
	my $pid = ref $root ? $root->pid : $root;
	my ($row) = ($by || $observer)->rows('SELECT '
		  . join(', ', @columns, map { "extract(epoch FROM $_)" } @times)
		  . " FROM lockguard.incidents WHERE root_pid = $pid"
		  . ' ORDER BY incident_id DESC LIMIT 1');
	my %incident;

	@incident{ @columns, @times } = @{ $row || [] };
	return \%incident;
}

sub count_incidents
{
	return $observer->value('SELECT count(*) FROM lockguard.incidents');
}

# Wait for an incident of that root with so many blocked; returns it.
sub is_open
{
	my ($root, $blocked) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $pid = ref $root ? $root->pid : $root;

	ok( $observer->poll(
			"SELECT count(*) FROM lockguard.incidents WHERE root_pid = $pid"
			  . " AND status = 'open' AND ended_at IS NULL AND resolution IS NULL"
			  . " AND peak_blocked_sessions = $blocked",
			1),
		'an incident is open');
	return incident($root);
}

# Wait for its end; returns it.
sub is_closed
{
	my ($id, $resolution) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok( $observer->poll(
			"SELECT status FROM lockguard.incidents WHERE incident_id = $id",
			'closed'),
		'the incident is closed');
	my ($pid) =
	  map { $_->[0] } $observer->rows(
		"SELECT root_pid FROM lockguard.incidents WHERE incident_id = $id");
	is( $observer->value(
			"SELECT resolution FROM lockguard.incidents WHERE incident_id = $id"
		),
		$resolution,
		"as $resolution");
	my $incident = incident($pid);
	return $incident->{incident_id} == $id ? $incident : undef;
}

sub between
{
	my ($value, $low, $high, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# Two clocks are compared: the worker reads its own just before or after.
	return ok(
		defined $value && $value >= $low - 0.005 && $value <= $high + 0.005,
		$what)
	  || diag "got: "
	  . (defined $value ? $value : 'null')
	  . ", expected from $low to $high";
}

sub now { return $observer->value('SELECT extract(epoch FROM clock_timestamp())'); }

sub wait_start
{
	my ($session) = @_;
	return $observer->value(
		'SELECT extract(epoch FROM waitstart) FROM pg_locks WHERE NOT granted AND pid = '
		  . $session->pid);
}

# Only S1 is to blame, which releases its locks by itself.  The tree grows to three
# and shrinks to two; each of the figures is known before the look and after.
{
	my ($s1, $s2, $s3, $s4) = map { session("S$_") } 1 .. 4;
	my $offset = -s $node->logfile;
	my (%begin, %seen, %end);

	my $before = now();
	lock_row($s1, 1);
	my $idle = now();
	wait_for_row($s2, 1);
	my $incident = is_open($s1, 1);
	my $id = $incident->{incident_id};
	is($incident->{query}, 'UPDATE t SET v = v + 1 WHERE id = 1',
		'with the query of the root');
	is($incident->{state}, 'idle in transaction', 'its state');
	is($incident->{application_name}, 'S1', 'its application');
	is($incident->{backend_type}, 'client backend', 'what it is');
	is($incident->{locktype}, 'transactionid', 'and the lock');
	wait_for_row($s3, 1);
	wait_for_row($s4, 1);
	is_open($s1, 3);
	$begin{$_} = wait_start($_) foreach $s2, $s3, $s4;
	my $grown = now();
	is_root_of($observer, $s1, $s2, $s3, $s4);

	$observer->query_ok('SELECT lockguard.scan()');
	$seen{$s4} = $grown;
	$observer->query_ok('SELECT pg_cancel_backend(' . $s4->pid . ')');
	$s4->finish;
	$end{$s4} = now();
	scan($observer);
	$incident = incident($s1);
	is($incident->{status}, 'open', 'it continues while the tree shrinks');
	is($incident->{peak_blocked_sessions}, 3, 'and the peak stays');
	is($incident->{incident_id}, $id, 'it is the same incident');

	$seen{$_} = now() foreach $s2, $s3;
	$observer->query_ok('SELECT lockguard.scan()');
	my $commit = now();
	$s1->query_ok('COMMIT');
	$incident = is_closed($id, 'released');
	my $closed = now();
	$end{$_} = $closed foreach $s2, $s3;
	succeeds($_, 'UPDATE') foreach $s2, $s3;

	is($incident->{peak_blocked_sessions}, 3, 'peak: exactly three');
	between($incident->{started_at}, $begin{$s2}, $begin{$s2},
		'it began when the first one began to wait');
	between($incident->{ended_at}, $commit, $closed, 'and ended with COMMIT');
	between($incident->{peak_at}, $begin{$s4}, $grown,
		'the peak was when the third one came');
	between($incident->{longest_wait}, $seen{$s2} - $begin{$s2},
		$closed - $begin{$s2}, 'longest wait: the first one');
	my ($least, $most) = (0, 0);
	foreach my $session ($s2, $s3, $s4)
	{
		$least += $seen{$session} - $begin{$session};
		$most += $end{$session} - $begin{$session};
	}
	between($incident->{total_wait}, $least, $most,
		'session time lost: of all three');

	my ($p1, $p2, $p3, $p4) = map { $_->pid } $s1, $s2, $s3, $s4;
	my $update = quotemeta 'UPDATE t SET v = v + 1 WHERE id = 1';
	like(
		$incident->{lock_tree},
		qr/^$p1\ \S+\ \(S1\),\ idle\ in\ transaction(?:\ \([^)]*\))?,\ blocking\ 3\ sessions\ for\ [^:]+:\ $update\n
		   \ \ ->\ $p2\ \S+\ \(S2\)[^\n]*\ waits\ [^\n]+\ for\ ShareLock\ on\ transaction\ \d+[^\n]*:\ $update\n
		   (?:\ +->\ (?:$p3|$p4)\ \S+\ \(S[34]\)[^\n]*\ waits\ [^\n]+\ for\ ExclusiveLock\ on\ tuple[^\n]*:\ $update\n?){2}$/x,
		'the tree at its worst, with all queries');

	$node->wait_for_log(qr/lockguard: incident $id ended/, $offset);
	my $log = slurp_file($node->logfile, $offset);
	like(
		$log,
		qr/LOG:\s+lockguard:\ incident\ $id\ begins:\ process\ $p1\ \(user\ "[^"]+",\ database\ "postgres",\ application\ "S1"\)
		   \ blocks\ 1\ session,\ for\ \d+\ ms\ so\ far\n
		   [^\n]*DETAIL:\s+Lock\ tree:\n
		   \s*$p1\ [^\n]*\(S1\)[^\n]*\n
		   \s+->\ $p2\ [^\n]*\(S2\)/x,
		'the log tells of the beginning, with the tree');
	like(
		$log,
		qr/LOG:\s+lockguard:\ incident\ $id\ ended\ after\ [^\n]+\ \(released\):\ process\ $p1\ \([^\n]+\)\ blocked\ up\ to\ 3\ sessions\n
		   [^\n]*DETAIL:\s+Longest\ wait\ [^;\n]+;\ [^;\n]+\ of\ session\ time\ lost\./x,
		'and of the end, with the figures');
	is(() = $log =~ /lockguard: incident \d+ (?:begins|ended)/g,
		2, 'and of nothing else');
	is($observer->value('SELECT count(*) FROM lockguard.actions'),
		0, 'nothing was done about it');
	finish($s1, $s2, $s3, $s4);
}

# The root's client goes away.
{
	my ($s1, $s2) = map { session("S$_") } 1 .. 2;

	lock_row($s1, 1);
	wait_for_row($s2, 1);
	my $id = is_open($s1, 1)->{incident_id};
	$s1->close;
	is_closed($id, 'session ended');
	finish($s2);
}

# A limit rolls the root back.
{
	my ($s1, $s2) = map { session("S$_") } 1 .. 2;

	forget_actions($observer);
	$s1->query_ok("SET lockguard.idle_blocker_timeout = '600ms'");
	lock_row($s1, 1);
	wait_for_row($s2, 1);
	my $id = is_open($s1, 1)->{incident_id};
	is_rolled_back($observer, $s1, 'idle_blocker_timeout');
	is_closed($id, 'rolled back');
	is_actions($observer,
		[ { pid => $s1, action => 'rollback', result => 'released' } ]);
	is( $observer->value('SELECT array_agg(incident_id) FROM lockguard.actions'),
		"{$id}", 'the action belongs to the incident');
	finish($s1, $s2);
}

# A limit terminates the root, which is in no transaction.
{
	my ($s1, $s2) = map { session("S$_") } 1 .. 2;

	$s1->query_ok($_) foreach "SET lockguard.idle_blocker_timeout = '600ms'", 'SELECT pg_advisory_lock(1)';
	$s2->start('SELECT pg_advisory_lock(1)');
	my $id = is_open($s1, 1)->{incident_id};
	is_terminated($s1, 'idle_blocker_timeout');
	is_closed($id, 'terminated');
	is_actions($observer,
		[ { pid => $s1, action => 'terminate', result => 'released' } ]);
	finish($s2);
}

# A limit cancels its statement, which ends the transaction.
{
	my ($s1, $s2) = map { session("S$_") } 1 .. 2;

	forget_actions($observer);
	$s1->query_ok("SET lockguard.blocker_timeout = '600ms'");
	lock_row($s1, 1);
	$s1->start('SELECT pg_sleep(1000)');
	wait_for_row($s2, 1);
	my $id = is_open($s1, 1)->{incident_id};
	is_cancelled($s1, 'blocker_timeout');
	is_closed($id, 'cancelled');
	is_actions($observer,
		[ { pid => $s1, action => 'cancel', result => 'released' } ]);
	is( $observer->value(
			"SELECT count(*) FROM lockguard.actions WHERE incident_id = $id"),
		1, 'the action belongs to the incident');
	finish($s1, $s2);
}

# The ALTER TABLE in the queue is cancelled, and the root continues.
{
	my ($s1, $s2, $s3) = map { session("S$_") } 1 .. 3;

	forget_actions($observer);
	$s2->query_ok("SET lockguard.queued_blocker_timeout = '600ms'");
	$s1->query_ok($_)
	  foreach 'BEGIN', 'LOCK TABLE t IN ACCESS SHARE MODE';
	$s2->start('ALTER TABLE t ADD queued int');
	is_waiting($observer, $s2);
	$s3->start('SELECT count(*) FROM t');
	is_blocked_by($observer, $s3, $s2);
	my $id = is_open($s1, 2)->{incident_id};
	is_cancelled($s2, 'queued_blocker_timeout');
	succeeds($s3, 'SELECT');
	my $incident = is_closed($id, 'cancelled');
	is($incident->{locktype}, 'relation', 'it was about a table');
	is_alive($s1, 'T');
	forget_actions($observer);
	finish($s1, $s2, $s3);
}

# A user ends it with a function of lockguard.
{
	my ($s1, $s2) = map { session("S$_") } 1 .. 2;

	lock_row($s1, 1);
	wait_for_row($s2, 1);
	my $id = is_open($s1, 1)->{incident_id};
	$observer->query_ok(
		'SELECT lockguard.terminate_blockers(' . $s2->pid . ')');
	$s1->wait_closed;
	is_closed($id, 'terminated');
	is( $observer->value(
			"SELECT count(*) FROM lockguard.actions WHERE incident_id = $id"),
		1, 'what was asked for by hand belongs to the incident, too');
	forget_actions($observer);
	finish($s2);
}

# A prepared transaction is rolled back; another is committed.
foreach my $resolution ('rolled back', 'released')
{
	my ($s1, $s2) = map { session("S$_") } 1 .. 2;

	forget_actions($observer);
	lock_row($s1, 1);
	$s1->query_ok("PREPARE TRANSACTION 'gid of $resolution'");
	wait_for_row($s2, 1);
	my $incident = is_open(0, 1);
	my $id = $incident->{incident_id};
	is($incident->{gid}, "gid of $resolution", 'with its gid');
	is($incident->{backend_type}, 'prepared transaction', 'what it is');
	is($incident->{datname}, 'postgres', 'its database');
	is($incident->{usename}, scalar(getpwuid($>)), 'and its role');
	like(
		$incident->{lock_tree},
		qr/^prepared transaction "gid of $resolution", blocking 1 session/,
		'in the tree, too');
	if ($resolution eq 'released')
	{
		$observer->query_ok("COMMIT PREPARED 'gid of $resolution'");
	}
	else
	{
		configure($observer,
			prepared_transaction_action => 'rollback',
			prepared_transaction_timeout => '100ms');
	}
	is_closed($id, $resolution);
	succeeds($s2, 'UPDATE');
	if ($resolution eq 'rolled back')
	{
		is( $observer->value(
				"SELECT action FROM lockguard.actions WHERE incident_id = $id"),
			'rollback',
			'the action belongs to the incident');
		configure($observer,
			prepared_transaction_action => undef,
			prepared_transaction_timeout => undef);
	}
	forget_actions($observer);
	finish($s1, $s2);
}

# The root begins to wait for another root, and becomes root again later.
{
	my ($s0, $s1, $s2) = map { session("S$_") } 0 .. 2;

	lock_row($s0, 9);
	lock_row($s1, 1);
	wait_for_row($s2, 1);
	my $id = is_open($s1, 1)->{incident_id};
	my $waited = now() - wait_start($s2);
	$s1->start('UPDATE t SET v = v + 1 WHERE id = 9');
	is_closed($id, 'replaced');
	my $other = is_open($s0, 2);
	my $since = wait_start($s1);
	is( $observer->value(
			"SELECT replaced_by FROM lockguard.incidents WHERE incident_id = $id"
		),
		$other->{incident_id},
		'it is linked to the one that took over');
	between($other->{started_at}, $since, $since,
		'which began when the old root began to wait for it');
	scan($observer);
	$other = incident($s0);
	between(
		$other->{total_wait}, 0,
		2 * (now() - $since),
		'what had been waited before is not its fault');
	$s0->query_ok('COMMIT');
	is_closed($other->{incident_id}, 'released');
	succeeds($s1, 'UPDATE');

	# S2 has waited for S1 all the time.
	my $again = is_open($s1, 1);
	cmp_ok($again->{incident_id}, '>', $other->{incident_id},
		'the old root opens another incident');
	$s1->query_ok('COMMIT');
	is_closed($again->{incident_id}, 'released');
	finish($s0, $s1, $s2);
}

# A tree with two branches: each session stands below whom it waits for.
{
	my ($s1, $s2, $s3, $s4, $s5) = map { session("S$_") } 1 .. 5;

	lock_row($s1, 1);
	lock_row($s1, 2);
	lock_row($s2, 3);
	lock_row($s3, 4);
	wait_for_row($s2, 1);
	wait_for_row($s3, 2);
	wait_for_row($s4, 3);
	wait_for_row($s5, 4);
	my $incident = is_open($s1, 4);
	my @names = $incident->{lock_tree} =~ /^( *)(?:-> )?\d+ \S+ \((S\d)\)/mg;
	my $drawn = '';
	while (my ($indent, $name) = splice @names, 0, 2)
	{
		$drawn .= length($indent) / 2 . $name . ' ';
	}
	ok( $drawn eq '0S1 1S2 2S4 1S3 2S5 ' || $drawn eq '0S1 1S3 2S5 1S2 2S4 ',
		'each session is drawn below the one that it waits for')
	  || diag $drawn;
	$s1->query_ok('COMMIT');
	is_closed($incident->{incident_id}, 'released');
	$s2->finish;
	$s2->query_ok('COMMIT');
	$s3->finish;
	$s3->query_ok('COMMIT');
	finish($s1, $s2, $s3, $s4, $s5);
}

# A large tree with long queries: all are counted, not all are kept.
{
	my $s1 = session('S1');
	my @crowd = map { session("C$_") } 1 .. 25;
	my $long = 'x' x 3000;

	lock_row($s1, 1);
	$_->start("UPDATE t SET v = v + 1 WHERE id = 1 -- $long") foreach @crowd;
	my $incident = is_open($s1, 25);
	my $lines = () = $incident->{lock_tree} =~ /^ +-> /mg;
	my ($left_out) = $incident->{lock_tree} =~ /^\.\.\. and (\d+) more$/m;
	cmp_ok($lines, '>', 10, 'many are in the tree');
	is($lines + ($left_out || 0), 25, 'and it says how many are not');
	cmp_ok(length $incident->{lock_tree}, '<', 16_000, 'it is of limited size');
	like(
		$observer->value("SELECT lockguard.report($incident->{incident_id})"),
		qr/^$left_out more sessions could not be kept\.$/m,
		'the report says so, too');
	$s1->query_ok('COMMIT');
	is_closed($incident->{incident_id}, 'released');
	finish($s1, @crowd);
}

# dry_run: an incident as ever, and the action that would have been belongs
# to it.
{
	my ($s1, $s2) = map { session("S$_") } 1 .. 2;

	configure($observer, dry_run => 'on');
	$s1->query_ok("SET lockguard.idle_blocker_timeout = '600ms'");
	lock_row($s1, 1);
	wait_for_row($s2, 1);
	my $id = is_open($s1, 1)->{incident_id};
	is_actions($observer,
		[ { pid => $s1, action => 'rollback', result => 'logged' } ]);
	is( $observer->value(
			"SELECT count(*) FROM lockguard.actions WHERE incident_id = $id AND dry_run"
		),
		1,
		'recorded as part of the incident');
	$s1->query_ok('COMMIT');
	is_closed($id, 'released');
	configure($observer, dry_run => undef);
	finish($s1, $s2);
}

# autovacuum blocks, until PostgreSQL itself cancels it.
{
	my $s1 = session('S1');

	$observer->query_ok($_) foreach <<'SQL', 'UPDATE vacuumed SET v = v + 1',
CREATE TABLE vacuumed WITH (autovacuum_vacuum_cost_delay = 100,
    autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 1) AS
SELECT i AS id, 0 AS v, repeat('x', 500) AS fill FROM generate_series(1, 3000) i
SQL
	  "ALTER SYSTEM SET autovacuum_naptime = '1s'",
	  'ALTER SYSTEM SET autovacuum = on', 'SELECT pg_reload_conf()';
	my $vacuum =
	  "SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
	  . " AND query LIKE '%vacuumed%'";
	ok($observer->poll("SELECT count(*) FROM ($vacuum) v", 1),
		'autovacuum is at work');
	my $pid = $observer->value($vacuum);

	# Not before the incident is there.
	$s1->query_ok("SET deadlock_timeout = '1d'");
	$s1->start('ALTER TABLE vacuumed ADD c int');
	my $incident = is_open($pid, 1);
	is($incident->{backend_type}, 'autovacuum worker', 'the root is autovacuum');
	like(
		$incident->{lock_tree},
		qr/^$pid autovacuum worker, [^\n]*blocking 1 session/,
		'in the tree, too');
	$observer->query_ok("SELECT pg_cancel_backend($pid)");
	succeeds($s1, 'ALTER TABLE');
	$observer->poll(
		"SELECT status FROM lockguard.incidents WHERE incident_id = $incident->{incident_id}",
		'closed');
	like(incident($pid)->{resolution},
		qr/^(?:released|session ended)$/, 'it has released its locks');
	$observer->query_ok($_)
	  foreach 'ALTER SYSTEM RESET autovacuum', 'SELECT pg_reload_conf()';
	finish($s1);
}

# Who has no right to see what others do does not see it here.
{
	my $s1 = session('S1', user => 'app');
	my $s2 = session('S2');
	my $s3 = session('S3', user => 'app');

	$s1->query_ok('BEGIN');
	$s1->query_ok("UPDATE t SET v = v + 1 WHERE id = 1 /* secret of app */");
	$s2->start('UPDATE t SET v = v + 1 WHERE id = 1 /* secret of super */');
	is_waiting($observer, $s2);
	$s3->start('UPDATE t SET v = v + 1 WHERE id = 1 /* secret of app */');
	is_waiting($observer, $s3);
	my $id = is_open($s1, 2)->{incident_id};

	my %sees = (
		nosy => '',
		app => 'app',
		monitor => 'app super');
	foreach my $user (sort keys %sees)
	{
		my $reader = session('reader', user => $user);
		my $incident = incident($s1, $reader);
		my $report = $reader->value("SELECT lockguard.report($id)");
		my $root = $sees{$user} =~ /app/;
		my $secrets = sub {
			my %found = map { $_ => 1 } $_[0] =~ /secret of (\w+)/g;
			return join ' ', sort keys %found;
		};

		is($secrets->($incident->{lock_tree}),
			$sees{$user}, "$user: queries in the tree");
		is($secrets->($report), $sees{$user}, "$user: queries in the report");
		is($secrets->($incident->{query}),
			$root ? 'app' : '', "$user: the root's query");
		is($incident->{state}, $root ? 'idle in transaction' : undef,
			"$user: its state");
		is(defined $incident->{queryid},
			$root ? 1 : '', "$user: its query id, as in pg_stat_activity");
		is($incident->{usename}, 'app', "$user: its role");
		is($report =~ /idle/ || $incident->{lock_tree} =~ /idle/ ? 1 : 0,
			$root ? 1 : 0, "$user: state in report and tree");
		is($report =~ /queryid/ ? 1 : 0,
			$root ? 1 : 0, "$user: query id in the report");
		is( $reader->value(
				'SELECT count(*) > 0 FROM lockguard.contention'
				  . " WHERE usename = 'app' AND queryid IS NOT NULL"),
			$root ? 't' : 'f',
			"$user: query id in contention");
		$reader->close;
	}
	$s1->query_ok('COMMIT');
	is_closed($id, 'released');
	finish($s1, $s2, $s3);
}

# Who pays: figures of one root, and which statement it was.
{
	$observer->query_ok(
		"ALTER ROLE app SET lockguard.idle_blocker_timeout = '1s'");
	my $s1 = session('S1', user => 'app');
	my ($s2, $s3) = map { session("S$_") } 2 .. 3;

	$observer->query_ok('CREATE EXTENSION pg_stat_statements') if $statements;
	$observer->query_ok('SELECT lockguard.reset_stats()');
	is($observer->value('SELECT count(*) FROM lockguard.contention'),
		0, 'contention begins anew');
	lock_row($s1, 7);
	wait_for_row($s2, 7);
	wait_for_row($s3, 7);
	my $begin2 = wait_start($s2);
	my $begin3 = wait_start($s3);
	my $id = is_open($s1, 2)->{incident_id};
	my $seen = now();
	scan($observer);
	is_rolled_back($observer, $s1, 'idle_blocker_timeout');
	is_closed($id, 'rolled back');
	my $end = now();
	finish($s1, $s2, $s3);

	my @rows = $observer->rows(
		'SELECT datname, incidents, blocked_sessions, actions, queryid,'
		  . ' extract(epoch FROM total_wait), extract(epoch FROM longest_wait)'
		  . " FROM lockguard.contention WHERE usename = 'app'");
	is(@rows, 1, 'one statement of one role');
	is_deeply([ @{ $rows[0] }[ 0 .. 3 ] ],
		[ 'postgres', 1, 2, 1 ],
		'its database, incidents, sessions blocked, and actions');
	between(
		$rows[0][5],
		2 * $seen - $begin2 - $begin3,
		2 * $end - $begin2 - $begin3,
		'session time lost');
	between($rows[0][6], $seen - $begin2, $end - $begin2, 'longest wait');
	is(incident($s1)->{queryid}, $rows[0][4], 'the incident names it, too');
	is( $observer->value(
			'SELECT min(query) FROM lockguard.contention JOIN pg_stat_statements USING (queryid)'
			  . " WHERE usename = 'app'"),
		'UPDATE t SET v = v + $1 WHERE id = $2',
		'it joins with pg_stat_statements') if $statements;
	$observer->query_ok('ALTER ROLE app RESET lockguard.idle_blocker_timeout');
	forget_actions($observer);
}

# Below the threshold there is no incident, but a scan that sees the wait
# counts it.
{
	my ($s1, $s2) = map { session("S$_") } 1 .. 2;
	my $incidents = count_incidents();

	configure($observer, incident_threshold => '1h');
	$observer->query_ok('SELECT lockguard.reset_stats()');
	lock_row($s1, 1);
	wait_for_row($s2, 1);
	my $begin = wait_start($s2);
	ok($observer->poll("SELECT now() - to_timestamp($begin) > '400 ms'"),
		'it waits for longer than the threshold was');
	scan($observer);
	is(count_incidents(), $incidents, 'incident_threshold decides');
	is_deeply(
		[
			$observer->rows(
				'SELECT incidents, blocked_sessions, actions, total_wait > \'400 ms\''
				  . ' FROM lockguard.contention')
		],
		[ [ 0, 1, 0, 't' ] ],
		'but what was seen is counted');

	# With the new threshold it has lasted long enough; nothing in the log.
	my $offset = -s $node->logfile;
	configure($observer, incident_threshold => undef, log_incidents => 'off');
	my $id = is_open($s1, 1)->{incident_id};
	$s1->query_ok('COMMIT');
	is_closed($id, 'released');
	unlike(slurp_file($node->logfile, $offset),
		qr/lockguard: incident/, 'log_incidents = off: not a word in the log');
	configure($observer, log_incidents => undef);
	finish($s1, $s2);
}

# What happens while the worker does not look.  Needs its wait points.
SKIP:
{
	skip 'built without wait points', 1
	  unless $observer->value(
		q(SELECT count(*) FROM pg_settings WHERE name = 'lockguard.debug_wait_at'));

	my $stop = sub {
		my ($point) = @_;

		$observer->query_ok($_)
		  foreach "ALTER SYSTEM SET lockguard.debug_wait_at = '$point'",
		  'SELECT pg_reload_conf()';
		ok( $observer->poll(
				"SELECT query FROM pg_stat_activity WHERE backend_type = 'lockguard'",
				$point),
			"the worker stands still at $point");
	};
	my $go = sub {
		$observer->query_ok($_)
		  foreach 'ALTER SYSTEM RESET lockguard.debug_wait_at',
		  'SELECT pg_reload_conf()';
		scan($observer);
	};
	my ($s1, $s2, $s3) = map { session("S$_") } 1 .. 3;

	# One prepared transaction after the other, in the same place.
	lock_row($s1, 1);
	$s1->query_ok(q(PREPARE TRANSACTION 'one'));
	wait_for_row($s2, 1);
	my $id = is_open(0, 1)->{incident_id};
	$stop->('after_act');
	$observer->query_ok(q(COMMIT PREPARED 'one'));
	succeeds($s2, 'UPDATE');
	lock_row($s1, 2);
	$s1->query_ok(q(PREPARE TRANSACTION 'two'));
	wait_for_row($s3, 2);
	ok($observer->poll('SELECT now() - to_timestamp(' . wait_start($s3) . ") > '100 ms'"),
		'it waits for long enough to be looked at');
	$go->();
	is_closed($id, 'released');
	my $next = is_open(0, 1);
	is($next->{gid}, 'two', 'the next prepared transaction is another incident');
	$observer->query_ok(q(COMMIT PREPARED 'two'));
	is_closed($next->{incident_id}, 'released');
	succeeds($s3, 'UPDATE');

	# One transaction of a session after the other.
	lock_row($s1, 1);
	wait_for_row($s2, 1);
	$id = is_open($s1, 1)->{incident_id};
	$stop->('after_act');
	$s1->query_ok('COMMIT');
	succeeds($s2, 'UPDATE');
	lock_row($s1, 2);
	wait_for_row($s3, 2);
	ok($observer->poll('SELECT now() - to_timestamp(' . wait_start($s3) . ") > '100 ms'"),
		'it waits for long enough to be looked at');
	$go->();
	is_closed($id, 'released');
	$next = is_open($s1, 1);
	cmp_ok($next->{incident_id}, '>', $id,
		'the next transaction is another incident');
	$s1->query_ok('COMMIT');
	succeeds($s3, 'UPDATE');
	is_closed($next->{incident_id}, 'released');

	# Cancelled, and the client has left before the next look.
	$s1->query_ok("SET lockguard.blocker_timeout = '1s'");
	lock_row($s1, 1);
	$s1->start('SELECT pg_sleep(1000)');
	wait_for_row($s2, 1);
	$id = is_open($s1, 1)->{incident_id};
	$stop->('before_signal');
	$stop->('after_act');
	$s1->finish;
	$s1->close;
	succeeds($s2, 'UPDATE');
	ok( $observer->poll(
			'SELECT count(*) FROM pg_stat_activity WHERE pid = ' . $s1->pid, 0),
		'the session is gone');
	$go->();
	is_closed($id, 'cancelled');

	# The worker fails while an incident is open, and takes it up again.
	forget_actions($observer);
	$s1 = session('S1');
	lock_row($s1, 1);
	wait_for_row($s2, 1);
	$id = is_open($s1, 1)->{incident_id};
	my $started = $observer->value("SELECT started_at FROM lockguard.incidents WHERE incident_id = $id");
	my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');
	$observer->query_ok($_)
	  foreach "ALTER SYSTEM SET lockguard.debug_error_at = 'after_act'",
	  'SELECT pg_reload_conf()';
	ok( $observer->poll("SELECT worker_pid IS DISTINCT FROM $worker FROM lockguard.stats"),
		'the worker has failed');
	$observer->query_ok($_)
	  foreach 'ALTER SYSTEM RESET lockguard.debug_error_at',
	  'SELECT pg_reload_conf()';
	wait_for_row($s3, 1);
	is(is_open($s1, 2)->{incident_id},
		$id, 'the next worker continues the incident');
	is($observer->value("SELECT started_at FROM lockguard.incidents WHERE incident_id = $id"),
		$started, 'which began when it began');
	$s1->query_ok('COMMIT');
	is_closed($id, 'released');
	finish($s1, $s2, $s3);
}

# An open incident at the end of the server.
{
	my ($s1, $s2) = map { session("S$_") } 1 .. 2;

	lock_row($s1, 1);
	wait_for_row($s2, 1);
	my $id = is_open($s1, 1)->{incident_id};
	my $before = now();
	$node->restart;
	$observer = LockguardTest::Session->new($node, 'observer');
	my $incident = is_closed($id, 'server restarted');
	between($incident->{ended_at}, $before - 1, now(), 'it ended with the server');
	is($incident->{peak_blocked_sessions}, 1, 'all else is as it was');
}

$node->stop;
done_testing();
