/*-------------------------------------------------------------------------
 *
 * proof.c
 *		Proves a verdict again, and sends the signal: the only kill().
 *
 * A verdict rests on copies that may be out of date.  So it is proved once more
 * that the session blocks its waiter, under the lock that keeps it so: the
 * partition lock of the contended lock.  Without that lock no process can release
 * a lock or leave its queue, so the process cannot end either, and its pid cannot
 * be that of another.  The signal is sent before the partition lock is released.
 * In between nothing is allocated or logged.
 *
 * For limits that have nothing to do with a lock, ProcArrayLock keeps the process
 * from ending, and commits wait for the signaller (see commit_begins() in
 * victim.c).  No lock keeps a statement from ending, though: as with
 * pg_cancel_backend(), the next statement of the session may be cancelled if it
 * begins within the microseconds between the proof and the signal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "replication/syncrep.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "brakes.h"
#include "clock.h"
#include "compat.h"
#include "debug.h"
#include "judge.h"
#include "limit.h"
#include "proof.h"
#include "rollback.h"
#include "session.h"
#include "shared.h"
#include "stepaside.h"
#include "types.h"
#include "waitgraph.h"

/* Does the waiter of the evidence still wait for that lock, in the same wait? */
static bool
waiter_is_there(const LgEvidence *evidence)
{
	PGPROC	   *waiter = &ProcGlobal->allProcs[evidence->waiter_procno];
	LOCK	   *lock = waiter->waitLock;
	TimestampTz start = (TimestampTz) pg_atomic_read_u64(&waiter->waitStart);

	return lock != NULL && waiter->pid == evidence->waiter_pid &&
		memcmp(&lock->tag, &evidence->tag, sizeof(LOCKTAG)) == 0 &&
		(evidence->waiter_start == 0 || start == evidence->waiter_start);
}

/*
 * Does the process of the evidence still block the waiter?  The caller holds
 * the partition lock of the tag.
 */
static bool
still_blocks(const LgEvidence *evidence)
{
	PGPROC	   *waiter = &ProcGlobal->allProcs[evidence->waiter_procno];
	PGPROC	   *blocker = &ProcGlobal->allProcs[evidence->procno];
	LOCKMASK	conflicts;

	if (!waiter_is_there(evidence) || blocker->pid != evidence->pid)
		return false;
	conflicts = GetLockTagsMethodTable(&evidence->tag)->conflictTab[waiter->waitLockMode];

	if (evidence->kind == LG_HOLDER)
	{
		LOCK	   *lock = waiter->waitLock;

		for (PROCLOCK *proclock = lg_first_proclock(lock); proclock != NULL;
			 proclock = lg_next_proclock(lock, proclock))
			if (proclock->tag.myProc == blocker)
				return (proclock->holdMask & conflicts) != 0;
	}
	else
	{
		LOCK	   *lock = waiter->waitLock;

		for (PGPROC *queued = lg_first_waiter(lock);
			 queued != NULL && queued != waiter;
			 queued = lg_next_waiter(lock, queued))
			if (queued == blocker)
				return (LOCKBIT_ON(queued->waitLockMode) & conflicts) != 0;
	}
	return false;
}

/*
 * The start of the wait that the session of a verdict blocks as a holder; 0 if
 * there is none, or it cannot be told from another.  While that wait lasts, no
 * process can release the lock and take it again (unless the deadlock detector
 * moves it ahead in the queue: then it blocks as well).  So if the session has
 * begun another transaction meanwhile, the lock is the session's, and the session
 * is to blame, not that transaction.
 */
TimestampTz
lg_held_against(const LgVerdict *verdict)
{
	return verdict->proof == LG_PROVE_BLOCKS &&
		verdict->still.evidence.kind == LG_HOLDER &&
		verdict->still.evidence.procno == verdict->session.procno ?
		verdict->still.evidence.waiter_start : 0;
}

/* Does this lock group not keep the waiter of group "own" once the victim goes? */
static inline bool
is_going(const LgVerdict *verdict, int leader, int own)
{
	return leader == verdict->session.procno || leader == own ||
		(verdict->still.going[leader] >= 0 &&
		 verdict->still.going[leader] == ProcGlobal->allProcs[leader].pid);
}

/*
 * Can the waiter of "freed" go on once the victim, and those that the verdict
 * takes to go, have gone?  So it is unless another holds the lock in a
 * conflicting mode, or waits for one ahead of it.  The caller holds the partition
 * lock of the tag, and has found that the victim blocks the waiter.
 */
