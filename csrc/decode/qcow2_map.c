/* SPDX-License-Identifier: Apache-2.0 */
/* The map: no two runs share bytes that only one may have, and each is found by its
 * host offset (plain runs, compressed clusters) or its guest offset (zero runs). */
#include "decode/qcow2_priv.h"

#include <stdlib.h>

#define SECTOR_MASK ((1u << FDL_QCOW2_SECTOR_BITS) - 1)
#define JOIN_GAP 65536

/* --- sealing ---------------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
    const struct fdl_qcow2_packed *x = a, *y = b;
    if (x->key != y->key)
        return x->key > y->key ? 1 : -1;
    return (x->guest > y->guest) - (x->guest < y->guest);
}

static int by_guest(const void *a, const void *b)
{
    const struct fdl_qcow2_zero *x = a, *y = b;
    return (x->guest > y->guest) - (x->guest < y->guest);
}

/* Most images are written in order: a look is cheaper than a sort. */
static void sort(struct fdl_qcow2_vec *vec, size_t size,
                 int (*cmp)(const void *, const void *))
{
    const char *p = vec->items;

    for (size_t i = 1; i < vec->n; i++, p += size) {
        if (cmp(p, p + size) > 0) {
            qsort(vec->items, vec->n, size, cmp);
            return;
        }
    }
}

static void join_zeros(struct fdl_qcow2 *img)
{
    struct fdl_qcow2_zero *z = img->zeros.items;
    size_t n = 0;

    for (size_t i = 0; i < img->zeros.n; i++) {
        if (n && (uint64_t)z[n - 1].guest + z[n - 1].count == z[i].guest)
            z[n - 1].count += z[i].count;
        else
            z[n++] = z[i];
    }
    img->zeros.n = n;
}

/* No plain run overlaps another or an L2 table; no compressed cluster starts in one. */
static int check_overlaps(const struct fdl_qcow2 *img, struct fdl_err *err)
{
    const struct fdl_qcow2_packed *p = img->plain.items, *c = img->compressed.items;
    uint64_t size = img->info.cluster_size;
    size_t t = 0;

    for (size_t i = 0; i < img->plain.n; i++) {
        uint64_t host = p[i].key >> FDL_QCOW2_SECTOR_BITS;
        uint64_t end = host + ((uint64_t)p[i].count << img->unit_bits);
        if (i + 1 < img->plain.n && end > p[i + 1].key >> FDL_QCOW2_SECTOR_BITS)
            return fdl_qcow2_bad(err, end, "qcow2: a data cluster is used twice");
        while (t < img->l2_count && img->l2[t].off + size <= host)
            t++;
        if (t < img->l2_count && img->l2[t].off < end)
            return fdl_qcow2_bad(err, img->l2[t].off,
                                 "qcow2: data cluster inside an L2 table");
    }
    t = 0;
    for (size_t i = 0; i < img->compressed.n; i++) {
        uint64_t host = c[i].key >> FDL_QCOW2_SECTOR_BITS;
        while (t < img->l2_count && img->l2[t].off + size <= host)
            t++;
        if (t < img->l2_count && img->l2[t].off <= host)
            return fdl_qcow2_bad(err, host,
                                 "qcow2: compressed cluster inside an L2 table");
    }
    return FDL_OK;
}

static void measure(struct fdl_qcow2 *img)
{
    struct fdl_qcow2_info *info = &img->info;
    struct fdl_qcow2_entry e;

    info->data_bytes = info->compressed_bytes = 0;
    info->first_data = UINT64_MAX;
    info->needed_end = info->tables_end;
    for (size_t i = 0; i < img->plain.n; i++) {
        fdl_qcow2_plain(img, i, &e);
        info->data_bytes += e.len;
        if (e.len && e.host < info->first_data)
            info->first_data = e.host;
        if (e.len && e.host + e.len > info->needed_end)
            info->needed_end = e.host + e.len;
    }
    for (size_t i = 0; i < img->compressed.n; i++) {
        fdl_qcow2_compressed(img, i, &e);
        info->compressed_bytes += e.len;
        if (e.host < info->first_data)
            info->first_data = e.host;
        if (e.host + e.host_len > info->needed_end)
            info->needed_end = e.host + e.host_len;
    }
}

/* Counts the runs that the end of the file cuts; they are the last ones. */
static void find_short_runs(struct fdl_qcow2 *img)
{
    const struct fdl_qcow2_packed *p = img->plain.items;
    size_t n = img->plain.n;

    while (n > 0 && (p[n - 1].key >> FDL_QCOW2_SECTOR_BITS) +
                            ((uint64_t)p[n - 1].count << img->unit_bits) >
                        img->limit)
        n--;
    img->short_runs = img->plain.n - n;
}

int fdl_qcow2_seal(struct fdl_qcow2 *img, struct fdl_err *err)
{
    sort(&img->plain, sizeof(struct fdl_qcow2_packed), by_key);
    sort(&img->compressed, sizeof(struct fdl_qcow2_packed), by_key);
    sort(&img->zeros, sizeof(struct fdl_qcow2_zero), by_guest);
    join_zeros(img);
    int rc = check_overlaps(img, err);
    if (rc < 0)
        return rc;
    find_short_runs(img);
    measure(img);
    return FDL_OK;
}

