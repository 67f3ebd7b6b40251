/*-------------------------------------------------------------------------
 *
 * waitgraph.c
 *		Walks contended locks: which process waits for which, and since when.
 *
 * A contended lock is walked once, under its own partition lock in shared
 * mode, whatever the number of its waiters: its holders and its queue are
 * copied, and nothing else is done there.  No list of pairs is made.  What is
 * asked of pairs ("the oldest", "all that follow") is answered from one value
 * per lock mode, so that all below is linear in holders and waiters.
 *
 * The locks of one look are copied one after the other, so that the graph is
 * not of one instant.  That is why proof.c proves everything again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/memutils.h"

#include "clock.h"
#include "compat.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "types.h"
#include "waitgraph.h"

/* Smallest moment among waiters, and among those of other nodes than it. */
typedef struct Oldest
{
	int64		at;
	int			node;
	int			waiter;
	int64		other_at;
	int			other_waiter;
} Oldest;

/*
 * An empty graph, all of whose memory is in "context".  Grows with the number
 * of locks contended at once, and never shrinks.
 */
LgGraph *
lg_graph_create(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	LgGraph    *graph = palloc0(sizeof(LgGraph));
	LgKnown    *known;

	graph->max_locks = graph->old_max_locks = 64;
	graph->locks = palloc_array(LgLock, graph->max_locks);
	graph->old_locks = palloc_array(LgLock, graph->max_locks);
	graph->max_holders = graph->old_max_holders = LG_TOTAL_PROCS;
	graph->holders = palloc_array(LgHolder, graph->max_holders);
	graph->old_holders = palloc_array(LgHolder, graph->max_holders);
	graph->max_waiters = LG_TOTAL_PROCS;
	graph->waiters = palloc_array(LgWaiter, graph->max_waiters);
	graph->nbuckets = 64;
	while (graph->nbuckets < LG_TOTAL_PROCS)
		graph->nbuckets *= 2;
	graph->buckets = palloc_array(int, graph->nbuckets);
	graph->old_buckets = palloc_array(int, graph->nbuckets);
	memset(graph->buckets, -1, graph->nbuckets * sizeof(int));
	memset(graph->old_buckets, -1, graph->nbuckets * sizeof(int));
	graph->wait_tracks = lg_alloc_per_proc(sizeof(LgWaitTrack));
	graph->nodes = lg_alloc_per_proc(sizeof(LgNode));
	known = palloc0_array(LgKnown, LG_TOTAL_PROCS);
	for (int procno = 0; procno < LG_TOTAL_PROCS; procno++)
		graph->nodes[procno].known = &known[procno];
	graph->active = palloc_array(int, LG_TOTAL_PROCS);
	graph->steps = palloc_array(LgStep, LG_TOTAL_PROCS + 1);
	graph->scratch = palloc0_array(int, LG_TOTAL_PROCS);
	graph->upstream = palloc_array(int, LG_TOTAL_PROCS);
	graph->edges = palloc_array(LgEvidence, LG_TOTAL_PROCS);
	graph->downward = palloc_array(int, LG_TOTAL_PROCS);
	graph->searches = palloc_array(LgSearch, LG_TOTAL_PROCS);
	graph->unassigned = palloc_array(int, LG_TOTAL_PROCS);
	graph->order = palloc_array(int, LG_TOTAL_PROCS);
	graph->low = palloc_array(int, LG_TOTAL_PROCS);
	graph->cyclic = palloc_array(int, LG_TOTAL_PROCS);
	MemoryContextSwitchTo(old);
	return graph;
}

/* What is remembered of a process's waits; nothing, if another had its PGPROC. */
static LgWaitTrack *
wait_track(LgGraph *graph, int procno, int pid)
{
	LgWaitTrack *track = &graph->wait_tracks[procno];

	if (track->pid != pid)
	{
		memset(track, 0, sizeof(*track));
		track->pid = pid;
	}
	return track;
}

/*
 * A wait that had not ended when it was last seen has ended by "now".  When
 * exactly is not known: it may have ended right after it was seen.
 */
static void
end_wait(LgWaitTrack *track, int64 now)
{
	if (!track->in_wait)
		return;
	track->in_wait = false;
	track->waited += now - track->wait.at;
	track->surely_waited += Max(track->wait_seen - track->wait.at, 0);
	track->wait_ended = now;
	track->ended_looked = track->wait_looked;
	track->ended = LG_END_UNKNOWN;
}

/* The same of a process that was found waiting: its wait is its leader's, too. */
static void
end_found_wait(LgGraph *graph, const LgFound *found)
{
	LgWaitTrack *track = &graph->wait_tracks[found->procno];
	volatile PGPROC *proc = &ProcGlobal->allProcs[found->procno];
	bool		in_wait = track->in_wait;
	ProcWaitStatus status = proc->waitStatus;
	int			pid = proc->pid;
	int64		now = lg_now();

	end_wait(track, now);

	/*
	 * A process that has ended leaves the outcome of its last wait behind,
	 * until another takes its place.
	 */
	if (in_wait && (pid == track->pid || pid == 0) && proc->waitLock == NULL)
		track->ended = status == PROC_WAIT_STATUS_OK ? LG_GRANTED :
			status == PROC_WAIT_STATUS_ERROR ? LG_GAVE_UP : LG_END_UNKNOWN;
	if (found->leader != found->procno)
		graph->wait_tracks[found->leader].member_ended = now;
}

/*
 * Bring what is remembered of a process's wait up to date.  "passed" is when
 * the pass began that has last looked whether it waits (monotonic ns): what
 * that has not seen has begun since.
 *
 * waitStart is set a little after the wait has begun.  Until then it is 0, or
 * still that of a wait before, if that ended otherwise than by a grant: see
 * RemoveFromWaitQueue().  Such a wait counts as begun when it was first seen.
 * When its start is set at last, it is taken for the same wait only if it
 * began before that.
 */
static void
track_wait(LgWaitTrack *track, LOCK *lock, TimestampTz start,
		   const LgClock *clock, int64 passed)
{
	int64		seen = track->wait_seen;
	int64		at;

	if (track->wait_seen < passed)
		end_wait(track, passed);
	track->wait_seen = clock->now;
	if (start != 0 &&
		(track->in_wait ?
		 start == track->wait.wall && lock != track->wait_lock :
		 start == track->wait.wall || lg_clock_at(clock, start) < passed))
		track->stale_start = start;
	if (start == track->stale_start)
		start = 0;
	if (track->in_wait && track->wait_lock == lock && track->wait.wall == start &&
		track->wait.at != 0)
		return;

	at = start == 0 ? lg_now() : lg_clock_at(clock, start);

	/* Another wait right after the one before: the gap counts as waited. */
	if (track->in_wait && track->wait.at != 0 && at > track->wait.at)
	{
		track->ended_looked = track->wait_looked;
		track->ended = LG_END_UNKNOWN;
		track->waited += at - track->wait.at;
		track->surely_waited += Max(Min(seen, at) - track->wait.at, 0);
	}
	track->in_wait = true;
	if (track->wait_lock != lock || track->wait.wall != 0 || at > track->wait.at)
	{
		track->wait_looked = track->ahead_looked = 0;
		track->counted = false;
	}
	track->wait_lock = lock;
	track->wait.wall = start;
	track->wait.at = at;
}

