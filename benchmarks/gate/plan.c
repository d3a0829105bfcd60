/* SPDX-License-Identifier: Apache-2.0 */
/* plan.c - instructions per block: claim, request, fill, release, with four workers
 * that finish out of order and steal when nothing is left to claim. */
#include "driver.h"
#include "job/plan.h"

#define BLOCKS 8192ul
#define WINDOW 64u
#define WORKERS 4
#define RUN 8u

static struct fdl_plan plan;

/* One turn of a worker: one run of blocks is claimed (or stolen) and filled. */
static bool turn(int worker)
{
    uint64_t first = 0, count = 0;

    if (!fdl_plan_claim(&plan, worker, false, RUN, 0, &first, &count) &&
        !fdl_plan_steal(&plan, worker, 1, 0, &first, &count))
        return false;
    for (uint64_t block = first; block < first + count; block++) {
        fdl_plan_slot(&plan, block)->requested = true;
        EXPECT(fdl_plan_fill(&plan, worker, block));
    }
    return true;
}

static void release(void)
{
    while (!fdl_plan_done(&plan) &&
           fdl_plan_slot(&plan, plan.base)->state == FDL_SLOT_FILLED)
        fdl_plan_release_base(&plan);
}

unsigned long measured(void)
{
    unsigned long turns = 0;

    while (!fdl_plan_done(&plan)) {
        for (int worker = WORKERS - 1; worker >= 0; worker--)
            turn(worker);
        release();
        EXPECT(++turns <= BLOCKS);
    }
    return BLOCKS;
}

int main(void)
{
    EXPECT(fdl_plan_init(&plan, BLOCKS, WINDOW, 1) == 0);
    printf("%lu\n", measured());
    fdl_plan_destroy(&plan);
    return 0;
}
