#!/bin/bash
# Random load with random limits for as long as you like; every action of lockguard is checked against
# what an independent observer saw.
#
#   test/fuzz/run.sh [SECONDS [SEED]]         60 seconds, and a new seed, unless given
#   FUZZ_SESSIONS=n                           instead of 75 sessions at a time
#   FUZZ_WITHOUT=deadlocks,freezes,commits    leave out parts of the load, one or more
#   PG_CONFIG=/path/pg_config, LOCKGUARD_KEEP=1   as for test/check.sh
#
# A seed repeats the roles with their limits and what each session tries, as far as timing allows.

. "$(dirname "$0")/common.sh"

prepare tests
build plain || exit 1
install_build plain >/dev/null || exit 1
fuzz plain "${1:-60}" "${2:-}" | tee "$tmp/fuzz.log"
! grep -rE 'TRAP: |PANIC: |was terminated by signal (4|6|7|8|11)\b' "$tmp/tap/tmp_check/log" &&
	grep -q '^Result: PASS' "$tmp/fuzz.log"
