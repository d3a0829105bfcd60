/* SPDX-License-Identifier: Apache-2.0 */
/* replay.h - the one function of a fuzz target, known to libFuzzer and to replay.c. */
#ifndef REPLAY_H
#define REPLAY_H

#include <stddef.h>
#include <stdint.h>

/* Aborts where the target's invariant does not hold for data[0..size). Returns 0. */
__attribute__((visibility("default"))) int LLVMFuzzerTestOneInput(const uint8_t *data,
                                                                  size_t size);

#endif
