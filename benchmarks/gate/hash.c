/* SPDX-License-Identifier: Apache-2.0 */
/* hash.c - what does SHA-256 cost: instructions, and how much a second chain adds?
 *
 * callgrind knows no SHA instructions, so the real processor is stepped through them
 * (ptrace(2)). Instructions do not show that two chains run side by side: the time of
 * two chains over that of one, in the same process and moment, does. Prints a line for
 * each: name and number. Instructions are those of 1 KiB of every chain. */
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "driver.h"

#define SMALL (4u << 10)
#define LARGE (12u << 10)
#define TIMED (256u << 10)
#define ROUNDS 400

typedef void task(size_t len);

static unsigned char data[2 * TIMED];
static struct fdl_hash *first, *second;

static void one(size_t len)
{
    fdl_hash_update(first, data, len);
}

/* A piece's and the whole file's chain. */
static void two_over_the_same(size_t len)
{
    fdl_hash_update_two(first, data, second, data, len);
}

/* Pieces that lie one after the other. */
static void two_over_different(size_t len)
{
    const unsigned char *const pieces[] = {data, data + len};
    unsigned char out[2 * FDL_HASH_MAX];

    fdl_hash_many(first, pieces, len, 2, out);
}

static unsigned long steps_of(task *task, size_t len)
{
    unsigned long steps = 0;
    int status = 0;
    pid_t pid = fork();

    EXPECT(pid >= 0);
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0 || raise(SIGSTOP) != 0)
            _exit(1);
        task(len);
        _exit(0);
    }
    EXPECT(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
    while (WIFSTOPPED(status)) {
        EXPECT(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0);
        EXPECT(waitpid(pid, &status, 0) == pid);
        steps++;
    }
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return steps;
}

/* What comes with every call drops out between two lengths. */
static double instructions(task *task)
{
    double more = (double)steps_of(task, LARGE) - (double)steps_of(task, SMALL);

    return more / ((LARGE - SMALL) / 1024.0);
}

static double seconds_of(task *task)
{
    struct timespec from, to;

    clock_gettime(CLOCK_MONOTONIC, &from);
    task(TIMED);
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (double)(to.tv_sec - from.tv_sec) +
           (double)(to.tv_nsec - from.tv_nsec) / 1e9;
}

/* The shortest of many, taken alternately: what else runs here only ever adds. */
static double times_as_long(task *task)
{
    double best = 1e9, best_of_one = 1e9;

    for (int i = 0; i < ROUNDS; i++) {
        double took = seconds_of(task), took_one = seconds_of(one);

        best = took < best ? took : best;
        best_of_one = took_one < best_of_one ? took_one : best_of_one;
    }
    return best / best_of_one;
}

int main(void)
{
    struct fdl_err err;

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 167 + (i >> 8));
    EXPECT(fdl_hash_new(&first, FDL_HASH_SHA256, &err) == 0);
    EXPECT(fdl_hash_new(&second, FDL_HASH_SHA256, &err) == 0);
    one(LARGE); /* what is looked up once, before it is counted */
    printf("instructions.hash_one %.1f\n", instructions(one));
    printf("instructions.hash_two %.1f\n", instructions(two_over_the_same));
    printf("hash.two_over_one %.3f\n", times_as_long(two_over_the_same));
    printf("hash.two_pieces_over_one %.3f\n", times_as_long(two_over_different));
    fdl_hash_free(first);
    fdl_hash_free(second);
    return 0;
}
