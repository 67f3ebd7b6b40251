/*-------------------------------------------------------------------------
 *
 * blocktime.c
 *		How long in all sessions have waited for another: accumulated blocking
 *		time.
 *
 * A session is judged by the time for which at least one other has waited for
 * it, whether that is one that waits for long or many that give up early and
 * come again.  Each look adds the time that it is sure of: from the start of the
 * oldest pair (see blame_lock() in waitgraph.c), or from the look that counted
 * last, up to now.  A wait that ends between two looks is counted up to the
 * first of them.  So what is counted may be too little, and never too much.
 *
 * While no session waits for it, and while it waits itself, the timers of a root
 * stand still.  A timer begins anew when
 *
 * - no session has waited for it for as long as the timer's limit;
 * - another transaction has begun, unless a wait from before goes on: then the
 *	 lock is the session's;
 * - the session has released the lock that was waited for (of several, it then
 *	 shows what has come together since the next was first waited for);
 * - it is out of a deadlock, the error of which another session got;
 * - a remedy has worked (lg_restart_block_time()).
 *
 * The timer of idle_blocker_timeout is for one idle period, and those of queued
 * blockers for one wait; that of queue_yield_timeout begins anew when the request
 * has let others pass.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/proc.h"

#include "blocktime.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "types.h"
#include "waitgraph.h"

/* Of longer limits, what is missed after that time is less than a tenth. */
#define MOST_ATTENTION	(10 * LG_NANOS_PER_SEC)

/* After how long without a wait does a timer begin anew (ns)? */
static int64
longest_gap(LgTimer timer, const LgValues *values)
{
	switch (timer)
	{
		case LG_IDLE_TIMER:
			return values->value[LG_IDLE_BLOCKER_TIMEOUT] * LG_NANOS_PER_MS;
		case LG_ROOT_TIMER:
			return values->value[LG_BLOCKER_TIMEOUT] * LG_NANOS_PER_MS;
		case LG_QUEUED_TIMER:
			return values->value[LG_QUEUED_BLOCKER_TIMEOUT] * LG_NANOS_PER_MS;
		case LG_YIELD_TIMER:
			return values->value[LG_QUEUE_YIELD_TIMEOUT] * LG_NANOS_PER_MS;
		case LG_COUNT_TIMER:
			return Max(DeadlockTimeout, values->value[LG_ESCALATION_DELAY]) * LG_NANOS_PER_MS;
		default:
			return lg_incident_threshold * LG_NANOS_PER_MS;
	}
}

/* The timer that a limit goes by; -1 = none. */
int
lg_timer_of(int limit)
{
	switch (limit)
	{
		case LG_IDLE_BLOCKER_TIMEOUT:
			return LG_IDLE_TIMER;
		case LG_BLOCKER_TIMEOUT:
			return LG_ROOT_TIMER;
		case LG_QUEUED_BLOCKER_TIMEOUT:
			return LG_QUEUED_TIMER;
		case LG_QUEUE_YIELD_TIMEOUT:
			return LG_YIELD_TIMER;
		default:
			return -1;
	}
}

/*
 * A remedy has worked: begin the timers of limits anew, at "now" (monotonic ns).
 * An incident goes on as long as the session blocks others.
 */
void
lg_restart_block_time(LgBlockTime *time, int64 now)
{
	for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
		if (timer != LG_INCIDENT_TIMER && timer != LG_COUNT_TIMER)
		{
			time->time[timer] = 0;
			time->began[timer] = now;
			for (int i = 0; i < time->nheld; i++)
			{
				time->held[i].before[timer] = time->total[timer];
				time->held[i].began[timer] = now;
			}
		}
}

/*
 * A lock request has let others pass until "now" (monotonic ns): for how long it
 * has held others up is counted anew.
 */
void
lg_restart_yield_time(LgBlockTime *time, int64 now)
{
	time->time[LG_YIELD_TIMER] = 0;
	time->began[LG_YIELD_TIMER] = time->stands_since = now;
}

