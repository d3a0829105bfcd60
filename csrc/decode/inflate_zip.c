/* SPDX-License-Identifier: Apache-2.0 */
/* A zip file with exactly one regular entry, decoded as it comes (PKWARE
 * APPNOTE 6.3.9).
 *
 * Zip states everything twice: in the local header before the data and in the central
 * directory after it, and readers differ in which they trust. Here both, and the data
 * descriptor, must agree with the bytes. What follows the data is collected (it is
 * small) and checked as a whole at the end. */
#include "decode/inflate_ops.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define LOCAL_SIZE 30
#define CENTRAL_SIZE 46
#define END_SIZE 22
#define END64_SIZE 56
#define LOCATOR64_SIZE 20
#define TAIL_MAX (512u << 10) /* names, extras and comments are 64 KiB each at most */

#define SIG_LOCAL 0x04034b50u
#define SIG_DESCRIPTOR 0x08074b50u
#define SIG_CENTRAL 0x02014b50u
#define SIG_END64 0x06064b50u
#define SIG_LOCATOR64 0x07064b50u
#define SIG_END 0x06054b50u

#define FLAG_ENCRYPTED 0x2041u /* classic, strong, masked headers */
#define FLAG_DESCRIPTOR 0x0008u
#define FLAG_KNOWN 0x080eu /* compression level, descriptor, UTF-8 name */

enum phase { LOCAL, DATA, TAIL };

struct zip {
    enum phase phase;
    z_stream z;
    unsigned char *local; /* OWNED: fixed part, name, extra */
    size_t local_len, local_want;
    unsigned flags, method;
    uint64_t size, packed; /* declared; unknown with FLAG_DESCRIPTOR */
    uint64_t got_in, got_out;
    uint32_t crc, declared_crc;
    unsigned char *tail; /* OWNED */
    size_t tail_len;
};

static uint32_t le16(const unsigned char *p)
{
    return (uint32_t)p[1] << 8 | p[0];
}

static uint32_t le32(const unsigned char *p)
{
    return le16(p + 2) << 16 | le16(p);
}

static uint64_t le64(const unsigned char *p)
{
    return (uint64_t)le32(p + 4) << 32 | le32(p);
}

static int bad(struct fdl_err *err, const char *what)
{
    return fdl_fail(err, FDL_E_FORMAT, FDL_NO_OFFSET, what);
}

void *fdl_inflate_zip_new(void)
{
    struct zip *z = calloc(1, sizeof *z);

    if (!z)
        return NULL;
    z->local = malloc(LOCAL_SIZE + 2 * 65536);
    z->tail = malloc(TAIL_MAX);
    if (!z->local || !z->tail || inflateInit2(&z->z, -MAX_WBITS) != Z_OK) {
        free(z->local);
        free(z->tail);
        free(z);
        return NULL;
    }
    z->local_want = LOCAL_SIZE;
    z->crc = (uint32_t)crc32(0, NULL, 0);
    return z;
}

/* --- the local header ------------------------------------------------------------- */

/* A name is never used; one that could lead somewhere shows what the file is for. */
static int check_name(const unsigned char *name, size_t len, struct fdl_err *err)
{
    size_t start = 0;

    if (len == 0 || memchr(name, 0, len) || name[0] == '/' || memchr(name, '\\', len))
        return bad(err, "zip: unsafe entry name");
    if (name[len - 1] == '/')
        return bad(err, "zip: the entry is a directory");
    for (size_t i = 0; i <= len; i++) {
        if (i < len && name[i] != '/')
            continue;
        if (i - start == 2 && name[start] == '.' && name[start + 1] == '.')
            return bad(err, "zip: unsafe entry name");
        start = i + 1;
    }
    return FDL_OK;
}

/* Puts the values of the zip64 extra field in place of the 32-bit ones that defer to it
 * (order: size, packed, offset). An extra that nothing defers to must repeat them. */
