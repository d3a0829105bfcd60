/* SPDX-License-Identifier: Apache-2.0 */
/* job/ramp.h - how many connections are worth having? Few at first; more as long as the
 * whole becomes faster, and no longer those that did not make it faster. Pure: no
 * clock, no lock. */
#ifndef FDL_RAMP_H
#define FDL_RAMP_H

#include <stdbool.h>
#include <stdint.h>

struct fdl_ramp {
    int wanted;           /* connections */
    int max;              /* that are allowed */
    int before;           /* wanted before the step that is on trial; 0: none is */
    bool settled;         /* all that are wanted have brought something */
    uint64_t settling_ns; /* since when they are waited for */
    uint64_t pause_until; /* no further step before, in ns */
    uint64_t pause_ns;    /* the last pause; 0: the last step paid */
    double rate;          /* bytes/s before the step that is on trial; 0: unknown */
    double gain;          /* by which that step has to exceed it */
    /* what the next measurement is compared with */
    uint64_t from_ns, from_bytes, from_starved_ns;
};

/* The transfer as a whole, from its start to now_ns. */
struct fdl_ramp_sample {
    uint64_t now_ns;
    uint64_t bytes;      /* that came from mirrors */
    uint64_t starved_ns; /* that connections waited for room in the window, summed */
    uint64_t rtt_ns;     /* of the mirror farthest away that is in use */
    int conns;           /* that have brought something */
    int room;            /* that the mirrors would take altogether */
};

/* What is known before the first connection is opened. */
struct fdl_ramp_start {
    uint64_t now_ns;
    int max;       /* connections that are allowed */
    int mirrors;   /* usable ones */
    int first;     /* connections that they are given before more have shown to pay */
    bool far_away; /* all that have responded yet */
    bool busy;     /* a connection also hashes what it received, and writes it */
};

/* Chooses the initial connections: one for each of the first distinct mirrors, which
 * are worth trying at once; if all that have responded are far away as many as are
 * usual, and a few if they are busy, in both cases at most `first`. */
void fdl_ramp_init(struct fdl_ramp *ramp, const struct fdl_ramp_start *start);

/* Whether that is too far for one connection to fill a link. */
bool fdl_ramp_is_far(uint64_t rtt_ns);

/* Reconsiders ramp->wanted by the goodput since the last measurement; leaves it where
 * it is too soon to tell. A step past a few that does not pay is taken back, and it
 * takes ever longer until the next is tried. Never more than the mirrors take. */
void fdl_ramp_update(struct fdl_ramp *ramp, const struct fdl_ramp_sample *sample);

#endif
