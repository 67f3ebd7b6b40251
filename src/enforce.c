/*-------------------------------------------------------------------------
 *
 * enforce.c
 *		Acts on verdicts: proves them again, signals, and follows up.
 *
 * A verdict rests on copies that may be out of date by now.  So whoever is
 * about to be signalled is proved to be in the way once more, under the lock
 * that keeps it so: the partition lock of the contended lock (nobody can
 * release a lock or leave its queue without that, so the process cannot end
 * either, and its pid cannot be anybody else's).  The signal is sent before
 * that lock is released.  In between nothing is allocated or logged.
 *
 * For limits that have nothing to do with a lock, ProcArrayLock keeps the
 * process there, and commits wait for the signaller (see commit_begins()).  No
 * lock keeps a statement from ending, though: as with pg_cancel_backend(), the
 * next one of the session may be hit if it begins within the microseconds
 * between the proof and the signal.
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

#include "clock.h"
#include "compat.h"
#include "debug.h"
#include "enforce.h"
#include "incident.h"
#include "limits.h"
#include "record.h"
#include "settings.h"
#include "shared.h"
#include "snapshot.h"
#include "tree.h"
#include "types.h"
#include "victim.h"
#include "waitgraph.h"

/* A signalled session that is still there after this long. */
#define UNRESPONSIVE_AFTER	(10 * LG_NANOS_PER_SEC)
#define REPEAT_AFTER		(60 * LG_NANOS_PER_SEC)

/* Sessions drawn in a log message. */
#define LOG_TREE_LINES		50

typedef enum Outcome
{
	SIGNALLED,
	NOT_PROVED,
	IS_COMMITTING,
	IS_DROPPING,
	IS_EXEMPT,
	IS_PAUSED,
	KILL_FAILED
} Outcome;

/* The contended lock of some evidence; its waiter may be gone meanwhile. */
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
 * Does the process of the evidence block the waiter still?  The caller holds
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
 * The wait in whose way the session of a verdict is as a holder; 0 if there is
 * none, or it cannot be told from another.  While that wait lasts, nobody can
 * let go of the lock and take it again (unless the deadlock detector moves him
 * ahead in the queue: then he is in the way as well).  So if the session has
 * begun another transaction meanwhile, the lock is the session's, and not that
 * transaction is to blame, but the session.
 */
static TimestampTz
held_against(const LgVerdict *verdict)
{
	return verdict->proof == LG_PROVE_BLOCKS &&
		verdict->evidence.kind == LG_HOLDER &&
		verdict->evidence.procno == verdict->session.procno ?
		verdict->evidence.waiter_start : 0;
}

/*
 * Do those that the verdict counts wait for the victim still, directly or
 * through others that do?  The caller holds the partition locks of all tags.
 */
static bool
links_hold(const LgVerdict *verdict)
{
	int			found = 0;

	for (int i = 0; i < verdict->nlinks && found < verdict->needed; i++)
	{
		LgLink	   *link = &verdict->links[i];

		link->holds = (link->parent < 0 || verdict->links[link->parent].holds) &&
			still_blocks(&link->evidence);
		if (link->holds && link->counts)
			found++;
	}
	return found >= verdict->needed;
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
		(now->lxid != then->lxid && held_against(verdict) == 0))
		return false;
	if (verdict->limit == LG_MAX_XMIN_AGE &&
		(now->xmin != then->xmin || now->xid != then->xid))
		return false;
	if (verdict->proof == LG_PROVE_STATEMENT)
		return now->state == then->state && now->stmt_start == then->stmt_start &&
			(now->state != STATE_DISABLED ||
			 now->wait_event != WAIT_EVENT_CLIENT_READ);
	if (verdict->by_hand || verdict->escalation)
		return true;
	if (verdict->idle)
		return now->state == then->state && now->state_start == then->state_start &&
			now->stmt_start == then->stmt_start &&
			(lg_state_is_idle(now) ||
			 (now->wait_event == then->wait_event && now->progress == then->progress));
	if (verdict->unreachable && lg_cancel_reaches(now))
		return false;
	return !verdict->root || !now->waiting;
}

/*
 * The tag of the lock that a process waits for; false if it waits for none.
 * Reads without a lock.  What is found may be over by now: the caller takes the
 * tag's partition lock and asks waits_still().
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

/* Does it wait for that lock still?  The caller holds the tag's partition lock. */
static bool
waits_still(PGPROC *proc, LOCK *lock, const LOCKTAG *tag)
{
	return ((volatile PGPROC *) proc)->waitLock == lock &&
		memcmp(&lock->tag, tag, sizeof(LOCKTAG)) == 0;
}

