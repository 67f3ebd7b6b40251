/*-------------------------------------------------------------------------
 *
 * deadlock.c
 *		Deadlocks that the server has resolved: which processes were in the cycle.
 *
 * All of it is done in the session that gets the error, when that is reported.
 * By then the lock manager need not show the cycle any more: a subtransaction
 * may have been rolled back, and others may have their locks and run their next
 * statement.  So the cycle is read from the error, as DeadLockReport() writes it:
 *
 * The DETAIL has a line for each process of the cycle, with its pid, the lock
 * mode, what the lock is on, and the pid of the process that blocks it, which is
 * that of the next line; the last one is blocked by the first.  Its words are
 * those of lc_messages, and so is the order of what stands in a line, but it is
 * the same in all lines.  No word of it is read.  Names of lock modes are not
 * translated.  All else is in numbers: two are pids, in those places where they
 * make a circle, and the others, side by side, are those of the lock tag.  Which
 * tag it is, is found by trying: the one that DescribeLockTag() describes by what
 * stands there.
 *
 * The DETAIL for the log has the same, and then for each process its statement,
 * after a text that is translated, too, and that gettext() gives here as it gave it
 * there.  A statement may contain such a text.  If one of these is there twice, it
 * cannot be told where a statement ends, and perhaps whose it is: then what each
 * session runs now is read instead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "deadlock.h"
#include "record.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "text.h"
#include "types.h"

/* In a line of the DETAIL: two pids, and what a lock tag has. */
#define MAX_TAG_NUMBERS		4
#define MAX_NUMBERS			(2 + MAX_TAG_NUMBERS)

/* A line of the DETAIL, and the numbers in it. */
typedef struct Line
{
	const char *begin;
	const char *end;
	int			n;
	uint32		value[MAX_NUMBERS];
	const char *from[MAX_NUMBERS];
	const char *to[MAX_NUMBERS];
} Line;

/* Where the pids are among the numbers of a line; from its end, if negative. */
typedef struct Places
{
	int			waiter;
	int			blocker;
} Places;

/* A process of the cycle, and what it waited for. */
typedef struct Edge
{
	int			pid;
	int			blocker_pid;
	LOCKMODE	mode;
	LOCKTAG		tag;
} Edge;

/*
 * Read the line that begins there.  Returns where the next one begins, or NULL
 * after the last one.  A line with other numbers than can be has none: n is 0.
 */
static const char *
read_line(const char *text, Line *line)
{
	const char *p;

	line->begin = text;

	line->end = strchr(text, '\n');
	if (line->end == NULL)
		line->end = text +strlen(text);

	line->n = 0;
	for (p = text; p < line->end;)
	{
		uint64		value = 0;
		const char *from = p;

		while (p < line->end && isdigit((unsigned char) *p) && value <= PG_UINT32_MAX)
			value = value * 10 + (*p++ - '0');
		if (p == from)
		{
			p++;
			continue;
		}
		if (line->n >= MAX_NUMBERS || value > PG_UINT32_MAX)
		{
			line->n = 0;
			break;
		}
		line->value[line->n] = (uint32) value;
		line->from[line->n] = from;
		line->to[line->n++] = p;
	}
	if (line->n < 3)
		line->n = 0;
	return *line->end == '\n' ? line->end + 1 : NULL;
}

/* The index of a place in a line. */
static inline int
index_of(const Line *line, int place)
{
	return place >= 0 ? place : line->n + place;
}

/*
 * If these are the places of the pids, is each process blocked by the one of the
 * next line, and the last by the first?  Sets *first to the pid of the first one,
 * and *lines.
 */
static bool
is_circle(const char *detail, const Places *places, int *first, int *lines)
{
	uint32		blocker = 0;

	*lines = 0;
	while (detail != NULL)
	{
		Line		line;
		uint32		waiter;

		detail = read_line(detail, &line);
		if (line.n == 0)
			return false;
		waiter = line.value[index_of(&line, places->waiter)];
		if (waiter == 0 || waiter > INT_MAX)
			return false;
		if (*lines == 0)
			*first = (int) waiter;
		else if (waiter != blocker)
			return false;
		blocker = line.value[index_of(&line, places->blocker)];
		if (blocker == waiter)
			return false;
		(*lines)++;
	}
	return *lines > 0 && (int) blocker == *first;
}

