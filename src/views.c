/*-------------------------------------------------------------------------
 *
 * views.c
 *		The SQL functions behind the views.
 *
 * What is live is read in the calling backend, by the same code that the
 * worker uses.  Only what cannot be known without having looked before comes
 * from the worker's last look.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"

#include "brakes.h"
#include "clock.h"
#include "compat.h"
#include "deadlock.h"
#include "incident.h"
#include "judge.h"
#include "look.h"
#include "record.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "sql.h"
#include "text.h"
#include "tree.h"
#include "twophase.h"
#include "types.h"
#include "waitgraph.h"

/* Characters in a line of tree(). */
#define TREE_WIDTH			120

/* The same as a text value, NULL if empty. */
static Datum
text_or_null(const char *string, bool *isnull)
{
	*isnull = string == NULL || string[0] == '\0';
	return *isnull ? (Datum) 0 : CStringGetTextDatum(lg_clean(string));
}

static Datum
name_of_database(const char *known, Oid datid, bool *isnull)
{
	if (known[0] == '\0' && OidIsValid(datid))
		known = get_database_name(datid);
	return text_or_null(known, isnull);
}

static Datum
name_of_role(const char *known, Oid userid, bool *isnull)
{
	if (known[0] == '\0' && OidIsValid(userid))
		known = GetUserNameFromId(userid, true);
	return text_or_null(known, isnull);
}

/*
 * A row under construction: columns are set one after the other.  What they
 * take is in a context of its own, and is freed when the next row begins: there
 * may be very many, and texts of others in all of them.
 */
typedef struct Row
{
	int			n;
	Datum		values[48];
	bool		nulls[48];
	MemoryContext context;
	MemoryContext outer;
} Row;

static void
init_row(Row *row)
{
	row->context = AllocSetContextCreate(CurrentMemoryContext, "lockguard row",
										 ALLOCSET_DEFAULT_SIZES);
}

/* Until emit_row(), allocate in the row's context. */
static void
begin_row(Row *row)
{
	row->n = 0;
	MemoryContextReset(row->context);
	row->outer = MemoryContextSwitchTo(row->context);
}

static void
put_datum(Row *row, Datum value)
{
	row->nulls[row->n] = false;
	row->values[row->n++] = value;
}

static void
put_null(Row *row)
{
	row->nulls[row->n] = true;
	row->values[row->n++] = (Datum) 0;
}

static void
put_if(Row *row, bool known, Datum value)
{
	row->nulls[row->n] = !known;
	row->values[row->n++] = known ? value : (Datum) 0;
}

static void
put_text(Row *row, const char *string)
{
	bool		isnull;
	Datum		value = text_or_null(string, &isnull);

	put_if(row, !isnull, value);
}

static void
put_time(Row *row, TimestampTz time)
{
	put_if(row, time != 0, TimestampTzGetDatum(time));
}

static void
put_database(Row *row, const char *known, Oid datid)
{
	bool		isnull;
	Datum		value = name_of_database(known, datid, &isnull);

	put_if(row, !isnull, value);
}

static void
put_role(Row *row, const char *known, Oid userid)
{
	bool		isnull;
	Datum		value = name_of_role(known, userid, &isnull);

	put_if(row, !isnull, value);
}

static void
emit_row(ReturnSetInfo *rsinfo, Row *row)
{
	Assert(row->n == rsinfo->setDesc->natts);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row->values, row->nulls);
	MemoryContextSwitchTo(row->outer);
}

/* Ids of all that directly block a node, each once; pid 0 for a prepared one. */
static Datum
blocked_by(LgView *view, const LgNode *node)
{
	LgGraph    *graph = view->graph;
	int		   *pids = palloc_array(int, LG_TOTAL_PROCS);
	int			n = 0;

	/* A node's visit marks that it has been listed. */
	graph->visit++;
	for (int w = node->first_wait; w >= 0; w = graph->waiters[w].next_of_node)
	{
		LgBlocker	blocker = {0};

		while (lg_next_blocker(graph, &graph->waiters[w], &blocker))
		{
			LgNode	   *other = &graph->nodes[blocker.node];

			if (other->visit == graph->visit)
				continue;
			other->visit = graph->visit;
			pids[n++] = ProcGlobal->allProcs[blocker.node].pid;
		}
	}
	return lg_array_of_pids(pids, n);
}

/*
 * Have the catalogs at hand in which relations are looked up, or return false if
 * that would have to wait: then they show with their OIDs only.  They may be
 * what an idle session has locked.  RowExclusiveLock, as a REINDEX holds ShareLock
 * on the catalog and locks readers out of an index.
 */
