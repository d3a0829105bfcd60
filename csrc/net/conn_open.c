/* SPDX-License-Identifier: Apache-2.0 */
/* net/conn_open.c - a connection that is made, and why one could not be. */
#include "net/conn_priv.h"
#include "base/clock.h"
#include "http/http.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CURL_OLDEST 0x075800 /* 7.88.0, as setup.py demands */

/* CURLOPT_OPENSOCKETFUNCTION: the one point where an address is checked. libcurl
 * connects to exactly the address that it shows here. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose,
                                 struct curl_sockaddr *addr)
{
    struct fdl_conn *conn = arg;

    (void)purpose;
    /* With a proxy the address is the proxy's, which the operator typed. */
    if (!conn->proxy)
        fdl_net_note(conn->net, &addr->addr);
    if (!conn->proxy && !fdl_addr_allowed(&addr->addr, &conn->net->policy,
                                          conn->host.via, conn->host.from)) {
        conn->refused++;
        return CURL_SOCKET_BAD;
    }
    return socket(addr->family, addr->socktype | SOCK_CLOEXEC, addr->protocol);
}

static unsigned set_tls_options(struct fdl_conn *conn)
{
    CURL *e = conn->easy;
    unsigned bad = 0;

    bad |= curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    bad |= curl_easy_setopt(e, CURLOPT_SSL_ENABLE_ALPN, 0L);
    bad |= curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    bad |= curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L);
    bad |= curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L);
    /* A resumed session would skip the check of a certificate that was swapped. */
    bad |= curl_easy_setopt(e, CURLOPT_SSL_SESSIONID_CACHE, 0L);
    bad |= curl_easy_setopt(e, CURLOPT_CAINFO, NULL);
    bad |= curl_easy_setopt(e, CURLOPT_CAPATH, NULL);
#if LIBCURL_VERSION_NUM >= 0x075700
    bad |= curl_easy_setopt(e, CURLOPT_CA_CACHE_TIMEOUT, 0L);
#endif
    bad |= curl_easy_setopt(e, CURLOPT_SSL_CTX_FUNCTION, fdl_tls_setup);
    bad |= curl_easy_setopt(e, CURLOPT_SSL_CTX_DATA, &conn->tls);
    if (conn->proxy && conn->proxy->tls) {
        bad |= curl_easy_setopt(e, CURLOPT_PROXY_SSLVERSION,
                                (long)CURL_SSLVERSION_TLSv1_2);
        bad |= curl_easy_setopt(e, CURLOPT_PROXY_SSL_VERIFYPEER, 1L);
        bad |= curl_easy_setopt(e, CURLOPT_PROXY_SSL_VERIFYHOST, 2L);
        bad |= curl_easy_setopt(e, CURLOPT_PROXY_CAINFO, NULL);
        bad |= curl_easy_setopt(e, CURLOPT_PROXY_CAPATH, NULL);
    }
    return bad;
}

static bool speaks_tls(const struct fdl_conn *conn)
{
    return conn->host.tls || (conn->proxy && conn->proxy->tls);
}

static bool set_options(struct fdl_conn *conn)
{
    const struct fdl_net *net = conn->net;
    CURL *e = conn->easy;
    unsigned bad = 0; /* CURLE_OK is 0 */

    bad |= curl_easy_setopt(e, CURLOPT_URL, conn->host.base_url);
    bad |= curl_easy_setopt(e, CURLOPT_CONNECT_ONLY, 1L);
    /* It also caps what one curl_easy_recv() takes: with the default of 16 KiB
     * receiving cost twice the processor time (measured, plain http). */
    bad |= curl_easy_setopt(e, CURLOPT_BUFFERSIZE, FDL_CONN_RECV_MAX);
    bad |= curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(e, CURLOPT_NOPROGRESS, 1L);
    bad |= curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
    /* A cancelled job does not wait for a name server that does not respond. */
    bad |= curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
#endif
    bad |= curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, net->connect_timeout_ms);
    bad |= curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    bad |= curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, conn);
    /* Empty ones also keep the environment's from being used: whether there is a proxy
     * decides who checks the address. */
    bad |= curl_easy_setopt(e, CURLOPT_PROXY, conn->proxy ? conn->proxy->url : "");
    bad |= curl_easy_setopt(e, CURLOPT_NOPROXY, "");
    if (net->route.interface)
        bad |= curl_easy_setopt(e, CURLOPT_INTERFACE, net->route.interface);
    if (net->route.family)
        bad |= curl_easy_setopt(e, CURLOPT_IPRESOLVE,
                                net->route.family == 4 ? CURL_IPRESOLVE_V4
                                                       : CURL_IPRESOLVE_V6);
    if (net->route.pins)
        bad |= curl_easy_setopt(e, CURLOPT_RESOLVE, net->route.pins);
    if (speaks_tls(conn))
        bad |= set_tls_options(conn);
    return bad == 0;
}

