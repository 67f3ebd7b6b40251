# lockguard's files are in a folder of their own that cannot be written to, as
# containers mount them, and not where PostgreSQL's are.  The server finds them by
# dynamic_library_path and, from version 18 on, extension_control_path; before
# that, the control file and the scripts have to be in its own share folder.
#
# LOCKGUARD_FOLDER names such a folder that is there already, instead of a copy of
# the installed files.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardLibrary;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc' unless -r '/proc/self/status';

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $node = PostgreSQL::Test::Cluster->new('asks');
my %config = map { $_ => $node->config_data('--' . lc $_) } qw(BINDIR PKGLIBDIR SHAREDIR);
my ($install_path, $libdir, $sharedir) = move_postgres("$dir/postgres", \%config);
my ($own, $next, $evil) = map { "$dir/extensions/$_" } qw(lockguard next evil);
my $given = $ENV{LOCKGUARD_FOLDER};
my %from = $given ? (PKGLIBDIR => "$given/lib", SHAREDIR => "$given/share") : %config;
my $by_control_path = slurp_file("$config{SHAREDIR}/postgresql.conf.sample") =~ /^#extension_control_path/m;
my ($observer, $begin);

put_extension(\%from, "$evil/lib", "$evil/share");
if ($given)
{
	$own = $given;
}
else
{
	put_extension(\%from, "$own/lib", "$own/share");
	system('chmod', '-R', 'a-w', $own) == 0 or die "cannot chmod $own";
}
ok(!grep({ -w $_ } $own, "$own/lib", "$own/lib/lockguard.so", "$own/share/extension"), 'nothing can be written there');

# Only then can it be removed.
END { system 'chmod', '-R', 'u+w', $own if $own && !$given; }

$node = PostgreSQL::Test::Cluster->new('main', install_path => $install_path);
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
autovacuum = off
max_prepared_transactions = 5
lockguard.incident_threshold = '10ms'
lockguard.prepared_transaction_action = rollback
CONF

# The server's own folder, $libdir or $system, before or behind that of lockguard.
sub paths
{
	my ($order, $folder) = @_;
	my $path_of = sub { join ':', $order eq 'first' ? ($_[1], $_[0]) : @_ };

	return ('dynamic_library_path' => $path_of->('$libdir', "$folder/lib"),
		$by_control_path ? (extension_control_path => $path_of->('$system', "$folder/share")) : ());
}

sub set_conf
{
	my (%conf) = @_;

	$node->append_conf('postgresql.conf', "$_ = '$conf{$_}'") foreach sort keys %conf;
	return;
}

sub restart_with
{
	my (%conf) = @_;

	$observer->close if $observer;
	$node->stop('fast', fail_ok => 1);
	set_conf(%conf);
	$begin = -f $node->logfile ? -s $node->logfile : 0;
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	return;
}

