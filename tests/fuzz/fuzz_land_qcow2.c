/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_land_qcow2.c - invariant: an accepted image is written as a reader sees it that
 * walks its tables one guest cluster after the other, however the file is split into
 * blocks; or it is refused as malformed, if that reader also finds it so.
 *
 * The first 8 bytes of the input say how it is read (see struct how), the rest is the
 * file. */
#undef NDEBUG
#include "decode/land_qcow2.h"
#include "memory_sink.h"
#include "qcow2_reader.h"
#include "replay.h"

#include <assert.h>
#include <libdeflate.h>
#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_VIRTUAL (256u << 10)
#define BLOCK (64u << 10)
#define PIECES_MAX 600
#define HEAD 8

/* --- how the file is read ----------------------------------------------------------
 */

struct how {
    bool unknown_size, detect_zeros, only_needed, two_threads, leave_one_out;
    size_t piece;    /* bytes of a block */
    uint32_t jitter; /* not 0: blocks of different sizes */
    size_t left_out; /* that piece is never pushed */
};

static struct how read_how(const uint8_t *p, size_t file)
{
    struct how how = {.unknown_size = p[0] & 1,
                      .detect_zeros = p[0] & 2,
                      .only_needed = p[0] & 4,
                      .two_threads = p[0] & 8,
                      .leave_one_out = p[0] & 16,
                      .piece = 1u + p[1] + p[2] * 256u,
                      .jitter = p[3],
                      .left_out = p[4]};

    if (how.piece < file / (PIECES_MAX / 2) + 1)
        how.piece = file / (PIECES_MAX / 2) + 1;
    if (how.piece > BLOCK)
        how.piece = BLOCK;
    return how;
}

static size_t next_piece(struct how *how, size_t rest)
{
    size_t n = how->piece;

    if (how->jitter) {
        how->jitter = how->jitter * 1664525u + 1013904223u;
        n = n / 2 + (how->jitter >> 8) % (n / 2 + 1) + 1;
    }
    return n < rest ? n : rest;
}

/* --- the lander --------------------------------------------------------------------
 */

static struct fdl_qcow2 *open_image(const uint8_t *data, size_t size, bool unknown)
{
    const struct fdl_qcow2_policy policy = {.max_virtual_size = MAX_VIRTUAL};
    uint64_t told = unknown ? FDL_QCOW2_SIZE_UNKNOWN : size, off, len;
    struct fdl_qcow2 *img = NULL;
    struct fdl_err err;
    size_t need = size;

    int rc = fdl_qcow2_open(&img, data, size, told, &policy, &need, &err);
    while (img && rc == FDL_OK && fdl_qcow2_need(img, 0, &off, &len))
        rc = off > size || len > size - off
                 ? FDL_E_FORMAT
                 : fdl_qcow2_feed(img, off, data + off, (size_t)len, &err);
    if (img && rc < 0) {
        fdl_qcow2_free(img);
        img = NULL;
    }
    return img;
}

struct piece {
    size_t off, len;
    bool pushed;
};

static size_t cut(const struct fdl_qcow2 *img, struct how *how, size_t size,
                  struct piece *pieces)
{
    size_t n = 0;

    for (size_t off = 0; off < size; off += pieces[n++].len) {
        uint64_t from, len;
        assert(n < PIECES_MAX);
        pieces[n].off = off;
        pieces[n].len = next_piece(how, size - off);
        pieces[n].pushed = !how->only_needed || how->unknown_size ||
                           (fdl_qcow2_next_extent(img, off, &from, &len) &&
                            from < off + pieces[n].len);
    }
    /* Who leaves out the end of a file of unknown size makes another file of it. */
    if (how->leave_one_out && how->left_out + how->unknown_size < n)
        pieces[how->left_out].pushed = false;
    else
        how->leave_one_out = false;
    return n;
}

static int push(struct fdl_lander *lander, struct fdl_pool *pool, const uint8_t *data,
                const struct piece *piece, struct fdl_err *err)
{
    struct fdl_buf *buf;

    while (!(buf = fdl_pool_get(pool)))
        usleep(10);
    buf->off = piece->off;
    buf->len = piece->len;
    /* One mapping holds all blocks: the sanitizer must be told where this one ends. */
    ASAN_UNPOISON_MEMORY_REGION(buf->data, BLOCK);
    memcpy(buf->data, data + piece->off, piece->len);
    ASAN_POISON_MEMORY_REGION(buf->data + piece->len, BLOCK - piece->len);
    int rc = lander->ops->push(lander, buf, err);
    fdl_buf_unref(buf);
    return rc;
}

