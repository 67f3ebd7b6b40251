/*-------------------------------------------------------------------------
 *
 * report.c
 *		lockguard.report() and lockguard.deadlock_report(): an incident, or a
 *		deadlock, as a postmortem in Markdown.
 *
 * Names and queries are text of other users.  In Markdown they are put into code
 * spans and code blocks only, fenced by more backticks than they contain; in
 * Mermaid's labels all but letters, digits and a few harmless characters are
 * written as character codes.  So none of it is ever read as markup.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "deadlock.h"
#include "incident.h"
#include "record.h"
#include "settings.h"
#include "sql.h"
#include "text.h"
#include "types.h"
#include "waitgraph.h"

/* Sessions drawn in a graph: more cannot be read. */
#define MAX_DRAWN	30

/* The longest run of backticks in a text. */
static int
backticks(const char *string)
{
	int			longest = 0;
	int			run = 0;

	for (; *string; string++)
	{
		run = *string == '`' ? run + 1 : 0;
		longest = Max(longest, run);
	}
	return longest;
}

static void
append_fence(StringInfo out, int n)
{
	while (n-- > 0)
		appendStringInfoChar(out, '`');
}

/*
 * A text as a code span, on one line, fit for a table's cell.  No code span
 * can hold a bar there, nor a backslash before one: such a text is written as
 * HTML's code element, in character codes.
 */
static void
append_code(StringInfo out, const char *string)
{
	char	   *line = lg_clean(lg_one_line(string, LG_QUERY_SIZE));

	if (line[0] == '\0')
	{
		appendStringInfoString(out, "-");
		return;
	}
	if (strpbrk(line, "|\\`") == NULL)
	{
		appendStringInfo(out, "`%s`", line);
		return;
	}
	appendStringInfoString(out, "<code>");
	for (char *p = line; *p; p++)
	{
		unsigned char c = (unsigned char) *p;

		if (c >= 128 || isalnum(c) || c == ' ')
			appendStringInfoChar(out, c);
		else
			appendStringInfo(out, "&#%d;", c);
	}
	appendStringInfoString(out, "</code>");
}

/* A text as a code block; line ends stay, other control characters do not. */
static void
append_block(StringInfo out, const char *language, const char *string)
{
	char	   *copy = lg_clean(string);
	int			fence = Max(backticks(copy) + 1, 3);

	for (char *p = copy; *p; p++)
		if (*p != '\n' && *p != '\t' && lg_control_bytes(p) > 0)
			memset(p, ' ', lg_control_bytes(p));
	append_fence(out, fence);
	appendStringInfo(out, "%s\n%s\n", language, copy);
	append_fence(out, fence);
	appendStringInfoString(out, "\n");
}

/* A text as part of a Mermaid label. */
static void
append_label(StringInfo out, const char *string, int max_bytes)
{
	for (char *p = lg_clean(lg_one_line(string, max_bytes)); *p; p++)
	{
		unsigned char c = (unsigned char) *p;

		/* Mermaid takes this word for a command even within quotes. */
		if (pg_strncasecmp(p, "direction", 9) == 0)
			appendStringInfo(out, "#%d;", c);
		else if (c >= 128 || isalnum(c) || strchr(" _.,=+*-", c) != NULL)
			appendStringInfoChar(out, c);
		else
			appendStringInfo(out, "#%d;", c);
	}
}

static char *
duration(int64 us)
{
	char		buf[32];

	lg_duration_text(us * 1000, buf, sizeof(buf));
	return pstrdup(buf);
}

static char *
count_of(int n, const char *what)
{
	return psprintf("%d %s%s", n, what, n == 1 ? "" : "s");
}

/* What a lock is on, for a reader who can no longer look names up. */
static char *
lock_name(const LOCKTAG *tag)
{
	LgTreeStyle style = {0};
	char		buf[256];

	lg_lock_text(tag, &style, buf, sizeof(buf));
	return pstrdup(buf);
}

