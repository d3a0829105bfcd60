/* SPDX-License-Identifier: Apache-2.0 */
/* net/resolve.c - getaddrinfo() cannot be interrupted: it runs in its own thread, which
 * is abandoned once nobody waits for it. */
#include "net/resolve.h"
#include "base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WAIT_SLICE_MS 200

struct query {
    atomic_int refs; /* the caller and the thread */
    char *host;      /* OWNED */
    int family;      /* as getaddrinfo() takes it */
    int done_fd;     /* OWNED eventfd: rung when `rc` and `found` are set */
    int rc;
    struct addrinfo *found; /* OWNED */
};

static void drop(struct query *q)
{
    if (atomic_fetch_sub(&q->refs, 1) != 1)
        return;
    if (q->found)
        freeaddrinfo(q->found);
    if (q->done_fd >= 0)
        close(q->done_fd);
    free(q->host);
    free(q);
}

static void *lookup(void *arg)
{
    struct query *q = arg;
    const struct addrinfo hints = {
        .ai_family = q->family, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    uint64_t one = 1;

    q->rc = getaddrinfo(q->host, NULL, &hints, &q->found);
    ssize_t n = write(q->done_fd, &one, sizeof one);
    (void)n;
    drop(q);
    return NULL;
}

static void take_all(const struct addrinfo *found, struct fdl_addrs *out)
{
    for (const struct addrinfo *a = found; a && out->n < FDL_ADDRS_MAX; a = a->ai_next)
        if (a->ai_addrlen <= sizeof out->list[0])
            memcpy(&out->list[out->n++], a->ai_addr, a->ai_addrlen);
}

static int literal(const char *host, struct fdl_addrs *out)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST};
    struct addrinfo *found;

    if (getaddrinfo(host, NULL, &hints, &found) != 0)
        return 0;
    take_all(found, out);
    freeaddrinfo(found);
    return 1;
}

static int start(struct query **out, const char *host, int family)
{
    struct query *q = calloc(1, sizeof *q);
    pthread_attr_t attr;
    pthread_t thread;

    if (!q)
        return -1;
    q->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->host = strdup(host);
    q->family = family == 4 ? AF_INET : family == 6 ? AF_INET6 : AF_UNSPEC;
    atomic_init(&q->refs, 2);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int rc =
        q->done_fd < 0 || !q->host ? -1 : pthread_create(&thread, &attr, lookup, q);
    pthread_attr_destroy(&attr);
    if (rc != 0) {
        atomic_store(&q->refs, 1);
        drop(q);
        return -1;
    }
    *out = q;
    return 0;
}

int fdl_resolve(const char *host, int family, long timeout_ms,
                const struct fdl_wakeup *wakeup, struct fdl_addrs *out,
                struct fdl_err *err)
{
    uint64_t began = fdl_now_ns();
    struct query *q;
    int rc = FDL_OK;

    out->n = 0;
    if (literal(host, out))
        return FDL_OK;
    if (start(&q, host, family) != 0)
        return fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET,
                        "no thread can be started to resolve a name");
    for (;;) {
        struct pollfd fds[2] = {{.fd = q->done_fd, .events = POLLIN},
                                {.fd = wakeup->fd, .events = POLLIN}};
        if (poll(fds, 2, WAIT_SLICE_MS) > 0 && fds[0].revents) {
            if (q->rc == 0)
                take_all(q->found, out);
            break;
        }
        if (fdl_wakeup_is_set(wakeup)) {
            rc = fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");
            break;
        }
        if (fdl_now_ns() - began >= (uint64_t)timeout_ms * FDL_NS_PER_MS)
            break;
    }
    drop(q);
    if (rc == FDL_OK && out->n == 0)
        rc =
            fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET, "the host name cannot be resolved");
    return rc;
}
