/*-------------------------------------------------------------------------
 *
 * stepaside.c
 *		Lets those behind a lock request pass: the only change that lockguard makes
 *		to the lock manager's state.
 *
 * A request that waits stops all that come after it and conflict with it, although
 * they might not conflict with those that hold the lock.  In a step, with the
 * lock's partition locked exclusively,
 *
 * - the request is taken out of the lock's wait queue;
 * - ProcLockWakeup() grants the lock to all that no longer have to wait, by
 *	 PostgreSQL's own rules and in their order;
 * - the request is put back behind those that stood ahead of it and wait still,
 *	 and ahead of all others.
 *
 * DeadLockCheck() rearranges queues in the same way.  Nothing in between can raise
 * an error, allocates, or waits.  What else belongs to a wait (waitLock, the
 * lock's counts and waitMask) is not touched, as the wait does not end: outside
 * the partition lock no process sees any difference but who has been granted the
 * lock.  If the worker ends between two steps, an ordinary queue is left.
 *
 * Several requests that step aside in one queue are taken out together; one by
 * one, no process would pass two of them.  One of them that could be granted
 * the lock, if only the others were out of the way, passes them, too, after all
 * that do not step aside.
 *
 * Why no deadlock goes unnoticed.  A process checks for a deadlock once in each
 * wait, deadlock_timeout after it began (CheckDeadLock() in proc.c), so each edge
 * of a cycle has to be there before the last of its waits begins, or is made by a
 * process that is yet to check.  A step makes no waiter wait for another that is
 * still in the queue, for their order is as before.  The only new edges lead from
 * the requests that were passed to those that passed.  A process that passes
 * waited for this lock alone, and now waits for nothing: no cycle goes through it.
 * If it waits later, it runs a check of its own, and finds the edges.
 *
 * But for checks, a lock group is one process (see the README of the lock
 * manager): a parallel worker may pass while its leader, or another worker, waits
 * elsewhere.  Then the new edge leads to a group that waits, and whose check may
 * be over.  So no step is made while a member of a lock group is in the queue and
 * another member waits, unless all in the queue are about to pass.  Other members'
 * waitLock is read without their lock: if one is not seen to wait, its check comes
 * after the step, as it needs all partition locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#include "clock.h"
#include "compat.h"
#include "debug.h"
#include "shared.h"
#include "stepaside.h"
#include "waitgraph.h"

/* The partition lock of the lock that is asked for. */
static inline LWLock *
partition_lock(const LgAside *aside)
{
	return LockHashPartitionLock(LockTagHashCode(&aside->tag));
}

/* The modes that conflict with a request. */
static inline LOCKMASK
conflicts_with(const LgAside *aside)
{
	return GetLockTagsMethodTable(&aside->tag)->conflictTab[aside->mode];
}

/*
 * Is the process still in that wait?  The caller holds the partition lock; or
 * else what is returned may be out of date.
 */
static bool
waits_still(const LgAside *aside)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[aside->procno];

	return lg_proc_pid(proc) == aside->pid &&
		((volatile PGPROC *) proc)->waitLock == aside->lock &&
		memcmp(&aside->lock->tag, &aside->tag, sizeof(LOCKTAG)) == 0 &&
		(TimestampTz) pg_atomic_read_u64(&proc->waitStart) == aside->wait_start &&
		proc->waitLockMode == aside->mode &&
		proc->waitStatus == PROC_WAIT_STATUS_WAITING &&
		lg_is_queued(proc);
}

/* Is the wait over?  Reads without a lock: may be out of date. */
bool
lg_aside_is_over(const LgAside *aside)
{
	return !waits_still(aside);
}

/*
 * Has the request been granted, and is the lock still held?  Takes the partition
 * lock, shared.
 */
bool
lg_aside_holds(const LgAside *aside)
{
	LWLock	   *partition = partition_lock(aside);
	const PROCLOCK *entry;
	bool		holds;
	int64		locked;

	LWLockAcquire(partition, LW_SHARED);
	locked = lg_now();
	entry = lg_find_held(aside->procno, aside->pid, &aside->tag, NULL);
	holds = entry != NULL && (entry->holdMask & LOCKBIT_ON(aside->mode)) != 0;
	locked = lg_now() - locked;
	LWLockRelease(partition);
	lg_note_partition_lock_time(locked);
	return holds;
}

