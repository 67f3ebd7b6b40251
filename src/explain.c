/*-------------------------------------------------------------------------
 *
 * explain.c
 *		Tells a session whose wait for a lock has failed which session blocked it.
 *
 * When a wait for a lock ends with an error, the session has left the queue
 * already, and nothing in it tells which lock it was.  So the worker shows each
 * session, in its slot, what it waits for and which process blocks it, whenever a look
 * at the lock manager finds that this has changed.  When the error is reported, the
 * session compares: it must have been this very wait, and the other process must
 * still hold that lock, or wait for it, in a conflicting mode.  If not, nothing is
 * said.
 *
 * That it was this wait is told by its start: PGPROC.waitStart is set when a wait
 * begins, and becomes 0 when the lock is granted (ProcWakeup()).  When the wait is
 * given up, some releases leave it as it is and others set it to 0, too: then it is
 * only known that the last wait failed, and what was seen must be of this statement.
 * What a function has caught, or a transaction before this one was ended by, has
 * been undone since: see forget_wait().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "explain.h"
#include "look.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "text.h"
#include "types.h"
#include "waitgraph.h"

/* A chain of waits is followed so far. */
#define MOST_LINKS		100

/* What a session has been shown last; one per PGPROC, private to the worker. */
struct LgShownWait
{
	TimestampTz wait_start;
	int			procno;
	int			pid;
};

/* The first conflicting holder, and waiter, for each mode that is waited for. */
typedef struct FirstBlockers
{
	int			holder[LG_LOCKMODES];	/* index in holders; -1 = none */
	int			waiter[LG_LOCKMODES];	/* index in waiters; -1 = none */
} FirstBlockers;

/* Memory for what sessions have been shown, in the current context. */
LgShownWait *
lg_explain_create(void)
{
	return lg_alloc_per_proc(sizeof(LgShownWait));
}

static void
find_first_blockers(const LgGraph *graph, const LgLock *lock, FirstBlockers *first)
{
	for (int mode = 1; mode < LG_LOCKMODES; mode++)
	{
		LOCKMASK	conflicts = lock->conflicts[mode];

		first->holder[mode] = first->waiter[mode] = -1;
		if ((lock->waited & LOCKBIT_ON(mode)) == 0)
			continue;
		for (int i = lock->holder; i < lock->holder + lock->nholders; i++)
			if ((graph->holders[i].mask & conflicts) != 0)
			{
				first->holder[mode] = i;
				break;
			}
		for (int i = lock->waiter; i < lock->waiter + lock->nwaiters; i++)
			if ((LOCKBIT_ON(graph->waiters[i].mode) & conflicts) != 0)
			{
				first->waiter[mode] = i;
				break;
			}
	}
}

/*
 * What blocks a waiter: a holder of the lock, else the first ahead of it in the queue.
 * False if there is none.
 */
static bool
find_blocker(LgGraph *graph, const LgWaiter *waiter, const FirstBlockers *first,
			 LgBlocker *blocker)
{
	int			holder = first->holder[waiter->mode];
	int			ahead = first->waiter[waiter->mode];

	memset(blocker, 0, sizeof(*blocker));
	if (holder >= 0 && graph->holders[holder].node != waiter->node)
	{
		blocker->procno = graph->holders[holder].procno;
		blocker->pid = graph->holders[holder].pid;
		blocker->kind = LG_HOLDER;
		return true;
	}
	if (holder < 0 && ahead >= 0 && graph->waiters[ahead].node != waiter->node)
	{
		blocker->procno = graph->waiters[ahead].procno;
		blocker->pid = graph->waiters[ahead].pid;
		blocker->kind = LG_QUEUE;
		return ahead < waiter - graph->waiters;
	}

	/* One of its own lock group is the first. */
	return lg_next_blocker(graph, waiter, blocker);
}

/* Write into a session's slot what it waits for.  Without a lock; see LgSlot. */
static void
show_wait(const LgGraph *graph, const LgWaiter *waiter, const LgBlocker *blocker)
{
	LgSlot	   *slot = lg_slot(waiter->procno);

	if (slot == NULL)
		return;
	pg_atomic_fetch_add_u32(&slot->wait_changes, 1);
	slot->wait.wait_start = waiter->wait_start;
	slot->wait.tag = graph->locks[waiter->lock].tag;
	slot->wait.mode = waiter->mode;
	slot->wait.procno = blocker->procno;
	slot->wait.pid = blocker->pid;
	slot->wait.is_queued = blocker->kind == LG_QUEUE;
	slot->wait.other_start =
		(TimestampTz) pg_atomic_read_u64(&ProcGlobal->allProcs[blocker->procno].waitStart);
	pg_write_barrier();
	pg_atomic_fetch_add_u32(&slot->wait_changes, 1);
}

