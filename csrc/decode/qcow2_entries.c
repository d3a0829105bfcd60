/* SPDX-License-Identifier: Apache-2.0 */
/* What does an L2 entry say? Each becomes a plain run, a compressed cluster or zeros,
 * and is joined to the one before it. */
#include "decode/qcow2_priv.h"

#include <stdlib.h>
#include <string.h>

#define ENTRY_ZERO 1ull
#define ENTRY_COMPRESSED (1ull << 62)
#define ENTRY_COPIED (1ull << 63)
#define ENTRY_OFFSET 0x00fffffffffffe00ull
#define ENTRY_RESERVED 0x3f000000000001feull

int fdl_qcow2_grow(struct fdl_qcow2 *img, struct fdl_qcow2_vec *vec, size_t item_size,
                   void **item, struct fdl_err *err)
{
    if (vec->n == vec->cap) {
        size_t cap = vec->cap ? vec->cap + vec->cap / 2 : 256;
        size_t more = (cap - vec->cap) * item_size;
        if (more > img->max_map_bytes || img->map_bytes > img->max_map_bytes - more)
            return fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET,
                            "qcow2: the cluster map exceeds the memory limit");
        void *items = realloc(vec->items, cap * item_size);
        if (!items)
            return fdl_nomem(err, "the qcow2 map");
        vec->items = items;
        vec->cap = cap;
        img->map_bytes += more;
    }
    *item = (char *)vec->items + vec->n++ * item_size;
    memset(*item, 0, item_size);
    return FDL_OK;
}

int fdl_qcow2_add_zero(struct fdl_qcow2 *img, uint64_t guest, uint64_t count,
                       struct fdl_err *err)
{
    struct fdl_qcow2_zero *runs = img->zeros.items, *run;

    if (guest >= img->units)
        return FDL_OK;
    if (count > img->units - guest)
        count = img->units - guest;
    if (img->zeros.n) {
        run = &runs[img->zeros.n - 1];
        if ((uint64_t)run->guest + run->count == guest) {
            run->count += (uint32_t)count;
            return FDL_OK;
        }
    }
    void *item;
    int rc = fdl_qcow2_grow(img, &img->zeros, sizeof *run, &item, err);
    if (rc < 0)
        return rc;
    run = item;
    run->guest = (uint32_t)guest;
    run->count = (uint32_t)count;
    return FDL_OK;
}

static int add_plain(struct fdl_qcow2 *img, uint64_t guest, uint64_t host,
                     uint64_t count, struct fdl_err *err)
{
    struct fdl_qcow2_packed *runs = img->plain.items, *run;

    if (guest >= img->units)
        return FDL_OK;
    if (count > img->units - guest)
        count = img->units - guest;
    if (img->plain.n) {
        run = &runs[img->plain.n - 1];
        if ((uint64_t)run->guest + run->count == guest &&
            (run->key >> FDL_QCOW2_SECTOR_BITS) +
                    ((uint64_t)run->count << img->unit_bits) ==
                host) {
            run->count += (uint32_t)count;
            return FDL_OK;
        }
    }
    void *item;
    int rc = fdl_qcow2_grow(img, &img->plain, sizeof *run, &item, err);
    if (rc < 0)
        return rc;
    run = item;
    run->key = host << FDL_QCOW2_SECTOR_BITS;
    run->guest = (uint32_t)guest;
    run->count = (uint32_t)count;
    return FDL_OK;
}

/* --- one entry -------------------------------------------------------------------- */

static int take_compressed(struct fdl_qcow2 *img, uint64_t guest, uint64_t entry,
                           uint64_t bitmap, uint64_t at, struct fdl_err *err)
{
    unsigned offset_bits = 62 - (img->cluster_bits - 8);
    uint64_t host = entry & ((1ull << offset_bits) - 1);
    uint64_t sectors = (entry & (ENTRY_COMPRESSED - 1)) >> offset_bits; /* minus one */
    struct fdl_qcow2_packed *c;
    void *item;

    if (entry & ENTRY_COPIED)
        return fdl_qcow2_bad(err, at, "qcow2: compressed cluster with the copied bit");
    if (bitmap != 0)
        return fdl_qcow2_bad(err, at,
                             "qcow2: compressed cluster with a subcluster bitmap");
    if (host >= img->limit)
        return fdl_qcow2_bad(err, at, "qcow2: compressed cluster outside the file");
    if (host < img->info.cluster_size)
        return fdl_qcow2_bad(err, at, "qcow2: compressed cluster inside the header");
    if (host >= img->info.l1_offset && host - img->info.l1_offset < img->info.l1_bytes)
        return fdl_qcow2_bad(err, at, "qcow2: compressed cluster inside the L1 table");
    int rc = fdl_qcow2_grow(img, &img->compressed, sizeof *c, &item, err);
    if (rc < 0)
        return rc;
    c = item;
    c->key = host << FDL_QCOW2_SECTOR_BITS | sectors;
    c->guest = (uint32_t)guest;
    c->count = 1;
    return FDL_OK;
}

