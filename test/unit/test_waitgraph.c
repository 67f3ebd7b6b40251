/*-------------------------------------------------------------------------
 *
 * test_waitgraph.c
 *		Which session waits for which, and since when.
 *
 *-------------------------------------------------------------------------
 */
#include "model.h"
#include "scene.h"

#include "unit.h"

/* Of most that wait, it is not asked. */
static int64
idle_since(const LgNode *node)
{
	return node->is_known ? node->known->idle_since : LG_NEVER;
}

/* A node with all that can be known of it; NULL if it is not part of the look. */
static LgNode *
node_at(int procno)
{
	LgNode	   *node = lg_node(graph, procno);

	if (node != NULL)
		lg_load_node(graph, node);
	return node;
}

static LgEvidence
evidence_of(int procno)
{
	return lg_evidence(graph, lg_node(graph, procno));
}

static bool
is_root(int procno)
{
	LgNode	   *node = lg_node(graph, procno);

	return node != NULL && lg_is_root(graph, node);
}

static int64
blocking_since(int procno)
{
	LgNode	   *node = lg_node(graph, procno);

	return node == NULL ? LG_NEVER : node->blocking_since;
}

/* How long others have waited for it in all, as incidents count it. */
static int64
blocked_for(int procno)
{
	LgNode	   *node = lg_node(graph, procno);

	return node == NULL ? 0 : lg_block_time(graph, view.times, node, LG_INCIDENT_TIMER);
}

/* "1:holder 2:queue", as lg_next_blocker() has it. */
static const char *
blockers_of(int procno)
{
	static char string[1000];
	LgNode	   *node = lg_node(graph, node_of(procno));

	string[0] = '\0';
	for (int w = node ? node->first_wait : -1; w >= 0; w = graph->waiters[w].next_of_node)
	{
		LgBlocker	blocker = {0};

		if (graph->waiters[w].procno != procno)
			continue;
		while (lg_next_blocker(graph, &graph->waiters[w], &blocker))
			snprintf(string + strlen(string), sizeof(string) - strlen(string), "%s%d:%s",
					 string[0] ? " " : "", blocker.procno,
					 blocker.kind == LG_HOLDER ? "holder" : "queue");
	}
	return string;
}

/*
 * Hand-made situations.
 */

static void
holder_and_queue(void)
{
	scene(5);
	reads(0, table);
	writes(1, table);
	waits_to_alter(2, table);
	waits_to_read(3, table);
	waits_to_write(4, table);
	look();

	CHECK_TEXT(blockers_of(2), "0:holder 1:holder");
	CHECK_TEXT(blockers_of(3), "2:queue");
	CHECK_TEXT(blockers_of(4), "2:queue");
	CHECK(is_root(0) && is_root(1) && !is_root(2) && !is_root(3) && !is_root(4));
	CHECK_INT(lg_downstream(graph, 0), 3);
	CHECK_INT(lg_downstream(graph, 1), 3);
	CHECK_INT(lg_downstream(graph, 2), 2);
	CHECK_INT(lg_downstream(graph, 3), 0);
	CHECK_INT(lg_tree(graph, 0), lg_tree(graph, 4));
	CHECK_INT(lg_upstream(graph, 4), 4);
	CHECK(!lg_in_cycle(graph, 2));
}

/* Compatible modes: readers do not block each other. */
static void
compatible_modes(void)
{
	scene(4);
	reads(0, table);
	holds(1, table, ShareLock);
	waits_to_write(2, table);
	look();
	CHECK_TEXT(blockers_of(2), "1:holder");
	CHECK(lg_node(graph, 0) == NULL);
}

/* Of a row's queue, all wait for the first, which waits for the holder. */
static void
row_queue(void)
{
	scene(5);
	holds(1, row, ExclusiveLock);
	waits_for(1, 0);
	for (int i = 2; i < 5; i++)
		waits(i, row, ExclusiveLock);
	look();
	CHECK(is_root(0));
	CHECK_INT(lg_downstream(graph, 0), 4);
	CHECK_INT(lg_downstream(graph, 1), 3);
	CHECK_TEXT(blockers_of(4), "1:holder 2:queue 3:queue");
	CHECK(!lg_is_queued_blocker(graph, lg_node(graph, 1)));
}

/* A lock group does not block itself, but for the extension of a relation. */
static void
lock_groups(void)
{
	LOCK	   *extension;

	scene(5);
	joins_group(1, 0);
	joins_group(2, 0);
	alters(1, table);
	waits_to_read(3, table);
	extension = lock_on(LOCKTAG_RELATION_EXTEND, 1, 2);
	holds(1, extension, ExclusiveLock);
	waits(2, extension, ExclusiveLock);
	look();
	CHECK_TEXT(blockers_of(3), "1:holder");
	CHECK_TEXT(blockers_of(2), "1:holder");
	CHECK(lg_node(graph, 0)->blocking_since != LG_NEVER);
	CHECK(lg_node(graph, 1) == NULL);
	CHECK(!is_root(0));			/* a member waits */
	CHECK_INT(lg_downstream(graph, 0), 1);
	CHECK(!lg_in_cycle(graph, 0));
}

static void
prepared_transaction(void)
{
	int			prepared;

	scene(2);
	prepared = prepares("the gid");
	waits_for(0, prepared);
	look();
	CHECK(is_root(prepared));
	CHECK_INT(node_at(prepared)->known->session.kind, LG_KIND_PREPARED);
	CHECK_INT(node_at(prepared)->known->session.pid, 0);
	CHECK_INT(lg_downstream(graph, prepared), 1);
}

static void
cycle(void)
{
	int		   *roots;

	scene(6);
	for (int i = 0; i < 3; i++)
		waits_for(i, (i + 1) % 3);
	waits_for(3, 0);			/* behind it, not in it */
	look();
	roots = palloc_array(int, LG_TOTAL_PROCS);
	for (int i = 0; i < 3; i++)
		CHECK(lg_in_cycle(graph, i) && !is_root(i));
	CHECK(!lg_in_cycle(graph, 3));
	CHECK_INT(lg_find_roots(graph, roots), 1);
	CHECK_INT(roots[0], 0);
}

