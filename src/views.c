/*-------------------------------------------------------------------------
 *
 * views.c
 *		The SQL functions behind the views, and those that act.
 *
 * What is live is read in the calling backend, by the same code that the
 * worker uses.  Only what cannot be known without having looked before comes
 * from the worker's last look.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "common/int.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "clock.h"
#include "compat.h"
#include "enforce.h"
#include "incident.h"
#include "library.h"
#include "limits.h"
#include "record.h"
#include "settings.h"
#include "shared.h"
#include "snapshot.h"
#include "tree.h"
#include "types.h"
#include "views.h"
#include "waitgraph.h"

/* How long the worker's last measure of a session is shown. */
#define MEASURE_IS_RECENT	(10 * LG_NANOS_PER_SEC)

/* Characters in a line of tree(). */
#define TREE_WIDTH			120

/* Errors out unless lockguard runs in this server, and from this library. */
void
lg_require_loaded(void)
{
	if (lg_shared == NULL && IsBinaryUpgrade)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("lockguard does not run in binary upgrade mode")));

	/* As SHOW shared_preload_libraries, the path is not for everybody. */
	if (lg_shared == NULL && lg_preloaded_path() != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("lockguard runs in this server from another library than its functions"),
				 errdetail_log("The server has preloaded \"%s\".", lg_preloaded_path()),
				 errhint("Preload the library that the functions are in, or replace one of the two by a symbolic link to the other, and restart the server.")));
	if (lg_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("lockguard is not running in this server"),
				 errhint("Add lockguard to shared_preload_libraries and restart the server.")));
}

/* May the user see what a session of that role does, as in pg_stat_activity? */
bool
lg_may_see(Oid userid)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		(OidIsValid(userid) && has_privs_of_role(GetUserId(), userid));
}

/*
 * Text of another session, perhaps of a database with another encoding: bytes
 * that are not valid in ours are replaced by question marks.
 */
char *
lg_clean(const char *text)
{
	int			encoding = GetDatabaseEncoding();
	int			len = strlen(text);
	char	   *result = pstrdup(text);
	char	   *p = result;

	while (len > 0)
	{
		int			l = IS_HIGHBIT_SET(*p) ?
			pg_encoding_verifymbchar(encoding, p, len) : 1;

		if (l <= 0)
		{
			*p = '?';
			l = 1;
		}
		p += l;
		len -= l;
	}
	return result;
}

/* The same as a text value, NULL if empty. */
static Datum
text_or_null(const char *text, bool *isnull)
{
	*isnull = text == NULL || text[0] == '\0';
	return *isnull ? (Datum) 0 : CStringGetTextDatum(lg_clean(text));
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

/* A duration in us as an interval. */
static Datum
interval_of(int64 us)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = us;
	return IntervalPGetDatum(interval);
}

static Datum
array_of_pids(const int *pids, int n)
{
	Datum	   *elements = palloc_array(Datum, Max(n, 1));

	for (int i = 0; i < n; i++)
		elements[i] = Int32GetDatum(pids[i]);
	return PointerGetDatum(construct_array(elements, n, INT4OID, sizeof(int32),
										   true, TYPALIGN_INT));
}

/*
 * A row under construction: columns are set one after the other.  What they
 * take is in a context of its own, and goes when the next row begins: there
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

/* Until emit(), allocate in the row's context. */
static void
begin_row(Row *row)
{
	row->n = 0;
	MemoryContextReset(row->context);
	row->outer = MemoryContextSwitchTo(row->context);
}

static void
put(Row *row, Datum value)
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
put_text(Row *row, const char *text)
{
	bool		isnull;
	Datum		value = text_or_null(text, &isnull);

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
emit(ReturnSetInfo *rsinfo, Row *row)
{
	Assert(row->n == rsinfo->setDesc->natts);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row->values, row->nulls);
	MemoryContextSwitchTo(row->outer);
}

/*
 * A fresh look at everybody, in the current memory context: every waiter's
 * lock is walked.
 */
