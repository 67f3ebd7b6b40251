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
#include "look.h"
#include "text.h"

/* Levels drawn before a line is not indented any further. */
#define LG_MAX_INDENT	8

extern void lg_draw_tree(LgView *view, int root, const LgTreeStyle *style,
						 StringInfo out);

#endif							/* LOCKGUARD_TREE_H */
