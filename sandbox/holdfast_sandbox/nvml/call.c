/* What every call goes through: the lock, counting, hangs, slowness, errors that were asked for, and the handles. */
#define _GNU_SOURCE
#include "fake.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_AGAIN_NS 5000000L

struct nvmlDevice_st {
    unsigned char unused;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvmlDevice_st devices[MAX_GPUS * (1 + MAX_MIG)];
static unsigned int initialized;
static unsigned int in_flight;
static int record = -1;

/* The real library crashes there, too, only later and less plainly. */
_Noreturn void crash(const char *what)
{
    fprintf(stderr, "fake NVML: %s: the real library may crash here\n", what);
    abort();
}

nvmlDevice_t device_handle(unsigned int gpu, int mig)
{
    return &devices[gpu * (1 + MAX_MIG) + (unsigned int)(mig + 1)];
}

int device_of(nvmlDevice_t handle, struct device *device)
{
    uintptr_t at = (uintptr_t)handle, first = (uintptr_t)devices;

    if (at < first || at >= first + sizeof devices)
        return 0;
    device->gpu = (unsigned int)(at - first) / (1 + MAX_MIG);
    device->mig = (int)((at - first) % (1 + MAX_MIG)) - 1;
    return device->gpu < gpu_count();
}

unsigned int gpu_count(void)
{
    unsigned long long count = state_global_or("count", 0);
    return count < MAX_GPUS ? (unsigned int)count : MAX_GPUS;
}

int device_gone(unsigned int gpu)
{
    struct device whole = {gpu, -1};
    return state_number_or(&whole, "gone", 0) != 0;
}

nvmlReturn_t device_error(const struct device *device, enum kind kind)
{
    struct device whole = {device->gpu, -1};
    nvmlReturn_t error = device_gone(device->gpu) ? GPU_IS_LOST : (nvmlReturn_t)state_number_or(&whole, "error", OK);
    return error == RESET_REQUIRED && kind == IDENTITY ? OK : error;
}

/* One line for each call, whole even where several processes write: O_APPEND. */
static void count_call(const char *function, const struct device *device)
{
    char line[128];
    int length;

    if (record < 0)
        return;
    if (device)
        length = snprintf(line, sizeof line, "%s %u\n", function, device->gpu);
    else
        length = snprintf(line, sizeof line, "%s -\n", function);
    if (length > 0 && (size_t)length < sizeof line && write(record, line, (size_t)length) < 0)
        record = -1;
}

static const char *setting(const struct device *device, const char *key)
{
    struct device whole = {device ? device->gpu : 0, -1};
    return device ? state_device_text(&whole, key) : state_text(key);
}

static const char *function_setting(const struct device *device, const char *name, const char *function)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", name, function);
    return setting(device, key);
}

/* "1": every function; else names, with commas between them. */
static int hung(const char *function, const struct device *device)
{
    const char *names = setting(device, "hang");
    size_t length = strlen(function);

    if (!names || strcmp(names, "0") == 0)
        return 0;
    if (strcmp(names, "1") == 0)
        return 1;
    for (; *names; names += strcspn(names, ","), names += *names == ',')
        if (strcspn(names, ",") == length && strncmp(names, function, length) == 0)
            return 1;
    return 0;
}

static void nap(const struct timespec *span)
{
    pthread_mutex_unlock(&lock);
    nanosleep(span, NULL);
    pthread_mutex_lock(&lock);
    state_refresh();
}

