/*-------------------------------------------------------------------------
 *
 * incident.c
 *		Follows outages from their beginning to their end.
 *
 * An incident belongs to a root blocker.  It is opened when the root has
 * blocked a session for incident_threshold, whether or not anything may be done
 * about it; it follows the root while its tree grows and shrinks, and keeps
 * the tree as it was when it was largest.  It is closed when the root is out
 * of the way, with how that came.
 *
 * The worker alone opens, follows and closes; its own copies of the open ones
 * are here, the rows that others read are in record.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "incident.h"
#include "judge.h"
#include "limit.h"
#include "look.h"
#include "record.h"
#include "rollback.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "text.h"
#include "tree.h"
#include "twophase.h"
#include "types.h"
#include "waitgraph.h"

/*
 * A signal this long before the end of an incident may have ended it (us): to
 * the root itself, or to another in its tree.
 */
#define CANCEL_WORKS_WITHIN	(10 * USECS_PER_SEC)
#define ENDED_IT_WITHIN		(2 * USECS_PER_SEC)

/* How soon to see whether a session that was about to end has ended. */
#define DECIDE_AFTER		(10 * LG_NANOS_PER_MS)

/* Sessions drawn in a log message. */
#define LOG_TREE_LINES		50

/* A wait that was in the tree of a root at the last look. */
typedef struct LgMember
{
	int			procno;
	int			pid;
	Oid			userid;
	int			level;			/* 1 = waits for the root itself */
	int64		seen;			/* first look that saw this wait */
	int64		since;
	uint32		granted;		/* lg_granted_waits() */
	bool		for_tuple;		/* it waits for its turn to wait for a row */
	bool		ended;			/* not found by this look */
} LgMember;

/*
 * What is counted of a root from when the timer of its incident began anew,
 * whether or not the incident is open yet.
 */
typedef struct LgEpisode
{
	int64		began;			/* as in LgBlockTime; 0 = not known, or none */
	int64		from;			/* since when is counted, monotonic ns */
	int64		waits;
	int64		gave_up;
	LgGaveUp	gave_up_by[LG_MAX_GAVE_UP];
	int64		lost;			/* ns */
	int64		longest_wait;	/* ns */
	int			nmembers;
	int			max_members;
	LgMember   *members;		/* NULL = none */
	bool		is_watched;		/* is in LgIncidents.watched */
} LgEpisode;

struct LgIncidents
{
	LgEpisode  *episodes;		/* by procno of the root */
	int			nwatched;
	int		   *watched;		/* procnos of roots with members */
	int		   *member;			/* by procno: index in members, for
								 * follow_members() */
	LgIncident **open;			/* by procno of the root; NULL = none */
	TimestampTz *ended;			/* of each: seen to be over, but not yet how */
	int64		next_due;		/* when that can be decided at the latest */
	int64	   *replaced;		/* closed incident that waits for its
								 * successor's id */
	int			nopen;
	int64		stepped;		/* step of the wall clock that is allowed for */
};

/*
 * By how much the wall clock has stepped since incidents were followed last, by
 * this worker or by one before it, in us; 0 if it has not.
 */
static TimestampTz
step_of_clock(const LgClock *clock)
{
	TimestampTz before = (TimestampTz) pg_atomic_read_u64(&lg_shared->wall_ahead);
	TimestampTz ahead = clock->wall - (clock->now + clock->frozen) / 1000;
	TimestampTz step = ahead - before;

	pg_atomic_write_u64(&lg_shared->wall_ahead, (uint64) ahead);
	return before == 0 || (step * 1000 <= LG_CLOCK_STEP && step * 1000 >= -LG_CLOCK_STEP) ? 0 : step;
}

/*
 * Put the times of an open incident forward or back with the wall clock, so
 * that its duration stays what it is.
 */
static void
shift_times(LgIncident *incident, TimestampTz step)
{
	incident->started_at += step;
	incident->updated_at += step;
	incident->peak_at += step;
}

/* The procno of the root of an incident, if it still exists; otherwise -1. */
static int
find_root(const LgIncident *incident)
{
	for (int procno = 0; procno < LG_TOTAL_PROCS; procno++)
	{
		LgSession	session;
		char		gid[LG_GID_SIZE];
		TimestampTz prepared_at;
		bool		busy;

		if (((volatile PGPROC *) &ProcGlobal->allProcs[procno])->pid != incident->root_pid)
			continue;
		lg_read_session(procno, &session);
		if (session.kind != incident->kind || session.pid != incident->root_pid)
			continue;
		if (session.kind != LG_KIND_PREPARED ?
			session.session_start == incident->backend_start :
			lg_prepared_transaction(procno, gid, &prepared_at, &busy) &&
			strcmp(gid, incident->gid) == 0)
			return procno;
	}
	return -1;
}

/*
 * What the worker keeps of open incidents, in the current context.  Those
 * that a worker before this one has left open are taken over.
 */
