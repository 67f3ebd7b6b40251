/*-------------------------------------------------------------------------
 *
 * follow.h
 *		Follows signals until their outcome is known.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_FOLLOW_H
#define LOCKGUARD_FOLLOW_H

#include "judge.h"
#include "look.h"
#include "record.h"

/* The worker's list of signals whose outcome is open. */
typedef struct LgFollow
{
	int			n;
	int			max;
	LgOpen	   *open;
	uint64		recorded;		/* actions, when those of others were last
								 * adopted */
	int64		next_action_id; /* rows from here on have not been adopted */
} LgFollow;

extern LgOpen *lg_follow_add(LgView *view, LgFollow *list, const LgOpen *open);
extern LgFollow *lg_follow_create(void);
extern void lg_follow_adopt(LgView *view, LgFollow *follow);
extern void lg_follow_up(LgView *view, LgFollow *follow, LgVerdicts *verdicts);
extern bool lg_follow_needs_look(const LgFollow *follow);
extern int64 lg_follow_wake(const LgFollow *follow, int64 now);

#endif							/* LOCKGUARD_FOLLOW_H */