/* Is it this process, or one of its lock group? */
static bool
is_of_my_group(int pid)
{
	int			procno = pid == MyProcPid ? lg_proc_number(MyProc) : lg_find_process(pid);

	return procno >= 0 &&
		lg_leader_number(&ProcGlobal->allProcs[procno]) == lg_leader_number(MyProc);
}

/*
 * Where are the pids in each line?  NULL, if nowhere.  Sets *lines.  The cycle
 * begins with the process that found it, or another one of its lock group.  (Of
 * two processes, each is blocked by the other either way round.)
 */
static const Places *
find_pids(const char *detail, int *lines)
{
	static const Places possible[] = {{0, -1}, {-1, 0}, {0, 1}, {1, 0}, {-2, -1}, {-1, -2}};
	const Places *found = NULL;
	int			first;

	for (int i = 0; i < (int) lengthof(possible); i++)
		if (is_circle(detail, &possible[i], &first, lines))
		{
			if (is_of_my_group(first))
				return &possible[i];
			if (found == NULL)
				found = &possible[i];
		}
	if (found != NULL)
		(void) is_circle(detail, found, &first, lines);
	return found;
}

/* Is the text in the line, around the n numbers from "first" on and no other? */
static bool
covers(const Line *line, int first, int n, const char *text)
{
	const char *from = strstr(line->begin, text);
	const char *to;

	if (from == NULL)
		return false;
	to = from + strlen(text);
	return to <= line->end &&
		from <= line->from[first] && (first == 0 || from >= line->to[first - 1]) &&
		to >= line->to[first + n - 1] &&
		(first + n == line->n || to <= line->from[first + n]);
}

/*
 * Which lock is it whose n numbers stand in the line from "first" on?  They stand
 * in an order that depends on the language.  Lock method 0, if none is described
 * so.
 */
static void
find_tag(const Line *line, int first, int n, LOCKTAG *tag)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int type = 0; type <= LOCKTAG_LAST_TYPE; type++)
		for (int order = 0; order < 1 << (2 * n); order++)
		{
			uint32		field[MAX_TAG_NUMBERS] = {0};
			int			taken = 0;

			/* Two bits for each number: the field that it is. */
			for (int i = 0; i < n; i++)
			{
				field[(order >> (2 * i)) & 3] = line->value[first + i];
				taken |= 1 << ((order >> (2 * i)) & 3);
			}
			if (taken != (1 << n) - 1 || field[3] > PG_UINT16_MAX)
				continue;
			memset(tag, 0, sizeof(*tag));
			tag->locktag_field1 = field[0];
			tag->locktag_field2 = field[1];
			tag->locktag_field3 = field[2];
			tag->locktag_field4 = (uint16) field[3];
			tag->locktag_type = type;
			resetStringInfo(&text);
			DescribeLockTag(&text, tag);
			if (covers(line, first, n, text.data))
			{
				tag->locktag_lockmethodid =
					type == LOCKTAG_ADVISORY || type == LOCKTAG_USERLOCK ?
					USER_LOCKMETHOD : DEFAULT_LOCKMETHOD;
				pfree(text.data);
				return;
			}
		}
	memset(tag, 0, sizeof(*tag));
	pfree(text.data);
}

/* The lock mode in a line, or NoLock.  Some names are parts of others. */
static LOCKMODE
find_mode(const Line *line)
{
	LOCKMODE	found = NoLock;
	size_t		longest = 0;

	for (LOCKMODE mode = 1; mode <= MaxLockMode; mode++)
	{
		const char *name = GetLockmodeName(DEFAULT_LOCKMETHOD, mode);
		const char *at = strstr(line->begin, name);

		if (at != NULL && at + strlen(name) <= line->end && strlen(name) > longest)
		{
			longest = strlen(name);
			found = mode;
		}
	}
	return found;
}

/*
 * The cycle, from the DETAIL of the error.  "edges" has room for
 * LG_DEADLOCK_SESSIONS; returns how many there are, and in *in_cycle how many
 * processes the cycle has.  If it cannot be read: this process alone.
 */
