# Where a limit comes from: every source, and which one wins; and that a
# change takes effect at once, for a session that sleeps through it, too.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main',
	conf => "lockguard.idle_blocker_timeout = '301ms'\n");
create_t($node);
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; CREATE ROLE other LOGIN;');
my $observer = LockguardTest::Session->new($node, 'observer');

like(
	slurp_file($node->logfile),
	qr/LOG:  lockguard: limits for the whole server: idle_blocker_timeout = 301ms\n/,
	'the log says at the start what is in force');

# From the weakest to the strongest.  A value of a role or database binds
# those who log in from then on.
my $key = 0;
my $before;
foreach my $case (
	[ '301ms', 'configuration', '', 'set in the configuration' ],
	[ '302ms', 'all roles', 'ALTER ROLE ALL', 'set for all roles' ],
	[ '303ms', 'database', 'ALTER DATABASE postgres', 'set for database "postgres"' ],
	[ '304ms', 'role', 'ALTER ROLE app', 'set for role "app"' ],
	[ '305ms', 'role in database', 'ALTER ROLE app IN DATABASE postgres', 'set for role "app" in database "postgres"' ],
  )
{
	my ($value, $source, $alter, $words) = @$case;

	$observer->query_ok("$alter SET lockguard.idle_blocker_timeout = '$value'")
	  if $alter;
	my ($app, $waiter) = blocked_pair($observer, "$source", ++$key, user => 'app');
	is_rolled_back($observer, $app, 'idle_blocker_timeout');
	like(
		$app->error->{D},
		qr/^lockguard: the transaction was rolled back: this session sat idle in transaction while blocking 1 session for \d+ ms; lockguard\.idle_blocker_timeout is $value \($words\)\.$/,
		"a value of the $source is in force, and named");
	succeeds($waiter, 'the waiter');
	is_actions($observer,
		[ { pid => $app, limit_value => $value, limit_source => $source, result => 'released' } ]);

	# All sessions that logged in before have what was in force then.
	is(limits($observer, $before->[0], 'idle_blocker_timeout'), $before->[1], 'earlier sessions keep theirs')
	  if $before;
	$before = [ $waiter, limits($observer, $waiter, 'idle_blocker_timeout') ];
}
my $other = LockguardTest::Session->new($node, 'other', user => 'other');
is(limits($observer, $other, 'idle_blocker_timeout'), '303ms database', 'another role has its own');
$observer->query_ok("$_ RESET lockguard.idle_blocker_timeout")
  foreach 'ALTER ROLE ALL', 'ALTER DATABASE postgres', 'ALTER ROLE app', 'ALTER ROLE app IN DATABASE postgres';

# Startup options, and the session's own value.
my $dba = session_with($node, 'dba', options => '-c lockguard.idle_blocker_timeout=306ms');
is(limits($observer, $dba, 'idle_blocker_timeout'), '306ms session', 'a superuser may set it at login');
$dba->query_ok("SET lockguard.idle_blocker_timeout = '307ms'");
is(limits($observer, $dba, 'idle_blocker_timeout'), '307ms session', 'and later');
$dba->query_ok('BEGIN');
$dba->query_ok("SET LOCAL lockguard.idle_blocker_timeout = '308ms'");
is(limits($observer, $dba, 'idle_blocker_timeout'), '308ms session', 'SET LOCAL is in force');
$dba->query_ok('COMMIT');
is(limits($observer, $dba, 'idle_blocker_timeout'), '307ms session', 'and ends with the transaction');
$dba->query_ok('RESET lockguard.idle_blocker_timeout');
is(limits($observer, $dba, 'idle_blocker_timeout'), '306ms session', 'RESET goes back to the value at login');
my $held = $dba->pid;
$dba->close;

# The next session may get the slot of one that has gone, but none of its
# settings.
foreach my $i (1 .. 5)
{
	my $session = session($node, "short-lived $i", blocker_timeout => '1h', exempt => 'on');
	$session->close;
	ok($observer->poll('SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ' . $session->pid . ')'),
		"$i is gone");
}
my $next = LockguardTest::Session->new($node, 'next');
is(limits($observer, $next, 'blocker_timeout'), 'none', 'the settings of a session go with it');
is(limits($observer, $next, 'exempt'), 'off default', 'the exemption, too');