/* A session that holds what it waits for in another mode is no cycle. */
static void
own_lock(void)
{
	scene(2);
	writes(0, table);
	writes(1, table);
	waits(0, table, ShareLock);
	look();
	CHECK_TEXT(blockers_of(0), "1:holder");
	CHECK(!lg_in_cycle(graph, 0));
	CHECK_INT(blocking_since(0), LG_NEVER);
}

/*
 * When a pair began, by its kind.
 */
static void
pair_transaction_id(void)
{
	int64		began;

	scene(3);
	pass(50);
	waits_for(1, 0);
	began = clock_ns;
	pass(50);
	waits_for(2, 0);
	look_after(100);
	CHECK_INT(blocking_since(0), began);
	CHECK_INT(blocked_for(0), clock_ns - began);
	CHECK_INT(evidence_of(0).waiter_procno, 1);
	CHECK_INT(evidence_of(0).procno, 0);
	CHECK_INT(evidence_of(0).pid, 100);
	CHECK_INT(evidence_of(0).waiter_pid, 101);
	CHECK(evidence_of(0).kind == LG_HOLDER);
}

/* So it is with all locks that can have one holder only. */
static void
pair_one_holder(void)
{
	static const LockTagType types[] = {
		LOCKTAG_TRANSACTION, LOCKTAG_VIRTUALTRANSACTION, LOCKTAG_SPECULATIVE_TOKEN,
		LOCKTAG_RELATION, LOCKTAG_TUPLE, LOCKTAG_ADVISORY, LOCKTAG_OBJECT
	};

	for (int i = 0; i < (int) lengthof(types); i++)
	{
		LOCK	   *lock;
		int64		began;

		scene(2);
		lock = lock_on(types[i], 7, 0);
		holds(0, lock, ExclusiveLock);
		waits(1, lock, ShareLock);
		began = clock_ns;
		look_after(100);
		CHECK_INT(blocking_since(0), i < 3 ? began : clock_ns);
	}
}

/* A session that is idle has taken its locks before. */
static void
pair_idle_holder(void)
{
	int64		began;

	scene(2);
	alters(0, table);
	pass(10);
	waits_to_read(1, table);
	pass(10);
	sits_idle(0);
	began = clock_ns;
	look_after(100);
	CHECK_INT(blocking_since(0), began);
	CHECK_INT(idle_since(node_at(0)), began);

	/* One that came later. */
	scene(2);
	alters(0, table);
	sits_idle(0);
	pass(10);
	waits_to_read(1, table);
	began = clock_ns;
	look_after(100);
	CHECK_INT(blocking_since(0), began);
}

/* One whose client has stopped may have gone on meanwhile, and have got a lock. */
static void
pair_stalled_holder(void)
{
	scene(4);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	stalls(0);
	waits_for(1, 0);
	look();
	CHECK_INT(idle_since(node_at(0)), clock_ns);
	gives_up(1);
	pass(10);
	reads(3, table);
	waits_to_alter(2, table);
	pass(10);
	reads(0, table);
	releases(3, table, AccessShareLock);
	look_after(100);
	CHECK_INT(blocking_since(0), clock_ns);
}

/* Of an active holder, it can only be told when it was first seen. */
static void
pair_active_holder(void)
{
	int64		first;

	scene(3);
	alters(0, table);
	waits_to_read(1, table);
	look_after(100);
	first = clock_ns;
	CHECK_INT(blocking_since(0), first);
	look_after(100);
	CHECK_INT(blocking_since(0), first);

	/* Idle from now on: seen before that. */
	sits_idle(0);
	look_after(100);
	CHECK_INT(blocking_since(0), first);

	/* The waiter gives up, another comes. */
	runs(0);
	gives_up(1);
	look_after(100);
	CHECK_INT(blocking_since(0), LG_NEVER);
	waits_to_read(2, table);
	look_after(100);
	CHECK_INT(blocking_since(0), clock_ns);
}

static void
pair_queue(void)
{
	int64		behind;

	scene(3);
	reads(0, table);
	sits_idle(0);
	waits_to_alter(1, table);
	pass(30);
	waits_to_read(2, table);
	behind = clock_ns;
	look_after(30);
	CHECK_INT(blocking_since(1), behind);
	CHECK(evidence_of(1).kind == LG_QUEUE);
	CHECK_INT(evidence_of(1).waiter_procno, 2);
}

/* The deadlock detector has put it ahead of one that waits for longer. */
static void
pair_queue_turned_round(void)
{
	int64		first;

	scene(3);
	reads(0, table);
	waits_to_alter(1, table);
	pass(30);
	waits_ahead_of(2, 1, AccessExclusiveLock);
	look_after(30);
	first = clock_ns;
	CHECK_INT(blocking_since(2), first);
	look_after(30);
	CHECK_INT(blocking_since(2), first);
}

/*
 * A session that has just got the lock is innocent of the queue it inherits,
 * also of those that had waited for it before.
 */
static void
inherited_queue(void)
{
	int64		got_it;

	scene(4);
	alters(0, table);
	for (int i = 1; i < 4; i++)
		waits_to_alter(i, table);
	for (int i = 0; i < 100; i++)
		look_after(10);
	releases_all(0);
	got_it = clock_ns;
	CHECK_INT(held_by(table, 1), LOCKBIT_ON(AccessExclusiveLock));
	look_after(5);
	CHECK(is_root(1));
	CHECK(blocked_for(1) <= clock_ns - got_it);
	CHECK(blocking_since(1) >= got_it);
	CHECK_INT(lg_downstream(graph, 1), 2);
}

