/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Every difference between PostgreSQL 15, 16, 17, 18 and 19 that matters here.
 *
 * No other file looks at PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_COMPAT_H
#define LOCKGUARD_COMPAT_H

/* The Makefile checks this, too: other files may fail before they come here. */
#if (PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 200000) && !defined(LOCKGUARD_UNTESTED)
#error "lockguard is for PostgreSQL 15 to 19"
#endif

/* 15 to 19. */
#define LG_MAJOR_VERSION	(PG_VERSION_NUM / 10000)

/*
 * libpq-be.h wants the headers of Kerberos, which a server's development
 * package need not bring.  struct Port has the same layout without.
 */
#undef ENABLE_GSS
#include "libpq/libpq-be.h"

#include "access/twophase.h"
#include "access/xlog.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/spin.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

/*
 * All PGPROCs there are.  ProcGlobal->allProcCount leaves out those of
 * prepared transactions, which follow the others in the same array.
 */
#define LG_TOTAL_PROCS	(MaxBackends + NUM_AUXILIARY_PROCS + max_prepared_xacts)

/* A process's index in ProcGlobal->allProcs, without reading from it. */
#define lg_proc_number(proc)	((int) ((proc) - ProcGlobal->allProcs))

/* Its local transaction id. */
#if PG_VERSION_NUM >= 170000
#define lg_proc_lxid(proc)		((proc)->vxid.lxid)
#else
#define lg_proc_lxid(proc)		((proc)->lxid)
#endif

/* By what number SendProcSignal() finds it. */
#if PG_VERSION_NUM >= 170000
#define lg_signal_number(proc)	lg_proc_number(proc)
#else
#define lg_signal_number(proc)	((proc)->backendId)
#endif

/* The first part of its virtual transaction ids. */
#if PG_VERSION_NUM >= 170000
#define lg_vxid_number(proc)	((proc)->vxid.procNumber)
#else
#define lg_vxid_number(proc)	((proc)->backendId)
#endif

/*
 * Where a process keeps its entry of the backend status array, or -1 if it
 * has none (yet).  An auxiliary process of 15 and 16 is found by its type,
 * not by its PGPROC; see lg_status_entry().
 */
#if PG_VERSION_NUM >= 170000
#define LG_STATUS_BY_PROC_NUMBER true
#define lg_status_index(proc)	lg_proc_number(proc)
#else
#define LG_STATUS_BY_PROC_NUMBER false
#define lg_status_index(proc)	((int) (proc)->backendId - 1)
#endif

/* Backends that are still logging in show a status of their own since 18. */
#if PG_VERSION_NUM >= 180000
#define lg_state_is_starting(state) ((state) == STATE_STARTING)
#else
#define lg_state_is_starting(state) false
#endif

/*
 * The pid of the process that has a PGPROC now, 0 if none.  Up to 16 a PGPROC
 * keeps the pid of the process that had it last, but then its latch has no owner.
 */
#define lg_proc_pid(proc) \
	((proc)->procLatch.owner_pid == (proc)->pid ? (proc)->pid : 0)

/* Does a client have it?  Known from the start, before there is a status. */
#if PG_VERSION_NUM >= 190000
#define lg_proc_is_regular(proc)	((proc)->backendType == B_BACKEND)
#elif PG_VERSION_NUM >= 180000
#define lg_proc_is_regular(proc)	((proc)->isRegularBackend)
#else
#define lg_proc_is_regular(proc)	(!(proc)->isBackgroundWorker)
#endif

/*
 * The procno of the leader of a process's lock group, or its own.  Only
 * parallel workers follow another, see BecomeLockGroupMember(); of a client's
 * PGPROC, the cache line with its group is not even read.
 */
static inline int
lg_leader_number(volatile PGPROC *proc)
{
	PGPROC	   *leader = lg_proc_is_regular(proc) ? NULL : proc->lockGroupLeader;

	return lg_proc_number(leader != NULL ? leader : (PGPROC *) proc);
}

/*
 * Does a process wait until no other has a buffer pinned?  Since 19, waits for
 * a buffer's content lock are of the same class.
 */
