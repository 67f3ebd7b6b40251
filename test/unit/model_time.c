/*-------------------------------------------------------------------------
 *
 * model_time.c
 *		For how long in all sessions have waited for another, by the definition.
 *
 * All that has happened is known here, between looks, too.  What is counted
 * for a session may never be more than the time for which at least one other
 * has truly waited for it since it began anew.  Nor may it be less than what
 * two looks, one after the other, have seen of the same waits.  (Only the
 * session's own waits are left out of account as far as no look has seen them.)
 *
 *-------------------------------------------------------------------------
 */
#include "model_time.h"

#include "model.h"

#define MAX_LOCKS	32

/* A session, as it has been since the last event. */
typedef struct Now
{
	int			pid;
	LocalTransactionId lxid;
	int64		idle_since;		/* by the wall clock; 0 = not idle */
	bool		waits;
	bool		waits_for_row;
	bool		blocks;
	bool		to_blame;		/* if it waits itself */
	bool		in_cycle;
	LOCKMASK	held[MAX_LOCKS];
}			Now;

/* What has come together since something was first waited for. */
typedef struct Part
{
	bool		waited;			/* it has been, and is held ever since */
	int64		time[LG_NUM_TIMERS];
	int64		unseen[LG_NUM_TIMERS];	/* of that, in its own wait until that
										 * is seen */
	int64		in_cycle[LG_NUM_TIMERS];	/* by the end of a deadlock */
}			Part;

/* One part for each lock, and one for what a queued blocker waits for. */
#define QUEUED		MAX_LOCKS
#define NUM_PARTS	(MAX_LOCKS + 1)

/* What has come together, and what a look may have made of it. */
typedef struct Sum
{
	/* At most: */
	Part		part[NUM_PARTS];
	int64		gap[LG_NUM_TIMERS]; /* for so long no session has waited for
									 * it */
	bool		wait_seen;		/* its own present wait, by a look */
	bool		seen_in_cycle;

	/* At least: */
	int64		least[LG_NUM_TIMERS];
	int64		counted[LG_NUM_TIMERS]; /* last look that had to count; 0 =
										 * none */
	bool		changed[LG_NUM_TIMERS]; /* since then, so that it may begin
										 * anew */
	bool		interrupted[LG_NUM_TIMERS]; /* since the last look */
}			Sum;

static int	n;
static int	nlocks;
static LOCK *const *locks;
static int64 at;
static int64 last_look;
static Now now[MAX_NODES];
static Sum sums[MAX_NODES];
static Model model;

/* The present wait of each, and since when it has been one for the other. */
static bool waits_now[MAX_NODES];
static TimestampTz wait_start[MAX_NODES];
static bool pair[MAX_NODES][MAX_NODES]; /* blocker, waiter */
static bool pair_to_blame[MAX_NODES][MAX_NODES];
static bool seen[MAX_NODES][MAX_NODES]; /* at the last look, and ever since */

static int64
limit_of(int procno, LgTimer timer)
{
	const LgValues *values = values_of(procno);

	switch (timer)
	{
		case LG_IDLE_TIMER:
			return values->value[LG_IDLE_BLOCKER_TIMEOUT] * MS;
		case LG_ROOT_TIMER:
			return values->value[LG_BLOCKER_TIMEOUT] * MS;
		case LG_QUEUED_TIMER:
			return values->value[LG_QUEUED_BLOCKER_TIMEOUT] * MS;
		case LG_YIELD_TIMER:
			return values->value[LG_QUEUE_YIELD_TIMEOUT] * MS;
		case LG_COUNT_TIMER:
			return Max(DeadlockTimeout, values->value[LG_ESCALATION_DELAY]) * MS;
		default:
			return lg_incident_threshold * MS;
	}
}

