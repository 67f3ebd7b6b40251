# What pg_stat_activity hides of a session, nothing of lockguard shows: no view,
# no function, no error, no message at any level, in whatever encoding.
#
# Roles that may call every function, one of them a member of pg_signal_backend,
# read all views and call all functions of the extension, as they are found in
# the catalogs.  All that the server sends them is kept and searched.

use strict;
use warnings;

use Encode;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', streaming => 1, conf => <<'CONF');
listen_addresses = '127.0.0.1'
max_prepared_transactions = 5
synchronous_commit = local
synchronous_standby_names = 'nobody'
compute_query_id = on
lockguard.naptime = '20ms'
lockguard.incident_threshold = '50ms'
CONF
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t SELECT i, 0 FROM generate_series(1, 10) i;
CREATE ROLE app LOGIN;
CREATE ROLE sender LOGIN REPLICATION;
CREATE ROLE eyes LOGIN;
CREATE ROLE sig LOGIN IN ROLE pg_signal_backend;
CREATE ROLE stats LOGIN IN ROLE pg_read_all_stats, pg_signal_backend;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA lockguard TO eyes, sig, stats;
GRANT ALL ON t TO app;
ALTER ROLE app SET lockguard.idle_blocker_timeout = '50ms';
ALTER ROLE app SET lockguard.action = 'log';
SQL
my $observer = LockguardTest::Session->new($node, 'observer');
is($observer->value('SHOW server_encoding'), 'UTF8', 'the cluster is UTF8');

# All text that a session is sent.
my %heard;
{
	no warnings 'redefine';
	my $message = \&LockguardTest::Session::_message;
	*LockguardTest::Session::_message = sub {
		my ($self, $type, $body) = @_;
		my $return = $message->(@_);

		$heard{ $self->name } .= join(' ',
			$type eq 'D' ? map { defined $_ ? $_ : '' } @{ $self->{result}{rows}[-1] } : $type =~ /[EN]/ ? split /\0/, $body : '')
		  . "\n";
		return $return;
	};
}

