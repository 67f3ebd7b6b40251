# Which file the server runs.  lockguard is preloaded by a path, and where
# its name alone leads to, by dynamic_library_path here, there is another file,
# or none.  Everything runs from the preloaded file, also once that has been
# replaced or deleted.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardLibrary;
use LockguardTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc' unless -r '/proc/self/status';

my $node = lockguard_node('main', conf => <<'CONF');
restart_after_crash = on
max_prepared_transactions = 5
lockguard.incident_threshold = '10ms'
lockguard.prepared_transaction_action = rollback
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my %config = map { @$_ } $observer->rows('SELECT name, setting FROM pg_config');
my $installed = "$config{PKGLIBDIR}/lockguard.so";
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $begin = 0;

sub restart_with
{
	my ($library, $path) = @_;

	$observer->close;
	$node->stop;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$library'\ndynamic_library_path = '$path'");
	$begin = -s $node->logfile;
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	return;
}

mkdir "$dir/$_" or die "cannot make $dir/$_: $!" foreach qw(own empty other linked);
put_copy($installed, "$dir/$_/lockguard.so") foreach qw(own other);

# The functions are those of the preloaded library only if they are told.
{
	my $of_path = sub {
		$observer->query_ok("UPDATE pg_proc SET probin = '$_[0]' WHERE pronamespace = 'lockguard'::regnamespace AND probin IS NOT NULL");
		$observer->close;
		$observer = LockguardTest::Session->new($node, 'observer');
	};

	restart_with("$dir/own/lockguard", '$libdir');
	foreach my $sql ('SELECT lockguard.scan()', 'SELECT FROM lockguard.stats', 'SELECT lockguard.report(1)')
	{
		my $error = $observer->query($sql)->{error} || {};

		is("$error->{C}: $error->{M}",
			'55000: lockguard was preloaded from a different library than its functions', "another library: $sql");
		like($error->{H}, qr/^Preload the library that the functions are in/, 'with what to do');
		is($error->{D}, undef, 'the path is not shown to all users');
	}
	like(log_since($node, $begin), qr/DETAIL:  The server has preloaded "\Q$dir\E\/own\/lockguard\.so"\./, 'but in the log');
	$of_path->("$dir/own/lockguard");
	protects($observer, $begin, 'by its path');

	# By a link, each is a name of the same file.
	symlink "$dir/own/lockguard.so", "$dir/linked/lockguard.so" or die "cannot link: $!";
	restart_with("$dir/linked/lockguard", '$libdir');
	protects($observer, $begin, 'by a link');
}

foreach my $path (qw(empty other))
{
	my $what = $path eq 'empty' ? 'none by the name alone' : 'another by the name alone';

	restart_with("$dir/own/lockguard", "$dir/$path");
	protects($observer, $begin, $what);
	workers_come_back($node, $what);
	put_copy($installed, "$dir/own/lockguard.so");
	workers_come_back($node, "$what, replaced");
	protects($observer, $begin, "$what, replaced");
	unlink "$dir/own/lockguard.so";
	workers_come_back($node, "$what, deleted");
	guards($observer, "$what, deleted");
	put_copy($installed, "$dir/own/lockguard.so");
}

# Relative to the data directory; and dynamic_library_path is changed while the
# server runs.
{
	symlink "$dir/own", $node->data_dir . '/lib' or die "cannot link: $!";
	restart_with('lib/lockguard', '$libdir');
	protects($observer, $begin, 'by a relative path');
	restart_with('lockguard', "$dir/own");
	$observer->query_ok("ALTER SYSTEM SET dynamic_library_path = '$dir/other'");
	$observer->query_ok('SELECT pg_reload_conf()');
	ok($observer->poll('SHOW dynamic_library_path', "$dir/other"), 'dynamic_library_path leads elsewhere');
	workers_come_back($node, 'elsewhere');
	protects($observer, $begin, 'elsewhere');
	$observer->query_ok('ALTER SYSTEM RESET dynamic_library_path');
}

