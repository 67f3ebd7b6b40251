#!/bin/bash
# The part of run.sh that runs in the chroot. Prints a line "ok" or "FAILED" for each step, and "done" at the end.
#
#   in_chroot.sh VERSION

set -u
version=$1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
export LC_ALL=C DEBIAN_FRONTEND=noninteractive BUILDAH_ISOLATION=chroot STORAGE_DRIVER=overlay
mounted=/extensions/lockguard

step()
{
	local name=$1

	shift
	if "$@" >"$tmp/step.log" 2>&1 </dev/null; then
		printf '%-8s%s\n' ok "$name"
	else
		printf '%-8s%s\n' FAILED "$name"
		tail -n 100 "$tmp/step.log" | sed 's/^/    /'
		return 1
	fi
}

install()
{
	apt-get -qq update && apt-get -qq install --no-install-recommends "$@"
}

# The server without a cluster, and nothing that would compile an extension; buildah, which compiles none either.
install_server()
{
	install postgresql-common &&
		sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf &&
		install "postgresql-$version" buildah netavark
}

# An image of this chroot.
make_base()
{
	local container folder

	container=$(buildah from scratch) && folder=$(buildah mount "$container") &&
		tar -C / --one-file-system -c --exclude=./var/lib/containers --exclude='./root/*' --exclude='./tmp/*' \
			--exclude='./proc/*' --exclude='./dev/*' --exclude='./sys/*' . | tar -C "$folder" -x &&
		buildah commit -q --rm "$container" base
}

# buildah would raise these limits, which takes more than being root in some containers.
build_image()
{
	buildah bud --pull=never --network host --no-cache \
		--ulimit "nofile=$(ulimit -Sn):$(ulimit -Hn)" --ulimit "nproc=$(ulimit -Su):$(ulimit -Hu)" \
		-f cloudnativepg/Dockerfile --build-arg BASE=localhost/base --build-arg "PG_MAJOR=$version" -t lockguard .
}

mount_image()
{
	local container folder

	container=$(buildah from --pull=never lockguard) && folder=$(buildah mount "$container") && mkdir -p $mounted &&
		mount --bind "$folder" $mounted && mount -o remount,bind,ro $mounted && ! touch $mounted/written
}

has_layout()
{
	local sql

	sql=lockguard--$(sed -n "s/^default_version = '\(.*\)'$/\1/p" lockguard.control).sql
	diff - <(cd $mounted && find . -type f -printf '%P\n' | sort) <<-FILES &&
		lib/lockguard.so
		licenses/lockguard/LICENSE
		share/extension/$sql
		share/extension/lockguard.control
	FILES
		! find $mounted ! -user root -o ! -perm -a+r -o -perm /o+w | grep .
}

no_other_lockguard()
{
	! find / -xdev -path /var/lib/containers -prune -o -name 'lockguard.so' -print -o -name lockguard.control -print |
		grep -v "^/root/lockguard/\|^$mounted/"
}

tap_test()
{
	local bin=/usr/lib/postgresql/$version/bin pgxs

	pgxs=$("$bin/pg_config" --pgxs)
	pgxs=${pgxs%/makefiles/pgxs.mk}/test
	mkdir "$tmp/tap" && cp -r test "$tmp/tap/" && chown -R postgres "$tmp" && cd "$tmp/tap" &&
		runuser -u postgres -- env PATH="$bin:$PATH" HOME="$tmp" LOCKGUARD_FOLDER=$mounted \
			TESTDIR="$tmp/tap" TESTDATADIR="$tmp/tap/tmp_check" TESTLOGDIR="$tmp/tap/tmp_check/log" \
			PG_REGRESS="$pgxs/regress/pg_regress" top_builddir="$tmp/tap" \
			prove -v -I "$pgxs/perl" -I test/lib test/t/090_extension_path.pl
}

cd /root/lockguard || exit 1
chmod 755 "$tmp"
[ -x "/usr/lib/postgresql/$version/bin/postgres" ] && command -v buildah >/dev/null ||
	step "the server can be installed" install_server || exit
buildah inspect --type image base >/dev/null 2>&1 || step "an image of it" make_base || exit
step "the Dockerfile builds an extension image" build_image || exit
step "it can be mounted read-only" mount_image || exit
step "it has the files that CloudNativePG wants, and no others" has_layout
step "PostgreSQL's development files can be installed, for the tests" install "postgresql-server-dev-$version" libipc-run-perl perl || exit
step "lockguard is nowhere else" no_other_lockguard
step "test/t/090_extension_path.pl" tap_test
buildah rm --all >/dev/null
echo "done"