static bool
waiter_is_freed(const LgVerdict *verdict)
{
	const LgEvidence *freed = &verdict->still.freed;
	PGPROC	   *waiter = &ProcGlobal->allProcs[freed->waiter_procno];
	LOCK	   *lock = waiter->waitLock;
	LOCKMASK	conflicts =
		GetLockTagsMethodTable(&freed->tag)->conflictTab[waiter->waitLockMode];
	int			own = lg_leader_number(waiter);
	PROCLOCK   *proclock;
	PGPROC	   *queued;

	for (proclock = lg_first_proclock(lock); proclock != NULL;
		 proclock = lg_next_proclock(lock, proclock))
		if ((proclock->holdMask & conflicts) != 0 &&
			!is_going(verdict, lg_proc_number(proclock->groupLeader), own) &&
			(verdict->still.aside == NULL || lg_is_obstacle(verdict->still.aside, proclock)))
			return false;
	for (queued = lg_first_waiter(lock); queued != NULL && queued != waiter;
		 queued = lg_next_waiter(lock, queued))
		if ((LOCKBIT_ON(queued->waitLockMode) & conflicts) != 0 &&
			!is_going(verdict, lg_leader_number(queued), own))
			return false;
	return true;
}

/*
 * Do those that the verdict counts still wait for the victim, directly or
 * through others that do?  The caller holds the partition locks of all tags.
 */
static bool
links_hold(const LgVerdict *verdict)
{
	int			found = 0;

	for (int i = 0; i < verdict->still.nlinks && found < verdict->still.needed; i++)
	{
		LgLink	   *link = &verdict->still.links[i];

		link->holds = (link->parent < 0 || verdict->still.links[link->parent].holds) &&
			still_blocks(&link->evidence);
		if (link->holds && link->counts)
			found++;
	}
	return found >= verdict->still.needed;
}

/*
 * Is it the same process, in the same transaction, doing the same as when it
 * was judged?  "now" is the victim as it has just been read; the caller holds a
 * lock that keeps the process there, and has proved what is said of others.
 * Its transaction may be another one than was judged, if it is to blame for a
 * lock of the session.
 */
static bool
is_same(const LgVerdict *verdict, const LgSession *now)
{
	const LgSession *then = &verdict->session;

	if (now->pid != then->pid || now->kind != then->kind ||
		now->session_start != then->session_start || lg_in_transit(now) ||
		(now->lxid != then->lxid && lg_held_against(verdict) == 0))
		return false;
	if (verdict->limit == LG_MAX_XMIN_AGE &&
		(now->xmin != then->xmin || now->xid != then->xid))
		return false;
	if (verdict->proof == LG_PROVE_STATEMENT)
		return now->state == then->state && now->stmt_start == then->stmt_start &&
			(now->state != STATE_DISABLED ||
			 now->wait_event != WAIT_EVENT_CLIENT_READ);

	/* The session compares this with its own state once more. */
	if (verdict->action == LG_DO_ROLLBACK &&
		(now->lxid != then->lxid || !lg_rollback_reaches(now)))
		return false;
	if (verdict->by_hand || verdict->escalation)
		return true;
	if (verdict->still.idle)
		return now->state == then->state && now->state_start == then->state_start &&
			now->stmt_start == then->stmt_start &&
			(lg_state_is_idle(now) ||
			 (now->wait_event == then->wait_event && now->progress == then->progress));
	if (verdict->still.unreachable && lg_cancel_reaches(now))
		return false;
	return !verdict->still.root || !now->waiting;
}

/*
 * The tag of the lock that a process waits for; false if it waits for none.
 * Reads without a lock.  That wait may have ended since: the caller takes the
 * tag's partition lock and calls waits_still().
 */
static bool
read_wait(PGPROC *proc, LOCK **lock, LOCKTAG *tag)
{
	*lock = ((volatile PGPROC *) proc)->waitLock;
	if (*lock == NULL)
		return false;
	/* Memory of the lock table is never unmapped. */
	memcpy(tag, &(*lock)->tag, sizeof(LOCKTAG));
	return true;
}

/* Does it still wait for that lock?  The caller holds the tag's partition lock. */
static bool
waits_still(PGPROC *proc, LOCK *lock, const LOCKTAG *tag)
{
	return ((volatile PGPROC *) proc)->waitLock == lock &&
		memcmp(&lock->tag, tag, sizeof(LOCKTAG)) == 0;
}

/*
 * Send the signal for that as pg_cancel_backend() and pg_terminate_backend() do;
 * false if the system refuses.
 */