LgIncidents *
lg_incidents_create(void)
{
	LgIncidents *incidents = palloc0(sizeof(LgIncidents));
	LgIncident *incident = palloc(sizeof(LgIncident));
	LgClock		clock = {0};
	TimestampTz step;
	int64		first;
	int64		next;

	incidents->open = palloc0_array(LgIncident *, LG_TOTAL_PROCS);
	incidents->episodes = palloc0_array(LgEpisode, LG_TOTAL_PROCS);
	incidents->watched = palloc0_array(int, LG_TOTAL_PROCS);
	incidents->member = palloc0_array(int, LG_TOTAL_PROCS);
	incidents->ended = palloc0_array(TimestampTz, LG_TOTAL_PROCS);
	incidents->replaced = palloc0_array(int64, LG_TOTAL_PROCS);
	incidents->stepped = PG_INT64_MIN;
	lg_clock_read(&clock);
	step = step_of_clock(&clock);
	lg_incident_range(&first, &next);
	for (int64 id = first; id < next; id++)
	{
		int			procno;

		if (!lg_fetch_incident(id, incident) || incident->ended_at != 0)
			continue;
		shift_times(incident, step);
		procno = find_root(incident);
		if (procno >= 0 && incidents->open[procno] == NULL)
		{
			incidents->open[procno] =
				MemoryContextAllocZero(TopMemoryContext, sizeof(LgIncident));
			memcpy(incidents->open[procno], incident, LG_INCIDENT_SIZE(incident));
			incidents->episodes[procno].waits = incident->waits;
			incidents->episodes[procno].gave_up = incident->gave_up;
			memcpy(incidents->episodes[procno].gave_up_by, incident->gave_up_by,
				   sizeof(incident->gave_up_by));
			incidents->episodes[procno].lost = incident->total_wait * 1000;
			incidents->episodes[procno].longest_wait = incident->longest_wait * 1000;
			incidents->nopen++;
			if (step != 0)
				lg_update_incident(incident, false);
		}
		else
		{
			incident->resolution = LG_BY_SESSION_END;
			incident->ended_at = GetCurrentTimestamp();
			lg_update_incident(incident, false);
		}
	}
	pfree(incident);
	return incidents;
}

/*
 * Step through the sessions of an incident: NULL for the first; NULL at the
 * end.  The texts point into the incident.
 */
const LgIncidentSession *
lg_next_session(const LgIncident *incident, const LgIncidentSession *session,
				const char **usename, const char **application_name,
				const char **query)
{
	const char *next = session == NULL ? incident->arena :
		(const char *) session + session->size;

	if (next + offsetof(LgIncidentSession, texts) > incident->arena + incident->used)
		return NULL;
	session = (const LgIncidentSession *) next;
	*usename = session->texts;
	*application_name = *usename + strlen(*usename) + 1;
	*query = *application_name + strlen(*application_name) + 1;
	return session;
}

/* Keep the tree of a root as it is now; its steps are in the graph. */
static void
keep_tree(LgView *view, LgIncident *incident, const LgNode *root)
{
	LgGraph    *graph = view->graph;
	char		query[LG_INCIDENT_QUERY];
	char		application_name[NAMEDATALEN];
	const LgWaiter *longest = NULL;

	lg_depth_first(graph);
	incident->used = 0;
	incident->nsessions = 0;
	incident->nleft_out = 0;
	for (int i = 0; i < graph->nsteps; i++)
	{
		const LgStep *step = &graph->steps[i];
		LgNode	   *node = &graph->nodes[step->node];
		const LgSession *session = &node->known->session;
		const LgWaiter *waiter = step->waiter >= 0 ? &graph->waiters[step->waiter] : NULL;
		LgSlot	   *slot = lg_slot(step->node);
		const char *usename = slot != NULL && slot->pid == node->pid ?
			NameStr(slot->usename) : "";
		LgIncidentSession *kept;
		char	   *string;
		size_t		size;

		if (waiter != NULL && step->parent == 0 &&
			(longest == NULL || waiter->since < longest->since))
			longest = waiter;
		if (incident->nleft_out > 0)
		{
			/* Once one is left out all are: parents come before children. */
			incident->nleft_out++;
			continue;
		}
		lg_load_node(graph, node);
		lg_read_texts(session, query, sizeof(query), application_name, NULL);
		size = MAXALIGN(offsetof(LgIncidentSession, texts) + strlen(usename) +
						strlen(application_name) + strlen(query) + 3);
		if (incident->used + size > LG_ARENA_SIZE)
		{
			incident->nleft_out++;
			continue;
		}
		kept = (LgIncidentSession *) (incident->arena + incident->used);
		memset(kept, 0, size);
		kept->size = size;
		kept->parent = step->parent;
		kept->level = step->level;
		kept->kind = session->kind;
		kept->block_kind = step->kind;
		kept->pid = session->pid;
		kept->userid = session->userid;
		kept->state = session->has_status ? session->state : STATE_UNDEFINED;
		kept->wait_event = session->wait_event;
		if (waiter)
		{
			kept->mode = waiter->mode;
			kept->tag = graph->locks[waiter->lock].tag;
			kept->waited = (view->clock.now - waiter->since) / 1000;
		}
		else
			kept->waited = lg_block_time(graph, view->times, root, LG_INCIDENT_TIMER) / 1000;
		string = kept->texts;
		strcpy(string, usename);
		string += strlen(string) + 1;
		strcpy(string, application_name);
		string += strlen(string) + 1;
		strcpy(string, query);
		incident->used += size;
		incident->nsessions++;
	}
	if (longest)
		incident->tag = graph->locks[longest->lock].tag;
}

