/*-------------------------------------------------------------------------
 *
 * record.h
 *		What lockguard did, in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_RECORD_H
#define LOCKGUARD_RECORD_H

#include "lockguard.h"

extern int64 lg_record_action(LgAction *action);
extern void lg_record_result(int64 action_id, LgResult result, int64 released_after);
extern bool lg_fetch_action(int64 action_id, LgAction *action);
extern void lg_action_range(int64 *first, int64 *next);
extern const char *lg_result_name(LgResult result);

#endif							/* LOCKGUARD_RECORD_H */
