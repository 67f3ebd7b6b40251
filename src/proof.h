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

/* What came of a verdict at the moment of the signal. */
typedef enum LgOutcome
{
	LG_SIGNALLED,
	LG_NOT_PROVED,
	LG_IS_COMMITTING,
	LG_IS_DROPPING,
	LG_IS_EXEMPT,
	LG_IS_PAUSED,
	LG_KILL_FAILED
} LgOutcome;

extern LgOutcome lg_prove_and_signal(const LgVerdict *verdict, int sig, LgReason *reason,
									 TimestampTz *acted_at);
extern TimestampTz lg_held_against(const LgVerdict *verdict);
extern bool lg_wait_for_signals(LgSlot *slots, int n, int64 most);

#endif							/* LOCKGUARD_PROOF_H */
