/*-------------------------------------------------------------------------
 *
 * unblock.c
 *		Which sessions could go on if others went.
 *
 * To remove a session is in vain if no other can go on then.  A waiter can, once
 * all that block it directly have gone: each ends by itself or is removed, too.
 * (One that waits for none but the removed session need not be taken for gone:
 * the first of those that lead to it can go on itself.)
 *
 * A queue is gone through once, with what stands ahead summed up by lock mode,
 * so that this is linear in holders and waiters, like the look.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bitutils.h"

#include "shared.h"
#include "unblock.h"
#include "waitgraph.h"

/* A set of nodes.  Whether it has three or more makes no difference. */
#define FEW		3

typedef struct Few
{
	int			n;
	int			node[FEW];
} Few;

static inline void
few_add(Few *few, int node)
{
	for (int i = 0; i < few->n; i++)
		if (few->node[i] == node)
			return;
	if (few->n < FEW)
		few->node[few->n++] = node;
}

static inline void
few_add_all(Few *few, const Few *more)
{
	for (int i = 0; i < more->n && few->n < FEW; i++)
		few_add(few, more->node[i]);
}

/* How many of them are not "node": 0, 1 or more; one of these in *other. */
static inline int
few_besides(const Few *few, int node, int *other)
{
	int			n = 0;

	for (int i = 0; i < few->n; i++)
		if (few->node[i] != node)
		{
			*other = few->node[i];
			n++;
		}
	return n;
}

/* Those that block a waiter: all but those that end, and those that stay. */
typedef struct Blocking
{
	Few			present;
	Few			staying;
} Blocking;

static inline void
add_blocking(Blocking *blocking, const LgUnblock *unblock, int node)
{
	if (unblock->fate[node] == LG_ENDS)
		return;
	few_add(&blocking->present, node);
	if (unblock->fate[node] == LG_STAYS)
		few_add(&blocking->staying, node);
}

/*
 * Memory for the sessions and locks of the last look, in the current context.
 * No session that blocks is taken to go; the caller sets the fate of those that
 * do.
 */
LgUnblock *
lg_unblock_create(const LgGraph *graph)
{
	LgUnblock  *unblock = palloc(sizeof(LgUnblock));

	unblock->fate = palloc0_array(uint8, LG_TOTAL_PROCS);
	unblock->asked = palloc0_array(bool, LG_TOTAL_PROCS);
	unblock->passed = NULL;
	unblock->alone = palloc_array(int, LG_TOTAL_PROCS);
	unblock->freed = palloc_array(LgFreed, Max(graph->nlocks, 1) * LG_LOCKMODES);
	return unblock;
}

/* Is anything asked about a node that blocks others with this lock? */
static bool
is_asked_about(const LgGraph *graph, const LgUnblock *unblock, const LgLock *lock)
{
	for (int i = 0; i < lock->nholders; i++)
		if (unblock->asked[graph->holders[lock->holder + i].node])
			return true;
	for (int i = 0; i < lock->nwaiters - 1; i++)
		if (unblock->asked[graph->waiters[lock->waiter + i].node])
			return true;
	return false;
}

/*
 * Do so many that stay block every waiter for these modes, whichever comes next,
 * that none can go on?
 */
static bool
is_settled(const LgLock *lock, const Blocking *holders, const Blocking *ahead)
{
	for (LOCKMASK modes = lock->waited; modes != 0; modes &= modes - 1)
	{
		int			mode = pg_rightmost_one_pos32(modes);
		int			n = Min(holders[mode].present.n, holders[mode].staying.n);

		for (LOCKMASK conflicts = lock->conflicts[mode] & lock->waited;
			 conflicts != 0; conflicts &= conflicts - 1)
		{
			const Blocking *other = &ahead[pg_rightmost_one_pos32(conflicts)];

			n = Max(n, Min(other->present.n, other->staying.n));
		}
		if (n < FEW)
			return false;
	}
	return true;
}