static int apply_zip64(const unsigned char *extra, size_t len, uint64_t *fields[],
                       size_t n, struct fdl_err *err)
{
    size_t deferred = 0;

    for (size_t i = 0; i < n; i++)
        deferred += *fields[i] == UINT32_MAX;
    while (len >= 4) {
        size_t size = le16(extra + 2);
        const unsigned char *p = extra + 4;
        if (size > len - 4)
            return bad(err, "zip: extra field cut off");
        if (le16(extra) == 1) {
            bool all = deferred == 0;
            if (size % 8 != 0 || size > 8 * n || size < 8 * deferred)
                return bad(err, "zip: zip64 field of impossible size");
            for (size_t i = 0; i < n && size >= 8; i++) {
                bool takes = *fields[i] == UINT32_MAX;
                if (!takes && !all)
                    continue;
                if (!takes && le64(p) != *fields[i])
                    return bad(err, "zip: zip64 field disagrees");
                *fields[i] = le64(p);
                p += 8;
                size -= 8;
            }
            return FDL_OK;
        }
        extra = p + size;
        len -= 4 + size;
    }
    return FDL_OK;
}

static int check_local(struct zip *z, struct fdl_err *err)
{
    const unsigned char *h = z->local;
    size_t name_len = le16(h + 26), extra_len = le16(h + 28);
    uint64_t *fields[] = {&z->size, &z->packed};
    int rc;

    z->flags = le16(h + 6);
    z->method = le16(h + 8);
    z->declared_crc = le32(h + 14);
    z->packed = le32(h + 18);
    z->size = le32(h + 22);
    if (z->flags & FLAG_ENCRYPTED)
        return bad(err, "zip: the entry is encrypted");
    if (z->flags & ~FLAG_KNOWN)
        return bad(err, "zip: unknown flags");
    if (z->method != 0 && z->method != 8)
        return bad(err, "zip: neither stored nor deflated");
    if (z->method == 0 && (z->flags & FLAG_DESCRIPTOR))
        return bad(err, "zip: stored entry of unknown size");
    if ((rc = check_name(h + LOCAL_SIZE, name_len, err)) < 0)
        return rc;
    if (z->flags & FLAG_DESCRIPTOR)
        return FDL_OK;
    rc = apply_zip64(h + LOCAL_SIZE + name_len, extra_len, fields, 2, err);
    if (rc == FDL_OK && z->method == 0 && z->size != z->packed)
        rc = bad(err, "zip: sizes of a stored entry differ");
    return rc;
}

static int feed_local(struct zip *z, struct fdl_inflate_io *io, struct fdl_err *err)
{
    size_t n = z->local_want - z->local_len;

    if (n > io->in_len)
        n = io->in_len;
    memcpy(z->local + z->local_len, io->in, n);
    z->local_len += n;
    io->in += n;
    io->in_len -= n;
    if (z->local_len < z->local_want)
        return FDL_OK;
    if (z->local_want == LOCAL_SIZE) {
        if (le32(z->local) != SIG_LOCAL)
            return bad(err, "zip: no entry at the beginning");
        z->local_want += le16(z->local + 26) + le16(z->local + 28);
        if (z->local_len < z->local_want)
            return FDL_OK;
    }
    z->phase = DATA;
    return check_local(z, err);
}

/* --- the data --------------------------------------------------------------------- */

static size_t clip(size_t n)
{
    return n > INT_MAX ? INT_MAX : n;
}

static void advance(struct zip *z, struct fdl_inflate_io *io, size_t used, size_t made)
{
    z->crc = (uint32_t)crc32(z->crc, io->out, (uInt)made);
    z->got_in += used;
    z->got_out += made;
    io->in += used;
    io->in_len -= used;
    io->out += made;
    io->out_len -= made;
}

static int end_data(struct zip *z, struct fdl_err *err)
{
    z->phase = TAIL;
    if (z->flags & FLAG_DESCRIPTOR)
        return FDL_OK;
    if (z->got_in != z->packed || z->got_out != z->size || z->crc != z->declared_crc)
        return bad(err, "zip: size or checksum is wrong");
    return FDL_OK;
}

static int feed_stored(struct zip *z, struct fdl_inflate_io *io, struct fdl_err *err)
{
    size_t n = clip(io->in_len < io->out_len ? io->in_len : io->out_len);

    if (n > z->packed - z->got_in)
        n = (size_t)(z->packed - z->got_in);
    memcpy(io->out, io->in, n);
    advance(z, io, n, n);
    return z->got_in == z->packed ? end_data(z, err) : FDL_OK;
}

