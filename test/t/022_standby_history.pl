# A hot standby keeps a history of its own, also over its restart and its
# promotion.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $conf = <<'CONF';
lockguard.incident_threshold = '100ms'
lockguard.naptime = '50ms'
CONF
my $primary = lockguard_node('primary', streaming => 1, conf => $conf);
create_t($primary);
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'max_standby_streaming_delay = -1');
$standby->start;
$primary->wait_for_catchup($standby);

my $count = 'SELECT count(*) FROM lockguard.incidents';
my $observer = LockguardTest::Session->new($standby, 'observer');
my $startup = $observer->value(
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'");
my $writer = LockguardTest::Session->new($primary, 'writer');
my ($r1, $r2) = map { LockguardTest::Session->new($standby, "R$_") } 1 .. 2;

sub is_open
{
	my ($pid, $blocked, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(
		$observer->poll(
			"$count WHERE root_pid = $pid AND status = 'open' AND peak_blocked_sessions = $blocked",
			1),
		$what);
}

# The reader blocks the replay, and the replay other readers.
$r1->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
$writer->query_ok('ALTER TABLE t ADD c int');
is_waiting_startup();
$r2->start('SELECT c FROM t WHERE id = 1');
is_blocked_by($observer, $r2, $startup);
is_open($r1->pid, 2, 'an incident of the reader');
like(
	$observer->value(
		'SELECT lock_tree FROM lockguard.incidents WHERE root_pid = ' . $r1->pid),
	qr/^${\$r1->pid} [^\n]*\n  -> $startup startup(?: process)?[^\n]* waits [^\n]*\n    -> ${\$r2->pid} /,
	'with the startup process in its tree');
$r1->query_ok('COMMIT');
succeeds($r2, 'SELECT of the new column');
ok($observer->poll("$count WHERE status = 'open'", 0), 'it is over');

sub is_waiting_startup
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(
		$observer->poll(
			"SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $startup)"
		),
		'the startup process waits');
}

# The startup process is the root itself.
$writer->query_ok($_) foreach 'BEGIN', 'LOCK TABLE t';
$primary->safe_psql('postgres', 'CREATE TABLE flush_the_log ()');
ok( $observer->poll(
		"SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND pid = $startup"
		  . " AND relation = 't'::regclass)"),
	'the startup process holds the lock');
$r2->start('SELECT count(*) FROM t');
is_open($startup, 1, 'an incident of the startup process');
is( $observer->value(
		"SELECT backend_type FROM lockguard.incidents WHERE root_pid = $startup"),
	'startup', 'which is named as such');
$writer->query_ok('COMMIT');
succeeds($r2, 'SELECT');
ok($observer->poll("$count WHERE status = 'open'", 0), 'it is over');
is( $observer->value(
		"SELECT resolution FROM lockguard.incidents WHERE root_pid = $startup"),
	'released', 'it has released its locks');
like(
	$observer->value(
		"SELECT lockguard.report(incident_id) FROM lockguard.incidents WHERE root_pid = $startup"
	),
	qr/process $startup \(startup(?: process)?\) blocked up to 1 session/,
	'there is a report of it');

# Each server has its own.
is($observer->value($count), 2, 'two incidents on the standby');
is($primary->safe_psql('postgres', $count), 0, 'none on the primary');
my $all = 'SELECT string_agg(i::text, \'/\' ORDER BY incident_id) FROM lockguard.incidents i';
my $before = $observer->value($all);
$standby->restart;
$observer = LockguardTest::Session->new($standby, 'observer');
is($observer->value($all), $before, 'the standby keeps them over its restart');
$standby->promote;
ok($observer->poll('SELECT NOT pg_is_in_recovery()'), 'the standby is promoted');
is($observer->value($all), $before, 'and still has them');

$standby->stop;
$primary->stop;
done_testing();
