/*-------------------------------------------------------------------------
 *
 * brakes.h
 *		May anything be done to a session, or at all, now?
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_BRAKES_H
#define LOCKGUARD_BRAKES_H

#include "session.h"
#include "types.h"

extern LgResult lg_may_signal(const LgSession *session, const LgValues *values,
							  const char **reason);
extern bool lg_is_exempt(const LgSession *session);
extern bool lg_cap_allows(int64 now, int limit);
extern void lg_cap_count(int64 now);

#endif							/* LOCKGUARD_BRAKES_H */
