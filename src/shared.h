/*-------------------------------------------------------------------------
 *
 * shared.h
 *		What lockguard keeps in shared memory, which process writes it, and
 *		under which lock.
 *
 *	what							written by				protected by
 *	LgSlot, identity and settings	its session				atomics and barriers
 *	LgSlot, reason and exempt_*		a process that acts		LgShared->lock
 *	LgSlot, rollback				a process that acts,	atomic; asked under
 *									then the session		LgShared->lock
 *	LgSlot, measured_*				the worker				LgShared->lock
 *	LgSlot, yielding				the worker				atomic
 *	LgSlot, wait					the worker				atomics and barriers
 *	LgShared, up to last_scan		see each field			atomics
 *	LgShared, the rest				see each field			LgShared->lock
 *	LgRecord, in record.c			the worker, functions,	LgRecord->lock
 *									a deadlock's victim
 *
 * Order of locks: LgShared->lock; then either partition locks of the lock
 * manager, in their order, or ProcArrayLock.  With a partition lock in hand,
 * nothing is waited for but the next partition lock.  LgRecord->lock is taken
 * with no other lock in hand, and no other lock is taken under it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_SHARED_H
#define LOCKGUARD_SHARED_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "utils/backend_status.h"

#include "clientio.h"
#include "types.h"

#define LG_MAX_ACTIONS_PER_MINUTE	10000

/*
 * Why a session was signalled, for its own error message.
 */
typedef struct LgReason
{
	int			pid;			/* of the process it is for; 0 = none */
	TimestampTz session_start;
	LocalTransactionId lxid;	/* of its transaction, when signalled */
	TimestampTz stmt_start;		/* of its statement; 0 = whichever it runs */
	LgActionKind action;
	int			limit;			/* or LG_NO_LIMIT: asked for by hand */
	int			value;
	LgSource	source;
	BackendState state;
	int			blocked_sessions;
	int64		measured;		/* ms, or a count: see the limit */
	int			requested_by_pid;	/* by hand */
	int			other_pid;		/* preempted for this session */

	/* Of a rollback: the idle period in which it may be done. */
	TimestampTz state_start;	/* 0 = track_activities is off */
	uint32		statements;		/* LgSlot.statements, then */
} LgReason;

/* What the worker has last seen a session wait for, and which process blocked it. */
typedef struct LgSeenWait
{
	TimestampTz wait_start;		/* its waitStart; 0 = nothing yet */
	LOCKTAG		tag;
	LOCKMODE	mode;
	int			procno;			/* the blocker: holds the lock, */
	int			pid;
	bool		is_queued;		/* or waits ahead for it, */
	TimestampTz other_start;	/* in the wait that began then */
} LgSeenWait;

/*
 * How far a rollback has come that a session has been asked for; see rollback.c.
 */
typedef enum LgRollbackState
{
	LG_NOT_ASKED,				/* or the request was withdrawn */
	LG_ROLLBACK_ASKED,
	LG_ROLLBACK_BEGUN,
	LG_ROLLBACK_DONE
} LgRollbackState;

/*
 * One per ordinary PGPROC, with the same index.
 *
 * The session itself writes the first part, without a lock: its identity,
 * which tells a reader whether the rest is about the session it means, its
 * own settings (each is one atomic word, so that none can be half read), its
 * names, and the transaction that it has begun to commit.
 *
 * The second part is written by processes that hold LgShared->lock exclusively: the
 * worker, and sessions that call the functions that act.  The session reads
 * its reason without the lock (it may be in the middle of an error), between
 * two reads of "reason_changes", which is odd while the reason is written.
 *
 * "signalling" is raised by a process that is about to act and has yet to ask
 * whether it may: on this slot's session, or as this slot's session, if that is
 * the one that rolls a prepared transaction back.  A commit, and what forbids
 * acting from now on (pause() and the like), waits until it is down.
 */
typedef struct LgSlot
{
	int			pid;
	TimestampTz session_start;
	pg_atomic_uint32 overrides; /* bit per setting that is not the server's */
	pg_atomic_uint64 value[LG_NUM_SETTINGS];	/* source << 32 | value */
	NameData	datname;
	NameData	usename;
	LgSocket	client;			/* how it is connected */
	TimestampTz statement_start;	/* only while track_activities is off */
	volatile uint32 statements; /* that have begun then */
	volatile LocalTransactionId committing; /* past the point of no return */
	volatile LocalTransactionId dropping;	/* a database or tablespace */
	volatile uint32 granted_waits;	/* transactions that have ended, and whose
									 * last wait for a lock was not given up */

	pg_atomic_uint32 signalling;	/* about to be signalled, or to roll back:
									 * wait */
	pg_atomic_uint32 reason_changes;
	LgReason	reason;

	/*
	 * local transaction id << 2 | LgRollbackState: the transaction that the
	 * session is asked to roll back, for the reason above, or has rolled
	 * back.  From ASKED on, the session changes it, or a process that
	 * withdraws the request: by an atomic exchange, so that only one of them
	 * does.
	 */
	pg_atomic_uint64 rollback;
	int			exempt_pid;		/* exempt() */
	TimestampTz exempt_session_start;
	int64		exempt_until;	/* monotonic ns */

	/*
	 * What the worker measured at its last look, for the views: of auxiliary
	 * processes and prepared transactions, too.
	 */
	int			measured_pid;	/* lg_occupant() */
	int64		measured_at;	/* monotonic ns */
	int64		blocking_since[LG_NUM_TIMERS];	/* then less the accumulated
												 * blocking time, monotonic
												 * ns; PG_INT64_MAX = blocks
												 * none */
	int64		idle_since;		/* monotonic ns; PG_INT64_MAX = not idle */

	/*
	 * The waitStart of its wait, while its request lets others pass; else 0.
	 * Written by the worker, without a lock.
	 */
	pg_atomic_uint64 yielding;

	/*
	 * For the session's own error message; see explain.c.  Written by the
	 * worker, without a lock: "wait_changes" is odd meanwhile.
	 */
	pg_atomic_uint32 wait_changes;
	LgSeenWait	wait;
} LgSlot;

