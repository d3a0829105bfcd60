/* SPDX-License-Identifier: Apache-2.0 */
/* test_land_qcow2.c - the qcow2 lander writes all or says why not: a missing block, an
 * early end, a broken cluster, a failing target and a cancel each have their code, and
 * every block goes back to its pool. Compressed clusters may share bytes in any way.
 * What lands is compared with qemu-img elsewhere. */
#undef NDEBUG
#include "decode/land_qcow2.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* 4 KiB clusters: 0 header, 1 refcounts, 2 L1, 3 L2, then data. */
#define BITS 12
#define CLUSTER (1u << BITS)
#define DATA 64u /* data clusters */
#define FILE_SIZE ((4 + DATA) * CLUSTER)
#define VIRTUAL (2 * DATA * CLUSTER) /* every other guest cluster is zero */
#define BLOCK (16 * CLUSTER)
#define POOL 12

static unsigned char image[FILE_SIZE];
static struct fdl_err err;

static void put64(size_t at, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        image[at + (size_t)i] = (unsigned char)(v >> (56 - 8 * i));
}

static void make_image(void)
{
    memset(image, 0, sizeof image);
    put64(0, (uint64_t)FDL_QCOW2_MAGIC << 32 | 3);
    put64(16, BITS);
    put64(24, VIRTUAL);
    put64(32, 1); /* no encryption, one L1 entry */
    put64(40, 2 * CLUSTER);
    put64(48, CLUSTER);
    put64(56, 1ull << 32);
    put64(96, 4ull << 32 | 112);
    put64(2 * CLUSTER, 3 * CLUSTER | 1ull << 63);
    for (uint64_t i = 0; i < DATA; i++) {
        put64(3 * CLUSTER + 16 * i, (4 + i) * CLUSTER | 1ull << 63);
        memset(image + (4 + i) * CLUSTER, (int)(1 + i), CLUSTER);
    }
}

struct rig {
    int fd;
    struct fdl_sink *sink;
    struct fdl_pool *pool;
    struct fdl_lander *lander;
};

static void set_up(struct rig *r, int flags, uint64_t file_size)
{
    char path[] = "/tmp/fdl-land-XXXXXX";
    struct fdl_qcow2 *img;
    size_t need;
    int fd = mkstemp(path);

    assert(fd >= 0 && ftruncate(fd, VIRTUAL) == 0);
    r->fd = open(path, flags | O_CLOEXEC);
    assert(r->fd >= 0 && unlink(path) == 0 && close(fd) == 0);
    assert(fdl_qcow2_open(&img, image, FILE_SIZE, file_size, NULL, &need, &err) == 0);
    assert(fdl_qcow2_feed(img, 0, image, 4 * CLUSTER, &err) == 0 &&
           fdl_qcow2_ready(img));
    assert(fdl_sink_open_fd(&r->sink, r->fd, r->fd, 1, VIRTUAL, 0, false, &err) ==
           FDL_OK);
    r->pool = fdl_pool_new(POOL, BLOCK);
    assert(r->pool &&
           fdl_land_qcow2_new(&r->lander, img, r->sink, NULL, &err) == FDL_OK);
}

/* Every block must have come back: the pool hands all of them out again. */
static void tear_down(struct rig *r)
{
    struct fdl_buf *bufs[POOL];

    r->lander->ops->free(r->lander);
    for (int i = 0; i < POOL; i++)
        assert((bufs[i] = fdl_pool_get(r->pool)));
    for (int i = 0; i < POOL; i++)
        fdl_buf_unref(bufs[i]);
    fdl_sink_free(r->sink);
    fdl_pool_free(r->pool);
    close(r->fd);
}

static int push(struct rig *r, size_t off, size_t len)
{
    struct fdl_buf *buf;

    while (!(buf = fdl_pool_get(r->pool)))
        usleep(50);
    buf->off = off;
    buf->len = len;
    memcpy(buf->data, image + off, len);
    int rc = r->lander->ops->push(r->lander, buf, &err);
    fdl_buf_unref(buf);
    return rc;
}

static int push_until(struct rig *r, size_t end)
{
    int rc = FDL_OK;

    for (size_t off = 0; off < end && rc == FDL_OK; off += BLOCK)
        rc = push(r, off, end - off < BLOCK ? end - off : BLOCK);
    return rc;
}

static int finish(struct rig *r)
{
    return r->lander->ops->finish(r->lander, &err);
}

static void every_cluster_lands_at_its_place(void)
{
    struct rig r;
    unsigned char back[CLUSTER];
    uint64_t landed, busy;

    set_up(&r, O_RDWR, FILE_SIZE);
    assert(push_until(&r, FILE_SIZE) == FDL_OK && finish(&r) == FDL_OK);
    r.lander->ops->stats(r.lander, &landed, &busy);
    assert(landed == VIRTUAL);
    for (unsigned i = 0; i < 2 * DATA; i++) {
        assert(pread(r.fd, back, CLUSTER, i * CLUSTER) == CLUSTER);
        for (unsigned k = 0; k < CLUSTER; k++)
            assert(back[k] == (i % 2 ? 0 : 1 + i / 2));
    }
    tear_down(&r);
}

