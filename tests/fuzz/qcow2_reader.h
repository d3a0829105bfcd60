/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2_reader.h - a reader of qcow2 that is too simple to be wrong, for fuzz targets:
 * it has the whole file, and goes through the tables one guest cluster after the other.
 * The map's order, its runs and its blocks are not known here. */
#ifndef QCOW2_READER_H
#define QCOW2_READER_H

#undef NDEBUG
#include <assert.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "decode/qcow2.h"

/* A file that fdl_qcow2_open() and feed() have accepted: its tables lie inside. */
struct file {
    const uint8_t *data;
    size_t size;
    const struct fdl_qcow2_info *info;
};

static uint64_t be64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}

static unsigned cluster_bits(const struct file *f)
{
    unsigned bits = 0;
    while (1u << bits < f->info->cluster_size)
        bits++;
    return bits;
}

/* False where the host range begins behind the end of the file. */
static bool read_plain(const struct file *f, uint64_t host, size_t len, uint8_t *out)
{
    if (host >= f->size)
        return false;
    size_t n = f->size - host < len ? f->size - (size_t)host : len;
    memcpy(out, f->data + host, n);
    memset(out + n, 0, len - n);
    return true;
}

static bool unpack(const struct file *f, const uint8_t *in, size_t len, uint8_t *out)
{
    size_t used, got, want = f->info->cluster_size;

    if (!f->info->zstd) {
        struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
        assert(d);
        enum libdeflate_result rc =
            libdeflate_deflate_decompress_ex(d, in, len, out, want, &used, &got);
        libdeflate_free_decompressor(d);
        return rc == LIBDEFLATE_SUCCESS && got == want;
    }
    used = ZSTD_findFrameCompressedSize(in, len);
    if (ZSTD_isError(used))
        return false;
    got = ZSTD_decompress(out, want, in, used);
    return !ZSTD_isError(got) && got == want;
}

static bool read_compressed(const struct file *f, uint64_t entry, uint8_t *out)
{
    unsigned shift = 62 - (cluster_bits(f) - 8);
    uint64_t host = entry & ((1ull << shift) - 1);
    uint64_t sectors = (entry & ((1ull << 62) - 1)) >> shift;

    if (host >= f->size)
        return false;
    size_t len = (size_t)((sectors + 1) * 512 - host % 512);
    uint8_t *in = calloc(1, len); /* behind the end of the file lie zeros */
    assert(in);
    memcpy(in, f->data + host, len < f->size - host ? len : f->size - (size_t)host);
    bool good = unpack(f, in, len, out);
    free(in);
    return good;
}

/* out: one cluster. */
static bool read_cluster(const struct file *f, uint64_t guest, uint8_t *out)
{
    size_t wide = f->info->extended_l2 ? 16 : 8, size = f->info->cluster_size;
    uint64_t per_table = size / wide;
    uint64_t table = be64(f->data + f->info->l1_offset + guest / per_table * 8) &
                     0x00fffffffffffe00ull;

    memset(out, 0, size);
    if (!table)
        return true;
    const uint8_t *p = f->data + table + guest % per_table * wide;
    uint64_t entry = be64(p), host = entry & 0x00fffffffffffe00ull;
    if (entry & 1ull << 62)
        return read_compressed(f, entry, out);
    if (!f->info->extended_l2)
        return host == 0 || entry & 1 || read_plain(f, host, size, out);
    for (unsigned i = 0; i < 32; i++)
        if (be64(p + 8) >> i & 1 &&
            !read_plain(f, host, size, out)) /* the whole: begins behind the end? */
            return false;
    for (unsigned i = 0; i < 32; i++)
        if (!(be64(p + 8) >> i & 1))
            memset(out + i * (size / 32), 0, size / 32);
    return true;
}

/* The disk as that reader sees it, OWNED; NULL where it finds the image malformed. */
static uint8_t *read_disk(const struct file *f)
{
    size_t size = f->info->cluster_size, disk = (size_t)f->info->virtual_size;
    uint8_t *out = malloc(disk), *cluster = malloc(size);
    bool good = f->info->l1_offset <= f->size &&
                f->info->l1_bytes <= f->size - f->info->l1_offset;

    assert(out && cluster);
    for (size_t at = 0; good && at < disk; at += size) {
        good = read_cluster(f, at / size, cluster);
        memcpy(out + at, cluster, disk - at < size ? disk - at : size);
    }
    free(cluster);
    if (!good) {
        free(out);
        out = NULL;
    }
    return out;
}

#endif
