/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_location.c - invariant: a URL and its redirects lead to http or https only,
 * never from https to http, and the request has exactly the lines that we wrote.
 *
 * The input is a URL and the values of Location fields, one a line. */
#undef NDEBUG
#include "base/addr.h"
#include "net/net.h"
#include "http/location.h"
#include "replay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool is_plain(const char *s)
{
    while ((unsigned char)*s > ' ' && *s != 0x7f)
        s++;
    return *s == '\0';
}

/* A byte that ended a line early would be a header of somebody else's. False where
 * nothing is sent: what the parser of URLs lets through is refused here at the latest.
 */
static bool check_request(const struct fdl_location *p)
{
    const struct fdl_http_request req = {.target = p->target,
                                         .host = p->field,
                                         .user_agent = "fuzz",
                                         .ranged = true,
                                         .last = 9};
    static char out[256 << 10], plain[1024];
    const struct fdl_http_request usual = {
        .target = "/", .host = "h", .user_agent = "fuzz", .ranged = true, .last = 9};
    int lines = 0, usual_lines = 0;
    struct fdl_err err;

    assert(fdl_http_render_get(&usual, plain, sizeof plain, &err) > 0);
    for (const char *c = plain; (c = strchr(c, '\n')); c++)
        usual_lines++;
    if (fdl_http_render_get(&req, out, sizeof out, &err) < 0)
        return false;
    assert(is_plain(p->base) && is_plain(p->host));
    assert(is_plain(p->field) && is_plain(p->target));
    for (const char *c = out; (c = strchr(c, '\n')); c++)
        lines++;
    assert(lines == usual_lines);
    return true;
}

static void check_place(const struct fdl_location *p)
{
    struct sockaddr_storage sa;

    if (!check_request(p))
        return;
    assert(p->host[0] && p->host[0] != '[' && !strchr(p->host, '@'));
    assert(p->target[0] == '/' && !strchr(p->target, '#'));
    assert(strncmp(p->base, p->tls ? "https://" : "http://", p->tls ? 8 : 7) == 0);
    /* Whoever decodes a host twice, or writes a number as an address, sees another one:
     * such a host is no origin of anybody's headers, and no name to be led to. */
    if (!fdl_location_same_origin(p->base, p))
        assert(strchr(p->host, '%') ||
               fdl_addr_from_text(p->host, &sa) != FDL_ADDR_IS_NAME);
}

/* Moves u by one line: the URL itself, or a redirect from `at`. */
static int move(CURLU *u, const char *line, const struct fdl_location *at,
                struct fdl_err *err)
{
    /* A field's value ends at its line's end and may hold anything else. */
    const struct fdl_str location = {line, strlen(line)};

    if (at->base)
        return fdl_location_follow(u, location, at, err);
    return curl_url_set(u, CURLUPART_URL, line, 0) == CURLUE_OK
               ? FDL_OK
               : fdl_fail(err, FDL_E_POLICY, 0, "no URL");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *line = text, *next;
    struct fdl_location at = {0}, to;
    CURLU *u = curl_url();
    struct fdl_err err;

    assert(text && u);
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    for (int hops = 0; line && hops <= FDL_REDIRECTS_MAX; line = next, hops++) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        int rc = move(u, line, &at, &err);
        if (rc == FDL_OK)
            rc = fdl_location_of(u, &to, &err);
        if (rc < 0) {
            assert(err.code == rc);
            assert(rc == FDL_E_POLICY || rc == FDL_E_HTTP_PROTOCOL);
            break;
        }
        check_place(&to);
        assert(to.tls || !at.tls);
        if (at.base) {
            char *user = NULL;
            assert(curl_url_get(u, CURLUPART_USER, &user, 0) != CURLUE_OK);
        }
        fdl_location_clear(&at);
        at = to;
    }
    fdl_location_clear(&at);
    curl_url_cleanup(u);
    free(text);
    return 0;
}
