# Text that users choose (names, queries, gids) is shown in views, reports, the
# victim's error and the server log: in none of these does it make up a line, a
# record or a command to the terminal, nor keep a message from arriving.

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

# All slots for workers are taken by lockguard's own: no rollback can be begun.
my $node = lockguard_node('main', conf => <<'CONF');
logging_collector = on
log_destination = 'stderr,csvlog,jsonlog'
log_directory = 'log'
log_filename = 'hostile'
log_rotation_age = 0
log_rotation_size = 0
log_line_prefix = '%m [%p] '
log_timezone = 'UTC'
log_statement = none
track_activity_query_size = 200
max_prepared_transactions = 5
max_worker_processes = 2
max_logical_replication_workers = 0
lockguard.naptime = '20ms'
lockguard.incident_threshold = '50ms'
lockguard.prepared_transaction_action = 'rollback'
CONF
my $log = $node->data_dir . '/log/hostile';
my $first = LockguardTest::Session->new($node, 'first');
# Since 19 names of databases and roles have no line feed, but other control characters.
my $no_line_feed = $first->value('SHOW server_version_num') >= 190000;
my $db = "db\nLOG:  lockguard: no such line\e[2K";
$db =~ tr/\n/\x0b/ if $no_line_feed;
my $key = 0;

