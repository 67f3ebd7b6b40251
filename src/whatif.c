/*-------------------------------------------------------------------------
 *
 * whatif.c
 *		lockguard.what_if(): what would a limit have done about past incidents?
 *
 * Nothing is judged here: the record has the lock tree of an incident at its
 * worst, the figures of all of it, and for how long the root was idle.  From
 * that, some things follow, and others cannot be known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"

#include "incident.h"
#include "record.h"
#include "session.h"
#include "settings.h"
#include "sql.h"
#include "text.h"
#include "types.h"

/* What can be said. */
typedef enum Known
{
	NOT_KNOWN,
	WOULD_NOT,
	WOULD
} Known;

/* The answer about one incident.  Times are in us, and count from its start. */
typedef struct Answer
{
	Known		would_act;
	int			victim;			/* index in the tree at its worst */
	int			pid;			/* of the victim */
	int64		after;
	LgActionKind action;
	const char *note;			/* NULL = none */
} Answer;

/* An incident, and its tree at its worst. */
typedef struct Past
{
	const LgIncident *incident;
	const LgIncidentSession **sessions; /* the root first, a NULL last */
	int		   *behind;			/* of each: how many wait for it, those kept */
	int64	   *blocks;			/* of each: for how long it has been seen to
								 * hold up the first of them */
	int64		peak;			/* when that was, */
	int64		end;			/* and when it was over, or last seen */
	bool		cut_short;		/* it would have lasted longer, */
	const char *why;			/* and why */
} Past;

/* When the wait of a session began, at the earliest when the incident did. */
static int64
began(const Past *past, int i)
{
	return Max(past->peak - past->sessions[i]->waited, 0);
}

/* Read an incident's tree; allocates in the current context. */
static void
read_past(const LgIncident *incident, Past *past)
{
	const LgIncidentSession *session = NULL;
	const char *texts[3];
	int			n = 0;

	memset(past, 0, sizeof(*past));
	past->incident = incident;
	past->sessions = palloc0_array(const LgIncidentSession *, incident->nsessions + 1);
	past->behind = palloc0_array(int, incident->nsessions + 1);
	past->blocks = palloc0_array(int64, incident->nsessions + 1);
	past->peak = Max(incident->peak_at - incident->started_at, 0);
	past->end = Max((incident->ended_at != 0 ? incident->ended_at : incident->updated_at) -
					incident->started_at, past->peak);
	while (n < incident->nsessions &&
		   (session = lg_next_session(incident, session, &texts[0], &texts[1], &texts[2])) != NULL)
		past->sessions[n++] = session;

	/* Parents come before their children. */
	while (--n > 0)
	{
		int			parent = past->sessions[n]->parent;

		past->behind[parent] += past->behind[n] + 1;
		past->blocks[parent] = Max(past->blocks[parent],
								   Min(past->sessions[n]->waited, past->sessions[parent]->waited));
	}

	switch (incident->resolution)
	{
		case LG_OPEN_INCIDENT:
			past->why = "the incident is still open";
			break;
		case LG_BY_CANCEL:
		case LG_BY_TERMINATION:
		case LG_BY_ROLLBACK:
			past->why = "a signal ended the incident; how long it would have lasted without is not known";
			break;
		case LG_BY_RESTART:
			past->why = "the record ends with the server";
			break;
		default:
			past->why = incident->action_id == 0 ? NULL :
				"a signal was sent in its tree; how long it would have lasted without is not known";
			break;
	}
	past->cut_short = past->why != NULL;
}

static void
would_not(Answer *answer, const char *note)
{
	answer->would_act = WOULD_NOT;
	answer->note = note;
}

static void
not_known(Answer *answer, const char *note)
{
	answer->would_act = NOT_KNOWN;
	answer->note = note;
}

static void
would(Answer *answer, int victim, int64 after, LgActionKind action, const char *note)
{
	answer->would_act = WOULD;
	answer->victim = victim;
	answer->after = after;
	answer->action = action;
	answer->note = note;
}

/* It has not been reached: it would not have been, if nothing cut it short. */
static void
not_reached(const Past *past, Answer *answer, const char *note)
{
	if (past->cut_short)
		not_known(answer, past->why);
	else
		would_not(answer, note);
}

/*
 * May the root be removed?  By what was in force for it when most were blocked.
 * If not, says so in the answer.
 */