/*
 * Read in advance what the pass over the PGPROCs will need of each.  That is all
 * that a scan costs if no process waits.
 *
 * Neighbours share a page (of 4 kB), and a processor can only look up a few
 * pages at a time, which takes longer than to read what is there.  So this
 * reads eight parts of the list side by side.  (A third less time than from
 * one end to the other, where this was measured, with 900 processes; 16 parts
 * gained nothing more.)
 */
static void
touch_wait_locks(const int *procnos, int n)
{
	PGPROC	   *procs = ProcGlobal->allProcs;
	int			part = n / 8;

	for (int i = 0; i < part; i++)
	{
		lg_touch(&procs[procnos[i]].waitLock);
		lg_touch(&procs[procnos[i + part]].waitLock);
		lg_touch(&procs[procnos[i + part * 2]].waitLock);
		lg_touch(&procs[procnos[i + part * 3]].waitLock);
		lg_touch(&procs[procnos[i + part * 4]].waitLock);
		lg_touch(&procs[procnos[i + part * 5]].waitLock);
		lg_touch(&procs[procnos[i + part * 6]].waitLock);
		lg_touch(&procs[procnos[i + part * 7]].waitLock);
	}
}

/*
 * Read in advance the memory that a look will need of a waiter.  A queue can
 * only be followed from one to the next, and each step would wait for memory;
 * here, nothing has to wait for what was read before, so that much of it is on
 * its way at once.  (A prefetch is only a hint; of so many, a good part was not
 * carried out where this was measured, on an AMD EPYC.)  That the lock may be
 * gone does no harm: see walk_lock().
 *
 * "i" counts the waiters: as many entries of graph->waiters are about to be
 * written, in whatever order.
 */
static void
touch_waiter(LgGraph *graph, int procno, int i)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[procno];
	LOCK	   *lock = ((volatile PGPROC *) proc)->waitLock;

	lg_touch(proc);
	lg_touch(&proc->pid);
	lg_touch(&proc->waitStart);
	lg_touch(&graph->wait_tracks[procno]);
	lg_touch(&graph->nodes[procno]);
	lg_touch(&graph->waiters[i]);
	if (lock != NULL)
		lg_touch(lock);
}

/*
 * Find all processes that wait for a heavyweight lock, in one pass over the
 * PGPROCs in "live", without any lock.  "found" has room for one each, and has
 * those that were found the last time.  Returns how many.
 */
int
lg_find_waiters(LgGraph *graph, LgFound *found, int nbefore,
				LgLive *live, const LgClock *clock)
{
	volatile PGPROC *procs = ProcGlobal->allProcs;
	const int  *procnos = live->procno;
	int			nlive = live->n;
	int			nwaiting = 0;
	int			nfound = 0;
	int64		before = live->passed;

	touch_wait_locks(procnos, nlive);

	for (int i = 0; i < nbefore; i++)
		if (procs[found[i].procno].waitLock == NULL)
			end_found_wait(graph, &found[i]);

	for (int i = 0; i < nlive; i++)
		if (procs[procnos[i]].waitLock != NULL)
			found[nwaiting++].procno = procnos[i];
	for (int i = 0; i < nwaiting; i++)
		touch_waiter(graph, found[i].procno, i);

	for (int i = 0; i < nwaiting; i++)
	{
		int			procno = found[i].procno;
		volatile PGPROC *proc = &procs[procno];
		LOCK	   *lock = proc->waitLock;
		LgWaitTrack *track;
		TimestampTz start;

		found[i].leader = lg_leader_number(proc);
		if (lock == NULL)
		{
			end_found_wait(graph, &found[i]);
			continue;
		}
		start = (TimestampTz) pg_atomic_read_u64(&ProcGlobal->allProcs[procno].waitStart);
		pg_read_barrier();
		track = wait_track(graph, procno, proc->pid);
		if (proc->waitLock != lock)
		{
			/* Of this wait, or of the next, or of one that was given up. */
			track->stale_start = start;
			start = 0;
		}
		track_wait(track, lock, start, clock, before);
		found[nfound].procno = procno;
		found[nfound].leader = found[i].leader;
		found[nfound].since = track->wait.at;
		nfound++;
	}
	live->passed = clock->now;
	return nfound;
}

/* Make room for the holders and waiters of one more lock. */
static void
make_room(LgGraph *graph)
{
	if (graph->nlocks >= graph->max_locks)
	{
		graph->max_locks *= 2;
		graph->locks = repalloc_array(graph->locks, LgLock, graph->max_locks);
	}
	if (graph->nholders + LG_TOTAL_PROCS > graph->max_holders)
	{
		graph->max_holders = Max(graph->max_holders * 2,
								 graph->nholders + LG_TOTAL_PROCS);
		graph->holders = repalloc_huge(graph->holders,
									   graph->max_holders * sizeof(LgHolder));
	}
	if (graph->nwaiters + LG_TOTAL_PROCS > graph->max_waiters)
	{
		graph->max_waiters = Max(graph->max_waiters * 2,
								 graph->nwaiters + LG_TOTAL_PROCS);
		graph->waiters = repalloc_huge(graph->waiters,
									   graph->max_waiters * sizeof(LgWaiter));
	}
}

static int
find_lock(const LgLock *locks, const int *buckets, int nbuckets,
		  const LOCKTAG *tag, uint32 hash)
{
	int			i = buckets[hash & (nbuckets - 1)];

	while (i >= 0 && memcmp(&locks[i].tag, tag, sizeof(LOCKTAG)) != 0)
		i = locks[i].next_in_bucket;
	return i;
}

/*
 * Copy the lock that a process waits for, unless that has been done in this
 * look.  The process may stop waiting at any moment until this has the
 * partition lock; then there is nothing to copy.
 */
static void
walk_lock(LgGraph *graph, PGPROC *proc)
{
	LOCK	   *lock = ((volatile PGPROC *) proc)->waitLock;
	LOCKTAG		tag;
	uint32		hash;
	LWLock	   *partition;
	LgLock	   *copy;
	int64		start;
	int			granted = 0;
	bool		waits;

	if (lock == NULL)
		return;

	/*
	 * Memory of the lock table is never unmapped, so this read is safe even
	 * if the lock is gone; whether the tag is right is checked below.
	 */
	memcpy(&tag, &lock->tag, sizeof(LOCKTAG));
	hash = LockTagHashCode(&tag);
	if (find_lock(graph->locks, graph->buckets, graph->nbuckets, &tag, hash) >= 0)
		return;
	make_room(graph);
	copy = &graph->locks[graph->nlocks];
	copy->holder = graph->nholders;
	copy->waiter = graph->nwaiters;

	partition = LockHashPartitionLock(hash);
	LWLockAcquire(partition, LW_SHARED);
	start = lg_now();
	waits = ((volatile PGPROC *) proc)->waitLock == lock;
	pg_read_barrier();			/* a lock of another partition may be there
								 * now */
	if (waits && memcmp(&lock->tag, &tag, sizeof(LOCKTAG)) == 0)
	{
		/* Waiters have a PROCLOCK, too: stop when all holders are found. */
		for (PROCLOCK *proclock = lg_first_proclock(lock);
			 proclock != NULL && granted < lock->nGranted;
			 proclock = lg_next_proclock(lock, proclock))
		{
			LgHolder   *holder;

			if (proclock->holdMask == 0)
				continue;
			holder = &graph->holders[graph->nholders++];
			holder->procno = lg_proc_number(proclock->tag.myProc);
			holder->node = lg_proc_number(proclock->groupLeader);
			holder->pid = proclock->tag.myProc->pid;
			holder->mask = proclock->holdMask;
			holder->proclock = proclock;
			granted += pg_popcount32((uint32) holder->mask);
		}
		for (PGPROC *queued = lg_first_waiter(lock); queued != NULL;
			 queued = lg_next_waiter(lock, queued))
		{
			LgWaiter   *waiter = &graph->waiters[graph->nwaiters++];

			waiter->procno = lg_proc_number(queued);
			graph->wait_tracks[waiter->procno].walked = true;
			waiter->node = lg_leader_number(queued);
			waiter->pid = queued->pid;
			waiter->mode = queued->waitLockMode;
			waiter->wait_start = (TimestampTz) pg_atomic_read_u64(&queued->waitStart);
		}
	}
	start = lg_now() - start;
	LWLockRelease(partition);

	graph->max_lock_time = Max(graph->max_lock_time, start);
	copy->nholders = graph->nholders - copy->holder;
	copy->nwaiters = graph->nwaiters - copy->waiter;
	if (copy->nwaiters == 0)
		return;

	copy->tag = tag;
	copy->address = lock;
	copy->hash = hash;
	copy->conflicts = GetLockTagsMethodTable(&tag)->conflictTab;
	copy->next_in_bucket = graph->buckets[hash & (graph->nbuckets - 1)];
	graph->buckets[hash & (graph->nbuckets - 1)] = graph->nlocks;
	graph->nlocks++;
}

