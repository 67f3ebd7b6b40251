# How long sessions have waited for another in all, by the samples: at most, and
# at least.
#
# What is counted is the time in which at least one session waits for it, be
# that one for long or many that give up and come again.  The clock stands still
# while none does, and while a root waits itself.  It begins anew after a gap as
# long as the limit; in another transaction, unless a wait from before goes on;
# for idle_blocker_timeout, in another idle period; and for a queued blocker, in
# another wait.
#
# At most: a wait that a sample shows may have gone on from when it began, but
# not from before the last sample that does not show it, up to the first that
# does not show it any more.  One that is shown by no sample has begun after one
# and has ended before the next.  That it has ended because the lock was
# released does not matter, as the clock begins anew then.  Otherwise it has
# lasted at least as long as the shortest lock_timeout, unless its statement was
# interrupted: "blind" are samples before which that may have been.
#
# At least: only waits count that two samples show, and something is taken away
# from each run of those without a gap, as lockguard does not see its ends.

package LockguardFuzz::Clock;

use strict;
use warnings;

use Exporter 'import';
use List::Util qw(max min);
use LockguardFuzz::Freeze qw(freeze_within);
use LockguardFuzz::Load qw(SHORTEST_TIMEOUT);
use LockguardFuzz::Observer qw(is_idle in_one_wait idle_all_along blocks blames);

our @EXPORT_OK = qw(find_interruptions note_clocks blocked_at_most waits_for_it_alone may_begin_to_wait);

# Clocks of shared memory and of the worker may differ by so much (s).
use constant TOLERANCE => 0.004;
# What lockguard may not see at the ends of a run of waits.
use constant UNSEEN => 0.04;
# How long after a signal its statement may still wait.
use constant REACTION => 0.05;
# How long after its end a client may be told of an error.
use constant HEARD => 0.5;

my @limits = qw(idle_blocker_timeout blocker_timeout queued_blocker_timeout);

# What may have ended a wait earlier than a lock_timeout would have: statements
# that ran into statement_timeout, and those that lockguard ended whatever they
# waited for.
sub find_interruptions
{
	my ($check) = @_;
	my @found;

	foreach my $session (@{ $check->{all} })
	{
		push @found, map { { pid => $session->pid, from => $_->[0], to => $_->[1] } } @{ $session->{timed_out} || [] };
	}
	foreach my $action (grep { $_->{signalled} } @{ $check->{actions} })
	{
		push @found, { pid => $action->{pid}, from => $action->{acted_at} - TOLERANCE, to => $action->{acted_at} + REACTION }
		  if $action->{limit_name} !~ /^(?:idle_.*|lock_wait_timeout|(?:queued_)?blocker_timeout)$/ || $action->{action} eq 'terminate';
	}
	$check->{interruptions} = [ sort { $a->{from} <=> $b->{from} } @found ];
	return;
}

# Can it have begun to wait for a session that rests, and to no end, between a
# sample and the next?  Not if it sleeps, or waits for something else, or if it
# is idle and was sent nothing.
sub may_begin_to_wait
{
	my ($check, $then, $now, $to) = @_;
	my $statements = $check->{by_pid}{ $then->{pid} }{statements} || [];
	my ($last) = grep { $_->[0] <= $to } reverse @$statements;

	return 0 if $then->{locktype};
	return 0 if ($then->{event} || '') eq 'PgSleep' && !($now && $now->{locktype});
	return !(is_idle($then) && $last && $last->[0] <= $then->{query} + TOLERANCE);
}

# May a wait that neither sample shows have begun and ended between them?
sub _is_blind
{
	my ($check, $sample, $previous) = @_;
	my $all = $check->{interruptions};
	my ($from, $to) = ($previous->{before}, $sample->{after});

	shift @$all while @$all && $all->[0]{from} < $from - 5;
	foreach my $one (@$all)
	{
		my ($then, $now) = map { $_->{session}{ $one->{pid} } } $previous, $sample;

		last if $one->{from} > $to;
		next if $one->{to} < $from;
		# It was over, or had to do with something else.
		next if $from > $one->{from} && (!$then || is_idle($then) || $then->{query} > $one->{from});
		next if $then && !may_begin_to_wait($check, $then, $now, $to);
		return 1;
	}
	return $to - $from >= SHORTEST_TIMEOUT || freeze_within($check->{freezes}, $from, $to);
}

# No wait of its own can have been between two samples.
sub _is_at_rest
{
	my ($s, $then) = @_;

	return 0 if !$then || $s->{locktype} || $then->{locktype} || $s->{query} != $then->{query};
	return $s->{change} == $then->{change} if is_idle($s) && is_idle($then);
	return $s->{state} eq 'active' && $then->{state} eq 'active'
	  && !grep { ($_->{event} || '') ne 'PgSleep' } $s, $then;
}

