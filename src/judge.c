/*-------------------------------------------------------------------------
 *
 * judge.c
 *		Judges which sessions are over a limit, and what is to be done about it.
 *
 * Judging works on what was copied before; it takes no lock but those that a
 * limit takes, see limit.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "storage/proc.h"
#include "utils/wait_event.h"

#include "brakes.h"
#include "judge.h"
#include "limit.h"
#include "look.h"
#include "session.h"
#include "settings.h"
#include "types.h"
#include "unblock.h"
#include "waitgraph.h"

/* So often a session is asked in vain to roll one transaction back. */
#define MOST_MISSED		3

/*
 * Have it proved that the start of the last traversal upstream waits for
 * "victim" still, through all that are between them.  Allocates in the
 * current context.
 */
void
lg_link_to(LgGraph *graph, int victim, LgVerdict *verdict)
{
	int			start = graph->upstream[0];
	int			n = 0;

	for (int node = victim; node != start; node = graph->downward[node])
		n++;
	verdict->still.links = palloc0_array(LgLink, n);
	verdict->still.nlinks = n;
	verdict->still.needed = 1;
	for (int i = 0, node = victim; i < n; i++)
	{
		LgLink	   *link = &verdict->still.links[i];

		link->evidence = graph->edges[node];
		link->parent = i - 1;
		link->counts = i == n - 1;
		node = graph->downward[node];
	}
}

/*
 * Have it proved that the sessions that max_blocked_sessions counts still wait
 * for the victim; does nothing for other limits.  Only for a session that is to
 * be signalled: it is expensive for each of a long queue.
 */
static void
link_counted(LgView *view, LgVerdict *verdict)
{
	LgGraph    *graph = view->graph;

	if (verdict->limit != LG_MAX_BLOCKED_SESSIONS || verdict->brake != LG_NO_BRAKE)
		return;
	verdict->still.nlinks = lg_downstream(graph, verdict->session.procno);
	verdict->still.links = palloc0_array(LgLink, Max(verdict->still.nlinks, 1));
	verdict->still.needed = verdict->value + 1;
	for (int i = 0; i < verdict->still.nlinks; i++)
	{
		const LgStep *step = &graph->steps[i + 1];
		const LgWaiter *waiter = &graph->waiters[step->waiter];
		LgLink	   *link = &verdict->still.links[i];
		LgBlocker	blocker = {0};

		lg_describe_wait(graph, waiter, &link->evidence);
		while (lg_next_blocker(graph, waiter, &blocker))
			if (blocker.node == graph->steps[step->parent].node)
			{
				link->evidence.kind = blocker.kind;
				link->evidence.procno = blocker.procno;
				link->evidence.pid = blocker.pid;
				break;
			}
		link->parent = step->parent - 1;
		link->counts = lg_counts_after(view, step) < view->clock.now;
	}
}

/*
 * Can the end of its transaction let any session go that waits for this one?  A lock
 * that it has held against a wait since before its transaction began is the session's,
 * and outlives it.
 */
static bool
rollback_helps(LgGraph *graph, const LgNode *node, const LgSession *session)
{
	for (int h = node->first_hold; h >= 0; h = graph->holders[h].next_of_node)
	{
		const LgHolder *holder = &graph->holders[h];
		const LgLock *lock = &graph->locks[holder->lock];

		for (int w = lock->waiter; w < lock->waiter + lock->nwaiters; w++)
		{
			const LgWaiter *waiter = &graph->waiters[w];

			if ((lock->conflicts[waiter->mode] & holder->mask) != 0 &&
				(waiter->wait_start == 0 || waiter->wait_start >= session->xact_start))
				return true;
		}
	}
	return node->first_hold < 0;
}

/*
 * Is a session to be asked to roll back?  Not if it has gone on each time that it was
 * asked: a client that only says something now and then would be safe otherwise.
 */
static bool
is_to_roll_back(LgView *view, const LgNode *node, const LgSession *session, int limit)
{
	const LgTrack *track;

	if (!lg_rollback_reaches(session))
		return false;
	if (view == NULL)
		return true;
	track = &view->tracks[session->procno];
	if (track->pid == session->pid && track->missed_lxid == session->lxid &&
		track->missed >= MOST_MISSED)
		return false;
	return node == NULL || session->xact_start == 0 || !lg_limit_is_about_blocking(limit) ||
		rollback_helps(view->graph, node, session);
}

/*
 * The mildest remedy that can help, and can reach a session that is over a limit.
 * "node" may be NULL, if it is not known what it blocks.
 */
LgActionKind
lg_choose_remedy(LgView *view, const LgNode *node, const LgSession *session, int limit)
{
	switch (lg_limits[limit].remedies)
	{
		case LG_CANCEL_ONLY:
			return LG_DO_CANCEL;
		case LG_END_CONNECTION:
			return LG_DO_TERMINATE;
		case LG_MILDEST_FIRST:
			break;
	}
	return !lg_limits[limit].idle && lg_cancel_reaches(session) ? LG_DO_CANCEL :
		is_to_roll_back(view, node, session, limit) ? LG_DO_ROLLBACK : LG_DO_TERMINATE;
}

/* Decide what to do with a session that is over a limit; "node" as above. */
static void
decide_action(LgView *view, const LgNode *node, LgVerdict *verdict,
			  const LgSession *session, const LgValues *values, int limit)
{
	LgActionKind most = (LgActionKind) values->value[LG_ACTION];

	memset(verdict, 0, sizeof(*verdict));
	verdict->session = *session;
	verdict->limit = limit;
	verdict->value = values->value[limit];
	verdict->source = values->source[limit];
	verdict->proof = lg_limits[limit].proof;
	verdict->blocked_sessions = LG_NOT_COUNTED;
	verdict->still.idle = lg_limits[limit].idle;
	verdict->action = lg_choose_remedy(view, node, session, limit);
	verdict->still.unreachable = verdict->action > LG_DO_CANCEL;
	verdict->brake = lg_session_brake(session, values);
	if (verdict->brake == LG_NO_BRAKE && verdict->action > most)
		verdict->brake = most == LG_DO_LOG ? LG_BRAKE_ACTION_LOG :
			most == LG_DO_CANCEL ? LG_BRAKE_ACTION_CANCEL : LG_BRAKE_ACTION_ROLLBACK;
	if (verdict->brake != LG_NO_BRAKE)
		verdict->action = LG_DO_LOG;
}

