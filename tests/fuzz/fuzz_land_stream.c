/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_land_stream.c - invariant: a compressed source is written as its decoder unpacks
 * it in one go, and a qcow2 inside it as a plain reader sees it, however the bytes are
 * split; what the decoder refuses is never written.
 *
 * The first byte of the input chooses the decoder, the next two the size of the pushed
 * and of the decoded blocks and the limit of the output, the rest is the source. */
#undef NDEBUG
#include "decode/land_stream.h"
#include "memory_sink.h"
#include "qcow2_reader.h"
#include "replay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_OUTPUT (384u << 10) /* six blocks: one more than there are at once */
#define USUAL_OUTPUT (64u << 10)
#define MAX_VIRTUAL (256u << 10)
#define BLOCK (64u << 10)
#define HEAD 3

/* Small ones: that an image is cut into many shows, and the limits above can be low.
 * Most inputs are bombs in the end, and unpacking them is what takes time. */
static const size_t decoded_blocks[4] = {64 << 10, 4 << 10, 16 << 10, 1 << 20};

/* max_output may be exceeded by one call's output, a block of 1 MiB. */
static uint8_t plain[MAX_OUTPUT + (2u << 20)];

static struct fdl_inflate_limits limits = {.ratio_after = 16 << 10};

static int decode(enum fdl_inflate_kind kind, const uint8_t *data, size_t size,
                  size_t room, size_t *len)
{
    struct fdl_inflate *self;
    struct fdl_err err;
    size_t at = 0, used, made;

    assert(fdl_inflate_open(&self, kind, &limits, &err) == FDL_OK);
    int rc = FDL_OK;
    *len = 0;
    do {
        rc = fdl_inflate_feed(self, data + at, size - at, plain + *len, room, &used,
                              &made, &err);
        at += used;
        *len += made;
    } while (rc == FDL_OK && (at < size || made));
    if (rc == FDL_OK)
        rc = fdl_inflate_finish(self, &err);
    fdl_inflate_free(self);
    return rc;
}

static bool is_qcow2(const void *head, size_t len)
{
    return len >= 4 && memcmp(head, "QFI\xfb", 4) == 0;
}

static int land(enum fdl_inflate_kind kind, enum fdl_decoded inside,
                const uint8_t *data, size_t size, size_t piece, size_t block,
                struct fdl_sink *sink)
{
    static struct fdl_pool *pool;
    struct fdl_land_stream_options options = {
        .kind = kind,
        .limits = limits,
        .detect_zeros = true,
        .decoded = inside,
        .qcow2_policy = {.max_virtual_size = MAX_VIRTUAL},
        .block = block,
        .qcow2_blocks = 2};
    struct fdl_lander *lander;
    struct fdl_err err;

    if (!pool)
        pool = fdl_pool_new(2, BLOCK);
    assert(pool && fdl_land_stream_new(&lander, sink, &options, &err) == FDL_OK);
    int rc = FDL_OK;
    for (size_t at = 0; rc == FDL_OK && at < size; at += piece) {
        struct fdl_buf *buf = fdl_pool_get(pool);
        assert(buf); /* it decodes at once, and keeps none */
        buf->off = at;
        buf->len = size - at < piece ? size - at : piece;
        memcpy(buf->data, data + at, buf->len);
        rc = lander->ops->push(lander, buf, &err);
        fdl_buf_unref(buf);
    }
    if (rc == FDL_OK)
        rc = lander->ops->finish(lander, &err);
    lander->ops->free(lander);
    assert(rc >= 0 || err.code == rc);
    return rc;
}

/* The qcow2 that `plain` holds as a plain reader sees it; NULL where it is malformed.
 */
static uint8_t *read_inner(size_t len, struct fdl_qcow2_info *info)
{
    const struct fdl_qcow2_policy policy = {.max_virtual_size = MAX_VIRTUAL};
    struct fdl_qcow2 *img = NULL;
    struct fdl_err err;
    size_t need;
    uint8_t *disk = NULL;

    int rc =
        fdl_qcow2_open(&img, plain, len, FDL_QCOW2_SIZE_UNKNOWN, &policy, &need, &err);
    if (rc == FDL_OK && img)
        rc = fdl_qcow2_feed(img, 0, plain, len, &err);
    if (rc == FDL_OK && img && !fdl_qcow2_ready(img))
        rc = fdl_qcow2_feed(img, 0, plain, len, &err); /* L1 led to L2 before it */
    if (rc == FDL_OK && img && fdl_qcow2_ready(img)) {
        *info = *fdl_qcow2_get_info(img);
        struct file f = {.data = plain, .size = len, .info = info};
        disk = read_disk(&f);
    }
    fdl_qcow2_free(img);
    return disk;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD)
        return 0;
    enum fdl_inflate_kind kind = (enum fdl_inflate_kind)(1 + data[0] % 5);
    size_t piece = 1u + data[1] + (data[2] & 15) * 256u, len;
    size_t block = decoded_blocks[data[2] >> 5 & 3];
    struct fdl_qcow2_info info;
    uint8_t *disk = NULL;

    limits.max_ratio = data[2] & 0x10 ? 1000 : 200;
    limits.max_output = data[2] & 0x80 ? MAX_OUTPUT : USUAL_OUTPUT;
    int decoded = decode(kind, data + HEAD, size - HEAD, block, &len);
    bool inner = is_qcow2(plain, len);
    size_t room = inner ? MAX_VIRTUAL : decoded < 0 ? limits.max_output + block : len;

    if (inner && decoded == FDL_OK)
        disk = read_inner(len, &info);
    struct memory_sink *sink = memory_sink_new(FDL_SIZE_UNKNOWN, room);
    int rc = land(kind, inner ? FDL_DECODED_QCOW2 : FDL_DECODED_RAW, data + HEAD,
                  size - HEAD, piece, block, &sink->base);

    if (rc == FDL_LAND_NEEDS_STAGING)
        assert(inner && sink->base.written == 0 && sink->base.zeroed == 0);
    else if (rc < 0)
        assert((decoded < 0 || (inner && !disk)) &&
               (rc == FDL_E_FORMAT || rc == FDL_E_LIMIT || rc == FDL_E_UNSAFE_IMAGE));
    else
        assert(decoded == FDL_OK && (disk || !inner));
    if (rc == FDL_OK) {
        size_t n = inner ? (size_t)info.virtual_size : len;
        assert(memcmp(sink->data, inner ? disk : plain, n) == 0);
        memory_sink_check_once(sink, n);
    }
    fdl_sink_free(&sink->base);
    free(disk);
    return 0;
}