# Since when at the earliest may a wait for this session go on that this sample
# shows, or fails to show?
sub _waited_for_since
{
	my ($s, $sample, $previous, $rests) = @_;
	my @waiters = map { $sample->{session}{$_} } @{ $sample->{behind}{ $s->{pid} } || [] };
	# While it rests it releases nothing: who waited for it has given up.
	my @hidden = grep { !$rests || $_->{gives_up} } @{ $sample->{hidden} };
	my @since;

	foreach my $w (grep { $_->{pid} != $s->{pid} && blames($s, $_) } @waiters, @hidden)
	{
		my $then = $previous->{session}{ $w->{pid} };
		my $known = $then && $then->{wait_id} && @{ $then->{blockers} } && !$then->{group};

		push @since,
		    !defined $w->{wait} || $w->{group} ? $previous->{before}
		  : $known && $then->{wait_id} eq $w->{wait_id} && !blocks($s->{pid}, $w->{pid}, $previous) ? max($w->{wait}, $previous->{before})
		  : $w->{wait};
	}
	return min(@since);
}

# Is another transaction sure to have begun with no session waiting?
sub _begins_anew
{
	my ($s, $then, $clock, $since, $sample) = @_;
	my $began = defined $s->{xact} ? $s->{xact} : is_idle($s) ? $s->{change} : $sample->{after};

	return 0 if ($s->{xact} || '') eq ($then->{xact} || '');
	return !$clock->{present} && !$sample->{blind} && !(defined $since && $since <= $began + TOLERANCE);
}

# By how much at most: {most}, all up to {to}; {rest} is for how long it was sure
# not to be waited for, nor to wait itself, since then.
sub _count_most
{
	my ($clock, $limit, $value, $s, $then, $sample, $previous) = @_;
	my $root = $limit ne 'queued_blocker_timeout';
	my $rests = $root ? _is_at_rest($s, $then) : $then && in_one_wait($s->{pid}, $previous, $sample);
	my $since = _waited_for_since($s, $sample, $previous, $rests);
	my $from = $clock->{present} || $sample->{blind} ? min(grep { defined } $since, $previous->{before}) : $since;
	my $present = defined $since;

	# When it can have begun at the earliest.
	my $anew =
	    $limit eq 'idle_blocker_timeout' && is_idle($s) && (!$then || !is_idle($then) || $then->{change} != $s->{change}) ? $s->{change}
	  : !$root && !$s->{group} && defined $s->{wait} && (!$then || ($then->{wait_id} || '') ne $s->{wait_id}) ? $s->{wait}
	  : !$root && !$s->{locktype} ? $sample->{before}
	  : $root && $then && _begins_anew($s, $then, $clock, $since, $sample) ? $previous->{before}
	  : undef;
	if (defined $anew)
	{
		@{$clock}{qw(most start to rest)} = (0, undef, $anew, 0);
		$from = max($from, $anew) if defined $from;
	}
	$clock->{to} = $previous->{before} unless defined $clock->{to};
	$clock->{rest} += max(0, min($from, $sample->{before}) - max($clock->{to}, $previous->{after}))
	  if $rests && defined $from;
	$clock->{rest} += max(0, $sample->{before} - max($clock->{to}, $previous->{after})) if $rests && !defined $from;
	$clock->{most} = 0 if $clock->{rest} >= $value + TOLERANCE;
	if (defined $from)
	{
		my $start = max($from, $clock->{to});
		my $own = 0;

		if ($root && $then && in_one_wait($s->{pid}, $previous, $sample))
		{
			# It waited itself while the sample before was taken, too; that was not known then.
			my $waits = max($s->{wait}, $previous->{before});

			$own = max(0, $sample->{before} - max($start, $waits));
			$own += max(0, $previous->{after} - max($clock->{start}, $waits)) if $clock->{to} == $previous->{after} && defined $clock->{start};
		}
		$clock->{most} = max(0, $clock->{most} + max(0, $sample->{after} - $start) - $own);
		@{$clock}{qw(start to rest)} = ($start, $sample->{after}, 0);
	}
	$clock->{present} = $present;
	return;
}

# Is there one that has waited for it all the time between two samples?
sub _is_waited_for
{
	my ($s, $sample, $previous) = @_;

	return grep {
		my $w = $sample->{session}{$_};
		$w->{pid} != $s->{pid} && blames($s, $w) && in_one_wait($_, $previous, $sample) && blocks($s->{pid}, $_, $previous);
	} @{ $sample->{behind}{ $s->{pid} } || [] };
}

