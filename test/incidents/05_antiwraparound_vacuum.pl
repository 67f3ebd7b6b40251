# Anti-wraparound autovacuum and DDL: a vacuum that does not yield stands
# before an ALTER TABLE, and all others behind the ALTER TABLE.
#
# Outcome: the migration is cancelled, the vacuum is not.
# Negative twin: a plain autovacuum yields by itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
autovacuum = on
autovacuum_freeze_max_age = 100000
autovacuum_vacuum_cost_delay = 0
autovacuum_naptime = 1s
synchronous_commit = off
CONF
# The low fillfactor gives a slow vacuum pages for many minutes.
my $slow = '(fillfactor = 10, autovacuum_vacuum_cost_delay = 100,'
  . ' autovacuum_vacuum_cost_limit = 1, autovacuum_enabled = %s)';
$node->safe_psql('postgres', sprintf <<"SQL", 'off');
CREATE TABLE big (id int) WITH $slow;
INSERT INTO big SELECT generate_series(1, 60000);
DO \$\$
BEGIN
	FOR i IN 1 .. 112000 LOOP
		PERFORM pg_current_xact_id();
		COMMIT;
	END LOOP;
END \$\$;
SQL
my $observer = LockguardTest::Session->new($node, 'observer');
my ($s1, $s2) = map { LockguardTest::Session->new($node, "S$_") } 1 .. 2;

# The autovacuum worker that matches, once it holds the table.
sub vacuum_worker
{
	my ($table, $query) = @_;
	my $sql = 'SELECT a.pid FROM pg_stat_activity a JOIN pg_locks l USING (pid)'
	  . " WHERE a.backend_type = 'autovacuum worker' AND a.query LIKE '$query'"
	  . " AND l.relation = '$table'::regclass"
	  . " AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted";
	my $pid;

	wait_until(sub { $pid = $observer->value($sql) });
	ok($pid, "$query is under way");
	return $pid;
}

my $worker =
  vacuum_worker('big', 'autovacuum: VACUUM%public.big (to prevent wraparound)');
my $start = "SELECT backend_start FROM pg_stat_activity WHERE pid = $worker";
my $started = $observer->value($start);

$s1->start('ALTER TABLE big ADD c int');
is_blocked_by($observer, $s1, $worker);
$s2->start('SELECT count(*) FROM big');
is_blocked_by($observer, $s2, $s1);

# The worker is over this limit, and must not be touched.
configure($observer, blocker_timeout => '500ms');
ok( $observer->poll(
		'SELECT count(*) > 0 FROM lockguard.actions'
		  . " WHERE pid = $worker AND result = 'protected'"),
	'the worker is recorded as protected');
scan($observer);
is_actions(
	$observer,
	[
		{
			pid => $worker,
			limit_name => 'blocker_timeout',
			result => 'protected',
			blocked => [ $s1, $s2 ]
		}
	],
	'and no session is signalled');

# By hand, only roles that PostgreSQL lets signal it are told what to do.
$observer->query_ok($_)
  foreach 'CREATE ROLE signaller LOGIN IN ROLE pg_signal_backend',
  'GRANT EXECUTE ON FUNCTION lockguard.terminate_blockers(int) TO signaller';
my $signaller = LockguardTest::Session->new($node, 'signaller', user => 'signaller');
my $by_hand = 'SELECT lockguard.terminate_blockers(' . $s2->pid . ')';
my $role = $observer->value("SELECT rolname FROM pg_roles WHERE rolname = 'pg_signal_autovacuum_worker'");
is($signaller->query($by_hand)->{error}{M},
	'must be ' . ($role ? "a member of $role" : 'a superuser') . " to signal autovacuum worker $worker",
	'a member of pg_signal_backend is refused');
is_actions($observer, [], 'without a record');
is($observer->value($by_hand), '{}', 'it is protected from a superuser, too');
is_deeply([ map { @$_{qw(M D H)} } @{ $observer->{result}{notices} } ],
	[ "process $worker was not signalled", 'It is protected: autovacuum worker.', "pg_terminate_backend($worker) ends it; it may be started again." ],
	'who is told what to do');
if ($role)
{
	$observer->query_ok("GRANT $role TO signaller");
	is($signaller->value($by_hand), '{}', "a member of $role is told the same");
	is_deeply([ map { @$_{qw(M D H)} } @{ $signaller->{result}{notices} } ],
		[ "process $worker was not signalled", 'It is protected.', 'A member of pg_read_all_stats can see what it is and does.' ],
		'but nothing that pg_stat_activity hides');
}
is($observer->value($start), $started, 'the worker continues');
forget_actions($observer);

configure($observer, queued_blocker_timeout => '500ms');
is_cancelled($s1, 'queued_blocker_timeout');
succeeds($s2, 'SELECT');
is($observer->value($start), $started, 'the worker continues');
is_actions(
	$observer,
	[
		{
			pid => $s1,
			limit_name => 'queued_blocker_timeout',
			limit_value => '500ms',
			limit_source => 'configuration',
			action => 'cancel',
			result => 'released',
			blocked => [$s2]
		}
	]);

# Negative twin: a plain autovacuum yields by itself after deadlock_timeout.
$observer->query_ok($_)
  foreach sprintf("CREATE TABLE small (id int) WITH $slow", 'on'),
  'INSERT INTO small SELECT generate_series(1, 60000)',
  'DELETE FROM small';
vacuum_worker('small', 'autovacuum: VACUUM%public.small');
$s1->start('ALTER TABLE small ADD c int');
succeeds($s1, 'ALTER TABLE');
scan($observer);
is_deeply(
	[ grep { $_->{result} ne 'protected' } actions($observer) ],
	[], 'no session is signalled');
is($observer->value($start), $started, 'the first worker still continues');

is_foretold($observer);
$node->stop('immediate');
done_testing();
