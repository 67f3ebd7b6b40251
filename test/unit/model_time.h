/*-------------------------------------------------------------------------
 *
 * model_time.h
 *		For how long in all sessions have waited for another, by the definition.
 *
 * The test says when something is about to happen, when it has happened, and
 * when there has been a look.  Lock groups are left out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UNIT_MODEL_TIME_H
#define UNIT_MODEL_TIME_H

#include "server.h"

extern void time_begins(int nprocs, LOCK *const *locks, int nlocks);
extern void before_event(void);
extern void after_event(void);
extern void order_changed(void);
extern void after_look(void);
extern int64 most_time(int procno, LgTimer timer);
extern int64 least_time(int procno, LgTimer timer);

#endif							/* UNIT_MODEL_TIME_H */
