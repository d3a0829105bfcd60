/* SPDX-License-Identifier: Apache-2.0 */
/* job/sched.h - who fetches what from whom: the choice of mirrors, the size of runs,
 * hedges and back-off.
 *
 * Decides, and returns the decision: it does not wake, disqualify or fail anything
 * itself. It reads the mirrors, the plan and the numbers below, claims blocks of the
 * plan, and keeps what it learns about a mirror (failures, waits, limits) in the last
 * part of struct fdl_mirror. No clock; the transfer holds its lock around every call.
 */
#ifndef FDL_SCHED_H
#define FDL_SCHED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "job/plan.h"
#include "source/mirror.h"

#define FDL_NO_BLOCK UINT64_MAX
#define FDL_NO_MIRROR (-1)

/* How far one worker is. Its own thread writes it; what is atomic without the lock. */
struct fdl_progress {
    _Alignas(64) struct fdl_mirror *mirror; /* BORROWED, NULL: none at present */
    bool local;  /* it reads what the target has, instead of a mirror */
    double rate; /* bytes/s, smoothed, the waits for responses included */
    double flow; /* the same without them */
    atomic_uint_fast64_t block;   /* that it fills, FDL_NO_BLOCK: none */
    atomic_uint_fast64_t filled;  /* bytes of it */
    atomic_uint_fast64_t came_ns; /* when the last of them came */
    atomic_bool served; /* the mirror gave bytes to this worker since it took it */
    uint64_t gained;    /* bytes since the mirror's last failure */
};

struct fdl_sched {
    struct fdl_mirror **mirrors; /* BORROWED */
    size_t n_mirrors;
    struct fdl_plan *plan;         /* BORROWED */
    struct fdl_progress *progress; /* BORROWED: of n_workers */
    int n_workers;
    int n_conns;       /* of them connections */
    size_t block;      /* bytes */
    int retry;         /* failures in a row after which a mirror is given up */
    uint64_t retry_ns; /* or this long after the first of them; 0: no limit */
    uint64_t delay_ns; /* between two of them; 0: ever longer */
    size_t unsettled;  /* blocks written whose records are not durable yet */
    size_t gathers; /* blocks that may wait for one another before they are written */
    uint64_t hedged_bytes; /* requested a second time */
    uint64_t twice_bytes;  /* of them such as came twice, or still may */
    int wasted;            /* hedges that cost more than half a block */
};

/* The blocks [first, end). */
struct fdl_run {
    uint64_t first, end;
};

/* What to do after a mirror's failure. */
enum fdl_decision {
    FDL_DECIDE_RETRY,      /* the same mirror, not before mirror->not_before_ns */
    FDL_DECIDE_LEAVE,      /* this worker is one too many for it */
    FDL_DECIDE_DISQUALIFY, /* it is not to be used any more */
};

/* The index of the best mirror that can take one more connection now, or
 * FDL_NO_MIRROR. */
int fdl_sched_pick_mirror(const struct fdl_sched *sched, uint64_t now_ns);

/* Mirrors that may be used, and the connections that they would take altogether. */
int fdl_sched_usable(const struct fdl_sched *sched);
int fdl_sched_room(const struct fdl_sched *sched);
/* The same, at most so many of each. */
int fdl_sched_room_at(const struct fdl_sched *sched, int most);

/* Connections that have brought something. */
int fdl_sched_serving(const struct fdl_sched *sched);

/* Whether the worker, which has nothing to do at present, is one connection more than
 * are wanted: it has no mirror, or of those that serve several the slowest. */
bool fdl_sched_is_surplus(const struct fdl_sched *sched, int worker, int wanted);

/* Whether every usable mirror that has responded yet is far away, in the sense of
 * fdl_ramp_is_far(); false before the first response. */
bool fdl_sched_all_far(const struct fdl_sched *sched);

/* The longest round trip to a mirror in use. */
uint64_t fdl_sched_rtt_ns(const struct fdl_sched *sched);

/* Claims blocks for the worker, of the missing ones or of those that another holds.
 * False where there are none, or where the journal has to catch up first. */
bool fdl_sched_next_run(struct fdl_sched *sched, int worker, uint64_t now_ns,
                        struct fdl_run *run);

/* How fast the blocks of one response came: the first, the request included, and the
 * `rest` after it. Some servers throttle a response once it has begun: from them the
 * same bytes come sooner in shorter responses. */
struct fdl_pace_of_response {
    uint64_t first_ns, rest_ns;
    uint32_t rest;
};

/* The worker's mirror has given such a response. */
void fdl_sched_responded(struct fdl_sched *sched, int worker,
                         const struct fdl_pace_of_response *pace);

/* A block that the worker should fetch although others do: they are late. The caller
 * claims it with fdl_plan_hedge(). */
bool fdl_sched_find_hedge(const struct fdl_sched *sched, int worker, uint64_t now_ns,
                          uint64_t *block);

/* Somebody else had the block first, of which `worker` has got so many bytes since
 * since_ns. Where it was the owner its mirror stands back: for a moment, or for longer
 * where it really is slow. */
void fdl_sched_lost_hedge(struct fdl_sched *sched, int worker, bool owner,
                          uint64_t filled, uint64_t since_ns, uint64_t now_ns);

/* A hedger that the owner of its block will be done before. FDL_NOBODY where there is
 * none. */
int fdl_sched_find_vain(const struct fdl_sched *sched, uint64_t now_ns);

/* A worker whose block would take it more than seconds, while a better mirror has
 * nobody to serve: it is to leave its own. FDL_NOBODY where there is none. For when no
 * other connection may be opened. */
int fdl_sched_find_stuck(const struct fdl_sched *sched, uint64_t now_ns);

/* The worker's mirror failed: counts the failure and decides. */
enum fdl_decision fdl_sched_failed(struct fdl_sched *sched, int worker,
                                   const struct fdl_err *err, uint64_t now_ns);

/* A mirror was disqualified: who stood back only since it was faster steps in. */
void fdl_sched_step_in(struct fdl_sched *sched);

/* True if no mirror is usable any more; *err is then the most informative of their
 * errors. */
bool fdl_sched_exhausted(const struct fdl_sched *sched, struct fdl_err *err);

#endif