foreach my $option (qw(exempt=on idle_blocker_timeout=1h priority=high))
{
	local $ENV{PGOPTIONS} = "-c lockguard.$option";
	# Nothing to send: psql may be gone before it could be written.
	my ($ret, undef, $stderr) =
	  $node->psql('postgres', '', extra_params => [ '-U', 'app' ]);
	isnt($ret, 0, "an ordinary user cannot log in with $option");
	like($stderr, qr/permission denied to set parameter "lockguard\./, 'and is told why');
}

# A reload reaches a session that sits idle in transaction, both ways.
configure_file($node, idle_blocker_timeout => 0);
my ($s1, $w1) = blocked_pair($observer, 'S1', ++$key);
my ($s2, $w2) = blocked_pair($observer, 'S2', ++$key, idle_blocker_timeout => 0);
older_than($observer, 'state_change', '900ms', $s1, $s2, $w1, $w2);
scan($observer);
is_actions($observer, [], 'no limit is in force');
configure_file($node, idle_blocker_timeout => '300ms');
is_rolled_back($observer, $s1, 'idle_blocker_timeout');
succeeds($w1, 'the waiter');
is(limits($observer, $s2, 'idle_blocker_timeout'), '0 session', 'a value of the session stands above it');
is_untouched($observer, $s2, 'T');
$w2->close(silent => 1);
$s2->query_ok('ROLLBACK');

configure_file($node, idle_blocker_timeout => '1h');
my ($s3, $w3) = blocked_pair($observer, 'S3', ++$key);
is($observer->value('SELECT limit_name FROM lockguard.sessions WHERE pid = ' . $s3->pid),
	'idle_blocker_timeout', 'the limit that it will pass next is shown');
configure_file($node, idle_blocker_timeout => '400ms');
is_rolled_back($observer, $s3, 'idle_blocker_timeout');
configure_file($node, idle_blocker_timeout => '0');
my ($s4, $w4) = blocked_pair($observer, 'S4', ++$key);
older_than($observer, 'state_change', '1s', $s4, $w4);
scan($observer);
is_untouched($observer, $s4, 'T');

# Settings of others do not matter to whom they do not concern.
is(limits($observer, $s4, 'idle_blocker_timeout'), 'none', 'no limit is shown any more');
$s4->query_ok('ROLLBACK');

# A value that PostgreSQL refuses must not go unnoticed.
my $offset = -s $node->logfile;
$node->append_conf('postgresql.conf', "lockguard.idle_blocker_timeout = '5 parsec'");
$node->restart;
ok($node->log_contains(qr/WARNING:  invalid value for parameter "lockguard\.idle_blocker_timeout": "5 parsec"/, $offset),
	'a misspelt value is refused at the start');
$node->wait_for_log(qr/LOG:  lockguard: no limit is set for the whole server/, $offset);
pass('and the log says that no limit is set');
$node->append_conf('postgresql.conf', "lockguard.idle_blocker_timeout = '5s'");
$offset = -s $node->logfile;
$node->reload;
$node->wait_for_log(qr/LOG:  lockguard: limits for the whole server: idle_blocker_timeout = 5s\n/, $offset);
pass('the log says at a reload what is in force');
$node->append_conf('postgresql.conf', "lockguard.unknown_limit = '5s'");
$offset = -s $node->logfile;
$node->restart;
ok($node->log_contains(qr/invalid configuration parameter name "lockguard\.unknown_limit"/, $offset),
	'an unknown name is complained about');
$observer = LockguardTest::Session->new($node, 'observer');
my $error = $observer->query('ALTER SYSTEM SET lockguard.unknown_limit = 1')->{error};
like($error->{C}, qr/^42/, 'and refused by ALTER SYSTEM');

$node->stop;
done_testing();
