/* SPDX-License-Identifier: Apache-2.0 */
/* job/gather.h - pieces of several blocks in one pass.
 *
 * Without instructions for SHA-256 a processor makes many digests at a time for the
 * price of a few, and a block has a piece or two. Blocks of mirrors that are trusted
 * wait here for one another, but never for the network: whoever brings the last one
 * that there is room for, or finds those that wait late, or has nothing else to do,
 * checks them all. */
#ifndef FDL_GATHER_H
#define FDL_GATHER_H

#include "job/state.h"

/* After the pieces. */
void fdl_gather_init(struct fdl_job *job);

/* Whether a block of these mirrors may wait. Takes no lock. */
bool fdl_gather_takes(struct fdl_job *job, uint64_t mirrors);

/* A filled block waits from now on. Whether all that wait are to be checked now.
 * Locked.
 */
bool fdl_gather_add(struct fdl_job *job, uint64_t block);

/* Whether some have waited long: connections are slow, or stand still. Locked. */
bool fdl_gather_is_late(const struct fdl_job *job);

/* All that wait, the lowest first, wait no longer: how many. Locked. */
size_t fdl_gather_take(struct fdl_job *job, uint64_t blocks[FDL_SHA256_LANES_MAX],
                       const struct fdl_buf *bufs[FDL_SHA256_LANES_MAX]);

#endif
