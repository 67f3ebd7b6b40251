/*-------------------------------------------------------------------------
 *
 * tree.h
 *		The lock tree as text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_TREE_H
#define LOCKGUARD_TREE_H

#include "lib/stringinfo.h"
#include "limits.h"

/* Levels drawn before a line is not indented any further. */
#define LG_MAX_INDENT	8

/* How to draw for a reader; all may be left zero. */
typedef struct LgTreeStyle
{
	int			max_lines;		/* sessions drawn, 0 = all */
	int			width;			/* cut lines at this many characters, 0 = none */
	/* Texts of the root, if they were read before. */
	const char *root_query;
	const char *root_application_name;
	/* The name of a relation, or NULL to show its OID. */
	char	   *(*relation_name) (Oid relation);
	/* May the reader see this session's query? */
	bool		(*may_see) (Oid userid);
	/* Make text of others fit to show. */
	char	   *(*clean) (const char *text);
} LgTreeStyle;

extern void lg_draw_tree(LgView *view, int root, const LgTreeStyle *style,
						 StringInfo out);
extern void lg_lock_text(const LOCKTAG *tag, const LgTreeStyle *style,
						 char *buf, size_t size);
extern int	lg_control_bytes(const char *text);
extern char *lg_one_line(const char *text, int max_bytes);
extern void lg_duration_text(int64 ns, char *buf, size_t size);
extern const char *lg_doing_text(const char *state, uint32 wait_event);

#endif							/* LOCKGUARD_TREE_H */
