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

extern LgResult lg_brake_result(LgBrake brake);
extern bool lg_is_exempt(const LgSession *session);
extern LgBrake lg_session_brake(const LgSession *session, const LgValues *values);
extern LgBrake lg_standing_brake(int64 now);
extern LgBrake lg_server_brake(int64 now, int limit);
extern void lg_cap_count(int64 now);

#endif							/* LOCKGUARD_BRAKES_H */