static int
read_cycle(const char *detail, Edge *edges, int *in_cycle)
{
	const Places *places = detail != NULL ? find_pids(detail, in_cycle) : NULL;
	int			n = 0;

	memset(edges, 0, LG_DEADLOCK_SESSIONS * sizeof(Edge));
	if (places == NULL)
	{
		edges[0].pid = MyProcPid;
		*in_cycle = 1;
		return 1;
	}
	while (detail != NULL && n < LG_DEADLOCK_SESSIONS)
	{
		Line		line;
		int			waiter;
		int			blocker;
		int			first = 0;

		detail = read_line(detail, &line);
		waiter = index_of(&line, places->waiter);
		blocker = index_of(&line, places->blocker);
		while (first == waiter || first == blocker)
			first++;
		edges[n].pid = (int) line.value[waiter];
		edges[n].blocker_pid = (int) line.value[blocker];
		edges[n].mode = find_mode(&line);
		find_tag(&line, first, line.n - 2, &edges[n].tag);
		n++;
	}
	return n;
}

/*
 * Find the statement of each process in the DETAIL for the log.  False if it
 * cannot be told for certain where each begins and ends.
 */
static bool
find_statements(const ErrorData *edata, const Edge *edges, int n, int in_cycle,
				const char **statement, int *length)
{
	const char *expected;
	int			marks = n + (in_cycle > n ? 1 : 0);

	/* Of a cycle that could not be read, other statements may follow. */
	if (edges[0].blocker_pid == 0 || edata->detail_log == NULL ||
		strncmp(edata->detail_log, edata->detail, strlen(edata->detail)) != 0)
		return false;
	expected = edata->detail_log + strlen(edata->detail);

	for (int i = 0; i < marks; i++)
	{
		char		mark[128];
		char	   *end;
		const char *at;

		/* What stands before a statement; it is last in all languages. */
		mark[0] = '\n';
		snprintf(mark + 1, sizeof(mark) - 1, gettext("Process %d: %s"),
				 i < n ? edges[i].pid : edges[n - 1].blocker_pid, "\001");
		end = strchr(mark, '\001');
		if (end == NULL || end[1] != '\0')
			return false;
		*end = '\0';

		/* The first one follows at once, and each is there once. */
		at = strstr(edata->detail_log + strlen(edata->detail), mark);
		if (at == NULL || at < expected || (i == 0 && at != expected) ||
			strstr(at + 1, mark) != NULL)
			return false;
		expected = at + strlen(mark);
		if (i > 0)
			length[i - 1] = at - statement[i - 1];
		if (i < n)
		{
			statement[i] = expected;
			length[i] = strlen(expected);
		}
	}
	return true;
}

/*
 * Is that what a session runs now?  Texts that were cut may differ in their last
 * character.
 */
static bool
is_same_statement(const char *statement, int length, const char *query)
{
	int			query_length = strlen(query);
	int			common = Min(length, query_length);

	return memcmp(statement, query, common) == 0 &&
		(abs(length - query_length) < 4 || common > LG_QUERY_SIZE - 5);
}

/*
 * Add a process of the cycle to the arena, in at most so many bytes: its statement
 * is cut if need be.  Without a statement, it is what it runs now.
 */
