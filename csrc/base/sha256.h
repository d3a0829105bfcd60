/* SPDX-License-Identifier: Apache-2.0 */
/* base/sha256.h - SHA-256 (FIPS 180-4) of several messages at a time.
 *
 * One chain waits for its own last round, whatever the processor could do beside it:
 * two chains side by side take hardly longer than one. A kernel carries as many as its
 * processor has room for. Pure: no OpenSSL, no state. base/hash.h chooses a kernel, and
 * compares it with OpenSSL before it is used. */
#ifndef FDL_SHA256_H
#define FDL_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FDL_SHA256_LEN 32
#define FDL_SHA256_BLOCK 64 /* bytes that one step of a chain takes */
#define FDL_SHA256_LANES_MAX 16

struct fdl_sha256_kernel {
    const char *name;
    unsigned lanes; /* chains that run() carries on at a time */
    bool (*usable)(void);
    /* Carries one chain over n blocks. NULL: this kernel only pays with many. */
    void (*one)(uint32_t state[8], const unsigned char *data, size_t n);
    /* Carries lanes chains over n blocks each; any of them may overlap in data. */
    void (*run)(uint32_t *const state[], const unsigned char *const data[], size_t n);
};

/* The kernels of this build, the best first; ends with NULL. Not all are usable here.
 */
extern const struct fdl_sha256_kernel *const fdl_sha256_kernels[];

/* One message that comes in parts. kernel->one is not NULL. */
struct fdl_sha256 {
    const struct fdl_sha256_kernel *kernel;
    uint64_t len; /* bytes so far */
    uint32_t state[8];
    unsigned char part[FDL_SHA256_BLOCK]; /* its first len % 64 bytes are waiting */
};

void fdl_sha256_init(struct fdl_sha256 *s, const struct fdl_sha256_kernel *kernel);
void fdl_sha256_update(struct fdl_sha256 *s, const unsigned char *data, size_t len);

/* The next len bytes of either message, side by side. a and b are of one kernel and
 * not the same message. */
void fdl_sha256_update_two(struct fdl_sha256 *a, const unsigned char *data_a,
                           struct fdl_sha256 *b, const unsigned char *data_b,
                           size_t len);

/* Writes FDL_SHA256_LEN bytes and starts over. */
void fdl_sha256_final(struct fdl_sha256 *s, unsigned char *out);

/* The digests of n messages of len bytes each; n <= kernel->lanes.
 * out: n * FDL_SHA256_LEN bytes. */
void fdl_sha256_many(const struct fdl_sha256_kernel *kernel,
                     const unsigned char *const data[], size_t len, size_t n,
                     unsigned char *out);

#endif
