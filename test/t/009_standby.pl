# A hot standby is guarded, too, and promotion does not stop that.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = lockguard_node('primary',
	streaming => 1,
	conf => "max_prepared_transactions = 5\n");
create_t($primary);
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'max_standby_streaming_delay = -1');
$standby->start;

my $on_primary = LockguardTest::Session->new($primary, 'on the primary');
my $observer = LockguardTest::Session->new($standby, 'observer');
is($observer->value('SELECT pg_is_in_recovery()'), 't', 'a hot standby');
ok($observer->poll('SELECT worker_pid IS NOT NULL FROM lockguard.stats'), 'with a worker');
my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');

# Its own sessions.
my ($s, $w) = blocked_pair($observer, 'on the standby', 1, idle_blocker_timeout => '200ms');
is_rolled_back($observer, $s, 'idle_blocker_timeout');
succeeds($w, 'the waiter');
is_recorded($observer, $s, 'idle_blocker_timeout rollback released');
$w->close;

# A lock request lets others pass.
my ($shared, $exclusive) = (session($standby, 'shared'), session($standby, 'exclusive', queue_yield_timeout => '100ms'));
$shared->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock_shared(9)';
$exclusive->start('SELECT pg_advisory_xact_lock(9)');
begins_to_wait($observer, $exclusive);
$observer->query_ok('SELECT pg_advisory_xact_lock_shared(9)') foreach 1 .. 3;
ok($exclusive->{busy}, 'others have passed');
$shared->query_ok('COMMIT');
succeeds($exclusive);
is_recorded($observer, $exclusive, 'queue_yield_timeout yield released');
$_->close foreach $shared, $exclusive;

# A snapshot that keeps the primary's vacuum from being replayed; the twin's
# statements are short.
my @snapshots = map { session($standby, $_, max_xmin_age => 100) } 'old snapshot', 'twin';
$_->query_ok('BEGIN ISOLATION LEVEL ' . ($_ == $snapshots[0] ? 'REPEATABLE READ' : 'READ COMMITTED')) foreach @snapshots;
$_->query_ok('SELECT count(*) FROM t') foreach @snapshots;
scan($observer);
$on_primary->query_ok('DO $$ BEGIN FOR i IN 1..150 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
$primary->wait_for_catchup($standby);
is_rolled_back($observer, $snapshots[0], 'max_xmin_age');
is_recorded($observer, $snapshots[0], 'max_xmin_age rollback released');
is_untouched($observer, $snapshots[1], 'T');
$snapshots[1]->close;

# What is old when the standby is promoted is seen to then.
$on_primary->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1', "PREPARE TRANSACTION 'the gid'";
$primary->wait_for_catchup($standby);
configure($observer, prepared_transaction_timeout => '200ms', prepared_transaction_action => 'rollback');
scan($observer);
is($observer->value('SELECT count(*) FROM lockguard.actions WHERE gid IS NOT NULL'), '0',
	'a prepared transaction is left to the primary');
my $blocker = holder($standby, 'through the promotion', 2);
my $behind = waiter($observer, 'behind it', 2);
$standby->promote;
ok($observer->poll('SELECT pg_is_in_recovery()', 'f'), 'promoted');
ok($observer->poll("SELECT result FROM lockguard.actions WHERE gid = 'the gid'", 'released'), 'now it is rolled back');
is($observer->value('SELECT v FROM t WHERE id = 1'), '0', 'its update is gone');
is($observer->value('SELECT worker_pid FROM lockguard.stats'), $worker, 'the worker is the same');
configure($observer, idle_blocker_timeout => '200ms');
is_rolled_back($observer, $blocker, 'idle_blocker_timeout');
succeeds($behind, 'the waiter');
my ($s2, $w2) = (session($standby, 'writer'), session($standby, 'behind the writer'));
$s2->query_ok('BEGIN');
$s2->query_ok('UPDATE t SET v = 2 WHERE id = 2');
$w2->start('UPDATE t SET v = 3 WHERE id = 2');
is_rolled_back($observer, $s2, 'idle_blocker_timeout');
succeeds($w2, 'UPDATE');

$standby->stop;
$primary->stop;
done_testing();
