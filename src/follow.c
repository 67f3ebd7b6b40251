/*-------------------------------------------------------------------------
 *
 * follow.c
 *		Follows signals until their outcome is known: released, escalated, or
 *		unresponsive.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/proc.h"
#include "utils/timestamp.h"

#include "brakes.h"
#include "compat.h"
#include "enforce.h"
#include "follow.h"
#include "judge.h"
#include "limit.h"
#include "look.h"
#include "proof.h"
#include "record.h"
#include "rollback.h"
#include "session.h"
#include "settings.h"
#include "text.h"
#include "types.h"
#include "waitgraph.h"

/* A signalled session that is still there after this long. */
#define UNRESPONSIVE_AFTER	(10 * LG_NANOS_PER_SEC)
#define REPEAT_AFTER		(60 * LG_NANOS_PER_SEC)

/* An idle session that has been asked to roll back does so within this. */
#define ANSWERS_WITHIN		LG_NANOS_PER_SEC

/* Add a signal to those whose outcome is followed; returns its entry. */
LgOpen *
lg_follow_add(LgView *view, LgFollow *list, const LgOpen *open)
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
 * Take over signals that other processes have sent, or this one before an error.
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
			action.pid != 0 && action.action != LG_DO_YIELD)
			lg_follow_add(view, list, &action.open)->adopted = true;
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

/* Has the wait that a signal was about not ended yet? */
static bool
wait_lasts(const LgOpen *open)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[open->wait_procno];

	return ((volatile PGPROC *) proc)->waitLock != NULL &&
		(TimestampTz) pg_atomic_read_u64(&proc->waitStart) == open->wait_start;
}

/*
 * The timer by which it is known whether a session has blocked others ever since
 * it was signalled; -1 = there is none.
 */
static int
timer_of_signal(const LgOpen *open)
{
	return open->limit == LG_MAX_BLOCKED_SESSIONS ? LG_COUNT_TIMER : lg_timer_of(open->limit);
}

/*
 * The node of a session that still blocks what it blocked when it was signalled,
 * or NULL.  If there had been no look by then, it may have blocked before the
 * first look that shows it.
 */
static LgNode *
blocking_node(LgView *view, const LgOpen *open)
{
	LgNode	   *node = view->looked ? lg_node(view->graph, open->procno) : NULL;
	int			timer = timer_of_signal(open);
	int64		since;

	if (node == NULL || node->blocking_since == LG_NEVER)
		return NULL;
	since = timer >= 0 && view->times[open->procno].occupant == open->pid ?
		view->times[open->procno].began[timer] : node->blocking_since;
	return since > open->acted_at && !open->adopted ? NULL : node;
}

/*
 * No session waits now for one that was signalled.  Does it still hold what it
 * was signalled for, so that the next one that comes will have to wait?  That is
 * believed for as long as its limit.  "now" is what it does.
 */
static bool
is_between_waits(LgView *view, const LgOpen *open, const LgSession *now)
{
	int			timer = timer_of_signal(open);
	LgBlockTime *time = &view->times[open->procno];
	LgNode	   *node = view->looked ? lg_node(view->graph, open->procno) : NULL;
	LgValues	values;

	if (timer < 0 || LG_IS_QUEUE_TIMER(timer))
		return false;
	if (node != NULL && node->blame_since != LG_NEVER && !node->waiting)
		return false;			/* it blocks others, but by another lock */
	if (time->began[timer] > open->acted_at)
		return false;
	lg_settings_of_session(open->procno, open->pid, open->session_start,
						   &view->server, &values);
	return lg_block_time_goes_on(time, now, (LgTimer) timer, &values, view->clock.now);
}

/*
 * A session that was signalled while it waited no longer waits.  Is it undoing
 * its statement, and does it block others until that is done?  To signal those
 * behind it would be in vain.  "now" is what it does, in the same transaction as
 * then.
 */
