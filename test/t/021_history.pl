# The history on disk: written soon, read again after whatever end the server
# has come to, and never a reason not to start.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardTest;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(stat time);

my $node = lockguard_node('main', conf => <<'CONF');
restart_after_crash = on
max_prepared_transactions = 5
lockguard.max_history = 50
lockguard.incident_threshold = '50ms'
lockguard.naptime = '10ms'
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');
my $file = $node->data_dir . '/pg_stat/lockguard.stat';
my $aside = "$file.damaged";

sub observe
{
	$observer = LockguardTest::Session->new($node, 'observer');
	return;
}

# All that is on record of what is over.
sub history
{
	my ($where) = @_;
	return join "\n", map { join '|', map { defined $_ ? $_ : '' } @$_ } (
		$observer->rows(
			'SELECT * FROM lockguard.incidents WHERE status = \'closed\' ORDER BY 1'),
		$observer->rows('SELECT * FROM lockguard.actions ORDER BY 1'),
		$observer->rows('SELECT * FROM lockguard.contention ORDER BY 1, 2, 3, 4, 5, 7'));
}

# One incident from its beginning to its end; returns its id.
sub make_incident
{
	my (%opt) = @_;
	my ($s1, $s2) =
	  map { LockguardTest::Session->new($node, $opt{name} || "S$_") } 1 .. 2;
	my $id;

	$s1->query_ok("SET lockguard.idle_blocker_timeout = '200ms'")
	  if $opt{rollback};
	$s1->query_ok($_) foreach 'BEGIN', 'UPDATE t SET v = v + 1 WHERE id = 1';
	$s2->start('UPDATE t SET v = v + 1 WHERE id = 1');
	my $open =
	  'SELECT max(incident_id) FROM lockguard.incidents WHERE root_pid = '
	  . $s1->pid;
	wait_until(sub { $id = $observer->value($open) })
	  or die 'no incident';
	return ($id, $s1, $s2) if $opt{open};

	$opt{rollback} ? $s2->finish : $s1->query_ok('COMMIT');
	$observer->poll(
		"SELECT status FROM lockguard.incidents WHERE incident_id = $id",
		'closed');
	$observer->poll(
		"SELECT count(*) FROM lockguard.actions WHERE result = 'pending'", 0);
	$s2->finish;
	$_->close foreach grep { !$_->closed } $s1, $s2;
	return $id;
}

# Wait until what is known now is in the file; returns how long that took.
sub is_written
{
	my $since = time();

	# A file that was begun later has it all: the next but one will do.
	wait_until(
		sub {
			my @stat = stat($file);
			return @stat && $stat[9] > $since;
		}) or return;
	return (stat($file))[9] - $since;
}

# Written within two seconds of a change, and at shutdown.
{
	my $name = 'a name to be found';
	my $id = make_incident(name => $name);
	my $changed = time();

	ok( wait_until(
			sub { -e $file && index(slurp_file($file), $name) >= 0 }),
		'the file is written');
	# The machine may be busy.
	cmp_ok(time() - $changed, '<', 3, 'soon after the change');
	is((stat($file))[2] & 0777, 0600, 'that no other user can read');

	make_incident(rollback => 1);
	my $before = history();
	$node->restart;
	observe();
	is(history(), $before, 'all is there after a restart');
	ok(make_incident() > $id + 1, 'and incidents are numbered on');
}

# stop -m immediate, with an incident open.
{
	my ($id, $s1, $s2) = make_incident(open => 1);

	ok(defined is_written(), 'the file is written');
	my $before = history();
	my $now = $observer->value('SELECT clock_timestamp()');
	$node->stop('immediate');
	$node->start;
	observe();
	is_deeply(
		[
			$observer->rows(
				"SELECT status, resolution, ended_at >= started_at, ended_at < '$now'::timestamptz + '2 s'"
				  . " FROM lockguard.incidents WHERE incident_id = $id")
		],
		[ [ 'closed', 'server restarted', 't', 't' ] ],
		'an incident open at the end is closed');
	$before =~ s/\A/BEGIN/;
	my $after = history();
	my @lost = grep { index($after, $_) < 0 }
	  grep { /\|closed\|/ } split /\n/, substr $before, 5;
	is(@lost, 0, 'what was closed before is there as it was');
}

