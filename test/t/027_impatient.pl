# Waiters that give up early and come again: what counts is for how long a
# session has been waited for in all, not how patient each waiter is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = lockguard_node('main', conf => <<'CONF');
lockguard.incident_threshold = '400ms'
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $row = 0;

# A session idle in a transaction that has updated a row of its own.
sub idle_holder
{
	my ($name, %set) = @_;
	my $s = session($node, $name, %set);

	$row++;
	$s->query_ok($_) foreach 'BEGIN', "UPDATE t SET v = 1 WHERE id = $row";
	return $s;
}

# A waiter tries until the row is free, or for "most" seconds.  Returns how often
# it has failed, and whether it has got the row at last.
sub try_again
{
	my ($w, %opt) = @_;
	my $until = time() + ($opt{most} || 20);
	my $failed = 0;

	while (time() < $until)
	{
		my $result = $w->query("UPDATE t SET v = 2 WHERE id = $row");

		return ($failed, 1) unless $result->{error};
		like($result->{error}{C}, qr/^(?:55P03|57014)$/, 'it gives up') if $failed++ == 0;
		usleep(1000 * $opt{pause}) if $opt{pause};
	}
	return ($failed, 0);
}

# How long after it began to block was the session rolled back, and in how many
# incidents?
sub removed_after
{
	my ($s) = @_;

	return $observer->rows(<<"SQL");
SELECT extract(epoch FROM a.acted_at - i.started_at), i.waits, i.gave_up, i.resolution,
       (SELECT count(*) FROM lockguard.incidents WHERE root_pid = @{[ $s->pid ]})
FROM lockguard.actions a JOIN lockguard.incidents i USING (incident_id)
WHERE a.pid = @{[ $s->pid ]} AND a.action = 'rollback' AND i.status = 'closed'
SQL
}

# One story for each way to give up, coming again at once.
foreach my $way ('lock_timeout', 'statement_timeout')
{
	my $s = idle_holder("holder, $way", idle_blocker_timeout => '1s');
	my $w = session($node, "waiter, $way");

	$w->query_ok("SET $way = '450ms'");
	my ($failed, $got) = try_again($w);

	ok($got, "$way: the row is free at last");
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	like($s->error->{D}, qr/blocking 1 session for \d{4} ms/, "$way: it is told for how long in all");
	wait_until(sub { (removed_after($s))[0] });
	my ($after, $waits, $gave_up, $resolution, $incidents) = @{ (removed_after($s))[0] };
	cmp_ok($after, '>=', 1, "$way: not before the limit");
	cmp_ok($after, '<', 3, "$way: nor long after it");
	is($incidents, 1, "$way: one incident");
	is($gave_up, $failed, "$way: as many gave up as failed");
	is($waits, $failed + 1, "$way: and one got the row");
	is($resolution, 'rolled back', "$way: the end of it");
	my $report = $observer->value('SELECT lockguard.report(max(incident_id)) FROM lockguard.incidents WHERE root_pid = ' . $s->pid);
	my ($pid, $user) = ($w->pid, scalar getpwuid($>));
	my @rows = $report =~ /^\| \d{4}-[^|]+ \| $pid \| `\Q$user\E` \| \d+ ms \|$/mg;
	is(scalar @rows, $failed, "$way: the report lists who gave up, and when");
	$w->close;
}

# The same with clients that are cancelled, or that go away.
foreach my $way ('cancel', 'terminate')
{
	my $s = idle_holder("holder, $way", idle_blocker_timeout => '1s');
	my $failed = 0;

	until ($failed > 20)
	{
		my $w = session($node, "waiter $failed, $way");

		$w->start("UPDATE t SET v = 2 WHERE id = $row");
		begins_to_wait($observer, $w);
		usleep(300_000);
		$w->read_some(65536, 0);
		last unless $w->{busy};
		$observer->query_ok("SELECT pg_${way}_backend(" . $w->pid . ')');
		$way eq 'cancel' ? $w->finish : $w->wait_closed;
		$failed++;
		$s->read_some(65536, 0);
		$w->close(silent => 1);
	}
	cmp_ok($failed, '>', 1, "$way: some have gone");
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	wait_until(sub { (removed_after($s))[0] });
	my ($after, $waits, $gave_up) = @{ (removed_after($s))[0] };
	cmp_ok($after, '>=', 1, "$way: not before the limit");
	is($gave_up, $failed, "$way: each counts as given up");
}

