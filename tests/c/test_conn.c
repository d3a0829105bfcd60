/* SPDX-License-Identifier: Apache-2.0 */
/* test_conn.c - a thread that waits for many bytes at once sleeps through what is on
 * its way, and through nothing else: not a slow server, an end, silence or a stop.
 *
 * The sockets are real. Time is not: while the connection waits, the server sends what
 * is due by then, so that what happens does not depend on how busy the machine is. */
#undef NDEBUG
#include "base/clock.h"
#include "net/conn_priv.h"

#include <arpa/inet.h>
#include <assert.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define MS FDL_NS_PER_MS
#define LATE_NS (3 * MS)
#define STALL_MS 5000

/* A server that sends `piece` bytes each gap_ns until `left` have gone. */
static struct {
    int fd;
    size_t piece, left;
    uint64_t gap_ns, next_ns;
    bool closes, closed; /* the end follows the last byte */
    bool stops;          /* the transfer is cancelled instead of the next piece */
    size_t unread;       /* on its way or in the receiver's socket */
    uint64_t unread_since;
} server;

static struct fdl_net *net;
static struct fdl_wakeup wakeup;
static struct fdl_conn *conn;
static struct fdl_err err;
static char memory[512 << 10];
static uint64_t now_ns = FDL_NS_PER_S;
static int waits;

/* Instead of the C library's, for the core alone: it is linked to this file. */
int clock_gettime(clockid_t id, struct timespec *ts)
{
    (void)id;
    *ts = fdl_timespec(now_ns);
    return 0;
}

static bool is_ready(struct pollfd *fds, nfds_t n)
{
    int ready = ppoll(fds, n, &(struct timespec){0}, NULL);
    assert(ready >= 0);
    return ready > 0;
}

/* Returns when the receiver has it, or is woken before (its window is full). */
static void arrive(struct pollfd *fds, nfds_t n)
{
    struct pollfd end = {.fd = conn->sock, .events = POLLRDHUP};
    int here = 0;

    for (int i = 0; i < 100000; i++) {
        assert(ioctl(conn->sock, SIOCINQ, &here) == 0);
        if (((size_t)here == server.unread && (!server.closed || is_ready(&end, 1))) ||
            is_ready(fds, n))
            return;
        usleep(100);
    }
    assert(!"what was sent to loopback arrives");
}

static void send_next(struct pollfd *fds, nfds_t n)
{
    size_t len = server.piece < server.left ? server.piece : server.left;

    if (server.stops) {
        server.stops = false;
        fdl_wakeup_cancel(&wakeup);
        return;
    }
    if (len == 0) {
        assert(shutdown(server.fd, SHUT_WR) == 0);
        server.closed = true;
    } else {
        assert(send(server.fd, memory, len, MSG_NOSIGNAL) == (ssize_t)len);
        if (server.unread == 0)
            server.unread_since = now_ns;
        server.left -= len;
        server.unread += len;
        server.next_ns = now_ns + server.gap_ns;
    }
    arrive(fds, n);
}

/* Instead of the C library's, as well. */
int poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    uint64_t until = now_ns + (uint64_t)timeout_ms * MS;

    waits++;
    for (;;) {
        bool more =
            server.left > 0 || server.stops || (server.closes && !server.closed);
        if (is_ready(fds, n))
            return ppoll(fds, n, &(struct timespec){0}, NULL);
        if (!more || server.next_ns > until) {
            now_ns = until;
            return 0;
        }
        if (server.next_ns > now_ns)
            now_ns = server.next_ns;
        send_next(fds, n);
    }
}

static void connect_to_server(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    static struct fdl_conn_times times;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char url[64];

    assert(listener >= 0 && bind(listener, (struct sockaddr *)&sa, sizeof sa) == 0 &&
           listen(listener, 1) == 0 &&
           getsockname(listener, (struct sockaddr *)&sa, &len) == 0);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", ntohs(sa.sin_port));
    net = fdl_net_new();
    assert(net && fdl_wakeup_init(&wakeup, &err) == FDL_OK);
    net->connect_timeout_ms = 10000;
    net->stall_timeout_ms = STALL_MS;
    const struct fdl_target_host host = {.base_url = url, .host = "127.0.0.1"};
    assert(fdl_conn_open(&conn, net, &host, &wakeup, &times, &err) == FDL_OK);
    memset(&server, 0, sizeof server);
    server.fd = accept(listener, NULL, NULL);
    assert(server.fd >= 0);
    assert(setsockopt(server.fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) ==
           0);
    close(listener);
    waits = 0;
}

static void hang_up(void)
{
    close(server.fd);
    fdl_conn_close(conn);
    fdl_wakeup_destroy(&wakeup);
    fdl_net_free(net);
}

static void sends(size_t bytes, size_t piece, uint64_t gap_ns)
{
    server.left = bytes;
    server.piece = piece;
    server.gap_ns = gap_ns;
    server.next_ns = now_ns + gap_ns;
}

