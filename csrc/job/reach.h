/* SPDX-License-Identifier: Apache-2.0 */
/* job/reach.h - how far ahead of the order may be fetched? Memory is what it costs. */
#ifndef FDL_REACH_H
#define FDL_REACH_H

#include "job/state.h"

/* Little at first, where something is ordered, or blocks wait for one another: those
 * that wait are only memory. Over distance the order needs all from the start; pieces
 * of several blocks have to be complete. */
void fdl_reach_init(struct fdl_job *job);

/* Locked, once in a tick of the monitor: farther where the order needs it. */
void fdl_reach_update(struct fdl_job *job);

#endif