static bool
lock_catalogs(void)
{
	if (!ConditionalLockRelationOid(RelationRelationId, RowExclusiveLock))
		return false;
	if (ConditionalLockRelationOid(NamespaceRelationId, RowExclusiveLock))
		return true;
	UnlockRelationOid(RelationRelationId, RowExclusiveLock);
	return false;
}

static void
unlock_catalogs(bool catalogs)
{
	if (!catalogs)
		return;
	UnlockRelationOid(NamespaceRelationId, RowExclusiveLock);
	UnlockRelationOid(RelationRelationId, RowExclusiveLock);
}

/* A relation's name, schema-qualified if need be. */
static char *
relation_name(Oid relation)
{
	return DatumGetCString(DirectFunctionCall1(regclassout, ObjectIdGetDatum(relation)));
}

/* The name of a relation of that database (0 = a shared one), null if it is another. */
static void
put_relation_name(Row *row, bool known, Oid database, Oid relation)
{
	if (known && (database == MyDatabaseId || database == InvalidOid))
		put_datum(row, CStringGetTextDatum(relation_name(relation)));
	else
		put_null(row);
}

/*
 * Columns that all views of locks share; as in pg_locks.  Without "catalogs", the
 * name of a relation is not looked up.
 */
static void
put_lock(Row *row, const LOCKTAG *tag, bool catalogs)
{
	Oid			oid;
	bool		relation;

	if (tag == NULL)
	{
		for (int i = 0; i < 4; i++)
			put_null(row);
		return;
	}
	relation = lg_lock_relation(tag, &oid);
	put_datum(row, CStringGetTextDatum(GetLockNameFromTagType(tag->locktag_type)));
	put_if(row, tag->locktag_type != LOCKTAG_TRANSACTION &&
		   tag->locktag_type != LOCKTAG_VIRTUALTRANSACTION &&
		   tag->locktag_type != LOCKTAG_SPECULATIVE_TOKEN,
		   ObjectIdGetDatum(tag->locktag_field1));
	put_if(row, relation, ObjectIdGetDatum(oid));
	put_relation_name(row, catalogs && relation, tag->locktag_field1, oid);
}

/* One row of lock_tree: a step of the traversal below a root. */
static void
emit_step(ReturnSetInfo *rsinfo, Row *row, LgView *view, bool catalogs, int index, int *path)
{
	LgGraph    *graph = view->graph;
	LgStep		step = graph->steps[index];
	LgNode	   *node = &graph->nodes[step.node];
	const LgSession *session = &node->known->session;
	LgSlot	   *slot = lg_slot(session->procno);
	bool		named = slot != NULL && slot->pid == session->pid;
	bool		visible = lg_may_see(session->userid);
	const LgWaiter *waiter = step.waiter >= 0 ? &graph->waiters[step.waiter] : NULL;
	char		query[LG_QUERY_SIZE];
	char		application_name[NAMEDATALEN];
	char		gid[LG_GID_SIZE] = "";
	int			depth = 0;
	const char *state = lg_state_text(session);

	for (int i = index; i >= 0; i = graph->steps[i].parent)
		depth++;
	for (int i = index, d = depth; i >= 0; i = graph->steps[i].parent)
		path[--d] = graph->nodes[graph->steps[i].node].known->session.pid;
	if (session->kind == LG_KIND_PREPARED)
	{
		TimestampTz prepared_at;
		bool		busy;

		lg_prepared_transaction(session->procno, gid, &prepared_at, &busy);
	}
	lg_read_texts(session, query, sizeof(query), application_name, NULL);

	begin_row(row);
	put_datum(row, Int32GetDatum(path[0]));
	put_datum(row, Int32GetDatum(step.level));
	put_datum(row, lg_array_of_pids(path, depth));
	put_datum(row, Int32GetDatum(session->pid));
	put_text(row, gid);
	put_datum(row, blocked_by(view, node));
	put_datum(row, Int32GetDatum(lg_downstream(graph, step.node)));
	put_text(row, waiter == NULL ? NULL : step.kind == LG_HOLDER ? "holder" : "queue");
	put_lock(row, waiter ? &graph->locks[waiter->lock].tag : NULL, catalogs);
	put_text(row, waiter ? GetLockmodeName(graph->locks[waiter->lock].tag.locktag_lockmethodid,
										   waiter->mode) : NULL);
	put_time(row, waiter ? lg_clock_wall(&view->clock, waiter->since) : 0);
	put_if(row, waiter != NULL,
		   BoolGetDatum(waiter && lg_is_yielding(waiter->procno, waiter->wait_start)));
	put_text(row, visible ? state : NULL);
	put_text(row, visible && session->has_status ?
			 pgstat_get_wait_event_type(session->wait_event) : NULL);
	put_text(row, visible && session->has_status ?
			 pgstat_get_wait_event(session->wait_event) : NULL);
	put_time(row, visible ? session->xact_start : 0);
	put_text(row, visible || session->kind == LG_KIND_PREPARED ?
			 lg_backend_type(session->kind) : NULL);
	put_database(row, named ? NameStr(slot->datname) : "", session->datid);
	put_role(row, named ? NameStr(slot->usename) : "", session->userid);
	put_text(row, application_name);
	put_text(row, visible || session->kind == LG_KIND_PREPARED ? query :
			 "<insufficient privilege>");
	emit_row(rsinfo, row);
}

