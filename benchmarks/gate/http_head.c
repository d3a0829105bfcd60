/* SPDX-License-Identifier: Apache-2.0 */
/* http_head.c - instructions to check one answer to a ranged GET, Content-Range
 * included. */
#include <string.h>

#include "driver.h"
#include "http/http.h"

static const char head[] = "HTTP/1.1 206 Partial Content\r\n"
                           "Server: nginx/1.22.1\r\n"
                           "Date: Sun, 06 Nov 2022 08:49:37 GMT\r\n"
                           "Content-Type: application/octet-stream\r\n"
                           "Content-Length: 8388608\r\n"
                           "Last-Modified: Sat, 05 Nov 2022 08:49:37 GMT\r\n"
                           "Connection: keep-alive\r\n"
                           "ETag: \"63662201-40000000\"\r\n"
                           "Content-Range: bytes 16777216-25165823/1073741824\r\n"
                           "Cache-Control: max-age=3600\r\n"
                           "X-Cache: HIT\r\n"
                           "\r\n";

unsigned long measured(void)
{
    static struct fdl_http_head out;
    struct fdl_err err;
    unsigned long n;

    for (n = 0; n < 2000; n++) {
        long took = fdl_http_parse_head(head, sizeof(head) - 1, &out, &err);

        EXPECT(took == (long)sizeof(head) - 1);
        EXPECT(out.has_range && out.range.first == 16777216);
    }
    return n;
}

int main(void)
{
    printf("%lu\n", measured());
    return 0;
}