/* The same on a transaction id, where the wait's beginning counts. */
static void
clock_stands_still_while_waiting(void)
{
	int64		free_at;

	scene(3);
	waits_for(1, 0);
	waits_for(2, 1);
	for (int i = 0; i < 10; i++)
		look_after(10);
	CHECK(!is_root(1));
	releases_all(0);
	free_at = clock_ns;
	look_after(5);
	CHECK(is_root(1));
	CHECK(blocked_for(1) <= clock_ns - free_at);
	look_after(20);
	CHECK(blocked_for(1) >= clock_ns - free_at - 5 * MS);
}

/* Two waits, one right after the other: what is between them counts, too. */
static void
waits_without_a_gap(void)
{
	int64		free_at;

	scene(4);
	waits_for(3, 0);
	waits_for(0, 1);
	look_after(50);
	pass(20);
	gives_up(0);
	pass(30);
	waits_for(0, 2);
	look_after(10);
	pass(40);
	gives_up(0);
	free_at = clock_ns;
	look();
	CHECK(is_root(0));
	CHECK_INT(blocked_for(0), clock_ns - free_at);
	look_after(5);
	CHECK_INT(blocked_for(0), clock_ns - free_at);
}

/* How long session 1 has waited since the last look, which was then. */
static int64
newly_waited_since(int64 last_look, int64 not_before)
{
	return lg_newly_waited(graph, lg_longest_wait(graph, lg_node(graph, 1)), clock_ns,
						   last_look, not_before);
}

/* Session time lost is counted once, from look to look. */
static void
newly_waited(void)
{
	int64		began;

	scene(2);
	waits_for(1, 0);
	began = clock_ns;
	look_after(30);
	CHECK_INT(newly_waited_since(clock_ns - MS, PG_INT64_MIN), 30 * MS);
	CHECK_INT(newly_waited_since(clock_ns - MS, began + 10 * MS), 20 * MS);
	CHECK_INT(newly_waited_since(clock_ns - MS, clock_ns + MS), 0);
	look_after(20);
	CHECK_INT(newly_waited_since(clock_ns - 20 * MS, PG_INT64_MIN), 20 * MS);
	CHECK_INT(newly_waited_since(clock_ns - 20 * MS, clock_ns - MS), MS);
}

/* What the wall clock showed then. */
static TimestampTz
wall_at(int64 at)
{
	return clock_offset + at / 1000;
}

/* waitStart is set a little after the wait has begun. */
static void
wait_start_not_yet_set(void)
{
	int64		began;

	scene(2);
	waits_for(1, 0);
	set_wait_start(1, 0);
	look_after(10);
	CHECK_INT(blocking_since(0), clock_ns);
	began = clock_ns;
	look_after(10);
	CHECK_INT(blocking_since(0), began);

	/* It began a little before that. */
	set_wait_start(1, wall_at(began - MS));
	graph->wait_tracks[1].counted = true;
	look_after(10);
	CHECK_INT(blocking_since(0), began - MS);
	CHECK(graph->wait_tracks[1].counted);
}

/* Until it is set, waitStart may show when an earlier wait began that failed. */
static void
wait_start_of_another(void)
{
	int64		left;
	int64		began;

	/* A wait that was seen. */
	scene(3);
	waits_for(1, 0);
	left = wait_start_of(1);
	look_after(100);
	gives_up(1);
	pass(100);
	waits_for(1, 2);
	set_wait_start(1, left);
	look();
	CHECK_INT(blocking_since(2), clock_ns);
	began = clock_ns;
	look_after(10);
	CHECK_INT(blocking_since(2), began);
	set_wait_start(1, wall_at(began - MS));
	look_after(10);
	CHECK_INT(blocking_since(2), began - MS);
	CHECK_INT(blocked_for(2), clock_ns - began);

	/* One that no look has seen, before one that has seen that nothing waits. */
	scene(2);
	waits_for(1, 0);
	left = wait_start_of(1);
	gives_up(1);
	look_after(10);
	look_after(60000);
	pass(10);
	waits_for(1, 0);
	set_wait_start(1, left);
	look_after(10);
	CHECK_INT(blocking_since(0), clock_ns);
	began = clock_ns;
	set_wait_start(1, wall_at(began - 10 * MS));
	look_after(10);
	CHECK_INT(blocking_since(0), began - 10 * MS);
	CHECK_INT(blocked_for(0), clock_ns - began);
}

/* Another process in the same PGPROC, and another wait of the same process. */
static void
another_wait(void)
{
	int64		second;

	scene(2);
	waits_for(1, 0);
	look_after(100);
	gives_up(1);
	pass(10);
	waits_for(1, 0);
	second = clock_ns;
	graph->wait_tracks[1].counted = true;
	look_after(10);
	CHECK_INT(blocking_since(0), second);
	CHECK(!graph->wait_tracks[1].counted);

	gives_up(1);
	session_ends(1);
	session_begins(1, 555, B_BACKEND);
	waits_for(1, 0);
	second = clock_ns;
	look_after(10);
	CHECK_INT(blocking_since(0), second);
	CHECK_INT(evidence_of(0).waiter_pid, 555);

	/* That it was seen to be over only now is of no concern to the next one. */
	session_begins(2, 556, B_BACKEND);
	waits_for(2, 0);
	look();
	gives_up(1);
	gives_up(2);
	session_ends(2);
	session_begins(2, 557, B_BACKEND);
	sits_idle(2);
	waits_for(1, 2);
	second = clock_ns;
	look_after(100);
	CHECK_INT(blocked_for(2), clock_ns - second);
}

/* A step of the wall clock makes no session look late. */
static void
clock_steps(void)
{
	static const int64 steps[] = {
		3600, -3600, 86400 * 365, -86400 * 365, INT64CONST(86400) * 365 * 56, 1, -1
	};

	for (int i = 0; i < (int) lengthof(steps); i++)
	{
		int64		began;

		/* Seen before and after. */
		scene(4);
		waits_for(1, 0);
		began = clock_ns;
		look_after(10);
		CHECK_INT(blocking_since(0), began);
		pass(10);
		clock_offset += steps[i] * USECS_PER_SEC;
		look();
		CHECK_INT(blocking_since(0), began);

		/* Begun before the step, and seen after it. */
		gives_up(1);
		look_after(10);
		waits_for(2, 0);
		began = clock_ns;
		pass(10);
		clock_offset += steps[i] * USECS_PER_SEC;
		look();
		CHECK(blocking_since(0) >= began && blocking_since(0) <= clock_ns);
	}
}

