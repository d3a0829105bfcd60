/* SPDX-License-Identifier: Apache-2.0 */
/* driver.h - what every counted program of the gate looks like.
 *
 * main() prepares, calls measured() once and prints how many operations that were.
 * callgrind collects inside measured() alone, so preparation costs nothing. */
#ifndef FDL_GATE_DRIVER_H
#define FDL_GATE_DRIVER_H

#include <stdio.h>
#include <stdlib.h>

/* Returns the number of operations done. */
__attribute__((noinline, used)) unsigned long measured(void);

/* A driver whose own expectation fails counts nothing. */
#define EXPECT(condition)                                                              \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

#endif
