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

#include "limits.h"
#include "shared.h"
#include "snapshot.h"
#include "tree.h"
#include "types.h"
#include "waitgraph.h"

/*
 * How many bytes of a control character begin here, 0 if none: those of ASCII,
 * and in UTF-8 those that terminals or viewers obey as well: the C1 set, line
 * and paragraph separators, and what turns the direction of writing round.
 */
int
lg_control_bytes(const char *text)
{
	const unsigned char *p = (const unsigned char *) text;

	if (p[0] < ' ' || p[0] == 127)
		return 1;
	if (p[0] == 0xC2 && p[1] >= 0x80 && p[1] <= 0x9F)
		return 2;
	if (p[0] == 0xE2 && p[1] == 0x80 && p[2] >= 0xA8 && p[2] <= 0xAE)
		return 3;
	if (p[0] == 0xE2 && p[1] == 0x81 && p[2] >= 0xA6 && p[2] <= 0xA9)
		return 3;
	return 0;
}

/*
 * Text of others as one line: control characters and runs of space become a
 * single space; cut at max_bytes, marked with "...".  Other bytes above 127
 * stay.
 */
char *
lg_one_line(const char *text, int max_bytes)
{
	StringInfoData buf;
	bool		space = false;

	initStringInfo(&buf);
	while (*text != '\0')
	{
		int			control = *text == ' ' ? 1 : lg_control_bytes(text);

		if (control > 0)
		{
			space = buf.len > 0;
			text += control;
			continue;
		}
		if (buf.len + space >= max_bytes - 3 &&
			buf.len + space + strlen(text) > (size_t) max_bytes)
		{
			/* Do not leave half a character of UTF-8 behind. */
			while (buf.len > 0 && ((unsigned char) buf.data[buf.len - 1] & 0xC0) == 0x80)
				buf.len--;
			if (buf.len > 0 && ((unsigned char) buf.data[buf.len - 1] & 0xC0) == 0xC0)
				buf.len--;
			buf.data[buf.len] = '\0';
			appendStringInfoString(&buf, "...");
			break;
		}
		if (space)
			appendStringInfoChar(&buf, ' ');
		space = false;
		appendStringInfoChar(&buf, *text++);
	}
	return buf.data;
}

/* A duration for people: "503 ms", "12.3 s", "5 min 7 s", "2 h 3 min". */
void
lg_duration_text(int64 ns, char *buf, size_t size)
{
	int64		ms = Max(ns, 0) / LG_NANOS_PER_MS;
	int64		s = ms / 1000;

	if (ms < 1000)
		snprintf(buf, size, "%d ms", (int) ms);
	else if (s < 60)
		snprintf(buf, size, "%d.%d s", (int) s, (int) (ms % 1000 / 100));
	else if (s < 3600)
		snprintf(buf, size, "%d min %d s", (int) (s / 60), (int) (s % 60));
	else
		snprintf(buf, size, "%lld h %d min", (long long) (s / 3600), (int) (s % 3600 / 60));
}

/*
 * What a process does: "active (IPC: RecoveryConflictSnapshot)".  One without
 * states (NULL) is active.
 */
const char *
lg_doing_text(const char *state, uint32 wait_event)
{
	const char *type = pgstat_get_wait_event_type(wait_event);

	if (state == NULL)
		state = "active";
	return type == NULL ? state :
		psprintf("%s (%s: %s)", state, type, pgstat_get_wait_event(wait_event));
}