/* Send a signal as pg_terminate_backend() does; false if the system refuses. */
static bool
send_signal(int pid, int sig)
{
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

/*
 * Prove the verdict and, only then, leave the reason with the victim and send
 * the signal.  *acted_at is the time just before the signal.  "reason" may be
 * NULL, if it has been left with a signal that is repeated.
 *
 * A session that commits is not signalled, unless it waits for a heavyweight
 * lock: NOTIFY takes one in the middle of COMMIT, and an error there still
 * undoes the transaction.  While we have that lock's partition, the session
 * can neither get the lock nor go on.
 *
 * Takes LgShared->lock, exclusive; then the partition locks of the locks
 * concerned, in order, shared.  For a limit that has nothing to do with a lock,
 * and a victim that waits for none, ProcArrayLock instead, shared: either keeps
 * the process there.
 */
static Outcome
prove_and_signal(const LgVerdict *verdict, int sig, LgReason *reason,
				 TimestampTz *acted_at)
{
	PGPROC	   *victim = &ProcGlobal->allProcs[verdict->session.procno];
	LgSlot	   *slot = lg_slot(verdict->session.procno);
	bool		partitions[NUM_LOCK_PARTITIONS] = {false};
	bool		by_lock = verdict->proof == LG_PROVE_BLOCKS ||
		verdict->proof == LG_PROVE_WAITS;
	Outcome		outcome = NOT_PROVED;
	LOCK	   *awaited;
	LOCKTAG		awaited_tag;
	bool		waits;
	bool		proved;
	int64		locked;

	if (slot == NULL)
		return NOT_PROVED;

	if (by_lock)
	{
		partitions[partition_of(&verdict->evidence)] = true;
		if (verdict->waits)
			partitions[partition_of(&verdict->wait)] = true;
		for (int i = 0; i < verdict->nlinks; i++)
			partitions[partition_of(&verdict->links[i].evidence)] = true;
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

	switch (verdict->proof)
	{
		case LG_PROVE_BLOCKS:
			proved = still_blocks(&verdict->evidence) &&
				(!verdict->waits || waiter_is_there(&verdict->wait)) &&
				links_hold(verdict);
			break;
		case LG_PROVE_WAITS:
			proved = waiter_is_there(&verdict->evidence);
			break;
		default:
			proved = true;
			break;
	}

	if (proved)
	{
		LgSession	now;

		/* See commit_begins(): either we see it commit, or it waits for us. */
		pg_atomic_fetch_add_u32(&slot->signalling, 1);
		pg_memory_barrier();
		lg_read_session(verdict->session.procno, &now);
		LG_DEBUG_POINT("in_proof");
		if (!is_same(verdict, &now))
			outcome = NOT_PROVED;
		else if (now.committing && !waits)
			outcome = now.dropping ? IS_DROPPING : IS_COMMITTING;
		else if (!verdict->by_hand && lg_is_exempt(&verdict->session))
			outcome = IS_EXEMPT;
		else if (!verdict->by_hand && lg_shared->paused_until > lg_now())
			outcome = IS_PAUSED;
		else
		{
			LgReason	before = slot->reason;

			if (reason != NULL)
			{
				reason->lxid = now.lxid;
				lg_leave_reason(verdict->session.procno, reason);
			}
			*acted_at = GetCurrentTimestamp();
			outcome = send_signal(verdict->session.pid, sig) ? SIGNALLED : KILL_FAILED;

			/* A signal that another sends later must not be explained by this. */
			if (outcome == KILL_FAILED && reason != NULL)
				lg_put_reason(verdict->session.procno, &before);
		}
		pg_atomic_fetch_sub_u32(&slot->signalling, 1);
	}

	if (!by_lock && !waits)
		LWLockRelease(ProcArrayLock);
	else
		unlock_partitions(partitions, locked);
	LWLockRelease(lg_shared->lock);
	return outcome;
}

/*
 * Let what is just being done to any of these sessions, or by them to prepared
 * transactions, be done: once this returns true, nothing is done that was
 * judged before what the caller has just forbidden.  A rollback that waits for
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

/*
 * May one more signal, because of that limit, be sent within
 * max_actions_per_minute?  If not, that is said once, until it may again.
 *
 * A quarter is kept for limits on blockers: else those who time out one by one,
 * or mean to, would keep whoever is in their way from being removed.
 */
bool
lg_cap_allows(int64 now, int limit)
{
	static bool warned[2] = {false};
	LgShared   *shared = lg_shared;
	bool		blocks = limit == LG_NO_LIMIT ||
		(limit < LG_NUM_LIMITS && lg_limits[limit].proof == LG_PROVE_BLOCKS);
	int			cap = lg_max_actions_per_minute - (blocks ? 0 : lg_max_actions_per_minute / 4);
	int64		before = shared->signals_sent - cap;

	/* The signal that many ago must be older than a minute. */
	if (cap > 0 &&
		(before < 0 ||
		 now - shared->signal_times[before % LG_MAX_ACTIONS_PER_MINUTE] >=
		 60 * LG_NANOS_PER_SEC))
	{
		warned[blocks] = false;
		return true;
	}
	if (!warned[blocks])
		ereport(WARNING,
				(errmsg("lockguard: max_actions_per_minute (%d) is reached",
						lg_max_actions_per_minute),
				 blocks ?
				 errdetail("Who is over a limit is left alone until the minute allows more.") :
				 errdetail("Only limits on blockers may signal anybody until the minute allows more.")));
	warned[blocks] = true;
	return false;
}

/* Count a signal for that.  Only the worker does; it is kept over an error. */
void
lg_cap_count(int64 now)
{
	LgShared   *shared = lg_shared;

	shared->signal_times[shared->signals_sent % LG_MAX_ACTIONS_PER_MINUTE] = now;
	shared->signals_sent++;
}

/*
 * Has this been recorded already for the same session, limit and episode
 * (wait, statement, state or transaction) with the same result?  Notes that
 * it has been now.  As long as it holds a lock against the same wait, it is
 * one episode, however many transactions it runs meanwhile.
 */
static bool
told_before(LgView *view, const LgVerdict *verdict, LgResult result)
{
	LgTold	   *told;
	const LgSession *session = &verdict->session;
	TimestampTz wait = held_against(verdict);
	TimestampTz since;
	bool		before;

	if (verdict->limit == LG_NO_LIMIT)
		return false;
	told = &view->tracks[session->procno].told[verdict->limit];
	if (verdict->proof == LG_PROVE_WAITS)
		since = verdict->evidence.waiter_start;
	else if (verdict->waits && verdict->preempted_for == 0)
		since = verdict->wait.waiter_start;
	else if (verdict->proof == LG_PROVE_STATEMENT)
		since = session->stmt_start;
	else if (verdict->proof == LG_PROVE_STATE ||
			 !LocalTransactionIdIsValid(session->lxid))
		since = session->state_start;
	else
		since = 0;

	if ((told->lxid != session->lxid || told->since != since) &&
		(wait == 0 || told->wait != wait))
		told->results = 0;
	before = (told->results & (1U << result)) != 0;
	told->results |= 1U << result;
	told->lxid = session->lxid;
	told->since = since;
	told->wait = wait;
	return before;
}

/*
 * Fill in a row about a verdict, before anything is done about it.  Takes
 * TwoPhaseStateLock, shared, for a prepared transaction.
 */
void
lg_describe(LgView *view, const LgVerdict *verdict, const LgRequest *request,
		 LgAction *action)
{
	const LgSession *session = &verdict->session;
	LgSlot	   *slot = lg_slot(session->procno);
	const char *state = lg_state_text(session);

	memset(action, 0, sizeof(*action));
	action->incident_id = request ?
		lg_incident_of_root(session->pid, session->session_start) :
		lg_incident_of(view, session->procno);
	action->pid = session->pid;
	action->backend_start = session->session_start;
	action->datid = session->datid;
	action->userid = session->userid;
	if (slot != NULL && slot->pid == session->pid)
	{
		action->datname = slot->datname;
		action->usename = slot->usename;
	}
	if (session->kind == LG_KIND_PREPARED)
	{
		TimestampTz prepared_at;
		bool		busy;

		lg_prepared_transaction(session->procno, action->gid, &prepared_at, &busy);
	}
	lg_read_texts(session, action->query, sizeof(action->query),
				  action->application_name, action->client_addr);
	if (state)
		strlcpy(action->state, state, sizeof(action->state));
	action->limit = verdict->limit;
	action->limit_value = verdict->value;
	action->limit_source = verdict->source;
	if (request)
		strlcpy(NameStr(action->requested_by), request->user_name, NAMEDATALEN);
	action->action = verdict->action;
	action->result = verdict->result;
	if (verdict->reason)
		strlcpy(action->reason, verdict->reason, sizeof(action->reason));
	action->released_after = -1;
	action->longest_wait = verdict->longest_wait / 1000;
	action->blocked_sessions = verdict->blocked_sessions;

	if (verdict->blocked_sessions > 0)
	{
		LgGraph    *graph = view->graph;

		/* Of those whom the log will show, read before the signal frees them. */
		lg_downstream(graph, session->procno);
		for (int i = 0; i < Min(graph->nsteps, LOG_TREE_LINES); i++)
			lg_know(graph, &graph->nodes[graph->steps[i].node]);
		for (int i = 1; i < graph->nsteps && action->nblocked_pids < LG_MAX_PIDS; i++)
			action->blocked_pids[action->nblocked_pids++] =
				graph->nodes[graph->steps[i].node].pid;
	}

	action->open.procno = session->procno;
	action->open.pid = session->pid;
	action->open.session_start = session->session_start;
	action->open.lxid = session->lxid;
	action->open.stmt_start = session->stmt_start;
	action->open.state_start = session->state_start;
	action->open.limit = verdict->limit;
	action->open.action = verdict->action;
	if (verdict->proof == LG_PROVE_WAITS || verdict->waits)
	{
		const LgEvidence *wait = verdict->waits ? &verdict->wait : &verdict->evidence;

		action->open.wait_procno = wait->procno;
		action->open.wait_start = wait->waiter_start;
	}
}

/* 'user "app", database "shop", application "S1"', or the OIDs. */
static char *
whom(const LgAction *action)
{
	StringInfoData buf;

	initStringInfo(&buf);
	if (NameStr(action->usename)[0])
		appendStringInfo(&buf, "user \"%s\"",
						 lg_one_line(NameStr(action->usename), NAMEDATALEN));
	else
		appendStringInfo(&buf, "user with OID %u", action->userid);
	if (NameStr(action->datname)[0])
		appendStringInfo(&buf, ", database \"%s\"",
						 lg_one_line(NameStr(action->datname), NAMEDATALEN));
	else
		appendStringInfo(&buf, ", database with OID %u", action->datid);
	if (action->application_name[0])
		appendStringInfo(&buf, ", application \"%s\"",
						 lg_one_line(action->application_name, NAMEDATALEN));
	return buf.data;
}

/*
 * The texts of a log message about a row that lg_describe() has filled in: all
 * but what has come of it.  Allocates in the current context.
 */
void
lg_log_texts(LgView *view, const LgVerdict *verdict, const LgAction *action,
			 LgLogTexts *texts)
{
	char		story[256];
	char		value[32];
	char		source[2 * NAMEDATALEN + 64];
	char	   *why;
	StringInfoData facts;
	LgTreeStyle style = {0};

	lg_tell(verdict->limit, verdict->blocked_sessions, verdict->measured,
			verdict->session.state, story, sizeof(story));
	if (verdict->limit == LG_NO_LIMIT)
		why = psprintf("asked for by user \"%s\"",
					   lg_one_line(NameStr(action->requested_by), NAMEDATALEN));
	else
	{
		lg_format_value(verdict->limit, verdict->value, value, sizeof(value));
		lg_describe_source(verdict->source,
						   lg_one_line(NameStr(action->usename), NAMEDATALEN),
						   lg_one_line(NameStr(action->datname), NAMEDATALEN),
						   source, sizeof(source));
		if (verdict->preempted_for != 0)
			why = psprintf("lockguard.%s of process %d is %s",
						   lg_setting_name(verdict->limit),
						   verdict->preempted_for, value);
		else
			why = psprintf("lockguard.%s is %s (%s)",
						   lg_setting_name(verdict->limit), value, source);
	}
	texts->why = psprintf("which %s; %s", story, why);
	if (action->gid[0])
		texts->what = psprintf("prepared transaction \"%s\"", lg_one_line(action->gid, LG_GID_SIZE));
	else
		texts->what = psprintf("process %d (%s)", action->pid, whom(action));

	initStringInfo(&facts);
	if (action->query[0])
		appendStringInfo(&facts, "Its query: %s", lg_one_line(action->query, 500));
	if (view->looked && lg_node(view->graph, verdict->session.procno) != NULL)
	{
		int			top = verdict->session.procno;

		/* It may be gone by now: what was read before has its texts. */
		style.max_lines = LOG_TREE_LINES;
		style.root_query = action->query;
		style.root_application_name = action->application_name;
		appendStringInfo(&facts, "%sLock tree:\n", facts.len ? "\n" : "");
		lg_draw_tree(view, top, &style, &facts);
	}
	texts->facts = facts.data;
}

/*
 * One log message for a row: what was done to whom, why, and the tree.  It goes
 * to the server log only: in a session that calls a function that acts,
 * client_min_messages would have the queries of others sent to its client.
 */
void
lg_write_log(const LgLogTexts *texts, const LgAction *action)
{
	const char *did;
	StringInfoData detail;

	switch (action->result)
	{
		case LG_PENDING:
			did = action->action == LG_DO_CANCEL ? "cancelled the statement of" :
				action->action == LG_DO_ROLLBACK ? "rolls back" : "terminated";
			break;
		case LG_FAILED:
			did = "could not signal";
			break;
		case LG_SELF_RESOLVED:
			did = "did not have to touch";
			break;
		default:
			did = "did not touch";
			break;
	}

	initStringInfo(&detail);
	if (action->dry_run)
		appendStringInfo(&detail, "lockguard.dry_run is on; else it would have been %s.",
						 action->action == LG_DO_CANCEL ? "cancelled" :
						 action->action == LG_DO_ROLLBACK ? "rolled back" : "terminated");
	else if (action->reason[0])
		appendStringInfo(&detail, "Not signalled: %s.", action->reason);
	if (texts->facts[0])
		appendStringInfo(&detail, "%s%s", detail.len ? "\n" : "", texts->facts);

	ereport(LOG_SERVER_ONLY,
			(errmsg("lockguard: %s %s, %s", did, texts->what, texts->why),
			 detail.len > 0 ? errdetail_internal("%s", detail.data) : 0,
			 errhidestmt(true), errhidecontext(true)));
}

/* Make the texts of a log message and write it. */
void
lg_log_action(LgView *view, const LgVerdict *verdict, const LgAction *action)
{
	LgLogTexts	texts;

	lg_log_texts(view, verdict, action, &texts);
	lg_write_log(&texts, action);
}

/* Add a signal to those whose outcome is followed; returns its entry. */
static LgOpen *
follow(LgView *view, LgFollow *list, const LgOpen *open)
{
	LgTrack    *track = &view->tracks[open->procno];

	if (list->n >= list->max)
	{
		list->max *= 2;
		list->open = repalloc_array(list->open, LgOpen, list->max);
	}
	list->open[list->n] = *open;

	/* Nothing may be remembered of the process yet. */
	if (track->pid != open->pid)
	{
		memset(track, 0, sizeof(*track));
		track->pid = open->pid;
		track->session_start = open->session_start;
		track->lxid = open->lxid;
	}
	track->open_action = open->unresponsive ? -open->action_id : open->action_id;
	track->open_limit = open->limit;
	return &list->open[list->n++];
}

/* Count a signal that was sent so many ns after the limit was passed. */
static void
count_lateness(int64 lateness)
{
	static const int bounds[LG_NUM_LATENESS] = LG_LATENESS_BOUNDS;
	LgStats    *stats = &lg_shared->stats;

	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < LG_NUM_LATENESS; i++)
		if (lateness <= bounds[i] * LG_NANOS_PER_MS)
			stats->within[i]++;
	if (lateness > bounds[LG_NUM_LATENESS - 1] * LG_NANOS_PER_MS)
		stats->later++;
	stats->max_lateness = Max(stats->max_lateness, lateness);
	LWLockRelease(lg_shared->lock);
}

/*
 * Carry out a verdict and record it.  "list" is the worker's list of open
 * signals, or NULL if this was asked for by hand ("request").  Returns true if
 * a signal was sent.
 *
 * With a request, nothing is allocated or logged here, so that nothing can
 * fail between the signals to several sessions.  The caller has filled the row
 * in with lg_describe(); what has come of it is added, and the caller writes
 * the log message.
 */
bool
lg_act(LgView *view, LgFollow *list, const LgVerdict *verdict,
	   const LgRequest *request)
{
	LgAction	action;
	LgReason	reason = {0};
	Outcome		outcome;

	/* Nothing to be done, or only to be said once. */
	if (verdict->result != LG_PENDING)
	{
		if (told_before(view, verdict, verdict->result))
			return false;
		if (request)
			action = *request->action;
		else
			lg_describe(view, verdict, request, &action);
		action.acted_at = GetCurrentTimestamp();
		lg_record_action(&action);
		if (request)
			*request->action = action;
		else
			lg_log_action(view, verdict, &action);
		return false;
	}

	if (!request)
	{
		LgResult	instead = LG_PENDING;
		const char *why = NULL;

		if (lg_dry_run)
		{
			instead = LG_LOGGED;
			why = "lockguard.dry_run is on";
		}
		else if (lg_shared->paused_until > view->clock.now)
		{
			instead = LG_LOGGED;
			why = "paused by lockguard.pause()";
		}
		else if (!lg_cap_allows(view->clock.now, verdict->limit))
		{
			instead = LG_SUPPRESSED;
			why = "lockguard.max_actions_per_minute is reached";
		}
		if (instead != LG_PENDING)
		{
			if (told_before(view, verdict, instead))
				return false;
			lg_describe(view, verdict, request, &action);
			action.result = instead;
			action.dry_run = lg_dry_run;
			strlcpy(action.reason, why, sizeof(action.reason));
			action.acted_at = GetCurrentTimestamp();
			lg_record_action(&action);
			lg_log_action(view, verdict, &action);
			return false;
		}
	}

	if (request)
		action = *request->action;
	else
		lg_describe(view, verdict, request, &action);
	LG_DEBUG_POINT("before_signal");

	reason.pid = verdict->session.pid;
	reason.session_start = verdict->session.session_start;
	reason.stmt_start = verdict->proof == LG_PROVE_STATEMENT ?
		verdict->session.stmt_start : 0;
	reason.state = verdict->session.state;
	reason.action = verdict->action;
	reason.limit = verdict->limit;
	reason.value = verdict->value;
	reason.source = verdict->source;
	reason.blocked_sessions = verdict->blocked_sessions;
	reason.measured = verdict->measured;
	reason.other_pid = verdict->preempted_for;
	reason.requested_by_pid = request ? request->pid : 0;

	/* Not under the locks: this asks the operating system. */
	if (verdict->idle && !lg_state_is_idle(&verdict->session) &&
		lg_client_has_moved(&view->tracks[verdict->session.procno], &verdict->session))
		outcome = NOT_PROVED;
	else
		outcome = prove_and_signal(verdict,
								   verdict->action == LG_DO_CANCEL ? SIGINT : SIGTERM,
								   &reason, &action.acted_at);
	action.open.acted_at = action.open.repeated_at = lg_now();
	if (outcome != SIGNALLED)
	{
		action.acted_at = GetCurrentTimestamp();
		if (outcome == NOT_PROVED)
		{
			action.result = LG_SELF_RESOLVED;
			strlcpy(action.reason,
					verdict->proof == LG_PROVE_BLOCKS || verdict->proof == LG_PROVE_WAITS ?
					"it was out of the way already" :
					"it was doing something else already", sizeof(action.reason));
		}
		else if (outcome == IS_COMMITTING || outcome == IS_DROPPING)
		{
			action.result = LG_PROTECTED;
			strlcpy(action.reason, lg_committing_text(outcome == IS_DROPPING),
					sizeof(action.reason));
		}
		else if (outcome == IS_EXEMPT)
		{
			action.result = LG_EXEMPTED;
			strlcpy(action.reason, "exempt for a time by lockguard.exempt()", sizeof(action.reason));
		}
		else if (outcome == IS_PAUSED)
		{
			action.result = LG_LOGGED;
			strlcpy(action.reason, "paused by lockguard.pause()", sizeof(action.reason));
		}
		else
		{
			action.result = LG_FAILED;
			strlcpy(action.reason, "the signal could not be sent", sizeof(action.reason));
		}
		action.action = LG_DO_LOG;
		if (told_before(view, verdict, action.result))
			return false;
	}

	lg_record_action(&action);
	if (outcome == SIGNALLED)
	{
		LgContention more = {0};

		more.datid = verdict->session.datid;
		more.userid = verdict->session.userid;
		more.query_id = verdict->session.query_id;
		more.actions = 1;
		lg_count_contention(&more);
	}
	if (outcome == SIGNALLED && verdict->passed_at != 0 && !verdict->escalation)
		count_lateness(action.open.acted_at - verdict->passed_at);
	if (outcome == SIGNALLED && list)
	{
		lg_cap_count(view->clock.now);
		follow(view, list, &action.open);
	}
	if (request)
		*request->action = action;
	else
		lg_log_action(view, verdict, &action);
	return outcome == SIGNALLED;
}

/* The worker's list of open signals, empty as yet. */
LgFollow *
lg_follow_create(void)
{
	LgFollow   *list = palloc0(sizeof(LgFollow));

	list->max = LG_TOTAL_PROCS;
	list->open = palloc0_array(LgOpen, list->max);
	list->recorded = PG_UINT64_MAX; /* has not looked yet */
	return list;
}

/*
 * Take over signals that others have sent, and ours of before an error.
 */
void
lg_follow_adopt(LgView *view, LgFollow *list)
{
	uint64		recorded = lg_actions_recorded();
	int64		first;
	int64		next;

	if (recorded == list->recorded)
		return;
	list->recorded = recorded;
	lg_action_range(&first, &next);
	for (int64 id = Max(first, list->next_action_id); id < next; id++)
	{
		LgAction	action;
		bool		known = false;

		for (int i = 0; i < list->n && !known; i++)
			known = list->open[i].action_id == id;
		if (!known && lg_fetch_action(id, &action) &&
			(action.result == LG_PENDING || action.result == LG_UNRESPONSIVE) &&
			action.action != LG_DO_ROLLBACK)
			follow(view, list, &action.open)->adopted = true;
	}
	list->next_action_id = next;
}

/* Does following up need a look at the lock manager? */
bool
lg_follow_needs_look(const LgFollow *list)
{
	for (int i = 0; i < list->n; i++)
		if (list->open[i].limit == LG_NO_LIMIT ||
			!lg_limit_is_age(list->open[i].limit))
			return true;
	return false;
}

/* Does the wait that a signal was about go on? */
static bool
wait_goes_on(const LgOpen *open)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[open->wait_procno];

	return ((volatile PGPROC *) proc)->waitLock != NULL &&
		(TimestampTz) pg_atomic_read_u64(&proc->waitStart) == open->wait_start;
}