PG_FUNCTION_INFO_V1(lockguard_lock_tree);

/* Which session waits for which now; a row for each session below each root. */
Datum
lockguard_lock_tree(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgView	   *view;
	int		   *roots;
	int			nroots;
	int		   *path;
	bool		catalogs;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	view = lg_look();
	catalogs = lock_catalogs();
	init_row(&row);
	roots = palloc_array(int, LG_TOTAL_PROCS);
	path = palloc_array(int, LG_TOTAL_PROCS + 1);
	nroots = lg_find_roots(view->graph, roots);
	for (int r = 0; r < nroots; r++)
	{
		int			n = lg_downstream(view->graph, roots[r]);
		LgStep	   *steps = palloc_array(LgStep, n + 1);

		lg_depth_first(view->graph);

		/* Counting what is below each step runs traversals of its own. */
		memcpy(steps, view->graph->steps, (n + 1) * sizeof(LgStep));
		for (int i = 0; i <= n; i++)
		{
			memcpy(view->graph->steps, steps, (n + 1) * sizeof(LgStep));
			emit_step(rsinfo, &row, view, catalogs, i, path);
			CHECK_FOR_INTERRUPTS();
		}
		pfree(steps);
	}
	unlock_catalogs(catalogs);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(lockguard_tree);

/* The live lock trees as lines of text, the largest first. */
Datum
lockguard_tree(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgTreeStyle style = {0};
	LgView	   *view;
	int		   *roots;
	int			nroots;
	MemoryContext context;
	bool		catalogs;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	view = lg_look();
	catalogs = lock_catalogs();
	roots = palloc_array(int, LG_TOTAL_PROCS);
	nroots = lg_find_roots(view->graph, roots);
	style.width = TREE_WIDTH;
	style.relation_name = catalogs ? relation_name : NULL;
	style.may_see = lg_may_see;
	style.clean = lg_clean;

	context = AllocSetContextCreate(CurrentMemoryContext, "lockguard tree",
									ALLOCSET_DEFAULT_SIZES);
	init_row(&row);
	for (int r = 0; r < nroots; r++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		StringInfoData buf;
		char	   *line;
		char	   *rest;

		initStringInfo(&buf);
		lg_draw_tree(view, roots[r], &style, &buf);
		MemoryContextSwitchTo(old);
		for (line = buf.data; line != NULL; line = rest)
		{
			rest = strchr(line, '\n');
			if (rest)
				*rest++ = '\0';
			begin_row(&row);
			put_datum(&row, CStringGetTextDatum(line));
			emit_row(rsinfo, &row);
		}
		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
	}
	unlock_catalogs(catalogs);
	if (nroots == 0)
	{
		begin_row(&row);
		put_datum(&row, CStringGetTextDatum("No session waits for a lock."));
		emit_row(rsinfo, &row);
	}
	return (Datum) 0;
}

/* The values in force for a session that are not off, as JSON. */
static Datum
settings_as_json(const LgValues *values)
{
	StringInfoData buf;
	bool		first = true;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (int id = 0; id < LG_NUM_SETTINGS; id++)
	{
		char		value[32];

		if (id < LG_NUM_LIMITS && values->value[id] == 0 &&
			values->source[id] <= LG_SOURCE_CONFIGURATION)
			continue;
		lg_format_value(id, values->value[id], value, sizeof(value));
		appendStringInfo(&buf, "%s\"%s\": {\"setting\": \"%s\", \"source\": \"%s\"}",
						 first ? "" : ", ", lg_setting_name(id), value,
						 lg_source_name(values->source[id]));
		first = false;
	}
	appendStringInfoChar(&buf, '}');
	return CStringGetTextDatum(buf.data);
}

/*
 * Since when does a session block others, less the time when it did not: by the
 * timer of the limit that it passes next, else by that of incidents.  0 if it
 * blocks none.
 */
static TimestampTz
blocking_since(LgView *view, const LgNode *node, int limit)
{
	int			timer = lg_timer_of(limit);

	if (node == NULL || node->blocking_since == LG_NEVER)
		return 0;
	if (timer < 0)
		timer = LG_INCIDENT_TIMER;
	if (node->waiting && !LG_IS_QUEUE_TIMER(timer))
		timer = LG_QUEUED_TIMER;
	if (node->blame_since == LG_NEVER || node->in_cycle)
		return lg_clock_wall(&view->clock, node->blocking_since);
	return lg_clock_wall(&view->clock, view->clock.now -
						 lg_block_time(view->graph, view->times, node, (LgTimer) timer));
}

/*
 * Could other sessions come to want this relation?  Not a temporary one, nor one
 * that its transaction has created and not yet committed.  Of those of other
 * databases, this is not known: they count.
 */
static bool
concerns_others(const LgTableLock *lock)
{
	HeapTuple	tuple;
	bool		result;

	if (lock->datid != MyDatabaseId)
		return true;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(lock->relation));
	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_class) GETSTRUCT(tuple))->relpersistence != RELPERSISTENCE_TEMP;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * The strongest first; among equals those of users before catalogs, and in the order
 * in which they were created, so that a table comes before its indexes.
 */