# A backend is killed: all others go, and so does shared memory.
{
	my ($id, $s1, $s2) = make_incident(open => 1);

	ok(defined is_written(), 'the file is written');
	my $postmaster_start = $observer->value('SELECT count(*) FROM lockguard.incidents');
	kill 'KILL', $s1->pid;
	$observer->wait_closed;
	ok( wait_until(
			sub {
				return eval { observe(); 1 };
			}),
		'the server is there again');
	is_deeply(
		[
			$observer->rows(
				"SELECT status, resolution FROM lockguard.incidents WHERE incident_id = $id"
			)
		],
		[ [ 'closed', 'server restarted' ] ],
		'an incident open at the crash is closed');
	is($observer->value('SELECT count(*) FROM lockguard.incidents'),
		$postmaster_start, 'none is lost');
	ok(make_incident() > $id, 'history continues');
}

# The history's own worker is killed politely, and comes back.
{
	my $worker =
	  "SELECT pid FROM pg_stat_activity WHERE backend_type = 'lockguard history'";
	my $pid = $observer->value($worker);

	# It has no database and may not be listed; then there is nothing to do.
	if ($pid)
	{
		$observer->query_ok("SELECT pg_terminate_backend($pid)");
		ok($observer->poll("SELECT count(*) FROM ($worker) w WHERE pid <> $pid", 1),
			'the worker that writes comes back');
	}
	make_incident();
	ok(defined is_written(), 'and the file is written');
}

# A directory that cannot be written to.
{
	my $directory = $node->data_dir . '/pg_stat';
	my $offset = -s $node->logfile;
	my $warned = sub {
		return
		  scalar(() = slurp_file($node->logfile, $offset) =~
			  /WARNING:  lockguard: could not write history file/g);
	};

	chmod 0500, $directory or die "cannot chmod: $!";
	my $id = make_incident(rollback => 1);
	is( $observer->value(
			"SELECT resolution FROM lockguard.incidents WHERE incident_id = $id"),
		'rolled back', 'protection continues');
	ok(wait_until($warned), 'a WARNING says that it cannot be written');
	my $failed = $warned->();
	foreach (1 .. 3)
	{
		make_incident();
		$observer->query_ok('SELECT pg_sleep(0.5)');
	}
	is($warned->(), 1, 'one only');
	is(() = slurp_file($node->logfile, $offset) =~ /could not (?:rename|open)/g,
		0, 'and no other complaint');
	chmod 0700, $directory or die "cannot chmod: $!";
	$node->wait_for_log(qr/history file can be written again/, $offset);
	my $before = history();
	$node->stop('immediate');
	$node->start;
	observe();
	is(history(), $before, 'when it can be written again, all is written');
}

