# The postmortem: nothing that people put into names and queries is ever read
# as Markdown, HTML or Mermaid, or breaks what is.  That it renders is tested
# with a real browser by test/mermaid/run.sh.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = lockguard_node('main', conf => <<'CONF');
max_prepared_transactions = 5
lockguard.incident_threshold = '100ms'
lockguard.naptime = '20ms'
CONF
create_t($node);
my $observer = LockguardTest::Session->new($node, 'observer');

# An incident whose root and waiter have that name and such a query; returns
# its report.
sub report_on
{
	my ($name, %opt) = @_;
	my $role = $observer->value(
		q(SELECT quote_ident(substr($x$) . $name . q($x$, 1, 50))));
	my ($user) = $observer->value(q(SELECT substr($x$) . $name . q($x$, 1, 50)));
	$observer->query_ok("CREATE ROLE $role LOGIN SUPERUSER");
	my $s1 = LockguardTest::Session->new($node, $name, user => $user);
	my $s2 = LockguardTest::Session->new($node, $name);
	my $comment = join "\n", $name, '```', '# heading', $name;
	my $id;

	$comment =~ s{\*/}{* /}g;
	$s1->query_ok('BEGIN');
	$s1->query_ok("UPDATE t SET v = 1 WHERE id = 1 /* $comment */");
	$s2->start("UPDATE t SET v = 2 WHERE id = 1 /* $comment */");
	wait_until(
		sub {
			$id = $observer->value(
				'SELECT incident_id FROM lockguard.incidents WHERE root_pid = ' . $s1->pid);
		});
	$s1->query_ok('COMMIT');
	$observer->poll(
		"SELECT resolution FROM lockguard.incidents WHERE incident_id = $id", 'released');
	$s2->finish;
	$_->close foreach $s1, $s2;
	ok( $observer->poll(
			'SELECT count(*) FROM pg_stat_activity WHERE pid = ' . $s1->pid, 0),
		'the session is gone');
	$observer->query_ok("DROP ROLE $role");
	return ($observer->value("SELECT lockguard.report($id)"), $s1->pid, $s2->pid);
}