/* Fill in what is to be known of the root itself. */
static void
describe_root(LgIncident *incident, const LgSession *session)
{
	LgSlot	   *slot = lg_slot(session->procno);
	const char *state = lg_state_text(session);

	incident->root_pid = session->pid;
	incident->lxid = session->lxid;
	incident->xid = session->xid;
	incident->kind = session->kind;
	incident->backend_start = session->session_start;
	incident->xact_start = session->xact_start;
	incident->datid = session->datid;
	incident->userid = session->userid;
	incident->query_id = session->query_id;
	if (slot != NULL && slot->pid == session->pid)
	{
		incident->datname = slot->datname;
		incident->usename = slot->usename;
	}
	if (session->kind == LG_KIND_PREPARED)
	{
		TimestampTz prepared_at;
		bool		busy;

		lg_prepared_transaction(session->procno, incident->gid, &prepared_at, &busy);
	}
	strlcpy(incident->state, state ? state : "", sizeof(incident->state));
	lg_read_texts(session, incident->query, sizeof(incident->query),
				  incident->application_name, incident->client_addr);
}

/* 'process 123 (autovacuum worker)', 'prepared transaction "o"'. */
static char *
root_text(const LgIncident *incident)
{
	if (incident->kind == LG_KIND_PREPARED)
		return psprintf("prepared transaction \"%s\"", lg_one_line(incident->gid, LG_GID_SIZE));
	if (incident->kind != LG_KIND_CLIENT)
		return psprintf("process %d (%s)", incident->root_pid,
						lg_kind_text((LgKind) incident->kind));
	return psprintf("process %d (user \"%s\", database \"%s\", application \"%s\")",
					incident->root_pid,
					lg_one_line(NameStr(incident->usename), NAMEDATALEN),
					lg_one_line(NameStr(incident->datname), NAMEDATALEN),
					lg_one_line(incident->application_name, NAMEDATALEN));
}

/*
 * Has a member's wait, which has ended, ended without the lock, as far as can be
 * told?  May take partition locks, shared.
 */
static bool
has_given_up(const LgGraph *graph, const LgMember *member, const LgBlockTime *root)
{
	volatile PGPROC *proc = &ProcGlobal->allProcs[member->procno];

	switch (lg_wait_end(graph, member->procno, member->pid, member->seen, member->granted))
	{
		case LG_GRANTED:
			return false;
		case LG_GAVE_UP:
			return true;
		default:
			/* Another has taken the place of the process. */
			return proc->pid != member->pid && member->level == 1 &&
				lg_block_time_holds(root);
	}
}

/* Count a member's wait that has ended without the lock. */
static void
count_gave_up(LgEpisode *episode, const LgView *view, const LgMember *member)
{
	LgGaveUp   *one = &episode->gave_up_by[episode->gave_up++ % LG_MAX_GAVE_UP];

	one->at = view->clock.wall;
	one->waited = (view->clock.now - member->since) / 1000;
	one->pid = member->pid;
	one->userid = member->userid;
}

/*
 * Count those whose wait has been found to be over by the last pass over the
 * PGPROCs: these are no members any more.  Of one that waits again, the next look
 * tells.
 */
static void
count_ended(LgIncidents *incidents, LgView *view, int root)
{
	LgEpisode  *episode = &incidents->episodes[root];
	int			kept = 0;

	for (int i = 0; i < episode->nmembers; i++)
	{
		LgMember   *member = &episode->members[i];
		const LgWaitTrack *track = &view->graph->wait_tracks[member->procno];

		if (track->in_wait || (track->pid == member->pid && track->ended == LG_END_UNKNOWN &&
							   ((volatile PGPROC *) &ProcGlobal->allProcs[member->procno])->waitLock != NULL))
			episode->members[kept++] = *member;
		else if (has_given_up(view->graph, member, &view->times[root]))
			count_gave_up(episode, view, member);
	}
	episode->nmembers = kept;
}

/* Begin an episode, of a root whose timer began anew then (monotonic ns). */
static void
begin_episode(LgEpisode *episode, int64 began)
{
	episode->began = episode->from = began;
	episode->waits = episode->gave_up = episode->lost = episode->longest_wait = 0;
	episode->nmembers = 0;
}

static inline bool
is_for_tuple(const LgGraph *graph, const LgWaiter *waiter)
{
	return graph->locks[waiter->lock].tag.locktag_type == LOCKTAG_TUPLE;
}

static inline bool
is_another_wait(const LgMember *member, const LgWaiter *waiter)
{
	return member->procno != waiter->procno || member->pid != waiter->pid ||
		member->seen != waiter->seen;
}

/*
 * Of those that want one row, one waits for the transaction that has it, and the
 * others for their turn to do so.  Is a member's wait now just that turn, in the
 * same statement?
 */
static bool
has_moved_up(LgView *view, const LgMember *before, const LgWaiter *waiter)
{
	LgNode	   *node;

	if (!before->for_tuple || is_for_tuple(view->graph, waiter))
		return false;
	node = lg_node(view->graph, waiter->node);
	lg_load_node(view->graph, node);
	return lg_clock_at(&view->clock, node->known->session.stmt_start) <= before->since;
}

/*
 * The root's tree has just been traversed: bring its episode up to date.  A
 * member that is in the tree with another wait has given up the one before.
 */
