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

#include "compat.h"
#include "layout.h"
#include "twophase.h"
#include "types.h"

/*
 * Can prepared transactions be looked up?  False if the server may have some,
 * but in a table of another layout.
 */
bool
lg_can_find_prepared(void)
{
	return max_prepared_xacts == 0 || lg_prepared_table() != NULL;
}

/*
 * Is there any prepared transaction?  True, too, if that cannot be told.  Reads
 * without the lock.
 */
bool
lg_any_prepared(void)
{
	LgGxactTable *table = max_prepared_xacts > 0 ? lg_prepared_table() : NULL;

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
	LgGxactTable *table = lg_prepared_table();
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

		if (gxact->pgprocno != procno || lg_gxact_xid(gxact) != proc->xid)
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
