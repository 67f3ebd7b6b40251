# Reads grafana/lockguard.json for test/grafana/run.sh.  One line "ok" or "FAILED" for each check.
#
#   panels.pl lint TOP                          what can be said about the file alone
#   panels.pl list TOP                          each target of each panel: "panel/target"
#   panels.pl check TOP EXPECTED FACTS MOMENT   asks Prometheus, compares with what is to be expected at that moment
#   panels.pl draw TOP SVG                      a picture of the panels, with the data that Prometheus has
#
# The environment has PROMETHEUS, its address; BEGUN, since when there are data; and for "draw" SHOWN, the moment
# of the panels that show one figure.

use strict;
use warnings;
use JSON::PP;
use HTTP::Tiny;

my ($command, $top, @args) = @ARGV;
my $dashboard = JSON::PP->new->utf8->decode(slurp("$top/grafana/lockguard.json"));
my @panels = grep { $_->{type} ne 'row' } @{$dashboard->{panels}};

# What Grafana would put there.
my $instance = 'db1:9187';
# A counter that grows by one between two scrapes shows in those windows only that have both: the longer, the more
# exact; and a picture shows more with a short one.
my $rate_window = $command eq 'draw' ? 10 : 30;

sub slurp
{
	my ($file) = @_;

	open(my $handle, '<', $file) or die "cannot read $file: $!\n";
	local $/;
	return <$handle>;
}

sub checked
{
	my ($ok, $name, $why) = @_;

	printf "%-8s%s\n", $ok ? 'ok' : 'FAILED', $name . (!$ok && $why ? ": $why" : '');
}

# The targets as [name, panel, target].
sub targets
{
	my @targets;

	foreach my $panel (@panels)
	{
		push @targets, ["$panel->{title}/$_->{refId}", $panel, $_] foreach @{$panel->{targets}};
	}
	return @targets;
}

sub ask
{
	my ($path, %form) = @_;
	my $answer = HTTP::Tiny->new(timeout => 30)->post_form("$ENV{PROMETHEUS}/api/v1/$path", \%form);
	my $json = eval { decode_json($answer->{content}) } or die "Prometheus: $answer->{status} $answer->{content}\n";

	die "Prometheus: $json->{error}\nin: $form{query}\n" if $json->{status} ne 'success';
	return $json->{data}{result};
}

sub substitute
{
	my ($expr, $now, $database) = @_;
	my %value = (
		instance => $instance,
		database => $database,
		__rate_interval => "${rate_window}s",
		__rate_interval_ms => 1000 * $rate_window,
		__range => sprintf('%ds', $now - $ENV{BEGUN} + 2));

	$expr =~ s/\$(\w+)/$value{$1} \/\/ die "no value for \$$1\n"/ge;
	return $expr;
}

sub legend
{
	my ($target, $labels) = @_;
	my $legend = $target->{legendFormat};

	$legend =~ s/\{\{(\w+)\}\}/$labels->{$1} \/\/ ''/ge;
	return $legend;
}

# What a target shows at a time, as { legend => value }.
sub values_at
{
	my ($target, $time, $database) = @_;
	my %values;

	foreach my $series (@{ask('query', query => substitute($target->{expr}, $time, $database), time => $time)})
	{
		my $legend = legend($target, $series->{metric});

		die "two series are called \"$legend\"\n" if exists $values{$legend};
		$values{$legend} = $series->{value}[1];
	}
	return \%values;
}

# What it has shown since the beginning, as { legend => [[time, value] ...] }.
sub curves
{
	my ($target, $time, $database) = @_;
	my $query = substitute($target->{expr}, $time, $database);
	my %curves;

	$curves{legend($target, $_->{metric})} = $_->{values}
	  foreach @{ask('query_range', query => $query, start => $ENV{BEGUN}, end => $time, step => 1)};
	return \%curves;
}

sub panel_steps
{
	my ($panel) = @_;

	return map { $_->{value} } grep { defined $_->{value} } @{$panel->{fieldConfig}{defaults}{thresholds}{steps}};
}