static void
follow_members(LgIncidents *incidents, LgView *view, LgEpisode *episode, int64 last_scan)
{
	LgGraph    *graph = view->graph;
	int			n = graph->nsteps - 1;
	int		   *index = incidents->member;
	bool		changed = n != episode->nmembers;

	for (int i = 1; i <= n; i++)
	{
		const LgWaiter *waiter = &graph->waiters[graph->steps[i].waiter];

		episode->lost += lg_newly_waited(graph, waiter, view->clock.now, last_scan,
										 episode->from);
		episode->longest_wait = Max(episode->longest_wait, view->clock.now - waiter->since);
		changed = changed || is_another_wait(&episode->members[i - 1], waiter);
	}
	if (!changed)
		return;

	for (int i = 0; i < episode->nmembers; i++)
	{
		episode->members[i].ended = true;
		index[episode->members[i].procno] = i;
	}
	for (int i = 1; i <= n; i++)
	{
		const LgWaiter *waiter = &graph->waiters[graph->steps[i].waiter];
		int			m = index[waiter->procno];
		LgMember   *before = m < episode->nmembers &&
			episode->members[m].procno == waiter->procno &&
			episode->members[m].pid == waiter->pid ? &episode->members[m] : NULL;

		if (before != NULL)
			before->ended = false;
		if (before == NULL)
			episode->waits++;
		else if (before->seen != waiter->seen && !has_moved_up(view, before, waiter))
		{
			episode->waits++;
			if (lg_wait_end(graph, before->procno, before->pid, before->seen,
							before->granted) != LG_GRANTED)
				count_gave_up(episode, view, before);
		}
	}

	/*
	 * A process that has made room for another has given up if the root has
	 * the lock still that it waited for.
	 */
	for (int i = 0; i < episode->nmembers; i++)
		if (episode->members[i].ended && episode->members[i].level == 1 &&
			ProcGlobal->allProcs[episode->members[i].procno].pid != episode->members[i].pid)
			count_gave_up(episode, view, &episode->members[i]);

	if (n > episode->max_members)
	{
		if (episode->members != NULL)
			pfree(episode->members);
		episode->members = NULL;
		episode->max_members = 0;
		episode->nmembers = 0;
		episode->max_members = n + n / 4 + 4;
		episode->members = MemoryContextAllocHuge(TopMemoryContext,
												  episode->max_members * sizeof(LgMember));
	}
	episode->nmembers = n;
	if (!episode->is_watched)
	{
		episode->is_watched = true;
		incidents->watched[incidents->nwatched++] = (int) (episode - incidents->episodes);
	}
	for (int i = 1; i <= n; i++)
	{
		const LgWaiter *waiter = &graph->waiters[graph->steps[i].waiter];
		LgMember   *member = &episode->members[i - 1];

		member->procno = waiter->procno;
		member->pid = waiter->pid;
		member->userid = ProcGlobal->allProcs[waiter->procno].roleId;
		member->level = graph->steps[i].level;
		member->seen = waiter->seen;
		member->since = waiter->since;
		member->granted = lg_granted_waits(waiter->procno, waiter->pid, 0);
		member->for_tuple = is_for_tuple(graph, waiter);
		member->ended = false;
	}
}

/* Put what has been counted into the incident. */
static void
take_figures(LgIncident *incident, const LgEpisode *episode)
{
	incident->waits = episode->waits;
	incident->gave_up = episode->gave_up;
	memcpy(incident->gave_up_by, episode->gave_up_by, sizeof(incident->gave_up_by));
	incident->total_wait = episode->lost / 1000;
	incident->longest_wait = episode->longest_wait / 1000;
}

/* Note for how long the root has been idle while it blocked, if it is idle now. */
static void
note_idle(LgView *view, LgIncident *incident, const LgNode *root)
{
	int64		begin = lg_clock_at(&view->clock, incident->started_at);
	int64		from;

	if (root->known->idle_since == LG_NEVER)
		return;
	from = Max(root->known->idle_since, begin);
	if ((view->clock.now - from) / 1000 <= incident->longest_idle)
		return;
	incident->longest_idle = (view->clock.now - from) / 1000;
	incident->idle_from = (from - begin) / 1000;
	incident->idle_remedy = lg_choose_remedy(view, root, &root->known->session,
											 LG_IDLE_BLOCKER_TIMEOUT);
}

/*
 * The root's tree has just been traversed: bring the incident up to date.
 * Returns true if the tree was kept anew.
 */
static bool
update_from_tree(LgIncidents *incidents, LgView *view, LgIncident *incident, const LgNode *root)
{
	int			blocked = view->graph->nsteps - 1;
	bool		larger = blocked > incident->peak_blocked_sessions;

	take_figures(incident, &incidents->episodes[root - view->graph->nodes]);
	incident->updated_at = view->clock.wall;
	note_idle(view, incident, root);
	if (larger)
	{
		describe_root(incident, &root->known->session);
		incident->judged = lg_judge_root(view, root);
		incident->remedy = lg_choose_remedy(view, root, &root->known->session,
											LG_BLOCKER_TIMEOUT);
		incident->peak_blocked_sessions = blocked;
		incident->peak_at = view->clock.wall;
		keep_tree(view, incident, root);
	}
	return larger;
}

/*
 * The root whose tree has just been traversed has an incident now: tell those
 * whose roots have come to wait for it.
 */
