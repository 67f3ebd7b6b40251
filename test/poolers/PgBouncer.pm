# A PgBouncer in front of a node, for tests: LockguardTest::Session takes it in place of a node, and so connects
# to it by its Unix-domain socket, or by TCP on the loopback address.

package PgBouncer;

use strict;
use warnings;

use Carp;
use IO::Socket::UNIX;
use IPC::Run;
use LockguardTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my @running;

# Start one, with these settings besides those that it needs.  Options in capitals: USERS (the users that may log
# in), DATABASES (lines of [databases]; default: all, as the users that the clients are).
sub new
{
	my ($class, $node, $mode, %ini) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $self = bless {
		dir => $dir,
		port => PostgreSQL::Test::Cluster::get_free_port(),
		server => 'host=' . $node->host . ' port=' . $node->port,
		users => delete $ini{USERS} || [ 'admin', 'app' ],
		databases => delete $ini{DATABASES} || ['* ='],
		ini => {
			listen_addr => '127.0.0.1',
			unix_socket_dir => $dir,
			auth_type => 'trust',
			auth_file => "$dir/users.txt",
			admin_users => 'admin',
			logfile => "$dir/log",
			pidfile => "$dir/pid",
			pool_mode => $mode,
			# One server connection, unless the test is about several.
			default_pool_size => 1,
			%ini,
		},
	}, $class;

	_write("$dir/users.txt", map { qq("$_" "") } @{ $self->{users} });
	_write("$dir/ini",
		'[databases]',
		(map { "$_ $self->{server}" } @{ $self->{databases} }),
		'[pgbouncer]',
		"listen_port = $self->{port}",
		map { "$_ = $self->{ini}{$_}" } sort keys %{ $self->{ini} });
	$self->{run} = IPC::Run::start([ $ENV{PGBOUNCER}, "$dir/ini" ], '<', \undef, '>&', "$dir/output");
	push @running, $self;
	wait_until(sub { IO::Socket::UNIX->new(Peer => "$dir/.s.PGSQL.$self->{port}") })
	  or croak 'PgBouncer does not start: ' . slurp_file("$dir/output");
	$self->{admin} = LockguardTest::Session->new($self, 'admin', user => 'admin', dbname => 'pgbouncer');
	return $self;
}

sub _write
{
	my ($file, @lines) = @_;

	open my $out, '>', $file or croak "$file: $!";
	print $out "$_\n" foreach @lines;
	close $out or croak "$file: $!";
	return;
}

sub host { return $_[0]->{dir}; }
sub port { return $_[0]->{port}; }

# Its version: 1.18.0 is 1018.
sub version
{
	my ($version) = `$ENV{PGBOUNCER} --version`;

	return $version =~ /^PgBouncer (\d+)\.(\d+)/ ? $1 * 1000 + $2 : croak "which version? $version";
}

sub title
{
	my ($self) = @_;
	my ($version) = `$ENV{PGBOUNCER} --version`;

	chomp $version;
	return $version . ($self ? ", $self->{ini}{pool_mode} pooling" : '');
}

sub log_text
{
	my ($self) = @_;
	return slurp_file("$self->{dir}/log");
}

# What a command of the console shows: a hash for each row.
sub show
{
	my ($self, $what) = @_;
	my $result = $self->{admin}->query_ok("SHOW $what");

	return map {
		my %row;
		@row{ @{ $result->{columns} } } = @$_;
		\%row;
	} @{ $result->{rows} };
}

# Of the pool of this user, or of the one that there is.
sub pool
{
	my ($self, $user) = @_;
	my ($pool) = grep { $_->{database} ne 'pgbouncer' && $_->{user} eq ($user || 'app') } $self->show('POOLS');
	return $pool || {};
}

sub stop
{
	my ($self) = @_;
	my $run = delete $self->{run} or return;

	# A plain shutdown may wait for the clients.
	$run->signal('KILL');
	$run->finish;
	unlink "$self->{dir}/pid";
	return;
}

END
{
	my $status = $?;

	$_->stop foreach @running;
	$? = $status;
}

1;