/*
 * What a limit on blockers would do to a root that passes it: LG_PENDING if it
 * would be signalled, else the result that would be recorded.
 */
LgResult
lg_judge_root(LgView *view, const LgNode *root)
{
	const LgSession *session = &root->known->session;
	LgVerdict	verdict;

	decide_action(view, root, &verdict, session, &root->known->values,
				  lg_state_is_idle(session) ? LG_IDLE_BLOCKER_TIMEOUT : LG_BLOCKER_TIMEOUT);
	return lg_brake_result(verdict.brake);
}

static void
add_verdict(LgVerdicts *verdicts, const LgVerdict *verdict)
{
	if (verdicts->n >= verdicts->max)
	{
		verdicts->max *= 2;
		verdicts->verdicts = repalloc_huge(verdicts->verdicts,
										   verdicts->max * sizeof(LgVerdict));
	}
	verdicts->verdicts[verdicts->n++] = *verdict;
}

static void
note_due(LgVerdicts *verdicts, int64 at)
{
	verdicts->next_due = Min(verdicts->next_due, at);
}

static LgSubject
subject_of_node(LgView *view, LgNode *node)
{
	LgSubject	subject;

	lg_load_node(view->graph, node);
	subject.session = &node->known->session;
	subject.values = &node->known->values;
	subject.track = &view->tracks[node->known->session.procno];
	subject.node = node;
	subject.again = false;
	return subject;
}

/*
 * The order in which those of one tree are removed: an idle root first (it does
 * no work), then a queued blocker (cheapest to repeat), then an active root.
 * Lower is first.
 */
static int
removal_rank(LgView *view, const LgNode *node)
{
	const LgSession *session = &node->known->session;
	int64		limit = node->known->values.value[LG_IDLE_BLOCKER_TIMEOUT] * LG_NANOS_PER_MS;
	bool		idle;

	if (node->waiting)
		return 1;

	/* That it makes no progress is known only after as long as that limit. */
	idle = lg_state_is_idle(session) ||
		(node->known->idle_since != LG_NEVER &&
		 view->clock.now - node->known->idle_since >= limit);
	return idle && !lg_works_for_others(&view->tracks[session->procno], session) ? 0 : 2;
}

/* The limits on blockers, strongest reason first. */
static const int blocker_limits[] = {
	LG_IDLE_BLOCKER_TIMEOUT,
	LG_QUEUED_BLOCKER_TIMEOUT,
	LG_BLOCKER_TIMEOUT,
	LG_MAX_BLOCKED_SESSIONS
};

/* How much the removal of a session helps. */
typedef enum LgHelp
{
	LG_HELPS_ALONE,				/* some session can go on then */
	LG_HELPS_WITH_OTHERS,		/* ... once others have been removed, too */
	LG_IN_VAIN
} LgHelp;

/* A session that is over a limit on blockers. */
typedef struct Candidate
{
	LgNode	   *node;
	int			limit;
	int64		passed_at;
	int64		measured;
	LgBrake		brake;			/* of the session */
	int			tree;
	int			rank;
	LgHelp		help;
	int			waiter;			/* that can go on then, index in waiters; -1 */
} Candidate;

/* What has been found out about a look by judge_look(), once. */
struct LgJudged
{
	LgUnblock  *unblock;
	int			n;
	int			max;
	Candidate  *candidates;
	int		   *candidate;		/* by node: index in candidates, -1 = none */
	int		   *going;			/* by node: the pid, if it goes; else -1 */
	int64		next_due;
};

static int
compare_candidates(const void *a, const void *b)
{
	const Candidate *x = (const Candidate *) a;
	const Candidate *y = (const Candidate *) b;

	if (x->tree != y->tree)
		return x->tree < y->tree ? -1 : 1;
	if (x->help != y->help)
		return x->help < y->help ? -1 : 1;
	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	if (x->passed_at != y->passed_at)
		return x->passed_at < y->passed_at ? -1 : 1;
	return x->node->pid < y->node->pid ? -1 : x->node->pid > y->node->pid;
}

/*
 * Fill in what a limit has measured of a session that is over it since
 * "passed_at", and what has to be proved.
 */
static void
complete_verdict(LgView *view, LgVerdict *verdict, const LgNode *node, int64 passed_at,
				 int64 measured)
{
	const LgWaiter *wait;

	verdict->measured = measured;

	/* When a count was passed is not known. */
	if (lg_setting_unit(verdict->limit) != NULL)
		verdict->passed_at = passed_at;
	if (node == NULL)
		return;
	verdict->still.evidence = lg_evidence(view->graph, node);
	verdict->still.root = verdict->proof == LG_PROVE_BLOCKS && !node->waiting;
	wait = verdict->proof == LG_PROVE_WAITS ?
		lg_longest_wait(view->graph, node) : lg_queued_wait(view->graph, node);
	if (wait != NULL && verdict->proof == LG_PROVE_WAITS)
		lg_describe_wait(view->graph, wait, &verdict->still.evidence);
	else if (wait != NULL && verdict->proof == LG_PROVE_BLOCKS)
	{
		verdict->still.waits = true;
		lg_describe_wait(view->graph, wait, &verdict->still.wait);
	}
}

/* Has this session been signalled, so that this limit has to wait? */
static bool
is_busy(const LgTrack *track, int limit)
{
	return track->open_action > 0 ||
		(track->open_action < 0 && track->open_limit == limit);
}

