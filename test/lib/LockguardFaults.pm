# Helpers of the TAP tests that break something: the server's processes, and
# whether all went well in the end.

package LockguardFaults;

use strict;
use warnings;

use Exporter 'import';
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  worker_pid new_worker child_pid crash_restart
  guards log_since count_in_log log_is_sound crc32c
);

# The worker's pid, 0 if there is none.
sub worker_pid
{
	my ($observer) = @_;

	return $observer->value("SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'lockguard'");
}

# Wait for another worker than this one; returns its pid.
sub new_worker
{
	my ($observer, $old) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $pid;

	ok( wait_until(
			sub {
				$pid = $observer->value('SELECT worker_pid FROM lockguard.stats');
				return $pid && $pid != $old;
			}),
		'there is a new worker');
	return $pid;
}

# The pid of a process of the server by its title, such as "lockguard history",
# which pg_stat_activity does not list; undef if there is none.  Linux only.
sub child_pid
{
	my ($node, $title) = @_;
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];

	foreach my $process (glob '/proc/[0-9]*')
	{
		# A process may end while we look at it.
		my ($status, $cmdline) = map { eval { slurp_file("$process/$_") } || '' } qw(status cmdline);

		return ($process =~ /(\d+)$/)[0]
		  if $status =~ /^PPid:\s+$postmaster$/m && $cmdline =~ /: \Q$title\E[ \0]*$/;
	}
	return;
}

# The server has lost a process and starts anew: wait for that.  Returns a new
# observer.
sub crash_restart
{
	my ($node, @sessions) = @_;
	my $observer;

	$_->wait_closed foreach @sessions;
	wait_until(
		sub {
			$observer = eval { LockguardTest::Session->new($node, 'observer') };
			return $observer && worker_pid($observer) != 0;
		}) or die 'the server does not come back';
	return $observer;
}

my $guard_key = 1_000_000;

# An outage begins and is ended as it should, with one signal.
sub guards
{
	my ($observer, $when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($s, $w) = blocked_pair($observer, $when, ++$guard_key, idle_blocker_timeout => '200ms');

	succeeds($w, 'the waiter');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	is_recorded($observer, $s, 'idle_blocker_timeout rollback released');
	$_->close foreach $s, $w;
	return;
}

sub log_since
{
	my ($node, $offset) = @_;
	return slurp_file($node->logfile, $offset);
}

sub count_in_log
{
	my ($node, $offset, $pattern) = @_;
	return scalar(() = log_since($node, $offset) =~ /$pattern/g);
}

# Nothing is in the server's log that should not be: no failed assertion, no
# crash of its own, and no error of a process that is no session, as lockguard's
# are, but those allowed.  That the worker is told to end is none.
sub log_is_sound
{
	my ($node, @allowed) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	push @allowed, qr/FATAL:  terminating background worker "lockguard" due to administrator command/;
	my @wrong =
	  grep {
		my $line = $_;

		!grep { $line =~ $_ } @allowed
	  }
	  # The name of its application follows the pid of a session.
	  grep { /TRAP: |PANIC: |terminated by signal (?:4|6|7|8|11)\b|\[\d+\] (?:ERROR|FATAL):/ }
	  split /\n/, slurp_file($node->logfile);

	return is(join("\n", @wrong), '', $node->name . ': no unexpected error in the log');
}

my @crc_table;
foreach my $i (0 .. 255)
{
	my $crc = $i;

	$crc = $crc & 1 ? ($crc >> 1) ^ 0x82F63B78 : $crc >> 1 foreach 1 .. 8;
	push @crc_table, $crc;
}

# The checksum of the history file and of each record in it.
sub crc32c
{
	my $crc = 0xFFFFFFFF;

	$crc = ($crc >> 8) ^ $crc_table[ ($crc ^ $_) & 0xFF ] foreach unpack 'C*', $_[0];
	return $crc ^ 0xFFFFFFFF;
}

1;
