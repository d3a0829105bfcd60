/* SPDX-License-Identifier: Apache-2.0 */
/* http_chunked.c - instructions per chunk of a chunked body, fed as a socket would give
 * it. */
#include <string.h>

#include "driver.h"
#include "http/http.h"

#define CHUNK 16384ul
#define CHUNKS 256ul
#define FEED 65536ul

static char *body;
static size_t body_len;

unsigned long measured(void)
{
    struct fdl_http_chunked decoder;
    struct fdl_err err;
    size_t at = 0, got = 0;

    fdl_http_chunked_init(&decoder);
    while (!decoder.done) {
        size_t left = body_len - at, off = 0, len = 0;
        long took = fdl_http_chunked_feed(&decoder, body + at,
                                          left < FEED ? left : FEED, &off, &len, &err);

        EXPECT(took > 0);
        at += (size_t)took;
        got += len;
    }
    EXPECT(got == CHUNK * CHUNKS);
    return CHUNKS;
}

int main(void)
{
    static char data[CHUNK];
    char *end;

    body = malloc((CHUNK + 16) * CHUNKS + 16);
    EXPECT(body != NULL);
    end = body;
    for (unsigned long i = 0; i < CHUNKS; i++) {
        end += sprintf(end, "%lx\r\n", CHUNK);
        memcpy(end, data, CHUNK);
        end += CHUNK;
        end += sprintf(end, "\r\n");
    }
    end += sprintf(end, "0\r\n\r\n");
    body_len = (size_t)(end - body);
    printf("%lu\n", measured());
    free(body);
    return 0;
}
