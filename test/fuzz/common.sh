# Sourced by run.sh and broken.sh.

. "$(dirname "$0")/../common.sh"

# fuzz BUILD SECONDS [SEED]: test/t/030_fuzz.pl, with what is installed. BUILD is the copy of the
# checkout that it came from.
fuzz()
{
	as_user mkdir -p "$tmp/tap/log"
	rm -rf "$tmp/tap/tmp_check"
	cd "$tmp/$1" || return
	# Up to version 15 the tests find their folder by TESTDIR, from 16 on by the other two.
	as_user env FUZZ_SECONDS="$2" ${3:+SEED="$3"} \
		TESTDIR="$tmp/tap" TESTDATADIR="$tmp/tap/tmp_check" TESTLOGDIR="$tmp/tap/tmp_check/log" \
		PG_REGRESS="$pgxs/src/test/regress/pg_regress" top_builddir="$tmp/tap" \
		prove --merge -v -I "$pgxs/src/test/perl" -I "$tmp/$1/test/lib" test/t/030_fuzz.pl </dev/null 2>&1
}
