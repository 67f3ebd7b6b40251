/*-------------------------------------------------------------------------
 *
 * scene.h
 *		Situations, told in sentences: what sessions hold and wait for, what
 *		their limits are, how time passes, and what a scan makes of it.
 *
 * A session is called by its procno, and its pid is 100 more.  A call says what
 * one session does, and takes effect at once; only pass() and what is built on
 * it moves the clock.  A situation goes on for as many scans as a test likes:
 *
 *		scene(3);
 *		set(0, LG_BLOCKER_TIMEOUT, 100);
 *		waits_for(1, 0);
 *		judge_after(99);
 *		CHECK_NO_VERDICT();
 *		gives_up(1);
 *		waits_for(2, 0);
 *		judge_after(100);
 *		CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
 *
 * What a lock manager does by itself is in server_locks.c: holds(), waits(),
 * gives_up(), releases_all() and others.  What else a test needs, it does to the
 * server's own structs; see server.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UNIT_SCENE_H
#define UNIT_SCENE_H

#include "server.h"

/* A new server with sessions 0 to n - 1, each in a transaction of its own. */
extern void scene(int n);

/* Processes that come later, or are of another kind. */
extern void comes(int procno, BackendType type);
extern int	prepares(const char *gid);

/* What a session is doing. */
extern void runs(int procno);	/* a statement */
extern void sits_idle(int procno);	/* in its transaction */
extern void next_statement(int procno); /* right after the present one */
extern void next_transaction(int procno);
extern void begins_commit(int procno);
extern void disturb(void);		/* all that wait for their clients */

/* Locks that there are in each scene. */
extern LOCK *table;
extern LOCK *other_table;
extern LOCK *row;
extern LOCK *xid_of(int procno);

extern void reads(int procno, LOCK *lock);
extern void writes(int procno, LOCK *lock);
extern void alters(int procno, LOCK *lock);
extern void waits_to_read(int procno, LOCK *lock);
extern void waits_to_write(int procno, LOCK *lock);
extern void waits_to_alter(int procno, LOCK *lock);
extern void waits_for(int procno, int other);	/* for its transaction to end */

/* Settings: of one session, and of all that there have been in this scene. */
extern void set(int procno, LgSetting setting, int value);
extern void set_all(LgSetting setting, int value);

/* Time. */
extern void pass(int64 ms);
extern void pass_until(int64 at);

/* What the worker does at each scan, and what it sees. */
extern LgView view;
extern LgGraph *graph;			/* view.graph */
extern LgVerdicts verdicts;		/* of the last scan */
extern int64 watch_until;		/* by when more waits should not be missed */
extern void look(void);
extern void look_after(int64 ms);
extern void look_at_waits_from(int64 min_age);
extern void judge(void);
extern void judge_after(int64 ms);
extern void judge_ages(int procno);
extern void judge_ages_after(int procno, int64 ms);
extern const LgVerdict *verdict_on(int procno);

#define CHECK_NO_VERDICT() \
	CHECK_INT(verdicts.n, 0)
#define CHECK_ONLY_VERDICT(procno, limit, action) \
	check_only_verdict(procno, limit, action, __FILE__, __LINE__)
extern bool check_only_verdict(int procno, int limit, LgActionKind action,
							   const char *file, int line);

/* So many scans, so many ms apart, and none of them finds a session over a limit. */
#define CHECK_NO_VERDICT_IN(scans, ms) \
	check_no_verdict_in(scans, ms, __FILE__, __LINE__)
extern void check_no_verdict_in(int scans, int64 ms, const char *file, int line);

#endif							/* UNIT_SCENE_H */
