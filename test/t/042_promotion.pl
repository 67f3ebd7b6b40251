# A standby is promoted in the middle of things, and a server comes back with
# other sizes, or without lockguard for a time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = lockguard_node('primary',
	streaming => 1,
	conf => <<'CONF');
max_connections = 30
max_prepared_transactions = 5
lockguard.incident_threshold = '100ms'
CONF
create_t($primary);
$primary->backup('backup');
my $on_primary = LockguardTest::Session->new($primary, 'on the primary');
my $key = 0;

sub standby
{
	my ($name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "max_standby_streaming_delay = -1\nrestart_after_crash = on");
	$standby->start;
	$primary->wait_for_catchup($standby);
	return ($standby, LockguardTest::Session->new($standby, "observer of $name"));
}

# A walreceiver whose primary is of no use any more ends with an error.
my $walreceiver = qr/FATAL:  (?:terminating walreceiver|could not (?:receive data from WAL stream|connect to the primary|send))/;

# A reader blocks the replay.  So the promotion, which has to come to
# the end of that first, does not come off until lockguard rolls the reader back.
{
	my ($standby, $observer) = standby('stuck');
	my ($r1, $r2) = map { session($standby, $_) } 'reader', 'behind the replay';
	my $startup = $observer->value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'");

	$r1->query_ok($_) foreach 'BEGIN', 'SELECT count(*) FROM t';
	$on_primary->query_ok('ALTER TABLE t ADD c int');
	ok($observer->poll("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $startup)"), 'the replay waits');
	is_blocked_by($observer, $r2->start('SELECT c FROM t WHERE id = 1'), $startup);
	$observer->query_ok('SELECT pg_promote(false)');
	scan($observer);
	is($observer->value('SELECT pg_is_in_recovery()'), 't', 'the promotion waits for a reader');
	configure($observer, idle_blocker_timeout => '200ms');
	is_rolled_back($observer, $r1, 'idle_blocker_timeout');
	ok($observer->poll('SELECT pg_is_in_recovery()', 'f'), 'and comes off when the reader is gone');
	succeeds($r2, 'SELECT');
	is_recorded($observer, $r1, 'idle_blocker_timeout rollback released');
	is($observer->value('SELECT count(*) FROM lockguard.actions WHERE pid <> ' . $r1->pid), '0', 'no other session was signalled');
	guards($observer, 'after the promotion');
	$standby->stop;
	log_is_sound($standby, $walreceiver);
}

# Promoted between a cancel and its escalation, with an incident open, and
# while a session is about to be signalled.
{
	my ($standby, $observer) = standby('busy');
	my $stubborn = session($standby, 'stubborn', blocker_timeout => '100ms', escalation_delay => '3s');

	$stubborn->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ++$key . ')', 'SAVEPOINT a';
	$stubborn->start('SELECT pg_sleep(600)');
	my $behind = waiter($observer, 'behind stubborn', $key);
	is_cancelled($stubborn, 'blocker_timeout');
	my ($log, $behind_log) = blocked_pair($observer, 'an open incident', ++$key, action => 'log', idle_blocker_timeout => '100ms');
	my $open = 'SELECT min(incident_id) FROM lockguard.incidents WHERE status = \'open\' AND root_pid = ' . $log->pid;
	ok($observer->poll("SELECT ($open) IS NOT NULL"), 'an incident is open');
	my $incident = $observer->value($open);
	is_recorded($observer, $log, 'idle_blocker_timeout log logged');

	my ($judged, $behind_judged);
	if (has_wait_points($observer))
	{
		stop_worker_at($observer, 'before_signal');
		($judged, $behind_judged) = blocked_pair($observer, 'judged', ++$key, idle_blocker_timeout => '100ms');
		worker_is_at($observer, 'before_signal');
	}
	my $worker = $observer->value('SELECT worker_pid FROM lockguard.stats');
	$standby->promote;
	ok($observer->poll('SELECT pg_is_in_recovery()', 'f'), 'promoted');
	if ($judged)
	{
		let_worker_go($observer);
		is_rolled_back($observer, $judged, 'idle_blocker_timeout');
		succeeds($behind_judged, 'behind judged');
		is_recorded($observer, $judged, 'idle_blocker_timeout rollback released');
	}
	succeeds($behind, 'behind stubborn');
	is_rolled_back(undef, $stubborn, 'blocker_timeout');
	is_recorded($observer, $stubborn, 'blocker_timeout cancel escalated', 'blocker_timeout rollback released');
	is($observer->value($open), $incident, 'the incident is the same');
	is_recorded($observer, $log, 'idle_blocker_timeout log logged');
	is_alive($log, 'T');
	is($observer->value('SELECT worker_pid FROM lockguard.stats'), $worker, 'and so is the worker');
	$observer->query_ok('SELECT pg_terminate_backend(' . $_->pid . ')') foreach $log, $behind_log;
	guards($observer, 'after the promotion');
	$standby->stop;
	log_is_sound($standby, $walreceiver);
}

