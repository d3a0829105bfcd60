/* SPDX-License-Identifier: Apache-2.0 */
/* decode/inflate.h - DECODE: compressed bytes in, plain bytes out, piece by piece.
 *
 * Pure: no I/O. One layer only; the output is never inspected here. A stream is
 * good only after finish(): bytes handed out before may belong to a broken one. Not
 * thread-safe: one thread at a time per object. */
#ifndef FDL_INFLATE_H
#define FDL_INFLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum fdl_inflate_kind {
    FDL_INFLATE_NONE = 0, /* no such kind */
    FDL_INFLATE_GZ,       /* RFC 1952, several members; what follows them is ignored */
    FDL_INFLATE_BZ2,      /* several streams; what follows them is ignored */
    FDL_INFLATE_XZ,       /* several streams and padding; checks verified */
    FDL_INFLATE_ZST,      /* RFC 8878, several frames; no dictionaries */
    FDL_INFLATE_ZIP,      /* exactly one regular entry, stored or deflated */
};

/* Of a decoder: xz memory, zstd window. */
#define FDL_INFLATE_MEMORY_MAX (128ull << 20)

struct fdl_inflate;

struct fdl_inflate_limits {
    uint64_t max_output;  /* bytes; 0 = no limit */
    uint64_t ratio_after; /* bytes of output from which the ratio counts; 0 = 1 GiB */
    uint32_t max_ratio;   /* output : input; 0 = 1000, UINT32_MAX = no limit */
    /* Grains (base/zero.h) that are all zeros do not count for the ratio: they become
     * holes. max_output bounds them. */
    bool skip_zeros;
};

/* "gz", "bz2", "xz", "zst", "zip" (the names of fastdl.model.image), else NONE. */
enum fdl_inflate_kind fdl_inflate_kind_of(const char *name);

/* limits BORROWED during the call, may be NULL. *out OWNED. */
int fdl_inflate_open(struct fdl_inflate **out, enum fdl_inflate_kind kind,
                     const struct fdl_inflate_limits *limits, struct fdl_err *err);

/* Decodes in[0..len) into out[0..cap). Call again with the rest of the input while
 * *consumed < len, and with len 0 while *produced == cap: more may be waiting inside.
 * Errors: FDL_E_FORMAT (malformed, encrypted, several entries…), FDL_E_LIMIT (a bomb,
 * a decoder that needs too much memory). err->offset is the offset in the input. */
int fdl_inflate_feed(struct fdl_inflate *self, const void *in, size_t len, void *out,
                     size_t cap, size_t *consumed, size_t *produced,
                     struct fdl_err *err);

/* The input has ended: FDL_E_FORMAT unless the last stream was complete and verified.
 */
int fdl_inflate_finish(struct fdl_inflate *self, struct fdl_err *err);

/* Bytes so far after the last gz member or bz2 stream that do not begin another one:
 * padding, a signature, metadata. gzip and bzip2 ignore them, and so does feed(). */
uint64_t fdl_inflate_trailing(const struct fdl_inflate *self);

/* NULL is allowed. */
void fdl_inflate_free(struct fdl_inflate *self);

#endif
