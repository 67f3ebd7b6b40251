/*-------------------------------------------------------------------------
 *
 * sql.c
 *		What the SQL functions share: whether lockguard runs, and what their caller
 *		may see.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/timestamp.h"

#include "library.h"
#include "shared.h"
#include "sql.h"

/* Errors out unless lockguard runs in this server, and from this library. */
void
lg_require_loaded(void)
{
	if (lg_shared == NULL && IsBinaryUpgrade)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("lockguard does not run in binary upgrade mode")));

	/* As SHOW shared_preload_libraries, the path is not for every user. */
	if (lg_shared == NULL && lg_preloaded_path() != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("lockguard was preloaded from a different library than its functions"),
				 errdetail_log("The server has preloaded \"%s\".", lg_preloaded_path()),
				 errhint("Preload the library that the functions are in, or replace one of the two by a symbolic link to the other, and restart the server.")));
	if (lg_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("lockguard is not running in this server"),
				 errhint("Add lockguard to shared_preload_libraries and restart the server.")));
}

/* May the user see what a session of that role does, as in pg_stat_activity? */
bool
lg_may_see(Oid userid)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		(OidIsValid(userid) && has_privs_of_role(GetUserId(), userid));
}

/*
 * Text of another session, perhaps of a database with another encoding: bytes
 * that are not valid in this one's are replaced by question marks.
 */
char *
lg_clean(const char *string)
{
	int			encoding = GetDatabaseEncoding();
	int			len = strlen(string);
	char	   *result = pstrdup(string);
	char	   *p = result;

	while (len > 0)
	{
		int			l = IS_HIGHBIT_SET(*p) ?
			pg_encoding_verifymbchar(encoding, p, len) : 1;

		if (l <= 0)
		{
			*p = '?';
			l = 1;
		}
		p += l;
		len -= l;
	}
	return result;
}

/* Pids as an array of int4. */
Datum
lg_array_of_pids(const int *pids, int n)
{
	Datum	   *elements = palloc_array(Datum, Max(n, 1));

	for (int i = 0; i < n; i++)
		elements[i] = Int32GetDatum(pids[i]);
	return PointerGetDatum(construct_array(elements, n, INT4OID, sizeof(int32),
										   true, TYPALIGN_INT));
}

/* A duration in us as an interval. */
Datum
lg_interval(int64 us)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = us;
	return IntervalPGetDatum(interval);
}
