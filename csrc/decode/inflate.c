/* SPDX-License-Identifier: Apache-2.0 */
/* What all decoders share: choosing one, counting, and the limits against bombs. */
#include "decode/inflate_ops.h"

#include "base/zero.h"

#include <stdlib.h>
#include <string.h>

#define RATIO_AFTER (1ull << 30)
#define MAX_RATIO 1000

struct fdl_inflate {
    const struct fdl_inflate_ops *ops;
    void *state; /* OWNED */
    struct fdl_inflate_limits limits;
    uint64_t in, out;
    uint64_t weight; /* what counts for the ratio of whole grains of output */
    bool heavy;      /* the grain that is coming counts */
    int failed;      /* the code of the first failure: it stays */
};

static const struct kind {
    const char *name;
    void *(*new_state)(void);
    const struct fdl_inflate_ops *ops;
} kinds[] = {
    [FDL_INFLATE_NONE] = {"", NULL, NULL},
    [FDL_INFLATE_GZ] = {"gz", fdl_inflate_gz_new, &fdl_inflate_gz_ops},
    [FDL_INFLATE_BZ2] = {"bz2", fdl_inflate_bz2_new, &fdl_inflate_bz2_ops},
    [FDL_INFLATE_XZ] = {"xz", fdl_inflate_xz_new, &fdl_inflate_xz_ops},
    [FDL_INFLATE_ZST] = {"zst", fdl_inflate_zst_new, &fdl_inflate_zst_ops},
    [FDL_INFLATE_ZIP] = {"zip", fdl_inflate_zip_new, &fdl_inflate_zip_ops},
};
#define KINDS (sizeof kinds / sizeof kinds[0])

enum fdl_inflate_kind fdl_inflate_kind_of(const char *name)
{
    for (size_t i = 1; i < KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return (enum fdl_inflate_kind)i;
    return FDL_INFLATE_NONE;
}

int fdl_inflate_open(struct fdl_inflate **out, enum fdl_inflate_kind kind,
                     const struct fdl_inflate_limits *limits, struct fdl_err *err)
{
    if (kind <= FDL_INFLATE_NONE || (size_t)kind >= KINDS)
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, "unknown compression");
    struct fdl_inflate *self = calloc(1, sizeof *self);
    if (self)
        self->state = kinds[kind].new_state();
    if (!self || !self->state) {
        free(self);
        return fdl_nomem(err, "the decoder");
    }
    self->ops = kinds[kind].ops;
    if (limits)
        self->limits = *limits;
    if (!self->limits.ratio_after)
        self->limits.ratio_after = RATIO_AFTER;
    if (!self->limits.max_ratio)
        self->limits.max_ratio = MAX_RATIO;
    *out = self;
    return FDL_OK;
}

static int check_limits(const struct fdl_inflate *self, struct fdl_err *err)
{
    const struct fdl_inflate_limits *l = &self->limits;

    if (l->max_output && self->out > l->max_output)
        return fdl_fail(err, FDL_E_LIMIT, self->in,
                        "the decompressed image is larger than allowed");
    if (l->max_ratio != UINT32_MAX && self->weight > l->ratio_after &&
        self->weight / l->max_ratio > self->in)
        return fdl_fail(err, FDL_E_LIMIT, self->in,
                        "the compression ratio is that of a bomb");
    return FDL_OK;
}

/* Counts output grain by grain, so that the sum does not depend on how it is cut. */
static void count(struct fdl_inflate *self, const unsigned char *p, size_t len)
{
    while (len > 0) {
        size_t n = FDL_ZERO_GRAIN - (size_t)(self->out % FDL_ZERO_GRAIN);
        if (n > len)
            n = len;
        if (!self->heavy)
            self->heavy = !self->limits.skip_zeros || !fdl_is_zero(p, n);
        self->out += n;
        p += n;
        len -= n;
        if (self->out % FDL_ZERO_GRAIN == 0) {
            self->weight += self->heavy ? FDL_ZERO_GRAIN : 0;
            self->heavy = false;
        }
    }
}

int fdl_inflate_feed(struct fdl_inflate *self, const void *in, size_t len, void *out,
                     size_t cap, size_t *consumed, size_t *produced,
                     struct fdl_err *err)
{
    struct fdl_inflate_io io = {in, len, out, cap, self->in};
    int rc;

    *consumed = *produced = 0;
    if (self->failed)
        return fdl_fail(err, self->failed, self->in, "the compressed stream is broken");
    rc = self->ops->feed(self->state, &io, err);
    *consumed = len - io.in_len;
    *produced = cap - io.out_len;
    self->in += *consumed;
    count(self, out, *produced);
    if (rc == FDL_OK)
        rc = check_limits(self, err);
    self->failed = rc;
    return rc;
}

int fdl_inflate_finish(struct fdl_inflate *self, struct fdl_err *err)
{
    if (self->failed)
        return fdl_fail(err, self->failed, self->in, "the compressed stream is broken");
    return self->ops->finish(self->state, err);
}

uint64_t fdl_inflate_trailing(const struct fdl_inflate *self)
{
    return self->ops->trailing ? self->ops->trailing(self->state) : 0;
}

void fdl_inflate_free(struct fdl_inflate *self)
{
    if (!self)
        return;
    self->ops->free(self->state);
    free(self);
}