static void
append_root(StringInfo out, const LgIncident *incident)
{
	if (incident->kind == LG_KIND_PREPARED)
	{
		appendStringInfoString(out, "prepared transaction ");
		append_code(out, incident->gid);
		return;
	}
	appendStringInfo(out, "process %d", incident->root_pid);
	if (incident->kind != LG_KIND_CLIENT)
	{
		if (lg_may_see(incident->userid))
			appendStringInfo(out, " (%s)", lg_kind_text((LgKind) incident->kind));
	}
	else
	{
		appendStringInfoString(out, " (role ");
		append_code(out, NameStr(incident->usename));
		appendStringInfoString(out, ", database ");
		append_code(out, NameStr(incident->datname));
		appendStringInfoString(out, ", application ");
		append_code(out, incident->application_name);
		appendStringInfoChar(out, ')');
	}
}

/* Does a session wait for a relation lock right behind the root? */
static bool
has_queued_blocker(const LgIncident *incident)
{
	const LgIncidentSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;

	while ((session = lg_next_session(incident, session, &usename,
									  &application_name, &query)) != NULL)
		if (session->level > 1 && session->block_kind == LG_QUEUE &&
			session->tag.locktag_type == LOCKTAG_RELATION)
			return true;
	return false;
}

/*
 * Why no limit on blockers would have removed a root, and in *next what can be
 * done instead (NULL: the same as about any other session).  Returns NULL if a
 * limit would have: that is what the worker's own judge said of the root when
 * most sessions were blocked.
 */
static const char *
why_no_limit(const LgIncident *incident, const char **next)
{
	const char *usename;
	const char *application_name;
	const char *query;
	const LgIncidentSession *root =
		lg_next_session(incident, NULL, &usename, &application_name, &query);
	uint32		wait_event = root != NULL ? root->wait_event : 0;

	*next = NULL;
	switch (incident->kind)
	{
		case LG_KIND_CLIENT:
			break;
		case LG_KIND_STARTUP:
			*next = lg_is_recovery_conflict(wait_event) ?
				"Replay waited for sessions on this standby: see `max_standby_streaming_delay`, and set `lockguard.idle_in_transaction_timeout` or `lockguard.max_xmin_age` here." :
				"It held the locks of a transaction on the primary, which does not see the sessions that wait for them here: set `lockguard.idle_in_transaction_timeout` or `lockguard.transaction_timeout` there.";
			return "the root was the startup process, which replays what the primary has done";
		case LG_KIND_WALSENDER:
			*next = "Find what its client does over the replication connection. `pg_terminate_backend()` ends it.";
			return "the root was a walsender";
		case LG_KIND_AUTOVACUUM:
			*next = "PostgreSQL cancels an autovacuum after `deadlock_timeout`, unless it has to prevent wraparound: run schema changes with a short lock_timeout, and try again when it is done.";
			return "the root was an autovacuum worker";
		case LG_KIND_STARTING:
			*next = "Find what its login was busy with.";
			return "the root was a session that was logging in";
		default:
			*next = "Find what it does for so long. `pg_terminate_backend()` ends a background worker, which may be started again.";
			return psprintf("the root was a %s", lg_kind_text((LgKind) incident->kind));
	}

	switch (incident->judged)
	{
		case LG_PROTECTED:
			*next = wait_event == WAIT_EVENT_SYNC_REP ?
				"Its commit waited for a synchronous standby: see `synchronous_standby_names`, and `pg_stat_replication` for whether it is connected." :
				"Find what its commit waited for.";
			return "the root's commit could no longer be undone";
		case LG_EXEMPTED:
			return "the root was exempt, by `lockguard.exempt` or `lockguard.exempt()`";
		case LG_LOGGED:
			return "`lockguard.action` of the root did not allow it";
		default:
			return NULL;
	}
}

/*
 * The setting that would have ended it, and what it takes to prevent it.
 * "spared" is the last time that the root was over a limit and left alone, or
 * NULL.
 */
