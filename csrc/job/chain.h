/* SPDX-License-Identifier: Apache-2.0 */
/* job/chain.h - the whole file's digest and its pieces' in one pass.
 *
 * Where a processor carries two chains for the price of one, the thread of the file's
 * digest checks the pieces as well: in file order, both chains over the same block,
 * while it is in the cache once. Blocks wait for their turn unverified; where the order
 * is held up, and too many do, their pieces are checked ahead of it. Connections only
 * receive, and write what has been verified meanwhile. */
#ifndef FDL_CHAIN_H
#define FDL_CHAIN_H

#include "job/state.h"

/* The file's digest goes along with the pieces: `hash` is BORROWED from its consumer.
 * FDL_E_LIMIT without memory. */
int fdl_chain_init(struct fdl_job *job, struct fdl_hash *hash, struct fdl_err *err);
void fdl_chain_destroy(struct fdl_job *job);

/* The consumer's thread: from the first block to the last, or until the transfer stops:
 * FDL_E_CANCELLED. */
int fdl_chain_run(struct fdl_job *job, struct fdl_err *err);

/* Whether as much waits for the chain, which has work, as a kill may cost: nothing more
 * is worth fetching then. Locked. */
bool fdl_chain_is_behind(const struct fdl_job *job);

#endif
