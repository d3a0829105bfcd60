/* SPDX-License-Identifier: Apache-2.0 */
/* test_cookie.c - which cookies are kept, for whom, and for how long. */
#undef NDEBUG
#include "http/cookie.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOW 1700000000

static struct fdl_cookies jar;

static void set(const char *host, const char *target, bool tls, const char *text)
{
    struct fdl_cookie_location location = {.host = host, .target = target, .tls = tls};

    fdl_cookies_take(&jar, &location, (struct fdl_str){text, strlen(text)}, NOW);
}

static bool get(const char *host, const char *target, bool tls, const char *wanted)
{
    struct fdl_cookie_location location = {.host = host, .target = target, .tls = tls};
    char out[FDL_COOKIE_FIELD_MAX];
    size_t n = fdl_cookies_render(&jar, &location, out, sizeof out);

    if (n != strlen(out) || strcmp(out, wanted) != 0)
        fprintf(stderr, "%s%s: %s\n", host, target, out);
    return n == strlen(out) && strcmp(out, wanted) == 0;
}

static void fresh(void)
{
    fdl_cookies_destroy(&jar);
    fdl_cookies_init(&jar);
}

static void a_cookie_goes_back_to_its_host(void)
{
    set("a.example", "/x/y?q", false, "s=1");
    assert(get("a.example", "/x/z", false, "s=1"));
    assert(get("A.EXAMPLE", "/x", false, "s=1"));
    assert(get("a.example", "/xy", false, "")); /* another path */
    assert(get("a.example", "/", false, ""));
    assert(get("b.a.example", "/x/y", false, ""));
    assert(get("example", "/x/y", false, ""));
    assert(get("a.example", "/x/y", true, "s=1"));
    set("a.example", "/x/y", false, "s = two ; Path=/ ;HttpOnly; SameSite=Lax");
    set("a.example", "/x/y", false, "t=\"q,\"; path=relative");
    assert(get("a.example", "/x/y", false, "s=1; s=two; t=\"q,\""));
    set("a.example", "/", false, "s=3; Path=/");
    assert(get("a.example", "/", false, "s=3"));
    fresh();
}

static void a_domain_is_for_hosts_below_it(void)
{
    set("a.b.example", "/", false, "d=1; Domain=.b.example");
    set("a.b.example", "/", false, "e=1; Domain=example");
    set("a.b.example", "/", false, "f=1; Domain=c.example");
    set("a.b.example", "/", false, "g=1; Domain=x.a.b.example");
    set("a.b.example", "/", false, "h=1; Domain=.example");
    assert(get("z.b.example", "/", false, "d=1"));
    assert(get("b.example", "/", false, "d=1"));
    assert(get("xb.example", "/", false, ""));
    set("10.0.0.1", "/", false, "i=1; Domain=0.0.1");
    assert(get("9.0.0.1", "/", false, ""));
    set("10.0.0.1", "/", false, "j=1; Domain=10.0.0.1");
    assert(get("10.0.0.1", "/", false, "j=1"));
    fresh();
}

static void what_came_over_tls_stays_there(void)
{
    set("a.example", "/", true, "s=1; Secure");
    set("a.example", "/", true, "t=1");
    set("a.example", "/", false, "u=1; Secure");
    assert(get("a.example", "/", true, "s=1; t=1"));
    assert(get("a.example", "/", false, ""));
    fresh();
}

static void a_cookie_ends(void)
{
    set("a.example", "/", false, "s=1");
    set("a.example", "/", false, "s=; Max-Age=0");
    assert(get("a.example", "/", false, ""));
    set("a.example", "/", false, "s=1; Max-Age=60");
    set("a.example", "/", false, "s=2; Expires=Wed, 21 Oct 2015 07:28:00 GMT");
    assert(get("a.example", "/", false, ""));
    set("a.example", "/", false, "s=1; Expires=Wed, 21 Oct 2065 07:28:00 GMT");
    set("a.example", "/", false, "t=1; Expires=soon");
    assert(get("a.example", "/", false, "s=1; t=1"));
    set("a.example", "/", false, "t=1; Max-Age=-1");
    assert(get("a.example", "/", false, "s=1"));
    fresh();
}

static void rubbish_is_left_out(void)
{
    static const char *const bad[] = {"",     ";",       "=",       "=x",  "name",
                                      ";a=1", "a\x01=1", "a=b\x7f", " = ", "\t"};
    char *big = malloc(FDL_COOKIE_MAX + 2);

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        set("a.example", "/", false, bad[i]);
    assert(big);
    memset(big, 'a', FDL_COOKIE_MAX + 1);
    big[1] = '=';
    big[FDL_COOKIE_MAX + 1] = '\0';
    set("a.example", "/", false, big);
    assert(jar.n == 0);
    big[FDL_COOKIE_MAX] = '\0';
    set("a.example", "/", false, big);
    assert(jar.n == 1);
    free(big);
    fresh();
}

static void the_jar_and_the_field_are_bounded(void)
{
    char text[FDL_COOKIE_MAX + 1], out[FDL_COOKIE_FIELD_MAX];
    struct fdl_cookie_location location = {.host = "a.example", .target = "/"};

    for (int i = 0; i < 3 * FDL_COOKIES_MAX; i++) {
        snprintf(text, sizeof text, "c%d=%0*d", i, 300, 0);
        set("a.example", "/", false, text);
    }
    assert(jar.n == FDL_COOKIES_MAX);
    size_t n = fdl_cookies_render(&jar, &location, out, sizeof out);
    assert(n < sizeof out && n > sizeof out - 400);
    assert(strncmp(out, "c128=", 5) == 0); /* the oldest ones went */
    assert(fdl_cookies_render(&jar, &location, out, 4) == 0 && out[0] == '\0');
    fresh();
}

int main(void)
{
    fdl_cookies_init(&jar);
    a_cookie_goes_back_to_its_host();
    a_domain_is_for_hosts_below_it();
    what_came_over_tls_stays_there();
    a_cookie_ends();
    rubbish_is_left_out();
    the_jar_and_the_field_are_bounded();
    fdl_cookies_destroy(&jar);
    return 0;
}