static LgView *
look(void)
{
	LgView	   *view = palloc0(sizeof(LgView));
	LgFound    *found = palloc_array(LgFound, LG_TOTAL_PROCS);
	int			nfound;

	view->graph = lg_graph_create(CurrentMemoryContext);
	view->tracks = lg_alloc_per_proc(sizeof(LgTrack));
	view->scratch = palloc_array(int64, LG_TOTAL_PROCS);
	lg_settings_server_values(&view->server);
	lg_clock_read(&view->clock);
	view->live.procno = palloc_array(int, LG_TOTAL_PROCS);
	lg_live_procs(&view->live);
	nfound = lg_find_waiters(view->graph, found, 0, &view->live, &view->clock);
	lg_graph_walk(view->graph, view->tracks, &view->clock, &view->server,
				  found, nfound, 0);
	view->looked = true;

	for (int i = 0; i < view->graph->nactive; i++)
		lg_know(view->graph, &view->graph->nodes[view->graph->active[i]]);

	/* The worker may know that it has been so for longer. */
	LWLockAcquire(lg_shared->lock, LW_SHARED);
	for (int i = 0; i < view->graph->nactive; i++)
	{
		LgNode	   *node = &view->graph->nodes[view->graph->active[i]];
		LgSlot	   *slot = &lg_shared->slots[view->graph->active[i]];

		if (node->blocking_since == LG_NEVER)
			continue;
		if (slot->measured_pid == lg_occupant(view->graph->active[i], node->pid) &&
			view->clock.now - slot->measured_at < MEASURE_IS_RECENT &&
			slot->blocking_since != LG_NEVER)
		{
			node->blocking_since = node->root_since = slot->blocking_since;
			if (node->known->idle_since != LG_NEVER)
				node->known->idle_since = Min(node->known->idle_since, slot->idle_since);
		}
	}
	LWLockRelease(lg_shared->lock);
	return view;
}

/* Ids of all who directly block a node, each once; pid 0 for a prepared one. */
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
	return array_of_pids(pids, n);
}

/* Columns that all views of locks share; as in pg_locks. */
static void
put_lock(Row *row, const LOCKTAG *tag)
{
	bool		relation = false;

	if (tag == NULL)
	{
		for (int i = 0; i < 4; i++)
			put_null(row);
		return;
	}
	switch ((LockTagType) tag->locktag_type)
	{
		case LOCKTAG_RELATION:
		case LOCKTAG_RELATION_EXTEND:
		case LOCKTAG_PAGE:
		case LOCKTAG_TUPLE:
			relation = true;
			break;
		default:
			break;
	}
	put(row, CStringGetTextDatum(GetLockNameFromTagType(tag->locktag_type)));
	put_if(row, tag->locktag_type != LOCKTAG_TRANSACTION &&
		   tag->locktag_type != LOCKTAG_VIRTUALTRANSACTION &&
		   tag->locktag_type != LOCKTAG_SPECULATIVE_TOKEN,
		   ObjectIdGetDatum(tag->locktag_field1));
	put_if(row, relation, ObjectIdGetDatum(tag->locktag_field2));
	if (relation && (tag->locktag_field1 == MyDatabaseId ||
					 tag->locktag_field1 == InvalidOid))
		put(row, DirectFunctionCall1(regclassout,
									 ObjectIdGetDatum(tag->locktag_field2)));
	else
		put_null(row);
	if (!row->nulls[row->n - 1])
		row->values[row->n - 1] =
			CStringGetTextDatum(DatumGetCString(row->values[row->n - 1]));
}

/* One row of lock_tree: a step of the traversal below a root. */
static void
emit_step(ReturnSetInfo *rsinfo, Row *row, LgView *view, int index, int *path)
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
	put(row, Int32GetDatum(path[0]));
	put(row, Int32GetDatum(step.level));
	put(row, array_of_pids(path, depth));
	put(row, Int32GetDatum(session->pid));
	put_text(row, gid);
	put(row, blocked_by(view, node));
	put(row, Int32GetDatum(lg_downstream(graph, step.node)));
	put_text(row, waiter == NULL ? NULL : step.kind == LG_HOLDER ? "holder" : "queue");
	put_lock(row, waiter ? &graph->locks[waiter->lock].tag : NULL);
	put_text(row, waiter ? GetLockmodeName(graph->locks[waiter->lock].tag.locktag_lockmethodid,
											waiter->mode) : NULL);
	put_time(row, waiter ? lg_clock_wall(&view->clock, waiter->since) : 0);
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
	emit(rsinfo, row);
}

PG_FUNCTION_INFO_V1(lockguard_lock_tree);

