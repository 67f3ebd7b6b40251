/*-------------------------------------------------------------------------
 *
 * layout.c
 *		Which private structures of the server can be read in place?
 *
 * Two are needed.  The table of prepared transactions, as PostgreSQL tells a
 * gid only through a function that needs the catalogs, which the worker must
 * do without; and the list of connected processes, as there can be thousands
 * of PGPROCs that no process has.  The headers do not tell how they are laid
 * out: compat.h has copies.  A structure is read only if its copy is exactly
 * as large as what the server has allocated by that name.  What is lost if it
 * is not: prepared transactions have no gid and are not rolled back, and all
 * PGPROCs are passed over.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#include "compat.h"
#include "debug.h"
#include "layout.h"

/*
 * Find a structure in the server's shared memory by its name; NULL if there is
 * none of that size.  Only if can_look_up().
 *
 * ShmemInitStruct() is PostgreSQL's own way to look there.  If the size is
 * another it raises an error, since 19 with the lock of the index in hand.  The
 * error is discarded.
 */
static void *
find_structure(const char *name, Size size)
{
	MemoryContext context = CurrentMemoryContext;
	uint32		cancel_holdoff = QueryCancelHoldoffCount;
	void	   *volatile structure = NULL;

	PG_TRY();
	{
		bool		found;
		void	   *address = ShmemInitStruct(name, size, &found);

		if (found)
			structure = address;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		LWLockReleaseAll();
		QueryCancelHoldoffCount = cancel_holdoff;
	}
	PG_END_TRY();
	return structure;
}

/*
 * May an error be raised and forgotten here?  An LWLock in hand would be lost
 * with it; a process that has one also holds interrupts.
 */
static bool
can_look_up(void)
{
	return InterruptHoldoffCount == 0 && CritSectionCount == 0;
}

/*
 * The server's table of prepared transactions, or NULL if it does not have
 * the expected layout.  The first call should hold no LWLock: it would not look.
 *
 * Called in client backends, too, so it logs nothing; the worker does, see
 * log_limits().
 */
LgGxactTable *
lg_prepared_table(void)
{
	static LgGxactTable *table = NULL;
	static bool attached = false;

	if (!attached && can_look_up())
	{
		attached = true;
		if (max_prepared_xacts > 0)
			table = find_structure("Prepared Transaction Table",
								   LG_GXACT_TABLE_SIZE +
								   (LG_DEBUG_FAILS("twophase_layout") ? max_prepared_xacts : 0));
	}
	return table;
}

/*
 * The server's own list of connected processes, or NULL if it does not have
 * the expected layout.  Without it, all PGPROCs are passed over, which takes
 * longer but misses nothing: this is for DEBUG1 only.
 */
LgProcArray *
lg_proc_array(void)
{
	static LgProcArray *array = NULL;
	static bool attached = false;

	if (!attached && can_look_up())
	{
		attached = true;
		array = find_structure("Proc Array", LG_PROC_ARRAY_SIZE);
		if (array != NULL && array->maxProcs != LG_PROC_ARRAY_MAX)
			array = NULL;
		elog(DEBUG1, "lockguard: the list of connected processes is %s",
			 array != NULL ? "read in place" : "not as expected");
	}
	return array;
}
