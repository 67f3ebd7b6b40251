# What a session leaves behind when it ends has no effect: the worker looks as
# often as the limits of those that are there want.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

# Sessions that have a limit are there for a moment only.  A statement under
# way keeps the worker from dozing, so that it looks each tenth of the smallest
# limit.
my $node = lockguard_node('main', conf => <<'CONF');
lockguard.naptime = '200ms'
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
$observer->query_ok($_) foreach 'CREATE ROLE app LOGIN SUPERUSER', 'CREATE DATABASE limited',
  "ALTER ROLE app SET lockguard.blocker_timeout = '10ms'",
  "ALTER DATABASE limited SET lockguard.lock_wait_timeout = '10ms'",
  "CREATE ROLE timed LOGIN", "ALTER ROLE timed SET lockguard.statement_timeout = '10ms'",
  "CREATE ROLE counted LOGIN", "ALTER ROLE counted SET lockguard.max_locks = 1000000";
my $busy = session($node, 'busy');
$busy->start('SELECT pg_sleep(600)');

# Scans a second, over two of them.
sub pace
{
	my $count = 'SELECT scans FROM lockguard.stats';
	my ($before, $start) = ($observer->value($count), time());

	usleep(2_000_000);
	return ($observer->value($count) - $before) / (time() - $start);
}

my $quiet = pace();
note "$quiet scans a second";
cmp_ok($quiet, '<', 30, 'with no limit, the worker scans once per naptime');

my %how = (
	'a limit set in the session' => sub { session($node, 'set', blocker_timeout => '10ms'); },
	'a limit of its role' => sub { session($node, 'role', user => 'app'); },
	'a limit of its database' => sub { session($node, 'database', dbname => 'limited'); },
	'a limit on ages' => sub { session($node, 'ages', user => 'timed'); });
foreach my $what (sort keys %how)
{
	my $session = $how{$what}->();

	ok(wait_until(sub { pace() > 3 * $quiet }), "$what: the worker scans more often") || diag pace();
	$session->close;
	ok($observer->poll('SELECT count(*) FROM pg_stat_activity WHERE pid = ' . $session->pid, '0'), 'the session ends');
	my $after = pace();
	cmp_ok($after, '<', 2 * $quiet + 5, 'and the worker scans as often as before');

	# Also after many, and of those that do not say goodbye.
	foreach my $i (1 .. 20)
	{
		my $one = $how{$what}->();
		$one->close(silent => $i % 2);
	}
	ok($observer->poll("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'", '2'), 'all are gone');
	cmp_ok(pace(), '<', 2 * $quiet + 5, 'as it does after many of them');
}

# One that is terminated, and one whose value is lifted.
{
	my $session = session($node, 'terminated', blocker_timeout => '10ms');

	ok(wait_until(sub { pace() > 3 * $quiet }), 'the worker scans more often');
	$observer->query_ok('SELECT pg_terminate_backend(' . $session->pid . ')');
	$session->wait_closed;
	ok(wait_until(sub { pace() < 2 * $quiet + 5 }), 'no more once it is terminated');
	$session = session($node, 'lifted', blocker_timeout => '10ms');
	ok(wait_until(sub { pace() > 3 * $quiet }), 'the worker scans more often');
	$session->query_ok('RESET lockguard.blocker_timeout');
	ok(wait_until(sub { pace() < 2 * $quiet + 5 }), 'no more once its limit is lifted');
	$session->close;
}

# A limit that no session has had before is found also if it comes with a login.
{
	my $idle = session($node, 'idle');

	$idle->query_ok('BEGIN');
	$observer->query_ok("ALTER ROLE counted SET lockguard.idle_in_transaction_timeout = '300ms'");
	my $counted = session($node, 'counted', user => 'counted');
	$counted->query_ok('BEGIN');
	is_terminated($counted, 'idle_in_transaction_timeout');
	is_alive($idle, 'T');
}

# A parallel worker has its leader's values, and is judged as its leader.
{
	$observer->query_ok('CREATE TABLE big AS SELECT i FROM generate_series(1, 100000) i');
	$observer->query_ok('ALTER TABLE big SET (parallel_workers = 2)');
	my $leader = session($node, 'leader', statement_timeout => '1h');

	$leader->query_ok("SET $_") foreach 'min_parallel_table_scan_size = 0', 'parallel_setup_cost = 0',
	  'parallel_tuple_cost = 0';
	$leader->query_ok('SELECT count(*) FROM big') foreach 1 .. 5;
	is(limits($observer, $leader, 'statement_timeout'), '1h session', 'the leader has its limit still');
	$leader->close;
	cmp_ok(pace(), '<', 2 * $quiet + 5, 'and its workers leave nothing behind');
}

$node->stop;
done_testing();
