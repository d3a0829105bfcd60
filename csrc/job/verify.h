/* SPDX-License-Identifier: Apache-2.0 */
/* job/verify.h - VERIFY and LAND: a filled block is proven by its piece, written, and
 * given back once every ordered consumer has passed it.
 *
 *   FILLED --piece matches--> VERIFIED --written, every ordered consumer passed--> free
 *      \--piece differs--> missing again, its mirror disqualified
 *
 * A block is not written before its piece has matched: bytes known to be bad never
 * reach the target. */
#ifndef FDL_VERIFY_H
#define FDL_VERIFY_H

#include "job/state.h"

/* The worker has filled the block: its bytes are in buf (one reference, STOLEN).
 *   mirrors  bit set of those that gave them */
void fdl_verify_deliver(struct fdl_job *job, int worker, uint64_t block,
                        struct fdl_buf *buf, uint64_t mirrors);

/* [first, end) matched its piece: it is to be written, by whoever has time. Locked. */
void fdl_verify_proven(struct fdl_job *job, uint64_t first, uint64_t end);

/* [first, end) did not, for the failures'th time: it is missing again, and who sent it
 * is disqualified, if that can be told. Locked. */
void fdl_verify_piece_failed(struct fdl_job *job, uint64_t first, uint64_t end,
                             int failures);

/* Checks the blocks that wait for one another (job/gather.h), if that is due; false if
 * not. Locked on entry and exit, not while it hashes. */
bool fdl_verify_gathered(struct fdl_job *job);

/* The same, and a block is written: for each tick, as all connections may stand still.
 */
void fdl_verify_late(struct fdl_job *job);

/* Writes a block that is to be written; false where there is none. Locked on entry and
 * exit, not while it writes. */
bool fdl_verify_write_one(struct fdl_job *job);

/* Locked: `block` was written or passed. Where nobody needs it any more its memory goes
 * back; its slot does once it is the plan's base. */
void fdl_verify_release(struct fdl_job *job, uint64_t block);

#endif
