/* SPDX-License-Identifier: Apache-2.0 */
/* source/request_log.h - which requests a transfer makes and what becomes of each, for
 * somebody who watches. Bounded: what nobody has drained in time is counted, not kept.
 * It has a lock of its own: every connection writes. */
#ifndef FDL_REQUEST_LOG_H
#define FDL_REQUEST_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define FDL_REQUEST_NOTES_MAX 1024
#define FDL_REQUEST_WHERE_MAX 512 /* what is longer is cut */

enum fdl_request_event {
    FDL_REQUEST_SENT,
    FDL_REQUEST_ANSWERED, /* the head of a response has come */
    FDL_REQUEST_LEFT,     /* the connection gives up what it was at */
};

struct fdl_request_note {
    enum fdl_request_event event;
    int conn;     /* number of the connection, from 1 */
    int mirror;   /* index */
    uint64_t off; /* SENT: what is asked for; ANSWERED: what the response has; */
    uint64_t end; /* both UINT64_MAX where nothing says; end alone: to the source's */
    bool fresh;   /* SENT: the first request of its connection */
    int status;   /* ANSWERED */
    uint64_t took_ns; /* ANSWERED: since the request; 0 where it was sent ahead */
    char where[FDL_REQUEST_WHERE_MAX]; /* SENT: the URL without query that a redirect
                                          led to, else "" */
    struct fdl_err err;                /* LEFT: why */
};

struct fdl_request_log;

/* Whom a connection tells of its requests. */
struct fdl_request_tap {
    struct fdl_request_log *log; /* BORROWED; NULL: nobody watches */
    int conn, mirror;            /* of its notes */
};

/* OWNED, or NULL without memory. */
struct fdl_request_log *fdl_request_log_new(void);
void fdl_request_log_free(struct fdl_request_log *log);

/* Keeps a copy of the note, with the tap's numbers. */
void fdl_request_log_add(const struct fdl_request_tap *tap,
                         const struct fdl_request_note *note);

/* Moves up to cap notes, the oldest first, to out, and returns their number; *lost is
 * how many were not kept since the last call. */
size_t fdl_request_log_drain(struct fdl_request_log *log, struct fdl_request_note *out,
                             size_t cap, size_t *lost);

#endif
