/* SPDX-License-Identifier: Apache-2.0 */
#include "net/proxy.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define CREDENTIALS_MAX 1024
#define ITEM_MAX 256

void fdl_proxy_free(struct fdl_proxy *proxy)
{
    if (!proxy)
        return;
    free(proxy->url);
    free(proxy->host);
    free(proxy->field);
    free(proxy);
}

void fdl_proxies_clear(struct fdl_proxies *p)
{
    fdl_proxy_free(p->http);
    fdl_proxy_free(p->https);
    free(p->exempt);
    memset(p, 0, sizeof *p);
}

/* A part of the userinfo, decoded; "" where it is missing. OWNED, NULL where it holds
 * what it must not. */
static char *decoded(CURLU *u, CURLUPart part, CURLUcode missing)
{
    char *text = NULL, *copy;
    CURLUcode rc = curl_url_get(u, part, &text, CURLU_URLDECODE);

    if (rc != CURLUE_OK && rc != missing)
        return NULL;
    copy = strdup(text ? text : "");
    curl_free(text);
    return copy;
}

/* Basic credentials (RFC 7617) as a field. OWNED, NULL where they are too long. */
static char *basic_field(const char *user, const char *password)
{
    static const char start[] = "Proxy-Authorization: Basic ";
    unsigned char pair[2 * CREDENTIALS_MAX + 2];
    int n = snprintf((char *)pair, sizeof pair, "%s:%s", user, password);

    if (n < 0 || (size_t)n >= sizeof pair)
        return NULL;
    char *field = malloc(sizeof start + 4 * ((size_t)n / 3 + 1) + 2);
    if (field) {
        memcpy(field, start, sizeof start - 1);
        int b64 = EVP_EncodeBlock((unsigned char *)field + sizeof start - 1, pair, n);
        memcpy(field + sizeof start - 1 + b64, "\r\n", 3);
    }
    return field;
}

static bool read_credentials(struct fdl_proxy *proxy, CURLU *u)
{
    char *user = decoded(u, CURLUPART_USER, CURLUE_NO_USER);
    char *password = decoded(u, CURLUPART_PASSWORD, CURLUE_NO_PASSWORD);
    bool ok = user && password;

    if (ok && !proxy->socks && (*user || *password)) {
        proxy->field = basic_field(user, password);
        ok = proxy->field != NULL;
    }
    free(user);
    free(password);
    return ok;
}

static bool fill(struct fdl_proxy *proxy, CURLU *u)
{
    static const char *const schemes[] = {"http",    "https",  "socks",  "socks4",
                                          "socks4a", "socks5", "socks5h"};
    char *scheme = NULL, *host = NULL;
    bool known = false, ok = false;

    if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
        for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
            known |= strcasecmp(scheme, schemes[i]) == 0;
        proxy->tls = strcasecmp(scheme, "https") == 0;
        proxy->socks = strncasecmp(scheme, "socks", 5) == 0;
        size_t len = strlen(host);
        proxy->host = host[0] == '[' ? strndup(host + 1, len - 2) : strdup(host);
        ok = read_credentials(proxy, u);
    }
    curl_free(scheme);
    curl_free(host);
    return known && ok && proxy->host && proxy->host[0];
}

int fdl_proxy_parse(const char *url, struct fdl_proxy **out, struct fdl_err *err)
{
    struct fdl_proxy *proxy = calloc(1, sizeof *proxy);
    CURLU *u = curl_url();
    size_t len = strlen(url) + sizeof "http://";

    if (proxy)
        proxy->url = malloc(len);
    if (!proxy || !u || !proxy->url) {
        fdl_proxy_free(proxy);
        curl_url_cleanup(u);
        return fdl_nomem(err, "the proxies");
    }
    snprintf(proxy->url, len, "%s%s", strstr(url, "://") ? "" : "http://", url);
    bool good = curl_url_set(u, CURLUPART_URL, proxy->url, CURLU_NON_SUPPORT_SCHEME) ==
                    CURLUE_OK &&
                fill(proxy, u);
    curl_url_cleanup(u);
    if (!good) {
        fdl_proxy_free(proxy);
        return fdl_fail(
            err, FDL_E_USAGE, FDL_NO_OFFSET,
            "the proxy is not written as http://HOST:PORT, https://HOST:PORT "
            "or socks5h://HOST:PORT");
    }
    *out = proxy;
    return FDL_OK;
}

/* ---- what needs none ---- */

/* Whether the item (an address, or a network with /bits) holds the address. */
static bool holds_address(char *item, int family, const unsigned char *addr, int bytes)
{
    unsigned char net[16];
    char *slash = strchr(item, '/'), *end;
    long bits = 8L * bytes;

    if (slash) {
        *slash = '\0';
        bits = strtol(slash + 1, &end, 10);
        if (end == slash + 1 || *end || bits < 0 || bits > 8L * bytes)
            return false;
        if (bits == 0) /* as curl: /0 means just the address */
            bits = 8L * bytes;
    }
    size_t len = strlen(item);
    if (family == AF_INET6 && len > 2 && item[0] == '[' && item[len - 1] == ']') {
        item[len - 1] = '\0';
        item++;
    }
    if (inet_pton(family, item, net) != 1)
        return false;
    int whole = (int)bits / 8, rest = (int)bits % 8;
    if (memcmp(net, addr, (size_t)whole) != 0)
        return false;
    return rest == 0 || (net[whole] ^ addr[whole]) >> (8 - rest) == 0;
}

/* Whether the item is the name or a domain above it. */
static bool holds_name(const char *item, const char *name, size_t name_len)
{
    size_t len = strlen(item);

    if (len > 0 && item[len - 1] == '.')
        len--;
    if (len > 0 && item[0] == '.') {
        item++;
        len--;
    }
    if (len == 0 || len > name_len ||
        strncasecmp(item, name + (name_len - len), len) != 0)
        return false;
    return len == name_len || name[name_len - len - 1] == '.';
}

bool fdl_proxy_exempts(const char *list, const char *host)
{
    static const char between[] = ", \t";
    unsigned char addr[16];
    size_t host_len = strlen(host);
    int family = inet_pton(AF_INET, host, addr) == 1    ? AF_INET
                 : inet_pton(AF_INET6, host, addr) == 1 ? AF_INET6
                                                        : AF_UNSPEC;

    if (!list || host_len == 0)
        return false;
    if (strcmp(list, "*") == 0)
        return true;
    if (family == AF_UNSPEC && host[host_len - 1] == '.')
        host_len--;
    for (const char *at = list + strspn(list, between); *at;) {
        char item[ITEM_MAX];
        size_t len = strcspn(at, between);
        if (len < sizeof item) { /* a longer one can be no host */
            memcpy(item, at, len);
            item[len] = '\0';
            if (family == AF_UNSPEC
                    ? holds_name(item, host, host_len)
                    : holds_address(item, family, addr, family == AF_INET ? 4 : 16))
                return true;
        }
        at += len;
        at += strspn(at, between);
    }
    return false;
}

const struct fdl_proxy *fdl_proxy_for(const struct fdl_proxies *p, bool tls,
                                      const char *host)
{
    const struct fdl_proxy *proxy = tls ? p->https : p->http;

    return proxy && !fdl_proxy_exempts(p->exempt, host) ? proxy : NULL;
}