static void
append_advice(StringInfo out, const LgIncident *incident, bool acted,
			  const LgAction *spared, bool visible)
{
	const char *setting;
	const char *why;
	const char *next;
	const char *instead;
	const char *unable;
	bool		idle = strncmp(incident->state, "idle", 4) == 0;
	bool		queued = has_queued_blocker(incident);

	if (!visible)
	{
		appendStringInfoString(out, "- A member of `pg_read_all_stats` can see what the root did.\n");
		return;
	}
	if (incident->kind == LG_KIND_PREPARED)
	{
		setting = "lockguard.prepared_transaction_timeout";
		why = "the root was a prepared transaction that was never finished";
		next = "Find the transaction manager that prepared it, and why it did not commit or roll back.";
		unable = NULL;
	}
	else
	{
		if (queued)
		{
			setting = idle ? "lockguard.idle_blocker_timeout" :
				"lockguard.queued_blocker_timeout";
			why = idle ? "the root was idle, with a lock request and a queue behind it" :
				"the root was active, and a lock request that waited for it held up all others";
			next = "Let others pass schema changes (`lockguard.queue_yield_timeout`), or run them with a short lock_timeout, and try again when the table is less busy.";
		}
		else if (idle)
		{
			setting = "lockguard.idle_blocker_timeout";
			why = "the root was idle and held locks";
			next = strcmp(incident->state, "idle") == 0 ?
				"Find where the application takes an advisory lock and does not release it, or a pool gives the connection to another client first. `pg_advisory_xact_lock()` is released with the transaction." :
				"Find where the application leaves a transaction open: an error path without ROLLBACK, or a wait for something outside the database.";
		}
		else
		{
			setting = "lockguard.blocker_timeout";
			why = "the root was active all the time";
			next = "Do the work in smaller transactions, or when no other session needs the same rows.";
		}
		unable = why_no_limit(incident, &instead);
		if (instead != NULL)
			next = instead;
	}

	if (!acted)
	{
		appendStringInfoString(out, "- Nothing was signalled");
		if (spared != NULL)
			appendStringInfo(out, ": the root was over `lockguard.%s`, but was left alone (%s)",
							 lg_setting_name(spared->limit),
							 spared->reason[0] ? spared->reason : lg_result_name(spared->result));
		appendStringInfoString(out, ".");
		if (incident->kind == LG_KIND_PREPARED)
			appendStringInfo(out, " `%s` with `lockguard.prepared_transaction_action = 'rollback'` would have ended this: %s.",
							 setting, why);
		else if (spared == NULL && unable != NULL)
			appendStringInfo(out, " No limit would have removed the root: %s.", unable);
		else if (spared == NULL)
			appendStringInfo(out, " `%s` would have ended this: %s.", setting, why);
		appendStringInfoString(out, "\n");
		if (unable != NULL && queued)
			appendStringInfoString(out, "- `lockguard.queued_blocker_timeout` would have removed the lock request that waited for the root, and freed the sessions behind that.\n");
	}
	appendStringInfo(out, "- %s\n", next);
	if (incident->query_id != 0 && visible)
		appendStringInfo(out, "- `SELECT * FROM lockguard.contention WHERE queryid = %lld` shows what this statement has cost so far.\n",
						 (long long) incident->query_id);
	if (!acted && spared == NULL && (unable == NULL || queued))
		appendStringInfo(out, "- With `lockguard.dry_run = on` a limit can be tried out: it is recorded which sessions would have been signalled.\n");
}

/*
 * Was no signal sent?  With dry_run, a pause or the action cap, "action" says
 * what would have been done.
 */
static bool
was_left_alone(const LgAction *action)
{
	return action->action == LG_DO_LOG || action->dry_run ||
		action->result == LG_LOGGED || action->result == LG_SUPPRESSED;
}

/* Milliseconds since 1970, for Mermaid. */
static long long
epoch_ms(TimestampTz t)
{
	return (long long) (t / 1000 + INT64CONST(946684800000));
}

/*
 * The signals in an incident's tree, each as a row of the timeline.  Returns
 * how many; *spared is the last row about the root that is none, or has no
 * action_id.
 */
