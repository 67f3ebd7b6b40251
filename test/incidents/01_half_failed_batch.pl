# Half-failed migration batch: a statement of the batch fails, the client
# leaves the transaction open, and every write to its rows waits for it.
#
# Outcome: the session that is idle in its failed transaction has it rolled back, and
# keeps its connection.
# Negative twin: the error has released all locks.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');

my $s1 = LockguardTest::Session->new($node, 'S1');
$s1->query_ok($_)
  foreach 'BEGIN',
  'INSERT INTO t SELECT i, 0 FROM generate_series(10001, 20000) i',
  'UPDATE t SET v = 1 WHERE id = 1', 'SAVEPOINT s';
is($s1->query('SELECT 1/0')->{error}{C}, '22012', 'the batch fails half-way');

my @writers;
foreach my $i (2 .. 20)
{
	my $writer = LockguardTest::Session->new($node, "S$i");
	$writer->start('UPDATE t SET v = v + 1 WHERE id = 1');
	$i == 2
	  ? is_blocked_by($observer, $writer, $s1)
	  : is_waiting($observer, $writer);
	push @writers, $writer;
}
is_root_of($observer, $s1, @writers);
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

configure($observer, idle_blocker_timeout => '500ms');
is_rolled_back($observer, $s1, 'idle_blocker_timeout');
succeeds($_) foreach @writers;
is($observer->value('SELECT v FROM t WHERE id = 1'),
	19, 'every write is there, and nothing of the batch');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			application_name => 'S1',
			state => 'idle in transaction (aborted)',
			limit_name => 'idle_blocker_timeout',
			limit_value => '500ms',
			limit_source => 'configuration',
			action => 'rollback',
			result => 'released',
			blocked => \@writers
		}
	]);

# Twin: the batch fails in the client, and the server hears nothing of it.
my $client = LockguardTest::Session->new($node, 'S1');
$client->query_ok($_)
  foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
$_->start('UPDATE t SET v = v + 1 WHERE id = 1') foreach @writers;
is_rolled_back($observer, $client, 'idle_blocker_timeout');
succeeds($_) foreach @writers;
is($observer->value('SELECT v FROM t WHERE id = 1'),
	38, 'every write is there');
is_actions(
	$observer,
	[
		{
			pid => $client,
			state => 'idle in transaction',
			limit_name => 'idle_blocker_timeout',
			action => 'rollback',
			result => 'released'
		}
	]);

# Negative twin: without a savepoint the error has released the locks.
my $failed = LockguardTest::Session->new($node, 'S1');
$failed->query_ok($_)
  foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
is($failed->query('SELECT 1/0')->{error}{C},
	'22012', 'the batch fails without a savepoint');
$_->start('UPDATE t SET v = v + 1 WHERE id = 1') foreach @writers;
succeeds($_) foreach @writers;
ok( $observer->poll(
		"SELECT clock_timestamp() - state_change > '1s'"
		  . ' FROM pg_stat_activity WHERE pid = '
		  . $failed->pid),
	'the failed transaction has been idle for longer than the limit');
scan($observer);
is_alive($failed, 'E');
is_actions($observer, [], 'a session that blocks none is left alone');

is_foretold($observer);
$node->stop;
done_testing();