/*
 * Show each session that waits what it waits for, if that is not what it has been
 * shown last.  After a look; takes no lock.
 */
void
lg_show_waits(LgView *view, LgShownWait *shown)
{
	LgGraph    *graph = view->graph;

	if (!lg_explain_waits || !view->looked)
		return;
	for (int l = 0; l < graph->nlocks; l++)
	{
		const LgLock *lock = &graph->locks[l];
		FirstBlockers first;

		if (lock->nwaiters == 0)
			continue;
		find_first_blockers(graph, lock, &first);
		for (int i = lock->waiter; i < lock->waiter + lock->nwaiters; i++)
		{
			const LgWaiter *waiter = &graph->waiters[i];
			LgShownWait *last = &shown[waiter->procno];
			LgBlocker	blocker;

			if (waiter->wait_start == 0 || !find_blocker(graph, waiter, &first, &blocker) ||
				(last->wait_start == waiter->wait_start && last->procno == blocker.procno &&
				 last->pid == blocker.pid))
				continue;
			show_wait(graph, waiter, &blocker);
			last->wait_start = waiter->wait_start;
			last->procno = blocker.procno;
			last->pid = blocker.pid;
		}
	}
}

/*
 * All below runs in the session.
 */

/* Waits that began up to then, and failed, have been dealt with. */
static TimestampTz forgotten = 0;

/* What a process was shown; false if it was nothing, or is being changed. */
static bool
read_wait(int procno, LgSeenWait *wait)
{
	LgSlot	   *slot = lg_slot(procno);

	for (int tries = 0; slot != NULL && tries < 100; tries++)
	{
		uint32		before = pg_atomic_read_u32(&slot->wait_changes);

		pg_read_barrier();
		*wait = slot->wait;
		pg_read_barrier();
		if ((before & 1) == 0 && pg_atomic_read_u32(&slot->wait_changes) == before)
			return wait->wait_start != 0;
	}
	return false;
}

/* Is that the wait which the process is in? */
static bool
is_its_wait(int procno, const LgSeenWait *wait)
{
	return wait->wait_start ==
		(TimestampTz) pg_atomic_read_u64(&ProcGlobal->allProcs[procno].waitStart);
}

/* Is that the wait of this session that has just failed? */
static bool
has_just_failed(const LgSeenWait *wait)
{
	TimestampTz start = (TimestampTz) pg_atomic_read_u64(&MyProc->waitStart);

	return MyProc->waitStatus == PROC_WAIT_STATUS_ERROR &&
		wait->mode == MyProc->waitLockMode && wait->wait_start > forgotten &&
		(start != 0 ? start == wait->wait_start :
		 wait->wait_start >= GetCurrentStatementStartTimestamp());
}

/*
 * Does the other process still hold the lock, or wait for it, in a mode that
 * conflicts?  Takes the lock's partition lock, shared.
 */
static bool
blocks_still(const LgSeenWait *wait)
{
	PGPROC	   *other = &ProcGlobal->allProcs[wait->procno];
	LOCKMASK	conflicts = GetLockTagsMethodTable(&wait->tag)->conflictTab[wait->mode];
	LWLock	   *partition = LockHashPartitionLock(LockTagHashCode(&wait->tag));
	int64		locked;
	bool		found;

	LWLockAcquire(partition, LW_SHARED);
	locked = lg_now();
	if (wait->is_queued)
	{
		LOCK	   *lock = other->waitLock;

		found = other->pid == wait->pid && lock != NULL &&
			(TimestampTz) pg_atomic_read_u64(&other->waitStart) == wait->other_start &&
			memcmp(&lock->tag, &wait->tag, sizeof(LOCKTAG)) == 0 &&
			(LOCKBIT_ON(other->waitLockMode) & conflicts) != 0;
	}
	else
	{
		const PROCLOCK *held = lg_find_held(wait->procno, wait->pid, &wait->tag, NULL);

		found = held != NULL && (held->holdMask & conflicts) != 0;
	}
	locked = lg_now() - locked;
	LWLockRelease(partition);
	lg_note_partition_lock_time(locked);
	return found;
}

/*
 * 'process 4711 (user "app", application "batch"), idle in transaction for 12.0 s,'.
 * False if the process is another one by now.  Names and states only, as what it
 * does may not be for this session to know.
 */
