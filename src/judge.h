/*-------------------------------------------------------------------------
 *
 * judge.h
 *		Judges which sessions are over a limit, and what is to be done about it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_JUDGE_H
#define LOCKGUARD_JUDGE_H

#include "limit.h"
#include "look.h"
#include "session.h"
#include "types.h"
#include "waitgraph.h"

/* For how long a session that undoes its statement is left alone (ns). */
#define LG_UNDOING_MOST	(10 * LG_NANOS_PER_SEC)

/* Those that a session blocks are counted only where that is needed. */
#define LG_NOT_COUNTED	(-1)

/* One of several waits on which a verdict rests; see links_hold(). */
typedef struct LgLink
{
	LgEvidence	evidence;
	int			parent;			/* index of the blocker's own link; -1 = the
								 * victim */
	bool		counts;
	bool		holds;			/* has been proved again */
} LgLink;

/* What must still be so when the signal is sent; see proof.c. */
typedef struct LgStill
{
	LgEvidence	evidence;		/* for LG_PROVE_BLOCKS and LG_PROVE_WAITS */
	bool		waits;			/* this wait must not have ended: its own, */
	LgEvidence	wait;			/* or that of the one it is preempted for */
	int			nlinks;
	LgLink	   *links;			/* what waits for the victim; live as long as
								 * the scan */
	int			needed;			/* of those that count, so many have to wait
								 * for it */
	bool		idle;			/* it is idle */
	bool		unreachable;	/* a cancel cannot reach it */
	bool		frees;			/* a session can go on once the victim */
	LgEvidence	freed;			/* (which waits for it) */
	const int  *going;			/* and these have gone: pids by procno, else
								 * -1; live as long as the scan */
	bool		holds;			/* it holds the lock on which its accumulated
								 * time rests */
	LOCKTAG		held_tag;
	int			held_procno;
	int			held_pid;
	const void *held_proclock;	/* where it was */
	bool		root;			/* it waits for no session */
	const LgAside *aside;		/* "freed" lets others pass: they go, too */
} LgStill;

/* What was decided about one session. */
typedef struct LgVerdict
{
	LgSession	session;		/* with its procno */
	int			limit;			/* or LG_NO_LIMIT: by hand */
	int			value;
	LgSource	source;
	LgActionKind action;
	LgBrake		brake;			/* LG_NO_BRAKE: to be signalled */
	LgProof		proof;
	LgStill		still;
	int64		passed_at;		/* monotonic ns; 0 = not to be told */
	int64		measured;
	int			blocked_sessions;	/* or LG_NOT_COUNTED */
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
extern bool lg_judge_yield(LgView *view, int procno, LgVerdicts *verdicts,
						   LgVerdict *verdict);
extern void lg_sort_verdicts(LgVerdicts *verdicts);
extern int64 lg_next_limit(LgView *view, const LgSubject *subject, int *limit);
extern LgBrake lg_spared_by(LgView *view, const LgSubject *subject);
extern LgActionKind lg_choose_remedy(LgView *view, const LgNode *node,
									 const LgSession *session, int limit);
extern LgResult lg_judge_root(LgView *view, const LgNode *root);
extern void lg_link_to(LgGraph *graph, int victim, LgVerdict *verdict);

#endif							/* LOCKGUARD_JUDGE_H */