static int
compare_table_locks(const void *a, const void *b)
{
	const LgTableLock *x = a;
	const LgTableLock *y = b;
	bool		catalog = x->relation < FirstNormalObjectId;

	if (x->mode != y->mode)
		return x->mode > y->mode ? -1 : 1;
	if (catalog != (y->relation < FirstNormalObjectId))
		return catalog ? 1 : -1;
	return x->relation < y->relation ? -1 : x->relation > y->relation;
}

/*
 * The strongest table lock of a session that is idle; false if it is at work or
 * has none.  With "catalogs", which the caller has locked, locks that concern no
 * other session are left out.  Allocates in the current context.
 */
static bool
idle_lock(const LgSession *session, bool catalogs, LgTableLock *strongest)
{
	LgTableLock *locks;
	LgSession	now;
	int			n;

	if (!lg_state_is_idle(session))
		return false;
	locks = lg_table_locks(session->procno, &n);
	if (n == 0)
		return false;

	/* They are its own if it has been idle all the time. */
	lg_read_session(session->procno, &now);
	if (now.pid != session->pid || now.session_start != session->session_start ||
		now.state != session->state || now.state_start != session->state_start)
		return false;
	qsort(locks, n, sizeof(LgTableLock), compare_table_locks);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (catalogs && !concerns_others(&locks[i]))
			continue;
		*strongest = locks[i];
		return true;
	}
	return false;
}

PG_FUNCTION_INFO_V1(lockguard_idle_locks);

/*
 * By mode of the strongest table lock: how many idle sessions there are, and how long
 * the first of them has been.  A row for each mode.  Counts the sessions that the reader
 * may see.
 */
