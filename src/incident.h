/*-------------------------------------------------------------------------
 *
 * incident.h
 *		Follows outages from their beginning to their end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_INCIDENT_H
#define LOCKGUARD_INCIDENT_H

#include "look.h"
#include "record.h"

typedef struct LgIncidents LgIncidents;

extern LgIncidents *lg_incidents_create(void);
extern int64 lg_incidents_scan(LgIncidents *incidents, LgView *view, int64 last_scan,
							   bool *any_open);
extern bool lg_incidents_watch(const LgIncidents *incidents);
extern void lg_contention_key(const LgGraph *graph, const LgSession *session,
							  LgContention *more);
extern void lg_incident_begin(LgIncidents *incidents, LgView *view, int procno);
extern int64 lg_incident_of(LgView *view, int procno);
extern int64 lg_incident_of_root(int pid, TimestampTz session_start);
extern const LgIncidentSession *lg_next_session(const LgIncident *incident,
												const LgIncidentSession *session,
												const char **usename,
												const char **application_name,
												const char **query);

extern const char *lg_kept_state(const LgIncidentSession *session,
								 bool (*may_see) (Oid));
extern void lg_incident_tree(const LgIncident *incident, bool (*may_see) (Oid),
							 char *(*clean) (const char *), StringInfo out);

#endif							/* LOCKGUARD_INCIDENT_H */