/* The timers of a process; at zero, if another had its PGPROC. */
static LgBlockTime *
block_time(LgBlockTime *times, int procno, int pid)
{
	LgBlockTime *time = &times[procno];
	int			occupant = lg_occupant(procno, pid);

	if (time->occupant != occupant)
	{
		memset(time, 0, sizeof(*time));
		time->occupant = occupant;
	}
	return time;
}

/*
 * Was a session in its transaction, or idle outside of one, before this look
 * began?  It has been read after the locks have.
 */
static bool
is_older_than_look(const LgSession *session, const LgClock *clock)
{
	if (session->xact_start != 0)
		return session->xact_start < clock->wall;
	return session->kind == LG_KIND_PREPARED ||
		(!LocalTransactionIdIsValid(session->lxid) && session->state == STATE_IDLE &&
		 session->state_start < clock->wall);
}

/*
 * Do the timers, as they stand, belong to what the root does now?  "since" is
 * the start of its oldest pair.
 *
 * A look first copies locks, and then reads in which transaction the session
 * is.  If that may have begun in between, the pairs may be those of the one
 * before, which has ended by now.  Then it is not sure whose they are until the
 * next look (and no harm is done: before a signal, the pair and the transaction
 * are proved together).  If the same pair is there then, it is of the new
 * transaction, or the lock is the session's.  Otherwise what was counted was the
 * old one's.
 */
static bool
is_confirmed(LgBlockTime *time, const LgSession *session, const LgClock *clock, int64 since)
{
	bool		confirmed = !time->unconfirmed || since <= time->confirmed_by;

	time->unconfirmed = false;
	if (time->lxid != session->lxid || time->seen == 0)
	{
		/* A pair from before the old one was seen last may be the session's. */
		if (since >= time->seen)
			confirmed = false;
		time->unconfirmed = !is_older_than_look(session, clock);
		time->confirmed_by = since;
		time->lxid = session->lxid;
	}
	return confirmed;
}

/*
 * Does a transaction keep such a lock until its end, unless it goes back to a
 * savepoint?  Others are released and taken again at any time.
 */
static bool
is_kept(const LOCKTAG *tag)
{
	switch (tag->locktag_type)
	{
		case LOCKTAG_RELATION:
		case LOCKTAG_OBJECT:
		case LOCKTAG_TRANSACTION:
		case LOCKTAG_VIRTUALTRANSACTION:
			return true;
		default:
			return false;
	}
}

/*
 * A root holds a lock, by that entry, which was waited for before.  Has it not
 * released it meanwhile, and taken it again?  "idle_since" is LG_NEVER if it does
 * not say that it is idle.
 */
static bool
has_held_on(const LgGraph *graph, const LgHeld *held, const LgSession *session,
			int64 idle_since, const void *proclock)
{
	/* While it is idle it cannot release anything. */
	if (idle_since <= held->waited_for)
		return true;
	if (!LocalTransactionIdIsValid(session->lxid) && session->kind == LG_KIND_CLIENT)
		return false;
	if (lg_wait_end(graph, held->waiter_procno, held->waiter_pid, held->waiter_seen,
					held->waiter_granted) == LG_GRANTED)
		return false;

	/* Once released, an entry is made anew, perhaps in another place. */
	return is_kept(&held->tag) && proclock == held->proclock;
}

/*
 * The first waiter that a hold of a root blocks; one that the look at "seen", or
 * one before it, has seen blocked already, if there is one: then *goes_on is set.
 */
static const LgWaiter *
blocked_waiter(const LgGraph *graph, const LgHolder *hold, int64 seen, bool *goes_on)
{
	const LgLock *lock = &graph->locks[hold->lock];
	const LgWaiter *first = NULL;
	LOCKMASK	old_modes = 0;

	for (int mode = 1; mode < LG_LOCKMODES; mode++)
		if ((hold->mask & LOCKBIT_ON(mode)) && hold->seen[mode] <= seen)
			old_modes |= LOCKBIT_ON(mode);
	*goes_on = false;
	for (int i = 0; i < lock->nwaiters && !*goes_on; i++)
	{
		const LgWaiter *waiter = &graph->waiters[lock->waiter + i];

		if ((lock->conflicts[waiter->mode] & hold->mask) == 0 || waiter->node == hold->node)
			continue;
		*goes_on = waiter->seen <= seen && (lock->conflicts[waiter->mode] & old_modes) != 0;
		if (first == NULL || *goes_on)
			first = waiter;
	}
	return first;
}