/*
 * Shared memory changes until the partition lock is taken.
 */
static void
waiter_leaves(LWLock *lock)
{
	gives_up(1);
}

static void
lock_is_another(LWLock *lock)
{
	proc_of(1)->waitLock->tag.locktag_field1++;
}

static void
waiter_waits_for_another(LWLock *lock)
{
	gives_up(1);
	waits(1, lock_on(LOCKTAG_TRANSACTION, 8, 0), ShareLock);
}

static void
races(void)
{
	void		(*const hooks[]) (LWLock *) = {
		waiter_leaves, lock_is_another, waiter_waits_for_another
	};

	for (int i = 0; i < (int) lengthof(hooks); i++)
	{
		scene(3);
		waits_for(1, 0);
		on_lwlock = hooks[i];
		look_after(10);
		CHECK_INT(graph->nlocks, 0);
		CHECK_INT(graph->nwaiters, 0);
		CHECK_INT(graph->nactive, 0);
		CHECK(!is_root(0));

		/* The next look finds what is there then. */
		look_after(10);
		CHECK_INT(graph->nlocks, i == 0 ? 0 : 1);
	}
}

/* A wait too young to be walked makes no session a root that waits. */
static void
young_waits(void)
{
	scene(3);
	waits_for(1, 0);
	pass(100);
	waits_for(0, 2);
	pass(10);
	look_at_waits_from(50 * MS);
	CHECK_INT(graph->nlocks, 1);
	CHECK(!is_root(0));
	CHECK(lg_node(graph, 0)->waiting);
	CHECK(lg_node(graph, 2) == NULL);
	look_at_waits_from(10 * MS);
	CHECK_INT(graph->nlocks, 2);
	CHECK(is_root(2));
	look_at_waits_from(100 * MS + 10 * MS + 1);
	CHECK_INT(graph->nlocks, 0);
}

/* More locks and sessions than there is room for at first. */
static void
many(void)
{
	int			n = 400;
	int		   *roots;

	scene(2 * n);
	for (int i = 0; i < n; i++)
		waits_for(n + i, i);
	for (int round = 0; round < 3; round++)
	{
		look_after(10);
		CHECK_INT(graph->nlocks, n);
		CHECK_INT(graph->nactive, 2 * n);
		roots = palloc_array(int, LG_TOTAL_PROCS);
		CHECK_INT(lg_find_roots(graph, roots), n);
		for (int i = 0; i < n; i++)
			CHECK_INT(lg_downstream(graph, i), 1);
	}

	/* All wait for one: nodes of former looks are forgotten. */
	for (int i = 0; i < n; i++)
	{
		gives_up(n + i);
		waits_for(n + i, 0);
	}
	look_after(10);
	CHECK_INT(graph->nlocks, 1);
	CHECK_INT(graph->nactive, n + 1);
	CHECK_INT(lg_downstream(graph, 0), n);
	CHECK(lg_node(graph, 1) == NULL);
}

/*
 * Random situations, whether they can be or not, against the definition.
 */
static void
check_blockers(int nprocs)
{
	int			nwaiters = 0;

	for (int i = 0; i < graph->nwaiters; i++)
	{
		const LgWaiter *waiter = &graph->waiters[i];
		Pair		pairs[MAX_NODES * 2];
		int			npairs = find_pairs(waiter->procno, pairs);
		int			n = 0;
		LgBlocker	blocker = {0};

		CHECK_INT(waiter->node, node_of(waiter->procno));
		CHECK_INT(waiter->pid, proc_of(waiter->procno)->pid);
		CHECK_INT(waiter->mode, proc_of(waiter->procno)->waitLockMode);
		while (lg_next_blocker(graph, waiter, &blocker))
		{
			int			at = n;

			while (at < npairs && (pairs[at].blocker != blocker.procno ||
								   pairs[at].kind != blocker.kind))
				at++;
			if (!CHECK(at < npairs))
				break;
			CHECK_INT(blocker.node, pairs[at].node);
			CHECK_INT(blocker.pid, proc_of(blocker.procno)->pid);
			pairs[at] = pairs[n++];
		}
		CHECK_INT(n, npairs);
		nwaiters++;
	}
	for (int i = 0; i < nprocs; i++)
		if (proc_of(i)->waitLock != NULL)
			nwaiters--;
	CHECK_INT(nwaiters, 0);
}

/* Is "child" found through a pair that is there? */
static bool
is_pair(const Model *model, int waiter, int node, LgBlockKind kind)
{
	for (int i = 0; i < model->npairs; i++)
		if (model->pairs[i].waiter == waiter && model->pairs[i].node == node &&
			model->pairs[i].kind == kind)
			return true;
	return false;
}

static void
check_downstream(const Model *model, int node)
{
	int			n = lg_downstream(graph, node);
	bool		seen[MAX_NODES] = {false};
	LgStep		breadth[MAX_NODES];

	CHECK_INT(n, model_count(model, node));
	CHECK_INT(graph->nsteps, n + 1);
	CHECK_INT(graph->steps[0].node, node);
	CHECK_INT(graph->steps[0].parent, -1);
	CHECK_INT(graph->steps[0].level, 0);
	CHECK_INT(graph->steps[0].waiter, -1);
	memcpy(breadth, graph->steps, graph->nsteps * sizeof(LgStep));
	for (int i = 1; i <= n; i++)
	{
		const LgStep *step = &breadth[i];
		const LgStep *parent = &breadth[step->parent];

		CHECK(step->node != node && model->ahead[node][step->node]);
		CHECK(!seen[step->node]);
		seen[step->node] = true;
		CHECK(step->parent < i && step->level == parent->level + 1);
		CHECK(breadth[i - 1].level <= step->level);
		CHECK_INT(step->level, model->distance[node][step->node]);
		CHECK_INT(graph->waiters[step->waiter].node, step->node);
		CHECK(is_pair(model, graph->waiters[step->waiter].procno, parent->node, step->kind));
	}

	/* In depth: the same, each right after its parent or what is below that. */
	lg_depth_first(graph);
	CHECK_INT(graph->nsteps, n + 1);
	CHECK_INT(graph->steps[0].node, node);
	for (int i = 1; i <= n; i++)
	{
		const LgStep *step = &graph->steps[i];
		int			same = 0;

		while (breadth[same].node != step->node)
			same++;
		CHECK_INT(step->waiter, breadth[same].waiter);
		CHECK_INT(graph->steps[step->parent].node, breadth[breadth[same].parent].node);
		CHECK(step->parent < i);
		for (int between = step->parent + 1; between < i; between++)
			CHECK(graph->steps[between].level >= step->level);
	}
}