Datum
lockguard_idle_locks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		sessions[MaxLockMode + 1] = {0};
	TimestampTz since[MaxLockMode + 1] = {0};
	TimestampTz now;
	bool		catalogs;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	init_row(&row);
	catalogs = lock_catalogs();
	for (int procno = 0; procno < MaxBackends; procno++)
	{
		LgSession	session;
		LgTableLock lock;

		CHECK_FOR_INTERRUPTS();
		lg_read_session(procno, &session);
		if (session.kind != LG_KIND_CLIENT || !lg_may_see(session.userid))
			continue;
		begin_row(&row);
		if (idle_lock(&session, catalogs, &lock))
		{
			if (sessions[lock.mode]++ == 0 || session.state_start < since[lock.mode])
				since[lock.mode] = session.state_start;
		}
		MemoryContextSwitchTo(row.outer);
	}
	unlock_catalogs(catalogs);
	now = GetCurrentTimestamp();
	for (int mode = AccessShareLock; mode <= MaxLockMode; mode++)
	{
		begin_row(&row);
		put_text(&row, GetLockmodeName(DEFAULT_LOCKMETHOD, mode));
		put_datum(&row, Int64GetDatum(sessions[mode]));
		put_datum(&row, lg_interval(sessions[mode] == 0 ? 0 : Max(now - since[mode], 0)));
		emit_row(rsinfo, &row);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(lockguard_sessions);

/* Each session, with what is measured and which limits bind it. */
Datum
lockguard_sessions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgView	   *view;
	bool		catalogs;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	view = lg_look();
	catalogs = lock_catalogs();

	init_row(&row);
	for (int procno = 0; procno < (int) ProcGlobal->allProcCount; procno++)
	{
		LgNode	   *node = lg_node(view->graph, procno);
		LgSlot	   *slot = lg_slot(procno);
		LgSession	session;
		LgValues	values;
		LgSubject	subject;
		const LgWaiter *wait = NULL;
		char		query[LG_QUERY_SIZE];
		char		application_name[NAMEDATALEN];
		bool		visible;
		bool		named;
		bool		exempt;
		int			limit;
		int64		limit_at;
		LgTableLock held = {0};

		CHECK_FOR_INTERRUPTS();
		if (node != NULL)
			session = node->known->session;
		else
			lg_read_session(procno, &session);
		if (session.kind == LG_KIND_NONE || session.kind == LG_KIND_PREPARED ||
			(node == NULL && session.kind != LG_KIND_CLIENT &&
			 session.kind != LG_KIND_STARTING))
			continue;

		begin_row(&row);
		lg_settings_of_session(procno, session.pid, session.session_start,
							   &view->server, &values);
		lg_track_session(&view->tracks[procno], &session, &view->clock, false);
		lg_read_texts(&session, query, sizeof(query), application_name, NULL);
		visible = lg_may_see(session.userid);
		named = slot != NULL && slot->pid == session.pid;
		session.committing = false;
		exempt = lg_brake_result(lg_session_brake(&session, &values)) == LG_EXEMPTED;
		if (node != NULL)
			wait = lg_longest_wait(view->graph, node);

		subject.session = &session;
		subject.values = &values;
		subject.track = &view->tracks[procno];
		subject.node = node;
		subject.again = false;
		limit_at = lg_next_limit(view, &subject, &limit);

		put_datum(&row, Int32GetDatum(session.pid));
		put_text(&row, visible ? lg_backend_type(session.kind) : NULL);
		put_database(&row, named ? NameStr(slot->datname) : "", session.datid);
		put_role(&row, named ? NameStr(slot->usename) : "", session.userid);
		put_text(&row, application_name);
		put_time(&row, visible ? session.session_start : 0);
		put_time(&row, visible ? session.xact_start : 0);
		put_text(&row, visible ? lg_state_text(&session) : NULL);
		put_time(&row, visible ? session.state_start : 0);
		if (node != NULL)
			put_datum(&row, blocked_by(view, node));
		else
			put_datum(&row, lg_array_of_pids(NULL, 0));
		put_datum(&row, Int32GetDatum(node ? lg_downstream(view->graph, procno) : 0));
		put_time(&row, blocking_since(view, node, limit));
		put_time(&row, wait ? lg_clock_wall(&view->clock, wait->since) : 0);
		put_datum(&row, Int32GetDatum(lg_count_locks(procno, INT_MAX - 1)));

		/* They tell that it is idle. */
		if (!visible || !idle_lock(&session, catalogs, &held))
			held.mode = NoLock;
		put_text(&row, held.mode == NoLock ? NULL : GetLockmodeName(DEFAULT_LOCKMETHOD, held.mode));
		put_if(&row, held.mode != NoLock, ObjectIdGetDatum(held.relation));
		put_relation_name(&row, catalogs && held.mode != NoLock, held.datid, held.relation);
		put_text(&row, lg_priority_name((LgPriority) values.value[LG_PRIORITY]));
		put_text(&row, lg_action_name((LgActionKind) values.value[LG_ACTION]));
		put_datum(&row, BoolGetDatum(exempt));

		/* They tell its state, and when its transaction or statement began. */
		if (!visible)
			limit = LG_NO_LIMIT;
		put_text(&row, limit == LG_NO_LIMIT ? NULL : lg_setting_name(limit));
		put_time(&row, limit == LG_NO_LIMIT ? 0 : lg_clock_wall(&view->clock, limit_at));
		put_text(&row, limit == LG_NO_LIMIT ? NULL :
				 lg_brake_text(lg_spared_by(view, &subject), session.kind));
		put_datum(&row, settings_as_json(&values));
		put_text(&row, visible ? query : "<insufficient privilege>");
		emit_row(rsinfo, &row);
	}
	unlock_catalogs(catalogs);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(lockguard_actions);

/* What lockguard did and what came of it, the oldest first. */
Datum
lockguard_actions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgAction   *action = palloc(sizeof(LgAction));
	int64		first;
	int64		next;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	lg_action_range(&first, &next);
	init_row(&row);
	for (int64 id = first; id < next; id++)
	{
		bool		visible;
		char		value[32];

		CHECK_FOR_INTERRUPTS();
		if (!lg_fetch_action(id, action))
			continue;
		begin_row(&row);
		visible = lg_may_see(action->userid);
		put_datum(&row, Int64GetDatum(action->action_id));
		put_if(&row, action->incident_id != 0, Int64GetDatum(action->incident_id));
		put_time(&row, action->acted_at);
		put_datum(&row, Int32GetDatum(action->pid));
		put_time(&row, visible ? action->backend_start : 0);
		put_text(&row, action->gid);
		put_database(&row, NameStr(action->datname), action->datid);
		put_role(&row, NameStr(action->usename), action->userid);
		put_text(&row, action->application_name);
		put_text(&row, visible ? action->client_addr : NULL);
		put_text(&row, visible ? action->state : NULL);
		put_text(&row, visible ? action->query : "<insufficient privilege>");
		if (action->limit == LG_NO_LIMIT)
		{
			put_null(&row);
			put_null(&row);
			put_null(&row);
		}
		else
		{
			lg_format_value(action->limit, action->limit_value, value, sizeof(value));
			put_text(&row, lg_setting_name(action->limit));
			put_text(&row, value);
			put_text(&row, lg_source_name(action->limit_source));
		}
		put_text(&row, NameStr(action->requested_by));
		put_text(&row, lg_action_name(action->action));
		put_datum(&row, BoolGetDatum(action->dry_run));
		put_text(&row, lg_result_name(action->result));
		/* It may tell what kind of process it is, and what it does. */
		put_text(&row, visible || action->pid == 0 ? action->reason : NULL);
		put_if(&row, action->released_after >= 0, lg_interval(action->released_after));
		put_datum(&row, Int32GetDatum(action->blocked_sessions));
		put_datum(&row, lg_array_of_pids(action->blocked_pids, action->nblocked_pids));
		put_if(&row, action->blocked_sessions > 0, lg_interval(action->longest_wait));
		emit_row(rsinfo, &row);
	}
	return (Datum) 0;
}

