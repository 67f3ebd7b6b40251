/*-------------------------------------------------------------------------
 *
 * enforce.h
 *		Acts on verdicts and follows up what came of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_ENFORCE_H
#define LOCKGUARD_ENFORCE_H

#include "limits.h"
#include "record.h"
#include "shared.h"

/* The worker's list of signals whose outcome is open. */
typedef struct LgFollow
{
	int			n;
	int			max;
	LgOpen	   *open;
	uint64		recorded;		/* actions when we looked for those of others */
	int64		next_action_id; /* rows from here on have not been adopted */
} LgFollow;

/* Who asks, if it is not the worker. */
typedef struct LgRequest
{
	const char *user_name;
	int			pid;
	LgAction   *action;			/* described before; then what came of it */
} LgRequest;

/* A log message about an action, but for what has come of it. */
typedef struct LgLogTexts
{
	char	   *what;			/* whom it is about */
	char	   *why;
	char	   *facts;			/* its query and the lock tree; may be empty */
} LgLogTexts;

extern LgFollow *lg_follow_create(void);
extern void lg_follow_adopt(LgView *view, LgFollow *follow);
extern void lg_follow_up(LgView *view, LgFollow *follow, LgVerdicts *verdicts);
extern bool lg_follow_needs_look(const LgFollow *follow);
extern bool lg_act(LgView *view, LgFollow *follow, const LgVerdict *verdict,
				   const LgRequest *request);
extern void lg_describe(LgView *view, const LgVerdict *verdict,
						const LgRequest *request, LgAction *action);
extern void lg_log_texts(LgView *view, const LgVerdict *verdict,
						 const LgAction *action, LgLogTexts *texts);
extern void lg_write_log(const LgLogTexts *texts, const LgAction *action);
extern void lg_log_action(LgView *view, const LgVerdict *verdict,
						  const LgAction *action);
extern bool lg_wait_for_signals(LgSlot *slots, int n, int64 most);
extern bool lg_cap_allows(int64 now, int limit);
extern void lg_cap_count(int64 now);
extern int64 lg_follow_wake(const LgFollow *follow, int64 now);

#endif							/* LOCKGUARD_ENFORCE_H */
