/*-------------------------------------------------------------------------
 *
 * unblock.h
 *		Which sessions could go on if others went.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_UNBLOCK_H
#define LOCKGUARD_UNBLOCK_H

#include "waitgraph.h"

/* What becomes of a session that blocks others. */
typedef enum LgFate
{
	LG_STAYS,
	LG_ENDS,					/* by itself, in a moment */
	LG_MAY_BE_REMOVED
} LgFate;

/* Of the waiters for one mode of a lock that are blocked by none that stays: */
typedef struct LgFreed
{
	int			last;			/* the last one in the queue; -1 = none */
	int			other;			/* the last one of another node; -1 = none */
} LgFreed;

typedef struct LgUnblock
{
	uint8	   *fate;			/* LgFate, by node */
	bool	   *asked;			/* about this node, lg_freed_by() will be
								 * asked */
	bool	   *passed;			/* by index in holders: it has passed a lock
								 * request that yields, and ends soon; or NULL */
	int		   *alone;			/* by node: a waiter (index in waiters) that
								 * no other blocks which does not end; -1 =
								 * none */
	LgFreed    *freed;			/* LG_LOCKMODES for each lock */
} LgUnblock;

extern LgUnblock *lg_unblock_create(const LgGraph *graph);
extern void lg_unblock(const LgGraph *graph, LgUnblock *unblock);
extern int	lg_freed_by(const LgGraph *graph, const LgUnblock *unblock, int node);

#endif							/* LOCKGUARD_UNBLOCK_H */
