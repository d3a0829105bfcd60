/* SPDX-License-Identifier: Apache-2.0 */
/* sink/nbd.c - requests to an NBD server through libnbd, one at a time per connection.
 */
#include "sink/nbd_priv.h"

#ifdef FDL_WITH_NBD

#include <errno.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define CONNECT_LIMIT_MS 10000
#define HURRY_LIMIT_MS 2000
#define FLUSH_FACTOR 10
#define WAIT_SLICE_MS 200
#define REQUEST_BYTES ((size_t)4 << 20)
#define MIN_BLOCK_MAX                                                                  \
    ((size_t)64 << 10) /* what the protocol allows a server to require */

/* ---- connections ------------------------------------------------------------- */

/* The server's word on whether it offers the export. */
struct choice {
    bool responded;
    int os_errno;
};

static int on_choice(void *arg, int *error)
{
    struct choice *choice = arg;

    choice->responded = true;
    choice->os_errno = *error;
    return 1; /* nothing is kept for a later look */
}

static int nbd_errno_or(int otherwise)
{
    return nbd_get_errno() ? nbd_get_errno() : otherwise;
}

/* Drives a new handle until it can serve. Returns 0 or a positive errno.
 * choice: outlives the handle, where the response comes late. */
static int wait_ready(struct nbd_handle *h, struct choice *choice)
{
    const nbd_completion_callback callback = {.callback = on_choice,
                                              .user_data = choice};
    uint64_t start = fdl_now_ns();
    bool asked = false;

    while (nbd_aio_is_ready(h) != 1) {
        if (nbd_aio_is_dead(h) == 1 || nbd_aio_is_closed(h) == 1)
            return nbd_errno_or(ENOTCONN);
        if (choice->responded && choice->os_errno)
            return choice->os_errno;
        if (!asked && nbd_aio_is_negotiating(h) == 1) {
            asked = true;
            if (nbd_aio_opt_go(h, callback) < 0)
                return nbd_errno_or(ENOTCONN);
            continue;
        }
        if (fdl_now_ns() - start > CONNECT_LIMIT_MS * FDL_NS_PER_MS)
            return ETIMEDOUT;
        if (nbd_poll(h, WAIT_SLICE_MS) < 0)
            return nbd_errno_or(ENOTCONN);
    }
    return 0;
}

static int connect_handle(struct nbd_handle **out, const char *uri, struct fdl_err *err)
{
    struct nbd_handle *h = nbd_create();
    struct choice choice = {.responded = false};
    int os_errno;

    if (!h)
        return fdl_nomem(err, "a connection");
    if (nbd_set_uri_allow_transports(h, LIBNBD_ALLOW_TRANSPORT_TCP |
                                            LIBNBD_ALLOW_TRANSPORT_UNIX) < 0 ||
        nbd_set_pread_initialize(h, false) < 0 || nbd_set_opt_mode(h, true) < 0) {
        nbd_close(h);
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET, "libnbd lacks an option");
    }
    if (nbd_aio_connect_uri(h, uri) < 0)
        os_errno = nbd_errno_or(EIO);
    else
        os_errno = wait_ready(h, &choice);
    if (os_errno == 0) {
        *out = h;
        return FDL_OK;
    }
    nbd_close(h);
    if (choice.responded && os_errno == ENOENT)
        return fdl_fail(err, FDL_E_SINK_REFUSED, FDL_NO_OFFSET,
                        "the NBD server has no such export");
    if (choice.responded)
        return fdl_fail_os(err, FDL_E_SINK_REFUSED, os_errno, FDL_NO_OFFSET,
                           "the NBD server refused the session");
    if (os_errno == EINVAL || os_errno == EPERM || os_errno == ENOTSUP)
        return fdl_fail(
            err, FDL_E_USAGE, FDL_NO_OFFSET,
            "the NBD URI is malformed, or needs what libnbd does not support");
    return fdl_fail_os(err, FDL_E_SINK_IO, os_errno, FDL_NO_OFFSET,
                       "the NBD server cannot be connected to");
}

