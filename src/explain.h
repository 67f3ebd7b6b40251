/*-------------------------------------------------------------------------
 *
 * explain.h
 *		Tells a session whose wait for a lock has failed which session blocked it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_EXPLAIN_H
#define LOCKGUARD_EXPLAIN_H

#include "look.h"

/* The worker. */
typedef struct LgShownWait LgShownWait;

extern LgShownWait *lg_explain_create(void);
extern void lg_show_waits(LgView *view, LgShownWait *shown);

/* The session. */
extern void lg_explain_install(void);
extern char *lg_explain_wait(void);

#endif							/* LOCKGUARD_EXPLAIN_H */