#if PG_VERSION_NUM >= 190000
#define lg_waits_for_pin(event) ((event) == WAIT_EVENT_BUFFER_CLEANUP)
#elif PG_VERSION_NUM >= 170000
#define lg_waits_for_pin(event) (((event) & 0xFF000000U) == PG_WAIT_BUFFERPIN)
#else
#define lg_waits_for_pin(event) (((event) & 0xFF000000U) == PG_WAIT_BUFFER_PIN)
#endif

/* Does this wait event mean that replay waits for sessions of a standby? */
#define lg_is_recovery_conflict(event) \
	((event) == WAIT_EVENT_RECOVERY_CONFLICT_SNAPSHOT || \
	 (event) == WAIT_EVENT_RECOVERY_CONFLICT_TABLESPACE || \
	 lg_waits_for_pin(event))

/* Wait events that get their names at run time, since 17. */
#ifdef PG_WAIT_INJECTIONPOINT
#define lg_wait_event_is_custom(event) \
	(((event) & 0xFF000000U) == PG_WAIT_EXTENSION || \
	 ((event) & 0xFF000000U) == PG_WAIT_INJECTIONPOINT)
#else
#define lg_wait_event_is_custom(event) \
	(((event) & 0xFF000000U) == PG_WAIT_EXTENSION)
#endif

/*
 * Have memory fetched that will be needed soon: read a byte of it.  (A prefetch
 * is only a hint.)
 */
#define lg_touch(address)	((void) *(volatile char *) (address))

/* Size of what is fetched from memory at once, for the layout of structs. */
#define LG_CACHE_LINE	64
#if defined(pg_attribute_aligned)
#define LG_ON_CACHE_LINE	pg_attribute_aligned(LG_CACHE_LINE)
#else
#define LG_ON_CACHE_LINE
#endif

/* Whom pg_signal_backend() lets signal an autovacuum worker. */
#if PG_VERSION_NUM >= 180000
#define lg_may_signal_autovacuum(role) \
	has_privs_of_role(role, ROLE_PG_SIGNAL_AUTOVACUUM_WORKER)
#define LG_SIGNALS_AUTOVACUUM	"a member of pg_signal_autovacuum_worker"
#else
#define lg_may_signal_autovacuum(role)	superuser_arg(role)
#define LG_SIGNALS_AUTOVACUUM	"a superuser"
#endif

/* The last parameter of an ExecutorRun_hook is gone in 18. */
#if PG_VERSION_NUM >= 180000
#define LG_EXECUTE_ONCE_ARG
#define LG_EXECUTE_ONCE
#else
#define LG_EXECUTE_ONCE_ARG		,bool execute_once
#define LG_EXECUTE_ONCE			,execute_once
#endif

/*
 * SIG_IGN for pqsignal(), whose handlers have had another type than the
 * system's since 19.
 */
#define LG_IGNORE_SIGNAL	((pqsigfunc) (void *) SIG_IGN)

/* Is a backslash in a string an ordinary character?  Since 19 always. */
#if PG_VERSION_NUM >= 190000
#define lg_conforming_strings	true
#else
#include "parser/parser.h"
#define lg_conforming_strings	standard_conforming_strings
#endif

/* Memory for a GUC's "extra". */
#if PG_VERSION_NUM >= 160000
#define lg_guc_malloc(size)		guc_malloc(LOG, size)
#else
#define lg_guc_malloc(size)		malloc(size)
#endif

/*
 * The lists of the lock manager.  The caller holds the partition lock of the
 * lock (for lg_first_held(): of the partition that is walked).
 */
#if PG_VERSION_NUM >= 190000
#define LG_WAIT_LINK	waitLink	/* of a PGPROC, in the queue of a lock */
#else
#define LG_WAIT_LINK	links
#endif

#if PG_VERSION_NUM >= 160000

#define LG_LIST_NEXT(list, node, type, member) \
	(dlist_has_next(list, node) ? \
	 dlist_container(type, member, dlist_next_node(list, node)) : NULL)
#define LG_LIST_FIRST(list, type, member) \
	(dlist_is_empty(list) ? NULL : \
	 dlist_container(type, member, dlist_head_node(list)))

static inline PROCLOCK *
lg_first_proclock(LOCK *lock)
{
	return LG_LIST_FIRST(&lock->procLocks, PROCLOCK, lockLink);
}

