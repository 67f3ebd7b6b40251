/*-------------------------------------------------------------------------
 *
 * limits.h
 *		The limits, and judging who is over them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_LIMITS_H
#define LOCKGUARD_LIMITS_H

#include "clock.h"
#include "snapshot.h"
#include "types.h"
#include "waitgraph.h"

/* All that judging sees. */
typedef struct LgView
{
	LgClock		clock;
	LgGraph    *graph;			/* of this scan's look */
	bool		looked;			/* false: nobody waits long enough to matter */
	LgTrack    *tracks;			/* one per PGPROC */
	LgLive		live;			/* of this scan */
	LgValues	server;			/* the server's own settings */
	int			smallest[LG_NUM_LIMITS];	/* smallest value anybody has; 0 = off */
	int64	   *scratch;		/* one per PGPROC */
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

/* For how long a session that undoes its statement is left alone (ns). */
#define LG_UNDOING_MOST	(10 * LG_NANOS_PER_SEC)

/* What has to be proved again before the signal. */
typedef enum LgProof
{
	LG_PROVE_BLOCKS,			/* still in the way of that waiter */
	LG_PROVE_WAITS,				/* still in that wait */
	LG_PROVE_TRANSACTION,		/* still in that transaction */
	LG_PROVE_STATEMENT,			/* still in that statement */
	LG_PROVE_STATE				/* still in that state */
} LgProof;

typedef struct LgLimit
{
	/*
	 * When the subject passes the limit, in monotonic ns, or LG_NEVER as far
	 * as can be told now.  *measured is what it has now: ms, or a count.
	 */
	int64		(*passed_at) (LgView *view, const LgSubject *subject,
							  int value, int64 *measured);
	LgProof		proof;
	bool		terminate;		/* at once: cancel would not help */
	bool		cancel_only;
	const char *unit;			/* of what is measured, for messages */
	const char *story;			/* what the session did; see lg_tell() */
	const char *hint;
} LgLimit;

extern const LgLimit lg_limits[LG_NUM_LIMITS];

/* One of several waits on which a verdict rests; see links_hold(). */
typedef struct LgLink
{
	LgEvidence	evidence;
	int			parent;			/* index of the blocker's own link; -1 = the victim */
	bool		counts;
	bool		holds;			/* has been proved again */
} LgLink;

/* What was decided about one session. */
typedef struct LgVerdict
{
	LgSession	session;		/* with its procno */
	int			limit;			/* or LG_NO_LIMIT: by hand */
	int			value;
	LgSource	source;
	LgActionKind action;
	LgResult	result;			/* LG_PENDING: to be signalled */
	const char *reason;			/* why not, else NULL */
	LgProof		proof;
	LgEvidence	evidence;		/* for LG_PROVE_BLOCKS and LG_PROVE_WAITS */
	bool		waits;			/* this wait has to go on still, too: its own, */
	LgEvidence	wait;			/* or that of the one it is preempted for */
	int			nlinks;
	LgLink	   *links;			/* who waits for the victim; live as long as the scan */
	int			needed;			/* of those that count, so many have to wait for it still */
	bool		idle;			/* has to be idle still */
	bool		unreachable;	/* by a cancel, and has to be so still */
	bool		root;			/* has to wait for nobody still */
	int64		passed_at;		/* monotonic ns; 0 = not to be told */
	int64		measured;
	int			blocked_sessions;
	int64		longest_wait;	/* ns, of those */
	int			preempted_for;	/* pid of the waiter, for preempt_timeout */
	bool		by_hand;
	bool		escalation;
} LgVerdict;

typedef struct LgVerdicts
{
	int			n;
	int			max;
	LgVerdict  *verdicts;
	int64		next_due;		/* when the next limit is passed, monotonic ns */
} LgVerdicts;

extern void lg_judge_waits(LgView *view, LgVerdicts *verdicts);
extern void lg_judge_session(LgView *view, int procno, LgVerdicts *verdicts);
extern bool lg_judge_again(LgView *view, int procno, int limit, LgVerdict *verdict);
extern bool lg_preempt_again(LgView *view, int waiter_procno, int victim,
							 LgVerdict *verdict);
extern void lg_sort_verdicts(LgVerdicts *verdicts);
extern int64 lg_next_limit(LgView *view, const LgSubject *subject, int *limit);
extern LgResult lg_may_signal(const LgSession *session, const LgValues *values,
							  const char **reason);
extern LgResult lg_judge_root(const LgSession *session, const LgValues *values);
extern bool lg_cancel_reaches(const LgSession *session);
extern const char *lg_committing_text(bool dropping);
extern bool lg_is_exempt(const LgSession *session);
extern bool lg_limit_is_age(int limit);
extern void lg_link_to(LgGraph *graph, int victim, LgVerdict *verdict);
extern void lg_count_blocked(LgView *view, int node, int *blocked, int64 *longest);
extern void lg_tell(int limit, int blocked, int64 measured, BackendState state,
					char *buf, size_t size);

#endif							/* LOCKGUARD_LIMITS_H */
