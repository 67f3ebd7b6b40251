# Retry storm: a slow cascading DELETE is sent again and again, and the INSERT
# of a child waits behind them all.
#
# Outcome: each DELETE is cancelled when its own time is over.
# Negative twin: a successor that was held up itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
# In real life a missing index on child is enough to make it slow.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (pid int REFERENCES parent ON DELETE CASCADE);
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (1);
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(600);
	RETURN old;
END $$;
CREATE TRIGGER slow BEFORE DELETE ON child FOR EACH ROW EXECUTE FUNCTION slow();
SQL
my $observer = LockguardTest::Session->new($node, 'observer');
my ($s1, $s2, $s3, $s4, $s5) =
  map { LockguardTest::Session->new($node, "S$_") } 1 .. 5;

# Who deletes now, has the others of the list behind it.
sub row
{
	my ($session, $action, $result, @blocked) = @_;
	return {
		pid => $session,
		limit_name => 'blocker_timeout',
		limit_value => '500ms',
		action => $action,
		result => $result,
		blocked => \@blocked
	};
}

$s1->start('DELETE FROM parent WHERE id = 1');
ok( $observer->poll(
		"SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = "
		  . $s1->pid),
	'S1 is at work');
my @before;
foreach my $retry ($s2, $s3, $s4)
{
	$retry->start('DELETE FROM parent WHERE id = 1');
	is_blocked_by($observer, $retry, @before ? @before : $s1);
	push @before, $retry;
}
$s5->start('INSERT INTO child VALUES (1)');
is_blocked_by($observer, $s5, $s2, $s3, $s4);
is_root_of($observer, $s1, $s2, $s3, $s4, $s5);
scan($observer);
is_actions($observer, [], 'without a limit nothing is done');

# Each that inherits the row has the whole limit for itself, and the third
# would be one action too many for this minute.
configure(
	$observer,
	blocker_timeout => '500ms',
	max_actions_per_minute => 2);
is_cancelled($s1, 'blocker_timeout');
is_cancelled($s2, 'blocker_timeout');
ok( $observer->poll(
		'SELECT count(*) > 0 FROM lockguard.actions'
		  . " WHERE result = 'suppressed' AND pid = "
		  . $s3->pid),
	'the third cancel is suppressed');
scan($observer);
my @rows = is_actions(
	$observer,
	[
		row($s1, 'cancel', 'released', $s2, $s3, $s4, $s5),
		row($s2, 'cancel', 'released', $s3, $s4, $s5),
		row($s3, 'cancel', 'suppressed', $s4, $s5)
	]);
cmp_ok($rows[1]{acted_at} - $rows[0]{acted_at},
	'>=', 0.49, 'S2 started with a clock of its own');
is_alive($s1, 'I');
is_alive($s2, 'I');
$node->wait_for_log(qr/WARNING:  lockguard: .*max_actions_per_minute/);

configure($observer, max_actions_per_minute => 60);
is_cancelled($s3, 'blocker_timeout');
is_cancelled($s4, 'blocker_timeout');
succeeds($s5, 'INSERT of the child');
@rows = is_actions(
	$observer,
	[
		row($s3, 'cancel', 'released', $s4, $s5),
		row($s4, 'cancel', 'released', $s5)
	]);
cmp_ok($rows[1]{acted_at} - $rows[0]{acted_at},
	'>=', 0.49, 'S4 started with a clock of its own');

# Twin: the successor has long blocked a session itself, but only because
# it was held up.
$node->safe_psql('postgres',
	'CREATE TABLE a (); CREATE TABLE b ()');
configure($observer, enabled => 'off');
$s1->query_ok($_) foreach 'BEGIN', 'LOCK TABLE a';
$s1->start('SELECT pg_sleep(600)');
$s2->query_ok($_) foreach 'BEGIN', 'LOCK TABLE b';
$s2->start('LOCK TABLE a; SELECT pg_sleep(600)');
is_blocked_by($observer, $s2, $s1);
$s3->start('SELECT * FROM b');
is_blocked_by($observer, $s3, $s2);
configure($observer, enabled => 'on');
is_cancelled($s1, 'blocker_timeout');
is_cancelled($s2, 'blocker_timeout');
succeeds($s3, 'SELECT');
@rows = is_actions(
	$observer,
	[
		row($s1, 'cancel', 'released', $s2, $s3),
		row($s2, 'cancel', 'released', $s3)
	]);
cmp_ok($rows[1]{acted_at} - $rows[0]{acted_at},
	'>=', 0.49, 'S2 started with a clock of its own');

is_foretold($observer);
$node->stop;
done_testing();
