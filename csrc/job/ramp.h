/* SPDX-License-Identifier: Apache-2.0 */
/* job/ramp.h - how many connections are worth having? Few at first; more as long as the
 * whole becomes faster. With the job's lock held. */
#ifndef FDL_RAMP_H
#define FDL_RAMP_H

#include "job/job_priv.h"

/* Connections to begin with, where so many distinct mirrors may be used. */
int fdl_grow_first(const struct fdl_job *job, int mirrors);

/* Reconsiders job->wanted_conns by the goodput of all since the last time. */
void fdl_grow_tick(struct fdl_job *job, uint64_t now_ns);

#endif
