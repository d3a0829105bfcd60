/* SPDX-License-Identifier: Apache-2.0 */
/* job/plan.h - PLAN: which block is missing, who fetches it, who may take it over.
 *
 * Pure: no I/O, no clock, no lock (the job holds its own around every call).
 *
 * The source is cut into blocks. Only blocks inside the window [base, base + window)
 * may be in work, so that memory is bounded whatever mirrors do; base is the first
 * block that is not finished. New work is given out only in [base, base + reach), which
 * grows up to the window where the order needs it. The lowest missing block is always
 * given out first: it is the one that the ordered digest waits for. */
#ifndef FDL_PLAN_H
#define FDL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

#define FDL_NOBODY (-1)
#define FDL_BLOCKS_UNKNOWN UINT64_MAX

enum fdl_slot_state {
    FDL_SLOT_EMPTY,    /* missing */
    FDL_SLOT_CLAIMED,  /* somebody fetches it or will */
    FDL_SLOT_FILLED,   /* its data is there; its piece is not verified yet */
    FDL_SLOT_VERIFIED, /* may be hashed in order and written */
};

struct fdl_slot {
    enum fdl_slot_state state;
    int owner;           /* worker, FDL_NOBODY */
    int hedger;          /* a second worker that fetches the same block, FDL_NOBODY */
    bool requested;      /* the owner has requested it: not to be stolen */
    uint64_t claimed_ns; /* when the owner got it */
    uint64_t hedged_ns;  /* when the hedger did */
    /* The job's, no business of the plan: */
    struct fdl_buf *buf; /* one reference, from FILLED on */
    uint64_t mirrors;    /* bit set of mirrors that gave bytes of it */
    uint64_t wrong;      /* bit set of those whose bytes were rejected before */
    bool local;          /* it came from the target itself (resume) */
    bool gathered;       /* filled, and nobody hashes it yet */
    bool to_write;       /* verified, and nobody writes it yet */
    bool written;
    int passed; /* ordered consumers that are through with it */
};

struct fdl_plan {
    uint64_t n_blocks; /* FDL_BLOCKS_UNKNOWN until the end has been seen */
    uint64_t base;
    uint32_t window;        /* slots */
    uint32_t reach;         /* blocks from base on that may be claimed, <= window */
    struct fdl_slot *slots; /* OWNED: block i is in slots[i % window] */
    uint32_t align;      /* claims and steals keep to multiples of this many blocks */
    unsigned char *skip; /* OWNED bit set or NULL: blocks that are not needed */
    unsigned char
        *local;      /* OWNED bit set or NULL: blocks that the target has already */
    uint64_t n_bits; /* of both */
};

/* 0, or -1 without memory. */
int fdl_plan_init(struct fdl_plan *plan, uint64_t n_blocks, uint32_t window,
                  uint32_t align);
void fdl_plan_destroy(struct fdl_plan *plan);

/* Before the first claim. 0, or -1 without memory. */
int fdl_plan_mark_skip(struct fdl_plan *plan, uint64_t block);
int fdl_plan_mark_local(struct fdl_plan *plan, uint64_t block);
/* The target's copy is not what it should be: fetch it after all. */
void fdl_plan_unmark_local(struct fdl_plan *plan, uint64_t block);
bool fdl_plan_is_skip(const struct fdl_plan *plan, uint64_t block);
bool fdl_plan_is_local(const struct fdl_plan *plan, uint64_t block);

bool fdl_plan_in_window(const struct fdl_plan *plan, uint64_t block);
struct fdl_slot *fdl_plan_slot(const struct fdl_plan *plan, uint64_t block);

/* Whether the order waits for the network while there are blocks that only the reach
 * keeps from being claimed. */
bool fdl_plan_is_held(const struct fdl_plan *plan);

/* Half as far again, at most to the window. */
void fdl_plan_reach_farther(struct fdl_plan *plan);

/* All blocks are finished. */
bool fdl_plan_done(const struct fdl_plan *plan);

/* Whether a claim of so many would be worth a request: false where only the reach's end
 * would cut it short, and blocks before it are to be finished yet, which moves that
 * end. */
bool fdl_plan_has_room(const struct fdl_plan *plan, uint32_t max);

/* Whether a block may come before another one is finished: somebody fetches it, or it
 * is missing and there is room for a claim. */
bool fdl_plan_expects(const struct fdl_plan *plan);

/* How many blocks came and are not written yet. */
size_t fdl_plan_unwritten(const struct fdl_plan *plan);

/* Gives worker a run of missing blocks, the lowest first, at most `max` (rounded up to
 * `align` where it is that close). local: of those that the target has. */
bool fdl_plan_claim(struct fdl_plan *plan, int worker, bool local, uint32_t max,
                    uint64_t now_ns, uint64_t *first, uint64_t *count);

/* Claims exactly `block`: 1 done, 0 it is beyond the reach, -1 somebody else has it.
 */
int fdl_plan_claim_at(struct fdl_plan *plan, int worker, uint64_t block,
                      uint64_t now_ns);

/* Takes the later half of the largest run of claimed, not yet requested blocks that one
 * other worker holds, if that half has at least `floor` blocks; none that the target
 * has. */
bool fdl_plan_steal(struct fdl_plan *plan, int thief, uint32_t floor, uint64_t now_ns,
                    uint64_t *first, uint64_t *count);

/* The worker fetches a claimed block as well. Returns the hedger whom it replaces, or
 * FDL_NOBODY. */
int fdl_plan_hedge(struct fdl_plan *plan, int worker, uint64_t block, uint64_t now_ns);

/* The worker will not fetch this block: a hedger inherits it, else it is missing again.
 */
void fdl_plan_give_back(struct fdl_plan *plan, int worker, uint64_t block);

/* True where worker is the first to have the block: its bytes count. */
bool fdl_plan_fill(struct fdl_plan *plan, int worker, uint64_t block);

/* The block's bytes are worthless: missing again. Its slot keeps who sent them. */
void fdl_plan_reject(struct fdl_plan *plan, uint64_t block);

/* The slot at base is finished: free it. Also skips blocks that are not needed. */
void fdl_plan_release_base(struct fdl_plan *plan);
void fdl_plan_skip_unneeded(struct fdl_plan *plan);

#endif
