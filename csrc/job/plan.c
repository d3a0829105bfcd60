/* SPDX-License-Identifier: Apache-2.0 */
#include "job/plan.h"

#include <stdlib.h>
#include <string.h>

/* A run that the reach's end would cut waits for this part of the reach, 2 MiB at last;
 * before, for two blocks where they are an eighth of it at most. What is waited for is
 * missing ahead of the order, so it is no more than keeps requests from being for each
 * block. */
#define ROOM_SHARE 32
#define ROOM_LEAST 2
#define ROOM_LEAST_SHARE 8

static void slot_clear(struct fdl_slot *slot)
{
    memset(slot, 0, sizeof *slot);
    slot->owner = slot->hedger = FDL_NOBODY;
}

int fdl_plan_init(struct fdl_plan *plan, uint64_t n_blocks, uint32_t window,
                  uint32_t align)
{
    memset(plan, 0, sizeof *plan);
    plan->n_blocks = n_blocks;
    plan->window = plan->reach = window;
    plan->align = align > 0 ? align : 1;
    plan->slots = calloc(window, sizeof *plan->slots);
    if (!plan->slots)
        return -1;
    for (uint32_t i = 0; i < window; i++)
        slot_clear(&plan->slots[i]);
    return 0;
}

void fdl_plan_destroy(struct fdl_plan *plan)
{
    free(plan->slots);
    free(plan->skip);
    free(plan->local);
    memset(plan, 0, sizeof *plan);
}

static int set_bit(struct fdl_plan *plan, unsigned char **bits, uint64_t block)
{
    if (plan->n_blocks == FDL_BLOCKS_UNKNOWN || block >= plan->n_blocks)
        return -1;
    if (!*bits) {
        *bits = calloc(1, (size_t)(plan->n_blocks / 8 + 1));
        if (!*bits)
            return -1;
        plan->n_bits = plan->n_blocks;
    }
    (*bits)[block / 8] |= (unsigned char)(1u << (block % 8));
    return 0;
}

static bool get_bit(const struct fdl_plan *plan, const unsigned char *bits,
                    uint64_t block)
{
    return bits && block < plan->n_bits && (bits[block / 8] >> (block % 8) & 1);
}

int fdl_plan_mark_skip(struct fdl_plan *plan, uint64_t block)
{
    return set_bit(plan, &plan->skip, block);
}

int fdl_plan_mark_local(struct fdl_plan *plan, uint64_t block)
{
    return set_bit(plan, &plan->local, block);
}

void fdl_plan_unmark_local(struct fdl_plan *plan, uint64_t block)
{
    if (get_bit(plan, plan->local, block))
        plan->local[block / 8] &= (unsigned char)~(1u << (block % 8));
}

bool fdl_plan_is_skip(const struct fdl_plan *plan, uint64_t block)
{
    return get_bit(plan, plan->skip, block);
}

bool fdl_plan_is_local(const struct fdl_plan *plan, uint64_t block)
{
    return get_bit(plan, plan->local, block);
}

bool fdl_plan_in_window(const struct fdl_plan *plan, uint64_t block)
{
    return block >= plan->base && block - plan->base < plan->window &&
           block < plan->n_blocks;
}

struct fdl_slot *fdl_plan_slot(const struct fdl_plan *plan, uint64_t block)
{
    return &plan->slots[block % plan->window];
}

bool fdl_plan_done(const struct fdl_plan *plan)
{
    return plan->base >= plan->n_blocks;
}

static uint64_t reach_end(const struct fdl_plan *plan)
{
    uint64_t room = plan->n_blocks - plan->base;

    return plan->base + (room < plan->reach ? room : plan->reach);
}

bool fdl_plan_is_held(const struct fdl_plan *plan)
{
    return plan->reach < plan->window && reach_end(plan) < plan->n_blocks &&
           fdl_plan_slot(plan, plan->base)->state < FDL_SLOT_FILLED;
}

void fdl_plan_reach_farther(struct fdl_plan *plan)
{
    uint32_t more = plan->reach / 2 + 1, room = plan->window - plan->reach;

    plan->reach += more < room ? more : room;
}

static bool missing(const struct fdl_plan *plan, uint64_t block, bool local)
{
    return fdl_plan_slot(plan, block)->state == FDL_SLOT_EMPTY &&
           !fdl_plan_is_skip(plan, block) && fdl_plan_is_local(plan, block) == local;
}

static void take(struct fdl_plan *plan, int worker, uint64_t block, uint64_t now_ns)
{
    struct fdl_slot *slot = fdl_plan_slot(plan, block);

    slot->state = FDL_SLOT_CLAIMED;
    slot->owner = worker;
    slot->requested = false;
    slot->claimed_ns = now_ns;
}

bool fdl_plan_has_room(const struct fdl_plan *plan, uint32_t max)
{
    uint64_t end = reach_end(plan), at = plan->base, n = 0;
    uint32_t least = plan->reach / ROOM_SHARE;

    if (least < ROOM_LEAST && plan->reach >= ROOM_LEAST * ROOM_LEAST_SHARE)
        least = ROOM_LEAST;
    if (least > max)
        least = max;
    while (at < end && !missing(plan, at, false))
        at++;
    while (at + n < end && n < least && missing(plan, at + n, false))
        n++;
    return n >= least || at + n < end || end == plan->n_blocks || n == 0;
}

bool fdl_plan_expects(const struct fdl_plan *plan)
{
    bool any = false;

    for (uint64_t b = plan->base, end = reach_end(plan); b < end; b++) {
        if (fdl_plan_slot(plan, b)->state == FDL_SLOT_CLAIMED)
            return true;
        any |= missing(plan, b, false) || missing(plan, b, true);
    }
    return any && fdl_plan_has_room(plan, plan->reach);
}