static void
keep_session(LgDeadlock *deadlock, const Edge *edge, const char *statement, int length,
			 int room)
{
	LgDeadlockSession *kept = (LgDeadlockSession *) (deadlock->arena + deadlock->used);
	LgSession	session = {0};
	char		query[LG_QUERY_SIZE];
	char		application_name[NAMEDATALEN];
	const char *usename = "";
	char	   *string;
	int			procno = lg_find_process(edge->pid);
	int			leader_pid = edge->pid;
	bool		cut = false;

	if (procno >= 0)
		lg_read_session(procno, &session);
	if (session.pid != edge->pid)
		memset(&session, 0, sizeof(session));
	lg_read_texts(&session, query, sizeof(query), application_name, NULL);
	if (session.pid != 0)
	{
		LgSlot	   *slot = lg_slot(session.leader);

		leader_pid = lg_proc_pid(&ProcGlobal->allProcs[session.leader]);
		if (slot != NULL && slot->pid == leader_pid)
			usename = NameStr(slot->usename);
	}
	if (statement != NULL)
	{
		if (!is_same_statement(statement, length, query))
		{
			/* It runs another one; or is it another session? */
			session.query_id = 0;
			if (session.session_start > GetCurrentStatementStartTimestamp())
				session.userid = InvalidOid;
		}
		cut = length >= LG_QUERY_SIZE;
		length = Min(length, LG_QUERY_SIZE - 1);
		memcpy(query, statement, length);
		query[length] = '\0';
	}

	room -= offsetof(LgDeadlockSession, texts) + strlen(usename) + strlen(application_name) + 3;
	if (strlen(query) > (size_t) room)
	{
		query[room] = '\0';
		cut = true;
	}
	if (cut)
		lg_drop_half_character(query);

	memset(kept, 0, offsetof(LgDeadlockSession, texts));
	kept->size = MAXALIGN(offsetof(LgDeadlockSession, texts) + strlen(usename) +
						  strlen(application_name) + strlen(query) + 3);
	memset(kept->texts, 0, kept->size - offsetof(LgDeadlockSession, texts));
	kept->kind = session.kind;
	kept->mode = edge->mode;
	kept->pid = edge->pid;
	kept->blocker_pid = edge->blocker_pid;
	kept->leader_pid = leader_pid;
	kept->userid = session.userid;
	kept->tag = edge->tag;
	kept->query_id = session.query_id;
	string = kept->texts;
	strcpy(string, usename);
	string += strlen(string) + 1;
	strcpy(string, application_name);
	string += strlen(string) + 1;
	strcpy(string, query);
	deadlock->used += kept->size;
	deadlock->nsessions++;
}

/* Say which session got the error: of a parallel query, its leader. */
static void
describe_victim(LgDeadlock *deadlock)
{
	LgSession	session;
	LgSlot	   *slot;

	lg_read_session(lg_leader_number(MyProc), &session);
	slot = lg_slot(session.procno);
	deadlock->pid = session.pid;
	deadlock->datid = session.datid;
	deadlock->userid = session.userid;
	if (slot != NULL && slot->pid == session.pid)
	{
		deadlock->datname = slot->datname;
		deadlock->usename = slot->usename;
	}
	lg_read_texts(&session, NULL, 0, deadlock->application_name, NULL);
}

/*
 * If this is the server's own error about a deadlock, record it.  What another
 * server has reported has another message id, and so has the error of a parallel
 * worker when its leader raises it again.  Called by emit_log_hook: raises no
 * error, and allocates little, in the error's context.  Takes LgRecord->lock: the
 * error is raised by a process that waited for a heavyweight lock, which it may
 * not do with an LWLock in hand.
 */
void
lg_note_deadlock(const ErrorData *edata)
{
	static LgDeadlock deadlock;
	Edge		edges[LG_DEADLOCK_SESSIONS];
	const char *statement[LG_DEADLOCK_SESSIONS];
	int			length[LG_DEADLOCK_SESSIONS];
	bool		logged;
	int			n;

	if (edata->elevel < ERROR || edata->elevel > FATAL || edata->message_id == NULL ||
		strcmp(edata->message_id, "deadlock detected") != 0 ||
		MyProc == NULL || lg_shared == NULL || !lg_enabled)
		return;

	memset(&deadlock, 0, offsetof(LgDeadlock, arena));
	deadlock.detected_at = GetCurrentTimestamp();
	deadlock.stmt_start = GetCurrentStatementStartTimestamp();
	describe_victim(&deadlock);
	n = read_cycle(edata->detail, edges, &deadlock.in_cycle);
	logged = find_statements(edata, edges, n, deadlock.in_cycle, statement, length);
	for (int i = 0; i < n; i++)
		keep_session(&deadlock, &edges[i], logged ? statement[i] : NULL,
					 logged ? length[i] : 0,
					 MAXALIGN_DOWN((LG_DEADLOCK_ARENA - deadlock.used) / (n - i)));
	lg_record_deadlock(&deadlock, lg_leader_number(MyProc) != lg_proc_number(MyProc));
}