static void
link_replaced(LgIncidents *incidents, LgView *view, int64 successor)
{
	LgGraph    *graph = view->graph;

	for (int i = 1; i < graph->nsteps; i++)
	{
		int			procno = graph->steps[i].node;
		LgIncident *closed;

		if (incidents->replaced[procno] == 0)
			continue;
		closed = palloc(sizeof(LgIncident));
		if (lg_fetch_incident(incidents->replaced[procno], closed) &&
			closed->root_pid == graph->nodes[procno].pid)
		{
			closed->replaced_by = successor;
			lg_update_incident(closed, false);
		}
		incidents->replaced[procno] = 0;
		pfree(closed);
	}
}

static void
open_incident(LgIncidents *incidents, LgView *view, const LgNode *root)
{
	int			procno = root->known->session.procno;
	LgIncident *incident = MemoryContextAllocZero(TopMemoryContext, sizeof(LgIncident));

	incident->started_at = lg_clock_wall(&view->clock, incidents->episodes[procno].from);
	update_from_tree(incidents, view, incident, root);
	lg_record_incident(incident);
	incidents->open[procno] = incident;
	incidents->nopen++;
	view->tracks[procno].incident_id = incident->incident_id;
	incidents->replaced[procno] = 0;
	link_replaced(incidents, view, incident->incident_id);

	if (lg_log_incidents)
	{
		StringInfoData tree;
		LgTreeStyle style = {0};
		char		duration[32];

		initStringInfo(&tree);
		style.max_lines = LOG_TREE_LINES;
		lg_draw_tree(view, procno, &style, &tree);
		lg_duration_text(lg_block_time(view->graph, view->times, root, LG_INCIDENT_TIMER),
						 duration, sizeof(duration));
		ereport(LOG,
				(errmsg("lockguard: incident %lld begins: %s blocks %d %s, for %s so far",
						(long long) incident->incident_id, root_text(incident),
						incident->peak_blocked_sessions,
						incident->peak_blocked_sessions == 1 ? "session" : "sessions",
						duration),
				 errdetail_internal("Lock tree:\n%s", tree.data),
				 errhidestmt(true), errhidecontext(true)));
	}
}

/*
 * The last signal that lockguard sent in the tree of an incident; false if there
 * was none.
 */
static bool
last_signal(int64 incident_id, TimestampTz since, LgAction *action)
{
	int64		first;
	int64		next;

	lg_action_range(&first, &next);
	while (--next >= first)
	{
		if (!lg_fetch_action(next, action) || action->acted_at < since)
			return false;
		if (action->incident_id == incident_id && action->action != LG_DO_YIELD &&
			(action->result == LG_RELEASED || action->result == LG_ESCALATED ||
			 action->result == LG_UNRESPONSIVE ||
			 (action->result == LG_PENDING && !lg_awaits_rollback(&action->open))))
			return true;
	}
	return false;
}

/* Why does this root no longer block? */
static LgResolution
resolve(LgIncidents *incidents, LgView *view, LgIncident *incident, int procno)
{
	LgNode	   *node = view->looked ? lg_node(view->graph, procno) : NULL;
	LgSession	now;
	LgAction	action;
	bool		gone;

	lg_read_session(procno, &now);
	if (incident->kind == LG_KIND_PREPARED)
	{
		char		gid[LG_GID_SIZE];
		TimestampTz prepared_at;
		bool		busy;

		gone = !lg_prepared_transaction(procno, gid, &prepared_at, &busy) ||
			strcmp(gid, incident->gid) != 0;
	}
	else
		gone = now.pid != incident->root_pid ||
			(now.has_status && now.session_start != incident->backend_start);

	if (!gone && node != NULL && node->waiting && node->blocking_since != LG_NEVER)
	{
		incident->replaced_by = lg_incident_of(view, procno);
		if (incident->replaced_by == 0)
			incidents->replaced[procno] = incident->incident_id;
		return LG_BY_REPLACEMENT;
	}

	if (last_signal(incident->incident_id, incident->started_at, &action))
	{
		bool		to_root = action.pid == incident->root_pid;
		TimestampTz ago = view->clock.wall - action.acted_at;

		incident->action_id = action.action_id;

		/*
		 * The end of a session is lockguard's doing if it terminated it, or
		 * cancelled it or rolled it back not long ago.  Of a signal to
		 * another in the tree, only if that has just been, and was about the
		 * blocking.
		 */
		if (to_root ? ago < CANCEL_WORKS_WITHIN || action.action == LG_DO_TERMINATE ||
			incident->kind == LG_KIND_PREPARED :
			ago < ENDED_IT_WITHIN && lg_limit_is_about_blocking(action.limit))
			switch (action.action)
			{
				case LG_DO_CANCEL:
					return LG_BY_CANCEL;
				case LG_DO_TERMINATE:
					return LG_BY_TERMINATION;
				case LG_DO_ROLLBACK:
					return LG_BY_ROLLBACK;
				case LG_DO_LOG:
				case LG_DO_YIELD:
					break;
			}
	}
	return gone && incident->kind != LG_KIND_PREPARED ? LG_BY_SESSION_END : LG_BY_RELEASE;
}

/*
 * No session waits now for the root of an incident.  May another do so soon, so
 * that the incident goes on?  "now" is what the root does.
 */