static int
append_actions(StringInfo out, const LgIncident *incident, StringInfo gantt,
			   LgAction *spared)
{
	LgAction   *action = palloc(sizeof(LgAction));
	int64		first;
	int64		next;
	int			n = 0;

	lg_action_range(&first, &next);
	for (int64 id = first; id < next; id++)
	{
		char		value[32];

		CHECK_FOR_INTERRUPTS();
		if (!lg_fetch_action(id, action) ||
			action->incident_id != incident->incident_id)
			continue;
		appendStringInfo(out, "| %s | ", timestamptz_to_str(action->acted_at));
		if (was_left_alone(action))
			appendStringInfo(out, "lockguard left process %d alone (%s)", action->pid,
							 action->reason[0] && lg_may_see(action->userid) ?
							 action->reason : lg_result_name(action->result));
		else if (action->action == LG_DO_YIELD)
			appendStringInfo(out, "lockguard let %s pass the lock request of process %d, %s%s",
							 count_of(action->blocked_sessions, "session"), action->pid,
							 lg_result_name(action->result),
							 action->released_after >= 0 ?
							 psprintf(" after %s", duration(action->released_after)) : "");
		else
			appendStringInfo(out, "lockguard: %s %s, %s%s",
							 lg_action_name(action->action),
							 action->pid == 0 ? "the prepared transaction" :
							 psprintf("process %d", action->pid),
							 lg_result_name(action->result),
							 action->released_after >= 0 ?
							 psprintf(" after %s", duration(action->released_after)) : "");
		if (action->limit == LG_NO_LIMIT)
		{
			appendStringInfoString(out, ", asked for by ");
			append_code(out, NameStr(action->requested_by));
		}
		else
		{
			lg_format_value(action->limit, action->limit_value, value, sizeof(value));
			appendStringInfo(out, "; `lockguard.%s` is %s (%s)",
							 lg_setting_name(action->limit), value,
							 lg_source_name(action->limit_source));
		}
		appendStringInfoString(out, " |\n");
		if (was_left_alone(action))
		{
			if (action->limit != LG_NO_LIMIT && action->pid == incident->root_pid &&
				action->backend_start == incident->backend_start)
				*spared = *action;
		}
		else
		{
			/* No session was removed by it. */
			if (action->action != LG_DO_YIELD)
				n++;
			appendStringInfo(gantt, "    %s %d : milestone, %lld, 0d\n",
							 lg_action_name(action->action), action->pid,
							 epoch_ms(action->acted_at));
		}
	}
	return n;
}

/* When an incident ended, or was last seen. */
static TimestampTz
end_of(const LgIncident *incident)
{
	return incident->ended_at != 0 ? incident->ended_at : incident->updated_at;
}

/* The first sentences. */
static void
append_summary(StringInfo out, const LgIncident *incident)
{
	appendStringInfo(out, "From %s", timestamptz_to_str(incident->started_at));
	if (incident->ended_at != 0)
		appendStringInfo(out, " to %s, ", timestamptz_to_str(incident->ended_at));
	else
		appendStringInfoString(out, " until now, ");
	append_root(out, incident);
	if (lg_may_see(incident->userid) && incident->kind == LG_KIND_CLIENT && incident->state[0])
		appendStringInfo(out, ", %s,", incident->state);
	appendStringInfo(out, " blocked up to %s on %s; together they lost %s.",
					 count_of(incident->peak_blocked_sessions, "session"),
					 lock_name(&incident->tag), duration(incident->total_wait));
	switch (incident->resolution)
	{
		case LG_OPEN_INCIDENT:
			appendStringInfoString(out, " The incident is still open.");
			break;
		case LG_BY_RELEASE:
			appendStringInfoString(out, incident->waits > 0 && incident->gave_up >= incident->waits ?
								   " All that waited for it gave up." :
								   " It released its locks by itself.");
			break;
		case LG_BY_CANCEL:
			appendStringInfoString(out, " A statement was cancelled to end it.");
			break;
		case LG_BY_TERMINATION:
			appendStringInfoString(out, " A session was terminated to end it.");
			break;
		case LG_BY_SESSION_END:
			appendStringInfoString(out, " Its session ended.");
			break;
		case LG_BY_ROLLBACK:
			appendStringInfoString(out, incident->kind == LG_KIND_PREPARED ? " It was rolled back." :
								   " A transaction was rolled back to end it.");
			break;
		case LG_BY_REPLACEMENT:
			appendStringInfo(out, " Then it began to wait itself, for another root%s.",
							 incident->replaced_by != 0 ?
							 psprintf(" (incident %lld)", (long long) incident->replaced_by) : "");
			break;
		case LG_BY_RESTART:
			appendStringInfoString(out, " The server was restarted.");
			break;
	}
}

/* What happened when; "actions" has the rows of append_actions(). */
static void
append_timeline(StringInfo out, const LgIncident *incident, const char *actions)
{
	appendStringInfoString(out, "\n\n## Timeline\n\n| when | what |\n|---|---|\n");
	if (incident->xact_start != 0 && lg_may_see(incident->userid))
		appendStringInfo(out, "| %s | the root's transaction began |\n",
						 timestamptz_to_str(incident->xact_start));
	appendStringInfo(out, "| %s | it began to block |\n",
					 timestamptz_to_str(incident->started_at));
	appendStringInfo(out, "| %s | most were blocked: %s |\n",
					 timestamptz_to_str(incident->peak_at),
					 count_of(incident->peak_blocked_sessions, "session"));
	appendStringInfoString(out, actions);
	if (incident->ended_at != 0)
		appendStringInfo(out, "| %s | the end: %s |\n",
						 timestamptz_to_str(incident->ended_at),
						 lg_resolution_name(incident->resolution));
}

