# What roles with some privilege can do to lockguard, its settings and its
# victims: no role but a superuser lifts a limit, stops the worker, or has its own
# code run as another role.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
max_prepared_transactions = 5
lockguard.naptime = '50ms'
lockguard.prepared_transaction_action = 'rollback'
CONF
my $key = 0;
my $first = LockguardTest::Session->new($node, 'first');
$first->query_ok($_) foreach split /\n/, <<'SQL';
CREATE ROLE web LOGIN
CREATE ROLE "autovacuum worker" LOGIN
CREATE ROLE mon LOGIN IN ROLE pg_monitor
CREATE ROLE sig LOGIN IN ROLE pg_signal_backend
CREATE ROLE maker LOGIN CREATEROLE CREATEDB
CREATE ROLE dbo LOGIN
CREATE ROLE setter LOGIN
GRANT web TO maker WITH ADMIN OPTION
GRANT web TO dbo
GRANT SET ON PARAMETER lockguard.priority TO setter
CREATE DATABASE shop OWNER dbo
ALTER ROLE web SET lockguard.blocker_timeout = '1h'
ALTER DATABASE shop SET lockguard.idle_blocker_timeout = '1h'
ALTER ROLE web IN DATABASE shop SET lockguard.max_locks = 100000
ALTER ROLE "autovacuum worker" SET lockguard.idle_blocker_timeout = '100ms'
SQL
my $observer = LockguardTest::Session->new($node, 'observer', dbname => 'shop');
$observer->query_ok('CREATE EXTENSION lockguard');
my @settings = $observer->rows(q(SELECT name, boot_val FROM pg_settings
	WHERE name LIKE 'lockguard.%' AND context = 'superuser' ORDER BY name));
my $limits = q(SELECT string_agg(concat_ws(' ', name, setting, datname, usename), ', ' ORDER BY name, datname, usename)
	FROM lockguard.limits WHERE usename IS NOT NULL OR datname IS NOT NULL);
my $limits_before = $observer->value($limits);

# Log in with more parameters; returns the session.
sub log_in
{
	my ($user, %parameter) = @_;

	return LockguardTest::Session->new($node, $user, user => join("\0", $user, %parameter), dbname => 'shop', wait => 0);
}
my %by = map { my $s = log_in($_); $s->finish; $_ => $s } qw(web mon sig maker dbo setter);

# No setting at login, in either way.
is(scalar @settings, 17, 'settings of sessions');
foreach my $setting (@settings)
{
	my ($name, $value) = @$setting;

	foreach my $parameter ([ options => "-c $name=$value" ], [ $name => $value ])
	{
		my $error = log_in('web', @$parameter)->finish->{error} || {};

		is("$error->{C} $error->{S}", '42501 FATAL', "$parameter->[0]: $name");
	}
}
ok(!log_in('setter', options => '-c lockguard.priority=high')->finish->{error}, 'but what was granted');
is(log_in('setter', options => '-c lockguard.exempt=on')->finish->{error}{C}, '42501', 'and no more than that');

# Nor for a role or a database, whosever it is.
foreach my $setting (map { $_->[0] } @settings)
{
	foreach my $case (
		[ 'maker', 'ALTER ROLE web' ],
		[ 'maker', 'ALTER ROLE web IN DATABASE shop' ],
		[ 'dbo', 'ALTER DATABASE shop' ],
		[ 'dbo', 'ALTER ROLE ALL IN DATABASE shop' ],
		[ 'web', 'ALTER ROLE web IN DATABASE shop' ])
	{
		my ($who, $what) = @$case;

		foreach my $change ("SET $setting TO DEFAULT", "SET $setting = '0'", "RESET $setting")
		{
			my $error = $by{$who}->query("$what $change")->{error};

			next if $error && $error->{C} =~ /^(42501|22023)$/;
			fail("$who: $what $change") if $observer->value($limits) ne $limits_before;
		}
	}
}
foreach my $case (
	[ 'maker', 'ALTER ROLE web RESET ALL' ],
	[ 'maker', 'ALTER ROLE web IN DATABASE shop RESET ALL' ],
	[ 'dbo', 'ALTER DATABASE shop RESET ALL' ],
	[ 'dbo', 'ALTER ROLE ALL IN DATABASE shop RESET ALL' ],
	[ 'web', 'ALTER ROLE web RESET ALL' ],
	[ 'web', 'ALTER ROLE web IN DATABASE shop RESET ALL' ])
{
	$by{ $case->[0] }->query($case->[1]);
	is($observer->value($limits), $limits_before, "$case->[0]: $case->[1] leaves them");
}

# What a session has of a limit, it keeps under any role and after any reset.
foreach my $sql ('SET ROLE web', 'RESET ROLE', 'SET SESSION AUTHORIZATION DEFAULT', 'RESET ALL', 'DISCARD ALL',
	'SET lockguard.blocker_timeout TO DEFAULT', 'BEGIN; SET LOCAL ROLE web; COMMIT',
	q(DO $$ BEGIN PERFORM set_config('lockguard.blocker_timeout', '0', false); END $$),
	q(UPDATE pg_settings SET setting = '0' WHERE name = 'lockguard.blocker_timeout'))
{
	$by{web}->query($sql);
	is(limits($observer, $by{web}, 'blocker_timeout'), '1h role', "after $sql");
}
$by{dbo}->query_ok('SET ROLE web');
is(limits($observer, $by{dbo}, 'blocker_timeout'), 'none', 'the limits are those of the role that has logged in');
$by{dbo}->query_ok('RESET ROLE');

