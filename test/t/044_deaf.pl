# Sessions that do not listen to signals, as in code that holds off interrupts:
# they become unresponsive, all others are protected, and all is well once
# they listen again.  (003_outcome.pl has one that the system has stopped.)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main');
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
if (!has_wait_points($observer))
{
	$node->stop;
	plan skip_all => 'built without debug functions';
}
$observer->query_ok("CREATE FUNCTION deaf(path text) RETURNS void AS '\$libdir/lockguard', 'lockguard_debug_deaf' LANGUAGE C STRICT");

my $ear_plugs = $node->basedir . '/ear_plugs';
append_to_file($ear_plugs, '');
END { unlink $ear_plugs if defined $ear_plugs; }
my $begin = -s $node->logfile;

# Cancelled and then terminated, both in vain.  Behind it is a queued blocker,
# whose own limit is passed meanwhile, and one that can only wait.
my $deaf = session($node, 'deaf', blocker_timeout => '200ms', escalation_delay => '200ms');
my $alter = session($node, 'ALTER', queued_blocker_timeout => '1s', escalation_delay => '1h');
my $reader = session($node, 'reader');
$deaf->query_ok($_) foreach 'BEGIN', 'LOCK t IN ACCESS SHARE MODE', 'SELECT pg_advisory_xact_lock(2)';
$deaf->start("SELECT deaf('$ear_plugs')");
$alter->start('ALTER TABLE t ADD c int');
is_waiting($observer, $alter);
$reader->start('SELECT count(*) FROM t');
is_waiting($observer, $reader);
my $behind_deaf = waiter($observer, 'behind deaf', 2);

# Cancelled, and no more than that is allowed.
my $spared = session($node, 'spared', blocker_timeout => '200ms', action => 'cancel');
$spared->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(1)';
$spared->start("SELECT deaf('$ear_plugs')");
my $behind_spared = waiter($observer, 'behind spared', 1);

is_recorded($observer, $deaf, 'blocker_timeout cancel escalated', 'blocker_timeout terminate pending');
is_recorded($observer, $spared, 'blocker_timeout cancel pending');
guards($observer, 'meanwhile');

# The rest of its tree is left alone, until there is no more hope.
is_recorded($observer, $deaf, 'blocker_timeout cancel escalated', 'blocker_timeout terminate unresponsive');
is_cancelled($alter, 'queued_blocker_timeout');
succeeds($reader, 'SELECT');
is_recorded($observer, $alter, 'queued_blocker_timeout cancel released');
cmp_ok(
	$observer->value('SELECT extract(epoch FROM a.acted_at - d.acted_at) FROM lockguard.actions a, lockguard.actions d'
		  . ' WHERE a.pid = ' . $alter->pid . " AND d.action = 'terminate' AND d.pid = " . $deaf->pid),
	'>=', 9.9, 'not before the root counted as unresponsive');
is_recorded($observer, $spared, 'blocker_timeout cancel unresponsive');
is($observer->value('SELECT unresponsive FROM lockguard.stats'), '2', 'both are counted');
guards($observer, 'while they do not react');

# Another worker knows of them.
my $old = worker_pid($observer);
kill 'TERM', $old;
new_worker($observer, $old);
guards($observer, 'by another worker');
scan($observer);
my $process = 'WARNING:  lockguard: process ';
is(count_in_log($node, $begin, $process . $deaf->pid . ' has not reacted to being terminated for 10 s'), 1, 'one warning');
is(count_in_log($node, $begin, $process . $spared->pid . ' is still over its limit 10 s after its statement was cancelled'),
	1, 'another where only a cancel is allowed');
is(count_in_log($node, $begin, 'lockguard: (?:terminated process|cancelled the statement of process) ' . $_->[0]->pid . ' '),
	$_->[1], $_->[0]->name . ' was not signalled more often than recorded')
  foreach [ $deaf, 2 ], [ $spared, 1 ];
is($observer->value('SELECT count(*) FROM pg_stat_activity WHERE state = \'active\' AND pid IN (' . $deaf->pid . ', ' . $spared->pid . ')'),
	'2', 'they are at work');

# Now they listen.
unlink $ear_plugs;
is_terminated($deaf, 'blocker_timeout');
is_cancelled($spared, 'blocker_timeout');
succeeds($behind_deaf, 'behind deaf');
succeeds($behind_spared, 'behind spared');
is_recorded($observer, $deaf, 'blocker_timeout cancel escalated', 'blocker_timeout terminate released');
is_recorded($observer, $spared, 'blocker_timeout cancel released');
is_alive($spared, 'E');

$node->stop;
log_is_sound($node);
done_testing();