# All metrics of each of the two files.
sub metrics_of_postgres_exporter
{
	my ($namespace, %metrics);

	foreach (split /\n/, slurp("$top/prometheus/lockguard.postgres_exporter.yml"))
	{
		$namespace = $1 if /^(\w+):/;
		$metrics{"${namespace}_$1"} = 1 if /^    - (\w+):$/;
	}
	return \%metrics;
}

sub metrics_of_sql_exporter
{
	return {map { $_ => 1 } slurp("$top/prometheus/lockguard.sql_exporter.yml") =~ /- metric_name: (\w+)/g};
}

sub lint
{
	my (%ids, @bad);
	my $all = $dashboard->{panels};
	my $text = slurp("$top/grafana/lockguard.json");
	my $runbook = slurp("$top/docs/operations.md");
	my $alerts = slurp("$top/prometheus/alerts.yml");
	my %defined = (postgres_exporter => metrics_of_postgres_exporter(), sql_exporter => metrics_of_sql_exporter());

	checked($dashboard->{schemaVersion} >= 39 && $dashboard->{uid} && !defined $dashboard->{id},
		'it is a dashboard of schema version 39 or later, with a uid and without an id');
	@bad = grep { $ids{$_->{id}}++ } @$all;
	checked(!@bad, 'the ids of panels are unique', join ', ', map { $_->{id} } @bad);
	@bad = ();
	foreach my $i (0 .. $#$all)
	{
		my $a = $all->[$i]{gridPos};

		push @bad, "$all->[$i]{title} is outside" if $a->{x} < 0 || $a->{x} + $a->{w} > 24 || $a->{w} < 1 || $a->{h} < 1;
		foreach my $j ($i + 1 .. $#$all)
		{
			my $b = $all->[$j]{gridPos};

			push @bad, "$all->[$i]{title} and $all->[$j]{title}"
			  if $a->{x} < $b->{x} + $b->{w} && $b->{x} < $a->{x} + $a->{w} && $a->{y} < $b->{y} + $b->{h} && $b->{y} < $a->{y} + $a->{h};
		}
	}
	checked(!@bad, 'no panel overlaps another', join '; ', @bad);
	@bad = grep { $_->{type} !~ /^(row|stat|bargauge|timeseries)$/ } @$all;
	checked(!@bad, 'no panel needs a plugin', join ', ', map { $_->{type} } @bad);
	@bad = grep { !$_->{description} || !$_->{fieldConfig}{defaults}{unit} || !@{$_->{targets}} } @panels;
	checked(!@bad, 'each panel has a description, a unit and a query', join ', ', map { $_->{title} } @bad);
	@bad = grep { $_ ne '${datasource}' && $_ ne '-- Grafana --' && $_ ne 'lockguard' } $text =~ /"uid": "([^"]*)"/g;
	push @bad, map { $_->{title} // $_->{expr} } grep { ($_->{datasource}{uid} // '') ne '${datasource}' } @panels, map { @{$_->{targets}} } @panels;
	checked(!@bad, 'the data source is a variable everywhere', join ', ', @bad);

	@bad = ();
	foreach (targets())
	{
		my ($name, $panel, $target) = @$_;

		while ($target->{expr} =~ /(lockguard_\w+)(\{[^}]*\})?/g)
		{
			my ($metric, $selector) = ($1, $2 // '');

			push @bad, "$name, $metric" if $selector !~ /instance=~"\$instance"/ ||
			  ($metric =~ /^lockguard_role_/) != ($selector =~ /database=~"\$database"/);
		}
		push @bad, "$name, legend" if $target->{legendFormat} !~ /\{\{instance\}\}/;
	}
	checked(!@bad, 'each query is for the chosen servers, and of what roles do for the chosen databases', join '; ', @bad);
	foreach my $exporter (sort keys %defined)
	{
		@bad = grep { !$defined{$exporter}{$_} } $text =~ /\b(lockguard_\w+)/g;
		checked(!@bad, "each metric is defined for $exporter", join ', ', @bad);
	}

	my %anchors = map { (my $anchor = lc $_) =~ s/ /-/g; ($anchor => 1) } $runbook =~ /^#+ (.*)$/gm;
	my @links = map { @{$_->{links} // []} } @panels;
	@bad = grep { $_->{url} !~ /^\$\{docs\}#(.*)$/ || !$anchors{$1} } @links;
	checked(@links && !@bad, 'each link leads to a heading of docs/operations.md', join ', ', map { $_->{url} } @bad);

	# An alert has a panel that turns red where it fires.  That there are no metrics needs no threshold.
	while ($alerts =~ /- alert: (\w+)\n\s+expr: (.*)\n/g)
	{
		my ($alert, $expr) = ($1, $2);
		my @linked = grep { grep { $_->{title} eq "Runbook: $alert" } @{$_->{links} // []} } @panels;
		my @metrics = $expr =~ /(lockguard_\w+)/g;
		my ($mode) = $expr =~ /(mode=~"[^"]*")/;
		my ($bound) = $expr =~ /> ([0-9]+)$/;
		my @same = grep {
			my $panel = $_;
			my $exprs = join ' ', map { $_->{expr} } @{$panel->{targets}};

			!grep({ index($exprs, $_) < 0 } @metrics, $mode // ()) &&
			  (!defined $bound || $exprs =~ /< bool $bound\b/ ||
				grep { $bound == 0 ? $_ > 0 && $_ <= 1 : $_ == $bound } panel_steps($panel))
		} @linked;

		checked(scalar @same, "$alert has a panel with its metrics and its threshold, that links to its runbook");
	}
}

# Compare { legend => value } with what is expected, within what is allowed.
sub compare
{
	my ($name, $got, $expected, $margin) = @_;
	my @bad;

	foreach (sort keys %{{%$got, %$expected}})
	{
		my $e = $expected->{$_};
		my $g = $got->{$_};

		push @bad, "unexpected: $_ = $g" if !defined $e;
		push @bad, "missing: $_, which should be $e" if !defined $g;
		push @bad, "$_ is $g, and should be $e" if defined $e && defined $g && abs($g - $e) > $margin->($e);
	}
	my $values = join ', ', map { sprintf '%s = %.4g', $_, $got->{$_} } sort keys %$got;
	checked(!@bad, "$name: " . ($values || 'nothing'), join '; ', @bad);
}

# How far a figure may be from what is expected: see the head of test/grafana/expected.
sub within
{
	my ($percent) = @_;

	return sub { return $percent / 100 * $_[0] + 0.002 };
}

sub check
{
	my ($expected, $facts, $moment) = @args;
	my (%sets, %targets, $now);

	foreach (split /\n/, slurp($facts))
	{
		my ($set, $legend, $value) = split /\|/;

		$sets{$set}{$legend} = $value;
	}
	$targets{$_->[0]} = $_ foreach targets();
	# Of the same scrape as all the others.
	($now) = map { $_->{value}[1] } @{ask('query', query => "timestamp(lockguard_worker_up{instance=\"$instance\"})")};
	foreach (split /\n/, slurp($expected))
	{
		next if /^#/ || !/\S/;
		my ($when, $database, $how, $set, $name) = /^(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S.*)$/ or die "what is \"$_\"?\n";
		my (undef, $panel, $target) = @{$targets{$name} // die "there is no panel and target \"$name\"\n"};

		next if $when ne $moment;
		my %expected = %{$set eq 'none' ? {} : $sets{$set} // die "there is no set \"$set\"\n"};
		my $title = "$moment, $name" . ($database eq '*' ? '' : " ($database)");
		my $regex = $database eq '*' ? '.*' : $database;

		eval { check_one($title, $target, $how, $now, $regex, \%expected); 1 } or checked(0, $title, $@ =~ s/\n/ /gr);
	}
}

sub check_one
{
	my ($title, $target, $how, $now, $database, $expected) = @_;

	if (my ($percent) = $how =~ /^area([0-9]+)$/)
	{
		my $curves = curves($target, $now, $database);
		my %areas;

		foreach my $legend (keys %$curves)
		{
			$areas{$legend} += $_->[1] foreach @{$curves->{$legend}};
			$areas{$legend} /= 60 if $target->{expr} =~ /^60 \*/;
		}
		compare($title, \%areas, $expected, within($percent));
		return;
	}

	my $values = values_at($target, $now, $database);

	$_ = $now - $_ foreach $how eq 'since' ? values %$expected : ();
	compare($title, $values, $expected,
		  $how eq 'exact' ? sub { return 1e-6 }
		: $how eq 'about' ? within(10)
		: $how eq 'since' ? sub { return 3 }
		: die "what is \"$how\"?\n");
}

# SVG

my @colors = map { "#$_" } qw(4e79a7 f28e2b 59a14f b07aa1 e15759 76b7b2 9c755f edc948 ff9da7 6b6b6b);
my %named = (green => '#3c9a46', yellow => '#d4a500', orange => '#e07b00', red => '#d0021b', blue => '#4e79a7');

sub escaped
{
	my ($text) = @_;
	my %entity = ('&' => '&amp;', '<' => '&lt;', '>' => '&gt;', '"' => '&quot;');

	$text =~ s/([&<>"])/$entity{$1}/g;
	return $text;
}

sub text
{
	my ($x, $y, $size, $text, $more) = @_;

	return sprintf qq(<text x="%.1f" y="%.1f" font-size="%s"%s>%s</text>\n), $x, $y, $size, $more ? " $more" : '', escaped($text);
}

sub formatted
{
	my ($panel, $value) = @_;
	my $unit = $panel->{fieldConfig}{defaults}{unit};

	foreach my $mapping (@{$panel->{fieldConfig}{defaults}{mappings}})
	{
		return $mapping->{options}{$value}{text} if exists $mapping->{options}{$value};
	}
	return sprintf '%.2g %%', 100 * $value if $unit eq 'percentunit';
	return sprintf '%.0f', $value if $unit eq 'short' && defined $panel->{fieldConfig}{defaults}{decimals};
	return sprintf '%.3g', $value if $unit ne 's';
	return sprintf '%.3g us', 1e6 * $value if $value > 0 && $value < 1e-3;
	return sprintf '%.3g ms', 1e3 * $value if $value > 0 && $value < 1;
	return sprintf '%.3g s', $value;
}

sub color_at
{
	my ($panel, $value) = @_;
	my $color = 'green';

	foreach (@{$panel->{fieldConfig}{defaults}{thresholds}{steps}})
	{
		$color = $_->{color} if !defined $_->{value} || $value >= $_->{value};
	}
	return $named{$color} // $color;
}

# One server is shown: its name in each legend says nothing.
sub short_legend
{
	my ($legend) = @_;

	$legend =~ s/, \Q$instance\E$//;
	return $legend;
}

sub draw_stat
{
	my ($panel, $x, $y, $w, $h) = @_;
	my @figures;
	my $svg = '';

	foreach my $target (@{$panel->{targets}})
	{
		my $values = values_at($target, $ENV{SHOWN}, '.*');

		push @figures, map { [short_legend($_), $values->{$_}] } sort keys %$values;
	}
	foreach my $i (0 .. $#figures)
	{
		my ($legend, $value) = @{$figures[$i]};
		my $middle = $y + 22 + ($h - 22) * ($i + 0.5) / @figures;

		if (@figures == 1)
		{
			$svg .= sprintf qq(<rect x="%d" y="%d" width="%d" height="%d" rx="3" fill="%s"/>\n), $x + 6, $y + 26, $w - 12, $h - 32, color_at($panel, $value);
			$svg .= text($x + $w / 2, $middle + 9, 24, formatted($panel, $value), 'text-anchor="middle" fill="#fff" font-weight="bold"');
		}
		else
		{
			$svg .= text($x + 12, $middle + 5, 13, $legend);
			$svg .= text($x + $w - 12, $middle + 7, 20, formatted($panel, $value), 'text-anchor="end" fill="' . color_at($panel, $value) . '"');
		}
	}
	return $svg;
}

sub draw_bars
{
	my ($panel, $x, $y, $w, $h, $now) = @_;
	my $values = values_at($panel->{targets}[0], $now, '.*');
	my @order = sort { $values->{$b} <=> $values->{$a} || $a cmp $b } keys %$values;
	my $each = ($h - 30) / (@order || 1);
	my $svg = '';

	$each = 36 if $each > 36;
	foreach my $i (0 .. $#order)
	{
		my $top = $y + 28 + $each * $i;

		$svg .= text($x + 8, $top + 10, 11, short_legend($order[$i]));
		$svg .= sprintf qq(<rect x="%d" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>\n), $x + 8, $top + 13,
		  ($w - 90) * $values->{$order[$i]} / $values->{$order[0]}, $each - 18, $colors[$i % @colors];
		$svg .= text($x + $w - 8, $top + 10 + $each / 2, 13, formatted($panel, $values->{$order[$i]}), 'text-anchor="end"');
	}
	return $svg;
}

sub draw_curves
{
	my ($panel, $x, $y, $w, $h, $now) = @_;
	my ($left, $right, $upper) = ($x + 60, $x + $w - 10, $y + 30);
	my $custom = $panel->{fieldConfig}{defaults}{custom};
	my $stacked = $custom->{stacking}{mode} eq 'normal';
	my $highest = 0;
	my (@curves, @legend_at, %sum);
	my $svg = '';

	foreach my $target (@{$panel->{targets}})
	{
		my $curves = curves($target, $now, '.*');

		push @curves, map { [short_legend($_), $curves->{$_}] } sort keys %$curves;
	}
	# The legend first: the rest is for the curves.
	my ($legend_x, $legend_y) = ($x + 8, 0);
	foreach (@curves)
	{
		my $width = 26 + 5.6 * length $_->[0];

		($legend_x, $legend_y) = ($x + 8, $legend_y + 14) if $legend_x + $width > $right && $legend_x > $x + 8;
		push @legend_at, [$legend_x, $legend_y];
		$legend_x += $width;
	}
	my $legend_top = $y + $h - 10 - $legend_y;
	my $lower = $legend_top - 20;

	foreach my $curve (@curves)
	{
		foreach (@{$curve->[1]})
		{
			my $sum = $stacked ? ($sum{$_->[0]} += $_->[1]) : $_->[1];

			$highest = $sum if $sum > $highest;
		}
	}
	%sum = ();
	$highest = 1 if $highest == 0;
	foreach (0 .. 2)
	{
		my $level = $lower - ($lower - $upper) * $_ / 2;

		$svg .= sprintf qq(<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/>\n), $left, $level, $right, $level;
		$svg .= text($left - 5, $level + 4, 10, formatted($panel, $highest * $_ / 2) =~ s/^0 \S+$/0/r, 'text-anchor="end" fill="#555"');
	}
	foreach my $step (grep { $_ <= $highest && $custom->{thresholdsStyle}{mode} eq 'line' } panel_steps($panel))
	{
		my $level = $lower - ($lower - $upper) * $step / $highest;

		$svg .= sprintf qq(<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="$named{red}"/>\n), $left, $level, $right, $level;
	}
	my $marked = $left + ($right - $left) * ($ENV{SHOWN} - $ENV{BEGUN}) / ($now - $ENV{BEGUN});
	$svg .= sprintf qq(<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#999" stroke-dasharray="4 3"/>\n), $marked, $upper, $marked, $lower;

	foreach my $i (0 .. $#curves)
	{
		my ($legend, $points) = @{$curves[$i]};
		my $color = $colors[$i % @colors];
		my $path = '';
		my $last;

		foreach (@$points)
		{
			my $px = $left + ($right - $left) * ($_->[0] - $ENV{BEGUN}) / ($now - $ENV{BEGUN});
			my $base = $stacked ? $sum{$_->[0]} // 0 : 0;
			my $py = $lower - ($lower - $upper) * ($base + $_->[1]) / $highest;

			$sum{$_->[0]} = $base + $_->[1];
			if ($custom->{drawStyle} eq 'bars')
			{
				$path .= sprintf 'M%.1f %.1fV%.1f', $px, $lower - ($lower - $upper) * $base / $highest, $py if $_->[1] > 0;
			}
			else
			{
				$path .= sprintf '%s%.1f %.1f', defined $last && $_->[0] - $last < 1.5 ? 'L' : 'M', $px, $py;
			}
			$last = $_->[0];
		}
		$svg .= sprintf qq(<path d="%s" fill="none" stroke="%s" stroke-width="%s"/>\n), $path, $color,
		  $custom->{drawStyle} eq 'bars' ? sprintf('%.1f', ($right - $left) / ($now - $ENV{BEGUN})) : '1.5' if $path;
		$svg .= sprintf qq(<rect x="%.1f" y="%.1f" width="9" height="9" fill="%s"/>\n), $legend_at[$i][0], $legend_top + $legend_at[$i][1] - 8, $color;
		$svg .= text($legend_at[$i][0] + 12, $legend_top + $legend_at[$i][1], 10.5, $legend);
	}
	return $svg;
}

sub draw
{
	my ($file) = @args;
	my ($unit_x, $unit_y, $margin, $head) = (50, 26, 5, 44);
	my $now = time;
	my $height = 0;
	my $svg = '';

	foreach my $panel (@{$dashboard->{panels}})
	{
		my $grid = $panel->{gridPos};
		my ($x, $y) = ($grid->{x} * $unit_x + $margin, $grid->{y} * $unit_y + $head);
		my ($w, $h) = ($grid->{w} * $unit_x - 2 * $margin, $grid->{h} * $unit_y - $margin);
		my $title = substitute($panel->{title} =~ s/\$database/all/r, $now, '.*');

		$height = $y + $h if $y + $h > $height;
		if ($panel->{type} eq 'row')
		{
			$svg .= text($x, $y + 16, 15, $title, 'font-weight="bold"');
			next;
		}
		$svg .= qq(<rect x="$x" y="$y" width="$w" height="$h" rx="3" fill="#fff" stroke="#ccc"/>\n);
		$svg .= text($x + 8, $y + 17, 13, $title);
		$svg .= draw_stat($panel, $x, $y, $w, $h) if $panel->{type} eq 'stat';
		$svg .= draw_bars($panel, $x, $y, $w, $h, $now) if $panel->{type} eq 'bargauge';
		$svg .= draw_curves($panel, $x, $y, $w, $h, $now) if $panel->{type} eq 'timeseries';
	}
	$height += 10;
	open(my $handle, '>', $file) or die "cannot write $file: $!\n";
	printf $handle qq(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1200 %d" width="1200" height="%d" font-family="sans-serif" fill="#222">\n), $height, $height;
	printf $handle qq(<rect width="1200" height="%d" fill="#f4f5f6"/>\n), $height;
	print $handle text(5, 26, 20, 'lockguard', 'font-weight="bold"');
	print $handle text(130, 26, 12, sprintf('Drawn by test/grafana/run.sh from the data in Prometheus; not a screenshot of Grafana. %d seconds; single figures are those at the dashed line.', $now - $ENV{BEGUN}), 'fill="#555"');
	print $handle $svg, "</svg>\n";
	close $handle or die "cannot write $file: $!\n";
}

if ($command eq 'lint') { lint() }
elsif ($command eq 'list') { print "$_->[0]\n" foreach targets() }
elsif ($command eq 'check') { check() }
elsif ($command eq 'draw') { draw() }
else { die "what is \"$command\"?\n" }
