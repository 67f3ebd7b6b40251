/*-------------------------------------------------------------------------
 *
 * views.h
 *		What the SQL functions share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_VIEWS_H
#define LOCKGUARD_VIEWS_H

extern void lg_require_loaded(void);
extern bool lg_may_see(Oid userid);
extern char *lg_clean(const char *text);

#endif							/* LOCKGUARD_VIEWS_H */
