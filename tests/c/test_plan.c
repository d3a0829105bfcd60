/* SPDX-License-Identifier: Apache-2.0 */
/* test_plan.c - whatever workers do, in any order: every block is given to somebody,
 * lowest first, nothing beyond the window, nothing counts twice; against a model too
 * naive to err. */
#undef NDEBUG
#include "job/plan.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define SEEDS 3000
#define STEPS 400
#define BLOCKS_MAX 200
#define WORKERS 6

/* One entry a block, no window arithmetic, no runs. */
struct model {
    uint64_t n, base;
    uint32_t window, reach, align;
    enum fdl_slot_state state[BLOCKS_MAX];
    int owner[BLOCKS_MAX], hedger[BLOCKS_MAX];
    bool requested[BLOCKS_MAX], local[BLOCKS_MAX], skip[BLOCKS_MAX],
        finished[BLOCKS_MAX];
};

static unsigned draw(uint64_t *x, unsigned n)
{
    *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
    return (unsigned)(*x >> 33) % n;
}

/* Of what may be claimed. */
static uint64_t model_end(const struct model *m)
{
    return m->base + m->reach < m->n ? m->base + m->reach : m->n;
}

static bool model_missing(const struct model *m, uint64_t b, bool local)
{
    return m->state[b] == FDL_SLOT_EMPTY && !m->skip[b] && m->local[b] == local &&
           !m->finished[b];
}

static void model_clear(struct model *m, uint64_t b)
{
    m->state[b] = FDL_SLOT_EMPTY;
    m->owner[b] = m->hedger[b] = FDL_NOBODY;
    m->requested[b] = false;
}

static void model_take(struct model *m, int worker, uint64_t b)
{
    m->state[b] = FDL_SLOT_CLAIMED;
    m->owner[b] = worker;
    m->requested[b] = false;
}

static void agree(const struct fdl_plan *p, const struct model *m)
{
    assert(p->base == m->base && p->n_blocks == m->n);
    assert(fdl_plan_done(p) == (m->base >= m->n));
    for (uint64_t b = 0; b < m->n; b++) {
        bool inside = b >= m->base && b < m->base + m->window;
        assert(fdl_plan_in_window(p, b) == inside);
        if (!inside) {
            assert(b < m->base || m->state[b] == FDL_SLOT_EMPTY);
            continue;
        }
        const struct fdl_slot *s = fdl_plan_slot(p, b);
        assert(s->state == m->state[b]);
        if (s->state != FDL_SLOT_CLAIMED)
            continue;
        assert(s->owner == m->owner[b] && s->hedger == m->hedger[b]);
        assert(s->requested == m->requested[b]);
        assert(s->owner != FDL_NOBODY && s->owner != s->hedger);
    }
}

static void claim(struct fdl_plan *p, struct model *m, uint64_t *x)
{
    int worker = (int)draw(x, WORKERS);
    bool local = draw(x, 4) == 0;
    uint32_t max = 1 + draw(x, 9);
    uint64_t first = 999, count = 0, want = m->base;

    while (want < model_end(m) && !model_missing(m, want, local))
        want++;
    bool got = fdl_plan_claim(p, worker, local, max, 7, &first, &count);
    assert(got == (want < model_end(m)));
    if (!got)
        return;
    assert(first == want && count >= 1); /* the lowest one */
    assert(count < max + m->align);      /* rounded up to a piece at most */
    for (uint64_t b = first; b < first + count; b++) {
        assert(b < model_end(m) && model_missing(m, b, local));
        model_take(m, worker, b);
    }
    /* It ends early only where something is in the way, or where a piece ends. */
    uint64_t end = first + count;
    assert(count >= max || end == model_end(m) || !model_missing(m, end, local));
    assert(count <= max || end % m->align == 0 || end == model_end(m) ||
           !model_missing(m, end, local));
}