static bool
send_signal(int pid, LgActionKind action)
{
	int			sig = action == LG_DO_CANCEL ? SIGINT : SIGTERM;

	if (LG_DEBUG_FAILS("kill"))
		return false;
#ifdef HAVE_SETSID
	return kill(-pid, sig) == 0;
#else
	return kill(pid, sig) == 0;
#endif
}

/* The partition of the lock manager that some evidence is about. */
static inline int
partition_of(const LgEvidence *evidence)
{
	return LockHashPartition(LockTagHashCode(&evidence->tag));
}

/*
 * Take partition locks of the lock manager, shared, always in their order, as
 * PostgreSQL does.  Returns when the first one was taken (monotonic ns).
 */
static int64
lock_partitions(const bool *partitions)
{
	int64		start = 0;

	for (int i = 0; i < NUM_LOCK_PARTITIONS; i++)
		if (partitions[i])
		{
			LWLockAcquire(LockHashPartitionLockByIndex(i), LW_SHARED);
			if (start == 0)
				start = lg_now();
		}
	return start;
}

/* Release them, and count how long they were held. */
static void
unlock_partitions(const bool *partitions, int64 start)
{
	int64		held = start == 0 ? 0 : lg_now() - start;

	for (int i = NUM_LOCK_PARTITIONS - 1; i >= 0; i--)
		if (partitions[i])
			LWLockRelease(LockHashPartitionLockByIndex(i));
	lg_note_partition_lock_time(held);
}

/* What is recorded of a verdict that cannot be proved again. */
LgBrake
lg_not_proved(const LgVerdict *verdict)
{
	return verdict->proof == LG_PROVE_BLOCKS || verdict->proof == LG_PROVE_WAITS ?
		LG_BRAKE_RELEASED : LG_BRAKE_CHANGED;
}

/*
 * Does the verdict still hold, as far as locks are concerned?  LG_NO_BRAKE if it
 * does.  The caller holds the partition locks of all tags.
 */
static LgBrake
still_holds(const LgVerdict *verdict)
{
	bool		holds = true;

	if (verdict->proof == LG_PROVE_WAITS)
		holds = waiter_is_there(&verdict->still.evidence);
	else if (verdict->proof == LG_PROVE_BLOCKS)
	{
		holds = still_blocks(&verdict->still.evidence) &&
			(!verdict->still.waits || waiter_is_there(&verdict->still.wait)) &&
			links_hold(verdict) &&
			(!verdict->still.holds ||
			 lg_find_held(verdict->still.held_procno, verdict->still.held_pid,
						  &verdict->still.held_tag, verdict->still.held_proclock) != NULL) &&
			(!verdict->still.frees || still_blocks(&verdict->still.freed));
		if (holds && verdict->still.frees && !waiter_is_freed(verdict))
			return LG_BRAKE_IN_VAIN;
	}
	return holds ? LG_NO_BRAKE : lg_not_proved(verdict);
}

/*
 * Leave the reason with the victim and send the signal, unless it has begun
 * something else, or may not be signalled.  "waits" says that it waits for a
 * heavyweight lock.  The caller holds LgShared->lock, exclusive, and a lock that
 * keeps the process there, and has proved what is said of others.  For the rest
 * see lg_prove_and_signal().
 */
static LgBrake
signal_unless_changed(const LgVerdict *verdict, bool waits, LgReason *reason,
					  TimestampTz *acted_at)
{
	LgSlot	   *slot = lg_slot(verdict->session.procno);
	LgBrake		brake;
	LgSession	now;

	/* See commit_begins(): either this sees the commit, or the commit waits. */
	pg_atomic_fetch_add_u32(&slot->signalling, 1);
	pg_memory_barrier();
	lg_read_session(verdict->session.procno, &now);
	LG_DEBUG_POINT("in_proof");
	if (!is_same(verdict, &now))
		brake = lg_not_proved(verdict);
	else if (now.committing && !waits)
		brake = now.dropping ? LG_BRAKE_DROPPING : LG_BRAKE_COMMITTING;
	else if (!verdict->by_hand && lg_is_exempt(&verdict->session))
		brake = LG_BRAKE_EXEMPT;
	else if (!verdict->by_hand && lg_shared->paused_until > lg_now())
		brake = LG_BRAKE_PAUSED;
	else
	{
		LgReason	before = slot->reason;

		if (reason != NULL)
		{
			reason->lxid = now.lxid;
			reason->state_start = now.state_start;
			reason->statements = slot->statements;
			lg_leave_reason(verdict->session.procno, reason);
		}
		*acted_at = GetCurrentTimestamp();
		if (verdict->action == LG_DO_ROLLBACK)
			brake = lg_ask_rollback(verdict->session.procno, now.lxid) ?
				LG_NO_BRAKE : LG_BRAKE_CHANGED;
		else
		{
			(void) lg_withdraw_rollback(verdict->session.procno, now.lxid);
			brake = send_signal(verdict->session.pid, verdict->action) ?
				LG_NO_BRAKE : LG_BRAKE_FAILED;
		}

		/* A signal that another sends later must not be explained by this. */
		if (brake != LG_NO_BRAKE && reason != NULL)
			lg_put_reason(verdict->session.procno, &before);
	}
	pg_atomic_fetch_sub_u32(&slot->signalling, 1);
	return brake;
}

