/*-------------------------------------------------------------------------
 *
 * enforce.c
 *		Carries out verdicts: describes, has proved, records, logs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "replication/syncrep.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "brakes.h"
#include "clock.h"
#include "debug.h"
#include "enforce.h"
#include "incident.h"
#include "judge.h"
#include "limit.h"
#include "look.h"
#include "proof.h"
#include "record.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "text.h"
#include "tree.h"
#include "twophase.h"
#include "types.h"
#include "waitgraph.h"

/* Sessions drawn in a log message. */
#define LOG_TREE_LINES		50

/*
 * Has this been recorded already for the same session, limit and episode
 * (wait, statement, state or transaction) with the same result?  Notes that
 * it has been now.  As long as it holds a lock against the same wait, it is
 * one episode, however many transactions it runs meanwhile.
 */
static bool
recorded_before(LgView *view, const LgVerdict *verdict, LgBrake brake)
{
	LgResult	result = lg_brake_result(brake);
	LgRecorded *recorded;
	const LgSession *session = &verdict->session;
	TimestampTz wait = lg_held_against(verdict);
	TimestampTz since;
	bool		before;

	if (verdict->limit == LG_NO_LIMIT)
		return false;
	recorded = &view->tracks[session->procno].recorded[verdict->limit];
	if (verdict->proof == LG_PROVE_WAITS)
		since = verdict->still.evidence.waiter_start;
	else if (verdict->still.waits && verdict->preempted_for == 0)
		since = verdict->still.wait.waiter_start;
	else if (verdict->proof == LG_PROVE_STATEMENT)
		since = session->stmt_start;
	else if (verdict->proof == LG_PROVE_STATE ||
			 !LocalTransactionIdIsValid(session->lxid))
		since = session->state_start;
	else
		since = 0;

	if ((recorded->lxid != session->lxid || recorded->since != since) &&
		(wait == 0 || recorded->wait != wait))
		recorded->results = 0;
	before = (recorded->results & (1U << result)) != 0;
	recorded->results |= 1U << result;
	recorded->lxid = session->lxid;
	recorded->since = since;
	recorded->wait = wait;
	return before;
}

/* Say in a row why nothing is done, or that it is not known yet what comes of it. */
static void
set_brake(LgAction *action, LgBrake brake, LgKind kind)
{
	const char *string = lg_brake_text(brake, kind);

	action->result = lg_brake_result(brake);
	strlcpy(action->reason, string ? string : "", sizeof(action->reason));
}

/*
 * Fill in a row about a verdict, before anything is done about it.  Takes
 * TwoPhaseStateLock, shared, for a prepared transaction.
 */
void
lg_describe(LgView *view, const LgVerdict *verdict, const LgRequest *request,
			LgAction *action)
{
	const LgSession *session = &verdict->session;
	LgSlot	   *slot = lg_slot(session->procno);
	const char *state = lg_state_text(session);

	memset(action, 0, sizeof(*action));
	action->incident_id = request ?
		lg_incident_of_root(session->pid, session->session_start) :
		lg_incident_of(view, session->procno);
	action->pid = session->pid;
	action->backend_start = session->session_start;
	action->datid = session->datid;
	action->userid = session->userid;
	if (slot != NULL && slot->pid == session->pid)
	{
		action->datname = slot->datname;
		action->usename = slot->usename;
	}
	if (session->kind == LG_KIND_PREPARED)
	{
		TimestampTz prepared_at;
		bool		busy;

		lg_prepared_transaction(session->procno, action->gid, &prepared_at, &busy);
	}
	lg_read_texts(session, action->query, sizeof(action->query),
				  action->application_name, action->client_addr);
	if (state)
		strlcpy(action->state, state, sizeof(action->state));
	action->limit = verdict->limit;
	action->limit_value = verdict->value;
	action->limit_source = verdict->source;
	if (request)
		strlcpy(NameStr(action->requested_by), request->user_name, NAMEDATALEN);
	action->action = verdict->action;
	set_brake(action, verdict->brake, session->kind);
	action->released_after = -1;
	action->longest_wait = verdict->longest_wait / 1000;
	action->blocked_sessions = verdict->blocked_sessions;

	if (verdict->blocked_sessions > 0)
	{
		LgGraph    *graph = view->graph;

		/*
		 * Read the sessions that the log will show before the signal frees
		 * them.
		 */
		lg_downstream(graph, session->procno);
		for (int i = 0; i < Min(graph->nsteps, LOG_TREE_LINES); i++)
			lg_load_node(graph, &graph->nodes[graph->steps[i].node]);
		for (int i = 1; i < graph->nsteps && action->nblocked_pids < LG_MAX_PIDS; i++)
			action->blocked_pids[action->nblocked_pids++] =
				graph->nodes[graph->steps[i].node].pid;
	}

	action->open.procno = session->procno;
	action->open.pid = session->pid;
	action->open.session_start = session->session_start;
	action->open.lxid = session->lxid;
	action->open.stmt_start = session->stmt_start;
	action->open.state_start = session->state_start;
	action->open.limit = verdict->limit;
	action->open.action = verdict->action;
	if (verdict->proof == LG_PROVE_WAITS || verdict->still.waits)
	{
		const LgEvidence *wait = verdict->still.waits ? &verdict->still.wait : &verdict->still.evidence;

		action->open.wait_procno = wait->procno;
		action->open.wait_start = wait->waiter_start;
	}
}

