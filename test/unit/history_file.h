/*-------------------------------------------------------------------------
 *
 * history_file.h
 *		Histories, and the files that they are kept in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UNIT_HISTORY_FILE_H
#define UNIT_HISTORY_FILE_H

#include "server.h"

#include "../../src/record.h"

#define HISTORY_FILE	"pg_stat/lockguard.stat"
#define HISTORY_ASIDE	HISTORY_FILE ".damaged"

/* Where the parts of a file are; the same layout as in history.c. */
#define FILE_HEADER_SIZE	28
#define RECORD_HEADER_SIZE	16
#define RECORD_MARK			0x4b434f4c

typedef struct RecordHeader
{
	uint32		mark;
	uint32		kind;
	uint32		length;
	uint32		crc;
} RecordHeader;

enum
{
	RECORD_ACTION = 1, RECORD_INCIDENT, RECORD_CONTENTION, RECORD_END, RECORD_DEADLOCK
};

extern uint32 header_checksum(const char *file);
extern uint32 record_checksum(const RecordHeader *header, const char *data);

extern void enter_data_directory(void);
extern void forget_history(int max_history);
extern void make_action(LgAction *action, int number);
extern void make_incident(LgIncident *incident, int number, int sessions);
extern void make_deadlock(LgDeadlock *deadlock, int number, int sessions);
extern void make_deadlocks(int deadlocks);
extern void make_history(int actions, int incidents, int contention);

extern void write_history_worker(void);
extern char *read_whole(const char *name, size_t *size);
extern void put_file(const char *bytes, size_t size);
extern void load_history(const char *bytes, size_t size);

extern void check_history(void);

#endif							/* UNIT_HISTORY_FILE_H */
