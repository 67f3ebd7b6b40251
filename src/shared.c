/*-------------------------------------------------------------------------
 *
 * shared.c
 *		Shared memory: sets it up, finds a process's slot in it, wakes the
 *		worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "shared.h"
#include "types.h"

LgShared   *lg_shared = NULL;

/* How much shared memory it takes. */
Size
lg_shared_size(void)
{
	return add_size(MAXALIGN(offsetof(LgShared, slots)),
					mul_size(LG_TOTAL_PROCS, sizeof(LgSlot)));
}

static void
init_scan_stats(LgScanStats *stats)
{
	pg_atomic_init_u64(&stats->scans, 0);
	pg_atomic_init_u64(&stats->scan_time, 0);
	pg_atomic_init_u64(&stats->max_scan_time, 0);
	pg_atomic_init_u64(&stats->lock_scans, 0);
	pg_atomic_init_u64(&stats->lock_scan_time, 0);
	pg_atomic_init_u64(&stats->max_lock_scan_time, 0);
	pg_atomic_init_u64(&stats->max_partition_lock_time, 0);
	pg_atomic_init_u64(&stats->blocked_time, 0);
	pg_atomic_init_u64(&stats->yields, 0);
	pg_atomic_init_u64(&stats->let_pass, 0);
	pg_atomic_init_u64(&stats->deadlocks, 0);
}

/*
 * Attach to it, and with "init" set it up first: only the postmaster does, at
 * start.
 */
void
lg_shared_init(void *memory, LWLock *lock, bool init)
{
	LgShared   *shared = memory;

	lg_shared = shared;
	if (!init)
		return;
	memset(shared, 0, lg_shared_size());
	shared->lock = lock;
	shared->stats.stats_reset = GetCurrentTimestamp();
	init_scan_stats(&shared->scan_stats);
	pg_atomic_init_u64(&shared->last_scan, 0);
	pg_atomic_init_u32(&shared->settings_changes, 0);
	pg_atomic_init_u32(&shared->smallest_changes, 0);
	pg_atomic_init_u32(&shared->rolls_back, 0);
	pg_atomic_init_u64(&shared->frozen, 0);
	pg_atomic_init_u64(&shared->wall_ahead, 0);
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
		pg_atomic_init_u64(&slot->yielding, 0);
		pg_atomic_init_u32(&slot->reason_changes, 0);
		pg_atomic_init_u64(&slot->rollback, 0);
		pg_atomic_init_u32(&slot->wait_changes, 0);
		for (int id = 0; id < LG_NUM_SETTINGS; id++)
			pg_atomic_init_u64(&slot->value[id], 0);
	}
}

/* A process's slot, or NULL if its kind has none. */
LgSlot *
lg_slot(int procno)
{
	if (lg_shared == NULL || procno < 0 || procno >= MaxBackends)
		return NULL;
	return &lg_shared->slots[procno];
}

/*
 * LgSlot.granted_waits of a process; "otherwise", if it has no slot or is gone.
 * Reads without a lock: one word.
 */
uint32
lg_granted_waits(int procno, int pid, uint32 otherwise)
{
	LgSlot	   *slot = lg_slot(procno);

	return slot != NULL && slot->pid == pid ? slot->granted_waits : otherwise;
}

/* Does a process's lock request let others pass, in the wait that began then? */
bool
lg_is_yielding(int procno, TimestampTz wait_start)
{
	LgSlot	   *slot = lg_slot(procno);

	return slot != NULL && wait_start != 0 &&
		pg_atomic_read_u32(&lg_shared->worker_procno) != PG_UINT32_MAX &&
		pg_atomic_read_u64(&slot->yielding) == (uint64) wait_start;
}

/*
 * What tells one occupant of a PGPROC from the next: the pid, or the id of a
 * prepared transaction, whose pid is 0.
 */
int
lg_occupant(int procno, int pid)
{
	return pid != 0 ? pid : (int) ((volatile PGPROC *) &ProcGlobal->allProcs[procno])->xid;
}

/* Wake the worker up, from any process; false if there is none. */
bool
lg_wake_worker(void)
{
	uint32		procno = pg_atomic_read_u32(&lg_shared->worker_procno);

	if (procno == PG_UINT32_MAX)
		return false;
	SetLatch(&ProcGlobal->allProcs[procno].procLatch);
	return true;
}

/* Have the worker look often again.  Cheap if it does. */
void
lg_end_doze(void)
{
	if (pg_atomic_exchange_u32(&lg_shared->dozing, 0) != 0)
		lg_wake_worker();
}

/*
 * Put the reason for a signal where its target will find it, just before the
 * signal is sent.  A termination that is still to be noticed is told before
 * anything that comes after it, so its reason stays.  The caller holds
 * LgShared->lock, exclusive.
 */
void
lg_leave_reason(int procno, const LgReason *reason)
{
	LgSlot	   *slot = lg_slot(procno);

	if (reason->action != LG_DO_TERMINATE && slot->reason.action == LG_DO_TERMINATE &&
		slot->reason.pid == reason->pid &&
		slot->reason.session_start == reason->session_start)
		return;
	lg_put_reason(procno, reason);
}

/* Set a process's reason, whatever it is now.  LgShared->lock, exclusive. */
void
lg_put_reason(int procno, const LgReason *reason)
{
	LgSlot	   *slot = lg_slot(procno);

	pg_atomic_fetch_add_u32(&slot->reason_changes, 1);
	slot->reason = *reason;
	pg_write_barrier();
	pg_atomic_fetch_add_u32(&slot->reason_changes, 1);
}

/* The reason left for this process, if any.  Takes no lock. */
bool
lg_read_reason(LgReason *reason)
{
	LgSlot	   *slot = MyProc ? lg_slot(lg_proc_number(MyProc)) : NULL;

	if (slot == NULL)
		return false;
	for (int tries = 0; tries < 100; tries++)
	{
		uint32		before = pg_atomic_read_u32(&slot->reason_changes);

		pg_read_barrier();
		*reason = slot->reason;
		pg_read_barrier();
		if ((before & 1) == 0 && pg_atomic_read_u32(&slot->reason_changes) == before)
			return reason->pid == MyProcPid &&
				reason->session_start == MyStartTimestamp;
		pg_usleep(10);
	}
	return false;
}

/*
 * Count how long this process has just held a partition lock of the lock
 * manager (ns), for max_partition_lock_time.  Called with none held.
 */
void
lg_note_partition_lock_time(int64 ns)
{
	pg_atomic_uint64 *maximum = &lg_shared->scan_stats.max_partition_lock_time;
	uint64		before = pg_atomic_read_u64(maximum);

	while (ns > (int64) before &&
		   !pg_atomic_compare_exchange_u64(maximum, &before, (uint64) ns))
		;
}

/*
 * Zeroed memory for something of that size for each PGPROC, from the beginning
 * of a cache line on.  Allocates in the current context; not to be freed alone.
 */
void *
lg_alloc_per_proc(Size size)
{
	return (void *) TYPEALIGN(LG_CACHE_LINE,
							  palloc0(LG_TOTAL_PROCS * size + LG_CACHE_LINE));
}