/*
 * The same for limits that rest on this scan's look.  If a signal has helped
 * since then, the look is out of date for the session and its tree.
 */
static bool
is_busy_since_look(LgView *view, const LgTrack *track, int limit)
{
	return is_busy(track, limit) || track->released_at == view->clock.now;
}

/*
 * At the end of its transaction, or gone since it was seen to block; or undoing
 * a statement that the server has ended because of a deadlock.
 */
static bool
is_leaving(LgView *view, const LgSession *session)
{
	return session->kind == LG_KIND_NONE || lg_in_transit(session) ||
		lg_undoes_deadlock(view->graph, session->procno, session,
						   view->clock.now, LG_UNDOING_MOST);
}

/*
 * Is a session of this tree on its way out, signalled by lockguard or ended by the
 * server's detector of deadlocks, and not gone yet?
 */
static bool
tree_is_busy(LgView *view, int tree)
{
	LgGraph    *graph = view->graph;

	for (int i = 0; i < graph->nactive; i++)
	{
		int			procno = graph->active[i];
		LgNode	   *node = &graph->nodes[procno];

		if (node->is_known && lg_tree(graph, procno) == tree &&
			lg_undoes_deadlock(graph, procno, &node->known->session,
							   view->clock.now, LG_UNDOING_MOST))
			return true;

		if ((view->tracks[procno].open_action > 0 ||
			 view->tracks[procno].released_at == view->clock.now) &&
			view->tracks[procno].pid == graph->nodes[procno].pid &&
			lg_tree(graph, procno) == tree)
			return true;
	}
	return false;
}

/*
 * Is a node over a limit on blockers now?  If so, fill in the candidate.  If
 * not, or if another limit is due later, note when in *next_due.
 */
static bool
is_over_limit(LgView *view, LgNode *node, Candidate *candidate, int64 *next_due)
{
	LgSubject	subject = subject_of_node(view, node);
	bool		found = false;

	for (int l = 0; l < (int) lengthof(blocker_limits); l++)
	{
		int			limit = blocker_limits[l];
		int			value = node->known->values.value[limit];
		int64		measured = 0;
		int64		at;
		LgVerdict	verdict;

		/* Of two, the one that nothing has been done for. */
		if (value == 0 || (found && !is_busy(subject.track, candidate->limit)))
			continue;
		if (limit == LG_MAX_BLOCKED_SESSIONS && view->graph->nwaiters <= value)
			continue;
		at = lg_limits[limit].passed_at(view, &subject, value, &measured);
		if (at > view->clock.now)
		{
			*next_due = Min(*next_due, at);
			continue;
		}
		if (found && is_busy(subject.track, limit))
			continue;
		found = true;
		decide_action(view, node, &verdict, &node->known->session, &node->known->values, limit);
		candidate->node = node;
		candidate->limit = limit;
		candidate->passed_at = at;
		candidate->measured = measured;
		candidate->brake = verdict.brake;
	}
	return found;
}

/*
 * Can a queued blocker be over a limit on blockers, by the smallest value that
 * any session has?  So not all of a long queue have to be read.
 */
static bool
may_be_over_limit(LgView *view, const LgNode *node, int64 *next_due)
{
	int			most = view->smallest[LG_MAX_BLOCKED_SESSIONS];
	int64		limit = view->smallest[LG_QUEUED_BLOCKER_TIMEOUT] * LG_NANOS_PER_MS;
	int64		left = limit - lg_block_time(view->graph, view->times, node, LG_QUEUED_TIMER);

	if (limit > 0 && left > 0)
		*next_due = Min(*next_due, view->clock.now + left);
	return (limit > 0 && left <= 0) || (most > 0 && view->graph->nwaiters > most);
}

/* Enter a session that is over a limit among the candidates. */
static void
add_candidate(LgView *view, struct LgJudged *judged, const Candidate *candidate)
{
	int			procno = candidate->node - view->graph->nodes;
	Candidate  *added;

	if (judged->n >= judged->max)
	{
		judged->max = Max(judged->max * 2, 16);
		judged->candidates = judged->candidates == NULL ?
			palloc_array(Candidate, judged->max) :
			repalloc_array(judged->candidates, Candidate, judged->max);
	}
	added = &judged->candidates[judged->n++];
	*added = *candidate;
	added->tree = lg_tree(view->graph, procno);
	added->rank = removal_rank(view, added->node);
	judged->unblock->fate[procno] = LG_STAYS;
	judged->unblock->asked[procno] = true;

	/* One that a signal has not helped with does not go. */
	if (added->brake == LG_NO_BRAKE && view->tracks[procno].open_action >= 0)
		judged->unblock->fate[procno] = LG_MAY_BE_REMOVED;
}

/* What becomes of a root, unless lockguard removes it? */
static LgFate
fate_of_root(LgView *view, LgNode *node)
{
	const LgSession *session = &node->known->session;
	volatile PGPROC *proc = &ProcGlobal->allProcs[session->procno];

	if (is_leaving(view, session) ||
		(session->committing && proc->syncRepState == SYNC_REP_NOT_WAITING))
		return LG_ENDS;

	/* Who waits for it that long has the server cancel it. */
	if (session->kind == LG_KIND_AUTOVACUUM &&
		(proc->statusFlags & PROC_VACUUM_FOR_WRAPAROUND) == 0 &&
		view->clock.now - node->blame_since >= DeadlockTimeout * LG_NANOS_PER_MS)
		return LG_ENDS;
	return LG_STAYS;
}

/*
 * Does a tree have a root that goes before a queued blocker?  An idle one that
 * helps alone does, and an active one if the queued blocker does not help
 * "alone".  "helping" has the lowest rank of a root that helps alone, by tree,
 * plus 1; 0 = none.
 */
static inline bool
root_goes_first(const uint8 *helping, int tree, bool alone)
{
	return helping[tree] == 1 || (!alone && helping[tree] != 0);
}

