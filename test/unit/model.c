/*-------------------------------------------------------------------------
 *
 * model.c
 *		Which session waits for which, by the definition and without any
 *		cleverness.
 *
 *-------------------------------------------------------------------------
 */
#include "model.h"

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
		int			holder = lg_proc_number(held->tag.myProc);

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
		int			other = lg_proc_number(queued);

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
		if (!model->waiting[node_of(waiter)])
			model->waits_for_row[node_of(waiter)] = true;
		model->waiting[node_of(waiter)] = true;
		if (!is_row(lock))
			model->waits_for_row[node_of(waiter)] = false;
		model->npairs += find_pairs(waiter, &model->pairs[model->npairs]);

		/*
		 * All that wait for one lock are of one tree, and so are those that
		 * block any of them.
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

/* What those wait for that want a row. */
bool
is_row(const LOCK *lock)
{
	switch (lock->tag.locktag_type)
	{
		case LOCKTAG_TRANSACTION:
		case LOCKTAG_TUPLE:
		case LOCKTAG_VIRTUALTRANSACTION:
		case LOCKTAG_SPECULATIVE_TOKEN:
			return true;
		default:
			return false;
	}
}

bool
model_root(const Model *model, int node)
{
	bool		any = false;

	for (int i = 0; i < MAX_NODES; i++)
		any |= model->blocks[node][i];
	return any && !model->waiting[node];
}

/*
 * It waits while others wait for it, is in no cycle, and either its own wait or
 * theirs is not for a row.
 */
bool
model_queued(const Model *model, int node)
{
	bool		any = false;

	for (int i = 0; i < model->npairs; i++)
		any |= model->pairs[i].node == node && model->pairs[i].waiter_node != node &&
			(!model->waits_for_row[node] || !is_row(model->pairs[i].lock));
	return any && model->waiting[node] && !model->ahead[node][node];
}

/*
 * Which nodes wait, directly and through others, for none but this one?  In as
 * many passes as it takes.
 */
static void
only_behind(const Model *model, int node, bool *behind)
{
	bool		more = true;

	memset(behind, 0, MAX_NODES * sizeof(bool));
	while (more)
	{
		more = false;
		for (int i = 0; i < MAX_NODES; i++)
		{
			bool		any = false;
			bool		all = i != node && !behind[i];

			for (int p = 0; p < model->npairs; p++)
				if (model->pairs[p].waiter_node == i)
				{
					any = true;
					all &= model->pairs[p].node == node || behind[model->pairs[p].node];
				}
			behind[i] |= any && all;
			more |= any && all;
		}
	}
}

/*
 * Can a waiter (a procno) go on once a node, which blocks it directly, has gone?
 * So it can if each other that blocks it directly goes, too, or waits for none
 * but that node.
 */
bool
model_frees(const Model *model, int node, int waiter, const bool *goes)
{
	bool		behind[MAX_NODES];
	bool		blocked = false;
	bool		freed = node_of(waiter) != node;

	only_behind(model, node, behind);
	for (int i = 0; i < model->npairs; i++)
	{
		const Pair *pair = &model->pairs[i];

		if (pair->waiter != waiter)
			continue;
		blocked |= pair->node == node;
		freed &= pair->node == node || goes[pair->node] || behind[pair->node];
	}
	return blocked && freed;
}

/* Does it help to remove a node: can any waiter go on then? */
bool
model_helps(const Model *model, int node, const bool *goes)
{
	for (int i = 0; i < model->npairs; i++)
		if (model->pairs[i].node == node &&
			model_frees(model, node, model->pairs[i].waiter, goes))
			return true;
	return false;
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
