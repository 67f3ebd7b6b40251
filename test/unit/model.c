/*-------------------------------------------------------------------------
 *
 * model.c
 *		Who waits for whom, by the definition and without any cleverness; and a
 *		lock manager that grants and queues as PostgreSQL's does.
 *
 *-------------------------------------------------------------------------
 */
#include "model.h"

/* A lock group counts as its leader. */
int
node_of(int procno)
{
	PGPROC	   *leader = proc_of(procno)->lockGroupLeader;

	return leader ? leader - ProcGlobal->allProcs : procno;
}

/* All that block one waiter, as pg_blocking_pids() has it: holders, then queue. */
int
find_pairs(int waiter, Pair *pairs)
{
	PGPROC	   *proc = proc_of(waiter);
	LOCK	   *lock = proc->waitLock;
	LOCKMASK	conflicts;
	bool		own_group_too;
	int			n = 0;

	if (lock == NULL)
		return 0;
	conflicts = lock_conflicts[proc->waitLockMode];
	own_group_too = lock->tag.locktag_type == LOCKTAG_RELATION_EXTEND;

	for (PROCLOCK *held = lg_first_proclock(lock); held; held = lg_next_proclock(lock, held))
	{
		int			holder = held->tag.myProc - ProcGlobal->allProcs;

		if (holder == waiter || (held->holdMask & conflicts) == 0 ||
			(node_of(holder) == node_of(waiter) && !own_group_too))
			continue;
		pairs[n++] = (Pair)
		{
			waiter, node_of(waiter), holder, node_of(holder), LG_HOLDER, lock
		};
	}
	for (PGPROC *queued = lg_first_waiter(lock); queued != proc; queued = lg_next_waiter(lock, queued))
	{
		int			other = queued - ProcGlobal->allProcs;

		if ((LOCKBIT_ON(queued->waitLockMode) & conflicts) == 0 ||
			(node_of(other) == node_of(waiter) && !own_group_too))
			continue;
		pairs[n++] = (Pair)
		{
			waiter, node_of(waiter), other, node_of(other), LG_QUEUE, lock
		};
	}
	return n;
}

static void
same_tree(Model *model, int a, int b)
{
	int			from = Max(model->tree[a], model->tree[b]);
	int			to = Min(model->tree[a], model->tree[b]);

	for (int i = 0; i < MAX_NODES; i++)
		if (model->tree[i] == from)
			model->tree[i] = to;
}

/* Of the sessions with a procno below nprocs. */
void
make_model(Model *model, int nprocs)
{
	memset(model, 0, sizeof(*model));
	for (int i = 0; i < MAX_NODES; i++)
		model->tree[i] = i;

	for (int waiter = 0; waiter < nprocs; waiter++)
	{
		LOCK	   *lock = proc_of(waiter)->waitLock;

		if (lock == NULL)
			continue;
		model->waiting[node_of(waiter)] = true;
		model->npairs += find_pairs(waiter, &model->pairs[model->npairs]);

		/*
		 * All that wait for one lock are of one tree, and who blocks any of
		 * them.
		 */
		for (int other = 0; other < nprocs; other++)
			if (proc_of(other)->waitLock == lock ||
				(held_by(lock, other) & lock_conflicts[proc_of(waiter)->waitLockMode]))
				same_tree(model, node_of(waiter), node_of(other));
	}
	for (int i = 0; i < model->npairs; i++)
		if (model->pairs[i].node != model->pairs[i].waiter_node)
			model->blocks[model->pairs[i].node][model->pairs[i].waiter_node] = true;

	/* Distances, by trying longer and longer paths. */
	for (int x = 0; x < nprocs; x++)
		for (int y = 0; y < nprocs; y++)
			if (model->blocks[x][y])
				model->distance[x][y] = 1;
	for (int length = 2; length <= nprocs; length++)
		for (int x = 0; x < nprocs; x++)
			for (int y = 0; y < nprocs; y++)
				for (int z = 0; z < nprocs && model->distance[x][y] == 0; z++)
					if (model->distance[x][z] == length - 1 && model->blocks[z][y])
						model->distance[x][y] = length;
	for (int x = 0; x < nprocs; x++)
		for (int y = 0; y < nprocs; y++)
			model->ahead[x][y] = model->distance[x][y] > 0;
}

