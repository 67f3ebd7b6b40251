# pg_upgrade, and the servers that it starts: nothing of lockguard runs there,
# but its settings are known, so that the configuration is accepted and the
# values of roles and databases can be restored.

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

plan skip_all => 'needs /proc' unless -r '/proc/self/status';

# Every session would be over one of these, and pg_upgrade would fail.
my $hostile = <<'CONF';
lockguard.statement_timeout = '10ms'
lockguard.transaction_timeout = '10ms'
lockguard.idle_session_timeout = '10ms'
lockguard.naptime = '10ms'
CONF

my $node = lockguard_node('old');
my $observer = LockguardTest::Session->new($node, 'observer');
my $file = $node->data_dir . '/pg_stat/lockguard.stat';

# Of ALTER ROLE ALL, neither pg_upgrade nor pg_dumpall takes notice.
$observer->query_ok($_)
  foreach 'CREATE ROLE app LOGIN', 'CREATE DATABASE shop', "ALTER ROLE app SET lockguard.blocker_timeout = '5s'",
  "ALTER DATABASE shop SET lockguard.action = 'cancel'",
  "ALTER ROLE app IN DATABASE shop SET lockguard.max_locks = '5000'", 'GRANT SET ON PARAMETER lockguard.priority TO app';
guards($observer, 'before');
ok(wait_until(sub { -f $file && index(slurp_file($file), 'before') >= 0 }), 'there is a history');

my $values = "SELECT string_agg(concat_ws(' ', coalesce(d.datname, '-'), coalesce(r.rolname, '-'), s.setconfig), ', ' ORDER BY d.datname, r.rolname)"
  . ' FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = setdatabase LEFT JOIN pg_roles r ON r.oid = setrole';
my $grants = "SELECT concat_ws(' ', parname, paracl) FROM pg_parameter_acl";
my $before = join '; ', map { $observer->value($_) } $values, $grants;

$observer->close;
$node->stop;
$node->append_conf('postgresql.conf', $hostile);

# Not even a damaged history is touched.
my $history = slurp_file($file);
my $damaged = substr($history, 0, -10);

sub write_history
{
	my ($bytes) = @_;

	open my $handle, '>:raw', $file or die "cannot write $file: $!";
	print $handle $bytes;
	close $handle;
	return;
}

write_history($damaged);

# As pg_upgrade starts it.
{
	my $offset = -s $node->logfile;

	is( PostgreSQL::Test::Utils::system_log('pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, '-o', '-b', 'start'),
		0, 'the server starts in binary upgrade mode');
	$node->_update_pid(1);
	my $session = LockguardTest::Session->new($node, 'pg_upgrade');
	$session->query_ok('SELECT pg_sleep(1)');
	pass('a statement is left alone');
	is(child_pid($node, $_), undef, "there is no process $_") foreach 'lockguard', 'lockguard history';
	is($session->value("SELECT count(*) FROM pg_shmem_allocations WHERE name LIKE 'lockguard%'"), 0, 'no shared memory is used');
	is($session->value('SHOW lockguard.statement_timeout'), '10ms', 'the settings are known');
	$session->query_ok($_) foreach "ALTER ROLE app SET lockguard.priority = 'low'", 'ALTER ROLE app RESET lockguard.priority',
	  "SET lockguard.blocker_timeout = '1s'", "ALTER SYSTEM SET lockguard.dry_run = 'on'", 'ALTER SYSTEM RESET lockguard.dry_run';
	is($session->query("ALTER ROLE app SET lockguard.priority = 'none'")->{error}{C}, '22023', 'and their values are checked');
	foreach my $sql ('SELECT lockguard.scan()', 'SELECT FROM lockguard.actions', 'SELECT lockguard.terminate_blockers(1)')
	{
		is(($session->query($sql)->{error} || {})->{M}, 'lockguard does not run in binary upgrade mode', $sql);
	}
	$session->query_ok($_) foreach 'BEGIN', "COMMENT ON ROLE app IS 'app'", 'COMMIT';
	$session->close;
	$node->stop;
	is(slurp_file($file), $damaged, 'the history is left alone');
	unlike(log_since($node, $offset), qr/(?:LOG|WARNING):  lockguard/, 'and nothing is said of lockguard');
}

# From one cluster to another of the same version.
{
	my $new = PostgreSQL::Test::Cluster->new('new');
	my $bindir = $node->config_data('--bindir');

	$new->init;
	$new->append_conf('postgresql.conf', "shared_preload_libraries = 'lockguard'\n$hostile");
	write_history($history);

	# It leaves a script in the present folder.
	chdir PostgreSQL::Test::Utils::tempdir() or die "cannot chdir: $!";
	command_ok(
		[
			'pg_upgrade', '--no-sync', '-d', $node->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
			'-s', $new->host, '-p', $node->port, '-P', $new->port
		],
		'pg_upgrade');
	is(slurp_file($file), $history, 'the old history is left alone');

	# The new server is as the old one was.
	$new->append_conf('postgresql.conf', "lockguard.${_}_timeout = 0") foreach qw(statement transaction idle_session);
	$new->start;
	$observer = LockguardTest::Session->new($new, 'observer');
	is(join('; ', map { $observer->value($_) } $values, $grants), $before, 'values of roles and databases are there');
	my $app = LockguardTest::Session->new($new, 'app', user => 'app', dbname => 'shop');
	is(limits($observer, $app, 'blocker_timeout'), '5s role', 'and in force');
	is(limits($observer, $app, 'max_locks'), '5000 role in database', 'all of them');
	guards($observer, 'after');
	$_->close foreach $app, $observer;
	$new->stop;
	log_is_sound($new);
}

done_testing();