/*
 * Does anything wait behind the request?  Without a lock: a hint, and cheap.  Of
 * a request that waits no more it is true, so that this is found out.
 */
bool
lg_aside_is_followed(const LgAside *aside)
{
	return !lg_is_last_queued(aside->lock, &ProcGlobal->allProcs[aside->procno]);
}

/*
 * Does the process of an entry hold the lock in a mode that conflicts with the
 * request, or wait for one?  The caller holds the partition lock.
 */
static bool
is_against(const LgAside *aside, const PROCLOCK *proclock)
{
	PGPROC	   *proc = proclock->tag.myProc;
	LOCKMASK	modes = proclock->holdMask;

	if (proc->waitProcLock == proclock)
		modes |= LOCKBIT_ON(proc->waitLockMode);
	return (modes & conflicts_with(aside)) != 0 &&
		lg_leader_number(proc) != lg_leader_number(&ProcGlobal->allProcs[aside->procno]);
}

/* Does it hold the lock in a conflicting mode?  The caller as for is_against(). */
static inline bool
holds_against(const LgAside *aside, const PROCLOCK *proclock)
{
	return (proclock->holdMask & conflicts_with(aside)) != 0 &&
		is_against(aside, proclock);
}

/*
 * The request begins to step aside: list the lock's entries.  Returns false if it
 * waits no more (*wanted = 0), or if there is no room for so many as *wanted.
 * Takes the partition lock, shared.
 */
bool
lg_aside_begin(LgAside *aside, int *wanted)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[aside->procno];
	LWLock	   *partition = partition_lock(aside);
	bool		waits;
	int64		locked;

	*wanted = 0;
	aside->nentries = 0;
	LWLockAcquire(partition, LW_SHARED);
	locked = lg_now();
	waits = waits_still(aside);
	for (PROCLOCK *entry = waits ? lg_next_proclock(aside->lock, proc->waitProcLock) : NULL;
		 entry != NULL; entry = lg_next_proclock(aside->lock, entry))
		if ((*wanted)++ < aside->max_entries)
		{
			aside->entries[aside->nentries].proclock = entry;
			aside->entries[aside->nentries++].counts = holds_against(aside, entry);
		}
	locked = lg_now() - locked;
	LWLockRelease(partition);
	lg_note_partition_lock_time(locked);
	return waits && *wanted <= aside->max_entries;
}

/*
 * Forget the listed entries that are gone.  Entries are added at the end of a
 * lock's list (SetupLockInTable() in lock.c), and are removed when a process
 * releases the lock.  So one that stands behind an entry that is not listed, or
 * not in the old order, has been made anew meanwhile, be it in the same place.  One
 * that is still there belongs to the same transaction, or to a lock of the
 * session; that of a transaction that is prepared goes over to the prepared one.
 * The caller holds the partition lock, and the request still waits.
 */
static void
forget_entries(LgAside *aside)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[aside->procno];
	PROCLOCK   *entry = lg_next_proclock(aside->lock, proc->waitProcLock);
	int			kept = 0;

	for (int i = 0; i < aside->nentries && entry != NULL; i++)
		if (aside->entries[i].proclock == entry)
		{
			aside->entries[kept++] = aside->entries[i];
			entry = lg_next_proclock(aside->lock, entry);
		}
	aside->nentries = kept;
}

/*
 * Does the request wait for this holder since it began to yield, or has the holder
 * passed it since?  The caller holds the partition lock, and the request still
 * waits.
 */
bool
lg_is_obstacle(const LgAside *aside, const PROCLOCK *proclock)
{
	PROCLOCK   *own = ProcGlobal->allProcs[aside->procno].waitProcLock;

	for (PROCLOCK *entry = lg_first_proclock(aside->lock); entry != NULL && entry != own;
		 entry = lg_next_proclock(aside->lock, entry))
		if (entry == proclock)
			return true;
	for (int i = 0; i < aside->nentries; i++)
		if (aside->entries[i].proclock == proclock)
			return aside->entries[i].counts;
	return false;
}

