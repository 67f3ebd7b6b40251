/*-------------------------------------------------------------------------
 *
 * library.c
 *		From which file lockguard runs in this server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dlfcn.h>

#include "common/string.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "library.h"
#include "shared.h"

const char *lg_library_name = NULL;
const char *lg_dynamic_library_name = NULL;

/* Its address is in this library. */
static char own_address;

/*
 * Where the path of the preloaded library is noted, for any other lockguard
 * that is loaded into one of the server's processes; there it points to NULL
 * if none is preloaded.
 */
static const char **
preloaded_path(void)
{
	return (const char **) find_rendezvous_variable("lockguard library");
}

/*
 * The path of the lockguard that the server has preloaded, or NULL.  It may be
 * another one than this: then lg_shared is NULL.
 */
const char *
lg_preloaded_path(void)
{
	return *preloaded_path();
}

/* Can the library of a background worker be named so? */
static bool
is_short_enough(const char *name)
{
	return strlen(name) < sizeof(((BackgroundWorker *) NULL)->bgw_library_name);
}

/* The same for one that is started later. */
static bool
is_valid_dynamic_name(const char *name)
{
	/* RegisterDynamicBackgroundWorker() replaces what is not ASCII. */
	return is_short_enough(name) && pg_is_ascii(name);
}

/*
 * Set lg_library_name and lg_dynamic_library_name to what makes every
 * background worker run the code that the server has preloaded: the path of
 * that file.  A worker, which is forked from the postmaster, finds a library
 * that is loaded already by its path alone.  So it takes neither another
 * lockguard from $libdir or dynamic_library_path, nor what has replaced the
 * file since.
 *
 * A path that cannot be used is abbreviated by $libdir, if it is in there;
 * otherwise the server does not start.  From PostgreSQL 18 on, even
 * "$libdir/lockguard.so" is searched for in dynamic_library_path, and so is
 * used for nothing that can do without.  Called in the postmaster.
 */
void
lg_name_library(void)
{
	Dl_info		info;
	const char *path;
	const char *name;
	size_t		libdir = strlen(pkglib_path);
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	/*
	 * A static variable: the address of a global one may be in another
	 * library.
	 */
	if (dladdr((void *) &own_address, &info) == 0 || info.dli_fname == NULL)
		ereport(FATAL,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("lockguard: could not determine the file that it was loaded from")));

	name = path = pstrdup(info.dli_fname);
	if (!is_valid_dynamic_name(name) && strncmp(path, pkglib_path, libdir) == 0 &&
		path[libdir] == '/')
		name = psprintf("$libdir%s", path + libdir);
	if (!is_valid_dynamic_name(name))
		ereport(FATAL,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("lockguard: library path \"%s\" is too long or not all ASCII", path),
				 errdetail("Background workers can be started from a path of at most %d ASCII characters.",
						   (int) sizeof(((BackgroundWorker *) NULL)->bgw_library_name) - 1),
				 errhint("Move the library to \"%s\", or load it by a symbolic link with a shorter path.",
						 pkglib_path)));
	lg_library_name = is_short_enough(path) ? path : name;
	lg_dynamic_library_name = name;
	*preloaded_path() = path;
	MemoryContextSwitchTo(old);
}

/*
 * Called first in every background worker: ends it, unless it runs in the
 * library that the server has preloaded, the only one with shared memory.
 * Its name sees to that as long as nothing is at that path with another ".so"
 * behind it, which the server tries if the file itself is gone.
 *
 * After an exit with 0 the postmaster does not start it again, which would be
 * in vain.
 */
void
lg_require_preloaded(void)
{
	if (lg_shared != NULL)
		return;
	ereport(WARNING,
			(errmsg("lockguard: background worker \"%s\" was started from a different library than the one that the server has preloaded",
					MyBgworkerEntry->bgw_name),
			 errdetail("It ends, and is not started again."),
			 errhint("Restart the server.")));
	proc_exit(0);
}