/* As in a driver's uninterruptible sleep, no signal but SIGKILL gets through meanwhile. */
static void hang(const char *function, const struct device *device)
{
    const struct timespec span = {0, LOOK_AGAIN_NS};
    sigset_t all, before;

    if (!hung(function, device))
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    do
        nap(&span);
    while (hung(function, device));
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void dawdle(const char *function, const struct device *device)
{
    const char *found = function_setting(device, "delay_ms", function);
    double ms;
    struct timespec span;

    if (!found)
        found = setting(device, "delay_ms");
    ms = found ? strtod(found, NULL) : 0;
    if (!(ms > 0 && ms < 3600e3))
        return;
    span.tv_sec = (time_t)(ms / 1e3);
    span.tv_nsec = (long)((ms - (double)span.tv_sec * 1e3) * 1e6);
    nap(&span);
}

static nvmlReturn_t asked_error(const char *function, const struct device *device)
{
    const char *found = function_setting(device, "fail", function);
    unsigned long long code = OK;
    return found && text_number(found, &code) == OK ? (nvmlReturn_t)code : OK;
}

static nvmlReturn_t begin(const char *function, const struct device *device, enum kind kind)
{
    nvmlReturn_t error;

    in_flight++;
    count_call(function, device);
    hang(function, device);
    dawdle(function, device);
    error = device ? device_error(device, kind) : OK;
    if (error == OK)
        error = asked_error(function, device);
    return error == OK ? OK : call_end(error);
}

nvmlReturn_t call_begin(const char *function, nvmlDevice_t handle, enum kind kind, struct device *device)
{
    nvmlReturn_t error = OK;

    pthread_mutex_lock(&lock);
    state_refresh();
    if (!initialized)
        error = UNINITIALIZED;
    else if (!device_of(handle, device))
        error = INVALID_ARGUMENT;
    if (error != OK) {
        pthread_mutex_unlock(&lock);
        return error;
    }
    return begin(function, device, kind);
}

nvmlReturn_t call_begin_system(const char *function)
{
    pthread_mutex_lock(&lock);
    state_refresh();
    if (!initialized) {
        pthread_mutex_unlock(&lock);
        return UNINITIALIZED;
    }
    return begin(function, NULL, IDENTITY);
}

nvmlReturn_t call_end(nvmlReturn_t result)
{
    in_flight--;
    pthread_mutex_unlock(&lock);
    return result;
}

void call_pause(void)
{
    pthread_mutex_unlock(&lock);
}

void call_resume(void)
{
    pthread_mutex_lock(&lock);
    state_refresh();
}

nvmlReturn_t copy_text(const char *text, char *to, unsigned int size)
{
    size_t length;

    if (!text)
        return NOT_SUPPORTED;
    if (!to)
        return INVALID_ARGUMENT;
    length = strlen(text);
    if (length >= size)
        return INSUFFICIENT_SIZE;
    memcpy(to, text, length + 1);
    return OK;
}

nvmlReturn_t check_version(const struct device *device, const char *function, unsigned int said, size_t size, unsigned int version)
{
    const char *found = function_setting(device, "max_version", function);
    unsigned long long highest = version;

    if (found && text_number(found, &highest) != OK)
        return UNKNOWN;
    return version <= highest && said == (unsigned int)size + (version << 24) ? OK : ARGUMENT_VERSION_MISMATCH;
}

/* What nvidia-ml-py's nvmlInit calls. */
API nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    const char *calls = getenv("HOLDFAST_FAKE_NVML_CALLS");
    nvmlReturn_t error;

    (void)flags;
    pthread_mutex_lock(&lock);
    if (!initialized) {
        state_use(getenv("HOLDFAST_FAKE_NVML"));
        if (record >= 0)
            close(record);
        record = calls && *calls ? open(calls, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    }
    state_refresh();
    error = begin(__func__, NULL, IDENTITY);
    if (error != OK)
        return error;
    error = state_text("driver") ? (nvmlReturn_t)state_global_or("init_error", OK) : DRIVER_NOT_LOADED;
    initialized += error == OK;
    return call_end(error);
}

API nvmlReturn_t nvmlShutdown(void)
{
    nvmlReturn_t error = call_begin_system(__func__);

    if (error != OK)
        return error;
    if (initialized == 1 && in_flight > 1)
        crash("nvmlShutdown while another call is under way");
    initialized--;
    return call_end(OK);
}