static bool
is_between_waits(LgView *view, int procno, const LgSession *now)
{
	LgNode	   *node = view->looked ? lg_node(view->graph, procno) : NULL;
	LgValues	values;

	if (node != NULL && node->blocking_since != LG_NEVER)
		return false;
	memset(&values, 0, sizeof(values));
	return lg_block_time_goes_on(&view->times[procno], now, LG_INCIDENT_TIMER, &values,
								 view->clock.now);
}

/*
 * The root of an incident no longer blocks any session.  A session that is just
 * about to end releases its locks before its process is gone: how that incident
 * ended is decided at the next scan.
 */
static void
close_incident(LgIncidents *incidents, LgView *view, int procno)
{
	LgIncident *incident = incidents->open[procno];
	LgSession	now;

	if (incidents->ended[procno] == 0)
		incidents->ended[procno] = view->clock.wall;
	lg_read_session(procno, &now);
	if (is_between_waits(view, procno, &now))
	{
		incidents->next_due = Min(incidents->next_due,
								  view->times[procno].counted_to +
								  lg_incident_threshold * LG_NANOS_PER_MS);
		return;
	}
	if (now.pid != 0 && now.pid == incident->root_pid && lg_in_transit(&now))
	{
		incidents->next_due = Min(incidents->next_due, view->clock.now + DECIDE_AFTER);
		return;
	}

	count_ended(incidents, view, procno);
	take_figures(incident, &incidents->episodes[procno]);
	incident->resolution = resolve(incidents, view, incident, procno);
	incident->ended_at = incidents->ended[procno];
	incidents->ended[procno] = 0;
	lg_update_incident(incident, false);
	if (view->tracks[procno].incident_id == incident->incident_id)
		view->tracks[procno].incident_id = 0;
	incidents->open[procno] = NULL;
	incidents->nopen--;

	/* If it blocks others again, with the same time in all, that is another. */
	begin_episode(&incidents->episodes[procno], incidents->episodes[procno].began);
	incidents->episodes[procno].from = view->clock.now;

	if (lg_log_incidents)
	{
		char		length[32];
		char		longest[32];
		char		total[32];

		lg_duration_text((incident->ended_at - incident->started_at) * 1000,
						 length, sizeof(length));
		lg_duration_text(incident->longest_wait * 1000, longest, sizeof(longest));
		lg_duration_text(incident->total_wait * 1000, total, sizeof(total));
		ereport(LOG,
				(errmsg("lockguard: incident %lld ended after %s (%s): %s blocked up to %d %s",
						(long long) incident->incident_id, length,
						lg_resolution_name(incident->resolution), root_text(incident),
						incident->peak_blocked_sessions,
						incident->peak_blocked_sessions == 1 ? "session" : "sessions"),
				 errdetail("Longest wait %s; %s of session time lost.", longest, total),
				 errhidestmt(true), errhidecontext(true)));
	}
	pfree(incident);
}

/*
 * Fill in under which key contention counts a session that blocks others; its
 * tree has just been traversed.  The lock is the one for which the session that
 * has waited longest for this one waits, the mode the strongest in its way that
 * this one holds (or waits for ahead of it).
 */
void
lg_contention_key(const LgGraph *graph, const LgSession *session, LgContention *more)
{
	const LgStep *longest = NULL;
	const LgLock *lock;
	const LgWaiter *waiter;
	LOCKMASK	conflicts;
	int			start;

	more->datid = session->datid;
	more->userid = session->userid;
	more->query_id = session->query_id;
	for (int i = 1; i < graph->nsteps; i++)
		if (graph->steps[i].parent == 0 &&
			(longest == NULL || graph->waiters[graph->steps[i].waiter].since <
			 graph->waiters[longest->waiter].since))
			longest = &graph->steps[i];
	if (longest == NULL)
		return;

	start = graph->steps[0].node;
	waiter = &graph->waiters[longest->waiter];
	lock = &graph->locks[waiter->lock];
	conflicts = lock->conflicts[waiter->mode];
	more->locktype = lock->tag.locktag_type;
	if (lg_lock_relation(&lock->tag, &more->relation))
		more->lock_datid = lock->tag.locktag_field1;
	if (longest->kind == LG_HOLDER)
	{
		for (int h = graph->nodes[start].first_hold; h >= 0; h = graph->holders[h].next_of_node)
			if (graph->holders[h].lock == waiter->lock &&
				(graph->holders[h].mask & conflicts) != 0)
				more->mode = Max(more->mode,
								 pg_leftmost_one_pos32(graph->holders[h].mask & conflicts));
	}
	else
	{
		for (int w = graph->nodes[start].first_wait; w >= 0; w = graph->waiters[w].next_of_node)
			if (graph->waiters[w].lock == waiter->lock &&
				(LOCKBIT_ON(graph->waiters[w].mode) & conflicts) != 0)
				more->mode = Max(more->mode, graph->waiters[w].mode);
	}
}

/* Add what this look has seen of a root to the cumulative figures. */
static void
count_contention(LgView *view, const LgNode *root, int64 last_scan, bool opened)
{
	LgGraph    *graph = view->graph;
	LgContention more = {0};

	lg_contention_key(graph, &root->known->session, &more);
	more.incidents = opened ? 1 : 0;
	for (int i = 1; i < graph->nsteps; i++)
	{
		const LgWaiter *waiter = &graph->waiters[graph->steps[i].waiter];
		LgWaitTrack *track = &graph->wait_tracks[waiter->procno];

		if (!track->counted)
			more.sessions++;
		track->counted = true;
		more.lost += lg_newly_waited(graph, waiter, view->clock.now, last_scan,
									 view->times[root - graph->nodes].began[LG_INCIDENT_TIMER]) / 1000;
		more.longest_wait = Max(more.longest_wait,
								(view->clock.now - waiter->since) / 1000);
	}
	lg_count_contention(&more);
}