static int refuse_net(struct fdl_err *err, const char *why)
{
    return fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET, why);
}

/* The proxy's response to CONNECT. FDL_OK: it did not refuse. */
static int check_tunnel(struct fdl_conn *conn, struct fdl_err *err)
{
    long status = 0;

    curl_easy_getinfo(conn->easy, CURLINFO_HTTP_CONNECTCODE, &status);
    if (status == 0 || status / 100 == 2)
        return FDL_OK;
    fdl_fail(err, FDL_E_HTTP_STATUS, FDL_NO_OFFSET,
             status == 407 ? FDL_WHAT_PROXY_CREDENTIALS
             : fdl_http_status_is_transient((int)status)
                 ? "the proxy cannot connect to the host"
                 : "the proxy refuses to connect to the host");
    if (err)
        err->http_status = (int)status;
    return FDL_E_HTTP_STATUS;
}

/* libcurl's result becomes one of our classes. A handshake that the network cut short
 * is the network's fault, not the certificate's. */
static int explain_failure(struct fdl_conn *conn, CURLcode rc, struct fdl_err *err)
{
    const struct fdl_proxy *proxy = conn->proxy;
    bool one_family = conn->net->route.family != 0 && !proxy;
    long os_errno = 0;

    curl_easy_getinfo(conn->easy, CURLINFO_OS_ERRNO, &os_errno);
    if (proxy && check_tunnel(conn, err) != FDL_OK)
        return FDL_E_HTTP_STATUS;
    switch (rc) {
    case CURLE_OUT_OF_MEMORY:
        return fdl_nomem(err, "a connection");
    case CURLE_COULDNT_RESOLVE_HOST:
        return refuse_net(err, one_family
                                   ? "the host name cannot be resolved to an address "
                                     "of the requested family (-4, -6)"
                                   : "the host name cannot be resolved");
    case CURLE_COULDNT_RESOLVE_PROXY:
        return refuse_net(err, "the proxy's name cannot be resolved");
    case CURLE_OPERATION_TIMEDOUT:
        if (fdl_tls_began_with_host(&conn->tls))
            return refuse_net(err, "the server did not respond to the TLS handshake "
                                   "(does this port use TLS? http://?)");
        return refuse_net(err, proxy ? "connecting through the proxy took too long"
                                     : "connecting took too long");
    case CURLE_COULDNT_CONNECT:
        if (conn->refused > 0)
            return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET, FDL_ADDR_FORBIDDEN);
        if (one_family && os_errno == 0)
            return refuse_net(
                err, "the host has no address of the requested family (-4, -6)");
        return fdl_fail_os(err, FDL_E_NET, (int)os_errno, FDL_NO_OFFSET,
                           proxy ? "the proxy cannot be connected to"
                                 : "the host cannot be connected to");
    case CURLE_INTERFACE_FAILED:
        return fdl_fail_os(err, FDL_E_USAGE, (int)os_errno, FDL_NO_OFFSET,
                           "the interface or address to connect from cannot be used");
    case CURLE_PROXY:
        return refuse_net(err, "the proxy did not connect to the host");
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CONNECT_ERROR:
        return fdl_tls_explain(&conn->tls, err);
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return refuse_net(err, proxy ? "the proxy cut the connection"
                                     : "the connection was cut");
    default:
        return refuse_net(err, proxy ? "connecting through the proxy failed"
                                     : "connecting failed");
    }
}