/* An incident's tree as text, with what the reader may see. */
static Datum
incident_tree(const LgIncident *incident)
{
	StringInfoData buf;

	initStringInfo(&buf);
	lg_incident_tree(incident, lg_may_see, lg_clean, &buf);
	return CStringGetTextDatum(buf.data);
}

PG_FUNCTION_INFO_V1(lockguard_incidents);

/* What has happened, the oldest first. */
Datum
lockguard_incidents(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgIncident *incident = palloc(sizeof(LgIncident));
	int64		first;
	int64		next;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	lg_incident_range(&first, &next);
	init_row(&row);
	for (int64 id = first; id < next; id++)
	{
		bool		visible;

		CHECK_FOR_INTERRUPTS();
		if (!lg_fetch_incident(id, incident))
			continue;
		begin_row(&row);
		visible = lg_may_see(incident->userid);
		put_datum(&row, Int64GetDatum(incident->incident_id));
		put_text(&row, incident->ended_at == 0 ? "open" : "closed");
		put_time(&row, incident->started_at);
		put_time(&row, incident->ended_at);
		put_datum(&row, Int32GetDatum(incident->root_pid));
		put_text(&row, incident->gid);
		put_role(&row, NameStr(incident->usename), incident->userid);
		put_database(&row, NameStr(incident->datname), incident->datid);
		put_text(&row, incident->application_name);
		put_text(&row, visible ? incident->client_addr : NULL);
		put_text(&row, visible || incident->kind == LG_KIND_PREPARED ?
				 lg_backend_type((LgKind) incident->kind) : NULL);
		put_text(&row, visible ? incident->state : NULL);
		put_text(&row, visible ? incident->query : "<insufficient privilege>");
		put_if(&row, visible && incident->query_id != 0,
			   Int64GetDatum(incident->query_id));
		put_text(&row, GetLockNameFromTagType(incident->tag.locktag_type));
		put_datum(&row, Int32GetDatum(incident->peak_blocked_sessions));
		put_time(&row, incident->peak_at);
		put_datum(&row, lg_interval(incident->longest_wait));
		put_datum(&row, lg_interval(incident->total_wait));
		put_datum(&row, Int64GetDatum(incident->waits));
		put_datum(&row, Int64GetDatum(incident->gave_up));
		put_text(&row, lg_resolution_name(incident->resolution));
		put_if(&row, incident->replaced_by != 0, Int64GetDatum(incident->replaced_by));
		put_datum(&row, incident_tree(incident));
		emit_row(rsinfo, &row);
	}
	return (Datum) 0;
}