/* Keep this look as the old one, and begin an empty one. */
static void
begin_look(LgGraph *graph)
{
	LgLock	   *locks = graph->old_locks;
	LgHolder   *holders = graph->old_holders;
	int		   *buckets = graph->old_buckets;
	int			max_locks = graph->old_max_locks;
	int			max_holders = graph->old_max_holders;

	/* Empty the buckets that the look before the last has used. */
	for (int i = 0; i < graph->old_nlocks; i++)
		buckets[locks[i].hash & (graph->nbuckets - 1)] = -1;

	graph->old_locks = graph->locks;
	graph->old_nlocks = graph->nlocks;
	graph->old_max_locks = graph->max_locks;
	graph->old_holders = graph->holders;
	graph->old_max_holders = graph->max_holders;
	graph->old_buckets = graph->buckets;

	graph->locks = locks;
	graph->nlocks = 0;
	graph->max_locks = max_locks;
	graph->holders = holders;
	graph->nholders = 0;
	graph->max_holders = max_holders;
	graph->buckets = buckets;
	graph->nwaiters = 0;
	graph->nactive = 0;
	graph->max_lock_time = 0;
	if (++graph->look == 0)
		graph->look = 1;		/* 0 is for what has never been looked at */
}

/*
 * The node of a procno, added to this look if it is not part of it yet.
 * "member" is the process that waits or holds, and "pid" is its pid.
 */
static LgNode *
add_node(LgGraph *graph, int procno, int member, int pid)
{
	LgNode	   *node = &graph->nodes[procno];

	if (node->look != graph->look)
	{
		node->look = graph->look;
		node->pid = procno == member ? pid : ProcGlobal->allProcs[procno].pid;
		node->waiting = false;
		node->row_waits = true;
		node->is_known = false;
		node->in_cycle = false;
		node->first_wait = -1;
		node->first_hold = -1;
		node->blocking_since = node->blame_since = LG_NEVER;
		node->tree = procno;
		node->visit = 0;
		graph->active[graph->nactive++] = procno;
	}
	return node;
}

/* The node of this look with that procno, or NULL. */
LgNode *
lg_node(LgGraph *graph, int node)
{
	return graph->nodes[node].look == graph->look ? &graph->nodes[node] : NULL;
}

/*
 * Read a node's session and settings, unless that has been done in this look.
 * Of most waiters nothing needs to be known but that they wait.
 */
void
lg_load_node(LgGraph *graph, LgNode *node)
{
	int			procno = node - graph->nodes;
	LgTrack    *track = &graph->tracks[procno];
	LgSession  *session = &node->known->session;
	LgValues   *values = &node->known->values;
	int			limit;

	if (node->is_known)
		return;
	node->is_known = true;
	lg_read_session(procno, session);
	lg_track_session(track, session, graph->clock, false);
	lg_settings_of_session(procno, session->pid, session->session_start,
						   graph->server, values);
	limit = values->value[LG_IDLE_BLOCKER_TIMEOUT];
	node->known->idle_since = LG_NEVER;
	if (!node->waiting && (limit > 0 || lg_state_is_idle(session)))
		node->known->idle_since = lg_idle_since(track, session, graph->clock,
												limit * LG_NANOS_PER_MS);
}

/* The tree that a node belongs to, named by one of its nodes. */
int
lg_tree(LgGraph *graph, int node)
{
	while (graph->nodes[node].tree != node)
	{
		/* Halve the path on the way. */
		graph->nodes[node].tree = graph->nodes[graph->nodes[node].tree].tree;
		node = graph->nodes[node].tree;
	}
	return node;
}

static void
join_trees(LgGraph *graph, int a, int b)
{
	a = lg_tree(graph, a);
	b = lg_tree(graph, b);
	if (a != b)
		graph->nodes[b].tree = a;
}

/* The modes that conflict with any of those in a mask. */
static inline LOCKMASK
conflicting(const LgLock *lock, LOCKMASK mask)
{
	LOCKMASK	result = 0;

	for (int mode = 1; mode < LG_LOCKMODES; mode++)
		if (mask & LOCKBIT_ON(mode))
			result |= lock->conflicts[mode];
	return result;
}

/*
 * Since when has each mode of each holder been seen?  Carried over from the
 * look before, where that walked the same lock.
 */
static void
carry_over_holders(LgGraph *graph, const LgLock *lock, int64 now)
{
	int			old = find_lock(graph->old_locks, graph->old_buckets,
								graph->nbuckets, &lock->tag, lock->hash);

	if (old >= 0)
		for (int i = 0; i < graph->old_locks[old].nholders; i++)
		{
			int			index = graph->old_locks[old].holder + i;

			graph->scratch[graph->old_holders[index].procno] = index;
		}

	for (int i = 0; i < lock->nholders; i++)
	{
		LgHolder   *holder = &graph->holders[lock->holder + i];
		const LgHolder *before = NULL;

		if (old >= 0)
		{
			int			index = graph->scratch[holder->procno];

			/* scratch is not cleared: check that it is about this lock. */
			if (index >= graph->old_locks[old].holder &&
				index < graph->old_locks[old].holder + graph->old_locks[old].nholders &&
				graph->old_holders[index].procno == holder->procno &&
				graph->old_holders[index].pid == holder->pid)
				before = &graph->old_holders[index];
		}
		for (int mode = 1; mode < LG_LOCKMODES; mode++)
			if (holder->mask & LOCKBIT_ON(mode))
				holder->seen[mode] =
					before && (before->mask & LOCKBIT_ON(mode)) ?
					before->seen[mode] : now;
	}
}

static void
oldest_clear(Oldest *oldest)
{
	oldest->at = oldest->other_at = LG_NEVER;
	oldest->node = oldest->waiter = oldest->other_waiter = -1;
}

static void
oldest_add(Oldest *oldest, int64 at, int node, int waiter)
{
	if (at < oldest->at)
	{
		if (node != oldest->node)
		{
			oldest->other_at = oldest->at;
			oldest->other_waiter = oldest->waiter;
		}
		oldest->at = at;
		oldest->node = node;
		oldest->waiter = waiter;
	}
	else if (node != oldest->node && at < oldest->other_at)
	{
		oldest->other_at = at;
		oldest->other_waiter = waiter;
	}
}

