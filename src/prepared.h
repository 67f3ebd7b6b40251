/*-------------------------------------------------------------------------
 *
 * prepared.h
 *		Prepared transactions that were forgotten.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_PREPARED_H
#define LOCKGUARD_PREPARED_H

#include "look.h"

typedef struct LgPrepared LgPrepared;

extern LgPrepared *lg_prepared_create(void);
extern bool lg_prepared_due(const LgPrepared *prepared, int64 now);
extern int64 lg_prepared_scan(LgPrepared *prepared, LgView *view);
extern PGDLLEXPORT void lg_rollback_main(Datum main_arg);

#endif							/* LOCKGUARD_PREPARED_H */