/* The same as a chart; "milestones" is what append_actions() has for it. */
static void
append_gantt(StringInfo out, const LgIncident *incident, const char *milestones)
{
	const LgIncidentSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;
	TimestampTz end = end_of(incident);
	int			n = 0;

	appendStringInfoString(out, "\n```mermaid\ngantt\n    dateFormat x\n    axisFormat %H:%M:%S\n    section root\n");
	appendStringInfo(out, "    %s : crit, %lld, %lld\n",
					 incident->kind == LG_KIND_PREPARED ? "prepared transaction" :
					 psprintf("process %d", incident->root_pid),
					 epoch_ms(incident->started_at),
					 Max(epoch_ms(end), epoch_ms(incident->started_at) + 1));
	appendStringInfoString(out, "    section blocked\n");
	while ((session = lg_next_session(incident, session, &usename,
									  &application_name, &query)) != NULL && n < MAX_DRAWN)
		if (session->level > 0)
		{
			long long	start = epoch_ms(incident->peak_at - session->waited);

			n++;
			appendStringInfo(out, "    process %d : %lld, %lld\n", session->pid, start,
							 Max(epoch_ms(end), start + 1));
		}
	if (milestones[0])
		appendStringInfo(out, "    section lockguard\n%s", milestones);
	appendStringInfoString(out, "```\n");
}

/* How bad it was. */
static void
append_impact(StringInfo out, const LgIncident *incident)
{
	appendStringInfo(out, "\n## Impact\n\n| | |\n|---|---|\n"
					 "| Duration | %s |\n", duration(end_of(incident) - incident->started_at));
	appendStringInfo(out, "| Sessions blocked at once, at most | %d |\n",
					 incident->peak_blocked_sessions);
	appendStringInfo(out, "| Longest wait | %s |\n", duration(incident->longest_wait));
	appendStringInfo(out, "| Session time lost | %s |\n", duration(incident->total_wait));
	appendStringInfo(out, "| Waits | %lld |\n", (long long) incident->waits);
	appendStringInfo(out, "| Waits that ended without the lock | %lld |\n",
					 (long long) incident->gave_up);
}

/* Who went away without the lock: the last ones. */
static void
append_gave_up(StringInfo out, const LgIncident *incident)
{
	int64		first = Max(incident->gave_up - LG_MAX_GAVE_UP, 0);

	if (incident->gave_up == 0)
		return;
	appendStringInfo(out, "\n## Who gave up\n\n%sThe time is when that was seen.\n\n"
					 "| when | process | user | waited for |\n|---|---|---|---|\n",
					 first > 0 ? psprintf("The last %d of %lld.  ", LG_MAX_GAVE_UP,
										  (long long) incident->gave_up) : "");
	for (int64 n = first; n < incident->gave_up; n++)
	{
		const LgGaveUp *one = &incident->gave_up_by[n % LG_MAX_GAVE_UP];
		char	   *name = GetUserNameFromId(one->userid, true);

		appendStringInfo(out, "| %s | %d | ", timestamptz_to_str(one->at), one->pid);
		append_code(out, name ? name : psprintf("OID %u", one->userid));
		appendStringInfo(out, " | %s |\n", duration(one->waited));
	}
}

