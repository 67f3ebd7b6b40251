# The check: was each action of lockguard right by what the observer saw, and
# was every session over a limit signalled?
#
# A complaint is only made of what follows for certain, however seldom the
# observer gets to sample:
#
# - What began at least the limit's length before the action, and has lasted
#   until it, is seen in the last sample that ended before the action.
# - A pair of waiter and blocker may have begun as early as the last sample
#   that does not show it, but no earlier.
# - A session in one wait in two samples has released nothing in between; one
#   that is idle and has begun nothing since has done nothing in between.
# - How long others have waited for a session in all is known within limits; see
#   Clock.pm.
# - A deadlock that two samples show in the same waits was there all the time
#   between them; and if it lasted long enough, lockguard has seen it, too.
#
# All times are of a clock that stands still while the server is frozen.
#
# What cannot be told, because something came and went between two samples, is
# counted as not judged, with the reason.

package LockguardFuzz::Check;

use strict;
use warnings;

use Exporter 'import';
use List::Util qw(max min);
use LockguardFuzz::Clock qw(find_interruptions note_clocks blocked_at_most waits_for_it_alone may_begin_to_wait);
use LockguardFuzz::Freeze qw(unfrozen thawed_before freeze_within);
use LockguardFuzz::Help qw(surely_in_vain surely_not_alone);
use LockguardFuzz::Ledger qw(compare_ledger ends_a_transaction is_done has_many_transactions);
use LockguardFuzz::Load
  qw(%priority @time_limits DEADLOCK_TIMEOUT PREPARED_TIMEOUT NAPTIME);
use LockguardFuzz::Observer
  qw(read_sample downstream upstream component cyclic is_idle in_one_wait idle_all_along blocks blames);
use LockguardFuzz::Scene;
use Test::More;

our @EXPORT_OK = qw(check fetch_actions);

# Clocks of shared memory and of the worker may differ by so much (s).
use constant TOLERANCE => 0.004;
# How late an action may be on a busy machine, beyond what the observer's own
# gaps show.
use constant MARGIN => 1;
# What is only recorded may have been seen by so much before.
use constant RECORDED_LATE => 0.5;
# A deadlock that has lasted so long, and the worst gap, has been seen.
use constant SEEN => 0.1;
# A session that undoes its statement is left alone for so long.
use constant UNDOING => 10;
# For how long actions are kept, and samples.
use constant MEMORY => 4;
use constant SAMPLES_KEPT => 2;

my @columns = qw(action_id acted_at pid gid usename limit_name limit_value
  limit_source action result reason released_after blocked_sessions
  longest_wait blocked_pids);
my $in_vain = 'removing it would not unblock any session';
# From mild to hard.
my %remedy = (log => 0, cancel => 1, rollback => 2, terminate => 3);
my $on_blockers =
  qr/^(?:(?:idle_|queued_)?blocker_timeout|max_blocked_sessions|preempt_timeout)$/;

# All rows up to the end of the load.
sub fetch_actions
{
	my ($self, $admin) = @_;

	$self->{actions} = [];
	$self->{actions_of} = {};
	foreach my $row ($admin->rows(<<'SQL'))
SELECT action_id, extract(epoch FROM acted_at), pid, gid, usename, limit_name, limit_value,
       limit_source, action, result, reason, extract(epoch FROM released_after),
       blocked_sessions, extract(epoch FROM longest_wait), array_to_string(blocked_pids, ',')
FROM lockguard.actions ORDER BY acted_at, action_id
SQL
	{
		my %action;

		@action{@columns} = @$row;
		last if $action{acted_at} > $self->{end};
		$action{signalled} = $action{pid} && $action{action} =~ /^(?:cancel|rollback|terminate)$/
		  && $action{result} =~ /^(?:pending|released|escalated|unresponsive)$/;
		$action{blocked} = [ split /,/, $action{blocked_pids} || '' ];
		push @{ $self->{actions} }, \%action;
		push @{ $self->{actions_of}{ $action{pid} } }, \%action if $action{pid};
	}
	return;
}

sub _complain
{
	my ($self, $kind, $text, $action) = @_;

	$action->{complaints}++ if $action;
	$self->{complaints}{$kind}++;
	diag "$kind: $text" . ($action ? ' (' . _row($action) . ')' : '')
	  if $self->{complaints}{$kind} <= 5;
	return;
}

sub _row
{
	my ($action) = @_;
	return join ' ', map { defined $action->{$_} ? $action->{$_} : '-' } @columns;
}

# A limit's value in seconds, or as a number.
sub _value
{
	my ($value) = @_;

	return $1 / 1000 if $value =~ /^(\d+)ms$/;
	return $1 if $value =~ /^(\d+)(?:s|)$/;
	return;
}

sub _ago
{
	my ($at, $then) = @_;
	return defined $then ? sprintf '%.0f ms before', 1000 * ($at - $then) : 'never';
}

# The last statement that a session was sent by then: when, what, when it was
# answered, and with which tags.
sub _statement_at
{
	my ($self, $pid, $at) = @_;
	my ($statement) = grep { $_->[0] <= $at } reverse @{ $self->{by_pid}{$pid}{statements} || [] };

	return $statement;
}

# What is certain around an action, from "first" on.
sub _scene
{
	my ($self, $action, $first, $last, $next) = @_;

	return LockguardFuzz::Scene->new(
		action => $action,
		first => $first,
		last => $last,
		next => $next,
		sessions => $self->{by_pid},
		rows => $self->{actions_of});
}

# ------------------------------------------------------------- each action

# Was it right to do this to this session at that time?  "last" is the last
# sample that ended before, "next" the first that began after.
sub _check_action
{
	my ($self, $action, $last, $next) = @_;
	my $limit = $action->{limit_name} || '';
	my $at = $action->{acted_at};
	my $pid = $action->{pid};

	if ($limit eq 'prepared_transaction_timeout')
	{
		$self->_check_prepared($action, $last);
		return;
	}
	if ($pid == 0 && !$action->{signalled})
	{
		# What it wanted of a prepared transaction.
		$self->_complain('wrong session', 'no prepared transaction', $action)
		  if ($action->{reason} || '') ne 'prepared transaction';
		$self->{stood_back}++;
		return;
	}
	my $session = $self->{by_pid}{$pid};
	return $self->_complain('wrong session', 'not one of the load', $action) unless $session;
	my $role = $session->{role};
	my $value = _value($action->{limit_value} || '');
	return $self->_complain('wrong value', 'no limit at all', $action) unless $value;

	$action->{role} = $role;
	$action->{tree} = $last && $last->{session}{$pid} ? component($pid, $last) : { $pid => 1 };
	$action->{tree}{$_} = 1 foreach @{ $action->{blocked} };

	# Its own limit, and nothing beyond what may be done to it.
	if ($limit ne 'preempt_timeout')
	{
		my $own = $role->{$limit};
		my $got = $limit =~ /^max_/ ? $value : sprintf '%.0f', $value * 1000;

		return $self->_complain('wrong value', 'its role has ' . ($own || 'none'), $action)
		  unless $own && $own == $got && $action->{limit_source} eq 'role';
	}
	if ($action->{signalled})
	{
		return $self->_complain('exempt', "$role->{name} is exempt", $action)
		  if $role->{exempt};
		return $self->_complain('beyond action', "action of $role->{name} is $role->{action}", $action)
		  if $remedy{ $action->{action} } > $remedy{ $role->{action} };
		return $self->_complain('beyond action', 'lock_wait_timeout only cancels', $action)
		  if $limit eq 'lock_wait_timeout' && $action->{action} ne 'cancel';
		return $self->_complain('while paused', 'no session may be signalled', $action)
		  if grep { $_->{paused} < $at && $at < $_->{resuming} } @{ $self->{pauses} };
	}
	$self->_check_repeated($action, $last, $next) unless $action->{signalled};
	$self->_check_spared($action, $last, $next) if ($action->{reason} || '') eq $in_vain;
	if ($action->{result} =~ /^(?:protected|self_resolved|failed)$/)
	{
		$self->{stood_back}++;
		return;
	}

	return if $action->{signalled} && $self->_is_hit_in_commit($action, $next);

	my $since = $at - ($limit =~ /^max_/ ? DEADLOCK_TIMEOUT : $value) + TOLERANCE;
	return $self->_not_judged('no sample in time')
	  if !$last || $last->{before} < $since - TOLERANCE && $limit !~ /^max_(?:locks|xmin_age)$/;
	my $s = $last->{session}{$pid};
	return $self->_not_judged('gone before it was recorded')
	  if !$s && !$action->{signalled} && grep { $_->{session}{$pid} } @{ $self->{recent} };
	return $self->_not_judged('no sample in time') if !$s && $limit =~ /^max_(?:locks|xmin_age)$/;
	return $self->_complain('wrong session', 'not there before', $action) unless $s;
	$action->{working_on} = $s->{query}
	  if $s->{state} eq 'active' && ($s->{event} || '') !~ /^Client/;
	$self->_check_escalation($action, $s, $last) if $action->{signalled} && $action->{action} ne 'cancel';
	$self->_check_mildness($action, $s, $last) if $action->{signalled} && !$action->{escalates};

	my ($verdict, $problem) = $self->_over($action, $value, $since, $s, $last, $next);

	$verdict = 'right' if $verdict eq 'wrong' && !$action->{signalled} && $self->_was_over($action, $value);
	if ($verdict eq 'wrong')
	{
		return $self->_complain($action->{signalled} ? 'wrongly hit' : 'wrongly recorded', $problem, $action);
	}
	if ($limit =~ $on_blockers)
	{
		# It is not known how a freeze counts in what is said of the longest wait.
		my @waits = grep { defined } map { $_->{wait} } grep { $_ } map { $last->{session}{$_} } @{ $action->{blocked} };
		my $is_known = @waits && !freeze_within($self->{freezes}, min(@waits), $at);

		($action->{look}, $action->{or_later}) = $self->_time_of_look($action) if $is_known;
		# A short one may be in no sample.
		$self->_complain('wrong wait', 'the longest was another', $action)
		  if $is_known && $action->{longest_wait} > $self->{worst} && $last->{before} > $action->{acted_at} - RECORDED_LATE
		  && !defined $action->{look};
		$self->_check_blocked_pids($action, $last, $next);
		$self->_check_vain($action, $last, $next) if $action->{signalled} && $limit ne 'preempt_timeout';
		if ($action->{signalled} && !$action->{escalates})
		{
			$self->_check_order($action, $s, $last, $next);
			$self->_check_alone($action, $last, $next);
			$self->_check_undoing($action, $last, $next);
		}
	}
	return $self->_not_judged($problem) if $verdict eq 'unknown';
	$self->{checked}++ unless $action->{complaints};
	$self->{checked_by}{$limit}++ unless $action->{complaints};
	return;
}

