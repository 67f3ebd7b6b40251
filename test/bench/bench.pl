# The measurements of run.sh.  Each subcommand prints rows of the table, with a tab between columns:
# what, lockguard, measured against, ratio or difference, aim, whether it is met.
#
# Times are the server's own throughout, so that the client's share is in none of them.

use strict;
use warnings;

use LockguardServer;
use LockguardTest;
use Time::HiRes qw(sleep time);

my %subjects = (
	quiet => \&quiet,
	jam => \&jam,
	judge => \&judge,
	exact => \&exact,
	busy => \&busy,
	rollback => \&rollback,
	yield => \&yield,
	throughput => \&throughput,
	idle => \&idle,
	memory => \&memory,
	table => \&table);
my $server;
my $observer;
my $subject = shift @ARGV;

# Milliseconds, of a timestamp.
my $epoch = 'extract(epoch FROM %s) * 1000';

$| = 1;
if ($subject !~ /^(throughput|table)$/)
{
	$server = LockguardServer->new(port => shift @ARGV, patience => 60);
	$observer = session('observer');
}
$subjects{$subject}->(@ARGV);
exit;

sub session
{
	my ($name, %opt) = @_;
	return LockguardTest::Session->new($server, $name, user => 'postgres', %opt);
}

# Many sessions at once; the server forks faster than one at a time.
sub sessions
{
	my ($name, $count) = @_;
	my @all;

	while (@all < $count)
	{
		my $more = $count - @all < 20 ? $count - @all : 20;
		my @some = map { session($name, wait => 0) } 1 .. $more;

		foreach my $session (@some)
		{
			my $error = $session->finish->{error};
			die "cannot log in: $error->{M}" if $error;
		}
		push @all, @some;
	}
	return @all;
}

sub column
{
	my ($sql) = @_;
	return map { $_->[0] } $observer->rows($sql);
}

