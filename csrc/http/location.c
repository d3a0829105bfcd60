/* SPDX-License-Identifier: Apache-2.0 */
#include "http/location.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/addr.h"

void fdl_location_clear(struct fdl_location *p)
{
    free(p->base);
    free(p->host);
    free(p->field);
    free(p->target);
    memset(p, 0, sizeof *p);
}

char *fdl_join(const char *a, const char *b, const char *c)
{
    size_t n = strlen(a) + strlen(b) + strlen(c) + 1;
    char *s = malloc(n);

    if (s) {
        strcpy(s, a);
        strcat(s, b);
        strcat(s, c);
    }
    return s;
}

int fdl_location_of(CURLU *u, struct fdl_location *p, struct fdl_err *err)
{
    char *scheme = NULL, *host = NULL, *port = NULL, *path = NULL, *query = NULL;
    int rc = FDL_OK;

    memset(p, 0, sizeof *p);
    if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_PATH, &path, 0) != CURLUE_OK) {
        rc = fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET, "the URL cannot be used");
        goto out;
    }
    curl_url_get(u, CURLUPART_QUERY, &query, 0);
    p->tls = strcasecmp(scheme, "https") == 0;
    if (!p->tls && strcasecmp(scheme, "http") != 0) {
        rc = fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                      "only http and https may be followed");
        goto out;
    }
    char *authority = fdl_join(host, ":", port);
    if (authority)
        p->base = fdl_join(p->tls ? "https" : "http", "://", authority);
    bool usual = strcmp(port, p->tls ? "443" : "80") == 0;
    p->field = usual ? strdup(host) : authority ? strdup(authority) : NULL;
    free(authority);
    size_t n = strlen(host);
    p->host = host[0] == '[' && n > 2 ? strndup(host + 1, n - 2) : strdup(host);
    p->target = query ? fdl_join(path, "?", query) : strdup(path);
    if (!p->base || !p->host || !p->field || !p->target) {
        fdl_location_clear(p);
        rc = fdl_nomem(err, "a URL");
    }
out:
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(query);
    return rc;
}

bool fdl_location_same_origin(const char *url, const struct fdl_location *p)
{
    CURLU *u = curl_url();
    struct fdl_location own = {0};
    bool same = false;

    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
        fdl_location_of(u, &own, NULL) == FDL_OK)
        same = strcasecmp(own.base, p->base) == 0;
    fdl_location_clear(&own);
    curl_url_cleanup(u);
    return same;
}

bool fdl_location_is(const struct fdl_location *p, const char *url)
{
    size_t base = strlen(p->base), path = strcspn(p->target, "?");

    return url && strlen(url) == base + path && strncmp(url, p->base, base) == 0 &&
           strncmp(url + base, p->target, path) == 0;
}

char *fdl_location_url(const struct fdl_location *p)
{
    size_t base = strlen(p->base), path = strcspn(p->target, "?");
    char *url = malloc(base + path + 1);

    if (url) {
        memcpy(url, p->base, base);
        memcpy(url + base, p->target, path);
        url[base + path] = '\0';
    }
    return url;
}

bool fdl_location_is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 ||
           status == 308;
}

/* The same host and port as before reveal nothing new, whichever port that is. */
static bool may_lead(CURLU *u, const struct fdl_location *at)
{
    char *port = NULL, *host = NULL, *zone = NULL;
    bool good = false;

    if (curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
        char *authority = fdl_join(host, ":", port);
        good = fdl_addr_hop_port((uint16_t)strtoul(port, NULL, 10)) ||
               (authority && strcasecmp(authority, strstr(at->base, "//") + 2) == 0);
        free(authority);
    }
    if (curl_url_get(u, CURLUPART_ZONEID, &zone, 0) == CURLUE_OK)
        good = false; /* only this machine may name its interfaces */
    curl_free(port);
    curl_free(host);
    curl_free(zone);
    return good;
}

int fdl_location_follow(CURLU *u, struct fdl_str location,
                        const struct fdl_location *at, struct fdl_err *err)
{
    char *scheme = NULL;

    if (location.len == 0)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, FDL_NO_OFFSET,
                        "a redirect without a destination");
    if (location.len > FDL_LOCATION_MAX)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, FDL_NO_OFFSET,
                        "a redirect to an address of more than 16 KiB");
    /* A fragment is never sent, whatever it contains. */
    const char *fragment = memchr(location.ptr, '#', location.len);
    char *to = strndup(location.ptr,
                       fragment ? (size_t)(fragment - location.ptr) : location.len);
    if (!to)
        return fdl_nomem(err, "a URL");
    CURLUcode rc = curl_url_set(u, CURLUPART_URL, to, CURLU_NON_SUPPORT_SCHEME);
    free(to);
    if (rc != CURLUE_OK || curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK)
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "a redirect to something that is not a usable URL");
    bool https = strcasecmp(scheme, "https") == 0,
         http = strcasecmp(scheme, "http") == 0;
    curl_free(scheme);
    if (!http && !https)
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "a redirect to a scheme other than http and https");
    if (at->tls && !https)
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "a redirect from https to http");
    if (!may_lead(u, at))
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "a redirect to a port or an interface that is not allowed");
    /* Credentials that a server writes into a Location are not ours to use. */
    curl_url_set(u, CURLUPART_USER, NULL, 0);
    curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
    curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0);
    return FDL_OK;
}
