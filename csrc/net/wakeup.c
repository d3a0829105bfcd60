/* SPDX-License-Identifier: Apache-2.0 */
#include "net/wakeup.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int fdl_wakeup_init(struct fdl_wakeup *wakeup, struct fdl_err *err)
{
    atomic_init(&wakeup->cancel, false);
    atomic_init(&wakeup->nudge, false);
    wakeup->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wakeup->fd < 0)
        return fdl_fail_os(err, FDL_E_LIMIT, errno, FDL_NO_OFFSET,
                           "no descriptor for a connection");
    return FDL_OK;
}

void fdl_wakeup_destroy(struct fdl_wakeup *wakeup)
{
    if (wakeup->fd >= 0)
        close(wakeup->fd);
    wakeup->fd = -1;
}

static void ring(struct fdl_wakeup *wakeup)
{
    uint64_t one = 1;
    ssize_t n = write(wakeup->fd, &one, sizeof one);

    (void)n; /* EAGAIN: it rings already */
}

void fdl_wakeup_cancel(struct fdl_wakeup *wakeup)
{
    atomic_store(&wakeup->cancel, true);
    ring(wakeup);
}

void fdl_wakeup_nudge(struct fdl_wakeup *wakeup)
{
    atomic_store(&wakeup->nudge, true);
    ring(wakeup);
}

void fdl_wakeup_clear(struct fdl_wakeup *wakeup)
{
    uint64_t count;

    if (!atomic_exchange(&wakeup->nudge, false) || atomic_load(&wakeup->cancel))
        return; /* a cancelled one keeps ringing */
    ssize_t n = read(wakeup->fd, &count, sizeof count);
    (void)n;
    if (atomic_load(&wakeup->cancel))
        ring(wakeup);
}