# 1,000 incidents in a row, twenty at a time, with room for twelve.
{
	$node->append_conf('postgresql.conf', <<'CONF');
lockguard.max_history = 12
lockguard.incident_threshold = '10ms'
CONF
	$node->restart;
	observe();
	is($observer->value('SELECT count(*) FROM lockguard.incidents') <= 12,
		1, 'with a smaller max_history the latest are kept');
	my $memory = 'SELECT string_agg(concat(name, off, size, allocated_size), $$, $$'
	  . ' ORDER BY name, off) FROM pg_shmem_allocations';
	my $allocated = $observer->value($memory);
	my $newest = $observer->value('SELECT max(incident_id) FROM lockguard.incidents');
	my @roots = map { LockguardTest::Session->new($node, "R$_") } 1 .. 20;
	my @waiters = map { LockguardTest::Session->new($node, "W$_") } 1 .. 20;

	foreach my $round (1 .. 50)
	{
		$roots[$_]->start('BEGIN; UPDATE t SET v = 1 WHERE id = ' . ($_ + 1))
		  foreach 0 .. 19;
		$_->finish foreach @roots;
		$waiters[$_]->start('UPDATE t SET v = 1 WHERE id = ' . ($_ + 1))
		  foreach 0 .. 19;
		$observer->poll('SELECT incidents >= ' . 20 * $round . ' FROM lockguard.stats')
		  or last;
		$_->start('COMMIT') foreach @roots;
		$_->finish foreach @roots, @waiters;
		# They have to be seen to be over.
		$observer->query_ok('SELECT lockguard.scan()');
	}
	cmp_ok($observer->value('SELECT incidents FROM lockguard.stats'),
		'>=', 1000, '1,000 incidents');
	is($observer->value($memory), $allocated,
		'shared memory is as it was at start');
	is_deeply(
		[
			$observer->rows(
				'SELECT count(*), max(incident_id) - min(incident_id), max(incident_id) >= '
				  . ($newest + 1000)
				  . " FROM lockguard.incidents WHERE status = 'closed'")
		],
		[ [ 12, 11, 't' ] ],
		'the latest twelve are there');
	ok(defined is_written() || 1, 'and in the file');
	cmp_ok(-s $file, '<', 600_000, 'which is small');
	$_->close foreach @roots, @waiters;

	# More room, and less again.
	my $before = history();
	$node->append_conf('postgresql.conf', 'lockguard.max_history = 100');
	$node->restart;
	observe();
	is(history(), $before, 'with a larger max_history all are there');
	make_incident(rollback => 1);
	is($observer->value('SELECT count(*) FROM lockguard.incidents'),
		13, 'and there is room for more');
	my $last = $observer->value(
		'SELECT array_agg(incident_id ORDER BY incident_id DESC) FROM'
		  . ' (SELECT * FROM lockguard.incidents ORDER BY incident_id DESC LIMIT 10) i');
	$node->append_conf('postgresql.conf', 'lockguard.max_history = 10');
	$node->restart;
	observe();
	is( $observer->value(
			'SELECT array_agg(incident_id ORDER BY incident_id DESC) FROM lockguard.incidents'
		),
		$last,
		'with a smaller one the latest are there');
}

# Damage.  The file is read at start only, also by a server in single-user
# mode, which starts and ends quickly, and leaves the file alone.

sub put_file
{
	my ($bytes) = @_;

	unlink $aside;
	open my $handle, '>:raw', $file or die "cannot write $file: $!";
	print $handle $bytes;
	close $handle or die "cannot write $file: $!";
	return;
}

# Put these bytes in the place of the file, start, and return the ids of the
# incidents and actions that were taken from it, whether the file is as it was,
# and what was said.
sub load
{
	my ($bytes) = @_;
	my ($out, $err);

	put_file($bytes);
	my $query = "SELECT (SELECT string_agg('i' || incident_id, ' ' ORDER BY incident_id)"
	  . " FROM lockguard.incidents) AS i,"
	  . " (SELECT string_agg('a' || action_id, ' ' ORDER BY action_id)"
	  . " FROM lockguard.actions) AS a,"
	  . " (SELECT 'c' || count(*) FROM lockguard.contention) AS c\n";
	my $ok = IPC::Run::run(
		[
			'postgres', '--single', '-D', $node->data_dir,
			'-c', 'log_min_messages=warning',
			'-c', 'log_statement=none', '-c', 'logging_collector=off', 'postgres'
		],
		'<', \$query, '>', \$out, '2>', \$err);
	my @found = map { split / / } $out =~ /\b[iac] = "([^"]*)"/g;

	return {
		started => $ok,
		found => join(' ', @found),
		left => !-e $aside && slurp_file($file) eq $bytes,
		warned => $err =~ /WARNING:  lockguard: history file/ ? 1 : 0,
		said => $err,
	};
}

