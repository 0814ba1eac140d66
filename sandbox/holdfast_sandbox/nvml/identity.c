/* The driver, the list of GPUs and what each is. */
#include "fake.h"

#include <stdio.h>
#include <string.h>

struct pci_info {
    char bus_id_legacy[16];
    unsigned int domain;
    unsigned int bus;
    unsigned int device;
    unsigned int device_id;
    unsigned int subsystem_id;
    char bus_id[32];
};

static const struct {
    nvmlReturn_t code;
    const char *text;
} errors[] = {
    {OK, "Success"},
    {UNINITIALIZED, "Uninitialized"},
    {INVALID_ARGUMENT, "Invalid Argument"},
    {NOT_SUPPORTED, "Not Supported"},
    {4, "Insufficient Permissions"},
    {NOT_FOUND, "Not Found"},
    {INSUFFICIENT_SIZE, "Insufficient Size"},
    {DRIVER_NOT_LOADED, "Driver Not Loaded"},
    {TIMEOUT, "Timeout"},
    {11, "Interrupt Request Issue"},
    {13, "Function Not Found"},
    {CORRUPTED_INFOROM, "Corrupted infoROM"},
    {GPU_IS_LOST, "GPU is lost"},
    {RESET_REQUIRED, "GPU requires reset"},
    {18, "RM has detected an NVML/RM version mismatch."},
    {INSUFFICIENT_RESOURCES, "Insufficient Resources"},
    {ARGUMENT_VERSION_MISMATCH, "Argument version mismatch"},
};

API const char *nvmlErrorString(nvmlReturn_t result)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == result)
            return errors[i].text;
    return "Unknown Error";
}

static nvmlReturn_t system_text(const char *function, const char *key, char *to, unsigned int size)
{
    nvmlReturn_t error = call_begin_system(function);
    return error == OK ? call_end(copy_text(state_text(key), to, size)) : error;
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    return system_text(__func__, "driver", version, length);
}

API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    return system_text(__func__, "nvml", version, length);
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    nvmlReturn_t error = call_begin_system(__func__);

    if (error != OK)
        return error;
    if (!version)
        return call_end(INVALID_ARGUMENT);
    *version = (int)state_global_or("cuda", 0);
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    nvmlReturn_t error = call_begin_system(__func__);

    if (error != OK)
        return error;
    if (!count)
        return call_end(INVALID_ARGUMENT);
    *count = 0;
    for (unsigned int gpu = 0; gpu < gpu_count(); gpu++)
        *count += !device_gone(gpu);
    return call_end(OK);
}

/* A lost GPU gives no handle ("Unable to determine the device handle … GPU is lost", says nvidia-smi); one that must be reset does. */
static nvmlReturn_t hand_out(unsigned int gpu, int mig, nvmlDevice_t *handle)
{
    struct device device = {gpu, mig};
    nvmlReturn_t error = device_error(&device, IDENTITY);

    if (error == OK)
        *handle = device_handle(gpu, mig);
    return error;
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *handle)
{
    nvmlReturn_t error = call_begin_system(__func__);

    if (error != OK)
        return error;
    for (unsigned int gpu = 0; handle && gpu < gpu_count(); gpu++)
        if (!device_gone(gpu) && index-- == 0)
            return call_end(hand_out(gpu, -1, handle));
    return call_end(INVALID_ARGUMENT);
}

static int has_uuid(unsigned int gpu, int mig, const char *uuid)
{
    struct device device = {gpu, mig};
    const char *its = state_device_text(&device, "uuid");
    return its && strcmp(its, uuid) == 0;
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *handle)
{
    nvmlReturn_t error = call_begin_system(__func__);

    if (error != OK)
        return error;
    if (!uuid || !handle)
        return call_end(INVALID_ARGUMENT);
    for (unsigned int gpu = 0; gpu < gpu_count(); gpu++)
        for (int mig = -1; mig < (int)MAX_MIG && !device_gone(gpu); mig++)
            if (has_uuid(gpu, mig, uuid))
                return call_end(hand_out(gpu, mig, handle));
    return call_end(NOT_FOUND);
}

static int parse_pci(const char *text, unsigned int address[4])
{
    return text && sscanf(text, "%8x:%2x:%2x.%1x", &address[0], &address[1], &address[2], &address[3]) == 4;
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *handle)
{
    unsigned int wanted[4], its[4];
    nvmlReturn_t error = call_begin_system(__func__);

    if (error != OK)
        return error;
    if (!handle || !parse_pci(bus_id, wanted))
        return call_end(INVALID_ARGUMENT);
    for (unsigned int gpu = 0; gpu < gpu_count(); gpu++) {
        struct device device = {gpu, -1};
        if (!device_gone(gpu) && parse_pci(state_device_text(&device, "pci"), its) && memcmp(its, wanted, sizeof its) == 0)
            return call_end(hand_out(gpu, -1, handle));
    }
    return call_end(NOT_FOUND);
}

API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t handle, unsigned int *index)
{
    struct device device;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (!index)
        return call_end(INVALID_ARGUMENT);
    *index = device.mig < 0 ? 0 : (unsigned int)device.mig;
    for (unsigned int gpu = 0; device.mig < 0 && gpu < device.gpu; gpu++)
        *index += !device_gone(gpu);
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t handle, struct pci_info *info)
{
    struct device device;
    unsigned int address[4];
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    device.mig = -1; /* a MIG device is where its GPU is */
    if (!info)
        return call_end(INVALID_ARGUMENT);
    if (!parse_pci(state_device_text(&device, "pci"), address))
        return call_end(UNKNOWN);
    memset(info, 0, sizeof *info);
    info->domain = address[0];
    info->bus = address[1];
    info->device = address[2];
    info->device_id = (unsigned int)state_number_or(&device, "pci_device_id", 0);
    info->subsystem_id = (unsigned int)state_number_or(&device, "pci_subsystem_id", 0);
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "%04X:%02X:%02X.0", address[0] & 0xFFFF, address[1], address[2]);
    snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", address[0], address[1], address[2]);
    return call_end(OK);
}

static nvmlReturn_t device_text(const char *function, nvmlDevice_t handle, const char *key, char *to, unsigned int size)
{
    struct device device;
    nvmlReturn_t error = call_begin(function, handle, IDENTITY, &device);
    return error == OK ? call_end(copy_text(state_device_text(&device, key), to, size)) : error;
}

API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    return device_text(__func__, device, "name", name, length);
}

API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    return device_text(__func__, device, "uuid", uuid, length);
}

API nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
    return device_text(__func__, device, "serial", serial, length);
}

API nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned int length)
{
    return device_text(__func__, device, "vbios", version, length);
}

API nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t handle, unsigned int *architecture)
{
    struct device device;
    unsigned long long value = 0;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (!architecture)
        return call_end(INVALID_ARGUMENT);
    error = state_number(&device, "architecture", &value);
    *architecture = (unsigned int)value;
    return call_end(error);
}
