/*-------------------------------------------------------------------------
 *
 * twophase.h
 *		Which prepared transactions there are.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_TWOPHASE_H
#define LOCKGUARD_TWOPHASE_H

#include "datatype/timestamp.h"

extern bool lg_can_find_prepared(void);
extern bool lg_any_prepared(void);
extern bool lg_prepared_transaction(int procno, char *gid, TimestampTz *prepared_at,
									bool *busy);

#endif							/* LOCKGUARD_TWOPHASE_H */
