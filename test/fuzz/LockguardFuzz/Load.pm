# The load: sessions of roles with random limits, each of a character of its
# own, that get into each other's way.

package LockguardFuzz::Load;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use List::Util qw(max min);
use LockguardFaults qw(child_pid);
use LockguardFuzz::Duel qw(duel_tables duel_roles next_in_duel);
use LockguardFuzz::Freeze qw(freeze thaw);
use LockguardFuzz::Ledger
  qw(ledger_tables banker_roles new_entry note_answer note_unanswered gid_to_finish);
use LockguardTest;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT_OK = qw(make_tables make_roles run_load %priority @time_limits
  DEADLOCK_TIMEOUT PREPARED_TIMEOUT NAPTIME SHORTEST_TIMEOUT);

# As in the configuration of the server (s).
use constant DEADLOCK_TIMEOUT => 0.1;
use constant PREPARED_TIMEOUT => 0.6;
use constant NAPTIME => 1;
# No wait ends earlier by a timeout of its own.
use constant SHORTEST_TIMEOUT => 0.05;
# How many rows, keys and tables there are to besiege.
use constant FORTS => 30;
use constant FORT_TABLES => 4;

our @time_limits = qw(idle_blocker_timeout blocker_timeout
  queued_blocker_timeout lock_wait_timeout transaction_timeout
  idle_in_transaction_timeout statement_timeout idle_session_timeout);
our %priority = (low => 0, normal => 1, high => 2);

sub pick { return $_[ rand @_ ]; }

sub make_tables
{
	my ($admin) = @_;

	$admin->query_ok($_) foreach (
		'CREATE TABLE hot (id int PRIMARY KEY, v int) WITH (parallel_workers = 0)',
		'INSERT INTO hot SELECT i, 0 FROM generate_series(1, 40) i',
		(map { "CREATE TABLE $_ (id int, v int) WITH (parallel_workers = 0)" } (map { "t$_" } 1 .. 6)),
		'INSERT INTO t1 VALUES (1, 0)',
		'INSERT INTO hot SELECT i, 0 FROM generate_series(61, ' . (60 + FORTS) . ') i',
		(map { "CREATE TABLE fort$_ (id int) WITH (parallel_workers = 0)" } 1 .. FORT_TABLES),
		'CREATE TABLE target (id int)',
		ledger_tables(),
		duel_tables(),
		# Its workers wait for t1, too.
		'CREATE TABLE large WITH (parallel_workers = 2, fillfactor = 10) AS SELECT i AS id FROM generate_series(1, 200) i',
		'CREATE FUNCTION peek(int) RETURNS int PARALLEL SAFE LANGUAGE plpgsql'
		  . ' AS $$ BEGIN RETURN (SELECT count(*) FROM t1); END $$',
		'GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC',
		'CREATE FUNCTION ddl(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER'
		  . ' AS $$ BEGIN EXECUTE $1; END $$',
		# Survives a first cancel, with all its locks.
		'CREATE FUNCTION stubborn(float8) RETURNS void LANGUAGE plpgsql AS $$'
		  . ' BEGIN PERFORM pg_sleep($1);'
		  . ' EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep($1); END $$');
	return;
}

