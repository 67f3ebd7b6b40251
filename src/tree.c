/*-------------------------------------------------------------------------
 *
 * tree.c
 *		The lock tree as text: for the server log and for a terminal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "look.h"
#include "session.h"
#include "shared.h"
#include "text.h"
#include "tree.h"
#include "twophase.h"
#include "types.h"
#include "waitgraph.h"

/* "12345 app (S1)", or 'prepared transaction "o"', or what process it is. */
static void
append_who(const LgSession *session, const LgTreeStyle *style,
		   const char *application_name, StringInfo out)
{
	LgSlot	   *slot = lg_slot(session->procno);

	if (session->kind == LG_KIND_PREPARED)
	{
		char		gid[LG_GID_SIZE];
		TimestampTz prepared_at;
		bool		busy;
		char	   *string;

		lg_prepared_transaction(session->procno, gid, &prepared_at, &busy);
		string = lg_one_line(gid, 64);
		appendStringInfo(out, "prepared transaction \"%s\"",
						 style->clean ? style->clean(string) : string);
		return;
	}
	appendStringInfo(out, "%d", session->pid);
	if (session->kind != LG_KIND_CLIENT &&
		(style->may_see == NULL || style->may_see(session->userid)))
		appendStringInfo(out, " %s", lg_kind_text(session->kind));
	else if (slot != NULL && slot->pid == session->pid && NameStr(slot->usename)[0])
	{
		char	   *string = lg_one_line(NameStr(slot->usename), NAMEDATALEN);

		appendStringInfo(out, " %s", style->clean ? style->clean(string) : string);
	}
	if (application_name[0])
	{
		char	   *string = lg_one_line(application_name, NAMEDATALEN);

		appendStringInfo(out, " (%s)", style->clean ? style->clean(string) : string);
	}
}

/* What a step of the tree waits for, and for how long. */
static void
append_wait(const LgView *view, const LgStep *step, const LgTreeStyle *style,
			StringInfo out)
{
	const LgWaiter *waiter = &view->graph->waiters[step->waiter];
	const LOCKTAG *tag = &view->graph->locks[waiter->lock].tag;
	char		duration[32];
	char		lock[256];

	lg_lock_text(tag, style, lock, sizeof(lock));
	lg_duration_text(view->clock.now - waiter->since, duration, sizeof(duration));
	appendStringInfo(out, " waits %s for %s on %s", duration,
					 GetLockmodeName(tag->locktag_lockmethodid, waiter->mode), lock);
	if (lg_is_yielding(waiter->procno, waiter->wait_start))
		appendStringInfoString(out, ", letting others pass");
	if (step->kind == LG_QUEUE)
		appendStringInfoString(out, ", queued behind");
}

/* What the root of the tree does, how many it blocks, and for how long. */
static void
append_blocking(const LgView *view, const LgNode *node, int blocked,
				const LgTreeStyle *style, StringInfo out)
{
	const LgSession *session = &node->known->session;
	const char *state = lg_state_text(session);
	char		duration[32];

	if (session->kind != LG_KIND_PREPARED &&
		(style->may_see == NULL || style->may_see(session->userid)))
	{
		/* What holds a process up that no limit can end. */
		if (session->kind != LG_KIND_CLIENT)
			appendStringInfo(out, ", %s", lg_doing_text(state, session->wait_event));
		else if (state)
			appendStringInfo(out, ", %s", state);
	}
	if (node->blocking_since == LG_NEVER)
		return;
	lg_duration_text(node->waiting ? view->clock.now - node->blocking_since :
					 lg_block_time(view->graph, view->times, node, LG_INCIDENT_TIMER),
					 duration, sizeof(duration));
	appendStringInfo(out, ", blocking %d %s for %s", blocked,
					 blocked == 1 ? "session" : "sessions", duration);
}

/* Its query, if the reader may see it. */
static void
append_query(const LgSession *session, const char *query, const LgTreeStyle *style,
			 StringInfo out)
{
	if (session->kind == LG_KIND_PREPARED)
		return;
	if (style->may_see && !style->may_see(session->userid))
		appendStringInfoString(out, ": <insufficient privilege>");
	else if (query[0])
	{
		char	   *string = lg_one_line(query, 200);

		appendStringInfo(out, ": %s", style->clean ? style->clean(string) : string);
	}
}

/* Cut a line at so many characters, and mark that with "...". */
static void
cut_line(StringInfo line, int width)
{
	if (pg_mbcharcliplen(line->data, line->len, width) >= line->len)
		return;
	line->len = pg_mbcharcliplen(line->data, line->len, width - 3);
	line->data[line->len] = '\0';
	appendStringInfoString(line, "...");
}

/*
 * Draw the tree below "root" into "out", a line a session.  Runs a traversal,
 * and leaves its steps in the graph.  Allocates in the current context.
 */
void
lg_draw_tree(LgView *view, int root, const LgTreeStyle *style, StringInfo out)
{
	LgGraph    *graph = view->graph;
	int			blocked = lg_downstream(graph, root);
	int			drawn = 0;

	lg_depth_first(graph);
	for (int i = 0; i <= blocked; i++)
	{
		const LgStep *step = &graph->steps[i];
		LgNode	   *node = &graph->nodes[step->node];
		const LgSession *session = &node->known->session;
		char		query[LG_QUERY_SIZE];
		char		application_name[NAMEDATALEN];
		StringInfoData line;

		if (style->max_lines > 0 && drawn >= style->max_lines)
			break;
		drawn++;
		lg_load_node(graph, node);
		initStringInfo(&line);
		lg_read_texts(session, query, sizeof(query), application_name, NULL);
		if (i == 0 && style->root_query)
			strlcpy(query, style->root_query, sizeof(query));
		if (i == 0 && style->root_application_name)
			strlcpy(application_name, style->root_application_name, NAMEDATALEN);
		appendStringInfoSpaces(&line, 2 * Min(step->level, LG_MAX_INDENT));
		if (step->level > 0)
			appendStringInfoString(&line, "-> ");
		append_who(session, style, application_name, &line);

		if (step->waiter >= 0)
			append_wait(view, step, style, &line);
		else
			append_blocking(view, node, blocked, style, &line);
		append_query(session, query, style, &line);
		if (style->width > 0)
			cut_line(&line, style->width);
		if (drawn > 1)
			appendStringInfoChar(out, '\n');
		appendStringInfoString(out, line.data);
		pfree(line.data);
	}
	if (drawn <= blocked)
		appendStringInfo(out, "\n... and %d more", blocked + 1 - drawn);
}
