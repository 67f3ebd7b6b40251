# What clients were told of the ends of their transactions.  Each of these
# writes a number of its own; in the end the table must have those of which the
# client was told that they are committed, and none of which it was told that
# they are not, whichever session has ended the transaction, and how.

package LockguardFuzz::Ledger;

use strict;
use warnings;

use Exporter 'import';
use List::Util qw(shuffle);
use LockguardTest;
use Time::HiRes qw(time);

our @EXPORT_OK = qw(ledger_tables banker_roles new_entry note_answer note_unanswered
  gid_to_finish fetch_ledger compare_ledger ends_a_transaction is_done has_many_transactions);

sub ledger_tables
{
	return (
		'CREATE TABLE ledger (id int)',
		'CREATE TABLE vault (id int, v int)',
		'INSERT INTO vault SELECT i, 0 FROM generate_series(1, 500) i',
		'CREATE ROLE owners',
		'ALTER TABLE vault OWNER TO owners',
		'GRANT CREATE ON SCHEMA public TO owners',
		'CREATE PROCEDURE two_entries(a int, b int) LANGUAGE plpgsql AS $$'
		  . ' BEGIN INSERT INTO ledger VALUES (a); COMMIT; PERFORM pg_sleep(0.02);'
		  . ' INSERT INTO ledger VALUES (b); END $$');
}

# Commits take longer than the limits of some of them, as with a slow disk.
sub banker_roles
{
	my @roles = (
		{}, (map { { statement_timeout => 40 + int rand 60 } } 1 .. 4),
		{ transaction_timeout => 60 + int rand 100 },
		(map { { blocker_timeout => 100 + int rand 100 } } 1 .. 4), { max_blocked_sessions => 1 });

	foreach my $role (@roles)
	{
		$role->{character} = 'banker';
		$role->{server} = { commit_delay => 100_000, commit_siblings => 0 };
	}
	return @roles;
}

# A number for a transaction.  As long as no client was told anything of it, it
# must not be there.
sub new_entry
{
	my ($load) = @_;
	my $id = ++$load->{entries};

	$load->{ledger}{$id} = { told => 'nothing' };
	return $id;
}

# Does the statement write a commit record, or an abort record that is as good,
# of more than itself?
sub ends_a_transaction
{
	my ($sql) = @_;
	return $sql =~ /^(?:COMMIT$|PREPARE TRANSACTION|COMMIT PREPARED|ROLLBACK PREPARED)/;
}

# Is the statement made of several transactions?
sub has_many_transactions
{
	my ($sql) = @_;
	return $sql =~ /^(?:CALL|VACUUM|CREATE INDEX|DROP INDEX)/;
}

# Was it done, by the tag of its answer?
sub is_done
{
	my ($sql, @tags) = @_;
	my ($tag) = $sql =~ /^(COMMIT$|PREPARE TRANSACTION|COMMIT PREPARED|ROLLBACK PREPARED)/;

	return defined $tag && grep { $_ eq $tag } @tags;
}

sub _in_words
{
	my ($sql, $error) = @_;
	return $sql . ($error ? ": $error->{C} $error->{M}" : '');
}

sub _tell
{
	my ($load, $id, $told, $session, $sql, $error) = @_;

	@{ $load->{ledger}{$id} }{qw(told by sql)} =
	  ($told, $session->pid, _in_words($sql, $error));
	return;
}

# The answer to a statement has come: tags of what was done, or an error (what
# was said last, if the connection is closed).
sub note_answer
{
	my ($load, $session, $sql, $error, @tags) = @_;
	my $done = is_done($sql, @tags);

	# Who hangs up without a word has told nothing.
	my $told = $done ? 'done' : $error || !$session->{closed} ? 'not done' : 'unknown';

	if ($sql =~ /^BEGIN.*INSERT INTO ledger VALUES \((\d+)\)/)
	{
		$session->{entry} = $1;
	}
	elsif ($sql =~ /^INSERT INTO ledger VALUES \((\d+)\)/)
	{
		_tell($load, $1, @tags ? 'done' : $told, $session, $sql, $error);
	}
	elsif ($sql =~ /^CALL two_entries\((\d+), (\d+)\)/)
	{
		_tell($load, $1, @tags ? 'done' : 'unknown', $session, $sql, $error);
		_tell($load, $2, @tags ? 'done' : $told, $session, $sql, $error);
	}
	elsif ($sql eq 'COMMIT')
	{
		# Few clients read the tag, if they know of no error.
		$told = 'done' if !$error && $session->{status_sent} eq 'T' && !$session->{closed};
		_tell($load, $session->{entry}, $told, $session, $sql, $error) if $session->{entry};
	}
	elsif ($sql =~ /^PREPARE TRANSACTION '(\w+)'/)
	{
		my $gid = $load->{prepared}{$1} =
		  { told => $told, at => time(), id => $session->{entry}, by => $session->pid, sql => _in_words($sql, $error) };

		# Some are forgotten.
		push @{ $load->{to_finish}{ $session->{role}{name} } }, { gid => $1, at => time() + rand 0.4 }
		  if $done && rand() < ($session->{character} eq 'banker' ? 0.8 : 0.5);
		_tell($load, $gid->{id}, 'not done', $session, $sql, $error) if $gid->{id};
	}
	elsif ($sql =~ /^(COMMIT|ROLLBACK) PREPARED '(\w+)'/)
	{
		my $gid = $load->{prepared}{$2};

		delete $load->{finishing}{$2}{goes_on};
		$load->{finishing}{$2}{end} = time();
		@{$gid}{qw(told sql)} = ($told, _in_words($sql, $error)) if $1 eq 'ROLLBACK';
		_tell($load, $gid->{id}, $1 eq 'COMMIT' ? $told : 'not done', $session, $sql, $error) if $gid->{id};
	}
	delete $session->{entry} if $session->{status} eq 'I';
	return;
}