static void a_missing_block_is_noticed(void)
{
    struct rig r;

    set_up(&r, O_RDWR, FILE_SIZE);
    assert(push(&r, 0, BLOCK) == FDL_OK);
    assert(push(&r, 2 * BLOCK, BLOCK) == FDL_E_INTERNAL);
    tear_down(&r);
    set_up(&r, O_RDWR, FILE_SIZE);
    assert(push(&r, BLOCK, BLOCK) == FDL_E_INTERNAL);
    tear_down(&r);
}

static void blocks_out_of_order_are_refused(void)
{
    struct rig r;

    set_up(&r, O_RDWR, FILE_SIZE);
    assert(push(&r, 0, BLOCK) == FDL_OK && push(&r, 0, BLOCK) == FDL_E_INTERNAL);
    tear_down(&r);
}

static void an_early_end_is_malformed(void)
{
    struct rig r;

    set_up(&r, O_RDWR, FILE_SIZE);
    assert(push_until(&r, FILE_SIZE - CLUSTER) == FDL_OK && finish(&r) == FDL_E_FORMAT);
    tear_down(&r);
    set_up(&r, O_RDWR, FDL_QCOW2_SIZE_UNKNOWN);
    assert(push_until(&r, FILE_SIZE - CLUSTER) == FDL_OK && finish(&r) == FDL_E_FORMAT);
    tear_down(&r);
    /* The last cluster may be short: then the file, not the stream, ends there. */
    set_up(&r, O_RDWR, FDL_QCOW2_SIZE_UNKNOWN);
    assert(push_until(&r, FILE_SIZE - 1) == FDL_OK && finish(&r) == FDL_OK);
    tear_down(&r);
}

static void a_broken_cluster_is_malformed(void)
{
    struct rig r;

    /* One sector of noise as the compressed form of guest cluster 1. */
    put64(3 * CLUSTER + 8, 1ull << 62 | 40 * CLUSTER);
    memset(image + 40 * CLUSTER, 0xff, CLUSTER);
    set_up(&r, O_RDWR, FILE_SIZE);
    int rc = push_until(&r, FILE_SIZE);
    assert(rc == FDL_OK || rc == FDL_E_FORMAT);
    assert(finish(&r) == FDL_E_FORMAT && err.offset == 40 * CLUSTER);
    tear_down(&r);
    make_image();
}

static void a_failing_target_is_reported(void)
{
    struct rig r;

    set_up(&r, O_RDONLY, FILE_SIZE);
    int rc = push_until(&r, FILE_SIZE);
    assert(rc == FDL_OK || rc == FDL_E_SINK_IO);
    assert(finish(&r) == FDL_E_SINK_IO && err.os_errno != 0);
    assert(push(&r, 0, BLOCK) == FDL_E_SINK_IO);
    tear_down(&r);
}

/* --- compressed clusters that share bytes ------------------------------------------
 */

#define FIRST (8 * CLUSTER) /* where their bytes may lie */
#define SHARED 8            /* guest clusters 1, 3, 5 ... */

struct shape {
    uint32_t host, sectors; /* sectors: 1 to 16, counted from the one host lies in */
};

/* A deflate stream of one cluster of `value`: one literal and copies of it. */
static size_t put_stream(size_t at, unsigned char value)
{
    z_stream z = {0};
    unsigned char plain[CLUSTER];

    memset(plain, value, sizeof plain);
    assert(deflateInit2(&z, 9, Z_DEFLATED, -12, 8, Z_FIXED) == Z_OK);
    z.next_in = plain;
    z.avail_in = sizeof plain;
    z.next_out = image + at;
    z.avail_out = 256;
    assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
    size_t len = z.total_out;
    deflateEnd(&z);
    return len;
}

/* Guest cluster 2i + 1 becomes compressed, as shapes[i] says. Streams of different
 * clusters lie apart, or are the same one; what the sector counts claim overlaps. */
static void make_shared(const struct shape *shapes, size_t n)
{
    make_image();
    memset(image + FIRST, 0x55, FILE_SIZE - FIRST);
    for (size_t i = 0; i < DATA; i++)
        put64(3 * CLUSTER + 16 * i, 0);
    for (size_t i = 0; i < n; i++) {
        assert(put_stream(shapes[i].host, (unsigned char)shapes[i].host) < 64);
        put64(3 * CLUSTER + 16 * i + 8,
              1ull << 62 | (uint64_t)(shapes[i].sectors - 1) << 58 | shapes[i].host);
    }
}

