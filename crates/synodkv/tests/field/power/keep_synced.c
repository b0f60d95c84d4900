/* Keeps what a process has synchronised, as a disk would have it after a loss of power. Loaded with LD_PRELOAD.
 *
 * POWER_ROOT is the directory that is watched, POWER_STORE where it is kept:
 *   f-KEY  the content of a file when it was last synchronised, and what was written with O_DSYNC after that
 *   d-KEY  the entries of a directory when it was last synchronised, one per line: KEY, d or f, name
 * KEY is the inode's number with the time of its birth, since numbers are used again. What was written and not synchronised
 * is lost, and so is what was created, renamed or removed in a directory that was not. That is the least that a file system
 * promises.
 *
 * A record is complete before the call returns, so whoever is told that something is durable finds it there.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *what)
{
    dprintf(2, "keep_synced: %s: %s\n", what, strerror(errno));
    abort();
}

/* Returns 'd', 'f', or 0 for anything else and for what is gone. */
static char key_of(int at, const char *name, char *key, size_t size)
{
    struct statx st;
    int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
    if (statx(at, name, flags, STATX_TYPE | STATX_INO | STATX_BTIME, &st) != 0)
        return 0;
    snprintf(key, size, "%llu-%lld-%u", (unsigned long long)st.stx_ino, (long long)st.stx_btime.tv_sec,
             st.stx_btime.tv_nsec);
    return S_ISDIR(st.stx_mode) ? 'd' : S_ISREG(st.stx_mode) ? 'f' : 0;
}

static void keep_entries(const char *path, FILE *record)
{
    DIR *dir = opendir(path);
    if (dir == NULL)
        fail("opendir");
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char key[80];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char kind = key_of(dirfd(dir), entry->d_name, key, sizeof key);
        if (kind != 0)
            fprintf(record, "%s %c %s\n", key, kind, entry->d_name);
    }
    closedir(dir);
}

static void keep_content(const char *path, FILE *record)
{
    char buffer[1 << 16];
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        fail("open");
    ssize_t count;
    while ((count = read(from, buffer, sizeof buffer)) > 0)
        if (fwrite(buffer, 1, count, record) != (size_t)count)
            fail("fwrite");
    if (count < 0)
        fail("read");
    close(from);
}

static void copy_record(const char *from, FILE *record)
{
    if (access(from, F_OK) == 0)
        keep_content(from, record);
}

/* Keeps the file or directory at `fd`; of a file, only `count` bytes at `offset` if `bytes` is not NULL. */
static void keep(int fd, const void *bytes, size_t count, off_t offset)
{
    const char *root = getenv("POWER_ROOT"), *store = getenv("POWER_STORE");
    char link[64], path[PATH_MAX], key[80], name[PATH_MAX], draft[PATH_MAX];
    if (root == NULL || store == NULL)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || strncmp(path, root, strlen(root)) != 0)
        return;
    char kind = key_of(fd, "", key, sizeof key);
    if (kind == 0)
        return;
    snprintf(name, sizeof name, "%s/%c-%s", store, kind, key);
    pthread_mutex_lock(&lock);
    snprintf(draft, sizeof draft, "%s/draft-%d", store, (int)getpid());
    FILE *record = fopen(draft, "we");
    if (record == NULL)
        fail("fopen");
    if (kind == 'd')
        keep_entries(link, record);
    else if (bytes != NULL) {
        copy_record(name, record);
        if (fseeko(record, offset, SEEK_SET) != 0 || fwrite(bytes, 1, count, record) != count)
            fail("fwrite");
    } else
        keep_content(link, record);
    if (fclose(record) != 0 || rename(draft, name) != 0)
        fail("rename");
    pthread_mutex_unlock(&lock);
}

int fsync(int fd)
{
    static int (*real)(int);
    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int result = real(fd), error = errno;
    if (result == 0)
        keep(fd, NULL, 0, 0);
    errno = error;
    return result;
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd), error = errno;
    if (result == 0)
        keep(fd, NULL, 0, 0);
    errno = error;
    return result;
}

/* A write to a descriptor with O_DSYNC is durable when it returns, and says nothing of earlier writes. */
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (real == NULL)
        real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    ssize_t result = real(fd, bytes, count, offset);
    int error = errno, flags = fcntl(fd, F_GETFL);
    if (result > 0 && flags >= 0 && (flags & O_DSYNC) != 0)
        keep(fd, bytes, (size_t)result, offset);
    errno = error;
    return result;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    return pwrite64(fd, bytes, count, offset);
}
