/* SPDX-License-Identifier: Apache-2.0 */
#include "net/route.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

int fdl_route_use_interface(struct fdl_route *route, const char *name,
                            struct fdl_err *err)
{
    free(route->interface);
    route->interface = strdup(name);
    return route->interface ? FDL_OK : fdl_nomem(err, "the interface");
}

int fdl_route_pin(struct fdl_route *route, const char *pin, struct fdl_err *err)
{
    struct curl_slist *grown = curl_slist_append(route->pins, pin);

    if (!grown)
        return fdl_nomem(err, "the pinned addresses");
    route->pins = grown;
    return FDL_OK;
}

void fdl_route_clear(struct fdl_route *route)
{
    free(route->interface);
    curl_slist_free_all(route->pins);
}
