/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_inflate.c - invariant: bytes and result do not depend on how the input is split
 * or how much room there is, and no limit is exceeded by more than one call's output.
 *
 * The first byte chooses the decoder (its upper half: zeros do not count), the second
 * the cut, the third the room. */
#undef NDEBUG
#include "decode/inflate.h"
#include "replay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OUTPUT (512u << 10)
#define ROOM_MAX (65536u + 257)

/* Of both runs: getting and giving back a megabyte takes longer than most inputs. */
static uint8_t outputs[2][MAX_OUTPUT + ROOM_MAX];

struct result {
    int rc;
    size_t len;
    uint64_t trailing;
    uint8_t *out; /* BORROWED: len bytes */
};

static struct result decode(uint8_t *output, uint8_t choice, const uint8_t *data,
                            size_t size, size_t cut, size_t room)
{
    enum fdl_inflate_kind kind = (enum fdl_inflate_kind)(1 + choice % 5);
    const struct fdl_inflate_limits limits = {.max_output = MAX_OUTPUT,
                                              .ratio_after = 128 << 10,
                                              .max_ratio = 500,
                                              .skip_zeros = choice >= 128};
    struct result r = {.out = output};
    struct fdl_inflate *self = NULL;
    struct fdl_err err;
    size_t at = 0, used, made = 0;
    uint8_t *out = malloc(room);

    assert(out && room <= ROOM_MAX);
    r.rc = fdl_inflate_open(&self, kind, &limits, &err);
    assert(r.rc == FDL_OK);
    while (r.rc == FDL_OK && (at < size || made == room)) {
        size_t n = size - at < cut ? size - at : cut;
        uint8_t *in = malloc(n ? n : 1);
        assert(in);
        memcpy(in, data + at, n);
        r.rc = fdl_inflate_feed(self, in, n, out, room, &used, &made, &err);
        free(in);
        assert(used <= n && made <= room);
        assert(r.rc < 0 || used > 0 || made > 0 || n == 0);
        at += used;
        assert(r.len + made <= MAX_OUTPUT + room);
        memcpy(r.out + r.len, out, made);
        r.len += made;
    }
    if (r.rc == FDL_OK)
        r.rc = fdl_inflate_finish(self, &err);
    assert(r.rc == FDL_OK || r.rc == FDL_E_FORMAT || r.rc == FDL_E_LIMIT);
    r.trailing = fdl_inflate_trailing(self);
    assert(r.trailing < size || size == 0);
    fdl_inflate_free(self);
    free(out);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    size_t cut = 1 + data[1] * 7u, room = 1 + data[2] * 257u;
    struct result whole =
        decode(outputs[0], data[0], data + 3, size - 3, size, 1 << 16);
    struct result pieces = decode(outputs[1], data[0], data + 3, size - 3, cut, room);

    if (whole.rc == FDL_OK) {
        assert(pieces.rc == FDL_OK);
        assert(whole.len == pieces.len);
        assert(memcmp(whole.out, pieces.out, whole.len) == 0);
        assert(whole.trailing == pieces.trailing);
    } else {
        assert(pieces.rc < 0);
    }
    return 0;
}