/* The oldest that is not of "node" itself: no node blocks itself. */
static int64
oldest_besides(const Oldest *oldest, int node, int *waiter)
{
	bool		other = oldest->node == node;

	*waiter = other ? oldest->other_waiter : oldest->waiter;
	return other ? oldest->other_at : oldest->at;
}

/* Is it a lock for which sessions wait that want a row? */
static inline bool
is_row_lock(const LOCKTAG *tag)
{
	return tag->locktag_type == LOCKTAG_TRANSACTION ||
		tag->locktag_type == LOCKTAG_VIRTUALTRANSACTION ||
		tag->locktag_type == LOCKTAG_SPECULATIVE_TOKEN ||
		tag->locktag_type == LOCKTAG_TUPLE;
}

/*
 * A pair of a waiter and a blocking node, about a lock, began at "since".  A
 * session in the queue for a row is not to blame for others in that queue.
 */
static void
blame(LgGraph *graph, const LgLock *lock, int node, int64 since, LgBlockKind kind,
	  int procno, int pid, int waiter)
{
	LgNode	   *blocker = &graph->nodes[node];
	bool		to_blame = !blocker->waiting || !blocker->row_waits || !is_row_lock(&lock->tag);

	if (to_blame ? since >= blocker->blame_since :
		since >= blocker->blocking_since || blocker->blame_since != LG_NEVER)
	{
		blocker->blocking_since = Min(blocker->blocking_since, since);
		return;
	}
	blocker->blocking_since = Min(blocker->blocking_since, since);
	if (to_blame)
		blocker->blame_since = since;
	blocker->blame_kind = kind;
	blocker->blame_procno = procno;
	blocker->blame_pid = pid;
	blocker->blame_waiter = waiter;
}

/* Evidence of the oldest pair in which a node blocks another. */
LgEvidence
lg_evidence(const LgGraph *graph, const LgNode *node)
{
	LgEvidence	evidence = {0};

	if (node->blocking_since == LG_NEVER)
		return evidence;
	lg_describe_wait(graph, &graph->waiters[node->blame_waiter], &evidence);
	evidence.kind = (LgBlockKind) node->blame_kind;
	evidence.procno = node->blame_procno;
	evidence.pid = node->blame_pid;
	return evidence;
}

/*
 * Since when has each node blocked another?
 *
 * It is the longest time of any chain that ends at the node, and in a chain
 * blame begins with the youngest pair; so the last pair of a chain alone is
 * never younger than the chain, and it is enough to find the oldest pair.
 * When a pair began is never guessed early:
 *
 * - a lock that has only ever one holder: when the wait began;
 * - a queue pair: when the later of the two began to wait; unless that is the
 *	 one ahead, which may be the deadlock detector's work of any time since:
 *	 the first look that saw it there;
 * - a holder that says it is idle took its lock before that: the later of when
 *	 it went idle and of the wait's beginning, or the first look that saw both
 *	 if earlier.  (One that waits for its client may have done so again and
 *	 again, and have got its lock in between);
 * - any other holder: the first look that saw both.
 */
static void
blame_lock(LgGraph *graph, const LgLock *lock)
{
	bool		one_holder =
		lock->tag.locktag_type == LOCKTAG_TRANSACTION ||
		lock->tag.locktag_type == LOCKTAG_VIRTUALTRANSACTION ||
		lock->tag.locktag_type == LOCKTAG_SPECULATIVE_TOKEN;
	Oldest		since[LG_LOCKMODES];
	Oldest		seen[LG_LOCKMODES];
	int			ignored;

	for (int mode = 1; mode < LG_LOCKMODES; mode++)
	{
		oldest_clear(&since[mode]);
		oldest_clear(&seen[mode]);
	}

	/* The queue, from its end: all behind a waiter are known at its turn. */
	for (int i = lock->nwaiters - 1; i >= 0; i--)
	{
		int			index = lock->waiter + i;
		LgWaiter   *waiter = &graph->waiters[index];
		LgWaitTrack *track = &graph->wait_tracks[waiter->procno];
		bool		ahead_of_older = false;

		for (LOCKMASK modes = lock->conflicts[waiter->mode] & lock->waited;
			 modes != 0; modes &= modes - 1)
		{
			int			behind;
			int64		at = oldest_besides(&since[pg_rightmost_one_pos32(modes)],
											waiter->node, &behind);

			if (at == LG_NEVER)
				continue;
			if (at < waiter->since)
			{
				ahead_of_older = true;
				if (track->ahead_looked == 0)
					track->ahead_looked = graph->looked_at;
				at = track->ahead_looked;
			}
			blame(graph, lock, waiter->node, Max(at, waiter->since),
				  LG_QUEUE, waiter->procno, waiter->pid, behind);
		}
		if (!ahead_of_older)
			track->ahead_looked = 0;
		oldest_add(&since[waiter->mode], waiter->since, waiter->node, index);
		oldest_add(&seen[waiter->mode], waiter->seen, waiter->node, index);
	}

	for (int i = 0; i < lock->nholders; i++)
	{
		LgHolder   *holder = &graph->holders[lock->holder + i];
		const LgNode *node = &graph->nodes[holder->node];
		int64		idle_since;

		if (!holder->blocks)
			continue;
		Assert(node->waiting || node->is_known);
		idle_since = !node->waiting && lg_state_is_idle(&node->known->session) ?
			node->known->idle_since : LG_NEVER;

		for (int mode = 1; mode < LG_LOCKMODES; mode++)
		{
			LOCKMASK	against = lock->conflicts[mode] & holder->mask;
			int64		held = LG_NEVER;
			int64		at;
			int64		pair;
			int			waiter;

			if (against == 0 || (lock->waited & LOCKBIT_ON(mode)) == 0)
				continue;
			at = oldest_besides(&since[mode], holder->node, &waiter);
			if (at == LG_NEVER)
				continue;

			if (one_holder)
				pair = at;
			else
			{
				for (int h = 1; h < LG_LOCKMODES; h++)
					if (against & LOCKBIT_ON(h))
						held = Min(held, holder->seen[h]);
				pair = Max(held, oldest_besides(&seen[mode], holder->node, &ignored));
				if (idle_since != LG_NEVER)
					pair = Min(pair, Max(at, idle_since));
			}
			blame(graph, lock, holder->node, pair, LG_HOLDER,
				  holder->procno, holder->pid, waiter);
		}
	}
}

/* Begin to search what a node waits for. */
static void
begin_search(LgGraph *graph, int node, int depth, int *nfound, int *nunassigned)
{
	LgSearch   *search = &graph->searches[depth];

	search->node = node;
	search->waiter = search->ahead = graph->nodes[node].first_wait;
	search->holder = 0;
	graph->nodes[node].visit = graph->visit;
	graph->order[node] = graph->low[node] = (*nfound)++;
	graph->unassigned[(*nunassigned)++] = node;
}

/*
 * The next node that the wait of a search has to wait for; false at the end.
 * Not all of them: if one that is ahead in the queue waits for all that this
 * one would have to wait for beyond it, it stands for these, so that a long
 * queue is gone through once.
 */