/*
 * Judge the queued blockers, when the roots have been.  Of a long queue most
 * can be passed over: those whose removal would be in vain even if all the
 * others in the queue went, and all for which a root is removed instead.
 */
static void
judge_queues(LgView *view, struct LgJudged *judged)
{
	LgGraph    *graph = view->graph;
	uint8	   *helping = palloc0_array(uint8, LG_TOTAL_PROCS);
	int		   *first_in_vain = palloc0_array(int, LG_TOTAL_PROCS);
	LgUnblock  *unblock = judged->unblock;

	for (int i = 0; i < judged->n; i++)
	{
		const Candidate *root = &judged->candidates[i];
		int			procno = root->node - graph->nodes;

		if (unblock->alone[procno] >= 0 && unblock->fate[procno] == LG_MAY_BE_REMOVED &&
			(helping[root->tree] == 0 || helping[root->tree] > root->rank + 1))
			helping[root->tree] = root->rank + 1;
	}

	for (int i = 0; i < graph->nactive; i++)
	{
		int			procno = graph->active[i];
		LgNode	   *node = &graph->nodes[procno];
		bool		alone = unblock->alone[procno] >= 0;
		int			tree;
		Candidate	candidate;

		if (unblock->fate[procno] != LG_MAY_BE_REMOVED || !node->waiting)
			continue;
		tree = lg_tree(graph, procno);
		unblock->fate[procno] = LG_STAYS;
		if (root_goes_first(helping, tree, alone))
			continue;
		if (!alone && lg_freed_by(graph, unblock, procno) < 0)
		{
			/* Say so of the one nearest the root, the first to have waited. */
			if (first_in_vain[tree] == 0 ||
				lg_queued_wait(graph, node)->since <
				lg_queued_wait(graph, &graph->nodes[first_in_vain[tree] - 1])->since)
				first_in_vain[tree] = procno + 1;
			continue;
		}
		lg_load_node(graph, node);
		if (!is_leaving(view, &node->known->session) &&
			is_over_limit(view, node, &candidate, &judged->next_due))
			add_candidate(view, judged, &candidate);
	}

	for (int i = 0; i < graph->nactive; i++)
	{
		int			procno = first_in_vain[graph->active[i]] - 1;
		Candidate	candidate;

		if (procno < 0)
			continue;
		lg_load_node(graph, &graph->nodes[procno]);
		if (is_over_limit(view, &graph->nodes[procno], &candidate, &judged->next_due))
			add_candidate(view, judged, &candidate);
	}
	pfree(helping);
	pfree(first_in_vain);
}

/* How much would it help to remove each, now that all fates are known? */
static void
judge_candidates(LgView *view, struct LgJudged *judged)
{
	LgGraph    *graph = view->graph;

	lg_unblock(graph, judged->unblock);
	if (judged->going == NULL)
	{
		judged->candidate = palloc_array(int, LG_TOTAL_PROCS);
		judged->going = palloc_array(int, LG_TOTAL_PROCS);
	}
	memset(judged->candidate, -1, LG_TOTAL_PROCS * sizeof(int));
	memset(judged->going, -1, LG_TOTAL_PROCS * sizeof(int));
	for (int i = 0; i < graph->nactive; i++)
		if (judged->unblock->fate[graph->active[i]] != LG_STAYS)
			judged->going[graph->active[i]] = graph->nodes[graph->active[i]].pid;
	for (int i = 0; i < judged->n; i++)
	{
		Candidate  *candidate = &judged->candidates[i];
		int			procno = candidate->node - graph->nodes;

		candidate->waiter = lg_freed_by(graph, judged->unblock, procno);
		candidate->help = judged->unblock->alone[procno] >= 0 ? LG_HELPS_ALONE :
			candidate->waiter >= 0 ? LG_HELPS_WITH_OTHERS : LG_IN_VAIN;
	}
	qsort(judged->candidates, judged->n, sizeof(Candidate), compare_candidates);
	for (int i = 0; i < judged->n; i++)
		judged->candidate[judged->candidates[i].node - graph->nodes] = i;
}

/*
 * Of the holders of a lock for which a request yields, note those that have passed
 * it: they are taken to end soon.  Takes the partition lock, shared.
 */
static void
find_passed(LgView *view, const LgAside *aside, LgUnblock *unblock)
{
	LgGraph    *graph = view->graph;
	bool	   *obstacles = NULL;

	for (int l = 0; l < graph->nlocks; l++)
	{
		const LgLock *lock = &graph->locks[l];

		if (memcmp(&lock->tag, &aside->tag, sizeof(LOCKTAG)) != 0)
			continue;
		obstacles = palloc0_array(bool, LG_TOTAL_PROCS);
		if (lg_find_obstacles(aside, obstacles))
		{
			if (unblock->passed == NULL)
				unblock->passed = palloc0_array(bool, Max(graph->nholders, 1));
			for (int i = 0; i < lock->nholders; i++)
				if (!obstacles[graph->holders[lock->holder + i].procno])
					unblock->passed[lock->holder + i] = true;
		}
		pfree(obstacles);
		return;
	}
}

/*
 * Find out which sessions are over a limit on blockers at this look, and how
 * much it would help to remove each.  That is done once per look.  Allocates in
 * view->context.
 */
