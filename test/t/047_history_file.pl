# The history file while the server runs: the disk is full, slow or gone, or
# something else stands in the file's place.  Protection continues, one WARNING
# says so, and all is written when that can be done.  (021_history.pl has what
# is found at the start.)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc' unless -r '/proc/self/status';

my $node = lockguard_node('main', conf => <<'CONF');
log_statement = none
lockguard.incident_threshold = '10ms'
lockguard.naptime = '20ms'
lockguard.log_incidents = off
lockguard.max_actions_per_minute = 1000
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $file = $node->data_dir . '/pg_stat/lockguard.stat';
my $begin = -s $node->logfile;

my $writer = child_pid($node, 'lockguard history');

# Is it in the file?
sub is_written
{
	my ($name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(wait_until(sub { -f $file && index(slurp_file($file), $name) >= 0 }), $what);
}

my ($warnings, $recoveries, $complaints) = (0, 0, 0);

# One WARNING more than before, however often the writer tries.
sub has_warned_once
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $count = sub { count_in_log($node, $begin, $_[0]) };
	my $warning = 'WARNING:  lockguard: could not write history file';

	$warnings++;
	ok(wait_until(sub { $count->($warning) >= $warnings }), "$what: there is a WARNING");
	# It tries again every second; so it has some times by then.
	foreach my $i (1 .. 3)
	{
		guards($observer, "$what, $i");
		$observer->query_ok('SELECT pg_sleep(0.7)');
	}
	is($count->($warning), $warnings, "$what: it comes once");
	is($count->('\] (?!WARNING:  lockguard: could not write)[A-Z]+:  [^\n]*could not [^\n]*lockguard\.stat'),
		0, "$what: and there is no other complaint");
	return;
}

sub recovers
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$recoveries++;
	is_written("$what, 3", "$what: all is written when that can be done");
	ok(wait_until(sub { count_in_log($node, $begin, 'lockguard: the history file can be written again') == $recoveries }),
		'and the log says so');
	return;
}

# The disk is full.  Where it is, is up to us: the size that a file of this one
# process may have is limited, and a write beyond that fails as on a full disk.
# The log is a file of the process, too, so that the history has to be longer
# than that.
{
	my @crowd = map { session($node, "crowd $_") } 1 .. 20;
	my $long = 'x' x 400;

	foreach my $key (1 .. 12)
	{
		my $root = holder($node, 'root', $key);

		$_->start("SELECT pg_advisory_xact_lock_shared($key) -- $long") foreach @crowd;
		$observer->poll('SELECT max(peak_blocked_sessions) FROM lockguard.incidents WHERE root_pid = ' . $root->pid, '20');
		$root->close;
		$_->finish foreach @crowd;
	}
	$_->close foreach @crowd;
	guards($observer, 'before');
	scan($observer);
	# A file of the same length is written if this is done twice, as the first
	# leaves nothing to forget.
	my $contention = pack 'LL', 0x4b434f4c, 3;
	$observer->query_ok('SELECT lockguard.reset_stats()');
	ok(wait_until(sub { my $now = -f $file ? slurp_file($file) : ''; index($now, 'before') >= 0 && index($now, $contention) < 0 }),
		'the history is written');
	my $bytes = slurp_file($file);
	cmp_ok(length $bytes, '>', 50_000 + -s $node->logfile, 'it is longer than the log') or die;

	# The very last bytes do not fit.
	my $limit = -10 + length $bytes;
	$writer = child_pid($node, 'lockguard history');
	is(system('prlimit', '--pid', $writer, "--fsize=$limit:unlimited"), 0, 'the disk is full');
	$observer->query_ok('SELECT lockguard.reset_stats()');
	has_warned_once('full disk');
	is(slurp_file($file), $bytes, 'the old file is there still');
	ok(!-e "$file.tmp", 'and nothing half written');
	is(child_pid($node, 'lockguard history'), $writer, 'the process continues');
	is(system('prlimit', '--pid', $writer, '--fsize=unlimited'), 0, 'there is room again');
	recovers('full disk');
}

# The disk hangs, and the writer with it.
{
	kill 'STOP', $writer;
	guards($observer, "hangs $_") foreach 1 .. 5;
	scan($observer);
	kill 'CONT', $writer;
	is_written('hangs 5', 'what has happened meanwhile is written when the disk is back');
}

# Something else stands in the file's place, or in that of the new one.
foreach my $place ($file, "$file.tmp")
{
	my $what = $place eq $file ? 'in its place' : 'in the place of the new one';

	unlink $place;
	mkdir $place or die "cannot make $place: $!";
	append_to_file("$place/not_empty", '');
	guards($observer, $what);
	has_warned_once($what);
	unlink "$place/not_empty";
	rmdir $place or die "cannot remove $place: $!";
	recovers($what);
}

# Deleted, or with a link in its place: the next write makes a file of its own.
{
	unlink $file;
	guards($observer, 'deleted');
	is_written('deleted', 'the file is written anew');
	is_written('before', 'with all that was in it');

	my $elsewhere = $node->basedir . '/elsewhere';
	append_to_file($elsewhere, 'not ours');
	unlink $file;
	symlink $elsewhere, $file or die "cannot link: $!";
	guards($observer, 'linked');
	is_written('linked', 'a link is replaced');
	ok(!-l $file, 'by a file');
	is(slurp_file($elsewhere), 'not ours', 'and not followed');
}
is(count_in_log($node, $begin, 'WARNING:  lockguard: could not'), $warnings, 'no WARNING without a reason');

# At the start: a link to the file, a link to nothing, and one to itself.
my $all = "SELECT string_agg(a::text, ' ' ORDER BY action_id) FROM lockguard.actions a";
foreach my $target ('moved', 'nothing', 'lockguard.stat')
{
	guards($observer, "before link to $target");
	scan($observer);
	my $before = $observer->value($all);

	$observer->close;
	$node->stop;
	rename $file, $node->data_dir . '/pg_stat/moved' or die "cannot rename: $!";
	symlink $target, $file or die "cannot link: $!";
	$begin = -s $node->logfile;
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	is($observer->value($all), $target eq 'moved' ? $before : undef, "a link to $target is read for what it is");
	is(count_in_log($node, $begin, 'WARNING:  lockguard'), $target eq 'lockguard.stat' ? 1 : 0, 'with a WARNING only if it cannot be');
	guards($observer, "after link to $target");
	is_written("after link to $target", 'and the history is written');
}

# The server is stopped while the file cannot be written: that is not held up,
# and what was written before is there afterwards.
{
	$begin = -s $node->logfile;
	my $before = $observer->value($all);
	chmod 0500, $node->data_dir . '/pg_stat' or die "cannot chmod: $!";
	guards($observer, 'lost');
	ok(wait_until(sub { count_in_log($node, $begin, 'could not write history file') }), 'there is a WARNING');
	$observer->close;
	$node->stop;
	chmod 0700, $node->data_dir . '/pg_stat' or die "cannot chmod: $!";
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	is($observer->value($all), $before, 'the last good state is there');
	guards($observer, 'in the end');
}

$observer->close;
$node->stop;
log_is_sound($node);
done_testing();
