/* SPDX-License-Identifier: Apache-2.0 */
/* base/sum.h - XXH3-64, with the widest vectors that the processor has: are these the
 * bytes that we had before? For the journal and the read-back; proves nothing against
 * an attacker. */
#ifndef FDL_SUM_H
#define FDL_SUM_H

#include <stddef.h>
#include <stdint.h>

struct fdl_sum;

uint64_t fdl_sum_of(const void *buf, size_t len);

/* The same over bytes as they come. OWNED, NULL without memory; begins empty. */
struct fdl_sum *fdl_sum_new(void);
void fdl_sum_reset(struct fdl_sum *sum);
void fdl_sum_update(struct fdl_sum *sum, const void *buf, size_t len);
uint64_t fdl_sum_value(const struct fdl_sum *sum);
/* NULL is allowed. */
void fdl_sum_free(struct fdl_sum *sum);

#endif