static void
begins_anew(Sum * sum, LgTimer timer)
{
	for (int p = 0; p < NUM_PARTS; p++)
		sum->part[p].time[timer] = sum->part[p].unseen[timer] = sum->part[p].in_cycle[timer] = 0;
	sum->changed[timer] = true;
}

/* A lock is not waited for any more, or has been released. */
static void
forget(Sum * sum, int lock)
{
	memset(&sum->part[lock], 0, sizeof(Part));
	for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
		if (!LG_IS_QUEUE_TIMER(timer))
			sum->changed[timer] = true;
}

static void
add(Sum * sum, LgTimer timer, int64 passed, bool unseen)
{
	for (int p = 0; p < NUM_PARTS; p++)
		if (LG_IS_QUEUE_TIMER(timer) ? p == QUEUED : sum->part[p].waited)
		{
			sum->part[p].time[timer] += passed;
			if (unseen)
				sum->part[p].unseen[timer] += passed;
		}
}

/* Does this timer go by those that wait for it now, and does it go on? */
static bool
is_waited_for(int i, LgTimer timer)
{
	return LG_IS_QUEUE_TIMER(timer) ? now[i].to_blame : now[i].blocks;
}

static bool
goes_on(int i, LgTimer timer)
{
	return LG_IS_QUEUE_TIMER(timer) ? now[i].waits : !now[i].waits;
}

/* Nothing has changed since the last event: count the time up to now. */
void
before_event(void)
{
	int64		passed = clock_ns - at;

	at = clock_ns;
	for (int i = 0; i < n && passed > 0; i++)
		for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
		{
			Sum		   *sum = &sums[i];

			if (!is_waited_for(i, timer))
			{
				if (goes_on(i, timer))
					sum->gap[timer] += passed;
				continue;
			}
			if (sum->gap[timer] > 0 && sum->gap[timer] >= limit_of(i, timer))
				begins_anew(sum, timer);
			sum->gap[timer] = 0;
			if (timer == LG_IDLE_TIMER && now[i].idle_since == 0)
				continue;

			/* A wait of its own that no look sees cannot be known of. */
			if (goes_on(i, timer) || (!LG_IS_QUEUE_TIMER(timer) && !sum->wait_seen))
				add(sum, timer, passed, !goes_on(i, timer));
		}
}

static void
read_session(int i, Now * new)
{
	PGPROC	   *proc = proc_of(i);
	BackendState state = status_of(i)->st_state;

	memset(new, 0, sizeof(*new));
	new->pid = proc->pid;
	new->lxid = lg_proc_lxid(proc);
	if (state == STATE_IDLE || state == STATE_IDLEINTRANSACTION ||
		state == STATE_IDLEINTRANSACTION_ABORTED)
		new->idle_since = status_of(i)->st_state_start_timestamp;
	new->waits = proc->waitLock != NULL;
	new->waits_for_row = model.waits_for_row[i];
	new->in_cycle = model.ahead[i][i];
	for (int l = 0; l < nlocks; l++)
		new->held[l] = held_by(locks[l], i);
}

/*
 * What has happened to one session, and what it has done.  "goes_on" says for
 * which locks a wait goes on.
 */