/*
 * The node of a session that is in the way of somebody that it was in the way
 * of when signalled, or NULL.  If we had not looked then, it may have been so
 * although we see it only since.
 */
static LgNode *
node_in_the_way(LgView *view, const LgOpen *open)
{
	LgNode	   *node = view->looked ? lg_node(view->graph, open->procno) : NULL;

	if (node == NULL || node->blocking_since == LG_NEVER ||
		(node->blocking_since > open->acted_at && !open->adopted))
		return NULL;
	return node;
}

/*
 * A session that was signalled while it waited waits no more.  Is it at it to
 * undo its statement, and in the way until that is done?  Those behind it would
 * be hit for nothing.  "now" is what it does, in the same transaction as then.
 */
static bool
is_undoing(LgView *view, const LgOpen *open, const LgSession *now)
{
	LgNode	   *node = node_in_the_way(view, open);

	return node != NULL && !node->waiting && now->stmt_start == open->stmt_start &&
		!lg_state_is_idle(now) && view->clock.now - open->acted_at < UNRESPONSIVE_AFTER;
}

/*
 * Is the session in the way still?  If it is over its limit as before, the
 * verdict is filled in, for a repetition or an escalation.
 */
static bool
still_open(LgView *view, const LgOpen *open, LgVerdict *verdict, bool *over)
{
	LgSession	now;
	LgNode	   *node;

	*over = false;
	lg_read_session(open->procno, &now);
	if (now.pid != open->pid ||
		(now.has_status && now.session_start != open->session_start))
		return false;

	/*
	 * Its transaction is over.  But a session at the very end of it may hold
	 * its locks still.  And it may hold locks of the session: if those are in
	 * the way, or are too many, that is no other transaction's fault, whether
	 * it is in one by now or not.
	 */
	if (LocalTransactionIdIsValid(open->lxid) && now.lxid != open->lxid)
	{
		bool		another = LocalTransactionIdIsValid(now.lxid);
		bool		blocks = open->limit == LG_NO_LIMIT ||
			lg_limits[open->limit].proof == LG_PROVE_BLOCKS;

		if (open->limit == LG_MAX_LOCKS)
		{
			if (lg_in_transit(&now))
				return true;
			return *over = lg_judge_again(view, open->procno, open->limit, verdict);
		}
		node = view->looked ? lg_node(view->graph, open->procno) : NULL;
		if (node == NULL || node->blocking_since == LG_NEVER ||
			(node->blocking_since > open->acted_at && (another || !open->adopted)) ||
			(another && !blocks))
			return false;
		if (lg_in_transit(&now) || open->limit == LG_NO_LIMIT || !blocks)
			return true;
		if (open->limit == LG_PREEMPT_TIMEOUT)
			return *over = wait_goes_on(open) &&
				lg_preempt_again(view, open->wait_procno, open->procno, verdict);
		*over = lg_judge_again(view, open->procno, open->limit, verdict);
		return true;
	}

	if (open->wait_start != 0 && !wait_goes_on(open))
		return open->wait_procno == open->procno && is_undoing(view, open, &now);

	if (open->limit != LG_NO_LIMIT)
	{
		switch (lg_limits[open->limit].proof)
		{
			case LG_PROVE_WAITS:
				*over = lg_judge_again(view, open->procno, open->limit, verdict);
				return true;
			case LG_PROVE_STATEMENT:
				if (now.stmt_start != open->stmt_start || lg_state_is_idle(&now))
					return false;
				*over = lg_judge_again(view, open->procno, open->limit, verdict);
				return true;
			case LG_PROVE_STATE:
				if (now.state_start != open->state_start)
					return false;
				*over = lg_judge_again(view, open->procno, open->limit, verdict);
				return true;
			case LG_PROVE_TRANSACTION:
				*over = lg_judge_again(view, open->procno, open->limit, verdict);
				return *over;
			case LG_PROVE_BLOCKS:
				break;
		}
	}

	if (open->limit == LG_PREEMPT_TIMEOUT)
		return *over = lg_preempt_again(view, open->wait_procno, open->procno, verdict);

	node = node_in_the_way(view, open);
	if (node == NULL)
		return false;
	if (open->limit != LG_NO_LIMIT)
		*over = lg_judge_again(view, open->procno, open->limit, verdict);
	else
	{
		lg_know(view->graph, node);
		memset(verdict, 0, sizeof(*verdict));
		verdict->session = node->known->session;
		verdict->limit = LG_NO_LIMIT;
		verdict->action = open->action;
		verdict->by_hand = true;
		verdict->result = lg_may_signal(&node->known->session, &node->known->values, &verdict->reason);
		verdict->proof = LG_PROVE_BLOCKS;
		verdict->evidence = lg_evidence(view->graph, node);
		*over = true;
	}
	return true;
}

