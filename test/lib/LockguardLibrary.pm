# Helpers of the TAP tests about the file that lockguard is loaded from: a
# PostgreSQL of one's own without lockguard, and whether all of it runs.

package LockguardLibrary;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(put_copy put_extension move_postgres protects workers_come_back libraries_of);

# A copy is another file, and so another library.
sub put_copy
{
	my ($from, $to) = @_;

	copy($from, "$to.new") or die "cannot write $to.new: $!";
	rename "$to.new", $to or die "cannot rename $to.new: $!";
	return;
}

# Put lockguard's library into one folder, its control file and scripts into
# another one's "extension".  Where they are installed is given as in pg_config.
sub put_extension
{
	my ($config, $lib, $share) = @_;

	system('mkdir', '-p', $lib, "$share/extension") == 0 or die "cannot make $lib and $share/extension";
	put_copy("$config->{PKGLIBDIR}/lockguard.so", "$lib/lockguard.so");
	put_copy($_, "$share/extension/" . basename($_))
	  foreach "$config->{SHAREDIR}/extension/lockguard.control", glob "$config->{SHAREDIR}/extension/lockguard--*.sql";
	return;
}

# Make a folder in which every entry of another one is found by a symbolic link,
# but those whose names match.
sub _link_all
{
	my ($from, $to, $but) = @_;

	system('mkdir', '-p', $to) == 0 or die "cannot make $to";
	foreach my $entry (grep { basename($_) !~ $but } glob "$from/*")
	{
		my $link = "$to/" . basename($entry);

		-l $link || symlink $entry, $link or die "cannot link $link: $!";
	}
	return;
}

# Make the PostgreSQL under test once more below $prefix, but without lockguard.
# Returns its install_path, its $libdir and its share folder.
sub move_postgres
{
	my ($prefix, $config) = @_;
	my ($bindir, $libdir, $sharedir) = @$config{qw(BINDIR PKGLIBDIR SHAREDIR)};
	my $programs = qr/^(?:postgres|pg_ctl|pg_config|initdb)$/;

	# It knows where it is by the program that runs.
	_link_all($bindir, "$prefix$bindir", $programs);
	system('cp', (map { "$bindir/$_" } qw(postgres pg_ctl pg_config initdb)), "$prefix$bindir") == 0
	  or die "cannot copy from $bindir";
	_link_all($libdir, "$prefix$libdir", qr/^lockguard\./);
	_link_all($sharedir, "$prefix$sharedir", qr/^extension$/);
	_link_all("$sharedir/extension", "$prefix$sharedir/extension", qr/^lockguard\b/);
	return ($prefix . dirname($bindir), "$prefix$libdir", "$prefix$sharedir");
}

# All that runs in a worker is done: an outage is ended, the history is written,
# and a prepared transaction is rolled back.  Of the server's log, what comes
# after $begin counts.  The node needs max_prepared_transactions,
# incident_threshold = '10ms' and prepared_transaction_action = rollback.
sub protects
{
	my ($observer, $begin, $when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $node = $observer->node;
	my $file = $node->data_dir . '/pg_stat/lockguard.stat';

	guards($observer, $when);
	ok(wait_until(sub { -f $file && index(slurp_file($file), $when) >= 0 }), "$when: the history is written");
	configure($observer, prepared_transaction_timeout => '10ms');
	my $session = session($node, 'prepares');
	$session->query_ok($_) foreach 'BEGIN', 'CREATE TABLE made ()', "PREPARE TRANSACTION 'forgotten'";
	$session->close;
	ok($observer->poll('SELECT count(*) FROM pg_prepared_xacts', '0'), "$when: a prepared transaction is rolled back");
	configure($observer, prepared_transaction_timeout => undef);
	is(count_in_log($node, $begin, 'terminated by signal|exited with exit code [^1]|could not (?:load|access|find)'),
		0, "$when: no process has failed");
	return;
}

# Both processes are ended, and others take their place.
sub workers_come_back
{
	my ($node, $when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %old = map { $_ => child_pid($node, $_) } 'lockguard', 'lockguard history';

	kill 'TERM', values %old;
	foreach my $title (sort keys %old)
	{
		ok(wait_until(sub { my $pid = child_pid($node, $title); defined $pid && $pid != $old{$title} }), "$when: $title comes back");
	}
	return;
}

# The files named lockguard that a process has in its memory.  Linux only.
sub libraries_of
{
	my ($pid) = @_;
	my %files = map { $_ => 1 } slurp_file("/proc/$pid/maps") =~ m{ (/\S*/lockguard\.so\S*)}g;

	return sort keys %files;
}

1;