# Roles with random settings.  Each limit is set for some role alone, so that
# nothing else can be the reason for what happens to its sessions; and there
# is a crowd to whom nothing may happen.
sub make_roles
{
	my ($load, $admin) = @_;
	my $ms = sub { 100 + int rand 300 };
	my @roles;

	push @roles, { $_ => $ms->() } foreach @time_limits, grep { /blocker/ } @time_limits;
	push @roles, { max_blocked_sessions => $_ + int rand 3 } foreach 1, 2, 3;
	push @roles, { max_locks => 5 + int rand 20 } foreach 1, 2;
	push @roles, { max_xmin_age => 50 + int rand 100 };
	push @roles, { preempt_timeout => $ms->(), priority => $_ } foreach qw(normal high);
	push @roles, { priority => 'low' };
	foreach my $treatment ({ exempt => 'on' }, { action => 'log' }, { action => 'cancel' }, { action => 'rollback' }, {})
	{
		my %set = %$treatment;

		foreach my $limit (@time_limits)
		{
			$set{$limit} = $ms->() if rand() < ($limit =~ /blocker/ ? 0.5 : 0.25);
		}
		$set{max_blocked_sessions} = 1 + int rand 5 if rand() < 0.5;
		$set{priority} = pick(qw(low normal high)) if rand() < 0.5;
		push @roles, \%set;
	}
	push @roles, duel_roles() if $load->{parts}{deadlocks};
	push @roles, banker_roles() if $load->{parts}{commits};
	push @roles, { name => 'crowd' };
	foreach my $i (0 .. $#roles)
	{
		my $role = $roles[$i];
		my $server = $role->{server} || {};

		$role->{escalation_delay} = 100 + int rand 400;
		$role->{name} ||= "role$i";
		$admin->query_ok("CREATE ROLE $role->{name} LOGIN");
		$admin->query_ok("GRANT owners TO $role->{name}") if ($role->{character} || '') eq 'banker';
		foreach my $name (grep { !/^(?:name|character|server)$/ } sort keys %$role)
		{
			$admin->query_ok("ALTER ROLE $role->{name} SET lockguard.$name = '$role->{$name}'");
		}
		$admin->query_ok("ALTER ROLE $role->{name} SET $_ = '$server->{$_}'") foreach sort keys %$server;
		$role->{action} ||= 'terminate';
		$role->{priority} ||= 'normal';
		$role->{oid} = $admin->value("SELECT '$role->{name}'::regrole::oid");
		note join ' ', "$role->{name}:",
		  (map { "$_=$role->{$_}" } grep { !/^(name|oid|server)$/ } sort keys %$role),
		  map { "$_=$server->{$_}" } sort keys %$server;
	}
	return \@roles;
}

# How sessions behave, and which are the most interesting for a limit.
my @characters = (('hasty') x 6, ('dreamer') x 4, ('sleeper') x 4, ('migrator') x 2, 'preparer', ('reporter') x 3);

sub character_of
{
	my ($role) = @_;

	return $role->{character} if $role->{character};
	return 'hoarder' if $role->{max_locks} && rand() < 0.8;
	return pick(qw(dreamer sleeper)) if $role->{max_xmin_age} && rand() < 0.8;
	return pick(qw(dreamer dreamer sleeper))
	  if ($role->{idle_blocker_timeout} || $role->{blocker_timeout}) && rand() < 0.5;
	return 'migrator' if $role->{queued_blocker_timeout} && rand() < 0.5;
	return pick(@characters);
}

sub role_of_next
{
	my ($load) = @_;
	my $roles = $load->{roles};

	foreach my $character (qw(duelist banker))
	{
		my @own = grep { ($_->{character} || '') eq $character } @$roles;

		return pick(@own) if @own && rand() < 0.17;
	}
	my @others = grep { !$_->{character} } @$roles;

	# The crowd waits patiently: there is no tree without it.
	return rand() < 0.3 ? $roles->[-1] : pick(@others, grep { grep { /blocke[rd]/ } keys %$_ } @others);
}

# Half of the ordinary clients give up before the limits are passed that they make
# others pass; some of the rest do later.
sub timeouts_of
{
	my ($role) = @_;

	return (0, 0) if $role->{character};
	return (60 + int rand 40, 0) if rand() < 0.5;
	return (0, 80 + int rand 320) if rand() < 0.35;
	return ($role->{name} ne 'crowd' && rand() < 0.3 ? 200 + int rand 800 : 0, 0);
}

sub connect_one
{
	my ($load) = @_;
	my $role = role_of_next($load);
	my ($lock_timeout, $statement_timeout) = timeouts_of($role);
	my $session = eval {
		my $new = LockguardTest::Session->new($load->{node}, 'load', user => $role->{name});

		# It may be hit already, on a busy machine.
		push @{ $load->{all} }, $new;
		$load->{by_pid}{ $new->pid } = $new;
		@{$new}{qw(role signals sent)} = ($role, [], 0);
		$new->query_ok("SET lock_timeout = $lock_timeout");
		$new->query_ok("SET statement_timeout = $statement_timeout") if $statement_timeout;
		# Its commits wait for a standby when there is to be one.
		$new->query_ok('SET synchronous_commit = on')
		  if $load->{parts}{commits} && !$statement_timeout && rand() < (($role->{character} || '') eq 'banker' ? 0.6 : 0.1);
		$new;
	};

	if (!$session)
	{
		note_errors($load, $load->{all}[-1]) if @{ $load->{all} || [] };
		return;
	}
	$session->{due} = time();
	# Else those with the harmless limits would soon be the only ones left.
	$session->{until} = time() + 1 + rand 6;
	$session->{character} = character_of($role);
	# By a timeout it may be told of something as cancelled that is done.
	$session->{character} = 'hasty' if $statement_timeout && $session->{character} eq 'preparer';
	@{$session}{qw(impatient timeout)} = ($lock_timeout && $lock_timeout < 100 || $statement_timeout, $statement_timeout / 1000);
	return $session;
}

# Have other sessions do this when they have nothing else to do.
sub call_for
{
	my ($load, @sql) = @_;

	push @{ $load->{called} }, map { { sql => $_, until => time() + 0.5 } } @sql;
	return;
}

sub answer_a_call
{
	my ($load) = @_;
	my $called = $load->{called} ||= [];

	@$called = grep { $_->{until} > time() } @$called;
	return @$called ? (shift @$called)->{sql} : undef;
}

# What a session is to hold for some time ("hold") while others, which give up
# soon, want it again and again; sometimes another session holds it ("too"), and
# sometimes one waits for it in between ("middle").
sub fort
{
	my ($with_middle) = @_;
	my $i = 1 + int rand FORTS;
	my $fort = 'fort' . (1 + int rand FORT_TABLES);
	my $row = 'WHERE id = ' . (60 + $i);
	my $lock = 'SELECT pg_advisory';
	my $key = 3000 + $i;

	return pick(
		({ hold => "${lock}_xact_lock_shared($key)", middle => "${lock}_xact_lock($key)", want => "${lock}_xact_lock_shared($key)" }) x 2,
		{ hold => "SELECT count(*) FROM $fort", middle => "TRUNCATE $fort", want => "SELECT count(*) FROM $fort" })
	  if $with_middle;
	return pick(
		{ hold => "UPDATE hot SET v = v + 1 $row", want => "UPDATE hot SET v = v + 1 $row" },
		{ hold => "${lock}_xact_lock($key)", want => "${lock}_xact_lock($key)" },
		{ hold => "${lock}_lock($key)", want => "${lock}_xact_lock_shared($key)" },
		{ hold => "LOCK TABLE $fort", want => "SELECT count(*) FROM $fort" },
		{ hold => "SELECT FROM hot $row FOR SHARE", too => "SELECT FROM hot $row FOR SHARE", want => "UPDATE hot SET v = v + 1 $row" },
		{ hold => "${lock}_xact_lock_shared($key)", too => "${lock}_xact_lock_shared($key)", want => "${lock}_xact_lock($key)" },
		{ hold => "LOCK TABLE $fort IN SHARE MODE", too => "LOCK TABLE $fort IN SHARE MODE", want => "INSERT INTO $fort VALUES (1)" });
}

# Have others want what a session of this role will hold, for as long as it does.
# Some come again at once, some after a pause that is shorter than the limits, or
# longer.  Returns the statement that takes it, and for how long.
sub besiege
{
	my ($load, $role) = @_;
	my $most = $role->{max_blocked_sessions};
	my $limit = ($role->{idle_blocker_timeout} || $role->{blocker_timeout} || 0) / 1000;
	my $with_middle = !$limit && !$most && rand() < 0.8;
	my $fort = fort($with_middle);
	my $long = ($with_middle ? 2 : 1) + rand 3;
	my $now = time() + 0.02;
	my ($pause, $n, $who) = @{
		pick(
			([ 0, 2 + int rand 3, 'impatient' ]) x 2,
			[ $limit * (0.1 + rand 0.5), 1 + int rand 2, 'hasty' ],
			[ $limit * 1.15 + rand 0.1, 1, 'hasty' ])
	};
	my $sieges = $load->{sieges} ||= [];

	$long += 1 if !$pause;
	# Time for enough of them, if time between them counted.
	$long = max($long, min(5, ($pause + 0.1) * (2 + $limit / 0.06))) if $pause > $limit;
	($pause, $n, $who) = (0, $most + int rand 3, 'slow') if $most && rand() < 0.7;
	my %one = (from => $now, until => $now + $long);

	if ($with_middle)
	{
		push @$sieges, { %one, sql => $fort->{middle}, who => 'middle', once => 0, until => $now + $long / 2 };
		$pause = rand 0.02;
		@one{qw(from goes_on)} = ($now + 0.1, 1);
	}
	push @$sieges, { %one, sql => "BEGIN; $fort->{too}", who => 'patient', once => $long * (0.3 + rand), until => $now + 0.3 }
	  if $fort->{too} && rand() < 0.6;
	# There are not enough for all: the longest pauses are the rarest, so they come first.
	unshift @$sieges, map { { %one, sql => $fort->{want}, who => $who, pause => $pause } } 1 .. $n;
	@$sieges = sort { ($b->{pause} || 0) <=> ($a->{pause} || 0) } @$sieges;
	# Some go on waiting.
	push @$sieges, { %one, sql => $fort->{want}, who => 'patient', once => 0 } if !$pause && rand() < ($most ? 0.8 : 0.2);
	return ($fort->{hold}, $long);
}

# For what is it fit?
sub _is_fit
{
	my ($session, $who) = @_;

	return $session->{timeout} > 0.12 if $who eq 'slow';
	return $session->{impatient} if $who eq 'impatient';
	return $session->{impatient} && !$session->{timeout} if $who eq 'hasty';
	# The one in the middle is the one to be removed.
	return 0 if $session->{impatient} || $who eq 'middle' && !$session->{role}{queued_blocker_timeout} && rand() < 0.9;
	return 1;
}

# What a session does that takes part in a siege; undef if in none.
sub next_in_siege
{
	my ($load, $session) = @_;
	my $sieges = $load->{sieges} ||= [];
	my $siege = delete $session->{siege};

	@$sieges = grep { $_->{until} > time() } @$sieges;
	# Who gets it has no more to do there.
	undef $siege if $siege && ($siege->{until} <= time() || !$session->{failed} && !$siege->{goes_on} && rand() < 0.8);
	if (!$siege && @$sieges && rand() < 0.9)
	{
		($siege) = grep { $_->{from} <= time() && _is_fit($session, $_->{who}) } @$sieges;
		@$sieges = grep { $_ != $siege } @$sieges if $siege;
	}
	return unless $siege;
	$session->{think} = defined $siege->{once} ? $siege->{once} : $siege->{pause};
	$session->{siege} = $siege unless defined $siege->{once};
	return $siege->{sql};
}

# The beginning of a transaction, which most write a number in.
sub begin
{
	my ($load, $session, $how) = @_;

	return "BEGIN$how" if rand() < 0.3 && $session->{character} !~ /^(?:banker|preparer)$/;
	return "BEGIN$how; INSERT INTO ledger VALUES (" . new_entry($load) . ')';
}

# Something that others want, too.
sub want
{
	my $id = 1 + int rand 40;
	my $t = pick((map { "t$_" } 1 .. 6));

	return pick(
		("UPDATE hot SET v = v + 1 WHERE id = $id") x 5,
		"SELECT FROM hot WHERE id = $id FOR " . pick('UPDATE', 'SHARE', 'KEY SHARE'),
		'SELECT pg_advisory_xact_lock' . pick('', '_shared') . "($id)",
		'SELECT pg_advisory_lock' . pick('', '_shared') . "($id)",
		"SELECT count(*) FROM $t",
		"INSERT INTO $t VALUES ($id, 1)",
		"LOCK TABLE $t IN "
		  . pick('SHARE', 'ROW EXCLUSIVE', 'SHARE UPDATE EXCLUSIVE', 'ACCESS EXCLUSIVE', 'ACCESS SHARE')
		  . ' MODE');
}

sub change_table
{
	my $t = pick('t1', map { "t$_" } 1 .. 6);

	return pick("SELECT ddl('ALTER TABLE $t ALTER v SET DEFAULT 1')", "TRUNCATE $t", "LOCK TABLE $t");
}

# Mostly about as long as the limits are.  If nothing else would end it, it has
# to be long enough to be noticed.
sub a_while
{
	my ($role) = @_;

	return 1.5 + rand 2.5 if $role->{blocker_timeout} && rand() < 0.6;
	return rand() < 0.7 ? 0.1 + rand 0.5 : 0.5 + rand 2;
}

sub prepare_transaction
{
	my ($load) = @_;
	return "PREPARE TRANSACTION 'g" . ++$load->{gids} . "'";
}

# Short transactions, whose commits take long.
sub next_of_banker
{
	my ($load, $session) = @_;
	my $key = 2001 + int rand 10;

	$session->{think} = rand 0.1;
	if ($session->{status} eq 'I')
	{
		my $gid = rand() < 0.7 ? gid_to_finish($load, $session) : undef;

		if ($gid && !$session->{locked} && rand() < 0.4)
		{
			# What it has of its own blocks others meanwhile.
			push @{ $load->{to_finish}{ $session->{role}{name} } }, { gid => $gid, at => 0 };
			$session->{locked} = 1;
			call_for($load, ("SELECT pg_advisory_xact_lock_shared($key)") x 3);
			return "SELECT pg_advisory_lock($key)";
		}
		return pick('COMMIT', 'COMMIT', 'ROLLBACK') . " PREPARED '$gid'" if $gid;
		if (delete $session->{locked})
		{
			$session->{think} = 0.3 + rand 0.5;
			return 'SELECT pg_advisory_unlock_all()';
		}
		return pick(
			(begin($load, $session, '')) x 12,
			'INSERT INTO ledger VALUES (' . new_entry($load) . ')',
			'CALL two_entries(' . join(', ', map { new_entry($load) } 1, 2) . ')',
			pick('VACUUM vault', 'CREATE INDEX CONCURRENTLY IF NOT EXISTS vault_v ON vault (v)',
				'DROP INDEX CONCURRENTLY IF EXISTS vault_v'));
	}
	if ($session->{did} == 1)
	{
		my $sql = pick(
			'UPDATE hot SET v = v + 1 WHERE id = ' . (1 + int rand 40),
			"SELECT pg_advisory_xact_lock($key)",
			'UPDATE vault SET v = v + 1 WHERE id = ' . (1 + int rand 20),
			'LOCK TABLE t' . (1 + int rand 6) . ' IN SHARE UPDATE EXCLUSIVE MODE');

		$session->{works} = rand() < ($session->{role}{blocker_timeout} ? 0.8 : 0.5);
		$session->{think} = rand 0.01 if $session->{works};
		call_for($load, ($sql) x ($session->{works} ? 3 : int rand 4));
		return $sql;
	}
	if (delete $session->{works})
	{
		# It is at work when a limit is passed, and commits just then.
		$session->{think} = 0;
		my $limit = $session->{role}{blocker_timeout};

		return 'SELECT pg_sleep(' . ($limit && rand() < 0.7 ? $limit / 1000 - 0.03 + rand 0.06 : 0.05 + rand 0.3) . ')';
	}
	return pick((prepare_transaction($load)) x 5, ('COMMIT') x 3, 'ROLLBACK');
}

# What a session does next, and for how long it thinks afterwards; undef: it
# waits for others.
sub next_statement
{
	my ($load, $session) = @_;
	my $character = $session->{character};

	$session->{think} = rand() < 0.1 ? rand 2 : rand 0.05;
	if ($session->{status} eq 'E')
	{
		return pick('ROLLBACK', 'ROLLBACK', 'ROLLBACK TO s', 'COMMIT');
	}
	$session->{did}++;
	$session->{did} = 0 if $session->{status} eq 'I';
	return next_in_duel($load, $session) if $character eq 'duelist';
	if ($session->{status} eq 'I')
	{
		my $called = $session->{siege} || rand() < 0.3 ? undef : answer_a_call($load);

		return $called if $called;
		my $wanted = $character eq 'banker' ? undef : next_in_siege($load, $session);

		return $wanted if $wanted;
	}
	return next_of_banker($load, $session) if $character eq 'banker';
	if ($session->{status} eq 'I')
	{
		my $gid = $session->{timeout} ? undef : gid_to_finish($load, $session);

		$session->{think} = rand 1 if $session->{role}{idle_session_timeout} && rand() < 0.3;
		return pick('COMMIT', 'ROLLBACK') . " PREPARED '$gid'" if $gid;
		return change_table() if $character eq 'migrator' && rand() < 0.6;
		return pick(
			(begin($load, $session, '')) x 8,
			(begin($load, $session, ' ISOLATION LEVEL REPEATABLE READ')) x 2,
			want(), want(),
			('SELECT pg_advisory_unlock_all()') x 2,
			change_table());
	}

	# In a transaction.
	my $limited = grep { $session->{role}{$_} } qw(idle_blocker_timeout blocker_timeout max_blocked_sessions);

	return 'SAVEPOINT s' if rand() < 0.1;
	if ($character eq 'dreamer')
	{
		if ($session->{did} == 1 && rand() < ($limited ? 0.5 : 0.3))
		{
			(my $hold, $session->{think}) = besiege($load, $session->{role});
			$session->{did} = 2;
			return $hold;
		}
		$session->{think} = a_while($session->{role}) if $session->{did} == 2;
		return pick(qw(COMMIT ROLLBACK)) if $session->{did} > 2;
		return want();
	}
	if ($character eq 'sleeper')
	{
		if ($session->{did} == 1 && rand() < ($limited ? 0.5 : 0.2))
		{
			(my $hold, $session->{sleep}) = besiege($load, $session->{role});
			$session->{did} = 2;
			return $hold;
		}
		return want() if $session->{did} <= 2;
		my $besieged = delete $session->{sleep};

		return "SELECT pg_sleep($besieged)" if $besieged && $session->{did} == 3;
		return 'SELECT ' . pick(qw(pg_sleep stubborn stubborn)) . '(' . a_while({}) . ')' if $session->{did} == 3;
		return pick(qw(COMMIT ROLLBACK));
	}
	if ($character eq 'migrator')
	{
		return pick(change_table(), want(), 'COMMIT');
	}
	if ($character eq 'hoarder')
	{
		my $n = 3 + int rand 40;

		$session->{think} = 0.2 + rand 2 if $session->{did} == 3;
		return 'COMMIT' if $session->{did} > 3;
		return want() if rand() < 0.3;
		return "SELECT pg_advisory_xact_lock(pg_backend_pid(), i) FROM generate_series(1, $n) i";
	}
	if ($character eq 'preparer' && $session->{did} > 2)
	{
		$session->{think} = rand 1.5;
		return prepare_transaction($load);
	}
	if ($character eq 'reporter' && rand() < 0.6)
	{
		return 'SELECT sum(peek(id)) FROM large';
	}
	return pick(
		want(), want(), want(), want(),
		('ROLLBACK TO s') x 2,
		change_table(),
		('SELECT pg_advisory_unlock_all()') x 2,
		'SELECT pg_sleep(' . (rand() < 0.3 ? rand 1.2 : rand 0.1) . ')',
		rand() < 0.3 ? 'SELECT 1 / 0' : 'SELECT 1',
		'COPY target FROM STDIN',
		('COMMIT') x 5,
		('ROLLBACK') x 2);
}

sub step
{
	my ($load, $session) = @_;

	if ($session->{copying})
	{
		$session->{think} = rand 0.05;
		$session->send_message('c', '');
		delete $session->{copying};
		return;
	}
	if ($session->{status} eq 'I')
	{
		$load->{transactions}++;
		if (time() > $session->{until})
		{
			$session->{leaves} = 1;
			return;
		}
	}
	my $sql = next_statement($load, $session);

	if (!defined $sql)
	{
		$session->{due} = time() + 0.01;
		delete $session->{think};
		return;
	}
	delete $session->{refused} if $session->{status} eq 'I';
	$session->{status_sent} = $session->{status};
	$session->{sent} = time();
	push @{ $session->{statements} }, [ $session->{sent}, $sql ];
	$session->start($sql);
	$session->{copying} = 1 if $sql =~ /^COPY/;
	$session->{under_way} = 1;
	delete $session->{failed};
	# How a prepared transaction may come to its end without us.
	$load->{finishing}{$1} = { begin => $session->{sent}, goes_on => 1 }
	  if $sql =~ /^(?:COMMIT|ROLLBACK) PREPARED '(\w+)'/;
	return;
}

# Is there an answer to its last statement?  Of one that is gone, the last.
sub note_end
{
	my ($load, $session) = @_;
	my @tags = @{ $session->{result}{tags} || [] };
	my $statement = $session->{statements}[-1];

	return if !$session->{under_way} || $session->{busy} && !$session->{closed};
	delete $session->{under_way};
	push @$statement, time(), @tags;
	note_answer($load, $session, $statement->[1], $session->{failed}, @tags);
	return;
}

# Collect what a session was told about the signals it got.
sub note_errors
{
	my ($load, $session) = @_;

	while (my $error = shift @{ $session->{errors} })
	{
		my $timed_out = $error->{C} eq '57014' && $error->{M} =~ /statement timeout/;

		# It is told again with each statement until it rolls back.
		my $refused = ($error->{D} || '') =~ /^lockguard: the transaction was rolled back/;

		push @{ $session->{signals} }, { %$error, at => time(), sent => $session->{sent} }
		  if $error->{C} eq '57P01' || $error->{C} eq '57014' && !$timed_out || $refused && !$session->{refused};
		$session->{refused} = 1 if $refused;
		push @{ $session->{timed_out} }, [ $session->{sent} + $session->{timeout} - 0.01, time() ] if $timed_out;
		$load->{gave_up}++ if $timed_out || $error->{C} eq '55P03';
		$load->{deadlocks}++ if $error->{C} eq '40P01';
		# What has ended its wait, perhaps.
		push @{ $session->{gave_up} }, time() if $error->{C} =~ /^(?:40P01|55P03|57014)$/;
		$session->{failed} = $error;
		# A COPY that never began, or has ended.
		delete $session->{copying};
	}
	while (my $notice = shift @{ $session->{result}{notices} })
	{
		if ($notice->{M} =~ /^deadlock at ([\d.]+)/)
		{
			push @{ $session->{caught} }, $1;
			push @{ $session->{gave_up} }, $1;
			$load->{deadlocks}++;
		}
		push @{ $load->{cut_short} }, { pid => $session->pid, sql => $session->{statements}[-1][1], message => $notice->{M} }
		  if $notice->{M} =~ /^canceling (?:the )?wait for synchronous replication/;
	}
	return;
}

# Now and then no session may be signalled for a moment: when that is over, there
# are several over their limits in one tree at once.
sub pause_or_resume
{
	my ($load, $admin) = @_;
	my $pause = $load->{pauses}[-1];
	my $before = time();

	if ($pause && !defined $pause->{resumed})
	{
		$admin->query_ok('SELECT lockguard.resume()');
		@{$pause}{qw(resuming resumed)} = ($before, time());
		$load->{pause_due} = time() + 1 + rand 2;
	}
	else
	{
		$admin->query_ok("SELECT lockguard.pause('1h')");
		push @{ $load->{pauses} }, { pausing => $before, paused => time() };
		$load->{pause_due} = time() + 0.4 + rand 0.5;
	}
	return;
}

# Now and then commits wait for a standby that does not come, if they want one.
sub want_standby
{
	my ($load, $admin, $want) = @_;

	$admin->query_ok("ALTER SYSTEM SET synchronous_standby_names = '" . ($want ? 'nosuch' : '') . "'");
	$admin->query_ok('SELECT pg_reload_conf()');
	$load->{standby} = $want;
	$load->{standby_due} = time() + ($want ? 0.3 + rand 1 : 0.5 + rand 2);
	return;
}

# Now and then the server is frozen; clients are not.  The worker continues
# first in most cases: it is the one that must not be deceived.
sub freeze_or_thaw
{
	my ($load) = @_;
	my $now = time();

	if (my $freeze = $load->{frozen})
	{
		thaw($freeze, $freeze->{first});
		push @{ $load->{freezes} }, $freeze;
		undef $load->{frozen};
		$load->{freeze_due} = $now + 4 + rand 6;
		$load->{until} += $now - $freeze->{stopping};
	}
	else
	{
		my $worker = rand() < 0.7 ? child_pid($load->{node}, 'lockguard') : undef;

		$load->{frozen} = freeze($load->{node});
		$load->{frozen}{first} = $worker;
		$load->{freeze_due} = $now + 1.5 + rand 2.5;
	}
	return;
}

# Run it.  In $load: node, roles, seconds, sessions, parts; and afterwards
# by_pid, all, pauses, freezes, end and what has been counted.
sub run_load
{
	my ($load, $admin) = @_;
	my @sessions;
	my $select = IO::Select->new;

	$load->{until} = time() + $load->{seconds};
	$load->{pauses} = [];
	$load->{pause_due} = time() + 1 + rand 2;
	$load->{freezes} = [];
	$load->{freeze_due} = time() + 3 + rand 2 if $load->{parts}{freezes};
	$load->{standby_due} = time() + 1 if $load->{parts}{commits};
	while (time() < $load->{until} || $load->{frozen})
	{
		while (!$load->{frozen} && @sessions < $load->{sessions} && (my $session = connect_one($load)))
		{
			push @sessions, $session;
			$select->add($session->{socket});
			$session->{socket}->blocking(1);
		}
		my %ready = map { $_ => 1 } $select->can_read(0.005);

		foreach my $session (@sessions)
		{
			$session->read_some(65536, 0) if $ready{ $session->{socket} };
			note_errors($load, $session);
			note_end($load, $session);
			next if $session->{closed} || $session->{busy} && !$session->{copying};
			# It thinks from the moment when it has its answer.
			$session->{due} = time() + delete $session->{think} if defined $session->{think};
			step($load, $session) if time() >= $session->{due};
		}
		foreach my $session (grep { $_->{closed} || $_->{leaves} } @sessions)
		{
			$select->remove($session->{socket});
			next if $session->{closed};
			$session->{left_at} = time();
			$session->close;
		}
		@sessions = grep { !$_->{closed} } @sessions;
		freeze_or_thaw($load) if $load->{freeze_due} && time() >= $load->{freeze_due};
		next if $load->{frozen};
		pause_or_resume($load, $admin) if time() >= $load->{pause_due};
		want_standby($load, $admin, !$load->{standby}) if $load->{standby_due} && time() >= $load->{standby_due};
	}
	pause_or_resume($load, $admin) if @{ $load->{pauses} } && !defined $load->{pauses}[-1]{resumed};
	want_standby($load, $admin, 0) if $load->{standby};

	# Read what has come, and hang up; what happens from here on does not count.
	foreach my $session (@sessions)
	{
		while (!$session->{closed} && $session->read_some(65536, 0)) { }
		note_errors($load, $session);
		note_end($load, $session);
		note_unanswered($load, $session, $session->{statements}[-1][1]) if $session->{under_way};
	}
	$load->{end} = time();
	foreach my $session (grep { !$_->{closed} } @sessions)
	{
		$session->{lives} = 1;
		$session->close(silent => 1);
	}
	return;
}

1;