static void
note_changes(int i, const Now * new, const bool *goes_on)
{
	Now		   *old = &now[i];
	Sum		   *sum = &sums[i];

	if (old->pid != new->pid)
		memset(sum, 0, sizeof(*sum));

	/* Another transaction: only a wait that goes on is for it, too. */
	if (old->lxid != new->lxid)
	{
		for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
			sum->changed[timer] = sum->interrupted[timer] = true;
		for (int l = 0; l < nlocks; l++)
			if (!goes_on[l])
				forget(sum, l);
	}

	/* It has released what was waited for, or other locks. */
	for (int l = 0; l < nlocks; l++)
	{
		if (old->held[l] & ~new->held[l])
			for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
				sum->changed[timer] = true;
		if (new->held[l] == 0 && sum->part[l].waited)
			forget(sum, l);
	}

	if (old->idle_since != new->idle_since)
	{
		begins_anew(sum, LG_IDLE_TIMER);
		sum->interrupted[LG_IDLE_TIMER] = true;
	}

	if (!new->waits || !sum->wait_seen)
	{
		sum->wait_seen = false;
		for (int p = 0; p < NUM_PARTS; p++)
			memset(sum->part[p].unseen, 0, sizeof(sum->part[p].unseen));
	}

	/* Its own wait, from which a root's timer is not counted exactly. */
	if (old->waits != new->waits || new->waits)
		for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
			if (!LG_IS_QUEUE_TIMER(timer))
				sum->changed[timer] = sum->interrupted[timer] = true;

	if (new->in_cycle)
		for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
			sum->changed[timer] = sum->interrupted[timer] = true;
	if (old->in_cycle && !new->in_cycle && sum->seen_in_cycle)
		for (int p = 0; p < NUM_PARTS; p++)
			memcpy(sum->part[p].in_cycle, sum->part[p].time, sizeof(sum->part[p].time));
}

/* Something has happened, at this moment. */
void
after_event(void)
{
	bool		same[MAX_NODES][MAX_NODES] = {{false}};

	make_model(&model, n);
	for (int waiter = 0; waiter < n; waiter++)
	{
		bool		goes_on = waits_now[waiter] && proc_of(waiter)->waitLock != NULL &&
			wait_start[waiter] == wait_start_of(waiter);

		for (int i = 0; i < n; i++)
		{
			same[i][waiter] = goes_on && pair[i][waiter] && model.blocks[i][waiter];
			seen[i][waiter] &= same[i][waiter];
			pair[i][waiter] = model.blocks[i][waiter];
			pair_to_blame[i][waiter] = model.blocks[i][waiter] &&
				(!model.waits_for_row[i] || !is_row(proc_of(waiter)->waitLock));
		}
		if (!goes_on)
		{
			begins_anew(&sums[waiter], LG_QUEUED_TIMER);
			begins_anew(&sums[waiter], LG_YIELD_TIMER);
			sums[waiter].interrupted[LG_QUEUED_TIMER] = true;
			sums[waiter].interrupted[LG_YIELD_TIMER] = true;
		}
		waits_now[waiter] = proc_of(waiter)->waitLock != NULL;
		wait_start[waiter] = wait_start_of(waiter);
	}
	for (int i = 0; i < n; i++)
	{
		bool		goes_on_waiting[MAX_LOCKS] = {false};
		Now			new;

		for (int waiter = 0; waiter < n; waiter++)
			for (int l = 0; l < nlocks && same[i][waiter]; l++)
				goes_on_waiting[l] |= locks[l] == proc_of(waiter)->waitLock;
		read_session(i, &new);
		note_changes(i, &new, goes_on_waiting);
		for (int waiter = 0; waiter < n; waiter++)
		{
			new.blocks |= pair[i][waiter];
			new.to_blame |= pair_to_blame[i][waiter];
			for (int l = 0; l < nlocks && pair[i][waiter]; l++)
				if (locks[l] == proc_of(waiter)->waitLock && new.held[l] != 0)
					sums[i].part[l].waited = true;
		}
		new.to_blame &= new.waits;
		now[i] = new;
	}
}

