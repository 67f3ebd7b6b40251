/*-------------------------------------------------------------------------
 *
 * yield.h
 *		Which lock requests let others pass, since when, and what comes of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_YIELD_H
#define LOCKGUARD_YIELD_H

#include "judge.h"
#include "look.h"

typedef struct LgYields LgYields;

extern LgYields *lg_yields_create(LgView *view);
extern void lg_yields_scan(LgYields *yields, LgView *view, LgVerdicts *verdicts);
extern int64 lg_yields_step(LgYields *yields, LgView *view);
extern void lg_yields_stop(LgYields *yields, LgView *view);

#endif							/* LOCKGUARD_YIELD_H */