/* Which session waited for which, as a drawing. */
static void
append_graph(StringInfo out, const LgIncident *incident)
{
	const LgIncidentSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;
	int			n = 0;

	appendStringInfoString(out, "\n## Which session waited for which, at the worst\n\n```mermaid\nflowchart LR\n");
	while ((session = lg_next_session(incident, session, &usename,
									  &application_name, &query)) != NULL && n < MAX_DRAWN)
	{
		appendStringInfo(out, "    n%d[\"", n);
		if (session->kind == LG_KIND_PREPARED)
		{
			appendStringInfoString(out, "prepared ");
			append_label(out, incident->gid, 40);
		}
		else
			appendStringInfo(out, "%d ", session->pid);
		if (session->kind == LG_KIND_CLIENT)
			append_label(out, application_name[0] ? application_name : usename, 40);
		else if (session->kind != LG_KIND_PREPARED && lg_may_see(session->userid))
			append_label(out, lg_kind_text((LgKind) session->kind), 40);
		appendStringInfoString(out, "\"]\n");
		if (session->level > 0)
		{
			appendStringInfo(out, "    n%d -->|\"", n);
			append_label(out, GetLockmodeName(session->tag.locktag_lockmethodid,
											  session->mode), 40);
			appendStringInfoString(out, ", ");
			append_label(out, lock_name(&session->tag), 80);
			if (session->block_kind == LG_QUEUE)
				appendStringInfoString(out, ", queued");
			appendStringInfo(out, "\"| n%d\n", session->parent);
		}
		n++;
	}
	appendStringInfoString(out, "    style n0 stroke-width:4px\n```\n");
	if (incident->peak_blocked_sessions + 1 > n)
		appendStringInfo(out, "\n%s not drawn.\n",
						 count_of(incident->peak_blocked_sessions + 1 - n, "more session"));
}

/* The sessions of the tree, as a table. */
static void
append_sessions(StringInfo out, const LgIncident *incident)
{
	const LgIncidentSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;
	int		   *pids = palloc_array(int, incident->nsessions + 1);
	int			n = 0;

	appendStringInfoString(out, "\n## Sessions\n\n"
						   "| process | role | application | state | waits for | lock | for |\n"
						   "|---|---|---|---|---|---|---|\n");
	while ((session = lg_next_session(incident, session, &usename,
									  &application_name, &query)) != NULL)
	{
		pids[n++] = session->pid;
		appendStringInfoString(out, "| ");
		if (session->kind == LG_KIND_PREPARED)
			append_code(out, incident->gid);
		else
			appendStringInfo(out, "%d", session->pid);
		appendStringInfoString(out, " | ");
		append_code(out, usename);
		appendStringInfoString(out, " | ");
		append_code(out, application_name);
		appendStringInfo(out, " | %s", lg_kept_state(session, lg_may_see));
		if (session->level > 0)
			appendStringInfo(out, " | %d | %s, %s | %s |\n",
							 pids[session->parent],
							 GetLockmodeName(session->tag.locktag_lockmethodid,
											 session->mode),
							 lock_name(&session->tag), duration(session->waited));
		else
			appendStringInfo(out, " | | | blocking for %s |\n", duration(session->waited));
	}
	if (incident->nleft_out > 0)
		appendStringInfo(out, "\n%s could not be kept.\n",
						 count_of(incident->nleft_out, "more session"));
}

/* Their queries, as far as the caller may see them. */
static void
append_queries(StringInfo out, const LgIncident *incident)
{
	const LgIncidentSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;

	appendStringInfoString(out, "\n## What they ran\n");
	while ((session = lg_next_session(incident, session, &usename,
									  &application_name, &query)) != NULL)
	{
		if (query[0] == '\0')
			continue;
		appendStringInfo(out, "\n%d:\n\n", session->pid);
		append_block(out, "sql", lg_may_see(session->userid) ? query :
					 "<insufficient privilege>");
	}
}

PG_FUNCTION_INFO_V1(lockguard_report);

/*
 * report(incident_id): the postmortem, masked for the caller.  Errors out if
 * there is no such incident.
 */
Datum
lockguard_report(PG_FUNCTION_ARGS)
{
	int64		id = PG_GETARG_INT64(0);
	LgIncident *incident = palloc0(sizeof(LgIncident));
	StringInfoData out;
	StringInfoData actions;
	StringInfoData milestones;
	LgAction	spared;
	int			acted;

	lg_require_loaded();
	if (!lg_fetch_incident(id, incident))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("incident %lld does not exist", (long long) id),
				 errhint("lockguard.incidents lists those that are kept.")));

	initStringInfo(&actions);
	initStringInfo(&milestones);
	spared.action_id = 0;
	acted = append_actions(&actions, incident, &milestones, &spared);

	initStringInfo(&out);
	appendStringInfo(&out, "# Incident %lld: %s blocked for %s\n\n", (long long) id,
					 count_of(incident->peak_blocked_sessions, "session"),
					 duration(end_of(incident) - incident->started_at));
	append_summary(&out, incident);
	append_timeline(&out, incident, actions.data);
	append_gantt(&out, incident, milestones.data);
	append_impact(&out, incident);
	append_gave_up(&out, incident);
	append_graph(&out, incident);
	append_sessions(&out, incident);
	append_queries(&out, incident);
	appendStringInfoString(&out, "\n## What to do next\n\n");
	append_advice(&out, incident, acted > 0, spared.action_id != 0 ? &spared : NULL,
				  lg_may_see(incident->userid));

	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

