#!/usr/bin/perl
# Checks META.json by the rules of the PGXN Meta Spec 1.0.0 (https://pgxn.org/spec), and that it agrees with
# the files around it. PGXN::Meta::Validator would know the rules first hand; Debian does not have it.
#
#   test/package/meta.pl FOLDER      of a checkout, or of the unpacked archive
#
# Prints what is wrong, and nothing if all is right.

use strict;
use warnings;
use JSON::PP;

my @wrong;
my $folder = shift or die "usage: meta.pl FOLDER\n";

sub wrong { push @wrong, join('', @_); return; }

sub contents
{
	my ($name) = @_;
	open my $file, '<:raw', "$folder/$name" or do { wrong("$name: $!"); return ''; };
	local $/;
	return scalar <$file>;
}

# What a value has to be. Each gets it and its place, such as "provides.lockguard.file".
my $semver = qr/(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-?[A-Za-z][-0-9A-Za-z]*)?/;
my %licenses = map { $_ => 1 } qw(agpl_3 apache_1_1 apache_2_0 artistic_1 artistic_2 bsd freebsd gfdl_1_2 gfdl_1_3
  gpl_1 gpl_2 gpl_3 lgpl_2_1 lgpl_3_0 mit mozilla_1_0 mozilla_1_1 openssl perl_5 postgresql qpl_1_0 ssleay sun
  zlib open_source restricted unrestricted unknown);

sub is_text { my ($v, $at) = @_; defined $v && !ref $v && length $v or wrong("$at: not a text"); }

sub is_one_of
{
	my @choice = @_;
	return sub { my ($v, $at) = @_; grep { defined $v && $v eq $_ } @choice or wrong("$at: not one of @choice"); };
}

sub is_like
{
	my ($pattern, $what) = @_;
	return sub { my ($v, $at) = @_; defined $v && !ref $v && $v =~ /\A$pattern\z/ or wrong("$at: not $what"); };
}

sub is_list_of
{
	my ($rule) = @_;
	return sub {
		my ($v, $at) = @_;
		my @list = ref $v eq 'ARRAY' ? @$v : ($v);
		@list or wrong("$at: empty");
		$rule->($list[$_], "$at\[$_]") for 0 .. $#list;
	};
}

# is_map(key => rule, ...): a key with "!" is required. "*" is [rule of the key, rule of the value] of all others;
# without it, they have to begin with x_.
sub is_map
{
	my %rules = @_;
	return sub {
		my ($v, $at) = @_;
		return wrong("$at: not an object") unless ref $v eq 'HASH';
		for my $key (grep { /!$/ } keys %rules)
		{
			wrong("$at: has no ", $key =~ s/!$//r) unless defined $v->{ $key =~ s/!$//r };
		}
		for my $key (sort keys %$v)
		{
			my $rule = $rules{$key} // $rules{"$key!"};
			if ($rule) { $rule->($v->{$key}, "$at.$key"); }
			elsif ($rules{'*'}) { $rules{'*'}[0]->($key, "$at.$key"); $rules{'*'}[1]->($v->{$key}, "$at.$key"); }
			else { wrong("$at: unknown key $key") unless $key =~ /\Ax_/i; }
		}
	};
}

my $term = is_like(qr/[^\s[:cntrl:]\/\\]{2,}/, 'a term');
my $tag = is_like(qr/[^[:cntrl:]\/\\]{1,256}/, 'a tag');
my $version = is_like($semver, 'a semantic version');
my $range = is_like(qr/(?:0|(?:(?:<|<=|>|>=|==|!=)\s*)?$semver)(?:\s*,\s*(?:<|<=|>|>=|==|!=)\s*$semver)*/, 'a version range');
my $url = is_like(qr/[a-z][-+.a-z0-9]*:\/\/[^\s\/]+\S*/i, 'a URL');
my $path = is_like(qr/(?!\/)(?!.*\.\.)[^[:cntrl:]\\]+/, 'a path in the archive');
my $prereqs = is_map(map { $_ => is_map(map { $_ => is_map('*' => [ $term, $range ]) } qw(requires recommends suggests conflicts)) }
	qw(configure build test runtime develop));

my $spec = is_map(
	'name!' => $term,
	'version!' => $version,
	'abstract!' => \&is_text,
	'maintainer!' => is_list_of(\&is_text),
	'license!' => sub {
		my ($v, $at) = @_;
		(ref $v eq 'HASH' ? is_map('*' => [ sub { }, $url ]) : is_list_of(is_one_of(sort keys %licenses)))->($v, $at);
	},
	'provides!' => is_map('*' => [
		$term,
		is_map('file!' => $path, 'version!' => $version, abstract => \&is_text, docfile => $path) ]),
	'meta-spec!' => is_map('version!' => is_one_of('1.0.0'), url => $url),
	description => \&is_text,
	generated_by => \&is_text,
	tags => is_list_of($tag),
	no_index => is_map(file => is_list_of($path), directory => is_list_of($path)),
	prereqs => $prereqs,
	release_status => is_one_of(qw(stable testing unstable)),
	resources => is_map(
		homepage => $url,
		license => is_list_of($url),
		bugtracker => is_map(web => $url, mailto => is_like(qr/\S+\@\S+/, 'an address')),
		repository => is_map(url => $url, web => $url, type => is_like(qr/[a-z]+/, 'in lower case'))));

my $meta = eval { JSON::PP->new->utf8->decode(contents('META.json')) };
if (!$meta)
{
	wrong("META.json: ", $@ || 'empty');
}
else
{
	$spec->($meta, 'META');

	# What else names a version, and the files that it names.
	my $ours = $meta->{version} // '';
	my $provided = ref $meta->{provides} eq 'HASH' ? $meta->{provides} : {};
	for my $extension (sort keys %$provided)
	{
		for my $file (grep { defined } @{ $provided->{$extension} }{qw(file docfile)})
		{
			-f "$folder/$file" or wrong("provides.$extension: there is no $file");
		}
		my ($default) = contents("$extension.control") =~ /^default_version = '(.*)'$/m;
		$provided->{$extension}{version} =~ /\A\Q$default\E\.\d+\z/
		  or wrong("provides.$extension.version: $extension.control has $default");
	}
	my ($changes) = contents('CHANGELOG.md') =~ /^## (\S+)/m;
	($changes // '') eq $ours or wrong("META.version: CHANGELOG.md begins with ", $changes // 'none');
	my ($debian) = contents('debian/changelog') =~ /\A\S+ \(([^)]*)-[^-)]*\)/;
	($debian // '') eq $ours or wrong("META.version: debian/changelog begins with ", $debian // 'none');
}

print "$_\n" for @wrong;
exit(@wrong ? 1 : 0);
