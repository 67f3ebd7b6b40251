# Deadlocks: two or three sessions that each hold something and ask for what
# the next one holds, with others queued behind.  The error does not always
# release what the one that gets it holds: there may be a savepoint, or the
# function that catches it continues for a while.

package LockguardFuzz::Duel;

use strict;
use warnings;

use Exporter 'import';
use List::Util qw(shuffle);
use Time::HiRes qw(time);

our @EXPORT_OK = qw(duel_tables duel_roles next_in_duel);

# How long the others are waited for (s).
use constant PATIENCE => 1.5;

sub pick { return $_[ rand @_ ]; }

sub duel_tables
{
	return (
		(map { "CREATE TABLE d$_ (id int, v int) WITH (parallel_workers = 0)" } 1 .. 6),
		'INSERT INTO hot SELECT i, 0 FROM generate_series(41, 60) i',
		# Says when it has caught the error, and continues in the same statement.
		'CREATE FUNCTION ask(what text, pause float8) RETURNS void LANGUAGE plpgsql AS $$'
		  . ' BEGIN EXECUTE what;'
		  . ' EXCEPTION WHEN deadlock_detected THEN'
		  . " RAISE NOTICE 'deadlock at %', extract(epoch FROM clock_timestamp());"
		  . ' PERFORM pg_sleep(pause); END $$');
}

# Half of them with limits on blockers.  The server's detector comes before
# these, or long after; and mostly it ends the statement of one that has none.
sub duel_roles
{
	my $ms = sub { 100 + int rand 300 };
	my @roles = (
		{}, {}, {}, { lock_wait_timeout => 600 + int rand 600 },
		(map { { queued_blocker_timeout => $ms->() } } 1 .. 3),
		{ queued_blocker_timeout => $ms->(), blocker_timeout => $ms->() },
		{ blocker_timeout => $ms->() },
		{ max_blocked_sessions => 1 + int rand 2 });

	foreach my $role (@roles)
	{
		my $least = grep({ /blocke[rd]/ } keys %$role) ? 600 : 350;

		$role->{character} = 'duelist';
		$role->{server}{deadlock_timeout} = rand() < 0.25 ? 50 + int rand 50 : $least + int rand 600;
	}
	return @roles;
}

# What is fought over: how to get it first, how the next one asks for it, and
# what others may want of it.
sub _things
{
	my ($n) = @_;
	my @tables = shuffle 1 .. 6;
	my @rows = shuffle 41 .. 60;
	my @keys = shuffle 1001 .. 1020;
	my @things;

	foreach (1 .. $n)
	{
		my $kind = pick(qw(table table table row advisory));

		if ($kind eq 'table')
		{
			my $lock = 'LOCK TABLE d' . pop(@tables);

			push @things,
			  { hold => "$lock IN " . pick('SHARE', 'SHARE ROW EXCLUSIVE', 'ACCESS EXCLUSIVE', 'ACCESS EXCLUSIVE') . ' MODE',
				ask => "$lock IN " . pick('ROW EXCLUSIVE', 'SHARE ROW EXCLUSIVE', 'ACCESS EXCLUSIVE', 'ACCESS EXCLUSIVE') . ' MODE',
				follow => [ map { "$lock IN $_ MODE" } 'ACCESS SHARE', 'ROW EXCLUSIVE', 'SHARE', 'ACCESS EXCLUSIVE' ] };
		}
		elsif ($kind eq 'row')
		{
			my $where = 'WHERE id = ' . pop(@rows);

			push @things,
			  { hold => pick("UPDATE hot SET v = v + 1 $where", "SELECT FROM hot $where FOR " . pick('UPDATE', 'SHARE')),
				ask => "UPDATE hot SET v = v + 1 $where",
				follow => [ "UPDATE hot SET v = v + 1 $where", "SELECT FROM hot $where FOR SHARE" ] };
		}
		else
		{
			my $key = pop(@keys);

			push @things,
			  { hold => "SELECT pg_advisory_xact_lock($key)",
				ask => "SELECT pg_advisory_xact_lock($key)",
				follow => [ map { "SELECT pg_advisory_xact_lock$_($key)" } '', '_shared' ] };
		}
	}
	return @things;
}

# Join the duel that is being prepared.  True if all are there.
sub _join
{
	my ($load, $session) = @_;
	my $duel = $load->{next_duel};

	if (!$session->{duel})
	{
		$duel = $load->{next_duel} = { size => rand() < 0.65 ? 2 : 3, members => [] } if !$duel;
		@{ $duel->{members} } = grep { !$_->{closed} } @{ $duel->{members} };
		push @{ $duel->{members} }, $session;
		@{$session}{qw(duel blow)} = ($duel, 0);
		if (@{ $duel->{members} } == $duel->{size})
		{
			$duel->{things} = [ _things($duel->{size}) ];
			undef $load->{next_duel};
		}
	}
	return defined $session->{duel}{things};
}

# All hold what they hold: from now on others come, and then the blows.
sub _all_ready
{
	my ($load, $duel, $session) = @_;

	if (!$duel->{go_at})
	{
		$session->{waits_since} ||= time();
		return 0
		  if time() < $session->{waits_since} + PATIENCE
		  && grep { !$_->{closed} && $_->{duel} && $_->{duel} == $duel && $_->{blow} < 3 } @{ $duel->{members} };
		$duel->{go_at} = time() + (rand() < 0.5 ? 0.03 : rand 0.3);
		foreach my $thing (@{ $duel->{things} })
		{
			$load->call_for(pick(@{ $thing->{follow} })) foreach 1 .. 1 + rand 2;
		}
	}
	return time() >= $duel->{go_at};
}

# What a session in a duel does next; undef: it waits for the others.  The load
# has the BEGIN, and what is done in a failed transaction.
sub next_in_duel
{
	my ($load, $session) = @_;

	if ($session->{status} eq 'I')
	{
		delete @{$session}{qw(duel waits_since)} if $session->{blow};
		return unless _join($load, $session);
		$session->{blow} = 1;
		return $load->begin($session, '');
	}
	my $duel = $session->{duel};
	my ($i) = grep { $duel->{members}[$_] == $session } 0 .. $#{ $duel->{members} };

	if ($session->{blow} == 1)
	{
		$session->{blow} = 2;
		return $duel->{things}[$i]{hold};
	}
	if ($session->{blow} == 2)
	{
		$session->{blow} = 3;
		return 'SAVEPOINT s' if rand() < 0.7;
	}
	if ($session->{blow} == 3)
	{
		return unless _all_ready($load, $duel, $session);
		my $thing = $duel->{things}[ ($i + 1) % $duel->{size} ];

		$session->{blow} = 4;
		$session->{think} = rand() < 0.6 ? 0.2 + rand 0.6 : rand 0.05;
		$load->call_for(pick(@{ $thing->{follow} })) if rand() < 0.5;
		return $thing->{ask} if rand() < 0.5;
		return "SELECT ask('$thing->{ask}', " . (rand() < 0.4 ? rand 0.1 : 0.1 + rand 0.9) . ')';
	}
	return pick(qw(COMMIT ROLLBACK));
}

1;
