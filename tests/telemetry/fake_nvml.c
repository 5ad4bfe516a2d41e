/* A small stand-in for the NVIDIA driver's libnvidia-ml.so.1: the functions that poolpilot calls, with NVML's own
 * signatures, structures and error codes (nvml.h). What the GPUs say stands in the file $FAKE_NVML, a line each:
 *
 *   uuid util_percent used_mib total_mib temp_c power_mw reasons [error]
 *
 * A figure of -1 is not supported by that GPU; `error` is what every question to it answers (15: the GPU is lost).
 * A file that is not there is a driver that is not loaded. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9 };
enum { MAX_GPUS = 16 };

typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct {
    char uuid[96];
    long util_percent, used_mib, total_mib, temp_c, power_mw, reasons, error;
} Gpu;

static Gpu gpus[MAX_GPUS];
static unsigned int count;
static int running;

static int read_gpus(void) {
    FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r");
    char line[512];
    if (!file) return DRIVER_NOT_LOADED;
    for (count = 0; count < MAX_GPUS && fgets(line, sizeof line, file);) {
        Gpu *g = &gpus[count];
        memset(g, 0, sizeof *g);
        if (sscanf(line, "%95s %ld %ld %ld %ld %ld %ld %ld", g->uuid, &g->util_percent, &g->used_mib, &g->total_mib,
                   &g->temp_c, &g->power_mw, &g->reasons, &g->error) >= 7) count++;
    }
    fclose(file);
    return OK;
}

int nvmlInitWithFlags(unsigned int flags) { int code = read_gpus(); running = code == OK; return flags ? INVALID_ARGUMENT : code; }
int nvmlShutdown(void) { int was = running; running = 0; return was ? OK : UNINITIALIZED; }
const char *nvmlErrorString(int code) {
    switch (code) {
        case UNINITIALIZED: return "Uninitialized";
        case INVALID_ARGUMENT: return "Invalid Argument";
        case NOT_SUPPORTED: return "Not Supported";
        case NOT_FOUND: return "Not Found";
        case DRIVER_NOT_LOADED: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        default: return "Unknown Error";
    }
}
int nvmlDeviceGetCount_v2(unsigned int *n) { int code = read_gpus(); *n = count; return running ? code : UNINITIALIZED; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Gpu **device) {
    int code = read_gpus();
    if (!running) return UNINITIALIZED;
    if (code != OK) return code;
    if (index >= count) return INVALID_ARGUMENT;
    *device = &gpus[index];
    return OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **device) {
    int code = read_gpus();
    if (!running) return UNINITIALIZED;
    if (code != OK) return code;
    for (unsigned int i = 0; i < count; i++)
        if (!strcmp(uuid, gpus[i].uuid)) { *device = &gpus[i]; return OK; }
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(Gpu *g, char *uuid, unsigned int length) {
    if (g->error) return (int)g->error;
    snprintf(uuid, length, "%s", g->uuid);
    return OK;
}
static int told(const Gpu *g, long figure) { return g->error ? (int)g->error : figure < 0 ? NOT_SUPPORTED : OK; }
int nvmlDeviceGetUtilizationRates(Gpu *g, Utilization *rates) {
    rates->gpu = (unsigned int)g->util_percent;
    rates->memory = 0;
    return told(g, g->util_percent);
}
int nvmlDeviceGetMemoryInfo(Gpu *g, Memory *memory) {
    memory->total = (unsigned long long)g->total_mib << 20;
    memory->used = (unsigned long long)g->used_mib << 20;
    memory->free = memory->total - memory->used;
    return told(g, g->used_mib);
}
int nvmlDeviceGetTemperature(Gpu *g, int sensor, unsigned int *temp_c) {
    *temp_c = (unsigned int)g->temp_c;
    return sensor ? INVALID_ARGUMENT : told(g, g->temp_c);
}
int nvmlDeviceGetPowerUsage(Gpu *g, unsigned int *milliwatts) {
    *milliwatts = (unsigned int)g->power_mw;
    return told(g, g->power_mw);
}
#ifdef OLD_DRIVER
int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *g, unsigned long long *reasons)
#else
int nvmlDeviceGetCurrentClocksEventReasons(Gpu *g, unsigned long long *reasons)
#endif
{
    *reasons = (unsigned long long)g->reasons;
    return told(g, g->reasons);
}