/*
 * Has another process taken the place of an incident's root, or the same one
 * begun to block anew in another transaction, between two scans?
 */
static bool
is_another(const LgIncident *incident, const LgNode *root, const LgEpisode *episode,
		   int64 began, int64 last_scan)
{
	const LgSession *session = &root->known->session;

	if (incident->root_pid != session->pid ||
		incident->backend_start != session->session_start)
		return true;
	if (session->kind == LG_KIND_PREPARED)
		return incident->xid != session->xid;

	/* Locks of the session may outlive a transaction. */
	if (incident->lxid != session->lxid && episode->began != 0)
		return episode->began != began;
	return incident->lxid != session->lxid && root->blocking_since > last_scan;
}

/* If the wall clock has stepped, have open incidents follow it. */
static void
follow_clock(LgIncidents *incidents, const LgClock *clock)
{
	TimestampTz step = step_of_clock(clock);

	if (clock->stepped == incidents->stepped)
		return;
	incidents->stepped = clock->stepped;
	for (int procno = 0; step != 0 && procno < LG_TOTAL_PROCS; procno++)
	{
		LgIncident *incident = incidents->open[procno];

		if (incident == NULL)
			continue;
		shift_times(incident, step);
		if (incidents->ended[procno] != 0)
			incidents->ended[procno] += step;
		lg_update_incident(incident, false);
	}
}

/*
 * Count the waits of all episodes that have ended since the scan before this.
 * Episodes without members are not watched any more.
 */
static void
count_ends(LgIncidents *incidents, LgView *view)
{
	int			kept = 0;

	for (int i = 0; i < incidents->nwatched; i++)
	{
		LgEpisode  *episode = &incidents->episodes[incidents->watched[i]];

		count_ended(incidents, view, incidents->watched[i]);
		if (episode->nmembers > 0)
			incidents->watched[kept++] = incidents->watched[i];
		else
		{
			pfree(episode->members);
			episode->members = NULL;
			episode->max_members = 0;
			episode->is_watched = false;
		}
	}
	incidents->nwatched = kept;
}

/* Are there waits whose end has to be looked for at each scan? */
bool
lg_incidents_watch(const LgIncidents *incidents)
{
	return incidents->nwatched > 0;
}

/*
 * Open, follow and close incidents by what this scan has seen; "last_scan" is
 * when the one before it was.  Returns when to do so again (monotonic ns), and
 * whether any incident is open now.  Allocates in the current context for log
 * messages.
 */
int64
lg_incidents_scan(LgIncidents *incidents, LgView *view, int64 last_scan, bool *any_open)
{
	LgGraph    *graph = view->graph;
	int64		threshold = lg_incident_threshold * LG_NANOS_PER_MS;
	int			left = incidents->nopen;

	follow_clock(incidents, &view->clock);
	count_ends(incidents, view);
	incidents->next_due = LG_NEVER;
	for (int i = 0; view->looked && i < graph->nactive; i++)
	{
		int			procno = graph->active[i];
		LgNode	   *root = &graph->nodes[procno];
		LgIncident *incident;
		LgEpisode  *episode;
		int64		began;
		bool		opened = false;

		if (!lg_is_root(graph, root))
			continue;
		incident = incidents->open[procno];
		episode = &incidents->episodes[procno];
		began = view->times[procno].began[LG_INCIDENT_TIMER];
		lg_load_node(graph, root);
		if (incident != NULL)
		{
			left--;
			if (is_another(incident, root, episode, began, last_scan))
			{
				close_incident(incidents, view, procno);
				incident = incidents->open[procno];

				/* How it has ended is not known yet? */
				if (incident != NULL)
					continue;
			}
		}
		lg_downstream(graph, procno);
		if (episode->began != began)
		{
			/* The figures of an open incident go on. */
			if (incident == NULL)
				begin_episode(episode, began);
			episode->began = began;
		}
		if (lg_incident_threshold > 0 || incident != NULL)
			follow_members(incidents, view, episode, last_scan);
		if (incident != NULL)
		{
			incidents->ended[procno] = 0;
			view->tracks[procno].incident_id = incident->incident_id;
			lg_update_incident(incident, update_from_tree(incidents, view, incident, root));
		}
		else if (lg_incident_threshold > 0 &&
				 lg_block_time(graph, view->times, root, LG_INCIDENT_TIMER) >= threshold &&
				 view->clock.now - episode->from >= threshold)
		{
			open_incident(incidents, view, root);
			lg_downstream(graph, procno);
			opened = true;
		}
		count_contention(view, root, last_scan, opened);
	}

	for (int procno = 0; left > 0 && procno < LG_TOTAL_PROCS; procno++)
		if (incidents->open[procno] != NULL)
		{
			LgNode	   *root = view->looked ? lg_node(graph, procno) : NULL;

			if (root == NULL || !lg_is_root(graph, root))
			{
				close_incident(incidents, view, procno);
				left--;
			}
		}
	*any_open = incidents->nopen > 0;
	return incidents->next_due;
}