static int land(struct fdl_qcow2 *img, struct how *how, const uint8_t *data,
                size_t size, struct fdl_sink *sink)
{
    static struct fdl_pool *pool; /* for all inputs: making one costs more than one */
    struct fdl_land_qcow2_options options = {.threads = how->two_threads ? 2 : 1,
                                             .detect_zeros = how->detect_zeros};
    struct piece pieces[PIECES_MAX];
    struct fdl_lander *lander;
    struct fdl_err err;

    if (!pool)
        pool = fdl_pool_new(12, BLOCK);
    assert(pool);
    size_t n = cut(img, how, size, pieces);
    int rc = fdl_land_qcow2_new(&lander, img, sink, &options, &err);
    assert(rc == FDL_OK);
    for (size_t i = 0; rc == FDL_OK && i < n; i++)
        if (pieces[i].pushed)
            rc = push(lander, pool, data, &pieces[i], &err);
    if (rc == FDL_OK)
        rc = lander->ops->finish(lander, &err);
    assert(rc == FDL_OK || err.code == rc);
    lander->ops->free(lander);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD)
        return 0;
    struct how how = read_how(data, size - HEAD);
    struct file f = {.data = data + HEAD, .size = size - HEAD};
    struct fdl_qcow2 *img = open_image(f.data, f.size, how.unknown_size);

    if (!img)
        return 0;
    struct fdl_qcow2_info info = *fdl_qcow2_get_info(img);
    f.info = &info;
    uint8_t *disk = read_disk(&f);
    struct memory_sink *sink =
        memory_sink_new(info.virtual_size, (size_t)info.virtual_size);
    int rc = land(img, &how, f.data, f.size, &sink->base);

    if (rc == FDL_OK) {
        assert(disk && memcmp(disk, sink->data, sink->room) == 0);
        memory_sink_check_once(sink, info.virtual_size);
    } else {
        assert(rc == (disk ? FDL_E_INTERNAL : FDL_E_FORMAT) || how.leave_one_out);
        assert(rc == FDL_E_FORMAT || (rc == FDL_E_INTERNAL && how.leave_one_out));
    }
    fdl_sink_free(&sink->base);
    free(disk);
    return 0;
}

/* --- mutations that know where the tables are --------------------------------------
 */

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max)
    __attribute__((weak)); /* libFuzzer's */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static uint32_t draw(unsigned *seed, uint32_t below)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % below;
}

static void put_be64(uint8_t *p, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
}

/* A deflate stream that is one cluster of one value, where there is room for it. */
static void put_stream(uint8_t *file, size_t size, uint64_t host, size_t cluster,
                       unsigned *seed)
{
    static struct libdeflate_compressor *compressors[2]; /* dear: made once */
    uint8_t plain[4096], packed[4200];
    bool packs = draw(seed, 4);

    if (!compressors[packs])
        compressors[packs] = libdeflate_alloc_compressor(packs ? 6 : 0);
    struct libdeflate_compressor *c = compressors[packs];

    memset(plain, (int)draw(seed, 256), sizeof plain);
    size_t n =
        c && cluster <= sizeof plain
            ? libdeflate_deflate_compress(c, plain, cluster, packed, sizeof packed)
            : 0;
    if (host < size && n <= size - host)
        memcpy(file + host, packed, n);
}

/* One entry of the first L2 table becomes a cluster near another one's bytes. */
static bool bend_entry(uint8_t *file, size_t size, unsigned *seed)
{
    if (size < 104)
        return false;
    uint64_t bits = be64(file + 16) & UINT32_MAX, l1 = be64(file + 40);
    if (bits < 9 || bits > 12 || l1 > size - 8)
        return false;
    uint64_t table = be64(file + l1) & 0x00fffffffffffe00ull;
    if (table > size || size - table < 1u << bits)
        return false;
    uint32_t n = 1u << (bits - 3), shift = (uint32_t)(62 - (bits - 8));
    uint8_t *entry = file + table + 8 * draw(seed, n < 16 ? n : 16);
    uint64_t other = be64(file + table + 8 * draw(seed, n < 16 ? n : 16));
    uint64_t host = other & ((1ull << shift) - 1) & ~(1ull << 63);
    if (draw(seed, 3) == 0)
        host = draw(seed, (uint32_t)size);
    host += draw(seed, 4) ? draw(seed, 2u << bits) : 0;
    if (draw(seed, 8) == 0)
        put_be64(entry, 1ull << 63 | (host & ~((1ull << bits) - 1)));
    else
        put_be64(entry,
                 1ull << 62 | (uint64_t)draw(seed, 1u << (bits - 8)) << shift | host);
    if (draw(seed, 2))
        put_stream(file, size, host, 1u << bits, seed);
    return true;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    if (size > HEAD && draw(&seed, 3)) {
        uint32_t times = 1 + draw(&seed, 3);
        while (times-- && bend_entry(data + HEAD, size - HEAD, &seed))
            ;
        if (draw(&seed, 2))
            data[draw(&seed, HEAD)] = (uint8_t)draw(&seed, 256);
        return size;
    }
    return LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, max) : size;
}