static int feed_deflated(struct zip *z, struct fdl_inflate_io *io, struct fdl_err *err)
{
    size_t in = clip(io->in_len), out = clip(io->out_len);

    z->z.next_in = (unsigned char *)(uintptr_t)io->in;
    z->z.avail_in = (unsigned)in;
    z->z.next_out = io->out;
    z->z.avail_out = (unsigned)out;
    int rc = inflate(&z->z, Z_NO_FLUSH);
    advance(z, io, in - z->z.avail_in, out - z->z.avail_out);
    if (!(z->flags & FLAG_DESCRIPTOR) &&
        (z->got_in > z->packed || z->got_out > z->size))
        return bad(err, "zip: size or checksum is wrong");
    if (rc == Z_STREAM_END)
        return end_data(z, err);
    if (rc == Z_MEM_ERROR)
        return fdl_nomem(err, "the zip decoder");
    return rc == Z_OK || rc == Z_BUF_ERROR ? FDL_OK
                                           : bad(err, "zip: the data is broken");
}

static int zip_feed(void *state, struct fdl_inflate_io *io, struct fdl_err *err)
{
    struct zip *z = state;
    int rc = FDL_OK;

    for (;;) {
        size_t in = io->in_len, out = io->out_len;
        enum phase phase = z->phase;
        if (phase == LOCAL) {
            rc = feed_local(z, io, err);
        } else if (phase == DATA) {
            rc = z->method == 0 ? feed_stored(z, io, err) : feed_deflated(z, io, err);
        } else {
            if (io->in_len > TAIL_MAX - z->tail_len)
                return bad(err, "zip: more than one entry, or data behind it");
            memcpy(z->tail + z->tail_len, io->in, io->in_len);
            z->tail_len += io->in_len;
            io->in += io->in_len;
            io->in_len = 0;
        }
        if (rc < 0 || (in == io->in_len && out == io->out_len && phase == z->phase))
            return rc;
    }
}

/* --- after the data -------------------------------------------------------------- */

/* Length of the data descriptor at p that agrees with the bytes, 0 for none. Signature
 * and width are optional in the standard: a central header must follow. */
static size_t descriptor_len(const struct zip *z, const unsigned char *p, size_t len)
{
    for (unsigned form = 0; form < 4; form++) {
        size_t sig = form & 1 ? 0 : 4, width = form & 2 ? 8 : 4, at = sig + 4;
        if (len < at + 2 * width + 4 || (sig && le32(p) != SIG_DESCRIPTOR))
            continue;
        uint64_t packed = width == 8 ? le64(p + at) : le32(p + at);
        uint64_t size = width == 8 ? le64(p + at + width) : le32(p + at + width);
        uint64_t mask = width == 8 ? UINT64_MAX : UINT32_MAX;
        if (le32(p + sig) == z->crc && packed == (z->got_in & mask) &&
            size == (z->got_out & mask) && le32(p + at + 2 * width) == SIG_CENTRAL)
            return at + 2 * width;
    }
    return 0;
}

static int check_kind(const unsigned char *c, struct fdl_err *err)
{
    uint32_t attributes = le32(c + 38), type = attributes >> 28;

    if (attributes & 0x10)
        return bad(err, "zip: the entry is a directory");
    /* Made on Unix (3) or macOS (19): the upper half is st_mode. */
    if ((c[5] == 3 || c[5] == 19) && type != 0 && type != 8)
        return bad(err, "zip: the entry is no regular file");
    return FDL_OK;
}

/* The central header at c; its length goes to *size. */
static int check_central(const struct zip *z, const unsigned char *c, size_t len,
                         size_t *size, struct fdl_err *err)
{
    if (len < CENTRAL_SIZE || le32(c) != SIG_CENTRAL)
        return bad(err, len >= 4 && le32(c) == SIG_LOCAL
                            ? "zip: more than one entry"
                            : "zip: no central directory behind the entry");
    size_t name_len = le16(c + 28), extra_len = le16(c + 30), comment = le16(c + 32);
    uint64_t packed = le32(c + 20), full = le32(c + 24), offset = le32(c + 42);
    uint64_t *fields[] = {&full, &packed, &offset};

    *size = CENTRAL_SIZE + name_len + extra_len + comment;
    if (len < *size)
        return bad(err, "zip: central directory cut off");
    if (le16(c + 8) != z->flags || le16(c + 10) != z->method ||
        name_len != le16(z->local + 26) ||
        memcmp(c + CENTRAL_SIZE, z->local + LOCAL_SIZE, name_len) != 0)
        return bad(err, "zip: local and central header disagree");
    int rc = apply_zip64(c + CENTRAL_SIZE + name_len, extra_len, fields, 3, err);
    if (rc < 0)
        return rc;
    if (le32(c + 16) != z->crc || packed != z->got_in || full != z->got_out)
        return bad(err, "zip: size or checksum is wrong");
    if (offset != 0 || le16(c + 34) != 0)
        return bad(err, "zip: the central directory points elsewhere");
    return check_kind(c, err);
}