/*
 * Mark, by procno, those that the request has waited for since it began to yield.
 * False if it waits no more.  Takes the partition lock, shared.
 */
bool
lg_find_obstacles(const LgAside *aside, bool *obstacles)
{
	LWLock	   *partition = partition_lock(aside);
	PROCLOCK   *own;
	PROCLOCK   *entry;
	bool		waits;
	int64		locked;

	LWLockAcquire(partition, LW_SHARED);
	locked = lg_now();
	waits = waits_still(aside);
	own = ProcGlobal->allProcs[aside->procno].waitProcLock;
	for (entry = waits ? lg_first_proclock(aside->lock) : NULL;
		 entry != NULL && entry != own; entry = lg_next_proclock(aside->lock, entry))
		obstacles[lg_proc_number(entry->tag.myProc)] = true;
	entry = waits ? lg_next_proclock(aside->lock, own) : NULL;
	for (int i = 0; i < aside->nentries && entry != NULL; i++)
	{
		if (entry != aside->entries[i].proclock)
			continue;
		if (aside->entries[i].counts)
			obstacles[lg_proc_number(entry->tag.myProc)] = true;
		entry = lg_next_proclock(aside->lock, entry);
	}
	locked = lg_now() - locked;
	LWLockRelease(partition);
	lg_note_partition_lock_time(locked);
	return waits;
}

/*
 * Is any of those left that the request waited for when it began to yield?  The
 * caller holds the partition lock, and the request still waits.
 */
static bool
obstacles_are_left(LgAside *aside)
{
	PROCLOCK   *own = ProcGlobal->allProcs[aside->procno].waitProcLock;

	forget_entries(aside);
	for (PROCLOCK *entry = lg_first_proclock(aside->lock); entry != NULL && entry != own;
		 entry = lg_next_proclock(aside->lock, entry))
		if (is_against(aside, entry))
			return true;
	for (int i = 0; i < aside->nentries; i++)
		if (aside->entries[i].counts && holds_against(aside, aside->entries[i].proclock))
			return true;
	return false;
}

/* Does another member of a process's lock group wait, for whichever lock? */
static bool
group_waits_elsewhere(PGPROC *waiter)
{
	if (waiter->lockGroupLeader == NULL)
		return false;
	for (int i = 0; i < MaxBackends; i++)
	{
		volatile PGPROC *proc = &ProcGlobal->allProcs[i];

		if (proc != waiter && proc->lockGroupLeader == waiter->lockGroupLeader &&
			proc->waitLock != NULL)
			return true;
	}
	return false;
}

/* Count the members of lock groups that wait, and find those that go on to wait. */
static void
count_groups(const LOCK *lock, const LgStepRoom *room)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		volatile PGPROC *proc = &ProcGlobal->allProcs[i];
		PGPROC	   *leader = proc->lockGroupLeader;
		LOCK	   *awaited = proc->waitLock;

		if (leader == NULL || awaited == NULL)
			continue;
		room->waiting[lg_proc_number(leader)]++;
		if (awaited != lock || room->steps[i])
			room->goes_on[lg_proc_number(leader)] = true;
	}
}

/*
 * May a step be made now?  Not if that could hide a deadlock of a lock group; see
 * the head of this file.  If all pass that do not step aside, no group goes on to
 * wait but for those with a member that waits for another lock, or steps aside.
 */
