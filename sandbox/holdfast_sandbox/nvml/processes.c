/* MIG devices, and the processes on GPUs. */
#include "fake.h"

#include <stdio.h>
#include <string.h>

#define NO_VALUE 0xFFFFFFFFFFFFFFFFULL

struct process {
    unsigned int pid;
    unsigned long long bytes;
    unsigned int gpu_instance;
    unsigned int compute_instance;
};

static int mig_exists(unsigned int gpu, int mig)
{
    struct device device = {gpu, mig};
    return state_device_text(&device, "uuid") != NULL;
}

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t handle, unsigned int *current, unsigned int *pending)
{
    struct device device;
    unsigned long long mode = 0;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (!current || !pending)
        return call_end(INVALID_ARGUMENT);
    error = state_number(&device, "mig_mode", &mode);
    *current = *pending = (unsigned int)mode;
    return call_end(error);
}

API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t handle, unsigned int *count)
{
    struct device device;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (!count)
        return call_end(INVALID_ARGUMENT);
    *count = (unsigned int)state_number_or(&device, "mig_max", 0);
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t handle, unsigned int index, nvmlDevice_t *found)
{
    struct device device;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (!found || device.mig >= 0)
        return call_end(INVALID_ARGUMENT);
    if (state_number_or(&device, "mig_max", 0) == 0)
        return call_end(NOT_SUPPORTED);
    if (index >= MAX_MIG || state_number_or(&device, "mig_mode", 0) == 0 || !mig_exists(device.gpu, (int)index))
        return call_end(NOT_FOUND);
    *found = device_handle(device.gpu, (int)index);
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t handle, unsigned int *is_mig)
{
    struct device device;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (!is_mig)
        return call_end(INVALID_ARGUMENT);
    *is_mig = device.mig >= 0;
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t handle, nvmlDevice_t *whole)
{
    struct device device;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (!whole || device.mig < 0)
        return call_end(INVALID_ARGUMENT);
    *whole = device_handle(device.gpu, -1);
    return call_end(OK);
}

static nvmlReturn_t instance(const char *function, nvmlDevice_t handle, const char *key, unsigned int *id)
{
    struct device device;
    nvmlReturn_t error = call_begin(function, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (!id || device.mig < 0)
        return call_end(INVALID_ARGUMENT);
    *id = (unsigned int)state_number_or(&device, key, 0);
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
    return instance(__func__, device, "gpu_instance", id);
}

API nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
    return instance(__func__, device, "compute_instance", id);
}

/* `PID:BYTES` or `PID:BYTES:GPU_INSTANCE:COMPUTE_INSTANCE`; `?` for bytes that the driver does not tell. Returns what follows, or NULL. */
static const char *parse_process(const char *text, struct process *process)
{
    int used = 0;

    *process = (struct process){0, NO_VALUE, NO_INSTANCE, NO_INSTANCE};
    if (sscanf(text, "%u:%n", &process->pid, &used) != 1 || used == 0)
        return NULL;
    text += used;
    if (*text == '?')
        text++;
    else if (sscanf(text, "%llu%n", &process->bytes, &used) == 1)
        text += used;
    else
        return NULL;
    if (sscanf(text, ":%u:%u%n", &process->gpu_instance, &process->compute_instance, &used) == 2)
        text += used;
    return text + (*text == ',');
}

/* A MIG device has the processes of its instances, the whole GPU has all. */
static int is_on(const struct process *process, const struct device *device)
{
    return device->mig < 0 || (process->gpu_instance == state_number_or(device, "gpu_instance", NO_INSTANCE) &&
                               process->compute_instance == state_number_or(device, "compute_instance", NO_INSTANCE));
}

static nvmlReturn_t list(const char *function, nvmlDevice_t handle, const char *key, unsigned int *count, struct process *infos)
{
    struct device device, whole;
    struct process process;
    unsigned int room, found = 0;
    const char *text;
    nvmlReturn_t error = call_begin(function, handle, READING, &device);

    if (error != OK)
        return error;
    if (!count)
        return call_end(INVALID_ARGUMENT);
    room = infos ? *count : 0;
    whole = (struct device){device.gpu, -1};
    text = state_device_text(&whole, key);
    while (text && *text && (text = parse_process(text, &process)) != NULL) {
        if (!is_on(&process, &device))
            continue;
        if (found < room)
            infos[found] = process;
        found++;
    }
    *count = found;
    return call_end(found > room ? INSUFFICIENT_SIZE : OK);
}

/* What drivers before 510 have in place of the third; the struct is the same. */
API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count, struct process *infos)
{
    return list(__func__, device, "processes", count, infos);
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, struct process *infos)
{
    return list(__func__, device, "processes", count, infos);
}

API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, struct process *infos)
{
    return list(__func__, device, "graphics_processes", count, infos);
}

API nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, struct process *infos)
{
    return list(__func__, device, "mps_processes", count, infos);
}
