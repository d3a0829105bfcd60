/* SPDX-License-Identifier: Apache-2.0 */
/* job/chain.h - the whole file's digest, computed along with the pieces'.
 *
 * Where a processor carries two chains for the price of one, whoever hashes a piece
 * takes the file's next block along: another block than the piece's, since that one is
 * not proven yet. One thread has the chain at a time. Its consumer only takes what
 * nobody took along. Locked, all of them. */
#ifndef FDL_CHAIN_H
#define FDL_CHAIN_H

#include "job/state.h"

/* Takes the chain for its next block, which is verified, and waits for whoever has it
 * if there is a block for everybody who waits. Returns the block, with a reference, or
 * NULL: there is no such chain, or nothing for it to do. */
struct fdl_buf *fdl_chain_take_along(struct fdl_job *job);

/* The same for the chain's own consumer, which does not wait: NULL also while the
 * pieces to come will take the next block along. */
struct fdl_buf *fdl_chain_take(struct fdl_job *job);

/* The chain has passed the block that was taken, which is returned:
 * fdl_verify_release() is the caller's. */
uint64_t fdl_chain_put(struct fdl_job *job, struct fdl_buf *buf);

#endif
