/* SPDX-License-Identifier: Apache-2.0 */
/* test_http_request.c - what does a request hold, and which are refused? */
#undef NDEBUG
#include "http/http.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static struct fdl_err err;

static char out[1024];

static long render(const struct fdl_http_request *req)
{
    return fdl_http_render_get(req, out, sizeof out, &err);
}

static void a_request_holds_what_it_must_and_nothing_else(void)
{
    struct fdl_http_request req = {
        .target = "/a?b", .host = "h:8080", .user_agent = "u/1"};
    static const char plain[] = "GET /a?b HTTP/1.1\r\n"
                                "Host: h:8080\r\n"
                                "User-Agent: u/1\r\n"
                                "Accept: */*\r\n"
                                "Accept-Encoding: identity\r\n"
                                "Want-Repr-Digest: sha-512=3, sha-256=10\r\n"
                                "\r\n";
    req.if_range = "\"t\""; /* without a range: not sent */
    assert(render(&req) == (long)strlen(plain) && strcmp(out, plain) == 0);

    req.ranged = true;
    req.first = 5;
    req.last = 9;
    req.extra = "Authorization: Bearer x\r\nX: \r\n";
    assert(render(&req) == (long)strlen(out));
    assert(strstr(out, "\r\nRange: bytes=5-9\r\nIf-Range: \"t\"\r\n"
                       "Authorization: Bearer x\r\nX: \r\n\r\n"));
    req.last = UINT64_MAX;
    req.if_range = NULL;
    assert(render(&req) > 0 && strstr(out, "\r\nRange: bytes=5-\r\nAuth"));
}

static void a_field_of_the_caller_replaces_ours(void)
{
    struct fdl_http_request req = {.target = "/", .host = "h", .user_agent = "u"};
    static const char replaced[] = "GET / HTTP/1.1\r\n"
                                   "HOST: other\r\n"
                                   "user-agent: Mozilla/5.0\r\n"
                                   "Accept: a/b\r\n"
                                   "Accept: c/d\r\n"
                                   "Accept-Encoding: identity\r\n"
                                   "Cookie: a=b\r\n"
                                   "\r\n";

    req.extra = "Accept: a/b\r\nCookie: a=b\r\nuser-agent: Mozilla/5.0\r\n"
                "Want-Repr-Digest: \r\nAccept: c/d\r\nHOST: other\r\n";
    assert(render(&req) == (long)strlen(replaced) && strcmp(out, replaced) == 0);
}

static void requests_that_would_say_more_than_asked_are_refused(void)
{
    const struct fdl_http_request good = {
        .target = "/", .host = "h", .user_agent = "u"};
    static const char *const bad_targets[] = {"",    "/a b",  "/a\r\nX: y",
                                              "/\t", "/\x7f", "/\xc3\xa4"};
    static const char *const bad_hosts[] = {"", "h\r\nX: y", "h x", "h\n"};
    static const char *const bad_extra[] = {"X: y",         "X: y\n",    "\r\n",
                                            "X: y\r\n\r\n", "X: y\r\nZ", "X : y\r\n",
                                            "X: a\rb\r\n",  " X: y\r\n", "X: y\r\n\n"};
    struct fdl_http_request req;

    assert(render(&good) > 0);
    for (size_t i = 0; i < COUNT(bad_targets); i++) {
        req = good;
        req.target = bad_targets[i];
        assert(render(&req) == FDL_E_USAGE && err.code == FDL_E_USAGE);
    }
    for (size_t i = 0; i < COUNT(bad_hosts); i++) {
        req = good;
        req.host = bad_hosts[i];
        assert(render(&req) == FDL_E_USAGE);
    }
    for (size_t i = 0; i < COUNT(bad_extra); i++) {
        req = good;
        req.extra = bad_extra[i];
        assert(render(&req) == FDL_E_USAGE);
    }
    req = good;
    req.user_agent = "u\r\nX: y";
    assert(render(&req) == FDL_E_USAGE);
    req = good;
    req.ranged = true;
    req.if_range = "\"a\"\r\nX: y";
    assert(render(&req) == FDL_E_USAGE);
    req.if_range = "W/\"a\"";
    assert(render(&req) == FDL_E_USAGE);
    req.if_range = NULL;
    req.first = 1;
    req.last = 0;
    assert(render(&req) == FDL_E_USAGE);
}

static void a_request_that_does_not_fit_is_refused(void)
{
    const struct fdl_http_request req = {.target = "/", .host = "h", .user_agent = "u"};
    long len = render(&req);

    assert(fdl_http_render_get(&req, out, (size_t)len + 1, &err) == len);
    for (size_t cap = 0; cap <= (size_t)len; cap++) {
        char *exact = malloc(cap);
        assert(exact || cap == 0);
        assert(fdl_http_render_get(&req, exact, cap, &err) == FDL_E_USAGE);
        free(exact);
    }
}

int main(void)
{
    a_request_holds_what_it_must_and_nothing_else();
    a_field_of_the_caller_replaces_ours();
    requests_that_would_say_more_than_asked_are_refused();
    a_request_that_does_not_fit_is_refused();
    return 0;
}