static int learn(struct fdl_nbd *nbd, struct nbd_handle *h, struct fdl_err *err)
{
    int64_t size = nbd_get_size(h);
    int64_t least = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
    int64_t most = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

    if (size < 0 || least > (int64_t)MIN_BLOCK_MAX)
        return fdl_fail(err, FDL_E_SINK_REFUSED, FDL_NO_OFFSET,
                        "the NBD server gave an impossible size");
    nbd->size = (uint64_t)size;
    nbd->min_block = least > 1 ? (size_t)least : 1;
    nbd->max_request =
        most > 0 && most < (int64_t)REQUEST_BYTES ? (size_t)most : REQUEST_BYTES;
    nbd->max_request -= nbd->max_request % nbd->min_block;
    if (nbd->max_request == 0)
        nbd->max_request = nbd->min_block;
    nbd->read_only = nbd_is_read_only(h) != 0;
    nbd->can_flush = nbd_can_flush(h) == 1;
    atomic_store(&nbd->can_zero, nbd_can_zero(h) == 1);
    return FDL_OK;
}

int fdl_nbd_open(struct fdl_nbd **out, const char *uri, int max_conns, int limit_ms,
                 struct fdl_err *err)
{
    struct fdl_nbd *nbd = calloc(1, sizeof *nbd);
    int rc;

    if (!nbd)
        return fdl_nomem(err, "a connection");
    pthread_mutex_init(&nbd->edge_lock, NULL);
    for (int i = 0; i < FDL_NBD_CONNS_MAX; i++)
        pthread_mutex_init(&nbd->conns[i].lock, NULL);
    atomic_store(&nbd->limit_ms, limit_ms);
    rc = connect_handle(&nbd->conns[0].handle, uri, err);
    if (rc == FDL_OK)
        rc = learn(nbd, nbd->conns[0].handle, err);
    if (rc != FDL_OK) {
        fdl_nbd_close(nbd);
        return rc;
    }
    nbd->n_conns = 1;
    nbd->edge = malloc(nbd->min_block);
    nbd->zeros = calloc(1, FDL_NBD_ZEROS_BYTES);
    if (!nbd->edge || !nbd->zeros) {
        fdl_nbd_close(nbd);
        return fdl_nomem(err, "a connection");
    }
    if (max_conns > FDL_NBD_CONNS_MAX)
        max_conns = FDL_NBD_CONNS_MAX;
    if (nbd_can_multi_conn(nbd->conns[0].handle) != 1)
        max_conns = 1;
    /* A server may limit its clients: what it gives is enough. */
    while (nbd->n_conns < max_conns) {
        struct nbd_handle *h;
        if (connect_handle(&h, uri, NULL) != FDL_OK)
            break;
        if (nbd_get_size(h) != (int64_t)nbd->size || nbd_is_read_only(h) != 0) {
            nbd_close(h);
            break;
        }
        nbd->conns[nbd->n_conns++].handle = h;
    }
    *out = nbd;
    return FDL_OK;
}

void fdl_nbd_close(struct fdl_nbd *nbd)
{
    /* A farewell where there is room for it; what matters was flushed before. */
    for (int i = 0; nbd && i < FDL_NBD_CONNS_MAX; i++)
        if (nbd->conns[i].handle)
            nbd_aio_disconnect(nbd->conns[i].handle, 0);
    fdl_nbd_drop(nbd);
}

void fdl_nbd_drop(struct fdl_nbd *nbd)
{
    if (!nbd)
        return;
    for (int i = 0; i < FDL_NBD_CONNS_MAX; i++) {
        if (nbd->conns[i].handle)
            nbd_close(nbd->conns[i].handle);
        pthread_mutex_destroy(&nbd->conns[i].lock);
    }
    pthread_mutex_destroy(&nbd->edge_lock);
    free(nbd->edge);
    free(nbd->zeros);
    free(nbd);
}

uint64_t fdl_nbd_size(const struct fdl_nbd *nbd)
{
    return nbd->size;
}

bool fdl_nbd_read_only(const struct fdl_nbd *nbd)
{
    return nbd->read_only;
}

int fdl_nbd_conns(const struct fdl_nbd *nbd)
{
    return nbd->n_conns;
}

int fdl_nbd_fd(struct fdl_nbd *nbd, int i)
{
    return nbd->conns[i].handle ? nbd_aio_get_fd(nbd->conns[i].handle) : -1;
}

size_t fdl_nbd_min_block(const struct fdl_nbd *nbd)
{
    return nbd->min_block;
}

void fdl_nbd_hurry(struct fdl_nbd *nbd)
{
    atomic_store(&nbd->limit_ms, HURRY_LIMIT_MS);
    atomic_store(&nbd->hurried, true);
}

/* ---- one request --------------------------------------------------------------- */

