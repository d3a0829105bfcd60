/* SPDX-License-Identifier: Apache-2.0 */
/* net/wakeup.h - interrupts a thread that waits for the network: an eventfd next to the
 * socket. Any thread may set it. */
#ifndef FDL_WAKEUP_H
#define FDL_WAKEUP_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/err.h"

struct fdl_wakeup {
    int fd;             /* OWNED eventfd, -1 before fdl_wakeup_init() */
    atomic_bool cancel; /* sticky: every wait of the thread fails from now on */
    atomic_bool nudge;  /* one wait fails, until fdl_wakeup_clear() */
};

/* FDL_E_LIMIT where the process has no descriptor left. */
int fdl_wakeup_init(struct fdl_wakeup *wakeup, struct fdl_err *err);
void fdl_wakeup_destroy(struct fdl_wakeup *wakeup);

void fdl_wakeup_cancel(struct fdl_wakeup *wakeup);
void fdl_wakeup_nudge(struct fdl_wakeup *wakeup);

/* Takes a nudge back; a cancelled one stays set. */
void fdl_wakeup_clear(struct fdl_wakeup *wakeup);

static inline bool fdl_wakeup_is_set(const struct fdl_wakeup *wakeup)
{
    return atomic_load_explicit(&wakeup->cancel, memory_order_relaxed) ||
           atomic_load_explicit(&wakeup->nudge, memory_order_relaxed);
}

#endif
