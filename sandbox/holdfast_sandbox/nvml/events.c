/* Events: lines `event.NUMBER GPU TYPE DATA`, numbers growing. A set gets those of its GPUs and types from its registering on, each once. */
#define _GNU_SOURCE
#include "fake.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#define MAX_SETS 16
#define WATCHED_MS 1000
#define UNWATCHED_MS 20

struct event_data {
    nvmlDevice_t device;
    unsigned long long type;
    unsigned long long data;
    unsigned int gpu_instance;
    unsigned int compute_instance;
};

struct nvmlEventSet_st {
    int used;
    int waiters;
    int watch; /* an inotify descriptor of the state file's directory; -1: there is none */
    unsigned long long types[MAX_GPUS];
    unsigned long long after[MAX_GPUS]; /* the newest event when the GPU was registered */
    unsigned long long delivered;
};

typedef struct nvmlEventSet_st *nvmlEventSet_t;

static struct nvmlEventSet_st sets[MAX_SETS];

static int is_set(nvmlEventSet_t set)
{
    uintptr_t at = (uintptr_t)set, first = (uintptr_t)sets;
    return at >= first && at < first + sizeof sets && (at - first) % sizeof *sets == 0 && set->used;
}

static int watch_state(void)
{
    char directory[PATH_MAX];
    char *slash;
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

    if (fd < 0)
        return -1;
    snprintf(directory, sizeof directory, "%s", state_path());
    slash = strrchr(directory, '/');
    if (slash)
        slash[slash == directory] = '\0';
    else
        snprintf(directory, sizeof directory, ".");
    if (inotify_add_watch(fd, directory, IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE) >= 0)
        return fd;
    close(fd);
    return -1;
}

API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    nvmlReturn_t error = call_begin_system(__func__);

    if (error != OK)
        return error;
    if (!set)
        return call_end(INVALID_ARGUMENT);
    for (size_t i = 0; i < MAX_SETS; i++) {
        if (sets[i].used)
            continue;
        sets[i] = (struct nvmlEventSet_st){.used = 1, .watch = watch_state()};
        *set = &sets[i];
        return call_end(OK);
    }
    return call_end(INSUFFICIENT_RESOURCES);
}

API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    nvmlReturn_t error = call_begin_system(__func__);

    if (error != OK)
        return error;
    if (!is_set(set))
        return call_end(INVALID_ARGUMENT);
    if (set->waiters)
        crash("nvmlEventSetFree while a wait for the set is under way");
    if (set->watch >= 0)
        close(set->watch);
    set->used = 0;
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t handle, unsigned long long *types)
{
    struct device device;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    return call_end(types ? state_number(&device, "event_types", types) : INVALID_ARGUMENT);
}

static unsigned long long newest_event(void)
{
    const char *number, *value;
    unsigned long long newest = state_global_or("event_newest", 0), parsed;

    for (size_t at = 0; state_next(&at, "event.", &number, &value);) {
        parsed = strtoull(number, NULL, 10);
        newest = parsed > newest ? parsed : newest;
    }
    return newest;
}

API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t handle, unsigned long long types, nvmlEventSet_t set)
{
    struct device device;
    unsigned long long supported = 0;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (!is_set(set) || device.mig >= 0)
        return call_end(INVALID_ARGUMENT);
    error = state_number(&device, "event_types", &supported);
    if (error != OK || (types & ~supported))
        return call_end(NOT_SUPPORTED);
    if (!set->types[device.gpu])
        set->after[device.gpu] = newest_event();
    set->types[device.gpu] |= types;
    return call_end(OK);
}

static int parse_event(const char *number, const char *value, unsigned long long *at, unsigned int *gpu, struct event_data *event)
{
    char *end;

    errno = 0;
    *at = strtoull(number, &end, 10);
    event->gpu_instance = event->compute_instance = NO_INSTANCE;
    return !errno && !*end && sscanf(value, "%u %llx %llu %u %u", gpu, &event->type, &event->data, &event->gpu_instance, &event->compute_instance) >= 3 &&
           *gpu < MAX_GPUS;
}

/* The oldest event that the set has not had. */
static int next_event(nvmlEventSet_t set, struct event_data *oldest)
{
    const char *number, *value;
    struct event_data event;
    unsigned long long at, best = 0;
    unsigned int gpu;

    for (size_t walk = 0; state_next(&walk, "event.", &number, &value);) {
        if (!parse_event(number, value, &at, &gpu, &event) || at <= set->delivered || at <= set->after[gpu] || !(event.type & set->types[gpu]))
            continue;
        if (best && at >= best)
            continue;
        best = at;
        event.device = device_handle(gpu, -1);
        *oldest = event;
    }
    if (best)
        set->delivered = best;
    return best != 0;
}

static int lost_gpu(nvmlEventSet_t set)
{
    for (unsigned int gpu = 0; gpu < MAX_GPUS; gpu++) {
        struct device device = {gpu, -1};
        if (set->types[gpu] && device_error(&device, IDENTITY) == GPU_IS_LOST)
            return 1;
    }
    return 0;
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void sleep_until_change(int watch, long long left_ms)
{
    char news[4096] __attribute__((aligned(8)));
    struct pollfd fd = {watch, POLLIN, 0};
    int limit = watch >= 0 ? WATCHED_MS : UNWATCHED_MS;
    int span = left_ms < limit ? (int)left_ms : limit;

    call_pause();
    if (poll(&fd, watch >= 0, span) > 0)
        while (read(watch, news, sizeof news) > 0)
            continue;
    call_resume();
}

/* A registered GPU that has been lost ends each wait at once, once its events are told (nvml.h, nvmlEventSetWait). */
API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, struct event_data *event, unsigned int timeout_ms)
{
    long long until = now_ms() + timeout_ms;
    long long left;
    nvmlReturn_t error = call_begin_system(__func__);

    if (error != OK)
        return error;
    if (!is_set(set) || !event)
        return call_end(INVALID_ARGUMENT);
    set->waiters++;
    for (;;) {
        if (next_event(set, event))
            break;
        error = lost_gpu(set) ? GPU_IS_LOST : OK;
        left = until - now_ms();
        if (error == OK && left <= 0)
            error = TIMEOUT;
        if (error != OK)
            break;
        sleep_until_change(set->watch, left);
    }
    set->waiters--;
    return call_end(error);
}