static bool
is_safe(const LOCK *lock, const LockMethod table, const LgStepRoom *room, int length)
{
	LOCKMASK	wanted = 0;
	LOCKMASK	conflicts = 0;
	bool		groups = false;
	bool		safe = true;
	bool		all_pass;

	for (int i = 0; i < length; i++)
	{
		PGPROC	   *proc = room->queue[i];

		if (room->steps[lg_proc_number(proc)])
			continue;
		wanted |= LOCKBIT_ON(proc->waitLockMode);
		conflicts |= table->conflictTab[proc->waitLockMode];
		groups |= proc->lockGroupLeader != NULL;
	}
	if (!groups)
		return true;
	all_pass = (conflicts & (wanted | lock->grantMask)) == 0;

	count_groups(lock, room);
	for (int i = 0; i < length; i++)
	{
		PGPROC	   *proc = room->queue[i];
		int			leader = lg_leader_number(proc);

		if (proc->lockGroupLeader != NULL && !room->steps[lg_proc_number(proc)] &&
			room->waiting[leader] > 1 && (!all_pass || room->goes_on[leader]))
			safe = false;
	}
	memset(room->waiting, 0, MaxBackends * sizeof(int));
	memset(room->goes_on, 0, MaxBackends * sizeof(bool));
	return safe;
}

/* Which modes does the lock group of a request hold? */
static LOCKMASK
held_by_group(const LgAside *aside)
{
	PGPROC	   *own = &ProcGlobal->allProcs[aside->procno];
	LOCKMASK	held = own->waitProcLock->holdMask;

	if (own->lockGroupLeader != NULL)
		for (PROCLOCK *entry = lg_first_proclock(aside->lock); entry != NULL;
			 entry = lg_next_proclock(aside->lock, entry))
			if (lg_leader_number(entry->tag.myProc) == lg_leader_number(own))
				held |= entry->holdMask;
	return held;
}

/*
 * Does a waiter conflict with what the group of the request holds of this lock?
 * One that lets others pass itself has time.
 */
static bool
holds_what_is_wanted(const LgAside *aside, const LockMethod table)
{
	PGPROC	   *own = &ProcGlobal->allProcs[aside->procno];
	LOCKMASK	held = held_by_group(aside);

	if (held == 0)
		return false;
	for (PGPROC *proc = lg_first_waiter(aside->lock); proc != NULL;
		 proc = lg_next_waiter(aside->lock, proc))
		if (lg_leader_number(proc) != lg_leader_number(own) &&
			(table->conflictTab[proc->waitLockMode] & held) != 0 &&
			!lg_is_yielding(lg_proc_number(proc),
							(TimestampTz) pg_atomic_read_u64(&proc->waitStart)))
			return true;
	return false;
}

/*
 * Those that step aside are out of the queue, and the others have passed.  Of the
 * former, let those have the lock that can be granted it, in their order; those
 * that cannot stay out.
 */
static void
let_pass_each_other(LOCK *lock, const LockMethod table, const LgStepRoom *room, int length)
{
	PGPROC	   *ahead = NULL;
	LOCKMASK	ahead_requests = 0;

	for (int i = 0; i < length; i++)
	{
		PGPROC	   *proc = room->queue[i];

		if (!room->steps[lg_proc_number(proc)])
		{
			if (proc->waitLock == lock)
			{
				ahead = proc;
				ahead_requests |= LOCKBIT_ON(proc->waitLockMode);
			}
			continue;
		}
		if ((table->conflictTab[proc->waitLockMode] & ahead_requests) != 0 ||
			LockCheckConflicts(table, proc->waitLockMode, lock, proc->waitProcLock) ||
			group_waits_elsewhere(proc))
			continue;
		lg_enqueue_behind(lock, ahead, proc);
		ProcLockWakeup(table, lock);

		/* Once it has the lock, it may be in the queue of another. */
		if (proc->waitLock == lock)
			lg_dequeue(lock, proc);
	}
}

/*
 * Take the requests that step aside out of the way, let the others pass, and put
 * them back.  "length" is that of the queue up to the last of them.  Returns how
 * many have been granted the lock.  The caller holds the partition lock,
 * exclusively.
 */
static int
let_pass(LOCK *lock, const LockMethod table, const LgStepRoom *room, int length)
{
	int			before = lg_queue_length(lock);
	PGPROC	   *ahead = NULL;

	for (int i = 0; i < length; i++)
		if (room->steps[lg_proc_number(room->queue[i])])
			lg_dequeue(lock, room->queue[i]);
	LG_DEBUG_POINT("taken_out");	/* in tests: to wait, never to fail */
	ProcLockWakeup(table, lock);
	let_pass_each_other(lock, table, room, length);

	for (int i = 0; i < length; i++)
	{
		PGPROC	   *proc = room->queue[i];

		if (proc->waitLock != lock)
			continue;			/* has got the lock */
		if (room->steps[lg_proc_number(proc)])
			lg_enqueue_behind(lock, ahead, proc);
		ahead = proc;
	}
	return before - lg_queue_length(lock);
}

