/* SPDX-License-Identifier: Apache-2.0 */
/* net/route.h - by which way hosts are reached, where the operator says so. The policy
 * checks the addresses all the same. */
#ifndef FDL_ROUTE_H
#define FDL_ROUTE_H

#include "base/err.h"

struct curl_slist;

struct fdl_route {
    char *interface; /* OWNED or NULL: a name or an own address, as curl reads it */
    int family;      /* 4 or 6, 0: either */
    struct curl_slist *pins; /* OWNED or NULL: HOST:PORT:ADDRESS[,ADDRESS…] */
};

int fdl_route_use_interface(struct fdl_route *route, const char *name,
                            struct fdl_err *err);
/* `pin` is well-formed. */
int fdl_route_pin(struct fdl_route *route, const char *pin, struct fdl_err *err);
void fdl_route_clear(struct fdl_route *route);

#endif