/* Who waits for whom right now; a row for each session below each root. */
Datum
lockguard_lock_tree(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgView	   *view;
	int		   *roots;
	int			nroots;
	int		   *path;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	view = look();
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
			emit_step(rsinfo, &row, view, i, path);
			CHECK_FOR_INTERRUPTS();
		}
		pfree(steps);
	}
	return (Datum) 0;
}

/* A relation's name for tree(), schema-qualified if need be. */
static char *
relation_name(Oid relation)
{
	return DatumGetCString(DirectFunctionCall1(regclassout, ObjectIdGetDatum(relation)));
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
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	view = look();
	roots = palloc_array(int, LG_TOTAL_PROCS);
	nroots = lg_find_roots(view->graph, roots);
	style.width = TREE_WIDTH;
	style.relation_name = relation_name;
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
			put(&row, CStringGetTextDatum(line));
			emit(rsinfo, &row);
		}
		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
	}
	if (nroots == 0)
	{
		begin_row(&row);
		put(&row, CStringGetTextDatum("No session waits for a lock."));
		emit(rsinfo, &row);
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

PG_FUNCTION_INFO_V1(lockguard_sessions);

/* Each session, with what is measured and which limits bind it. */
Datum
lockguard_sessions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LgView	   *view;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	view = look();

	init_row(&row);
	for (int procno = 0; procno < (int) ProcGlobal->allProcCount; procno++)
	{
		LgNode	   *node = lg_node(view->graph, procno);
		LgSlot	   *slot = lg_slot(procno);
		LgSession	session;
		LgValues	values;
		LgSubject	subject;
		const LgWaiter *wait = NULL;
		const char *reason;
		char		query[LG_QUERY_SIZE];
		char		application_name[NAMEDATALEN];
		bool		visible;
		bool		named;
		bool		exempt;
		int			limit;
		int64		limit_at;

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
		exempt = lg_may_signal(&session, &values, &reason) == LG_EXEMPTED;
		if (node != NULL)
			wait = lg_longest_wait(view->graph, node);

		subject.session = &session;
		subject.values = &values;
		subject.track = &view->tracks[procno];
		subject.node = node;
		subject.again = false;
		limit_at = lg_next_limit(view, &subject, &limit);

		put(&row, Int32GetDatum(session.pid));
		put_text(&row, visible ? lg_backend_type(session.kind) : NULL);
		put_database(&row, named ? NameStr(slot->datname) : "", session.datid);
		put_role(&row, named ? NameStr(slot->usename) : "", session.userid);
		put_text(&row, application_name);
		put_time(&row, visible ? session.session_start : 0);
		put_time(&row, visible ? session.xact_start : 0);
		put_text(&row, visible ? lg_state_text(&session) : NULL);
		if (node != NULL)
			put(&row, blocked_by(view, node));
		else
			put(&row, array_of_pids(NULL, 0));
		put(&row, Int32GetDatum(node ? lg_downstream(view->graph, procno) : 0));
		put_time(&row, node && node->blocking_since != LG_NEVER ?
				 lg_clock_wall(&view->clock, node->blocking_since) : 0);
		put_time(&row, wait ? lg_clock_wall(&view->clock, wait->since) : 0);
		put(&row, Int32GetDatum(lg_count_locks(procno, INT_MAX - 1)));
		put_text(&row, lg_priority_name((LgPriority) values.value[LG_PRIORITY]));
		put_text(&row, lg_action_name((LgActionKind) values.value[LG_ACTION]));
		put(&row, BoolGetDatum(exempt));

		/* They tell its state, and when its transaction or statement began. */
		if (!visible)
			limit = LG_NO_LIMIT;
		put_text(&row, limit == LG_NO_LIMIT ? NULL : lg_setting_name(limit));
		put_time(&row, limit == LG_NO_LIMIT ? 0 : lg_clock_wall(&view->clock, limit_at));
		put(&row, settings_as_json(&values));
		put_text(&row, visible ? query : "<insufficient privilege>");
		emit(rsinfo, &row);
	}
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
		put(&row, Int64GetDatum(action->action_id));
		put_if(&row, action->incident_id != 0, Int64GetDatum(action->incident_id));
		put_time(&row, action->acted_at);
		put(&row, Int32GetDatum(action->pid));
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
		put(&row, BoolGetDatum(action->dry_run));
		put_text(&row, lg_result_name(action->result));
		/* It may tell what kind of process it is, and what it does. */
		put_text(&row, visible || action->pid == 0 ? action->reason : NULL);
		put_if(&row, action->released_after >= 0, interval_of(action->released_after));
		put(&row, Int32GetDatum(action->blocked_sessions));
		put(&row, array_of_pids(action->blocked_pids, action->nblocked_pids));
		put_if(&row, action->blocked_sessions > 0, interval_of(action->longest_wait));
		emit(rsinfo, &row);
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
		put(&row, Int64GetDatum(incident->incident_id));
		put_text(&row, incident->ended_at == 0 ? "open" : "closed");
		put_time(&row, incident->started_at);
		put_time(&row, incident->ended_at);
		put(&row, Int32GetDatum(incident->root_pid));
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
		put(&row, Int32GetDatum(incident->peak_blocked_sessions));
		put_time(&row, incident->peak_at);
		put(&row, interval_of(incident->longest_wait));
		put(&row, interval_of(incident->total_wait));
		put_text(&row, lg_resolution_name(incident->resolution));
		put_if(&row, incident->replaced_by != 0, Int64GetDatum(incident->replaced_by));
		put(&row, incident_tree(incident));
		emit(rsinfo, &row);
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
	int			n;
	Row			row;

	lg_require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	n = lg_fetch_contention(all);
	init_row(&row);
	for (int i = 0; i < n; i++)
	{
		begin_row(&row);
		put_database(&row, "", all[i].datid);
		put_role(&row, "", all[i].userid);
		put_if(&row, all[i].query_id != 0 && lg_may_see(all[i].userid),
			   Int64GetDatum(all[i].query_id));
		put(&row, Int64GetDatum(all[i].incidents));
		put(&row, Int64GetDatum(all[i].sessions));
		put(&row, interval_of(all[i].lost));
		put(&row, interval_of(all[i].longest_wait));
		put(&row, Int64GetDatum(all[i].actions));
		emit(rsinfo, &row);
	}
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
		for (int action = LG_DO_LOG; action <= LG_DO_ROLLBACK; action++)
		{
			if (stats.actions[limit + 1][action] == 0)
				continue;
			begin_row(&row);
			put_text(&row, limit == LG_NO_LIMIT ? NULL : lg_setting_name(limit));
			put_text(&row, lg_action_name(action));
			put(&row, Int64GetDatum(stats.actions[limit + 1][action]));
			emit(rsinfo, &row);
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
	LWLockRelease(lg_shared->lock);

	init_row(&row);
	begin_row(&row);
#define put_count(count) put(&row, Int64GetDatum((int64) (count)))
#define put_ms(ns) put(&row, Float8GetDatum((double) (ns) / LG_NANOS_PER_MS))
	put_count(pg_atomic_read_u64(&scan->scans));
	put_ms(pg_atomic_read_u64(&scan->scan_time));
	put_ms(pg_atomic_read_u64(&scan->max_scan_time));
	put_count(pg_atomic_read_u64(&scan->looks));
	put_ms(pg_atomic_read_u64(&scan->look_time));
	put_ms(pg_atomic_read_u64(&scan->max_look_time));
	put_ms(pg_atomic_read_u64(&scan->max_partition_lock_time));
	for (int i = 0; i < LG_NUM_LATENESS; i++)
		put_count(stats.within[i]);
	put_count(stats.later);
	put_ms(stats.max_lateness);
	put_count(stats.cancels);
	put_count(stats.terminations);
	put_count(stats.rollbacks);
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
	put_time(&row, stats.stats_reset);
	emit(rsinfo, &row);
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
		emit(rsinfo, &row);
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

PG_FUNCTION_INFO_V1(lockguard_scan);

/* Have the worker scan, and return when it has. */
Datum
lockguard_scan(PG_FUNCTION_ARGS)
{
	uint64		ticket;

	lg_require_loaded();
	if (!lg_enabled)
		ereport(WARNING,
				(errmsg("lockguard is disabled by lockguard.enabled")));
	ticket = pg_atomic_add_fetch_u64(&lg_shared->scans_requested, 1);
	ConditionVariablePrepareToSleep(&lg_shared->scan_served);
	while (pg_atomic_read_u64(&lg_shared->scans_served) < ticket)
	{
		if (!lg_wake_worker())
		{
			ConditionVariableCancelSleep();
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the lockguard worker is not running"),
					 errhint("The server starts it again within a second; see the server log for why it ended.")));
		}
		ConditionVariableTimedSleep(&lg_shared->scan_served, 1000, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	PG_RETURN_VOID();
}

/* An interval as ns, for a function that takes a time from now on. */
static int64
interval_to_ns(const Interval *interval)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz then =
		DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												TimestampTzGetDatum(now),
												IntervalPGetDatum(interval)));
	int64		us;

	if (TIMESTAMP_NOT_FINITE(then))
		us = then > now ? PG_INT64_MAX / 1000 : -1;
	else if (pg_sub_s64_overflow(then, now, &us))
		us = PG_INT64_MAX / 1000;
	if (us < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("interval must not be negative")));

	/* Some hundred years will do, and leave room for adding the time of now. */
	return Min(us, PG_INT64_MAX / 4000) * 1000;
}

