# The observer: a process of its own that samples what the server says of
# sessions and locks, in functions that share no code with lockguard, and with
# the server's clock read before and after each sample.

package LockguardFuzz::Observer;

use strict;
use warnings;

use Exporter 'import';
use LockguardFuzz::Freeze qw(unfrozen);
use LockguardFuzz::Load qw(DEADLOCK_TIMEOUT %priority);
use LockguardTest;
use PostgreSQL::Test::Utils;
use POSIX ();
use Time::HiRes qw(usleep);

our @EXPORT_OK = qw(start_observer stop_observer read_sample
  downstream upstream component cyclic is_idle in_one_wait idle_all_along blocks
  blames);

# One sample as text: when it began and ended, the next transaction id, then
# sessions, workers of parallel queries, waits, blockers, the waits again,
# numbers of locks, and prepared transactions.  pg_lock_status() is of one
# instant; a wait that is the same before and after pg_blocking_pids() is what
# that has told about.  Locks are counted for the roles given only.
my $observe = <<'SQL';
CREATE FUNCTION observe(counted oid[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	began numeric := extract(epoch FROM clock_timestamp());
	next_xid xid8 := pg_current_xact_id();
	sessions text;
	workers text;
	waits text;
	blockers text;
	again text;
	locks text;
	prepared text;
	waiting int[];
	hoarders int[];
BEGIN
	SELECT string_agg(concat_ws('|', a.pid, a.usesysid, coalesce(replace(a.state, ' ', '_'), 'unknown'),
			coalesce(extract(epoch FROM a.xact_start)::text, '-'),
			coalesce(extract(epoch FROM a.query_start)::text, '-'),
			coalesce(extract(epoch FROM a.state_change)::text, '-'),
			coalesce(a.wait_event, '-'), coalesce(a.backend_xid::text, '-'),
			coalesce(a.backend_xmin::text, '-')), ' ')
			FILTER (WHERE a.backend_type = 'client backend'),
		string_agg(a.pid || '|' || a.leader_pid, ' ') FILTER (WHERE a.leader_pid <> a.pid),
		array_agg(a.pid) FILTER (WHERE a.usesysid = ANY (counted))
	INTO sessions, workers, hoarders
	FROM pg_stat_get_activity(NULL) a
	WHERE a.pid <> pg_backend_pid() AND a.usesysid <> 10;

	SELECT string_agg(concat_ws('|', l.pid, coalesce(extract(epoch FROM l.waitstart)::text, '-'), l.locktype), ' ')
			FILTER (WHERE NOT l.granted),
		array_agg(DISTINCT l.pid) FILTER (WHERE NOT l.granted)
	INTO waits, waiting FROM pg_lock_status() l;

	IF waiting IS NOT NULL THEN
		SELECT string_agg(w || '|' || array_to_string(pg_blocking_pids(w), ','), ' ')
		INTO blockers FROM unnest(waiting) w;

		SELECT string_agg(concat_ws('|', l.pid, coalesce(extract(epoch FROM l.waitstart)::text, '-'), l.locktype), ' ')
		INTO again FROM pg_lock_status() l WHERE NOT l.granted;
	END IF;

	IF hoarders IS NOT NULL THEN
		SELECT string_agg(concat_ws('|', n.pid, n.shared, n.held), ' ') INTO locks FROM (
			SELECT l.pid, count(DISTINCT l.lock) FILTER (WHERE NOT l.fastpath) AS shared, count(DISTINCT l.lock) AS held
			FROM (SELECT s.pid, s.fastpath, (s.locktype, s.database, s.relation, s.page, s.tuple, s.virtualxid,
					s.transactionid::text, s.classid, s.objid, s.objsubid) AS lock
				FROM pg_lock_status() s
				WHERE s.granted AND s.mode <> 'SIReadLock' AND s.pid = ANY (hoarders)) l
			GROUP BY l.pid) n;
	END IF;

	SELECT string_agg(p.gid || '|' || extract(epoch FROM p.prepared), ' ')
	INTO prepared FROM pg_prepared_xact() p;

	RETURN concat_ws(';', began, next_xid, coalesce(sessions, ''), coalesce(workers, ''),
		coalesce(waits, ''), coalesce(blockers, ''), coalesce(again, ''), coalesce(locks, ''),
		coalesce(prepared, ''), extract(epoch FROM clock_timestamp()));
END $$
SQL

# Start it; returns what stop_observer() wants, with the file that it writes.
sub start_observer
{
	my ($node, $admin, @counted) = @_;
	my $file = $PostgreSQL::Test::Utils::tmp_check . "/samples.$$";
	my $sql = "SELECT observe('{" . join(',', @counted) . "}')";

	$admin->query_ok($observe);
	pipe(my $reader, my $writer) or die "pipe: $!";
	my $pid = fork();
	die "fork: $!" unless defined $pid;
	if (!$pid)
	{
		my $stop = 0;
		local $SIG{TERM} = sub { $stop = 1 };
		close $reader;
		eval {
			my $session = LockguardTest::Session->new($node, 'observer');
			# One that does not wait for jit or parallel workers.
			$session->query_ok("SET $_")
			  foreach 'jit = off', 'max_parallel_workers_per_gather = 0', 'log_statement = none';
			open my $out, '>', $file or die "$file: $!";
			$writer->autoflush(1);
			print $writer "ready\n";
			while (!$stop)
			{
				print $out $session->value($sql), "\n";
				usleep(3_000);
			}
			close $out;
			1;
		} or do { print $writer "$@"; POSIX::_exit(1); };
		POSIX::_exit(0);
	}
	close $writer;
	my $said = <$reader>;
	die 'the observer fails: ' . ($said || 'nothing said') unless ($said || '') eq "ready\n";
	return { pid => $pid, file => $file };
}

sub stop_observer
{
	my ($observer) = @_;

	kill 'TERM', $observer->{pid};
	waitpid $observer->{pid}, 0;
	return $? == 0;
}

sub _section
{
	my ($text) = @_;
	return map { [ map { $_ eq '-' ? undef : $_ } split /\|/ ] } split / /, $text;
}

# The waits of each session, with those of its parallel workers: an identity
# as text, and the longest.
sub _waits
{
	my ($text, $leader, $freezes) = @_;
	my %waits;

	foreach my $w (_section($text))
	{
		my ($pid, $start, $type) = @$w;
		my $s = $waits{ $leader->{$pid} || $pid } ||= { parts => {} };

		$s->{parts}{"$pid:" . (defined $start ? $start : '')} = 1;
		$s->{group} = 1 if $leader->{$pid};
		$s->{others} = 1 unless $type =~ /^(?:transactionid|virtualxid|spectoken|tuple)$/;
		$start = unfrozen($freezes, $start) if defined $start;
		@{$s}{qw(wait locktype)} = ($start, $type)
		  if !$s->{locktype} || defined $start && (!defined $s->{wait} || $start < $s->{wait});
	}
	foreach my $s (values %waits)
	{
		$s->{group} = 1 if keys %{ $s->{parts} } > 1;
		$s->{id} = join ' ', sort keys %{ $s->{parts} };
	}
	return \%waits;
}

# A sample, on the clock that stands still in freezes: session by pid, who is behind whom, and pairs of waiter and
# blocker with what is known of each from the samples before.  Of a session:
#
#   pid role state xact query change event xid xmin
#   wait locktype wait_id  of its longest wait for a lock, if any
#   others                 some wait of it is for a lock that is not a row's
#   group                  parallel workers of it wait
#   blockers               pids; 0 for prepared transactions
#   waited                 for how long it has waited at least up to now, in all
#   locks                  how many it holds in the shared lock table, if that is counted
#   all_locks              the same with its fast-path locks, which others may move there
#   xid_before             the next transaction id before its transaction
sub read_sample
{
	my ($line, $previous, $freezes) = @_;
	my @section = split /;/, $line, -1;
	my %leader = map { $_->[0] => $_->[1] } _section($section[3]);
	my $waits = _waits($section[4], \%leader, $freezes);
	my $again = _waits($section[6], \%leader, $freezes);
	my %sample = (
		before => unfrozen($freezes, $section[0]),
		after => unfrozen($freezes, $section[9]),
		next_xid => $section[1]);

	foreach my $row (_section($section[2]))
	{
		my %s;

		@s{qw(pid role state xact query change event xid xmin)} = @$row;
		foreach my $time (qw(xact query change))
		{
			$s{$time} = unfrozen($freezes, $s{$time}) if defined $s{$time};
		}
		my $then = $previous && $previous->{session}{ $s{pid} };
		my $w = $waits->{ $s{pid} };

		$s{blockers} = [];
		@s{qw(wait locktype others group wait_id)} = @{$w}{qw(wait locktype others group id)} if $w;
		# Until it is set, there may be that of a wait before.
		if ($then && defined $s{wait} && !$s{group}
			&& (defined $then->{stale} ? $s{wait} == $then->{stale} : !$then->{locktype} && $s{wait} < $previous->{before}))
		{
			$s{stale} = $s{wait};
			undef $s{wait};
		}
		$s{waited} = $then ? $then->{waited} : 0;
		$s{waited} += $sample{before} - $previous->{after}
		  if $then && defined $s{wait} && defined $then->{wait} && $then->{wait} == $s{wait};
		$s{xid_before} =
		    $then && defined $s{xact} && defined $then->{xact} && $then->{xact} == $s{xact} ? $then->{xid_before}
		  : $previous ? $previous->{next_xid}
		  : 0
		  if defined $s{xact};
		$sample{session}{ $s{pid} } = \%s;
	}
	foreach my $row (_section($section[5]))
	{
		my ($pid, $blockers) = @$row;
		my $s = $sample{session}{ $leader{$pid} || $pid };
		my $now = $again->{ $leader{$pid} || $pid };

		# Another wait by then?  That does not matter to a group, of which
		# it is only known that some are blocked by some.
		next unless $s && defined $s->{wait_id} && defined $blockers;
		next unless $s->{group} || $now && $now->{parts}{ $s->{wait_id} };
		$s->{group} = 1 if $now && $now->{group};
		my %once = map { $_ => 1 } @{ $s->{blockers} }, split /,/, $blockers;
		$s->{blockers} = [ sort { $a <=> $b } keys %once ];
	}
	foreach my $row (_section($section[7]))
	{
		my $s = $sample{session}{ $row->[0] };
		@{$s}{qw(locks all_locks)} = @{$row}[ 1, 2 ] if $s;
	}
	$sample{prepared} = { map { $_->[0] => unfrozen($freezes, $_->[1]) } _section($section[8]) };
	_read_pairs(\%sample, $previous);
	return \%sample;
}

sub _read_pairs
{
	my ($sample, $previous) = @_;

	foreach my $s (values %{ $sample->{session} })
	{
		foreach my $blocker (@{ $s->{blockers} })
		{
			my $old = $previous && $previous->{pair}{$blocker}{ $s->{pid} };
			my $b = $sample->{session}{$blocker};
			my $wait = $s->{wait};

			push @{ $sample->{behind}{$blocker} }, $s->{pid};
			# It is set a little after the wait has begun.
			next unless defined $wait;

			# The same wait; or of a group, some wait.
			undef $old if $old && $old->{wait} != $wait && !$old->{group} && !$s->{group};
			my %pair =
			  $old
			  ? %$old
			  : (
				not_before => $previous ? $previous->{before} : 0,
				seen => $sample->{after},
				wait => $wait,
				waiter => $s->{pid},
				waited => $b ? $b->{waited} : 0);
			$pair{group} = 1 if $s->{group};

			# Since when has it been seen as a root blocker all the time?
			if ($b)
			{
				$pair{root} = $b->{locktype} ? undef : $pair{root} || $sample->{after};
			}
			$sample->{pair}{$blocker}{ $s->{pid} } = \%pair;
		}
	}
	return;
}

sub is_idle
{
	my ($s) = @_;
	return $s->{state} =~ /^idle/;
}

# The same session, in the same wait, or idle without a break?
sub in_one_wait
{
	my ($pid, @samples) = @_;
	my @s = map { $_ && $_->{session}{$pid} } @samples;

	return !grep { !$_ || !defined $_->{wait} || $_->{group} || $_->{wait_id} ne $s[0]{wait_id} } @s;
}

sub idle_all_along
{
	my ($pid, @samples) = @_;
	my @s = map { $_ && $_->{session}{$pid} } @samples;

	return !grep { !$_ || !is_idle($_) || $_->{change} != $s[0]{change} } @s;
}

sub blocks
{
	my ($blocker, $waiter, $sample) = @_;
	my $s = $sample->{session}{$waiter};
	return $s && grep { $_ == $blocker } @{ $s->{blockers} };
}

# May a session be to blame for another that waits for it?  One in the queue for
# a row is not for others in that queue.
sub blames
{
	my ($blocker, $waiter) = @_;
	return !$blocker->{locktype} || $blocker->{others} || $waiter->{others};
}

# All that wait for any of these, by the edges of all the samples.
sub downstream
{
	my ($pids, @samples) = @_;
	my @todo = @$pids;
	my %seen;

	while (defined(my $next = shift @todo))
	{
		foreach my $sample (@samples)
		{
			push @todo, grep { !$seen{$_}++ } @{ $sample->{behind}{$next} || [] };
		}
	}
	return \%seen;
}

# All that a session waits for; 0 for prepared transactions.
sub upstream
{
	my ($pid, $sample) = @_;
	my @todo = ($pid);
	my %seen;

	while (defined(my $next = shift @todo))
	{
		my $s = $sample->{session}{$next};
		push @todo, grep { !$seen{$_}++ } @{ $s->{blockers} } if $s;
	}
	return \%seen;
}

# All that are connected with a session, but not by a prepared transaction: it
# is not known which.
sub component
{
	my ($pid, @samples) = @_;
	my @todo = ($pid);
	my %seen = ($pid => 1);

	while (defined(my $next = shift @todo))
	{
		foreach my $sample (@samples)
		{
			my $s = $sample->{session}{$next};

			push @todo, grep { $_ && !$seen{$_}++ } @{ $sample->{behind}{$next} || [] },
			  $s ? @{ $s->{blockers} } : ();
		}
	}
	return \%seen;
}

# Those that are part of a cycle, by edges from each to a list of others: the
# members of each cycle, or of several that share one, by any of them.
sub cyclic
{
	my ($edges) = @_;
	my %left = map { $_ => 1 } keys %$edges;
	my %cyclic;

	# Most wait for none that wait for them: leave out those, again and again.
	while (my @ends = grep {
			my $one = $_;
			!grep { $left{$_} } @{ $edges->{$one} }
		} keys %left)
	{
		delete @left{@ends};
	}
	my %reaches;

	foreach my $start (keys %left)
	{
		my @todo = ($start);

		while (defined(my $one = shift @todo))
		{
			push @todo, grep { $left{$_} && !$reaches{$start}{$_}++ } @{ $edges->{$one} };
		}
	}
	foreach my $one (grep { $reaches{$_}{$_} } keys %left)
	{
		$cyclic{$one} = [ grep { $reaches{$_}{$one} } keys %{ $reaches{$one} } ];
	}
	return \%cyclic;
}

1;
