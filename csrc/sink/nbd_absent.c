/* SPDX-License-Identifier: Apache-2.0 */
/* sink/nbd_absent.c - built without libnbd: nothing can be opened, so nothing else is
 * ever called. */
#include "sink/nbd.h"

#ifndef FDL_WITH_NBD

struct fdl_nbd {
    int none;
};

static int absent(struct fdl_err *err)
{
    return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET,
                    "this fastdl was built without NBD: install libnbd's headers and "
                    "build it again");
}

int fdl_nbd_open(struct fdl_nbd **out, const char *uri, int max_conns, int limit_ms,
                 struct fdl_err *err)
{
    (void)out, (void)uri, (void)max_conns, (void)limit_ms;
    return absent(err);
}

uint64_t fdl_nbd_size(const struct fdl_nbd *nbd)
{
    (void)nbd;
    return 0;
}

bool fdl_nbd_read_only(const struct fdl_nbd *nbd)
{
    (void)nbd;
    return true;
}

int fdl_nbd_conns(const struct fdl_nbd *nbd)
{
    (void)nbd;
    return 0;
}

size_t fdl_nbd_min_block(const struct fdl_nbd *nbd)
{
    (void)nbd;
    return 1;
}

int fdl_nbd_pread(struct fdl_nbd *nbd, void *buf, size_t len, uint64_t off,
                  struct fdl_err *err)
{
    (void)nbd, (void)buf, (void)len, (void)off;
    return absent(err);
}

int fdl_nbd_pwrite(struct fdl_nbd *nbd, const void *buf, size_t len, uint64_t off,
                   struct fdl_err *err)
{
    (void)nbd, (void)buf, (void)len, (void)off;
    return absent(err);
}

int fdl_nbd_zero(struct fdl_nbd *nbd, uint64_t off, uint64_t len, uint64_t *commanded,
                 struct fdl_err *err)
{
    (void)nbd, (void)off, (void)len;
    *commanded = 0;
    return absent(err);
}

int fdl_nbd_flush(struct fdl_nbd *nbd, struct fdl_err *err)
{
    (void)nbd;
    return absent(err);
}

void fdl_nbd_hurry(struct fdl_nbd *nbd)
{
    (void)nbd;
}

int fdl_nbd_fd(struct fdl_nbd *nbd, int i)
{
    (void)nbd, (void)i;
    return -1;
}

void fdl_nbd_close(struct fdl_nbd *nbd)
{
    (void)nbd;
}

void fdl_nbd_drop(struct fdl_nbd *nbd)
{
    (void)nbd;
}

#endif
