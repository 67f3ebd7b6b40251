# What a report advises: no limit that would have done nothing, but what can be
# done about this root.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', streaming => 1, conf => <<'CONF');
max_prepared_transactions = 5
synchronous_commit = local
synchronous_standby_names = 'nobody'
lockguard.incident_threshold = '100ms'
lockguard.naptime = '20ms'
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

# The last section of the report on the incident whose root is this.
sub advice
{
	my ($root) = @_;
	my $where = ref $root ? 'root_pid = ' . $root->pid : "gid = '$root'";

	wait_until(sub { $observer->value("SELECT count(*) FROM lockguard.incidents WHERE $where") });
	my ($advice) = $observer->value("SELECT lockguard.report(max(incident_id)) FROM lockguard.incidents WHERE $where")
	  =~ /^## What to do next\n\n(.*)/ms;
	return $advice;
}

# It begins so, and these are in it; "would have" only if said so.
sub is_advised
{
	my ($root, $begin, @also) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $advice = advice($root);
	my $what = ref $root ? $root->name : $root;

	is(substr($advice, 0, length $begin), $begin, "$what: the advice");
	like($advice, qr/^- \Q$_\E/m, "$what: and what else") foreach @also;
	unlike($advice, qr/would have ended this/, "$what: no limit that would not have") if $begin !~ /would have ended this/;
	return;
}

sub is_over
{
	my ($root, $result) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok($observer->poll("SELECT count(*) > 0 FROM lockguard.actions WHERE result = '$result' AND pid = " . $root->pid), $root->name . " is $result");
}

# A root that can be signalled, by each state.
my $transaction = 'Find where the application leaves a transaction open';
{
	my ($idle, $w) = blocked_pair($observer, 'idle', ++$key);
	is_advised($idle, '- Nothing was signalled. `lockguard.idle_blocker_timeout` would have ended this: the root was idle', $transaction, 'With `lockguard.dry_run = on`');
	$_->close foreach $idle, $w;

	my $leaks = holder($node, 'leaks', ++$key, in => 'session');
	$w = waiter($observer, 'waiter', $key);
	is_advised($leaks, '- Nothing was signalled. `lockguard.idle_blocker_timeout` would have ended this: the root was idle', 'Find where the application takes an advisory lock and does not release it');
	$_->close foreach $leaks, $w;

	my $active = holder($node, 'active', ++$key);
	$active->start('SELECT pg_sleep(600)');
	ok($observer->poll("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = " . $active->pid), 'at work');
	$w = waiter($observer, 'waiter', $key);
	is_advised($active, '- Nothing was signalled. `lockguard.blocker_timeout` would have ended this: the root was active', 'Do the work in smaller transactions');
	$observer->query_ok('SELECT pg_terminate_backend(' . $active->pid . ')');
	succeeds($w, 'the waiter');
	$w->close;
}

# Those that may not be signalled, without any limit.
{
	my ($exempt, $w) = blocked_pair($observer, 'exempt', ++$key, exempt => 'on');
	is_advised($exempt, '- Nothing was signalled. No limit would have removed the root: the root was exempt', $transaction);
	$_->close foreach $exempt, $w;

	foreach my $action ('log', 'cancel')
	{
		my ($s, $w2) = blocked_pair($observer, "action is $action", ++$key, action => $action);

		is_advised($s, '- Nothing was signalled. No limit would have removed the root: `lockguard.action` of the root did not allow it.', $transaction);
		$_->close foreach $s, $w2;
	}

	my $s = holder($node, 'for a time', ++$key);
	is($observer->value('SELECT lockguard.exempt(' . $s->pid . ", '1h')"), 't', 'exempt for a time');
	$w = waiter($observer, 'waiter', $key);
	is_advised($s, '- Nothing was signalled. No limit would have removed the root: the root was exempt', $transaction);
	$_->close foreach $s, $w;
}

