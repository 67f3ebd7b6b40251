#!/bin/bash
# Tests single files of src/ outside any server, with the address and the undefined behaviour sanitizer:
# against hand-made situations, and random ones that are judged by the definitions. Then reads any bytes
# at all as the history file, with libFuzzer.
#
#   test/unit/run.sh [SECONDS [SEED]]         that long with libFuzzer, 20 unless given; 0 = not at all
#   ROUNDS=n                                  instead of 1000 random situations in each such test
#   PG_CONFIG=/path/pg_config, LOCKGUARD_KEEP=1   as for test/check.sh
#
# SEED is 0 unless given. What makes the fuzz fail is left in the present folder. The last line is
# "N passed, N failed".

. "$(dirname "$0")/../common.sh"

seconds=${1:-20}
seed=${2:-0}
here=$PWD

# libFuzzer comes with clang upstream, but is a package of its own in Debian.
install_fuzzer()
{
	local clang version

	clang=$(find_clang)
	echo 'int LLVMFuzzerTestOneInput(const char *data, long size) { return 0; }' >"$tmp/empty.c"
	"$clang" -fsanitize=fuzzer,address -o "$tmp/empty" "$tmp/empty.c" 2>/dev/null && return
	version=$("$clang" -dumpversion)
	[ "$(id -u)" = 0 ] || die "missing; install as root: apt-get install libclang-rt-${version%%.*}-dev"
	echo "Installing libclang-rt-${version%%.*}-dev"
	apt_update
	apt_install "libclang-rt-${version%%.*}-dev"
}

make_unit()
{
	as_user make -C "$tmp/unit/test/unit" -s -j 2 PG_CONFIG="$PG_CONFIG" "$@"
}

fuzz()
{
	local log=$tmp/fuzz.log

	as_user mkdir "$tmp/corpus" "$tmp/seeds" "$tmp/found"
	as_user "$tmp/unit/test/unit/fuzz_history" seeds "$tmp/seeds" || return
	as_user env ASAN_OPTIONS=detect_leaks=0 "$tmp/unit/test/unit/fuzz_history" \
		-max_total_time="$seconds" -seed=$((seed + 1)) -max_len=30000 -timeout=60 \
		-dict="$tmp/unit/test/unit/history.dict" -artifact_prefix="$tmp/found/" \
		"$tmp/corpus" "$tmp/seeds" >"$log" 2>&1
	if [ $? = 0 ]; then
		echo "ok      fuzz: $(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log") history files"
		return
	fi
	tail -n 60 "$log" | grep -v '^#'
	cp "$tmp/found"/* "$here"
	echo "FAILED  fuzz: $(cd "$tmp/found" && echo *)"
	return 1
}

prepare tests
passed=0
failed=0
copy_checkout unit && make_unit unit || die "cannot be built"
as_user env SEED="$seed" ROUNDS="${ROUNDS:-1000}" ASAN_OPTIONS=detect_leaks=0 \
	"$tmp/unit/test/unit/unit" | tee "$tmp/unit.log" | sed '$d'
set -- $(sed -nE '$s/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$tmp/unit.log")
passed=${1:-0}
failed=${2:-1}
if [ "$seconds" != 0 ]; then
	install_fuzzer
	make_unit clean
	make_unit CC="$(find_clang)" fuzz_history || die "cannot be built"
	if fuzz; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
	fi
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
