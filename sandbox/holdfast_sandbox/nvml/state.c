/* The state file: lines `KEY VALUE`, `#` begins a comment, the last line of a key counts. Read anew whenever it changed. */
#define _GNU_SOURCE
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE_BYTES (1u << 20)
#define MAX_KEY_BYTES 128

struct entry {
    const char *key;
    const char *value;
    size_t line;
};

static char path[PATH_MAX];
static struct stat seen;
static char *text;
static struct entry *entries;
static size_t entry_count;
static unsigned long long generation;

static int by_key(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    int order = strcmp(a->key, b->key);
    return order ? order : (a->line > b->line) - (a->line < b->line);
}

static void forget(void)
{
    free(entries);
    free(text);
    entries = NULL;
    text = NULL;
    entry_count = 0;
}

static char *read_all(int fd, size_t *length)
{
    char *buffer = malloc(MAX_FILE_BYTES + 1);
    size_t filled = 0;
    ssize_t got = 0;

    if (!buffer)
        return NULL;
    while (filled < MAX_FILE_BYTES) {
        got = read(fd, buffer + filled, MAX_FILE_BYTES - filled);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        filled += (size_t)got;
    }
    if (got < 0 || filled >= MAX_FILE_BYTES) {
        free(buffer);
        return NULL;
    }
    buffer[filled] = '\0';
    *length = filled;
    return buffer;
}

/* Splits one line in place; 0: it says nothing. */
static int split(char *line, struct entry *entry)
{
    char *value, *end;

    line += strspn(line, " \t\r");
    if (*line == '\0' || *line == '#')
        return 0;
    entry->key = line;
    value = line + strcspn(line, " \t\r");
    if (*value)
        *value++ = '\0';
    value += strspn(value, " \t\r");
    end = value + strlen(value);
    while (end > value && strchr(" \t\r", end[-1]))
        *--end = '\0';
    entry->value = value;
    return 1;
}

static void parse(size_t length)
{
    size_t lines = 1, line = 0;
    char *at, *rest = text;

    for (size_t i = 0; i < length; i++)
        lines += text[i] == '\n';
    entries = calloc(lines, sizeof *entries);
    if (!entries)
        return;
    while (rest && line < lines) {
        at = rest;
        rest = strchr(at, '\n');
        if (rest)
            *rest++ = '\0';
        if (split(at, &entries[entry_count]))
            entries[entry_count++].line = line;
        line++;
    }
    qsort(entries, entry_count, sizeof *entries, by_key);
}

void state_use(const char *named)
{
    snprintf(path, sizeof path, "%s", named ? named : "");
    memset(&seen, 0, sizeof seen);
    forget();
}

const char *state_path(void)
{
    return path;
}

unsigned long long state_generation(void)
{
    return generation;
}

static int same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

void state_refresh(void)
{
    struct stat now;
    size_t length = 0;
    int fd;

    if (stat(path, &now) != 0)
        memset(&now, 0, sizeof now);
    if (same_file(&now, &seen))
        return;
    forget();
    generation++;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        memset(&seen, 0, sizeof seen);
        return;
    }
    if (fstat(fd, &seen) == 0 && (text = read_all(fd, &length)) != NULL)
        parse(length);
    close(fd);
}

static const char *find(const char *key)
{
    size_t low = 0, high = entry_count;

    while (low < high) { /* the first key behind it: the last line of the key is before that one */
        size_t middle = low + (high - low) / 2;
        if (strcmp(entries[middle].key, key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low && strcmp(entries[low - 1].key, key) == 0 ? entries[low - 1].value : NULL;
}

static const char *supported(const char *value)
{
    return value && strcmp(value, "unsupported") != 0 ? value : NULL;
}

const char *state_text(const char *key)
{
    return supported(find(key));
}

const char *state_device_text(const struct device *device, const char *key)
{
    char name[MAX_KEY_BYTES];
    const char *value;

    if (device->mig < 0) {
        snprintf(name, sizeof name, "gpu%u.%s", device->gpu, key);
        value = find(name);
        return supported(value ? value : find(key));
    }
    snprintf(name, sizeof name, "gpu%u.mig%d.%s", device->gpu, device->mig, key);
    value = find(name);
    return supported(value ? value : find(strchr(name, '.') + 1));
}

int state_next(size_t *at, const char *prefix, const char **key, const char **value)
{
    size_t length = strlen(prefix);

    for (; *at < entry_count; (*at)++) {
        if (strncmp(entries[*at].key, prefix, length) != 0)
            continue;
        *key = entries[*at].key + length;
        *value = entries[(*at)++].value;
        return 1;
    }
    return 0;
}

nvmlReturn_t text_number(const char *value, unsigned long long *number)
{
    const char *digits = *value == '!' ? value + 1 : value;
    char *end;
    unsigned long long parsed;

    errno = 0;
    parsed = strtoull(digits, &end, 0);
    if (errno || end == digits || *end)
        return UNKNOWN;
    if (digits != value)
        return (nvmlReturn_t)parsed;
    *number = parsed;
    return OK;
}

nvmlReturn_t state_number(const struct device *device, const char *key, unsigned long long *value)
{
    const char *found = state_device_text(device, key);
    return found ? text_number(found, value) : NOT_SUPPORTED;
}

unsigned long long state_number_or(const struct device *device, const char *key, unsigned long long otherwise)
{
    unsigned long long value = otherwise;
    return state_number(device, key, &value) == OK ? value : otherwise;
}

unsigned long long state_global_or(const char *key, unsigned long long otherwise)
{
    const char *found = state_text(key);
    unsigned long long value = otherwise;
    return found && text_number(found, &value) == OK ? value : otherwise;
}
