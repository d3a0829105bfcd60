/* SPDX-License-Identifier: Apache-2.0 */
/* job/sched_priv.h - what the parts of sched share: how good a mirror is, and how many
 * connections it would take. */
#ifndef FDL_SCHED_PRIV_H
#define FDL_SCHED_PRIV_H

#include "job/sched.h"

#define FDL_SCHED_SLOW_FACTOR                                                          \
    6.0 /* a mirror this much slower than the best stands back */

/* The best rate of a usable mirror, in bytes/s; 0 before one was measured. */
double fdl_sched_best_rate(const struct fdl_sched *sched);

/* Connections that it would accept. Without ranges every offset in the source costs
 * everything before it: such a mirror serves one, as does one whose responses cannot be
 * joined. */
int fdl_sched_capacity(struct fdl_mirror *m);

#endif
