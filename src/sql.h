/*-------------------------------------------------------------------------
 *
 * sql.h
 *		What the SQL functions share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_SQL_H
#define LOCKGUARD_SQL_H

#include "postgres.h"

extern void lg_require_loaded(void);
extern bool lg_may_see(Oid userid);
extern char *lg_clean(const char *string);
extern Datum lg_array_of_pids(const int *pids, int n);
extern Datum lg_interval(int64 us);

#endif							/* LOCKGUARD_SQL_H */
