/* SPDX-License-Identifier: Apache-2.0 */
/* job/worker.h - FETCH: the life of a connection's thread. It claims a run of blocks,
 * requests them from its mirror, fills block after block, and delivers each one. */
#ifndef FDL_WORKER_H
#define FDL_WORKER_H

#include "job/state.h"

/* Makes room for all that the configuration allows. */
int fdl_workers_init(struct fdl_job *job, struct fdl_err *err);

/* Locked: one more connection, or the thread that reads the target (`local`). The first
 * connection continues with the caller's response. Fails the transfer,
 * and returns false, where no thread can be started. */
bool fdl_workers_add(struct fdl_job *job, bool local);

void fdl_workers_join(struct fdl_job *job);
void fdl_workers_destroy(struct fdl_job *job);

#endif