/*
 * Prove the verdict and, only then, leave the reason with the victim and send
 * the signal for its action; for a rollback, ask for it, see rollback.c.  Returns
 * LG_NO_BRAKE if it was sent, else why not.  *acted_at is the time just before the
 * signal.  "reason" may be NULL, if it has been left with a signal that is
 * repeated.
 *
 * A session that commits is not signalled, unless it waits for a heavyweight
 * lock: NOTIFY takes one in the middle of COMMIT, and an error there still
 * undoes the transaction.  While that lock's partition is held here, the session
 * can neither get the lock nor continue.
 *
 * Takes LgShared->lock, exclusive; then the partition locks of the locks
 * concerned, in order, shared.  For a limit that has nothing to do with a lock,
 * and a victim that waits for none, ProcArrayLock instead, shared: either keeps
 * the process there.
 */
LgBrake
lg_prove_and_signal(const LgVerdict *verdict, LgReason *reason, TimestampTz *acted_at)
{
	PGPROC	   *victim = &ProcGlobal->allProcs[verdict->session.procno];
	bool		partitions[NUM_LOCK_PARTITIONS] = {false};
	bool		by_lock = verdict->proof == LG_PROVE_BLOCKS ||
		verdict->proof == LG_PROVE_WAITS;
	LgBrake		brake = lg_not_proved(verdict);
	LOCK	   *awaited;
	LOCKTAG		awaited_tag;
	bool		waits;
	int64		locked;

	if (lg_slot(verdict->session.procno) == NULL)
		return brake;

	if (by_lock)
	{
		partitions[partition_of(&verdict->still.evidence)] = true;
		if (verdict->still.waits)
			partitions[partition_of(&verdict->still.wait)] = true;
		if (verdict->still.frees)
			partitions[partition_of(&verdict->still.freed)] = true;
		if (verdict->still.holds)
			partitions[LockHashPartition(LockTagHashCode(&verdict->still.held_tag))] = true;
		for (int i = 0; i < verdict->still.nlinks; i++)
			partitions[partition_of(&verdict->still.links[i].evidence)] = true;
	}
	waits = read_wait(victim, &awaited, &awaited_tag);
	if (waits)
		partitions[LockHashPartition(LockTagHashCode(&awaited_tag))] = true;

	/* Nothing is waited for with a partition lock in hand but the next one. */
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	locked = lock_partitions(partitions);
	waits = waits && waits_still(victim, awaited, &awaited_tag);
	if (!by_lock && !waits)
	{
		unlock_partitions(partitions, locked);
		locked = 0;
		LWLockAcquire(ProcArrayLock, LW_SHARED);
	}

	brake = still_holds(verdict);
	if (brake == LG_NO_BRAKE)
		brake = signal_unless_changed(verdict, waits, reason, acted_at);

	if (!by_lock && !waits)
		LWLockRelease(ProcArrayLock);
	else
		unlock_partitions(partitions, locked);
	LWLockRelease(lg_shared->lock);
	if (brake == LG_NO_BRAKE && verdict->action == LG_DO_ROLLBACK)
		lg_wake_for_rollback(&verdict->session);
	return brake;
}

/*
 * Wait until what is just being done to any of these sessions, or by them to
 * prepared transactions, has been done.  Once this returns true, nothing is done
 * that was judged before the caller forbade it.  A rollback that waits for
 * a standby has been written.  False if that takes longer than "most" ns.
 */
bool
lg_wait_for_signals(LgSlot *slots, int n, int64 most)
{
	int64		start = lg_now();

	pg_memory_barrier();
	for (int i = 0; i < n; i++)
	{
		volatile PGPROC *proc = &ProcGlobal->allProcs[&slots[i] - lg_shared->slots];

		while (pg_atomic_read_u32(&slots[i].signalling) != 0 &&
			   proc->syncRepState == SYNC_REP_NOT_WAITING)
		{
			if (lg_now() - start > most)
				return false;
			CHECK_FOR_INTERRUPTS();
			pg_usleep(10);
		}
	}
	return true;
}