static inline PROCLOCK *
lg_next_proclock(LOCK *lock, PROCLOCK *proclock)
{
	return LG_LIST_NEXT(&lock->procLocks, &proclock->lockLink, PROCLOCK, lockLink);
}

static inline PGPROC *
lg_first_waiter(LOCK *lock)
{
	return LG_LIST_FIRST(&lock->waitProcs.dlist, PGPROC, LG_WAIT_LINK);
}

static inline PGPROC *
lg_next_waiter(LOCK *lock, PGPROC *proc)
{
	return LG_LIST_NEXT(&lock->waitProcs.dlist, &proc->LG_WAIT_LINK, PGPROC, LG_WAIT_LINK);
}

static inline PROCLOCK *
lg_first_held(PGPROC *proc, int partition)
{
	return LG_LIST_FIRST(&proc->myProcLocks[partition], PROCLOCK, procLink);
}

static inline PROCLOCK *
lg_next_held(PGPROC *proc, int partition, PROCLOCK *proclock)
{
	return LG_LIST_NEXT(&proc->myProcLocks[partition], &proclock->procLink,
						PROCLOCK, procLink);
}

/* An unlocked look: good enough to pass over the many empty lists. */
#define lg_holds_none(proc, partition) \
	dlist_is_empty(&(proc)->myProcLocks[partition])

/* Changes of a wait queue: the partition lock is held exclusively. */
static inline void
lg_dequeue(LOCK *lock, PGPROC *proc)
{
	dclist_delete_from_thoroughly(&lock->waitProcs, &proc->LG_WAIT_LINK);
}

/* Behind a waiter, or with NULL ahead of all. */
static inline void
lg_enqueue_behind(LOCK *lock, PGPROC *ahead, PGPROC *proc)
{
	if (ahead != NULL)
		dclist_insert_after(&lock->waitProcs, &ahead->LG_WAIT_LINK, &proc->LG_WAIT_LINK);
	else
		dclist_push_head(&lock->waitProcs, &proc->LG_WAIT_LINK);
}

static inline int
lg_queue_length(LOCK *lock)
{
	return (int) dclist_count(&lock->waitProcs);
}

/* Is it in the queue of some lock? */
#define lg_is_queued(proc)	(!dlist_node_is_detached(&(proc)->LG_WAIT_LINK))

/* Is it the last in the queue of that lock?  An unlocked look is a hint. */
static inline bool
lg_is_last_queued(LOCK *lock, volatile PGPROC *proc)
{
	return proc->LG_WAIT_LINK.next == &lock->waitProcs.dlist.head;
}

#else							/* PostgreSQL 15 */

/* As SHMQueueNext(), but inline: the lists of a jam are long. */
#define LG_LIST_NEXT(list, node, type, member) \
	((node)->next == (list) ? NULL : \
	 (type *) ((char *) (node)->next - offsetof(type, member)))

static inline PROCLOCK *
lg_first_proclock(LOCK *lock)
{
	return LG_LIST_NEXT(&lock->procLocks, &lock->procLocks, PROCLOCK, lockLink);
}

static inline PROCLOCK *
lg_next_proclock(LOCK *lock, PROCLOCK *proclock)
{
	return LG_LIST_NEXT(&lock->procLocks, &proclock->lockLink, PROCLOCK, lockLink);
}

static inline PGPROC *
lg_first_waiter(LOCK *lock)
{
	return LG_LIST_NEXT(&lock->waitProcs.links, &lock->waitProcs.links, PGPROC, LG_WAIT_LINK);
}

static inline PGPROC *
lg_next_waiter(LOCK *lock, PGPROC *proc)
{
	return LG_LIST_NEXT(&lock->waitProcs.links, &proc->LG_WAIT_LINK, PGPROC, LG_WAIT_LINK);
}

static inline PROCLOCK *
lg_first_held(PGPROC *proc, int partition)
{
	SHM_QUEUE  *list = &proc->myProcLocks[partition];

	return LG_LIST_NEXT(list, list, PROCLOCK, procLink);
}

static inline PROCLOCK *
lg_next_held(PGPROC *proc, int partition, PROCLOCK *proclock)
{
	return LG_LIST_NEXT(&proc->myProcLocks[partition], &proclock->procLink,
						PROCLOCK, procLink);
}

