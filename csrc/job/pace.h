/* SPDX-License-Identifier: Apache-2.0 */
/* job/pace.h - a limit on bytes a second, shared by the threads of one transfer or of
 * many. */
#ifndef FDL_PACE_H
#define FDL_PACE_H

#include <stdatomic.h>
#include <stdint.h>

#include "net/wakeup.h"

struct fdl_pace {
    struct fdl_pace *parent;      /* BORROWED, NULL: none; its limit counts as well */
    uint64_t rate;                /* bytes/s, at least 1 */
    atomic_uint_fast64_t next_ns; /* when the next byte may come */
};

/* n bytes have come: waits until that many may have, or the wakeup is cancelled. NULL
 * for no limit. From any thread. */
void fdl_pace_wait(struct fdl_pace *pace, uint64_t n, const struct fdl_wakeup *wakeup);

#endif