/* The entry of a lock among those that were waited for; NULL if it has none. */
static LgHeld *
find_held(LgBlockTime *time, const LOCKTAG *tag, int procno)
{
	for (int i = 0; i < time->nheld; i++)
		if (memcmp(&time->held[i].tag, tag, sizeof(LOCKTAG)) == 0 &&
			time->held[i].procno == procno)
			return &time->held[i];
	return NULL;
}

/*
 * Forget the locks that a root has released since they were waited for: those
 * that are contended now, by what this look has seen of them, and others by
 * looking for them.  If its transaction is "another" one, only those stay for
 * which a wait goes on.  May take partition locks, one at a time, shared.
 */
static void
forget_released(LgGraph *graph, LgNode *node, LgBlockTime *time, int64 idle_since, bool another)
{
	const LgSession *session = &node->known->session;
	bool		holds_on[LG_MAX_HELD] = {false};
	bool		looked[LG_MAX_HELD] = {false};
	int			kept = 0;

	for (int h = node->first_hold; h >= 0; h = graph->holders[h].next_of_node)
	{
		const LgHolder *hold = &graph->holders[h];
		LgHeld	   *held = find_held(time, &graph->locks[hold->lock].tag, hold->procno);
		bool		goes_on;

		if (held == NULL)
			continue;
		(void) blocked_waiter(graph, hold, time->seen, &goes_on);
		looked[held - time->held] = true;
		holds_on[held - time->held] = goes_on ||
			(!another && has_held_on(graph, held, session, idle_since, hold->proclock));
	}
	for (int i = 0; i < time->nheld; i++)
	{
		LgHeld	   *held = &time->held[i];

		if (!looked[i] && !another)
		{
			const void *proclock = lg_holds_lock(held->procno, held->pid, &held->tag,
												 held->proclock);

			holds_on[i] = proclock != NULL &&
				has_held_on(graph, held, session, idle_since, proclock);
		}
		if (holds_on[i])
			time->held[kept++] = *held;
	}
	time->nheld = kept;
}

/*
 * Room for one more lock; NULL if there is none.  It would not show more time than
 * those do that were waited for before it, as long as one of them is held.
 */
static LgHeld *
add_held(LgBlockTime *time)
{
	return time->nheld < LG_MAX_HELD ? &time->held[time->nheld++] : NULL;
}

/*
 * Note the locks that are waited for at this look.  "before" is what had been
 * counted in all before it; "from" is from when on time has been added.
 */
static void
note_held(LgGraph *graph, LgNode *node, LgBlockTime *time, const int64 *before, int64 from,
		  int64 now)
{
	const LOCKTAG *oldest = &graph->locks[graph->waiters[node->blame_waiter].lock].tag;

	for (int h = node->first_hold; h >= 0; h = graph->holders[h].next_of_node)
	{
		const LgHolder *hold = &graph->holders[h];
		const LOCKTAG *tag = &graph->locks[hold->lock].tag;
		LgHeld	   *held = find_held(time, tag, hold->procno);
		bool		goes_on;
		const LgWaiter *waiter = blocked_waiter(graph, hold, time->seen, &goes_on);

		if (waiter == NULL)
			continue;
		if (held == NULL)
		{
			/* All that was added is for the oldest pair. */
			bool		is_oldest = memcmp(tag, oldest, sizeof(LOCKTAG)) == 0;

			held = add_held(time);
			if (held == NULL)
				continue;
			for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
			{
				held->before[timer] = is_oldest ? before[timer] : time->total[timer];
				held->began[timer] = is_oldest ? from : now;
			}
			held->tag = *tag;
			held->procno = hold->procno;
			held->pid = hold->pid;
		}
		held->proclock = hold->proclock;
		held->waited_for = now;
		held->waiter_procno = waiter->procno;
		held->waiter_pid = waiter->pid;
		held->waiter_seen = waiter->seen;
		held->waiter_granted = lg_granted_waits(waiter->procno, waiter->pid, 0);
	}
}

