/* SPDX-License-Identifier: Apache-2.0 */
/* test_proxy.c - which proxy a host takes, by its URL and by what needs none. */
#undef NDEBUG
#include "net/proxy.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static void proxies_are_read_as_curl_reads_them(void)
{
    static const struct {
        const char *text, *url, *host, *field;
        bool tls, socks;
    } good[] = {
        {"http://p:3128", "http://p:3128", "p", NULL, false, false},
        {"p", "http://p", "p", NULL, false, false},
        {"10.0.0.1:8080", "http://10.0.0.1:8080", "10.0.0.1", NULL, false, false},
        {"[::1]:80", "http://[::1]:80", "::1", NULL, false, false},
        {"HTTPS://p", "HTTPS://p", "p", NULL, true, false},
        {"socks5h://p:1080", "socks5h://p:1080", "p", NULL, false, true},
        {"socks://p:7890/", "socks://p:7890/", "p", NULL, false, true},
        {"socks4a://u@p", "socks4a://u@p", "p", NULL, false, true},
        {"http://u:p@h", "http://u:p@h", "h", "Proxy-Authorization: Basic dTpw\r\n",
         false, false},
        {"u@h", "http://u@h", "h", "Proxy-Authorization: Basic dTo=\r\n", false, false},
        {"http://a%3Ab:c%20d@h", "http://a%3Ab:c%20d@h", "h",
         "Proxy-Authorization: Basic YTpiOmMgZA==\r\n", false, false},
    };
    static const char *const bad[] = {
        "",        "http://",    "ftp://p",   "http://:80",       "socks6://p",
        "p:99999", "http://a b", "file:///p", "http://u:a%0Db@h", "http://a%0Ab@h"};

    for (size_t i = 0; i < COUNT(good); i++) {
        struct fdl_proxy *p = NULL;
        assert(fdl_proxy_parse(good[i].text, &p, NULL) == FDL_OK);
        assert(strcmp(p->url, good[i].url) == 0 && strcmp(p->host, good[i].host) == 0);
        assert(p->tls == good[i].tls && p->socks == good[i].socks);
        if (good[i].field)
            assert(p->field && strcmp(p->field, good[i].field) == 0);
        else
            assert(!p->field);
        fdl_proxy_free(p);
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct fdl_proxy *p = NULL;
        struct fdl_err err;
        assert(fdl_proxy_parse(bad[i], &p, &err) == FDL_E_USAGE && !p);
    }
    struct fdl_proxy *p = NULL;
    char *huge = malloc(8192);
    assert(huge);
    memset(huge, 'u', 8190);
    memcpy(huge + 8186, "@h", 3);
    assert(fdl_proxy_parse(huge, &p, NULL) == FDL_E_USAGE);
    free(huge);
}

static void a_list_names_hosts_domains_and_networks(void)
{
    static const struct {
        const char *list, *host;
        bool exempt;
    } cases[] = {
        {NULL, "a", false},
        {"", "a", false},
        {"*", "a", true},
        {"*", "10.0.0.1", true},
        {"a,*", "b", false},
        {"a.b", "a.b", true},
        {"a.b", "x.a.b", true},
        {"a.b", "xa.b", false},
        {"a.b", "b", false},
        {".a.b", "a.b", true},
        {".a.b", "x.a.b", true},
        {"A.B.", "a.b", true},
        {"a.b", "a.b.", true},
        {".", "a", false},
        {"x, a.b\ty", "a.b", true},
        {"x y", "y", true},
        {",,x", "x", true},
        {"10.0.0.1", "10.0.0.1", true},
        {"10.0.0.1", "10.0.0.10", false},
        {"10.0.0.0/8", "10.9.9.9", true},
        {"10.0.0.0/31", "10.0.0.1", true},
        {"10.0.0.0/31", "10.0.0.2", false},
        {"10.0.0.0/0", "10.0.0.0", true},
        {"10.0.0.0/0", "10.0.0.1", false},
        {"10.0.0.0/33", "10.0.0.0", false},
        {"10.0.0.0/x", "10.0.0.0", false},
        {"10.0.0.0/-1", "10.0.0.0", false},
        {"10.", "10.0.0.1", false},
        {"0.0.1", "10.0.0.1", false},
        {"::1", "::1", true},
        {"[::1]", "::1", true},
        {"0:0::1", "::1", true},
        {"fd00::/8", "fd12::9", true},
        {"fd00::/8", "fe80::1", false},
        {"::/0", "::1", false},
        {"10.0.0.0/8", "fd00::1", false},
        {"a", "", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert(fdl_proxy_exempts(cases[i].list, cases[i].host) == cases[i].exempt);
}

static void each_scheme_has_its_own(void)
{
    struct fdl_proxies p = {0};

    assert(!fdl_proxy_for(&p, true, "h"));
    assert(fdl_proxy_parse("one", &p.http, NULL) == FDL_OK);
    assert(fdl_proxy_for(&p, false, "h") == p.http && !fdl_proxy_for(&p, true, "h"));
    assert(fdl_proxy_parse("two", &p.https, NULL) == FDL_OK);
    p.exempt = strdup("h");
    assert(fdl_proxy_for(&p, true, "i") == p.https && !fdl_proxy_for(&p, true, "h"));
    fdl_proxies_clear(&p);
    assert(!p.http && !p.https && !p.exempt);
}

int main(void)
{
    proxies_are_read_as_curl_reads_them();
    a_list_names_hosts_domains_and_networks();
    each_scheme_has_its_own();
    return 0;
}
