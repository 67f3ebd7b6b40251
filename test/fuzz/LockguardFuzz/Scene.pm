# What is certain of the sessions around one action: from a sample that is not
# after the worker's look ("first") to the moment of the action, with the last
# sample before it ("last") and the first after it ("next").
#
# The victim is gone in "next", and others may follow it at once.  So that is
# not all that counts: a session in one wait in two samples has released nothing
# in between; nor has one that is idle, to which no statement was sent (the load
# knows), and that was signalled later only.

package LockguardFuzz::Scene;

use strict;
use warnings;

use List::Util qw(max min);
use LockguardFuzz::Ledger qw(has_many_transactions);
use LockguardFuzz::Load qw(DEADLOCK_TIMEOUT);
use LockguardFuzz::Observer qw(in_one_wait blocks is_idle blames);

# Clocks of the load, of shared memory and of the worker may differ by so much.
use constant TOLERANCE => 0.004;

# Options: action, first, last, next; sessions (of the load, by pid) and rows
# (by pid).
sub new
{
	my ($class, %opt) = @_;

	return bless {%opt}, $class;
}

# The last statement that a session was sent before the action.
sub _statement
{
	my ($self, $pid) = @_;
	my $session = $self->{sessions}{$pid} or return;
	my ($statement) = grep { $_->[0] <= $self->{action}{acted_at} } reverse @{ $session->{statements} || [] };

	return $statement;
}

# Nothing has been begun by it from "first" to "last", and on to the action.
sub _same_statement
{
	my ($self, $pid) = @_;
	my ($then, $now) = map { $_->{session}{$pid} } @{$self}{qw(first last)};
	my $statement = $self->_statement($pid);

	return $then && $now && $statement && $then->{query} == $now->{query}
	  && $statement->[0] <= $now->{query} + TOLERANCE;
}

# Idle up to the action, and there.
sub rests
{
	my ($self, $pid) = @_;

	return $self->{rests}{$pid} if defined $self->{rests}{$pid};
	my ($then, $now) = map { $_->{session}{$pid} } @{$self}{qw(first last)};
	my $session = $self->{sessions}{$pid};
	my $at = $self->{action}{acted_at};

	return $self->{rests}{$pid} =
	     $self->_same_statement($pid)
	  && is_idle($then)
	  && is_idle($now)
	  && $then->{change} == $now->{change}
	  && !($session->{left_at} && $session->{left_at} <= $at)
	  && !grep({ $_->{signalled} && $_->{acted_at} < $at && $_->{acted_at} > $self->{first}{before} - 1 } @{ $self->{rows}{$pid} || [] })
	  ? 1 : 0;
}

# Has the victim released nothing up to the action?
sub held_on
{
	my ($self) = @_;
	my $pid = $self->{action}{pid};

	return $self->{held_on} if defined $self->{held_on};
	return $self->{held_on} = 1 if in_one_wait($pid, @{$self}{qw(first last)});
	return $self->{held_on} = 0 unless $self->_same_statement($pid);
	my ($then, $now) = map { $_->{session}{$pid} } @{$self}{qw(first last)};

	return $self->{held_on} = 1 if is_idle($then) && is_idle($now) && $then->{change} == $now->{change};
	return $self->{held_on} =
	     $then->{state} eq 'active'
	  && $now->{state} eq 'active'
	  && $self->_statement($pid)->[1] !~ /^(?:COMMIT|ROLLBACK|PREPARE)|unlock/
	  && !has_many_transactions($self->_statement($pid)->[1]) ? 1 : 0;
}

# In one wait from "first" to the action.
sub waits
{
	my ($self, $pid) = @_;
	my ($first, $last, $next) = @{$self}{qw(first last next)};

	return $self->{waits}{$pid} if defined $self->{waits}{$pid};
	$self->{waits}{$pid} = 0;
	return 0 unless in_one_wait($pid, $first, $last);
	return $self->{waits}{$pid} = 1 if $pid == $self->{action}{pid} || in_one_wait($pid, $first, $next);

	# It has got what it waited for, from a session that had it up to the action.
	my ($then, $now) = map { $_->{session}{$pid} } $last, $next;

	return $self->{waits}{$pid} = 1
	  if $now
	  && $now->{query} == $then->{query}
	  && $now->{state} =~ /^(?:active|idle_in_transaction)$/
	  && grep { $self->_stays($_) && blocks($_, $pid, $first) && blocks($_, $pid, $last) } @{ $then->{blockers} };
	return 0;
}

sub _stays
{
	my ($self, $pid) = @_;
	return $pid == $self->{action}{pid} ? $self->held_on : $self->rests($pid);
}

# Those who have waited for this one from "first" to the action.
sub waiters
{
	my ($self, $pid) = @_;
	my ($first, $last, $next) = @{$self}{qw(first last next)};

	return @{ $self->{waiters}{$pid} } if $self->{waiters}{$pid};
	my $stays = $self->_stays($pid) || $self->waits($pid);
	my @waiters = grep {
		     $self->waits($_)
		  && blocks($pid, $_, $last)
		  && ($stays || in_one_wait($_, $first, $next) && blocks($pid, $_, $next))
	} @{ $first->{behind}{$pid} || [] };

	$self->{waiters}{$pid} = \@waiters;
	return @waiters;
}

# All behind it.
sub behind
{
	my ($self, $pid) = @_;
	my @todo = ($pid);
	my %seen;

	while (defined(my $one = shift @todo))
	{
		push @todo, grep { !$seen{$_}++ } $self->waiters($one);
	}
	return \%seen;
}

# All that are connected with the victim.
sub tree
{
	my ($self) = @_;
	my %near;
	my @todo = ($self->{action}{pid});
	my %seen = ($todo[0] => 1);

	foreach my $b (grep { $_ } keys %{ $self->{first}{behind} || {} })
	{
		foreach my $w ($self->waiters($b))
		{
			push @{ $near{$b} }, $w;
			push @{ $near{$w} }, $b;
		}
	}
	while (defined(my $one = shift @todo))
	{
		push @todo, grep { !$seen{$_}++ } @{ $near{$one} || [] };
	}
	return \%seen;
}

# Is this idle root, or queued blocker, over a limit on blockers at that time?
# Says which.
sub over
{
	my ($self, $pid, $role, $at) = @_;
	my $session = $self->{first}{session};
	my $s = $session->{$pid};
	my $queued = defined $s->{locktype};
	my $own = $queued ? $s->{wait} : $s->{change};
	# Else the deadlock detector has changed the order of the queue.
	my @waiters = grep { !$queued || blames($s, $session->{$_}) && $session->{$_}{wait} >= $own } $self->waiters($pid);

	return unless @waiters;
	my $since = max($own, min map { $session->{$_}{wait} } @waiters);
	foreach my $limit ($queued ? 'queued_blocker_timeout' : qw(idle_blocker_timeout blocker_timeout))
	{
		return sprintf '%s = %dms since %.3f', $limit, $role->{$limit}, $since
		  if $role->{$limit} && $since + $role->{$limit} / 1000 <= $at;
	}
	if ($role->{max_blocked_sessions} && $since + DEADLOCK_TIMEOUT <= $at)
	{
		my @all = grep { $_ != $pid && $session->{$_}{wait} + DEADLOCK_TIMEOUT <= $at } keys %{ $self->behind($pid) };

		return "max_blocked_sessions = $role->{max_blocked_sessions}, with " . @all . ' behind it'
		  if @all > $role->{max_blocked_sessions};
	}
	return;
}

1;