static int drive_connect(struct fdl_conn *conn, struct fdl_err *err)
{
    struct curl_waitfd extra = {.fd = conn->wakeup->fd, .events = CURL_WAIT_POLLIN};
    int running = 1;

    if (curl_multi_add_handle(conn->multi, conn->easy) != CURLM_OK)
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET,
                        "libcurl refused the handle");
    for (;;) {
        if (fdl_wakeup_is_set(conn->wakeup))
            return fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");
        if (curl_multi_perform(conn->multi, &running) != CURLM_OK)
            return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET, "libcurl failed");
        int left;
        CURLMsg *msg;
        while ((msg = curl_multi_info_read(conn->multi, &left)) != NULL) {
            if (msg->msg != CURLMSG_DONE)
                continue;
            if (msg->data.result == CURLE_OK)
                return FDL_OK;
            return explain_failure(conn, msg->data.result, err);
        }
        if (!running)
            return fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET, "connecting failed");
        if (curl_multi_poll(conn->multi, &extra, 1, FDL_CONN_WAIT_SLICE_MS, NULL) !=
            CURLM_OK)
            return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET, "libcurl failed");
    }
}

/* What connected is checked again: getpeername() cannot be deceived.
 */
static int check_peer(struct fdl_conn *conn, struct fdl_err *err)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;

    if (curl_easy_getinfo(conn->easy, CURLINFO_ACTIVESOCKET, &conn->sock) != CURLE_OK ||
        conn->sock == CURL_SOCKET_BAD)
        return fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET, "the connection was lost");
    if (getpeername(conn->sock, (struct sockaddr *)&ss, &len) != 0)
        return fdl_conn_explain_cut(conn, err);
    conn->peer = fdl_addr_classify((struct sockaddr *)&ss);
    if (!conn->proxy && !fdl_addr_allowed((struct sockaddr *)&ss, &conn->net->policy,
                                          conn->host.via, conn->host.from))
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET, FDL_ADDR_FORBIDDEN);
    return FDL_OK;
}

/* What it was built with may not be what it finds at run time. */
static bool curl_is_too_old;

static void curl_start(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
    curl_is_too_old = curl_version_info(CURLVERSION_NOW)->version_num < CURL_OLDEST;
}

int fdl_conn_open(struct fdl_conn **out, struct fdl_net *net,
                  const struct fdl_target_host *host, struct fdl_wakeup *wakeup,
                  struct fdl_conn_times *times, struct fdl_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct fdl_conn *conn = calloc(1, sizeof *conn);
    int rc;

    pthread_once(&once, curl_start);
    if (!conn)
        return fdl_nomem(err, "a connection");
    conn->net = net;
    conn->host = *host;
    conn->wakeup = wakeup;
    conn->times = times;
    conn->sock = CURL_SOCKET_BAD;
    conn->wakes_at = conn->batch = 1;
    conn->proxy = fdl_proxy_for(&net->proxies, host->tls, host->host);
    conn->tls = (struct fdl_tls){
        .store = net->store,
        .identity = net->identity,
        .proxy = conn->proxy && conn->proxy->tls ? conn->proxy->host : NULL,
        .host = host->host};
    rc = curl_is_too_old ? fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET,
                                    "libcurl is older than 7.88.0: update it")
                         : FDL_OK;
    if (rc == FDL_OK && speaks_tls(conn))
        rc = fdl_net_load_trust(net, err);
    if (rc != FDL_OK)
        goto fail;
    conn->multi = curl_multi_init();
    conn->easy = curl_easy_init();
    if (!conn->multi || !conn->easy || !set_options(conn)) {
        rc = fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET,
                      "libcurl lacks a needed option");
        goto fail;
    }
    rc = drive_connect(conn, err);
    if (rc == FDL_OK)
        rc = check_peer(conn, err);
    if (rc != FDL_OK)
        goto fail;
    conn->stall_since_ns = fdl_now_ns();
    /* The borrowed names are needed for connecting only. */
    conn->host.base_url = NULL;
    conn->host.host = conn->tls.host = NULL;
    *out = conn;
    return FDL_OK;
fail:
    fdl_conn_close(conn);
    return rc;
}