# Restarts.  The history is kept, whatever the server's size.
my $observer = LockguardTest::Session->new($primary, 'observer');
my $file = $primary->data_dir . '/pg_stat/lockguard.stat';

sub history
{
	return join "\n", map { join '|', map { defined $_ ? $_ : '' } @$_ }
	  $observer->rows('SELECT * FROM lockguard.actions ORDER BY 1'),
	  $observer->rows('SELECT * FROM lockguard.incidents ORDER BY 1'),
	  $observer->rows('SELECT * FROM lockguard.contention ORDER BY 1, 2, 3, 4, 5, 7');
}

sub restart
{
	my (%set) = @_;

	$observer->close;
	$on_primary->close if !$on_primary->closed;
	$primary->append_conf('postgresql.conf', join "\n", map { "$_ = '$set{$_}'" } keys %set);
	$primary->restart;
	$observer = LockguardTest::Session->new($primary, 'observer');
	return;
}

{
	# What is open goes with the server; it must not be taken for anything of
	# the next one, where its place may be another's.
	my $stubborn = session($primary, 'stubborn', blocker_timeout => '100ms', escalation_delay => '1h');
	$stubborn->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_lock(' . ++$key . ')', 'SAVEPOINT a';
	$stubborn->start('SELECT pg_sleep(600)');
	my $w = waiter($observer, 'behind stubborn', $key);
	is_cancelled($stubborn, 'blocker_timeout');
	is_recorded($observer, $stubborn, 'blocker_timeout cancel pending');
	restart(max_connections => 60);
	is_recorded($observer, $stubborn, 'blocker_timeout cancel released');
	is($observer->value("SELECT count(*) FROM lockguard.incidents WHERE status = 'open'"), '0', 'no incident is open');
	my $first = history();

	foreach my $set (
		[ max_connections => 25, max_prepared_transactions => 50 ],
		[ max_connections => 80, max_prepared_transactions => 0, max_worker_processes => 16 ],
		[ max_connections => 30, max_prepared_transactions => 5, max_worker_processes => 8 ])
	{
		guards($observer, "before @$set");
		scan($observer);
		my $before = history();

		restart(@$set);
		is(history(), $before, "the history is as it was with @$set");
		guards($observer, "with @$set");
	}
	foreach my $line (split /\n/, $first)
	{
		next unless $line =~ /\|blocker_timeout\|/;
		ok(index(history(), $line) >= 0, 'the first action is there still');
	}
}

# Not loaded for a time.
{
	scan($observer);
	my $before = history();
	restart(shared_preload_libraries => '', 'lockguard.idle_blocker_timeout' => '100ms');
	my $bytes = slurp_file($file);
	my ($s, $w) = map { LockguardTest::Session->new($primary, $_) } 'without lockguard', 'behind it';
	$s->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(1)';
	is_waiting($observer, $w->start('SELECT pg_advisory_lock(1)'));
	older_than($observer, 'state_change', '300ms', $s, $w);
	is($observer->value('SELECT state FROM pg_stat_activity WHERE pid = ' . $s->pid), 'idle in transaction', 'no worker is there to act');
	$_->close foreach $s, $w;
	restart(shared_preload_libraries => 'lockguard');
	is(slurp_file($file), $bytes, 'the file is as it was');
	is(history(), $before, 'the history too');
	my ($s1, $w1) = blocked_pair($observer, 'the limit of the file', ++$key);
	is_rolled_back($observer, $s1, 'idle_blocker_timeout');
	succeeds($w1, 'the waiter');
	$w1->close;
	is($observer->value('SELECT max(action_id) - count(*) FROM lockguard.actions'), '0', 'numbers continue');
}

$observer->close;
$primary->stop;
log_is_sound($primary);
done_testing();