static bool
is_undoing(LgView *view, const LgOpen *open, const LgSession *now)
{
	LgNode	   *node = blocking_node(view, open);

	return node != NULL && !node->waiting && now->stmt_start == open->stmt_start &&
		!lg_state_is_idle(now) && view->clock.now - open->acted_at < UNRESPONSIVE_AFTER;
}

/*
 * Does the session still block, or is it otherwise over its limit as before?
 * If it is over the limit, the verdict is filled in, for a repetition or an
 * escalation.
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
	 * Its transaction is over.  But a session at the very end of it may still
	 * hold its locks.  And it may hold locks of the session: if those block
	 * others, or are too many, the session is to blame, whether or not it has
	 * begun another transaction.
	 */
	if (LocalTransactionIdIsValid(open->lxid) && now.lxid != open->lxid)
	{
		bool		another = LocalTransactionIdIsValid(now.lxid);
		bool		blocks = lg_limit_is_about_blocking(open->limit);

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
			return *over = wait_lasts(open) &&
				lg_preempt_again(view, open->wait_procno, open->procno, verdict);
		*over = lg_judge_again(view, open->procno, open->limit, verdict);
		return true;
	}

	if (open->wait_start != 0 && !wait_lasts(open))
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

	node = blocking_node(view, open);
	if (node == NULL)
		return is_between_waits(view, open, &now);
	if (open->limit != LG_NO_LIMIT)
		*over = lg_judge_again(view, open->procno, open->limit, verdict);
	else
	{
		lg_load_node(view->graph, node);
		memset(verdict, 0, sizeof(*verdict));
		verdict->session = node->known->session;
		verdict->limit = LG_NO_LIMIT;
		verdict->action = open->action;
		verdict->by_hand = true;
		verdict->brake = lg_session_brake(&node->known->session, &node->known->values);
		verdict->proof = LG_PROVE_BLOCKS;
		verdict->still.evidence = lg_evidence(view->graph, node);
		*over = true;
	}
	return true;
}

/* What comes after a remedy that has not helped. */
static LgActionKind
next_remedy(const LgOpen *open, const LgVerdict *verdict)
{
	return verdict->brake == LG_NO_BRAKE && verdict->action > open->action ?
		verdict->action : LG_DO_TERMINATE;
}

/*
 * Take the next remedy, as one has not helped.  Returns true if the signal was
 * sent, and is followed from now on.
 */
static bool
escalate(LgView *view, LgFollow *list, const LgOpen *open, LgVerdict *verdict)
{
	LgOpen		signal;

	if (verdict->brake == LG_NO_BRAKE)
	{
		verdict->action = next_remedy(open, verdict);
		verdict->escalation = true;
		verdict->still.idle = verdict->still.unreachable = false;
	}
	if (!lg_carry_out(view, verdict, NULL, &signal))
		return false;
	(void) lg_follow_add(view, list, &signal);
	lg_record_result(open->action_id, LG_ESCALATED, -1);
	return true;
}

/*
 * Has a session that was asked to roll back begun to?  If not, the request is
 * withdrawn, so that it will not.
 */
static bool
has_obeyed(const LgOpen *open)
{
	return !lg_withdraw_rollback(open->procno, open->lxid) &&
		lg_rollback_state(open->procno, open->pid, open->lxid) >= LG_ROLLBACK_BEGUN;
}

/*
 * Has a session that was asked to roll back not begun to?  Once it has, that is
 * remembered: in its slot, the next request takes the place of this one.
 */
static bool
is_unanswered(LgOpen *open)
{
	if (open->action != LG_DO_ROLLBACK || open->obeyed)
		return false;
	if (lg_awaits_rollback(open))
		return true;
	open->obeyed = true;
	lg_record_obeyed(open->action_id);
	return false;
}

/* Is it just doing so? */
static bool
is_rolling_back(const LgOpen *open)
{
	return open->action == LG_DO_ROLLBACK &&
		lg_rollback_state(open->procno, open->pid, open->lxid) == LG_ROLLBACK_BEGUN;
}

