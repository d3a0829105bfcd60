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

struct fdl_place {
    char *base;   /* OWNED: scheme://host:port */
    char *host;   /* OWNED: without brackets */
    char *field;  /* OWNED: value of the Host field */
    char *target; /* OWNED: path and query */
    bool tls;
};

/* *p is OWNED (fdl_place_clear). FDL_E_POLICY where the URL is neither http nor
 * https. */
int fdl_place_from(CURLU *u, struct fdl_place *p, struct fdl_err *err);

void fdl_place_clear(struct fdl_place *p);

/* Whether `url` has scheme, host and port of the place. */
bool fdl_place_same_origin(const char *url, const struct fdl_place *p);

/* Whether `url` (of fdl_place_url(), NULL: none) is that place. */
bool fdl_place_is(const struct fdl_place *p, const char *url);

/* Scheme, host, port and path: OWNED, NULL without memory. The query is left out: that
 * of a signed link differs each time. */
char *fdl_place_url(const struct fdl_place *p);

bool fdl_place_is_redirect(int status);

/* Moves `u` to where a redirect's Location leads from `at`. FDL_E_POLICY for another
 * scheme, from https to http, and to a well-known port of another service. */
int fdl_place_follow(CURLU *u, struct fdl_str location, const struct fdl_place *at,
                     struct fdl_err *err);

/* a, b and c in one string: OWNED, NULL without memory. */
char *fdl_join(const char *a, const char *b, const char *c);

#endif
