# Shared helpers of lockguard's TAP tests.
#
# LockguardTest::Session speaks PostgreSQL's protocol over the node's socket
# itself.  A test can then hold many sessions at once without a psql process
# for each, see the FATAL that reaches an idle session, read every field of an
# error, stop reading, and watch a login that hangs.

package LockguardTest;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(
  lockguard_node create_t
  configure configure_file
  is_blocked_by is_root_of is_waiting
  is_terminated is_cancelled is_rolled_back succeeds is_alive
  is_actions left_alone actions forget_actions is_foretold scan wait_until start_pg_dump
  kernel_tells_traffic
);

# Start a server with lockguard loaded, the extension created, and no limit.
# Options: conf (text for postgresql.conf), streaming (1 for a primary).
sub lockguard_node
{
	my ($name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init($opt{streaming} ? (allows_streaming => 1) : ());
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'lockguard'
jit = off
max_connections = 50
autovacuum = off
CONF
	$node->append_conf('postgresql.conf', $opt{conf}) if defined $opt{conf};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION lockguard');
	return $node;
}

# The table that most stories are about.
sub create_t
{
	my ($node) = @_;
	$node->safe_psql('postgres', <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i;
SQL
	return;
}

# Set lockguard's settings for the whole server, through an open session:
# configure($observer, blocker_timeout => '500ms', ...); undef resets one.
# Returns when the worker has taken them over.
sub configure
{
	my ($observer, %set) = @_;
	my $offset = -s $observer->node->logfile;

	foreach my $name (sort keys %set)
	{
		$observer->query_ok(
			defined $set{$name}
			? "ALTER SYSTEM SET lockguard.$name = '$set{$name}'"
			: "ALTER SYSTEM RESET lockguard.$name");
	}
	$observer->query_ok('SELECT pg_reload_conf()');
	_wait_for_reload($observer->node, $offset);
	return;
}

# The same without any session, for when no user can log in.
sub configure_file
{
	my ($node, %set) = @_;
	my $offset = -s $node->logfile;

	$node->append_conf('postgresql.conf', "lockguard.$_ = '$set{$_}'")
	  foreach sort keys %set;
	$node->reload;
	_wait_for_reload($node, $offset);
	return;
}

# At each reload the worker logs what is in force for the whole server.
sub _wait_for_reload
{
	my ($node, $offset) = @_;

	$node->wait_for_log(
		qr/lockguard: (limits for the whole server|no limit is set|disabled)/,
		$offset);
	return;
}

# Wait until pg_blocking_pids() of a session is exactly these sessions.  A
# blocker may also be given as a bare pid.
sub is_blocked_by
{
	my ($observer, $session, @blockers) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $pids = join ',',
	  sort { $a <=> $b } map { ref $_ ? $_->pid : $_ } @blockers;
	my $names = join ', ', map { ref $_ ? $_->name : "pid $_" } @blockers;

	return ok(
		$observer->poll(
			'SELECT ARRAY(SELECT DISTINCT p FROM unnest(pg_blocking_pids('
			  . $session->pid
			  . ')) p ORDER BY 1)',
			"{$pids}"),
		$session->name . " waits for $names");
}

# Wait until a session waits for any lock.
sub is_waiting
{
	my ($observer, $session) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(
		$observer->poll(
				'SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = '
			  . $session->pid
			  . ')'),
		$session->name . ' waits');
}

# The live tree has one root, this session, with exactly these behind it.
sub is_root_of
{
	my ($observer, $root, @blocked) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @expected = map { $root->pid . ":$_" }
	  sort { $a <=> $b } map { ref $_ ? $_->pid : $_ } @blocked;

	return is(
		join(
			' ',
			map { "$_->[0]:$_->[1]" } $observer->rows(
				'SELECT DISTINCT root_pid, pid FROM lockguard.lock_tree'
				  . ' WHERE level > 0 ORDER BY 1, 2')),
		join(' ', @expected),
		$root->name . ' is the one root of the tree');
}

# The session's connection is closed, and it was told why.
sub is_terminated
{
	my ($session, $setting) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$session->wait_closed;
	return _told_why($session, '57P01', $setting, 'terminated');
}

# The session's statement is cancelled, and it was told why.
sub is_cancelled
{
	my ($session, $setting) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$session->finish;
	return _told_why($session, '57014', $setting, 'cancelled');
}

# The session's transaction is rolled back while it is idle, it is told why when it
# wants to commit, and its connection stands.  Without an observer, others have
# shown already that it has been.
sub is_rolled_back
{
	my ($observer, $session, $setting) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# One that has failed by itself has a transaction still, as far as savepoints go.
	$observer->poll("SELECT state = 'idle in transaction (aborted)'"
		  . " AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND locktype = 'virtualxid')"
		  . " FROM pg_stat_activity a WHERE pid = " . $session->pid) if $observer;
	$session->query('COMMIT');
	_told_why($session, '40000', $setting, 'rolled back');
	return is($session->{status}, 'I', $session->name . ' keeps its connection');
}

sub _told_why
{
	my ($session, $sqlstate, $setting, $verb) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $error = $session->error || {};
	my $name = $session->name;

	is($error->{C}, $sqlstate, "$name is $verb")
	  or diag explain $error;
	like(
		$error->{D},
		qr/^lockguard: .*\blockguard\.$setting is /s,
		"$name is told which setting it has passed");
	return like($error->{H}, qr/\S/, "$name gets a hint");
}

# The statement that the session has under way ends without an error.
sub succeeds
{
	my ($session, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $error = $session->finish->{error};

	return ok(!$error,
		$session->name . ': ' . ($what || 'statement') . ' succeeds')
	  || diag explain $error;
}

# The session's connection still stands, with the transaction status given
# ('I' outside a transaction, 'T' inside, 'E' in a failed one), and it takes
# the next statement.
sub is_alive
{
	my ($session, $status) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $sql = $status eq 'E' ? 'ROLLBACK' : 'SELECT 1';

	my $had = $session->{status};
	my $error = $session->query($sql)->{error};
	ok(!$error, $session->name . ' is left alone') || diag explain $error;
	return is($had, $status, $session->name . ' is in the same state as before');
}

# Make the worker scan, several times over: what is due by now gets done.
sub scan
{
	my ($observer) = @_;

	$observer->query_ok('SELECT lockguard.scan()') foreach 1 .. 3;
	return;
}

my %seen;

# The rows of lockguard.actions that the test has not compared yet.
sub actions
{
	my ($observer) = @_;
	my @columns = qw(action_id pid gid application_name state limit_name
	  limit_value limit_source action result blocked_sessions);
	my $after = $seen{ $observer->node->name } || 0;
	my @rows;

	foreach my $row (
		$observer->rows(
				'SELECT '
			  . join(', ', @columns)
			  . ", array_to_string(ARRAY(SELECT unnest(blocked_pids) ORDER BY 1), ' '),"
			  . ' extract(epoch FROM acted_at), released_after IS NOT NULL'
			  . " FROM lockguard.actions WHERE action_id > $after ORDER BY action_id"
		))
	{
		my %action;
		@action{ @columns, 'blocked_pids', 'acted_at', 'released' } = @$row;
		push @rows, \%action;
	}
	return @rows;
}

# No session is acted upon, though these sessions have been idle in transaction for
# longer than a limit of 500 ms.
sub left_alone
{
	my ($observer, @sessions) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $pids = join ',', map { $_->pid } @sessions;

	$observer->poll("SELECT bool_and(state_change < clock_timestamp() - interval '700 ms')"
		  . " FROM pg_stat_activity WHERE pid IN ($pids)");
	scan($observer);
	is_actions($observer, [], 'no session is acted upon');
	is_alive($_, 'T') foreach @sessions;
	return;
}

# Wait for the outcome of every action, then compare all the rows that came
# since the last call.  Of each expected row only the columns given count;
# "blocked" stands for blocked_sessions and blocked_pids.  Returns the rows.
sub is_actions
{
	my ($observer, $expected, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @rows;

	wait_until(
		sub {
			@rows = actions($observer);
			return @rows >= @$expected
			  && !grep { $_->{result} eq 'pending' } @rows;
		});

	my (@got, @want);
	foreach my $i (0 .. ($#rows > $#$expected ? $#rows : $#$expected))
	{
		my %want = %{ $expected->[$i] || {} };
		my %got = %{ $rows[$i] || {} };

		if (my $blocked = delete $want{blocked})
		{
			$want{blocked_sessions} = scalar @$blocked;
			$want{blocked_pids} = join ' ',
			  sort { $a <=> $b } map { ref $_ ? $_->pid : $_ } @$blocked;
		}
		$want{pid} = $want{pid}->pid if ref $want{pid};
		if ($i <= $#$expected)
		{
			$want{released} = 't'
			  if ($want{result} || '') eq 'released';
			%got = map { $_ => $got{$_} } keys %want;
		}
		push @want, \%want if $i <= $#$expected;
		push @got, \%got if $i <= $#rows;
	}
	is_deeply(\@got, \@want, $what || 'recorded as it was')
	  or diag explain \@rows;

	$seen{ $observer->node->name } = $rows[-1]{action_id} if @rows;
	return @rows;
}

# For each incident on record and each limit that has signalled a session there,
# lockguard.what_if() says the same from the record: that session, that remedy, and no
# later.  Where a limit was passed but the session was protected, it would not act.
# Limits given as name => setting have done nothing in any incident, and would not have.
sub is_foretold
{
	my ($observer, %idle) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @rows = $observer->rows(<<'SQL');
SELECT DISTINCT ON (a.incident_id, a.limit_name)
	format('incident %s, %s = %s', a.incident_id, a.limit_name, a.limit_value),
	concat_ws(' ', CASE WHEN a.result = 'protected' THEN 'f' ELSE concat_ws(' ', 't', a.pid, a.action) END),
	concat_ws(' ', w.would_act::text, CASE WHEN w.would_act THEN concat_ws(' ', w.pid, w.action) END),
	extract(epoch FROM a.acted_at - i.started_at), extract(epoch FROM w.acts_after), w.note
FROM lockguard.actions a JOIN lockguard.incidents i USING (incident_id),
	lockguard.what_if(a.limit_name, a.limit_value) w
WHERE w.incident_id = a.incident_id
	AND a.limit_name IN ('idle_blocker_timeout', 'blocker_timeout', 'queued_blocker_timeout', 'max_blocked_sessions')
ORDER BY a.incident_id, a.limit_name, a.action_id
SQL

	ok(@rows > 0, 'there are incidents with actions by limits') if !%idle;
	foreach my $row (@rows)
	{
		my ($what, $done, $foretold, $after, $foretold_after, $note) = @$row;
		$foretold =~ s/^true/t/;
		$foretold =~ s/^false/f/;
		is($foretold, $done, "what_if: $what") || diag explain $row;
		# Acted at, and when most were blocked, are read from two clocks.
		cmp_ok($foretold_after, '<=', $after + 0.1, 'no later than it did act')
		  if $foretold =~ /^t/;
	}
	foreach my $limit (sort keys %idle)
	{
		my @would = $observer->rows("SELECT * FROM lockguard.what_if('$limit', '$idle{$limit}') WHERE would_act");
		is_deeply(\@would, [], "what_if: no action by $limit = $idle{$limit}");
	}
	return;
}

# Only rows that come later are of interest.
sub forget_actions
{
	my ($observer) = @_;
	my @rows = actions($observer);

	$seen{ $observer->node->name } = $rows[-1]{action_id} if @rows;
	return;
}

# Start a real pg_dump of one table, and return the pipe that its output comes
# from.  As long as that is not read, pg_dump stands still.
sub start_pg_dump
{
	my ($node, $table) = @_;
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGAPPNAME} = 'pg_dump';

	open my $pipe, '-|', $node->installed_command('pg_dump'), '-t', $table,
	  'postgres'
	  or die "cannot start pg_dump: $!";
	return $pipe;
}

# Does the kernel tell what goes over sockets?  Asks for all Unix-domain sockets
# of which it knows none: type 2 of an answer is an error.
sub kernel_tells_traffic
{
	my $answer = '';

	return 0 if $^O ne 'linux' || !socket(my $netlink, 16, 3, 4);
	foreach my $question (pack('CCx2LLL LL', 1, 0, 0, 0, 0, 0, 0), pack('CCCx L x48', 2, 6, 0, 0))
	{
		send $netlink, pack('LSSLL', 16 + length $question, 20, 0x301, 1, 0) . $question, 0;
		return 0 unless IO::Select->new($netlink)->can_read(1);
		recv $netlink, $answer, 65536, 0;
		return 0 if length $answer < 16 || unpack('x4 S', $answer) == 2;
	}
	return 1;
}

# Try until the condition is true; false when time is up.
sub wait_until
{
	my ($condition) = @_;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

	while (time() < $deadline)
	{
		return 1 if $condition->();
		usleep(20_000);
	}
	return 0;
}

package LockguardTest::Session;

use strict;
use warnings;

use Carp;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Time::HiRes qw(usleep);

# Open a session.  Options: user (default the bootstrap superuser), dbname
# (default postgres), wait (default 1; 0 returns while the login is under
# way), tcp (1: over TCP, where the node listens on 127.0.0.1), startup (more
# parameters for the startup packet; undef leaves one out).  The name is its application_name.
sub new
{
	my ($class, $node, $name, %opt) = @_;
	my $connect = sub {
		$PostgreSQL::Test::Utils::use_unix_sockets && !$opt{tcp}
		  ? IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port)
		  : IO::Socket::INET->new(
			PeerHost => $opt{tcp} ? '127.0.0.1' : $node->host,
			PeerPort => $node->port);
	};
	my $socket = $connect->();
	croak "$name cannot connect: $!" unless $socket;

	my $self = bless {
		node => $node,
		name => $name,
		connect => $connect,
		socket => $socket,
		select => IO::Select->new($socket),
		buffer => '',
		busy => 1,
		errors => [],
		result => { rows => [] },
	}, $class;

	my %parameter = (
		user => $opt{user} || scalar(getpwuid($>)),
		database => $opt{dbname} || 'postgres',
		application_name => $name,
		%{ $opt{startup} || {} });
	$self->_send('',
		pack('N', 196608)
		  . join('',
			map { "$_\0$parameter{$_}\0" } grep { defined $parameter{$_} } sort keys %parameter)
		  . "\0");

	if (!defined $opt{wait} || $opt{wait})
	{
		my $error = $self->finish->{error};
		croak "$name cannot log in: $error->{M}" if $error;
	}
	return $self;
}

sub name { return $_[0]->{name}; }
sub node { return $_[0]->{node}; }
sub pid { return $_[0]->{pid}; }
sub closed { return $_[0]->{closed}; }

# The last error the session was sent, by field: C is the SQLSTATE, M the
# message, D the detail, H the hint.
sub error { return $_[0]->{errors}[-1]; }
sub errors { return @{ $_[0]->{errors} }; }

# Send SQL and return at once.
sub start
{
	my ($self, $sql) = @_;

	croak "$self->{name} has not finished its last query" if $self->{busy};
	$self->{result} = { rows => [] };
	if ($self->{closed})
	{
		$self->{result}{error} =
		  { C => '08003', M => 'the connection is closed' };
		return $self;
	}
	$self->{busy} = 1;
	$self->_send('Q', "$sql\0");
	return $self;
}

# Wait for the end of what is under way.  The result has the rows, the tags of
# the commands that were done, the error if there was one, and the notices.
sub finish
{
	my ($self) = @_;

	$self->_wait_for(sub { !$self->{busy} });
	return $self->{result};
}

sub query
{
	my ($self, $sql) = @_;
	return $self->start($sql)->finish;
}

# Like query, but an error ends the test.
sub query_ok
{
	my ($self, $sql) = @_;
	my $result = $self->query($sql);

	croak "$self->{name}: $sql: $result->{error}{M}" if $result->{error};
	return $result;
}

sub rows
{
	my ($self, $sql) = @_;
	return @{ $self->query_ok($sql)->{rows} };
}

# The first column of the first row.
sub value
{
	my ($self, $sql) = @_;
	my @rows = $self->rows($sql);
	return @rows ? $rows[0][0] : undef;
}

# Repeat a query until it returns the value; false when time is up.
sub poll
{
	my ($self, $sql, $expected) = @_;
	my $value;

	$expected = 't' unless defined $expected;
	return 1
	  if LockguardTest::wait_until(
		sub {
			$value = $self->value($sql);
			return defined $value && $value eq $expected;
		});
	Test::More::diag("timed out: $sql\nexpected: $expected\nlast: "
		  . (defined $value ? $value : 'null'));
	return 0;
}

# Wait until the server has closed the connection.
sub wait_closed
{
	my ($self) = @_;
	$self->_wait_for(sub { $self->{closed} });
	return;
}

# Hang up, without a word unless it is a polite goodbye.
sub close
{
	my ($self, %opt) = @_;

	$self->_send('X', '') unless $opt{silent} || $self->{closed};
	$self->{socket}->close;
	$self->{closed} = 1;
	return;
}

# Read what has come, at most so many bytes, waiting at most so long for the
# first.  Returns the number of bytes.
sub read_some
{
	my ($self, $bytes, $seconds) = @_;
	my $n;

	return 0 if $self->{closed} || !$self->{select}->can_read($seconds);
	$n = sysread($self->{socket}, $self->{buffer}, $bytes,
		length $self->{buffer});
	if (!$n)
	{
		$self->{closed} = 1;
		$self->{result}{error} = $self->error
		  || { C => '08006', M => 'server closed the connection' }
		  if $self->{busy};
		$self->{busy} = 0;
		return 0;
	}
	$self->_parse;
	return $n;
}

# Ask for a cancel of what is under way, over a connection of its own, as
# libpq does.
sub cancel
{
	my ($self) = @_;
	my $socket = $self->{connect}->();

	croak "$self->{name} cannot connect: $!" unless $socket;
	syswrite($socket, pack('NN', 8 + length $self->{cancel_key}, 80877102) . $self->{cancel_key});
	sysread($socket, my $nothing, 1);
	return $self;
}

# Send one message of the protocol as it is.
sub send_message
{
	my ($self, $type, $body) = @_;
	$self->_send($type, $body);
	return;
}

sub _send
{
	my ($self, $type, $body) = @_;
	# The server may be gone by now: reading will show it.
	local $SIG{PIPE} = 'IGNORE';
	my $message = $type . pack('N', length($body) + 4) . $body;

	while (length $message)
	{
		my $n = syswrite($self->{socket}, $message);
		last unless $n;
		substr($message, 0, $n) = '';
	}
	return;
}

sub _wait_for
{
	my ($self, $condition) = @_;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

	while (!$condition->())
	{
		croak "$self->{name}: timed out" if time() > $deadline;
		croak "$self->{name}: connection closed" if $self->{closed};
		$self->read_some(65536, 1);
	}
	return;
}

sub _parse
{
	my ($self) = @_;
	my $at = 0;

	while (length($self->{buffer}) - $at >= 5)
	{
		my ($type, $length) = unpack "x$at a N", $self->{buffer};

		last if length($self->{buffer}) - $at < $length + 1;
		# The data of a COPY is of no interest, and there may be a lot.
		$self->_message($type, substr($self->{buffer}, $at + 5, $length - 4))
		  if $type ne 'd';
		$at += $length + 1;
	}
	substr($self->{buffer}, 0, $at) = '';
	return;
}

sub _message
{
	my ($self, $type, $body) = @_;

	if ($type eq 'Z')
	{
		$self->{status} = $body;
		$self->{busy} = 0;
	}
	elsif ($type eq 'K')
	{
		$self->{pid} = unpack 'N', $body;
		$self->{cancel_key} = $body;
	}
	elsif ($type eq 'T')
	{
		$self->{result}{columns} = [ unpack 'n/(Z* x18)', $body ];
	}
	elsif ($type eq 'D')
	{
		my ($columns, @row) = unpack 'n', $body;
		my $at = 2;

		foreach (1 .. $columns)
		{
			my $length = unpack "x$at l>", $body;
			$at += 4;
			push @row, $length < 0 ? undef : substr($body, $at, $length);
			$at += $length if $length > 0;
		}
		push @{ $self->{result}{rows} }, \@row;
	}
	elsif ($type eq 'C')
	{
		# Of each command that was done.
		push @{ $self->{result}{tags} }, unpack 'Z*', $body;
	}
	elsif ($type eq 'E')
	{
		my %field = map { substr($_, 0, 1) => substr($_, 1) } split /\0/, $body;

		# Was something under way that had no answer yet?
		$field{busy} = $self->{busy};
		push @{ $self->{errors} }, \%field;
		$self->{result}{error} = \%field;
	}
	elsif ($type eq 'N')
	{
		push @{ $self->{result}{notices} }, { map { substr($_, 0, 1) => substr($_, 1) } split /\0/, $body };
	}
	elsif ($type eq 'R' && unpack('N', $body) != 0)
	{
		croak "$self->{name}: the tests need trust authentication";
	}
	return;
}

1;