/* The procno of a client session by its pid, or -1. */
static int
find_session(int pid, LgSession *session)
{
	for (int procno = 0; pid > 0 && procno < MaxBackends; procno++)
	{
		if (lg_proc_pid((volatile PGPROC *) &ProcGlobal->allProcs[procno]) != pid)
			continue;
		lg_read_session(procno, session);
		if (session->pid == pid)
			return procno;
	}
	return -1;
}

PG_FUNCTION_INFO_V1(lockguard_exempt);

/* exempt(pid, interval): leave a session alone for a time. */
Datum
lockguard_exempt(PG_FUNCTION_ARGS)
{
	LgSession	session;
	LgSlot	   *slot;
	int64		duration;

	lg_require_loaded();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	duration = PG_ARGISNULL(1) ? 0 : interval_to_ns(PG_GETARG_INTERVAL_P(1));
	slot = lg_slot(find_session(PG_GETARG_INT32(0), &session));
	if (slot == NULL || session.kind != LG_KIND_CLIENT)
	{
		ereport(WARNING,
				(errmsg("PID %d is not a client session", PG_GETARG_INT32(0))));
		PG_RETURN_BOOL(false);
	}

	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	if (slot->exempt_pid != session.pid ||
		slot->exempt_session_start != session.session_start)
	{
		/* Judging reads without the lock: it must not mix two sessions up. */
		slot->exempt_pid = 0;
		pg_write_barrier();
		slot->exempt_session_start = session.session_start;
		slot->exempt_until = 0;
		pg_write_barrier();
		slot->exempt_pid = session.pid;
	}
	slot->exempt_until = duration == 0 ? 0 : lg_now() + duration;
	LWLockRelease(lg_shared->lock);
	lg_wait_for_signals(slot, 1, LG_NEVER);
	PG_RETURN_BOOL(true);
}

