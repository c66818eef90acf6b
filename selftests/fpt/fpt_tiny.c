// SPDX-License-Identifier: GPL-2.0
/*
 * The smallest static program: executed by kloops and the tests. With an
 * argument it leaves with that code, so that an exec can be seen to have worked.
 */
#include <stdlib.h>

int main(int argc, char **argv)
{
	return argc > 1 ? atoi(argv[1]) : 0;
}