/*
 * See what has come of the signals that are open: released, to be escalated,
 * or unresponsive.  Escalations are carried out here.
 */
void
lg_follow_up(LgView *view, LgFollow *list, LgVerdicts *verdicts)
{
	int			kept = 0;
	int			n;

	n = list->n;
	for (int i = 0; i < n; i++)
	{
		LgOpen		one = list->open[i];
		LgOpen	   *open = &one;
		LgTrack    *track = &view->tracks[open->procno];
		LgVerdict	verdict;
		bool		over;
		bool		escalates = false;
		int64		age = view->clock.now - open->acted_at;
		int64		delay;
		LgValues	values;

		if (!still_open(view, open, &verdict, &over))
		{
			lg_record_result(open->action_id, LG_RELEASED, Max(age, 0) / 1000);
			if (track->open_action == open->action_id ||
				track->open_action == -open->action_id)
				track->open_action = 0;
			continue;
		}

		lg_settings_of_session(open->procno, open->pid, open->session_start,
							   &view->server, &values);
		delay = values.value[LG_ESCALATION_DELAY] * LG_NANOS_PER_MS;

		if (open->action == LG_DO_CANCEL && over &&
			open->limit != LG_NO_LIMIT && !lg_limits[open->limit].cancel_only &&
			values.value[LG_ACTION] == LG_DO_TERMINATE)
		{
			int64		at = open->acted_at + delay;

			if (view->clock.now >= at)
			{
				if (verdict.result == LG_PENDING)
				{
					verdict.action = LG_DO_TERMINATE;
					verdict.escalation = true;
					verdict.idle = verdict.unreachable = false;
				}
				if (lg_act(view, list, &verdict, NULL))
				{
					lg_record_result(open->action_id, LG_ESCALATED, -1);
					continue;
				}
			}
			else
			{
				verdicts->next_due = Min(verdicts->next_due, at);
				escalates = true;
			}
		}

		/*
		 * A cancel that nothing can follow has had its time: other limits,
		 * and others of the tree, need not wait for it.
		 */
		if (open->action == LG_DO_CANCEL && !escalates && age >= delay &&
			track->open_action == open->action_id)
			track->open_action = -open->action_id;

		if (!open->unresponsive && !escalates && age >= UNRESPONSIVE_AFTER)
		{
			open->unresponsive = true;
			open->repeated_at = view->clock.now;
			track->open_action = -open->action_id;
			lg_record_result(open->action_id, LG_UNRESPONSIVE, -1);
			ereport(WARNING,
					(open->action == LG_DO_CANCEL ?
					 errmsg("lockguard: process %d is over its limit still, 10 s after its statement was cancelled",
							open->pid) :
					 errmsg("lockguard: process %d has not reacted to being terminated for 10 s",
							open->pid),
					 errdetail("The signal is repeated once a minute.")));
		}
		else if (open->unresponsive && over &&
				 view->clock.now - open->repeated_at >= REPEAT_AFTER &&
				 verdict.result == LG_PENDING && !lg_dry_run &&
				 lg_shared->paused_until <= view->clock.now &&
				 lg_cap_allows(view->clock.now, open->limit))
		{
			TimestampTz at;

			open->repeated_at = view->clock.now;
			verdict.escalation = true;
			lg_cap_count(view->clock.now);
			prove_and_signal(&verdict,
							 open->action == LG_DO_CANCEL ? SIGINT : SIGTERM,
							 NULL, &at);
		}
		list->open[kept++] = *open;
	}

	/* Those that lg_act() has added meanwhile stand behind. */
	for (int i = n; i < list->n; i++)
		list->open[kept++] = list->open[i];
	list->n = kept;
}

/*
 * When to look again for the outcome of open signals: soon after the signal,
 * then ever more seldom; LG_NEVER if none is open.
 */
int64
lg_follow_wake(const LgFollow *list, int64 now)
{
	int64		wake = LG_NEVER;

	for (int i = 0; i < list->n; i++)
	{
		int64		age = now - list->open[i].acted_at;
		int64		pause = Min(Max(age / 2, LG_NANOS_PER_MS / 2), 100 * LG_NANOS_PER_MS);

		if (!list->open[i].unresponsive)
			wake = Min(wake, now + pause);
	}
	return wake;
}