static void
check_upstream(const Model *model, int node, int nprocs)
{
	int			n = lg_upstream(graph, node);
	int			expected = 1;
	bool		seen[MAX_NODES] = {false};

	CHECK_INT(graph->upstream[0], node);
	seen[node] = true;
	for (int i = 1; i < n; i++)
	{
		int			blocker = graph->upstream[i];
		LgEvidence *edge = &graph->edges[blocker];

		CHECK(model->ahead[blocker][node]);
		CHECK(!seen[blocker]);
		CHECK_INT(node_of(edge->procno), blocker);
		CHECK(is_pair(model, edge->waiter_procno, blocker, edge->kind));
		CHECK(seen[node_of(edge->waiter_procno)]);
		CHECK_INT(edge->pid, proc_of(edge->procno)->pid);
		CHECK_INT(edge->waiter_pid, proc_of(edge->waiter_procno)->pid);
		seen[blocker] = true;
	}
	for (int i = 0; i < nprocs; i++)
		expected += i != node && model->ahead[i][node];
	CHECK_INT(n, expected);
}

/*
 * What is drawn as a root: the roots, and of what is left, cycle by cycle, the
 * one with the lowest pid.
 */
static void
check_roots(const Model *model, int nprocs)
{
	int			roots[MAX_NODES * 3];
	int			n = lg_find_roots(graph, roots);
	bool		expected[MAX_NODES] = {false};
	bool		reached[MAX_NODES] = {false};
	int			nexpected = 0;

	for (int turn = 0;; turn++)
	{
		int			next = -1;

		for (int i = 0; i < nprocs; i++)
			if (!expected[i] && (turn == 0 || !reached[i]) &&
				(model_root(model, i) ||
				 (turn > 0 && model->ahead[i][i] &&
				  (next < 0 || proc_of(i)->pid < proc_of(next)->pid))))
			{
				next = i;
				if (turn > 0)
					continue;
				expected[i] = true;
				nexpected++;
				for (int j = 0; j < nprocs; j++)
					reached[j] |= j == i || model->ahead[i][j];
			}
		if (turn == 0)
			continue;
		if (next < 0)
			break;
		expected[next] = true;
		nexpected++;
		for (int j = 0; j < nprocs; j++)
			reached[j] |= j == next || model->ahead[next][j];
	}
	CHECK_INT(n, nexpected);
	for (int i = 0; i < n; i++)
	{
		CHECK(expected[roots[i]]);
		expected[roots[i]] = false;
		if (i > 0)
			CHECK(model_count(model, roots[i - 1]) >= model_count(model, roots[i]));
	}
}

static void
check_graph(int nprocs)
{
	static Model model;

	make_model(&model, nprocs);
	check_blockers(nprocs);
	for (int i = 0; i < nprocs; i++)
	{
		LgNode	   *node = lg_node(graph, i);
		const LgWaiter *longest = NULL;
		const LgWaiter *queued = NULL;
		bool		blocks = false;
		bool		blocks_itself = false;

		for (int j = 0; j < nprocs; j++)
			blocks |= model.blocks[i][j];
		for (int p = 0; p < model.npairs; p++)
			blocks_itself |= model.pairs[p].node == i;
		if (node == NULL)
		{
			CHECK(!blocks && !model.waiting[i]);
			continue;
		}
		CHECK(blocks || blocks_itself || model.waiting[i]);
		CHECK_INT(node->waiting, model.waiting[i]);
		CHECK_INT(node->blocking_since != LG_NEVER, blocks);
		CHECK_INT(lg_is_root(graph, node), model_root(&model, i));
		CHECK_INT(lg_is_queued_blocker(graph, node), model_queued(&model, i));
		CHECK_INT(lg_in_cycle(graph, i), model.ahead[i][i]);
		check_downstream(&model, i);
		check_upstream(&model, i, nprocs);

		for (int j = 0; j < nprocs; j++)
			if (lg_node(graph, j) != NULL)
				CHECK_INT(lg_tree(graph, i) == lg_tree(graph, j),
						  model.tree[i] == model.tree[j]);

		for (int w = 0; w < graph->nwaiters; w++)
		{
			const LgWaiter *waiter = &graph->waiters[w];

			if (waiter->node != i)
				continue;
			if (longest == NULL || waiter->since < longest->since)
				longest = waiter;
			if ((model.waits_for_row[i] || !is_row(proc_of(waiter->procno)->waitLock)) &&
				(queued == NULL || waiter->since < queued->since))
				queued = waiter;
		}
		CHECK_INT(lg_longest_wait(graph, node) ? lg_longest_wait(graph, node)->since : -1,
				  longest ? longest->since : -1);
		CHECK_INT(lg_queued_wait(graph, node) ? lg_queued_wait(graph, node)->since : -1,
				  queued ? queued->since : -1);
	}
	check_roots(&model, nprocs);
}

static LOCK *
random_lock(int nlocks)
{
	static const LockTagType types[] = {
		LOCKTAG_RELATION, LOCKTAG_RELATION, LOCKTAG_TUPLE, LOCKTAG_TRANSACTION,
		LOCKTAG_RELATION_EXTEND, LOCKTAG_ADVISORY, LOCKTAG_VIRTUALTRANSACTION
	};
	LockTagType type = types[random_below(lengthof(types))];

	return lock_on(type, random_below(nlocks), 0);
}

