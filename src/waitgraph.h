/*-------------------------------------------------------------------------
 *
 * waitgraph.h
 *		Which process waits for which.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_WAITGRAPH_H
#define LOCKGUARD_WAITGRAPH_H

#include "clock.h"
#include "compat.h"
#include "session.h"
#include "types.h"

#include "storage/lock.h"

#define LG_LOCKMODES	(AccessExclusiveLock + 1)

typedef enum LgBlockKind
{
	LG_HOLDER,					/* holds the lock in a conflicting mode */
	LG_QUEUE					/* waits ahead for a conflicting mode */
} LgBlockKind;

/* How a wait has ended, as far as that was seen. */
typedef enum LgWaitEnd
{
	LG_END_UNKNOWN,
	LG_GRANTED,
	LG_GAVE_UP					/* or got the error of a deadlock */
} LgWaitEnd;

/*
 * What is remembered of a process's waits for heavyweight locks from one look
 * to the next, one per PGPROC; see wait_track().  What each look needs of
 * each waiter is one cache line.
 */
typedef struct LgWaitTrack
{
	int			pid;
	bool		in_wait;		/* when last seen */
	bool		walked;			/* this look has found it in a queue */
	bool		counted;		/* this wait has been counted as contention */

	/* That wait, or its last one. */
	LgMoment	wait;
	int64		wait_seen;		/* the scan that has seen it last */
	LOCK	   *wait_lock;
	TimestampTz stale_start;	/* what waitStart showed of an earlier one */
	int64		wait_looked;	/* first look that walked the lock in this
								 * wait */
	int64		ahead_looked;	/* first look that saw it ahead of an older
								 * wait */

	int64		waited;			/* ns spent in waits that are over, at most */
	int64		surely_waited;	/* the same, at least */
	int64		wait_ended;		/* when the last one was seen to be over */
	int64		member_ended;	/* the same of the others of its lock group */

	int64		ended_looked;	/* wait_looked of the last wait that ended, */
	LgWaitEnd	ended;			/* and how */

	/* Deadlocks; see track_cycles(). */
	int64		cycle_seen;		/* last look that saw it in one; 0 = is in
								 * none */
	TimestampTz cycle_stmt;		/* its statement then */
	int64		cycle_left;		/* when it came out of one without an error;
								 * or 0 */
	int64		cycle_error;	/* when it came out with the error; or 0 */
	TimestampTz error_stmt;		/* the statement that it was left to undo */
} LG_ON_CACHE_LINE LgWaitTrack;

StaticAssertDecl(offsetof(LgWaitTrack, waited) <= LG_CACHE_LINE,
				 "what is needed of each process is one cache line");

/* An entry of a contended lock's wait queue. */
typedef struct LgWaiter
{
	int			procno;			/* the process that waits */
	int			node;			/* its lock group's leader */
	int			lock;			/* index in LgGraph.locks */
	int			pid;
	LOCKMODE	mode;
	TimestampTz wait_start;		/* as in shared memory; 0 = just now */
	int64		since;			/* the same, monotonic ns */
	int64		seen;			/* first look that saw this wait */
	int			same_mode;		/* the next one ahead with this mode, or -1 */
	int			next_of_node;	/* another wait of the same node, or -1 */
} LgWaiter;

/* A process that holds a contended lock. */
typedef struct LgHolder
{
	int			procno;
	int			node;
	int			lock;
	int			pid;
	LOCKMASK	mask;
	bool		blocks;			/* conflicts with some waiter */
	const void *proclock;		/* to compare only */
	int			next_of_node;	/* another lock held by the same node, or -1 */
	int64		seen[LG_LOCKMODES]; /* first look that saw this mode held */
} LgHolder;

