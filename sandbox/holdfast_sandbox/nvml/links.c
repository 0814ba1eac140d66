/* NVLink, the fabric, and fields, many of which are NVLink's. */
#define _GNU_SOURCE
#include "fake.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define FIELDS_KNOWN 308u /* NVML_FI_MAX of this version */
#define MAX_LINKS 36u     /* NVML_NVLINK_MAX_LINKS */

enum value_type { UNSIGNED_INT = 1, UNSIGNED_LONG_LONG = 3 };

struct field_value {
    uint32_t id;
    uint32_t scope;
    int64_t timestamp_us;
    int64_t latency_us;
    unsigned int type;
    nvmlReturn_t error;
    unsigned long long value;
};

struct fabric {
    unsigned char cluster[16];
    nvmlReturn_t status;
    uint32_t clique;
    unsigned char state;
};

struct fabric_v3 { /* the second version is its beginning, padded to 36 bytes */
    unsigned int version;
    unsigned char cluster[16];
    nvmlReturn_t status;
    uint32_t clique;
    unsigned char state;
    uint32_t health_mask;
    unsigned char health_summary;
};

#define FABRIC_V2_BYTES offsetof(struct fabric_v3, health_summary)

_Static_assert(sizeof(struct fabric_v3) == 40 && FABRIC_V2_BYTES == 36, "as nvml.h");

static const struct {
    unsigned int id;
    enum value_type type;
    const char *key;
} fields[] = {
    {1, UNSIGNED_INT, "ecc_mode"},
    {3, UNSIGNED_LONG_LONG, "ecc_corrected_volatile"},
    {4, UNSIGNED_LONG_LONG, "ecc_uncorrected_volatile"},
    {5, UNSIGNED_LONG_LONG, "ecc_corrected_aggregate"},
    {6, UNSIGNED_LONG_LONG, "ecc_uncorrected_aggregate"},
    {29, UNSIGNED_LONG_LONG, "retired_single_bit"},
    {30, UNSIGNED_LONG_LONG, "retired_double_bit"},
    {31, UNSIGNED_LONG_LONG, "retired_pending"},
    {82, UNSIGNED_INT, "memory_temperature"},
    {83, UNSIGNED_LONG_LONG, "energy_millijoules"},
    {91, UNSIGNED_INT, "nvlinks"},
    {94, UNSIGNED_INT, "pcie_replays"},
    {142, UNSIGNED_INT, "remap_corrected"},
    {143, UNSIGNED_INT, "remap_uncorrected"},
    {144, UNSIGNED_INT, "remap_pending"},
    {145, UNSIGNED_INT, "remap_failed"},
    {186, UNSIGNED_INT, "power_milliwatts"},
    {230, UNSIGNED_INT, "recovery_action"},
};

/* Of one link each; the scope is the link. `all`: the older field that sums the links up, 0: none. */
static const struct {
    unsigned int id;
    unsigned int all;
    const char *key;
} link_fields[] = {
    {161, 52, "nvlink_replay"},
    {162, 59, "nvlink_recovery"},
    {163, 45, "nvlink_crc"},
    {166, 0, "nvlink_version"},
    {213, 0, "nvlink_recovery_successful"},
    {214, 0, "nvlink_recovery_failed"},
    {215, 0, "nvlink_recovery_events"},
};

static unsigned int link_count(const struct device *device)
{
    unsigned long long count = state_number_or(device, "nvlinks", 0);
    return count < MAX_LINKS ? (unsigned int)count : MAX_LINKS;
}

/* `nvlink_down` lists links, with commas between them. */
static int link_down(const struct device *device, unsigned int link)
{
    const char *list = state_device_text(device, "nvlink_down");
    unsigned int down;
    int used;

    for (; list && sscanf(list, "%u%n", &down, &used) == 1; list += used + (list[used] == ',')) {
        if (down == link)
            return 1;
        if (list[used] != ',')
            return 0;
    }
    return 0;
}

/* `KEY.LINK` is a link's count; `KEY` the first link's, and what links have that are not counted (their version). */
static nvmlReturn_t link_number(const struct device *device, const char *key, unsigned int link, unsigned long long *value)
{
    char own[64];
    nvmlReturn_t error = link_count(device) ? state_number(device, key, value) : NOT_SUPPORTED;

    if (error != OK)
        return error;
    if (link >= link_count(device))
        return INVALID_ARGUMENT;
    snprintf(own, sizeof own, "%s.%u", key, link);
    *value = state_number_or(device, own, link == 0 || strcmp(key, "nvlink_version") == 0 ? *value : 0);
    return OK;
}

static nvmlReturn_t link_total(const struct device *device, const char *key, unsigned long long *total)
{
    unsigned long long one;
    nvmlReturn_t error = link_count(device) ? OK : NOT_SUPPORTED;

    *total = 0;
    for (unsigned int link = 0; error == OK && link < link_count(device); link++) {
        one = 0;
        error = link_number(device, key, link, &one);
        *total += one;
    }
    return error;
}

static nvmlReturn_t link_begin(const char *function, nvmlDevice_t handle, unsigned int link, const void *out, struct device *device)
{
    nvmlReturn_t error = call_begin(function, handle, READING, device);

    if (error != OK)
        return error;
    if (link_count(device) == 0)
        return call_end(NOT_SUPPORTED);
    return link < link_count(device) && out ? OK : call_end(INVALID_ARGUMENT);
}

API nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t handle, unsigned int link, unsigned int *active)
{
    struct device device;
    nvmlReturn_t error = link_begin(__func__, handle, link, active, &device);

    if (error != OK)
        return error;
    *active = !link_down(&device, link);
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t handle, unsigned int link, unsigned int *version)
{
    struct device device;
    unsigned long long value = 0;
    nvmlReturn_t error = link_begin(__func__, handle, link, version, &device);

    if (error != OK)
        return error;
    error = link_number(&device, "nvlink_version", link, &value);
    *version = (unsigned int)value;
    return call_end(error);
}

/* Counters: 0 replay, 1 recovery, 2 CRC of flits, 3 CRC of data. */
API nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t handle, unsigned int link, unsigned int counter, unsigned long long *value)
{
    static const char *const keys[] = {"nvlink_replay", "nvlink_recovery", "nvlink_crc", "nvlink_crc"};
    struct device device;
    nvmlReturn_t error = link_begin(__func__, handle, link, value, &device);

    if (error != OK)
        return error;
    return call_end(counter < 4 ? link_number(&device, keys[counter], link, value) : NOT_SUPPORTED);
}

static nvmlReturn_t link_field(const struct device *device, struct field_value *field)
{
    unsigned long long active;

    if (field->id == 165) { /* the state of a link */
        if (link_count(device) == 0)
            return NOT_SUPPORTED;
        active = field->scope < link_count(device) && !link_down(device, field->scope);
        field->value = active;
        return field->scope < link_count(device) ? OK : INVALID_ARGUMENT;
    }
    field->type = UNSIGNED_LONG_LONG;
    for (size_t i = 0; i < sizeof link_fields / sizeof *link_fields; i++) {
        if (link_fields[i].id == field->id && field->scope != UINT_MAX)
            return link_number(device, link_fields[i].key, field->scope, &field->value);
        if (link_fields[i].id == field->id || (link_fields[i].all && link_fields[i].all == field->id))
            return link_total(device, link_fields[i].key, &field->value);
    }
    return NOT_SUPPORTED;
}

static nvmlReturn_t read_field(const struct device *device, struct field_value *field)
{
    char own[32];

    field->type = UNSIGNED_INT;
    if (field->id == 0 || field->id >= state_number_or(device, "fields_known", FIELDS_KNOWN))
        return INVALID_ARGUMENT; /* newer than the driver */
    snprintf(own, sizeof own, "field.%u", field->id);
    if (state_device_text(device, own))
        return state_number(device, own, &field->value);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].id == field->id) {
            field->type = fields[i].type;
            return state_number(device, fields[i].key, &field->value);
        }
    return link_field(device, field);
}

/* The call succeeds where fields do not: each has its own error. */
API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t handle, int count, struct field_value *values)
{
    struct device device;
    struct timespec now;
    nvmlReturn_t error = call_begin(__func__, handle, IDENTITY, &device);

    if (error != OK)
        return error;
    if (count < 1 || !values)
        return call_end(INVALID_ARGUMENT);
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < count; i++) {
        values[i].value = 0;
        values[i].error = read_field(&device, &values[i]);
        values[i].timestamp_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
        values[i].latency_us = 0;
    }
    return call_end(OK);
}

static nvmlReturn_t read_fabric(const struct device *device, struct fabric_v3 *fabric)
{
    unsigned long long state = 0;
    unsigned int byte;
    const char *cluster = state_device_text(device, "fabric_cluster");
    nvmlReturn_t error = state_number(device, "fabric_state", &state);

    if (error != OK)
        return error;
    memset(fabric, 0, sizeof *fabric);
    for (size_t i = 0; i < sizeof fabric->cluster && cluster && sscanf(cluster + 2 * i, "%2x", &byte) == 1; i++) {
        fabric->cluster[i] = (unsigned char)byte;
        if (strlen(cluster) < 2 * i + 3)
            break;
    }
    fabric->state = (unsigned char)state;
    fabric->status = (nvmlReturn_t)state_number_or(device, "fabric_status", OK);
    fabric->clique = (uint32_t)state_number_or(device, "fabric_clique", 0);
    fabric->health_mask = (uint32_t)state_number_or(device, "fabric_health_mask", 0);
    fabric->health_summary = (unsigned char)state_number_or(device, "fabric_summary", 0);
    return OK;
}

API nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t handle, struct fabric *fabric)
{
    struct device device;
    struct fabric_v3 all;
    nvmlReturn_t error = call_begin(__func__, handle, READING, &device);

    if (error != OK)
        return error;
    error = fabric ? read_fabric(&device, &all) : INVALID_ARGUMENT;
    if (error != OK)
        return call_end(error);
    memcpy(fabric->cluster, all.cluster, sizeof fabric->cluster);
    fabric->status = all.status;
    fabric->clique = all.clique;
    fabric->state = all.state;
    return call_end(OK);
}

API nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t handle, struct fabric_v3 *fabric)
{
    struct device device;
    struct fabric_v3 all;
    unsigned int said;
    size_t size = FABRIC_V2_BYTES;
    nvmlReturn_t error = call_begin(__func__, handle, READING, &device);

    if (error != OK)
        return error;
    if (!fabric)
        return call_end(INVALID_ARGUMENT);
    said = fabric->version;
    error = check_version(&device, __func__, said, size, 2);
    if (error != OK) {
        size = sizeof *fabric;
        error = check_version(&device, __func__, said, size, 3);
    }
    if (error == OK)
        error = read_fabric(&device, &all);
    if (error != OK)
        return call_end(error);
    all.version = said;
    memcpy(fabric, &all, size);
    return call_end(OK);
}
