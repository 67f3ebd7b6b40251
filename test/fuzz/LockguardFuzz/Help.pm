# Whom would the removal of a session have helped?
#
# A waiter that it blocks directly can go on when all others that block it
# directly go, too.  Whether a session goes is seldom certain, but it is certain
# that one stays that is idle, waits or sleeps all along, and that is over no
# limit on blockers, or may not be signalled for it.

package LockguardFuzz::Help;

use strict;
use warnings;

use Exporter 'import';
use LockguardFuzz::Clock qw(blocked_at_most);
use LockguardFuzz::Observer qw(downstream in_one_wait blocks is_idle);

our @EXPORT_OK = qw(surely_in_vain surely_not_alone);

use constant TOLERANCE => 0.004;

# Can it be over a limit on blockers, and be signalled for that?
sub _may_be_removed
{
	my ($check, $pid, @samples) = @_;
	my $role = $check->{by_pid}{$pid}{role};
	my $sample = $samples[-1];
	my $s = $sample->{session}{$pid};

	return 0 if $role->{exempt} || $role->{action} eq 'log';
	return 1
	  if $role->{max_blocked_sessions}
	  && keys %{ downstream([$pid], @samples) } > $role->{max_blocked_sessions};
	foreach my $limit ($s->{locktype} ? 'queued_blocker_timeout' : qw(idle_blocker_timeout blocker_timeout))
	{
		return 1 if $role->{$limit} && blocked_at_most($s, $limit, $sample->{after}, $sample) >= $role->{$limit} / 1000 - TOLERANCE;
	}
	return 0;
}

# Was it there up to the action, and does it neither end nor, with "removed", can
# it have been removed?
sub _stays
{
	my ($check, $scene, $pid, $removed) = @_;
	my $action = $scene->{action};
	my ($first, $last, $next) = @{$scene}{qw(first last next)};
	my @s = map { $_->{session}{$pid} } $first, $last, $next;

	return 0 if !$check->{by_pid}{$pid} || grep { !$_ } @s;
	return 0 if $check->{in_cycle}{$pid} && $check->{in_cycle}{$pid}{at} > $first->{before} - 4;
	return 0 if grep { $_->{signalled} && abs($_->{acted_at} - $action->{acted_at}) < 4 } @{ $check->{actions_of}{$pid} || [] };
	return 0
	  unless $scene->rests($pid) && is_idle($s[2])
	  || in_one_wait($pid, $first, $last, $next)
	  || !grep { $_->{state} ne 'active' || ($_->{event} || '') ne 'PgSleep' || $_->{query} != $s[0]{query} } @s;
	return !$removed || !_may_be_removed($check, $pid, $first, $last, $next);
}

# Is it certain that each waiter that an action's victim blocks directly was
# blocked by another that stays?  So it is only if all go on waiting.
sub _all_are_kept
{
	my ($check, $scene, $removed) = @_;
	my ($action, $last, $next) = @{$scene}{qw(action last next)};
	my $pid = $action->{pid};
	my $kept = 0;

	foreach my $w (@{ $action->{blocked} })
	{
		return 0 unless in_one_wait($w, $last, $next);
		next unless blocks($pid, $w, $last) || blocks($pid, $w, $next);
		my ($then, $now) = map { $_->{session}{$w}{blockers} } $last, $next;
		my %still = map { $_ => 1 } @$now;

		# Of prepared transactions it is not known which, but none is new then.
		return 0 unless grep {
			my $b = $_;
			$b != $pid && $still{$b} && ($b ? _stays($check, $scene, $b, $removed) : !grep { $_ != $pid && !$still{$_} } @$then);
		} @$then;
		$kept++;
	}
	return $kept > 0;
}

# It was certain that none could go on, whoever else is removed.
sub surely_in_vain
{
	my ($check, $scene) = @_;
	return _all_are_kept($check, $scene, 1);
}

# It was certain that none could go on unless others are removed.
sub surely_not_alone
{
	my ($check, $scene) = @_;
	return _all_are_kept($check, $scene, 0);
}

1;