/* A contended lock: its holders and its queue, in order, as slices. */
typedef struct LgLock
{
	LOCKTAG		tag;
	LOCK	   *address;		/* to compare only */
	uint32		hash;
	int			next_in_bucket;
	const LOCKMASK *conflicts;	/* by lock mode */
	int			holder;			/* first in LgGraph.holders */
	int			nholders;
	int			waiter;			/* first in LgGraph.waiters */
	int			nwaiters;
	LOCKMASK	waited;			/* modes that are waited for */
	int			last[LG_LOCKMODES]; /* last waiter for each mode, or -1 */

	/*
	 * How far a traversal has come, per mode; see visit_behind(),
	 * visit_ahead().
	 */
	uint32		visit;
	int			cursor[LG_LOCKMODES];
	LOCKMASK	held_visited;	/* holders of these modes */
} LgLock;

/* One "W waits because of X": enough to prove it again under the lock. */
typedef struct LgEvidence
{
	LgBlockKind kind;
	LOCKTAG		tag;
	int			procno;			/* X: the process that holds or queues */
	int			pid;
	int			waiter_procno;
	int			waiter_pid;
	TimestampTz waiter_start;	/* its waitStart */
} LgEvidence;

/* What lg_load_node() reads of the leader of a lock group, once per look. */
typedef struct LgKnown
{
	LgSession	session;
	LgValues	values;			/* its settings */
	int64		idle_since;		/* LG_NEVER = not idle */
} LgKnown;

/*
 * A lock group that waits or blocks; indexed by its leader's procno.  This is
 * what is needed of each, and one cache line; the rest is in "known".
 */
typedef struct LgNode
{
	uint32		look;			/* the look that this belongs to */
	int			pid;			/* of the leader */
	int			first_wait;		/* index in waiters, or -1 */
	int			first_hold;		/* index in holders, or -1 */
	int			tree;			/* parent in the union of its tree */
	uint32		visit;
	bool		waiting:1;		/* some member waits for a heavyweight lock */
	bool		row_waits:1;	/* none waits for a lock that is not a row's */
	bool		is_known:1;		/* lg_load_node() has filled "known" in this
								 * look */
	bool		in_cycle:1;		/* waits for itself */
	uint8		blame_kind;		/* LgBlockKind; see below */
	int			blame_procno;
	LgKnown    *known;			/* never NULL, but see is_known */

	int64		blocking_since; /* its oldest pair; LG_NEVER = blocks none */

	/*
	 * The oldest pair for which it is to blame as a root or a queued blocker,
	 * LG_NEVER = it is neither.  What follows is about that pair, else about
	 * the oldest of all; see lg_evidence().
	 */
	int64		blame_since;
	int			blame_pid;		/* of blame_procno, which holds or queues */
	int			blame_waiter;	/* index in waiters */
} LG_ON_CACHE_LINE LgNode;

StaticAssertDecl(sizeof(LgNode) <= LG_CACHE_LINE,
				 "what is needed of each process is one cache line");

/* A blocker of a waiter; see lg_next_blocker(). */
typedef struct LgBlocker
{
	int			position;		/* where the iteration stands; begin with 0 */
	int			node;
	int			procno;
	int			pid;			/* of procno */
	LgBlockKind kind;
} LgBlocker;

/* A node whose blockers are being searched for cycles; see find_cycles(). */
typedef struct LgSearch
{
	int			node;
	int			waiter;			/* the wait whose blockers are next; or -1 */
	int			ahead;			/* how far that has come in its queue,
								 * backward, */
	int			holder;			/* and then among the lock's holders */
} LgSearch;

/* One step of a traversal downstream of a node. */
typedef struct LgStep
{
	int			node;
	int			parent;			/* index in the steps; -1 = the start */
	int			level;
	LgBlockKind kind;
	int			waiter;			/* by which it waits for its parent */
} LgStep;