# A function that was made to set what its maker might set at the time.
{
	my $lift = q(CREATE FUNCTION pg_temp.lift() RETURNS text LANGUAGE sql SET lockguard.priority = 'high' AS $$SELECT current_setting('lockguard.priority')$$);

	is($by{web}->query($lift)->{error}{C}, '42501', 'not without the right to');
	$by{setter}->query_ok($lift);
	is($by{setter}->value('SELECT pg_temp.lift()'), 'high', 'with it');
	$observer->query_ok('REVOKE SET ON PARAMETER lockguard.priority FROM setter');
	is($by{setter}->query('SELECT pg_temp.lift()')->{error}{C}, '42501', 'nor when it has been taken away');
	is(limits($observer, $by{setter}, 'priority'), 'normal default', 'nothing of it is left');
}

# No user can stop the workers.  Only the process table names the one that writes
# the history.
{
	my ($history) = grep {
		my $dir = "/proc/$_";
		# Processes come and go.
		eval { slurp_file("$dir/cmdline") =~ /lockguard history/ && slurp_file("$dir/stat") =~ /\) \S @{[ $node->{_pid} ]} / };
	} map { m{(\d+)$} } glob '/proc/[0-9]*';
	my @workers = ([ $observer->value('SELECT worker_pid FROM lockguard.stats'), 'lockguard' ],
		$history ? [ $history, 'lockguard history' ] : ());

	foreach my $worker (@workers)
	{
		my ($pid, $type) = @$worker;

		foreach my $who (sort keys %by)
		{
			foreach my $function (qw(pg_cancel_backend pg_terminate_backend))
			{
				my $result = $by{$who}->query("SELECT $function($pid)");

				is($result->{error} ? $result->{error}{C} : $result->{rows}[0][0], $type eq 'lockguard' ? '42501' : 'f', "$who: $function of $type");
			}
		}
		ok(kill(0, $pid), "$type is there");
	}
	is($observer->value('SELECT worker_pid FROM lockguard.stats'), $workers[0][0], 'and the same');
}

# No user may call what acts.
is($observer->value(q(SELECT string_agg(DISTINCT format('%s: %s', r.rolname, p.proname), ', ')
	FROM pg_proc p, pg_roles r
	WHERE p.pronamespace = 'lockguard'::regnamespace AND r.rolname IN ('web', 'mon', 'sig', 'maker', 'dbo', 'setter')
	AND p.proname IN ('scan', 'exempt', 'pause', 'resume', 'cancel_blockers', 'rollback_blockers', 'terminate_blockers', 'reset_stats', 'reset_history')
	AND has_function_privilege(r.oid, p.oid, 'EXECUTE'))), 'mon: scan', 'only scan(), and only pg_monitor');
foreach my $who (sort keys %by)
{
	is($by{$who}->query($_)->{error}{C}, '42501', "$who: $_") foreach
	  'CREATE FUNCTION lockguard.pause(text) RETURNS void LANGUAGE sql AS $$$$', 'ALTER EXTENSION lockguard SET SCHEMA public',
	  'DROP EXTENSION lockguard', 'CREATE OR REPLACE VIEW lockguard.stats AS SELECT 1', 'ALTER VIEW lockguard.stats SET (security_invoker = off)',
	  'GRANT EXECUTE ON FUNCTION lockguard.resume() TO PUBLIC, web';
}

# Whatever a client calls itself, it is one.
{
	my $s = LockguardTest::Session->new($node, 'autovacuum: VACUUM t (to prevent wraparound)', user => 'autovacuum worker', dbname => 'shop');
	my $w = LockguardTest::Session->new($node, 'w', dbname => 'shop');

	$s->query_ok("SET application_name = '$_'") foreach 'lockguard', 'walsender', 'autovacuum worker';
	$s->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(1) /* autovacuum: VACUUM t (to prevent wraparound) */';
	$w->start('SELECT pg_advisory_xact_lock(1)');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	ok($observer->poll('SELECT concat_ws(\', \', action, result) FROM lockguard.actions WHERE pid = ' . $s->pid, 'rollback, released'),
		'a client is a client');
	$w->close;
}