static struct LgJudged *
judge_look(LgView *view)
{
	LgGraph    *graph = view->graph;
	struct LgJudged *judged = view->judged;
	bool		queues = false;
	MemoryContext old;

	if (judged != NULL)
		return judged;
	old = MemoryContextSwitchTo(view->context);
	judged = view->judged = palloc0(sizeof(struct LgJudged));
	judged->next_due = LG_NEVER;
	judged->unblock = lg_unblock_create(graph);
	for (int i = 0; i < view->nasides; i++)
		find_passed(view, view->asides[i], judged->unblock);

	for (int i = 0; i < graph->nactive; i++)
	{
		LgNode	   *node = &graph->nodes[graph->active[i]];
		Candidate	candidate;
		LgFate		fate;

		if (node->blame_since == LG_NEVER)
			continue;
		if (node->waiting)
		{
			/* That a queued blocker goes is assumed until it is judged. */
			if (lg_is_queued_blocker(graph, node) &&
				may_be_over_limit(view, node, &judged->next_due))
			{
				judged->unblock->fate[graph->active[i]] = LG_MAY_BE_REMOVED;
				judged->unblock->asked[graph->active[i]] = true;
				queues = true;
			}
			continue;
		}
		lg_load_node(graph, node);
		fate = fate_of_root(view, node);
		judged->unblock->fate[graph->active[i]] = fate;
		if (!is_leaving(view, &node->known->session) &&
			is_over_limit(view, node, &candidate, &judged->next_due))
		{
			add_candidate(view, judged, &candidate);
			if (fate == LG_ENDS)
				judged->unblock->fate[graph->active[i]] = fate;
		}
	}
	if (queues)
	{
		lg_unblock(graph, judged->unblock);
		judge_queues(view, judged);
	}
	if (judged->n > 0)
		judge_candidates(view, judged);
	MemoryContextSwitchTo(old);
	return judged;
}

/*
 * Have it proved that a waiter of the victim (index in waiters) can go on when
 * the victim, and those of judged->going, have gone; and that the victim holds
 * the lock still on which its accumulated blocking time rests.
 */
static void
have_help_proved(LgView *view, const struct LgJudged *judged, int waiter,
				 LgVerdict *verdict)
{
	const LgWaiter *freed = &view->graph->waiters[waiter];
	LgEvidence *evidence = &verdict->still.freed;
	LgBlocker	blocker = {0};
	int			timer = lg_timer_of(verdict->limit);
	const LgHeld *held = timer < 0 ? NULL :
		lg_block_time_rests_on(&view->times[verdict->session.procno], (LgTimer) timer);

	if (held != NULL)
	{
		verdict->still.holds = true;
		verdict->still.held_tag = held->tag;
		verdict->still.held_procno = held->procno;
		verdict->still.held_pid = held->pid;
		verdict->still.held_proclock = held->proclock;
	}
	lg_describe_wait(view->graph, freed, evidence);
	while (lg_next_blocker(view->graph, freed, &blocker))
		if (blocker.node == verdict->session.procno)
		{
			evidence->kind = blocker.kind;
			evidence->procno = blocker.procno;
			evidence->pid = blocker.pid;
			break;
		}
	verdict->still.frees = true;
	verdict->still.going = judged->going;
	for (int i = 0; i < view->nasides; i++)
		if (view->asides[i]->procno == freed->procno &&
			view->asides[i]->wait_start == freed->wait_start)
			verdict->still.aside = view->asides[i];

	/* One pair is enough, if both are about one lock. */
	if (memcmp(&evidence->tag, &verdict->still.evidence.tag, sizeof(LOCKTAG)) == 0 &&
		evidence->procno == verdict->still.evidence.procno &&
		evidence->kind == verdict->still.evidence.kind)
		verdict->still.evidence = *evidence;
}

/*
 * Of the queued blockers of a tree that would help as much as this candidate and
 * may be signalled, the one nearest the root: none of them is upstream of it.
 * In each step the first that is found is the first in its queue, so that there
 * are as many steps as queues on the way.
 */
static Candidate *
nearest_root(LgView *view, struct LgJudged *judged, Candidate *candidate)
{
	LgGraph    *graph = view->graph;
	int			n = lg_upstream(graph, candidate->node - graph->nodes);

	for (int i = 1; i < n; i++)
	{
		int			index = judged->candidate[graph->upstream[i]];
		Candidate  *other = index < 0 ? NULL : &judged->candidates[index];

		if (other != NULL && other->rank == candidate->rank && other->help == candidate->help &&
			other->brake == LG_NO_BRAKE &&
			!is_busy_since_look(view, &view->tracks[graph->upstream[i]], other->limit))
		{
			candidate = other;
			n = lg_upstream(graph, candidate->node - graph->nodes);
			i = 0;
		}
	}
	return candidate;
}

/* The verdict on a candidate. */
static void
decide_candidate(LgView *view, const struct LgJudged *judged, const Candidate *candidate,
				 LgVerdict *verdict)
{
	LgNode	   *node = candidate->node;

	decide_action(view, node, verdict, &node->known->session, &node->known->values, candidate->limit);
	complete_verdict(view, verdict, node, candidate->passed_at, candidate->measured);
	if (verdict->brake == LG_NO_BRAKE && candidate->help == LG_IN_VAIN)
	{
		verdict->brake = LG_BRAKE_IN_VAIN;
		verdict->action = LG_DO_LOG;
	}
	if (verdict->brake != LG_NO_BRAKE)
		return;
	have_help_proved(view, judged, candidate->waiter, verdict);
	link_counted(view, verdict);

	/* They are compared with those of other trees, if any is to be signalled. */
	if (lg_standing_brake(view->clock.now) == LG_NO_BRAKE)
		lg_count_blocked(view, node - view->graph->nodes, &verdict->blocked_sessions,
						 &verdict->longest_wait);
}

/* The limits on blockers: at most one victim per tree. */
static void
judge_blockers(LgView *view, LgVerdicts *verdicts)
{
	struct LgJudged *judged = judge_look(view);

	note_due(verdicts, judged->next_due);
	for (int i = 0; i < judged->n;)
	{
		int			tree = judged->candidates[i].tree;
		bool		done = tree_is_busy(view, tree);

		for (; i < judged->n && judged->candidates[i].tree == tree; i++)
		{
			Candidate  *candidate = &judged->candidates[i];
			int			procno = candidate->node - view->graph->nodes;
			LgVerdict	verdict;

			if (done || is_busy_since_look(view, &view->tracks[procno], candidate->limit))
				continue;
			if (candidate->node->waiting && candidate->brake == LG_NO_BRAKE &&
				candidate->help != LG_IN_VAIN)
				candidate = nearest_root(view, judged, candidate);

			/*
			 * If one is exempt or protected, or its removal would be in vain,
			 * the next in the tree is considered.
			 */
			decide_candidate(view, judged, candidate, &verdict);
			add_verdict(verdicts, &verdict);
			done = verdict.brake == LG_NO_BRAKE;
		}
	}
}

