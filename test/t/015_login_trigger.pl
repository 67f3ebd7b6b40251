# Event triggers on login (PostgreSQL 17 and later): a session that runs one has
# logged in.  It can be in others' way, and is told why it has to go; but
# lock_wait_timeout does not make a login fail.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main');
my $observer = LockguardTest::Session->new($node, 'observer');

if ($observer->value('SHOW server_version_num') < 170000)
{
	$node->stop;
	plan skip_all => 'no event triggers on login before PostgreSQL 17';
}

# By its application name, a session locks, and stays in its trigger.
$observer->query_ok($_) foreach <<'SQL', 'CREATE EVENT TRIGGER on_login ON login EXECUTE FUNCTION on_login()';
CREATE FUNCTION on_login() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('application_name') ~ 'login' THEN
        PERFORM pg_advisory_xact_lock(1);
    END IF;
    IF current_setting('application_name') ~ 'slow' THEN
        PERFORM pg_sleep(600);
    END IF;
END $$
SQL

# A login that does not come to its end: its pid has not been sent yet.
sub log_in
{
	my ($name) = @_;
	my $session = LockguardTest::Session->new($node, $name, wait => 0);

	wait_until(sub { $session->{pid} = $observer->value("SELECT pid FROM pg_stat_activity WHERE application_name = '$name'") });
	return $session;
}

sub blocked_logins
{
	my $root = log_in('slow login');

	ok($observer->poll("SELECT coalesce(max(wait_event), '') FROM pg_stat_activity WHERE pid = " . $root->pid, 'PgSleep'),
		'a login is in its trigger');
	my $waiter = log_in('login');
	is_blocked_by($observer, $waiter, $root);
	is_root_of($observer, $root, $waiter);
	return ($root, $waiter);
}

# The twin is at a statement.
{
	my ($root, $waiter) = blocked_logins();
	my $twin = session($node, 'twin')->start('SELECT pg_advisory_lock(1)');

	is_waiting($observer, $twin);
	configure($observer, lock_wait_timeout => '300ms');
	is_cancelled($twin, 'lock_wait_timeout');
	ok($observer->poll("SELECT bool_and(waitstart < clock_timestamp() - interval '700 ms') FROM pg_locks WHERE NOT granted"),
		'the login waits for longer than that');
	scan($observer);
	is($observer->value('SELECT limit_name FROM lockguard.sessions WHERE pid = ' . $waiter->pid), undef, 'and is not over a limit');
	is_deeply([ recorded($observer, $waiter) ], [], 'a login is left alone');
	configure($observer, lock_wait_timeout => undef);

	configure($observer, blocker_timeout => '300ms');
	$root->wait_closed;
	my $error = $root->error;
	is("$error->{S} $error->{C}", 'FATAL 57014', 'a login that blocks others is ended');
	like($error->{D}, qr/^lockguard: this session blocked 1 session for \d+ ms; lockguard\.blocker_timeout is 300ms \(set in the configuration\)\.$/,
		'it is told why');
	like($error->{H}, qr/^Do the work in smaller transactions/, 'with a hint');
	succeeds($waiter, 'the login behind it');
	is_recorded($observer, $root, 'blocker_timeout cancel released');
	configure($observer, blocker_timeout => undef);
	$_->close foreach $waiter, $twin;
}

# By hand.
foreach my $function ('cancel', 'terminate')
{
	my ($root, $waiter) = blocked_logins();

	is($observer->value("SELECT lockguard.${function}_blockers(" . $waiter->pid . ')'), '{' . $root->pid . '}', "$function by hand");
	$root->wait_closed;
	is($root->error->{C}, $function eq 'cancel' ? '57014' : '57P01', 'ends the login');
	like($root->error->{D}, qr/^lockguard: this session blocked 1 session; process @{[ $observer->pid ]} asked for this\.$/, 'it is told why');
	succeeds($waiter, 'the login behind it');
	$waiter->close;
}

# A cancel by another session is not explained by that of lockguard.
{
	my $login = log_in('slow login');

	ok($observer->poll("SELECT coalesce(max(wait_event), '') FROM pg_stat_activity WHERE pid = " . $login->pid, 'PgSleep'), 'another login');
	$observer->query_ok('SELECT pg_cancel_backend(' . $login->pid . ')');
	$login->wait_closed;
	is($login->error->{C}, '57014', 'is cancelled by another session');
	is($login->error->{D}, undef, 'without our words');
}

$node->stop;
done_testing();
