/*-------------------------------------------------------------------------
 *
 * proof.h
 *		Proves a verdict again, and sends the signal.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_PROOF_H
#define LOCKGUARD_PROOF_H

#include "judge.h"
#include "shared.h"
#include "types.h"

extern LgBrake lg_not_proved(const LgVerdict *verdict);
extern LgBrake lg_prove_and_signal(const LgVerdict *verdict, LgReason *reason,
								   TimestampTz *acted_at);
extern TimestampTz lg_held_against(const LgVerdict *verdict);
extern bool lg_wait_for_signals(LgSlot *slots, int n, int64 most);

#endif							/* LOCKGUARD_PROOF_H */