static void
random_graphs(void)
{
	for (int round = 0; round < rounds && !has_failed(); round++)
	{
		int			nprocs;
		int			nlocks;
		int			nholds;

		random_seed(round);
		nprocs = 2 + random_below(MAX_NODES - 2);
		nlocks = 1 + random_below(8);
		nholds = random_below(2 * nprocs);
		scene(nprocs);
		for (int i = 0; i < nprocs; i++)
		{
			proc_of(i)->pid = proc_of(i)->procLatch.owner_pid = 100 + (i * 7) % 41;
			status_of(i)->st_procpid = proc_of(i)->pid;
			if (i > 0 && one_in(6) && proc_of(i - 1)->lockGroupLeader == NULL)
				joins_group(i, i - 1);
		}
		for (int i = 0; i < nholds; i++)
		{
			LOCK	   *lock = random_lock(nlocks);
			int			holder = random_below(nprocs);

			holds(holder, lock, 1 + random_below(MaxLockMode));
		}
		for (int i = 0; i < nprocs; i++)
		{
			LOCK	   *lock = random_lock(nlocks);
			int			other = random_below(nprocs);

			pass(random_below(100));
			if (one_in(3))
				continue;
			if (one_in(4) && proc_of(other)->waitLock == lock)
				waits_ahead_of(i, other, 1 + random_below(MaxLockMode));
			else
				waits(i, lock, 1 + random_below(MaxLockMode));
		}
		look_after(1);
		check_graph(nprocs);
		if (has_failed())
			printf("    in round %d, %d sessions\n", round, nprocs);
	}
}

/*
 * Situations that come about as they do in a server, watched from look to
 * look.  What is said of when a pair began is compared with what the rules
 * say, and with the truth: never may it be early.
 */
#define NLOCKS		6

typedef struct Watched
{
	int64		wait_began[MAX_NODES];	/* truly; 0 = does not wait */
	int			wait_number[MAX_NODES];
	TimestampTz wait_start[MAX_NODES];
	int64		idle_from[MAX_NODES];

	/* When each pair began, truly; 0 = is none. */
	int64		pair_began[MAX_NODES][MAX_NODES][2];
	int			pair_wait[MAX_NODES][MAX_NODES][2];

	/* What looks have seen. */
	int			looks;
	int			seen_wait[MAX_NODES];	/* wait_number of what follows */
	int64		wait_seen[MAX_NODES];
	int64		ahead_seen[MAX_NODES];
	int64		mode_seen[NLOCKS][MAX_NODES][MaxLockMode + 1];
	int			mode_look[NLOCKS][MAX_NODES][MaxLockMode + 1];
	int			mode_pid[NLOCKS][MAX_NODES];
	bool		steps;			/* the clock may have stepped */
} Watched;

static Watched watched;
static LOCK *locks[NLOCKS];

/* Something has happened: note what is different now. */
static void
watch(int nprocs)
{
	bool		there[MAX_NODES][MAX_NODES][2] = {{{false}}};

	for (int i = 0; i < nprocs; i++)
	{
		bool		waits = proc_of(i)->waitLock != NULL;

		if (waits && watched.wait_began[i] == 0)
		{
			watched.wait_began[i] = clock_ns;
			watched.wait_number[i]++;
			watched.wait_start[i] = wait_start_of(i);
		}
		else if (!waits)
			watched.wait_began[i] = 0;
	}
	for (int i = 0; i < nprocs; i++)
	{
		Pair		pairs[MAX_NODES * 2];
		int			npairs = find_pairs(i, pairs);

		for (int p = 0; p < npairs; p++)
		{
			int			node = pairs[p].node;
			int			kind = pairs[p].kind;

			there[i][node][kind] = true;
			if (watched.pair_began[i][node][kind] == 0 ||
				watched.pair_wait[i][node][kind] != watched.wait_number[i])
			{
				watched.pair_began[i][node][kind] = clock_ns;

				/*
				 * If the deadlock detector has put one that waits for longer
				 * ahead, the rule has it that it always was.
				 */
				if (kind == LG_QUEUE &&
					watched.wait_began[pairs[p].blocker] <= watched.wait_began[i])
					watched.pair_began[i][node][kind] = watched.wait_began[i];
				watched.pair_wait[i][node][kind] = watched.wait_number[i];
			}
		}
	}
	for (int i = 0; i < nprocs; i++)
		for (int j = 0; j < nprocs; j++)
			for (int kind = 0; kind < 2; kind++)
				if (!there[i][j][kind])
					watched.pair_began[i][j][kind] = 0;
}

static int
number_of(const LOCK *lock)
{
	int			i = 0;

	while (locks[i] != lock)
		i++;
	return i;
}

/* What a look at this moment has to remember. */
static void
note_look(int nprocs)
{
	watched.looks++;
	for (int i = 0; i < nprocs; i++)
	{
		Pair		pairs[MAX_NODES * 2];
		int			npairs;

		if (watched.seen_wait[i] != watched.wait_number[i] || proc_of(i)->waitLock == NULL)
		{
			watched.seen_wait[i] = watched.wait_number[i];
			watched.wait_seen[i] = proc_of(i)->waitLock ? clock_ns : 0;
			watched.ahead_seen[i] = 0;
		}

		/* Ahead of one that conflicts, and has waited for longer? */
		if (proc_of(i)->waitLock != NULL)
		{
			bool		ahead = false;

			for (int other = 0; other < nprocs; other++)
			{
				if (proc_of(other)->waitLock != proc_of(i)->waitLock)
					continue;
				npairs = find_pairs(other, pairs);
				for (int p = 0; p < npairs; p++)
					ahead |= pairs[p].kind == LG_QUEUE && pairs[p].blocker == i &&
						pairs[p].node != pairs[p].waiter_node &&
						watched.wait_began[other] < watched.wait_began[i];
			}
			if (!ahead)
				watched.ahead_seen[i] = 0;
			else if (watched.ahead_seen[i] == 0)
				watched.ahead_seen[i] = clock_ns;
		}
	}
	for (int l = 0; l < NLOCKS; l++)
	{
		if (lg_first_waiter(locks[l]) == NULL)
			continue;
		for (int i = 0; i < nprocs; i++)
		{
			LOCKMASK	mask = held_by(locks[l], i);

			for (int mode = 1; mode <= MaxLockMode; mode++)
			{
				if ((mask & LOCKBIT_ON(mode)) == 0)
					continue;
				if (watched.mode_look[l][i][mode] != watched.looks - 1 ||
					watched.looks == 1 || watched.mode_pid[l][i] != proc_of(i)->pid)
					watched.mode_seen[l][i][mode] = clock_ns;
				watched.mode_look[l][i][mode] = watched.looks;
			}
			watched.mode_pid[l][i] = proc_of(i)->pid;
		}
	}
}

