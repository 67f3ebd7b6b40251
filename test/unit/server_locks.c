/*-------------------------------------------------------------------------
 *
 * server_locks.c
 *		The server's lock table, lock manager and LWLocks; see server.h.
 *
 *-------------------------------------------------------------------------
 */
#include "server_parts.h"

#include "miscadmin.h"
#include "storage/lmgr.h"

#define MAX_LOCKS	1000

/* What the server's headers declare. */
LWLockPadded *MainLWLockArray;
int			DeadlockTimeout = 1000;
#if PG_VERSION_NUM >= 180000
int			FastPathLockGroupsPerBackend = 0;
#endif

void		(*on_lwlock) (LWLock *lock);
int			lwlocks_taken;
bool		proc_array_busy;

static LOCK locks[MAX_LOCKS];
static int	nlocks;
static LWLock *taken[NUM_LOCK_PARTITIONS + 1];

const LOCKMASK lock_conflicts[] = {
	[AccessShareLock] = LOCKBIT_ON(AccessExclusiveLock),
	[RowShareLock] = LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock),
	[RowExclusiveLock] = LOCKBIT_ON(ShareLock) | LOCKBIT_ON(ShareRowExclusiveLock) |
	LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock),
	[ShareUpdateExclusiveLock] = LOCKBIT_ON(ShareUpdateExclusiveLock) |
	LOCKBIT_ON(ShareLock) | LOCKBIT_ON(ShareRowExclusiveLock) |
	LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock),
	[ShareLock] = LOCKBIT_ON(RowExclusiveLock) | LOCKBIT_ON(ShareUpdateExclusiveLock) |
	LOCKBIT_ON(ShareRowExclusiveLock) | LOCKBIT_ON(ExclusiveLock) |
	LOCKBIT_ON(AccessExclusiveLock),
	[ShareRowExclusiveLock] = LOCKBIT_ON(RowExclusiveLock) |
	LOCKBIT_ON(ShareUpdateExclusiveLock) | LOCKBIT_ON(ShareLock) |
	LOCKBIT_ON(ShareRowExclusiveLock) | LOCKBIT_ON(ExclusiveLock) |
	LOCKBIT_ON(AccessExclusiveLock),
	[ExclusiveLock] = LOCKBIT_ON(RowShareLock) | LOCKBIT_ON(RowExclusiveLock) |
	LOCKBIT_ON(ShareUpdateExclusiveLock) | LOCKBIT_ON(ShareLock) |
	LOCKBIT_ON(ShareRowExclusiveLock) | LOCKBIT_ON(ExclusiveLock) |
	LOCKBIT_ON(AccessExclusiveLock),
	[AccessExclusiveLock] = LOCKBIT_ON(AccessShareLock) | LOCKBIT_ON(RowShareLock) |
	LOCKBIT_ON(RowExclusiveLock) | LOCKBIT_ON(ShareUpdateExclusiveLock) |
	LOCKBIT_ON(ShareLock) | LOCKBIT_ON(ShareRowExclusiveLock) |
	LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock)
};

static const char *const mode_names[] = {
	"INVALID", "AccessShareLock", "RowShareLock", "RowExclusiveLock",
	"ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock",
	"ExclusiveLock", "AccessExclusiveLock"
};

static const LockMethodData lock_method = {
	.numLockModes = MaxLockMode,
	.conflictTab = lock_conflicts,
	.lockModeNames = mode_names
};

LockMethod
GetLockTagsMethodTable(const LOCKTAG *tag)
{
	if (tag->locktag_lockmethodid != DEFAULT_LOCKMETHOD &&
		tag->locktag_lockmethodid != USER_LOCKMETHOD)
		impossible("no such lock method");
	return &lock_method;
}

/* As the server's: it does not check what it is given. */
const char *
GetLockmodeName(LOCKMETHODID method, LOCKMODE mode)
{
	if ((method != DEFAULT_LOCKMETHOD && method != USER_LOCKMETHOD) ||
		mode <= NoLock || mode > MaxLockMode)
		impossible("no such lock mode");
	return mode_names[mode];
}

/* What a lock is on, in no language: each field that the type has, in some order. */
bool		tags_backwards;

