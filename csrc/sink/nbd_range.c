/* SPDX-License-Identifier: Apache-2.0 */
/* sink/nbd_range.c - ranges of any offset and length, as requests that the server
 * takes: whole blocks, of a size that it allows. */
#include "sink/nbd_priv.h"

#ifdef FDL_WITH_NBD

#include <errno.h>
#include <string.h>

/* Some servers write the zeros themselves: one command must fit into the limit. */
#define ZERO_COMMAND_BYTES ((uint64_t)128 << 20)

static int check_end(const struct fdl_nbd *nbd, enum fdl_nbd_verb verb, uint64_t off,
                     uint64_t len, struct fdl_err *err)
{
    if (off > nbd->size || len > nbd->size - off)
        return fdl_nbd_fail(verb, ENOSPC, nbd->size, err);
    return FDL_OK;
}

/* A part of one block, in or out (out NULL: zeros, in NULL as well). */
static int ragged(struct fdl_nbd *nbd, void *in, const void *out, size_t len,
                  uint64_t off, struct fdl_err *err)
{
    uint64_t start = off - off % nbd->min_block;
    size_t at = (size_t)(off - start);
    enum fdl_nbd_verb verb = FDL_NBD_READ;
    int os_errno = ENOSPC; /* the last block is cut off: it cannot be reached */

    pthread_mutex_lock(&nbd->edge_lock);
    if (nbd->size - start >= nbd->min_block)
        os_errno =
            fdl_nbd_request(nbd, FDL_NBD_READ, nbd->edge, NULL, nbd->min_block, start);
    if (os_errno == 0 && in) {
        memcpy(in, nbd->edge + at, len);
    } else if (os_errno == 0) {
        verb = FDL_NBD_WRITE;
        if (out)
            memcpy(nbd->edge + at, out, len);
        else
            memset(nbd->edge + at, 0, len);
        os_errno =
            fdl_nbd_request(nbd, FDL_NBD_WRITE, NULL, nbd->edge, nbd->min_block, start);
    }
    pthread_mutex_unlock(&nbd->edge_lock);
    return os_errno ? fdl_nbd_fail(verb, os_errno, off, err) : FDL_OK;
}

/* Bytes from off that one step may cover: the rest of a block, or whole blocks. */
static uint64_t step(const struct fdl_nbd *nbd, uint64_t off, uint64_t len,
                     uint64_t most, bool *whole)
{
    uint64_t block = nbd->min_block, into = off % block;

    *whole = into == 0 && len >= block;
    if (!*whole)
        return len < block - into ? len : block - into;
    if (len > most)
        len = most;
    return len - len % block;
}

static int transfer(struct fdl_nbd *nbd, enum fdl_nbd_verb verb, void *in,
                    const void *out, size_t len, uint64_t off, struct fdl_err *err)
{
    unsigned char *to = in;
    const unsigned char *from = out;
    int rc = check_end(nbd, verb, off, len, err);

    while (rc == FDL_OK && len > 0) {
        bool whole;
        size_t n = (size_t)step(nbd, off, len, nbd->max_request, &whole);
        if (whole) {
            int os_errno = fdl_nbd_request(nbd, verb, to, from, n, off);
            if (os_errno)
                rc = fdl_nbd_fail(verb, os_errno, off, err);
        } else {
            rc = ragged(nbd, to, from, n, off, err);
        }
        to = to ? to + n : NULL;
        from = from ? from + n : NULL;
        off += n;
        len -= n;
    }
    return rc;
}

int fdl_nbd_pread(struct fdl_nbd *nbd, void *buf, size_t len, uint64_t off,
                  struct fdl_err *err)
{
    return transfer(nbd, FDL_NBD_READ, buf, NULL, len, off, err);
}

int fdl_nbd_pwrite(struct fdl_nbd *nbd, const void *buf, size_t len, uint64_t off,
                   struct fdl_err *err)
{
    return transfer(nbd, FDL_NBD_WRITE, NULL, buf, len, off, err);
}

static int write_zeros(struct fdl_nbd *nbd, uint64_t off, uint64_t len,
                       struct fdl_err *err)
{
    int rc = FDL_OK;

    while (rc == FDL_OK && len > 0) {
        size_t n = len < FDL_NBD_ZEROS_BYTES ? (size_t)len : FDL_NBD_ZEROS_BYTES;
        rc = fdl_nbd_pwrite(nbd, nbd->zeros, n, off, err);
        off += n;
        len -= n;
    }
    return rc;
}

int fdl_nbd_zero(struct fdl_nbd *nbd, uint64_t off, uint64_t len, uint64_t *commanded,
                 struct fdl_err *err)
{
    int rc = check_end(nbd, FDL_NBD_ZERO, off, len, err);

    *commanded = 0;
    while (rc == FDL_OK && len > 0) {
        bool whole;
        uint64_t n = step(nbd, off, len, ZERO_COMMAND_BYTES, &whole);
        if (!whole) {
            rc = ragged(nbd, NULL, NULL, (size_t)n, off, err);
        } else if (!atomic_load(&nbd->can_zero)) {
            rc = write_zeros(nbd, off, n, err);
        } else {
            int os_errno = fdl_nbd_request(nbd, FDL_NBD_ZERO, NULL, NULL, n, off);
            if (os_errno == ENOTSUP || os_errno == EINVAL) {
                atomic_store(&nbd->can_zero, false);
                continue;
            }
            if (os_errno)
                rc = fdl_nbd_fail(FDL_NBD_ZERO, os_errno, off, err);
            else
                *commanded += n;
        }
        off += n;
        len -= n;
    }
    return rc;
}

int fdl_nbd_flush(struct fdl_nbd *nbd, struct fdl_err *err)
{
    /* A server without the command has no cache that could be lost. */
    int os_errno =
        nbd->can_flush ? fdl_nbd_request(nbd, FDL_NBD_FLUSH, NULL, NULL, 0, 0) : 0;

    return os_errno ? fdl_nbd_fail(FDL_NBD_FLUSH, os_errno, FDL_NO_OFFSET, err)
                    : FDL_OK;
}

#endif