# Take a report to pieces as CommonMark and GitHub's tables do, and return what
# is left outside of code: text that might be read as markup.
sub outside_of_code
{
	my ($report) = @_;
	my ($fence, @outside, @blocks);

	foreach my $line (split /\n/, $report)
	{
		if (defined $fence)
		{
			if ($line =~ /^(`{3,}) *$/ && length $1 >= length $fence)
			{
				undef $fence;
			}
			else
			{
				push @{ $blocks[-1] }, $line;
			}
		}
		elsif ($line =~ /^(`{3,})(\w*)$/)
		{
			$fence = $1;
			push @blocks, [$2];
		}
		else
		{
			my @cells = $line;

			# Cells end at a bar that no backslash escapes; code or not.
			@cells = $line =~ /((?:\\.|[^\\|])+)/g if $line =~ /^\|/;
			foreach my $cell (@cells)
			{
				# HTML's own code element, with all but words as character codes.
				$cell =~ s{<code>(?:[\w \x80-\xff]|&#\d+;)*</code>}{CODE}g;
				$cell =~ s/(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)/CODE/g;
				push @outside, $cell;
			}
		}
	}
	push @outside, 'a block without an end' if defined $fence;
	return (join("\n", @outside), @blocks);
}

foreach my $name (
	'harmless',
	q(quotes ' " '' ""),
	'`one` ``two`` ```three',
	'```mermaid',
	'a | b || c \| d \\\\| <img src=x>',
	'|---|---|',
	'\\',
	'back\\`slash`',
	'<b>bold</b><script>alert(1)</script>',
	'![image](http://x) [link](javascript:x) **b** _i_',
	'"]; click n0 href "javascript:alert(1)"',
	'%%{init: {"theme": "dark"}}%%',
	'end', '#35; #quot; &lt; &#60;',
	'a;b --> n0 :::c @{ shape: x }',
	'subgraph s direction TB classDef x')
{
	my ($report, $root, $waiter) = report_on($name);
	my ($outside, @blocks) = outside_of_code($report);
	my $quoted = $name;

	unlike($outside, qr/[<>]|`|\]\(|\*\*|javascript|alert|init|click|theme/,
		"$name: nothing of it outside of code");
	is(join(' ', map { $_->[0] } @blocks),
		'mermaid mermaid sql sql', 'two diagrams and two queries');
	my (undef, @gantt) = @{ $blocks[0] || [] };
	my (undef, @graph) = @{ $blocks[1] || [] };

	is(shift @gantt, 'gantt', 'one is a Gantt chart');
	is_deeply(
		[
			grep {
				!/^    (?:dateFormat x|axisFormat %H:%M:%S|section (?:root|blocked))$/
				  && !/^    process \d+ : (?:crit, )?\d+, \d+$/
			} @gantt
		],
		[],
		'with nothing of others in it');

	# A label has nothing but letters, digits, harmless signs and codes.
	my $label = qr/"(?:[\w .,=+*-]|#\d+;)*"/;
	is(shift @graph, 'flowchart LR', 'the other is a graph');
	is_deeply(
		[
			grep {
				!/^    n\d+\[$label\]$/
				  && !/^    n\d+ -->\|$label\| n\d+$/
				  && $_ ne '    style n0 stroke-width:4px'
			} @graph
		],
		[],
		'with nothing but nodes and edges');
	unlike(join("\n", @graph), qr/direction\s+(?:TB|BT|LR|RL|TD)/,
		'and no direction, which Mermaid would see even in a label');
	my $code = $name;
	$code =~ s/([^\w .,=+*-])/'#' . ord($1) . ';'/ge;
	like($report, qr/^    n1\["$waiter /m, 'its node is there')
	  if $name eq 'harmless';

	foreach my $sql (grep { $_->[0] eq 'sql' } @blocks)
	{
		like(join("\n", @$sql), qr/\Q$name\E/, 'the query is there as it was');
	}
}

# A prepared transaction has no session, but a name.
{
	my $gid = q(gid | `x` \| <img src=x> "]; click n0);
	my $s1 = LockguardTest::Session->new($node, 'S1');
	my $s2 = LockguardTest::Session->new($node, 'S2');
	my $id;

	$s1->query_ok($_)
	  foreach 'BEGIN', 'UPDATE t SET v = 1 WHERE id = 1',
	  "PREPARE TRANSACTION '$gid'";
	$s2->start('UPDATE t SET v = 2 WHERE id = 1');
	wait_until(
		sub {
			$id = $observer->value(
				'SELECT incident_id FROM lockguard.incidents WHERE gid IS NOT NULL');
		});
	my $report = $observer->value("SELECT lockguard.report($id)");
	my ($outside) = outside_of_code($report);
	like($report, qr/ until now, prepared transaction /, 'an incident that is open');
	like($report, qr/The incident is still open\./, 'which is said');
	unlike($outside, qr/[<>`]|click/, 'the gid is in code only');
	like($report, qr/lockguard\.prepared_transaction_timeout/, 'with its advice');
	$observer->query_ok("COMMIT PREPARED '$gid'");
	succeeds($s2, 'UPDATE');
}

# What there is not.
is($observer->query('SELECT lockguard.report(1000000)')->{error}{C},
	'42704', 'no such incident: an error');
like($observer->error->{M}, qr/^incident 1000000 does not exist$/, 'that says so');
ok($observer->query("SELECT lockguard.report($_)")->{error}, "report($_): an error")
  foreach '0', '-1', '9223372036854775807', '-9223372036854775808';
is($observer->value('SELECT lockguard.report(NULL)'), undef, 'null: null');

# A session of a database with another encoding: its bytes are not ours.
{
	$observer->query_ok(
		"CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
	my $s1 = LockguardTest::Session->new($node, 'S1', dbname => 'latin');
	my $s2 = LockguardTest::Session->new($node, 'S2', dbname => 'latin');
	my $id;

	$_->query_ok("SET client_encoding = 'LATIN1'") foreach $s1, $s2;
	$s1->query_ok($_)
	  foreach 'CREATE TABLE u (id int)', 'INSERT INTO u VALUES (1)', 'BEGIN',
	  "UPDATE u SET id = 1 /* caf\xe9 \xa3\xa3 */";
	$s2->start("UPDATE u SET id = 1 /* caf\xe9 \xff */");
	is_waiting($observer, $s2);
	wait_until(
		sub {
			$id = $observer->value(
				'SELECT incident_id FROM lockguard.incidents WHERE root_pid = ' . $s1->pid);
		});
	my $utf8 =
	  $observer->value('SHOW server_encoding') eq 'UTF8';
	SKIP:
	{
		skip 'the cluster is not UTF8', 3 unless $utf8;
		my $report = $observer->value("SELECT lockguard.report($id)");
		like($report, qr{UPDATE u SET id = 1 /\* caf\? \?\? \*/},
			'bytes that are not valid here are replaced in the report');
		like(
			$observer->value(
				"SELECT lock_tree || query FROM lockguard.incidents WHERE incident_id = $id"
			),
			qr{caf\? \?[^\xe9\xff\xa3]*caf\? \?\?},
			'and in the view');
		unlike($report, qr/[\xe9\xff\xa3]/, 'none has got through');
	}
	my $other = LockguardTest::Session->new($node, 'S3', dbname => 'latin');
	$other->query_ok('CREATE EXTENSION lockguard');
	$other->query_ok("SET client_encoding = 'LATIN1'");
	like($other->value("SELECT lockguard.report($id)"),
		qr/caf\xe9 \xa3\xa3/, 'in its own database they are as they were');
	$s1->query_ok('COMMIT');
	succeeds($s2, 'UPDATE');
}

$node->stop;
done_testing();