void
DescribeLockTag(StringInfo buf, const LOCKTAG *tag)
{
	static const int fields[LOCKTAG_LAST_TYPE + 1] = {
		[LOCKTAG_RELATION] = 2,[LOCKTAG_RELATION_EXTEND] = 2,[LOCKTAG_DATABASE_FROZEN_IDS] = 1,
		[LOCKTAG_PAGE] = 3,[LOCKTAG_TUPLE] = 4,[LOCKTAG_TRANSACTION] = 1,
		[LOCKTAG_VIRTUALTRANSACTION] = 2,[LOCKTAG_SPECULATIVE_TOKEN] = 2,[LOCKTAG_OBJECT] = 3,
		[LOCKTAG_USERLOCK] = 3,[LOCKTAG_ADVISORY] = 4
	};
	uint32		field[4] = {tag->locktag_field1, tag->locktag_field2, tag->locktag_field3, tag->locktag_field4};
	int			n = fields[tag->locktag_type] != 0 ? fields[tag->locktag_type] : 3;

	appendStringInfo(buf, "%c", 'a' + tag->locktag_type);
	for (int i = 0; i < n; i++)
		appendStringInfo(buf, "[%u]", field[tags_backwards ? n - 1 - i : i]);
}

const char *
GetLockNameFromTagType(uint16 type)
{
	return type > LOCKTAG_LAST_TYPE ? "???" : type == LOCKTAG_RELATION ? "relation" : "other";
}

uint32
LockTagHashCode(const LOCKTAG *tag)
{
	const unsigned char *bytes = (const unsigned char *) tag;
	uint32		hash = 2166136261u;

	for (size_t i = 0; i < sizeof(LOCKTAG); i++)
		hash = (hash ^ bytes[i]) * 16777619u;
	return hash;
}

static bool
is_partition(LWLock *lock)
{
	return lock >= LockHashPartitionLockByIndex(0) &&
		lock <= LockHashPartitionLockByIndex(NUM_LOCK_PARTITIONS - 1);
}

/* In the order that shared.h says. */
static bool
may_be_taken(LWLock *lock)
{
	LWLock	   *last = lwlocks_taken == 0 ? NULL : taken[lwlocks_taken - 1];

	if (last == NULL || last == lg_shared->lock)
		return lock != last;
	return is_partition(last) && is_partition(lock) && lock > last;
}

bool
LWLockAcquire(LWLock *lock, LWLockMode mode)
{
	void		(*hook) (LWLock *) = on_lwlock;

	if (hook)
	{
		on_lwlock = NULL;
		hook(lock);
	}
	if (!may_be_taken(lock))
		impossible("takes a lock while it holds another");
	taken[lwlocks_taken++] = lock;
	return true;
}

bool
LWLockConditionalAcquire(LWLock *lock, LWLockMode mode)
{
	return !proc_array_busy && LWLockAcquire(lock, mode);
}

void
LWLockRelease(LWLock *lock)
{
	if (lwlocks_taken == 0 || taken[lwlocks_taken - 1] != lock)
		impossible("releases a lock that it does not hold, or not the last one first");
	lwlocks_taken--;
}

#if PG_VERSION_NUM >= 160000
#define list_init(list)			dlist_init(list)
#define list_append(list, node) dlist_push_tail(list, node)
#define list_remove(node)		dlist_delete(node)
#define queue_init(lock)		dclist_init(&(lock)->waitProcs)
#define queue_append(lock, proc)	dclist_push_tail(&(lock)->waitProcs, &(proc)->LG_WAIT_LINK)
#define queue_insert(lock, proc, next) \
	dclist_insert_before(&(lock)->waitProcs, &(next)->LG_WAIT_LINK, &(proc)->LG_WAIT_LINK)
#else
#define list_init(list)			SHMQueueInit(list)
#define list_append(list, node) SHMQueueInsertBefore(list, node)
#define list_remove(node)		SHMQueueDelete(node)
#define queue_init(lock)		SHMQueueInit(&(lock)->waitProcs.links)
#define queue_append(lock, proc) \
	((lock)->waitProcs.size++, \
	 SHMQueueInsertBefore(&(lock)->waitProcs.links, &(proc)->LG_WAIT_LINK))
#define queue_insert(lock, proc, next) \
	((lock)->waitProcs.size++, \
	 SHMQueueInsertBefore(&(next)->LG_WAIT_LINK, &(proc)->LG_WAIT_LINK))