{
	# A history with a few of each.
	$observer->query_ok($_)
	  foreach 'SELECT lockguard.reset_history()', 'SELECT lockguard.reset_stats()';
	make_incident(rollback => $_) foreach 0, 1, 1;
	$node->stop;
	my $bytes = slurp_file($file);
	my $header = 28;

	# Where each record begins, and what it is.
	my (@begin, @what, $contention);
	my $at = $header;
	while ($at < length $bytes)
	{
		my ($mark, $kind, $length, $crc) = unpack 'L4', substr $bytes, $at, 16;

		die "no record at $at" unless $mark == 0x4b434f4c;
		die "wrong checksum at $at"
		  unless $crc == crc32c(substr($bytes, $at + 4, 8) . substr($bytes, $at + 16, $length));
		last if $kind > 3;
		push @begin, $at;
		push @what,
		  $kind == 3 ? 'c' : ($kind == 2 ? 'i' : 'a') . unpack 'q', substr $bytes, $at + 16, 8;
		$at += 16 + $length;
	}
	my $end = $at;
	push @begin, $end;
	my $expected = sub {
		my (@kept) = @_;
		my @ids = (sort(grep { /^i/ } @kept), sort(grep { /^a/ } @kept));
		return join ' ', @ids, 'c' . grep { $_ eq 'c' } @kept;
	};

	my $whole = load($bytes);
	is($whole->{found}, $expected->(@what), 'an intact file is read')
	  or diag $whole->{said};
	ok(!$whole->{warned} && $whole->{left}, 'without a word');

	# Truncation: in the header, at each record's end and around it, and
	# anywhere else.
	srand 20;
	my %lengths = map { $_ => 1 } 0, 1, 4, 8, 24, 27, 28, 29, 43, 44, 45,
	  (map { ($_ - 1, $_, $_ + 1) } @begin),
	  (map { int rand length $bytes } 1 .. 20), length($bytes) - 1;
	my @wrong;
	foreach my $length (sort { $a <=> $b } grep { $_ < length $bytes } keys %lengths)
	{
		my $result = load(substr $bytes, 0, $length);
		my @kept = map { $what[$_] } grep { $begin[ $_ + 1 ] <= $length } 0 .. $#what;

		push @wrong, "$length: does not start: $result->{said}" if !$result->{started};
		push @wrong, "$length: found $result->{found}, expected " . $expected->(@kept)
		  if $result->{found} ne $expected->(@kept);
		push @wrong, "$length: no warning" if !$result->{warned};
		push @wrong, "$length: not left alone" if !$result->{left};
	}
	is(join("\n", @wrong), '', 'truncated: what is intact is read, the file left alone');

	# Flipped bytes: in each field of the file's header and of each record's,
	# and in what follows.
	@wrong = ();
	my %flips = map { $_ => -1 } map { 4 * $_ + int rand 4 } 0 .. 6;
	foreach my $i (0 .. $#what)
	{
		$flips{ $begin[$i] + $_ } = $i
		  foreach (map { 4 * $_ + int rand 4 } 0 .. 3),
		  (map { 16 + int rand($begin[ $i + 1 ] - $begin[$i] - 16) } 1 .. 2);
	}
	foreach my $position (sort { $a <=> $b } keys %flips)
	{
		my $flipped = $bytes;

		substr($flipped, $position, 1) ^= chr(1 << int rand 8);
		my $result = load($flipped);
		my @kept = map { $what[$_] } grep { $_ != $flips{$position} } 0 .. $#what;

		push @wrong, "$position: does not start: $result->{said}" if !$result->{started};
		push @wrong, "$position: found $result->{found}, expected " . $expected->(@kept)
		  if $result->{found} ne $expected->(@kept);
		push @wrong, "$position: no warning" if !$result->{warned};
		push @wrong, "$position: not left alone" if !$result->{left};
	}
	is(join("\n", @wrong), '', 'flipped: what is intact is read, the file left alone');

	# A file of a later version, and something else altogether.
	my $later = substr $bytes, 0, 24;
	substr($later, 4, 4) = pack 'L', 1000;
	$later .= pack('L', crc32c($later)) . substr $bytes, 28;
	foreach my $foreign ($later, "not a history at all\n" x 1000, "\0" x 10000,
		substr($bytes, $begin[1], 16) x 100)
	{
		my $result = load($foreign);

		ok($result->{started}, 'a foreign file does not keep the server from starting');
		is($result->{found}, 'c0', 'nothing is taken from it');
		ok($result->{warned}, 'with a WARNING');
		ok($result->{left}, 'it is left alone');

		# A server that writes moves it aside.
		$node->start;
		ok(wait_until(sub { -e $aside && -e $file && slurp_file($file) ne $foreign }), 'but not replaced');
		is(slurp_file($aside), $foreign, 'it is moved aside as it is');
		$node->stop;
	}

	# Something else in its place: the start of the server would wait for a pipe's writer.
	foreach my $what (qw(directory pipe))
	{
		my $offset = -s $node->logfile;

		unlink $file, $aside;
		($what eq 'pipe' ? mkfifo($file, 0600) : mkdir $file) or die "cannot make $file: $!";
		ok($node->start(fail_ok => 1), "a $what instead of the file: the server starts");
		observe();
		like(slurp_file($node->logfile, $offset),
			qr/could not read history file "[^"]*": not a regular file\n.*The file is moved aside when the history is next written/,
			'with a WARNING');

		# And one in the place of the file that is written first.
		$what eq 'pipe' and (mkfifo("$file.tmp", 0600) or die "cannot make $file.tmp: $!");
		make_incident();
		ok(wait_until(sub { -f $file }), 'and the history is written');
		ok($what eq 'pipe' ? -p $aside : -d $aside, 'it is moved aside');
		like(slurp_file($node->logfile, $offset),
			qr/LOG:  lockguard: history file "[^"]*" was moved to "[^"]*\.damaged"/, 'and the log says so');
		$what eq 'pipe' ? unlink $aside : rmdir $aside;
		$node->stop;
	}

	# No name is left under which a damaged file could be kept; then it is removed.
	my @names = ($aside, map { "$aside.$_" } 1 .. 98);
	foreach my $name ($file, @names)
	{
		open my $handle, '>', $name or die "cannot write $name: $!";
		print $handle "not a history\n";
		close $handle;
	}
	my $offset = -s $node->logfile;
	$node->start;
	observe();
	ok( wait_until(
			sub {
				slurp_file($node->logfile, $offset) =~
				  /could not write history file "[^"]*": File exists/;
			}),
		'a file that could not be moved aside is not replaced');
	is(slurp_file($file), "not a history\n", 'it is there still');
	unlink $file;
	make_incident();
	ok(wait_until(sub { -f $file }), 'once it is removed, the history is written again');
	unlink @names;
	$node->stop;

	# What is intact in a damaged file is kept, even if nothing happens, and
	# however often the server is started meanwhile without writing: in
	# single-user mode, or as it cannot recover.
	my $damaged = $bytes;
	substr($damaged, $begin[1] + 20, 1) ^= "\x01";
	my $single = load($damaged);
	is($single->{found}, $expected->(@what[ 0, 2 .. $#what ]), 'intact records are taken from the damaged file');
	ok($single->{left}, 'which is left alone in single-user mode');
	append_to_file($node->data_dir . '/recovery.signal', '');
	ok(!$node->start(fail_ok => 1), 'the server does not start');
	unlink $node->data_dir . '/recovery.signal';
	is(slurp_file($file), $damaged, 'the file is as it was');
	$node->start;
	observe();
	my $before = history();
	is( join(' ', map { $_->[0] } $observer->rows("SELECT 'a' || action_id FROM lockguard.actions ORDER BY action_id")),
		join(' ', sort grep { /^a/ } @what[ 0, 2 .. $#what ]),
		'intact records are there at the next start');
	ok(wait_until(sub { -e $aside }), 'the file is moved aside');
	is(slurp_file($aside), $damaged, 'as it was');
	isnt($before, '', 'the history is not empty');
	$node->restart;
	observe();
	is(history(), $before, 'and is there after the next restart');
}

$node->stop;
done_testing();