typedef struct LgGraph
{
	uint32		look;
	uint32		visit;
	int64		looked_at;		/* when the last lock had been walked */

	int			nlocks;
	int			max_locks;
	LgLock	   *locks;
	int			nholders;
	int			max_holders;
	LgHolder   *holders;
	int			nwaiters;
	int			max_waiters;
	LgWaiter   *waiters;
	int			nbuckets;		/* a power of 2 */
	int		   *buckets;		/* locks by hash */

	/* As the look before saw them: since when is each lock held? */
	int			old_nlocks;
	LgLock	   *old_locks;
	int			old_max_locks;
	LgHolder   *old_holders;
	int			old_max_holders;
	int		   *old_buckets;

	LgWaitTrack *wait_tracks;	/* one per PGPROC */
	LgNode	   *nodes;			/* one per PGPROC */
	int			nactive;
	int		   *active;			/* the nodes of this look */
	int			nsteps;
	LgStep	   *steps;			/* of the last traversal, the start first */
	int		   *scratch;		/* one per PGPROC */
	int		   *upstream;		/* of the last traversal upstream, its start
								 * first */
	LgEvidence *edges;			/* by node: how it blocks another of them, */
	int		   *downward;		/* and which, that was found before it */

	/* For find_cycles(): one per PGPROC each; order and low by node. */
	LgSearch   *searches;
	int		   *unassigned;
	int		   *order;			/* in which they were found; -1 = assigned */
	int		   *low;

	int			ncyclic;
	int		   *cyclic;			/* nodes that were in a cycle at the last look */

	int64		max_lock_time;	/* longest a partition lock was held, ns */

	/* The caller's, for lg_load_node(). */
	LgTrack    *tracks;
	const LgClock *clock;
	const LgValues *server;
} LgGraph;

/* A waiter found by the unlocked pass over the PGPROCs. */
typedef struct LgFound
{
	int			procno;
	int			leader;			/* of its lock group */
	int64		since;			/* monotonic ns */
} LgFound;

extern LgGraph *lg_graph_create(MemoryContext context);
extern int	lg_find_waiters(LgGraph *graph, LgFound *found, int nbefore,
							LgLive *live, const LgClock *clock);
extern void lg_graph_walk(LgGraph *graph, LgTrack *tracks, const LgClock *clock,
						  const LgValues *server,
						  const LgFound *found, int nfound, int64 min_age);

extern LgNode *lg_node(LgGraph *graph, int node);
extern void lg_load_node(LgGraph *graph, LgNode *node);
extern LgEvidence lg_evidence(const LgGraph *graph, const LgNode *node);
extern bool lg_is_root(LgGraph *graph, const LgNode *node);
extern bool lg_is_queued_blocker(const LgGraph *graph, const LgNode *node);
extern const LgWaiter *lg_longest_wait(LgGraph *graph, const LgNode *node);
extern int64 lg_newly_waited(const LgGraph *graph, const LgWaiter *waiter,
							 int64 now, int64 last_look, int64 not_before);
extern int64 lg_blocks_since(const LgGraph *graph, const LgNode *node);
extern const LgWaiter *lg_queued_wait(const LgGraph *graph, const LgNode *node);
extern const LgWaiter *lg_request_in_the_way(const LgGraph *graph, const LgNode *node);
extern bool lg_holds_what_others_want(const LgGraph *graph, const LgNode *node);
extern bool lg_next_blocker(LgGraph *graph, const LgWaiter *waiter,
							LgBlocker *blocker);
extern int	lg_downstream(LgGraph *graph, int start);
extern void lg_depth_first(LgGraph *graph);
extern int	lg_upstream(LgGraph *graph, int start);
extern void lg_describe_wait(const LgGraph *graph, const LgWaiter *wait,
							 LgEvidence *evidence);
extern bool lg_in_cycle(const LgGraph *graph, int node);
extern const void *lg_find_held(int procno, int pid, const LOCKTAG *tag,
								const void *likely);
extern const void *lg_holds_lock(int procno, int pid, const LOCKTAG *tag,
								 const void *likely);
extern LgWaitEnd lg_wait_end(const LgGraph *graph, int procno, int pid, int64 seen,
							 uint32 granted);
extern bool lg_undoes_deadlock(const LgGraph *graph, int node, const LgSession *session,
							   int64 now, int64 most);
extern int	lg_find_roots(LgGraph *graph, int *roots);
extern int	lg_tree(LgGraph *graph, int node);

#endif							/* LOCKGUARD_WAITGRAPH_H */
