#!/bin/bash
# Run by run.sh in a chroot: installs Patroni, etcd and what lockguard needs, builds lockguard, and has
# cluster.py do the rest in a network namespace of its own.

. "$(dirname "$0")/../common.sh"

# What is missing of these Debian packages is installed; one that cannot be had ends this.
packages="patroni etcd-server python3-etcd python3-psycopg2 iproute2"

not_run()
{
	echo "not run: $1"
	echo "0 passed, 0 failed"
	exit 0
}

prepare
missing=
for package in $packages; do
	[ -z "$(installed_version $package)" ] || continue
	apt_update
	[ -n "$(available_version $package)" ] || not_run "Debian's $package cannot be had"
	missing="$missing $package"
done
if [ -n "$missing" ]; then
	echo "Installing$missing"
	apt_install $missing
fi

build plain >"$tmp/build.log" 2>&1 && install_build plain >>"$tmp/build.log" 2>&1 ||
	{ cat "$tmp/build.log"; die "lockguard does not build"; }
echo "$pg_version, Patroni $(installed_version patroni), etcd $(installed_version etcd-server)"

# The namespace ends with its last process.
unshare --net bash -c 'ip link set lo up && exec "$@"' - \
	env HOME="$tmp" runuser -u "$server_user" -- timeout --kill-after=60 1200 \
	/usr/bin/python3 "$tmp/plain/test/failover/cluster.py" "$tmp" "$bindir" 9<&- >"$tmp/cluster.log" 2>&1 &
pid=$!
tail -q --pid=$pid -n +1 -F "$tmp/cluster.log" 2>/dev/null
wait $pid
status=$?
passed=$(grep -c '^ok ' "$tmp/cluster.log")
failed=$(grep -c '^FAILED ' "$tmp/cluster.log")
if [ $status != 0 ]; then
	echo "FAILED  cluster.py ended with status $status"
	failed=$((failed + 1))
fi
if [ $failed != 0 ]; then
	for log in "$tmp"/{a,b}.patroni.log "$tmp"/{a,b}.server.log; do
		echo "---- the end of $log"
		tail -n 40 "$log"
	done
fi
echo "$passed passed, $failed failed"