/* 'user "app", database "shop", application "S1"', or the OIDs. */
static char *
session_text(const LgAction *action)
{
	StringInfoData buf;

	initStringInfo(&buf);
	if (NameStr(action->usename)[0])
		appendStringInfo(&buf, "user \"%s\"",
						 lg_one_line(NameStr(action->usename), NAMEDATALEN));
	else
		appendStringInfo(&buf, "user with OID %u", action->userid);
	if (NameStr(action->datname)[0])
		appendStringInfo(&buf, ", database \"%s\"",
						 lg_one_line(NameStr(action->datname), NAMEDATALEN));
	else
		appendStringInfo(&buf, ", database with OID %u", action->datid);
	if (action->application_name[0])
		appendStringInfo(&buf, ", application \"%s\"",
						 lg_one_line(action->application_name, NAMEDATALEN));
	return buf.data;
}

/*
 * The texts of a log message about a row that lg_describe() has filled in: all
 * but what has come of it.  Allocates in the current context.
 */
void
lg_log_texts(LgView *view, const LgVerdict *verdict, const LgAction *action,
			 LgLogTexts *texts)
{
	char		story[256];
	char		value[32];
	char		source[2 * NAMEDATALEN + 64];
	char	   *why;
	StringInfoData facts;
	LgTreeStyle style = {0};

	lg_tell(verdict->limit, verdict->blocked_sessions, verdict->measured,
			verdict->session.state, story, sizeof(story));
	if (verdict->limit == LG_NO_LIMIT)
		why = psprintf("asked for by user \"%s\"",
					   lg_one_line(NameStr(action->requested_by), NAMEDATALEN));
	else
	{
		lg_format_value(verdict->limit, verdict->value, value, sizeof(value));
		lg_describe_source(verdict->source,
						   lg_one_line(NameStr(action->usename), NAMEDATALEN),
						   lg_one_line(NameStr(action->datname), NAMEDATALEN),
						   source, sizeof(source));
		if (verdict->preempted_for != 0)
			why = psprintf("lockguard.%s of process %d is %s",
						   lg_setting_name(verdict->limit),
						   verdict->preempted_for, value);
		else
			why = psprintf("lockguard.%s is %s (%s)",
						   lg_setting_name(verdict->limit), value, source);
	}
	texts->why = psprintf("which %s; %s", story, why);
	if (action->gid[0])
		texts->what = psprintf("prepared transaction \"%s\"", lg_one_line(action->gid, LG_GID_SIZE));
	else
		texts->what = psprintf("process %d (%s)", action->pid, session_text(action));

	initStringInfo(&facts);
	if (action->query[0])
		appendStringInfo(&facts, "Its query: %s", lg_one_line(action->query, 500));
	if (view->looked && lg_node(view->graph, verdict->session.procno) != NULL)
	{
		int			top = verdict->session.procno;

		/* It may have ended since: its texts are those that were read before. */
		style.max_lines = LOG_TREE_LINES;
		style.root_query = action->query;
		style.root_application_name = action->application_name;
		appendStringInfo(&facts, "%sLock tree:\n", facts.len ? "\n" : "");
		lg_draw_tree(view, top, &style, &facts);
	}
	texts->facts = facts.data;
}