PG_FUNCTION_INFO_V1(lockguard_pause);

/* pause(interval): do not act for a time. */
Datum
lockguard_pause(PG_FUNCTION_ARGS)
{
	int64		duration;
	char	   *who;

	lg_require_loaded();
	duration = interval_to_ns(PG_GETARG_INTERVAL_P(0));
	who = lg_one_line(GetUserNameFromId(GetUserId(), false), NAMEDATALEN);
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	lg_shared->paused_until = lg_now() + duration;
	LWLockRelease(lg_shared->lock);
	lg_wait_for_signals(lg_shared->slots, MaxBackends, LG_NEVER);
	ereport(LOG_SERVER_ONLY,
			(errmsg("lockguard: paused for %lld s by user \"%s\"",
					(long long) (duration / LG_NANOS_PER_SEC), who)));
	lg_wake_worker();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(lockguard_resume);

/* resume(): end a pause. */
Datum
lockguard_resume(PG_FUNCTION_ARGS)
{
	char	   *who;

	lg_require_loaded();
	who = lg_one_line(GetUserNameFromId(GetUserId(), false), NAMEDATALEN);
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	lg_shared->paused_until = 0;
	LWLockRelease(lg_shared->lock);
	ereport(LOG_SERVER_ONLY,
			(errmsg("lockguard: resumed by user \"%s\"", who)));
	lg_wake_worker();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(lockguard_reset_stats);

Datum
lockguard_reset_stats(PG_FUNCTION_ARGS)
{
	LgScanStats *scan;

	lg_require_loaded();
	scan = &lg_shared->scan_stats;
	pg_atomic_write_u64(&scan->scans, 0);
	pg_atomic_write_u64(&scan->scan_time, 0);
	pg_atomic_write_u64(&scan->max_scan_time, 0);
	pg_atomic_write_u64(&scan->looks, 0);
	pg_atomic_write_u64(&scan->look_time, 0);
	pg_atomic_write_u64(&scan->max_look_time, 0);
	pg_atomic_write_u64(&scan->max_partition_lock_time, 0);
	pg_atomic_write_u64(&scan->blocked_time, 0);
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	memset(&lg_shared->stats, 0, sizeof(LgStats));
	lg_shared->stats.stats_reset = GetCurrentTimestamp();
	LWLockRelease(lg_shared->lock);
	lg_forget_contention();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(lockguard_reset_history);

Datum
lockguard_reset_history(PG_FUNCTION_ARGS)
{
	lg_require_loaded();
	lg_forget_history();
	PG_RETURN_VOID();
}

/*
 * The rules of pg_terminate_backend(), and of ROLLBACK PREPARED for a prepared
 * transaction, in the way of process "waiter": errors out if they are not met.
 */
static void
check_may_signal(const LgSession *session, int waiter)
{
	if (session->kind == LG_KIND_PREPARED)
	{
		if (!superuser() && session->userid != GetUserId())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be a superuser or the owner of the prepared transaction that process %d waits for",
							waiter)));
	}
	else if (session->kind == LG_KIND_AUTOVACUUM)
	{
		if (!lg_may_signal_autovacuum(GetUserId()))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be " LG_SIGNALS_AUTOVACUUM " to signal autovacuum worker %d",
							session->pid)));
	}
	else if (!OidIsValid(session->userid) || superuser_arg(session->userid))
	{
		if (!superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be a superuser to signal superuser process %d",
							session->pid)));
	}
	else if (!has_privs_of_role(GetUserId(), session->userid) &&
			 !has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be a member of the role whose process %d is being signalled or member of pg_signal_backend",
						session->pid)));
}

