/* SPDX-License-Identifier: Apache-2.0 */
/* base/zero.h - is this memory all zeros, and writing with zeros made instead of sent.
 */
#ifndef FDL_ZERO_H
#define FDL_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sink/sink.h"

/* Zero runs shorter than this are written: a zeroing command costs more than a copy. */
#define FDL_ZERO_GRAIN 65536

/* True where all of buf[0..len) is zero (also for len 0). Any alignment. */
bool fdl_is_zero(const void *buf, size_t len);

/* Writes buf[0..len) at `off`. With `detect`, grains of the target (aligned to
 * FDL_ZERO_GRAIN there) that are all zeros go to fdl_sink_zero(), the rest is written
 * in as few pieces as possible. */
int fdl_zero_write(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                   bool detect, struct fdl_err *err);

#endif