int fdl_qcow2_set_file_size(struct fdl_qcow2 *img, uint64_t size, struct fdl_err *err)
{
    const struct fdl_qcow2_packed *p = img->plain.items, *c = img->compressed.items;

    if (size < img->info.tables_end || size < img->info.l1_offset + img->info.l1_bytes)
        return fdl_qcow2_bad(err, size, "qcow2: the file ends inside its tables");
    if (img->plain.n) {
        const struct fdl_qcow2_packed *last = &p[img->plain.n - 1];
        uint64_t end = (last->key >> FDL_QCOW2_SECTOR_BITS) +
                       ((uint64_t)last->count << img->unit_bits);
        if (((end - 1) & ~((uint64_t)img->info.cluster_size - 1)) >= size)
            return fdl_qcow2_bad(err, size, "qcow2: data cluster outside the file");
    }
    if (img->compressed.n &&
        c[img->compressed.n - 1].key >> FDL_QCOW2_SECTOR_BITS >= size)
        return fdl_qcow2_bad(err, size, "qcow2: compressed cluster outside the file");
    img->info.file_size = img->limit = size;
    find_short_runs(img);
    measure(img);
    return FDL_OK;
}

/* --- reading the map -------------------------------------------------------------- */

size_t fdl_qcow2_plain_count(const struct fdl_qcow2 *img)
{
    return img->plain.n;
}

size_t fdl_qcow2_compressed_count(const struct fdl_qcow2 *img)
{
    return img->compressed.n;
}

static uint64_t min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Bytes of a run on the guest's disk: the last unit may stick out of it. */
static uint64_t guest_len(const struct fdl_qcow2 *img, uint32_t guest, uint32_t count)
{
    return min64((uint64_t)count << img->unit_bits,
                 img->info.virtual_size - ((uint64_t)guest << img->unit_bits));
}

void fdl_qcow2_plain(const struct fdl_qcow2 *img, size_t i, struct fdl_qcow2_entry *out)
{
    const struct fdl_qcow2_packed *p = (struct fdl_qcow2_packed *)img->plain.items + i;

    out->host = p->key >> FDL_QCOW2_SECTOR_BITS;
    out->guest = (uint64_t)p->guest << img->unit_bits;
    out->len = guest_len(img, p->guest, p->count);
    out->len = out->host >= img->limit ? 0 : min64(out->len, img->limit - out->host);
    out->host_len = out->len;
    out->pad = 0;
}

void fdl_qcow2_compressed(const struct fdl_qcow2 *img, size_t i,
                          struct fdl_qcow2_entry *out)
{
    const struct fdl_qcow2_packed *c =
        (struct fdl_qcow2_packed *)img->compressed.items + i;

    out->host = c->key >> FDL_QCOW2_SECTOR_BITS;
    uint64_t full = ((c->key & SECTOR_MASK) + 1) * 512 - (out->host & 511);
    out->host_len = min64(full, img->limit - out->host);
    out->pad = full - out->host_len;
    out->guest = (uint64_t)c->guest << img->unit_bits;
    out->len = guest_len(img, c->guest, img->units_per_entry);
}

bool fdl_qcow2_zero_run(const struct fdl_qcow2 *img, size_t i, uint64_t *off,
                        uint64_t *len)
{
    if (i < img->zeros.n) {
        const struct fdl_qcow2_zero *z = (struct fdl_qcow2_zero *)img->zeros.items + i;
        *off = (uint64_t)z->guest << img->unit_bits;
        *len = guest_len(img, z->guest, z->count);
        return true;
    }
    i -= img->zeros.n;
    if (i >= img->short_runs)
        return false;
    size_t k = img->plain.n - 1 - i;
    const struct fdl_qcow2_packed *p = (struct fdl_qcow2_packed *)img->plain.items + k;
    struct fdl_qcow2_entry e;
    fdl_qcow2_plain(img, k, &e);
    *off = e.guest + e.len;
    *len = guest_len(img, p->guest, p->count) - e.len;
    return true;
}

/* The first entry of `n` that may end after `from`, none being longer than `span`. */
static size_t first_near(const struct fdl_qcow2_packed *p, size_t n, uint64_t span,
                         uint64_t from)
{
    size_t lo = 0, hi = n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if ((p[mid].key >> FDL_QCOW2_SECTOR_BITS) + span <= from)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The first plain run that ends after `from`: they never overlap, so ends are sorted.
 */
static size_t first_plain(const struct fdl_qcow2 *img, uint64_t from)
{
    size_t lo = 0, hi = img->plain.n;
    struct fdl_qcow2_entry e;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        fdl_qcow2_plain(img, mid, &e);
        if (e.host + e.len <= from)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool fdl_qcow2_next_extent(const struct fdl_qcow2 *img, uint64_t from, uint64_t *off,
                           uint64_t *len)
{
    uint64_t span = (uint64_t)img->info.cluster_size * 2, start = UINT64_MAX, end = 0;
    size_t i = first_plain(img, from);
    size_t k = first_near(img->compressed.items, img->compressed.n, span, from);
    struct fdl_qcow2_entry p = {0}, c = {0}, *e;

    for (;;) {
        for (p.len = 0; i < img->plain.n && p.len == 0; i += p.len == 0)
            fdl_qcow2_plain(img, i, &p);
        for (c.len = 0; k < img->compressed.n && c.len == 0; k += c.len == 0) {
            fdl_qcow2_compressed(img, k, &c);
            if (c.host + c.host_len <= from)
                c.len = 0;
        }
        if (p.len && (!c.len || p.host <= c.host))
            e = &p, i++;
        else if (c.len)
            e = &c, k++;
        else
            break;
        if (start != UINT64_MAX && e->host > end + JOIN_GAP)
            break;
        if (start == UINT64_MAX)
            start = e->host < from ? from : e->host;
        if (e->host + e->host_len > end)
            end = e->host + e->host_len;
    }
    if (start == UINT64_MAX)
        return false;
    *off = start;
    *len = end - start;
    return true;
}
