/* SPDX-License-Identifier: Apache-2.0 */
/* job/gather.h - pieces of several blocks in one pass.
 *
 * Without instructions for SHA-256 a processor makes many digests at a time for the
 * price of a few, and a block has a piece or two. Blocks of mirrors that are trusted
 * wait here for one another, but not for a slow network: whoever brings the last one
 * that there is room for, or finds that those that wait are late, or that no other is
 * on its way, checks them all. Who merely has nothing to do does not: he waits for the
 * journal as a rule, and checked by two or three the lanes were empty. */
#ifndef FDL_GATHER_H
#define FDL_GATHER_H

#include "job/state.h"

/* After the pieces. */
void fdl_gather_init(struct fdl_job *job);

/* Whether a block of these mirrors may wait. Takes no lock. */
bool fdl_gather_takes(struct fdl_job *job, uint64_t mirrors);

/* A filled block waits from now on. Locked. */
void fdl_gather_add(struct fdl_job *job, uint64_t block);

/* Whether those that wait are to be checked now: they are as many as there may be, one
 * has waited long, or no other can come before. Locked. */
bool fdl_gather_is_due(const struct fdl_job *job);

/* All that wait, the lowest first, wait no longer: how many. Locked. */
size_t fdl_gather_take(struct fdl_job *job, uint64_t blocks[FDL_SHA256_LANES_MAX],
                       const struct fdl_buf *bufs[FDL_SHA256_LANES_MAX]);

#endif