/* How late a signal may be to count as within each of the bounds (ms). */
#define LG_LATENESS_BOUNDS		{1, 10, 100, 1000}
#define LG_NUM_LATENESS			4

typedef struct LgStats
{
	int64		cancels;
	int64		terminations;
	int64		rollbacks;
	int64		logged;
	int64		suppressed;
	int64		self_resolved;
	int64		unresponsive;
	int64		incidents;

	/*
	 * Signals by how long after the limit they were sent, each bound by
	 * itself.
	 */
	int64		within[LG_NUM_LATENESS];
	int64		later;			/* than all bounds */
	int64		max_lateness;	/* ns */

	/* Actions by limit + 1 (0 = by hand) and kind; not signalled = LG_DO_LOG. */
	int64		actions[LG_PREPARED_TRANSACTION_TIMEOUT + 2][LG_DO_TERMINATE + 1];
	TimestampTz stats_reset;
} LgStats;

/*
 * What every scan counts, in nanoseconds (shown as milliseconds).  The worker
 * adds to it without a lock, and reset_stats() may set it to zero meanwhile.
 */
typedef struct LgScanStats
{
	pg_atomic_uint64 scans;
	pg_atomic_uint64 scan_time;
	pg_atomic_uint64 max_scan_time;
	pg_atomic_uint64 lock_scans;
	pg_atomic_uint64 lock_scan_time;
	pg_atomic_uint64 max_lock_scan_time;
	pg_atomic_uint64 max_partition_lock_time;
	pg_atomic_uint64 blocked_time;
	pg_atomic_uint64 yields;	/* requests taken out of the way */
	pg_atomic_uint64 let_pass;	/* waiters that have passed one */
	pg_atomic_uint64 deadlocks; /* counted by the session that got the error */
} LgScanStats;

typedef struct LgShared
{
	LWLock	   *lock;

	/*
	 * Written by each process that publishes a setting.  The first tells the
	 * worker to look at all sessions anew; the second only that the smallest
	 * limit may be another one: a session with limits of its own has come or
	 * gone.
	 */
	pg_atomic_uint32 settings_changes;
	pg_atomic_uint32 smallest_changes;

	/*
	 * May prepared transactions be rolled back, as far as the configuration
	 * is concerned?  Published by the worker.
	 */
	pg_atomic_uint32 rolls_back;

	/*
	 * How long in all the server has stood still, in ns; lg_now() leaves it
	 * out.  Written by the worker.
	 */
	pg_atomic_uint64 frozen;

	/*
	 * Set while no session is in a transaction and the worker sleeps for
	 * longer than the limits would allow otherwise.  A login and a utility
	 * statement end that.
	 */
	pg_atomic_uint32 dozing;

	/* The server's own values, published by the worker. */
	pg_atomic_uint64 server_value[LG_NUM_SETTINGS];

	/*
	 * The smallest value of each limit that the worker reckons with; 0 = off.
	 * A session that gets a smaller one wakes it up.
	 */
	pg_atomic_uint32 smallest[LG_NUM_LIMITS];

	/* scan(): a ticket is drawn by the caller, and served by the worker. */
	pg_atomic_uint64 scans_requested;
	pg_atomic_uint64 scans_served;
	ConditionVariable scan_served;

	/* The worker; -1 while there is none. */
	pg_atomic_uint32 worker_procno;

	/*
	 * When each of the last signals was sent (monotonic ns), for
	 * max_actions_per_minute; the worker's own.
	 */
	int64		signal_times[LG_MAX_ACTIONS_PER_MINUTE];
	int64		signals_sent;

	/*
	 * The wall clock less the monotonic one, in us, when the worker followed
	 * incidents last; 0 = not yet.  Written by the worker.
	 */
	pg_atomic_uint64 wall_ahead;

	LgScanStats scan_stats;
	pg_atomic_uint64 last_scan; /* TimestampTz; 0 = none yet */

	/* All below under lock. */
	int			worker_pid;
	TimestampTz worker_start;
	int64		paused_until;	/* monotonic ns */
	LgStats		stats;

	/* One per PGPROC; from MaxBackends on, only for what is measured. */
	LgSlot		slots[FLEXIBLE_ARRAY_MEMBER];
} LgShared;

/* NULL unless loaded by shared_preload_libraries. */
extern LgShared *lg_shared;

extern Size lg_shared_size(void);
extern void lg_shared_init(void *memory, LWLock *lock, bool init);
extern LgSlot *lg_slot(int procno);
extern int	lg_occupant(int procno, int pid);
extern uint32 lg_granted_waits(int procno, int pid, uint32 otherwise);
extern bool lg_is_yielding(int procno, TimestampTz wait_start);
extern bool lg_wake_worker(void);
extern void lg_end_doze(void);
extern void lg_leave_reason(int procno, const LgReason *reason);
extern void lg_put_reason(int procno, const LgReason *reason);
extern bool lg_read_reason(LgReason *reason);
extern void lg_note_partition_lock_time(int64 ns);
extern void *lg_alloc_per_proc(Size size);

#endif							/* LOCKGUARD_SHARED_H */
