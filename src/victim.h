/*-------------------------------------------------------------------------
 *
 * victim.h
 *		What the victim is told, and what it does for its part.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_VICTIM_H
#define LOCKGUARD_VICTIM_H

#include "types.h"

extern void lg_victim_install(void);
extern void lg_describe_source(LgSource source, const char *role, const char *database,
							   char *buf, size_t size);

#endif							/* LOCKGUARD_VICTIM_H */
