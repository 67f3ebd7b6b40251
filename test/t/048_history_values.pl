# A history file whose checksums are right and whose contents are not: extreme
# numbers in the place of each field.  Nothing of that may crash the server, or
# keep what is intact from being read.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardFaults;
use LockguardSession;
use LockguardTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
lockguard.incident_threshold = '10ms'
lockguard.max_history = 10000
CONF
my $observer = LockguardTest::Session->new($node, 'observer');
my $file = $node->data_dir . '/pg_stat/lockguard.stat';

guards($observer, 'the model');
scan($observer);
{
	my ($s1, $s2) = map { session($node, $_) } 'S1', 'the model';

	$_->query_ok('BEGIN') foreach $s1, $s2;
	$s1->query_ok($_) foreach "SET deadlock_timeout = '1h'", 'SELECT pg_advisory_xact_lock(1)';
	$s2->query_ok($_) foreach "SET deadlock_timeout = '5ms'", 'SELECT pg_advisory_xact_lock(2)';
	$s1->start('SELECT pg_advisory_xact_lock(2)');
	is_waiting($observer, $s1);
	is($s2->query('SELECT pg_advisory_xact_lock(1)')->{error}{C}, '40P01', 'a deadlock');
	$s2->query_ok('ROLLBACK');
	succeeds($s1, 'the other one');
	$_->close foreach $s1, $s2;
}
$observer->close;
$node->stop;

sub record
{
	my ($kind, $data) = @_;
	my $head = pack 'LL', $kind, length $data;

	return pack('L', 0x4b434f4c) . $head . pack('L', crc32c($head . $data)) . $data;
}

# One record of each kind: an action, an incident, contention, the last one, and a deadlock.
my $bytes = slurp_file($file);
my $header = substr $bytes, 0, 28;
my %model;
for (my $at = 28; $at < length $bytes;)
{
	my (undef, $kind, $length) = unpack 'L3', substr $bytes, $at, 12;

	$model{$kind} = substr $bytes, $at + 16, $length;
	$at += 16 + $length;
}
is(join(' ', sort keys %model), '1 2 3 4 5', 'the model has each kind of record');

# Everything that can be a number, each at its turn in a record of its own; the
# last action, incident and deadlock are intact but for their ids.
my %number = (1 => 0, 2 => 0, 5 => 0);
my ($records, $out) = (0, $header);
foreach my $kind (1, 2, 3, 5)
{
	foreach my $width (4, 8)
	{
		my @extremes = $width == 4 ? (~0 >> 33, ~0 >> 32) : (~0 >> 1, (~0 >> 1) - 1, -(~0 >> 1), -(~0 >> 1) - 1);

		# The id, which comes first, has its turn below.
		for (my $at = $kind == 3 ? 0 : 8; $at + $width <= length $model{$kind}; $at += $width)
		{
			foreach my $extreme (@extremes)
			{
				my $data = $model{$kind};

				substr($data, 0, 8) = pack 'q', ++$number{$kind} if $kind != 3;
				substr($data, $at, $width) = pack $width == 4 ? 'L' : 'q', $extreme;
				$out .= record($kind, $data);
				$records++;
			}
		}
	}
	next if $kind == 3;
	$out .= record($kind, pack('q', ++$number{$kind}) . substr $model{$kind}, 8);
	$records++;
	foreach my $id (0, -1, ~0 >> 1, -(~0 >> 1) - 1)
	{
		$out .= record($kind, pack('q', $id) . substr $model{$kind}, 8);
		$records++;
	}
}

# Puts a file there, starts the server, and reads all of it.
sub is_readable
{
	my ($what, $contents) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $offset = -s $node->logfile;
	my ($actions, $incidents, $deadlocks) = ('action_id = ' . $number{1}, 'incident_id = ' . $number{2}, 'deadlock_id = ' . $number{5});

	open my $handle, '>:raw', $file or die "cannot write $file: $!";
	print $handle $contents;
	close $handle or die "cannot write $file: $!";
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	foreach my $sql (
		(map { "SELECT count(v::text) FROM lockguard.$_ v" } qw(actions incidents deadlocks contention stats action_counts)),
		'SELECT sum(length(lockguard.report(incident_id))) FROM lockguard.incidents',
		'SELECT sum(length(lockguard.deadlock_report(deadlock_id))) FROM lockguard.deadlocks')
	{
		my $error = $observer->query($sql)->{error};

		is($error, undef, "$what: $sql") || diag explain $error;
	}
	is($observer->value("SELECT count(*) FROM lockguard.actions WHERE $actions AND application_name = 'the model'"), '1', "$what: an intact action is there");
	is($observer->value("SELECT count(*) FROM lockguard.incidents WHERE $incidents AND application_name = 'the model'"), '1', "$what: an intact incident is there");
	is($observer->value("SELECT count(*) FROM lockguard.deadlocks WHERE $deadlocks AND application_name = 'the model'"), '1', "$what: an intact deadlock is there");
	is(count_in_log($node, $offset, 'WARNING:  lockguard: history file .* is damaged'), 1, "$what: there is a WARNING");
	guards($observer, $what);
	scan($observer);
	my $read = $observer->value('SELECT count(*) FROM lockguard.actions');

	# What was taken over can be written and read again.
	$observer->close;
	$node->restart;
	$observer = LockguardTest::Session->new($node, 'observer');
	is($observer->value('SELECT count(*) FROM lockguard.actions'), $read, "$what: all is there after a restart");
	is(count_in_log($node, $offset, 'WARNING:  lockguard: history file'), 1, "$what: which finds nothing wrong");
	$observer->close;
	$node->stop;
	return;
}

is_readable('extreme fields', $out . record(4, pack 'q4', $number{1} + 1, $number{2} + 1, $number{5} + 1, $records));

# Counts and lengths that promise more than there is.
my $good = $header . record(1, pack('q', 1) . substr $model{1}, 8) . record(2, pack('q', 1) . substr $model{2}, 8)
  . record(5, pack('q', 1) . substr $model{5}, 8);
%number = (1 => 1, 2 => 1, 5 => 1);
is_readable('a huge count', $good . record(4, pack 'q4', 2, 2, 2, ~0 >> 1));
is_readable('a negative count', $good . record(4, pack 'q4', 2, 2, 2, -1));
is_readable('huge numbers', $good . record(4, pack 'q4', ~0 >> 1, ~0 >> 1, ~0 >> 1, 3));
is_readable('a huge length', $good . pack('L4', 0x4b434f4c, 1, 0xffffffff, 0) . record(4, pack 'q4', 2, 2, 2, 4));

# An extension gives its wait events their names as long as the server runs: afterwards, they have none.
{
	my $incident = $model{2};

	# The root comes first in the arena: size, no parent, level 0, a client; its wait event is at 20.
	is($incident =~ s/(..\xff\xff\0\0\x01.{13}).{4}/$1 . pack 'L', 0x07000123/gse, 1, 'the root is there');
	open my $handle, '>:raw', $file or die "cannot write $file: $!";
	print $handle $header . record(2, $incident) . record(4, pack 'q4', 2, 1 + unpack('q', $incident), 1, 1);
	close $handle or die "cannot write $file: $!";
	$node->start;
	$observer = LockguardTest::Session->new($node, 'observer');
	like($observer->value('SELECT lock_tree FROM lockguard.incidents'),
		qr/\(Extension: Extension\)/, 'the wait event of an extension is shown as one');
	$observer->query_ok('SELECT lockguard.report(incident_id) FROM lockguard.incidents');
	$observer->close;
	$node->stop;
}

log_is_sound($node);
done_testing();
