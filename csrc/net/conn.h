/* SPDX-License-Identifier: Apache-2.0 */
/* net/conn.h - FETCH: one byte stream to a host, plain or TLS, made by libcurl.
 *
 * libcurl resolves, connects, speaks to proxies and verifies certificates
 * (CURLOPT_CONNECT_ONLY); the bytes go straight into the caller's memory.
 * One thread uses a connection at a time; its wakeup may be set from any thread. */
#ifndef FDL_CONN_H
#define FDL_CONN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/err.h"
#include "net/net.h"
#include "net/wakeup.h"

/* Nanoseconds a connection's owner spent; added to, never reset. */
struct fdl_conn_times {
    atomic_uint_fast64_t
        recv_ns; /* in receive calls: kernel copies, and TLS decryption */
    atomic_uint_fast64_t tls_ns; /* the same for TLS connections, handshakes included */
    atomic_uint_fast64_t wait_ns; /* waiting for the other side */
};

struct fdl_target_host {
    const char *base_url; /* BORROWED: scheme://host:port of the wanted host */
    const char *host; /* BORROWED: host for the certificate check, without brackets */
    bool tls;
    enum fdl_addr_via via;
    enum fdl_addr_class from;
};

#define FDL_WHAT_ANONYMOUS                                                             \
    "closed without a response by a server that wants a client certificate (--cert, "  \
    "--key)"
#define FDL_WHAT_PROXY_CREDENTIALS                                                     \
    "the proxy requires credentials, or other ones (http://USER:PASSWORD@HOST)"

struct fdl_conn;

/* Connects. net, wakeup and times are BORROWED until fdl_conn_close(). *out is OWNED.
 * Errors: FDL_E_NET, FDL_E_TLS_TRUST, FDL_E_POLICY (every address of the name was
 * refused), FDL_E_HTTP_STATUS (a proxy's response), FDL_E_CANCELLED (wakeup). */
int fdl_conn_open(struct fdl_conn **out, struct fdl_net *net,
                  const struct fdl_target_host *host, struct fdl_wakeup *wakeup,
                  struct fdl_conn_times *times, struct fdl_err *err);

/* 1..len bytes, 0 at the orderly or disorderly end of the stream, or an error:
 * FDL_E_NET (reset, or stalled: less than 1 KiB/s over the stall time),
 * FDL_E_TLS_TRUST (the server refuses our certificate, or that there is none),
 * FDL_E_CANCELLED. due: so many are certain to come, more than len perhaps, and may be
 * waited for together; 1 where nobody knows. */
long fdl_conn_recv(struct fdl_conn *conn, void *buf, size_t len, size_t due,
                   struct fdl_err *err);

int fdl_conn_send(struct fdl_conn *conn, const void *buf, size_t len,
                  struct fdl_err *err);

/* Between two exchanges: no unsolicited data has arrived, and the end has not
 * come. */
bool fdl_conn_is_quiet(struct fdl_conn *conn);

/* The server requested a client certificate in the handshake, and there was none. */
bool fdl_conn_wants_identity(const struct fdl_conn *conn);

/* Class of the address on the other end (of the proxy where there is one). */
enum fdl_addr_class fdl_conn_peer_class(const struct fdl_conn *conn);

/* Moves the connection to another thread's wakeup and times (both BORROWED). */
void fdl_conn_rebind(struct fdl_conn *conn, struct fdl_wakeup *wakeup,
                     struct fdl_conn_times *times);

/* NULL is allowed. */
void fdl_conn_close(struct fdl_conn *conn);

#endif