# What comes next for a session tells its state, and when it began: not for all.
{
	my $s = LockguardTest::Session->new($node, 'masked', dbname => 'shop');
	my $look = 'SELECT limit_name, limit_at IS NOT NULL, state, xact_start IS NOT NULL, query, backend_start IS NOT NULL FROM lockguard.sessions WHERE pid = ' . $s->pid;

	$s->query_ok("SET lockguard.transaction_timeout = '1h'");
	$s->query_ok('BEGIN');
	foreach my $who (sort keys %by)
	{
		my ($row) = $by{$who}->rows($look);

		is_deeply($row, $who eq 'mon' ? [ 'transaction_timeout', 't', 'idle in transaction', 't', 'BEGIN', 't' ] :
			  [ undef, 'f', undef, 'f', '<insufficient privilege>', 'f' ], "$who: what shows of another's session");
	}
	is($observer->value('SELECT limit_name FROM lockguard.sessions WHERE pid = ' . $s->pid), 'transaction_timeout', 'a superuser sees it');
	$s->close;
	is($by{web}->value('SELECT limit_at IS NULL FROM lockguard.sessions WHERE limit_name IS NOT NULL AND usename <> \'web\''), undef, 'none of another is told');
}

# The owner of a database has the last word on how SQL is read in it.  Objects
# of theirs that come before the server's own are not run by the queries of the
# Prometheus exporters, which may belong to a superuser.
{
	my $trap = q(RETURNS %s LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hijacked'; END$$);
	my @types = qw(int4 int8 float8 numeric text timestamptz bool);

	$by{dbo}->query_ok('CREATE SCHEMA trap');
	foreach my $l (@types)
	{
		foreach my $r (@types)
		{
			$by{dbo}->query_ok("CREATE FUNCTION trap.f($l, $r) " . sprintf $trap, 'float8');
			$by{dbo}->query_ok("CREATE OPERATOR trap.$_ (LEFTARG = $l, RIGHTARG = $r, FUNCTION = trap.f)") foreach qw(/ - + = > *);
		}
		$by{dbo}->query_ok("CREATE FUNCTION trap.state(bigint, $l) " . sprintf $trap, 'bigint');
		$by{dbo}->query_ok("CREATE AGGREGATE trap.$_($l) (SFUNC = trap.state, STYPE = bigint)") foreach qw(count max sum);
	}
	$by{dbo}->query_ok('CREATE FUNCTION trap.state(bigint) ' . sprintf $trap, 'bigint');
	$by{dbo}->query_ok('CREATE AGGREGATE trap.count(*) (SFUNC = trap.state, STYPE = bigint, INITCOND = 0)');
	$by{dbo}->query_ok("CREATE FUNCTION trap.$_ " . sprintf $trap, $_ =~ /clock/ ? 'timestamptz' : 'numeric') foreach 'clock_timestamp()', 'extract(text, timestamptz)', 'extract(text, interval)', 'unnest(text[])', 'current_setting(text)';
	$by{dbo}->query_ok("CREATE DOMAIN trap.$_ AS bytea CHECK (trap.f(1::int4, 1::int4) > 1)") foreach qw(float8 int4 int8 bool numeric text);
	$by{dbo}->query_ok('ALTER DATABASE shop SET search_path = trap, pg_catalog');

	my $exporter = LockguardTest::Session->new($node, 'exporter', dbname => 'shop');
	like($exporter->query('SELECT scan_time / 1000 FROM lockguard.stats')->{error}{M}, qr/hijacked/, 'the trap works');
	my $n = 0;
	foreach my $file (glob "$FindBin::RealBin/../../prometheus/*exporter.yml")
	{
		my $yaml = slurp_file($file);
		while ($yaml =~ /^( *)query: \|\n((?:\1  .*\n)+)/gm)
		{
			my $error = $exporter->query($2)->{error};

			$n++;
			is($error && $error->{M}, undef, "a query of $file");
		}
	}
	is($n, 10, 'all queries of the exporters');
	foreach my $view (qw(lock_tree sessions idle_locks actions incidents deadlocks contention stats action_counts limits tree()))
	{
		my $error = $exporter->query("SELECT 1 FROM lockguard.$view")->{error};

		is($error && $error->{M}, undef, "lockguard.$view");
	}
	$exporter->close;
	$by{dbo}->query_ok('ALTER DATABASE shop RESET search_path');
}

# Nor do the settings of a database keep a forgotten transaction in it from
# being rolled back.
{
	$by{dbo}->query_ok("ALTER DATABASE shop $_") foreach q(SET role = 'web'), 'SET default_transaction_read_only = on',
	  q(SET default_transaction_isolation = 'serializable'), 'SET default_transaction_deferrable = on',
	  q(SET statement_timeout = '1ms'), q(SET lock_timeout = '1ms'), q(SET search_path = trap, pg_catalog), 'CONNECTION LIMIT 0';
	$by{dbo}->query(q(ALTER DATABASE shop SET session_authorization = 'web'));
	# Since PostgreSQL 17.
	$by{dbo}->query(q(ALTER DATABASE shop SET transaction_timeout = '1ms'));
	$observer->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(77)', "PREPARE TRANSACTION 'forgotten'",
	  "ALTER SYSTEM SET lockguard.prepared_transaction_timeout = '100ms'", 'SELECT pg_reload_conf()';
	ok($observer->poll('SELECT count(*) FROM pg_prepared_xacts', 0), 'rolled back, whatever the owner of the database has set');
	ok($observer->poll("SELECT result FROM lockguard.actions WHERE gid = 'forgotten'", 'released'), 'which is recorded');
}

$node->stop;
done_testing();
