#!/bin/bash
# Builds lockguard with the server's headers of another minor version than the server has, and runs check.sh
# on that: a minor upgrade of PostgreSQL must not need a new build. The headers are those of each
# postgresql-server-dev package that apt knows; nothing but what check.sh needs is installed.
#
#   test/minor.sh                              PostgreSQL 15
#   PG_CONFIG=/path/pg_config test/minor.sh    another one of Debian's
#   test/minor.sh test/t/005_limits.pl ...     of the TAP tests only these
#
# The last line is "N passed, N failed", added up over the minor versions. If apt knows no other one, a line
# before it says that this was not run.

. "$(dirname "$0")/common.sh"

passed=0
failed=0

prepare tests
version=$(debian_version "$PG_CONFIG")
[ -n "$version" ] || die "$PG_CONFIG is not from Debian's packages"
package=postgresql-server-dev-$version
server=$(installed_version "postgresql-$version")
[ "$(id -u)" != 0 ] || apt_update
# check.sh locks it for itself.
exec 9<&-

others=
for other in $(apt-cache madison "$package" 2>/dev/null | awk '$5 ~ /^http/ { print $3 }' | sort -uV); do
	[ "${other%%-*}" = "${server%%-*}" ] || others="$others $other"
done
[ -n "$others" ] || echo "not run: apt knows no $package of another minor version than the server's $server"

for other in $others; do
	echo "==== headers of $other, server $server"
	mkdir "$tmp/$other" && cd "$tmp/$other" && chmod 755 . &&
		apt-get -qq -o APT::Sandbox::User=root download "$package=$other" >"$tmp/download.log" 2>&1 &&
		dpkg-deb -x ./*.deb . || { cat "$tmp/download.log"; failed=$((failed + 1)); continue; }
	LOCKGUARD_HEADERS=$PWD/usr/include/postgresql/$version/server PG_CONFIG=$PG_CONFIG \
		bash "$top/test/check.sh" "$@" 2>&1 </dev/null | tee "$tmp/check.log"
	set -- $(sed -nE '$s/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$tmp/check.log") "$@"
	case ${1:-} in
	[0-9]*) passed=$((passed + $1)); failed=$((failed + $2)); shift 2 ;;
	*) failed=$((failed + 1)) ;;
	esac
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