/* The zip64 end record and its locator, where there are any; their length to *size. */
static int check_end64(const unsigned char *p, size_t len, uint64_t dir_off,
                       uint64_t dir_len, size_t *size, struct fdl_err *err)
{
    *size = 0;
    if (len < 4 || le32(p) != SIG_END64)
        return FDL_OK;
    if (len < END64_SIZE + LOCATOR64_SIZE || le64(p + 4) != END64_SIZE - 12)
        return bad(err, "zip: zip64 end record of impossible size");
    if (le32(p + 16) || le32(p + 20) || le64(p + 24) != 1 || le64(p + 32) != 1 ||
        le64(p + 40) != dir_len || le64(p + 48) != dir_off)
        return bad(err, "zip: zip64 end record disagrees");
    const unsigned char *l = p + END64_SIZE;
    if (le32(l) != SIG_LOCATOR64 || le32(l + 4) || le64(l + 8) != dir_off + dir_len ||
        le32(l + 16) > 1)
        return bad(err, "zip: zip64 locator disagrees");
    *size = END64_SIZE + LOCATOR64_SIZE;
    return FDL_OK;
}

static bool agrees(uint64_t value, uint64_t field, uint64_t none)
{
    return field == value || field == none;
}

static int check_end(const unsigned char *p, size_t len, uint64_t dir_off,
                     uint64_t dir_len, bool wide, struct fdl_err *err)
{
    /* Only a zip64 record may be deferred to. */
    uint64_t none16 = wide ? UINT16_MAX : 1, none_len = wide ? UINT32_MAX : dir_len;
    uint64_t none_off = wide ? UINT32_MAX : dir_off;

    if (len < END_SIZE || le32(p) != SIG_END)
        return bad(err, len >= 4 && le32(p) == SIG_CENTRAL
                            ? "zip: more than one entry"
                            : "zip: no end record behind the directory");
    if (!agrees(0, le16(p + 4), wide ? UINT16_MAX : 0) ||
        !agrees(0, le16(p + 6), wide ? UINT16_MAX : 0) ||
        !agrees(1, le16(p + 8), none16) || !agrees(1, le16(p + 10), none16) ||
        !agrees(dir_len, le32(p + 12), none_len) ||
        !agrees(dir_off, le32(p + 16), none_off))
        return bad(err, "zip: end record disagrees with the directory");
    if (len != END_SIZE + le16(p + 20))
        return bad(err, "zip: garbage behind the end record");
    return FDL_OK;
}

static int zip_finish(void *state, struct fdl_err *err)
{
    struct zip *z = state;
    const unsigned char *p = z->tail, *end = z->tail + z->tail_len;
    size_t size = 0;
    int rc;

    if (z->phase != TAIL)
        return bad(err, "zip: the stream ends too early");
    if (z->flags & FLAG_DESCRIPTOR) {
        size = descriptor_len(z, p, z->tail_len);
        if (size == 0)
            return bad(err, "zip: data descriptor disagrees, or more than one entry");
        p += size;
    }
    uint64_t dir_off = z->local_len + z->got_in + (uint64_t)(p - z->tail);
    if ((rc = check_central(z, p, (size_t)(end - p), &size, err)) < 0)
        return rc;
    uint64_t dir_len = size;
    p += size;
    rc = check_end64(p, (size_t)(end - p), dir_off, dir_len, &size, err);
    if (rc < 0)
        return rc;
    p += size;
    return check_end(p, (size_t)(end - p), dir_off, dir_len, size > 0, err);
}

static void zip_free(void *state)
{
    struct zip *z = state;
    inflateEnd(&z->z);
    free(z->local);
    free(z->tail);
    free(z);
}

const struct fdl_inflate_ops fdl_inflate_zip_ops = {zip_feed, zip_finish, NULL,
                                                    zip_free};
