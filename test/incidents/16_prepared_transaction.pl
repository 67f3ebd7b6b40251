# Orphaned prepared transaction: no client is left to finish it, and
# there is no session to signal.
#
# Outcome: the prepared transaction is rolled back, in its own database.
# Negative twin: its limit only logs unless told to roll back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', conf => 'max_prepared_transactions = 5');
create_t($node);
# Not the observer's database: the rollback has to be done in its own.
$node->safe_psql('postgres', 'CREATE DATABASE shop TEMPLATE postgres');
my $observer = LockguardTest::Session->new($node, 'observer');
my ($s1, $s2, $s3) =
  map { LockguardTest::Session->new($node, "S$_", dbname => 'shop') } 1 .. 3;

$s1->query_ok($_)
  foreach 'BEGIN', 'UPDATE t SET v = 2 WHERE id = 2',
  "PREPARE TRANSACTION 'o'";
$s1->close;
$s2->start('UPDATE t SET v = v + 1 WHERE id = 2');
is_blocked_by($observer, $s2, 0);
$s3->start('ALTER TABLE t ADD c int');
is_blocked_by($observer, $s3, 0, $s2);
is( $observer->value(
		'SELECT DISTINCT gid FROM lockguard.lock_tree WHERE root_pid = 0 AND level = 0'
	),
	'o',
	'the prepared transaction is the root of the tree');
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

# Neither the prepared transaction nor who waits for it can be the victim of a
# limit on blockers.
configure($observer,
	map { $_ => '500ms' }
	  qw(idle_blocker_timeout blocker_timeout queued_blocker_timeout));
ok( $observer->poll(
		'SELECT count(*) > 0 FROM lockguard.actions'
		  . " WHERE gid = 'o' AND result = 'protected'"),
	'the prepared transaction is recorded as protected');
scan($observer);
is_blocked_by($observer, $s2, 0);
is_deeply(
	[ grep { $_->{action} ne 'log' } actions($observer) ],
	[], 'no session is signalled');
ok( $observer->poll(
		"SELECT count(*) = 1 FROM lockguard.actions WHERE result = 'logged'"
		  . " AND reason = 'removing it would not unblock any session' AND pid = " . $s2->pid),
	'the one in the middle would be removed in vain');

# Its own limit only logs, unless it is told to roll back.
configure($observer, prepared_transaction_timeout => '500ms');
ok( $observer->poll(
		'SELECT count(*) > 0 FROM lockguard.actions'
		  . " WHERE gid = 'o' AND result = 'logged'"),
	'the prepared transaction is recorded as too old');
scan($observer);
is_deeply(
	[
		map { [ @$_{qw(gid limit_name limit_value action result)} ] }
		grep { $_->{gid} && $_->{result} ne 'protected' } actions($observer)
	],
	[ [ 'o', 'prepared_transaction_timeout', '500ms', 'log', 'logged' ] ],
	'once');
is($observer->value('SELECT gid FROM pg_prepared_xacts'),
	'o', 'the prepared transaction is still there');

forget_actions($observer);
configure($observer, prepared_transaction_action => 'rollback');
succeeds($s2, 'UPDATE');
succeeds($s3, 'ALTER TABLE');
is($observer->value('SELECT count(*) FROM pg_prepared_xacts'),
	0, 'the prepared transaction is gone');
is($s2->value('SELECT v FROM t WHERE id = 2'),
	1, 'the write is there, and nothing of S1');
is_actions(
	$observer,
	[
		{
			pid => 0,
			gid => 'o',
			limit_name => 'prepared_transaction_timeout',
			limit_value => '500ms',
			action => 'rollback',
			result => 'released',
			blocked => [ $s2, $s3 ]
		}
	]);

is_foretold($observer, map { $_ => '500ms' } qw(idle_blocker_timeout blocker_timeout queued_blocker_timeout));
$node->stop;
done_testing();