static bool
next_to_search(const LgGraph *graph, LgSearch *search, int *node)
{
	const LgWaiter *waiter = &graph->waiters[search->waiter];
	const LgLock *lock = &graph->locks[waiter->lock];
	LOCKMASK	conflicts = lock->conflicts[waiter->mode];

	while (search->ahead > lock->waiter)
	{
		const LgWaiter *ahead = &graph->waiters[--search->ahead];

		if ((LOCKBIT_ON(ahead->mode) & conflicts) == 0 || ahead->node == waiter->node)
			continue;
		if ((conflicts & ~lock->conflicts[ahead->mode]) == 0)
		{
			search->ahead = lock->waiter;
			search->holder = lock->nholders;
		}
		*node = ahead->node;
		return true;
	}
	while (search->holder < lock->nholders)
	{
		const LgHolder *holder = &graph->holders[lock->holder + search->holder++];

		if ((holder->mask & conflicts) == 0 || holder->node == waiter->node)
			continue;
		*node = holder->node;
		return true;
	}
	return false;
}

/*
 * Mark the nodes that wait for themselves: those in strongly connected
 * components of more than one (R. Tarjan, "Depth-first search and linear graph
 * algorithms", 1972, without recursion).
 *
 * Within one lock, waiters only wait for those ahead of them, so a cycle has
 * to lead through nodes that wait and also block others, with another lock or by
 * another member of their group.  The search begins with these, and there are
 * few: the queue of a row or a table has none but its first.
 */
static void
find_cycles(LgGraph *graph)
{
	int			nfound = 0;
	int			nunassigned = 0;

	graph->visit++;
	for (int i = 0; i < graph->nactive; i++)
	{
		LgNode	   *start = &graph->nodes[graph->active[i]];
		int			depth = 0;

		if (start->first_wait < 0 || start->visit == graph->visit ||
			(start->first_hold < 0 &&
			 graph->waiters[start->first_wait].next_of_node < 0))
			continue;
		begin_search(graph, graph->active[i], depth++, &nfound, &nunassigned);
		while (depth > 0)
		{
			LgSearch   *search = &graph->searches[depth - 1];
			int			node = search->node;
			int			other;

			if (search->waiter >= 0 && next_to_search(graph, search, &other))
			{
				if (graph->nodes[other].first_wait < 0 || other == node)
					continue;
				if (graph->nodes[other].visit != graph->visit)
					begin_search(graph, other, depth++, &nfound, &nunassigned);
				else if (graph->order[other] >= 0)
					graph->low[node] = Min(graph->low[node], graph->order[other]);
				continue;
			}
			if (search->waiter >= 0)
			{
				search->waiter = search->ahead = graph->waiters[search->waiter].next_of_node;
				search->holder = 0;
				continue;
			}

			/* All that it waits for has been searched. */
			depth--;
			if (depth > 0)
			{
				int			before = graph->searches[depth - 1].node;

				graph->low[before] = Min(graph->low[before], graph->low[node]);
			}
			if (graph->low[node] == graph->order[node])
			{
				bool		cycle = graph->unassigned[nunassigned - 1] != node;

				do
				{
					other = graph->unassigned[--nunassigned];
					graph->nodes[other].in_cycle = cycle;
					graph->order[other] = -1;
				} while (other != node);
			}
		}
	}
}

/*
 * Time in a deadlock does not count: a node that was in one at the look before is
 * out of it.  If it got the server's error, its clock continues, so that no
 * session can shield itself by provoking deadlocks.
 */
static void
leave_cycle(LgWaitTrack *track, int procno, bool waiting, int64 now)
{
	volatile PGPROC *proc = &ProcGlobal->allProcs[procno];

	/* If its wait is over, it came out when that ended. */
	int64		left = waiting ? now :
		Max(Max(track->wait_ended, track->member_ended), track->cycle_seen);

	if (!waiting && track->wait.at <= track->cycle_seen &&
		proc->waitStatus == PROC_WAIT_STATUS_ERROR)
	{
		/* One that catches the error and tries again is not undoing. */
		track->cycle_error = track->cycle_stmt != 0 &&
			track->error_stmt == track->cycle_stmt ? 0 : left;
		track->error_stmt = track->cycle_stmt;
	}
	else
		track->cycle_left = left;
	track->cycle_seen = 0;
}

/* Bring up to date which nodes are in a deadlock. */
static void
track_cycles(LgGraph *graph, int64 now)
{
	int			nbefore = graph->ncyclic;

	for (int i = 0; i < graph->nactive; i++)
	{
		int			procno = graph->active[i];
		LgNode	   *node = &graph->nodes[procno];
		LgWaitTrack *track = &graph->wait_tracks[procno];

		if (node->in_cycle)
		{
			lg_load_node(graph, node);
			track->cycle_seen = now;
			track->cycle_stmt = node->known->session.stmt_start;
		}
		else if (track->cycle_seen != 0)
			leave_cycle(track, procno, node->waiting, now);
	}

	/* And those that neither wait nor block any more. */
	for (int i = 0; i < nbefore; i++)
	{
		int			procno = graph->cyclic[i];
		LgWaitTrack *track = &graph->wait_tracks[procno];

		if (lg_node(graph, procno) == NULL && track->cycle_seen != 0)
			leave_cycle(track, procno,
						((volatile PGPROC *) &ProcGlobal->allProcs[procno])->waitLock != NULL,
						now);
	}
	graph->ncyclic = 0;
	for (int i = 0; i < graph->nactive; i++)
		if (graph->nodes[graph->active[i]].in_cycle)
			graph->cyclic[graph->ncyclic++] = graph->active[i];
}

/*
 * Since when does a root or queued blocker block as what it is now, without a
 * break: from when it had all that it waited for itself, and was out of a
 * deadlock?
 */
int64
lg_blocks_since(const LgGraph *graph, const LgNode *node)
{
	const LgWaitTrack *track = &graph->wait_tracks[node - graph->nodes];
	int64		since = node->blame_since;

	if (since == LG_NEVER || track->pid != node->pid)
		return since;
	if (!node->waiting)
		since = Max(since, Max(track->wait_ended, track->member_ended));
	return Max(since, track->cycle_left);
}

/*
 * Has a session got the server's error about a deadlock, and is it still
 * undoing its statement?  That is believed for "most" ns.
 */
bool
lg_undoes_deadlock(const LgGraph *graph, int node, const LgSession *session,
				   int64 now, int64 most)
{
	const LgWaitTrack *track = &graph->wait_tracks[node];

	return track->cycle_error != 0 && track->pid == session->pid &&
		!session->waiting && session->stmt_start == track->cycle_stmt &&
		now - track->cycle_error < most && !lg_state_is_idle(session);
}

/*
 * Enter the waiters of a lock (its index) into the graph, with what is known of
 * their waits.  Returns one of their nodes.
 */
static int
enter_waiters(LgGraph *graph, int l)
{
	LgLock	   *lock = &graph->locks[l];
	int			tree = -1;

	lock->waited = 0;
	lock->visit = 0;
	for (int mode = 0; mode < LG_LOCKMODES; mode++)
		lock->last[mode] = -1;

	for (int i = 0; i < lock->nwaiters; i++)
	{
		int			index = lock->waiter + i;
		LgWaiter   *waiter = &graph->waiters[index];
		LgWaitTrack *track = wait_track(graph, waiter->procno, waiter->pid);
		LgNode	   *node = add_node(graph, waiter->node, waiter->procno, waiter->pid);

		track_wait(track, lock->address, waiter->wait_start, graph->clock,
				   graph->clock->now);
		waiter->since = track->wait.at;
		if (track->wait_looked == 0)
			track->wait_looked = graph->looked_at;
		waiter->seen = track->wait_looked;
		waiter->lock = l;
		waiter->same_mode = lock->last[waiter->mode];
		lock->last[waiter->mode] = index;
		lock->waited |= LOCKBIT_ON(waiter->mode);
		waiter->next_of_node = node->first_wait;
		node->first_wait = index;
		node->waiting = true;
		if (!is_row_lock(&lock->tag))
			node->row_waits = false;
		if (tree < 0)
			tree = waiter->node;
		else
			join_trees(graph, tree, waiter->node);
	}
	return tree;
}

