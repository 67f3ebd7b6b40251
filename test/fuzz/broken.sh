#!/bin/bash
# Shows that the fuzz finds what it is there to find: builds lockguard with each of test/fuzz/broken/*.patch
# and expects the complaint that the first line of the patch names; after "not", its absence.
#
#   test/fuzz/broken.sh [PATCH ...]           all of them unless named
#   FUZZ_SECONDS=n, FUZZ_TRIES=n              instead of 10 seconds, 3 tries
#   PG_CONFIG=/path/pg_config, LOCKGUARD_KEEP=1   as for test/check.sh
#
# The last line is "N passed, N failed".

. "$(dirname "$0")/common.sh"

passed=0
failed=0

# Applies a patch to a copy of the checkout and installs what comes of it.
install_broken()
{
	build "$1" && as_user patch -s -F0 -p1 -d "$tmp/$1" <"$2" &&
		as_user make -C "$tmp/$1" -s PG_CONFIG="$PG_CONFIG" with_llvm=no clean &&
		as_user make -C "$tmp/$1" -s PG_CONFIG="$PG_CONFIG" with_llvm=no all &&
		install_build "$1"
}

is_expected()
{
	case $1 in
	"not "*) ! echo ", $2," | grep -qF ", ${1#not }," ;;
	*) echo ", $2," | grep -qF ", $1," ;;
	esac
}

try_patch()
{
	local patch=$1 name expected try found

	name=$(basename "$patch" .patch)
	expected=$(sed -n '1s/^Expected: //p' "$patch")
	if ! install_broken "$name" "$patch" >"$tmp/build.log" 2>&1; then
		tail -n 20 "$tmp/build.log"
		echo "FAILED  $name: does not build"
		failed=$((failed + 1))
		return
	fi
	for try in $(seq "${FUZZ_TRIES:-3}"); do
		fuzz "$name" "${FUZZ_SECONDS:-10}" "$try" >"$tmp/fuzz.log"
		found=$(sed -nE 's/^# complaints: //p' "$tmp/fuzz.log" | sed -E 's/[0-9]+ //g; s/^none$//')
		if grep -qE '^# seed .* actions: [1-9][0-9]* checked' "$tmp/fuzz.log" && is_expected "$expected" "$found"; then
			printf 'ok      %s: %s\n' "$name" "${found:-nothing}"
			passed=$((passed + 1))
			return
		fi
		case $expected in "not "*) break ;; esac
	done
	tail -n 40 "$tmp/fuzz.log"
	printf 'FAILED  %s: %s expected, %s\n' "$name" "$expected" "${found:-nothing} found"
	failed=$((failed + 1))
}

# prepare() leaves this folder, so names have to be complete before.
patches=
for patch in "${@:-$(dirname "$0")/broken/}"; do
	[ -d "$patch" ] && patch=$(ls "$patch"*.patch)
	patches="$patches $(realpath $patch)"
done

prepare tests
install_for patch patch
at_exit=restore_plain_build
for patch in $patches; do
	try_patch "$patch"
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