/*
 * What does each timer of a root show?  What has come together since the first of
 * the locks was waited for that it has held ever since.
 */
static void
show_times(LgBlockTime *time)
{
	for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
	{
		if (LG_IS_QUEUE_TIMER(timer))
			continue;
		time->time[timer] = 0;
		time->rests_on[timer] = -1;
		for (int i = 0; i < time->nheld; i++)
		{
			const LgHeld *held = &time->held[i];

			if (time->rests_on[timer] < 0 ||
				time->total[timer] - held->before[timer] > time->time[timer])
			{
				time->rests_on[timer] = i;
				time->time[timer] = time->total[timer] - held->before[timer];
				time->began[timer] = held->began[timer];
			}
		}
	}
}

/* Begin a timer of a root anew: what has been counted up to now is forgotten. */
static void
begin_anew(LgBlockTime *time, int timer, int64 began)
{
	for (int i = 0; i < time->nheld; i++)
	{
		time->held[i].before[timer] = time->total[timer];
		time->held[i].began[timer] = began;
	}
}

/* Add what this look has seen of a root to its timers. */
static void
count_root(LgGraph *graph, LgNode *node, LgBlockTime *time, int64 now)
{
	int			procno = node - graph->nodes;
	const LgSession *session = &node->known->session;
	const LgWaitTrack *wait = &graph->wait_tracks[procno];
	bool		another = time->lxid != session->lxid;
	int64		idle_since = node->known->idle_since;
	int64		since = node->blame_since;
	int64		left_deadlock = wait->cycle_left;
	int64		own = wait->waited - time->waited;
	int64		gap = -1;		/* none */
	int64		before[LG_NUM_TIMERS];
	int64		from;
	int64		added;

	/* An escalation that has begun goes on through a deadlock. */
	if (graph->tracks[procno].open_action != 0 && graph->tracks[procno].pid == node->pid)
		left_deadlock = 0;

	if (!is_confirmed(time, session, graph->clock, since) || left_deadlock > time->counted_to)
		time->nheld = 0;
	forget_released(graph, node, time,
					lg_state_is_idle(session) ? idle_since : LG_NEVER, another);
	if (time->nheld == 0)
		time->counted_to = 0;
	since = Max(since, left_deadlock);

	if (since <= time->counted_to)
	{
		from = Max(time->counted_to, wait->member_ended);
		added = now - from - own;
	}
	else
	{
		/*
		 * What it has surely waited itself, less what that may be since this
		 * pair began.
		 */
		int64		own_surely = wait->surely_waited - time->surely_waited;
		int64		own_since = Max(Min(own_surely, wait->wait_ended - since), 0);

		from = Max(since, Max(wait->wait_ended, wait->member_ended));
		added = now - from;
		gap = time->counted_to == 0 ? LG_NEVER :
			since - time->counted_to - (own_surely - own_since);
	}

	memcpy(before, time->total, sizeof(before));
	for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
	{
		int64		more = added;

		if (LG_IS_QUEUE_TIMER(timer))
			continue;
		if (gap >= longest_gap((LgTimer) timer, &node->known->values))
			begin_anew(time, timer, from);
		if (timer == LG_IDLE_TIMER)
		{
			if (idle_since > time->counted_to)
				begin_anew(time, timer, idle_since == LG_NEVER ? now : Max(from, idle_since));
			more = idle_since == LG_NEVER ? 0 : Min(more, now - idle_since);
		}
		time->total[timer] += Max(more, 0);
	}
	note_held(graph, node, time, before, from, now);
	show_times(time);

	time->seen = graph->looked_at;
	time->counted_to = now;
	time->waited = wait->waited;
	time->surely_waited = wait->surely_waited;
}