/*
 * Have an incident for what is to be done about a session because of what it
 * blocks, even if that has not lasted for incident_threshold.
 */
void
lg_incident_begin(LgIncidents *incidents, LgView *view, int procno)
{
	LgGraph    *graph = view->graph;
	int			n;

	if (lg_incident_threshold == 0 || !view->looked || lg_node(graph, procno) == NULL ||
		lg_incident_of(view, procno) != 0)
		return;
	n = lg_upstream(graph, procno);
	for (int i = 0; i < n; i++)
	{
		int			root = graph->upstream[i];

		if (!lg_is_root(graph, &graph->nodes[root]) || incidents->open[root] != NULL)
			continue;
		lg_load_node(graph, &graph->nodes[root]);
		lg_downstream(graph, root);
		open_incident(incidents, view, &graph->nodes[root]);
		return;
	}
}

/* The open incident in whose tree a process is, or 0. */
int64
lg_incident_of(LgView *view, int procno)
{
	LgGraph    *graph = view->graph;
	int64		found = 0;
	int			tree;

	if (!view->looked || lg_node(graph, procno) == NULL)
		return 0;
	if (lg_is_root(graph, lg_node(graph, procno)))
		return view->tracks[procno].incident_id;
	tree = lg_tree(graph, procno);
	for (int i = 0; i < graph->nactive && found == 0; i++)
		if (graph->active[i] != procno && lg_tree(graph, graph->active[i]) == tree &&
			view->tracks[graph->active[i]].pid == graph->nodes[graph->active[i]].pid)
			found = view->tracks[graph->active[i]].incident_id;
	return found;
}

/*
 * The open incident with that root, or 0: by the record, for processes that do
 * not follow incidents themselves.
 */
int64
lg_incident_of_root(int pid, TimestampTz session_start)
{
	LgIncident *incident = palloc(sizeof(LgIncident));
	int64		found = 0;
	int64		first;
	int64		next;

	lg_incident_range(&first, &next);
	while (found == 0 && --next >= first)
		if (lg_fetch_incident(next, incident) && incident->ended_at == 0 &&
			incident->root_pid == pid && incident->backend_start == session_start)
			found = next;
	pfree(incident);
	return found;
}

/*
 * What a session of an incident was doing: "active (Lock: tuple)".
 */
const char *
lg_kept_state(const LgIncidentSession *session, bool (*may_see) (Oid))
{
	if (session->kind == LG_KIND_PREPARED)
		return "prepared";
	if (!may_see(session->userid))
		return "<insufficient privilege>";
	return lg_doing_text(lg_backend_state_text((BackendState) session->state),
						 session->wait_event);
}

/*
 * The tree of an incident at its worst as text, a line a session, with every
 * session's query that may_see() lets the reader see.
 */
void
lg_incident_tree(const LgIncident *incident, bool (*may_see) (Oid),
				 char *(*clean) (const char *), StringInfo out)
{
	const LgIncidentSession *session = NULL;
	const char *usename;
	const char *application_name;
	const char *query;
	LgTreeStyle style = {0};

	while ((session = lg_next_session(incident, session, &usename,
									  &application_name, &query)) != NULL)
	{
		char		duration[32];

		if (out->len > 0)
			appendStringInfoChar(out, '\n');
		appendStringInfoSpaces(out, 2 * Min(session->level, LG_MAX_INDENT));
		if (session->level > 0)
			appendStringInfoString(out, "-> ");
		if (session->kind == LG_KIND_PREPARED)
			appendStringInfo(out, "prepared transaction \"%s\"",
							 clean(lg_one_line(incident->gid, 64)));
		else
			appendStringInfo(out, "%d", session->pid);
		if (session->kind != LG_KIND_CLIENT && session->kind != LG_KIND_PREPARED &&
			may_see(session->userid))
			appendStringInfo(out, " %s", lg_kind_text((LgKind) session->kind));
		else if (usename[0])
			appendStringInfo(out, " %s", clean(lg_one_line(usename, NAMEDATALEN)));
		if (application_name[0])
			appendStringInfo(out, " (%s)", clean(lg_one_line(application_name, NAMEDATALEN)));

		lg_duration_text(session->waited * 1000, duration, sizeof(duration));
		if (session->kind != LG_KIND_PREPARED)
			appendStringInfo(out, ", %s", lg_kept_state(session, may_see));
		if (session->level == 0)
			appendStringInfo(out, ", blocking %d %s for %s",
							 incident->peak_blocked_sessions,
							 incident->peak_blocked_sessions == 1 ? "session" : "sessions",
							 duration);
		else
		{
			char		lock[256];

			lg_lock_text(&session->tag, &style, lock, sizeof(lock));
			appendStringInfo(out, ", waits %s for %s on %s%s", duration,
							 GetLockmodeName(session->tag.locktag_lockmethodid, session->mode),
							 lock, session->block_kind == LG_QUEUE ? ", queued behind" : "");
		}
		if (session->kind != LG_KIND_PREPARED)
		{
			if (!may_see(session->userid))
				appendStringInfoString(out, ": <insufficient privilege>");
			else if (query[0])
				appendStringInfo(out, ": %s", clean(lg_one_line(query, LG_INCIDENT_QUERY)));
		}
	}
	if (incident->nleft_out > 0)
		appendStringInfo(out, "\n... and %d more", incident->nleft_out);
}