/*
 * One log message for a row: what was done to which session, why, and the tree.
 * It is written to the server log only: in a session that calls a function that
 * acts, client_min_messages would have the queries of others sent to its client.
 */
void
lg_write_log(const LgLogTexts *texts, const LgAction *action)
{
	const char *did;
	StringInfoData detail;

	switch (action->result)
	{
		case LG_PENDING:
			did = action->action == LG_DO_CANCEL ? "cancelled the statement of" :
				action->action == LG_DO_YIELD ? "lets others pass the lock request of" :
				action->action == LG_DO_TERMINATE ? "terminated" :
				action->pid == 0 ? "rolls back" : "rolls back the transaction of";
			break;
		case LG_FAILED:
			did = "could not signal";
			break;
		default:
			did = action->action == LG_DO_YIELD ?
				"does not let others pass the lock request of" : "did not signal";
			break;
	}

	initStringInfo(&detail);
	if (action->dry_run)
		appendStringInfo(&detail, "lockguard.dry_run is on; otherwise it would have been %s.",
						 action->action == LG_DO_CANCEL ? "cancelled" :
						 action->action == LG_DO_YIELD ? "passed by others" :
						 action->action == LG_DO_ROLLBACK ? "rolled back" : "terminated");
	else if (action->reason[0] && action->action == LG_DO_YIELD)
		appendStringInfo(&detail, "Others do not pass it: %s.", action->reason);
	else if (action->reason[0])
		appendStringInfo(&detail, "Not signalled: %s.", action->reason);
	if (texts->facts[0])
		appendStringInfo(&detail, "%s%s", detail.len ? "\n" : "", texts->facts);

	ereport(LOG_SERVER_ONLY,
			(errmsg("lockguard: %s %s, %s", did, texts->what, texts->why),
			 detail.len > 0 ? errdetail_internal("%s", detail.data) : 0,
			 errhidestmt(true), errhidecontext(true)));
}

/* Count a signal that was sent so many ns after the limit was passed. */
static void
count_lateness(int64 lateness)
{
	static const int bounds[LG_NUM_LATENESS] = LG_LATENESS_BOUNDS;
	LgStats    *stats = &lg_shared->stats;

	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < LG_NUM_LATENESS; i++)
		if (lateness <= bounds[i] * LG_NANOS_PER_MS)
			stats->within[i]++;
	if (lateness > bounds[LG_NUM_LATENESS - 1] * LG_NANOS_PER_MS)
		stats->later++;
	stats->max_lateness = Max(stats->max_lateness, lateness);
	LWLockRelease(lg_shared->lock);
}

/*
 * Record what has come of a verdict, in a row that lg_describe() has filled in,
 * and log it.  Returns the row's id.
 */
static int64
record_and_log(LgView *view, const LgVerdict *verdict, LgAction *action)
{
	LgLogTexts	texts;

	if (action->acted_at == 0)
		action->acted_at = GetCurrentTimestamp();
	lg_record_action(action);
	lg_log_texts(view, verdict, action, &texts);
	lg_write_log(&texts, action);
	return action->action_id;
}

/*
 * Record and log a verdict that no signal is sent for.  Returns the row's id.
 */
int64
lg_record_verdict(LgView *view, const LgVerdict *verdict)
{
	LgAction	action;

	lg_describe(view, verdict, NULL, &action);
	action.dry_run = verdict->brake == LG_BRAKE_DRY_RUN;
	return record_and_log(view, verdict, &action);
}

