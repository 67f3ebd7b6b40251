# A server that runs already, for commands that are no tests: LockguardTest's sessions without the
# test framework and its redirections.
#
#   use LockguardServer;		# before LockguardTest
#   my $server = LockguardServer->new(port => $port, patience => 60);
#
# Its socket is in $PGHOST; patience is for how many seconds its sessions are waited for.

package LockguardServer;

use strict;
use warnings;

# The sessions need two variables of the framework, and nothing else.
BEGIN
{
	$INC{'PostgreSQL/Test/Cluster.pm'} = $INC{'PostgreSQL/Test/Utils.pm'} = __FILE__;
	$PostgreSQL::Test::Utils::use_unix_sockets = 1;
}

sub new
{
	my ($class, %opt) = @_;

	$PostgreSQL::Test::Utils::timeout_default = $opt{patience};
	return bless { port => $opt{port} }, $class;
}

sub host { return $ENV{PGHOST}; }
sub port { return $_[0]->{port}; }

1;
