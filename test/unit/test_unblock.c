/*-------------------------------------------------------------------------
 *
 * test_unblock.c
 *		Which sessions could go on if others went; and which is removed for that.
 *
 *-------------------------------------------------------------------------
 */
#include "model.h"
#include "scene.h"

#include "unit.h"

#include "../../src/unblock.h"

/* One limit of 1 s for all sessions that there are, however they block. */
static void
limit_all(void)
{
	set_all(LG_BLOCKER_TIMEOUT, 1000);
	set_all(LG_QUEUED_BLOCKER_TIMEOUT, 1000);
}

/* What has come of 1.2 s of waiting. */
static void
judge_after_1200ms(void)
{
	for (int i = 0; i < 12; i++)
		judge_after(100);
}

/* It is not removed, as that would be in vain. */
static bool
in_vain(int procno)
{
	const LgVerdict *verdict = verdict_on(procno);

	return verdict != NULL && verdict->brake == LG_BRAKE_IN_VAIN &&
		verdict->action == LG_DO_LOG;
}

/* This one is to be signalled, and no other. */
static bool
only_victim(int procno)
{
	bool		found = false;

	for (int i = 0; i < verdicts.n; i++)
		if (verdicts.verdicts[i].brake == LG_NO_BRAKE)
		{
			if (verdicts.verdicts[i].session.procno != procno)
				return false;
			found = true;
		}
	return found;
}

static bool
no_victim(void)
{
	for (int i = 0; i < verdicts.n; i++)
		if (verdicts.verdicts[i].brake == LG_NO_BRAKE)
			return false;
	return true;
}

static LgBrake
spared(int procno)
{
	LgNode	   *node = lg_node(graph, procno);
	LgSubject	subject = {0};

	lg_load_node(graph, node);
	subject.session = &node->known->session;
	subject.values = &node->known->values;
	subject.track = &view.tracks[procno];
	subject.node = node;
	return lg_spared_by(&view, &subject);
}

/*
 * Scenes.
 */

/* The leader of a parallel dump, whose worker holds the same lock. */
static void
parallel_dump(void)
{
	scene(4);
	reads(0, table);			/* the leader */
	reads(1, table);			/* the worker, a session of its own */
	sits_idle(0);
	waits_to_alter(2, table);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	judge_after_1200ms();
	CHECK_INT(verdicts.n, 1);
	CHECK(in_vain(0));
	CHECK_INT(spared(0), LG_BRAKE_IN_VAIN);
	CHECK_INT(spared(1), LG_NO_BRAKE);

	/* As soon as it helps. */
	releases_all(1);
	judge_after(100);
	CHECK(only_victim(0));
	CHECK_INT(spared(0), LG_NO_BRAKE);

	/* The worker will end by itself, or the server cancels it. */
	for (int how = 0; how < 5; how++)
	{
		scene(4);
		if (how == 1 || how == 2)
			comes(1, B_AUTOVAC_WORKER);
		if (how == 2)
			proc_of(1)->statusFlags |= PROC_VACUUM_FOR_WRAPAROUND;
		if (how == 3)
			ends_transaction(1);
		reads(0, table);
		reads(1, table);
		if (how == 0)
			begins_commit(1);
		sits_idle(0);
		waits_to_alter(2, table);
		set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
		judge_after_1200ms();
		CHECK(how == 2 || how == 4 ? in_vain(0) : only_victim(0));
	}
}

