/*-------------------------------------------------------------------------
 *
 * limit.c
 *		The limits: what each measures.
 *
 * A limit works on what a look has copied, and takes no lock, with these
 * exceptions: max_locks counts a session's locks, max_xmin_age reads the next
 * transaction id.  To add a limit, add its setting (types.h, settings.c), its
 * texts (text.c), here a row and the function that measures it, and what
 * CONTRIBUTING.md lists.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/wait_event.h"

#include "limit.h"
#include "look.h"
#include "session.h"
#include "shared.h"
#include "types.h"
#include "waitgraph.h"

static inline int64
milliseconds(int64 now, int64 since)
{
	return (now - since) / LG_NANOS_PER_MS;
}

/* A time limit on something that began at "since". */
static int64
passed_after(LgView *view, int64 since, int value, int64 *measured)
{
	if (since == LG_NEVER)
		return LG_NEVER;
	*measured = milliseconds(view->clock.now, since);
	return since + value * LG_NANOS_PER_MS;
}

/* A limit on a number. */
static int64
passed_if(LgView *view, int64 count, int value, int64 *measured)
{
	*measured = count;
	return count > value ? view->clock.now : LG_NEVER;
}

/*
 * A time limit on accumulated blocking time: a session has it now, and will
 * pass the limit if others go on to wait for it.
 */
static int64
passed_in_all(LgView *view, const LgSubject *subject, LgTimer timer, int value,
			  int64 *measured)
{
	int64		time = lg_block_time(view->graph, view->times, subject->node, timer);

	*measured = time / LG_NANOS_PER_MS;
	return view->clock.now + value * LG_NANOS_PER_MS - time;
}

static bool
is_queued_blocker(LgView *view, const LgNode *node)
{
	return node != NULL && lg_is_queued_blocker(view->graph, node);
}

static bool
is_root(LgView *view, const LgNode *node)
{
	return node != NULL && lg_is_root(view->graph, node);
}

/*
 * A time limit on idleness since "since".  Whether others work on the session's
 * behalf is asked only when it would be over the limit.
 */
static int64
passed_idle(LgView *view, const LgSubject *subject, int64 since, int value,
			int64 *measured)
{
	int64		at = passed_after(view, since, value, measured);

	if (at <= view->clock.now && lg_works_for_others(subject->track, subject->session))
		return LG_NEVER;
	return at;
}

static int64
idle_blocker_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	const LgNode *node = subject->node;
	int64		idle_for;
	int64		at;

	if (!is_root(view, node) || node->known->idle_since == LG_NEVER)
		return LG_NEVER;
	at = passed_idle(view, subject, node->known->idle_since, value, &idle_for);
	return at == LG_NEVER ? LG_NEVER :
		Max(at, passed_in_all(view, subject, LG_IDLE_TIMER, value, measured));
}

static int64
blocker_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	if (!is_root(view, subject->node))
		return LG_NEVER;
	return passed_in_all(view, subject, LG_ROOT_TIMER, value, measured);
}

/* Its accumulated time is counted from the beginning of its own wait. */
static int64
queued_blocker_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	if (!is_queued_blocker(view, subject->node))
		return LG_NEVER;
	return passed_in_all(view, subject, LG_QUEUED_TIMER, value, measured);
}

/* When does max_blocked_sessions begin to count this session? */
int64
lg_counts_after(LgView *view, const LgStep *step)
{
	return view->graph->waiters[step->waiter].since +
		DeadlockTimeout * LG_NANOS_PER_MS;
}

/*
 * Only sessions count that have waited longer than deadlock_timeout.  One that
 * has just come to block them, with a queue that was there before, has as much
 * time to release the lock.
 */
static int64
max_blocked_sessions(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	const LgNode *node = subject->node;
	LgGraph    *graph = view->graph;
	int64		old_enough = DeadlockTimeout * LG_NANOS_PER_MS;
	int64		own_time;
	int			blocked;
	int			count = 0;

	if (!is_root(view, node) && !is_queued_blocker(view, node))
		return LG_NEVER;
	own_time = (subject->again ? node->blame_since : lg_blocks_since(graph, node)) + old_enough;

	blocked = lg_downstream(graph, node->known->session.procno);
	for (int i = 0; i < blocked; i++)
	{
		view->scratch[i] = lg_counts_after(view, &graph->steps[i + 1]);
		if (view->scratch[i] < view->clock.now)
			count++;
	}
	*measured = count;
	if (blocked <= value)
		return LG_NEVER;

	/* It is passed when one more than allowed will have waited so long. */
	if (count <= value)
	{
		qsort(view->scratch, blocked, sizeof(int64), lg_compare_times);
		own_time = Max(own_time, view->scratch[value] + 1);
	}
	return own_time;
}

static int64
wait_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	const LgWaiter *wait;

	if (subject->node == NULL)
		return LG_NEVER;
	wait = lg_longest_wait(view->graph, subject->node);
	return passed_after(view, wait ? wait->since : LG_NEVER, value, measured);
}

/* During a login, a cancel would not end a statement, but the session. */
static int64
lock_wait_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	if (lg_runs_login_trigger(subject->session))
		return LG_NEVER;
	return wait_timeout(view, subject, value, measured);
}

static int64
transaction_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	return passed_after(view, lg_transaction_start(subject->track, subject->session,
												   &view->clock),
						value, measured);
}