# None of it, or where it is.
sub is_free_of
{
	my ($text, $pattern, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(1, $what) if $text !~ $pattern;
	return ok(0, $what) || diag substr $text, $-[0] > 300 ? $-[0] - 300 : 0, 600;
}

# What no other user may read, in two alphabets; and from where it comes.
my $secret = 'SECRET ' . encode('UTF-8', "\x{442}\x{430}\x{439}\x{43d}\x{430}");

# A session over TCP, so that it has a client address.
sub tcp_session
{
	my ($name, %parameter) = @_;
	local $PostgreSQL::Test::Utils::use_unix_sockets = 0;
	local $node->{_host} = '127.0.0.1';

	return session_with($node, $name, %parameter);
}

# All that the reader may not look at: each is the root of a tree.
my $key = 0;
my %waiter;
my %root;

sub wait_behind
{
	my ($name, $sql) = @_;
	my $w = tcp_session('behind', user => 'app');

	$w->start("$sql /* $secret */");
	is_waiting($observer, $w);
	$waiter{$name} = $w;
	return;
}

# A client, once more with another in the same way.
sub make_client
{
	my ($name, @others) = @_;

	++$key;
	$root{$name} = tcp_session($name, user => 'app');
	foreach ($root{$name}, @others)
	{
		$_->query_ok('BEGIN');
		$_->query_ok("SELECT pg_advisory_xact_lock_shared($key) /* $secret */");
	}
	wait_behind($name, "SELECT pg_advisory_xact_lock($key)");
	return;
}

# A prepared transaction, a walsender, a superuser, and a commit that waits for
# a standby that is not there.
++$key;
{
	my $s = tcp_session('prepares', user => 'app');
	$s->query_ok($_) foreach 'BEGIN', "SELECT pg_advisory_xact_lock($key) /* $secret */", "PREPARE TRANSACTION 'the gid'";
	$s->close;
	wait_behind('prepared', "SELECT pg_advisory_xact_lock($key)");
}
++$key;
$root{walsender} = tcp_session('over there', user => 'sender', replication => 'database');
$root{walsender}->query_ok($_) foreach 'BEGIN', "SELECT pg_advisory_xact_lock($key) /* $secret */";
wait_behind('walsender', "SELECT pg_advisory_xact_lock($key)");
++$key;
$root{super} = tcp_session('super');
$root{super}->query_ok($_) foreach 'BEGIN', "SELECT pg_advisory_xact_lock($key) /* $secret */";
wait_behind('super', "SELECT pg_advisory_xact_lock($key)");
$root{commit} = tcp_session('commit', user => 'app');
$root{commit}->query_ok('SET synchronous_commit = on');
$root{commit}->start("BEGIN; UPDATE t SET v = 1 WHERE id = 1 /* $secret */; COMMIT");
ok($observer->poll("SELECT coalesce(max(wait_event), '') FROM pg_stat_activity WHERE pid = " . $root{commit}->pid, 'SyncRep'),
	'a commit waits for a standby');
wait_behind('commit', 'UPDATE t SET v = 2 WHERE id = 1');

# The relations and functions there are.
my @relations = map { $_->[0] } $observer->rows(
	q(SELECT relname FROM pg_class WHERE relnamespace = 'lockguard'::regnamespace AND relkind IN ('v', 'm', 'r', 'f', 'p') ORDER BY 1));
my @functions = $observer->rows(
	q(SELECT proname, array_to_string(ARRAY(SELECT t::regtype FROM unnest(proargtypes) t), ',') FROM pg_proc
	WHERE pronamespace = 'lockguard'::regnamespace ORDER BY proname LIKE 'reset%', 1));
cmp_ok(scalar @relations, '>=', 8, 'the views');
cmp_ok(scalar @functions, '>=', 20, 'the functions');

# The columns of pg_stat_activity that are hidden from a role, by what others see.
sub hidden_columns
{
	my ($reader) = @_;
	my $sql = 'SELECT to_jsonb(a) FROM pg_stat_activity a WHERE pid = ' . $waiter{super}->pid;
	my ($shown, $all) = map { JSON::PP->new->decode($_->value($sql)) } $reader, $observer;

	return grep { defined $all->{$_} && (!defined $shown->{$_} || $shown->{$_} ne $all->{$_}) } sort keys %$all;
}

# Rows as JSON: of whom each is, and whether anything hidden shows.
sub check_rows
{
	my ($reader, $from, @hidden) = @_;
	my %hidden = map { ($_ => 1, $_ eq 'query_id' ? (queryid => 1) : ()) } @hidden;
	my $result = $reader->query("SELECT to_jsonb(x) FROM lockguard.$from x");
	my @bad;

	return $result->{error} if $result->{error};
	foreach my $row (map { $_->[0] } @{ $result->{rows} })
	{
		my $x = defined $row ? eval { JSON::PP->new->decode($row) } : undef;
		my $pid;

		next unless ref $x eq 'HASH' && exists $x->{usename};
		next if defined $x->{usename} && $x->{usename} eq $reader->name;
		$pid = defined $x->{pid} ? $x->{pid} : $x->{root_pid};
		foreach my $column (grep { $hidden{$_} && defined $x->{$_} && $x->{$_} ne '<insufficient privilege>' } sort keys %$x)
		{
			# All users can see prepared transactions, in pg_prepared_xacts.
			push @bad, "$column of $row" unless $column eq 'backend_type' && defined $pid && $pid == 0;
		}
	}
	is_deeply(\@bad, [], $reader->name . ": no hidden column of $from") if @bad;
	return;
}

# What a function can be called with.
sub arguments
{
	my ($types) = @_;
	my %values = (
		'integer' => [ map { $_->pid } map { $_ ? $_ : () } values %root, values %waiter ],
		'bigint' => [ map { $_->[0] } $observer->rows('SELECT incident_id FROM lockguard.incidents') ],
		'interval' => [q('1us')],
		'text' => ["'blocker_timeout'"]);
	my @calls = ('');

	foreach my $type (split /,/, $types)
	{
		die "arguments of type $type" unless $values{$type};
		@calls = map { my $call = $_; map { ($call eq '' ? '' : "$call, ") . $_ } @{ $values{$type} } } @calls;
	}
	return @calls;
}

my $recorded = 'SELECT count(*) || \' \' || coalesce(max(action_id), 0) FROM lockguard.actions WHERE requested_by IS NOT NULL';
my $counted = q(SELECT coalesce(string_agg(concat_ws(' ', action, actions), ', ' ORDER BY action), '') FROM lockguard.action_counts WHERE limit_name IS NULL);

# A session of that role reads and calls everything.
sub look_around
{
	my ($role, $level, $encoding) = @_;
	my $reader = session($node, $role, user => $role);
	my @hidden = hidden_columns($reader);
	my $what = "$role, $level, $encoding";
	my $offset = -s $node->logfile;
	my %refused;

	# A session that is recorded, kept, and over a limit; and two in the same way,
	# of which one may not be signalled.
	make_client('client');
	make_client('shared', $root{super});
	ok($observer->poll('SELECT count(*) > 0 FROM lockguard.incidents WHERE root_pid = ' . $root{client}->pid), "$what: an incident is kept");
	ok($observer->poll('SELECT count(*) > 0 FROM lockguard.actions WHERE pid = ' . $root{client}->pid), "$what: and an action");

	$reader->query_ok("SET client_encoding = '$encoding'");
	$reader->query_ok("SET client_min_messages = '$level'");
	$heard{$role} = '';
	foreach my $relation (@relations)
	{
		my $error = check_rows($reader, $relation, @hidden);

		is($error && $error->{M}, undef, "$what: $relation") if $error;
		$reader->query("SELECT x::text FROM lockguard.$relation x");
	}
	my $shown = $heard{$role};
	# Whose description of a setting has the word.
	my $states = $shown =~ s/Terminate a session that has been idle in transaction this long\.//gr;

	$heard{$role} = '';
	foreach my $function (@functions)
	{
		my ($name, $types) = @$function;

		# The one that may not be signalled comes first, so that there is a tree.
		next if $name =~ /^(?:cancel|rollback|terminate)_blockers$/;
		check_rows($reader, "$name($_)", @hidden) foreach arguments($types);
		$reader->query("SELECT lockguard.$name($_)") foreach arguments($types);
	}
	my $before = join ' ', map { $observer->value($_) } $recorded, $counted;
	foreach my $function (grep { $_->[0] =~ /^(?:cancel|rollback|terminate)_blockers$/ } @functions)
	{
		foreach my $whom ('prepared', 'super', 'shared', $role eq 'eyes' ? ('walsender', 'commit', 'client') : ())
		{
			my $result = $reader->query("SELECT lockguard.$function->[0](" . $waiter{$whom}->pid . ')');

			is($result->{error} && $result->{error}{C}, '42501', "$what: $function->[0] behind $whom is refused");
		}
	}
	is(join(' ', map { $observer->value($_) } $recorded, $counted), $before, "$what: of what is refused nothing is recorded or counted");
	unlike(slurp_file($node->logfile, $offset), qr/asked for by user/, "$what: nor logged");

	if ($role ne 'eyes')
	{
		foreach my $whom ('walsender', 'commit')
		{
			is($reader->value('SELECT lockguard.terminate_blockers(' . $waiter{$whom}->pid . ')'), '{}', "$what: $whom is protected");
			is($reader->value("SELECT lockguard.${_}_blockers(" . $waiter{$whom}->pid . ')'), '{}', "$what: $whom is protected") foreach 'cancel', 'rollback';
		}
		my $pid = $root{client}->pid;
		is($reader->value('SELECT lockguard.terminate_blockers(' . $waiter{client}->pid . ')'), "{$pid}", "$what: a client is terminated");
		$root{client}->wait_closed;
		succeeds($waiter{client}, 'its waiter');
		like(slurp_file($node->logfile, $offset), qr/LOG:  lockguard: terminated process $pid .*asked for by user "$role"\n.*Its query: [^\n]*$secret/,
			"$what: which is in the log");
	}
	$shown .= $heard{$role};
	$states .= $heard{$role};
	$reader->close;

	# All go, but for those that stay for the next.
	foreach (map { delete $root{$_} } 'client', 'shared')
	{
		$_->query('COMMIT') unless $_->closed;
		$_->close;
	}
	$root{super}->query_ok($_) foreach 'COMMIT', 'BEGIN', "SELECT pg_advisory_xact_lock($key) /* $secret */";
	foreach (map { delete $waiter{$_} } 'client', 'shared')
	{
		$_->finish;
		$_->close;
	}
	succeeds(delete $waiter{super}, 'the waiter');
	wait_behind('super', "SELECT pg_advisory_xact_lock($key)");
	return ($shown, $states);
}

my $words = qr/idle in transaction|ClientRead|SyncRep|\(Lock: |walsender|can no longer be undone/;

foreach my $level (qw(debug5 debug4 debug3 debug2 debug1 log notice warning error))
{
	foreach my $role ('eyes', 'sig')
	{
		foreach my $encoding ('UTF8', 'LATIN1')
		{
			my ($shown, $states) = look_around($role, $level, $encoding);
			my $what = "$role, $level, $encoding";

			is_free_of($shown, qr/SECRET/, "$what: no query");
			is_free_of($shown, qr/[\x80-\xff]|22P05/, "$what: nor what cannot be converted");
			is_free_of($shown, qr/127\.0\.0\.1/, "$what: no client address");
			is_free_of($states, $words, "$what: no state or kind");
		}
	}
}

# A role that may see all of it is shown all.
my ($shown) = look_around('stats', 'log', 'UTF8');
like($shown, qr/$_/, "a member of pg_read_all_stats is shown $_") foreach $secret, '127\.0\.0\.1', qr/idle in transaction/, 'ClientRead', 'SyncRep',
  'walsender', 'can no longer be undone';

$node->stop('immediate');
done_testing();