# The load hangs up in the middle of a statement.
sub note_unanswered
{
	my ($load, $session, $sql) = @_;
	my @ids = $sql =~ /^(?:INSERT INTO ledger|CALL)/ ? $sql =~ /(\d+)/g : ();

	push @ids, $session->{entry} if $sql eq 'COMMIT' && $session->{entry};
	if (my ($how, $gid) = $sql =~ /^(COMMIT|ROLLBACK) PREPARED '(\w+)'/)
	{
		my $prepared = $load->{prepared}{$gid};

		$prepared->{told} = 'unknown';
		push @ids, $prepared->{id} if $how eq 'COMMIT' && $prepared->{id};
	}
	$load->{ledger}{$_}{told} = 'unknown' foreach @ids;
	return;
}

# A prepared transaction that it is time to finish, for a session of that role:
# this one or another has prepared it.
sub gid_to_finish
{
	my ($load, $session) = @_;
	my $all = $load->{to_finish}{ $session->{role}{name} } or return;
	my ($one) = shuffle grep { $_->{at} <= time() } @$all;

	return unless $one;
	@$all = grep { $_ != $one } @$all;
	return $one->{gid};
}

# What is in the tables in the end.
sub fetch_ledger
{
	my ($load, $admin) = @_;

	$load->{entered} = { map { $_->[0] => 1 } $admin->rows('SELECT id FROM ledger') };
	$load->{remain} = { map { $_->[0] => 1 } $admin->rows('SELECT gid FROM pg_prepared_xacts') };
	$load->{rolled_back} = { map { $_->[0] => 1 } $admin->rows(
			"SELECT gid FROM lockguard.actions WHERE gid IS NOT NULL AND action = 'rollback'") };
	return;
}

# Was each client told the truth?  Returns what was not, as sentences: what was
# said to have been cancelled or terminated, though that was too late, then the
# rest.
sub compare_ledger
{
	my ($load) = @_;
	my @wrong;

	foreach my $id (sort { $a <=> $b } keys %{ $load->{ledger} })
	{
		my $entry = $load->{ledger}{$id};
		my $there = $load->{entered}{$id};
		my $what = "number $id, " . (defined $entry->{by} ? "$entry->{by}: $entry->{sql}" : 'of which no client was told anything');

		push @wrong, "$what: it is committed" if $there && $entry->{told} =~ /^no/;
		push @wrong, "$what: it is not committed" if !$there && $entry->{told} eq 'done';
	}
	foreach my $gid (sort keys %{ $load->{prepared} })
	{
		my $prepared = $load->{prepared}{$gid};

		# Told that it has not been rolled back.
		push @wrong, "prepared transaction $gid, $prepared->{by}: $prepared->{sql}: it is rolled back"
		  if $prepared->{sql} =~ /^ROLLBACK/ && $prepared->{told} eq 'not done'
		  && !$load->{remain}{$gid} && !$load->{rolled_back}{$gid};

		# Told that it is not prepared.
		push @wrong, "prepared transaction $gid, $prepared->{by}: $prepared->{sql}: it is prepared"
		  if $prepared->{sql} =~ /^PREPARE/ && $prepared->{told} eq 'not done' && ($load->{remain}{$gid} || $load->{rolled_back}{$gid});
	}
	return ([ grep { /: 57(?:014|P01) / } @wrong ], [ grep { !/: 57(?:014|P01) / } @wrong ]);
}

1;
