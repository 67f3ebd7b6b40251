/*-------------------------------------------------------------------------
 *
 * layout.h
 *		Which private structures of the server can be read in place?
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_LAYOUT_H
#define LOCKGUARD_LAYOUT_H

#include "compat.h"

extern LgGxactTable *lg_prepared_table(void);
extern LgProcArray *lg_proc_array(void);

#endif							/* LOCKGUARD_LAYOUT_H */
