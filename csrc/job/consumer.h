/* SPDX-License-Identifier: Apache-2.0 */
/* job/consumer.h - what reads verified blocks in file order, each in a thread of its
 * own: whole-file digests, pieces that do not tile with blocks, the lander. */
#ifndef FDL_CONSUMER_H
#define FDL_CONSUMER_H

#include "job/state.h"

/* Creates those that the configuration and job->pieces require. */
int fdl_consumers_init(struct fdl_job *job, struct fdl_err *err);

/* FDL_E_LIMIT where a thread cannot be started: those that were are joined then. */
int fdl_consumers_start(struct fdl_job *job, struct fdl_err *err);
void fdl_consumers_join(struct fdl_job *job);

/* After joining: the digests of the source. */
void fdl_consumers_result(const struct fdl_job *job, struct fdl_job_result *result);

/* The list of config.list_pieces, after the last block; *n is 0 without. BORROWED. */
const unsigned char *fdl_consumers_piece_list(const struct fdl_job *job, size_t *n);
void fdl_consumers_destroy(struct fdl_job *job);

#endif