static const char *const failed_at[] = {
    [FDL_NBD_READ] = "reading from the NBD export",
    [FDL_NBD_WRITE] = "write to the NBD export",
    [FDL_NBD_ZERO] = "zeroing the NBD export",
    [FDL_NBD_FLUSH] = "flush of the NBD export",
};

/* Returns a connection that is the caller's until it unlocks it. */
static struct fdl_nbd_conn *take_conn(struct fdl_nbd *nbd)
{
    unsigned first = atomic_fetch_add(&nbd->next, 1u) % (unsigned)nbd->n_conns;

    for (unsigned i = 0; i < (unsigned)nbd->n_conns; i++) {
        struct fdl_nbd_conn *c = &nbd->conns[(first + i) % (unsigned)nbd->n_conns];
        if (pthread_mutex_trylock(&c->lock) == 0)
            return c;
    }
    pthread_mutex_lock(&nbd->conns[first].lock);
    return &nbd->conns[first];
}

static int64_t send_request(struct nbd_handle *h, enum fdl_nbd_verb verb, void *in,
                            const void *out, uint64_t len, uint64_t off)
{
    switch (verb) {
    case FDL_NBD_READ:
        return nbd_aio_pread(h, in, (size_t)len, off, NBD_NULL_COMPLETION, 0);
    case FDL_NBD_WRITE:
        return nbd_aio_pwrite(h, out, (size_t)len, off, NBD_NULL_COMPLETION, 0);
    case FDL_NBD_ZERO:
        return nbd_aio_zero(h, len, off, NBD_NULL_COMPLETION, 0);
    default:
        return nbd_aio_flush(h, NBD_NULL_COMPLETION, 0);
    }
}

/* Returns 0 or a positive errno. *lost: the connection is of no use any more. */
static int wait_response(const struct fdl_nbd *nbd, struct nbd_handle *h,
                         enum fdl_nbd_verb verb, int64_t cookie, bool *lost)
{
    uint64_t start = fdl_now_ns();

    for (;;) {
        int done = nbd_aio_command_completed(h, (uint64_t)cookie);
        if (done == 1)
            return 0;
        if (done < 0) {
            *lost = nbd_aio_is_dead(h) == 1 || nbd_aio_is_closed(h) == 1;
            return nbd_errno_or(EIO);
        }
        uint64_t limit_ms = (uint64_t)atomic_load(&nbd->limit_ms);
        if (verb == FDL_NBD_FLUSH && !atomic_load(&nbd->hurried))
            limit_ms *= FLUSH_FACTOR;
        uint64_t spent_ms = (fdl_now_ns() - start) / FDL_NS_PER_MS;
        if (spent_ms >= limit_ms) {
            *lost = true;
            return ETIMEDOUT;
        }
        uint64_t slice = limit_ms - spent_ms;
        if (nbd_poll(h, slice < WAIT_SLICE_MS ? (int)slice : WAIT_SLICE_MS) < 0 &&
            (nbd_aio_is_dead(h) == 1 || nbd_aio_is_closed(h) == 1)) {
            *lost = true;
            return nbd_errno_or(ENOTCONN);
        }
    }
}

int fdl_nbd_request(struct fdl_nbd *nbd, enum fdl_nbd_verb verb, void *in,
                    const void *out, uint64_t len, uint64_t off)
{
    struct fdl_nbd_conn *c = take_conn(nbd);
    bool lost = false;
    int os_errno;

    if (!c->handle) {
        pthread_mutex_unlock(&c->lock);
        return ENOTCONN;
    }
    int64_t cookie = send_request(c->handle, verb, in, out, len, off);
    if (cookie < 0) {
        os_errno = nbd_errno_or(EIO);
        lost = nbd_aio_is_dead(c->handle) == 1 || nbd_aio_is_closed(c->handle) == 1;
    } else {
        os_errno = wait_response(nbd, c->handle, verb, cookie, &lost);
    }
    if (lost) {
        nbd_close(c->handle); /* forgets the buffers of what is under way */
        c->handle = NULL;
    }
    pthread_mutex_unlock(&c->lock);
    return os_errno;
}

int fdl_nbd_fail(enum fdl_nbd_verb verb, int os_errno, uint64_t off,
                 struct fdl_err *err)
{
    return fdl_fail_os(err, FDL_E_SINK_IO, os_errno, off, failed_at[verb]);
}

#endif