/* Record and log that a session has not reacted to a signal for too long. */
static void
becomes_unresponsive(LgOpen *open, int64 now)
{
	bool		repeats = open->action != LG_DO_ROLLBACK || is_unanswered(open);

	open->unresponsive = true;
	open->repeated_at = now;
	lg_record_result(open->action_id, LG_UNRESPONSIVE, -1);
	ereport(WARNING,
			(open->action == LG_DO_CANCEL ?
			 errmsg("lockguard: process %d is still over its limit 10 s after its statement was cancelled",
					open->pid) :
			 open->action == LG_DO_TERMINATE ?
			 errmsg("lockguard: process %d has not reacted to being terminated for 10 s",
					open->pid) :
			 repeats ?
			 errmsg("lockguard: process %d has not rolled its transaction back for 10 s",
					open->pid) :
			 errmsg("lockguard: process %d is still over its limit 10 s after its transaction was rolled back",
					open->pid),
			 repeats ? errdetail("The signal is repeated once a minute.") : 0));
}

/* Send the signal of an unresponsive session once more. */
static void
repeat_signal(LgOpen *open, LgVerdict *verdict, int64 now)
{
	TimestampTz at;

	open->repeated_at = now;
	verdict->action = open->action;
	verdict->escalation = true;
	lg_cap_count(now);
	(void) lg_prove_and_signal(verdict, NULL, &at);
}

/*
 * Is a session that was asked to roll back no longer in that idle period?  (If it
 * does not report its state, that cannot be told.)
 */
static bool
has_gone_on(const LgOpen *open)
{
	LgSession	now;

	lg_read_session(open->procno, &now);
	return now.pid == open->pid && open->state_start != 0 &&
		now.state_start != open->state_start;
}

/* A session has gone on just when it was asked to roll its transaction back. */
static void
note_missed(LgTrack *track, const LgOpen *open)
{
	if (track->missed_lxid != open->lxid)
		track->missed = 0;
	track->missed_lxid = open->lxid;
	track->missed++;
}

/* Why a session has not rolled back, though it was asked to. */
static LgBrake
why_not_obeyed(LgView *view, const LgOpen *open, bool withdrawn)
{
	LgBrake		brake = withdrawn ? lg_standing_brake(view->clock.now) : LG_NO_BRAKE;
	LgSession	now;

	if (brake != LG_NO_BRAKE)
		return brake;
	lg_read_session(open->procno, &now);
	if (withdrawn && now.pid == open->pid && lg_is_exempt(&now))
		return LG_BRAKE_EXEMPT;
	return !withdrawn && now.pid == open->pid && now.state_start == open->state_start &&
		now.lxid == open->lxid ? LG_BRAKE_RELEASED : LG_BRAKE_CHANGED;
}

/*
 * A signal has had its effect, or, with a reason, nothing has come of it and it is
 * not needed any more: record that.
 */
static void
close_signal(LgView *view, const LgOpen *open, LgBrake why)
{
	LgTrack    *track = &view->tracks[open->procno];
	int64		now = view->clock.now;
	int64		age = now - open->acted_at;

	if (why == LG_NO_BRAKE)
		lg_record_result(open->action_id, LG_RELEASED, Max(age, 0) / 1000);
	else
	{
		lg_record_reason(open->action_id, lg_brake_text(why, LG_KIND_CLIENT));
		lg_record_result(open->action_id, lg_brake_result(why), -1);
	}
	if (track->open_action == open->action_id ||
		track->open_action == -open->action_id)
		track->open_action = 0;
	track->released_at = now;
	if (why == LG_NO_BRAKE && view->times[open->procno].occupant == open->pid &&
		lg_limit_is_about_blocking(open->limit))
		lg_restart_block_time(&view->times[open->procno], now);
}

/*
 * May the next remedy follow a signal, of a session that is over its limit, by its
 * own "action" setting?
 */
static bool
can_escalate(const LgOpen *open, const LgVerdict *verdict, const LgValues *values)
{
	return open->action != LG_DO_TERMINATE && open->limit != LG_NO_LIMIT &&
		lg_limits[open->limit].remedies == LG_MILDEST_FIRST &&
		next_remedy(open, verdict) <= (LgActionKind) values->value[LG_ACTION];
}

