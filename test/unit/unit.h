/*-------------------------------------------------------------------------
 *
 * unit.h
 *		Checks, and what the tests have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UNIT_H
#define UNIT_H

/* Fails the running test, and goes on. */
#define CHECK(condition) \
	check((condition), #condition, __FILE__, __LINE__)
#define CHECK_INT(actual, expected) \
	check_int((long long) (actual), (long long) (expected), #actual, __FILE__, __LINE__)
#define CHECK_TEXT(actual, expected) \
	check_text(actual, expected, #actual, __FILE__, __LINE__)

extern bool check(bool condition, const char *string, const char *file, int line);
extern bool check_int(long long actual, long long expected, const char *string,
					  const char *file, int line);
extern bool check_text(const char *actual, const char *expected, const char *string,
					   const char *file, int line);
extern bool has_failed(void);

/* Random numbers: the same ones for the same number and SEED. */
extern void random_seed(uint64 seed);
extern int	random_below(int n);
extern bool one_in(int n);
extern int	rounds;				/* how long random tests go on */

typedef struct Test
{
	const char *name;
	void		(*run) (void);
} Test;

extern const Test clientio_tests[];
extern const Test session_tests[];
extern const Test waitgraph_tests[];
extern const Test blocktime_tests[];
extern const Test unblock_tests[];
extern const Test stepaside_tests[];
extern const Test limit_tests[];
extern const Test judge_tests[];
extern const Test proof_tests[];
extern const Test rollback_tests[];
extern const Test follow_tests[];
extern const Test history_tests[];
extern const Test deadlock_tests[];

#endif							/* UNIT_H */
