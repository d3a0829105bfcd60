/* SPDX-License-Identifier: Apache-2.0 */
/* test_buf.c - the pool never grows, never hands a block out twice, and costs nothing
 * before it is used. */
#undef NDEBUG
#include "base/buf.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#define ROUNDS 5000
#define BLOCKS 8

static void blocks_are_aligned_and_disjoint(void)
{
    const size_t size = 3 * FDL_BUF_ALIGN;
    struct fdl_pool *pool = fdl_pool_new(BLOCKS, size);
    struct fdl_buf *bufs[BLOCKS];

    assert(pool && fdl_pool_block_size(pool) == size);
    for (int i = 0; i < BLOCKS; i++) {
        bufs[i] = fdl_pool_get(pool);
        assert(bufs[i] && (uintptr_t)bufs[i]->data % FDL_BUF_ALIGN == 0);
        memset(bufs[i]->data, 'a' + i, size);
    }
    for (int i = 0; i < BLOCKS; i++) {
        assert(bufs[i]->data[0] == 'a' + i && bufs[i]->data[size - 1] == 'a' + i);
        fdl_buf_unref(bufs[i]);
    }
    fdl_pool_free(pool);
}

static void an_empty_pool_says_so_and_recovers(void)
{
    struct fdl_pool *pool = fdl_pool_new(1, FDL_BUF_ALIGN);
    struct fdl_buf *buf = fdl_pool_get(pool);

    assert(buf && fdl_pool_get(pool) == NULL);
    buf->len = 7;
    buf->off = 9;
    fdl_buf_unref(buf);
    buf = fdl_pool_get(pool);
    assert(buf && buf->len == 0 && buf->off == 0);
    fdl_buf_unref(buf);
    fdl_pool_free(pool);
}

static void only_the_last_reference_returns_a_block(void)
{
    struct fdl_pool *pool = fdl_pool_new(1, FDL_BUF_ALIGN);
    struct fdl_buf *buf = fdl_pool_get(pool);

    fdl_buf_ref(buf);
    fdl_buf_unref(buf);
    assert(fdl_pool_get(pool) == NULL);
    fdl_buf_unref(buf);
    assert(fdl_pool_get(pool) == buf);
    fdl_buf_unref(buf);
    fdl_pool_free(pool);
}

static void impossible_pools_are_refused(void)
{
    assert(fdl_pool_new(0, FDL_BUF_ALIGN) == NULL);
    assert(fdl_pool_new(1, 0) == NULL);
    assert(fdl_pool_new(1, FDL_BUF_ALIGN + 512) == NULL);
    assert(fdl_pool_new(SIZE_MAX / FDL_BUF_ALIGN + 1, FDL_BUF_ALIGN) == NULL);
    assert(fdl_pool_new(SIZE_MAX / 8, FDL_BUF_ALIGN) == NULL);
    fdl_pool_free(NULL);
    fdl_buf_unref(NULL);
}

static void memory_comes_only_with_use_and_warm_blocks_come_first(void)
{
    const size_t size = 64 * FDL_BUF_ALIGN;
    struct fdl_pool *pool = fdl_pool_new(4, size);
    struct fdl_buf *first = fdl_pool_get(pool);
    struct fdl_buf *second = fdl_pool_get(pool);
    unsigned char resident[64];
    /* A system page may be larger than our alignment. */
    size_t pages = size / (size_t)sysconf(_SC_PAGESIZE);

    assert(pages >= 1 && pages <= sizeof resident);
    memset(first->data, 1, size);
    assert(mincore(second->data, size, resident) == 0);
    for (size_t i = 0; i < pages; i++)
        assert((resident[i] & 1) == 0);
    fdl_buf_unref(second);
    fdl_buf_unref(first);
    assert(fdl_pool_get(pool) == first);
    fdl_buf_unref(first);
    fdl_pool_free(pool);
}

static void a_forked_child_does_not_share_the_blocks(void)
{
    struct fdl_pool *pool = fdl_pool_new(1, FDL_BUF_ALIGN);
    struct fdl_buf *buf = fdl_pool_get(pool);
    unsigned char resident[1];
    int status;

    buf->data[0] = 1;
    pid_t child = fork();
    assert(child >= 0);
    if (child == 0) /* mincore() fails where nothing is mapped */
        _exit(mincore(buf->data, FDL_BUF_ALIGN, resident) == 0 ? 1 : 0);
    assert(waitpid(child, &status, 0) == child);
    assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    fdl_buf_unref(buf);
    fdl_pool_free(pool);
}

struct churner {
    struct fdl_pool *pool;
    unsigned char mark; /* its own in each thread */
    int taken;
};

/* Fills blocks and checks that nobody else wrote to them meanwhile. */
static void *churn(void *arg)
{
    struct churner *me = arg;

    for (int i = 0; i < ROUNDS; i++) {
        struct fdl_buf *buf = fdl_pool_get(me->pool);
        if (!buf) {
            sched_yield();
            continue;
        }
        me->taken++;
        buf->len = 64;
        memset(buf->data, me->mark, buf->len);
        fdl_buf_ref(buf);
        fdl_buf_unref(buf);
        for (size_t k = 0; k < buf->len; k++)
            assert(buf->data[k] == me->mark);
        fdl_buf_unref(buf);
    }
    return NULL;
}

static void threads_never_hold_the_same_block(void)
{
    struct fdl_pool *pool = fdl_pool_new(THREADS - 1, FDL_BUF_ALIGN);
    struct churner churners[THREADS];
    pthread_t threads[THREADS];
    int taken = 0;

    for (int i = 0; i < THREADS; i++) {
        churners[i] = (struct churner){pool, (unsigned char)('a' + i), 0};
        assert(pthread_create(&threads[i], NULL, churn, &churners[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert(pthread_join(threads[i], NULL) == 0);
        taken += churners[i].taken;
    }
    assert(taken > 0);   /* one thread may find it empty each time, but not all */
    fdl_pool_free(pool); /* asserts that each block is back */
}

static void *read_and_unref(void *arg)
{
    struct fdl_buf *buf = arg;

    for (size_t i = 0; i < buf->len; i++)
        assert(buf->data[i] == 'x');
    fdl_buf_unref(buf);
    return NULL;
}

static void a_block_filled_by_one_thread_is_read_by_others(void)
{
    struct fdl_pool *pool = fdl_pool_new(1, FDL_BUF_ALIGN);
    pthread_t threads[THREADS];

    for (int round = 0; round < 50; round++) {
        struct fdl_buf *buf = fdl_pool_get(pool);
        assert(buf);
        memset(buf->data, 'x', FDL_BUF_ALIGN);
        buf->len = FDL_BUF_ALIGN;
        for (int i = 0; i < THREADS; i++) {
            fdl_buf_ref(buf);
            assert(pthread_create(&threads[i], NULL, read_and_unref, buf) == 0);
        }
        fdl_buf_unref(buf);
        for (int i = 0; i < THREADS; i++)
            assert(pthread_join(threads[i], NULL) == 0);
    }
    fdl_pool_free(pool);
}

int main(void)
{
    blocks_are_aligned_and_disjoint();
    an_empty_pool_says_so_and_recovers();
    only_the_last_reference_returns_a_block();
    impossible_pools_are_refused();
    memory_comes_only_with_use_and_warm_blocks_come_first();
    a_forked_child_does_not_share_the_blocks();
    threads_never_hold_the_same_block();
    a_block_filled_by_one_thread_is_read_by_others();
    return 0;
}