static void claim_at(struct fdl_plan *p, struct model *m, uint64_t *x)
{
    uint64_t b = draw(x, (unsigned)m->n + 3);
    int got = fdl_plan_claim_at(p, 3, b, 7);

    if (b >= m->base && b < model_end(m) && model_missing(m, b, false)) {
        assert(got == 1);
        model_take(m, 3, b);
    } else {
        assert(got == (b >= model_end(m) && b >= m->base ? 0 : -1));
    }
}

static void steal(struct fdl_plan *p, struct model *m, uint64_t *x)
{
    int thief = (int)draw(x, WORKERS);
    uint32_t floor = 1 + draw(x, 3);
    uint64_t first, count, best = 0;

    for (uint64_t at = m->base; at < model_end(m); at++) {
        uint64_t n = 0;
        while (at + n < model_end(m) && m->state[at + n] == FDL_SLOT_CLAIMED &&
               m->owner[at + n] == m->owner[at] && m->owner[at] != thief &&
               m->hedger[at + n] == FDL_NOBODY && !m->requested[at + n] &&
               !m->local[at + n])
            n++;
        best = n > best ? n : best;
    }
    if (!fdl_plan_steal(p, thief, floor, 7, &first, &count)) {
        assert(m->align > 1 || best - best / 2 < floor);
        return;
    }
    assert(count >= floor && count <= best - best / 2 && count >= 1);
    assert(first % m->align == 0);
    int owner = m->owner[first];
    for (uint64_t b = first; b < first + count; b++) {
        assert(b >= m->base && b < model_end(m) && m->state[b] == FDL_SLOT_CLAIMED);
        assert(m->owner[b] == owner && owner != thief);
        assert(!m->requested[b] && m->hedger[b] == FDL_NOBODY && !m->local[b]);
        model_take(m, thief, b);
    }
}

/* What the job does to a slot by itself: a second worker, and a request. */
static void hedge_or_ask(struct fdl_plan *p, struct model *m, uint64_t *x)
{
    uint64_t b = m->base + draw(x, m->window);
    int worker = (int)draw(x, WORKERS);

    if (!fdl_plan_in_window(p, b) || m->state[b] != FDL_SLOT_CLAIMED)
        return;
    if (draw(x, 2)) {
        fdl_plan_slot(p, b)->requested = m->requested[b] = true;
    } else if (m->hedger[b] == FDL_NOBODY && m->owner[b] != worker) {
        fdl_plan_slot(p, b)->hedger = m->hedger[b] = worker;
    }
}

static void give_back(struct fdl_plan *p, struct model *m, uint64_t *x)
{
    uint64_t b = draw(x, (unsigned)m->n + 3);
    int worker = (int)draw(x, WORKERS);

    fdl_plan_give_back(p, worker, b);
    if (b >= m->n || m->state[b] != FDL_SLOT_CLAIMED)
        return;
    if (m->hedger[b] == worker) {
        m->hedger[b] = FDL_NOBODY;
    } else if (m->owner[b] == worker) {
        m->owner[b] = m->hedger[b]; /* the hedger inherits */
        m->hedger[b] = FDL_NOBODY;
        if (m->owner[b] == FDL_NOBODY)
            model_clear(m, b);
    }
}

static void fill(struct fdl_plan *p, struct model *m, uint64_t *x)
{
    uint64_t b = draw(x, (unsigned)m->n + 3);
    int worker = (int)draw(x, WORKERS);
    bool may = b < m->n && m->state[b] == FDL_SLOT_CLAIMED &&
               (m->owner[b] == worker || m->hedger[b] == worker);

    assert(fdl_plan_fill(p, worker, b) == may);
    if (may)
        m->state[b] = FDL_SLOT_FILLED;
}

static void check(struct fdl_plan *p, struct model *m, uint64_t *x)
{
    uint64_t b = m->base + draw(x, m->window);

    if (b >= m->n || m->state[b] != FDL_SLOT_FILLED)
        return;
    if (draw(x, 4)) {
        fdl_plan_slot(p, b)->state = m->state[b] = FDL_SLOT_VERIFIED;
    } else {
        fdl_plan_reject(p, b);
        if (m->local[b] && draw(x, 2)) {
            fdl_plan_unmark_local(p, b);
            m->local[b] = false;
        }
        model_clear(m, b);
    }
}

