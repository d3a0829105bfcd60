/* SPDX-License-Identifier: Apache-2.0 */
/* test_inflate.c - a compressed stream is landed whole, checked before a byte is
 * written, and a lander that is stopped stops. Streams are made here by zlib. */
#undef NDEBUG
#include "decode/land_stream.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define MIB (1u << 20)

static struct fdl_err err;
static unsigned char *packed;
static size_t packed_len;

/* `len` bytes, noisy enough not to shrink to nothing, as one gzip member. */
static unsigned char *make(size_t len, unsigned seed)
{
    unsigned char *plain = malloc(len + 1);
    z_stream z = {0};

    assert(plain);
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1103515245u + 12345u;
        plain[i] = (i >> 16) % 3 == 1 ? 0 : (unsigned char)(seed >> 24 & 15);
    }
    packed = realloc(packed, len + 65536);
    assert(packed &&
           deflateInit2(&z, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    z.next_in = plain;
    z.avail_in = (unsigned)len;
    z.next_out = packed;
    z.avail_out = (unsigned)len + 65536;
    assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
    packed_len = z.total_out;
    deflateEnd(&z);
    return plain;
}

static int push_all(struct fdl_lander *l, struct fdl_pool *pool, size_t len)
{
    for (size_t at = 0; at < len;) {
        struct fdl_buf *buf = fdl_pool_get(pool);
        assert(buf);
        buf->off = at;
        buf->len =
            len - at < fdl_pool_block_size(pool) ? len - at : fdl_pool_block_size(pool);
        memcpy(buf->data, packed + at, buf->len);
        at += buf->len;
        int rc = l->ops->push(l, buf, &err);
        fdl_buf_unref(buf);
        if (rc != FDL_OK)
            return rc;
    }
    return l->ops->finish(l, &err);
}

struct rig {
    int fd;
    struct fdl_sink *sink;
    struct fdl_pool *pool;
    struct fdl_lander *lander;
    enum fdl_decoded decoded;
};

static void set_up(struct rig *r, uint64_t sink_size, bool detect)
{
    char path[] = "/tmp/fdl-inflate-XXXXXX";
    struct fdl_land_stream_options o = {.kind = FDL_INFLATE_GZ,
                                        .detect_zeros = detect,
                                        .decoded = r->decoded,
                                        .sink_size = sink_size};

    r->fd = mkstemp(path);
    assert(r->fd >= 0 && unlink(path) == 0);
    assert(fdl_sink_open_fd(&r->sink, r->fd, r->fd, 1, FDL_SIZE_UNKNOWN, 0, false,
                            &err) == FDL_OK);
    r->pool = fdl_pool_new(2, 65536);
    assert(r->pool && fdl_land_stream_new(&r->lander, r->sink, &o, &err) == FDL_OK);
}

static void tear_down(struct rig *r)
{
    r->lander->ops->free(r->lander);
    fdl_sink_free(r->sink);
    fdl_pool_free(r->pool);
    close(r->fd);
}

static void check_target(int fd, const unsigned char *plain, size_t len)
{
    unsigned char *back = malloc(len + 1);

    assert(back && pread(fd, back, len + 1, 0) == (ssize_t)len);
    assert(memcmp(back, plain, len) == 0);
    free(back);
}

static void every_size_lands_whole(void)
{
    static const size_t sizes[] = {0, 1, 4095, MIB - 1, MIB, MIB + 1, 5 * MIB + 77};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int detect = 0; detect < 2; detect++) {
            struct rig r = {0};
            uint64_t landed, busy;
            unsigned char *plain = make(sizes[i], 7);
            set_up(&r, 0, detect);
            assert(push_all(r.lander, r.pool, packed_len) == FDL_OK);
            assert(fdl_land_stream_decoded(r.lander) == sizes[i]);
            r.lander->ops->stats(r.lander, &landed, &busy);
            assert(landed == sizes[i]);
            if (!detect)
                check_target(r.fd, plain, sizes[i]);
            tear_down(&r);
            free(plain);
        }
    }
}

static void an_image_larger_than_the_target_is_refused(void)
{
    struct rig r = {0};
    unsigned char *plain = make(3 * MIB, 9);

    set_up(&r, 2 * MIB, false);
    assert(push_all(r.lander, r.pool, packed_len) == FDL_E_SINK_SPACE);
    tear_down(&r);
    free(plain);
}

static void a_cut_stream_is_malformed(void)
{
    unsigned char *plain = make(MIB, 3);

    for (size_t cut = 0; cut < packed_len; cut += packed_len / 40 + 1) {
        struct rig r = {0};
        set_up(&r, 0, false);
        assert(push_all(r.lander, r.pool, cut) == FDL_E_FORMAT);
        tear_down(&r);
    }
    free(plain);
}

static void a_qcow2_without_tables_is_malformed(void)
{
    struct rig r = {.decoded = FDL_DECODED_QCOW2};
    unsigned char *plain = make(2 * MIB, 5);

    set_up(&r, 0, false);
    assert(push_all(r.lander, r.pool, packed_len) == FDL_E_FORMAT);
    tear_down(&r);
    free(plain);
}

static void *stop(void *arg)
{
    struct fdl_lander *l = arg;
    l->ops->abort(l);
    return NULL;
}

static void an_aborted_lander_says_cancelled(void)
{
    struct rig r = {0};
    unsigned char *plain = make(4 * MIB, 5);
    pthread_t t;

    set_up(&r, 0, false);
    assert(pthread_create(&t, NULL, stop, r.lander) == 0);
    pthread_join(t, NULL);
    assert(push_all(r.lander, r.pool, packed_len) == FDL_E_CANCELLED);
    tear_down(&r);
    free(plain);
}

int main(void)
{
    every_size_lands_whole();
    an_image_larger_than_the_target_is_refused();
    a_cut_stream_is_malformed();
    a_qcow2_without_tables_is_malformed();
    an_aborted_lander_says_cancelled();
    free(packed);
    return 0;
}