# By how much at least: {least}; and once that is enough, {passed}.
sub _count_least
{
	my ($check, $clock, $limit, $value, $s, $then, $sample, $previous) = @_;
	my $goes_on =
	    $limit eq 'queued_blocker_timeout' ? in_one_wait($s->{pid}, $previous, $sample)
	  : $s->{locktype} || !$then || $then->{locktype} || ($s->{xact} || '') ne ($then->{xact} || '') ? 0
	  : $limit eq 'idle_blocker_timeout' ? idle_all_along($s->{pid}, $previous, $sample)
	  : 1;
	my $cycle = $check->{in_cycle}{ $s->{pid} };

	# Whatever may have begun anew has.
	if (!$goes_on || $cycle && $cycle->{at} >= $previous->{before} - 0.05 || freeze_within($check->{freezes}, $previous->{before} - 0.2, $sample->{after})
		|| grep { $_->{signalled} && $_->{acted_at} <= $sample->{after} && $_->{acted_at} + ($_->{released_after} || 0) + UNSEEN + $check->{worst} >= $previous->{before} }
		@{ $check->{actions_of}{ $s->{pid} } || [] })
	{
		delete @{$clock}{qw(least gap run passed)};
		return;
	}
	if (_is_waited_for($s, $sample, $previous))
	{
		my $time = $sample->{before} - $previous->{after};

		$clock->{run} = ($clock->{run} || 0) + $time;
		$clock->{gap} = 0;
		# What is not seen of a run is its beginning and its end.
		$clock->{least} = ($clock->{least} || 0) + max(0, min($time, $clock->{run} - 2 * (UNSEEN + $check->{worst} / 2)));
	}
	else
	{
		delete $clock->{run};
		$clock->{gap} = ($clock->{gap} || 0) + $sample->{after} - $previous->{before};
		# It may have released it, and taken it again.
		delete @{$clock}{qw(least passed)}
		  if $clock->{gap} >= $value - 2 * UNSEEN - $check->{worst}
		  || !($limit eq 'queued_blocker_timeout' || _is_at_rest($s, $then));
	}
	@{$clock}{qw(passed helped)} = ($sample->{after}, $s->{helped}) if !defined $clock->{passed} && ($clock->{least} || 0) >= $value;
	return;
}

# Those that wait for this session alone, in one wait in all the samples.
sub waits_for_it_alone
{
	my ($pid, @samples) = @_;

	return grep {
		my $waiter = $_;
		$waiter != $pid && in_one_wait($waiter, @samples)
		  && !grep { join(',', @{ $_->{session}{$waiter}{blockers} }) ne $pid } @samples;
	} @{ $samples[0]{behind}{$pid} || [] };
}

# Note in each session of a sample what is known of its clocks, by all samples
# up to this one, and for how long in all its removal would have helped at once:
# {helped}.
sub note_clocks
{
	my ($check, $sample, $previous) = @_;

	$sample->{hidden} = [ grep { $_->{locktype} && !@{ $_->{blockers} } } values %{ $sample->{session} } ];
	foreach my $s (@{ $sample->{hidden} })
	{
		my $session = $check->{by_pid}{ $s->{pid} } or next;

		$s->{gives_up} = grep { $_ >= $sample->{before} - TOLERANCE && $_ <= $sample->{after} + HEARD }
		  @{ $session->{gave_up} || [] }, map { $_->{at} } @{ $session->{signals} || [] };
	}
	return unless $previous;
	$sample->{blind} = _is_blind($check, $sample, $previous);
	$check->{blind}++ if $sample->{blind};
	foreach my $s (values %{ $sample->{session} })
	{
		my $session = $check->{by_pid}{ $s->{pid} } or next;
		my $then = $previous->{session}{ $s->{pid} };

		next unless grep { /blocke[rd]/ } keys %{ $session->{role} };
		$s->{helped} = $then && $then->{helped} || 0;
		$s->{helped} += $sample->{before} - $previous->{after}
		  if grep { $sample->{session}{$_}{wait} <= $previous->{before} - UNSEEN / 2 } waits_for_it_alone($s->{pid}, $previous, $sample);
		foreach my $limit (grep { $session->{role}{$_} } @limits)
		{
			my $clock = $s->{clock}{$limit} = { most => 0, rest => 0, $then && $then->{clock}{$limit} ? %{ $then->{clock}{$limit} } : () };
			my $value = $session->{role}{$limit} / 1000;

			_count_most($clock, $limit, $value, $s, $then, $sample, $previous);
			_count_least($check, $clock, $limit, $value, $s, $then, $sample, $previous);
		}
	}
	return;
}

# For how long at most, by the rules of this limit, have others waited for a
# session at that time, which is after this sample?
sub blocked_at_most
{
	my ($s, $limit, $at, $sample) = @_;
	my $clock = $s->{clock}{$limit};

	return $at unless $clock && !($limit eq 'queued_blocker_timeout' && $s->{group});
	my $most = $clock->{most} + max(0, $at - max($clock->{to}, $sample->{before}));

	$most = min($most, $at - $s->{change}) if $limit eq 'idle_blocker_timeout' && is_idle($s);
	$most = min($most, $at - $s->{wait}) if $limit eq 'queued_blocker_timeout' && defined $s->{wait};
	return $most;
}

1;