/*
 * If removing a session because of a limit on blockers would be in vain, say so
 * in the verdict; else have it proved that it is not.
 */
static void
judge_help(LgView *view, LgVerdict *verdict)
{
	struct LgJudged *judged;
	int			waiter = -1;

	if (verdict->brake != LG_NO_BRAKE || verdict->proof != LG_PROVE_BLOCKS)
		return;
	judged = judge_look(view);
	if (judged->going == NULL || !judged->unblock->asked[verdict->session.procno])
	{
		MemoryContext old = MemoryContextSwitchTo(view->context);

		judged->unblock->asked[verdict->session.procno] = true;
		judge_candidates(view, judged);
		MemoryContextSwitchTo(old);
	}
	waiter = lg_freed_by(view->graph, judged->unblock, verdict->session.procno);
	if (waiter >= 0)
		have_help_proved(view, judged, waiter, verdict);
	else
	{
		verdict->brake = LG_BRAKE_IN_VAIN;
		verdict->action = LG_DO_LOG;
	}
}

/*
 * Why nothing is done about a session that is over a limit: LG_NO_BRAKE if it is
 * over none, or if something is done.  Allocates in view->context.
 */
LgBrake
lg_spared_by(LgView *view, const LgSubject *subject)
{
	LgBrake		spared = LG_NO_BRAKE;

	for (int limit = 0; limit < LG_NUM_LIMITS; limit++)
	{
		int64		measured;
		LgVerdict	verdict;

		/* A waiter with preempt_timeout is not the victim. */
		if (subject->values->value[limit] == 0 || limit == LG_PREEMPT_TIMEOUT ||
			limit == LG_QUEUE_YIELD_TIMEOUT ||
			subject->session->kind == LG_KIND_NONE ||
			lg_limits[limit].passed_at(view, subject, subject->values->value[limit],
									   &measured) > view->clock.now)
			continue;
		decide_action(view, subject->node, &verdict, subject->session, subject->values, limit);
		judge_help(view, &verdict);
		if (verdict.brake == LG_NO_BRAKE)
			verdict.brake = lg_standing_brake(view->clock.now);
		if (verdict.brake == LG_NO_BRAKE)
			return LG_NO_BRAKE;
		if (spared == LG_NO_BRAKE)
			spared = verdict.brake;
	}
	return spared;
}

/* What to do with a session that blocks a waiter with preempt_timeout. */
static void
decide_preemption(LgView *view, const LgNode *waiting, int procno, LgVerdict *verdict)
{
	LgGraph    *graph = view->graph;
	LgNode	   *node = &graph->nodes[procno];
	const LgWaiter *wait = lg_longest_wait(graph, waiting);
	int			value = waiting->known->values.value[LG_PREEMPT_TIMEOUT];

	decide_action(view, node, verdict, &node->known->session, &node->known->values, LG_PREEMPT_TIMEOUT);
	verdict->value = value;
	complete_verdict(view, verdict, node, wait->since + value * LG_NANOS_PER_MS,
					 (view->clock.now - wait->since) / LG_NANOS_PER_MS);
	verdict->source = waiting->known->values.source[LG_PREEMPT_TIMEOUT];
	verdict->preempted_for = waiting->known->session.pid;

	/* It must block this waiter, not just any session. */
	verdict->still.evidence = graph->edges[procno];
	verdict->still.waits = true;
	lg_describe_wait(graph, wait, &verdict->still.wait);
	lg_link_to(graph, procno, verdict);
	lg_count_blocked(view, procno, &verdict->blocked_sessions, &verdict->longest_wait);
}

/*
 * The session to be removed for a waiter with preempt_timeout that has waited
 * long enough: of the roots that block it, the one that blocks most sessions, if
 * no session of the waiter's own priority or higher blocks it.  With "only" >= 0,
 * only that one.  Returns false if there is none.
 *
 * If a session that blocks it may not be signalled, removing others would be in
 * vain; the verdict is about that one then.
 */
static bool
preempt(LgView *view, const LgNode *waiting, int only, LgVerdict *best)
{
	LgGraph    *graph = view->graph;
	int			priority = waiting->known->values.value[LG_PRIORITY];
	int			n = lg_upstream(graph, waiting->known->session.procno);
	int			stays = -1;
	bool		found = false;

	for (int i = 1; i < n; i++)
	{
		LgNode	   *node = &graph->nodes[graph->upstream[i]];

		lg_load_node(graph, node);
		if (node->known->values.value[LG_PRIORITY] >= priority)
			return false;
	}

	for (int i = 1; i < n; i++)
	{
		int			procno = graph->upstream[i];
		LgNode	   *node = &graph->nodes[procno];
		LgVerdict	verdict;

		if (is_leaving(view, &node->known->session))
			continue;
		if (!lg_is_root(graph, node))
		{
			if (lg_session_brake(&node->known->session, &node->known->values) != LG_NO_BRAKE)
				stays = procno;
			continue;
		}
		if (only >= 0 && procno != only)
			continue;
		if (only < 0 && is_busy_since_look(view, &view->tracks[procno], LG_PREEMPT_TIMEOUT))
		{
			/* That it is not signalled has been recorded before. */
			decide_action(view, node, &verdict, &node->known->session, &node->known->values,
						  LG_PREEMPT_TIMEOUT);
			if (verdict.brake != LG_NO_BRAKE)
				stays = procno;
			continue;
		}
		decide_preemption(view, waiting, procno, &verdict);
		if (!found || verdict.blocked_sessions > best->blocked_sessions)
			*best = verdict;
		found = true;
		if (verdict.brake != LG_NO_BRAKE)
		{
			*best = verdict;
			break;
		}
	}
	if (found && best->brake == LG_NO_BRAKE && stays >= 0)
		decide_preemption(view, waiting, stays, best);
	return found;
}