static bool
root_is_within_reach(const Past *past, Answer *answer)
{
	switch (past->incident->judged)
	{
		case LG_PROTECTED:
			would_not(answer, past->incident->kind == LG_KIND_CLIENT ?
					  "the root's commit could no longer be undone" :
					  "the root was no client session, and is never signalled");
			return false;
		case LG_EXEMPTED:
			would_not(answer, "the root was exempt");
			return false;
		case LG_LOGGED:
			would_not(answer, "lockguard.action of the root did not allow it");
			return false;
		default:
			return true;
	}
}

static bool
is_idle(const Past *past)
{
	return strncmp(past->incident->state, "idle", 4) == 0;
}

/* Did the root wait for its client in the middle of a statement? */
static bool
waits_for_client(const Past *past)
{
	uint32		wait_event = past->sessions[0] != NULL ? past->sessions[0]->wait_event : 0;

	return !is_idle(past) &&
		(wait_event == WAIT_EVENT_CLIENT_READ || wait_event == WAIT_EVENT_CLIENT_WRITE);
}

/*
 * By when had it begun that some session waited all the time until a limit was
 * passed?  If any gave up, there may have been gaps before the longest wait.
 */
static int64
began_at_latest(const Past *past)
{
	return past->incident->gave_up == 0 ? 0 :
		Max(past->end - past->incident->longest_wait, 0);
}

static void
ask_idle_blocker_timeout(const Past *past, int64 limit, Answer *answer)
{
	const LgIncident *incident = past->incident;
	int64		unseen = past->end - Max(incident->updated_at - incident->started_at, 0);

	if (!root_is_within_reach(past, answer))
		return;
	if (incident->longest_idle >= limit && incident->gave_up > 0 &&
		incident->longest_wait < limit)
		not_known(answer, "sessions gave up and others came; for how long in all some waited is not known");
	else if (incident->longest_idle >= limit)
		would(answer, 0, Max(incident->idle_from, began_at_latest(past)) + limit,
			  incident->idle_remedy,
			  is_idle(past) ? NULL :
			  waits_for_client(past) && incident->idle_remedy == LG_DO_TERMINATE ?
			  "the root waited for its client in a statement" :
			  "the root was idle only part of the time");
	else if (waits_for_client(past) && past->end >= limit)
		not_known(answer, "the root waited for its client in a statement; whether that had stopped is not known");
	else if (past->end >= limit && incident->longest_idle + unseen >= limit)
		not_known(answer, "the root was idle when last seen; for how long after that is not known");
	else if (past->end >= limit && !past->cut_short)
		would_not(answer, incident->longest_idle == 0 ? "the root was not idle while it blocked" :
				  "the root was idle only part of the time");
	else
		not_reached(past, answer, "it was over before that");
}

static void
ask_blocker_timeout(const Past *past, int64 limit, Answer *answer)
{
	if (!root_is_within_reach(past, answer))
		return;
	if (Min(past->incident->longest_wait, past->end) >= limit)
		would(answer, 0, began_at_latest(past) + limit, past->incident->remedy, NULL);
	else if (past->end >= limit)
		not_known(answer, "sessions gave up and others came; for how long in all some waited is not known");
	else
		not_reached(past, answer, "it was over before that");
}

/* Does a session's own lock request hold up others, in a queue for no row? */
static bool
is_queued_blocker(const Past *past, int i)
{
	const LgIncidentSession *session = past->sessions[i];

	return i > 0 && past->behind[i] > 0 &&
		session->tag.locktag_type == LOCKTAG_RELATION;
}

/*
 * Is it sure that, of "group" sessions of the tree, so many still waited at "at",
 * after most were blocked?  It is if the others alone cannot have lost the time
 * that was lost from then on.
 */
static bool
surely_waited(const Past *past, int group, int so_many, int64 at)
{
	int			n = past->incident->nsessions - 1;
	int64		left = past->end - past->peak;
	int64		lost = past->incident->total_wait;

	if (at > past->end || past->incident->waits > n)
		return false;
	for (int i = 1; i <= n; i++)
		lost -= past->peak - began(past, i);
	return lost > (n - group + so_many - 1) * left + (group - so_many + 1) * (at - past->peak);
}

