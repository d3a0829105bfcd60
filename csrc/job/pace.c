/* SPDX-License-Identifier: Apache-2.0 */
#include "job/pace.h"
#include "base/clock.h"

#define SLICE_NS (50 * FDL_NS_PER_MS)

/* Every byte has its time, and all who share the limit share one clock. Returns when n
 * more bytes may have come. */
static uint64_t book(struct fdl_pace *pace, uint64_t n, uint64_t now)
{
    uint64_t cost = (uint64_t)((double)n * (double)FDL_NS_PER_S / (double)pace->rate);
    uint64_t at = atomic_load(&pace->next_ns), due;

    do
        due = (at > now ? at : now) + cost;
    while (!atomic_compare_exchange_weak(&pace->next_ns, &at, due));
    return due;
}

void fdl_pace_wait(struct fdl_pace *pace, uint64_t n, const struct fdl_wakeup *wakeup)
{
    uint64_t now = fdl_now_ns(), due = now;

    for (; pace; pace = pace->parent) {
        uint64_t here = book(pace, n, now);
        due = here > due ? here : due;
    }
    while (due > now && !atomic_load(&wakeup->cancel)) {
        struct timespec ts = fdl_timespec(due - now < SLICE_NS ? due - now : SLICE_NS);
        nanosleep(&ts, NULL);
        now = fdl_now_ns();
    }
}