/*
 * Enter those holders of a lock that block its waiters, one of which is the node
 * "tree".
 */
static void
enter_holders(LgGraph *graph, int l, int tree)
{
	LgLock	   *lock = &graph->locks[l];
	LOCKMASK	blocking = conflicting(lock, lock->waited);

	carry_over_holders(graph, lock, graph->looked_at);
	for (int i = 0; i < lock->nholders; i++)
	{
		LgHolder   *holder = &graph->holders[lock->holder + i];

		holder->lock = l;
		holder->blocks = (holder->mask & blocking) != 0;
		if (holder->blocks)
		{
			LgNode	   *node = add_node(graph, holder->node, holder->procno, holder->pid);

			holder->next_of_node = node->first_hold;
			node->first_hold = lock->holder + i;
			join_trees(graph, tree, holder->node);
		}
	}
}

/* Enter the waits that were too young to be walked: a waiter is no root. */
static void
enter_young_waits(LgGraph *graph, const LgFound *found, int nfound)
{
	for (int i = 0; i < nfound; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[found[i].procno];
		LgNode	   *node = lg_node(graph, found[i].procno);

		if (node != NULL && node->waiting)
			continue;
		node = lg_node(graph, lg_leader_number(proc));
		if (node != NULL && ((volatile PGPROC *) proc)->waitLock != NULL)
			node->waiting = true;
	}
}

/* Bring what is remembered of each node up to date. */
static void
track_nodes(LgGraph *graph)
{
	int64		now = lg_now();

	for (int i = 0; i < graph->nactive; i++)
	{
		LgNode	   *node = &graph->nodes[graph->active[i]];
		LgWaitTrack *track = wait_track(graph, graph->active[i], node->pid);

		if (!node->waiting)
			end_wait(track, now);
	}
	track_cycles(graph, now);
}

/*
 * Look at the lock manager: walk the locks of all waiters in "found" that
 * have waited at least min_age ns, and find out which node blocks which since when.
 * "server" has the server's own settings; it and "tracks" are for lg_load_node().
 *
 * Takes the partition lock of each of these locks, one at a time, shared.
 */
void
lg_graph_walk(LgGraph *graph, LgTrack *tracks, const LgClock *clock,
			  const LgValues *server,
			  const LgFound *found, int nfound, int64 min_age)
{
	begin_look(graph);
	graph->tracks = tracks;
	graph->clock = clock;
	graph->server = server;

	for (int i = 0; i < nfound; i++)
		graph->wait_tracks[found[i].procno].walked = false;

	/* Most are in a queue that has been copied by their turn. */
	for (int i = 0; i < nfound; i++)
		if (clock->now - found[i].since >= min_age &&
			!graph->wait_tracks[found[i].procno].walked)
			walk_lock(graph, &ProcGlobal->allProcs[found[i].procno]);

	lg_note_partition_lock_time(graph->max_lock_time);

	/* All that was seen was there by now at the latest. */
	graph->looked_at = lg_now();

	for (int l = 0; l < graph->nlocks; l++)
		enter_holders(graph, l, enter_waiters(graph, l));
	enter_young_waits(graph, found, nfound);

	/* Since when a root has been idle bears on which node is to blame. */
	for (int i = 0; i < graph->nactive; i++)
	{
		LgNode	   *node = &graph->nodes[graph->active[i]];

		if (node->first_hold >= 0 && !node->waiting)
			lg_load_node(graph, node);
	}

	for (int l = 0; l < graph->nlocks; l++)
		blame_lock(graph, &graph->locks[l]);
	find_cycles(graph);
	track_nodes(graph);
}

/* A root blocker blocks a session and waits for no heavyweight lock itself. */
bool
lg_is_root(LgGraph *graph, const LgNode *node)
{
	return node->look == graph->look && !node->waiting &&
		node->blocking_since != LG_NEVER;
}

/*
 * A queued blocker waits itself while others wait for it, is in no cycle, and
 * either its own wait or theirs is not for a row.
 */
bool
lg_is_queued_blocker(const LgGraph *graph, const LgNode *node)
{
	return node->look == graph->look && node->waiting && !node->in_cycle &&
		node->blame_since != LG_NEVER && lg_queued_wait(graph, node) != NULL;
}

/* The wait of a node that has lasted longest, or NULL if none was walked. */
const LgWaiter *
lg_longest_wait(LgGraph *graph, const LgNode *node)
{
	const LgWaiter *longest = NULL;

	for (int i = node->first_wait; i >= 0; i = graph->waiters[i].next_of_node)
		if (longest == NULL || graph->waiters[i].since < longest->since)
			longest = &graph->waiters[i];
	return longest;
}

/*
 * How long a waiter has waited since the last look, in ns: all of its wait, if
 * this is the first look that sees it; but nothing from before "not_before".
 */
int64
lg_newly_waited(const LgGraph *graph, const LgWaiter *waiter, int64 now,
				int64 last_look, int64 not_before)
{
	int64		from = waiter->since;

	if (waiter->seen != graph->looked_at)
		from = Max(from, last_look);
	return Max(now - Max(from, not_before), 0);
}

/*
 * The wait by which a node is a queued blocker, the longest if there are
 * several; NULL if it waits for none of the locks of this look.
 */
const LgWaiter *
lg_queued_wait(const LgGraph *graph, const LgNode *node)
{
	const LgWaiter *longest = NULL;

	for (int i = node->first_wait; i >= 0; i = graph->waiters[i].next_of_node)
		if ((node->row_waits || !is_row_lock(&graph->locks[graph->waiters[i].lock].tag)) &&
			(longest == NULL || graph->waiters[i].since < longest->since))
			longest = &graph->waiters[i];
	return longest;
}

/* Is it a lock of a kind whose requests may step aside? */
static bool
may_step_aside(const LOCKTAG *tag)
{
	switch (tag->locktag_type)
	{
		case LOCKTAG_RELATION:
		case LOCKTAG_OBJECT:
		case LOCKTAG_ADVISORY:
		case LOCKTAG_USERLOCK:
			return true;
		default:
			return false;
	}
}

/*
 * The request of a session itself, not of its parallel workers, that stops others
 * behind it and may step aside; NULL if there is none, or if it has just begun.
 */
const LgWaiter *
lg_request_in_the_way(const LgGraph *graph, const LgNode *node)
{
	for (int w = node->first_wait; w >= 0; w = graph->waiters[w].next_of_node)
	{
		const LgWaiter *request = &graph->waiters[w];
		const LgLock *lock = &graph->locks[request->lock];

		if (request->procno != request->node || request->wait_start == 0 ||
			!may_step_aside(&lock->tag))
			continue;
		for (int i = w + 1; i < lock->waiter + lock->nwaiters; i++)
			if (graph->waiters[i].node != request->node &&
				(lock->conflicts[graph->waiters[i].mode] & LOCKBIT_ON(request->mode)) != 0)
				return request;
	}
	return NULL;
}

/*
 * Do others wait for a lock that this lock group holds?  One whose request lets
 * others pass has time.
 */