static void
ask_queued_blocker_timeout(const Past *past, int64 limit, Answer *answer)
{
	int			queued = -1;
	int64		at = 0;

	/*
	 * The one that has done so for longest; among equals the one nearest the
	 * root.
	 */
	for (int i = 1; past->sessions[i] != NULL; i++)
		if (is_queued_blocker(past, i) &&
			(queued < 0 || past->blocks[i] > past->blocks[queued]))
			queued = i;
	if (queued >= 0)
		at = Max(past->peak - past->blocks[queued] + limit, 0);
	if (queued >= 0 &&
		(at <= past->peak || surely_waited(past, past->behind[queued] + 1, past->behind[queued] + 1, at)))
	{
		if (past->sessions[queued]->kind != LG_KIND_CLIENT)
			would_not(answer, lg_may_see(past->sessions[queued]->userid) ?
					  "the lock request was no client session's, and is never signalled" : NULL);
		else
			would(answer, queued, at, LG_DO_CANCEL,
				  "whether the session was exempt, and whether those behind it could have gone on, is not known");
	}
	else if (past->end < limit)
		not_reached(past, answer, "it was over before that");
	else if (queued < 0)
		not_known(answer, "no lock request held up others when most were blocked; at other times is not known");
	else
		not_known(answer, "a lock request held up others when most were blocked, but not for so long yet; what came then is not known");
}

/* Does a session of the tree wait for another one of it, or is it that one? */
static bool
is_below(const Past *past, int i, int above)
{
	while (i > above)
		i = past->sessions[i]->parent;
	return i == above;
}

/*
 * When more sessions than the limit had waited for a session for longer than
 * deadlock_timeout, of those that did so when most were blocked; LG_NEVER if that
 * is not so, or not known.
 */
static int64
passed_at(const Past *past, int blocker, int64 limit)
{
	int64	   *since = palloc_array(int64, past->incident->nsessions + 1);
	int			n = 0;
	int64		at;

	for (int i = blocker + 1; past->sessions[i] != NULL; i++)
		if (is_below(past, i, blocker))
			since[n++] = began(past, i);
	if (n <= limit)
		return LG_NEVER;
	qsort(since, n, sizeof(int64), lg_compare_times);
	at = since[limit] + (int64) DeadlockTimeout * 1000;
	return at <= past->peak || surely_waited(past, n, limit + 1, at) ? at : LG_NEVER;
}

static void
ask_max_blocked_sessions(const Past *past, int64 limit, Answer *answer)
{
	const LgIncident *incident = past->incident;
	int			victim = -1;
	int64		first = LG_NEVER;
	Answer		root = {0};

	if (incident->peak_blocked_sessions <= limit)
	{
		not_reached(past, answer, "there were never so many");
		return;
	}

	/* Of those over it at the same time, an idle root, then a lock request. */
	for (int i = 0; past->sessions[i] != NULL; i++)
	{
		int64		at;

		if (i == 0 ? !root_is_within_reach(past, &root) :
			!is_queued_blocker(past, i) || past->sessions[i]->kind != LG_KIND_CLIENT)
			continue;
		at = passed_at(past, i, limit);
		if (at < first || (at == first && victim == 0 && at != LG_NEVER && !is_idle(past)))
		{
			first = at;
			victim = i;
		}
	}
	if (victim > 0)
		would(answer, victim, first, LG_DO_CANCEL,
			  "it may have been sooner; whether the session was exempt is not known");
	else if (victim == 0)
		would(answer, 0, first, incident->remedy,
			  incident->waits > incident->nsessions - 1 ? "it may have been sooner" : NULL);
	else if (root.note != NULL)
		would_not(answer, root.note);
	else if (past->end < (int64) DeadlockTimeout * 1000)
		not_reached(past, answer, "no session waited for longer than deadlock_timeout");
	else
		not_known(answer, "whether so many waited for longer than deadlock_timeout is not known");
}

/*
 * Session time that would not have been lost, in us: that of those who waited for
 * the victim when most were blocked, if all of them waited to the end.
 */
static int64
saved(const Past *past, const Answer *answer)
{
	int64		time = 0;

	for (int i = answer->victim + 1; past->sessions[answer->victim] != NULL &&
		 past->sessions[i] != NULL; i++)
		if (is_below(past, i, answer->victim))
			time += Max(past->end - Max(began(past, i), answer->after), 0);
	return Min(time, past->incident->total_wait);
}

/* The notes on an answer, as one text; NULL if there are none. */
static char *
notes(const Past *past, const Answer *answer)
{
	StringInfoData buf;
	int64		others = past->incident->waits - past->incident->nsessions + 1;

	initStringInfo(&buf);
	if (answer->note != NULL)
		appendStringInfoString(&buf, answer->note);
	if (answer->would_act == WOULD)
	{
		if (past->cut_short)
			appendStringInfo(&buf, "%s%s", buf.len ? "; " : "", past->why);
		if (others > 0)
			appendStringInfo(&buf, "%ssaved leaves out %lld %s that %s not among those when most were blocked",
							 buf.len ? "; " : "", (long long) others,
							 others == 1 ? "wait" : "waits", others == 1 ? "was" : "were");
		if (past->incident->gave_up > 0)
			appendStringInfo(&buf, "%ssaved is at most that: %lld %s ended without the lock",
							 buf.len ? "; " : "", (long long) past->incident->gave_up,
							 past->incident->gave_up == 1 ? "wait" : "waits");
	}
	return buf.len > 0 ? buf.data : NULL;
}

