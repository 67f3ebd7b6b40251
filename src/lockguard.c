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
#include "utils/timestamp.h"

#include "compat.h"
#include "history.h"
#include "lockguard.h"
#include "record.h"
#include "victim.h"

PG_MODULE_MAGIC;

LgShared   *lg_shared = NULL;

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

void
_PG_init(void)
{
	BackgroundWorker worker = {0};

	if (!process_shared_preload_libraries_in_progress)
		return;

	lg_settings_define();

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
	strlcpy(worker.bgw_library_name, "lockguard", BGW_MAXLEN);
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