void
SHMQueueInit(SHM_QUEUE * queue)
{
	queue->prev = queue->next = queue;
}

void
SHMQueueInsertBefore(SHM_QUEUE * queue, SHM_QUEUE * elem)
{
	elem->next = queue;
	elem->prev = queue->prev;
	queue->prev->next = elem;
	queue->prev = elem;
}

void
SHMQueueInsertAfter(SHM_QUEUE * queue, SHM_QUEUE * elem)
{
	SHMQueueInsertBefore(queue->next, elem);
}

void
SHMQueueDelete(SHM_QUEUE * queue)
{
	queue->prev->next = queue->next;
	queue->next->prev = queue->prev;
	queue->prev = queue->next = NULL;
}

bool
SHMQueueEmpty(const SHM_QUEUE * queue)
{
	return queue->prev == queue;
}
#endif

LOCK *
lock_on(LockTagType type, uint32 field1, uint32 field2)
{
	LOCKTAG		tag = {0};
	LOCK	   *lock;

	tag.locktag_field1 = field1;
	tag.locktag_field2 = field2;
	tag.locktag_type = type;
	tag.locktag_lockmethodid = type == LOCKTAG_ADVISORY ? USER_LOCKMETHOD : DEFAULT_LOCKMETHOD;
	for (int i = 0; i < nlocks; i++)
		if (memcmp(&locks[i].tag, &tag, sizeof(tag)) == 0)
			return &locks[i];
	if (nlocks >= MAX_LOCKS)
		impossible("too many locks");
	lock = &locks[nlocks++];
	memset(lock, 0, sizeof(*lock));
	lock->tag = tag;
	list_init(&lock->procLocks);
	queue_init(lock);
	return lock;
}

static PROCLOCK *
find_proclock(LOCK *lock, int procno)
{
	PROCLOCK   *proclock = lg_first_proclock(lock);

	while (proclock != NULL && proclock->tag.myProc != proc_of(procno))
		proclock = lg_next_proclock(lock, proclock);
	return proclock;
}

static PROCLOCK *
make_proclock(LOCK *lock, int procno)
{
	PROCLOCK   *proclock = find_proclock(lock, procno);
	PGPROC	   *proc = proc_of(procno);

	if (proclock == NULL)
	{
		proclock = palloc0(sizeof(PROCLOCK));
		proclock->tag.myLock = lock;
		proclock->tag.myProc = proc;
		proclock->groupLeader = proc->lockGroupLeader ? proc->lockGroupLeader : proc;
		list_append(&lock->procLocks, &proclock->lockLink);
		list_append(&proc->myProcLocks[LockHashPartition(LockTagHashCode(&lock->tag))],
					&proclock->procLink);
	}
	return proclock;
}

static void
drop_proclock(LOCK *lock, PROCLOCK *proclock)
{
	PGPROC	   *proc = proclock->tag.myProc;

	if (proclock->holdMask != 0 || proc->waitLock == lock)
		return;
	list_remove(&proclock->lockLink);
	list_remove(&proclock->procLink);
	/* As PostgreSQL does, leave its memory readable. */
	proclock->holdMask = 0;
}

/* A lock group counts as its leader. */
int
node_of(int procno)
{
	PGPROC	   *leader = proc_of(procno)->lockGroupLeader;

	return leader ? lg_proc_number(leader) : procno;
}

LOCKMASK
held_by(LOCK *lock, int procno)
{
	PROCLOCK   *proclock = find_proclock(lock, procno);

	return proclock ? proclock->holdMask : 0;
}

TimestampTz
wait_start_of(int procno)
{
	return (TimestampTz) pg_atomic_read_u64(&proc_of(procno)->waitStart);
}

void
set_wait_start(int procno, TimestampTz start)
{
	pg_atomic_write_u64(&proc_of(procno)->waitStart, start);
}

/* One request more or less. */
static void
count_request(LOCK *lock, LOCKMODE mode, int more)
{
	lock->nRequested += more;
	lock->requested[mode] += more;
}

/* As RemoveFromWaitQueue() and GrantLock() do. */
static void
clear_wait_mask(LOCK *lock, LOCKMODE mode)
{
	if (lock->granted[mode] == lock->requested[mode])
		lock->waitMask &= LOCKBIT_OFF(mode);
}

