# docs/reference.md documents every setting, view, column, function and message
# that there is, and no setting, view, column or function that there is not.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LockguardTest;
use Test::More;

my $top = "$FindBin::RealBin/../..";
my $reference = slurp("$top/docs/reference.md");
my $node = lockguard_node('main');
my $observer = LockguardTest::Session->new($node, 'observer');

sub slurp
{
	my ($file) = @_;

	open my $in, '<', $file or die "cannot open $file: $!";
	local $/;
	return scalar <$in>;
}

# What stands under a heading, down to the next one that is as high.
sub section
{
	my ($heading) = @_;
	my ($level) = $heading =~ /^(#+)/;

	$reference =~ /^\Q$heading\E\n(.*?)(?=^#{1,${\ length $level}} |\z)/ms
	  or die "no heading \"$heading\" in the reference";
	return $1;
}

# The cells of the tables in a text, without their heads.
sub rows_of
{
	my ($text) = @_;
	my @rows;

	while ($text =~ /^\|[^\n]*\|\n\|[-|]+\|\n((?:\|.*\|\n)*)/mg)
	{
		push @rows, map { s/^\| | \|$//g; [ split / \| /, $_, -1 ] } split /\n/, $1;
	}
	return @rows;
}

# What is written as code in a text.
sub code_in { return $_[0] =~ /`([^`]+)`/g; }

# The first cells' code, from all tables of a text.
sub names_in { return map { code_in($_->[0]) } rows_of($_[0]); }

sub sorted { return [ sort @_ ]; }

sub column { return map { $_->[0] } $observer->rows($_[0]); }

# Settings, with their defaults.  A build for tests has some more.
my $settings = section('## Settings');
my %default = map { @$_ } $observer->rows(<<'SQL');
SELECT substr(name, 11), current_setting(name) FROM pg_settings
WHERE name LIKE 'lockguard.%' AND name NOT LIKE 'lockguard.debug%'
SQL
is_deeply(sorted(names_in($settings)), sorted(keys %default), 'settings');

my %documented = map { (code_in($_->[0]))[0] => $_->[1] =~ s/`//gr =~ s/ \(off\)$//r }
  rows_of(section('### How a session is treated')), rows_of(section('### The server'));
is($documented{$_}, $default{$_}, "default of $_") foreach sort keys %documented;
is($default{$_}, '0', "$_ is off by default") foreach names_in(section('### Limits'));

# Views and their columns.
my @views = column(<<'SQL');
SELECT relname FROM pg_class
WHERE relnamespace = 'lockguard'::regnamespace AND relkind IN ('v', 'r', 'm') ORDER BY 1
SQL
is_deeply(sorted(section('## Views') =~ /^### lockguard\.(\w+)$/mg), \@views, 'views');
foreach my $view (@views)
{
	is_deeply(
		sorted(names_in(section("### lockguard.$view"))),
		sorted(column("SELECT attname FROM pg_attribute WHERE attrelid = 'lockguard.$view'::regclass AND attnum > 0")),
		"columns of $view");
}

# Functions, with their arguments; those with an underscore are internal.
is_deeply(
	sorted(names_in(section('## Functions'))), sorted(column(<<'SQL')), 'functions');
SELECT 'lockguard.' || proname || '(' || regexp_replace(pg_get_function_arguments(oid), ',? ?OUT .*', '') || ')' FROM pg_proc
WHERE pronamespace = 'lockguard'::regnamespace AND proname NOT LIKE E'\\_%'
SQL
is_deeply(
	[
		column(<<'SQL')
SELECT proname FROM pg_proc
WHERE pronamespace = 'lockguard'::regnamespace AND proname LIKE E'\\_%'
      AND coalesce(obj_description(oid, 'pg_proc'), '') NOT LIKE 'internal:%'
SQL
	],
	[],
	'every function with an underscore is internal');

# What the documents name, there is.
my %exists = map { $_ => 1 } keys %default, @views,
  column("SELECT proname FROM pg_proc WHERE pronamespace = 'lockguard'::regnamespace"),
  qw(stat postgres_exporter sql_exporter so control json);
foreach my $file ("$top/README.md", sort glob "$top/docs/*.md")
{
	my %named = map { $_ => 1 } slurp($file) =~ /\blockguard\.([a-z_]+)/g;

	is_deeply([ sort grep { !$exists{$_} } keys %named ],
		[], 'names in ' . ($file =~ s/^\Q$top\E\///r));
}

# Strings of C that stand beside each other, as one; an identifier between them
# is a macro.
sub c_string
{
	my ($code) = @_;
	my $string = '';

	while ($code =~ /\G\s*(?:"((?:[^"\\]|\\.)*)"|([A-Z]\w*|[%\w]+))/gc)
	{
		$string .= defined $1 ? $1 : '%s';
	}
	return $string =~ s/\\(.)/$1 eq 'n' ? "\n" : $1/ger;
}

# A message of the source as a pattern: what it fills in may be anything short.
sub pattern
{
	my ($string) = @_;
	my @parts = split /%(?:ll|z|\.\d)?[a-zA-Z]|\{\w+\}/, $string =~ s/^lockguard: //r, -1;

	return join '[^`\n]{1,80}?', map { quotemeta } @parts;
}

sub is_documented
{
	my ($string, $where) = @_;
	my $pattern = pattern($string);

	# Not like(), which would show the whole reference.
	return ok($reference =~ /$pattern/, "$where: $string");
}

# Messages.  Those that say nothing by themselves are put together elsewhere.
my $messages = 0;
foreach my $file (sort(glob("$top/src/*.c")), "$top/sql/lockguard--1.0.sql")
{
	my $source = slurp($file) =~ s/\/\*.*?\*\///gsr;
	my $name = $file =~ s/^\Q$top\E\///r;

	while ($source =~ /\berrmsg(?:_plural)?\s*\(\s*((?:"(?:[^"\\]|\\.)*"\s*|[A-Z_]+\s+(?="))+)|RAISE EXCEPTION '([^']+)'/g)
	{
		my $string = defined $1 ? c_string($1) : $2;

		next if $string !~ /[a-z]{3}/i || $string =~ /^lockguard: %s %s, %s$/;
		is_documented($string, $name);
		$messages++;
	}

	# How the message about an action begins.
	while ($name eq 'src/enforce.c' && $source =~ /\bdid = ([^;]+);/g)
	{
		is_documented($_, $name) foreach $1 =~ /"([^"]+)"/g;
	}
}
cmp_ok($messages, '>', 40, 'messages were found');

# What a victim is told, and why no signal was sent.
my $texts = slurp("$top/src/text.c");
my ($limits) = $texts =~ /^static const LimitText limit_texts\b.*?\{\n(.*?)^\};/ms;
my ($reasons) = $texts =~ /^lg_brake_text\(.*?texts\[\] = \{\n(.*?)^\t\};/ms;
my ($kinds) = $texts =~ /^lg_kind_text\((.*?)^\}/ms;
my ($results) = $texts =~ /^lg_result_name\(.*?names\[\] = \{\n(.*?)^\t\};/ms;
my ($resolutions) = $texts =~ /^lg_resolution_name\(.*?names\[\] = \{\n(.*?)^\t\};/ms;
foreach my $part ($limits, $reasons, $kinds, $results, $resolutions)
{
	my @strings = $part =~ /"((?:[^"\\]|\\.)*)"/g;

	cmp_ok(scalar @strings, '>', 6, 'texts were found');
	is_documented($_, 'src/text.c') foreach grep { $_ ne 'ms' && $_ ne 'client backend' } @strings;
}

done_testing();
