/* SPDX-License-Identifier: Apache-2.0 */
/* http/http_coding.c - is a Content-Encoding the transfer's, or the file's own packing?
 *
 * We request `identity`. Servers that map suffixes to codings (Apache's AddEncoding)
 * and object stores that keep what an uploader said send a coding all the same, for a
 * file that is packed and meant to stay so. A server that packs on the way sends bytes
 * that was not requested. */
#include "http/http_field.h"
#include "http/http_str.h"

#define WORDS_MAX 4

static const struct {
    enum fdl_http_coding coding;
    const char *names[WORDS_MAX]; /* of the coding */
    const char *suffixes[WORDS_MAX + 1];
    const char *types[WORDS_MAX]; /* media types, after `application/` */
    const char *magic;            /* "" where there is none */
    size_t magic_len;
} codings[] = {
    {FDL_HTTP_GZIP,
     {"gzip", "x-gzip"},
     {".gz", ".tgz", ".gzip", ".taz", ".svgz"},
     {"gzip", "x-gzip", "x-tgz", "x-gtar-compressed"},
     "\x1f\x8b",
     2},
    {FDL_HTTP_BZIP2,
     {"bzip2", "x-bzip2", "x-bzip"},
     {".bz2", ".bz", ".tbz", ".tbz2"},
     {"bzip2", "x-bzip2", "x-bzip"},
     "BZh",
     3},
    {FDL_HTTP_XZ,
     {"xz", "x-xz"},
     {".xz", ".txz"},
     {"xz", "x-xz"},
     "\xfd"
     "7zXZ",
     5},
    {FDL_HTTP_ZSTD,
     {"zstd", "x-zstd"},
     {".zst", ".zstd", ".tzst"},
     {"zstd", "x-zstd"},
     "\x28\xb5\x2f\xfd",
     4},
    {FDL_HTTP_COMPRESS,
     {"compress", "x-compress"},
     {".z", ".taz"},
     {"x-compress", "compress"},
     "\x1f\x9d",
     2},
    {FDL_HTTP_LZMA, {"lzma", "x-lzma"}, {".lzma", ".tlz"}, {"x-lzma"}, "", 0},
    {FDL_HTTP_LZIP, {"lzip", "x-lzip"}, {".lz"}, {"x-lzip", "lzip"}, "LZIP", 4},
    {FDL_HTTP_BROTLI, {"br"}, {".br"}, {"x-brotli", "brotli"}, "", 0},
};
#define N_CODINGS (sizeof codings / sizeof *codings)

/* What is sent for bytes as they are: words of other fields (a charset, a transfer
 * encoding of mail), and the framing of an upload that a store kept. */
static const char *const plain[] = {"identity", "none",  "binary",
                                    "8bit",     "utf-8", "aws-chunked"};

static enum fdl_http_coding one_coding(struct fdl_str word)
{
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (fdl_str_equals(word, plain[i]))
            return FDL_HTTP_PLAIN;
    for (size_t i = 0; i < N_CODINGS; i++)
        for (size_t k = 0; k < WORDS_MAX && codings[i].names[k]; k++)
            if (fdl_str_equals(word, codings[i].names[k]))
                return codings[i].coding;
    return FDL_HTTP_UNKNOWN_CODING;
}

enum fdl_http_coding fdl_http_coding_of(struct fdl_str value)
{
    enum fdl_http_coding all = FDL_HTTP_PLAIN;

    while (value.len > 0) {
        struct fdl_str word;
        fdl_str_split(value, ',', &word, &value);
        word = fdl_str_trim(word);
        enum fdl_http_coding one = word.len > 0 ? one_coding(word) : FDL_HTTP_PLAIN;
        if (one != FDL_HTTP_PLAIN)
            all = all == FDL_HTTP_PLAIN ? one : FDL_HTTP_UNKNOWN_CODING;
    }
    return all;
}

static bool ends_with(struct fdl_str name, const char *const *suffixes, size_t n)
{
    for (size_t i = 0; i < n && suffixes[i]; i++) {
        size_t len = strlen(suffixes[i]);
        if (name.len <= len)
            continue;
        struct fdl_str end = {name.ptr + (name.len - len), len};
        if (fdl_str_equals(end, suffixes[i]))
            return true;
    }
    return false;
}

bool fdl_http_file_is_packed(const struct fdl_http_head *head, const char *target)
{
    struct fdl_str whole = {target, strlen(target)}, path, type, rest;
    struct fdl_str name = fdl_http_value_of(head, "Content-Disposition");
    static const char group[] = "application/";

    fdl_str_split(whole, '?', &path, &rest);
    fdl_str_split(head->content_type, ';', &type, &rest);
    type = fdl_str_trim(type);
    if (name.len > 0 && name.ptr[name.len - 1] == '"')
        name.len--;
    for (size_t i = 0; i < N_CODINGS; i++) {
        if (codings[i].coding != head->coding)
            continue;
        const char *const *suffixes = codings[i].suffixes;
        if (ends_with(path, suffixes, WORDS_MAX + 1) ||
            ends_with(whole, suffixes, WORDS_MAX + 1) ||
            ends_with(name, suffixes, WORDS_MAX + 1))
            return true;
        if (type.len < sizeof group - 1 ||
            strncasecmp(type.ptr, group, sizeof group - 1) != 0)
            continue;
        struct fdl_str kind = {type.ptr + sizeof group - 1,
                               type.len - (sizeof group - 1)};
        for (size_t k = 0; k < WORDS_MAX && codings[i].types[k]; k++)
            if (fdl_str_equals(kind, codings[i].types[k]))
                return true;
    }
    return false;
}

bool fdl_http_looks_packed(enum fdl_http_coding coding, const void *start, size_t len)
{
    for (size_t i = 0; i < N_CODINGS; i++) {
        if (codings[i].coding != coding || codings[i].magic_len == 0)
            continue;
        size_t n = len < codings[i].magic_len ? len : codings[i].magic_len;
        return n > 0 && memcmp(start, codings[i].magic, n) == 0;
    }
    return false;
}
