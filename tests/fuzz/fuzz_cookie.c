/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_cookie.c - invariant: a server's cookie is sent back only to that server and its
 * own domain, only over TLS if it was set over TLS, and as one line of a request.
 *
 * The input is the values of Set-Cookie fields, one a line; a.shop.example sends them.
 */
#undef NDEBUG
#include "http/cookie.h"
#include "replay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NOW 1700000000

static void check_render(struct fdl_cookies *jar, const char *host, const char *target,
                         bool tls, bool none)
{
    const struct fdl_cookie_location location = {host, target, tls};
    static const size_t caps[] = {1, 20, FDL_COOKIE_FIELD_MAX};

    for (size_t i = 0; i < sizeof caps / sizeof *caps; i++) {
        char *out = malloc(caps[i]);
        assert(out);
        size_t n = fdl_cookies_render(jar, &location, out, caps[i]);
        assert(n < caps[i] && strlen(out) == n);
        for (size_t k = 0; k < n; k++)
            assert((unsigned char)out[k] >= 0x20 && out[k] != 0x7f);
        assert(n == 0 || !none);
        free(out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const bool tls = size && data[0] & 1;
    const struct fdl_cookie_location from = {"a.shop.example", "/images/disk?x", tls};
    struct fdl_cookies jar;

    fdl_cookies_init(&jar);
    while (size > 0) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t len = end ? (size_t)(end - data) : size;
        char *line = malloc(len ? len : 1); /* of exactly that size */
        assert(line);
        memcpy(line, data, len);
        fdl_cookies_take(&jar, &from, (struct fdl_str){line, len}, NOW);
        free(line); /* it keeps copies */
        assert(jar.n <= FDL_COOKIES_MAX);
        data += len + (end != NULL);
        size -= len + (end != NULL);
    }
    check_render(&jar, "a.shop.example", "/images/disk", tls, false);
    check_render(&jar, "b.shop.example", "/", true, false);
    check_render(&jar, "a.shop.example", "/images/disk", false, tls);
    check_render(&jar, "other.example", "/images/disk", true, true);
    check_render(&jar, "xa.shop.example.net", "/images/disk", true, true);
    check_render(&jar, "10.0.0.1", "/images/disk", true, true);
    check_render(&jar, "example", "/images/disk", true, true);
    fdl_cookies_destroy(&jar);
    return 0;
}