bool
lg_holds_what_others_want(const LgGraph *graph, const LgNode *node)
{
	for (int h = node->first_hold; h >= 0; h = graph->holders[h].next_of_node)
	{
		const LgHolder *hold = &graph->holders[h];
		const LgLock *lock = &graph->locks[hold->lock];

		for (int i = 0; i < lock->nwaiters && hold->blocks; i++)
		{
			const LgWaiter *waiter = &graph->waiters[lock->waiter + i];

			if (waiter->node != hold->node &&
				(lock->conflicts[waiter->mode] & hold->mask) != 0 &&
				!lg_is_yielding(waiter->procno, waiter->wait_start))
				return true;
		}
	}
	return false;
}

/*
 * The entry of a process that holds that lock, in whatever mode; to compare
 * only.  NULL if it does not hold it.  "likely" is where it was before, or NULL: a
 * process may hold very many locks.  The caller holds the partition lock of the
 * lock.
 */
const void *
lg_find_held(int procno, int pid, const LOCKTAG *tag, const void *likely)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[procno];
	int			partition = LockHashPartition(LockTagHashCode(tag));
	volatile const PROCLOCK *before = (volatile const PROCLOCK *) likely;

	if (((volatile PGPROC *) proc)->pid != pid)
		return NULL;

	/*
	 * Memory of the lock table is never unmapped.  An entry that is free
	 * holds nothing; one that is of this lock and process is of this
	 * partition.
	 */
	if (before != NULL && before->tag.myProc == proc && before->holdMask != 0 &&
		memcmp(&before->tag.myLock->tag, tag, sizeof(LOCKTAG)) == 0)
		return likely;
	for (PROCLOCK *proclock = lg_first_held(proc, partition); proclock != NULL;
		 proclock = lg_next_held(proc, partition, proclock))
		if (proclock->holdMask != 0 &&
			memcmp(&proclock->tag.myLock->tag, tag, sizeof(LOCKTAG)) == 0)
			return proclock;
	return NULL;
}

/* The same.  Takes that lock, shared. */
const void *
lg_holds_lock(int procno, int pid, const LOCKTAG *tag, const void *likely)
{
	LWLock	   *partition = LockHashPartitionLock(LockTagHashCode(tag));
	const void *found;
	int64		locked;

	LWLockAcquire(partition, LW_SHARED);
	locked = lg_now();
	found = lg_find_held(procno, pid, tag, likely);
	locked = lg_now() - locked;
	LWLockRelease(partition);
	lg_note_partition_lock_time(locked);
	return found;
}

/*
 * How has the wait of a process ended that a look first saw at "seen"?  Not
 * known if it has not ended, or if that was not seen.  "granted" is what
 * lg_granted_waits() gave during that wait.
 */
LgWaitEnd
lg_wait_end(const LgGraph *graph, int procno, int pid, int64 seen, uint32 granted)
{
	const LgWaitTrack *track = &graph->wait_tracks[procno];

	if (track->pid == pid && track->ended_looked == seen && track->ended != LG_END_UNKNOWN)
		return track->ended;
	return lg_granted_waits(procno, pid, granted) != granted ? LG_GRANTED : LG_END_UNKNOWN;
}

/*
 * Step through the blockers of a waiter, in no particular order of holders,
 * then of the queue ahead of it.  Begin with position 0; false at the end.
 * Members of the waiter's own lock group do not block it, except on a
 * relation-extension lock.
 */
bool
lg_next_blocker(LgGraph *graph, const LgWaiter *waiter, LgBlocker *blocker)
{
	const LgLock *lock = &graph->locks[waiter->lock];
	LOCKMASK	conflicts = lock->conflicts[waiter->mode];
	bool		within_group =
		lock->tag.locktag_type == LOCKTAG_RELATION_EXTEND;

	while (blocker->position < lock->nholders)
	{
		const LgHolder *holder = &graph->holders[lock->holder + blocker->position++];

		if ((holder->mask & conflicts) == 0 || holder->procno == waiter->procno ||
			(holder->node == waiter->node && !within_group))
			continue;
		blocker->node = holder->node;
		blocker->procno = holder->procno;
		blocker->pid = holder->pid;
		blocker->kind = LG_HOLDER;
		return true;
	}
	while (blocker->position - lock->nholders < lock->nwaiters)
	{
		const LgWaiter *ahead =
			&graph->waiters[lock->waiter + blocker->position - lock->nholders];

		if (ahead == waiter)
			return false;
		blocker->position++;
		if ((LOCKBIT_ON(ahead->mode) & conflicts) == 0 ||
			(ahead->node == waiter->node && !within_group))
			continue;
		blocker->node = ahead->node;
		blocker->procno = ahead->procno;
		blocker->pid = ahead->pid;
		blocker->kind = LG_QUEUE;
		return true;
	}
	return false;
}

/*
 * Visit all waiters of a lock that conflict with "modes" and stand behind
 * "after" (an index in waiters), and whose node has not been visited.  As the
 * visited part of a mode's queue is always its end, each waiter is passed
 * over once in a traversal, however many nodes it waits for.
 */
static void
visit_behind(LgGraph *graph, LgLock *lock, LOCKMASK modes, int after,
			 int parent, LgBlockKind kind)
{
	int			node = graph->steps[parent].node;
	int			first = graph->nsteps;

	if (lock->visit != graph->visit)
	{
		lock->visit = graph->visit;
		memcpy(lock->cursor, lock->last, sizeof(lock->cursor));
	}
	for (int mode = 1; mode < LG_LOCKMODES; mode++)
	{
		int			i;

		if ((modes & LOCKBIT_ON(mode)) == 0)
			continue;
		for (i = lock->cursor[mode]; i > after; i = graph->waiters[i].same_mode)
		{
			LgNode	   *waiting = &graph->nodes[graph->waiters[i].node];

			if (graph->waiters[i].node == node || waiting->visit == graph->visit)
				continue;
			waiting->visit = graph->visit;
			graph->steps[graph->nsteps].node = graph->waiters[i].node;
			graph->steps[graph->nsteps].parent = parent;
			graph->steps[graph->nsteps].level = graph->steps[parent].level + 1;
			graph->steps[graph->nsteps].kind = kind;
			graph->steps[graph->nsteps].waiter = i;
			graph->nsteps++;
		}
		lock->cursor[mode] = i;
	}

	/* They were found from the end of the queue: turn them round. */
	for (int last = graph->nsteps - 1; first < last; first++, last--)
	{
		LgStep		step = graph->steps[first];

		graph->steps[first] = graph->steps[last];
		graph->steps[last] = step;
	}
}

/*
 * All nodes that wait for "start", directly or through others, each once.
 * They are left in graph->steps, nearest first, with "start" itself as the
 * first; returns their number without it.  Linear in holders and waiters.
 */
int
lg_downstream(LgGraph *graph, int start)
{
	graph->visit++;
	graph->nodes[start].visit = graph->visit;
	graph->nsteps = 1;
	graph->steps[0].node = start;
	graph->steps[0].parent = -1;
	graph->steps[0].level = 0;
	graph->steps[0].kind = LG_HOLDER;
	graph->steps[0].waiter = -1;

	for (int i = 0; i < graph->nsteps; i++)
	{
		LgNode	   *node = &graph->nodes[graph->steps[i].node];

		for (int h = node->first_hold; h >= 0; h = graph->holders[h].next_of_node)
		{
			LgLock	   *lock = &graph->locks[graph->holders[h].lock];

			visit_behind(graph, lock,
						 lock->waited & conflicting(lock, graph->holders[h].mask),
						 -1, i, LG_HOLDER);
		}
		for (int w = node->first_wait; w >= 0; w = graph->waiters[w].next_of_node)
		{
			LgLock	   *lock = &graph->locks[graph->waiters[w].lock];

			visit_behind(graph, lock,
						 lock->waited & lock->conflicts[graph->waiters[w].mode],
						 w, i, LG_QUEUE);
		}
	}
	return graph->nsteps - 1;
}

