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
#include "text.h"
#include "types.h"

/* Is it exempt for a time, by exempt()?  Reads without the lock. */
bool
lg_is_exempt(const LgSession *session)
{
	LgSlot	   *slot = lg_slot(session->procno);

	return slot != NULL && slot->exempt_pid == session->pid &&
		slot->exempt_session_start == session->session_start &&
		slot->exempt_until > lg_now();
}

/*
 * May this session be signalled at all?  LG_PENDING if so; else LG_PROTECTED
 * or LG_EXEMPTED with the reason.
 */
LgResult
lg_may_signal(const LgSession *session, const LgValues *values,
			  const char **reason)
{
	*reason = NULL;
	if (session->kind != LG_KIND_CLIENT)
	{
		*reason = lg_kind_text(session->kind);
		return LG_PROTECTED;
	}
	if (values->value[LG_EXEMPT])
	{
		*reason = "lockguard.exempt is on";
		return LG_EXEMPTED;
	}
	if (lg_is_exempt(session))
	{
		*reason = "exempt for a time by lockguard.exempt()";
		return LG_EXEMPTED;
	}

	/*
	 * Last, as it is over in a moment, and the others are not.  One that waits
	 * for a lock in the middle of its commit can still be undone.
	 */
	if (session->committing && !session->waiting)
	{
		*reason = lg_committing_text(session->dropping);
		return LG_PROTECTED;
	}
	return LG_PENDING;
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