/* What the victim of a verdict is told; "request" as for lg_carry_out(). */
static LgReason
reason_for(const LgVerdict *verdict, const LgRequest *request)
{
	LgReason	reason = {0};

	reason.pid = verdict->session.pid;
	reason.session_start = verdict->session.session_start;
	reason.stmt_start = verdict->proof == LG_PROVE_STATEMENT ?
		verdict->session.stmt_start : 0;
	reason.state = verdict->session.state;
	reason.action = verdict->action;
	reason.limit = verdict->limit;
	reason.value = verdict->value;
	reason.source = verdict->source;
	reason.blocked_sessions = verdict->blocked_sessions;
	reason.measured = verdict->measured;
	reason.other_pid = verdict->preempted_for;
	reason.requested_by_pid = request ? request->pid : 0;
	return reason;
}

/* Prove a verdict and send its signal; see lg_prove_and_signal(). */
static LgBrake
signal_victim(LgView *view, const LgVerdict *verdict, const LgRequest *request,
			  TimestampTz *acted_at)
{
	const LgSession *session = &verdict->session;
	LgReason	reason = reason_for(verdict, request);

	/* Not under the locks: this asks the operating system. */
	if (verdict->still.idle && !lg_state_is_idle(session) &&
		lg_client_has_moved(&view->tracks[session->procno], session))
		return lg_not_proved(verdict);
	return lg_prove_and_signal(verdict, &reason, acted_at);
}

/* Count a signal that was sent at that time (monotonic ns) in the statistics. */
static void
count_signal(LgView *view, const LgVerdict *verdict, int64 sent_at)
{
	LgGraph    *graph = view->graph;
	int			procno = verdict->session.procno;
	LgContention more = {0};

	graph->nsteps = 0;
	if (view->looked && lg_node(graph, procno) != NULL)
		lg_downstream(graph, procno);
	lg_contention_key(graph, &verdict->session, &more);
	more.actions = 1;
	lg_count_contention(&more);
	if (verdict->passed_at != 0 && !verdict->escalation)
		count_lateness(sent_at - verdict->passed_at);
}

/*
 * Carry out a verdict: signal its session, if nothing keeps lockguard from it,
 * and record what has come of it; the same once only, if no signal was sent.
 * Returns true if one was; *sent then says which, to be followed.
 *
 * A verdict that was asked for by hand comes with a request.  Then nothing is
 * allocated or logged here, so that nothing can fail between the signals to
 * several sessions.  The caller has filled the row in with lg_describe(); what
 * has come of it is added, and the caller writes the log message.
 */
bool
lg_carry_out(LgView *view, LgVerdict *verdict, const LgRequest *request,
			 LgOpen *sent)
{
	LgAction	action;
	LgBrake		brake = verdict->brake;

	if (brake == LG_NO_BRAKE && !request)
		brake = lg_server_brake(view->clock.now, verdict->limit);
	if (brake != LG_NO_BRAKE && recorded_before(view, verdict, brake))
		return false;

	if (verdict->blocked_sessions == LG_NOT_COUNTED)
		lg_count_blocked(view, verdict->session.procno, &verdict->blocked_sessions,
						 &verdict->longest_wait);
	if (request)
		action = *request->action;
	else
		lg_describe(view, verdict, NULL, &action);
	action.dry_run = brake == LG_BRAKE_DRY_RUN;

	if (brake == LG_NO_BRAKE)
	{
		LG_DEBUG_POINT("before_signal");
		brake = signal_victim(view, verdict, request, &action.acted_at);
		action.open.acted_at = action.open.repeated_at = lg_now();
		if (brake != LG_NO_BRAKE)
		{
			action.action = LG_DO_LOG;
			action.acted_at = 0;
			if (recorded_before(view, verdict, brake))
				return false;
		}
	}
	set_brake(&action, brake, verdict->session.kind);

	if (brake == LG_NO_BRAKE && !request)
		lg_cap_count(view->clock.now);
	if (request)
	{
		if (action.acted_at == 0)
			action.acted_at = GetCurrentTimestamp();
		lg_record_action(&action);
		*request->action = action;
	}
	else
		record_and_log(view, verdict, &action);
	if (brake != LG_NO_BRAKE)
		return false;

	count_signal(view, verdict, action.open.acted_at);
	if (sent != NULL)
		*sent = action.open;
	return true;
}
