# Random load, an independent observer, and the check of every action of
# lockguard against what the observer saw.
#
#   LockguardFuzz/Load.pm       roles, tables and the sessions
#   LockguardFuzz/Duel.pm       deadlocks
#   LockguardFuzz/Freeze.pm     freezes of the whole server
#   LockguardFuzz/Ledger.pm     slow and two-phase commits, and what clients were told
#   LockguardFuzz/Observer.pm   takes samples, and reads them
#   LockguardFuzz/Clock.pm      for how long others have waited for a session in all
#   LockguardFuzz/Help.pm       whether its removal would have helped
#   LockguardFuzz/Check.pm      compares them with lockguard.actions
#
# What it can prove, and what not, is in test/README.md, "The random load".

package LockguardFuzz;

use strict;
use warnings;

use parent -norequire, 'LockguardFuzz::Check', 'LockguardFuzz::Load';

use LockguardFuzz::Check;
use LockguardFuzz::Ledger qw(fetch_ledger);
use LockguardFuzz::Load qw(make_tables make_roles run_load PREPARED_TIMEOUT);
use LockguardFuzz::Observer qw(start_observer stop_observer);
use LockguardTest;
use Test::More;

# Parts of the load that can be left out.
our @parts = qw(deadlocks freezes commits);

# What the server needs in postgresql.conf.
sub configuration
{
	return <<"CONF";
max_connections = 100
max_prepared_transactions = 50
max_worker_processes = 24
max_parallel_workers = 8
parallel_setup_cost = 0
parallel_tuple_cost = 0
min_parallel_table_scan_size = 0
deadlock_timeout = '100ms'
# For commit_delay, and for waits for a standby.
fsync = on
synchronous_commit = off
wal_level = replica
max_wal_senders = 2
lockguard.max_actions_per_minute = 10000
lockguard.max_history = 100000
lockguard.prepared_transaction_timeout = '@{[ 1000 * PREPARED_TIMEOUT ]}ms'
lockguard.prepared_transaction_action = rollback
CONF
}

# Options: node, seconds, seed, sessions, without (parts, separated by commas).
sub new
{
	my ($class, %opt) = @_;
	my $self = bless {%opt}, $class;

	$self->{parts} = { map { $_ => 1 } @parts };
	foreach my $part (split /[, ]+/, $opt{without} || '')
	{
		delete $self->{parts}{$part} or die "no part of the load is named \"$part\"";
	}

	srand($opt{seed});
	return $self;
}

sub _figures
{
	my ($counts) = @_;
	return join(', ', map { "$counts->{$_} $_" } sort keys %{ $counts || {} }) || 'none';
}

# Everything, in one call.  Returns the number of complaints.
sub run
{
	my ($self) = @_;
	my $node = $self->{node};
	my $admin = LockguardTest::Session->new($node, 'admin');
	my %results;

	note "SEED=$self->{seed}, $self->{seconds} s, $self->{sessions} sessions";
	make_tables($admin);
	$self->{roles} = make_roles($self, $admin);
	my $observer = start_observer($node, $admin, map { $_->{oid} } grep { $_->{max_locks} } @{ $self->{roles} });
	$self->{file} = $observer->{file};
	run_load($self, $admin);
	wait_until(
		sub {
			return $admin->value(
				"SELECT count(*) FROM lockguard.actions WHERE result = 'pending'"
				  . " AND acted_at <= to_timestamp($self->{end})") == 0;
		});
	ok(stop_observer($observer), 'the observer has seen it all');
	$self->fetch_actions($admin);
	fetch_ledger($self, $admin);
	$self->check;

	$results{"$_->{action}, $_->{result}"}++ foreach @{ $self->{actions} };
	note 'actions: ' . _figures(\%results);
	note sprintf '%d escalations, %d signals felt, %d deadlocks, %d pauses, parallel queries waited in %d samples, order compared %d times, %d blocked pids',
	  (map { $self->{$_} || 0 } qw(escalations felt deadlocks)), scalar @{ $self->{pauses} },
	  map { $self->{$_} || 0 } qw(groups order_checked pids_checked);
	note sprintf '%d freezes, %d sessions seen in deadlocks for long, %d numbers committed of %d, %d prepared transactions, commits waited for a standby in %d samples',
	  scalar @{ $self->{freezes} }, $self->{long_deadlocks} || 0, scalar keys %{ $self->{entered} }, $self->{entries} || 0,
	  $self->{gids} || 0, $self->{standby_waits} || 0;
	note sprintf '%d waits given up, %d of those removed and %d of those spared looked at for whether that would help, compared %d times, %d samples after which waits may be unseen',
	  map { $self->{$_} || 0 } qw(gave_up vain_checked spared_checked help_compared blind);
	note sprintf '%d times was it seen that a transaction could be rolled back', $self->{could_be_rolled_back} || 0;
	note 'not judged: ' . _figures($self->{not_judged_why});
	note 'complaints: ' . _figures($self->{complaints});
	$self->{total} = 0;
	$self->{total} += $_ foreach values %{ $self->{complaints} };
	note sprintf 'seed %s, %d s, %d sessions, %d transactions, %d samples, longest gap %.0f ms; %d actions:'
	  . ' %d checked (%s), %d stood back from, %d not judged; %d complaints',
	  $self->{seed}, $self->{seconds}, scalar @{ $self->{all} }, $self->{transactions}, $self->{samples},
	  1000 * $self->{longest_gap}, scalar @{ $self->{actions} }, $self->{checked} || 0, _figures($self->{checked_by}),
	  $self->{stood_back} || 0, $self->{not_judged} || 0, $self->{total};
	return $self->{total};
}

1;