/* The lock that a session of a deadlock waited for, with its mode. */
static char *
awaited(const LgDeadlockSession *session)
{
	return psprintf("%s%s%s",
					session->mode == NoLock ? "" :
					GetLockmodeName(DEFAULT_LOCKMETHOD, session->mode),
					session->mode == NoLock ? "" : ", ",
					session->tag.locktag_lockmethodid == 0 ? "a lock that is not known" :
					lock_name(&session->tag));
}

/* Which session waited for which, as a drawing. */
static void
append_cycle(StringInfo out, const LgDeadlock *deadlock)
{
	const LgDeadlockSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;
	int			left_out = deadlock->in_cycle - deadlock->nsessions;
	int			n = 0;

	appendStringInfoString(out, "\n\n## The cycle\n\n```mermaid\nflowchart LR\n");
	while ((session = lg_next_in_cycle(deadlock, session, &usename,
									   &application_name, &query)) != NULL)
	{
		appendStringInfo(out, "    n%d[\"%d ", n++, session->pid);
		append_label(out, application_name[0] ? application_name : usename, 40);
		appendStringInfoString(out, "\"]\n");
	}
	if (left_out > 0)
		appendStringInfo(out, "    n%d[\"%d more\"]\n", n, left_out);
	n = 0;
	while ((session = lg_next_in_cycle(deadlock, session, &usename,
									   &application_name, &query)) != NULL)
	{
		n++;
		if (session->blocker_pid == 0)
			continue;
		appendStringInfo(out, "    n%d -->|\"", n - 1);
		append_label(out, awaited(session), 120);
		appendStringInfo(out, "\"| n%d\n",
						 n == deadlock->nsessions && left_out == 0 ? 0 : n);
	}
	if (left_out > 0)
		appendStringInfo(out, "    n%d --> n0\n", n);
	appendStringInfoString(out, "    style n0 stroke-width:4px\n```\n");
}

/* The sessions of the cycle, as a table. */
static void
append_cycle_sessions(StringInfo out, const LgDeadlock *deadlock)
{
	const LgDeadlockSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;
	int			left_out = deadlock->in_cycle - deadlock->nsessions;

	appendStringInfoString(out, "\n## Sessions\n\n"
						   "| process | role | application | waited for | blocked by |\n"
						   "|---|---|---|---|---|\n");
	while ((session = lg_next_in_cycle(deadlock, session, &usename,
									   &application_name, &query)) != NULL)
	{
		appendStringInfo(out, "| %d | ", session->pid);
		append_code(out, usename);
		appendStringInfoString(out, " | ");
		append_code(out, application_name);
		appendStringInfo(out, " | %s | %s |\n", awaited(session),
						 session->blocker_pid == 0 ? "" : psprintf("%d", session->blocker_pid));
	}
	if (left_out > 0)
		appendStringInfo(out, "\n%s could not be kept.\n", count_of(left_out, "more session"));
}

/* Their statements, as far as the caller may see them. */
static void
append_cycle_queries(StringInfo out, const LgDeadlock *deadlock)
{
	const LgDeadlockSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;

	appendStringInfoString(out, "\n## What they ran\n");
	while ((session = lg_next_in_cycle(deadlock, session, &usename,
									   &application_name, &query)) != NULL)
	{
		bool		visible = lg_may_see(session->userid);

		if (visible && query[0] == '\0')
			continue;
		appendStringInfo(out, "\n%d:\n\n", session->pid);
		append_block(out, "sql", visible ? query : "<insufficient privilege>");
	}
}

/* Does a session wait for another's transaction because of a row? */
static bool
is_about_row(const LOCKTAG *tag)
{
	return tag->locktag_type == LOCKTAG_TRANSACTION || tag->locktag_type == LOCKTAG_TUPLE ||
		tag->locktag_type == LOCKTAG_SPECULATIVE_TOKEN;
}

