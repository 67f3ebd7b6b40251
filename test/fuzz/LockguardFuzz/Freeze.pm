# Freezes: every process of the server is stopped for a while, as when a
# virtual machine is, and continued later.  No limit may count that time; so the
# check takes all times on a clock that stands still meanwhile.

package LockguardFuzz::Freeze;

use strict;
use warnings;

use Exporter 'import';
use List::Util qw(min shuffle);
use LockguardTest;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);

our @EXPORT_OK = qw(freeze thaw unfrozen thawed_before freeze_within);

# The worker may have meant to sleep for a while when it was stopped; only what
# is longer than that does it know to be a freeze (s).
use constant UNNOTICED => 0.1;

my @stopped;

# To shut down a server whose processes are stopped would take for ever.
END { kill 'CONT', @stopped if @stopped; }

sub _children
{
	my ($parent) = @_;
	my @children;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		# A process may end while we look at it.
		my $stat = eval { slurp_file($file) } || '';

		push @children, $1 if $stat =~ /^(\d+) \(.*\) \S+ (\d+) /s && $2 == $parent;
	}
	return @children;
}

# Stop them all, the postmaster first: it starts no others then.
sub freeze
{
	my ($node) = @_;
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my %freeze = (stopping => time());

	@stopped = ($postmaster);
	kill 'STOP', $postmaster;
	push @stopped, _children($postmaster);
	kill 'STOP', @stopped;
	$freeze{stopped} = time();
	$freeze{pids} = [@stopped];
	return \%freeze;
}

# Continue them: with a worker given, that one some time before the others.
sub thaw
{
	my ($freeze, $worker) = @_;

	$freeze->{resuming} = time();
	if ($worker)
	{
		kill 'CONT', $worker;
		usleep(1000 * (5 + int rand 20));
	}
	kill 'CONT', $_ foreach shuffle @{ $freeze->{pids} };
	@stopped = ();
	$freeze->{resumed} = time();
	return;
}

# A time on the clock that stands still during freezes.
sub unfrozen
{
	my ($freezes, $time) = @_;
	my $gone = 0;

	foreach my $freeze (@$freezes)
	{
		my $begin = $freeze->{stopped} + UNNOTICED;

		last if $time <= $begin;
		$gone += min($time, $freeze->{resuming}) - $begin;
	}
	return $time - $gone;
}

# When the last freeze before that time ended, on that clock; 0 if there was none.
sub thawed_before
{
	my ($freezes, $time) = @_;
	my @ends = grep { $_ < $time } map { unfrozen($freezes, $_->{resuming}) } @$freezes;

	return @ends ? $ends[-1] : 0;
}

# Was there a freeze between these two times of that clock?
sub freeze_within
{
	my ($freezes, $from, $to) = @_;

	return scalar grep {
		my $at = unfrozen($freezes, $_->{resuming});
		$from <= $at && $at <= $to + UNNOTICED;
	} @$freezes;
}

1;
