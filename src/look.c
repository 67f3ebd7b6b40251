/*-------------------------------------------------------------------------
 *
 * look.c
 *		What one look at the server sees.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/lwlock.h"

#include "clock.h"
#include "compat.h"
#include "look.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "types.h"
#include "waitgraph.h"

/* How long the worker's last measure of a session is shown. */
#define MEASURE_IS_RECENT	(10 * LG_NANOS_PER_SEC)

/*
 * Set up what looks need, in the current memory context, once and for all:
 * nothing is allocated by a look.
 */
void
lg_init_view(LgView *view)
{
	memset(view, 0, sizeof(*view));
	view->context = CurrentMemoryContext;
	view->graph = lg_graph_create(CurrentMemoryContext);
	view->tracks = lg_alloc_per_proc(sizeof(LgTrack));
	view->times = lg_alloc_per_proc(sizeof(LgBlockTime));
	view->live.procno = palloc_array(int, LG_TOTAL_PROCS);
	view->found = palloc_array(LgFound, LG_TOTAL_PROCS);
	view->scratch = palloc_array(int64, LG_TOTAL_PROCS);
}

/*
 * List the processes, and find those that wait for a lock: view->found.  The
 * caller has read the clock.  Takes no lock of the lock manager.
 */
void
lg_find_waits(LgView *view)
{
	lg_live_procs(&view->live);
	view->nfound = lg_find_waiters(view->graph, view->found, view->nfound,
								   &view->live, &view->clock);
	view->looked = false;
	view->judged = NULL;
}

/*
 * Look at the locks of those that have waited for min_age ns at least, and
 * count for how long in all each session has blocked others.  Takes partition
 * locks, see lg_graph_walk().  Returns until when to watch for the next waits, see
 * lg_count_block_times().
 */
int64
lg_look_at_locks(LgView *view, int64 min_age)
{
	int64		until;

	lg_graph_walk(view->graph, view->tracks, &view->clock, &view->server,
				  view->found, view->nfound, min_age);
	until = lg_count_block_times(view->graph, view->times);
	view->looked = true;
	return until;
}

/*
 * A fresh look at every lock that is waited for, for a backend that has not
 * looked before.  Allocates in the current memory context.  Takes
 * LgShared->lock, shared.
 */
LgView *
lg_look(void)
{
	LgView	   *view = palloc(sizeof(LgView));

	lg_init_view(view);
	lg_settings_server_values(&view->server);
	lg_settings_smallest(&view->server, view->smallest);
	lg_clock_read(&view->clock);
	lg_find_waits(view);
	lg_look_at_locks(view, 0);

	for (int i = 0; i < view->graph->nactive; i++)
		lg_load_node(view->graph, &view->graph->nodes[view->graph->active[i]]);

	/* The worker may know that it has been so for longer. */
	LWLockAcquire(lg_shared->lock, LW_SHARED);
	for (int i = 0; i < view->graph->nactive; i++)
	{
		LgNode	   *node = &view->graph->nodes[view->graph->active[i]];
		LgSlot	   *slot = &lg_shared->slots[view->graph->active[i]];

		if (node->blame_since == LG_NEVER ||
			slot->measured_pid != lg_occupant(view->graph->active[i], node->pid) ||
			view->clock.now - slot->measured_at >= MEASURE_IS_RECENT)
			continue;
		for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
			if (slot->blocking_since[timer] != LG_NEVER)
				view->times[view->graph->active[i]].time[timer] =
					Max(view->clock.now - slot->blocking_since[timer], 0);
		if (node->known->idle_since != LG_NEVER)
			node->known->idle_since = Min(node->known->idle_since, slot->idle_since);
	}
	LWLockRelease(lg_shared->lock);
	return view;
}

/*
 * How many sessions wait for a node, and how long the longest of them has
 * waited, in ns.  Leaves the steps of the traversal in the graph.
 */
void
lg_count_blocked(LgView *view, int node, int *blocked, int64 *longest)
{
	LgGraph    *graph = view->graph;

	*blocked = 0;
	*longest = 0;
	if (!view->looked || lg_node(graph, node) == NULL)
		return;
	*blocked = lg_downstream(graph, node);
	for (int i = 1; i <= *blocked; i++)
	{
		const LgNode *waiting = &graph->nodes[graph->steps[i].node];

		*longest = Max(*longest, view->clock.now -
					   lg_longest_wait(graph, waiting)->since);
	}
}