/*
 * What follows is done to the lock table whether a server would do it or not.
 */
void
holds(int procno, LOCK *lock, LOCKMODE mode)
{
	PROCLOCK   *proclock = make_proclock(lock, procno);

	if (proclock->holdMask & LOCKBIT_ON(mode))
		return;
	proclock->holdMask |= LOCKBIT_ON(mode);
	count_request(lock, mode, 1);
	lock->nGranted++;
	if (lock->granted[mode]++ == 0)
		lock->grantMask |= LOCKBIT_ON(mode);
}

static void
let_go(int procno, LOCK *lock, LOCKMODE mode)
{
	PROCLOCK   *proclock = find_proclock(lock, procno);

	if (proclock == NULL || (proclock->holdMask & LOCKBIT_ON(mode)) == 0)
		return;
	proclock->holdMask &= ~LOCKBIT_ON(mode);
	count_request(lock, mode, -1);
	lock->nGranted--;
	if (--lock->granted[mode] == 0)
		lock->grantMask &= ~LOCKBIT_ON(mode);
	drop_proclock(lock, proclock);
}

static void
begin_to_wait(int procno, LOCK *lock, LOCKMODE mode)
{
	PGPROC	   *proc = proc_of(procno);

	if (proc->waitLock != NULL)
		impossible("waits already");
	proc->waitProcLock = make_proclock(lock, procno);
	proc->waitLock = lock;
	proc->waitLockMode = mode;
	proc->waitStatus = PROC_WAIT_STATUS_WAITING;
	count_request(lock, mode, 1);
	lock->waitMask |= LOCKBIT_ON(mode);
	set_wait_start(procno, wall_now());
}

static void
end_wait(int procno, ProcWaitStatus outcome)
{
	PGPROC	   *proc = proc_of(procno);
	LOCK	   *lock = proc->waitLock;
	PROCLOCK   *proclock = proc->waitProcLock;

	lg_dequeue(lock, proc);
	count_request(lock, proc->waitLockMode, -1);
	clear_wait_mask(lock, proc->waitLockMode);
	proc->waitLock = NULL;
	proc->waitProcLock = NULL;
	proc->waitStatus = outcome;
	set_wait_start(procno, 0);
	drop_proclock(lock, proclock);
}

/* At the end of the queue. */
void
waits(int procno, LOCK *lock, LOCKMODE mode)
{
	begin_to_wait(procno, lock, mode);
	queue_append(lock, proc_of(procno));
}

/* In the queue that the other one is in. */
void
waits_ahead_of(int procno, int other, LOCKMODE mode)
{
	LOCK	   *lock = proc_of(other)->waitLock;

	begin_to_wait(procno, lock, mode);
	queue_insert(lock, proc_of(procno), proc_of(other));
}

/* As the deadlock detector does it: the wait goes on, at the head of its queue. */
void
moves_ahead(int procno)
{
	PGPROC	   *proc = proc_of(procno);
	PGPROC	   *first = lg_first_waiter(proc->waitLock);

	if (first == proc)
		return;
	lg_dequeue(proc->waitLock, proc);
	queue_insert(proc->waitLock, proc, first);
}

/* An entry of a lock, as if it had been removed and made anew in the same place. */
void
moves_to_the_end(LOCK *lock, PROCLOCK *proclock)
{
	list_remove(&proclock->lockLink);
	list_append(&lock->procLocks, &proclock->lockLink);
}

/*
 * A lock manager: it grants and queues as PostgreSQL's does.
 */

/* Does a mode conflict with what others than the procno's own group hold? */
static bool
conflicts_with_holders(LOCK *lock, int procno, LOCKMODE mode)
{
	bool		own_group_too = lock->tag.locktag_type == LOCKTAG_RELATION_EXTEND;

	for (PROCLOCK *held = lg_first_proclock(lock); held; held = lg_next_proclock(lock, held))
	{
		int			holder = lg_proc_number(held->tag.myProc);

		if (holder != procno && (held->holdMask & lock_conflicts[mode]) != 0 &&
			(node_of(holder) != node_of(procno) || own_group_too))
			return true;
	}
	return false;
}

/*
 * Takes a lock, or waits for it, as ProcSleep() does: a process that holds the
 * lock already is put ahead of those that wait for that.  False if it has to
 * wait.
 */