# There is one way left to make a worker load another file: the library's own is
# gone, and there is one with another suffix behind its name.  It does nothing.
{
	restart_with("$dir/own/lockguard", '$libdir');
	put_copy($installed, "$dir/own/lockguard.so.so");
	unlink "$dir/own/lockguard.so";
	foreach my $title ('lockguard', 'lockguard history')
	{
		my $offset = -s $node->logfile;

		kill 'TERM', child_pid($node, $title);
		$node->wait_for_log(
			qr/WARNING:  lockguard: background worker "$title" was started from a different library than the one that the server has preloaded/,
			$offset);
	}
	# The postmaster would start them again after a second.
	$observer->query_ok('SELECT pg_sleep(2)');
	is(count_in_log($node, $begin, 'was started from a different library'), 2, 'they are not started again');
	is(child_pid($node, $_), undef, "there is no $_") foreach 'lockguard', 'lockguard history';
	is(count_in_log($node, $begin, 'terminated by signal'), 0, 'and nothing has failed');
	unlink "$dir/own/lockguard.so.so";
	put_copy($installed, "$dir/own/lockguard.so");
	restart_with("$dir/own/lockguard", '$libdir');
	protects($observer, $begin, 'restarted');
}

# A path that no background worker can be told: the server does not start.  How
# long it may be depends on the version; in shared_preload_libraries there may be
# no longer one than 1023 bytes, in dynamic_library_path there may.
sub is_refused
{
	my ($what, $path) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $offset = -s $node->logfile;

	system('mkdir', '-p', $path) == 0 or die "cannot make $path";
	put_copy($installed, "$path/lockguard.so");
	$node->append_conf('postgresql.conf', "dynamic_library_path = '$path'");
	ok(!$node->start(fail_ok => 1), "$what: the server does not start");
	my $log = log_since($node, $offset);
	like($log, qr/FATAL:  lockguard: library path "\Q$path\E\/lockguard\.so" is too long or not all ASCII\n.*HINT: /s,
		'it says why, and what to do');
	return ($log =~ /at most (\d+) ASCII characters/)[0];
}

{
	my $long = $dir;

	$observer->close;
	$node->stop;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'lockguard'");
	my $most = is_refused('very long', $dir . ('/' . 'd' x 200) x 6);
	is_refused('not ASCII', "$dir/donn\xc3\xa9es");

	$long .= '/' . 'd' x 50 while length "$long/lockguard.so" <= $most - 60;
	$long .= '/' . 'd' x ($most - length "$long//lockguard.so");
	is_refused('too long', "${long}d");

	mkdir $long or die "cannot make $long: $!";
	put_copy($installed, "$long/lockguard.so");
	$node->append_conf('postgresql.conf', "dynamic_library_path = '$long'");
	$begin = -s $node->logfile;
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	# Its functions are in the same file.
	$observer->query_ok("UPDATE pg_proc SET probin = 'lockguard' WHERE pronamespace = 'lockguard'::regnamespace AND probin IS NOT NULL");
	$observer->close;
	$observer = LockguardTest::Session->new($node, 'observer');
	protects($observer, $begin, 'just short enough');
	$observer->close;
	$node->stop;
}

# But a long $libdir, or one that is not ASCII, is none of the administrator's
# choice: that of a PostgreSQL moved to such a place, with all that belongs to it.
foreach my $kind ('long', 'not ASCII')
{
	my ($install_path, $libdir, $sharedir) =
	  move_postgres($dir . '/' . ($kind eq 'long' ? 'd' x 95 : "donn\xc3\xa9es"), \%config);

	put_extension(\%config, $libdir, $sharedir);
	$node = PostgreSQL::Test::Cluster->new($kind eq 'long' ? 'long' : 'not_ascii', install_path => $install_path);
	$node->init;
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'lockguard'
max_prepared_transactions = 5
lockguard.incident_threshold = '10ms'
lockguard.prepared_transaction_action = rollback
CONF
	$begin = 0;
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	is($observer->value("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'"), $libdir, "$kind: \$libdir");
	$observer->query_ok('CREATE EXTENSION lockguard');
	protects($observer, $begin, "$kind \$libdir");

	# From PostgreSQL 18 on, a worker would search for a name with $libdir/, too.
	restart_with('$libdir/lockguard', "$dir/other:\$libdir");
	$observer->query_ok("SET dynamic_library_path = '\$libdir'");
	guards($observer, "$kind \$libdir, another before it");
	workers_come_back($node, "$kind \$libdir, another before it");
	is(count_in_log($node, $begin, 'was started from a different library'), 0, "$kind: both workers run from \$libdir");
	$observer->close;
	$node->stop;
}

done_testing();