/* Receives some of the `due` bytes, which nobody let lie for longer than late_ns. */
static size_t receive(size_t due, uint64_t late_ns)
{
    size_t len = due < sizeof memory ? due : sizeof memory;
    long n = fdl_conn_recv(conn, memory, len, due, &err);

    assert(n > 0 && (size_t)n <= server.unread);
    assert(now_ns - server.unread_since <= late_ns);
    server.unread -= (size_t)n;
    server.unread_since = now_ns;
    return (size_t)n;
}

static void receive_all(size_t bytes, uint64_t late_ns)
{
    while (bytes > 0)
        bytes -= receive(bytes, late_ns);
}

/* Of what comes at a GB/s a quarter MiB takes no time. Nothing of it is left, and of
 * the body there are so many bytes `more` to come. */
static void make_it_wait_for_many(size_t more)
{
    connect_to_server();
    sends(SIZE_MAX, 4 * KIB, 4000);
    for (size_t bytes = 0; bytes < 4 * MIB;)
        bytes += receive(more + 4 * MIB, LATE_NS);
    server.left = 0;
    while (server.unread > 0)
        receive(more + MIB, 0);
    assert(conn->batch >= 128 * KIB);
}

static void a_fast_server_wakes_it_seldom(void)
{
    connect_to_server();
    sends(32 * MIB, 4 * KIB, 4000);
    receive_all(32 * MIB, LATE_NS);
    if (getenv("VERBOSE"))
        fprintf(stderr, "%d waits for 8192 pieces\n", waits);
    assert((size_t)waits <= 32 * MIB / (64 * KIB));
    hang_up();
}

static void what_a_slow_server_sends_is_read_at_once(void)
{
    static const size_t pieces[] = {1, 1448, 10 * KIB, 100 * KIB};
    static const uint64_t gaps_us[] = {10, 300, 900, 1100, 2900, 3100, 4000, 50000};

    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        for (size_t g = 0; g < sizeof gaps_us / sizeof *gaps_us; g++) {
            size_t due = MIB + 50 * pieces[p];
            make_it_wait_for_many(due);
            sends(50 * pieces[p], pieces[p], gaps_us[g] * 1000);
            while (server.left > 0 || server.unread > 0)
                due -= receive(due, LATE_NS);
            hang_up();
        }
    }
}

/* The last bytes, and the head of the next response, of which nobody knows how much
 * will come. */
static void the_end_of_a_body_is_not_waited_for(void)
{
    make_it_wait_for_many(100 * KIB);
    sends(100 * KIB, KIB, MS);
    receive_all(100 * KIB, 0);
    for (int head = 0; head < 3; head++) {
        sends(200, 200, 100 * MS);
        assert(receive(1, 0) == 1);
        while (server.unread > 0)
            receive(1, 0);
        sends(MIB, 4 * KIB, 4000);
        receive_all(MIB, LATE_NS);
    }
    hang_up();
}

static void a_connection_that_is_closed_early_ends_at_once(void)
{
    uint64_t from;

    make_it_wait_for_many(100 * MIB);
    server.closes = true;
    sends(10, 10, 0);
    from = now_ns;
    assert(receive(100 * MIB, 0) == 10);
    assert(fdl_conn_recv(conn, memory, 1, 100 * MIB, &err) == 0);
    assert(now_ns == from);
    hang_up();
}

/* And the thread sleeps in the meantime: a slice is 200 ms. */
static void silence_after_a_burst_is_a_stall(void)
{
    uint64_t from;

    make_it_wait_for_many(100 * MIB);
    conn->stall_since_ns = from = now_ns;
    conn->stall_bytes = 0;
    sends(4 * KIB, 4 * KIB, 0);
    assert(receive(100 * MIB, LATE_NS) == 4 * KIB);
    waits = 0;
    assert(fdl_conn_recv(conn, memory, 1, 100 * MIB, &err) == FDL_E_NET);
    assert(now_ns - from >= STALL_MS * MS);
    assert(now_ns - from <= (STALL_MS + FDL_CONN_WAIT_SLICE_MS) * MS);
    assert(waits <= STALL_MS / FDL_CONN_WAIT_SLICE_MS + 2);
    hang_up();
}

static void a_wait_for_many_bytes_is_cancelled(void)
{
    make_it_wait_for_many(100 * MIB);
    server.stops = true;
    server.next_ns = now_ns + MS;
    assert(fdl_conn_recv(conn, memory, 1, 100 * MIB, &err) == FDL_E_CANCELLED);
    assert(now_ns == server.next_ns);
    hang_up();
}

int main(void)
{
    a_fast_server_wakes_it_seldom();
    what_a_slow_server_sends_is_read_at_once();
    the_end_of_a_body_is_not_waited_for();
    a_connection_that_is_closed_early_ends_at_once();
    silence_after_a_burst_is_a_stall();
    a_wait_for_many_bytes_is_cancelled();
    return 0;
}
