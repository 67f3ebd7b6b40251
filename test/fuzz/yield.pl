# The load of yield.sh.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{YIELD_SECONDS} || 60;
my $seed = $ENV{YIELD_SEED} || 1;
my $sessions = $ENV{YIELD_SESSIONS} || 24;
my @modes = (
	'ACCESS SHARE', 'ROW SHARE', 'ROW EXCLUSIVE', 'SHARE UPDATE EXCLUSIVE',
	'SHARE', 'SHARE ROW EXCLUSIVE', 'EXCLUSIVE', 'ACCESS EXCLUSIVE');

# A deadlock is found after deadlock_timeout; this is how long none may last.
my $longest_deadlock = 5;

my $node = lockguard_node('yield', conf => <<'CONF');
max_connections = 100
max_prepared_transactions = 20
max_worker_processes = 40
max_parallel_workers = 20
deadlock_timeout = '100ms'
autovacuum = on
autovacuum_naptime = '1s'
restart_after_crash = on
log_min_error_statement = 'panic'
log_statement = 'none'
log_connections = off
log_disconnections = off
fsync = off
lockguard.incident_threshold = '500ms'
CONF
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE t0 (id int PRIMARY KEY, v int);
INSERT INTO t0 SELECT i, 0 FROM generate_series(1, 2000) i;
CREATE TABLE t1 (id int PRIMARY KEY, v int);
INSERT INTO t1 SELECT i, 0 FROM generate_series(1, 2000) i;
CREATE TABLE t2 (id int PRIMARY KEY, v int);
INSERT INTO t2 SELECT i, 0 FROM generate_series(1, 2000) i;
-- Parallel workers take table locks of their own, also ones that their leader has not.
CREATE FUNCTION f(int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS
$$ BEGIN IF $1 % 400 = 0 THEN EXECUTE format('SELECT 1 FROM t%s LIMIT 1', $1 / 400 % 3); END IF; RETURN 1; END $$;
SQL
my $observer = LockguardTest::Session->new($node, 'observer');

# Do what a client does until time is up: transactions with a few locks each.
sub client
{
	my ($number, $until) = @_;

	srand($seed * 1000 + $number);
	while (time() < $until)
	{
		my $s = eval { LockguardTest::Session->new($node, "client $number") };

		if (!$s)
		{
			usleep(100_000);
			next;
		}
		eval {
			$s->query(sprintf "SET lockguard.queue_yield_timeout = '%dms'", 1 + int rand 30) if $number % 2;
			$s->query('SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0;'
				  . ' SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0');
			transaction($s, $number) while !$s->closed && time() < $until && rand() > 0.002;
		};
		$s->close(silent => rand() < 0.5) unless $s->closed;
	}
	POSIX::_exit(0);				# not the END blocks, which stop the server
}

sub transaction
{
	my ($s, $number) = @_;
	my $failed;

	$s->query('BEGIN');
	$s->query(sprintf "SET LOCAL lock_timeout = '%dms'", 1 + int rand 300) if rand() < 0.3;
	$s->query(sprintf "SET LOCAL statement_timeout = '%dms'", 1 + int rand 300) if rand() < 0.2;
	foreach (1 .. 1 + int rand 4)
	{
		my $table = 't' . int rand 3;
		my $what = rand;
		my $key = int rand 3;
		my $sql =
		    $what < 0.5 ? "LOCK TABLE $table IN $modes[@modes * rand()**2] MODE"
		  : $what < 0.65 ? "SELECT count(*) FROM $table"
		  : $what < 0.7 ? 'SELECT sum(f(id)) FROM t' . int rand 3
		  : $what < 0.8 ? "UPDATE $table SET v = v + 1 WHERE id = " . (1 + int rand 20)
		  : $what < 0.85 ? 'SAVEPOINT s'
		  : $what < 0.88 ? "LOCK TABLE $table IN $modes[rand @modes] MODE NOWAIT"
		  : 'SELECT pg_advisory_xact_lock' . (rand() < 0.6 ? '_shared' : '') . "($key)";

		$failed = $s->query($sql)->{error};
		last if $failed || $s->closed;
		usleep(rand 15_000) if rand() < 0.3;
	}
	return if $s->closed;
	if (!$failed && rand() < 0.05)
	{
		my $gid = "p$number";

		$s->query("PREPARE TRANSACTION '$gid'");
		usleep(rand 50_000);
		$s->query(rand() < 0.5 ? "COMMIT PREPARED '$gid'" : "ROLLBACK PREPARED '$gid'");
	}
	else
	{
		$s->query(rand() < 0.2 ? 'ROLLBACK TO s' : 'SELECT 1') if $failed && rand() < 0.2;
		$s->query(rand() < 0.8 ? 'COMMIT' : 'ROLLBACK');
	}
	return;
}

# Those that wait, each with how its present wait began and who blocks it.
sub waits
{
	return map { { pid => $_->[0], start => $_->[1], by => [ split / /, $_->[2] ], age => $_->[3] } } $observer->rows(<<'SQL');
SELECT l.pid, min(l.waitstart), array_to_string(ARRAY(SELECT DISTINCT unnest(pg_blocking_pids(l.pid))), ' '),
       extract(epoch FROM clock_timestamp() - min(l.waitstart))
FROM pg_locks l WHERE NOT l.granted AND l.pid IS NOT NULL AND l.waitstart IS NOT NULL
GROUP BY l.pid
SQL
}

# Which of them wait for themselves?
sub cycles
{
	my @waits = @_;
	my %by = map { $_->{pid} => $_->{by} } @waits;
	my @found;

	foreach my $wait (@waits)
	{
		my %seen;
		my @next = @{ $wait->{by} };

		while (defined(my $pid = shift @next))
		{
			next if $seen{$pid}++;
			push @next, @{ $by{$pid} || [] };
		}
		push @found, $wait if $seen{ $wait->{pid} };
	}
	return @found;
}

note "seed $seed, $seconds s, $sessions sessions";
my $until = time() + $seconds;
my @children;
foreach my $number (1 .. $sessions)
{
	my $child = fork();

	die "fork: $!" unless defined $child;
	client($number, $until) if $child == 0;
	push @children, $child;
}

my (%free, %cyclic);
my ($unwoken, $deadlocked, $looks, $restarts, $crashes) = (0) x 5;
srand($seed);
while (time() < $until)
{
	my @waits = waits();
	my %still;

	$looks++;
	foreach my $wait (@waits)
	{
		my $id = "$wait->{pid} $wait->{start}";

		# Blocked by none, in the same wait, at so many looks in a row.
		next if @{ $wait->{by} };
		$still{$id} = ($free{$id} || 0) + 1;
		if ($still{$id} == 20)
		{
			$unwoken++;
			diag "process $wait->{pid} waits for a lock that is free";
		}
	}
	%free = %still;
	%still = ();
	foreach my $wait (cycles(@waits))
	{
		my $id = "$wait->{pid} $wait->{start}";

		$still{$id} = $cyclic{$id} || time();
		if ($still{$id} < time() - $longest_deadlock)
		{
			$deadlocked++;
			$still{$id} = time() + 3600;
			diag "process $wait->{pid} has been in a deadlock for $longest_deadlock s";
			diag join "\n", map { join ' ', @$_ } $observer->rows(
				'SELECT pid, locktype, relation::regclass, objid, mode, granted, waitstart FROM pg_locks WHERE pid IN ('
				  . join(',', map { $_->{pid} } @waits) . ') ORDER BY 1, 2');
		}
	}
	%cyclic = %still;

	if (rand() < 0.3 && @waits)
	{
		my $victim = $waits[ rand @waits ]{pid};

		$observer->query('SELECT ' . (rand() < 0.7 ? 'pg_cancel_backend' : 'pg_terminate_backend') . "($victim)");
	}
	if (rand() < 0.01)
	{
		my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');

		kill 'TERM', $worker if $worker;
		$restarts++;
	}

	# Now and then it is killed: the server recovers as from any crash.
	if (rand() < 0.002 && time() < $until - 5)
	{
		my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');
		my $offset = -s $node->logfile;

		next unless $worker;
		kill 'KILL', $worker;
		$crashes++;
		wait_until(sub { slurp_file($node->logfile, $offset) =~ /ready to accept connections/ });
		wait_until(sub { $observer = eval { LockguardTest::Session->new($node, 'observer') } });
	}
	usleep(rand 100_000);
}
waitpid $_, 0 foreach @children;

is($unwoken, 0, 'no session waits for a lock that is free');
is($deadlocked, 0, 'each deadlock is found');
$observer->query("ROLLBACK PREPARED '$_->[0]'")
  foreach $observer->rows('SELECT gid FROM pg_prepared_xacts');
ok($observer->poll(<<'SQL', 'f'), 'no lock is left');
SELECT EXISTS (SELECT FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
               WHERE l.pid IS NULL OR (l.pid <> pg_backend_pid() AND a.backend_type IS DISTINCT FROM 'autovacuum worker'))
SQL
my ($yields, $let_pass, $deadlocks) = @{
	($observer->rows('SELECT yields, let_pass, (SELECT sum(deadlocks) FROM pg_stat_database) FROM lockguard.stats'))[0] };
cmp_ok($let_pass, '>', 0, 'some have passed');
diag "seed $seed: $yields yields, $let_pass let pass, $deadlocks deadlocks, $looks looks, worker ended $restarts times, $crashes crashes";
is($observer->value("SELECT count(*) FROM lockguard.actions WHERE action <> 'yield' AND action <> 'log'"), 0,
	'no session was signalled');
done_testing();