# What is only recorded is what was seen, and is not proved again.
sub _was_over
{
	my ($self, $action, $value) = @_;
	my $recent = $self->{recent};

	foreach my $i (reverse 0 .. $#$recent - 1)
	{
		my ($last, $next) = @{$recent}[ $i, $i + 1 ];
		my $at = $next->{before};
		my $s = $last->{session}{ $action->{pid} };

		next if $at > $action->{acted_at} || !$s;
		last if $at < $action->{acted_at} - RECORDED_LATE - 3 * $self->{worst};
		my $since = $at - ($action->{limit_name} =~ /^max_/ ? DEADLOCK_TIMEOUT : $value) + TOLERANCE;
		my ($verdict) = $self->_over({ %$action, acted_at => $at }, $value, $since, $s, $last, $next);
		return 1 if $verdict ne 'wrong';
	}
	return 0;
}

# When the worker looked at the locks: as long after the beginning of the
# longest wait that it saw as that was long, while that lasted.  All that
# fit, within reason; the earliest first.
sub _time_of_look
{
	my ($self, $action) = @_;
	my $at = $action->{acted_at};
	my @samples = grep { $_->{before} <= $at } @{ $self->{recent} };
	my @waits;

	# The waits of each: until when they have gone on for certain, and may have.
	foreach my $pid (@{ $action->{blocked} })
	{
		my %wait;
		my $may = $at;

		foreach my $sample (reverse @samples)
		{
			my $s = $sample->{session}{$pid};

			$wait{ $s->{wait} } = [ $sample->{before}, $may ] if $s && defined $s->{wait} && !exists $wait{ $s->{wait} };
			$may = min($at, $s && defined $s->{wait} ? $s->{wait} : $sample->{after});
		}
		push @waits, \%wait;
	}
	my @looks;

	foreach my $wait (@waits)
	{
		push @looks, map { $_->[1] } grep {
			     $_->[1] <= $wait->{ $_->[0] }[1] + TOLERANCE
			  && $_->[1] >= $at - RECORDED_LATE - 3 * $self->{worst}
		} map { [ $_, $_ + $action->{longest_wait} ] } keys %$wait;
	}
	my @fits;

  LOOK: foreach my $look (sort { $a <=> $b } @looks)
	{
		my $longest = $look - $action->{longest_wait} - TOLERANCE;

		# No session was waiting for longer then.
		foreach my $wait (@waits)
		{
			next LOOK if grep { $_ < $longest && $wait->{$_}[0] > $look + TOLERANCE } keys %$wait;
		}
		push @fits, $look if !@fits || $look - $fits[-1] > 0.0005;
	}
	return @fits;
}

sub _not_judged
{
	my ($self, $why) = @_;

	$self->{not_judged}++;
	$self->{not_judged_why}{$why}++;
	return;
}

# No connection is ended where the transaction could have been rolled back: not
# while the session was idle in it, and its client had sent nothing since.  (Those who
# have waited since before it began wait for a lock of the session.)
sub _check_mildness
{
	my ($self, $action, $s, $sample) = @_;
	my $last = $self->_statement_at($action->{pid}, $action->{acted_at});
	my @waits = map { $sample->{session}{$_}{wait} } @{ $sample->{behind}{ $action->{pid} } || [] };

	return if $action->{limit_name} =~ /^idle_(?:in_transaction|session)_timeout$/;
	return unless $s->{state} =~ /^idle_in_transaction/ && defined $s->{xact};
	return unless $last && defined $last->[2] && $last->[0] < $s->{change};
	return if @waits && !grep { !defined $_ || $_ >= $s->{xact} - TOLERANCE } @waits;
	$self->{could_be_rolled_back}++;
	$self->_complain('too hard', 'it was idle in a transaction', $action) if $action->{action} ne 'rollback';
	return;
}

# The next remedy comes when escalation_delay has passed, in the same transaction; or in
# another one, if a lock of the session, which outlives transactions, has blocked a
# session since before the first.
sub _check_escalation
{
	my ($self, $action, $s, $last) = @_;
	my $at = $action->{acted_at};
	my ($cancel) = grep {
			 $_->{signalled}
		  && $remedy{ $_->{action} } < $remedy{ $action->{action} }
		  && $_->{result} eq 'escalated'
		  && $_->{limit_name} eq $action->{limit_name}
		  && $_->{acted_at} < $at && !$_->{escalated_to}
	} @{ $self->{actions_of}{ $action->{pid} } };

	return unless $cancel;
	$cancel->{escalated_to} = $action;
	$action->{escalates} = 1;
	$self->{escalations}++;
	$self->_complain('early escalation', ($at - $cancel->{acted_at}) . " s after the $cancel->{action}", $action)
	  if $at - $cancel->{acted_at} < $action->{role}{escalation_delay} / 1000 - TOLERANCE;
	$self->_complain('early escalation', "its transaction has begun since the $cancel->{action}", $action)
	  if defined $s->{xact}
	  && $s->{xact} > $cancel->{acted_at} + TOLERANCE
	  && !grep { defined $_->{wait} && $_->{wait} <= $cancel->{acted_at} && blocks($action->{pid}, $_->{pid}, $last) }
	  values %{ $last->{session} };
	return;
}

# What is not done is recorded once per episode.
sub _check_repeated
{
	my ($self, $action, $last, $next) = @_;
	my ($first) = grep { $_->{after} <= $action->{acted_at} - RECORDED_LATE - 3 * $self->{worst} } reverse @{ $self->{recent} };
	my $key = "$action->{pid} $action->{limit_name}";
	my $row = join ' ', map { defined $_ ? $_ : '-' } @{$action}{qw(action result reason)};
	my %episode;

	# Only if nothing has changed all around it, it is known which it is.
	foreach my $s (map { $_ && $_->{session}{ $action->{pid} } } $first, $last, $next)
	{
		my $one = $s && !$s->{group} ? join ' ', map { defined $_ ? $_ : '-' } @{$s}{qw(xact query change wait_id)} : '';
		$episode{$one}++;
	}
	my ($episode) = keys %episode == 1 ? keys %episode : '';
	my $statement = $self->_statement_at($action->{pid}, $action->{acted_at});
	my $old = $self->{told}{$key};

	$self->_complain('recorded again', 'nothing has changed since ' . _row($old->{action}), $action)
	  if $old && $old->{row} eq $row && $episode ne '' && $old->{episode} eq $episode
	  && !($statement && has_many_transactions($statement->[1]));
	$self->{told}{$key} = { row => $row, action => $action, episode => $episode };
	return;
}

# How a session was against a limit at that time: "right", "wrong" with what
# speaks against it, or "unknown" with the reason.  "since" is when it must
# have begun at the latest.
sub _over
{
	my ($self, $action, $value, $since, $s, $last, $next) = @_;
	my $limit = $action->{limit_name};
	my $pid = $action->{pid};
	my $at = $action->{acted_at};

	if ($limit eq 'transaction_timeout')
	{
		return 'right' if defined $s->{xact} && $s->{xact} <= $since;
		return ('wrong', 'its transaction began ' . _ago($at, $s->{xact}));
	}
	if ($limit eq 'statement_timeout')
	{
		return 'right' if $s->{state} eq 'active' && $s->{query} <= $since;
		return ('wrong', "it was $s->{state}, its statement began " . _ago($at, $s->{query}));
	}
	if ($limit eq 'idle_in_transaction_timeout' || $limit eq 'idle_session_timeout')
	{
		my $state = $limit eq 'idle_session_timeout' ? qr/^idle$/ : qr/^idle_in_transaction/;

		return 'right' if $s->{state} =~ $state && $s->{change} <= $since;
		return ('wrong', "it was $s->{state} since " . _ago($at, $s->{change}));
	}
	if ($limit eq 'lock_wait_timeout')
	{
		return 'right' if defined $s->{wait} && $s->{wait} <= $since;
		return ('wrong', 'it has waited since ' . _ago($at, $s->{wait}));
	}
	return $self->_over_locks($action, $value, $s, $last) if $limit eq 'max_locks';
	return $self->_over_xmin_age($action, $value, $s, $last, $next) if $limit eq 'max_xmin_age';

	# The limits on blockers.  In one wait before and after: not a root.  (One
	# in between who may not be signalled is why a preemption is in vain.)
	if (in_one_wait($pid, $last, $next))
	{
		return ('wrong', "it waits for a $s->{locktype} lock itself")
		  if $limit =~ /^(?:idle_)?blocker_timeout$/
		  || $limit eq 'preempt_timeout' && $action->{result} !~ /^(?:exempt|protected)$/;
	}
	return $self->_over_preemption($action, $s, $last, $next) if $limit eq 'preempt_timeout';
	return $self->_over_blocked($action, $value, $since, $s, $last, $next)
	  if $limit eq 'max_blocked_sessions';

	if ($limit eq 'queued_blocker_timeout')
	{
		return ('wrong', 'it has waited since ' . _ago($at, $s->{wait})) unless defined $s->{wait} && $s->{wait} <= $since;
	}
	if (my $problem = $self->_clock_of_deadlock($action, $since, $s, $last, $next))
	{
		return ('wrong', $problem);
	}
	if ($limit eq 'idle_blocker_timeout')
	{
		if ($s->{state} eq 'active')
		{
			return ('wrong', 'it was active') unless ($s->{event} || '') =~ /^Client/;
		}
		elsif ($s->{change} > $since)
		{
			return ('wrong', "it was $s->{state} since " . _ago($at, $s->{change}));
		}
	}
	my $most = blocked_at_most($s, $limit, $at, $last);
	my ($helped) = sort { $b->[0] <=> $a->[0] } map { [ $self->_helped_at($_, $last, $at), $_ ] } grep {
		$_->{signalled} && $_->{limit_name} =~ $on_blockers && defined $_->{released_after} && $_->{acted_at} + $_->{released_after} <= $at
	} @{ $self->{actions_of}{$pid} || [] };
	my $begun = $helped ? $helped->[0] : 0;

	return ('wrong', sprintf 'others have waited for it for %.0f ms at most', 1000 * $most) if $most < $at - $since;
	return ('wrong', 'a signal had helped ' . _ago($at, $begun) . ': ' . _row($helped->[1])) if $begun > $since;
	return 'right';
}

# When had a signal helped, so that the clock began anew?  When lockguard noticed,
# for what it knew of then; a wait that began after the signal, and which it
# first saw later, counts from its own beginning.
sub _helped_at
{
	my ($self, $signal, $last, $at) = @_;
	my $noticed = $signal->{acted_at} + $signal->{released_after};
	my @since;

	# What is left of the session after a rollback is idle in another way, whether that
	# has been noticed or not.
	return $signal->{acted_at} if $signal->{action} eq 'rollback';

	foreach my $sample (grep { $_->{before} <= $at && $_->{after} >= min($noticed, $last->{before}) } @{ $self->{recent} })
	{
		push @since, grep { defined && $_ >= $signal->{acted_at} }
		  map { $sample->{session}{$_}{wait} } @{ $sample->{behind}{ $signal->{pid} } || [] };
	}
	return min($noticed, @since);
}

# Since when at the earliest has it blocked any session, of those that wait now?
# A root's clock stands still while it waits itself.
sub _blocks_since
{
	my ($s, $sample, $root) = @_;

	return min map {
		max($_->{wait}, $_->{not_before}) + ($root ? $s->{waited} - $_->{waited} : 0)
	} grep { blames($s, $sample->{session}{ $_->{waiter} }) } values %{ $sample->{pair}{ $s->{pid} } || {} };
}

# Locks come within a statement: only who has not begun one since then holds
# what the sample shows.  But a fast-path lock is moved to the shared lock table
# when another session wants the table in a strong mode.
sub _over_locks
{
	my ($self, $action, $value, $s, $last) = @_;
	my $locks = $s->{locks} || 0;

	return 'right' if $locks > $value;
	# Locks are read before or after states are.
	return ('unknown', 'at work between two samples')
	  unless is_idle($s) && $s->{change} < $last->{before} && $self->_scene($action, $last, $last)->held_on;
	return ('unknown', 'fast-path locks may have been moved') if ($s->{all_locks} || 0) > $value;
	return ('wrong', "it holds $locks locks");
}

sub _over_xmin_age
{
	my ($self, $action, $value, $s, $last, $next) = @_;
	my ($oldest) = sort { $a <=> $b } grep { defined } @{$s}{qw(xid xmin)};
	my $used = $next->{next_xid} - (defined $s->{xact} ? $s->{xid_before} : $last->{next_xid});

	return ('wrong', "$used transaction ids have been used since its transaction began") if $used <= $value;
	return 'right' unless defined $oldest;
	my $age = $next->{next_xid} - $oldest;
	return 'right' if $age > $value;

	# Else a new snapshot may be as old as the oldest transaction is.
	return ('unknown', 'at work between two samples')
	  unless is_idle($s) && $self->_scene($action, $last, $last)->held_on;
	return ('wrong', "it is $age transaction ids old");
}

# Who can have been behind a session at the time of an action?  Those that
# were in one of the samples around it, and those behind one of its blocked
# sessions that may have come to wait for it between the samples.
sub _behind
{
	my ($action, $last, $next) = @_;
	my $pid = $action->{pid};
	my $seen = downstream([$pid], $last, $next);
	my @moved = grep { !in_one_wait($_, $last, $next) } @{ $action->{blocked} };
	my $possible = downstream([ $pid, @moved ], $last, $next);
	my %claimed = map { $_ => 1 } @{ $action->{blocked} };

	delete $seen->{$pid};
	delete $possible->{$pid};
	return ([ keys %$seen ], [ grep { $claimed{$_} || $seen->{$_} } keys %$possible ]);
}

sub _over_blocked
{
	my ($self, $action, $value, $since, $s, $last, $next) = @_;
	my $count = sub {
		return scalar grep {
			my $w = $last->{session}{$_};
			$w && defined $w->{wait} && $w->{wait} <= $since;
		} @_;
	};
	my ($seen, $possible) = _behind($action, $last, $next);
	my $from = _blocks_since($s, $last, !$s->{locktype});

	return ('wrong', 'it has blocked others since ' . _ago($action->{acted_at}, $from))
	  unless defined $from && $from <= $since;
	if (my $problem = $self->_clock_of_deadlock($action, $since, $s, $last, $next))
	{
		return ('wrong', $problem);
	}
	return 'right' if $count->(@$seen) > $value;
	return ('unknown', 'the queue changed between two samples') if $count->(@$possible) > $value;
	return ('wrong', 'only ' . $count->(@$seen) . ' sessions are behind it');
}

sub _over_preemption
{
	my ($self, $action, $s, $last, $next) = @_;
	my $own = $priority{ $action->{role}{priority} };
	my $why = 'no session of higher priority has waited for it so long';
	my $waiter = sub {
		my ($pid) = @_;
		my $w = $last->{session}{$pid};
		my $role = $w && $self->{by_pid}{$pid} && $self->{by_pid}{$pid}{role};

		return
		     $role
		  && $role->{preempt_timeout}
		  && $role->{preempt_timeout} == sprintf('%.0f', 1000 * _value($action->{limit_value}))
		  && $priority{ $role->{priority} } > $own
		  && defined $w->{wait}
		  && $w->{wait} <= $action->{acted_at} - $role->{preempt_timeout} / 1000 + TOLERANCE
		  && !$self->_surely_in_vain($pid, $action->{pid}, $last, $next, \$why);
	};
	my ($seen, $possible) = _behind($action, $last, $next);

	return 'right' if grep { $waiter->($_) } @$seen;
	return ('unknown', 'the queue changed between two samples') if grep { $waiter->($_) } @$possible;
	return ('wrong', $why);
}

# Does a session of its own priority or higher block it all along?
sub _surely_in_vain
{
	my ($self, $pid, $victim, $last, $next, $why) = @_;
	my $own = $priority{ $self->{by_pid}{$pid}{role}{priority} };
	my @todo = ($pid);
	my %seen = ($pid => 1);

	while (defined(my $one = shift @todo))
	{
		next unless in_one_wait($one, $last, $next);
		foreach my $b (grep { $_ && $_ != $victim && !$seen{$_}++ } @{ $last->{session}{$one}{blockers} })
		{
			next unless blocks($b, $one, $next) && $self->{by_pid}{$b};
			if ($priority{ $self->{by_pid}{$b}{role}{priority} } >= $own)
			{
				$$why = "$b, as important as $pid, is in its way, too";
				return 1;
			}
			push @todo, $b;
		}
	}
	return 0;
}

# ----------------------------------------------- deadlocks and commits

# Who is in a deadlock?  Notes in "in_cycle" when a session was last in one by
# any sign, and in "deadlock" from when to when it was for certain.
sub _note_cycles
{
	my ($self, $sample, $previous) = @_;
	my $session = $sample->{session};
	my (%edges, %certain);

	foreach my $s (grep { $_->{locktype} } values %$session)
	{
		$edges{ $s->{pid} } = [ grep { $_ != $s->{pid} && $session->{$_} && $session->{$_}{locktype} } @{ $s->{blockers} } ];
	}
	foreach my $pid (keys %{ cyclic(\%edges) })
	{
		$self->{in_cycle}{$pid} = { at => $sample->{after}, query => $session->{$pid}{query} };
		$certain{$pid} = [ grep { blocks($_, $pid, $previous) && in_one_wait($_, $previous, $sample) } @{ $edges{$pid} } ]
		  if in_one_wait($pid, $previous, $sample);
	}
	my $cycles = cyclic(\%certain);

	foreach my $pid (keys %$cycles)
	{
		my $wait_id = $session->{$pid}{wait_id};
		my $deadlock = $self->{deadlock}{$pid};

		$deadlock = $self->{deadlock}{$pid} = { from => $previous->{after}, wait_id => $wait_id }
		  unless $deadlock && $deadlock->{wait_id} eq $wait_id && $deadlock->{to} >= $previous->{before};
		@{$deadlock}{qw(to members)} = ($sample->{before}, $cycles->{$pid});
		$self->{long_deadlocks}++ if !$deadlock->{long} && $deadlock->{to} - $deadlock->{from} >= SEEN + $self->{worst};
		$deadlock->{long} ||= $deadlock->{to} - $deadlock->{from} >= SEEN + $self->{worst};
	}

	# Who has caught the error, though no sample may show what it was about.
	foreach my $s (grep { $self->{by_pid}{ $_->{pid} } } values %$session)
	{
		foreach my $at (@{ $self->{by_pid}{ $s->{pid} }{caught} || [] })
		{
			$self->{in_cycle}{ $s->{pid} } = { at => $at, query => $s->{query} }
			  if $at <= $sample->{after} && $at >= $s->{query} && $at > ($self->{in_cycle}{ $s->{pid} }{at} || 0);
		}
	}
	return;
}

# A session that was in a deadlock, no longer waits, and is at work on the same
# statement may be undoing it: it and its tree may be left alone meanwhile.
sub _note_undoing
{
	my ($self, $sample) = @_;

	foreach my $pid (keys %{ $self->{in_cycle} })
	{
		my $cycle = $self->{in_cycle}{$pid};
		my $s = $sample->{session}{$pid};

		if (!$s || $s->{query} != $cycle->{query} || is_idle($s) || $sample->{after} > $cycle->{at} + UNDOING)
		{
			delete $cycle->{undoing};
		}
		elsif (!$s->{locktype})
		{
			push @{ $self->{undoings} }, $cycle->{undoing} = { start => $cycle->{at} } if !$cycle->{undoing};
			$cycle->{undoing}{end} = $sample->{after};
			$cycle->{undoing}{tree}{$_} = 1 foreach keys %{ component($pid, $sample) };
		}
	}
	return;
}

# Has the session gone on without an error since then, in which its wait may
# have ended?
sub _has_gone_on
{
	my ($self, $pid, $since) = @_;
	return !grep { $_ >= $since } @{ $self->{by_pid}{$pid}{gave_up} || [] };
}

# No session is hit in a deadlock; and one that comes out of one, without the
# error, begins with a new clock.  Returns what speaks against it, if anything.
sub _clock_of_deadlock
{
	my ($self, $action, $since, $s, $last, $next) = @_;
	my $deadlock = $self->{deadlock}{ $s->{pid} };
	my $waits = $action->{limit_name} eq 'queued_blocker_timeout' || $action->{limit_name} eq 'max_blocked_sessions' && $s->{locktype};

	return if !$deadlock || !$deadlock->{long} || $action->{escalates};
	# Had the worker seen it when it judged?
	my ($look) = $self->_time_of_look($action);

	return if $deadlock->{from} + SEEN + $self->{worst} > (defined $look ? $look : $action->{acted_at} - RECORDED_LATE);
	return if $waits ? ($s->{wait_id} || '') ne $deadlock->{wait_id} : !$self->_has_gone_on($s->{pid}, $deadlock->{from});
	if ($action->{limit_name} eq 'max_blocked_sessions')
	{
		# It has no clock of its own: but are the others of the cycle in it still?
		return unless $waits && $deadlock->{to} >= $last->{before} && $self->_has_gone_on($s->{pid}, $deadlock->{from});
		return if grep { $_ != $s->{pid} && !in_one_wait($_, $last, $next) } @{ $deadlock->{members} };
		return 'it is part of a cycle';
	}
	return if $deadlock->{to} <= $since;
	return 'it was in a deadlock until ' . _ago($action->{acted_at}, $deadlock->{to});
}

# Has it caught the error of a long deadlock, is it still at work on that
# statement, and does it block a session that was there before?
sub _undoes_its_statement
{
	my ($self, $pid, $action, $last, $next) = @_;
	my $deadlock = $self->{deadlock}{$pid};
	my ($s, $then) = map { $_->{session}{$pid} } $last, $next;
	my $hit = $pid == $action->{pid};
	my ($at) = grep { $deadlock && $deadlock->{long} && $_ >= $deadlock->{to} && $_ < $action->{look} - 0.05 - $self->{worst} }
	  reverse @{ $self->{by_pid}{$pid} && $self->{by_pid}{$pid}{caught} || [] };

	return 0 unless $at && $s && $s->{query} <= $at && $s->{state} eq 'active' && !$s->{locktype};
	# A statement that has its answer was not hit.
	return 0 if $hit && @{ $self->_statement_at($pid, $action->{acted_at}) } > 3;
	return 0 unless $hit || $then && $then->{query} == $s->{query} && $then->{state} eq 'active';
	return scalar grep {
		     $last->{session}{$_}{wait} <= $deadlock->{from}
		  && blocks($pid, $_, $last)
		  && ($_ == $action->{pid} || in_one_wait($_, $last, $next) && ($hit || blocks($pid, $_, $next)))
	} grep { in_one_wait($_, $last) } @{ $last->{behind}{$pid} || [] };
}

# A session that has got the error of a deadlock is left alone, with its tree,
# while it undoes its statement.
sub _check_undoing
{
	my ($self, $action, $last, $next) = @_;

	return unless defined $action->{look};
	foreach my $pid (keys %{ $self->_scene($action, $last, $last, $next)->tree })
	{
		next unless $self->_undoes_its_statement($pid, $action, $last, $next);
		$self->_complain('wrongly hit', "$pid undoes its statement after a deadlock", $action);
		return;
	}
	return;
}

# Was the statement that it was at one that ends a transaction, and which has
# done so?  A signal that comes before the point of no return makes it fail.
# (The next sample tells when that statement began, and ended, if it has.)
sub _is_hit_in_commit
{
	my ($self, $action, $next) = @_;
	my $at = $action->{acted_at};
	my $statement = $self->_statement_at($action->{pid}, $at);
	my $then = $next->{session}{ $action->{pid} };

	return 0 unless $then && $statement && ends_a_transaction($statement->[1]);
	my ($sent, $sql, $answered, @tags) = @$statement;

	return 0
	  unless is_done($sql, @tags)
	  && $then->{query} >= $sent - TOLERANCE && $then->{query} < $at - TOLERANCE
	  && ($then->{state} eq 'active' || $then->{change} > $at);
	$self->_complain('hit in its commit', "$sql was under way, and was done", $action);
	return 1;
}

# What it is doing cannot be undone any more, or nearly so.
sub _commits
{
	my ($self, $s, $sample) = @_;
	my $session = $self->{by_pid}{ $s->{pid} };

	return 0 if $s->{state} ne 'active' || $s->{locktype};
	return 1 if ($s->{event} || '') =~ /^(?:SyncRep|WALWrite|WALSync)$/;
	my $statements = $session->{statements} || [];
	my $i = $session->{reached} || 0;

	$i++ while $i < $#$statements && $statements->[ $i + 1 ][0] <= $sample->{before};
	$session->{reached} = $i;
	return $statements->[$i] && ends_a_transaction($statements->[$i][1]);
}

# Are those recorded as blocked the right ones?
sub _check_blocked_pids
{
	my ($self, $action, $last, $next) = @_;
	my $pid = $action->{pid};
	my @then = grep { defined $action->{look} && $_->{after} <= $action->{look} - TOLERANCE } @{ $self->{recent} };
	my %claimed = map { $_ => 1 } @{ $action->{blocked} };

	return $self->_complain('wrong pids', 'their number is another', $action)
	  if @{ $action->{blocked} } != $action->{blocked_sessions};
	my ($unknown) = grep { !$self->{by_pid}{$_} } @{ $action->{blocked} };
	return $self->_complain('wrong pids', "$unknown is not one of the load", $action) if $unknown;
	return unless @then;

	# From a sample before the look to one after the signal.
	my $first = $then[-1];
	my @around = grep { $_->{before} >= $first->{before} && $_->{before} <= $next->{before} } @{ $self->{recent} };

	foreach my $p (keys %claimed)
	{
		return $self->_complain('wrong pids', "$p has been idle all the time", $action)
		  if idle_all_along($p, $first, $next);
		next unless in_one_wait($p, @around);
		my %up = map { $_ => 1 } map { keys %{ upstream($p, $_) } } @around;

		return $self->_complain('wrong pids', "$p waits for others", $action)
		  if !$up{$pid} && !grep { !$_ || !in_one_wait($_, @around) && !idle_all_along($_, @around) } keys %up;
	}
	my $scene = $self->_scene($action, $first, $last, $next);
	foreach my $p (@{ $first->{behind}{$pid} || [] })
	{
		# Waits that are shorter than a tenth of a limit are not looked at.
		next if ($first->{session}{$p}{wait} || $next->{after}) > $action->{look} - 0.05;
		return $self->_complain('wrong pids', "$p is left out", $action)
		  if !$claimed{$p}
		  && in_one_wait($p, $first, $last, $next)
		  && $scene->rests($pid)
		  && blocks($pid, $p, $last);
	}
	$self->{pids_checked} += keys %claimed;
	return;
}

# The last sample that ended before the worker looked at the locks.
sub _sample_before_look
{
	my ($self, $action) = @_;
	my $look = defined $action->{look} ? $action->{look} - TOLERANCE : $action->{acted_at} - RECORDED_LATE - 3 * $self->{worst};
	my ($first) = grep { $_->{after} <= $look } reverse @{ $self->{recent} };

	return $first;
}

# A session is only signalled because of what it blocks if that helps: then
# another can go on, if not at once, then when all have gone that are removed.
sub _check_vain
{
	my ($self, $action, $last, $next) = @_;
	my $first = $self->_sample_before_look($action) or return;

	$self->{vain_checked}++;
	$self->_complain('in vain', 'all that wait for it have to wait for others, too', $action)
	  if surely_in_vain($self, $self->_scene($action, $first, $last, $next));
	return;
}

# One that is spared, as its removal would not help, has blocked none alone.
sub _check_spared
{
	my ($self, $action, $last, $next) = @_;
	my ($first) = grep { $_->{after} <= $action->{acted_at} - RECORDED_LATE - 3 * $self->{worst} } reverse @{ $self->{recent} };

	return unless $first && $last;
	my @around = grep { $_->{before} >= $first->{before} && $_->{before} <= $next->{before} } @{ $self->{recent} };
	my ($alone) = waits_for_it_alone($action->{pid}, @around);

	$self->_complain('spared', "$alone waits for it alone", $action) if $alone;
	$self->{spared_checked}++;
	return;
}

# Those of one tree are removed in order: one that helps alone before one that
# helps only together with others; then an idle root, a queued blocker (the one
# nearest the root), an active root.  Was there another, for certain over a limit
# of its own for some time and the only one in the way of a waiter, whose turn it
# would have been?
sub _check_order
{
	my ($self, $action, $s, $last, $next) = @_;
	my $at = $action->{acted_at};
	my $look = $action->{look};
	my $rank =
	  $action->{limit_name} eq 'preempt_timeout' ? 3 : $s->{locktype} ? 1 : is_idle($s) || ($s->{event} || '') =~ /^Client/ ? 0 : 2;
	my $first = defined $look && $self->_sample_before_look($action);

	return unless $first;
	my $scene = $self->_scene($action, $first, $last, $next);
	my $not_alone = surely_not_alone($self, $scene);

	return unless $rank > 0 || $not_alone;
	my $tree = $scene->tree;

	foreach my $pid (keys %$tree)
	{
		my $session = $self->{by_pid}{$pid};
		my $role = $session && $session->{role};

		next if !$role || $pid == $action->{pid} || $role->{exempt} || $role->{action} ne 'terminate';
		# Has it been signalled before, and is still there?
		next if grep { $_->{signalled} && $_->{acted_at} > $at - MEMORY && $_->{acted_at} <= $at } @{ $self->{actions_of}{$pid} || [] };
		# Has it come out of a deadlock?
		next if $self->{in_cycle}{$pid} && $self->{in_cycle}{$pid}{at} > $at - MEMORY;

		if ($scene->waits($pid))
		{
			# A queued blocker, nearer to the root, and in no cycle.
			next if downstream([$pid], $first, $last)->{$pid};
			next if !$not_alone && ($rank == 0 || $rank == 1 && !$scene->behind($pid)->{ $action->{pid} });
		}
		else
		{
			next if !$not_alone && $rank == 0;
			# What it has waited itself of late may have been noticed late.
			next unless $scene->rests($pid);
			next if grep { $_->{session}{$pid} && $_->{session}{$pid}{locktype} } @{ $self->{recent} };
		}
		next unless waits_for_it_alone($pid, $first, $last);
		if (my $why = $scene->over($pid, $role, $look - 5 * TOLERANCE))
		{
			$self->_complain('wrong order', "it was the turn of $pid, $why" . ($not_alone ? ', which helps alone' : ''), $action);
			return;
		}
	}
	$self->{order_checked}++ if keys %$tree > 1;
	$self->{help_compared}++ if keys %$tree > 1 && $not_alone;
	return;
}

# One victim at a time: has another of its tree been signalled, that still
# blocks for certain?
sub _check_alone
{
	my ($self, $action, $last, $next) = @_;
	my $at = $action->{acted_at};

	foreach my $other (@{ $self->{signals} })
	{
		next if $other->{pid} == $action->{pid} || $other->{limit_name} !~ $on_blockers || $other->{escalates};

		# In one look, with a session behind both.  (A look that has seen what came of the other is a later one.)
		if (!(grep { !defined $_->{look} || defined $_->{or_later} } $action, $other) && abs($action->{look} - $other->{look}) < 0.0002
			&& !(defined $other->{released_after} && $other->{acted_at} + $other->{released_after} < $at)
			&& grep { my $p = $_; grep { $_ == $p } $other->{pid}, @{ $other->{blocked} } } $action->{pid}, @{ $action->{blocked} })
		{
			$self->_complain('second victim', "another of the same tree has been signalled in this scan (" . _row($other) . ')', $action);
			return;
		}
		next if $other->{limit_name} eq 'preempt_timeout';
		my $open = $other->{action} eq 'cancel' ? $other->{role}{escalation_delay} / 1000 : MEMORY;
		my ($before, $pid) = @{$other}{qw(last pid)};

		next unless $before && $at > $other->{acted_at} && $at < $other->{acted_at} + $open - TOLERANCE;
		my ($then, $now) = map { $_->{session}{$pid} } $before, $next;

		# It is in the transaction in which it was signalled, and in its wait.
		next unless $then && $now && defined $then->{xact} && defined $now->{xact} && $then->{xact} == $now->{xact};
		next if $then->{locktype} && !in_one_wait($pid, $before, $next);
		next unless grep {
			in_one_wait($_, $before, $next) && blocks($pid, $_, $next)
			  && $before->{session}{$_}{wait} < $other->{acted_at} - RECORDED_LATE - 3 * $self->{worst}
		} @{ $before->{behind}{$pid} || [] };
		if ($self->_scene($action, $before, $last, $next)->tree->{$pid})
		{
			$self->_complain('second victim', "$pid has been signalled, and still blocks (" . _row($other) . ')', $action);
			return;
		}
	}
	return;
}

# ------------------------------------------------- prepared transactions

sub _check_prepared
{
	my ($self, $action, $last) = @_;
	my $at = $action->{acted_at};
	my $prepared = $last && $last->{prepared}{ $action->{gid} || '' };

	return $self->_complain('wrong value', 'not the server\'s', $action)
	  unless abs(_value($action->{limit_value}) - PREPARED_TIMEOUT) < 0.0005 && $action->{limit_source} eq 'configuration';
	return $self->_not_judged('no sample in time') if !$last || $last->{before} < $at - PREPARED_TIMEOUT + TOLERANCE;
	# Its time begins with PREPARE TRANSACTION; it is there for others at the end of that.
	return $self->_not_judged('being prepared') if !$prepared && $self->_is_being_prepared($action);
	return $self->_complain('wrongly hit', 'there is no such prepared transaction', $action)
	  unless $prepared;
	return $self->_complain('wrongly hit', 'it was prepared ' . _ago($at, $prepared), $action)
	  if $prepared > $at - PREPARED_TIMEOUT + TOLERANCE;
	$self->{checked}++;
	$self->{checked_by}{prepared_transaction_timeout}++;
	return;
}

# Had PREPARE TRANSACTION no answer yet?
sub _is_being_prepared
{
	my ($self, $action) = @_;
	my $prepared = $self->{prepared}{ $action->{gid} } || {};

	return !defined $prepared->{at} || $action->{acted_at} <= $prepared->{at} + TOLERANCE;
}

# Was a session at work on it when it was to be rolled back, and failed?  Then
# that is tried again later.
sub _was_busy
{
	my ($self, $action) = @_;
	my $finishing = defined $action->{gid} && $self->{finishing}{ $action->{gid} };

	return $action->{result} =~ /^(?:failed|pending)$/ && defined $action->{gid}
	  && ($self->_is_being_prepared($action) || $finishing && $finishing->{begin} <= $action->{acted_at});
}

# None is rolled back without a row, and none is left standing, unless it is
# being finished.
sub _watch_prepared
{
	my ($self, $sample) = @_;
	my $previous = $self->{recent}[-2];

	foreach my $gid (keys %{ $sample->{prepared} })
	{
		next if $self->{rows_of_gid}{$gid} || $self->{standing}{$gid};
		my $passed = $sample->{prepared}{$gid} + PREPARED_TIMEOUT;

		my $finishing = $self->{finishing}{$gid};

		$passed = max($passed, thawed_before($self->{freezes}, $sample->{before}) + PREPARED_TIMEOUT);
		$passed = max($passed, defined $finishing->{end} ? $finishing->{end} : $sample->{before})
		  if $finishing && $finishing->{begin} <= $sample->{before};
		next if $sample->{before} < $passed + MARGIN + 2 * $self->{worst}
		  + $self->_paused($passed, $sample->{before});
		$self->{standing}{$gid} = 1;
		$self->_complain('left standing', "prepared transaction $gid is over its limit since $passed");
	}
	return unless $previous;
	foreach my $gid (grep { !defined $sample->{prepared}{$_} } keys %{ $previous->{prepared} })
	{
		next if $self->{finishing}{$gid}
		  || grep { $_->{action} eq 'rollback' && $_->{acted_at} <= $sample->{after} } @{ $self->{rows_of_gid}{$gid} || [] };
		$self->_complain('no row', "prepared transaction $gid is gone");
	}
	return;
}

# -------------------------------------------------------- left standing

# For how long, within that time, was there a pause?
sub _paused
{
	my ($self, $from, $to) = @_;
	my $sum = 0;

	foreach my $pause (@{ $self->{pauses} })
	{
		my $overlap = min($to, $pause->{resumed}) - max($from, $pause->{pausing});
		$sum += $overlap if $overlap > 0;
	}
	return $sum;
}

# For how long, within that time, was the session's tree, or the session
# itself, busy with a session that had been signalled, or was there a pause?
sub _held_up
{
	my ($self, $pid, $from, $to) = @_;
	my $slack = 0.02 + $self->{worst};
	my @busy;

	foreach my $action (@{ $self->{signals} })
	{
		next unless $action->{pid} == $pid || $action->{limit_name} =~ $on_blockers && $action->{tree}{$pid}
		  || $action->{tree}{$pid};
		my $took = defined $action->{released_after} ? $action->{released_after} : $to;
		my $longest = $action->{role}{escalation_delay} / 1000 + 0.5;

		push @busy, [ $action->{acted_at}, $action->{acted_at} + min($took, $longest) + $slack ];
	}
	push @busy, map { [ $_->{pausing}, $_->{resumed} + $slack ] } @{ $self->{pauses} };
	push @busy, map { [ $_->{start}, $_->{end} + $slack ] } grep { $_->{tree}{$pid} } @{ $self->{undoings} };

	my $sum = 0;
	my $done = $from;
	foreach my $one (sort { $a->[0] <=> $b->[0] } @busy)
	{
		my ($begin, $end) = (max($one->[0], $done), min($one->[1], $to));

		next if $end <= $begin;
		$sum += $end - $begin;
		$done = $end;
	}
	return $sum;
}

# Note in a sample's session since when it has been over a limit that is about
# more than itself, by all samples since.
sub _note_runs
{
	my ($self, $sample, $previous) = @_;
	my $now = $sample->{before};

	foreach my $s (values %{ $sample->{session} })
	{
		my $session = $self->{by_pid}{ $s->{pid} } or next;
		my $role = $session->{role};
		my $then = $previous && $previous->{session}{ $s->{pid} };

		if ($self->_commits($s, $sample))
		{
			$self->{committed}{ $s->{pid} } = $sample->{after};
			$self->{standby_waits}++ if ($s->{event} || '') eq 'SyncRep';
		}
		if ($role->{max_blocked_sessions} && grep { blames($s, $sample->{session}{$_}) } @{ $sample->{behind}{ $s->{pid} } || [] })
		{
			# The same sessions in the same waits, all the time.
			my %now =
			  map { ("$_ $sample->{session}{$_}{wait_id}" => 1) }
			  grep {
				my $w = $sample->{session}{$_};
				$_ != $s->{pid} && $w && !$w->{group} && defined $w->{wait} && $w->{wait} < $now - DEADLOCK_TIMEOUT
			  } keys %{ downstream([ $s->{pid} ], $sample) };
			my $run = $then && ($then->{wait_id} || '') eq ($s->{wait_id} || '') && $then->{many};
			my %both = $run ? map { $_ => 1 } grep { $now{$_} } keys %{ $run->{who} } : ();

			$s->{many} =
			    keys %both > $role->{max_blocked_sessions} ? { %$run, who => \%both }
			  : keys %now > $role->{max_blocked_sessions} ? { who => \%now, start => $sample->{after}, helped => $s->{helped} }
			  : undef;
			# Not the same one all the time, that it is to blame for.
			undef $s->{many}
			  unless !$s->{locktype} || $s->{others}
			  || grep { $s->{many} && $sample->{session}{$_}{others} && $s->{many}{who}{"$_ $sample->{session}{$_}{wait_id}"} } @{ $sample->{behind}{ $s->{pid} } };
		}
		if ($role->{preempt_timeout} && defined $s->{wait} && !$s->{group})
		{
			my $up = upstream($s->{pid}, $sample);
			my $roots = 0;
			my $clear = !$up->{ $s->{pid} };

			foreach my $pid (keys %$up)
			{
				my $b = $self->{by_pid}{$pid};

				$clear &&= $b && $sample->{session}{$pid} && $priority{ $b->{role}{priority} } < $priority{ $role->{priority} }
				  && !$b->{role}{exempt} && $b->{role}{action} eq 'terminate'
				  && !$self->_commits($sample->{session}{$pid}, $sample);
				$roots++ if $clear && !$sample->{session}{$pid}{locktype};
			}
			if ($clear && $roots)
			{
				$s->{preempts} =
				  $then && $then->{wait_id} && $then->{wait_id} eq $s->{wait_id} && $then->{preempts} || $sample->{after};
			}
		}
		my $same_xact = $then && defined $s->{xact} && defined $then->{xact} && $then->{xact} == $s->{xact};
		if ($role->{max_locks} && ($s->{locks} || 0) > $role->{max_locks} && defined $s->{xact})
		{
			$s->{hoards} = $same_xact && $then->{hoards} || $sample->{after};
		}
		if ($role->{max_xmin_age} && defined $s->{xact})
		{
			my ($oldest) = sort { $a <=> $b } grep { defined } @{$s}{qw(xid xmin)};

			# By now the worker has seen this transaction.
			$s->{xid_seen} = $same_xact && $then->{xid_seen}
			  || ($now > $s->{xact} + NAPTIME + MARGIN / 2 ? $sample->{next_xid} : undef);
			$s->{ages} = $same_xact && $then->{ages} || $sample->{after}
			  if $s->{xid_seen} && defined $oldest
			  && min($sample->{next_xid} - $oldest, $sample->{next_xid} - $s->{xid_seen}) > $role->{max_xmin_age} + 1;
		}
	}
	return;
}

# Every session over a limit is signalled.
sub _look_for_violators
{
	my ($self, $sample) = @_;
	my $now = $sample->{before};
	my $margin = MARGIN + 2 * $self->{worst};

	foreach my $s (values %{ $sample->{session} })
	{
		my $session = $self->{by_pid}{ $s->{pid} } or next;
		my $role = $session->{role};
		my %since = (
			transaction_timeout => $s->{xact},
			lock_wait_timeout => $s->{wait},
			statement_timeout => $s->{state} eq 'active' ? $s->{query} : undef,
			idle_session_timeout => $s->{state} eq 'idle' ? $s->{change} : undef,
			idle_in_transaction_timeout => $s->{state} =~ /^idle_in/ ? $s->{change} : undef,
			max_blocked_sessions => $s->{many} ? $s->{many}{start} : undef,
			max_locks => $s->{hoards},
			max_xmin_age => $s->{ages},
			preempt_timeout => $s->{preempts});

		# Blockers: others have waited for it for so long in all.
		my $clocks = $s->{clock} || {};

		$since{$_} = $clocks->{$_}{passed} foreach keys %$clocks;
		foreach my $limit (grep { defined $since{$_} && $role->{$_} } keys %since)
		{
			my $passed = $since{$limit};
			my $by_clock = exists $clocks->{$limit};

			# The worker counts locks and ages once in naptime.
			$passed +=
			    $by_clock ? 0
			  : $limit eq 'max_blocked_sessions' ? DEADLOCK_TIMEOUT
			  : $limit =~ /^max_/ ? NAPTIME
			  : $role->{$limit} / 1000;
			# Out of a deadlock its clock is a new one, and after a freeze it may be.
			my $anew = thawed_before($self->{freezes}, $now);

			$anew = max($anew, $self->{in_cycle}{ $s->{pid} }{at}) if $self->{in_cycle}{ $s->{pid} } && $limit =~ $on_blockers;
			$passed += max($anew - $since{$limit}, 0) unless $by_clock;
			$passed = max($passed, $s->{wait} + $role->{$limit} / 1000) if $limit eq 'preempt_timeout';
			# What cannot be undone has to end first.
			$passed = max($passed, $self->{committed}{ $s->{pid} } || 0);
			next if $now < $passed + $margin;
			next if $self->{standing}{"$s->{pid} $limit $since{$limit}"};
			next if $self->_excused($s, $role, $limit, $since{$limit}, $sample);
			my $held_up = $self->_held_up($s->{pid}, $passed, $now);

			next if $now < $passed + $margin + $held_up;
			# For so long at least its removal would have helped since then.
			next
			  if ($by_clock || $limit eq 'max_blocked_sessions')
			  && $s->{helped} - ($by_clock ? $clocks->{$limit}{helped} : $s->{many}{helped}) < $margin + $held_up;

			$self->{standing}{"$s->{pid} $limit $since{$limit}"} = 1;
			$self->_complain('left standing',
				sprintf '%d of %s is over %s = %d for %.0f ms, since %.3f',
				$s->{pid}, $role->{name}, $limit, $role->{$limit}, 1000 * ($now - $passed), $since{$limit});
			diag 'before: ' . _row($_)
			  foreach grep { $_ } (grep { $_->{acted_at} < $now } @{ $self->{actions_of}{ $s->{pid} } || [] })[ -2, -1 ];
		}
	}
	return;
}

# May it be left standing?  It, or for preempt_timeout who is in its way, has
# a row that says why.
sub _excused
{
	my ($self, $s, $role, $limit, $since, $sample) = @_;
	my @all = grep { $_->{acted_at} <= $sample->{before} } @{ $self->{actions_of}{ $s->{pid} } || [] };
	my @rows = grep { $_->{limit_name} eq $limit } @all;

	return 0 if $limit eq 'preempt_timeout';
	# In a deadlock.
	return 1 if $s->{locktype} && $limit =~ $on_blockers && downstream([ $s->{pid} ], $sample)->{ $s->{pid} };
	# Of several limits on blockers, the first that it is over is recorded.
	@rows = grep { $_->{limit_name} =~ $on_blockers } @all if $limit =~ $on_blockers && ($role->{exempt} || $role->{action} ne 'terminate');
	return scalar @rows if $role->{exempt} || $role->{action} eq 'log';
	# One that cannot be terminated gets nothing a second time for the same.
	return scalar grep { !$_->{signalled} || $_->{acted_at} > $since - TOLERANCE } @rows
	  if $role->{action} ne 'terminate';
	return 0;
}

# -------------------------------------------------------------- outcomes

# A session that is said to have released its locks has: that pair is over.
sub _check_released
{
	my ($self, $sample) = @_;

	foreach my $action (@{ $self->{signals} })
	{
		my ($last, $pid) = @{$action}{qw(last pid)};

		next unless $last && defined $action->{released_after} && $action->{limit_name} =~ /blocke[rd]/ && !$action->{looked_after};
		next unless $sample->{before} > $action->{acted_at} + $action->{released_after} + TOLERANCE;
		$action->{looked_after} = 1;
		# How much of a freeze is in that time is not known so well.
		next if freeze_within($self->{freezes}, $action->{acted_at}, $sample->{before});
		my ($then, $now) = map { $_->{session}{$pid} } $last, $sample;

		next unless $then && $now && !$then->{locktype} && !$now->{locktype};
		next unless defined $then->{xact} && defined $now->{xact} && $then->{xact} == $now->{xact};
		# If it was hit while it waited itself, what counts is that this wait is over.
		next if $action->{limit_name} !~ /^(?:idle_)?blocker_timeout$/ && may_begin_to_wait($self, $then, undef, $action->{acted_at});
		my ($still) = grep {
			in_one_wait($_, $last, $sample) && blocks($pid, $_, $sample)
			  && $last->{session}{$_}{wait} < $action->{acted_at} - RECORDED_LATE - 3 * $self->{worst}
		} @{ $last->{behind}{$pid} || [] };
		$self->_complain('not released', "$still waits for it still", $action) if $still;
	}
	return;
}

# No session was signalled without a row, and each signal took effect.
sub _check_signals
{
	my ($self) = @_;

	foreach my $session (@{ $self->{all} })
	{
		my @rows = grep { $_->{signalled} } @{ $self->{actions_of}{ $session->pid } || [] };

		foreach my $error (@{ $session->{signals} })
		{
			my $kind = { 57014 => 'cancel', '57P01' => 'terminate' }->{ $error->{C} } || 'rollback';
			my ($limit) = ($error->{D} || '') =~ /lockguard\.(\w+) (?:is|of process)/;
			# Of rollbacks, one that the client answered with ROLLBACK was not felt.
			my @before = grep { $_->{acted_at} <= $error->{at} + TOLERANCE } @rows;
			my ($row) = grep { $_->{action} eq $kind && !$_->{felt}
				  && (!$limit || $_->{limit_name} eq $limit) } $kind eq 'rollback' ? reverse(@before) : (), @rows;

			$self->{felt}++;
			if (!$row)
			{
				$self->_complain('no row', sprintf '%d got %s %s at %.3f: %s', $session->pid, @{$error}{qw(C M at)}, $error->{D} || 'no detail');
				diag 'its row: ' . _row($_) foreach @{ $self->{actions_of}{ $session->pid } || [] };
				next;
			}
			$row->{felt} = 1;
			$self->_complain('not told', "$error->{C} without a reason", $row) unless $limit;
			$self->_complain('wrong time', 'it was hit before', $row) if $error->{at} < $row->{acted_at} - TOLERANCE;

			# Its last statement was under way before, and had no answer.
			$self->_complain('no cancel first', 'it was at work', $row)
			  if $kind eq 'terminate' && !$row->{escalates} && defined $row->{working_on}
			  && $error->{busy} && $error->{sent} && $row->{working_on} >= $error->{sent} - TOLERANCE;
		}
		foreach my $row (grep { $_->{action} eq 'rollback' && $_->{result} eq 'released' && !$_->{felt} } @rows)
		{
			# Whatever the client sent next was refused, but for ROLLBACK; unless that had
			# crossed with the request.
			my ($next) = grep { $_->[0] > $row->{acted_at} + TOLERANCE } @{ $session->{statements} };
			my ($before) = grep { $_->[0] <= $row->{acted_at} + TOLERANCE } reverse @{ $session->{statements} };

			next if !$before || !defined $before->[2] || $before->[2] > $row->{acted_at} - TOLERANCE;
			$self->_complain('untold', $next->[1], $row)
			  if $next && defined $next->[2] && $next->[1] ne 'ROLLBACK' && ($session->{lives} || $session->{leaves});
		}
		foreach my $row (grep { $_->{action} eq 'terminate' } @rows)
		{
			$self->_complain('no effect', 'the session lives on', $row)
			  if $session->{lives} && $row->{acted_at} < $self->{end} - MARGIN;
		}
	}
	return;
}

# Put all that the load and lockguard have noted on the clock that stands still
# in freezes.
sub _unfreeze
{
	my ($self) = @_;
	my @times = \$self->{end};

	foreach my $session (@{ $self->{all} })
	{
		push @times, \$session->{left_at}, map { \$_ } @{ $session->{caught} }, @{ $session->{gave_up} };
		push @times, map { (\$_->[0], \$_->[2]) } @{ $session->{statements} };
		push @times, map { (\$_->[0], \$_->[1]) } @{ $session->{timed_out} };
		push @times, map { (\$_->{at}, \$_->{sent}) } @{ $session->{signals} };
	}
	push @times, map { \$_->{acted_at} } @{ $self->{actions} };
	push @times, map { \@{$_}{qw(pausing paused resuming resumed)} } @{ $self->{pauses} };
	push @times, map { \@{$_}{qw(begin end)} } values %{ $self->{finishing} };
	push @times, map { \$_->{at} } values %{ $self->{prepared} };
	foreach my $time (grep { defined $$_ } @times)
	{
		$$time = unfrozen($self->{freezes}, $$time);
	}
	return;
}

# What clients were told, and what is in the tables.
sub _check_ledger
{
	my ($self) = @_;
	my ($hit, $told) = compare_ledger($self);

	$self->_complain('hit in its commit', $_) foreach @$hit, map { "$_->{pid}: $_->{sql}: $_->{message}" } @{ $self->{cut_short} || [] };
	$self->_complain('told otherwise', $_) foreach @$told;
	return;
}

# Go through the samples in order.
sub check
{
	my ($self) = @_;
	my @actions = @{ $self->{actions} };

	@{$self}{qw(recent signals worst longest_gap undoings)} = ([], [], 0, 0, []);
	$self->_unfreeze;
	find_interruptions($self);
	push @{ $self->{rows_of_gid}{ $_->{gid} } }, $_ foreach grep { defined $_->{gid} } @actions;

	open my $in, '<', $self->{file} or die "$self->{file}: $!";
	while (my $line = <$in>)
	{
		my $recent = $self->{recent};
		my $previous = $recent->[-1];

		last unless $line =~ /\n/;
		chomp $line;
		my $sample = read_sample($line, $previous, $self->{freezes});
		my $gap = $previous ? $sample->{after} - $previous->{after} : 0;

		$self->{samples}++;
		$self->{groups} += grep { $_->{group} } values %{ $sample->{session} };
		$self->{longest_gap} = max($gap, $self->{longest_gap});
		# The worst gap of late counts for how late an action may be.
		$self->{worst} = max($gap, $self->{worst} * 0.99);
		push @$recent, $sample;
		$self->_note_cycles($sample, $previous);
		$self->_note_undoing($sample);
		note_clocks($self, $sample, $previous);
		$self->_note_runs($sample, $previous);
		while (@actions && $actions[0]{acted_at} <= $sample->{before})
		{
			my $action = shift @actions;

			($action->{last}) = grep { $_->{after} <= $action->{acted_at} } reverse @$recent;
			$self->_check_action($action, $action->{last}, $sample);
			push @{ $self->{signals} }, $action if $action->{signalled} && $action->{role};
			delete $action->{last} unless $action->{signalled};
		}
		if ($sample->{after} < $self->{end})
		{
			$self->_look_for_violators($sample);
			$self->_watch_prepared($sample);
			$self->_check_released($sample);
		}
		shift @$recent while $recent->[0]{before} < $sample->{before} - SAMPLES_KEPT;
		foreach my $old (grep { $_->{acted_at} < $sample->{before} - MEMORY } @{ $self->{signals} })
		{
			delete @{$old}{qw(last tree)};
		}
		@{ $self->{signals} } = grep { $_->{tree} } @{ $self->{signals} };
	}
	close $in;
	unlink $self->{file} unless $ENV{LOCKGUARD_KEEP};
	foreach my $action (@{ $self->{actions} })
	{
		$self->_complain('no outcome', "result is $action->{result}", $action)
		  if $action->{result} =~ /^(?:pending|unresponsive|failed|suppressed)$/ && !$self->_was_busy($action);
	}
	$self->_not_judged('no sample after it') foreach @actions;
	$self->_check_signals;
	$self->_check_ledger;
	return;
}

1;
