/*-------------------------------------------------------------------------
 *
 * victim.h
 *		What the victim is told, and what it does for its part.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_VICTIM_H
#define LOCKGUARD_VICTIM_H

extern void lg_victim_install(void);

#endif							/* LOCKGUARD_VICTIM_H */