static bool
append_process(StringInfo out, int procno, int pid)
{
	LgSlot	   *slot = lg_slot(procno);
	LgSession	session;
	char		application_name[NAMEDATALEN];
	const char *state;

	lg_read_session(procno, &session);
	if (session.kind == LG_KIND_PREPARED)
	{
		/* Its gid cannot be looked up in the middle of an error. */
		appendStringInfo(out, "prepared transaction %u", session.xid);
		return true;
	}
	if (session.pid != pid)
		return false;
	appendStringInfo(out, "process %d (", pid);
	if (session.kind == LG_KIND_CLIENT && slot != NULL && slot->pid == pid)
		appendStringInfo(out, "user \"%s\"", lg_text_for_client(NameStr(slot->usename), NAMEDATALEN));
	else
		appendStringInfoString(out, lg_kind_text(session.kind));
	if (lg_read_texts(&session, NULL, 0, application_name, NULL) && application_name[0] != '\0')
		appendStringInfo(out, ", application \"%s\"", lg_text_for_client(application_name, NAMEDATALEN));
	appendStringInfoChar(out, ')');
	state = lg_state_text(&session);
	if (state != NULL && session.state != STATE_DISABLED && session.state_start != 0)
	{
		char		duration[32];

		lg_duration_text((GetCurrentTimestamp() - session.state_start) * 1000,
						 duration, sizeof(duration));
		appendStringInfo(out, ", %s for %s,", state, duration);
	}
	return true;
}

/* The root that a process waits for, through others, as far as it is known. */
static bool
find_root(int *procno, int *pid)
{
	bool		moved = false;

	for (int links = 0; links < MOST_LINKS; links++)
	{
		LgSeenWait	wait;

		if (((volatile PGPROC *) &ProcGlobal->allProcs[*procno])->waitLock == NULL)
			return moved;
		if (!read_wait(*procno, &wait) || !is_its_wait(*procno, &wait) || !blocks_still(&wait))
			return false;
		*procno = wait.procno;
		*pid = wait.pid;
		moved = true;
	}
	return false;				/* a circle */
}

/*
 * The wait of this session has just ended with an error: which process blocked it?
 * Returns a sentence without its subject ("waited ..."), or NULL if that is not known.
 * Allocates in the current context; takes partition locks of the lock manager,
 * shared, one after the other.
 */
char *
lg_explain_wait(void)
{
	LgSeenWait	wait;
	StringInfoData buf;
	LgTreeStyle style = {0};
	char		lock[256];
	int			procno;
	int			pid;
	int			len;

	if (!lg_enabled || !lg_explain_waits || MyProc == NULL ||
		!read_wait(lg_proc_number(MyProc), &wait) || !has_just_failed(&wait) ||
		!blocks_still(&wait))
		return NULL;

	initStringInfo(&buf);
	lg_lock_text(&wait.tag, &style, lock, sizeof(lock));
	appendStringInfo(&buf, "waited %lld ms for %s on %s, %s",
					 (long long) Max((GetCurrentTimestamp() - wait.wait_start) / 1000, 0),
					 GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode), lock,
					 wait.is_queued ? "for which " : "which ");
	procno = wait.procno;
	pid = wait.pid;
	if (!append_process(&buf, procno, pid))
		return NULL;
	appendStringInfoString(&buf, wait.is_queued ? " waited ahead of it" : " held");

	len = buf.len;
	if (find_root(&procno, &pid))
	{
		appendStringInfoString(&buf, ", behind ");
		if (!append_process(&buf, procno, pid))
		{
			buf.len = len;
			buf.data[len] = '\0';
		}
	}
	if (buf.data[buf.len - 1] == ',')
		buf.data[--buf.len] = '\0';
	appendStringInfoChar(&buf, '.');
	return buf.data;
}

/*
 * A transaction, or a part of it, has been undone.  Whatever is reported from now on is
 * no longer the end of the wait that failed before.
 */
static void
forget_wait(void)
{
	if (MyProc != NULL && MyProc->waitStatus == PROC_WAIT_STATUS_ERROR)
		forgotten = GetCurrentTimestamp();
}

static void
transaction_event(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
		forget_wait();
}

static void
subtransaction_event(SubXactEvent event, SubTransactionId own, SubTransactionId parent,
					 void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_wait();
}

/* Called once, in the postmaster. */
void
lg_explain_install(void)
{
	RegisterXactCallback(transaction_event, NULL);
	RegisterSubXactCallback(subtransaction_event, NULL);
}
