/*-------------------------------------------------------------------------
 *
 * record.c
 *		What lockguard did, in shared memory.
 *
 * The last max_history actions are kept in a ring; the oldest makes room for
 * the newest.  LgShared->lock protects the ring; it is held for the copy of
 * one row only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lockguard.h"
#include "record.h"

/* Where a row is or was; the caller checks that it still is that row. */
static LgAction *
row(int64 action_id)
{
	return &lg_shared->actions[action_id % lg_max_history];
}

/* Count an outcome; the caller holds the lock exclusively. */
static void
count(const LgAction *action, LgResult result)
{
	LgStats    *stats = &lg_shared->stats;

	switch (result)
	{
		case LG_PENDING:
			if (action->action == LG_DO_CANCEL)
				stats->cancels++;
			else if (action->action == LG_DO_TERMINATE)
				stats->terminations++;
			else if (action->action == LG_DO_ROLLBACK)
				stats->rollbacks++;
			break;
		case LG_SELF_RESOLVED:
			stats->self_resolved++;
			break;
		case LG_UNRESPONSIVE:
			stats->unresponsive++;
			break;
		case LG_SUPPRESSED:
			stats->suppressed++;
			break;
		case LG_LOGGED:
			stats->logged++;
			break;
		default:
			break;
	}
}

/*
 * Add a row.  Its action_id is filled in and returned.  Takes the lock.
 */
int64
lg_record_action(LgAction *action)
{
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	action->action_id = lg_shared->next_action_id++;
	action->open.action_id = action->action_id;
	if (lg_shared->next_action_id - lg_shared->first_action_id > lg_max_history)
		lg_shared->first_action_id = lg_shared->next_action_id - lg_max_history;
	*row(action->action_id) = *action;
	count(action, action->result);
	LWLockRelease(lg_shared->lock);
	return action->action_id;
}

/*
 * Change the result of a row, if it is still kept.  released_after is in us,
 * or -1.  Takes the lock.
 */
void
lg_record_result(int64 action_id, LgResult result, int64 released_after)
{
	LgAction   *action = row(action_id);

	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	if (action_id >= lg_shared->first_action_id && action->action_id == action_id)
	{
		action->result = result;
		action->open.unresponsive = result == LG_UNRESPONSIVE;
		if (released_after >= 0)
			action->released_after = released_after;
	}
	if (result != LG_PENDING)
		count(action, result);
	LWLockRelease(lg_shared->lock);
}

/* Copy a row; false if it is not kept any more.  Takes the lock, shared. */
bool
lg_fetch_action(int64 action_id, LgAction *action)
{
	bool		found;

	LWLockAcquire(lg_shared->lock, LW_SHARED);
	found = action_id >= lg_shared->first_action_id &&
		action_id < lg_shared->next_action_id;
	if (found)
		*action = *row(action_id);
	LWLockRelease(lg_shared->lock);
	return found;
}

/* The ids kept: from *first to before *next.  Takes the lock, shared. */
void
lg_action_range(int64 *first, int64 *next)
{
	LWLockAcquire(lg_shared->lock, LW_SHARED);
	*first = lg_shared->first_action_id;
	*next = lg_shared->next_action_id;
	LWLockRelease(lg_shared->lock);
}

const char *
lg_result_name(LgResult result)
{
	static const char *const names[] = {
		[LG_PENDING] = "pending",
		[LG_RELEASED] = "released",
		[LG_ESCALATED] = "escalated",
		[LG_SELF_RESOLVED] = "self_resolved",
		[LG_UNRESPONSIVE] = "unresponsive",
		[LG_SUPPRESSED] = "suppressed",
		[LG_LOGGED] = "logged",
		[LG_EXEMPTED] = "exempt",
		[LG_PROTECTED] = "protected",
		[LG_FAILED] = "failed"
	};

	return names[result];
}
