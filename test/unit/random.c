/*-------------------------------------------------------------------------
 *
 * random.c
 *		Random numbers that are the same for the same seed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "unit.h"

static uint64 seed = 0;
static uint64 random_state;

/* splitmix64 */
static uint64
random_word(void)
{
	uint64		z = (random_state += UINT64CONST(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

void
random_seed(uint64 number)
{
	if (seed == 0)
		seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 10) + 1 : 1;
	random_state = seed * UINT64CONST(1000003) + number;
}

int
random_below(int n)
{
	return random_word() % n;
}

bool
one_in(int n)
{
	return random_below(n) == 0;
}
