# Databases and roles are created, renamed and dropped while lockguard is at
# work on their sessions: it never blocks that, and what it records has the
# right names.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
lockguard.incident_threshold = '50ms'
lockguard.log_incidents = on
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
# DDL of its own session: a limit makes sure that nothing can hang for ever.
my $ddl = LockguardTest::Session->new($node, 'ddl');
$ddl->query_ok("SET statement_timeout = '60s'");
my $key = 0;
my @points = has_wait_points($observer) ? qw(before_look before_judge before_act before_signal after_act) : ();
note 'built without wait points: only the free-running worker is tested' if !@points;

# A statement succeeds, now that all that are to leave a database have left.
sub works
{
	my ($sql, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $error;

	wait_until(sub { $error = $ddl->query($sql)->{error}; !$error || $error->{C} ne '55006' });
	return is($error, undef, "$what: $sql") || diag explain $error;
}

# The victim's database and role as recorded.
sub names
{
	my ($view, $column, $pid) = @_;

	return $observer->value("SELECT coalesce(string_agg(DISTINCT concat_ws(' ', datname, usename), ', '), '') FROM lockguard.$view WHERE $column = $pid");
}

# Both ways to copy a database, renaming and dropping, each while the worker is
# at work on a session of the database that is affected; then the role of that
# session is renamed and dropped.
my $n = 0;
foreach my $point ('running', @points)
{
	my ($shop, $role) = ("shop$n", "app$n");
	my $strategy = $n++ % 2 ? 'file_copy' : 'wal_log';

	$observer->query_ok("CREATE ROLE $role LOGIN");
	$observer->query_ok("CREATE DATABASE $shop");
	configure($observer, enabled => 'off') if $point ne 'running';
	my @set = (user => $role, dbname => $shop);
	my ($s, $w) = map { session($node, "$_ $point", @set) } 'victim', 'waiter';
	$s->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ++$key . ')';
	$w->start("SELECT pg_advisory_lock($key)");
	is_waiting($observer, $w);
	$observer->query_ok("ALTER SYSTEM SET lockguard.idle_blocker_timeout = '200ms'");
	if ($point eq 'running')
	{
		$observer->query_ok('SELECT pg_reload_conf()');
	}
	else
	{
		older_than($observer, 'state_change', '300ms', $s, $w);
		configure($observer, enabled => undef, debug_wait_at => $point);
		worker_is_at($observer, $point);
	}

	works("CREATE DATABASE copy$n STRATEGY $strategy", $point);
	works("ALTER DATABASE copy$n RENAME TO renamed$n", $point);
	works("ALTER ROLE $role RENAME TO ${role}_new", $point);
	works("DROP DATABASE renamed$n", $point);
	# It has been terminated by now, or will be, or by this.
	works("DROP DATABASE $shop WITH (FORCE)", $point);
	works("DROP ROLE ${role}_new", $point);
	works("CREATE ROLE ${role}_new", $point);
	works("CREATE DATABASE $shop", $point);
	let_worker_go($observer) if $point ne 'running';
	$_->wait_closed foreach $s, $w;
	scan($observer);

	# Whatever has ended it, names are those that it logged in with.
	my $recorded = names('actions', 'pid', $s->pid);
	is($recorded, $recorded ? "$shop $role" : '', "$point: an action has the right names");
	is(names('incidents', 'root_pid', $s->pid), "$shop $role", "$point: the incident, too") if $point ne 'before_look';
	isnt($recorded, '', "$point: it was acted on") if $point =~ /before_signal|after_act/;
	is($observer->value("SELECT count(*) FROM lockguard.actions WHERE result = 'pending'"), '0', "$point: nothing is open");
	works("DROP DATABASE $shop", $point);
	works("DROP ROLE ${role}_new", $point);
	configure($observer, idle_blocker_timeout => undef);
}

# Names that are given anew, to others.  The next who has them is not confused
# with who had them.
{
	my @seen;

	foreach my $round (1, 2)
	{
		$observer->query_ok($_) foreach 'CREATE ROLE twice LOGIN', 'CREATE DATABASE twice';
		my ($s, $w) = map { session($node, "$_ $round", user => 'twice', dbname => 'twice') } 'victim', 'waiter';

		$observer->query_ok("ALTER ROLE twice SET lockguard.idle_blocker_timeout = '100ms'") if $round == 1;
		if ($round == 1)
		{
			# Only who logs in from now on has the role's setting.
			$s->close;
			ok($observer->poll("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'victim 1'", '0'), 'logged out');
			$s = session($node, 'victim 1', user => 'twice', dbname => 'twice');
		}
		$s->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ++$key . ')';
		$w->start("SELECT pg_advisory_lock($key)");
		is_waiting($observer, $w) if $round == 2;
		if ($round == 1)
		{
			is_rolled_back($observer, $s, 'idle_blocker_timeout');
			like($s->error->{D}, qr/set for role "twice"/, 'told by name');
			$s->close;
			succeeds($w, 'the waiter');
			is(names('actions', 'pid', $s->pid), 'twice twice', 'the first one is recorded');
		}
		else
		{
			older_than($observer, 'state_change', '500ms', $s, $w);
			scan($observer);
			is_untouched($observer, $s, 'T');
			$_->close(silent => 1) foreach $w, $s;
		}
		$w->close if !$w->closed;
		works('DROP DATABASE twice', "round $round");
		works('DROP ROLE twice', "round $round");
	}
	is($observer->value("SELECT string_agg(DISTINCT concat_ws(' ', datname, usename), ', ') FROM lockguard.incidents WHERE datname = 'twice'"),
		'twice twice', 'the names are kept when their owners are gone');
	cmp_ok($observer->value('SELECT count(*) FROM lockguard.contention WHERE datname IS NULL AND usename IS NULL'), '>', 0,
		'contention keeps what they have cost, without names');
	is($observer->query('SELECT lockguard.report(incident_id) FROM lockguard.incidents')->{error}, undef, 'all reports can be read');
}

# A role is dropped while its session is judged; no process looks names up in a
# catalog.
{
	$observer->query_ok('CREATE ROLE gone LOGIN');
	my $s = session($node, 'of nobody', user => 'gone');

	$s->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ++$key . ')';
	my $w = waiter($observer, 'waits for nobody', $key);
	works('DROP ROLE gone', 'with a session');
	configure($observer, idle_blocker_timeout => '100ms');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	succeeds($w, 'the waiter');
	is(names('actions', 'pid', $s->pid), 'postgres gone', 'recorded under the name that it logged in with');
	is($observer->query('SELECT * FROM lockguard.sessions, lockguard.lock_tree, lockguard.tree()')->{error}, undef, 'views can be read');
	$w->close;
}

$observer->close;
$node->stop;
log_is_sound($node);
done_testing();
