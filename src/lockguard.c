/*-------------------------------------------------------------------------
 *
 * lockguard.c
 *		All that lockguard installs in the server: settings, hooks, shared
 *		memory and the worker.
 *
 * Everything begins with shared_preload_libraries.  Loaded in any other way,
 * the library does nothing but let its SQL functions say so.
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
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "history.h"
#include "lockguard.h"
#include "record.h"
#include "victim.h"

PG_MODULE_MAGIC;

LgShared   *lg_shared = NULL;
const char *lg_library_name = NULL;

static shmem_request_hook_type next_shmem_request = NULL;
static shmem_startup_hook_type next_shmem_startup = NULL;

void		_PG_init(void);

static Size
shared_size(void)
{
	return add_size(MAXALIGN(offsetof(LgShared, slots)),
					mul_size(LG_TOTAL_PROCS, sizeof(LgSlot)));
}

static void
shmem_request(void)
{
	if (next_shmem_request)
		next_shmem_request();

	RequestAddinShmemSpace(shared_size());
	RequestAddinShmemSpace(lg_record_shmem_size());
	RequestNamedLWLockTranche("lockguard", 2);
}

static void
init_scan_stats(LgScanStats *stats)
{
	pg_atomic_init_u64(&stats->scans, 0);
	pg_atomic_init_u64(&stats->scan_time, 0);
	pg_atomic_init_u64(&stats->max_scan_time, 0);
	pg_atomic_init_u64(&stats->looks, 0);
	pg_atomic_init_u64(&stats->look_time, 0);
	pg_atomic_init_u64(&stats->max_look_time, 0);
	pg_atomic_init_u64(&stats->max_partition_lock_time, 0);
	pg_atomic_init_u64(&stats->blocked_time, 0);
}

static void
shmem_startup(void)
{
	LgShared   *shared;
	void	   *record;
	LWLockPadded *locks;
	bool		found;

	if (next_shmem_startup)
		next_shmem_startup();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("lockguard", shared_size(), &found);
	record = ShmemInitStruct("lockguard history", lg_record_shmem_size(), &found);
	locks = GetNamedLWLockTranche("lockguard");
	lg_record_shmem_init(record, &locks[1].lock, !found);
	if (!found)
	{
		memset(shared, 0, shared_size());
		shared->lock = &locks[0].lock;
		shared->stats.stats_reset = GetCurrentTimestamp();
		init_scan_stats(&shared->scan_stats);
		pg_atomic_init_u64(&shared->last_scan, 0);
		pg_atomic_init_u32(&shared->settings_changes, 0);
		pg_atomic_init_u32(&shared->smallest_changes, 0);
		pg_atomic_init_u32(&shared->rolls_back, 0);
		pg_atomic_init_u64(&shared->frozen, 0);
		pg_atomic_init_u32(&shared->dozing, 0);
		pg_atomic_init_u64(&shared->scans_requested, 0);
		pg_atomic_init_u64(&shared->scans_served, 0);
		pg_atomic_init_u32(&shared->worker_procno, PG_UINT32_MAX);
		ConditionVariableInit(&shared->scan_served);
		for (int id = 0; id < LG_NUM_SETTINGS; id++)
			pg_atomic_init_u64(&shared->server_value[id], 0);
		for (int id = 0; id < LG_NUM_LIMITS; id++)
			pg_atomic_init_u32(&shared->smallest[id], 0);
		for (int i = 0; i < MaxBackends; i++)
		{
			LgSlot	   *slot = &shared->slots[i];

			pg_atomic_init_u32(&slot->overrides, 0);
			pg_atomic_init_u32(&slot->signalling, 0);
			pg_atomic_init_u32(&slot->reason_changes, 0);
			for (int id = 0; id < LG_NUM_SETTINGS; id++)
				pg_atomic_init_u64(&slot->value[id], 0);
		}
		lg_shared = shared;
		lg_settings_publish_server();
		lg_history_load();
	}
	lg_shared = shared;
	LWLockRelease(AddinShmemInitLock);
}

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
is_valid_library_name(const char *name)
{
	/* RegisterDynamicBackgroundWorker() replaces what is not ASCII. */
	return strlen(name) < sizeof(((BackgroundWorker *) NULL)->bgw_library_name) &&
		pg_is_ascii(name);
}

/*
 * Set lg_library_name to what makes every background worker run the code that
 * the server has preloaded: the path of that file.  A worker, which is forked
 * from the postmaster, finds a library that is loaded already by its path
 * alone.  So it takes neither another lockguard from $libdir or
 * dynamic_library_path, nor what has replaced the file since.
 *
 * A path that cannot be used is abbreviated by $libdir, if it is in there;
 * otherwise the server does not start.  Called in the postmaster.
 */
static void
name_library(void)
{
	Dl_info		info;
	const char *path;
	const char *name;
	size_t		libdir = strlen(pkglib_path);
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	/* A static variable: the address of a global one may be in another library. */
	if (dladdr((void *) &next_shmem_request, &info) == 0 || info.dli_fname == NULL)
		ereport(FATAL,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("lockguard: could not determine the file that it was loaded from")));

	name = path = pstrdup(info.dli_fname);
	if (!is_valid_library_name(name) && strncmp(path, pkglib_path, libdir) == 0 &&
		path[libdir] == '/')
		name = psprintf("$libdir%s", path + libdir);
	if (!is_valid_library_name(name))
		ereport(FATAL,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("lockguard: library path \"%s\" is too long or not all ASCII", path),
				 errdetail("Background workers can be started from a path of at most %d ASCII characters.",
						   (int) sizeof(((BackgroundWorker *) NULL)->bgw_library_name) - 1),
				 errhint("Move the library to \"%s\", or load it by a symbolic link with a shorter path.",
						 pkglib_path)));
	lg_library_name = name;
	*preloaded_path() = path;
	MemoryContextSwitchTo(old);
}

/*
 * Called first in every background worker: ends it, unless it runs in the
 * library that the server has preloaded, the only one with shared memory.
 * lg_library_name sees to that as long as nothing is at that path with another
 * ".so" behind it, which the server tries if the file itself is gone.
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
			(errmsg("lockguard: background worker \"%s\" was started from another library than the one that the server has preloaded",
					MyBgworkerEntry->bgw_name),
			 errdetail("It ends, and is not started again."),
			 errhint("Restart the server.")));
	proc_exit(0);
}

void
_PG_init(void)
{
	BackgroundWorker worker = {0};

	if (!process_shared_preload_libraries_in_progress)
		return;

	lg_settings_define();

	/*
	 * In a server that pg_upgrade has started, there are only the settings: it
	 * reads the configuration, and restores the values of roles and databases.
	 */
	if (IsBinaryUpgrade)
		return;

	name_library();

	next_shmem_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
	next_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	lg_victim_install();

	/*
	 * No database: it needs no catalog to start, and keeps nobody from
	 * dropping a database.  From consistent state on, so
	 * that a hot standby is watched, too.
	 */
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, lg_library_name, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "lg_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "lockguard", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "lockguard", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);

	/* A process of its own writes the history, so that no disk stalls a scan. */
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	strlcpy(worker.bgw_function_name, "lg_history_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "lockguard history", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "lockguard history", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
