/* SPDX-License-Identifier: Apache-2.0 */
/* base/zero.h - is this memory all zeros? */
#ifndef FDL_ZERO_H
#define FDL_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* Zero runs shorter than this are written: a zeroing command costs more than a copy. */
#define FDL_ZERO_GRAIN 65536

/* True where all of buf[0..len) is zero (also for len 0). Any alignment. */
bool fdl_is_zero(const void *buf, size_t len);

#endif
