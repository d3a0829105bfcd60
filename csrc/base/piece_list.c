/* SPDX-License-Identifier: Apache-2.0 */
#include "base/piece_list.h"

#include <stdlib.h>

struct fdl_piece_list {
    struct fdl_hash *hash; /* OWNED; the piece that has been begun */
    size_t digest_len;
    uint64_t piece, came; /* bytes of a piece, and of the begun one so far */
    unsigned char *digests;
    size_t n, room; /* digests */
};

int fdl_piece_list_new(struct fdl_piece_list **out, enum fdl_hash_alg alg,
                       uint64_t piece, struct fdl_err *err)
{
    struct fdl_piece_list *list = calloc(1, sizeof *list);

    *out = NULL;
    if (!list)
        return fdl_nomem(err, "a list of pieces");
    int rc = fdl_hash_new(&list->hash, alg, err);
    if (rc != FDL_OK) {
        free(list);
        return rc;
    }
    list->digest_len = fdl_hash_len(alg);
    list->piece = piece;
    *out = list;
    return FDL_OK;
}

static int complete(struct fdl_piece_list *list, struct fdl_err *err)
{
    if (list->n == FDL_PIECE_LIST_MAX)
        return fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "a file has too many pieces");
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 64;
        unsigned char *more = realloc(list->digests, room * list->digest_len);
        if (!more)
            return fdl_nomem(err, "a list of pieces");
        list->digests = more;
        list->room = room;
    }
    fdl_hash_final(list->hash, list->digests + list->n++ * list->digest_len);
    list->came = 0;
    return FDL_OK;
}

int fdl_piece_list_feed(struct fdl_piece_list *list, struct fdl_hash *whole,
                        const void *buf, size_t len, struct fdl_err *err)
{
    const unsigned char *from = buf;

    while (len > 0) {
        uint64_t left = list->piece - list->came;
        size_t n = len < left ? len : (size_t)left;

        fdl_hash_update_two(whole, from, list->hash, from, n);
        list->came += n;
        from += n;
        len -= n;
        int rc = list->came == list->piece ? complete(list, err) : FDL_OK;
        if (rc != FDL_OK) {
            fdl_hash_update(whole, from, len);
            return rc;
        }
    }
    return FDL_OK;
}

int fdl_piece_list_end(struct fdl_piece_list *list, const unsigned char **digests,
                       size_t *n, struct fdl_err *err)
{
    int rc = list->came > 0 ? complete(list, err) : FDL_OK;

    *digests = list->digests;
    *n = list->n;
    return rc;
}

void fdl_piece_list_free(struct fdl_piece_list *list)
{
    if (!list)
        return;
    fdl_hash_free(list->hash);
    free(list->digests);
    free(list);
}
