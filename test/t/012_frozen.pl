# A server that has stood still, as a virtual machine or a container does, for
# longer than the limits are: that time counts towards no limit.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'needs /proc' unless -r "/proc/$$/status";

my $node = lockguard_node('main', conf => <<'CONF');
lockguard.incident_threshold = '500ms'
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

# The server's processes, the worker first.
sub processes
{
	my $worker = worker_pid($observer);
	# A process may end while it is looked at.
	my @all = grep { (eval { slurp_file("/proc/$_/status") } || '') =~ /^PPid:\s+$postmaster$/m }
	  map { m{/(\d+)$} } glob '/proc/[0-9]*';

	return ($worker, $postmaster, grep { $_ != $worker } @all);
}

# All of it stands still for so many seconds; what $meanwhile does, happens
# then.  The worker is continued first, a moment before the others.
sub freeze
{
	my ($seconds, $meanwhile) = @_;
	my ($worker, @others) = processes();
	my $offset = -s $node->logfile;

	kill 'STOP', $worker, @others;
	$meanwhile->() if $meanwhile;
	usleep($seconds * 1_000_000);
	kill 'CONT', $worker;
	usleep(100_000);
	kill 'CONT', @others;
	$node->wait_for_log(qr/lockguard: the worker was not run for [\d.]+ s/, $offset);
	return;
}

# Everything that has a clock: not yet over its limit, but for the freeze.
my ($idle, $idle_waiter) = blocked_pair($observer, 'idle', 1, idle_blocker_timeout => '3s');
my $commit = session($node, 'commit', idle_blocker_timeout => '3s', idle_in_transaction_timeout => '3s',
	transaction_timeout => '4s');
$commit->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
my $behind = session($node, 'behind commit', lock_wait_timeout => '3s');
$behind->start('UPDATE t SET v = 2 WHERE id = 1');
is_waiting($observer, $behind);
my $statement = session($node, 'statement', statement_timeout => '5s');
$statement->start('SELECT pg_sleep(2)');

# The worker has seen all of them, and an incident has begun.
ok($observer->poll('SELECT count(*) FROM lockguard.incidents', '2'), 'incidents have begun');
my $started = $observer->value('SELECT string_agg(started_at::text, $$ $$ ORDER BY incident_id) FROM lockguard.incidents');

# A client's COMMIT is on its way.
freeze(5, sub { $commit->start('COMMIT'); });
succeeds($commit, 'the COMMIT that was on its way');
succeeds($behind, 'the update behind it');
succeeds($statement, 'a statement');
is_untouched($observer, $commit, 'I');
is_deeply([ recorded($observer, $_) ], [], $_->name . ' is innocent') foreach $behind, $statement;
is($observer->value('SELECT string_agg(started_at::text, $$ $$ ORDER BY incident_id) FROM lockguard.incidents'),
	$started, 'the incidents began when they began');

# Clocks continue where they stood.
is_rolled_back($observer, $idle, 'idle_blocker_timeout');
succeeds($idle_waiter, 'the waiter');
is_recorded($observer, $idle, 'idle_blocker_timeout rollback released');
my $waited = $observer->value("SELECT extract(epoch FROM longest_wait) FROM lockguard.actions WHERE pid = " . $idle->pid);
cmp_ok($waited, '>=', 3, 'it had its three seconds');
cmp_ok($waited, '<', 6, 'less those that the server stood still');

# What had not been looked at before counts from now on.
my $unseen = session($node, 'unseen');
$unseen->query_ok('BEGIN');
freeze(3, sub { });
configure($observer, idle_in_transaction_timeout => '2s');
my $value = $observer->value("SELECT count(*) FROM lockguard.actions WHERE pid = " . $unseen->pid);
is($value, '0', 'a session that was idle meanwhile is not over a limit at once');
is_terminated($unseen, 'idle_in_transaction_timeout');

# Whenever it begins: also while the worker sleeps until the limit is passed.
foreach my $phase (0.2, 0.8, 1.4, 1.8)
{
	my $late = session($node, "frozen after $phase s");

	$late->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 2';
	usleep($phase * 1_000_000);
	freeze(3, sub { $late->start('COMMIT'); });
	succeeds($late, 'the COMMIT that was on its way');
	is_untouched($observer, $late, 'I');
	$late->close;
}

# A short gap is none: a busy machine has those.
configure($observer, idle_in_transaction_timeout => undef);
my $offset = -s $node->logfile;
my ($worker) = processes();
kill 'STOP', $worker;
usleep(400_000);
kill 'CONT', $worker;
guards($observer, 'after a short gap');
is(count_in_log($node, $offset, 'was not run for'), 0, 'the worker was run often enough');

$node->stop;
log_is_sound($node);
done_testing();
