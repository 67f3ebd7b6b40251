#!/bin/bash
# Tests single files of src/ outside any server, with the address and the undefined behaviour sanitizer:
# in hand-made situations, and in random ones that are judged by the definitions.
#
#   test/unit/run.sh [SEED]                   0 unless given
#   ROUNDS=n                                  instead of 1000 random situations in each such test
#   PG_CONFIG=/path/pg_config, LOCKGUARD_KEEP=1   as for test/check.sh
#
# The last line is "N passed, N failed".

. "$(dirname "$0")/../common.sh"

prepare tests
copy_checkout unit &&
	as_user make -C "$tmp/unit/test/unit" -s -j 2 PG_CONFIG="$PG_CONFIG" unit || die "cannot be built"
as_user env SEED="${1:-0}" ROUNDS="${ROUNDS:-1000}" ASAN_OPTIONS=detect_leaks=0 "$tmp/unit/test/unit/unit"