/*
 * What ends a root blocker that lockguard does not signal, as a hint for a role
 * that may see what it is.  Allocates in the current context.
 */
static char *
way_out(const LgSession *session, const char *gid)
{
	switch (session->kind)
	{
		case LG_KIND_CLIENT:
			return pstrdup(session->wait_event == WAIT_EVENT_SYNC_REP ?
						   "Its commit waits for a synchronous standby; see synchronous_standby_names." :
						   "It is about to end its transaction.");
		case LG_KIND_PREPARED:

			/*
			 * If a gid could not be converted to the client's encoding, an
			 * error would take the place of the warning.
			 */
			for (const char *p = gid; *p; p++)
				if (IS_HIGHBIT_SET(*p) || lg_control_bytes(p) > 0)
					return pstrdup("ROLLBACK PREPARED in its database ends it; pg_prepared_xacts has its gid.");
			return psprintf("ROLLBACK PREPARED %s in its database ends it.",
							quote_literal_cstr(gid));
		case LG_KIND_STARTUP:
			return pstrdup("It holds the locks of a transaction on the primary: end that transaction. "
						   "If it waits itself, lockguard.lock_tree shows for what.");
		default:
			if (session->procno >= MaxBackends)
				return pstrdup("No function can end it.");
			return psprintf("pg_terminate_backend(%d) ends it; it may be started again.",
							session->pid);
	}
}

/* Say why a root blocker was not signalled, to a caller who may signal it. */
static void
warn_not_signalled(const LgSession *session, const LgAction *action)
{
	bool		visible = session->kind == LG_KIND_PREPARED || lg_may_see(session->userid);

	ereport(WARNING,
			(session->kind == LG_KIND_PREPARED ?
			 errmsg("a prepared transaction was not signalled") :
			 errmsg("process %d was not signalled", session->pid),
			 action->result == LG_SELF_RESOLVED ?
			 errdetail("It was out of the way already.") :
			 action->result == LG_FAILED ?
			 errdetail("The signal could not be sent.") :
			 visible ?
			 errdetail("It is protected: %s.", action->reason) :
			 errdetail("It is protected."),
			 action->result != LG_PROTECTED ? 0 :
			 visible ? errhint("%s", way_out(session, action->gid)) :
			 errhint("A member of pg_read_all_stats can see what it is and does.")));
}