static void release(struct fdl_plan *p, struct model *m)
{
    fdl_plan_skip_unneeded(p);
    while (m->base < m->n && m->skip[m->base])
        m->base++;
    while (m->base < m->n && m->state[m->base] == FDL_SLOT_VERIFIED) {
        m->finished[m->base] = true;
        model_clear(m, m->base);
        m->base++;
        fdl_plan_release_base(p);
    }
    fdl_plan_skip_unneeded(p);
    while (m->base < m->n && m->skip[m->base])
        m->base++;
}

/* Only where blocks are out of reach, and the lowest is not there yet. */
static void reach_farther(struct fdl_plan *p, struct model *m, uint64_t *x)
{
    bool waits = m->base < m->n && m->state[m->base] < FDL_SLOT_FILLED;

    assert(fdl_plan_is_held(p) ==
           (waits && m->reach < m->window && model_end(m) < m->n));
    if (!fdl_plan_is_held(p) || draw(x, 20))
        return;
    fdl_plan_reach_farther(p);
    assert(p->reach > m->reach && p->reach <= m->window);
    m->reach = p->reach;
}

/* What a pass over many pieces waits for: whoever fetches, and whoever may begin to. */
static void a_block_is_expected_while_one_is_fetched_or_may_be(void)
{
    struct fdl_plan p;
    uint64_t first, count;

    assert(fdl_plan_init(&p, 68, 64, 1) == 0);
    assert(fdl_plan_expects(&p));
    assert(fdl_plan_claim(&p, 0, false, 63, 1, &first, &count) && count == 63);
    for (uint64_t b = 0; b < 62; b++)
        assert(fdl_plan_fill(&p, 0, b));
    assert(fdl_plan_expects(&p));
    assert(fdl_plan_fill(&p, 0, 62));
    /* One is missing: too little for a request while more are to become free. */
    assert(!fdl_plan_has_room(&p, 4) && !fdl_plan_expects(&p));
    fdl_plan_reject(&p, 62);
    fdl_plan_reject(&p, 61);
    assert(fdl_plan_expects(&p));
    assert(fdl_plan_claim(&p, 1, false, 4, 2, &first, &count) && count == 3);
    assert(fdl_plan_expects(&p));
    for (uint64_t b = 61; b < 64; b++)
        assert(fdl_plan_fill(&p, 1, b));
    assert(!fdl_plan_expects(&p));
    fdl_plan_destroy(&p);
}

static void any_order_of_events_agrees_with_the_model(void)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15);
        struct model m = {.n = draw(&x, BLOCKS_MAX), .window = 1 + draw(&x, 40)};
        struct fdl_plan p;

        m.align = draw(&x, 2) ? 1 : 1 + draw(&x, 5);
        assert(fdl_plan_init(&p, m.n, m.window, m.align) == 0);
        assert(p.reach == m.window);
        p.reach = m.reach = 1 + draw(&x, m.window);
        for (uint64_t b = 0; b < BLOCKS_MAX; b++)
            model_clear(&m, b);
        bool sparse = draw(&x, 2);
        for (uint64_t b = 0; sparse && b < m.n; b++) {
            m.skip[b] = draw(&x, 5) == 0;
            m.local[b] = !m.skip[b] && draw(&x, 5) == 0;
            assert(!m.skip[b] || fdl_plan_mark_skip(&p, b) == 0);
            assert(!m.local[b] || fdl_plan_mark_local(&p, b) == 0);
        }
        assert(fdl_plan_mark_skip(&p, m.n) == -1);
        release(&p, &m);
        for (int step = 0; step < STEPS; step++) {
            switch (draw(&x, 9)) {
            case 0:
                claim(&p, &m, &x);
                break;
            case 1:
                steal(&p, &m, &x);
                break;
            case 2:
                hedge_or_ask(&p, &m, &x);
                break;
            case 3:
                give_back(&p, &m, &x);
                break;
            case 4:
                claim_at(&p, &m, &x);
                break;
            case 5:
                check(&p, &m, &x);
                release(&p, &m);
                break;
            case 6:
                reach_farther(&p, &m, &x);
                break;
            default:
                fill(&p, &m, &x);
                break;
            }
            if (step % 16 == 0)
                agree(&p, &m);
        }
        agree(&p, &m);
        fdl_plan_destroy(&p);
    }
}

