/*-------------------------------------------------------------------------
 *
 * text.h
 *		The words for what people read: states, kinds, locks, durations, sources,
 *		results, reasons, and what a victim is told.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_TEXT_H
#define LOCKGUARD_TEXT_H

#include "lib/stringinfo.h"

#include "session.h"
#include "types.h"

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
	char	   *(*clean) (const char *string);
} LgTreeStyle;

extern const char *lg_state_text(const LgSession *session);
extern const char *lg_backend_state_text(BackendState state);
extern const char *lg_idle_text(BackendState state);
extern const char *lg_kind_text(LgKind kind);
extern const char *lg_backend_type(LgKind kind);
extern bool lg_lock_relation(const LOCKTAG *tag, Oid *relation);
extern void lg_lock_text(const LOCKTAG *tag, const LgTreeStyle *style,
						 char *buf, size_t size);
extern int	lg_control_bytes(const char *string);
extern char *lg_one_line(const char *string, int max_bytes);
extern char *lg_text_for_client(const char *string, int max_bytes);
extern void lg_duration_text(int64 ns, char *buf, size_t size);
extern const char *lg_doing_text(const char *state, uint32 wait_event);
extern const char *lg_source_name(LgSource source);
extern const char *lg_action_name(LgActionKind action);
extern const char *lg_priority_name(LgPriority priority);
extern void lg_format_value(int id, int value, char *buf, size_t size);
extern const char *lg_result_name(LgResult result);
extern const char *lg_resolution_name(LgResolution resolution);
extern void lg_describe_source(LgSource source, const char *role, const char *database,
							   char *buf, size_t size);
extern const char *lg_brake_text(LgBrake brake, LgKind kind);
extern void lg_tell(int limit, int blocked, int64 measured, BackendState state,
					char *buf, size_t size);
extern const char *lg_limit_hint(int limit);

#endif							/* LOCKGUARD_TEXT_H */