/* Signal all root blockers that a session waits for; returns their pids. */
static Datum
signal_blockers(int pid, LgActionKind what)
{
	LgView	   *view;
	LgGraph    *graph;
	LgSession	session;
	LgNode	   *node;
	LgVerdict  *verdicts;
	LgAction   *actions;
	LgLogTexts *texts;
	LgRequest	request;
	bool	   *signalled;
	int		   *pids;
	int			nupstream;
	int			nroots = 0;
	int			n = 0;

	lg_require_loaded();
	if (find_session(pid, &session) < 0)
	{
		ereport(WARNING,
				(errmsg("PID %d is not a PostgreSQL backend process", pid)));
		return array_of_pids(NULL, 0);
	}

	view = look();
	graph = view->graph;
	verdicts = palloc_array(LgVerdict, LG_TOTAL_PROCS);
	pids = palloc_array(int, LG_TOTAL_PROCS);
	node = lg_node(graph, session.leader);
	if (node == NULL || node->first_wait < 0)
	{
		ereport(WARNING,
				(errmsg("process %d does not wait for a lock", pid)));
		return array_of_pids(NULL, 0);
	}

	/*
	 * The right to signal them all, also those that are protected, is checked
	 * before anything is shown, recorded or done.
	 */
	nupstream = lg_upstream(graph, session.leader);
	for (int i = 1; i < nupstream; i++)
	{
		LgVerdict  *verdict = &verdicts[nroots];
		LgValues	none;

		node = &graph->nodes[graph->upstream[i]];
		if (node->waiting || node->known->session.kind == LG_KIND_NONE)
			continue;
		check_may_signal(&node->known->session, pid);
		nroots++;
		memset(verdict, 0, sizeof(*verdict));
		memset(&none, 0, sizeof(none));
		verdict->session = node->known->session;
		verdict->limit = LG_NO_LIMIT;
		verdict->action = what;
		verdict->by_hand = true;
		verdict->proof = LG_PROVE_BLOCKS;
		verdict->evidence = graph->edges[graph->upstream[i]];
		lg_link_to(graph, graph->upstream[i], verdict);
		verdict->result = lg_may_signal(&node->known->session, &none, &verdict->reason);

		/* The caller's explicit word reaches exempt sessions, too. */
		if (verdict->result == LG_PROTECTED)
			verdict->action = LG_DO_LOG;
		else
		{
			verdict->result = LG_PENDING;
			verdict->reason = NULL;
		}
	}

	/*
	 * All that can fail comes before the first signal.  Then none is sent
	 * without the others, or without its row and its line in the log, whatever
	 * happens; one of the sessions may be our own.
	 */
	request.user_name = GetUserNameFromId(GetUserId(), false);
	request.pid = MyProcPid;
	actions = palloc_array(LgAction, Max(nroots, 1));
	texts = palloc_array(LgLogTexts, Max(nroots, 1));
	signalled = palloc_array(bool, Max(nroots, 1));
	for (int i = 0; i < nroots; i++)
	{
		lg_count_blocked(view, verdicts[i].session.procno,
						 &verdicts[i].blocked_sessions, &verdicts[i].longest_wait);
		lg_describe(view, &verdicts[i], &request, &actions[i]);
		lg_log_texts(view, &verdicts[i], &actions[i], &texts[i]);
	}

	HOLD_INTERRUPTS();
	for (int i = 0; i < nroots; i++)
	{
		request.action = &actions[i];
		signalled[i] = lg_act(view, NULL, &verdicts[i], &request);
		if (signalled[i])
			pids[n++] = verdicts[i].session.pid;
	}
	lg_wake_worker();
	for (int i = 0; i < nroots; i++)
		lg_write_log(&texts[i], &actions[i]);
	RESUME_INTERRUPTS();

	for (int i = 0; i < nroots; i++)
		if (!signalled[i])
			warn_not_signalled(&verdicts[i].session, &actions[i]);
	return array_of_pids(pids, n);
}

PG_FUNCTION_INFO_V1(lockguard_cancel_blockers);

Datum
lockguard_cancel_blockers(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(signal_blockers(PG_GETARG_INT32(0), LG_DO_CANCEL));
}

PG_FUNCTION_INFO_V1(lockguard_terminate_blockers);

Datum
lockguard_terminate_blockers(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(signal_blockers(PG_GETARG_INT32(0), LG_DO_TERMINATE));
}
