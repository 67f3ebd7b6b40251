/*-------------------------------------------------------------------------
 *
 * main.c
 *		Runs the tests, each in a process of its own.
 *
 *		unit [NAME ...]		those whose name begins so; all unless given
 *
 * SEED and ROUNDS in the environment are for tests with random situations.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/wait.h>
#include <unistd.h>

#include "unit.h"

#define MAX_COMPLAINTS	20

/* Each takes a second or two, unless it hangs or ROUNDS says otherwise. */
#define MAX_SECONDS		(120 + rounds / 100)

int			rounds = 1000;

static int	complaints = 0;

static bool
complain(const char *file, int line)
{
	if (++complaints > MAX_COMPLAINTS)
		return false;
	printf("    %s:%d: ", file, line);
	return true;
}

bool
check(bool condition, const char *string, const char *file, int line)
{
	if (!condition && complain(file, line))
		printf("%s\n", string);
	return condition;
}

bool
check_int(long long actual, long long expected, const char *string,
		  const char *file, int line)
{
	if (actual != expected && complain(file, line))
		printf("%s is %lld, not %lld\n", string, actual, expected);
	return actual == expected;
}

bool
check_text(const char *actual, const char *expected, const char *string,
		   const char *file, int line)
{
	bool		equal = actual != NULL && strcmp(actual, expected) == 0;

	if (!equal && complain(file, line))
		printf("%s is \"%s\", not \"%s\"\n", string, actual ? actual : "(null)", expected);
	return equal;
}

bool
has_failed(void)
{
	return complaints > 0;
}

/* In a child, so that a crash is one failed test and no more. */
static bool
run(const Test *test)
{
	int			status;
	pid_t		child;

	fflush(stdout);
	child = fork();
	if (child == 0)
	{
		random_seed(0);
		alarm(MAX_SECONDS);
		test->run();
		fflush(stdout);
		_exit(has_failed() ? 1 : 0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
	{
		perror("fork");
		exit(2);
	}
	printf("%-8s%s\n", status == 0 ? "ok" : "FAILED", test->name);
	if (status != 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == 1))
		printf("    it crashed, or did not end\n");
	return status == 0;
}

static bool
is_wanted(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strncmp(name, argv[i], strlen(argv[i])) == 0)
			return true;
	return argc < 2;
}

int
main(int argc, char **argv)
{
	const Test *const suites[] = {
		clientio_tests, session_tests, waitgraph_tests, blocktime_tests, unblock_tests,
		stepaside_tests,
		limit_tests, judge_tests, proof_tests, rollback_tests, follow_tests,
		history_tests, deadlock_tests
	};
	int			passed = 0;
	int			failed = 0;

	if (getenv("ROUNDS"))
		rounds = atoi(getenv("ROUNDS"));

	for (int i = 0; i < (int) lengthof(suites); i++)
		for (const Test *test = suites[i]; test->name != NULL; test++)
			if (is_wanted(test->name, argc, argv))
			{
				if (run(test))
					passed++;
				else
					failed++;
			}
	printf("%d passed, %d failed\n", passed, failed);
	return failed == 0 && passed > 0 ? 0 : 1;
}
