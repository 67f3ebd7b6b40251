/*-------------------------------------------------------------------------
 *
 * brakes.c
 *		May anything be done to a session, or at all, now?
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "brakes.h"
#include "clock.h"
#include "limit.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "types.h"

/* The result that is recorded of that; LG_PENDING for LG_NO_BRAKE. */
LgResult
lg_brake_result(LgBrake brake)
{
	switch (brake)
	{
		case LG_NO_BRAKE:
			return LG_PENDING;
		case LG_BRAKE_KIND:
		case LG_BRAKE_COMMITTING:
		case LG_BRAKE_DROPPING:
			return LG_PROTECTED;
		case LG_BRAKE_EXEMPT_SETTING:
		case LG_BRAKE_EXEMPT:
			return LG_EXEMPTED;
		case LG_BRAKE_ACTION_LOG:
		case LG_BRAKE_ACTION_CANCEL:
		case LG_BRAKE_ACTION_ROLLBACK:
		case LG_BRAKE_OUT_OF_REACH:
		case LG_BRAKE_PREPARED_ACTION_LOG:
		case LG_BRAKE_IN_VAIN:
		case LG_BRAKE_DRY_RUN:
		case LG_BRAKE_PAUSED:
			return LG_LOGGED;
		case LG_BRAKE_CAP:
			return LG_SUPPRESSED;
		case LG_BRAKE_RELEASED:
		case LG_BRAKE_CHANGED:
			return LG_SELF_RESOLVED;
		case LG_BRAKE_FAILED:
			break;
	}
	return LG_FAILED;
}

/* Is it exempt for a time, by exempt()?  Reads without the lock. */
bool
lg_is_exempt(const LgSession *session)
{
	LgSlot	   *slot = lg_slot(session->procno);

	return slot != NULL && slot->exempt_pid == session->pid &&
		slot->exempt_session_start == session->session_start &&
		slot->exempt_until > lg_now();
}

/* May this session be signalled at all?  Reads without the lock. */
LgBrake
lg_session_brake(const LgSession *session, const LgValues *values)
{
	if (session->kind != LG_KIND_CLIENT)
		return LG_BRAKE_KIND;
	if (values->value[LG_EXEMPT])
		return LG_BRAKE_EXEMPT_SETTING;
	if (lg_is_exempt(session))
		return LG_BRAKE_EXEMPT;

	/*
	 * Last, as it is over in a moment, and the others are not.  One that
	 * waits for a lock in the middle of its commit can still be undone.
	 */
	if (session->committing && !session->waiting)
		return session->dropping ? LG_BRAKE_DROPPING : LG_BRAKE_COMMITTING;
	return LG_NO_BRAKE;
}

/* Does lockguard only judge now?  "now" is monotonic, in ns. */
LgBrake
lg_standing_brake(int64 now)
{
	if (lg_dry_run)
		return LG_BRAKE_DRY_RUN;
	return lg_shared->paused_until > now ? LG_BRAKE_PAUSED : LG_NO_BRAKE;
}

/*
 * May one more signal, because of that limit, be sent within
 * max_actions_per_minute?  If not, that is said once, until it may again.
 *
 * A quarter is kept for limits on blockers: otherwise sessions that time out one
 * by one, perhaps on purpose, could keep their blocker from being removed.
 */
static bool
cap_allows(int64 now, int limit)
{
	static bool warned[2] = {false};
	LgShared   *shared = lg_shared;
	bool		blocks = lg_limit_is_about_blocking(limit);
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
				 errdetail("Sessions over a limit are left alone until fewer signals have been sent within the last minute.") :
				 errdetail("Only limits on blockers may signal sessions until fewer signals have been sent within the last minute.")));
	warned[blocks] = true;
	return false;
}

/*
 * May the worker act now because of that limit?  Logs when the cap is reached.
 * The worker only; to be asked again under LgShared->lock, as pause() may come
 * in between.
 */
LgBrake
lg_server_brake(int64 now, int limit)
{
	LgBrake		brake = lg_standing_brake(now);

	if (brake == LG_NO_BRAKE && !cap_allows(now, limit))
		brake = LG_BRAKE_CAP;
	return brake;
}

/* Count a signal for that.  Only the worker does; it is kept over an error. */
void
lg_cap_count(int64 now)
{
	LgShared   *shared = lg_shared;

	shared->signal_times[shared->signals_sent % LG_MAX_ACTIONS_PER_MINUTE] = now;
	shared->signals_sent++;
}
