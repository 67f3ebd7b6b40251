/*-------------------------------------------------------------------------
 *
 * rollback.h
 *		Has an idle session roll its transaction back, and keeps its connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_ROLLBACK_H
#define LOCKGUARD_ROLLBACK_H

#include "record.h"
#include "session.h"
#include "shared.h"
#include "types.h"

/* The process that asks. */
extern bool lg_ask_rollback(int procno, LocalTransactionId lxid);
extern void lg_wake_for_rollback(const LgSession *session);
#ifdef LOCKGUARD_DEBUG
extern void lg_debug_wake_some(void);
#endif
extern LgRollbackState lg_rollback_state(int procno, int pid, LocalTransactionId lxid);
extern bool lg_awaits_rollback(const LgOpen *open);
extern bool lg_withdraw_rollback(int procno, LocalTransactionId lxid);
extern void lg_withdraw_rollbacks(LgSlot *slots, int n);

/* The session that is asked. */
extern void lg_rollback_install(void);
extern const LgReason *lg_rolled_back_for(void);
extern bool lg_quoting_changed(void);
extern void lg_client_told(void);

#endif							/* LOCKGUARD_ROLLBACK_H */