/*
 * Bring the steps of the last traversal downstream into the order in which a
 * tree is drawn: each node before what is below it, and that before the next.
 * Allocates in the current context.
 */
void
lg_depth_first(LgGraph *graph)
{
	int			n = graph->nsteps;
	LgStep	   *old = palloc_array(LgStep, n);
	int		   *first_child = palloc_array(int, n);
	int		   *sibling = palloc_array(int, n);
	int		   *stack = palloc_array(int, n + 1);
	int		   *place = palloc_array(int, n);
	int			depth = 0;
	int			at = 0;

	memcpy(old, graph->steps, n * sizeof(LgStep));
	for (int i = n - 1; i >= 0; i--)
		first_child[i] = sibling[i] = -1;
	for (int i = n - 1; i > 0; i--)
	{
		sibling[i] = first_child[old[i].parent];
		first_child[old[i].parent] = i;
	}
	stack[depth++] = 0;
	while (depth > 0)
	{
		int			i = stack[--depth];

		if (sibling[i] >= 0)
			stack[depth++] = sibling[i];
		if (first_child[i] >= 0)
			stack[depth++] = first_child[i];
		place[i] = at;
		graph->steps[at] = old[i];
		if (i > 0)
			graph->steps[at].parent = place[old[i].parent];
		at++;
	}
	pfree(old);
	pfree(first_child);
	pfree(sibling);
	pfree(stack);
	pfree(place);
}

/* Describe one wait as evidence. */
void
lg_describe_wait(const LgGraph *graph, const LgWaiter *wait, LgEvidence *evidence)
{
	evidence->kind = LG_QUEUE;
	evidence->tag = graph->locks[wait->lock].tag;
	evidence->procno = evidence->waiter_procno = wait->procno;
	evidence->pid = evidence->waiter_pid = wait->pid;
	evidence->waiter_start = wait->wait_start;
}

/* A node that blocks a waiter is found: remember how, once. */
static int
add_upstream(LgGraph *graph, int n, const LgWaiter *waiter, int node,
			 LgBlockKind kind, int procno, int pid)
{
	LgNode	   *next = lg_node(graph, node);
	LgEvidence *edge = &graph->edges[node];

	if (next == NULL || next->visit == graph->visit)
		return n;
	next->visit = graph->visit;
	lg_describe_wait(graph, waiter, edge);
	edge->kind = kind;
	edge->procno = procno;
	edge->pid = pid;
	graph->downward[node] = waiter->node;
	graph->upstream[n] = node;
	return n + 1;
}

/*
 * Add all that directly block a waiter (an index in waiters) to the
 * n nodes upstream; returns their number.  As the visited part of a mode's
 * queue is always its beginning, each waiter is passed over once per mode in a
 * traversal, and so are the holders.
 */
static int
visit_ahead(LgGraph *graph, int n, int waiting)
{
	const LgWaiter *waiter = &graph->waiters[waiting];
	LgLock	   *lock = &graph->locks[waiter->lock];
	LOCKMASK	conflicts = lock->conflicts[waiter->mode];

	if (lock->visit != graph->visit)
	{
		lock->visit = graph->visit;
		lock->held_visited = 0;
		for (int mode = 0; mode < LG_LOCKMODES; mode++)
			lock->cursor[mode] = lock->waiter;
	}
	for (int i = 0; i < lock->nholders && (conflicts & ~lock->held_visited); i++)
	{
		const LgHolder *holder = &graph->holders[lock->holder + i];

		if (holder->mask & conflicts)
			n = add_upstream(graph, n, waiter, holder->node, LG_HOLDER,
							 holder->procno, holder->pid);
	}
	lock->held_visited |= conflicts;

	for (int mode = 1; mode < LG_LOCKMODES; mode++)
	{
		if ((conflicts & lock->waited & LOCKBIT_ON(mode)) == 0)
			continue;
		for (; lock->cursor[mode] < waiting; lock->cursor[mode]++)
		{
			const LgWaiter *ahead = &graph->waiters[lock->cursor[mode]];

			if (ahead->mode == mode)
				n = add_upstream(graph, n, waiter, ahead->node, LG_QUEUE,
								 ahead->procno, ahead->pid);
		}
	}
	return n;
}

/*
 * All nodes that "start" waits for, directly or through others, each once.
 * They are left in graph->upstream, with "start" itself as the first, and for
 * each in graph->edges how it blocks one that was found before it.
 * Returns their number, "start" included.  Linear in holders and waiters.
 */
int
lg_upstream(LgGraph *graph, int start)
{
	int			n = 0;

	graph->visit++;
	graph->nodes[start].visit = graph->visit;
	graph->upstream[n++] = start;
	for (int i = 0; i < n; i++)
		for (int w = graph->nodes[graph->upstream[i]].first_wait; w >= 0;
			 w = graph->waiters[w].next_of_node)
			n = visit_ahead(graph, n, w);
	return n;
}

/* Does a node wait for itself? */
bool
lg_in_cycle(const LgGraph *graph, int node)
{
	return graph->nodes[node].in_cycle;
}

/*
 * The procnos from which trees are drawn, those with the most behind them
 * first: all roots, and for each cycle its member with the lowest pid.
 * "roots" has room for one per PGPROC.  Returns how many.
 */
int
lg_find_roots(LgGraph *graph, int *roots)
{
	int		   *below = palloc_array(int, LG_TOTAL_PROCS);
	bool	   *reached = palloc0_array(bool, LG_TOTAL_PROCS);
	int			n = 0;

	for (int i = 0; i < graph->nactive; i++)
	{
		int			node = graph->active[i];

		if (graph->nodes[node].waiting ||
			graph->nodes[node].blocking_since == LG_NEVER)
			continue;
		below[node] = lg_downstream(graph, node);
		for (int s = 0; s < graph->nsteps; s++)
			reached[graph->steps[s].node] = true;
		roots[n++] = node;
	}

	/* What no root has reached is in a cycle, or behind one. */
	for (;;)
	{
		int			lowest = -1;

		for (int i = 0; i < graph->nactive; i++)
		{
			int			node = graph->active[i];

			if (!reached[node] && graph->nodes[node].first_wait >= 0 &&
				(lowest < 0 ||
				 graph->nodes[node].pid < graph->nodes[lowest].pid) &&
				lg_in_cycle(graph, node))
				lowest = node;
		}
		if (lowest < 0)
			break;
		below[lowest] = lg_downstream(graph, lowest);
		for (int s = 0; s < graph->nsteps; s++)
			reached[graph->steps[s].node] = true;
		roots[n++] = lowest;
	}

	/* Few; insertion keeps equals in order. */
	for (int i = 1; i < n; i++)
	{
		int			root = roots[i];
		int			at = i;

		for (; at > 0 && below[roots[at - 1]] < below[root]; at--)
			roots[at] = roots[at - 1];
		roots[at] = root;
	}
	pfree(below);
	pfree(reached);
	return n;
}