# Pauses that are shorter than the limit do not count, but do not help either.
{
	my $s = idle_holder('holder, pauses', idle_blocker_timeout => '1s');
	my $w = session($node, 'waiter, pauses');

	$w->query_ok("SET lock_timeout = '300ms'");
	my $began = time();
	my ($failed, $got) = try_again($w, pause => 300);
	my $after = time() - $began;

	ok($got, 'pauses: the row is free at last');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	cmp_ok($failed, '>=', 3, 'pauses: three tries have not been enough');
	cmp_ok($after, '>=', 1.8, 'pauses do not count');
	cmp_ok($after, '<', 10, 'pauses: but the tries add up');
	$w->close;
}

# A pause as long as the limit begins anew.
{
	my $s = idle_holder('holder, long pauses', idle_blocker_timeout => '400ms', blocker_timeout => '400ms');
	my $w = session($node, 'waiter, long pauses');

	$w->query_ok("SET lock_timeout = '200ms'");
	my ($failed, $got) = try_again($w, pause => 600, most => 4);

	ok(!$got && $failed > 3, 'long pauses: all have failed');
	is_untouched($observer, $s, 'T');
	$_->close foreach $s, $w;
}

# Ten whose waits overlap.
{
	my $s = idle_holder('holder, crowd', idle_blocker_timeout => '1s');
	my @w = map { session($node, "waiter $_, crowd") } 1 .. 10;
	my $failed = 0;
	my $done = 0;

	foreach my $i (0 .. $#w)
	{
		$w[$i]->query_ok("SET lock_timeout = '" . (200 + 10 * $i) . "ms'");
		$w[$i]->start("UPDATE t SET v = 2 WHERE id = $row");
	}
	my $until = time() + 20;
	while ($done < @w && time() < $until)
	{
		$done = 0;
		foreach my $w (@w)
		{
			$w->read_some(65536, 0);
			next if $w->{busy};
			my $result = $w->finish;
			if ($result->{error})
			{
				$failed++;
				$w->start("UPDATE t SET v = 2 WHERE id = $row");
			}
			else { $done++; }
		}
		usleep(2000);
	}
	is($done, 10, 'crowd: all have got the row');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	wait_until(sub { (removed_after($s))[0] });
	my ($after, undef, $gave_up, undef, $incidents) = @{ (removed_after($s))[0] };
	cmp_ok($after, '>=', 1, 'crowd: not before the limit');
	cmp_ok($after, '<', 3, 'crowd: nor long after it');
	is($incidents, 1, 'crowd: one incident');
	cmp_ok(abs($gave_up - $failed), '<=', 2, 'crowd: as many gave up as failed');
	$_->close foreach @w;
}

# An incident goes on over short gaps, and ends with long ones.
{
	my $s = idle_holder('holder, incident');
	my $w = session($node, 'waiter, incident');
	my $count = 'SELECT count(*) FROM lockguard.incidents WHERE root_pid = ' . $s->pid;

	$w->query_ok("SET lock_timeout = '300ms'");
	try_again($w, pause => 100, most => 2);
	is($observer->value($count), 1, 'short gaps: one incident');
	ok($observer->poll("$count AND status = 'closed' AND resolution = 'released'", 1), 'it ends when no session comes again');
	like(
		$observer->value('SELECT lockguard.report(max(incident_id)) FROM lockguard.incidents WHERE root_pid = ' . $s->pid),
		qr/All that waited for it gave up\./, 'and the report says why');
	$_->close foreach $s, $w;
}

# What the views say meanwhile: the time in all, and when the limit is passed.
{
	my $s = idle_holder('holder, views', blocker_timeout => '1h');
	my $w = session($node, 'waiter, views');

	$w->query_ok("SET lock_timeout = '300ms'");
	my ($failed) = try_again($w, most => 1.5);
	$w->start("UPDATE t SET v = 2 WHERE id = $row");
	begins_to_wait($observer, $w);
	my ($since, $left) = @{ (
			$observer->rows(
				'SELECT extract(epoch FROM clock_timestamp() - blocking_since), extract(epoch FROM limit_at - clock_timestamp())'
				  . ' FROM lockguard.sessions WHERE pid = '
				  . $s->pid))[0] };
	cmp_ok($since, '>', 0.6, 'sessions: the time in all');
	cmp_ok($left, '<', 3600 - 0.6, 'sessions: and what is left of the limit');
	$w->finish;
	$_->close foreach $s, $w;
}

# A new transaction begins anew; a lock of the session does not, while a wait goes on.
{
	my $s = session($node, 'many transactions', blocker_timeout => '600ms');
	my $w = session($node, 'waiter, many transactions');
	my $until = time() + 3;

	$row++;
	$w->query_ok("SET lock_timeout = '150ms'");
	while (time() < $until)
	{
		$s->query_ok($_) foreach 'BEGIN', "UPDATE t SET v = v + 1 WHERE id = $row";
		$w->query("UPDATE t SET v = 2 WHERE id = $row");
		$s->query_ok('COMMIT');
	}
	is_untouched($observer, $s, 'I');
	$s->query_ok('SELECT pg_advisory_lock(4711)');
	$w->query_ok('SET lock_timeout = 0');
	$w->start('SELECT pg_advisory_lock(4711)');
	begins_to_wait($observer, $w);
	$until = time() + 20;
	while (!$s->closed && $w->{busy} && time() < $until)
	{
		last if $s->query('SELECT pg_sleep(0.03)')->{error};
		$w->read_some(65536, 0);
	}
	cmp_ok(scalar(recorded($observer, $s)), '>', 0, 'a lock of the session, from one transaction to the next');
	$_->close(silent => 1) foreach $s, $w;
}

# Clients that take turns with a lock of the session: one always waits, and none
# holds it for long.
{
	my @s = map { session($node, "turns $_", blocker_timeout => '600ms', idle_blocker_timeout => '600ms', queued_blocker_timeout => '600ms') } 1 .. 3;
	my %state = map { $_ => 'start' } 0 .. 2;
	my %since;
	my $turns = 0;
	my $until = time() + 4;

	while (time() < $until)
	{
		foreach my $i (0 .. 2)
		{
			my $s = $s[$i];

			$s->read_some(65536, 0);
			next if $s->{busy};
			if ($state{$i} eq 'start')
			{
				$s->start('SELECT pg_advisory_lock(4712)');
				$state{$i} = 'asked';
			}
			elsif ($state{$i} eq 'asked')
			{
				$s->finish;
				$since{$i} = time();
				$state{$i} = 'has';
				$turns++;
			}
			elsif (time() - $since{$i} > 0.09)
			{
				$s->query_ok('SELECT pg_advisory_unlock(4712)');
				$state{$i} = 'start';
			}
		}
		usleep(1000);
	}
	cmp_ok($turns, '>', 20, 'they have taken turns');
	is_deeply([ map { recorded($observer, $_) } @s ], [], 'and none of them is to blame');
	$_->close(silent => 1) foreach @s;
}

# One that goes back to a savepoint releases its lock: each that waits for it gets it.
{
	$observer->query_ok('CREATE TABLE turns ()');
	my $s = session($node, 'savepoints', blocker_timeout => '700ms');
	my $w = session($node, 'waiter, savepoints');
	my $until = time() + 4;
	my $got = 0;

	$s->start(<<'SQL');
DO $$ BEGIN
	LOOP
		BEGIN
			LOCK TABLE turns;
			PERFORM pg_sleep(0.2);
			RAISE EXCEPTION USING ERRCODE = 'P0001';
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
		PERFORM pg_sleep(0.08);
	END LOOP;
END $$
SQL
	while (time() < $until && $s->{busy})
	{
		last if $w->query('BEGIN')->{error} || $w->query('LOCK TABLE turns')->{error};
		$w->query_ok('COMMIT');
		$got++;
		$s->read_some(65536, 0);
	}
	cmp_ok($got, '>', 8, 'savepoints: they take turns');
	is_deeply([ recorded($observer, $s) ], [], 'savepoints: and none is to blame');
	$observer->query_ok('SELECT pg_terminate_backend(' . $s->pid . ')');
	$_->close(silent => 1) foreach $s, $w;
}

# Turns with a second lock do not shield one that is held on to.
{
	my $s = session($node, 'two locks', blocker_timeout => '1s');
	my $other = session($node, 'takes turns');
	my $w = session($node, 'waiter, two locks');
	my $until = time() + 20;
	my $failed = 0;

	$row++;
	$w->query_ok("SET lock_timeout = '200ms'");
	$s->start(<<"SQL");
DO \$\$ BEGIN
	UPDATE t SET v = 1 WHERE id = $row;
	LOOP
		PERFORM pg_advisory_lock(4713);
		PERFORM pg_sleep(0.3);
		PERFORM pg_advisory_unlock(4713);
		PERFORM pg_sleep(0.05);
	END LOOP;
END \$\$
SQL
	$other->start('DO $$ BEGIN LOOP PERFORM pg_advisory_lock(4713); PERFORM pg_advisory_unlock(4713); PERFORM pg_sleep(0.02); END LOOP; END $$');
	while (time() < $until && $s->{busy})
	{
		$failed++ if $w->query("UPDATE t SET v = 2 WHERE id = $row")->{error};
		$s->read_some(65536, 0);
	}
	is_cancelled($s, 'blocker_timeout');
	cmp_ok($failed, '<', 40, 'two locks: soon');
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach $s, $other;
	$_->close(silent => 1) foreach $s, $other, $w;
}

# One that holds more locks than are remembered, each waited for in its turn.
{
	my $s = session($node, 'many tables', idle_blocker_timeout => '1s');
	my $w = session($node, 'waiter, many tables');
	my $until = time() + 20;
	my $tried = 0;

	$observer->query_ok("CREATE TABLE many$_ ()") foreach 0 .. 11;
	$s->query_ok('BEGIN');
	$s->query_ok("LOCK TABLE many$_") foreach 0 .. 11;
	$w->query_ok("SET lock_timeout = '100ms'");
	while (time() < $until && !recorded($observer, $s))
	{
		$w->query('SELECT FROM many' . $tried++ % 12);
		$s->read_some(65536, 0);
	}
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	cmp_ok($tried, '<', 60, 'many tables: soon');
	$_->close(silent => 1) foreach $s, $w;
}

# max_blocked_sessions, too, is followed by a termination if a cancel does not help, although
# those that wait are others each time; and without incidents.
{
	configure($observer, incident_threshold => 0);
	$observer->query_ok($_) foreach 'ALTER SYSTEM SET deadlock_timeout = \'50ms\'', 'SELECT pg_reload_conf()', 'SELECT lockguard.scan()';
	my $s = session($node, 'catches', max_blocked_sessions => 1, escalation_delay => '1s');
	my @w = map { session($node, "waiter $_, counted") } 1 .. 3;
	my $until = time() + 20;

	$row++;
	$s->start("DO \$\$ BEGIN UPDATE t SET v = 1 WHERE id = $row; LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END \$\$");
	foreach my $w (@w)
	{
		$w->query_ok("SET lock_timeout = '300ms'");
		$w->start("UPDATE t SET v = 2 WHERE id = $row");
	}
	while (time() < $until && !$s->closed)
	{
		foreach my $w (@w)
		{
			$w->read_some(65536, 0);
			next if $w->{busy};
			$w->finish;
			$w->start("UPDATE t SET v = 2 WHERE id = $row");
		}
		$s->read_some(65536, 0);
		usleep(2000);
	}
	is_terminated($s, 'max_blocked_sessions');
	is_recorded($observer, $s, 'max_blocked_sessions cancel escalated', 'max_blocked_sessions terminate released');
	$_->close(silent => 1) foreach @w;
}

done_testing();