/*
 * See what has come of one signal: released, to be escalated, or unresponsive.
 * Returns true if its outcome is still open.
 */
static bool
follow_up_one(LgView *view, LgFollow *list, LgOpen *open, int64 *next_due)
{
	LgTrack    *track = &view->tracks[open->procno];
	LgVerdict	verdict;
	LgValues	values;
	bool		over;
	bool		is_open;
	bool		unanswered = is_unanswered(open);
	bool		withdrawn = unanswered &&
		lg_rollback_state(open->procno, open->pid, open->lxid) == LG_NOT_ASKED;
	bool		escalates = false;
	int64		now = view->clock.now;
	int64		age = now - open->acted_at;
	int64		delay;

	lg_settings_of_session(open->procno, open->pid, open->session_start,
						   &view->server, &values);
	delay = values.value[LG_ESCALATION_DELAY] * LG_NANOS_PER_MS;
	is_open = still_open(view, open, &verdict, &over);
	if (over)
		open->over_at = now;

	/* How many wait may change with each that gives up and comes again. */
	if (open->limit == LG_MAX_BLOCKED_SESSIONS && !over &&
		now - Max(open->over_at, open->acted_at) >= delay)
		is_open = false;

	/*
	 * A request comes to nothing if the session has gone on meanwhile, or if
	 * another process has withdrawn it; then it may be made anew.  One that
	 * does not answer and is over no limit by now was not where it can.  (A
	 * new worker does not know yet which limit it is over.)
	 */
	if (unanswered &&
		(!is_open || withdrawn || has_gone_on(open) ||
		 (!over && age >= ANSWERS_WITHIN && !open->adopted)))
	{
		unanswered = !has_obeyed(open);
		if (unanswered)
			is_open = false;
	}
	if (!is_open)
	{
		LgBrake		why = unanswered ? why_not_obeyed(view, open, withdrawn) : LG_NO_BRAKE;

		if (why == LG_BRAKE_CHANGED && has_gone_on(open))
			note_missed(track, open);
		close_signal(view, open, why);
		return false;
	}
	if (unanswered)
		delay = ANSWERS_WITHIN;

	if (over && !is_rolling_back(open) && can_escalate(open, &verdict, &values))
	{
		escalates = age < delay;
		if (escalates)
			*next_due = Min(*next_due, open->acted_at + delay);
		else if (!(unanswered && has_obeyed(open)) &&
				 escalate(view, list, open, &verdict))
			return false;
	}

	/*
	 * A signal that nothing can follow has had its time: other limits, and
	 * others of the tree, need not wait for it.
	 */
	if (open->action != LG_DO_TERMINATE && !escalates && age >= delay &&
		track->open_action == open->action_id)
		track->open_action = -open->action_id;

	if (!open->unresponsive && !escalates && age >= UNRESPONSIVE_AFTER)
	{
		becomes_unresponsive(open, now);
		track->open_action = -open->action_id;
	}
	else if (open->unresponsive && over && now - open->repeated_at >= REPEAT_AFTER &&
			 (open->action != LG_DO_ROLLBACK || unanswered) &&
			 verdict.brake == LG_NO_BRAKE &&
			 lg_server_brake(now, open->limit) == LG_NO_BRAKE)
		repeat_signal(open, &verdict, now);
	return true;
}

/*
 * See what has come of the signals that are open.  Escalations are carried out
 * here.
 */
void
lg_follow_up(LgView *view, LgFollow *list, LgVerdicts *verdicts)
{
	int			kept = 0;
	int			n = list->n;

	for (int i = 0; i < n; i++)
	{
		/* A copy: the list may grow meanwhile, and move. */
		LgOpen		open = list->open[i];

		if (follow_up_one(view, list, &open, &verdicts->next_due))
			list->open[kept++] = open;
	}

	/* Escalations that were added meanwhile stand behind. */
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
