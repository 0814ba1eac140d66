/* Readings of one GPU. A key that the state file does not have is a reading that this GPU does not support. */
#include "fake.h"

#define MAX_PAGES 4096u

struct memory {
    unsigned long long total, free, used;
};

struct memory_v2 {
    unsigned int version;
    unsigned long long total, reserved, free, used;
};

struct utilization {
    unsigned int gpu, memory;
};

struct temperature {
    unsigned int version, sensor;
    int temperature;
};

struct margin {
    unsigned int version;
    int margin;
};

struct sram_status {
    unsigned int version;
    unsigned long long counts[11];
    unsigned int threshold_exceeded;
};

static nvmlReturn_t read_number(const char *function, nvmlDevice_t handle, const char *key, unsigned long long *value)
{
    struct device device;
    nvmlReturn_t error = call_begin(function, handle, READING, &device);

    if (error != OK)
        return error;
    return call_end(value ? state_number(&device, key, value) : INVALID_ARGUMENT);
}

static nvmlReturn_t read_uint(const char *function, nvmlDevice_t handle, const char *key, unsigned int *value)
{
    unsigned long long wide = 0;
    nvmlReturn_t error = read_number(function, handle, key, value ? &wide : NULL);

    if (error == OK)
        *value = (unsigned int)wide;
    return error;
}

/* Both numbers are there, or neither is read. */
static nvmlReturn_t read_pair(const char *function, nvmlDevice_t handle, const char *keys[2], unsigned int *first, unsigned int *second)
{
    struct device device;
    unsigned long long values[2] = {0, 0};
    nvmlReturn_t error = call_begin(function, handle, READING, &device);

    if (error != OK)
        return error;
    if (!first || !second)
        return call_end(INVALID_ARGUMENT);
    error = state_number(&device, keys[0], &values[0]);
    if (error == OK)
        values[1] = state_number_or(&device, keys[1], values[0]);
    *first = (unsigned int)values[0];
    *second = (unsigned int)values[1];
    return call_end(error);
}

static nvmlReturn_t read_memory(const struct device *device, struct memory_v2 *memory)
{
    nvmlReturn_t error = state_number(device, "memory_total", &memory->total);

    if (error == OK)
        error = state_number(device, "memory_used", &memory->used);
    memory->reserved = state_number_or(device, "memory_reserved", 0);
    if (memory->used + memory->reserved > memory->total)
        memory->used = memory->total > memory->reserved ? memory->total - memory->reserved : 0;
    memory->free = memory->total - memory->reserved - memory->used;
    return error;
}

/* The first version counts what the driver keeps for itself as used. */
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, struct memory *memory)
{
    struct device device;
    struct memory_v2 all = {0, 0, 0, 0, 0};
    nvmlReturn_t error = call_begin(__func__, handle, READING, &device);

    if (error != OK)
        return error;
    error = memory ? read_memory(&device, &all) : INVALID_ARGUMENT;
    if (error == OK)
        *memory = (struct memory){all.total, all.free, all.used + all.reserved};
    return call_end(error);
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, struct memory_v2 *memory)
{
    struct device device;
    nvmlReturn_t error = call_begin(__func__, handle, READING, &device);

    if (error != OK)
        return error;
    error = memory ? check_version(&device, __func__, memory->version, sizeof *memory, 2) : INVALID_ARGUMENT;
    return call_end(error == OK ? read_memory(&device, memory) : error);
}

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t handle, struct utilization *rates)
{
    const char *keys[2] = {"utilization", "memory_utilization"};
    return read_pair(__func__, handle, keys, rates ? &rates->gpu : NULL, rates ? &rates->memory : NULL);
}

API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t handle, unsigned int sensor, unsigned int *celsius)
{
    return read_uint(__func__, handle, "temperature", sensor == 0 ? celsius : NULL);
}

API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t handle, struct temperature *asked)
{
    struct device device;
    unsigned long long value = 0;
    nvmlReturn_t error = call_begin(__func__, handle, READING, &device);

    if (error != OK)
        return error;
    error = asked && asked->sensor == 0 ? check_version(&device, __func__, asked->version, sizeof *asked, 1) : INVALID_ARGUMENT;
    if (error == OK)
        error = state_number(&device, "temperature", &value);
    if (error == OK)
        asked->temperature = (int)value;
    return call_end(error);
}

API nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t handle, struct margin *asked)
{
    struct device device;
    unsigned long long value = 0;
    nvmlReturn_t error = call_begin(__func__, handle, READING, &device);

    if (error != OK)
        return error;
    error = asked ? check_version(&device, __func__, asked->version, sizeof *asked, 1) : INVALID_ARGUMENT;
    if (error == OK)
        error = state_number(&device, "margin", &value);
    if (error == OK)
        asked->margin = (int)value;
    return call_end(error);
}

API nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts)
{
    return read_uint(__func__, device, "power_milliwatts", milliwatts);
}

API nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules)
{
    return read_number(__func__, device, "energy_millijoules", millijoules);
}

API nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *mask)
{
    return read_number(__func__, device, "clock_reasons", mask);
}

API nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *mask)
{
    return read_number(__func__, device, "clock_reasons", mask);
}

API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    const char *keys[2] = {"ecc_mode", "ecc_mode_pending"};
    return read_pair(__func__, device, keys, current, pending);
}

API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned int type, unsigned int counter, unsigned long long *count)
{
    static const char *const keys[2][2] = {
        {"ecc_corrected_volatile", "ecc_corrected_aggregate"},
        {"ecc_uncorrected_volatile", "ecc_uncorrected_aggregate"},
    };
    int known = type < 2 && counter < 2;
    return read_number(__func__, device, known ? keys[type][counter] : "", known ? count : NULL);
}

API nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t handle, struct sram_status *status)
{
    static const char *const keys[11] = {
        "sram_aggregate_parity", "sram_aggregate_secded", "sram_aggregate_corrected", "sram_volatile_parity",
        "sram_volatile_secded",  "sram_volatile_corrected", "sram_l2", "sram_sm", "sram_pcie", "sram_mcu", "sram_other",
    };
    struct device device;
    unsigned long long exceeded = 0;
    nvmlReturn_t error = call_begin(__func__, handle, READING, &device);

    if (error != OK)
        return error;
    error = status ? check_version(&device, __func__, status->version, sizeof *status, 1) : INVALID_ARGUMENT;
    if (error == OK)
        error = state_number(&device, "sram_threshold_exceeded", &exceeded);
    if (error != OK)
        return call_end(error);
    for (size_t i = 0; i < 11; i++)
        status->counts[i] = state_number_or(&device, keys[i], 0);
    status->threshold_exceeded = (unsigned int)exceeded;
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t handle, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending,
                                           unsigned int *failed)
{
    static const char *const keys[4] = {"remap_corrected", "remap_uncorrected", "remap_pending", "remap_failed"};
    unsigned int *outs[4] = {corrected, uncorrected, pending, failed};
    struct device device;
    unsigned long long value = 0;
    nvmlReturn_t error = call_begin(__func__, handle, READING, &device);

    if (error != OK)
        return error;
    for (size_t i = 0; error == OK && i < 4; i++) {
        error = outs[i] ? state_number(&device, keys[i], &value) : INVALID_ARGUMENT;
        if (error == OK)
            *outs[i] = (unsigned int)value;
    }
    return call_end(error);
}

/* Addresses and times are made up; the counts are the state's. */
static nvmlReturn_t retired(const char *function, nvmlDevice_t handle, unsigned int cause, unsigned int *count, unsigned long long *pages,
                            unsigned long long *times)
{
    struct device device;
    unsigned long long found = 0;
    unsigned int room;
    nvmlReturn_t error = call_begin(function, handle, READING, &device);

    if (error != OK)
        return error;
    if (!count || cause > 1)
        return call_end(INVALID_ARGUMENT);
    error = state_number(&device, cause == 0 ? "retired_single_bit" : "retired_double_bit", &found);
    if (error != OK)
        return call_end(error);
    room = *count;
    *count = found < MAX_PAGES ? (unsigned int)found : MAX_PAGES;
    if (room < *count || (*count && !pages))
        return call_end(INSUFFICIENT_SIZE);
    for (unsigned int i = 0; i < *count; i++) {
        pages[i] = 0x10000ULL * (i + 1);
        if (times)
            times[i] = 1700000000000000ULL + i;
    }
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned int cause, unsigned int *count, unsigned long long *pages)
{
    return retired(__func__, device, cause, count, pages, NULL);
}

API nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned int cause, unsigned int *count, unsigned long long *pages,
                                              unsigned long long *times)
{
    return retired(__func__, device, cause, count, pages, times);
}

API nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, unsigned int *pending)
{
    return read_uint(__func__, device, "retired_pending", pending);
}

API nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t device, unsigned int *count)
{
    return read_uint(__func__, device, "pcie_replays", count);
}

API nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned int *width)
{
    return read_uint(__func__, device, "pcie_width", width);
}

API nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned int *width)
{
    return read_uint(__func__, device, "pcie_width_max", width);
}

API nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned int *generation)
{
    return read_uint(__func__, device, "pcie_gen", generation);
}

API nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int *generation)
{
    return read_uint(__func__, device, "pcie_gen_max", generation);
}

API nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned int *mode)
{
    return read_uint(__func__, device, "persistence", mode);
}

API nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device)
{
    unsigned long long corrupt = 0;
    nvmlReturn_t error = read_number(__func__, device, "inforom_corrupt", &corrupt);
    return error == OK && corrupt ? CORRUPTED_INFOROM : error;
}