bool
acquires(int procno, LOCK *lock, LOCKMODE mode)
{
	LOCKMASK	waited = 0;
	LOCKMASK	mine = 0;

	for (PROCLOCK *held = lg_first_proclock(lock); held; held = lg_next_proclock(lock, held))
		if (node_of(lg_proc_number(held->tag.myProc)) == node_of(procno))
			mine |= held->holdMask;
	for (PGPROC *queued = lg_first_waiter(lock); queued; queued = lg_next_waiter(lock, queued))
		waited |= LOCKBIT_ON(queued->waitLockMode);

	if ((lock_conflicts[mode] & waited) == 0 && !conflicts_with_holders(lock, procno, mode))
	{
		holds(procno, lock, mode);
		return true;
	}
	waited = 0;
	for (PGPROC *queued = lg_first_waiter(lock); mine != 0 && queued;
		 queued = lg_next_waiter(lock, queued))
	{
		if (lock_conflicts[queued->waitLockMode] & mine)
		{
			if ((lock_conflicts[mode] & waited) == 0 &&
				!conflicts_with_holders(lock, procno, mode))
			{
				holds(procno, lock, mode);
				return true;
			}
			waits_ahead_of(procno, lg_proc_number(queued), mode);
			return false;
		}
		waited |= LOCKBIT_ON(queued->waitLockMode);
	}
	waits(procno, lock, mode);
	return false;
}

/* Grant what can be granted now, in the order of the queue. */
static void
wake_up(LOCK *lock)
{
	LOCKMASK	ahead = 0;
	PGPROC	   *next;

	for (PGPROC *queued = lg_first_waiter(lock); queued; queued = next)
	{
		int			procno = lg_proc_number(queued);
		LOCKMODE	mode = queued->waitLockMode;

		next = lg_next_waiter(lock, queued);
		if ((lock_conflicts[mode] & ahead) == 0 && !conflicts_with_holders(lock, procno, mode))
		{
			holds(procno, lock, mode);
			end_wait(procno, PROC_WAIT_STATUS_OK);
		}
		else
			ahead |= LOCKBIT_ON(mode);
	}
}

/* As the server's, but by what is held, not by what is counted. */
void
ProcLockWakeup(LockMethod table, LOCK *lock)
{
	if (taken[0] != LockHashPartitionLock(LockTagHashCode(&lock->tag)))
		impossible("wakes up without the partition lock");
	wake_up(lock);
}

bool
LockCheckConflicts(LockMethod table, LOCKMODE mode, LOCK *lock, PROCLOCK *proclock)
{
	return conflicts_with_holders(lock, lg_proc_number(proclock->tag.myProc), mode);
}

/* Its wait ends in an error; those behind it may get the lock. */
void
gives_up(int procno)
{
	LOCK	   *lock = proc_of(procno)->waitLock;

	end_wait(procno, PROC_WAIT_STATUS_ERROR);
	wake_up(lock);
}

void
releases(int procno, LOCK *lock, LOCKMODE mode)
{
	let_go(procno, lock, mode);
	wake_up(lock);
}

/* The end of a transaction, also of one that waits. */
void
releases_all(int procno)
{
	PGPROC	   *proc = proc_of(procno);

	if (proc->waitLock != NULL)
		gives_up(procno);
	for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
	{
		PROCLOCK   *held;

		while ((held = lg_first_held(proc, partition)) != NULL)
		{
			LOCK	   *lock = held->tag.myLock;
			LOCKMASK	mask = held->holdMask;

			for (int mode = 1; mode <= MaxLockMode; mode++)
				if (mask & LOCKBIT_ON(mode))
					let_go(procno, lock, mode);
			wake_up(lock);
		}
	}
}

/* The processes are there already. */
void
locks_start(void)
{
	nlocks = 0;
	lwlocks_taken = 0;
	on_lwlock = NULL;
	proc_array_busy = false;
	MainLWLockArray = palloc0((LOCK_MANAGER_LWLOCK_OFFSET + NUM_LOCK_PARTITIONS + 100) *
							  sizeof(LWLockPadded));
	for (int procno = 0; procno < LG_TOTAL_PROCS; procno++)
		for (int i = 0; i < NUM_LOCK_PARTITIONS; i++)
			list_init(&proc_of(procno)->myProcLocks[i]);
}
