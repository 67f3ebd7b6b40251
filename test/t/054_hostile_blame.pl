# Which session is to blame: no user can have an innocent session removed by waiting for
# it now and then, and tricks that keep a limit from being passed meet another
# limit that they do not help against.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = lockguard_node('main', conf => <<'CONF');
lockguard.naptime = '50ms'
lockguard.log_incidents = off
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

# Two take turns in waiting for a lock, so that one always does, though neither
# as long as the limit: it is the time in all that counts.
foreach my $active (0, 1)
{
	my $name = $active ? 'at work' : 'idle';
	my $s = holder($node, $name, ++$key, blocker_timeout => '1500ms', idle_blocker_timeout => '1500ms', max_blocked_sessions => 1);
	my @w = map { LockguardTest::Session->new($node, "taker $_") } 0, 1;
	my $until = time() + 20;
	my $turns = 0;
	my $hit = 0;

	$s->start('SELECT pg_sleep(600)') if $active;
	$_->query_ok("SET lock_timeout = '200ms'") foreach @w;
	$w[0]->start("SELECT pg_advisory_lock($key)");
	usleep(100_000);
	while (!$hit && time() < $until)
	{
		foreach my $w ($w[1], $w[0])
		{
			$w->start("SELECT pg_advisory_lock($key)");
			my $other = $w == $w[0] ? $w[1] : $w[0];
			# Both at once is no turn, which a slow machine can make of it.
			$other->read_some(65536, 0);
			usleep(100_000) if !$other->{busy};
			is($other->finish->{error}{C}, '55P03', "turn $turns: gives up") if $turns++ < 2;
			$other->finish;
		}
		$s->read_some(65536, 0);
		$hit = $active ? !$s->{busy} : recorded($observer, $s);
	}
	cmp_ok($turns, '>', 8, "$name: neither has waited for long");
	$active ? is_cancelled($s, 'blocker_timeout') : is_rolled_back($observer, $s, 'idle_blocker_timeout');
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach $s, @w;
	$_->close(silent => 1) foreach $s, @w;
}

# A session that sends a statement now and then is not idle; but it blocks.
{
	my $s = session($node, 'keeps alive', idle_blocker_timeout => '400ms', blocker_timeout => '1200ms');
	my $w = session($node, 'waits');
	my $statements = 0;

	$s->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
	$w->start('UPDATE t SET v = 2 WHERE id = 1');
	# Hit at work, it loses the statement, and with it the transaction; else that alone.
	my $error;
	while (!$error && $statements++ < 1000)
	{
		$error = $s->query('SELECT 1')->{error};
		usleep(50_000);
	}
	like($error->{C}, qr/^(?:57014|25P02)$/, 'who keeps a transaction alive loses it');
	like($error->{D}, qr/lockguard\.blocker_timeout is 1200ms/, 'as a blocker');
	succeeds($w, 'the waiter');
	$w->close;
}

# Accomplices: the one that blocks waits itself, each time for another lock, and
# none of those it waits for blocks for long.  What it cannot keep short
# is its transaction.
{
	my $s = session($node, 'waits itself', blocker_timeout => '1s', queued_blocker_timeout => '1s', transaction_timeout => '2500ms');
	my @a = map { session($node, "accomplice $_", blocker_timeout => '1s', idle_blocker_timeout => '1s') } 0, 1;
	my $innocent = session($node, 'innocent');
	my $k = 1000;

	$s->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 2';
	$a[0]->query_ok("SELECT pg_advisory_lock($k)");
	$s->start('DO $$ BEGIN FOR k IN 1000 .. 100000 LOOP PERFORM pg_advisory_xact_lock(k); END LOOP; END $$');
	$innocent->start('UPDATE t SET v = 2 WHERE id = 2');
	while ($innocent->{busy} && $k < 2000)
	{
		usleep(100_000);
		$a[1]->query('SELECT pg_advisory_lock(' . ($k + 1) . ')');
		$a[0]->query("SELECT pg_advisory_unlock($k)");
		@a = reverse @a;
		$k++;
		$innocent->read_some(65536, 0);
	}
	is_cancelled($s, 'transaction_timeout');
	succeeds($innocent, 'the innocent');
	$_->close(silent => 1) foreach $s, @a, $innocent;
}

# Nor may a user hide what they do, or put the server's own detector off.
{
	$observer->query_ok('CREATE ROLE web LOGIN');
	my $web = LockguardTest::Session->new($node, 'web', user => 'web');

	is($web->query("SET $_")->{error}{C}, '42501', "SET $_") foreach 'track_activities = off',
	  "deadlock_timeout = '1h'", "log_min_messages = 'panic'", 'session_replication_role = replica';
	$web->close;
}

$node->stop;
done_testing();