bool
model_root(const Model *model, int node)
{
	bool		any = false;

	for (int i = 0; i < MAX_NODES; i++)
		any |= model->blocks[node][i];
	return any && !model->waiting[node];
}

/* How many wait for a node. */
int
model_count(const Model *model, int node)
{
	int			n = 0;

	for (int i = 0; i < MAX_NODES; i++)
		n += i != node && model->ahead[node][i];
	return n;
}

/* Does a mode conflict with what others than the procno's own group hold? */
static bool
conflicts_with_holders(LOCK *lock, int procno, LOCKMODE mode)
{
	bool		own_group_too = lock->tag.locktag_type == LOCKTAG_RELATION_EXTEND;

	for (PROCLOCK *held = lg_first_proclock(lock); held; held = lg_next_proclock(lock, held))
	{
		int			holder = held->tag.myProc - ProcGlobal->allProcs;

		if (holder != procno && (held->holdMask & lock_conflicts[mode]) != 0 &&
			(node_of(holder) != node_of(procno) || own_group_too))
			return true;
	}
	return false;
}

/*
 * Take a lock, or wait for it, as ProcSleep() does: whoever holds the lock
 * already goes ahead of those that wait for that.  False if it has to wait.
 */
bool
acquire(LOCK *lock, int procno, LOCKMODE mode)
{
	LOCKMASK	waited = 0;
	LOCKMASK	mine = 0;

	for (PROCLOCK *held = lg_first_proclock(lock); held; held = lg_next_proclock(lock, held))
		if (node_of(held->tag.myProc - ProcGlobal->allProcs) == node_of(procno))
			mine |= held->holdMask;
	for (PGPROC *queued = lg_first_waiter(lock); queued; queued = lg_next_waiter(lock, queued))
		waited |= LOCKBIT_ON(queued->waitLockMode);

	if ((lock_conflicts[mode] & waited) == 0 && !conflicts_with_holders(lock, procno, mode))
	{
		hold(lock, procno, mode);
		return true;
	}
	waited = 0;
	for (PGPROC *queued = lg_first_waiter(lock); mine != 0 && queued;
		 queued = lg_next_waiter(lock, queued))
	{
		if (lock_conflicts[queued->waitLockMode] & mine)
		{
			if ((lock_conflicts[mode] & waited) == 0 &&
				!conflicts_with_holders(lock, procno, mode))
			{
				hold(lock, procno, mode);
				return true;
			}
			wait_ahead_of(lock, procno, mode, queued - ProcGlobal->allProcs);
			return false;
		}
		waited |= LOCKBIT_ON(queued->waitLockMode);
	}
	wait_for_lock(lock, procno, mode);
	return false;
}

/* Grant what can be granted now, in the order of the queue. */
static void
wake_up(LOCK *lock)
{
	LOCKMASK	ahead = 0;
	PGPROC	   *next;

	for (PGPROC *queued = lg_first_waiter(lock); queued; queued = next)
	{
		int			procno = queued - ProcGlobal->allProcs;
		LOCKMODE	mode = queued->waitLockMode;

		next = lg_next_waiter(lock, queued);
		if ((lock_conflicts[mode] & ahead) == 0 && !conflicts_with_holders(lock, procno, mode))
		{
			hold(lock, procno, mode);
			stop_waiting(procno);
		}
		else
			ahead |= LOCKBIT_ON(mode);
	}
}

void
release(LOCK *lock, int procno, LOCKMODE mode)
{
	let_go(lock, procno, mode);
	wake_up(lock);
}

/* The end of a transaction, also of one that waits. */
void
release_all(int procno)
{
	PGPROC	   *proc = proc_of(procno);

	if (proc->waitLock != NULL)
	{
		LOCK	   *lock = proc->waitLock;

		stop_waiting(procno);
		wake_up(lock);
	}
	for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
	{
		PROCLOCK   *held;

		while ((held = lg_first_held(proc, partition)) != NULL)
		{
			LOCK	   *lock = held->tag.myLock;
			LOCKMASK	mask = held->holdMask;

			for (int mode = 1; mode <= MaxLockMode; mode++)
				if (mask & LOCKBIT_ON(mode))
					let_go(lock, procno, mode);
			wake_up(lock);
		}
	}
}
