/*-------------------------------------------------------------------------
 *
 * enforce.h
 *		Carries out verdicts: describes, has proved, records, logs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_ENFORCE_H
#define LOCKGUARD_ENFORCE_H

#include "judge.h"
#include "look.h"
#include "record.h"

/* The caller of a function that acts. */
typedef struct LgRequest
{
	const char *user_name;
	int			pid;
	LgAction   *action;			/* described before; then what came of it */
} LgRequest;

/* A log message about an action, but for what has come of it. */
typedef struct LgLogTexts
{
	char	   *what;			/* the session or transaction it is about */
	char	   *why;
	char	   *facts;			/* its query and the lock tree; may be empty */
} LgLogTexts;

extern bool lg_carry_out(LgView *view, LgVerdict *verdict, const LgRequest *request,
						 LgOpen *sent);
extern int64 lg_record_verdict(LgView *view, const LgVerdict *verdict);
extern void lg_describe(LgView *view, const LgVerdict *verdict,
						const LgRequest *request, LgAction *action);
extern void lg_log_texts(LgView *view, const LgVerdict *verdict,
						 const LgAction *action, LgLogTexts *texts);
extern void lg_write_log(const LgLogTexts *texts, const LgAction *action);

#endif							/* LOCKGUARD_ENFORCE_H */
