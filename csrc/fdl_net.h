/* SPDX-License-Identifier: Apache-2.0 */
/* fdl_net.h - what all connections of a job share: trust, proxy, time limits, policy.
 *
 * Immutable once a connection has been opened with it, hence safe from many threads. */
#ifndef FDL_NET_H
#define FDL_NET_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fdl_addr.h"
#include "fdl_err.h"

#define FDL_REDIRECTS_MAX 8

struct fdl_net {
    X509_STORE *store; /* OWNED: trust anchors, built once (loading them costs milliseconds) */
    char *cert_file;   /* OWNED, NULL for none: client certificate (PEM) */
    char *key_file;    /* OWNED, NULL: the key lies in cert_file */
    char *proxy;       /* OWNED, NULL: straight */
    long connect_timeout_ms;
    long stall_timeout_ms;
    bool follow_redirects;
    struct fdl_addr_policy policy;
    struct fdl_cidr *cidrs;    /* OWNED: what policy.allow points to */
    const char *user_agent;    /* static */
};

/* Returns OWNED, or NULL without memory. No trust anchors yet. */
struct fdl_net *fdl_net_new(void);
void fdl_net_free(struct fdl_net *net);

/* Adds the system's certificate authorities. Loads them at most once. */
int fdl_net_trust_system(struct fdl_net *net, struct fdl_err *err);

/* Adds every certificate of a PEM text as an anchor: authorities, and self-signed or
 * pinned leaves. FDL_E_TLS_TRUST where there is none or one is malformed. */
int fdl_net_trust_pem(struct fdl_net *net, const char *pem, size_t len, struct fdl_err *err);

/* `text` as a.b.c.d/n or v6/n or a bare address. FDL_E_USAGE where malformed. */
int fdl_net_allow_cidr(struct fdl_net *net, const char *text, struct fdl_err *err);

#endif
