/* SPDX-License-Identifier: Apache-2.0 */
/* net/net.h - what all connections of a job share: trust, proxy, time limits, policy.
 *
 * Immutable once a connection has been opened with it (but for the authorities, which
 * load themselves under a lock, and what is atomic), hence safe from many threads. */
#ifndef FDL_NET_H
#define FDL_NET_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "http/cookie.h"
#include "base/err.h"
#include "net/proxy.h"
#include "net/route.h"
#include "net/tls.h"

#define FDL_REDIRECTS_MAX 8

struct fdl_net {
    X509_STORE *store; /* OWNED: trust anchors, shared by all connections */
    bool system_trust; /* the system's authorities are trusted too */
    /* They are loaded for the first TLS connection: it costs 30 ms. */
    pthread_mutex_t load_lock;
    bool loaded, load_failed;      /* under load_lock */
    struct fdl_identity *identity; /* OWNED, NULL for none: client certificate */
    struct fdl_proxies proxies;    /* OWNED */
    struct fdl_route route;        /* OWNED */
    long connect_timeout_ms;
    long stall_timeout_ms;
    bool follow_redirects;
    struct fdl_addr_policy policy;
    struct fdl_cidr *cidrs;     /* OWNED: what policy.allow points to */
    struct fdl_cidr *nfs_cidrs; /* OWNED: what policy.nfs points to */
    struct fdl_cookies cookies; /* of all mirrors */
    atomic_uint tried; /* bit 1 << class for every address that was tried or refused;
                          unknown ones count as reserved */
    const char *user_agent; /* static */
};

/* Returns OWNED, or NULL without memory. No trust anchors yet. */
struct fdl_net *fdl_net_new(void);
void fdl_net_free(struct fdl_net *net);

/* Called before a TLS connection, from any thread: loads the system's authorities once,
 * if net->system_trust is set. FDL_E_TLS_TRUST if SSL_CERT_FILE names a
 * file that cannot be read. */
int fdl_net_load_trust(struct fdl_net *net, struct fdl_err *err);

/* Adds every certificate of a PEM text as an anchor: authorities, and self-signed or
 * pinned leaves. FDL_E_TLS_TRUST where there is none or one is malformed. */
int fdl_net_trust_pem(struct fdl_net *net, const char *pem, size_t len,
                      struct fdl_err *err);

/* For http:// and for https:// URLs, each NULL for none; `exempt` as
 * fdl_proxy_exempts() reads it, or NULL. FDL_E_USAGE where one is no proxy. */
int fdl_net_use_proxies(struct fdl_net *net, const char *http, const char *https,
                        const char *exempt, struct fdl_err *err);

/* `text` as a.b.c.d/n or v6/n or a bare address. FDL_E_USAGE where malformed. */
int fdl_net_allow_cidr(struct fdl_net *net, const char *text, struct fdl_err *err);
int fdl_net_allow_nfs(struct fdl_net *net, const char *text, struct fdl_err *err);

/* Keeps in net->tried that this address of an origin was considered; NULL: one that
 * not known here, because a name was not resolved or a proxy resolves it. */
void fdl_net_note(struct fdl_net *net, const struct sockaddr *sa);

#endif