/* The query ids of a deadlock's statements that the reader may see. */
static Datum
query_ids_of(const LgDeadlock *deadlock)
{
	int64		ids[LG_DEADLOCK_SESSIONS];
	int			n = lg_deadlock_query_ids(deadlock, lg_may_see, ids);
	Datum		elements[LG_DEADLOCK_SESSIONS];

	for (int i = 0; i < n; i++)
		elements[i] = Int64GetDatum(ids[i]);
	return PointerGetDatum(construct_array(elements, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

PG_FUNCTION_INFO_V1(lockguard_deadlocks);

/* The deadlocks that the server has resolved, the oldest first. */
Datum
lockguard_deadlocks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgDeadlock *deadlock = palloc(sizeof(LgDeadlock));
	int64		first;
	int64		next;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	lg_deadlock_range(&first, &next);
	init_row(&row);
	for (int64 id = first; id < next; id++)
	{
		StringInfoData graph;
		const char *text[3] = {"", "", ""};

		CHECK_FOR_INTERRUPTS();
		if (!lg_fetch_deadlock(id, deadlock))
			continue;
		begin_row(&row);
		initStringInfo(&graph);
		lg_deadlock_graph(deadlock, lg_may_see, lg_clean, &graph);
		(void) lg_next_in_cycle(deadlock, NULL, &text[0], &text[1], &text[2]);
		put_datum(&row, Int64GetDatum(deadlock->deadlock_id));
		put_time(&row, deadlock->detected_at);
		put_datum(&row, Int32GetDatum(deadlock->pid));
		put_database(&row, NameStr(deadlock->datname), deadlock->datid);
		put_role(&row, NameStr(deadlock->usename), deadlock->userid);
		put_text(&row, deadlock->application_name);
		put_text(&row, lg_may_see(deadlock->userid) ? text[2] : "<insufficient privilege>");
		put_text(&row, graph.data);
		put_datum(&row, query_ids_of(deadlock));
		emit_row(rsinfo, &row);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(lockguard_contention);

/* Who makes others wait, since the statistics were reset. */
Datum
lockguard_contention(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgContention *all = palloc_array(LgContention, LG_MAX_CONTENTION);
	bool		catalogs;
	int			n;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	n = lg_fetch_contention(all);
	init_row(&row);
	catalogs = lock_catalogs();
	for (int i = 0; i < n; i++)
	{
		begin_row(&row);
		put_database(&row, "", all[i].datid);
		put_role(&row, "", all[i].userid);
		put_if(&row, all[i].query_id != 0 && lg_may_see(all[i].userid),
			   Int64GetDatum(all[i].query_id));
		put_text(&row, all[i].mode == NoLock ? NULL : GetLockNameFromTagType(all[i].locktype));
		put_if(&row, all[i].relation != InvalidOid, ObjectIdGetDatum(all[i].relation));
		put_relation_name(&row, catalogs && all[i].relation != InvalidOid, all[i].lock_datid, all[i].relation);
		put_text(&row, all[i].mode == NoLock ? NULL :
				 GetLockmodeName(DEFAULT_LOCKMETHOD, all[i].mode));
		put_datum(&row, Int64GetDatum(all[i].incidents));
		put_datum(&row, Int64GetDatum(all[i].sessions));
		put_datum(&row, lg_interval(all[i].lost));
		put_datum(&row, lg_interval(all[i].longest_wait));
		put_datum(&row, Int64GetDatum(all[i].actions));
		emit_row(rsinfo, &row);
	}
	unlock_catalogs(catalogs);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(lockguard_action_counts);

/* How many actions there were, by limit and kind; those that never were left out. */
Datum
lockguard_action_counts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgStats		stats;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(lg_shared->lock, LW_SHARED);
	stats = lg_shared->stats;
	LWLockRelease(lg_shared->lock);

	init_row(&row);
	for (int limit = LG_NO_LIMIT; limit <= LG_PREPARED_TRANSACTION_TIMEOUT; limit++)
		for (int action = LG_DO_LOG; action <= LG_DO_TERMINATE; action++)
		{
			if (stats.actions[limit + 1][action] == 0)
				continue;
			begin_row(&row);
			put_text(&row, limit == LG_NO_LIMIT ? NULL : lg_setting_name(limit));
			put_text(&row, lg_action_name(action));
			put_datum(&row, Int64GetDatum(stats.actions[limit + 1][action]));
			emit_row(rsinfo, &row);
		}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(lockguard_stats);

/* Counters since reset_stats(); times in ms. */
Datum
lockguard_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgStats		stats;
	LgScanStats *scan;
	int64		pause;			/* what is left of it, ns */
	int			worker_pid;
	TimestampTz worker_start;
	Row			row;

	lg_require_loaded();
	scan = &lg_shared->scan_stats;
	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(lg_shared->lock, LW_SHARED);
	stats = lg_shared->stats;
	worker_pid = lg_shared->worker_pid;
	worker_start = lg_shared->worker_start;
	pause = lg_shared->paused_until - lg_now();
	LWLockRelease(lg_shared->lock);

	init_row(&row);
	begin_row(&row);
#define put_count(count) put_datum(&row, Int64GetDatum((int64) (count)))
#define put_ms(ns) put_datum(&row, Float8GetDatum((double) (ns) / LG_NANOS_PER_MS))
	put_count(pg_atomic_read_u64(&scan->scans));
	put_ms(pg_atomic_read_u64(&scan->scan_time));
	put_ms(pg_atomic_read_u64(&scan->max_scan_time));
	put_count(pg_atomic_read_u64(&scan->lock_scans));
	put_ms(pg_atomic_read_u64(&scan->lock_scan_time));
	put_ms(pg_atomic_read_u64(&scan->max_lock_scan_time));
	put_ms(pg_atomic_read_u64(&scan->max_partition_lock_time));
	for (int i = 0; i < LG_NUM_LATENESS; i++)
		put_count(stats.within[i]);
	put_count(stats.later);
	put_ms(stats.max_lateness);
	put_count(stats.cancels);
	put_count(stats.terminations);
	put_count(stats.rollbacks);
	put_count(pg_atomic_read_u64(&scan->yields));
	put_count(pg_atomic_read_u64(&scan->let_pass));
	put_count(pg_atomic_read_u64(&scan->deadlocks));
	put_count(stats.logged);
	put_count(stats.suppressed);
	put_count(stats.self_resolved);
	put_count(stats.unresponsive);
	put_count(stats.incidents);
	put_count(lg_count_open_incidents());
	put_ms(pg_atomic_read_u64(&scan->blocked_time));
	put_if(&row, worker_pid != 0, Int32GetDatum(worker_pid));
	put_time(&row, worker_pid != 0 ? worker_start : 0);
	put_time(&row, (TimestampTz) pg_atomic_read_u64(&lg_shared->last_scan));
	put_time(&row, pause > 0 ? GetCurrentTimestamp() + pause / 1000 : 0);
	put_time(&row, stats.stats_reset);
	emit_row(rsinfo, &row);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(lockguard_server_settings);

/* The server's own value of each setting that a session can have. */
Datum
lockguard_server_settings(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgValues	server;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	lg_settings_server_values(&server);
	init_row(&row);
	for (int id = 0; id < LG_NUM_SETTINGS; id++)
	{
		char		value[32];

		begin_row(&row);
		if (lg_setting_unit(id) != NULL)
			snprintf(value, sizeof(value), "%d", server.value[id]);
		else
			lg_format_value(id, server.value[id], value, sizeof(value));
		put_text(&row, lg_setting_name(id));
		put_text(&row, value);
		put_text(&row, lg_source_name(server.source[id]));
		emit_row(rsinfo, &row);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(lockguard_base_value);

/*
 * A setting as it was written ('5s'), in the setting's own unit ('5000');
 * what cannot be read so comes back as it is.
 */
Datum
lockguard_base_value(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *written = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			value;

	for (int id = 0; id < LG_NUM_SETTINGS; id++)
		if (strcmp(lg_setting_name(id), name) == 0 && lg_setting_unit(id) != NULL &&
			parse_int(written, &value, GUC_UNIT_MS, NULL))
			PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d", value)));
	PG_RETURN_TEXT_P(cstring_to_text(written));
}