#ifdef USE_ASSERT_CHECKING
/*
 * Nothing is lost and nothing changes places: the queue is the one before, without
 * those that have been granted the lock.  "length" is that of the whole queue
 * before; "granted" is what nGranted was then.
 */
static void
check_queue(LOCK *lock, const LgStepRoom *room, int length, int passed, int granted)
{
	PGPROC	   *proc = lg_first_waiter(lock);
	LOCKMASK	wanted = 0;
	int			gone = 0;

	for (int i = 0; i < length; i++)
	{
		if (proc != room->queue[i])
		{
			Assert(room->queue[i]->waitLock != lock);
			gone++;
			continue;
		}
		Assert(proc->waitLock == lock);
		Assert(proc->waitStatus == PROC_WAIT_STATUS_WAITING);
		wanted |= LOCKBIT_ON(proc->waitLockMode);
		proc = lg_next_waiter(lock, proc);
	}
	Assert(proc == NULL);
	Assert(gone == passed && lock->nGranted == granted + passed);
	Assert(lg_queue_length(lock) == length - passed);
	Assert((wanted & ~lock->waitMask) == 0);
	Assert(lock->nGranted <= lock->nRequested);
}
#endif

/* May this request step aside now?  The caller holds the partition lock. */
static LgStepResult
may_step(LgAside *aside, const LockMethod table)
{
	if (!waits_still(aside))
		return LG_STEP_OVER;
	if (!obstacles_are_left(aside))
		return LG_STEP_STANDS;
	return holds_what_is_wanted(aside, table) ? LG_STEP_WANTED : LG_STEP_DONE;
}

/*
 * One step for requests of one lock: "asides" has n of them, in any order.  Says
 * in each one's "result" what has come of it.  Returns how many have passed.
 * Takes the partition lock, exclusively.
 */
int
lg_step_aside(LgAside **asides, int n, const LgStepRoom *room)
{
	LWLock	   *partition = partition_lock(asides[0]);
	LOCK	   *lock = asides[0]->lock;
	LockMethod	table = GetLockTagsMethodTable(&asides[0]->tag);
	int			stepping = 0;
	int			last = 0;		/* of those that step aside, its place */
	int			length = 0;
	int			passed = 0;
	bool		steps;
	int64		locked;

	LWLockAcquire(partition, LW_EXCLUSIVE);
	locked = lg_now();
	for (int i = 0; i < n; i++)
	{
		asides[i]->result = may_step(asides[i], table);
		if (asides[i]->result != LG_STEP_DONE)
			continue;
		room->steps[asides[i]->procno] = true;
		stepping++;
	}
	if (stepping > 0)
		for (PGPROC *proc = lg_first_waiter(lock); proc != NULL;
			 proc = lg_next_waiter(lock, proc))
		{
			room->queue[length++] = proc;
			if (room->steps[lg_proc_number(proc)])
				last = length;
		}

	/* Is anything behind one of them? */
	steps = stepping > 0 && length > 1 &&
		!(length == last && stepping == 1) && is_safe(lock, table, room, length);
	if (steps)
	{
		int			granted PG_USED_FOR_ASSERTS_ONLY = lock->nGranted;

		passed = let_pass(lock, table, room, last);
#ifdef USE_ASSERT_CHECKING
		check_queue(lock, room, length, passed, granted);
#endif
	}
	for (int i = 0; i < n; i++)
	{
		room->steps[asides[i]->procno] = false;
		if (asides[i]->result == LG_STEP_DONE && !steps)
			asides[i]->result = LG_STEP_NOT_YET;
	}
	locked = lg_now() - locked;
	LWLockRelease(partition);
	lg_note_partition_lock_time(locked);
	return passed;
}