/* What a lock is on: 'relation "t"', "transaction 741". */
void
lg_lock_text(const LOCKTAG *tag, const LgTreeStyle *style, char *buf, size_t size)
{
	const char *type = GetLockNameFromTagType(tag->locktag_type);
	char	   *name = NULL;

	switch ((LockTagType) tag->locktag_type)
	{
		case LOCKTAG_RELATION:
		case LOCKTAG_RELATION_EXTEND:
		case LOCKTAG_PAGE:
		case LOCKTAG_TUPLE:
			if (style->relation_name &&
				(tag->locktag_field1 == MyDatabaseId || tag->locktag_field1 == InvalidOid))
				name = style->relation_name(tag->locktag_field2);
			if (name)
			{
				name = lg_one_line(name, size - 64);
				snprintf(buf, size, "%s of %s", type,
						 style->clean ? style->clean(name) : name);
			}
			else
				snprintf(buf, size, "%s of relation %u in database %u", type,
						 tag->locktag_field2, tag->locktag_field1);
			if (tag->locktag_type == LOCKTAG_RELATION)
				memmove(buf, buf + strlen("relation of "),
						strlen(buf + strlen("relation of ")) + 1);
			break;
		case LOCKTAG_TRANSACTION:
			snprintf(buf, size, "transaction %u", tag->locktag_field1);
			break;
		case LOCKTAG_VIRTUALTRANSACTION:
			snprintf(buf, size, "virtual transaction %u/%u",
					 tag->locktag_field1, tag->locktag_field2);
			break;
		case LOCKTAG_ADVISORY:
			if (tag->locktag_field4 == 1)
				snprintf(buf, size, "advisory lock %lld",
						 (long long) (((uint64) tag->locktag_field2 << 32) |
									  tag->locktag_field3));
			else
				snprintf(buf, size, "advisory lock (%d, %d)",
						 (int) tag->locktag_field2, (int) tag->locktag_field3);
			break;
		default:
			snprintf(buf, size, "%s (%u, %u, %u)", type, tag->locktag_field1,
					 tag->locktag_field2, tag->locktag_field3);
			break;
	}
}

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
		char	   *text;

		lg_prepared_transaction(session->procno, gid, &prepared_at, &busy);
		text = lg_one_line(gid, 64);
		appendStringInfo(out, "prepared transaction \"%s\"",
						 style->clean ? style->clean(text) : text);
		return;
	}
	appendStringInfo(out, "%d", session->pid);
	if (session->kind != LG_KIND_CLIENT &&
		(style->may_see == NULL || style->may_see(session->userid)))
		appendStringInfo(out, " %s", lg_kind_text(session->kind));
	else if (slot != NULL && slot->pid == session->pid && NameStr(slot->usename)[0])
	{
		char	   *text = lg_one_line(NameStr(slot->usename), NAMEDATALEN);

		appendStringInfo(out, " %s", style->clean ? style->clean(text) : text);
	}
	if (application_name[0])
	{
		char	   *text = lg_one_line(application_name, NAMEDATALEN);

		appendStringInfo(out, " (%s)", style->clean ? style->clean(text) : text);
	}
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
		char		duration[32];
		const char *state;
		StringInfoData line;

		if (style->max_lines > 0 && drawn >= style->max_lines)
			break;
		drawn++;
		lg_know(graph, node);
		state = lg_state_text(session);

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
		{
			const LgWaiter *waiter = &graph->waiters[step->waiter];
			char		lock[256];

			lg_lock_text(&graph->locks[waiter->lock].tag, style, lock, sizeof(lock));
			lg_duration_text(view->clock.now - waiter->since, duration, sizeof(duration));
			appendStringInfo(&line, " waits %s for %s on %s", duration,
							 GetLockmodeName(graph->locks[waiter->lock].tag.locktag_lockmethodid,
											 waiter->mode),
							 lock);
			if (step->kind == LG_QUEUE)
				appendStringInfoString(&line, ", queued behind");
		}
		else
		{
			if (session->kind != LG_KIND_PREPARED &&
				(style->may_see == NULL || style->may_see(session->userid)))
			{
				/* What holds a process up that no limit can end. */
				if (session->kind != LG_KIND_CLIENT)
					appendStringInfo(&line, ", %s",
									 lg_doing_text(state, session->wait_event));
				else if (state)
					appendStringInfo(&line, ", %s", state);
			}
			if (node->blocking_since != LG_NEVER)
			{
				lg_duration_text(view->clock.now - (node->waiting ? node->blocking_since :
													 node->root_since),
								 duration, sizeof(duration));
				appendStringInfo(&line, ", blocking %d %s for %s", blocked,
								 blocked == 1 ? "session" : "sessions", duration);
			}
		}
		if (session->kind != LG_KIND_PREPARED)
		{
			if (style->may_see && !style->may_see(session->userid))
				appendStringInfoString(&line, ": <insufficient privilege>");
			else if (query[0])
			{
				char	   *text = lg_one_line(query, 200);

				appendStringInfo(&line, ": %s", style->clean ? style->clean(text) : text);
			}
		}

		if (style->width > 0)
		{
			int			cut = pg_mbcharcliplen(line.data, line.len, style->width);

			if (cut < line.len)
			{
				cut = pg_mbcharcliplen(line.data, line.len, style->width - 3);
				line.len = cut;
				line.data[cut] = '\0';
				appendStringInfoString(&line, "...");
			}
		}
		if (drawn > 1)
			appendStringInfoChar(out, '\n');
		appendStringInfoString(out, line.data);
		pfree(line.data);
	}
	if (drawn <= blocked)
		appendStringInfo(out, "\n... and %d more", blocked + 1 - drawn);
}
