/*-------------------------------------------------------------------------
 *
 * limit.h
 *		The limits: what each measures, and what has to be proved before a signal.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_LIMIT_H
#define LOCKGUARD_LIMIT_H

#include "look.h"
#include "types.h"
#include "waitgraph.h"

/* What has to be proved again before the signal. */
typedef enum LgProof
{
	LG_PROVE_BLOCKS,			/* still blocks that waiter */
	LG_PROVE_WAITS,				/* still in that wait */
	LG_PROVE_TRANSACTION,		/* still in that transaction */
	LG_PROVE_STATEMENT,			/* still in that statement */
	LG_PROVE_STATE				/* still in that state */
} LgProof;

/* What may be done about a session that is over a limit. */
typedef enum LgRemedies
{
	LG_CANCEL_ONLY,
	LG_MILDEST_FIRST,			/* cancel, roll back, terminate */
	LG_END_CONNECTION			/* it is the connection that is idle */
} LgRemedies;

typedef struct LgLimit
{
	/*
	 * When the subject passes the limit, in monotonic ns, or LG_NEVER as far
	 * as can be told now.  *measured is what it has now: ms, or a count.
	 */
	int64		(*passed_at) (LgView *view, const LgSubject *subject,
							  int value, int64 *measured);
	LgProof		proof;
	bool		idle;			/* only an idle session passes it */
	LgRemedies	remedies;
} LgLimit;

extern const LgLimit lg_limits[LG_NUM_LIMITS];

extern int64 lg_counts_after(LgView *view, const LgStep *step);
extern bool lg_limit_is_age(int limit);
extern bool lg_limit_is_about_blocking(int limit);

#endif							/* LOCKGUARD_LIMIT_H */
