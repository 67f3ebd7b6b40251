# DDL convoy behind a healthy reader or a dump: the reader does its work, and
# it is the migration in the queue that keeps all others out.
#
# Outcome: the migration that waits is cancelled, the reader is not.
# Negative twin: a dump that stands still.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
create_t($node);
# More than fits into the buffers between the server and a dump.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE big AS SELECT i AS id, repeat('x', 1000) AS c FROM generate_series(1, 20000) i;
CREATE ROLE migrator SUPERUSER LOGIN;
ALTER ROLE migrator IN DATABASE postgres SET lockguard.queued_blocker_timeout = '500ms';
SQL
my $observer = LockguardTest::Session->new($node, 'observer');

# The migration queues behind the reader of a table, others behind it.
sub convoy
{
	my ($reader, $table) = @_;
	my $migration =
	  LockguardTest::Session->new($node, 'S2', user => 'migrator');
	my @readers = map { LockguardTest::Session->new($node, "S$_") } 3 .. 5;

	$migration->start("ALTER TABLE $table ADD d int");
	is_blocked_by($observer, $migration, $reader);
	foreach my $session (@readers)
	{
		$session->start("SELECT count(*) FROM $table");
		is_blocked_by($observer, $session, $migration);
	}
	scan($observer);
	is_actions($observer, [], 'without lockguard nothing is done');

	my $offset = -s $node->logfile;
	configure($observer, enabled => 'on');
	is_cancelled($migration, 'queued_blocker_timeout');
	succeeds($_, 'SELECT') foreach @readers;
	is_alive($migration, 'I');
	$node->wait_for_log(qr/blocking 3 sessions for (?!0 ms)\d/, $offset);
	pass('the log says for how long it blocked');
	is_actions(
		$observer,
		[
			{
				pid => $migration,
				limit_name => 'queued_blocker_timeout',
				limit_value => '500ms',
				limit_source => 'role in database',
				action => 'cancel',
				result => 'released',
				blocked => \@readers
			}
		]);
	return;
}

configure($observer, enabled => 'off');
my $s1 = LockguardTest::Session->new($node, 'S1');
$s1->query_ok($_)
  foreach 'BEGIN ISOLATION LEVEL REPEATABLE READ',
  'LOCK TABLE t IN ACCESS SHARE MODE';
$s1->start('SELECT pg_sleep(600)');
convoy($s1, 't');
scan($observer);
is($observer->value('SELECT pg_cancel_backend(' . $s1->pid . ')'),
	't', 'S1 is still there');
is($s1->finish->{error}{C}, '57014', 'S1 has gone on until we end it');
is($s1->error->{D}, undef, 'lockguard claims no cancel that is not its own');
is_actions($observer, [], 'no other session was signalled');

# The same with a real dump, which stands still as long as its output is not read.
configure($observer, enabled => 'off');
my $dump = start_pg_dump($node, 'big');
ok( $observer->poll(
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'pg_dump'"
		  . " AND wait_event = 'ClientWrite'"),
	'pg_dump is under way');
convoy(
	$observer->value(
		"SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_dump'"
	),
	'big');
my $lines = grep { /^\d+\tx+$/ } <$dump>;
ok(close $dump, 'pg_dump succeeds');
is($lines, 20000, 'pg_dump has dumped every row');
is_actions($observer, [], 'no other session was signalled');

is_foretold($observer);
$node->stop;
done_testing();
