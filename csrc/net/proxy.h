/* SPDX-License-Identifier: Apache-2.0 */
/* net/proxy.h - FETCH: through which proxy does the way to a host lead? (pure)
 *
 * The rules are those of curl: a proxy for each scheme, and names, domains and networks
 * that are reached without one. */
#ifndef FDL_PROXY_H
#define FDL_PROXY_H

#include <stdbool.h>

#include "base/err.h"

struct fdl_proxy {
    char *url;   /* OWNED: as libcurl takes it, credentials included */
    char *host;  /* OWNED: whose certificate it shows, without brackets */
    char *field; /* OWNED or NULL: Proxy-Authorization, one whole line */
    bool tls;    /* https:// */
    bool socks;  /* it does not speak HTTP */
};

struct fdl_proxies {
    struct fdl_proxy *http;  /* OWNED or NULL: for http:// URLs */
    struct fdl_proxy *https; /* OWNED or NULL: for https:// URLs */
    char *exempt;            /* OWNED or NULL: see fdl_proxy_exempts() */
};

void fdl_proxies_clear(struct fdl_proxies *p);

/* `[scheme://][user[:password]@]host[:port]` as curl reads it: without a scheme http,
 * without a port 1080 (443 for https); `socks` is SOCKS4. *out is OWNED. FDL_E_USAGE
 * where it is none. */
int fdl_proxy_parse(const char *url, struct fdl_proxy **out, struct fdl_err *err);
void fdl_proxy_free(struct fdl_proxy *proxy); /* NULL is allowed */

/* Whether `list` (commas or blanks between its items) names the host: `*` every one, a
 * domain with or without a leading dot its hosts too, an address or a network in CIDR
 * form the addresses in it. A name is not resolved for that. NULL is an empty list. */
bool fdl_proxy_exempts(const char *list, const char *host);

/* BORROWED, NULL: straight. host: without brackets. */
const struct fdl_proxy *fdl_proxy_for(const struct fdl_proxies *p, bool tls,
                                      const char *host);

#endif
