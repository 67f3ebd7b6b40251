/*-------------------------------------------------------------------------
 *
 * twophase.c
 *		Which prepared transactions there are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "compat.h"
#include "debug.h"
#include "twophase.h"
#include "types.h"

/*
 * The server's table of prepared transactions, or NULL if it does not have
 * the expected layout.  ShmemInitStruct() is PostgreSQL's own way to
 * find a structure by name; that the size fits is checked first.
 *
 * Called in client backends, too, so it logs nothing; the worker does, see
 * log_limits().
 */
static LgGxactTable *
prepared_table(void)
{
	static LgGxactTable *table = NULL;
	static bool attached = false;

	if (!attached)
	{
		Size		expected = MAXALIGN(offsetof(LgGxactTable, prepXacts) +
										max_prepared_xacts * sizeof(LgGxact *)) +
			max_prepared_xacts * sizeof(LgGxact);
		bool		found;

		attached = true;
		if (max_prepared_xacts > 0 && expected == TwoPhaseShmemSize() &&
			!LG_DEBUG_FAILS("twophase_layout"))
			table = ShmemInitStruct("Prepared Transaction Table",
									TwoPhaseShmemSize(), &found);
	}
	return table;
}

/*
 * Can prepared transactions be looked up?  False if the server may have some,
 * but in a table of another layout.
 */
bool
lg_can_find_prepared(void)
{
	return max_prepared_xacts == 0 || prepared_table() != NULL;
}

/*
 * Is there any prepared transaction?  True, too, if that cannot be told.  Reads
 * without the lock.
 */
bool
lg_any_prepared(void)
{
	LgGxactTable *table = max_prepared_xacts > 0 ? prepared_table() : NULL;

	return table != NULL ? ((volatile LgGxactTable *) table)->numPrepXacts > 0 :
		max_prepared_xacts > 0;
}

/*
 * Find the prepared transaction of a PGPROC.  Fills in its gid (LG_GID_SIZE),
 * when it was prepared, and whether a session is finishing it now.  Returns
 * false if there is none.  Takes TwoPhaseStateLock, shared.
 */
bool
lg_prepared_transaction(int procno, char *gid, TimestampTz *prepared_at,
						bool *busy)
{
	LgGxactTable *table = prepared_table();
	PGPROC	   *proc = &ProcGlobal->allProcs[procno];
	bool		found = false;

	gid[0] = '\0';
	*prepared_at = 0;
	*busy = false;
	if (table == NULL)
		return false;

	LWLockAcquire(TwoPhaseStateLock, LW_SHARED);
	for (int i = 0; i < table->numPrepXacts && i < max_prepared_xacts; i++)
	{
		LgGxact    *gxact = table->prepXacts[i];

		if (gxact->pgprocno != procno || gxact->xid != proc->xid)
			continue;
		strlcpy(gid, gxact->gid, LG_GID_SIZE);
		*prepared_at = gxact->prepared_at;
		*busy = gxact->locking_backend != -1 || !gxact->valid;
		found = true;
		break;
	}
	LWLockRelease(TwoPhaseStateLock);
	return found;
}
