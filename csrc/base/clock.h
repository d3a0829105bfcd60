/* SPDX-License-Identifier: Apache-2.0 */
/* base/clock.h - the one clock: monotonic, in nanoseconds. */
#ifndef FDL_CLOCK_H
#define FDL_CLOCK_H

#include <stdint.h>
#include <time.h>

#define FDL_NS_PER_S UINT64_C(1000000000)
#define FDL_NS_PER_MS UINT64_C(1000000)

static inline uint64_t fdl_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * FDL_NS_PER_S + (uint64_t)ts.tv_nsec;
}

static inline struct timespec fdl_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / FDL_NS_PER_S),
                             .tv_nsec = (long)(ns % FDL_NS_PER_S)};
}

/* The moment `ms` from now, for pthread_cond_timedwait() on a condition whose clock is
 * CLOCK_MONOTONIC. Negative: now. */
static inline struct timespec fdl_deadline(long ms)
{
    uint64_t ahead = ms > 0 ? (uint64_t)ms : 0;

    return fdl_timespec(fdl_now_ns() + ahead * FDL_NS_PER_MS);
}

#endif
