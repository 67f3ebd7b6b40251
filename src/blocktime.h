/*-------------------------------------------------------------------------
 *
 * blocktime.h
 *		How long in all sessions have waited for another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_BLOCKTIME_H
#define LOCKGUARD_BLOCKTIME_H

#include "types.h"
#include "waitgraph.h"

/* A lock that a root holds and that has been waited for. */
typedef struct LgHeld
{
	LOCKTAG		tag;
	int			procno;			/* which process of the lock group holds it */
	int			pid;
	const void *proclock;		/* its entry then, to compare only */
	int64		waited_for;		/* when last counted, monotonic ns */

	/* A wait that was for it then; see lg_wait_end(). */
	int			waiter_procno;
	int			waiter_pid;
	int64		waiter_seen;
	uint32		waiter_granted; /* lg_granted_waits() */

	/* What had been counted in all when it was first waited for. */
	int64		before[LG_NUM_TIMERS];	/* ns */
	int64		began[LG_NUM_TIMERS];	/* monotonic ns */
} LgHeld;

#define LG_MAX_HELD		8

/*
 * The accumulated blocking time of a session, one per PGPROC; private to the
 * process that looks.  It is kept several times over, as each timer begins anew
 * after a gap of its own length.
 */
typedef struct LgBlockTime
{
	int			occupant;		/* lg_occupant() */
	int64		queued_to;		/* counted as a queued blocker; 0 = never */
	int64		stands_since;	/* has let others pass before; 0 = never */
	int64		time[LG_NUM_TIMERS];	/* what the timers show, ns */
	int64		began[LG_NUM_TIMERS];	/* when they began anew, monotonic ns */

	LocalTransactionId lxid;	/* the transaction that they belong to */
	bool		unconfirmed;	/* ... or that before it; see is_confirmed() */
	int64		confirmed_by;	/* a pair that began by then */
	int64		seen;			/* when that transaction was seen last, by the
								 * look that counted last */
	int64		counted_to;		/* as a root; 0 = never */
	int64		waited;			/* what it had waited itself by then, at most */
	int64		surely_waited;	/* the same, at least */
	int64		total[LG_NUM_TIMERS];	/* counted in all, ns */
	int8		rests_on[LG_NUM_TIMERS];	/* index in held; -1 = none */
	int			nheld;
	LgHeld		held[LG_MAX_HELD];
} LgBlockTime;

extern int64 lg_count_block_times(LgGraph *graph, LgBlockTime *times);
extern void lg_restart_block_time(LgBlockTime *time, int64 now);
extern void lg_restart_yield_time(LgBlockTime *time, int64 now);
extern int	lg_timer_of(int limit);
extern int64 lg_block_time(const LgGraph *graph, const LgBlockTime *times,
						   const LgNode *node, LgTimer timer);
extern const LgHeld *lg_block_time_rests_on(const LgBlockTime *time, LgTimer timer);
extern bool lg_block_time_holds(const LgBlockTime *time);
extern bool lg_block_time_goes_on(LgBlockTime *time, const LgSession *session, LgTimer timer,
								  const LgValues *values, int64 now);

#endif							/* LOCKGUARD_BLOCKTIME_H */