/* Also of a session that does not report its state, by what it waits for. */
static int64
idle_timeout(LgView *view, const LgSubject *subject, bool in_transaction,
			 int value, int64 *measured)
{
	const LgSession *session = subject->session;
	bool		match;

	if (session->state == STATE_DISABLED)
		match = session->wait_event == WAIT_EVENT_CLIENT_READ &&
			LocalTransactionIdIsValid(session->lxid) == in_transaction;
	else if (in_transaction)
		match = session->state == STATE_IDLEINTRANSACTION ||
			session->state == STATE_IDLEINTRANSACTION_ABORTED;
	else
		match = session->state == STATE_IDLE;

	return passed_idle(view, subject,
					   match ? lg_idle_since(subject->track, session, &view->clock,
											 value * LG_NANOS_PER_MS) : LG_NEVER,
					   value, measured);
}

static int64
idle_in_transaction_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	return idle_timeout(view, subject, true, value, measured);
}

static int64
idle_session_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	return idle_timeout(view, subject, false, value, measured);
}

static int64
statement_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	return passed_after(view, lg_statement_start(subject->track, subject->session,
												 &view->clock),
						value, measured);
}

static int64
max_locks(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	return passed_if(view, lg_count_locks(subject->session->procno, value),
					 value, measured);
}

/* Transaction ids used since that one was given out. */
static int32
xid_age(TransactionId next, TransactionId xid)
{
	return TransactionIdIsNormal(xid) ? Max((int32) (next - xid), 0) : 0;
}

/*
 * The age of its own transaction id is the session's doing.  But a new
 * snapshot takes over the oldest transaction id that is running, so it is old
 * at birth: what the session can be blamed for is at most what has been used
 * since the snapshot was first seen.
 */
static int64
max_xmin_age(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	const LgSession *session = subject->session;
	const LgTrack *track = subject->track;
	TransactionId next = ReadNextTransactionId();

	return passed_if(view, Max(xid_age(next, session->xid),
							   Min(xid_age(next, session->xmin),
								   xid_age(next, track->held_next_xid))),
					 value, measured);
}

/* Set on the waiter; judge_preemption() finds the victim. */
static int64
preempt_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	return wait_timeout(view, subject, value, measured);
}

/* Only of a session's own request, and while it does not let others pass. */
static int64
queue_yield_timeout(LgView *view, const LgSubject *subject, int value, int64 *measured)
{
	const LgWaiter *request;

	if (!is_queued_blocker(view, subject->node) || subject->session->kind != LG_KIND_CLIENT)
		return LG_NEVER;
	request = lg_request_in_the_way(view->graph, subject->node);
	if (request == NULL || lg_is_yielding(request->procno, request->wait_start))
		return LG_NEVER;
	return passed_in_all(view, subject, LG_YIELD_TIMER, value, measured);
}

const LgLimit lg_limits[LG_NUM_LIMITS] = {
	[LG_IDLE_BLOCKER_TIMEOUT] = {idle_blocker_timeout, LG_PROVE_BLOCKS, true, LG_MILDEST_FIRST},
	[LG_BLOCKER_TIMEOUT] = {blocker_timeout, LG_PROVE_BLOCKS, false, LG_MILDEST_FIRST},
	[LG_QUEUED_BLOCKER_TIMEOUT] = {queued_blocker_timeout, LG_PROVE_BLOCKS, false, LG_MILDEST_FIRST},
	[LG_MAX_BLOCKED_SESSIONS] = {max_blocked_sessions, LG_PROVE_BLOCKS, false, LG_MILDEST_FIRST},
	[LG_LOCK_WAIT_TIMEOUT] = {lock_wait_timeout, LG_PROVE_WAITS, false, LG_CANCEL_ONLY},
	[LG_TRANSACTION_TIMEOUT] = {transaction_timeout, LG_PROVE_TRANSACTION, false, LG_MILDEST_FIRST},
	[LG_IDLE_IN_TRANSACTION_TIMEOUT] = {idle_in_transaction_timeout, LG_PROVE_STATE, true, LG_END_CONNECTION},
	[LG_STATEMENT_TIMEOUT] = {statement_timeout, LG_PROVE_STATEMENT, false, LG_MILDEST_FIRST},
	[LG_IDLE_SESSION_TIMEOUT] = {idle_session_timeout, LG_PROVE_STATE, true, LG_END_CONNECTION},
	[LG_MAX_LOCKS] = {max_locks, LG_PROVE_TRANSACTION, false, LG_MILDEST_FIRST},
	[LG_MAX_XMIN_AGE] = {max_xmin_age, LG_PROVE_TRANSACTION, false, LG_MILDEST_FIRST},
	[LG_PREEMPT_TIMEOUT] = {preempt_timeout, LG_PROVE_BLOCKS, false, LG_MILDEST_FIRST},
	[LG_QUEUE_YIELD_TIMEOUT] = {queue_yield_timeout, LG_PROVE_BLOCKS, false, LG_MILDEST_FIRST}
};

/* Limits that have nothing to do with waits for locks. */
bool
lg_limit_is_age(int limit)
{
	return lg_limits[limit].proof == LG_PROVE_TRANSACTION ||
		lg_limits[limit].proof == LG_PROVE_STATEMENT ||
		lg_limits[limit].proof == LG_PROVE_STATE;
}

/* Limits on those that others wait for; a signal asked for by hand is like one. */
bool
lg_limit_is_about_blocking(int limit)
{
	return limit == LG_NO_LIMIT ||
		(limit < LG_NUM_LIMITS && lg_limits[limit].proof == LG_PROVE_BLOCKS);
}