static void check_shared(const struct shape *shapes, size_t n)
{
    for (size_t cut = 1; cut < 2 * BLOCK; cut = cut * 3 + 1) {
        struct rig r;
        unsigned char back[CLUSTER];
        set_up(&r, O_RDWR, cut % 2 ? FILE_SIZE : FDL_QCOW2_SIZE_UNKNOWN);
        size_t len = cut < 64 ? 64 + cut : cut < BLOCK ? cut : BLOCK;
        for (size_t off = 0; off < FILE_SIZE; off += len)
            assert(push(&r, off, FILE_SIZE - off < len ? FILE_SIZE - off : len) ==
                   FDL_OK);
        assert(finish(&r) == FDL_OK);
        for (size_t i = 0; i < n; i++) {
            assert(pread(r.fd, back, CLUSTER, (off_t)(2 * i + 1) * CLUSTER) == CLUSTER);
            for (size_t k = 0; k < CLUSTER; k++)
                assert(back[k] == (unsigned char)shapes[i].host);
        }
        tear_down(&r);
    }
}

static void clusters_that_share_bytes_land(void)
{
    const uint32_t edge = 2 * BLOCK;
    const struct shape shapes[][4] = {
        /* One straddles an edge, the next begins behind it and ends before the edge. */
        {{edge - 3000, 16}, {edge - 2000, 1}},
        {{edge - 3000, 16}, {edge - 2000, 4}}, /* ends at the edge */
        {{edge - 3000, 16}, {edge - 2000, 5}}, /* ends behind it, before the first */
        {{edge - 3000, 16}, {edge - 2000, 16}, {edge - 1000, 2}, {edge - 900, 16}},
        {{edge - 3000, 16}, {edge - 3000, 1}, {edge - 3000, 16}}, /* the same bytes */
        {{edge - 4096, 8}, {edge - 512, 1}, {edge, 1}, {edge + 512, 8}},
        {{edge - 8192, 16}, {edge - 8000, 1}, {edge - 1, 2}, {edge + 100, 1}},
        {{FILE_SIZE - 700, 16}, {FILE_SIZE - 600, 1}, {FILE_SIZE - 100, 16}},
    };

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        size_t n = 0;
        while (n < 4 && shapes[i][n].sectors)
            n++;
        make_shared(shapes[i], n);
        check_shared(shapes[i], n);
    }
    make_image();
}

static void clusters_anywhere_land(void)
{
    struct shape shapes[SHARED];
    uint32_t state = 1;

    for (uint32_t round = 0; round < 60; round++) {
        uint32_t host = FIRST + round % 3 * 5000u;
        for (size_t i = 0; i < SHARED; i++) {
            state = state * 1664525u + 1013904223u;
            shapes[i] = (struct shape){host, 2 + (state >> 16) % 15};
            host += state >> 31 ? 64 + (state >> 8) % 3000 : 0;
        }
        make_shared(shapes, SHARED);
        check_shared(shapes, SHARED);
    }
    make_image();
}

static void a_missing_part_of_a_shared_cluster_is_noticed(void)
{
    const struct shape shapes[] = {{2 * BLOCK - 3000, 16}, {2 * BLOCK - 2000, 1}};
    struct rig r;

    make_shared(shapes, 2);
    set_up(&r, O_RDWR, FILE_SIZE);
    assert(push(&r, 0, BLOCK) == FDL_OK && push(&r, BLOCK, BLOCK) == FDL_OK);
    assert(push(&r, 3 * BLOCK, BLOCK) == FDL_E_INTERNAL);
    tear_down(&r);
    set_up(&r, O_RDWR, FILE_SIZE);
    assert(push(&r, 0, BLOCK) == FDL_OK &&
           push(&r, 2 * BLOCK, BLOCK) == FDL_E_INTERNAL);
    tear_down(&r);
    make_image();
}

static void *cancel(void *arg)
{
    struct rig *r = arg;
    r->lander->ops->abort(r->lander);
    return NULL;
}

static void a_cancel_from_another_thread_ends_it(void)
{
    struct rig r;
    pthread_t t;

    for (int i = 0; i < 20; i++) {
        set_up(&r, O_RDWR, FILE_SIZE);
        assert(pthread_create(&t, NULL, cancel, &r) == 0);
        int rc = push_until(&r, FILE_SIZE);
        assert(rc == FDL_OK || rc == FDL_E_CANCELLED);
        pthread_join(t, NULL);
        rc = finish(&r);
        assert(rc == FDL_E_CANCELLED);
        tear_down(&r);
    }
}

int main(void)
{
    make_image();
    every_cluster_lands_at_its_place();
    a_missing_block_is_noticed();
    blocks_out_of_order_are_refused();
    an_early_end_is_malformed();
    a_broken_cluster_is_malformed();
    a_failing_target_is_reported();
    clusters_that_share_bytes_land();
    clusters_anywhere_land();
    a_missing_part_of_a_shared_cluster_is_noticed();
    a_cancel_from_another_thread_ends_it();
    return 0;
}
