/* SPDX-License-Identifier: Apache-2.0 */
/* net/conn_priv.h - what connecting (conn_open.c) and exchanging bytes (conn.c) share.
 */
#ifndef FDL_CONN_PRIV_H
#define FDL_CONN_PRIV_H

#include <curl/curl.h>

#include "net/conn.h"
#include "net/tls.h"

#define FDL_CONN_RECV_MAX (512L * 1024)
#define FDL_CONN_WAIT_SLICE_MS 200

struct fdl_conn {
    CURLM *multi; /* OWNED: gives connecting a wait that our eventfd can interrupt */
    CURL *easy;   /* OWNED */
    curl_socket_t sock;
    struct fdl_net *net;
    struct fdl_target_host host;
    const struct fdl_proxy *proxy; /* BORROWED from net; NULL: straight */
    struct fdl_tls tls;
    struct fdl_wakeup *wakeup;
    struct fdl_conn_times *times;
    enum fdl_addr_class peer;
    int refused;             /* addresses that the policy kept us from */
    uint64_t stall_since_ns; /* start of the present stall window */
    uint64_t stall_bytes;
    size_t wakes_at; /* so many bytes wake a thread that waits for some */
    size_t batch;    /* it is worth to wait for so many, 1 where they come slowly */
    bool heard;      /* bytes were received over it */
};

/* The stream ended in disorder: the network, or a server that refuses who we are. What
 * it says of that may lie there unread. */
int fdl_conn_explain_cut(struct fdl_conn *conn, struct fdl_err *err);

#endif
