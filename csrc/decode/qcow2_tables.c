/* SPDX-License-Identifier: Apache-2.0 */
/* Which tables of a qcow2 image are still wanted, and taking them in as they come. */
#include "decode/qcow2_priv.h"

#include <stdlib.h>
#include <string.h>

#define TABLE_OFFSET_MASK 0x00fffffffffffe00ull
#define L1_RESERVED 0x7f000000000001ffull

void fdl_qcow2_free(struct fdl_qcow2 *img)
{
    if (!img)
        return;
    free(img->l1);
    free(img->l2);
    free(img->plain.items);
    free(img->compressed.items);
    free(img->zeros.items);
    free(img);
}

const struct fdl_qcow2_info *fdl_qcow2_get_info(const struct fdl_qcow2 *img)
{
    return &img->info;
}

bool fdl_qcow2_ready(const struct fdl_qcow2 *img)
{
    return img->ready;
}

/* --- wanted ranges ---------------------------------------------------------------- */

static bool part_taken(const struct fdl_qcow2_table *t, uint64_t part)
{
    return t->mask >> part & 1;
}

static uint64_t parts_of(uint64_t bytes, uint64_t part)
{
    return fdl_ceil_div(bytes, part);
}

/* The first missing range of one table that ends after `from`. */
static bool missing_in(const struct fdl_qcow2_table *t, uint64_t bytes, uint64_t size,
                       uint64_t from, uint64_t *off, uint64_t *len)
{
    uint64_t n = parts_of(bytes, size);
    uint64_t first = from > t->off ? (from - t->off) / size : 0, last;

    while (first < n && part_taken(t, first))
        first++;
    for (last = first; last < n && !part_taken(t, last);)
        last++;
    if (first >= last)
        return false;
    *off = t->off + first * size;
    *len = (last * size < bytes ? last * size : bytes) - first * size;
    return true;
}

/* The first L2 table that ends after `off`. */
static size_t table_at(const struct fdl_qcow2 *img, uint64_t off)
{
    size_t lo = 0, hi = img->l2_count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (img->l2[mid].off + img->info.cluster_size <= off)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool fdl_qcow2_need(const struct fdl_qcow2 *img, uint64_t from, uint64_t *off,
                    uint64_t *len)
{
    uint64_t o, l;

    if (img->ready)
        return false;
    if (!img->l1_known)
        return missing_in(&img->l1_table, img->l1_needed * 8, img->l1_part, from, off,
                          len);
    *len = 0;
    for (size_t i = table_at(img, from); i < img->l2_count; i++) {
        if (*len && img->l2[i].off > *off + *len)
            break;
        if (!missing_in(&img->l2[i], img->info.cluster_size, img->l2_part, from, &o,
                        &l))
            continue;
        if (*len && o != *off + *len)
            break;
        if (*len == 0)
            *off = o;
        *len += l;
    }
    return *len > 0;
}

/* --- feeding ---------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const struct fdl_qcow2_table *)a)->off;
    uint64_t y = ((const struct fdl_qcow2_table *)b)->off;
    return (x > y) - (x < y);
}

static int check_l1_entry(const struct fdl_qcow2 *img, uint64_t slot, uint64_t entry,
                          struct fdl_err *err)
{
    uint64_t off = entry & TABLE_OFFSET_MASK, at = img->info.l1_offset + slot * 8;
    uint64_t size = img->info.cluster_size;

    if (entry & L1_RESERVED)
        return fdl_qcow2_bad(err, at, "qcow2: reserved bits in an L1 entry");
    if (off % size != 0)
        return fdl_qcow2_bad(err, at, "qcow2: L2 table misaligned");
    if (!fdl_qcow2_inside(img, off, size))
        return fdl_qcow2_bad(err, at, "qcow2: L2 table outside the file");
    if (off < size)
        return fdl_qcow2_bad(err, at, "qcow2: L2 table overlaps the header");
    if (off + size > img->info.l1_offset &&
        off < img->info.l1_offset + img->info.l1_bytes)
        return fdl_qcow2_bad(err, at, "qcow2: L2 table overlaps the L1 table");
    return FDL_OK;
}

/* All of L1 is here: lists the L2 tables, and the zeros where there is none. */
static int take_l1(struct fdl_qcow2 *img, struct fdl_err *err)
{
    uint64_t per_slot = (uint64_t)img->l2_entries * img->units_per_entry;
    size_t n = 0;
    int rc;

    for (uint64_t i = 0; i < img->l1_needed; i++)
        n += (fdl_be64(img->l1 + i * 8) & TABLE_OFFSET_MASK) != 0;
    img->map_bytes += n * sizeof *img->l2;
    if (img->map_bytes > img->max_map_bytes)
        return fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET,
                        "qcow2: tables above the limit");
    img->l2 = calloc(n ? n : 1, sizeof *img->l2);
    if (!img->l2)
        return fdl_nomem(err, "the qcow2 tables");
    for (uint64_t i = 0; i < img->l1_needed; i++) {
        uint64_t entry = fdl_be64(img->l1 + i * 8);
        if (entry & TABLE_OFFSET_MASK) {
            if ((rc = check_l1_entry(img, i, entry, err)) < 0)
                return rc;
            img->l2[img->l2_count].off = entry & TABLE_OFFSET_MASK;
            img->l2[img->l2_count++].slot = i;
        } else if (entry != 0) {
            return fdl_qcow2_bad(err, img->info.l1_offset + i * 8,
                                 "qcow2: reserved bits in an L1 entry");
        } else if ((rc = fdl_qcow2_add_zero(img, i * per_slot, per_slot, err)) < 0) {
            return rc;
        }
    }
    qsort(img->l2, img->l2_count, sizeof *img->l2, by_offset);
    for (size_t i = 1; i < img->l2_count; i++)
        if (img->l2[i].off == img->l2[i - 1].off)
            return fdl_qcow2_bad(err, img->l2[i].off,
                                 "qcow2: an L2 table is used twice");
    free(img->l1);
    img->l1 = NULL;
    img->l1_known = true;
    img->info.table_bytes =
        img->l1_needed * 8 + (uint64_t)img->l2_count * img->info.cluster_size;
    img->info.tables_end = img->info.l1_offset + img->l1_needed * 8;
    if (img->l2_count) {
        uint64_t end = img->l2[img->l2_count - 1].off + img->info.cluster_size;
        if (end > img->info.tables_end)
            img->info.tables_end = end;
    }
    return FDL_OK;
}

