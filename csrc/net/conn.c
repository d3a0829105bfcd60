/* SPDX-License-Identifier: Apache-2.0 */
/* net/conn.c - bytes over a connection that exists, until it is closed. */
#include "net/conn_priv.h"
#include "base/clock.h"

#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#define STALL_RATE_BYTES_S 1024

/* A thread that sleeps until many bytes are there wakes up less often. How many come
 * within a millisecond is learnt by doubling; a wait that lasts shows it was too much.
 */
#define BATCH_MIN ((size_t)16 << 10)
#define BATCH_MAX ((size_t)256 << 10)
#define BATCH_SOON_NS FDL_NS_PER_MS
#define BATCH_LATE_MS 3

/* Less than this may all be here already, in OpenSSL's buffer (net/tls.c). */
#define BATCH_LEAST_DUE ((size_t)128 << 10)

int fdl_conn_explain_cut(struct fdl_conn *conn, struct fdl_err *err)
{
    char byte;
    size_t n;

    curl_easy_recv(conn->easy, &byte, 1, &n);
    int rc = fdl_tls_check_refusal(&conn->tls, err);
    ERR_clear_error();
    if (rc != FDL_OK)
        return rc;
    return fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET,
                    conn->tls.wants_identity && !conn->heard
                        ? FDL_WHAT_ANONYMOUS
                        : "the connection was cut");
}

/* Waits until the socket is ready or a slice of time has passed (then the caller tries
 * again and the stall rule is applied). */
static int wait_ready(struct fdl_conn *conn, short events, int slice_ms,
                      struct fdl_err *err)
{
    struct pollfd fds[2] = {{.fd = conn->sock, .events = events},
                            {.fd = conn->wakeup->fd, .events = POLLIN}};
    uint64_t before = fdl_now_ns();

    if (fdl_wakeup_is_set(conn->wakeup))
        return fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");
    int n = poll(fds, 2, slice_ms);
    uint64_t now = fdl_now_ns();
    atomic_fetch_add_explicit(&conn->times->wait_ns, now - before,
                              memory_order_relaxed);
    if (n < 0 && errno != EINTR)
        return fdl_fail_os(err, FDL_E_NET, errno, FDL_NO_OFFSET, "poll");
    if (fdl_wakeup_is_set(conn->wakeup))
        return fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");

    uint64_t stall_ns = (uint64_t)conn->net->stall_timeout_ms * FDL_NS_PER_MS;
    if (now - conn->stall_since_ns >= stall_ns) {
        uint64_t least =
            (uint64_t)conn->net->stall_timeout_ms * STALL_RATE_BYTES_S / 1000;
        if (conn->stall_bytes < least)
            return fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET,
                            "stalled: less than 1 KiB/s over the stall time");
        conn->stall_since_ns = now;
        conn->stall_bytes = 0;
    }
    return FDL_OK;
}

/* Where the kernel refuses it, the thread is woken for whatever comes: only slower. */
static void wake_at(struct fdl_conn *conn, size_t bytes)
{
    int least = (int)bytes;

    if (bytes != conn->wakes_at &&
        setsockopt(conn->sock, SOL_SOCKET, SO_RCVLOWAT, &least, sizeof least) == 0)
        conn->wakes_at = bytes;
}

static int wait_for_bytes(struct fdl_conn *conn, size_t due, struct fdl_err *err)
{
    bool many = due >= BATCH_LEAST_DUE;
    size_t most = many ? due / 2 : 1;
    uint64_t before = fdl_now_ns();

    wake_at(conn, conn->batch < most ? conn->batch : most);
    int rc = wait_ready(
        conn, POLLIN, conn->wakes_at > 1 ? BATCH_LATE_MS : FDL_CONN_WAIT_SLICE_MS, err);
    uint64_t took = fdl_now_ns() - before;

    if (!many)
        return rc;
    if (took >= BATCH_LATE_MS * FDL_NS_PER_MS)
        conn->batch = 1;
    else if (took < BATCH_SOON_NS && conn->batch < BATCH_MAX)
        conn->batch = conn->batch < BATCH_MIN ? BATCH_MIN : 2 * conn->batch;
    return rc;
}

long fdl_conn_recv(struct fdl_conn *conn, void *buf, size_t len, size_t due,
                   struct fdl_err *err)
{
    for (;;) {
        size_t n = 0;
        uint64_t before = fdl_now_ns();
        CURLcode rc = curl_easy_recv(conn->easy, buf, len, &n);
        uint64_t spent = fdl_now_ns() - before;

        atomic_fetch_add_explicit(conn->host.tls ? &conn->times->tls_ns
                                                 : &conn->times->recv_ns,
                                  spent, memory_order_relaxed);
        if (rc == CURLE_OK) {
            conn->stall_bytes += n;
            conn->heard |= n > 0;
            return (long)n;
        }
        if (rc != CURLE_AGAIN)
            return fdl_conn_explain_cut(conn, err);
        int w = wait_for_bytes(conn, due, err);
        if (w != FDL_OK)
            return w;
    }
}

bool fdl_conn_is_quiet(struct fdl_conn *conn)
{
    char byte;
    size_t n = 0;

    return curl_easy_recv(conn->easy, &byte, 1, &n) == CURLE_AGAIN;
}

int fdl_conn_send(struct fdl_conn *conn, const void *buf, size_t len,
                  struct fdl_err *err)
{
    const char *p = buf;

    /* Time between two responses is ours, not the server's: the stall window
     * starts over. */
    conn->stall_since_ns = fdl_now_ns();
    conn->stall_bytes = 0;
    while (len > 0) {
        size_t n = 0;
        CURLcode rc = curl_easy_send(conn->easy, p, len, &n);
        if (rc == CURLE_OK) {
            p += n;
            len -= n;
        } else if (rc == CURLE_AGAIN) {
            int w = wait_ready(conn, POLLOUT, FDL_CONN_WAIT_SLICE_MS, err);
            if (w != FDL_OK)
                return w;
        } else {
            return fdl_conn_explain_cut(conn, err);
        }
    }
    return FDL_OK;
}

bool fdl_conn_wants_identity(const struct fdl_conn *conn)
{
    return conn->tls.wants_identity;
}

enum fdl_addr_class fdl_conn_peer_class(const struct fdl_conn *conn)
{
    return conn->peer;
}

void fdl_conn_rebind(struct fdl_conn *conn, struct fdl_wakeup *wakeup,
                     struct fdl_conn_times *times)
{
    conn->wakeup = wakeup;
    conn->times = times;
    conn->stall_since_ns = fdl_now_ns();
    conn->stall_bytes = 0;
}

void fdl_conn_close(struct fdl_conn *conn)
{
    if (!conn)
        return;
    if (conn->multi && conn->easy)
        curl_multi_remove_handle(conn->multi, conn->easy);
    if (conn->easy)
        curl_easy_cleanup(conn->easy);
    if (conn->multi)
        curl_multi_cleanup(conn->multi);
    free(conn);
}
