/* SPDX-License-Identifier: Apache-2.0 */
/* replay.c - main() for a fuzz target without libFuzzer: runs each file of a corpus
 * once.
 *
 * Usage: fuzz_<parser> DIRECTORY-OR-FILE...   Fails where there is nothing to replay.
 */
#include "replay.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void die(const char *path, const char *why)
{
    fprintf(stderr, "%s: %s\n", path, why);
    exit(1);
}

/* The input gets a block of exactly its size, so that the sanitizer sees each overrun.
 */
static int replay_file(const char *path)
{
    struct stat st;
    FILE *file = fopen(path, "rb");

    if (!file || fstat(fileno(file), &st) != 0)
        die(path, "cannot be opened");
    size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size);
    if (!data && size > 0)
        die(path, "no memory");
    if (fread(data, 1, size, file) != size)
        die(path, "cannot be read");
    fclose(file);
    fprintf(stderr, "%s\n", path); /* before: a crash names its input */
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

static int replay_path(const char *path)
{
    struct stat st;
    int n = 0;

    if (stat(path, &st) != 0)
        die(path, "no such corpus");
    if (!S_ISDIR(st.st_mode))
        return replay_file(path);

    DIR *dir = opendir(path);
    if (!dir)
        die(path, "cannot be listed");
    for (struct dirent *entry; (entry = readdir(dir));) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        int len = snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (len < 0 || (size_t)len >= sizeof name)
            die(path, "name is too long");
        n += replay_file(name);
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;

    for (int i = 1; i < argc; i++)
        n += replay_path(argv[i]);
    if (n == 0) {
        fprintf(stderr, "%s: nothing to replay\n", argv[0]);
        return 1;
    }
    printf("%d inputs replayed\n", n);
    return 0;
}
