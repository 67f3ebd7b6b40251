# Random load, an independent observer, and the check of every action of
# lockguard against what the observer saw.
#
# The observer is a process of its own.  It samples pg_stat_get_activity(),
# pg_lock_status() and pg_blocking_pids(), which share no code with lockguard,
# and reads its own clock before and after each sample.  All that is checked
# follows from these bounds for certain, however seldom it gets to sample:
#
# - What began at least the limit's length before the action, and has gone on
#   up to it, must be seen in the last sample that ended before the action.
# - A pair of waiter and blocker may have begun as early as the last sample
#   that does not show it, but no earlier.
#
# What cannot be told, because no sample lies between, is counted as unseen.

package LockguardFuzz;

use strict;
use warnings;

use LockguardTest;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(time usleep);

# Clocks of shared memory and of the worker may differ by so much (s).
use constant TOLERANCE => 0.004;
# How late an action may be on a busy machine.
use constant MARGIN => 1;
use constant DEADLOCK_TIMEOUT => 0.1;

my @time_limits = qw(idle_blocker_timeout blocker_timeout
  queued_blocker_timeout lock_wait_timeout transaction_timeout
  idle_in_transaction_timeout statement_timeout idle_session_timeout);
my %priority = (low => 0, normal => 1, high => 2);

sub pick { return $_[ rand @_ ]; }

# Options: node, seconds, seed, sessions.
sub new
{
	my ($class, %opt) = @_;
	my $self = bless { sessions => 30, worst => 0, longest_gap => 0, %opt }, $class;

	srand($opt{seed});
	return $self;
}

# ---------------------------------------------------------------- the load

