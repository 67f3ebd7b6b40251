# Hot standby: the replay of an ALTER TABLE waits for an idle reader, and every
# other reader for the replay.
#
# Outcome: the idle reader's transaction is rolled back on the standby, and replay
# continues.
# Negative twin: the startup process itself blocks.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = lockguard_node('primary', streaming => 1);
create_t($primary);
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'max_standby_streaming_delay = -1');
$standby->start;
$primary->wait_for_catchup($standby);

my $observer = LockguardTest::Session->new($standby, 'observer');
my $writer = LockguardTest::Session->new($primary, 'writer');
my ($r1, $r2) = map { LockguardTest::Session->new($standby, "R$_") } 1 .. 2;
my $startup = $observer->value(
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'");
my $startup_waits =
  "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $startup)";

$r1->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
$writer->query_ok('ALTER TABLE t ADD c int');
ok($observer->poll($startup_waits), 'the startup process waits');
$r2->start('SELECT c FROM t WHERE id = 1');
is_blocked_by($observer, $r2, $startup);
is_root_of($observer, $r1, $startup, $r2);
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

configure($observer, idle_blocker_timeout => '500ms');
is_rolled_back($observer, $r1, 'idle_blocker_timeout');
succeeds($r2, 'SELECT of the new column');
is_actions(
	$observer,
	[
		{
			pid => $r1,
			state => 'idle in transaction',
			limit_name => 'idle_blocker_timeout',
			limit_value => '500ms',
			limit_source => 'configuration',
			action => 'rollback',
			result => 'released',
			blocked => [ $startup, $r2 ]
		}
	]);
is($primary->safe_psql('postgres', 'SELECT count(*) FROM lockguard.actions'),
	0, 'the primary has nothing to do with it');

# Negative twin: the startup process itself blocks, for as long as a
# transaction of the primary is open.
configure($observer, blocker_timeout => '500ms');
$writer->query_ok($_) foreach 'BEGIN', 'LOCK TABLE t';
$primary->safe_psql('postgres', 'CREATE TABLE flush_the_log ()');
ok( $observer->poll(
		"SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND pid = $startup"
		  . " AND relation = 't'::regclass)"),
	'the startup process holds the lock');
$r2->start('SELECT count(*) FROM t');
is_blocked_by($observer, $r2, $startup);
ok( $observer->poll(
		'SELECT count(*) > 0 FROM lockguard.actions'
		  . " WHERE pid = $startup AND result = 'protected'"),
	'the startup process is recorded as protected');
scan($observer);
is_actions(
	$observer,
	[
		{
			pid => $startup,
			limit_name => 'blocker_timeout',
			result => 'protected',
			blocked => [$r2]
		}
	],
	'and no session is signalled');
$writer->query_ok('COMMIT');
succeeds($r2, 'SELECT');

$writer->query_ok('CREATE TABLE later ()');
$primary->wait_for_catchup($standby);
is($observer->value("SELECT 'later'::regclass"), 'later', 'replay continues');

is_foretold($observer);
$standby->stop;
$primary->stop;
done_testing();
