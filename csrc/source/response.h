/* SPDX-License-Identifier: Apache-2.0 */
/* source/response.h - FETCH: does this head fit the request, for the same source
 * as before? Compares it with what the mirror's first response pinned; reads no body.
 */
#ifndef FDL_RESPONSE_H
#define FDL_RESPONSE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "http/http.h"
#include "source/mirror.h"

#define FDL_WHAT_CODING                                                                \
    "the server packed the bytes (Content-Encoding), and nothing says that the file "  \
    "itself is packed so"

struct fdl_request {
    uint64_t off;
    uint64_t len;       /* UINT64_MAX: to the end */
    bool ranged;        /* it requested a range */
    bool if_range;      /* it carried a validator */
    bool elsewhere;     /* a redirect led to another copy than the first one did */
    bool anonymous;     /* it requires a client certificate, and got none */
    const char *target; /* BORROWED: path and query that were requested */
};

struct fdl_response {
    uint64_t
        off; /* of the body's first byte in the source; at or before the wanted one */
    uint64_t end;  /* after its last one; UINT64_MAX: unknown */
    uint64_t left; /* bytes of the body; UINT64_MAX: chunks or the close mark its end */
    bool whole;    /* it continues to the end of the source */
    bool again;    /* no response: retry, the mirror's facts have changed */
    enum fdl_http_coding packed; /* the body must begin as one that is packed so */
};

/* Takes the mirror's lock. Pins what a first response reports. *out is set with FDL_OK
 * only. Errors: FDL_E_HTTP_PROTOCOL, FDL_E_ORIGIN_CHANGED, FDL_E_HTTP_STATUS
 * (err->http_status). */
int fdl_response_check(struct fdl_mirror *m, const struct fdl_http_head *h,
                       const struct fdl_request *q, struct fdl_response *out,
                       struct fdl_err *err);

#endif