/* By the rules, when did this pair begin? */
static int64
pair_by_rule(const Pair *pair, int64 idle_since)
{
	int			l = number_of(pair->lock);
	LockTagType type = pair->lock->tag.locktag_type;
	LOCKMASK	against = lock_conflicts[proc_of(pair->waiter)->waitLockMode] &
		held_by(pair->lock, pair->blocker);
	int64		wait = watched.wait_began[pair->waiter];
	int64		held = LG_NEVER;
	int64		result;

	if (pair->kind == LG_QUEUE)
	{
		int64		other = watched.wait_began[pair->blocker];

		return wait >= other ? wait : Max(other, watched.ahead_seen[pair->blocker]);
	}
	if (type == LOCKTAG_TRANSACTION || type == LOCKTAG_VIRTUALTRANSACTION)
		return wait;
	for (int mode = 1; mode <= MaxLockMode; mode++)
		if (against & LOCKBIT_ON(mode))
			held = Min(held, watched.mode_seen[l][pair->blocker][mode]);
	result = Max(held, watched.wait_seen[pair->waiter]);
	if (idle_since != LG_NEVER)
		result = Min(result, Max(wait, idle_since));
	return result;
}

/* A moment, truly, by the rules, and when it has to have been noticed. */
typedef struct Since
{
	int64		truth;
	int64		rule;
	int64		latest;
}			Since;

static void
since_pair(Since * since, const Pair *pair, int64 idle_since)
{
	int64		rule = pair_by_rule(pair, idle_since);
	int64		latest = rule;

	if (pair->kind == LG_QUEUE && watched.ahead_seen[pair->blocker])
		latest = Max(watched.ahead_seen[pair->blocker], watched.wait_began[pair->blocker]);
	since->truth = Min(since->truth, watched.pair_began[pair->waiter][pair->node][pair->kind]);
	since->rule = Min(since->rule, rule);
	since->latest = Min(since->latest, latest);
}

static void
check_moment(int64 moment, const Since * since, bool exact)
{
	CHECK(moment >= since->truth);
	if (!exact)
		return;
	CHECK(moment >= since->rule);
	CHECK(moment <= since->latest);
}

/* "exact": the clocks did not step, and what they say can be told exactly. */
static void
check_since(int nprocs, bool exact)
{
	static Model model;

	make_model(&model, nprocs);
	for (int i = 0; i < nprocs; i++)
	{
		LgNode	   *node = node_at(i);
		Since		blocks = {LG_NEVER, LG_NEVER, LG_NEVER};
		Since		to_blame = {LG_NEVER, LG_NEVER, LG_NEVER};

		if (node == NULL || node->blocking_since == LG_NEVER)
			continue;
		for (int p = 0; p < model.npairs; p++)
		{
			const Pair *pair = &model.pairs[p];

			if (pair->node != i || pair->waiter_node == i)
				continue;
			since_pair(&blocks, pair, idle_since(node));
			if (!model.waits_for_row[i] || !is_row(pair->lock))
				since_pair(&to_blame, pair, idle_since(node));
		}
		check_moment(node->blocking_since, &blocks, exact);
		check_moment(node->blame_since, &to_blame, exact);
		if (idle_since(node) != LG_NEVER)
			CHECK(idle_since(node) >= watched.idle_from[i] && watched.idle_from[i] != 0);
		if (!has_failed())
			continue;
		printf("    session %d at %lld: blocking since %lld, by rule %lld, truly %lld; to blame since %lld, by rule %lld, truly %lld\n",
			   i, (long long) clock_ns, (long long) node->blocking_since,
			   (long long) blocks.rule, (long long) blocks.truth, (long long) node->blame_since,
			   (long long) to_blame.rule, (long long) to_blame.truth);
		for (int p = 0; p < model.npairs; p++)
		{
			const Pair *pair = &model.pairs[p];

			if (pair->node == i)
				printf("    session %d, waiting for %d since %lld, seen at %lld: lock type %d, kind %d, by rule since %lld, truly %lld\n",
					   pair->waiter, i, (long long) watched.wait_began[pair->waiter],
					   (long long) watched.wait_seen[pair->waiter],
					   pair->lock->tag.locktag_type, pair->kind,
					   (long long) pair_by_rule(pair, idle_since(node)),
					   (long long) watched.pair_began[pair->waiter][i][pair->kind]);
		}
		return;
	}
}

/* Does one that waits for longer stand behind it? */
static bool
is_ahead_of_older(int i)
{
	PGPROC	   *behind = proc_of(i);

	while ((behind = lg_next_waiter(proc_of(i)->waitLock, behind)) != NULL)
		if (watched.wait_began[lg_proc_number(behind)] < watched.wait_began[i])
			return true;
	return false;
}

