# Random load with random limits; every action is checked against what an
# independent observer saw.  See test/fuzz/LockguardFuzz.pm; test/fuzz/run.sh
# is the same for longer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../fuzz";
use LockguardFuzz;
use LockguardTest;
use Test::More;

my $node = lockguard_node('main', conf => LockguardFuzz->configuration);
my $fuzz = LockguardFuzz->new(
	node => $node,
	seconds => $ENV{FUZZ_SECONDS} || 10,
	seed => $ENV{SEED} || time() ^ $$,
	sessions => $ENV{FUZZ_SESSIONS} || 75,
	without => $ENV{FUZZ_WITHOUT});

is($fuzz->run, 0, 'no action was wrong, and no session over a limit was missed')
  or diag "SEED=$fuzz->{seed}";
cmp_ok($fuzz->{checked} || 0, '>', 0, 'actions were checked');

$node->stop;
done_testing();