/* The parts [*first, *last) of a table that are completely in [off, off + len). */
static bool parts_inside(const struct fdl_qcow2_table *t, uint64_t bytes, uint64_t size,
                         uint64_t off, uint64_t len, uint64_t *first, uint64_t *last)
{
    uint64_t end = off + len;

    if (end <= t->off || off >= t->off + bytes)
        return false;
    *first = off > t->off ? fdl_ceil_div(off - t->off, size) : 0;
    *last = end >= t->off + bytes ? parts_of(bytes, size) : (end - t->off) / size;
    return *first < *last;
}

static int feed_l1(struct fdl_qcow2 *img, uint64_t off, const unsigned char *buf,
                   size_t len, struct fdl_err *err)
{
    uint64_t first, last, bytes = img->l1_needed * 8,
                          parts = parts_of(bytes, img->l1_part);

    if (!parts_inside(&img->l1_table, bytes, img->l1_part, off, len, &first, &last))
        return FDL_OK;
    for (uint64_t i = first; i < last; i++) {
        if (part_taken(&img->l1_table, i))
            continue;
        uint64_t at = i * img->l1_part;
        uint64_t n = bytes - at < img->l1_part ? bytes - at : img->l1_part;
        memcpy(img->l1 + at, buf + (img->l1_table.off + at - off), (size_t)n);
        img->l1_table.mask |= 1ull << i;
    }
    for (uint64_t i = 0; i < parts; i++)
        if (!part_taken(&img->l1_table, i))
            return FDL_OK;
    return take_l1(img, err);
}

static int feed_l2(struct fdl_qcow2 *img, struct fdl_qcow2_table *t, uint64_t off,
                   const unsigned char *buf, size_t len, struct fdl_err *err)
{
    uint64_t first, last, size = img->l2_part, bytes = img->info.cluster_size;
    uint64_t parts = parts_of(bytes, size);
    uint64_t all = parts == FDL_QCOW2_PARTS ? UINT64_MAX : (1ull << parts) - 1;
    uint32_t entry = img->info.extended_l2 ? 16 : 8;

    if (!parts_inside(t, bytes, size, off, len, &first, &last))
        return FDL_OK;
    for (uint64_t i = first; i < last; i++) {
        if (part_taken(t, i))
            continue;
        const unsigned char *p = buf + (t->off + i * size - off);
        int rc = fdl_qcow2_take_entries(img, t->slot, (uint32_t)(i * size / entry),
                                        (uint32_t)(size / entry), p, err);
        if (rc < 0)
            return rc;
        t->mask |= 1ull << i;
        if (t->mask == all)
            img->l2_done++;
    }
    return FDL_OK;
}

int fdl_qcow2_feed(struct fdl_qcow2 *img, uint64_t off, const void *buf, size_t len,
                   struct fdl_err *err)
{
    int rc;

    if (img->ready || len == 0 || off >= img->limit)
        return FDL_OK;
    if (len > img->limit - off)
        len = (size_t)(img->limit - off);
    if (!img->l1_known && (rc = feed_l1(img, off, buf, len, err)) < 0)
        return rc;
    if (!img->l1_known)
        return FDL_OK;

    for (size_t i = table_at(img, off); i < img->l2_count && img->l2[i].off < off + len;
         i++)
        if ((rc = feed_l2(img, &img->l2[i], off, buf, len, err)) < 0)
            return rc;
    if (img->l2_done == img->l2_count) {
        if ((rc = fdl_qcow2_seal(img, err)) < 0)
            return rc;
        img->ready = true;
    }
    return FDL_OK;
}
