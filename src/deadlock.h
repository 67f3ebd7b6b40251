/*-------------------------------------------------------------------------
 *
 * deadlock.h
 *		Deadlocks that the server has resolved: which processes were in the cycle.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_DEADLOCK_H
#define LOCKGUARD_DEADLOCK_H

#include "lib/stringinfo.h"
#include "utils/elog.h"

#include "record.h"

extern void lg_note_deadlock(const ErrorData *edata);
extern const LgDeadlockSession *lg_next_in_cycle(const LgDeadlock *deadlock,
												 const LgDeadlockSession *session,
												 const char **usename,
												 const char **application_name,
												 const char **query);
extern void lg_deadlock_graph(const LgDeadlock *deadlock, bool (*may_see) (Oid),
							  char *(*clean) (const char *), StringInfo out);
extern int	lg_deadlock_query_ids(const LgDeadlock *deadlock, bool (*may_see) (Oid),
								  int64 *ids);

#endif							/* LOCKGUARD_DEADLOCK_H */
