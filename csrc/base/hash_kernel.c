/* SPDX-License-Identifier: Apache-2.0 */
/* base/hash_kernel.c - who makes SHA-256 here: a kernel of ours only where OpenSSL says
 * the same and may be replaced. Looked up for each chain of a transfer: it takes
 * a few microseconds, and nothing has to be kept between transfers. */
#include "base/hash.h"

#include <openssl/evp.h>
#include <string.h>

#define PROBE 150 /* bytes: more than two blocks, and no whole number of them */

/* Its lanes, each over other bytes; then its one and two chains, cut where no block
 * ends. */
bool fdl_hash_kernel_agrees(const struct fdl_sha256_kernel *kernel)
{
    unsigned char data[FDL_SHA256_LANES_MAX * PROBE], got[sizeof data];
    unsigned char want[FDL_SHA256_LANES_MAX * FDL_SHA256_LEN];
    const unsigned char *messages[FDL_SHA256_LANES_MAX];
    struct fdl_sha256 a, b;

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 167 + (i >> 8));
    for (size_t i = 0; i < kernel->lanes; i++) {
        messages[i] = data + i * PROBE;
        if (EVP_Digest(messages[i], PROBE, want + i * FDL_SHA256_LEN, NULL,
                       EVP_sha256(), NULL) != 1)
            return false;
    }
    fdl_sha256_many(kernel, messages, PROBE, kernel->lanes, got);
    if (memcmp(got, want, kernel->lanes * FDL_SHA256_LEN) != 0)
        return false;
    if (!kernel->one)
        return true;
    fdl_sha256_init(&a, kernel);
    fdl_sha256_init(&b, kernel);
    fdl_sha256_update(&b, data + PROBE, 10);
    fdl_sha256_update_two(&a, data, &b, data + PROBE + 10, PROBE - 10);
    fdl_sha256_update(&a, data + PROBE - 10, 10);
    fdl_sha256_final(&a, got);
    fdl_sha256_final(&b, got + FDL_SHA256_LEN);
    return memcmp(got, want, 2 * (size_t)FDL_SHA256_LEN) == 0;
}

const struct fdl_sha256_kernel *fdl_hash_kernel(const char *wanted,
                                                enum fdl_sha256_why *why)
{
    const struct fdl_sha256_kernel *const *k = fdl_sha256_kernels;
    bool any = !wanted || !*wanted;

    *why = FDL_SHA256_ASKED;
    if (!any && strcmp(wanted, "openssl") == 0)
        return NULL;
    while (*k && !((any || strcmp(wanted, (*k)->name) == 0) && (*k)->usable()))
        k++;
    if (!*k)
        *why = any ? FDL_SHA256_NO_KERNEL : FDL_SHA256_UNKNOWN;
    else if (EVP_default_properties_is_fips_enabled(NULL))
        *why = FDL_SHA256_FIPS;
    else if (!fdl_hash_kernel_agrees(*k))
        *why = FDL_SHA256_DIFFERS;
    else
        *why = FDL_SHA256_OURS;
    return *why == FDL_SHA256_OURS ? *k : NULL;
}
