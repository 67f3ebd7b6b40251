# More helpers of the TAP tests in test/t: short stories with advisory locks,
# what was recorded about one session, and the worker's wait points.

package LockguardSession;

use strict;
use warnings;

use Exporter 'import';
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  session session_with holder waiter blocked_pair begins_to_wait
  limits recorded is_recorded is_untouched older_than
  has_wait_points stop_worker_at worker_is_at let_worker_go
);

# A session with settings of its own: session($node, 'S1', lockguard_setting
# => value, ...).  The options of LockguardTest::Session are user, dbname and tcp.
sub session
{
	my ($node, $name, %set) = @_;
	my %opt = map { exists $set{$_} ? ($_ => delete $set{$_}) : () } qw(user dbname tcp);
	my $session = LockguardTest::Session->new($node, $name, %opt);

	$session->query_ok("SET lockguard.$_ = '$set{$_}'") foreach sort keys %set;
	return $session;
}

# A session with more startup parameters, such as replication or options.  The
# protocol's name-value pairs follow each other, so they can follow the user.
sub session_with
{
	my ($node, $name, %parameter) = @_;
	my $user = delete $parameter{user} || scalar(getpwuid($>));

	return LockguardTest::Session->new($node, $name,
		user => join("\0", $user, %parameter));
}

# A session that holds advisory lock $key.  In a transaction unless told
# otherwise: holder($node, 'S1', 1, in => 'session', blocker_timeout => '1s').
sub holder
{
	my ($node, $name, $key, %set) = @_;
	my $in = delete $set{in} || 'transaction';
	my $session = session($node, $name, %set);

	$session->query_ok('BEGIN') if $in eq 'transaction';
	$session->query_ok('SELECT pg_advisory_'
		  . ($in eq 'transaction' ? 'xact_' : '')
		  . "lock($key)");
	return $session;
}

# Wait until the statement that a session has begun waits for a lock, or has
# got it already: on a slow machine, the limit that frees it may have passed.
sub begins_to_wait
{
	my ($observer, $session) = @_;

	wait_until(
		sub {
			$session->read_some(65536, 0);
			return !$session->{busy}
			  || $observer->value(
				'SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = '
				  . $session->pid
				  . ')') eq 't';
		}) or die $session->name . ' does not wait';
	return $session;
}

# A session that waits for advisory lock $key.
sub waiter
{
	my ($observer, $name, $key, %set) = @_;
	my $session = session($observer->node, $name, %set);

	$session->start("SELECT pg_advisory_lock($key)");
	return begins_to_wait($observer, $session);
}

# Both; the waiter's name is the holder's with "-waiter" behind it.
sub blocked_pair
{
	my ($observer, $name, $key, %set) = @_;
	my $holder = holder($observer->node, $name, $key, %set);

	return ($holder, waiter($observer, "$name-waiter", $key));
}

# What lockguard.sessions says that a session has of a setting: "500ms role".
sub limits
{
	my ($observer, $session, $setting) = @_;
	my $value = $observer->value(
		"SELECT (settings -> '$setting' ->> 'setting') || ' ' || (settings -> '$setting' ->> 'source')"
		  . ' FROM lockguard.sessions WHERE pid = '
		  . $session->pid);

	return defined $value ? $value : 'none';
}

# All rows about a session: "limit action result", in order.
sub recorded
{
	my ($observer, $session) = @_;

	return map { $_->[0] } $observer->rows(
		"SELECT concat_ws(' ', limit_name, action, result) FROM lockguard.actions WHERE pid = "
		  . $session->pid
		  . ' ORDER BY action_id');
}

# Wait until these are the rows about a session.
sub is_recorded
{
	my ($observer, $session, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @rows;

	wait_until(
		sub {
			@rows = recorded($observer, $session);
			return "@rows" eq "@expected";
		});
	return is_deeply(\@rows, \@expected, $session->name . ': recorded as it was');
}

# Nothing was done about a session, and it is in the state given: see
# is_alive().
sub is_untouched
{
	my ($observer, $session, $status) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_deeply([ recorded($observer, $session) ], [], $session->name . ' is innocent');
	return is_alive($session, $status);
}

# Wait until a session has been as it is now (state, statement or transaction)
# for so long, by the server's clock.
sub older_than
{
	my ($observer, $column, $interval, @sessions) = @_;
	my $pids = join ',', map { $_->pid } @sessions;

	return $observer->poll(
		"SELECT bool_and($column < clock_timestamp() - interval '$interval')"
		  . " FROM pg_stat_activity WHERE pid IN ($pids)");
}

# Wait points are compiled in for tests only.
sub has_wait_points
{
	my ($observer) = @_;

	return $observer->value(
		"SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'lockguard.debug_wait_at')") eq 't';
}

# From now on the worker waits when it comes to this point.
sub stop_worker_at
{
	my ($observer, $point) = @_;

	configure($observer, debug_wait_at => $point);
	return;
}

sub worker_is_at
{
	my ($observer, $point) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(
		$observer->poll(
			"SELECT coalesce(max(query), '') FROM pg_stat_activity"
			  . " WHERE backend_type = 'lockguard' AND state = 'active'",
			$point),
		"the worker waits at $point");
}

# Let it continue, with these settings in force.
sub let_worker_go
{
	my ($observer, %set) = @_;

	foreach my $name (sort keys %set)
	{
		$observer->query_ok(
			defined $set{$name}
			? "ALTER SYSTEM SET lockguard.$name = '$set{$name}'"
			: "ALTER SYSTEM RESET lockguard.$name");
	}
	$observer->query_ok('ALTER SYSTEM RESET lockguard.debug_wait_at');
	$observer->query_ok('SELECT pg_reload_conf()');
	# Its next scan is one that does not stop there.
	$observer->query_ok('SELECT lockguard.scan()');
	return;
}

1;