sub quantile
{
	my ($p, @values) = @_;
	@values = sort { $a <=> $b } @values;
	return $values[ int($p * $#values + 0.5) ];
}

sub median { return quantile(0.5, @_); }

# A number with three significant digits.
sub number
{
	my ($x) = @_;
	my $digits = $x == 0 ? 0 : 2 - int(log(abs $x) / log(10) + 1e-9);

	$digits++ if $x != 0 && abs $x < 1;
	return sprintf '%.*f', $digits < 0 ? 0 : $digits, $x;
}

# Milliseconds, in the unit that reads best.
sub ms
{
	my ($x) = @_;
	return number($x * 1000) . ' µs' if abs $x < 1;
	return number($x) . ' ms';
}

sub spread
{
	my ($format, @values) = @_;
	return
		$format->(median(@values)) . ' ('
	  . $format->(quantile(0, @values)) . ' to '
	  . $format->(quantile(1, @values)) . ')';
}

# A row of the table; without an aim, it is for information.
sub row
{
	my ($what, $figure, $against, $ratio, $aim, $met) = @_;
	print join("\t",
		$what, $figure, $against, $ratio, $aim,
		$aim eq '' ? '' : $met ? 'yes' : 'NO'),
	  "\n";
	return;
}

sub cheaper
{
	my ($what, $figure, $name, $theirs, $ours) = @_;
	my $ratio = median(@$theirs) / median(@$ours);

	row($what, $figure, "$name: " . spread(\&ms, @$theirs),
		number($ratio) . ' times cheaper',
		'200', $ratio >= 200);
	return;
}

# What lockguard.stats gains in each of so many seconds.
sub watch
{
	my ($seconds) = @_;
	my @windows;

	foreach (1 .. $seconds)
	{
		my %window;

		$observer->query_ok('SELECT lockguard.reset_stats()');
		sleep 1;
		@window{qw(scans scan_time looks look_time max_look max_partition_lock)} =
		  @{
			($observer->rows(
				'SELECT scans, scan_time, lock_scans, lock_scan_time, max_lock_scan_time, max_partition_lock_time FROM lockguard.stats'
			))[0]
		  };
		push @windows, \%window;
	}
	return @windows;
}

sub worker_pid
{
	return $observer->value('SELECT worker_pid FROM lockguard.stats');
}

# A figure of the worker's from /proc/PID/status.
sub status
{
	my ($pid, $name) = @_;

	open my $file, '<', "/proc/$pid/status" or die "no process $pid: $!";
	while (my $line = <$file>)
	{
		return $1 if $line =~ /^$name:\s+(\d+)/;
	}
	die "$name is not in /proc/$pid/status";
}

sub set_server
{
	my (%set) = @_;

	$observer->query_ok("ALTER SYSTEM SET $_ = '$set{$_}'") foreach sort keys %set;
	$observer->query_ok('SELECT pg_reload_conf()');
	sleep 0.3;
	return;
}

# Idle sessions on every connection there is, up to 900, and none in a transaction.
sub quiet
{
	my ($size, $windows, $rounds) = @_;
	my @idle = sessions('idle', $size > 1000 ? 900 : 0.9 * $size);
	my $what = "scan, quiet server, max_connections $size, " . @idle . ' sessions';

	sleep 1.5;
	my @windows = watch($windows);
	my @scans = map { $_->{scan_time} / $_->{scans} } @windows;
	my @warm = column("SELECT time_query('blocking_pids', $rounds, 10, 0)");
	my @paused = column("SELECT time_query('blocking_pids', $rounds, 10, 0.01)");
	my $looks = 0;

	$looks += $_->{looks} foreach @windows;
	cheaper($what, spread(\&ms, @scans), 'query, every 10 ms like the scan', \@paused, \@scans);
	cheaper('', '', 'query, one after the other', \@warm, \@scans);

	# The counts do not tell when a session will pass them, so they cost a pass each.
	set_server('lockguard.max_locks' => 1000000, 'lockguard.max_xmin_age' => 1000000000);
	my @counting = map { $_->{scan_time} / $_->{scans} } watch(3);
	row('  with max_locks and max_xmin_age too', spread(\&ms, @counting), '', '', '', 1);
	row('  lock scans meanwhile', $looks, '', '', '0', $looks == 0);
	return;
}

# So many sessions wait, for the rows in turn.
sub wait_for_rows
{
	my ($rows, @waiters) = @_;
	my $i = 0;

	return wait_in_queue(sub { 'UPDATE t SET v = v + 1 WHERE id = ' . (1 + $i++ % $rows) }, @waiters);
}

sub wait_in_queue
{
	my ($sql, @waiters) = @_;
	my $waiting = $observer->value('SELECT count(*) FROM pg_locks WHERE NOT granted') + @waiters;

	$_->start(ref $sql ? $sql->() : $sql) foreach @waiters;
	$observer->poll('SELECT count(*) FROM pg_locks WHERE NOT granted', $waiting)
	  or die 'not all wait';
	return;
}

sub jam
{
	my ($seconds) = @_;
	my $holder = session('holder');
	my @waiters;
	my %look;

	$holder->query_ok('BEGIN');
	$holder->query_ok('UPDATE t SET v = v + 1 WHERE id = 1');
	foreach my $count (250, 500, 1000)
	{
		my @more = sessions('waiter', $count - @waiters);

		wait_for_rows(1, @more);
		push @waiters, @more;
		$look{$count} = jammed("$count wait for one row", $seconds);
	}
	my $ratio = $look{1000} / $look{500};
	row('  1,000 waiters to 500', ms($look{1000}), ms($look{500}),
		sprintf('%.2f times dearer', $ratio), '2.2', $ratio <= 2.2);
	dissolve($holder, \@waiters, 500);

	my $others = session('others');
	$others->query_ok('SELECT count(pg_advisory_lock(i)) FROM generate_series(1, 100000) i');
	$holder->query_ok('BEGIN');
	$holder->query_ok('UPDATE t SET v = v + 1 WHERE id = 1');
	wait_for_rows(1, @waiters);
	$look{others} = jammed('500 wait for one row, 100,000 other locks', $seconds);
	$ratio = $look{others} / $look{500};
	row('  with the other locks to without', ms($look{others}), ms($look{500}),
		sprintf('%.2f times dearer', $ratio), '1.1', $ratio <= 1.1);
	$others->query_ok('SELECT pg_advisory_unlock_all()');
	dissolve($holder, \@waiters, 500);

	$holder->query_ok('BEGIN');
	$holder->query_ok('UPDATE t SET v = v + 1 WHERE id <= 50');
	wait_for_rows(50, @waiters);
	jammed('500 wait for 50 rows', $seconds);
	dissolve($holder, \@waiters, 500);

	# Each blocks all behind it.
	$holder->query_ok('BEGIN');
	$holder->query_ok('LOCK TABLE t');
	wait_in_queue('DO $$ BEGIN LOCK TABLE t; END $$', @waiters);
	jammed('500 wait to lock one table', $seconds);
	dissolve($holder, \@waiters, 0);
	return;
}

# The holder releases the lock, and all waiters finish; so many are to stay.
sub dissolve
{
	my ($holder, $waiters, $stay) = @_;

	$holder->query_ok('ROLLBACK');
	$_->finish foreach @$waiters;
	$_->close foreach splice @$waiters, $stay;
	sleep 0.5;
	return;
}

# Whole scans with limits passed that no session is signalled for (dry_run).
sub judge
{
	my ($seconds) = @_;
	my $holder = session('holder');
	my @waiters;
	my %scan;

	foreach my $case (
		[ 'for one row', 'UPDATE t SET v = v + 1 WHERE id = 1', sub { wait_for_rows(1, @_) } ],
		[ 'to lock one table', 'LOCK TABLE t', sub { wait_in_queue('DO $$ BEGIN LOCK TABLE t; END $$', @_) } ])
	{
		my ($what, $hold, $wait) = @$case;

		$holder->query_ok($_) foreach 'BEGIN', $hold;
		@waiters = ();
		foreach my $count (250, 500, 1000)
		{
			my @more = sessions('waiter', $count - @waiters);

			$wait->(@more);
			push @waiters, @more;
			$scan{$count} = judged("$count wait $what", $seconds);
		}
		my $ratio = $scan{1000} / $scan{500};
		row('  1,000 waiters to 500', ms($scan{1000}), ms($scan{500}),
			sprintf('%.2f times dearer', $ratio), '2.2', $ratio <= 2.2);
		dissolve($holder, \@waiters, 0);
	}
	$holder->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = v + 1 WHERE id <= 50';
	@waiters = sessions('waiter', 500);
	wait_for_rows(50, @waiters);
	judged('500 wait for 50 rows', $seconds);
	dissolve($holder, \@waiters, 0);
	return;
}

# Returns the time of a whole scan, when all waiters have passed the limits.
sub judged
{
	my ($what, $seconds) = @_;

	sleep 1.5;
	my @windows = watch(2 * $seconds);
	my @looks = map { $_->{look_time} / $_->{looks} } @windows;
	my @scans = map { $_->{scan_time} / $_->{scans} } @windows;
	my $ratio = median(@scans) / median(@looks);

	row("limits passed, dry run, $what: whole scan to lock scan", spread(\&ms, @scans), spread(\&ms, @looks),
		sprintf('%.2f times dearer', $ratio), '2', $ratio <= 2);
	return median(@scans);
}

sub jammed
{
	my ($what, $seconds) = @_;

	sleep 0.5;
	my @windows = watch(2 * $seconds);
	my @looks = map { $_->{look_time} / $_->{looks} } @windows;
	my @scans = map { $_->{scan_time} / $_->{scans} } @windows;
	my @max = map { $_->{max_look} } @windows;
	my @held = map { $_->{max_partition_lock} } @windows;
	my @paused = column("SELECT time_query('blocking_pids', 200, $seconds, 0.01)");
	my @warm = column("SELECT time_query('blocking_pids', 200, $seconds, 0)");
	my @join = column("SELECT time_query('self_join', 200, $seconds, 0.01)");
	my @wiki = column("SELECT time_query('wiki_query', 20, $seconds, 0.01)");

	cheaper("lock scan, $what", spread(\&ms, @looks), 'query, every 10 ms like the lock scan', \@paused, \@looks);
	cheaper('', '', 'query, one after the other', \@warm, \@looks);
	cheaper('', '', 'self-join of pg_locks, with the sessions of both, as in the wiki', \@wiki, \@looks);
	cheaper('', '', 'self-join of pg_locks, pids alone', \@join, \@looks);
	row('  whole scan: judging and recording too', spread(\&ms, @scans), '', '', '', 1);
	row('  longest lock scan in a second', spread(\&ms, @max), '', '', '', 1);
	row('  longest hold of a partition lock in a second', spread(\&ms, @held), '', '', '', 1);
	return median(@looks);
}

# When the limit of 500 ms is passed (ms of the epoch): see what the server says of the pair.
sub limit_at
{
	my ($victim, @waiters) = @_;
	my $waits = join ',', 0, map { $_->pid } @waiters;
	my $since = '(SELECT min(waitstart) FROM pg_locks WHERE NOT granted'
	  . " AND locktype = 'transactionid' AND pid IN ($waits))";

	foreach (1 .. 200)
	{
		my ($state, $wait) = @{
			($observer->rows(
				'SELECT '
				  . sprintf($epoch, 'state_change') . ', '
				  . sprintf($epoch, $since)
				  . ' FROM pg_stat_activity WHERE pid = '
				  . $victim->pid))[0] };
		return $state + 500 if defined $state && !@waiters;
		return ($wait > $state ? $wait : $state) + 500 if defined $wait;
		sleep 0.01;
	}
	die 'no session waits';
}

# One session leaves its transaction open on a row, and others wait for it.  Returns how long after
# the limit the first of them went on, and, for lockguard, how long after it was acted on.
sub begin_trial
{
	my ($how, $row, $victim, @waiters) = @_;
	my $trial = { how => $how, victim => $victim, waiters => \@waiters };

	$victim->query_ok('BEGIN');
	$victim->query_ok("UPDATE t SET v = v + 1 WHERE id = $row");
	sleep rand 0.1;
	my ($first, @others) = @waiters;
	my $wait = "UPDATE t SET v = v + 1 WHERE id = $row RETURNING " . sprintf $epoch, 'clock_timestamp()';
	$first->start($wait);
	# These timers run whether a session waits or not.
	$trial->{limit} = limit_at($victim, $how =~ /^(?:built-in|terminate)$/ ? () : $first);
	$_->start($wait) foreach @others;
	return $trial;
}

sub end_trial
{
	my ($trial) = @_;
	my @released = map { $_->finish->{rows}[0][0] } @{ $trial->{waiters} };
	my $late = quantile(0, @released) - $trial->{limit};
	my $acted;

	if ($trial->{how} eq 'lockguard')
	{
		# The signal comes first, and then the record of it.
		wait_until(
			sub {
				$acted = $observer->value('SELECT '
					  . sprintf($epoch, 'acted_at')
					  . ' FROM lockguard.actions WHERE pid = '
					  . $trial->{victim}->pid
					  . ' ORDER BY action_id DESC LIMIT 1');
				return defined $acted;
			}) or die 'lockguard did nothing';
		$acted -= $trial->{limit};
	}
	$trial->{victim}->close(silent => 1);
	return ($late, $acted);
}

# A client that does by polling each second what lockguard does.
sub start_poller
{
	my $pid = fork;

	die "fork: $!" unless defined $pid;
	return $pid if $pid;
	my $poller = session('poller');
	while (1)
	{
		sleep 1;
		$poller->query_ok(<<'SQL');
SELECT pg_terminate_backend(root.pid)
FROM pg_stat_activity root
WHERE root.state = 'idle in transaction' AND root.state_change < clock_timestamp() - interval '500 ms'
  AND EXISTS (SELECT FROM pg_stat_activity waiter JOIN pg_locks l ON l.pid = waiter.pid AND NOT l.granted
              WHERE root.pid = ANY (pg_blocking_pids(waiter.pid))
                AND l.waitstart < clock_timestamp() - interval '500 ms')
SQL
	}
}

sub lateness
{
	return ms(median(@_)) . ', p99 ' . ms(quantile(0.99, @_)) . ', least ' . ms(quantile(0, @_)) . ', most ' . ms(quantile(1, @_));
}

sub trials
{
	my ($how, $count, $pause, @waiters) = @_;
	my (@late, @acted);

	foreach my $i (1 .. $count)
	{
		my $victim = session('victim');

		$victim->query_ok("SET idle_in_transaction_session_timeout = '500ms'")
		  if $how eq 'built-in';
		sleep rand $pause;
		my ($late, $acted) = end_trial(begin_trial($how, $i, $victim, @waiters));
		push @late, $late;
		push @acted, $acted if defined $acted;
	}
	return (\@late, \@acted);
}

sub exact
{
	my ($count) = @_;
	my ($waiter) = sessions('waiter', 1);

	# Whether the worker is in a doze or has just scanned when it begins must not matter.
	set_server('lockguard.idle_blocker_timeout' => '500ms', 'lockguard.naptime' => '1s');
	my ($late, $acted) = trials('lockguard', $count, 2, $waiter);

	set_server('lockguard.idle_blocker_timeout' => 0);
	my ($builtin) = trials('built-in', int($count / 2), 0.1, $waiter);

	my @polled;
	my $poller = start_poller();
	my @waiters = sessions('waiter', 10);
	foreach (1 .. $count / 10)
	{
		my @victims = sessions('victim', 10);
		my @trials;

		foreach my $i (0 .. 9)
		{
			push @trials, begin_trial('poll', 1 + $i, $victims[$i], $waiters[$i]);
		}
		push @polled, (end_trial($_))[0] foreach @trials;
		sleep rand 1;
	}
	kill 'TERM', $poller;
	waitpid $poller, 0;

	row("limit of 500 ms to the signal, $count trials",
		lateness(@$acted), '', '',
		'p50 2 ms, p99 10 ms, never early',
		median(@$acted) <= 2 && quantile(0.99, @$acted) <= 10 && quantile(0, @$acted) >= 0);
	my $difference = median(@$late) - median(@$builtin);
	row('limit of 500 ms to the release of the waiter', lateness(@$late),
		'built-in timer: ' . lateness(@$builtin),
		sprintf('%+.2f ms at p50', $difference),
		'p50 2 ms, p99 10 ms, never early, within 3 ms of the built-in',
		median(@$late) <= 2 && quantile(0.99, @$late) <= 10 && quantile(0, @$late) >= 0
		  && $difference <= 3);
	row('', '', 'client polling each second: ' . lateness(@polled),
		sprintf('%+.0f ms at p50', median(@$late) - median(@polled)),
		'', 1);
	return;
}

# Sessions that are rolled back, and others that are terminated, in turn: both with a limit of
# 500 ms.  What the message by which a session is woken costs another one, which has so many
# prepared statements.
sub rollback
{
	my ($count, $messages) = @_;
	my ($waiter) = sessions('waiter', 1);
	my %limit = (rollback => 'idle_blocker_timeout', terminate => 'idle_in_transaction_timeout');
	my (%late, @rows, @idle);

	push @idle, sessions('idle', 50);
	foreach my $i (1 .. $count)
	{
		foreach my $how (qw(rollback terminate))
		{
			my $victim = session('victim');

			$victim->query_ok("SET lockguard.$limit{$how} = '500ms'");
			sleep rand 0.1;
			push @{ $late{$how} }, (end_trial(begin_trial($how, $i, $victim, $waiter)))[0];
		}
	}
	my $rows = $observer->value('SELECT string_agg(DISTINCT action, $$ $$ ORDER BY action) FROM lockguard.actions');
	die "not as expected: $rows" if $rows ne 'rollback terminate';
	row("limit of 500 ms to the release, $count trials: rolled back", lateness(@{ $late{rollback} }),
		'terminated: ' . lateness(@{ $late{terminate} }),
		sprintf('%+.2f ms at p50', median(@{ $late{rollback} }) - median(@{ $late{terminate} })),
		'', 1);

	foreach my $plans (0, 1000)
	{
		my ($other, $victim) = sessions('other', 2);
		my (@before, $after);

		$other->query_ok("PREPARE p$_ AS SELECT * FROM t WHERE id = $_; EXECUTE p$_") foreach 1 .. $plans;
		$other->query_ok('SELECT 1') foreach 1 .. 10;
		foreach (1 .. 100)
		{
			my $start = time();
			$other->query_ok('SELECT 1');
			push @before, 1000 * (time() - $start);
		}
		foreach (1 .. $messages)
		{
			$victim->query_ok('BEGIN; UPDATE t SET v = v + 1 WHERE id = 1');
			$waiter->start('UPDATE t SET v = v + 1 WHERE id = 1');
			1 while $observer->value('SELECT lockguard.rollback_blockers(' . $waiter->pid . ')') eq '{}';
			$waiter->finish;
			$victim->query_ok('ROLLBACK');
		}
		my $start = time();
		$other->query_ok('SELECT 1');
		$after = 1000 * (time() - $start) - median(@before);
		row("  $messages rollbacks: what one costs another session with $plans prepared statements",
			ms($after / $messages), '', '', '', 1);
	}
	return;
}

sub busy
{
	my ($count) = @_;
	my @waiters = sessions('waiter', 500);
	my $pgbench = fork;

	die "fork: $!" unless defined $pgbench;
	if (!$pgbench)
	{
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		exec 'pgbench', '-n', '-c', 8, '-j', 2, '-T', 600, '-p', $server->port, 'postgres';
	}
	set_server('lockguard.idle_blocker_timeout' => '500ms', 'lockguard.naptime' => '1s');
	my ($late, $acted) = trials('lockguard', $count, 0.5, @waiters);

	set_server('lockguard.idle_blocker_timeout' => 0);
	my ($builtin) = trials('built-in', $count / 4, 0.1, @waiters);
	kill 'TERM', $pgbench;
	waitpid $pgbench, 0;

	row("500 waiters, pgbench on both cores: to the signal, $count trials",
		lateness(@$acted), '', '', 'p99 50 ms, never early',
		quantile(0.99, @$acted) <= 50 && quantile(0, @$acted) >= 0);
	row('  to the release of the first waiter', lateness(@$late),
		'built-in timer: ' . lateness(@$builtin),
		sprintf('%+.2f ms at p50', median(@$late) - median(@$builtin)),
		'p99 50 ms, never early',
		quantile(0.99, @$late) <= 50 && quantile(0, @$late) >= 0);
	return;
}

# From lines of: workload, repetition, server, transactions per second, ns for which the worker had
# a core meanwhile.
# Start pgbench: 20 clients read single rows.  Returns what finish_pgbench() takes.
sub start_pgbench
{
	my ($folder, $seconds, @options) = @_;
	my $script = "$folder/yield.sql";
	my $log = "$folder/yield_log";

	unlink glob "$log.*";
	if (!-e $script)
	{
		open my $sql, '>', $script or die "$script: $!";
		print $sql "\\set aid random(1, 1000000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
		close $sql;
	}
	open my $pipe, '-|', 'pgbench', '-n', '-M', 'prepared', '-f', $script, '-c', 20, '-j', 2, '-T', $seconds,
	  '-p', $server->port, '--log', "--log-prefix=$log", @options, 'postgres'
	  or die "pgbench: $!";
	return { pipe => $pipe, log => $log };
}

# The latencies (ms) of all transactions that began between two times, and how many
# were done between them.
sub finish_pgbench
{
	my ($pgbench, $from, $to) = @_;
	my $pipe = $pgbench->{pipe};
	my @latencies;
	my $done = 0;

	1 while <$pipe>;
	close $pipe or die 'pgbench failed';
	foreach my $file (glob "$pgbench->{log}.*")
	{
		open my $log, '<', $file or die "$file: $!";
		while (<$log>)
		{
			my (undef, undef, $us, undef, $s, $fraction) = split ' ';
			my $end = $s + $fraction / 1e6;

			$done++ if $end >= $from && $end < $to;
			push @latencies, $us / 1000 if $end - $us / 1e6 >= $from && $end - $us / 1e6 < $to;
		}
		close $log;
	}
	return ($done, @latencies);
}

# A migration's session, and the ways for its ALTER TABLE to wait.
sub start_alter
{
	my ($way) = @_;
	my $alter = session('ALTER');

	$alter->query_ok("SET lockguard.queue_yield_timeout = '100ms'") if $way eq 'yields';
	$alter->query_ok("SET lock_timeout = '100ms'") if $way eq 'retries';
	$alter->start('ALTER TABLE pgbench_accounts ALTER filler SET DEFAULT NULL') if $way ne 'none';
	return $alter;
}

# One slow reader for so many seconds, and an ALTER TABLE behind it.  Returns when the
# ALTER was done after the reader (ms), how many transactions were done while it
# waited, and their latencies.
sub slow_reader
{
	my ($folder, $way, $seconds, @options) = @_;
	my $pgbench = start_pgbench($folder, $seconds + 3, @options);
	my $reader = session('reader');
	my ($alter, $from, $to, $done_at);

	sleep(1);
	$reader->query_ok($_) foreach 'BEGIN', 'SELECT FROM pgbench_accounts LIMIT 1';
	$from = time();
	$alter = start_alter($way);
	$to = $from + $seconds;
	while ($way eq 'retries' && time() < $to)
	{
		$alter->finish;
		sleep(1) if time() + 1 < $to;
		$alter->start('ALTER TABLE pgbench_accounts ALTER filler SET DEFAULT NULL');
	}
	sleep($to - time()) if time() < $to;
	$reader->query_ok('COMMIT');
	$to = time();
	while ($way ne 'none')
	{
		last unless $alter->finish->{error};
		sleep(1);
		$alter->start('ALTER TABLE pgbench_accounts ALTER filler SET DEFAULT NULL');
	}
	$done_at = 1000 * (time() - $to);
	$_->close foreach $reader, $alter;
	return ($done_at, finish_pgbench($pgbench, $from, $to));
}

sub yield
{
	my ($rounds, $folder) = @_;
	my %name = (
		none => 'without an ALTER',
		plain => 'with one, as PostgreSQL is',
		retries => "with lock_timeout = '100ms', again each second",
		yields => "with queue_yield_timeout = '100ms'");
	my (%p50, %p99, %worst, %done_at, %tps);

	foreach (1 .. $rounds)
	{
		foreach my $way (qw(none plain retries yields))
		{
			my ($done_at, undef, @latencies) = slow_reader($folder, $way, 15, '-R', 3000);

			push @{ $p50{$way} }, quantile(0.5, @latencies);
			push @{ $p99{$way} }, quantile(0.99, @latencies);
			push @{ $worst{$way} }, quantile(1, @latencies);
			push @{ $done_at{$way} }, $done_at;
		}
		foreach my $mode (qw(prepared simple))
		{
			foreach my $way (qw(none yields))
			{
				my (undef, $done) = slow_reader($folder, $way, 5, '-M', $mode);

				push @{ $tps{$mode}{$way} }, $done / 5;
			}
		}
	}
	foreach my $way (qw(none plain retries yields))
	{
		my $ours = $way eq 'yields';
		my $more = median(@{ $p99{$way} }) - median(@{ $p99{none} });

		row("20 clients read rows, 3,000/s, behind a slow reader and an ALTER TABLE, $name{$way}: p50",
			spread(\&ms, @{ $p50{$way} }), '', '', '', 1);
		row('  p99', spread(\&ms, @{ $p99{$way} }), '', $way eq 'none' ? '' : ms($more) . ' more',
			$ours ? '5 ms more' : '', $more <= 5);
		row('  worst', spread(\&ms, @{ $worst{$way} }), '', '', $ours ? '150 ms' : '',
			median(@{ $worst{$way} }) <= 150);
		row('  the ALTER is done after the reader', spread(\&ms, @{ $done_at{$way} }), '', '',
			$ours ? '50 ms' : '', median(@{ $done_at{$way} }) <= 50)
		  if $way ne 'none';
	}
	foreach my $mode (qw(prepared simple))
	{
		my ($yields, $none) = @{ $tps{$mode} }{qw(yields none)};
		my $share = median(@$yields) / median(@$none);

		row("the same without a limit on the rate, pgbench -M $mode, transactions/s",
			spread(\&number, @$yields), 'without an ALTER: ' . spread(\&number, @$none),
			number($share), '0.65', $share >= 0.65);
	}
	row('  longest hold of a partition lock', ms($observer->value('SELECT max_partition_lock_time FROM lockguard.stats')),
		'', '', '', 1);
	busy_table($folder, $rounds);
	slow_readers($folder);
	return;
}

# Short readers that overlap without end.
sub busy_table
{
	my ($folder, $rounds) = @_;
	my @waited;

	foreach (1 .. $rounds)
	{
		my $pgbench = start_pgbench($folder, 4);
		my ($start, $alter);

		sleep(1);
		$start = time();
		$alter = start_alter('yields');
		$alter->finish;
		push @waited, 1000 * (time() - $start);
		$alter->close;
		finish_pgbench($pgbench, 0, 0);
	}
	row('an ALTER TABLE on a table that is read without end', spread(\&ms, @waited), '', '', '1,100 ms',
		median(@waited) <= 1100);
	return;
}

# Five readers of 2 s each, the next one always there before the last one ends.
sub slow_readers
{
	my ($folder) = @_;
	my $pgbench = start_pgbench($folder, 12, '-R', 1000);
	my @readers = map { session("reader $_") } 1 .. 5;
	my ($alter, $from, @latencies, $held_up);

	$readers[0]->query_ok($_) foreach 'BEGIN', 'SELECT FROM pgbench_accounts LIMIT 1';
	$from = time();
	$alter = start_alter('yields');
	foreach my $i (1 .. $#readers)
	{
		sleep(1.5);
		$readers[$i]->start('BEGIN; SELECT FROM pgbench_accounts LIMIT 1');
		sleep(0.5);
		$readers[$i]->finish;
		$readers[ $i - 1 ]->query_ok('COMMIT');
	}
	sleep(2);
	$readers[-1]->query_ok('COMMIT');
	$alter->finish;
	(undef, @latencies) = finish_pgbench($pgbench, $from, time());
	$held_up = grep { $_ > 50 } @latencies;
	row('five slow readers, one after the other: worst of the others', ms(quantile(1, @latencies)), '', '', '150 ms',
		quantile(1, @latencies) <= 150);
	row('  held up for over 50 ms', "$held_up of " . scalar(@latencies), '', '', '', 1);
	return;
}

sub throughput
{
	my ($file, $seconds) = @_;
	my (%tps, @workloads, %share);

	open my $lines, '<', $file or die "$file: $!";
	while (<$lines>)
	{
		my ($workload, $repetition, $name, $tps, $nanoseconds) = split;
		die "no figure: $_" unless $tps;
		push @{ $share{$workload} }, $nanoseconds / $seconds / 1e7 if $name eq 'B';
		push @workloads, $workload unless $tps{$workload};
		$tps{$workload}[$repetition - 1]{$name} = $tps;
	}
	foreach my $workload (@workloads)
	{
		my @runs = @{ $tps{$workload} };
		my @noise = map { $_->{A2} / $_->{A1} } @runs;
		my @ratio = map { 2 * $_->{B} / ($_->{A1} + $_->{A2}) } @runs;
		my $ratio = median(@ratio);
		# Which of the two comes first is chance.
		my $least = quantile(0, @noise, map { 1 / $_ } @noise);
		my $fixed = sub { sprintf '%.3f', @_ };

		row("throughput, $workload, all limits set, transactions/s",
			number(median(map { $_->{B} } @runs)),
			'without: ' . number(median(map { ($_->{A1} + $_->{A2}) / 2 } @runs))
			  . '; noise of two without: ' . spread($fixed, @noise),
			spread($fixed, @ratio),
			'0.99 or within the noise',
			$ratio >= 0.99 || $ratio >= $least);
		row("  the worker's share of one core meanwhile",
			spread(sub { number($_[0]) . ' %' }, @{ $share{$workload} }), '', '', '', 1);
	}
	return;
}

# Every wake-up is a voluntary context switch.  Asking the server would wake it.  The worker dozes for
# as long as the smallest limit, naptime at most.
sub idle
{
	my ($seconds, $open_seconds) = @_;
	my @idle = sessions('idle', 20);
	my $open = session('open');
	my $pid = worker_pid();
	my $before;

	sleep 3;
	$before = status($pid, 'voluntary_ctxt_switches');
	sleep $seconds;
	my $woken = status($pid, 'voluntary_ctxt_switches') - $before;
	row("wake-ups in $seconds idle seconds, 20 idle sessions, limit 500 ms, naptime 1 s",
		$woken, '', '', 'at most ' . (2 * $seconds + 1), $woken <= 2 * $seconds + 1);

	$open->query_ok('BEGIN');
	$open->query_ok('UPDATE t SET v = v + 1 WHERE id = 1');
	sleep 3;
	$before = status($pid, 'voluntary_ctxt_switches');
	sleep $open_seconds;
	$woken = status($pid, 'voluntary_ctxt_switches') - $before;
	row("  in $open_seconds seconds with a session idle in transaction that blocks no other",
		$woken, '', '', 'at most ' . (2 * $open_seconds + 1), $woken <= 2 * $open_seconds + 1);
	return;
}

sub scans_and_incidents
{
	return @{ ($observer->rows('SELECT scans, incidents FROM lockguard.stats'))[0] };
}

# Locks, sessions and incidents come and go meanwhile: see run.sh.  "Data" is what is allocated; of
# that, "resident" is what has been written to at least once.
sub memory
{
	my ($count) = @_;
	my $pid = worker_pid();
	my (@before, @after);

	sleep 3;
	$observer->query_ok('SELECT lockguard.scan()') foreach 1 .. $count / 5;
	@before = map { status($pid, $_) } qw(VmData RssAnon);
	my ($scans_before, $incidents_before) = scans_and_incidents();
	$observer->query_ok('SELECT lockguard.scan()') foreach 1 .. $count;
	@after = map { status($pid, $_) } qw(VmData RssAnon);
	my ($scanned, $incidents) = scans_and_incidents();
	$scanned -= $scans_before;
	$incidents -= $incidents_before;

	my ($bytes) =
	  column("SELECT allocated_size FROM pg_shmem_allocations WHERE name = 'lockguard'");
	row('shared memory at 1,000 connections, without the history',
		sprintf('%.2f MiB', $bytes / 1048576), '', '', 'under 1 MiB', $bytes < 1048576);
	row("growth of the worker's memory over $scanned scans under churn",
		sprintf('data %d kB, resident %d kB', $after[0] - $before[0], $after[1] - $before[1]),
		"before: data $before[0] kB, resident $before[1] kB; incidents meanwhile: $incidents",
		'', 'data none', $after[0] == $before[0]);
	return;
}

# The rows of all files, as Markdown.
sub table
{
	my (@files) = @_;
	my @rows = ([ 'what', 'lockguard', 'measured against', 'ratio', 'aim', 'met' ]);
	my @width;

	foreach my $file (@files)
	{
		open my $rows, '<:utf8', $file or die "$file: $!";
		while (<$rows>)
		{
			chomp;
			push @rows, [ split /\t/, $_, -1 ];
		}
	}
	binmode STDOUT, ':utf8';
	foreach my $row (@rows)
	{
		foreach my $i (0 .. $#$row)
		{
			$width[$i] = length $row->[$i] if length $row->[$i] > ($width[$i] || 0);
		}
	}
	splice @rows, 1, 0, [ map { '-' x $_ } @width ];
	foreach my $row (@rows)
	{
		print '| ', join(' | ', map { sprintf "%-$width[$_]s", $row->[$_] } 0 .. $#$row), " |\n";
	}
	return;
}