/* The rules that hold for every host offset of a plain cluster. */
static int check_host(const struct fdl_qcow2 *img, uint64_t host, uint64_t at,
                      struct fdl_err *err)
{
    if (host % img->info.cluster_size != 0)
        return fdl_qcow2_bad(err, at, "qcow2: data cluster misaligned");
    if (host >= img->limit)
        return fdl_qcow2_bad(err, at, "qcow2: data cluster outside the file");
    if (host + img->info.cluster_size > img->info.l1_offset &&
        host < img->info.l1_offset + img->info.l1_bytes)
        return fdl_qcow2_bad(err, at, "qcow2: data cluster inside the L1 table");
    return FDL_OK;
}

static int take_subclusters(struct fdl_qcow2 *img, uint64_t guest, uint64_t host,
                            uint64_t bitmap, uint64_t at, struct fdl_err *err)
{
    uint32_t allocated = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
    int rc;

    if (allocated & zero)
        return fdl_qcow2_bad(err, at, "qcow2: subcluster both allocated and zero");
    if (allocated && host == 0)
        return fdl_qcow2_bad(err, at, "qcow2: subcluster allocated in no cluster");
    if (allocated && (rc = check_host(img, host, at, err)) < 0)
        return rc;
    for (unsigned i = 0; i < 32;) {
        unsigned j = i, data = allocated >> i & 1;
        while (j < 32 && (allocated >> j & 1) == data)
            j++;
        rc = data ? add_plain(img, guest + i, host + ((uint64_t)i << img->unit_bits),
                              j - i, err)
                  : fdl_qcow2_add_zero(img, guest + i, j - i, err);
        if (rc < 0)
            return rc;
        i = j;
    }
    return FDL_OK;
}

static int take_entry(struct fdl_qcow2 *img, uint64_t guest, uint64_t entry,
                      uint64_t bitmap, uint64_t at, struct fdl_err *err)
{
    uint64_t host = entry & ENTRY_OFFSET;
    int rc;

    if (entry & ENTRY_COMPRESSED)
        return take_compressed(img, guest, entry, bitmap, at, err);
    if (entry & ENTRY_RESERVED)
        return fdl_qcow2_bad(err, at, "qcow2: reserved bits in an L2 entry");
    if (host == 0 && (entry & ENTRY_COPIED))
        return fdl_qcow2_bad(err, at, "qcow2: data cluster inside the header");
    if (host % img->info.cluster_size != 0)
        return fdl_qcow2_bad(err, at, "qcow2: data cluster misaligned");
    if (img->info.extended_l2) {
        if (entry & ENTRY_ZERO)
            return fdl_qcow2_bad(err, at, "qcow2: reserved bits in an L2 entry");
        return take_subclusters(img, guest, host, bitmap, at, err);
    }
    if (entry & ENTRY_ZERO) {
        if (img->info.version < 3)
            return fdl_qcow2_bad(err, at, "qcow2: zero cluster in a version 2 image");
        return fdl_qcow2_add_zero(img, guest, 1, err);
    }
    if (host == 0)
        return fdl_qcow2_add_zero(img, guest, 1, err);
    if ((rc = check_host(img, host, at, err)) < 0)
        return rc;
    return add_plain(img, guest, host, 1, err);
}

int fdl_qcow2_take_entries(struct fdl_qcow2 *img, uint64_t slot, uint32_t first,
                           uint32_t n, const unsigned char *p, struct fdl_err *err)
{
    uint32_t size = img->info.extended_l2 ? 16 : 8;
    uint64_t cluster = slot * img->l2_entries + first;

    for (uint32_t i = 0; i < n; i++, p += size) {
        uint64_t guest = (cluster + i) * img->units_per_entry;
        if (guest >= img->units) /* behind the end of the disk: nobody reads it */
            break;
        uint64_t bitmap = img->info.extended_l2 ? fdl_be64(p + 8) : 0;
        int rc =
            take_entry(img, guest, fdl_be64(p), bitmap, guest << img->unit_bits, err);
        if (rc < 0)
            return rc;
    }
    return FDL_OK;
}