/*
 * The session after this one in the cycle, or the first one after NULL, with its
 * texts; NULL after the last one that is kept.
 */
const LgDeadlockSession *
lg_next_in_cycle(const LgDeadlock *deadlock, const LgDeadlockSession *session,
				 const char **usename, const char **application_name,
				 const char **query)
{
	const char *next = session == NULL ? deadlock->arena :
		(const char *) session + session->size;

	if (next + offsetof(LgDeadlockSession, texts) > deadlock->arena + deadlock->used)
		return NULL;
	session = (const LgDeadlockSession *) next;
	*usename = session->texts;
	*application_name = *usename + strlen(*usename) + 1;
	*query = *application_name + strlen(*application_name) + 1;
	return session;
}

/*
 * The cycle as text: a line for each session, which lock it waited for and which
 * process blocked it; then a line for each with its statement, if may_see() lets
 * the reader see it.
 */
void
lg_deadlock_graph(const LgDeadlock *deadlock, bool (*may_see) (Oid),
				  char *(*clean) (const char *), StringInfo out)
{
	const LgDeadlockSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;
	LgTreeStyle style = {0};
	int			left_out = deadlock->in_cycle - deadlock->nsessions;

	while ((session = lg_next_in_cycle(deadlock, session, &usename,
									   &application_name, &query)) != NULL)
	{
		char		lock[256] = "a lock that is not known";

		if (session->tag.locktag_lockmethodid != 0)
			lg_lock_text(&session->tag, &style, lock, sizeof(lock));
		appendStringInfo(out, "%d waits for ", session->pid);
		if (session->mode != NoLock)
			appendStringInfo(out, "%s on ", GetLockmodeName(DEFAULT_LOCKMETHOD, session->mode));
		appendStringInfoString(out, lock);
		if (session->blocker_pid != 0)
			appendStringInfo(out, ", blocked by %d", session->blocker_pid);
		appendStringInfoChar(out, '\n');
	}
	if (left_out > 0)
		appendStringInfo(out, "... and %d more\n", left_out);
	while ((session = lg_next_in_cycle(deadlock, session, &usename,
									   &application_name, &query)) != NULL)
	{
		bool		visible = may_see(session->userid);

		appendStringInfo(out, "%d", session->pid);
		if (visible && session->kind == LG_KIND_PARALLEL)
			appendStringInfo(out, " (parallel worker of %d)", session->leader_pid);
		else if (visible && session->kind != LG_KIND_CLIENT && session->kind != LG_KIND_NONE)
			appendStringInfo(out, " %s", lg_kind_text((LgKind) session->kind));
		if (usename[0])
			appendStringInfo(out, " %s", clean(lg_one_line(usename, NAMEDATALEN)));
		if (application_name[0])
			appendStringInfo(out, " (%s)", clean(lg_one_line(application_name, NAMEDATALEN)));
		if (!visible)
			appendStringInfoString(out, ": <insufficient privilege>");
		else if (query[0])
			appendStringInfo(out, ": %s", clean(lg_one_line(query, LG_QUERY_SIZE)));
		appendStringInfoChar(out, '\n');
	}
	out->data[--out->len] = '\0';
}

/*
 * The query ids that are known and that the reader may see, sorted, each once.
 * "ids" has room for LG_DEADLOCK_SESSIONS; returns how many there are.
 */
int
lg_deadlock_query_ids(const LgDeadlock *deadlock, bool (*may_see) (Oid), int64 *ids)
{
	const LgDeadlockSession *session = NULL;
	const char *text[3];
	int			n = 0;

	while ((session = lg_next_in_cycle(deadlock, session, &text[0], &text[1], &text[2])) != NULL)
	{
		int			at = 0;

		if (session->query_id == 0 || !may_see(session->userid))
			continue;
		while (at < n && ids[at] < session->query_id)
			at++;
		if (at < n && ids[at] == session->query_id)
			continue;
		memmove(ids + at + 1, ids + at, (n - at) * sizeof(int64));
		ids[at] = session->query_id;
		n++;
	}
	return n;
}
