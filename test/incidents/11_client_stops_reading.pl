# A client that stops reading: its COPY is active for the server, and yet
# it does no work.
#
# Outcome: the session whose client does not read is terminated.
# Negative twin: a COPY and a pg_dump that move slowly.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IO::Select;
use LockguardTest;
use Test::More;

plan skip_all => 'the kernel does not tell what a client has taken and sent' unless kernel_tells_traffic();

my $node = lockguard_node('main');
create_t($node);
$node->safe_psql('postgres',
	"CREATE TABLE big AS SELECT i AS id, repeat('x', 8000) AS c FROM generate_series(1, 5000) i"
);
my $observer = LockguardTest::Session->new($node, 'observer');
my $copy = "COPY (SELECT repeat('x', 8000) FROM generate_series(1, 5000)) TO STDOUT";

sub writes_to_client
{
	my ($name) = @_;
	return ok(
		$observer->poll(
			"SELECT state = 'active' AND wait_event = 'ClientWrite'"
			  . " FROM pg_stat_activity WHERE application_name = '$name'"),
		"$name waits for its client to read");
}

my ($s1, $s2) = map { LockguardTest::Session->new($node, "S$_") } 1 .. 2;
$s1->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 9 WHERE id = 9';
$s1->start($copy);
$s2->start('UPDATE t SET v = v + 1 WHERE id = 9');
writes_to_client('S1');
is_blocked_by($observer, $s2, $s1);
is_root_of($observer, $s1, $s2);
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

configure($observer, idle_blocker_timeout => '500ms');
succeeds($s2);
# What the server cannot send to this client is in the server's log.
$s1->wait_closed;
$node->wait_for_log(
	qr/FATAL:  terminating connection.*\n.*DETAIL:  lockguard: .*idle_blocker_timeout/
);
is($observer->value('SELECT v FROM t WHERE id = 9'),
	1, 'the write is there, and nothing of S1');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			state => 'active',
			limit_name => 'idle_blocker_timeout',
			limit_value => '500ms',
			limit_source => 'configuration',
			action => 'terminate',
			result => 'released',
			blocked => [$s2]
		}
	]);

# Negative twins: a COPY and a pg_dump that move slowly.  Every look may find
# them waiting for their client.  The limit leaves room for a busy machine.
configure($observer, idle_blocker_timeout => '3s');
$s1 = LockguardTest::Session->new($node, 'S1');
my $s3 = LockguardTest::Session->new($node, 'S3');
$s1->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 9 WHERE id = 9';
$s1->start($copy);
my $dump = start_pg_dump($node, 'big');
writes_to_client('S1');
writes_to_client('pg_dump');
$s2->start('UPDATE t SET v = v + 1 WHERE id = 9');
is_blocked_by($observer, $s2, $s1);
$s3->start('ALTER TABLE big ADD d int');
is_blocked_by($observer, $s3,
	$observer->value(
		"SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_dump'")
);

my $dumped = 0;
my $long = 'SELECT count(*) = 2 FROM pg_locks'
  . " WHERE NOT granted AND clock_timestamp() - waitstart > '7s'";
wait_until(
	sub {
		$s1->read_some(65536, 0);
		$dumped += sysread $dump, my $data, 65536
		  if IO::Select->new($dump)->can_read(0);
		$observer->value('SELECT lockguard.scan()');
		return $observer->value($long) eq 't';
	});
is($observer->value($long), 't', 'both have blocked others for long');
is_actions($observer, [], 'and no session is signalled');

while (my $n = sysread $dump, my $data, 1048576)
{
	$dumped += $n;
}
ok(close $dump, 'pg_dump succeeds');
cmp_ok($dumped, '>', 5000 * 8000, 'pg_dump has dumped everything');
succeeds($s3, 'ALTER TABLE');
succeeds($s1, 'COPY');
is_alive($s1, 'T');
$s1->query_ok('COMMIT');
succeeds($s2);
is_actions($observer, [], 'no session was signalled');

is_foretold($observer);
$node->stop;
done_testing();