typedef void (*Ask) (const Past *past, int64 limit, Answer *answer);

/* The limits that can be asked about; times are asked for in us. */
static const struct
{
	int			limit;
	bool		is_time;
	Ask			ask;
}			questions[] =

{
	{LG_IDLE_BLOCKER_TIMEOUT, true, ask_idle_blocker_timeout},
	{LG_BLOCKER_TIMEOUT, true, ask_blocker_timeout},
	{LG_QUEUED_BLOCKER_TIMEOUT, true, ask_queued_blocker_timeout},
	{LG_MAX_BLOCKED_SESSIONS, false, ask_max_blocked_sessions}
};

/*
 * A value of a limit, as written, in the limit's own unit.  Errors out as SET would
 * if it cannot be read.
 */
static int
read_value(int limit, const char *written)
{
	char	   *name = psprintf("lockguard.%s", lg_setting_name(limit));
	int			value = 0;

	(void) set_config_option(name, written, PGC_SUSET, PGC_S_TEST, GUC_ACTION_SET,
							 false, ERROR, false);
	(void) parse_int(written, &value, lg_setting_unit(limit) ? GUC_UNIT_MS : 0, NULL);
	return value;
}

/* Add the row about one incident.  Allocates in the current context. */
static void
emit_answer(ReturnSetInfo *rsinfo, const LgIncident *incident, int question, int value)
{
	Past		past;
	Answer		answer = {0};
	Datum		values[7] = {0};
	bool		nulls[7] = {false, true, false, true, true, true, true};
	char	   *note;

	values[0] = Int64GetDatum(incident->incident_id);
	values[2] = Int32GetDatum(incident->root_pid);
	if (!lg_may_see(incident->userid))
	{
		/* The answer would tell what the root did. */
		values[6] = CStringGetTextDatum("<insufficient privilege>");
		nulls[6] = false;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		return;
	}
	read_past(incident, &past);
	if (value == 0)
		would_not(&answer, "0 turns the limit off");
	else
		questions[question].ask(&past, questions[question].is_time ?
								(int64) value * 1000 : value, &answer);

	nulls[1] = answer.would_act == NOT_KNOWN;
	values[1] = BoolGetDatum(answer.would_act == WOULD);
	if (answer.would_act == WOULD)
	{
		nulls[3] = nulls[4] = nulls[5] = false;
		if (past.sessions[answer.victim] != NULL)
			values[2] = Int32GetDatum(past.sessions[answer.victim]->pid);
		values[3] = CStringGetTextDatum(lg_action_name(answer.action));
		values[4] = lg_interval(answer.after);
		values[5] = lg_interval(saved(&past, &answer));
	}
	else if (answer.would_act == WOULD_NOT)
	{
		nulls[5] = false;
		values[5] = lg_interval(0);
	}
	note = notes(&past, &answer);
	nulls[6] = note == NULL;
	if (note != NULL)
		values[6] = CStringGetTextDatum(note);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(lockguard_what_if);

/*
 * what_if(limit_name, setting): a row for each incident on record.  Errors out
 * if the limit cannot be asked about, or cannot have that value.
 */
Datum
lockguard_what_if(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *written = text_to_cstring(PG_GETARG_TEXT_PP(1));
	LgIncident *incident = palloc0(sizeof(LgIncident));
	MemoryContext context;
	int			question = 0;
	int			value;
	int64		first;
	int64		next;

	lg_require_loaded();
	while (question < (int) lengthof(questions) &&
		   strcmp(lg_setting_name(questions[question].limit), name) != 0)
		question++;
	if (question == (int) lengthof(questions))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot tell from past incidents what limit \"%s\" would have done", name),
				 errhint("Ask about idle_blocker_timeout, blocker_timeout, queued_blocker_timeout or max_blocked_sessions.")));
	value = read_value(questions[question].limit, written);

	InitMaterializedSRF(fcinfo, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "lockguard what_if",
									ALLOCSET_DEFAULT_SIZES);
	lg_incident_range(&first, &next);
	for (int64 id = first; id < next; id++)
	{
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (!lg_fetch_incident(id, incident))
			continue;
		old = MemoryContextSwitchTo(context);
		emit_answer(rsinfo, incident, question, value);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	return (Datum) 0;
}
