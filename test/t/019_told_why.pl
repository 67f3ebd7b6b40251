# A victim is told why, at each level of log_min_messages at which it can be: its
# error has to be written to the log.  What the server itself adds stays in the
# log, beside what lockguard adds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
lockguard.max_actions_per_minute = 1000
log_error_verbosity = default
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $version = $observer->value('SHOW server_version_num');
my $worker = worker_pid($observer);

# From debug5 to error both errors are written; "log" and "fatal" leave out the
# one of a cancel, panic both.
my %told = map { $_ => 'both' }
  qw(debug5 debug4 debug3 debug2 debug1 info notice warning error);
$told{log} = $told{fatal} = 'terminated';
$told{panic} = 'none';

# Since 19 each kind of process has a level of its own.
if ($version >= 190000)
{
	$told{'panic, backend:error'} = 'both';
	$told{'fatal, bgworker:debug1, backend:warning'} = 'both';
	$told{'backend:fatal, warning'} = 'terminated';
	$told{'warning, backend:panic'} = 'none';
}

# A command that is refused after a rollback is like a cancelled one; but not COMMIT,
# whose error is lockguard's own: it says so at each level.

# What the log says of a session's error: its DETAIL.  It is written before the
# client is told.
sub detail_in_log
{
	my ($session, $message) = @_;
	my $pid = $session->pid;
	my ($detail) = slurp_file($node->logfile) =~
	  /\[$pid\][^\n]*(?:FATAL|ERROR):  \Q$message\E\n[^\n]*\[$pid\][^\n]* DETAIL:  ([^\n]*)/;

	return defined $detail ? $detail : 'none';
}

sub is_in_log
{
	my ($session, $message, $server) = @_;
	my $detail = detail_in_log($session, $message);
	my $client = $session->error->{D} || 'none';

	return is($detail, $server ? "$client  $server" : $client, $session->name . ': the log has all of it');
}

# That it was signalled is the first that is recorded of it.  The worker may find
# it over the limit once more while it goes.
sub is_removed
{
	my ($session, $expected) = @_;
	my $first;

	wait_until(
		sub {
			($first) = recorded($observer, $session);
			return defined $first && $first eq $expected;
		});
	return is($first, $expected, $session->name . ': recorded as it was');
}

# Neither gets a text; the error is the server's own.
sub is_not_told
{
	my ($session, $sqlstate) = @_;
	my $error = $session->error || {};

	is($error->{C}, $sqlstate, $session->name . ' gets the error');
	ok(!defined $error->{D} && !defined $error->{H}, $session->name . ' is not told why, as documented');
	return;
}

my @victims;
foreach my $level (sort keys %told)
{
	my $idle = session($node, "idle at $level", idle_in_transaction_timeout => '100ms');
	my $busy = session($node, "busy at $level", statement_timeout => '100ms');

	$_->query_ok("SET log_min_messages = '$level'") foreach $idle, $busy;
	push @victims, [ $level, $idle, $busy ];
}
foreach my $victim (@victims)
{
	my ($level, $idle, $busy) = @$victim;

	$idle->query_ok('BEGIN');
	$busy->start('SELECT pg_sleep(600)');
}
foreach my $victim (@victims)
{
	my ($level, $idle, $busy) = @$victim;

	if ($told{$level} eq 'none')
	{
		$idle->wait_closed;
		is_not_told($idle, '57P01');
	}
	else
	{
		is_terminated($idle, 'idle_in_transaction_timeout');
		unlike($idle->error->{D}, qr/Signal sent/, "$level: the client is not told who has sent the signal");
		is_in_log($idle, 'terminating connection due to administrator command',
			$version >= 190000 ? "Signal sent by PID $worker, UID $>." : undef);
	}
	if ($told{$level} ne 'both')
	{
		$busy->finish;
		is_not_told($busy, '57014');
	}
	else
	{
		is_cancelled($busy, 'statement_timeout');
		is_in_log($busy, 'canceling statement due to user request', undef);
	}
	is_removed($idle, 'idle_in_transaction_timeout terminate released');
	is_removed($busy, 'statement_timeout cancel released');
}

# A transaction that is rolled back.
foreach my $level (sort keys %told)
{
	my $session = session($node, "rolled back at $level", transaction_timeout => '100ms');

	$session->query_ok("SET log_min_messages = '$level'");
	$session->query_ok('BEGIN');
	is_removed($session, 'transaction_timeout rollback released');
	$session->query('SELECT 1');
	if ($told{$level} ne 'both')
	{
		is_not_told($session, '25P02');
	}
	else
	{
		is($session->error->{C}, '25P02', "$level: a command is refused");
		like($session->error->{D}, qr/^lockguard: the transaction was rolled back: .*\blockguard\.transaction_timeout is 100ms /, 'with the reason');
		like($session->error->{H}, qr/^Issue ROLLBACK and run the transaction again\.  \S/, 'and what to do');
		is_in_log($session, 'current transaction is aborted, commands ignored until end of transaction block', undef);
	}
	is_rolled_back(undef, $session, 'transaction_timeout');
	is_in_log($session, 'transaction was rolled back because it was over lockguard.transaction_timeout', undef)
	  if $told{$level} eq 'both';
	$session->query_ok("SET log_min_messages = 'warning'");
	$session->query('SELECT 1/0');
	ok(!defined $session->error->{D}, 'what comes after that is not explained by it');
	$session->close;
}

# By hand: as told by a session, not by the worker.
{
	my ($holder) = blocked_pair($observer, 'by hand', 1);
	my $pid = $observer->pid;
	my ($waiter) = map { $_->[0] }
	  $observer->rows("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");

	$observer->query_ok("SELECT lockguard.terminate_blockers($waiter)");
	$holder->wait_closed;
	like($holder->error->{D}, qr/^lockguard: .*process $pid asked for this\.$/, 'by hand: told who asked');
	is_in_log($holder, 'terminating connection due to administrator command',
		$version >= 190000 ? "Signal sent by PID $pid, UID $>." : undef);
}

# Another's signal is not explained, whatever lockguard has to say of others.
{
	my $stranger = session($node, 'stranger');
	my $pid = $stranger->pid;

	$observer->query_ok("SELECT pg_terminate_backend($pid)");
	$stranger->wait_closed;
	ok(!defined $stranger->error->{D}, 'terminated by another: no DETAIL');
	unlike(slurp_file($node->logfile), qr/\[$pid\][^\n]*DETAIL:  lockguard/, 'and none of lockguard in the log');
}

$observer->close;
$node->stop;
done_testing();
