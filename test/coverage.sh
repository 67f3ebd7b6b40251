#!/bin/bash
# Runs what test/check.sh runs on a build that counts which lines of src/ are reached, and prints the
# share of each file and the lines that were not.
#
# Takes the settings of test/check.sh.  A process that is killed, as those of a crashing server are,
# leaves no counts.

LOCKGUARD_COVERAGE=1 exec bash "$(dirname "$0")/check.sh"