/* The same for a tree in which no victim has been chosen in this scan. */
static void
judge_preemption(LgView *view, const LgNode *waiting, LgVerdicts *verdicts)
{
	int			tree = lg_tree(view->graph, waiting->known->session.procno);
	LgVerdict	verdict;

	if (tree_is_busy(view, tree))
		return;
	for (int i = 0; i < verdicts->n; i++)
		if (verdicts->verdicts[i].brake == LG_NO_BRAKE &&
			lg_limits[verdicts->verdicts[i].limit].proof == LG_PROVE_BLOCKS &&
			lg_tree(view->graph, verdicts->verdicts[i].session.procno) == tree)
			return;
	if (preempt(view, waiting, -1, &verdict))
		add_verdict(verdicts, &verdict);
}

/*
 * Does this victim of a preemption still block that waiter, and would it be
 * chosen again?
 */
bool
lg_preempt_again(LgView *view, int waiter_procno, int victim, LgVerdict *verdict)
{
	LgGraph    *graph = view->graph;

	for (int i = 0; view->looked && i < graph->nwaiters; i++)
		if (graph->waiters[i].procno == waiter_procno)
		{
			LgNode	   *waiting = lg_node(graph, graph->waiters[i].node);

			lg_load_node(graph, waiting);
			return waiting->known->values.value[LG_PREEMPT_TIMEOUT] > 0 &&
				preempt(view, waiting, victim, verdict);
		}
	return false;
}

/*
 * Has a node waited so long that it can be over a limit on waits, by the
 * smallest value that any session has?  Else the limit is due then.
 */
static bool
waits_long_enough(LgView *view, const LgNode *node, int limit, LgVerdicts *verdicts)
{
	const LgWaiter *wait = lg_longest_wait(view->graph, node);
	int64		at;

	if (wait == NULL || view->smallest[limit] == 0)
		return false;
	at = wait->since + view->smallest[limit] * LG_NANOS_PER_MS;
	if (at <= view->clock.now)
		return true;
	note_due(verdicts, at);
	return false;
}

/*
 * All limits that have to do with waits for locks, on the look of this scan.
 */
void
lg_judge_waits(LgView *view, LgVerdicts *verdicts)
{
	LgGraph    *graph = view->graph;

	judge_blockers(view, verdicts);

	for (int i = 0; i < graph->nactive; i++)
	{
		LgNode	   *node = &graph->nodes[graph->active[i]];
		LgSubject	subject;
		int			value;
		int64		measured;
		int64		at;

		if (!waits_long_enough(view, node, LG_PREEMPT_TIMEOUT, verdicts))
			continue;
		subject = subject_of_node(view, node);
		value = node->known->values.value[LG_PREEMPT_TIMEOUT];
		if (value == 0 || node->known->session.kind != LG_KIND_CLIENT)
			continue;
		at = lg_limits[LG_PREEMPT_TIMEOUT].passed_at(view, &subject, value, &measured);
		if (at > view->clock.now)
			note_due(verdicts, at);
		else
			judge_preemption(view, node, verdicts);
	}

	for (int i = 0; i < graph->nactive; i++)
	{
		LgNode	   *node = &graph->nodes[graph->active[i]];
		LgVerdict	verdict;
		LgSubject	subject;
		int			value;

		if (!waits_long_enough(view, node, LG_LOCK_WAIT_TIMEOUT, verdicts))
			continue;
		subject = subject_of_node(view, node);
		value = node->known->values.value[LG_LOCK_WAIT_TIMEOUT];
		if (value == 0 || node->known->session.kind != LG_KIND_CLIENT ||
			is_busy_since_look(view, subject.track, LG_LOCK_WAIT_TIMEOUT))
			continue;
		if (lg_judge_again(view, graph->active[i], LG_LOCK_WAIT_TIMEOUT, &verdict))
			add_verdict(verdicts, &verdict);
		else
		{
			int64		measured;

			note_due(verdicts, lg_limits[LG_LOCK_WAIT_TIMEOUT].passed_at(view, &subject, value,
																		 &measured));
		}
	}
}

/*
 * Is this session over queue_yield_timeout, so that its lock request lets others
 * pass from now on?  If so, fill in the verdict; if it is due later, note when.
 * It does not matter what may be done to the session, for nothing is done to it.
 */
bool
lg_judge_yield(LgView *view, int procno, LgVerdicts *verdicts, LgVerdict *verdict)
{
	LgGraph    *graph = view->graph;
	LgNode	   *node = &graph->nodes[procno];
	LgSubject	subject;
	int			value;
	int64		measured = 0;
	int64		at;

	/* Of a long queue, few have to be read: see may_be_over_limit(). */
	if (!lg_is_queued_blocker(graph, node))
		return false;
	at = view->clock.now + view->smallest[LG_QUEUE_YIELD_TIMEOUT] * LG_NANOS_PER_MS -
		lg_block_time(graph, view->times, node, LG_YIELD_TIMER);
	if (at > view->clock.now)
	{
		note_due(verdicts, at);
		return false;
	}
	subject = subject_of_node(view, node);
	value = node->known->values.value[LG_QUEUE_YIELD_TIMEOUT];
	if (value == 0)
		return false;
	at = lg_limits[LG_QUEUE_YIELD_TIMEOUT].passed_at(view, &subject, value, &measured);
	if (at > view->clock.now)
	{
		note_due(verdicts, at);
		return false;
	}
	if (lg_holds_what_others_want(graph, node))
		return false;

	memset(verdict, 0, sizeof(*verdict));
	verdict->session = node->known->session;
	verdict->limit = LG_QUEUE_YIELD_TIMEOUT;
	verdict->value = value;
	verdict->source = node->known->values.source[LG_QUEUE_YIELD_TIMEOUT];
	verdict->proof = lg_limits[LG_QUEUE_YIELD_TIMEOUT].proof;
	verdict->brake = lg_standing_brake(view->clock.now);
	verdict->action = LG_DO_YIELD;
	complete_verdict(view, verdict, node, at, measured);
	lg_count_blocked(view, procno, &verdict->blocked_sessions, &verdict->longest_wait);
	return true;
}