/* Two idle readers before an ALTER: they go one after the other. */
static void
two_readers(void)
{
	scene(4);
	reads(0, table);
	reads(1, table);
	sits_idle(0);
	sits_idle(1);
	waits_to_alter(2, table);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	set(1, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	judge_after_1200ms();
	CHECK(only_victim(0));
	CHECK_INT(verdicts.n, 1);
	CHECK(verdict_on(0)->still.frees);
	CHECK_INT(verdict_on(0)->still.going[1], 101);
	CHECK_INT(verdict_on(0)->still.going[2], -1);
	releases_all(0);
	judge_after(100);
	CHECK(only_victim(1));

	/* One is exempt, or has no limit: to remove the other would be in vain. */
	for (int how = 0; how < 4; how++)
	{
		scene(4);
		reads(0, table);
		reads(1, table);
		sits_idle(0);
		sits_idle(1);
		waits_to_alter(2, table);
		set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
		set(1, LG_IDLE_BLOCKER_TIMEOUT, how == 0 ? 0 : how == 1 ? 2000 : 1000);
		set(1, LG_EXEMPT, how == 2);
		if (how == 3)
			set(1, LG_ACTION, LG_DO_LOG);
		judge_after_1200ms();
		CHECK(no_victim());
		CHECK(in_vain(0));
		judge_after_1200ms();
		CHECK(how == 1 ? only_victim(0) : no_victim());
	}

	/* A signal has not helped with the other. */
	scene(4);
	reads(0, table);
	reads(1, table);
	sits_idle(0);
	sits_idle(1);
	waits_to_alter(2, table);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	set(1, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	look();
	view.tracks[1].open_action = -1;
	view.tracks[1].open_limit = LG_IDLE_BLOCKER_TIMEOUT;
	judge_after_1200ms();
	CHECK(no_victim());
	CHECK(in_vain(0));
}

/* An ALTER behind an ALTER behind a healthy reader, and then a SELECT. */
static void
two_alters(void)
{
	scene(5);
	reads(0, table);
	waits_to_alter(1, table);
	waits_to_alter(2, table);
	set_all(LG_QUEUED_BLOCKER_TIMEOUT, 1000);
	judge_after_1200ms();
	CHECK(no_victim());
	CHECK(in_vain(1));

	/* Now it helps if both go; the one nearest the reader first. */
	waits_to_read(3, table);
	judge_after_1200ms();
	CHECK(only_victim(1));
	gives_up(1);
	judge_after(100);
	CHECK(only_victim(2));
	gives_up(2);
	judge_after(100);
	CHECK(proc_of(3)->waitLock == NULL);
}

/* Of a long queue, the one nearest the root, whichever passed its limit first. */
static void
nearest_root(void)
{
	for (int first = 1; first < 5; first++)
	{
		scene(8);
		reads(0, table);
		for (int i = 1; i < 5; i++)
			waits_to_alter(i, table);
		waits_to_read(5, table);
		for (int i = 1; i < 5; i++)
			set(i, LG_QUEUED_BLOCKER_TIMEOUT, i == first ? 500 : 1000);
		judge_after_1200ms();
		CHECK(only_victim(1));

		/* That one may not be touched, and stays. */
		set(1, LG_EXEMPT, 1);
		judge();
		CHECK(no_victim());
	}

	/* Over two locks. */
	scene(8);
	reads(0, table);
	waits_to_alter(1, table);
	reads(1, other_table);
	waits_to_alter(2, other_table);
	waits_to_read(3, other_table);
	waits_to_read(4, table);
	set(1, LG_QUEUED_BLOCKER_TIMEOUT, 1100);
	set(2, LG_QUEUED_BLOCKER_TIMEOUT, 500);
	judge_after_1200ms();
	CHECK(only_victim(1));

	/* Over three. */
	scene(8);
	reads(0, table);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	reads(1, other_table);
	waits_to_alter(3, other_table);
	waits_to_read(4, other_table);
	holds(3, lock_on(LOCKTAG_ADVISORY, 1, 1), ShareLock);
	waits(5, lock_on(LOCKTAG_ADVISORY, 1, 1), ExclusiveLock);
	waits(6, lock_on(LOCKTAG_ADVISORY, 1, 1), ShareLock);
	set_all(LG_QUEUED_BLOCKER_TIMEOUT, 1000);
	set(5, LG_QUEUED_BLOCKER_TIMEOUT, 500);
	judge_after(999);
	CHECK(only_victim(5));
	judge_after(1);
	CHECK(only_victim(1));
}

/*
 * A migration that holds one table and waits for a row of another: its statement
 * is cancelled, not the writer's that has the row.
 */
static void
migration(void)
{
	scene(5);
	alters(1, table);
	waits_for(1, 0);
	waits_to_read(2, table);
	waits_to_write(3, table);
	set_all(LG_QUEUED_BLOCKER_TIMEOUT, 1000);
	judge_after(900);
	CHECK_NO_VERDICT();
	judge_after(100);
	CHECK_NO_VERDICT();			/* the pair counts from the first look */
	judge_after_1200ms();
	CHECK_ONLY_VERDICT(1, LG_QUEUED_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	CHECK_INT(verdict_on(1)->still.evidence.kind, LG_HOLDER);
	CHECK(verdict_on(1)->still.waits);

	/* It holds rows and waits for a table. */
	scene(5);
	alters(0, table);
	waits_to_write(1, table);
	waits_for(2, 1);
	set_all(LG_QUEUED_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after_1200ms();
	CHECK_ONLY_VERDICT(1, LG_QUEUED_BLOCKER_TIMEOUT, LG_DO_CANCEL);

	/* Rows only: it is in a row's queue, which goes on by itself. */
	scene(5);
	waits_for(1, 0);
	waits_for(2, 1);
	set_all(LG_QUEUED_BLOCKER_TIMEOUT, 1000);
	set_all(LG_MAX_BLOCKED_SESSIONS, 1);
	judge();
	judge_after_1200ms();
	CHECK(verdict_on(1) == NULL);
}

/* An exclusive request in the middle of shared ones, on locks of every kind. */
static void
shared_and_exclusive(void)
{
	static const LockTagType types[] = {
		LOCKTAG_ADVISORY, LOCKTAG_OBJECT, LOCKTAG_RELATION, LOCKTAG_PAGE, LOCKTAG_USERLOCK
	};

	for (int i = 0; i < (int) lengthof(types); i++)
	{
		LOCK	   *lock;

		scene(5);
		lock = lock_on(types[i], 1, 1);
		holds(0, lock, ShareLock);
		waits(1, lock, ExclusiveLock);
		waits(2, lock, ShareLock);
		waits(3, lock, ShareLock);
		set_all(LG_QUEUED_BLOCKER_TIMEOUT, 1000);
		judge();
		judge_after_1200ms();
		CHECK_ONLY_VERDICT(1, LG_QUEUED_BLOCKER_TIMEOUT, LG_DO_CANCEL);
		CHECK_INT(verdict_on(1)->blocked_sessions, 2);
		set_all(LG_QUEUED_BLOCKER_TIMEOUT, 0);
		set_all(LG_MAX_BLOCKED_SESSIONS, 1);
		judge();
		CHECK_ONLY_VERDICT(1, LG_MAX_BLOCKED_SESSIONS, LG_DO_CANCEL);
		gives_up(1);
		CHECK(proc_of(2)->waitLock == NULL && proc_of(3)->waitLock == NULL);
	}
}

/* Queues of exclusive requests only: none but the root. */
static void
exclusive_queues(void)
{
	static const LockTagType types[] = {LOCKTAG_ADVISORY, LOCKTAG_RELATION, LOCKTAG_TUPLE};

	for (int i = 0; i < (int) lengthof(types); i++)
		for (int limited = 0; limited < 2; limited++)
		{
			LOCK	   *lock;

			scene(8);
			lock = lock_on(types[i], 1, 7);
			holds(0, lock, ExclusiveLock);
			for (int waiter = 1; waiter < 8; waiter++)
				waits(waiter, lock, ExclusiveLock);
			limit_all();
			set(0, LG_BLOCKER_TIMEOUT, limited ? 1000 : 0);
			judge();
			judge_after_1200ms();
			CHECK(limited ? only_victim(0) : no_victim());
			if (!limited)
				CHECK_INT(verdicts.n, i == 2 ? 0 : 1);
		}
}

/* Two sessions on which another waits through both: neither alone is enough. */
static void
held_by_two(void)
{
	scene(6);
	alters(0, table);
	reads(1, other_table);
	waits_to_alter(2, other_table);
	waits_to_read(3, table);
	set(0, LG_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after_1200ms();
	CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);

	/* Behind it waits one that waits for none but it: that one can go on. */
	scene(6);
	reads(0, table);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	set(0, LG_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after_1200ms();
	CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	CHECK_INT(verdict_on(0)->still.evidence.waiter_procno, 1);
}

/* That its own worker could go on is of no help. */
static void
own_worker(void)
{
	LOCK	   *extension;

	scene(5);
	comes(6, B_BG_WORKER);
	joins_group(6, 0);
	extension = lock_on(LOCKTAG_RELATION_EXTEND, 1, 2);
	holds(6, extension, ExclusiveLock);
	waits(0, extension, ExclusiveLock);
	reads(0, table);
	reads(1, table);
	waits_to_alter(2, table);
	set(0, LG_QUEUED_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after_1200ms();
	CHECK(no_victim());
}

/* A worker of the one that is asked for stands behind those that it blocks. */
static void
worker_behind(void)
{
	scene(5);
	comes(6, B_BG_WORKER);
	joins_group(6, 0);
	reads(0, table);
	reads(1, table);
	waits_to_alter(2, table);
	waits_to_alter(6, table);
	for (int i = 0; i < 2; i++)
	{
		set(i, LG_BLOCKER_TIMEOUT, 1000);
		set(i, LG_QUEUED_BLOCKER_TIMEOUT, 1000);
	}
	judge();
	judge_after_1200ms();
	CHECK(verdict_on(1) != NULL);
	CHECK_INT(verdict_on(1)->brake, LG_BRAKE_IN_VAIN);
	CHECK(no_victim());
}

/*
 * Random graphs, against the definition.
 */
static void
check_unblock(int nprocs)
{
	static Model model;
	LgUnblock  *unblock = lg_unblock_create(graph);
	bool		ends[MAX_NODES] = {false};
	bool		goes[MAX_NODES] = {false};

	make_model(&model, nprocs);
	for (int i = 0; i < nprocs; i++)
	{
		LgFate		fate = random_below(3);

		unblock->fate[i] = fate;
		unblock->asked[i] = true;
		ends[i] = fate == LG_ENDS;
		goes[i] = fate != LG_STAYS;
	}
	lg_unblock(graph, unblock);
	for (int i = 0; i < nprocs; i++)
	{
		int			waiter;

		if (lg_node(graph, i) == NULL || ends[i])
			continue;
		CHECK_INT(unblock->alone[i] >= 0, model_helps(&model, i, ends));
		if (unblock->alone[i] >= 0)
			CHECK(model_frees(&model, i, graph->waiters[unblock->alone[i]].procno, ends));

		waiter = lg_freed_by(graph, unblock, i);
		CHECK_INT(waiter >= 0, model_helps(&model, i, goes[i] ? goes : ends));
		if (waiter >= 0)
			CHECK(model_frees(&model, i, graph->waiters[waiter].procno, goes));
	}
}

/* A process does not wait for a lock that it holds in a mode that conflicts. */
static bool
may_wait(int procno, LOCK *lock, LOCKMODE mode)
{
	return (held_by(lock, procno) & lock_conflicts[mode]) == 0;
}

static void
random_graphs(void)
{
	static const LockTagType types[] = {
		LOCKTAG_RELATION, LOCKTAG_RELATION, LOCKTAG_TUPLE, LOCKTAG_TRANSACTION,
		LOCKTAG_RELATION_EXTEND, LOCKTAG_ADVISORY
	};

	for (int round = 0; round < rounds && !has_failed(); round++)
	{
		int			nprocs;
		int			nlocks;
		int			ntypes;
		int			nmodes;
		int			nholds;

		random_seed(round);
		nprocs = 2 + random_below(MAX_NODES / 2);
		nlocks = 1 + random_below(4);
		ntypes = one_in(3) ? 1 : (int) lengthof(types);
		nmodes = one_in(3) ? 2 : MaxLockMode;
		nholds = random_below(2 * nprocs);
		scene(nprocs);
		for (int i = 1; i < nprocs; i++)
			if (one_in(5) && proc_of(i - 1)->lockGroupLeader == NULL)
				joins_group(i, i - 1);
			else if (one_in(5))
				joins_group(i, node_of(i - 1));
		for (int i = 0; i < nholds; i++)
			holds(random_below(nprocs),
				  lock_on(types[random_below(ntypes)], random_below(nlocks), 0),
				  MaxLockMode - random_below(nmodes));
		for (int i = 0; i < nprocs; i++)
		{
			LOCK	   *lock = lock_on(types[random_below(ntypes)], random_below(nlocks), 0);
			LOCKMODE	mode = MaxLockMode - random_below(nmodes);

			pass(random_below(100));
			if (!one_in(3) && may_wait(i, lock, mode))
				waits(i, lock, mode);
		}
		look_after(1);
		for (int i = 0; i < 5; i++)
			check_unblock(nprocs);
		if (has_failed())
			printf("    in round %d, %d sessions\n", round, nprocs);
	}
}

const Test	unblock_tests[] = {
	{"unblock: the leader of a parallel dump", parallel_dump},
	{"unblock: two readers before an ALTER", two_readers},
	{"unblock: an ALTER behind an ALTER", two_alters},
	{"unblock: the queued blocker nearest the root", nearest_root},
	{"unblock: a migration that waits for a row", migration},
	{"unblock: exclusive in the middle of shared", shared_and_exclusive},
	{"unblock: queues of exclusive requests", exclusive_queues},
	{"unblock: a waiter that waits for one alone", held_by_two},
	{"unblock: a session's own worker", own_worker},
	{"unblock: a worker behind those that its leader blocks", worker_behind},
	{"unblock: random graphs", random_graphs},
	{NULL, NULL}
};