/* One thing that a session does. */
static void
something_happens(int nprocs, int *next_pid)
{
	int			i = random_below(nprocs);
	PGPROC	   *proc = proc_of(i);
	bool		running = status_of(i)->st_state == STATE_RUNNING;

	switch (random_below(10))
	{
		case 0:
		case 1:
		case 2:
		case 3:
			if (proc->waitLock != NULL)
				break;
			if (!running)
				runs(i);
			watched.idle_from[i] = 0;
			{
				int			l = random_below(NLOCKS);
				LockTagType type = locks[l]->tag.locktag_type;

				/* An id is locked by its own transaction alone. */
				if (type != LOCKTAG_TRANSACTION)
					(void) acquires(i, locks[l], 1 + random_below(MaxLockMode));
				else if (locks[l]->nGranted == 0)
				{
					if (lg_first_waiter(locks[l]) == NULL)
						holds(i, locks[l], ExclusiveLock);
				}
				else if (held_by(locks[l], i) == 0)
					(void) acquires(i, locks[l], ShareLock);
			}
			break;
		case 4:
		case 5:
			if (proc->waitLock != NULL)
				break;
			sits_idle(i);
			watched.idle_from[i] = clock_ns;
			break;
		case 6:
			releases_all(i);
			session_state(i, STATE_IDLE);
			watched.idle_from[i] = clock_ns;
			break;
		case 7:
			/* Back to a savepoint: some of its locks go. */
			if (proc->waitLock == NULL)
			{
				int			l = random_below(NLOCKS);

				if (locks[l]->tag.locktag_type != LOCKTAG_TRANSACTION)
					releases(i, locks[l], 1 + random_below(MaxLockMode));
			}
			break;
		case 8:
			if (one_in(3))
			{
				releases_all(i);
				session_ends(i);
				session_begins(i, (*next_pid)++, B_BACKEND);
				watched.idle_from[i] = clock_ns;
			}
			break;
		case 9:

			/*
			 * The deadlock detector puts a waiter ahead of another.  After a
			 * step of the clock, it cannot be told which of them waits for
			 * longer.  Nor can it be told, of one that has been put ahead of
			 * an older one before, that it is of more of them now.
			 */
			if (proc->waitLock != NULL && !watched.steps && one_in(3) &&
				!is_ahead_of_older(i))
				moves_ahead(i);
			break;
	}
}

static void
random_histories(bool exact)
{
	for (int round = 0; round < rounds / 5 && !has_failed(); round++)
	{
		int			nprocs;
		int			next_pid = 1000;

		random_seed(round);
		nprocs = 2 + random_below(10);
		scene(nprocs);
		memset(&watched, 0, sizeof(watched));
		watched.steps = !exact;
		locks[0] = table;
		locks[1] = other_table;
		locks[2] = row;
		locks[3] = lock_on(LOCKTAG_ADVISORY, 1, 1);
		locks[4] = lock_on(LOCKTAG_TRANSACTION, 1, 0);
		locks[5] = lock_on(LOCKTAG_TRANSACTION, 2, 0);

		for (int event = 0; event < 200 && !has_failed(); event++)
		{
			clock_ns += 1000 * (1 + random_below(50000));
			if (!exact && one_in(20))
				clock_offset += (one_in(2) ? 1 : -1) * random_below(2000000000);
			something_happens(nprocs, &next_pid);
			watch(nprocs);

			/*
			 * waitStart is set a little after the wait has begun.  That two
			 * waits of one session are both caught at this instant, one after
			 * the other, will not happen: they look like one.
			 */
			for (int i = 0; i < nprocs && !exact; i++)
				if (proc_of(i)->waitLock != NULL)
					set_wait_start(i, watched.wait_began[i] == clock_ns &&
								   watched.wait_number[i] == 3 ? 0 : watched.wait_start[i]);
			if (!one_in(3))
				continue;
			clock_ns += 1000 * random_below(1000);
			clock_tick = exact ? 0 : random_below(3) * 1000;
			note_look(nprocs);
			look();
			clock_tick = 0;
			if (exact)
				check_graph(nprocs);
			check_since(nprocs, exact);
			if (has_failed())
				printf("    in round %d, event %d, %d sessions\n", round, event, nprocs);
		}
	}
}

static void
random_histories_by_rule(void)
{
	random_histories(true);
}

/* With clocks that step, and go on during a look. */
static void
random_histories_never_early(void)
{
	random_histories(false);
}

const Test	waitgraph_tests[] = {
	{"waitgraph: holders and a queue", holder_and_queue},
	{"waitgraph: compatible modes", compatible_modes},
	{"waitgraph: the queue of a row", row_queue},
	{"waitgraph: lock groups", lock_groups},
	{"waitgraph: a prepared transaction", prepared_transaction},
	{"waitgraph: a cycle, and one behind it", cycle},
	{"waitgraph: a lock held by its waiter", own_lock},
	{"waitgraph: a pair on a transaction id", pair_transaction_id},
	{"waitgraph: a pair on each type of lock", pair_one_holder},
	{"waitgraph: a pair with an idle holder", pair_idle_holder},
	{"waitgraph: a pair whose holder waits for its client", pair_stalled_holder},
	{"waitgraph: a pair with an active holder", pair_active_holder},
	{"waitgraph: a pair in a queue", pair_queue},
	{"waitgraph: a queue turned round", pair_queue_turned_round},
	{"waitgraph: an inherited queue", inherited_queue},
	{"waitgraph: a session that waits is not to blame", clock_stands_still_while_waiting},
	{"waitgraph: two waits without a gap", waits_without_a_gap},
	{"waitgraph: time waited since the last look", newly_waited},
	{"waitgraph: a wait without its start", wait_start_not_yet_set},
	{"waitgraph: a wait with the start of another", wait_start_of_another},
	{"waitgraph: another wait, another process", another_wait},
	{"waitgraph: steps of the clock", clock_steps},
	{"waitgraph: changes until the lock is taken", races},
	{"waitgraph: waits too young to matter", young_waits},
	{"waitgraph: 400 locks and 800 sessions", many},
	{"waitgraph: random graphs", random_graphs},
	{"waitgraph: random histories, by rule", random_histories_by_rule},
	{"waitgraph: random histories, never early", random_histories_never_early},
	{NULL, NULL}
};