# Roles with random settings.  Each limit is set for some role alone, so that
# nothing else can be the reason for what happens to its sessions.
sub make_roles
{
	my ($self, $admin) = @_;
	my @roles;

	push @roles, { $_ => 100 + int rand 900 } foreach @time_limits;
	push @roles, { max_blocked_sessions => 1 + int rand 4 };
	push @roles, { preempt_timeout => 100 + int rand 400, priority => 'high' };
	push @roles, { priority => 'low' };
	foreach my $treatment (
		{ exempt => 'on' },
		{ action => 'log' },
		{ action => 'cancel' },
		{}, {}, {})
	{
		my %set = %$treatment;

		foreach my $limit (@time_limits)
		{
			$set{$limit} = 100 + int rand 900 if rand() < 0.4;
		}
		$set{max_blocked_sessions} = 1 + int rand 5 if rand() < 0.3;
		$set{priority} = pick(qw(low normal high)) if rand() < 0.5;
		push @roles, \%set;
	}
	foreach my $i (0 .. $#roles)
	{
		my $role = $roles[$i];

		$role->{escalation_delay} = 100 + int rand 400;
		$role->{name} = "role$i";
		$admin->query_ok("CREATE ROLE role$i LOGIN");
		foreach my $name (grep { $_ ne 'name' } sort keys %$role)
		{
			$admin->query_ok(
				"ALTER ROLE role$i SET lockguard.$name = '$role->{$name}'");
		}
		$role->{action} ||= 'terminate';
		$role->{priority} ||= 'normal';
		$role->{oid} = $admin->value("SELECT 'role$i'::regrole::oid");
		note join ' ', "role$i:",
		  map { "$_=$role->{$_}" } grep { !/^(name|oid)$/ } sort keys %$role;
	}
	$self->{roles} = \@roles;
	$self->{role_by_oid} = { map { $_->{oid} => $_ } @roles };
	return;
}

sub make_tables
{
	my ($self, $admin) = @_;

	$admin->query_ok($_) foreach (
		'CREATE TABLE hot (id int PRIMARY KEY, v int)',
		'INSERT INTO hot SELECT i, 0 FROM generate_series(1, 20) i',
		'CREATE TABLE t1 (id int, v int)',
		'CREATE TABLE t2 (id int, v int)',
		'INSERT INTO t1 VALUES (1, 0)',
		'CREATE TABLE target (id int)',
		'GRANT ALL ON hot, t1, t2, target TO PUBLIC',
		'CREATE FUNCTION ddl(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER'
		  . ' AS $$ BEGIN EXECUTE $1; END $$',
		# Survives a first cancel, with all its locks.
		'CREATE FUNCTION stubborn(float8) RETURNS void LANGUAGE plpgsql AS $$'
		  . ' BEGIN PERFORM pg_sleep($1);'
		  . ' EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep($1); END $$');
	return;
}

sub _connect
{
	my ($self) = @_;
	my $role = pick(@{ $self->{roles} });
	my $session =
	  eval { LockguardTest::Session->new($self->{node}, 'load', user => $role->{name}) };

	return unless $session;
	$session->{role} = $role;
	$session->{due} = time();
	$session->query_ok('SET lock_timeout = ' . (200 + int rand 800)) if rand() < 0.3;
	$self->{by_pid}{ $session->pid } = $session;
	push @{ $self->{all} }, $session;
	return $session;
}

# What a session does next, and for how long it thinks afterwards.
sub _step
{
	my ($self, $session) = @_;
	my $think = rand() < 0.15 ? rand 3 : rand 0.05;
	my $id = 1 + int rand 20;
	my $t = pick(qw(t1 t2));
	my $sql;

	$session->{due} = time() + $think;
	if ($session->{copying})
	{
		$session->send_message('c', '');
		delete $session->{copying};
		return;
	}
	if ($session->{status} eq 'E')
	{
		$sql = pick('ROLLBACK', 'ROLLBACK TO s', 'COMMIT');
	}
	elsif ($session->{status} eq 'I')
	{
		$sql = pick(
			('BEGIN') x 8,
			"UPDATE hot SET v = v + 1 WHERE id = $id",
			"SELECT pg_advisory_lock($id)",
			'SELECT pg_advisory_unlock_all()',
			'SELECT pg_advisory_unlock_all()',
			"SELECT ddl('ALTER TABLE $t ALTER v SET DEFAULT $id')",
			"TRUNCATE $t");
	}
	else
	{
		$sql = pick(
			("UPDATE hot SET v = v + 1 WHERE id = $id") x 3,
			"SELECT FROM hot WHERE id = $id FOR " . pick('UPDATE', 'SHARE', 'KEY SHARE'),
			'SAVEPOINT s',
			'ROLLBACK TO s',
			"SELECT count(*) FROM $t",
			"INSERT INTO $t VALUES ($id, 1)",
			'SELECT pg_advisory_xact_lock' . pick('', '_shared') . "($id)",
			'SELECT pg_advisory_lock' . pick('', '_shared') . "($id)",
			'SELECT pg_advisory_unlock_all()',
			"LOCK TABLE $t IN "
			  . pick('SHARE', 'ROW EXCLUSIVE', 'SHARE UPDATE EXCLUSIVE', 'ACCESS EXCLUSIVE', 'ACCESS SHARE')
			  . ' MODE',
			"SELECT ddl('ALTER TABLE $t ALTER v SET DEFAULT $id')",
			'SELECT pg_sleep(' . (rand() < 0.3 ? rand 1.2 : rand 0.1) . ')',
			'SELECT stubborn(' . (0.3 + rand 1) . ')',
			rand() < 0.3 ? 'SELECT 1 / 0' : 'SELECT 1',
			'COPY target FROM STDIN',
			('COMMIT') x 4,
			('ROLLBACK') x 2);
	}
	$session->start($sql);
	$session->{copying} = 1 if $sql =~ /^COPY/;
	return;
}

# Collect what a session was told about the signals it got.
sub _note_errors
{
	my ($self, $session) = @_;

	while (my $error = shift @{ $session->{errors} })
	{
		push @{ $session->{signals} }, $error
		  if $error->{C} eq '57P01' || $error->{C} eq '57014';
		$self->{deadlocks}++ if $error->{C} eq '40P01';
		# A COPY that never began, or has ended.
		delete $session->{copying};
	}
	return;
}

sub load
{
	my ($self) = @_;
	my $end = time() + $self->{seconds};
	my @sessions;
	my $select = IO::Select->new;

	while (time() < $end)
	{
		while (@sessions < $self->{sessions} && (my $session = $self->_connect))
		{
			push @sessions, $session;
			$select->add($session->{socket});
			$session->{socket}->blocking(1);
		}
		my %ready = map { $_ => 1 } $select->can_read(0.005);

		foreach my $session (@sessions)
		{
			$session->read_some(65536, 0) if $ready{ $session->{socket} };
			$self->_note_errors($session);
			next if $session->{closed} || time() < $session->{due};
			$self->_step($session)
			  if !$session->{busy} || $session->{copying};
		}
		foreach my $session (grep { $_->{closed} } @sessions)
		{
			$select->remove($session->{socket});
		}
		@sessions = grep { !$_->{closed} } @sessions;
	}
	# Read what has come, and hang up; what happens from here on does not count.
	foreach my $session (@sessions)
	{
		while (!$session->{closed} && $session->read_some(65536, 0)) { }
		$self->_note_errors($session);
	}
	$self->{end} = time();
	foreach my $session (grep { !$_->{closed} } @sessions)
	{
		$session->{lives} = 1;
		$session->close(silent => 1);
	}
	return;
}

# ------------------------------------------------------------ the observer

my $sample_sql = <<'SQL';
SELECT string_agg(concat_ws('|', a.pid, a.usesysid, replace(a.state, ' ', '_'),
    coalesce(extract(epoch FROM a.xact_start)::text, '-'),
    coalesce(extract(epoch FROM a.query_start)::text, '-'),
    coalesce(extract(epoch FROM a.state_change)::text, '-'),
    coalesce(a.wait_event, '-'), coalesce(l.locktype, '-'),
    coalesce(extract(epoch FROM l.waitstart)::text, '-'),
    CASE WHEN l.pid IS NULL THEN '-' ELSE coalesce(nullif(array_to_string(pg_blocking_pids(a.pid), ','), ''), '-') END), ' ')
FROM pg_stat_get_activity(NULL) a
     LEFT JOIN (SELECT DISTINCT ON (pid) * FROM pg_lock_status() WHERE NOT granted) l USING (pid)
WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND a.usesysid <> 10
SQL

sub start_observer
{
	my ($self) = @_;
	my $file = $self->{file} =
	  $PostgreSQL::Test::Utils::tmp_check . "/samples.$$";

	pipe(my $reader, my $writer) or die "pipe: $!";
	my $pid = fork();
	die "fork: $!" unless defined $pid;
	if (!$pid)
	{
		my $stop = 0;
		local $SIG{TERM} = sub { $stop = 1 };
		close $reader;
		eval {
			my $session = LockguardTest::Session->new($self->{node}, 'observer');
			# One that does not wait for jit or parallel workers.
			$session->query_ok('SET jit = off');
			open my $out, '>', $file or die "$file: $!";
			$writer->autoflush(1);
			print $writer "ready\n";
			while (!$stop)
			{
				my $before = time();
				my $value = $session->value($sample_sql);
				my $after = time();

				printf $out "%.6f %.6f %s\n", $before, $after,
				  defined $value ? $value : '';
				usleep(4_000);
			}
			close $out;
			1;
		} or do { print $writer "$@"; POSIX::_exit(1); };
		POSIX::_exit(0);
	}
	close $writer;
	my $said = <$reader>;
	die "the observer fails: $said" unless ($said || '') eq "ready\n";
	$self->{observer} = $pid;
	return;
}

sub stop_observer
{
	my ($self) = @_;

	kill 'TERM', $self->{observer};
	waitpid $self->{observer}, 0;
	return $? == 0;
}

# --------------------------------------------------------------- the check

my @columns = qw(action_id acted_at pid usename limit_name limit_value
  limit_source action result blocked_sessions blocked_pids);

sub fetch_actions
{
	my ($self, $admin) = @_;
	my @actions;

	foreach my $row ($admin->rows(<<'SQL'))
SELECT action_id, extract(epoch FROM acted_at), pid, usename, limit_name, limit_value,
       limit_source, action, result, blocked_sessions, array_to_string(blocked_pids, ',')
FROM lockguard.actions ORDER BY acted_at, action_id
SQL
	{
		my %action;

		@action{@columns} = @$row;
		last if $action{acted_at} > $self->{end};
		$action{signalled} = $action{action} =~ /^(cancel|terminate)$/ && $action{result} ne 'suppressed';
		push @actions, \%action;
	}
	$self->{actions} = \@actions;
	push @{ $self->{actions_of}{ $_->{pid} } }, $_ foreach @actions;
	return;
}

sub _complain
{
	my ($self, $kind, $text, $action) = @_;

	$self->{complaints}{$kind}++;
	diag "$kind: $text"
	  . ($action
		? ' (' . join(' ', map { defined $action->{$_} ? $action->{$_} : '-' } @columns) . ')'
		: '')
	  if $self->{complaints}{$kind} <= 5;
	return;
}

# One sample: sessions by pid, and pairs by blocker with what is known of each.
sub _read_sample
{
	my ($self, $line, $previous) = @_;
	my ($before, $after, @rows) = split ' ', $line;
	my %sample = (before => $before, after => $after);

	foreach my $row (@rows)
	{
		my %s;

		@s{qw(pid role state xact query change event locktype wait blockers)} =
		  map { $_ eq '-' ? undef : $_ } split /\|/, $row;
		$s{blockers} = [ split /,/, $s{blockers} || '' ];
		my %once = map { $_ => 1 } @{ $s{blockers} };
		$s{blockers} = [ keys %once ];

		# For how long at least it has waited for locks up to now.
		my $then = $previous && $previous->{session}{ $s{pid} };
		$s{waited} = $then ? $then->{waited} : 0;
		$s{waited} += $before - $previous->{after}
		  if $then && defined $s{wait} && defined $then->{wait} && $then->{wait} == $s{wait};
		$sample{session}{ $s{pid} } = \%s;
	}
	foreach my $s (values %{ $sample{session} })
	{
		next unless defined $s->{wait};
		foreach my $blocker (@{ $s->{blockers} })
		{
			my $key = "$s->{pid} $s->{wait}";
			my $old = $previous && $previous->{pair}{$blocker}{$key};
			my $b = $sample{session}{$blocker};
			my %pair =
			  $old
			  ? %$old
			  : (
				not_before => $previous ? $previous->{before} : 0,
				seen => $after,
				wait => $s->{wait},
				waiter => $s->{pid},
				waited => $b ? $b->{waited} : 0);

			# Since when it has been seen as a root blocker all the time.
			$pair{root} = undef if $b && $s && $b->{locktype};
			$pair{root} = $after if $b && !$b->{locktype} && !$pair{root};
			$sample{pair}{$blocker}{$key} = \%pair;
			push @{ $sample{behind}{$blocker} }, $s->{pid};
		}
	}
	return \%sample;
}

# All that wait for a session, by the edges of one or two samples.
sub _downstream
{
	my ($pid, @samples) = @_;
	my @todo = ($pid);
	my %seen = ();

	while (defined(my $next = shift @todo))
	{
		foreach my $sample (@samples)
		{
			push @todo, grep { !$seen{$_}++ } @{ $sample->{behind}{$next} || [] };
		}
	}
	return \%seen;
}

# All that are connected with a session.
sub _tree
{
	my ($pid, $sample) = @_;
	my @todo = ($pid);
	my %seen = ($pid => 1);

	while (defined(my $next = shift @todo))
	{
		my $s = $sample->{session}{$next};

		push @todo, grep { !$seen{$_}++ } @{ $sample->{behind}{$next} || [] },
		  $s ? @{ $s->{blockers} } : ();
	}
	return \%seen;
}

sub _seconds
{
	my ($value) = @_;

	return $1 / 1000 if $value =~ /^(\d+)ms$/;
	return $1 if $value =~ /^(\d+)s$/;
	return;
}

# Was it right to do this to this session at that time?  "last" is the last
# sample that ended before, "next" the first that began after.
sub _check_action
{
	my ($self, $action, $last, $next) = @_;
	my $limit = $action->{limit_name};
	my $at = $action->{acted_at};
	my $pid = $action->{pid};
	my $session = $self->{by_pid}{$pid};

	return $self->_complain('wrong session', 'not one of the load', $action)
	  unless $session;
	my $role = $session->{role};
	my $value =
	  $limit eq 'max_blocked_sessions' ? $action->{limit_value} : _seconds($action->{limit_value});

	return $self->_complain('wrong value', 'no limit at all', $action) unless $value;

	# Its own limit, and nothing beyond what may be done to it.
	if ($limit ne 'preempt_timeout')
	{
		my $own = $role->{$limit};
		my $got = $limit eq 'max_blocked_sessions' ? $value : sprintf '%.0f', $value * 1000;

		return $self->_complain('wrong value', 'its role has ' . ($own || 'none'), $action)
		  unless $own && $own == $got && $action->{limit_source} eq 'role';
	}
	if ($action->{signalled})
	{
		return $self->_complain('exempt', "$role->{name} is exempt", $action)
		  if $role->{exempt};
		return $self->_complain('beyond action', "action of $role->{name} is $role->{action}", $action)
		  if $role->{action} eq 'log'
		  || $role->{action} eq 'cancel' && $action->{action} eq 'terminate';
		return $self->_complain('beyond action', 'lock_wait_timeout only cancels', $action)
		  if $limit eq 'lock_wait_timeout' && $action->{action} eq 'terminate';
	}
	return $self->{recorded_only}++
	  if $action->{result} =~ /^(protected|self_resolved|failed)$/;

	# The terminate after a cancel comes when escalation_delay has passed.
	if ($action->{action} eq 'terminate')
	{
		my ($cancel) = grep {
				 $_->{action} eq 'cancel'
			  && $_->{result} eq 'escalated'
			  && $_->{limit_name} eq $limit
			  && $_->{acted_at} < $at && !$_->{escalated_to}
		} @{ $self->{actions_of}{$pid} };

		if ($cancel)
		{
			$cancel->{escalated_to} = $action;
			$self->{escalations}++;
			return $self->_complain('early escalation', ($at - $cancel->{acted_at}) . ' s after the cancel', $action)
			  if $at - $cancel->{acted_at} < $role->{escalation_delay} / 1000 - TOLERANCE;
		}
	}

	my $since = $at - ($limit eq 'max_blocked_sessions' ? DEADLOCK_TIMEOUT : $value) + TOLERANCE;
	return $self->{unseen}++ if !$last || $last->{before} < $since - TOLERANCE;
	my $s = $last->{session}{$pid};
	return $self->_complain('wrong session', 'not there before', $action) unless $s;
	my $after = $next && $next->{session}{$pid};
	my $problem = $self->_over($limit, $value, $at, $since, $pid, $s, $after, $last, $next);

	return $self->_complain($action->{signalled} ? 'wrongly hit' : 'wrongly recorded', $problem, $action)
	  if $problem;
	$self->{checked}++;
	$self->{checked_by}{$limit}++;
	return;
}

# What speaks against a session having been over a limit at that time; "since"
# is when that must have begun at the latest.
sub _over
{
	my ($self, $limit, $value, $at, $since, $pid, $s, $after, $last, $next) = @_;
	my $ago = sub {
		return defined $_[0] ? sprintf '%.0f ms before', 1000 * ($at - $_[0]) : 'never';
	};
	my @samples = grep { defined } $last, $next;

	if ($limit eq 'transaction_timeout')
	{
		return if defined $s->{xact} && $s->{xact} <= $since;
		return 'its transaction began ' . $ago->($s->{xact});
	}
	if ($limit eq 'statement_timeout')
	{
		return if $s->{state} eq 'active' && $s->{query} <= $since;
		return "it was $s->{state}, its statement began " . $ago->($s->{query});
	}
	if ($limit eq 'idle_in_transaction_timeout')
	{
		return if $s->{state} =~ /^idle_in_transaction/ && $s->{change} <= $since;
		return "it was $s->{state} since " . $ago->($s->{change});
	}
	if ($limit eq 'idle_session_timeout')
	{
		return if $s->{state} eq 'idle' && $s->{change} <= $since;
		return "it was $s->{state} since " . $ago->($s->{change});
	}
	if ($limit eq 'lock_wait_timeout')
	{
		return if defined $s->{wait} && $s->{wait} <= $since;
		return 'it has waited since ' . $ago->($s->{wait});
	}

	# The limits on blockers.  In one wait before and after: not a root.
	my $still_waits =
	     defined $s->{wait}
	  && $after
	  && defined $after->{wait}
	  && $after->{wait} == $s->{wait};

	if ($limit eq 'max_blocked_sessions')
	{
		my $behind = _downstream($pid, @samples);
		my $old = grep {
			my $w = $last->{session}{$_};
			$_ != $pid && $w && defined $w->{wait} && $w->{wait} <= $since;
		} keys %$behind;

		return "it waits for a $s->{locktype} lock itself"
		  if $still_waits && $s->{locktype} ne 'relation';
		return if $old > $value;
		return "only $old sessions are behind it";
	}
	if ($limit eq 'preempt_timeout')
	{
		my $behind = _downstream($pid, @samples);
		my $own = $priority{ $self->{by_pid}{$pid}{role}{priority} };

		return 'it waits itself' if $still_waits;
		foreach my $w (map { $last->{session}{$_} } keys %$behind)
		{
			my $role = $w && $self->{by_pid}{ $w->{pid} }{role};

			return
			  if $role
			  && $role->{preempt_timeout}
			  && $priority{ $role->{priority} } > $own
			  && defined $w->{wait}
			  && $w->{wait} <= $since;
		}
		return 'nobody of higher priority has waited for it so long';
	}

	if ($limit eq 'queued_blocker_timeout')
	{
		return 'it waits for no relation lock'
		  unless ($s->{locktype} || '') eq 'relation';
		return 'it has waited since ' . $ago->($s->{wait}) unless $s->{wait} <= $since;
		return 'it is part of a cycle'
		  if $still_waits && $next && _downstream($pid, $last)->{$pid} && _downstream($pid, $next)->{$pid};
	}
	else
	{
		return 'it waits itself' if $still_waits;
	}
	if ($limit eq 'idle_blocker_timeout')
	{
		if ($s->{state} eq 'active')
		{
			return 'it was active' unless ($s->{event} || '') =~ /^Client/;
		}
		elsif ($s->{change} > $since)
		{
			return "it was $s->{state} since " . $ago->($s->{change});
		}
	}

	my $longest;
	foreach my $pair (values %{ $last->{pair}{$pid} || {} })
	{
		my $from = $pair->{wait} > $pair->{not_before} ? $pair->{wait} : $pair->{not_before};

		# A root's clock stands still while it waits itself.
		$from += $s->{waited} - $pair->{waited}
		  unless $limit eq 'queued_blocker_timeout';
		return if $from <= $since;
		$longest = $from if !defined $longest || $from < $longest;
	}
	return 'it has blocked others since ' . $ago->($longest);
}

# Nobody over a limit is left standing.
sub _look_for_violators
{
	my ($self, $sample, $gap) = @_;
	my $now = $sample->{before};
	my $margin = MARGIN + 2 * $gap;

	foreach my $s (values %{ $sample->{session} })
	{
		my $session = $self->{by_pid}{ $s->{pid} } or next;
		my $role = $session->{role};
		my %since = (
			transaction_timeout => $s->{xact},
			lock_wait_timeout => $s->{wait},
			statement_timeout => $s->{state} eq 'active' ? $s->{query} : undef,
			idle_session_timeout => $s->{state} eq 'idle' ? $s->{change} : undef,
			idle_in_transaction_timeout => $s->{state} =~ /^idle_in/ ? $s->{change} : undef);

		# Blockers: by any pair that has gone on so long.
		foreach my $pair (values %{ $sample->{pair}{ $s->{pid} } || {} })
		{
			if ($pair->{root})
			{
				_earlier(\$since{blocker_timeout}, $pair->{root});
				_earlier(\$since{idle_blocker_timeout},
					$s->{change} > $pair->{root} ? $s->{change} : $pair->{root})
				  if $s->{state} =~ /^idle/;
			}
			elsif (($s->{locktype} || '') eq 'relation' && defined $s->{wait})
			{
				_earlier(\$since{queued_blocker_timeout},
					$s->{wait} > $pair->{seen} ? $s->{wait} : $pair->{seen});
			}
		}
		foreach my $limit (grep { defined $since{$_} && $role->{$_} } keys %since)
		{
			my $passed = $since{$limit} + $role->{$limit} / 1000;

			next if $now < $passed + $margin;
			next if $self->{standing}{"$s->{pid} $limit $since{$limit}"}++;
			$self->{watched}{$limit}++;
			next if grep { $_->{acted_at} >= $since{$limit} - TOLERANCE && $_->{acted_at} <= $now
				  || !$_->{signalled} && $_->{limit_name} eq $limit }
			  @{ $self->{actions_of}{ $s->{pid} } || [] };
			if ($limit =~ /blocker/)
			{
				my $tree = _tree($s->{pid}, $sample);

				if ($limit eq 'queued_blocker_timeout' && _downstream($s->{pid}, $sample)->{ $s->{pid} }
					|| grep { $_->{signalled} && $_->{acted_at} > $now - $margin && $_->{acted_at} <= $now
						  && grep { $tree->{$_} } $_->{pid}, split /,/, $_->{blocked_pids} || '' }
					@{ $self->{actions} })
				{
					# Somebody else of this tree had their turn.
					delete $self->{standing}{"$s->{pid} $limit $since{$limit}"};
					$self->{watched}{$limit}--;
					next;
				}
			}
			$self->_complain('left standing',
				sprintf '%d of %s is over %s = %dms for %.0f ms, since %.3f',
				$s->{pid}, $role->{name}, $limit, $role->{$limit}, 1000 * ($now - $passed), $since{$limit});
			diag join ' ', 'before:', map { defined $_ ? $_ : '-' } @{$_}{@columns}
			  foreach grep { $_ } (grep { $_->{acted_at} < $now } @{ $self->{actions_of}{ $s->{pid} } || [] })[ -2, -1 ];
		}
	}
	return;
}

sub _earlier
{
	my ($ref, $at) = @_;
	$$ref = $at if !defined $$ref || $at < $$ref;
	return;
}

# Nobody was signalled without a row, and each signal took effect.
sub _check_signals
{
	my ($self) = @_;

	foreach my $session (@{ $self->{all} })
	{
		my @rows = grep { $_->{signalled} } @{ $self->{actions_of}{ $session->pid } || [] };

		foreach my $error (@{ $session->{signals} || [] })
		{
			my $kind = $error->{C} eq '57014' ? 'cancel' : 'terminate';
			my ($limit) = ($error->{D} || '') =~ /lockguard\.(\w+) (?:is|of process)/;
			my ($row) = grep { $_->{action} eq $kind && !$_->{felt}
				  && (!$limit || $_->{limit_name} eq $limit) } @rows;

			$self->{felt}++;
			if (!$row)
			{
				$self->_complain('no row', $session->pid . " got $error->{C} $error->{M}: " . ($error->{D} || 'no detail'));
				next;
			}
			$row->{felt} = 1;
			$self->_complain('not told', $session->pid . " got $error->{C} without a reason", $row)
			  unless $limit;
		}
		foreach my $row (grep { $_->{action} eq 'terminate' } @rows)
		{
			$self->_complain('no effect', 'the session lives on', $row)
			  if $session->{lives} && $row->{acted_at} < $self->{end} - MARGIN;
		}
	}
	return;
}

# Go through the samples in order.
sub check
{
	my ($self) = @_;
	my @actions = @{ $self->{actions} };
	my @recent;

	open my $in, '<', $self->{file} or die "$self->{file}: $!";
	while (my $line = <$in>)
	{
		my $sample = $self->_read_sample($line, $recent[-1]);
		my $gap = @recent ? $sample->{before} - $recent[-1]{before} : 0;

		$self->{samples}++;
		$self->{longest_gap} = $gap if $gap > $self->{longest_gap};
		$self->{worst} = $gap if $gap > $self->{worst};
		push @recent, $sample;
		while (@actions && $actions[0]{acted_at} <= $sample->{before})
		{
			my $action = shift @actions;
			my ($last) = grep { $_->{after} <= $action->{acted_at} } reverse @recent;

			$self->_check_action($action, $last, $sample);
		}
		# The worst gap of late counts for how late an action may be.
		$self->_look_for_violators($sample, $self->{worst})
		  if $sample->{after} < $self->{end};
		$self->{worst} *= 0.99;
		shift @recent if @recent > 10;
	}
	close $in;
	unlink $self->{file};
	foreach my $action (@{ $self->{actions} })
	{
		$self->_complain('no outcome', "result is $action->{result}", $action)
		  if $action->{result} =~ /^(pending|unresponsive|failed|suppressed)$/;
	}
	$self->_check_signals;
	return;
}

# Everything, in one call.  Returns the number of complaints.
sub run
{
	my ($self) = @_;
	my $node = $self->{node};
	my $admin = LockguardTest::Session->new($node, 'admin');

	note "SEED=$self->{seed}, $self->{seconds} s, $self->{sessions} sessions";
	$self->make_tables($admin);
	$self->make_roles($admin);
	$self->start_observer;
	$self->load;
	wait_until(
		sub {
			return $admin->value(
				"SELECT count(*) FROM lockguard.actions WHERE result = 'pending'"
				  . " AND acted_at <= to_timestamp($self->{end})") == 0;
		});
	ok($self->stop_observer, 'the observer has seen it all');
	$self->fetch_actions($admin);
	$self->check;
	my %by;
	$by{"$_->{action}, $_->{result}"}++ foreach @{ $self->{actions} };
	note sprintf '%d sessions, %d samples, longest gap %.0f ms, %d deadlocks',
	  scalar @{ $self->{all} }, $self->{samples}, 1000 * $self->{longest_gap}, $self->{deadlocks} || 0;
	note scalar(@{ $self->{actions} }) . ' actions: ' . join '; ', map { "$by{$_} $_" } sort keys %by;
	note 'checked: ' . join ', ', map { "$self->{checked_by}{$_} $_" } sort keys %{ $self->{checked_by} };
	note sprintf '%d checked, %d unseen, %d recorded only, %d escalations, %d signals felt',
	  map { $self->{$_} || 0 } qw(checked unseen recorded_only escalations felt);
	note 'watched for being left standing: ' . join ', ', map { "$self->{watched}{$_} $_" } sort keys %{ $self->{watched} };
	$self->{total} = 0;
	$self->{total} += $_ foreach values %{ $self->{complaints} };
	return $self->{total};
}

1;
