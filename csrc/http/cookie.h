/* SPDX-License-Identifier: Apache-2.0 */
/* http/cookie.h - FETCH: cookies that servers set on the way, kept for one job
 * (RFC 6265).
 *
 * What a server sets goes back to it, since some redirect in circles until it does.
 * Nothing outlives the job. The user's own come from a file, as if they had been set,
 * or are header lines. Safe from many threads. */
#ifndef FDL_COOKIE_H
#define FDL_COOKIE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http/http.h"

#define FDL_COOKIES_MAX 64
#define FDL_COOKIE_MAX 4096
#define FDL_COOKIE_FIELD_MAX (8 * 1024)

struct fdl_cookie;

struct fdl_cookies {
    pthread_mutex_t lock;
    struct fdl_cookie *list[FDL_COOKIES_MAX]; /* OWNED, the oldest first */
    size_t n;
};

/* The URL that is requested, or that has responded. All BORROWED. */
struct fdl_cookie_location {
    const char *host;   /* without brackets */
    const char *target; /* path, and query */
    bool tls;
};

void fdl_cookies_init(struct fdl_cookies *jar);
void fdl_cookies_destroy(struct fdl_cookies *jar);

/* Takes the value of one Set-Cookie field that `location` has sent. What is malformed,
 * too long, or meant for others than `location` may speak for is left out; past
 * FDL_COOKIES_MAX the oldest one goes. now_s: seconds since 1970. */
void fdl_cookies_take(struct fdl_cookies *jar,
                      const struct fdl_cookie_location *location,
                      struct fdl_str set_cookie, int64_t now_s);

/* Writes the value of a Cookie field for `location`, with a NUL; "" where there is
 * none. At most cap - 1 bytes: what does not fit is left out. Returns its length. */
size_t fdl_cookies_render(struct fdl_cookies *jar,
                          const struct fdl_cookie_location *location, char *out,
                          size_t cap);

#endif
