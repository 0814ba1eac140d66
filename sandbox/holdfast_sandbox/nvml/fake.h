/* What the parts of the fake libnvidia-ml.so.1 share. Numbers and layouts: nvml.h of CUDA 12.9, as nvidia-ml-py 13.615 repeats them. */
#ifndef HOLDFAST_FAKE_NVML_H
#define HOLDFAST_FAKE_NVML_H

#include <stddef.h>
#include <stdint.h>

typedef unsigned int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    CORRUPTED_INFOROM = 14,
    GPU_IS_LOST = 15,
    RESET_REQUIRED = 16,
    INSUFFICIENT_RESOURCES = 23,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999
};

#define API __attribute__((visibility("default")))
#define MAX_GPUS 32u
#define MAX_MIG 8u
#define NO_INSTANCE 0xFFFFFFFFu

/* A GPU (mig < 0), or one MIG device of it. */
struct device {
    unsigned int gpu;
    int mig;
};

/* state.c: the state file. All of it is called with the lock held. */
void state_refresh(void);
void state_use(const char *path);
const char *state_path(void);
unsigned long long state_generation(void); /* grows with each reading */
const char *state_text(const char *key);   /* NULL: not there, or "unsupported"; valid until the next refresh */
const char *state_device_text(const struct device *device, const char *key);
int state_next(size_t *at, const char *prefix, const char **key, const char **value); /* walks the keys with a prefix */

/* One number of a GPU: NOT_SUPPORTED where the key is not there, and the error itself where the value is "!ERROR". */
nvmlReturn_t state_number(const struct device *device, const char *key, unsigned long long *value);
unsigned long long state_number_or(const struct device *device, const char *key, unsigned long long otherwise);
unsigned long long state_global_or(const char *key, unsigned long long otherwise);
nvmlReturn_t text_number(const char *text, unsigned long long *value);

/* call.c: what every call goes through. */

/* What a GPU that must be reset still answers: IDENTITY and fields (the driver's recovery action is one). */
enum kind { READING, IDENTITY };

/* A call of a device: counts it, hangs or dawdles as the state says. OK: the lock is held and call_end must follow; else the error. */
nvmlReturn_t call_begin(const char *function, nvmlDevice_t handle, enum kind kind, struct device *device);
/* The same of a call that is about no device. */
nvmlReturn_t call_begin_system(const char *function);
nvmlReturn_t call_end(nvmlReturn_t result);
void call_pause(void);  /* lets others in while a call waits */
void call_resume(void);
_Noreturn void crash(const char *what);

nvmlDevice_t device_handle(unsigned int gpu, int mig);
int device_of(nvmlDevice_t handle, struct device *device);
int device_gone(unsigned int gpu);
nvmlReturn_t device_error(const struct device *device, enum kind kind);
unsigned int gpu_count(void); /* with those that are gone */

nvmlReturn_t copy_text(const char *text, char *to, unsigned int size);
/* Whether a struct says `size + (version << 24)`, and the state lets `function` know that version. */
nvmlReturn_t check_version(const struct device *device, const char *function, unsigned int said, size_t size, unsigned int version);

#endif