/*
 * Is this session over that one limit now?  If so, fill in the verdict.  Used
 * to see whether a signal has helped.
 */
bool
lg_judge_again(LgView *view, int procno, int limit, LgVerdict *verdict)
{
	LgNode	   *node = view->looked ? lg_node(view->graph, procno) : NULL;
	LgSession	session;
	LgValues	values;
	LgSubject	subject;
	int64		measured = 0;
	int64		at;

	if (node == NULL && !lg_limit_is_age(limit))
		return false;
	if (node != NULL)
		subject = subject_of_node(view, node);
	else
	{
		lg_read_session(procno, &session);
		lg_track_session(&view->tracks[procno], &session, &view->clock, false);
		lg_settings_of_session(procno, session.pid, session.session_start,
							   &view->server, &values);
		subject.session = &session;
		subject.values = &values;
		subject.track = &view->tracks[procno];
		subject.node = NULL;
	}
	subject.again = true;
	if (subject.values->value[limit] == 0)
		return false;
	at = lg_limits[limit].passed_at(view, &subject, subject.values->value[limit],
									&measured);
	if (at > view->clock.now)
		return false;
	decide_action(view, subject.node, verdict, subject.session, subject.values, limit);
	complete_verdict(view, verdict, node, at, measured);
	if (verdict->proof == LG_PROVE_BLOCKS)
		judge_help(view, verdict);
	link_counted(view, verdict);
	return true;
}

/*
 * The limits on a session's age and on what it holds, whatever it blocks.
 */
void
lg_judge_session(LgView *view, int procno, LgVerdicts *verdicts)
{
	LgSession	session;
	LgValues	values;
	LgSubject	subject;
	LgTrack    *track = &view->tracks[procno];
	bool		any = false;

	if (((volatile PGPROC *) &ProcGlobal->allProcs[procno])->pid == 0)
		return;
	lg_read_session(procno, &session);
	if (session.kind != LG_KIND_CLIENT)
		return;
	lg_settings_of_session(procno, session.pid, session.session_start,
						   &view->server, &values);
	for (int limit = 0; limit < LG_NUM_LIMITS; limit++)
		any |= lg_limit_is_age(limit) && values.value[limit] > 0;
	if (!any)
		return;
	lg_track_session(track, &session, &view->clock,
					 values.value[LG_MAX_XMIN_AGE] > 0);

	subject.session = &session;
	subject.values = &values;
	subject.track = track;
	subject.node = view->looked ? lg_node(view->graph, procno) : NULL;
	subject.again = false;
	for (int limit = 0; limit < LG_NUM_LIMITS; limit++)
	{
		int64		measured = 0;
		int64		at;
		LgVerdict	verdict;

		if (!lg_limit_is_age(limit) || values.value[limit] == 0)
			continue;
		at = lg_limits[limit].passed_at(view, &subject, values.value[limit],
										&measured);
		if (at > view->clock.now)
		{
			note_due(verdicts, at);
			continue;
		}

		/* If nothing comes of it now, something may at the next scan. */
		note_due(verdicts, view->clock.now + lg_naptime * LG_NANOS_PER_MS);
		if (is_busy(track, limit) ||
			lg_undoes_deadlock(view->graph, procno, &session, view->clock.now,
							   LG_UNDOING_MOST))
			continue;
		decide_action(view, subject.node, &verdict, &session, &values, limit);
		complete_verdict(view, &verdict, subject.node, at, measured);
		add_verdict(verdicts, &verdict);
		if (verdict.brake == LG_NO_BRAKE)
			break;
	}
}

/*
 * The limit that a session will pass next, and when (monotonic ns; LG_NEVER
 * with LG_NO_LIMIT if none can be told).
 */
int64
lg_next_limit(LgView *view, const LgSubject *subject, int *limit)
{
	int64		next = LG_NEVER;

	*limit = LG_NO_LIMIT;
	for (int l = 0; l < LG_NUM_LIMITS; l++)
	{
		int64		measured;
		int64		at;

		if (subject->values->value[l] == 0 || subject->session->kind != LG_KIND_CLIENT)
			continue;
		at = lg_limits[l].passed_at(view, subject, subject->values->value[l],
									&measured);
		if (at < next &&
			!(lg_limits[l].idle && lg_works_for_others(subject->track, subject->session)))
		{
			next = at;
			*limit = l;
		}
	}
	return next;
}

static int
compare_verdicts(const void *a, const void *b)
{
	const LgVerdict *x = (const LgVerdict *) a;
	const LgVerdict *y = (const LgVerdict *) b;

	if (x->blocked_sessions != y->blocked_sessions)
		return x->blocked_sessions > y->blocked_sessions ? -1 : 1;
	if (x->longest_wait != y->longest_wait)
		return x->longest_wait > y->longest_wait ? -1 : 1;
	return x->session.pid < y->session.pid ? -1 : x->session.pid > y->session.pid;
}

/* More blocked sessions first, then the longest wait. */
void
lg_sort_verdicts(LgVerdicts *verdicts)
{
	qsort(verdicts->verdicts, verdicts->n, sizeof(LgVerdict), compare_verdicts);
}