/* Go through the waiters of one lock (its index). */
static void
unblock_lock(const LgGraph *graph, LgUnblock *unblock, int l)
{
	const LgLock *lock = &graph->locks[l];
	LgFreed    *freed = &unblock->freed[l * LG_LOCKMODES];
	bool		within_group = lock->tag.locktag_type == LOCKTAG_RELATION_EXTEND;
	Blocking	holders[LG_LOCKMODES] = {0};
	Blocking	ahead[LG_LOCKMODES] = {0};

	for (int i = 0; i < lock->nholders; i++)
	{
		const LgHolder *holder = &graph->holders[lock->holder + i];

		if (unblock->passed != NULL && unblock->passed[lock->holder + i])
			continue;
		for (LOCKMASK modes = lock->waited; modes != 0; modes &= modes - 1)
		{
			int			mode = pg_rightmost_one_pos32(modes);

			if (holder->mask & lock->conflicts[mode])
				add_blocking(&holders[mode], unblock, holder->node);
		}
	}

	for (int i = 0; i < lock->nwaiters; i++)
	{
		int			index = lock->waiter + i;
		const LgWaiter *waiter = &graph->waiters[index];
		int			own = within_group ? -1 : waiter->node;
		Blocking	blocking = holders[waiter->mode];
		int			other;

		for (LOCKMASK modes = lock->conflicts[waiter->mode] & lock->waited;
			 modes != 0; modes &= modes - 1)
		{
			int			mode = pg_rightmost_one_pos32(modes);

			few_add_all(&blocking.present, &ahead[mode].present);
			few_add_all(&blocking.staying, &ahead[mode].staying);
		}
		if (few_besides(&blocking.present, own, &other) == 1 && other != waiter->node &&
			unblock->alone[other] < 0)
			unblock->alone[other] = index;
		if (few_besides(&blocking.staying, own, &other) == 0)
		{
			LgFreed    *mine = &freed[waiter->mode];

			if (mine->last >= 0 && graph->waiters[mine->last].node != waiter->node)
				mine->other = mine->last;
			mine->last = index;
		}
		if (ahead[waiter->mode].staying.n < FEW)
		{
			add_blocking(&ahead[waiter->mode], unblock, waiter->node);
			if (ahead[waiter->mode].staying.n == FEW && is_settled(lock, holders, ahead))
				break;
		}
	}
}

/*
 * Find out, by the fates that the caller has set, which waiters could go on if
 * the nodes went about which is asked.
 */
void
lg_unblock(const LgGraph *graph, LgUnblock *unblock)
{
	for (int i = 0; i < graph->nactive; i++)
		unblock->alone[graph->active[i]] = -1;
	for (int i = 0; i < graph->nlocks * LG_LOCKMODES; i++)
		unblock->freed[i].last = unblock->freed[i].other = -1;
	for (int l = 0; l < graph->nlocks; l++)
		if (is_asked_about(graph, unblock, &graph->locks[l]))
			unblock_lock(graph, unblock, l);
}

/* One of those that are freed on a lock and behind "after", of another node. */
static int
freed_behind(const LgGraph *graph, const LgUnblock *unblock, int l, LOCKMASK modes,
			 int after, int node)
{
	for (modes &= graph->locks[l].waited; modes != 0; modes &= modes - 1)
	{
		const LgFreed *freed =
			&unblock->freed[l * LG_LOCKMODES + pg_rightmost_one_pos32(modes)];
		int			waiter = freed->last;

		if (waiter >= 0 && graph->waiters[waiter].node == node)
			waiter = freed->other;
		if (waiter > after)
			return waiter;
	}
	return -1;
}

/*
 * A waiter (index in waiters) that waits directly for this node, and that could
 * go on if the node went, and with it all that may be removed; -1 if there is
 * none.  The node itself is one of those, or unblock->alone has to tell.  That
 * it would be asked about has been said before lg_unblock().
 */
int
lg_freed_by(const LgGraph *graph, const LgUnblock *unblock, int node)
{
	const LgNode *blocker = &graph->nodes[node];
	int			waiter = unblock->alone[node];

	for (int h = blocker->first_hold; h >= 0 && waiter < 0; h = graph->holders[h].next_of_node)
	{
		int			l = graph->holders[h].lock;
		LOCKMASK	modes = 0;

		for (int mode = 1; mode < LG_LOCKMODES; mode++)
			if (graph->locks[l].conflicts[mode] & graph->holders[h].mask)
				modes |= LOCKBIT_ON(mode);
		waiter = freed_behind(graph, unblock, l, modes, -1, node);
	}
	for (int w = blocker->first_wait; w >= 0 && waiter < 0; w = graph->waiters[w].next_of_node)
		waiter = freed_behind(graph, unblock, graph->waiters[w].lock,
							  graph->locks[graph->waiters[w].lock].conflicts[graph->waiters[w].mode],
							  w, node);
	return waiter;
}