# Both workers and the session have this file loaded, and no other lockguard.
sub all_run_from
{
	my ($file, $when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$observer->query_ok('SELECT FROM lockguard.stats');
	foreach my $process ('lockguard', 'lockguard history', 'session')
	{
		my $pid = $process eq 'session' ? $observer->pid : child_pid($node, $process);

		is_deeply([ libraries_of($pid) ], [$file], "$when: the $process runs from $file");
	}
	return;
}

# The functions are in another file, or in none; sessions are protected all the same.
sub only_protects
{
	my ($sqlstate, $when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $file = $node->data_dir . '/pg_stat/lockguard.stat';
	my $key = 1;

	is(($observer->query('SELECT lockguard.scan()')->{error} || {})->{C}, $sqlstate, "$when: the functions fail");
	my $s = holder($node, "$when: s", $key, idle_blocker_timeout => '200ms');
	my $w = waiter($observer, "$when: w", $key);
	succeeds($w, "$when: the waiter");
	is(($s->query('SELECT 1')->{error} || {})->{C}, '25P02', "$when: its blocker was rolled back");
	$_->close foreach $s, $w;
	ok(wait_until(sub { -f $file && index(slurp_file($file), "$when: s") >= 0 }), "$when: the history is written");
	return;
}

# As CloudNativePG sets them.
is_deeply([ glob("$libdir/lockguard*"), glob("$sharedir/extension/lockguard*") ], [], "nothing is in the server's own folders");
put_extension(\%from, "$dir/unused", $sharedir) unless $by_control_path;
restart_with(paths('last', $own), shared_preload_libraries => 'lockguard');
$observer->query_ok('CREATE EXTENSION lockguard');
protects($observer, $begin, 'mounted');
all_run_from("$own/lib/lockguard.so", 'mounted');
workers_come_back($node, 'mounted');
all_run_from("$own/lib/lockguard.so", 'come back');
{
	my $history = "SELECT string_agg(concat_ws(' ', action_id, application_name, gid, result), ', ' ORDER BY action_id) FROM lockguard.actions";
	my $before = $observer->value($history);

	like($before, qr/mounted/, 'there is a history');
	restart_with();
	is($observer->value($history), $before, 'it is kept over a restart');
	protects($observer, $begin, 'restarted');
}

# No user but a superuser can lead a process to other files.
{
	my $libdir_of = sub { grep { /evil/ } libraries_of($_[0]->pid) };
	my %secret = ($by_control_path ? (extension_control_path => "$evil/share") : (), dynamic_library_path => "$evil/lib");

	$observer->query_ok($_) foreach 'CREATE ROLE mallory LOGIN CREATEROLE CREATEDB', 'CREATE DATABASE hers OWNER mallory';
	my $mallory = LockguardTest::Session->new($node, 'mallory', user => 'mallory', dbname => 'hers');
	foreach my $sql (
		"LOAD '$evil/lib/lockguard'", "LOAD '\$libdir/plugins/../../../../extensions/evil/lib/lockguard'",
		'CREATE EXTENSION lockguard',
		"CREATE FUNCTION f() RETURNS void AS '$evil/lib/lockguard', 'lockguard_scan' LANGUAGE C",
		map { ("SET $_ = '$secret{$_}'", "ALTER ROLE mallory SET $_ = '$secret{$_}'", "ALTER DATABASE hers SET $_ = '$secret{$_}'",
				"ALTER SYSTEM SET $_ = '$secret{$_}'", "SELECT set_config('$_', '$secret{$_}', false)") } sort keys %secret)
	{
		is(($mallory->query($sql)->{error} || {})->{C}, '42501', "not allowed: $sql");
	}
	is_deeply([ $libdir_of->($mallory) ], [], 'nothing else was loaded');
	$mallory->close;

	# At login a value is refused, and so is the session: with a superuser's privilege, it is not.
	$secret{local_preload_libraries} = "$evil/lib/lockguard";
	foreach my $name (sort keys %secret)
	{
		is(eval { session_with($node, 'mallory', user => 'mallory', options => "-c $name=$secret{$name}"); 1 },
			undef, "not allowed at login: $name");
	}
	ok(!$observer->query("SELECT FROM lockguard.stats")->{error}, "others do not notice");
	my $superuser = session_with($node, 'superuser', options => "-c dynamic_library_path=$evil/lib");
	is(($superuser->query('SELECT lockguard.scan()')->{error} || {})->{C}, '55000', "a superuser's own session is led there");
	is(scalar($libdir_of->($superuser)), 1, 'and has loaded it');
	$superuser->close;
	$observer->query_ok('DROP DATABASE hers');
}

# By its path, and by both.
restart_with(shared_preload_libraries => "$own/lib/lockguard");
protects($observer, $begin, 'by its path');
all_run_from("$own/lib/lockguard.so", 'by its path');
restart_with(dynamic_library_path => '$libdir');
only_protects('58P01', 'by its path alone');

# Another build is in $libdir.
put_copy("$from{PKGLIBDIR}/lockguard.so", "$libdir/lockguard.so");
restart_with(paths('first', $own), shared_preload_libraries => 'lockguard');
protects($observer, $begin, 'before another');
all_run_from("$own/lib/lockguard.so", 'before another');
workers_come_back($node, 'before another');
restart_with(shared_preload_libraries => "$own/lib/lockguard");
protects($observer, $begin, 'by its path before another');
all_run_from("$own/lib/lockguard.so", 'by its path before another');
restart_with(paths('last', $own), shared_preload_libraries => 'lockguard');
protects($observer, $begin, 'behind another');
all_run_from("$libdir/lockguard.so", 'behind another');
restart_with(shared_preload_libraries => "$own/lib/lockguard");
only_protects('55000', 'by its path behind another');

# One that cannot be loaded.
put_copy($0, "$libdir/lockguard.so");
restart_with(paths('first', $own), shared_preload_libraries => 'lockguard');
protects($observer, $begin, 'before a broken one');
workers_come_back($node, 'before a broken one');
$observer->close;
$node->stop;
$begin = -s $node->logfile;
set_conf(paths('last', $own));
ok(!$node->start(fail_ok => 1), 'behind a broken one, the server does not start');
like(log_since($node, $begin), qr/could not load library "\Q$libdir\E\/lockguard\.so"/, 'and says which file it is');
unlink "$libdir/lockguard.so";

# Another folder brings the next version.
{
	my $share = $by_control_path ? "$next/share" : $sharedir;
	my $control = "$share/extension/lockguard.control";

	put_extension(\%from, "$next/lib", $share);
	my $text = slurp_file($control);
	my ($version) = $text =~ /^default_version = '(.*)'$/m;
	$text =~ s/^(default_version = ').*'$/$1next'/m;
	PostgreSQL::Test::Utils::append_to_file("$control.new", $text);
	rename "$control.new", $control or die "cannot rename $control.new: $!";
	PostgreSQL::Test::Utils::append_to_file("$share/extension/lockguard--$version--next.sql",
		"CREATE FUNCTION lockguard.scan_next() RETURNS void AS 'MODULE_PATHNAME', 'lockguard_scan' LANGUAGE C;\n");
	my $installed = "SELECT extversion FROM pg_extension WHERE extname = 'lockguard'";

	restart_with(paths('last', $next));
	is($observer->value($installed), $version, 'the next library is loaded');
	protects($observer, $begin, 'before the update');
	$observer->query_ok('ALTER EXTENSION lockguard UPDATE');
	is($observer->value($installed), 'next', 'ALTER EXTENSION UPDATE');
	$observer->query_ok('SELECT lockguard.scan_next()');
	protects($observer, $begin, 'after the update');
	all_run_from("$next/lib/lockguard.so", 'after the update');
}
$observer->close;
$node->stop;

done_testing();