#define lg_holds_none(proc, partition) \
	SHMQueueEmpty(&(proc)->myProcLocks[partition])

static inline void
lg_dequeue(LOCK *lock, PGPROC *proc)
{
	SHMQueueDelete(&proc->LG_WAIT_LINK);
	lock->waitProcs.size--;
}

static inline void
lg_enqueue_behind(LOCK *lock, PGPROC *ahead, PGPROC *proc)
{
	SHMQueueInsertAfter(ahead != NULL ? &ahead->LG_WAIT_LINK : &lock->waitProcs.links,
						&proc->LG_WAIT_LINK);
	lock->waitProcs.size++;
}

static inline int
lg_queue_length(LOCK *lock)
{
	return lock->waitProcs.size;
}

#define lg_is_queued(proc)	((proc)->LG_WAIT_LINK.next != NULL)

static inline bool
lg_is_last_queued(LOCK *lock, volatile PGPROC *proc)
{
	return proc->LG_WAIT_LINK.next == &lock->waitProcs.links;
}

#endif

/*
 * Weak locks on relations that a process keeps in its PGPROC, three bits a slot,
 * from AccessShareLock on: under its fpInfoLock.  Since 18, there are several groups
 * of slots.
 */
#if PG_VERSION_NUM >= 180000
#define LG_FAST_GROUPS			FastPathLockGroupsPerBackend
#define LG_FAST_SLOTS			FP_LOCK_SLOTS_PER_GROUP
#define lg_fast_bits(proc, group)	((proc)->fpLockBits[group])
#else
#define LG_FAST_GROUPS			1
#define LG_FAST_SLOTS			FP_LOCK_SLOTS_PER_BACKEND
#define lg_fast_bits(proc, group)	((proc)->fpLockBits)
#endif

/*
 * Two private structures of the server's that lockguard reads in place: see
 * layout.c.  First the prepared transactions, as twophase.c keeps them.
 */
typedef struct LgGxact
{
	struct LgGxact *next;
	int			pgprocno;
#if PG_VERSION_NUM < 170000
	BackendId	dummyBackendId;
#endif
	TimestampTz prepared_at;
	XLogRecPtr	prepare_start_lsn;
	XLogRecPtr	prepare_end_lsn;
#if PG_VERSION_NUM >= 190000
	FullTransactionId fxid;
#else
	TransactionId xid;
#endif
	Oid			owner;
	int			locking_backend;
	bool		valid;
	bool		ondisk;
	bool		inredo;
	char		gid[GIDSIZE];
} LgGxact;

#if PG_VERSION_NUM >= 190000
#define lg_gxact_xid(gxact)		XidFromFullTransactionId((gxact)->fxid)
#else
#define lg_gxact_xid(gxact)		((gxact)->xid)
#endif

typedef struct LgGxactTable
{
	LgGxact    *freeGXacts;
	int			numPrepXacts;
	LgGxact    *prepXacts[FLEXIBLE_ARRAY_MEMBER];
} LgGxactTable;

#define LG_GXACT_TABLE_SIZE \
	(MAXALIGN(offsetof(LgGxactTable, prepXacts) + \
			  max_prepared_xacts * sizeof(LgGxact *)) + \
	 max_prepared_xacts * sizeof(LgGxact))

/*
 * The processes that are connected, as procarray.c keeps them: far fewer than
 * there are PGPROCs, on a server with a large max_connections.
 */
typedef struct LgProcArray
{
	int			numProcs;
	int			maxProcs;
	int			maxKnownAssignedXids;
	int			numKnownAssignedXids;
	int			tailKnownAssignedXids;
	int			headKnownAssignedXids;
#if PG_VERSION_NUM < 170000
	slock_t		known_assigned_xids_lck;
#endif
	TransactionId lastOverflowedXid;
	TransactionId replication_slot_xmin;
	TransactionId replication_slot_catalog_xmin;
	int			pgprocnos[FLEXIBLE_ARRAY_MEMBER];
} LgProcArray;

#define LG_PROC_ARRAY_MAX	(MaxBackends + max_prepared_xacts)
#define LG_PROC_ARRAY_SIZE \
	(offsetof(LgProcArray, pgprocnos) + LG_PROC_ARRAY_MAX * sizeof(int))

#endif							/* LOCKGUARD_COMPAT_H */
