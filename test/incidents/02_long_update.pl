# Long UPDATE of a background job: every row of the table is locked by one
# statement that runs for hours.
#
# Outcome: the statement is cancelled, its session lives.
# Negative twins: what a cancel does not free is rolled back after escalation_delay,
# where the session is idle then; where it is at work, it is terminated.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
create_t($node);
# The first 100 rows go fast, so that they are soon there to wait for.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION work(id int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF id > 100 THEN PERFORM pg_sleep(1); END IF;
	RETURN 1;
END $$;
CREATE ROLE job LOGIN;
GRANT ALL ON t TO job;
ALTER ROLE job SET lockguard.blocker_timeout = '500ms';
ALTER ROLE job SET lockguard.escalation_delay = '200ms';
SQL
my $observer = LockguardTest::Session->new($node, 'observer');
my @writers =
  map { LockguardTest::Session->new($node, "S$_") } 2 .. 20;

# The job does its work; the writers each want a row of it.
sub outage
{
	my ($s1, @job) = @_;
	my $last = pop @job;

	$s1->query_ok($_) foreach @job;
	$s1->start($last);
	ok( $observer->poll(
			'SELECT EXISTS (SELECT FROM pg_stat_activity'
			  . " WHERE wait_event = 'PgSleep' AND pid = "
			  . $s1->pid
			  . ')'),
		'S1 is at work');
	foreach my $i (0 .. $#writers)
	{
		$writers[$i]->start('UPDATE t SET v = v + 1 WHERE id = ' . ($i + 2));
		is_blocked_by($observer, $writers[$i], $s1);
	}
	is_root_of($observer, $s1, @writers);
	return;
}

# The job's limit is in force from its login on, but not acted upon before the
# outage has been looked at.
configure($observer, enabled => 'off');
my $s1 = LockguardTest::Session->new($node, 'S1', user => 'job');
outage($s1, 'UPDATE t SET v = work(id)');
scan($observer);
is_actions($observer, [], 'without lockguard nothing is done');

configure($observer, enabled => 'on');
is_cancelled($s1, 'blocker_timeout');
succeeds($_) foreach @writers;
is_alive($s1, 'I');
is($observer->value('SELECT sum(v) FROM t'),
	19, 'every write is there, and nothing of the job');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			state => 'active',
			limit_name => 'blocker_timeout',
			limit_value => '500ms',
			limit_source => 'role',
			action => 'cancel',
			result => 'released',
			blocked => \@writers
		}
	]);

# Twins: a cancel does not undo what was done before a savepoint, and an
# exception block can swallow it.  The one is idle then, the other is not.
my @escalated = (
	{
		limit_name => 'blocker_timeout',
		limit_source => 'role',
		action => 'cancel',
		result => 'escalated',
		blocked => \@writers
	},
	{
		limit_name => 'blocker_timeout',
		limit_source => 'role',
		result => 'released',
		blocked => \@writers
	});

foreach my $twin (
	[
		'savepoint',
		'BEGIN', 'UPDATE t SET v = 1', 'SAVEPOINT s', 'SELECT pg_sleep(600)'
	],
	[
		'exception block',
		q{DO $$
		BEGIN
			UPDATE t SET v = 1;
			BEGIN
				PERFORM pg_sleep(600);
			EXCEPTION WHEN query_canceled THEN
				PERFORM pg_sleep(600);
			END;
		END $$}
	])
{
	my ($name, @job) = @$twin;

	note $name;
	configure($observer, enabled => 'off');
	$s1 = LockguardTest::Session->new($node, 'S1', user => 'job');
	outage($s1, @job);
	configure($observer, enabled => 'on');
	is_cancelled($s1, 'blocker_timeout') if $name eq 'savepoint';
	succeeds($_) foreach @writers;
	$name eq 'savepoint'
	  ? is_rolled_back(undef, $s1, 'blocker_timeout')
	  : is_terminated($s1, 'blocker_timeout');
	$_->{pid} = $s1 foreach @escalated;
	$escalated[1]{action} = $name eq 'savepoint' ? 'rollback' : 'terminate';
	is_actions($observer, \@escalated);
}
is($observer->value('SELECT sum(v) FROM t'),
	57, 'every write is there, and nothing of the job');

is_foretold($observer);
$node->stop;
done_testing();
