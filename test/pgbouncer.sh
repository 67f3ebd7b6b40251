# Sourced by drivers/run.sh and poolers/here.sh, after common.sh: finds PgBouncer. If it is not installed, it is only
# unpacked in the temporary folder, so that no service is installed.

# Lists the libraries that Debian's package needs and that are not installed.
pgbouncer_libraries()
{
	local package

	! command -v pgbouncer >/dev/null || return 0
	for package in $(apt-cache depends pgbouncer 2>/dev/null | sed -nE 's/^ *Depends: (lib[^ ]+)$/\1/p'); do
		[ -n "$(installed_version "$package")" ] || echo "$package"
	done
}

# Sets pgbouncer to the program, or why_not to the reason.
find_pgbouncer()
{
	why_not=
	pgbouncer=$(command -v pgbouncer) && return
	unpack_package pgbouncer ||
		{ tail -n 3 "$tmp/apt.log" >&2; why_not="cannot get Debian's package pgbouncer"; return 1; }
	pgbouncer=$tmp/unpacked/usr/sbin/pgbouncer
	"$pgbouncer" --version >"$tmp/pgbouncer.version" 2>&1 ||
		{ why_not="it does not start: $(head -n 1 "$tmp/pgbouncer.version")"; return 1; }
}
