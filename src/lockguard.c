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

#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "history.h"
#include "library.h"
#include "record.h"
#include "settings.h"
#include "shared.h"
#include "victim.h"

PG_MODULE_MAGIC;

static shmem_request_hook_type next_shmem_request = NULL;
static shmem_startup_hook_type next_shmem_startup = NULL;

void		_PG_init(void);

static void
shmem_request(void)
{
	if (next_shmem_request)
		next_shmem_request();

	RequestAddinShmemSpace(lg_shared_size());
	RequestAddinShmemSpace(lg_record_shmem_size());
	RequestNamedLWLockTranche("lockguard", 2);
}

static void
shmem_startup(void)
{
	void	   *shared;
	void	   *record;
	LWLockPadded *locks;
	bool		found;

	if (next_shmem_startup)
		next_shmem_startup();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("lockguard", lg_shared_size(), &found);
	record = ShmemInitStruct("lockguard history", lg_record_shmem_size(), &found);
	locks = GetNamedLWLockTranche("lockguard");
	lg_shared_init(shared, &locks[0].lock, !found);
	lg_record_shmem_init(record, &locks[1].lock, !found);
	if (!found)
	{
		lg_settings_publish_server();
		lg_history_load();
	}
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	BackgroundWorker worker = {0};

	if (!process_shared_preload_libraries_in_progress)
		return;

	lg_settings_define();

	/*
	 * In a server that pg_upgrade has started, there are only the settings:
	 * it reads the configuration, and restores the values of roles and
	 * databases.
	 */
	if (IsBinaryUpgrade)
		return;

	lg_name_library();

	next_shmem_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
	next_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	lg_victim_install();

	/*
	 * No database: it needs no catalog to start, and does not keep any
	 * database from being dropped.  From consistent state on, so that a hot
	 * standby is watched, too.
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
