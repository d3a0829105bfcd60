/* SPDX-License-Identifier: Apache-2.0 */
/* source/stream.h - FETCH: bytes of one mirror from an offset onwards, whatever the
 * protocol.
 *
 * A stream belongs to one thread. begin() requests a range, read() returns its bytes;
 * what begin() accepted has been checked: status, Content-Range, length, validators. */
#ifndef FDL_STREAM_H
#define FDL_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/conn.h"
#include "base/err.h"
#include "http/http.h"
#include "source/mirror.h"
#include "source/request_log.h"
#include "net/net.h"

struct fdl_stream;

struct fdl_stream_ops {
    /* Afterwards read() starts at `off`. The response may end before off + len
     * (self->end), or continue to the end of the source (self->whole: a server without
     * ranges). */
    int (*begin)(struct fdl_stream *self, uint64_t off, uint64_t len,
                 struct fdl_err *err);
    /* 1..len bytes, 0 at the end of the response, or an error. */
    long (*read)(struct fdl_stream *self, void *buf, size_t len, struct fdl_err *err);
    /* The next begin() will be for this range: it may be requested already. */
    void (*prefetch)(struct fdl_stream *self, uint64_t off, uint64_t len);
    /* For another thread: wakeup and times are BORROWED until the next rebind or free.
     */
    void (*rebind)(struct fdl_stream *self, struct fdl_wakeup *wakeup,
                   struct fdl_conn_times *times);
    void (*free)(struct fdl_stream *self);
};

struct fdl_stream {
    const struct fdl_stream_ops *ops;
    struct fdl_mirror *mirror; /* BORROWED */
    uint64_t off;              /* of the next byte that read() gives */
    uint64_t end;             /* where the present response ends; UINT64_MAX: unknown */
    bool whole;               /* it continues to the end of the source */
    enum fdl_addr_class peer; /* of the address that responded last; unknown at first:
                                 RESERVED */
    struct fdl_request_tap tap;
};

/* All arguments BORROWED; returns OWNED or NULL without memory. */
struct fdl_stream *fdl_stream_http_new(struct fdl_mirror *mirror, struct fdl_net *net,
                                       struct fdl_wakeup *wakeup,
                                       struct fdl_conn_times *times);
struct fdl_stream *fdl_stream_file_new(struct fdl_mirror *mirror,
                                       struct fdl_conn_times *times);
/* NULL also where fastdl was built without libnfs. */
struct fdl_stream *fdl_stream_nfs_new(struct fdl_mirror *mirror, struct fdl_net *net,
                                      struct fdl_wakeup *wakeup,
                                      struct fdl_conn_times *times);

/* The one that fits mirror->kind. */
struct fdl_stream *fdl_stream_new(struct fdl_mirror *mirror, struct fdl_net *net,
                                  struct fdl_wakeup *wakeup,
                                  struct fdl_conn_times *times);

/* The head of the last response of an HTTP stream (BORROWED until the next begin()), or
 * NULL. */
const struct fdl_http_head *fdl_stream_http_head(const struct fdl_stream *stream);

/* A redirect response and its header fields. */
struct fdl_redirect {
    char *url;    /* OWNED: which URL it was the response of */
    char *fields; /* OWNED: its Link, Digest and Repr-Digest, "name:value\n" each */
    enum fdl_addr_class peer; /* who sent it */
};

/* From now on the redirects of each begin() are kept. */
void fdl_stream_http_keep_redirects(struct fdl_stream *stream);

/* Those of the last begin(), in their order (BORROWED until the next one); returns how
 * many. */
size_t fdl_stream_http_redirects(const struct fdl_stream *stream,
                                 const struct fdl_redirect **list);

#endif