size_t fdl_plan_unwritten(const struct fdl_plan *plan)
{
    size_t n = 0;

    for (uint64_t b = plan->base; fdl_plan_in_window(plan, b); b++) {
        const struct fdl_slot *slot = fdl_plan_slot(plan, b);
        n += slot->state >= FDL_SLOT_FILLED && !slot->written;
    }
    return n;
}

bool fdl_plan_claim(struct fdl_plan *plan, int worker, bool local, uint32_t max,
                    uint64_t now_ns, uint64_t *first, uint64_t *count)
{
    uint64_t end = reach_end(plan), at = plan->base, n = 0;

    while (at < end && !missing(plan, at, local))
        at++;
    if (at >= end)
        return false;
    /* A piece that starts in this run is fetched to its end by the same worker, so that
     * one thread can hash it as it arrives and one mirror is responsible for it. */
    uint64_t stop = at + max;
    if (plan->align > 1)
        stop = (stop + plan->align - 1) / plan->align * plan->align;
    while (at + n < end && at + n < stop && missing(plan, at + n, local)) {
        take(plan, worker, at + n, now_ns);
        n++;
    }
    *first = at;
    *count = n;
    return true;
}

int fdl_plan_claim_at(struct fdl_plan *plan, int worker, uint64_t block,
                      uint64_t now_ns)
{
    if (block < plan->base)
        return -1;
    if (block >= reach_end(plan))
        return 0;
    if (!missing(plan, block, false))
        return -1;
    take(plan, worker, block, now_ns);
    return 1;
}

/* The reader of the target's own blocks is not stolen from: that would fetch them
 * again. */
static bool stealable(const struct fdl_plan *plan, uint64_t block)
{
    const struct fdl_slot *slot = fdl_plan_slot(plan, block);

    return slot->state == FDL_SLOT_CLAIMED && !slot->requested &&
           slot->hedger == FDL_NOBODY && !fdl_plan_is_local(plan, block);
}

bool fdl_plan_steal(struct fdl_plan *plan, int thief, uint32_t floor, uint64_t now_ns,
                    uint64_t *first, uint64_t *count)
{
    uint64_t end = reach_end(plan), best = 0, best_n = 0;

    for (uint64_t at = plan->base; at < end;) {
        const struct fdl_slot *slot = fdl_plan_slot(plan, at);
        uint64_t n = 0;
        if (slot->owner != thief) {
            while (at + n < end && stealable(plan, at + n) &&
                   fdl_plan_slot(plan, at + n)->owner == slot->owner)
                n++;
            if (n > best_n) {
                best = at;
                best_n = n;
            }
        }
        at += n > 0 ? n : 1;
    }
    uint64_t from = best + best_n / 2;
    if (plan->align > 1)
        from = (from + plan->align - 1) / plan->align * plan->align;
    if (best_n == 0 || from >= best + best_n || best + best_n - from < floor)
        return false;
    for (uint64_t at = from; at < best + best_n; at++)
        take(plan, thief, at, now_ns);
    *first = from;
    *count = best + best_n - from;
    return true;
}

int fdl_plan_hedge(struct fdl_plan *plan, int worker, uint64_t block, uint64_t now_ns)
{
    struct fdl_slot *slot = fdl_plan_slot(plan, block);
    int before = slot->hedger;

    slot->hedger = worker;
    slot->hedged_ns = now_ns;
    return before;
}

void fdl_plan_give_back(struct fdl_plan *plan, int worker, uint64_t block)
{
    if (!fdl_plan_in_window(plan, block))
        return;
    struct fdl_slot *slot = fdl_plan_slot(plan, block);
    if (slot->state != FDL_SLOT_CLAIMED)
        return;
    if (slot->hedger == worker) {
        slot->hedger = FDL_NOBODY;
    } else if (slot->owner == worker) {
        slot->owner = slot->hedger;
        slot->hedger = FDL_NOBODY;
        if (slot->owner == FDL_NOBODY) {
            slot->state = FDL_SLOT_EMPTY;
            slot->requested = false;
        }
    }
}

bool fdl_plan_fill(struct fdl_plan *plan, int worker, uint64_t block)
{
    if (!fdl_plan_in_window(plan, block))
        return false;
    struct fdl_slot *slot = fdl_plan_slot(plan, block);
    if (slot->state != FDL_SLOT_CLAIMED ||
        (slot->owner != worker && slot->hedger != worker))
        return false;
    slot->state = FDL_SLOT_FILLED;
    return true;
}

void fdl_plan_reject(struct fdl_plan *plan, uint64_t block)
{
    struct fdl_slot *slot = fdl_plan_slot(plan, block);
    struct fdl_buf *buf = slot->buf;
    uint64_t wrong = slot->wrong | slot->mirrors;

    slot_clear(slot);
    slot->wrong = wrong;
    fdl_buf_unref(buf);
}

void fdl_plan_release_base(struct fdl_plan *plan)
{
    struct fdl_buf *buf = fdl_plan_slot(plan, plan->base)->buf;

    slot_clear(fdl_plan_slot(plan, plan->base));
    plan->base++;
    fdl_buf_unref(buf);
}

void fdl_plan_skip_unneeded(struct fdl_plan *plan)
{
    while (plan->skip && plan->base < plan->n_blocks &&
           fdl_plan_is_skip(plan, plan->base))
        plan->base++;
}
