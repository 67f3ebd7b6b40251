# Replay blocks readers of a hot standby, and waits itself, but for no
# lock: the tree says for what, and since when; the report, what can be done.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = lockguard_node('primary', streaming => 1);
create_t($primary);
$primary->safe_psql('postgres', 'CREATE TABLE u AS SELECT i FROM generate_series(1, 1000) i; CREATE ROLE app LOGIN; GRANT SELECT ON u TO app');
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', <<'CONF');
max_standby_streaming_delay = -1
hot_standby_feedback = off
lockguard.incident_threshold = '200ms'
CONF
$standby->start;
$primary->wait_for_catchup($standby);

my $observer = LockguardTest::Session->new($standby, 'observer');
my $app = LockguardTest::Session->new($standby, 'app', user => 'app');
my $writer = LockguardTest::Session->new($primary, 'writer');
my $startup = $observer->value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'");

# A reader behind replay, and the report on that once it is a thing of the past.
sub in_the_way
{
	my ($what) = @_;
	my $reader = LockguardTest::Session->new($standby, 'reader')->start('SELECT count(*) FROM t');

	is_blocked_by($observer, $reader, $startup);
	ok($observer->poll("SELECT EXISTS (SELECT FROM lockguard.incidents WHERE root_pid = $startup AND status = 'open')"), "$what: an incident");
	return $reader;
}

sub report
{
	my ($who) = @_;
	return ($who || $observer)->value('SELECT lockguard.report(max(incident_id)) FROM lockguard.incidents');
}

# Of a transaction on the primary that is still open.
$writer->query_ok($_) foreach 'BEGIN', 'LOCK TABLE t';
$primary->safe_psql('postgres', 'CREATE TABLE flush_the_log ()');
ok($observer->poll("SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND pid = $startup AND relation = 't'::regclass)"), 'replay holds a lock');
my $reader = in_the_way('of a transaction');
my ($tree) = $observer->rows('SELECT lockguard.tree()');
like($tree->[0], qr/^$startup startup process, active( \(\w+: Recovery\w+\))?, blocking 1 session for /, 'the tree says what it is');
is((scalar grep { /startup|Recovery/ } map { $_->[0] } $app->rows('SELECT lockguard.tree()')), 0, 'not to all users');
ok($observer->poll(q(SELECT EXISTS (SELECT FROM lockguard.tree() t WHERE t ~ 'startup process.* for \d+\.\d s$'))), 'and since when it has blocked');
is($observer->value("SELECT clock_timestamp() - blocking_since > '500 ms' FROM lockguard.sessions WHERE pid = $startup"), 't', 'the view as well');
unlike(report(), qr/would have ended this/, 'no limit would have ended it');
like(report(), qr/^- Nothing was signalled\. No limit would have removed the root: the root was the startup process/m, 'which the report says');
like(report(), qr/^- It held the locks of a transaction on the primary/m, 'and where to look');

$writer->query_ok('COMMIT');
succeeds($reader, 'the reader');

# It waits for a snapshot, too.
my $old = LockguardTest::Session->new($standby, 'old snapshot');
$old->query_ok($_) foreach 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT count(*) FROM u';
$primary->safe_psql('postgres', 'DELETE FROM u');
$writer->query_ok($_) foreach 'BEGIN', 'LOCK TABLE t';
$primary->safe_psql('postgres', 'VACUUM u');
my $event = qr/active \(IPC: RecoveryConflictSnapshot\)/;
ok($observer->poll("SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND pid = $startup AND relation = 't'::regclass)"), 'replay holds a lock');
$reader = in_the_way('of a snapshot');
ok($observer->poll(q{SELECT EXISTS (SELECT FROM lockguard.tree() t WHERE t ~ 'startup process, active \(IPC: RecoveryConflictSnapshot\), blocking 1 session for ')}),
	'the tree says that it waits for a snapshot');

# One more reader: the incident keeps what it is now.
my $reader2 = LockguardTest::Session->new($standby, 'another')->start('SELECT count(*) FROM t');
ok($observer->poll("SELECT peak_blocked_sessions FROM lockguard.incidents WHERE root_pid = $startup AND status = 'open'", 2), 'another reader');
my $kept = $observer->value('SELECT lock_tree FROM lockguard.incidents WHERE status = \'open\'');
like($kept, qr/^$startup startup process, $event, blocking 2 sessions for \d+(?:\.\d s| ms)\n/, 'the incident keeps that');
is($app->value('SELECT lock_tree FROM lockguard.incidents WHERE status = \'open\'') =~ /startup|Recovery/, '', 'not for all users');
like(report(), qr/^- Replay waited for sessions on this standby: see `max_standby_streaming_delay`/m, 'the report says what to do');
like(report($app), qr/^- A member of `pg_read_all_stats` can see/m, 'to those who may see it');
unlike(report($app), qr/startup|Recovery/, 'and not what it is to others');

# By hand it is not reached, but the way out is named.
is($observer->value('SELECT lockguard.terminate_blockers(' . $reader->pid . ')'), '{}', 'not even by hand');
like($observer->{result}{notices}[0]{H}, qr/^It holds the locks of a transaction on the primary: end that transaction\. /, 'the way out');

$old->query_ok('COMMIT');
$writer->query_ok('COMMIT');
succeeds($_, 'the reader') foreach $reader, $reader2;

# Of a prepared transaction there is the same to be known.
$standby->stop;
$primary->append_conf('postgresql.conf', "max_prepared_transactions = 5\nlockguard.incident_threshold = '200ms'\n");
$writer->close;
$primary->restart;
$observer = LockguardTest::Session->new($primary, 'observer');
$writer = LockguardTest::Session->new($primary, 'writer');
$writer->query_ok($_) foreach 'BEGIN', 'LOCK TABLE t', "PREPARE TRANSACTION 'the gid'";
$writer->start('SELECT count(*) FROM t');
is_waiting($observer, $writer);
ok($observer->poll(q(SELECT EXISTS (SELECT FROM lockguard.tree() t WHERE t ~ 'prepared transaction "the gid", blocking 1 session for \d+\.\d s$'))),
	'since when a prepared transaction has blocked');
$observer->query_ok("ROLLBACK PREPARED 'the gid'");
succeeds($writer, 'the reader');

$primary->stop;
done_testing();