/* Can a transaction choose when to take such a lock? */
static bool
can_be_ordered(const LOCKTAG *tag)
{
	return is_about_row(tag) || tag->locktag_type == LOCKTAG_RELATION ||
		tag->locktag_type == LOCKTAG_OBJECT || tag->locktag_type == LOCKTAG_ADVISORY;
}

/*
 * Which order of locks would have avoided a deadlock of two?  Each held what the
 * other waited for.
 */
static void
append_order(StringInfo out, const LgDeadlockSession *one, const LgDeadlockSession *other)
{
	const char *first = lock_name(&one->tag);
	const char *second = lock_name(&other->tag);

	if (memcmp(&one->tag, &other->tag, sizeof(LOCKTAG)) == 0)
		appendStringInfo(out, "- Both held a lock on %s and waited for a stronger one. If each took the strongest lock that it needs first (`SELECT ... FOR UPDATE`, `LOCK TABLE`), one would have waited for the other to finish.\n",
						 first);
	else if (is_about_row(&one->tag) && is_about_row(&other->tag))
		appendStringInfo(out, "- Process %d had changed or locked a row that process %d waited for, and process %d one that process %d waited for. If both took their rows in the same order, by their key for example (`SELECT ... ORDER BY ... FOR UPDATE`), one would have waited for the other to finish.\n",
						 one->pid, other->pid, other->pid, one->pid);
	else
	{
		if (is_about_row(&one->tag))
			first = psprintf("a row of %s", first);
		if (is_about_row(&other->tag))
			second = psprintf("a row of %s", second);
		appendStringInfo(out, "- Process %d held %s and waited for %s; process %d held %s and waited for %s. If both took these locks in the same order, one would have waited for the other to finish.\n",
						 one->pid, second, first, other->pid, first, second);
	}
}

/* What to do so that it does not come again. */
static void
append_deadlock_advice(StringInfo out, const LgDeadlock *deadlock)
{
	const LgDeadlockSession *one;
	const LgDeadlockSession *other;
	const char *text[3];

	one = lg_next_in_cycle(deadlock, NULL, &text[0], &text[1], &text[2]);
	other = lg_next_in_cycle(deadlock, one, &text[0], &text[1], &text[2]);
	if (deadlock->in_cycle == 2 && other != NULL &&
		one->tag.locktag_lockmethodid != 0 && other->tag.locktag_lockmethodid != 0 &&
		can_be_ordered(&one->tag) && can_be_ordered(&other->tag))
		append_order(out, one, other);
	else
		appendStringInfoString(out, "- Transactions that take their locks in the same order do not deadlock: look for the statements of these that take them in different orders.\n");
	appendStringInfoString(out, "- Run the transaction that got the error again: deadlocks that are rare need no other remedy.\n"
						   "- Is it a frequent one? Group `lockguard.deadlocks` by `queryids`.\n");
}

PG_FUNCTION_INFO_V1(lockguard_deadlock_report);

/*
 * deadlock_report(deadlock_id): the same about a deadlock, masked for the caller.
 * Errors out if there is no such deadlock.
 */
Datum
lockguard_deadlock_report(PG_FUNCTION_ARGS)
{
	int64		id = PG_GETARG_INT64(0);
	LgDeadlock *deadlock = palloc0(sizeof(LgDeadlock));
	StringInfoData out;

	lg_require_loaded();
	if (!lg_fetch_deadlock(id, deadlock))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("deadlock %lld does not exist", (long long) id),
				 errhint("lockguard.deadlocks lists those that are kept.")));

	initStringInfo(&out);
	appendStringInfo(&out, "# Deadlock %lld: %s\n\nAt %s, process %d (role ", (long long) id,
					 count_of(deadlock->in_cycle, "session"),
					 timestamptz_to_str(deadlock->detected_at), deadlock->pid);
	append_code(&out, NameStr(deadlock->usename));
	appendStringInfoString(&out, ", database ");
	append_code(&out, NameStr(deadlock->datname));
	appendStringInfoString(&out, ", application ");
	append_code(&out, deadlock->application_name);
	appendStringInfoString(&out, ") got the error \"deadlock detected\", so that the others could go on.");
	append_cycle(&out, deadlock);
	append_cycle_sessions(&out, deadlock);
	append_cycle_queries(&out, deadlock);
	appendStringInfoString(&out, "\n## What to do next\n\n");
	append_deadlock_advice(&out, deadlock);

	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}