$first->query_ok(qq{CREATE DATABASE "$db" TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'});
my $observer = LockguardTest::Session->new($node, 'observer', dbname => $db);
$observer->query_ok('CREATE EXTENSION lockguard');
$observer->query_ok('CREATE TABLE t (id int); INSERT INTO t VALUES (1)');

# decode() eats what it is given.
sub utf8
{
	my ($bytes) = @_;
	return decode('UTF-8', $bytes, Encode::FB_CROAK);
}

# Control characters, in UTF-8 too, and whatever else lines end or run backwards with.
my $control = qr/[\x00-\x1f\x7f\x{80}-\x{9f}\x{2028}-\x{202e}\x{2066}-\x{2069}]/;

my %name = (
	'line' => "x\nLOG:  lockguard: terminated process 1 (user \"postgres\"",
	'record' => "x\r\n\t\",\"y\",\\n{\"error_severity\":\"LOG\"}",
	'terminal' => "x\e[31m\e]0;title\a\b\b\x7f\x0b\x0c",
	'unicode' => encode('UTF-8', "x\x{85}y\x{9b}31m\x{2028}z\x{202e}a\x{2066}b\x{200e}"),
	'long' => encode('UTF-8', "\x{e9}" x 30 . 'xyz'));
if ($no_line_feed)
{
	tr/\r\n/\x0c\x0b/ foreach values %name;
}

sub quoted
{
	my ($name) = @_;

	$name =~ s/"/""/g;
	return qq{"$name"};
}

# One after the other is a root for long enough, and is told why it had to go.
my %story;
foreach my $kind (sort keys %name)
{
	my $name = $name{$kind};
	my $role = quoted($name);
	my $table = quoted(encode('UTF-8', substr(utf8($name), 0, 40)));

	$observer->query_ok("CREATE ROLE $role LOGIN SUPERUSER");
	$observer->query_ok("ALTER ROLE $role SET lockguard.idle_blocker_timeout = '400ms'");
	$observer->query_ok("CREATE TABLE $table ()");
	my $s = LockguardTest::Session->new($node, $name, user => $name, dbname => $db);
	my $w = LockguardTest::Session->new($node, 'w', dbname => $db);
	$s->query_ok('BEGIN');
	# It ends in the middle of a character where the server cuts it.
	$s->query_ok("LOCK $table /* " . substr($name, 0, 30) . " */ /*" . encode('UTF-8', "\x{20ac}" x 100) . '*/');
	$w->start("SELECT 1 FROM $table /* $name\n*/");

	# Meanwhile, the views are read.
	my @tree;
	is_waiting($observer, $w);
	@tree = map { $_->[0] } $observer->rows('SELECT lockguard.tree()');
	my @lock_tree = $observer->rows('SELECT usename, application_name, datname, relation_name, query FROM lockguard.lock_tree');
	my @sessions = $observer->rows('SELECT usename, query FROM lockguard.sessions WHERE pid = ' . $s->pid);

	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	succeeds($w, "$kind: the waiter");
	is(scalar @tree, 2, "$kind: two sessions, two lines in tree()");
	is(scalar(grep { utf8($_) =~ $control } @tree), 0, "$kind: without control characters");
	is(scalar @lock_tree, 2, "$kind: two rows in lock_tree");
	is($sessions[0][0], $name, "$kind: views show the name as it is");
	$story{$kind} = { s => $s, w => $w, detail => $s->error->{D} };
	unlike(utf8($s->error->{D}), $control, "$kind: the victim's DETAIL is one line");
	$w->close;
}
like($story{long}{detail}, qr/\(set for role "$name{long}"\)/, 'a name of the greatest length is not cut');

# A superuser of such a name acts by hand, and pauses.
{
	my $boss = LockguardTest::Session->new($node, 'boss', user => $name{line}, dbname => $db);
	my $s = holder($node, 'by hand', ++$key, dbname => $db);
	my $w = session($node, 'waits', dbname => $db);
	$w->start("SELECT pg_advisory_lock($key)");
	begins_to_wait($observer, $w);
	is($boss->value('SELECT lockguard.terminate_blockers(' . $w->pid . ')'), '{' . $s->pid . '}', 'terminated by hand');
	$s->wait_closed;
	succeeds($w, 'the waiter');
	$boss->query_ok("SELECT lockguard.pause('1h')");
	$boss->query_ok('SELECT lockguard.resume()');
	$_->close foreach $boss, $w;
}

# A prepared transaction of such a name, which cannot be rolled back now.
{
	my $s = session($node, 'prepares', dbname => $db);
	my $gid = $name{line};
	$s->query_ok($_) foreach 'BEGIN', 'LOCK t', "PREPARE TRANSACTION '$gid'";
	$s->query_ok("ALTER SYSTEM SET lockguard.prepared_transaction_timeout = '100ms'");
	$s->query_ok('SELECT pg_reload_conf()');
	ok($observer->poll("SELECT result = 'failed' FROM lockguard.actions WHERE gid IS NOT NULL"), 'a rollback fails');
	$s->query_ok("COMMIT PREPARED '$gid'");
	$s->query_ok('ALTER SYSTEM RESET lockguard.prepared_transaction_timeout');
	$s->query_ok('SELECT pg_reload_conf()');
	$s->close;
}

# A name that the client's encoding does not have: the error is PostgreSQL's own
# all the same, and the detail says what it can.
{
	my $name = encode('UTF-8', "\x{440}\x{43e}\x{43b}\x{44c}");
	$observer->query_ok(qq{CREATE ROLE "$name" LOGIN; ALTER ROLE "$name" SET lockguard.blocker_timeout = '200ms'});

	foreach my $encoding ('LATIN1', 'UTF8')
	{
		my $shown = $encoding eq 'UTF8' ? $name : '?' x 8;
		foreach my $active (0, 1)
		{
			my $s = LockguardTest::Session->new($node, 'converts', user => $name, dbname => $db);
			my $w = session($node, 'waits', dbname => $db);
			$s->query_ok("SET client_encoding = '$encoding'");
			$s->query_ok($_) foreach 'BEGIN', 'SELECT pg_advisory_xact_lock(' . ++$key . ')';
			$s->start('SELECT pg_sleep(600)') if $active;
			$w->start("SELECT pg_advisory_lock($key)");
			if ($active)
			{
				is_cancelled($s, 'blocker_timeout');
			}
			else
			{
				is_rolled_back($observer, $s, 'blocker_timeout');
			}
			like($s->error->{D}, qr/\(set for role "\Q$shown\E"\)/, "$encoding: and as whom");
			$s->query('ROLLBACK') if $active;
			succeeds($w, 'the waiter');
			$_->close foreach $s, $w;
		}
	}
}

# A query of two megabytes: no more of it is kept or logged than of any other.
{
	my $s = session($node, 'long query', dbname => $db, idle_blocker_timeout => '100ms');
	my $w = session($node, 'waits', dbname => $db);
	$s->query_ok($_) foreach 'BEGIN', 'LOCK t /* ' . 'long' x 500_000 . '*/';
	$w->start('LOCK t /* ' . 'long' x 500_000 . '*/; SELECT 1');
	is_rolled_back($observer, $s, 'idle_blocker_timeout');
	$w->finish;
	ok($observer->value('SELECT bool_and(length(query) <= 1023) FROM lockguard.actions') eq 't', 'queries are cut');
	ok($observer->value('SELECT bool_and(length(lock_tree) <= 10000) FROM lockguard.incidents') eq 't', 'trees, too');
	$w->close;
}

# In every view, from a database with this or that encoding, all that is shown
# is valid there.
$first->query_ok("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
$first->query_ok("CREATE DATABASE euc TEMPLATE template0 ENCODING 'EUC_JP' LOCALE 'C'");
{
	my $ascii = session($node, 'ascii', dbname => 'ascii', action => 'log', idle_blocker_timeout => '50ms');
	my $bad = "bad\xff\xc3\xe2\x82";
	$ascii->query_ok(qq{CREATE ROLE "$bad" LOGIN SUPERUSER});
	my $s = LockguardTest::Session->new($node, 'bad', user => $bad, dbname => 'ascii');
	my $w = LockguardTest::Session->new($node, 'waits', dbname => 'ascii', user => $bad);
	$s->query_ok($_) foreach "SET lockguard.idle_blocker_timeout = '50ms'", "SET lockguard.action = 'log'", 'BEGIN', "SELECT pg_advisory_xact_lock(1) /* $bad */";
	$w->start("SELECT pg_advisory_lock(1) /* $bad */");
	is_recorded($observer, $s, 'idle_blocker_timeout log logged');
	my $id;
	wait_until(sub { $id = $observer->value('SELECT incident_id FROM lockguard.incidents WHERE root_pid = ' . $s->pid) });
	my $euc = LockguardTest::Session->new($node, 'euc', dbname => 'euc');
	$euc->query_ok('CREATE EXTENSION lockguard');
	foreach my $reader ([ $observer, 'UTF-8' ], [ $euc, 'euc-jp' ])
	{
		my ($session, $encoding) = @$reader;
		foreach my $what ('lockguard.lock_tree', 'lockguard.sessions', 'lockguard.actions', 'lockguard.incidents',
			'lockguard.deadlocks', 'lockguard.contention', 'lockguard.tree()', "lockguard.report($id)")
		{
			my $text = join "\n", map { $_->[0] } $session->rows("SELECT v::text FROM $what v");
			ok(defined eval { decode($encoding, $text, Encode::FB_CROAK) }, "$encoding: $what");
		}
	}
	like($observer->value("SELECT usename || query FROM lockguard.incidents WHERE incident_id = $id"), qr/^bad\?{4}SELECT .* bad\?{4} /, 'with a mark for each byte that is none');
	foreach my $kind (sort keys %story)
	{
		my $report = utf8($observer->value('SELECT lockguard.report(incident_id) FROM lockguard.incidents WHERE root_pid = ' . $story{$kind}{s}->pid));
		$report =~ tr/\n\t/ /;
		unlike($report, $control, "$kind: its report has no control characters");
	}
	$s->query_ok('COMMIT');
	succeeds($w, 'the waiter');
	$_->close foreach $s, $w, $ascii, $euc;
}

# Now the log.  Wait until all is written.
$observer->query_ok("SELECT lockguard.pause('7654 s')");
$observer->query_ok('SELECT lockguard.resume()');
foreach my $file ($log, "$log.csv", "$log.json")
{
	ok(wait_until(sub { slurp_file($file) =~ /paused for 7654 s.*resumed by user/s }), "all is in $file") if -e $file or ok(0, $file);
}
my $text = slurp_file($log);

# Whatever has no prefix continues an entry, and begins with a tab.
my @entries;
foreach my $line (split /\n/, $text)
{
	if ($line =~ /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC \[\d+\] (\w+:  .*)$/)
	{
		push @entries, $1;
	}
	elsif ($line =~ /^\t/)
	{
		$entries[-1] .= "\n$line";
	}
	else
	{
		push @entries, "FORGED $line";
	}
}
is_deeply([ grep { /^FORGED/ } @entries ], [], 'stderr: no line without its prefix');
my @ours = grep { /lockguard: / && !/^STATEMENT/ } @entries;
my %pids = map { $_->pid => 1 } map { ($_->{s}, $_->{w}) } values %story;
is_deeply([ grep { /^LOG:  lockguard: (?:terminated process 1 |no such line)/ } @ours ], [], 'no entry that lockguard has not written');
foreach my $kind (sort keys %story)
{
	my $pid = $story{$kind}{s}->pid;
	is(scalar(grep { /^LOG:  lockguard: rolls back the transaction of process $pid \(user "x?/ } @ours), 1, "$kind: one entry about the rollback");
	is(scalar(grep { /^LOG:  lockguard: incident \d+ begins: process $pid / } @ours), 1, "$kind: and one about the incident");
}
like(join("\n", @ours), qr/user "$name{long}", database "db LOG: lockguard: no such line \[2K", /, 'names of the greatest length are whole');
like(join("\n", @ours), qr/asked for by user "x LOG: lockguard: terminated process 1 /, 'who asked for it');
like(join("\n", @ours), qr/paused for 3600 s by user "x LOG: lockguard: /, 'who paused it');
like(join("\n", @ours), qr/^WARNING:  lockguard: prepared transaction "x LOG: lockguard: .* could not be rolled back now/m, 'what could not be rolled back');

# A tree in DETAIL has a line for each session.
my @bad = grep { my $e = $_; $e =~ s/\n\t//g; utf8($e) =~ $control }
  grep { (/^(?:LOG|WARNING):  lockguard: / || /lockguard: (?:the transaction was rolled back: )?this session/) && !/bad\xff/ } @entries;
is_deeply(\@bad, [], 'nor a control character');

# CSV: every record has as many fields.
my $csv = slurp_file("$log.csv");
my $field = qr/"[^"]*(?:""[^"]*)*"|[^",\n]*/;
my %columns;
while ($csv =~ /\G((?:$field,)*$field)\n/gc)
{
	my $record = $1;
	my $n = () = $record =~ /\G$field(?:,|\z)/g;
	$columns{ $n - ($record =~ /,\z/ ? 0 : 1) }++;
}
is(pos($csv), length $csv, 'csvlog can be read to its end');
is(scalar keys %columns, 1, 'with as many fields in each record') or diag explain \%columns;

# JSON: every line is a record, and valid UTF-8 where the names are.
my ($records, $broken) = (0, 0);
foreach my $line (split /\n/, slurp_file("$log.json"))
{
	next if $line =~ /bad\xff/;
	$records++;
	my $record = eval { JSON::PP->new->decode(utf8($line)) };
	next if $record && $record->{error_severity} && $record->{timestamp};
	$broken++;
	diag "broken: $line";
}
cmp_ok($records, '>', 20, 'jsonlog has records');
is($broken, 0, 'each of them valid');

$node->stop;
# Where crashes are looked for.
append_to_file($node->logfile, $text);
done_testing();
