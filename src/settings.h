/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The settings, and what each session has of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_SETTINGS_H
#define LOCKGUARD_SETTINGS_H

#include "datatype/timestamp.h"

#include "types.h"

/* Settings of the server as a whole (PGC_SIGHUP). */
extern bool lg_enabled;
extern bool lg_dry_run;
extern int	lg_naptime;			/* ms */
extern int	lg_max_actions_per_minute;
extern int	lg_prepared_timeout;	/* ms */
extern int	lg_prepared_action;
extern int	lg_max_history;
extern int	lg_incident_threshold;	/* ms */
extern bool lg_log_incidents;
extern bool lg_explain_waits;

#ifdef LOCKGUARD_DEBUG
extern char *lg_debug_wait_at;
extern char *lg_debug_error_at;
#endif

extern void lg_settings_define(void);
extern void lg_settings_login(void);
extern void lg_settings_publish_server(void);
extern void lg_settings_server_values(LgValues *values);
extern bool lg_settings_of_session(int procno, int pid, TimestampTz session_start,
								   const LgValues *server, LgValues *values);
extern void lg_settings_smallest(const LgValues *server, int *smallest);

extern const char *lg_setting_name(int id);
extern const char *lg_setting_unit(int id);

#endif							/* LOCKGUARD_SETTINGS_H */
