# Nothing is left: no connection, no room in the lock table, and the catalogs
# are locked, each alone and all at once.  The root goes all the same.  (See
# also 06_no_connection_left.pl and 17_catalogs_locked.pl.)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
max_connections = 20
superuser_reserved_connections = 3
max_locks_per_transaction = 10
max_pred_locks_per_transaction = 10
max_logical_replication_workers = 0
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $key = 0;

# Takes locks until there is no room for more.  It has to know all that it
# needs before, as the catalogs may be locked by then.
sub hog
{
	my ($hog, $last) = @_;

	return $hog->query_ok("DO \$\$ BEGIN FOR i IN 1000..$last LOOP PERFORM pg_advisory_lock(i); END LOOP;"
		  . ' EXCEPTION WHEN out_of_memory THEN NULL; END $$');
}

# The lock table is full.
{
	my $hog = session($node, 'hog');
	my ($s, $w) = blocked_pair($observer, 'in a full lock table', ++$key);
	my ($row, $row_waiter) = map { session($node, $_) } 'row', 'behind row';
	my $needs = session($node, 'needs a lock');

	$row->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1';
	is_waiting($observer, $row_waiter->start('UPDATE t SET v = 2 WHERE id = 1'));
	hog($hog, 1_000_000);
	my $error = $needs->query('SELECT pg_advisory_lock(999)')->{error} || {};
	is($error->{C}, '53200', 'there is no room for a lock');
	configure_file($node, idle_blocker_timeout => '200ms');
	succeeds($_, 'the waiter') foreach $w, $row_waiter;
	is_rolled_back(undef, $_, 'idle_blocker_timeout') foreach $s, $row;
	is_recorded($observer, $_, 'idle_blocker_timeout rollback released') foreach $s, $row;
	is_untouched($observer, $hog, 'I');

	# The session that has filled it blocks none, but there is a limit for that.
	hog($hog, 1_000_000);
	configure_file($node, max_locks => 100);
	is_terminated($hog, 'max_locks');
	ok(!$needs->query('SELECT pg_advisory_lock(999)')->{error}, 'there is room again');
	configure_file($node, max_locks => 0, idle_blocker_timeout => 0);
	$_->close foreach $w, $row_waiter, $needs;
}

# The catalogs are locked; no session can do anything that has to look them up.
{
	my $root = session($node, 'locks catalogs');
	my @w = map { session($node, "waits $_") } 1, 2;

	$root->query_ok($_) foreach 'BEGIN',
	  'LOCK pg_class, pg_attribute, pg_type, pg_proc, pg_authid, pg_database, pg_db_role_setting IN ACCESS EXCLUSIVE MODE';
	$w[0]->start('SELECT count(*) FROM pg_class');
	$w[1]->start("SELECT to_regclass('nothing_of_that_name')");
	my $login = LockguardTest::Session->new($node, 'login', wait => 0);
	configure_file($node, idle_blocker_timeout => '300ms');
	succeeds($_, 'the waiter') foreach @w;
	succeeds($login, 'the login');
	is_rolled_back(undef, $root, 'idle_blocker_timeout');
	is_recorded($observer, $root, 'idle_blocker_timeout rollback released');
	configure_file($node, idle_blocker_timeout => 0);
	$_->close foreach @w, $login;
}

# All at once.  Logins hang until there is no connection left.
{
	my ($hog, $root) = map { session($node, $_) } 'second hog', 'root';
	my @logins;

	hog($hog, 1000);
	$root->query_ok($_) foreach 'BEGIN', 'LOCK pg_class, pg_authid, pg_database IN ACCESS EXCLUSIVE MODE';
	foreach my $i (1 .. 40)
	{
		my $login = LockguardTest::Session->new($node, "login $i", wait => 0);

		# It is refused at once, or hangs.
		wait_until(
			sub {
				$login->read_some(65536, 0);
				return $login->error || $observer->value('SELECT count(*) FROM pg_locks WHERE NOT granted') > @logins;
			});
		last if $login->error;
		push @logins, $login;
	}
	cmp_ok(scalar @logins, '>=', 15, 'logins hang until there is no connection left');
	hog($hog, 1_000_000);
	my $error = $hog->query('SELECT pg_advisory_lock(999)')->{error} || {};
	is($error->{C}, '53200', 'there is no room for a lock');
	configure_file($node, idle_blocker_timeout => '300ms');
	# Their locks are in the table already, but they need some more.
	my @in = grep { !$_->finish->{error} } @logins;
	my @out = map { $_->error->{C} || '' } grep { $_->error } @logins;
	is(join(' ', grep { !/^(?:53200|53300)$/ } @out), '', 'logins succeed as far as there is room');
	is_rolled_back(undef, $root, 'idle_blocker_timeout');
	is_recorded($observer, $root, 'idle_blocker_timeout rollback released');
	is($observer->value('SELECT count(*) FROM lockguard.actions WHERE application_name IN (\'root\', \'second hog\') AND action <> \'log\''),
		'1', 'no other session was signalled');
	$_->close foreach @in;
	$hog->close;
	configure_file($node, idle_blocker_timeout => 0);
}

guards($observer, 'in the end');
$observer->close;
$node->stop;
log_is_sound($node);
done_testing();