/* At least this, as a look at this moment has to know. */
static void
note_least(int i, LgTimer timer)
{
	Sum		   *sum = &sums[i];
	bool		seen_before = false;

	if (!is_waited_for(i, timer) || !goes_on(i, timer) || now[i].in_cycle ||
		(timer == LG_IDLE_TIMER && now[i].idle_since == 0))
		return;
	for (int waiter = 0; waiter < n; waiter++)
		seen_before |= seen[i][waiter] &&
			(!LG_IS_QUEUE_TIMER(timer) || pair_to_blame[i][waiter]);

	/* Such a lock may have been released and taken again. */
	for (int l = 0; l < nlocks; l++)
		if (now[i].held[l] != 0 && locks[l]->tag.locktag_type != LOCKTAG_RELATION &&
			locks[l]->tag.locktag_type != LOCKTAG_OBJECT &&
			locks[l]->tag.locktag_type != LOCKTAG_TRANSACTION)
			sum->changed[timer] = true;

	if (sum->changed[timer] || sum->counted[timer] == 0 ||
		clock_ns - sum->counted[timer] >= limit_of(i, timer))
		sum->least[timer] = 0;
	else if (seen_before && !sum->interrupted[timer] && sum->counted[timer] == last_look)
		sum->least[timer] += clock_ns - last_look;
	sum->counted[timer] = clock_ns;
	sum->changed[timer] = false;
}

/*
 * The deadlock detector has put a waiter ahead of others: those have waited for it
 * since the next look.
 */
void
order_changed(void)
{
	for (int i = 0; i < n; i++)
		sums[i].interrupted[LG_QUEUED_TIMER] = sums[i].interrupted[LG_YIELD_TIMER] = true;
}

/* There has been a look at this moment, at all waits. */
void
after_look(void)
{
	for (int i = 0; i < n; i++)
	{
		Sum		   *sum = &sums[i];

		/* Out of a deadlock, without the server's error. */
		if (sum->seen_in_cycle && !now[i].in_cycle)
		{
			bool		error = !now[i].waits &&
				proc_of(i)->waitStatus == PROC_WAIT_STATUS_ERROR;

			for (int timer = 0; timer < LG_NUM_TIMERS && !error; timer++)
			{
				for (int p = 0; p < NUM_PARTS; p++)
					sum->part[p].time[timer] -= sum->part[p].in_cycle[timer];
				sum->changed[timer] = true;
			}
		}
		sum->seen_in_cycle = now[i].in_cycle;
		if (now[i].waits && !sum->wait_seen)
		{
			sum->wait_seen = true;
			for (int p = 0; p < NUM_PARTS; p++)
				for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
				{
					sum->part[p].time[timer] -= sum->part[p].unseen[timer];
					sum->part[p].unseen[timer] = 0;
				}
		}
		for (int p = 0; p < NUM_PARTS; p++)
			memset(sum->part[p].in_cycle, 0, sizeof(sum->part[p].in_cycle));
		for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
		{
			note_least(i, timer);
			sum->interrupted[timer] = false;
		}
		for (int waiter = 0; waiter < n; waiter++)
			seen[i][waiter] = pair[i][waiter];
	}
	last_look = clock_ns;
}

/* What a timer may show at most, if the session blocks others now. */
int64
most_time(int procno, LgTimer timer)
{
	int64		most = 0;

	for (int p = 0; p < NUM_PARTS; p++)
		if (LG_IS_QUEUE_TIMER(timer) ? p == QUEUED : sums[procno].part[p].waited)
			most = Max(most, sums[procno].part[p].time[timer]);
	return most;
}

/* What it has to show at least; 0 if it does not block others now. */
int64
least_time(int procno, LgTimer timer)
{
	return is_waited_for(procno, timer) && goes_on(procno, timer) && !now[procno].in_cycle &&
		(timer != LG_IDLE_TIMER || now[procno].idle_since != 0) ?
		sums[procno].least[timer] : 0;
}

/* Of the sessions with a procno below nprocs, and all locks that there will be. */
void
time_begins(int nprocs, LOCK *const *all_locks, int number)
{
	n = nprocs;
	locks = all_locks;
	nlocks = number;
	at = clock_ns;
	last_look = 0;
	memset(now, 0, sizeof(now));
	memset(sums, 0, sizeof(sums));
	memset(waits_now, 0, sizeof(waits_now));
	memset(pair, 0, sizeof(pair));
	memset(seen, 0, sizeof(seen));
	after_event();
}
