/* SPDX-License-Identifier: Apache-2.0 */
/* http/location.h - FETCH: where a URL leads to, and whether a redirect may lead there
 * (pure). */
#ifndef FDL_LOCATION_H
#define FDL_LOCATION_H

#include <curl/curl.h>
#include <stdbool.h>

#include "base/err.h"
#include "http/http.h"

#define FDL_LOCATION_MAX (16 * 1024)

struct fdl_location {
    char *base;   /* OWNED: scheme://host:port */
    char *host;   /* OWNED: without brackets */
    char *field;  /* OWNED: value of the Host field */
    char *target; /* OWNED: path and query */
    bool tls;
};

/* *p is OWNED (fdl_location_clear). FDL_E_POLICY where the URL is neither http nor
 * https. */
int fdl_location_of(CURLU *u, struct fdl_location *p, struct fdl_err *err);

void fdl_location_clear(struct fdl_location *p);

/* Whether `url` has scheme, host and port of the location. */
bool fdl_location_same_origin(const char *url, const struct fdl_location *p);

/* Whether `url` (of fdl_location_url(), NULL: none) is that location. */
bool fdl_location_is(const struct fdl_location *p, const char *url);

/* Scheme, host, port and path: OWNED, NULL without memory. The query is left out: that
 * of a signed link differs each time. */
char *fdl_location_url(const struct fdl_location *p);

bool fdl_location_is_redirect(int status);

/* Moves `u` to where a redirect's Location leads from `at`. FDL_E_POLICY for another
 * scheme, from https to http, and to a well-known port of another service. */
int fdl_location_follow(CURLU *u, struct fdl_str location,
                        const struct fdl_location *at, struct fdl_err *err);

/* a, b and c in one string: OWNED, NULL without memory. */
char *fdl_join(const char *a, const char *b, const char *c);

#endif
