/* SPDX-License-Identifier: Apache-2.0 */
/* http_request.c - instructions to write one ranged GET. */
#include "driver.h"
#include "http/http.h"

unsigned long measured(void)
{
    static char out[4096];
    struct fdl_err err;
    struct fdl_http_request request = {
        .target = "/templates/debian-12-generic-amd64.qcow2",
        .host = "mirror.example.net",
        .ranged = true,
        .if_range = "\"63662201-40000000\"",
        .user_agent = "fastdl",
    };
    unsigned long n;

    for (n = 0; n < 2000; n++) {
        request.first = n * 8388608;
        request.last = request.first + 8388607;
        EXPECT(fdl_http_render_get(&request, out, sizeof(out), &err) > 0);
    }
    return n;
}

int main(void)
{
    printf("%lu\n", measured());
    return 0;
}
