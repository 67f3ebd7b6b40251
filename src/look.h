/*-------------------------------------------------------------------------
 *
 * look.h
 *		What one look at the server sees.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_LOOK_H
#define LOCKGUARD_LOOK_H

#include "blocktime.h"
#include "clock.h"
#include "session.h"
#include "stepaside.h"
#include "types.h"
#include "waitgraph.h"

/* All that judging and drawing see. */
typedef struct LgView
{
	LgClock		clock;
	LgGraph    *graph;			/* of the last look */
	bool		looked;			/* false: no wait is long enough to matter */
	LgTrack    *tracks;			/* one per PGPROC */
	LgBlockTime *times;			/* the same */
	struct LgJudged *judged;	/* see judge.c; NULL = not yet, of this look */
	MemoryContext context;		/* for what is worked out about a look */
	LgLive		live;			/* of this scan */
	LgFound    *found;			/* waiting processes, by one pass over all */
	int			nfound;
	LgValues	server;			/* the server's own settings */
	int			smallest[LG_NUM_LIMITS];	/* smallest value of any session;
											 * 0 = off */
	int64	   *scratch;		/* one per PGPROC */

	/* The worker's only: the lock requests that let others pass now. */
	int			nasides;
	LgAside   **asides;
} LgView;

/* A session as a limit sees it. */
typedef struct LgSubject
{
	const LgSession *session;
	const LgValues *values;
	LgTrack    *track;
	const LgNode *node;			/* NULL if it neither waits nor blocks */
	bool		again;			/* it has been signalled for this before */
} LgSubject;

extern void lg_init_view(LgView *view);
extern void lg_find_waits(LgView *view);
extern int64 lg_look_at_locks(LgView *view, int64 min_age);
extern LgView *lg_look(void);
extern void lg_count_blocked(LgView *view, int node, int *blocked, int64 *longest);

#endif							/* LOCKGUARD_LOOK_H */