/* The piece that `block` is part of is verified with its last block. */
static void verify_piece(struct fdl_plan *p, uint64_t block)
{
    uint64_t first = block / p->align * p->align, end = first + p->align;

    if (end > p->n_blocks)
        end = p->n_blocks;
    for (uint64_t b = first; b < end; b++)
        if (b < p->base || !fdl_plan_in_window(p, b) ||
            fdl_plan_slot(p, b)->state != FDL_SLOT_FILLED)
            return;
    for (uint64_t b = first; b < end; b++)
        fdl_plan_slot(p, b)->state = FDL_SLOT_VERIFIED;
}

/* Three workers of different speed that fail now and then, and wait for room: nothing
 * is left out, and nobody waits for ever. */
static void every_block_gets_done_in_the_end(void)
{
    for (uint64_t seed = 1; seed <= 300; seed++) {
        uint64_t x = seed * UINT64_C(0xD1342543DE82EF95);
        uint64_t n = 1 + draw(&x, 500), first, count, at[3] = {0}, end[3] = {0};
        unsigned char times[501] = {0};
        struct fdl_plan p;
        int rounds = 0;

        uint32_t align = 1 + draw(&x, 4);
        assert(fdl_plan_init(&p, n, 4 * align + draw(&x, 150), align) == 0);
        while (!fdl_plan_done(&p)) {
            int w = (int)draw(&x, 3);
            assert(++rounds < 100000);
            if (at[w] == end[w]) {
                uint32_t max = 1 + draw(&x, 8);
                if (!fdl_plan_has_room(&p, max))
                    continue;
                if (fdl_plan_claim(&p, w, false, max, 0, &first, &count) ||
                    fdl_plan_steal(&p, w, 1, 0, &first, &count)) {
                    at[w] = first;
                    end[w] = first + count;
                }
                continue;
            }
            if (draw(&x, 10) == 0) { /* its connection was cut */
                for (; at[w] < end[w]; at[w]++)
                    fdl_plan_give_back(&p, w, at[w]);
                continue;
            }
            if (fdl_plan_fill(&p, w, at[w])) {
                times[at[w]]++;
                verify_piece(&p, at[w]);
            }
            at[w]++;
            while (!fdl_plan_done(&p) &&
                   fdl_plan_slot(&p, p.base)->state == FDL_SLOT_VERIFIED)
                fdl_plan_release_base(&p);
        }
        for (uint64_t b = 0; b < n; b++)
            assert(times[b] == 1);
        fdl_plan_destroy(&p);
    }
}

static void an_unknown_end_can_be_set_later(void)
{
    struct fdl_plan p;
    uint64_t first, count;

    assert(fdl_plan_init(&p, FDL_BLOCKS_UNKNOWN, 4, 1) == 0);
    assert(fdl_plan_mark_skip(&p, 0) == -1);
    assert(fdl_plan_claim(&p, 0, false, 100, 0, &first, &count) && first == 0 &&
           count == 4);
    assert(
        !fdl_plan_claim(&p, 1, false, 1, 0, &first, &count)); /* the window is full */
    p.n_blocks = 2;
    assert(!fdl_plan_fill(&p, 0, 2) && fdl_plan_fill(&p, 0, 0) &&
           fdl_plan_fill(&p, 0, 1));
    fdl_plan_release_base(&p);
    fdl_plan_release_base(&p);
    assert(fdl_plan_done(&p));
    fdl_plan_destroy(&p);
}

int main(void)
{
    a_block_is_expected_while_one_is_fetched_or_may_be();
    any_order_of_events_agrees_with_the_model();
    every_block_gets_done_in_the_end();
    an_unknown_end_can_be_set_later();
    return 0;
}
