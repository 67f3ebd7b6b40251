/*-------------------------------------------------------------------------
 *
 * model.h
 *		Which session waits for which, by the definition and without any
 *		cleverness.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UNIT_MODEL_H
#define UNIT_MODEL_H

#include "server.h"

#define MAX_NODES	40			/* sessions in a random situation */

/* One waiter and one that blocks it: the process, and the node that it counts as. */
typedef struct Pair
{
	int			waiter;			/* procno */
	int			waiter_node;
	int			blocker;		/* procno */
	int			node;
	LgBlockKind kind;
	LOCK	   *lock;
} Pair;

typedef struct Model
{
	int			npairs;
	Pair		pairs[MAX_NODES * MAX_NODES];

	/* By node; none blocks itself. */
	bool		waiting[MAX_NODES];
	bool		waits_for_row[MAX_NODES];	/* and for nothing else */
	bool		blocks[MAX_NODES][MAX_NODES];	/* directly */
	bool		ahead[MAX_NODES][MAX_NODES];	/* directly or through others */
	int			distance[MAX_NODES][MAX_NODES]; /* in pairs; 0 = none */
	int			tree[MAX_NODES];	/* smallest node that hangs together with
									 * it */
} Model;

extern int	find_pairs(int waiter, Pair *pairs);
extern void make_model(Model *model, int nprocs);
extern bool is_row(const LOCK *lock);
extern bool model_root(const Model *model, int node);
extern bool model_queued(const Model *model, int node);
extern bool model_frees(const Model *model, int node, int waiter, const bool *goes);
extern bool model_helps(const Model *model, int node, const bool *goes);
extern int	model_count(const Model *model, int node);

#endif							/* UNIT_MODEL_H */