# A walsender, a commit that waits for a standby, a prepared transaction.
{
	my $walsender = session_with($node, 'walsender', replication => 'database');
	$walsender->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ++$key . ')';
	my $w = waiter($observer, 'waiter', $key);
	is_advised($walsender, '- Nothing was signalled. No limit would have removed the root: the root was a walsender.', 'Find what its client does over the replication connection.');
	unlike(advice($walsender), qr/dry_run/, 'nothing is to be tried out');
	$_->close foreach $walsender, $w;

	my $commit = session($node, 'commit');
	$commit->query_ok('SET synchronous_commit = on');
	$commit->start('BEGIN; UPDATE t SET v = 1 WHERE id = 5; COMMIT');
	ok($observer->poll("SELECT coalesce(max(wait_event), '') FROM pg_stat_activity WHERE pid = " . $commit->pid, 'SyncRep'), 'a commit waits');
	$w = session($node, 'waiter')->start('UPDATE t SET v = 2 WHERE id = 5');
	is_waiting($observer, $w);
	is_advised($commit, "- Nothing was signalled. No limit would have removed the root: the root's commit could no longer be undone.",
		'Its commit waited for a synchronous standby: see `synchronous_standby_names`');
	$observer->query_ok('SELECT pg_cancel_backend(' . $commit->pid . ')');
	succeeds($w, 'the waiter');
	$_->close foreach $commit, $w;

	my $s = holder($node, 'prepares', ++$key);
	$s->query_ok("PREPARE TRANSACTION 'the gid'");
	$w = waiter($observer, 'waiter', $key);
	my $rolls_back = "`lockguard.prepared_transaction_timeout` with `lockguard.prepared_transaction_action = 'rollback'` would have ended this:";
	is_advised('the gid', "- Nothing was signalled. $rolls_back", 'Find the transaction manager');
	configure($observer, prepared_transaction_timeout => '100ms');
	ok($observer->poll("SELECT count(*) > 0 FROM lockguard.actions WHERE gid = 'the gid' AND result = 'logged'"), 'over its limit');
	is_advised('the gid', '- Nothing was signalled: the root was over `lockguard.prepared_transaction_timeout`, but was left alone (lockguard.prepared_transaction_action is log).'
		  . " $rolls_back", 'Find the transaction manager');
	configure($observer, prepared_transaction_timeout => undef);
	$observer->query_ok("ROLLBACK PREPARED 'the gid'");
	succeeds($w, 'the waiter');
	$_->close foreach $s, $w;
}

# Over a limit, but left alone: not the limit is to be advised, but why.
{
	my ($exempt, $w) = blocked_pair($observer, 'exempt and over', ++$key, exempt => 'on', idle_blocker_timeout => '100ms');
	is_over($exempt, 'exempt');
	is_advised($exempt, '- Nothing was signalled: the root was over `lockguard.idle_blocker_timeout`, but was left alone (lockguard.exempt is on).', $transaction);
	$_->close foreach $exempt, $w;

	configure($observer, dry_run => 'on');
	my ($s, $w2) = blocked_pair($observer, 'dry run', ++$key, idle_blocker_timeout => '100ms');
	is_over($s, 'logged');
	is_advised($s, '- Nothing was signalled: the root was over `lockguard.idle_blocker_timeout`, but was left alone (lockguard.dry_run is on).', $transaction);
	configure($observer, dry_run => undef);
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	$w2->close;

	$observer->query_ok("SELECT lockguard.pause('1h')");
	($s, $w) = blocked_pair($observer, 'paused', ++$key, idle_blocker_timeout => '100ms');
	is_over($s, 'logged');
	is_advised($s, '- Nothing was signalled: the root was over `lockguard.idle_blocker_timeout`, but was left alone (paused by lockguard.pause()).', $transaction);
	unlike($observer->value('SELECT lockguard.report(max(incident_id)) FROM lockguard.incidents'), qr/lockguard: (?:rollback|terminate)/, 'nor is it among the signals');
	$observer->query_ok('SELECT lockguard.resume()');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	$w->close;
}

# What queues up behind a root that may not be signalled can be freed.
{
	my $walsender = session_with($node, 'walsender with a queue', replication => 'database');
	$walsender->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
	my $alter = session($node, 'ALTER')->start('ALTER TABLE t ADD COLUMN w int');
	is_waiting($observer, $alter);
	my $reader = session($node, 'reader')->start('SELECT count(*) FROM t');
	is_waiting($observer, $reader);
	ok($observer->poll('SELECT peak_blocked_sessions FROM lockguard.incidents WHERE root_pid = ' . $walsender->pid, 2), 'both are blocked');
	is_advised($walsender, '- Nothing was signalled. No limit would have removed the root: the root was a walsender.',
		'`lockguard.queued_blocker_timeout` would have removed the lock request that waited for the root');
	configure($observer, queued_blocker_timeout => '100ms');
	is_cancelled($alter, 'queued_blocker_timeout');
	succeeds($reader, 'the reader');
	$_->close foreach $walsender, $alter, $reader;
}

# None of that is shown to all users.
{
	$observer->query_ok('CREATE ROLE app LOGIN');
	my $app = LockguardTest::Session->new($node, 'app', user => 'app');
	my $all = join '', map { $_->[0] } $app->rows('SELECT lockguard.report(incident_id) FROM lockguard.incidents');

	unlike($all, qr/No limit would|was over|left alone \([^)]* /, 'others are not told what kind of session it was, or why it was left alone');
	like($all, qr/^- A member of `pg_read_all_stats` can see/m, 'but whom to ask');
}

$node->stop('immediate');
done_testing();
