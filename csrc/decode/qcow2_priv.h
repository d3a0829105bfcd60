/* SPDX-License-Identifier: Apache-2.0 */
/* decode/qcow2_priv.h - what the parts of decode/qcow2.h share: _header, _tables (need
 * and feed), _entries (of L2) and _map. Nobody else includes it. */
#ifndef FDL_QCOW2_PRIV_H
#define FDL_QCOW2_PRIV_H

#include "decode/qcow2.h"

/* A table arrives in up to 64 parts, so one bit each marks what is missing. */
struct fdl_qcow2_table {
    uint64_t off;  /* in the file */
    uint64_t mask; /* parts taken */
    uint64_t slot; /* L2: index in L1 */
};

/* One plain run or one compressed cluster: 16 bytes each is the memory promise. */
struct fdl_qcow2_packed {
    uint64_t key;   /* host << FDL_QCOW2_SECTOR_BITS | (sectors - 1); the low part is 0
                       for   plain runs */
    uint32_t guest; /* in units */
    uint32_t count; /* units of a plain run; 1 for a compressed cluster's first unit */
};

struct fdl_qcow2_zero {
    uint32_t guest, count; /* units */
};

struct fdl_qcow2_vec {
    void *items; /* OWNED */
    size_t n, cap;
};

#define FDL_QCOW2_PARTS 64
#define FDL_QCOW2_SECTOR_BITS 13 /* a compressed cluster has up to 8192 sectors */

struct fdl_qcow2 {
    struct fdl_qcow2_info info;
    unsigned cluster_bits, unit_bits;
    uint32_t l2_entries;      /* per table */
    uint32_t units_per_entry; /* 32 with extended L2, else 1 */
    uint64_t units;           /* of the whole disk, at most 2^32 - 1 */
    uint64_t limit;           /* file size, or FDL_QCOW2_MAX_FILE while unknown */
    uint64_t max_map_bytes, map_bytes;
    uint64_t l1_needed; /* entries that cover the virtual size */
    unsigned char *l1;  /* OWNED until checked */
    struct fdl_qcow2_table l1_table;
    uint64_t l1_part, l2_part;  /* bytes per part */
    struct fdl_qcow2_table *l2; /* OWNED, sorted by off */
    size_t l2_count, l2_done;
    bool l1_known, ready;
    struct fdl_qcow2_vec plain, compressed; /* struct fdl_qcow2_packed */
    struct fdl_qcow2_vec zeros;             /* struct fdl_qcow2_zero */
    size_t short_runs; /* last plain runs that the end of the file cuts */
};

static inline uint32_t fdl_be32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t fdl_be64(const unsigned char *p)
{
    return (uint64_t)fdl_be32(p) << 32 | fdl_be32(p + 4);
}

static inline int fdl_qcow2_bad(struct fdl_err *err, uint64_t off, const char *what)
{
    return fdl_fail(err, FDL_E_FORMAT, off, what);
}

static inline uint64_t fdl_ceil_div(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

/* [off, off + len) is inside the file; subtracts, because off + len could wrap. */
static inline bool fdl_qcow2_inside(const struct fdl_qcow2 *img, uint64_t off,
                                    uint64_t len)
{
    return off <= img->limit && len <= img->limit - off;
}

/* Appends one zeroed item and returns it in *item; accounts for its memory. */
int fdl_qcow2_grow(struct fdl_qcow2 *img, struct fdl_qcow2_vec *vec, size_t item_size,
                   void **item, struct fdl_err *err);

/* Marks `count` units from `guest` as zero. */
int fdl_qcow2_add_zero(struct fdl_qcow2 *img, uint64_t guest, uint64_t count,
                       struct fdl_err *err);

/* Checks n L2 entries, the first of them entry `first` of the table for L1 slot `slot`.
 *   p  BORROWED: n * 8 or n * 16 bytes. */
int fdl_qcow2_take_entries(struct fdl_qcow2 *img, uint64_t slot, uint32_t first,
                           uint32_t n, const unsigned char *p, struct fdl_err *err);

/* Sorts, looks for overlaps and totals: the last step before ready. */
int fdl_qcow2_seal(struct fdl_qcow2 *img, struct fdl_err *err);

#endif