/* Add what this look has seen of a queued blocker to its timers. */
static void
count_queued(LgGraph *graph, LgNode *node, LgBlockTime *time, int64 now)
{
	int			procno = node - graph->nodes;
	const LgWaiter *wait = lg_queued_wait(graph, node);
	const LgWaitTrack *track = &graph->wait_tracks[procno];
	int64		left_deadlock = track->pid == node->pid ? track->cycle_left : 0;
	int64		since;
	int64		from;
	bool		another;		/* wait, or out of a deadlock */

	/* Too young to have been walked? */
	if (wait == NULL)
		return;
	if (graph->tracks[procno].open_action != 0 && graph->tracks[procno].pid == node->pid)
		left_deadlock = 0;

	since = Max(Max(node->blame_since, wait->since), left_deadlock);
	another = Max(wait->since, left_deadlock) > time->queued_to;
	if (!another && since > time->queued_to)
		lg_load_node(graph, node);
	for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
	{
		if (!LG_IS_QUEUE_TIMER(timer))
			continue;
		if (another ||
			(since > time->queued_to &&
			 since - time->queued_to >= longest_gap((LgTimer) timer, &node->known->values)))
		{
			time->time[timer] = 0;
			time->began[timer] = since;
		}
		from = Max(since, time->queued_to);
		if (timer == LG_YIELD_TIMER)
			from = Max(from, time->stands_since);
		time->time[timer] += Max(now - from, 0);
	}
	time->queued_to = now;
}

/*
 * Bring the timers of all roots and queued blockers of the last look up to
 * date.  Returns until when the timers of roots go on if nothing waits for them
 * any more (monotonic ns; MOST_ATTENTION at most), so that waits which come by
 * then should not be missed.  May take partition locks, one at a time, shared.
 */
int64
lg_count_block_times(LgGraph *graph, LgBlockTime *times)
{
	int64		now = graph->clock->now;
	int64		attention = 0;

	for (int i = 0; i < graph->nactive; i++)
	{
		LgNode	   *node = &graph->nodes[graph->active[i]];
		LgBlockTime *time;

		if (node->blame_since == LG_NEVER || node->in_cycle)
			continue;
		time = block_time(times, graph->active[i], node->pid);
		if (node->waiting)
			count_queued(graph, node, time, now);
		else
		{
			count_root(graph, node, time, now);
			for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
				if (!LG_IS_QUEUE_TIMER(timer) && time->time[timer] > 0 &&
					(timer != LG_COUNT_TIMER ||
					 node->known->values.value[LG_MAX_BLOCKED_SESSIONS] > 0))
					attention = Max(attention,
									longest_gap((LgTimer) timer, &node->known->values));
		}
	}
	return now + Min(attention, MOST_ATTENTION);
}

/* What a timer of a root or queued blocker of the last look shows, in ns. */
int64
lg_block_time(const LgGraph *graph, const LgBlockTime *times, const LgNode *node,
			  LgTimer timer)
{
	int			procno = node - graph->nodes;

	return node->blame_since == LG_NEVER || node->in_cycle ||
		times[procno].occupant != lg_occupant(procno, node->pid) ? 0 :
		times[procno].time[timer];
}

/* The lock on which a root's timer rests; NULL if there is none. */
const LgHeld *
lg_block_time_rests_on(const LgBlockTime *time, LgTimer timer)
{
	return LG_IS_QUEUE_TIMER(timer) || time->nheld == 0 || time->rests_on[timer] < 0 ? NULL :
		&time->held[time->rests_on[timer]];
}

/* Does a root still hold a lock that was waited for?  Takes partition locks, shared. */
bool
lg_block_time_holds(const LgBlockTime *time)
{
	for (int i = 0; i < time->nheld; i++)
		if (lg_holds_lock(time->held[i].procno, time->held[i].pid, &time->held[i].tag,
						  time->held[i].proclock) != NULL)
			return true;
	return false;
}

/*
 * Does a timer of a root go on, although at this look no session waits for it?
 * So it is if it is in the same transaction as when it was counted last, holds
 * the lock, and this gap is not too long yet.  Takes partition locks, shared.
 */
bool
lg_block_time_goes_on(LgBlockTime *time, const LgSession *session, LgTimer timer,
					  const LgValues *values, int64 now)
{
	return time->occupant == lg_occupant(session->procno, session->pid) &&
		time->counted_to != 0 &&
		time->lxid == session->lxid &&
		now - time->counted_to < longest_gap(timer, values) &&
		lg_block_time_holds(time);
}
