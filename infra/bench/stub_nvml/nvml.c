/* A stand-in for libnvidia-ml.so.1: the calls the agent makes, answered from a file that whoever drives it maps too.
 *
 * Layout of the file = struct control, mirrored in __init__.py. The path comes from NVML_STUB_CONTROL or
 * from nvml_stub_open(). Every call can fail (fail_call, fail_code; on one GPU or on all), be unsupported
 * (unsupported: names between commas) or hang (hang_call) until the driver of the file clears the name. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAX_GPUS 16
#define MAX_XIDS 64
#define GPM_METRICS 512
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9, TIMEOUT = 10,
       LOST = 15 };

struct gpu {
  int32_t present, lost, gpm, nvlinks;
  uint32_t power_mw, instant_mw, temp, temp_mem, sm_mhz, mem_mhz, util, mem_util;
  uint32_t pcie_gen, pcie_gen_max, pcie_width, pcie_width_max, limit_mw, limit_default_mw, limit_max_mw;
  uint32_t remap_corr, remap_unc, remap_pending, remap_failure, sram, recovery, processes, links_active, fabric_state;
  int32_t margin;
  uint32_t clique, replay, pad;
  uint64_t energy_mj, reasons, fb_total, fb_used, fb_reserved;
  uint64_t ecc[4], nvlink_errors[4], violations[6], symbol_ber;
  double gpm_values[GPM_METRICS];
  char uuid[48], serial[32], name[64], bus[32];
  uint8_t cluster[16];
};
struct xid { int32_t gpu; int32_t pad; uint64_t code; };
struct control {
  int32_t count, init_error, fail_code, fail_gpu;
  uint32_t generation, gpm_samples, calls, inits;
  char fail_call[64], hang_call[64], unsupported[512], driver[32];
  uint32_t xid_head, xid_tail;
  struct xid xids[MAX_XIDS];
  struct gpu gpus[MAX_GPUS];
};

static struct control *control;
static int references;
static uint32_t generation;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

size_t nvml_stub_size(void) { return sizeof(struct control); }

int nvml_stub_open(const char *path) {
  int fd = open(path, O_RDWR);
  if (fd < 0) return errno;
  void *at = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (at == MAP_FAILED) return errno;
  control = at;
  references = 0;
  return 0;
}

static void nap(long microseconds) {
  struct timespec t = {microseconds / 1000000, microseconds % 1000000 * 1000};
  nanosleep(&t, NULL);
}

static int listed(const char *names, const char *call) {
  size_t length = strlen(call);
  for (const char *at = strstr(names, call); at; at = strstr(at + 1, call))
    if ((at == names || at[-1] == ',') && (at[length] == ',' || at[length] == 0)) return 1;
  return 0;
}

/* What every call begins with: hang, fail, or go on. gpu = -1: a call about no GPU. */
static int enter(const char *call, int gpu) {
  if (!control) {
    const char *path = getenv("NVML_STUB_CONTROL");
    if (!path || nvml_stub_open(path)) return 12;
  }
  __atomic_add_fetch(&control->calls, 1, __ATOMIC_RELAXED);
  while (control->hang_call[0] && strcmp(control->hang_call, call) == 0) nap(10000);
  if (strcmp(call, "nvmlInitWithFlags") != 0 && (references == 0 || generation != control->generation))
    return UNINITIALIZED;
  if (listed(control->unsupported, call)) return NOT_SUPPORTED;
  if (control->fail_code && (!control->fail_call[0] || strcmp(control->fail_call, call) == 0) &&
      (control->fail_gpu < 0 || control->fail_gpu == gpu))
    return control->fail_code;
  if (gpu >= 0 && control->gpus[gpu].lost) return LOST;
  return OK;
}

static int index_of(void *device) { return (int)(intptr_t)device - 1; }
static struct gpu *gpu_of(void *device) { return &control->gpus[index_of(device)]; }

#define GPU_CALL(name, ...)                              \
  int name(void *device, ##__VA_ARGS__) {                \
    int code = enter(#name, index_of(device));           \
    if (code) return code;                               \
    struct gpu *gpu = gpu_of(device);
#define END return OK; }

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  int code = enter("nvmlInitWithFlags", -1);
  if (code) return code;
  if (control->init_error) return control->init_error;
  pthread_mutex_lock(&lock);
  if (references++ == 0) generation = control->generation;
  control->inits++;
  pthread_mutex_unlock(&lock);
  return OK;
}
int nvmlShutdown(void) {
  pthread_mutex_lock(&lock);
  int code = references > 0 ? OK : UNINITIALIZED;
  if (references > 0) references--;
  pthread_mutex_unlock(&lock);
  return code;
}
const char *nvmlErrorString(int code) {
  static char text[64];
  snprintf(text, sizeof text, "stub error %d", code);
  return text;
}
int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  int code = enter("nvmlSystemGetDriverVersion", -1);
  if (!code) snprintf(text, size, "%s", control->driver);
  return code;
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
  int code = enter("nvmlSystemGetCudaDriverVersion_v2", -1);
  *version = 12090;
  return code;
}
int nvmlDeviceGetCount_v2(unsigned *count) {
  int code = enter("nvmlDeviceGetCount_v2", -1);
  if (!code) *count = control->count;
  return code;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  int code = enter("nvmlDeviceGetHandleByIndex_v2", (int)index);
  *device = (void *)(intptr_t)(index + 1);
  return code;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  int code = enter("nvmlDeviceGetHandleByUUID", -1);
  if (code) return code;
  for (int i = 0; i < control->count; i++)
    if (strcmp(control->gpus[i].uuid, uuid) == 0) {
      *device = (void *)(intptr_t)(i + 1);
      return control->gpus[i].lost ? NOT_FOUND : OK;
    }
  return NOT_FOUND;
}
GPU_CALL(nvmlDeviceGetUUID, char *text, unsigned size) snprintf(text, size, "%s", gpu->uuid); END
GPU_CALL(nvmlDeviceGetName, char *text, unsigned size) snprintf(text, size, "%s", gpu->name); END
GPU_CALL(nvmlDeviceGetSerial, char *text, unsigned size) snprintf(text, size, "%s", gpu->serial); END
GPU_CALL(nvmlDeviceGetVbiosVersion, char *text, unsigned size) (void)gpu; snprintf(text, size, "96.00.89.00.01"); END
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
GPU_CALL(nvmlDeviceGetPciInfo_v3, struct pci *pci) snprintf(pci->bus_id, 32, "%s", gpu->bus); END
GPU_CALL(nvmlDeviceGetPowerUsage, unsigned *mw) *mw = gpu->power_mw; END
GPU_CALL(nvmlDeviceGetTemperature, int sensor, unsigned *c) (void)sensor; *c = gpu->temp; END
GPU_CALL(nvmlDeviceGetClockInfo, int kind, unsigned *mhz) *mhz = kind == 1 ? gpu->sm_mhz : gpu->mem_mhz; END
GPU_CALL(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long *mask) *mask = gpu->reasons; END
GPU_CALL(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long *mask) *mask = gpu->reasons; END
struct memory { unsigned long long total, free, used; };
struct memory2 { unsigned version; unsigned long long total, reserved, free, used; };
GPU_CALL(nvmlDeviceGetMemoryInfo, struct memory *m)
  m->total = gpu->fb_total; m->used = gpu->fb_used; m->free = gpu->fb_total - gpu->fb_used; END
GPU_CALL(nvmlDeviceGetMemoryInfo_v2, struct memory2 *m)
  if (m->version != (2u << 24 | sizeof *m)) return 25;
  m->total = gpu->fb_total; m->used = gpu->fb_used; m->reserved = gpu->fb_reserved;
  m->free = gpu->fb_total - gpu->fb_used - gpu->fb_reserved; END
GPU_CALL(nvmlDeviceGetRemappedRows, unsigned *corr, unsigned *unc, unsigned *pending, unsigned *failure)
  *corr = gpu->remap_corr; *unc = gpu->remap_unc; *pending = gpu->remap_pending; *failure = gpu->remap_failure; END
GPU_CALL(nvmlDeviceGetPcieReplayCounter, unsigned *n) *n = gpu->replay; END
GPU_CALL(nvmlDeviceGetCurrPcieLinkGeneration, unsigned *n) *n = gpu->pcie_gen; END
GPU_CALL(nvmlDeviceGetMaxPcieLinkGeneration, unsigned *n) *n = gpu->pcie_gen_max; END
GPU_CALL(nvmlDeviceGetCurrPcieLinkWidth, unsigned *n) *n = gpu->pcie_width; END
GPU_CALL(nvmlDeviceGetMaxPcieLinkWidth, unsigned *n) *n = gpu->pcie_width_max; END
GPU_CALL(nvmlDeviceGetNvLinkState, unsigned link, unsigned *active) *active = link < gpu->links_active; END
struct violation { unsigned long long reference, time; };
GPU_CALL(nvmlDeviceGetViolationStatus, int policy, struct violation *v)
  v->reference = 0; v->time = policy < 6 ? gpu->violations[policy] : 0; END
GPU_CALL(nvmlDeviceGetPowerManagementLimit, unsigned *mw) *mw = gpu->limit_mw; END
GPU_CALL(nvmlDeviceGetPowerManagementDefaultLimit, unsigned *mw) *mw = gpu->limit_default_mw; END
GPU_CALL(nvmlDeviceGetPowerManagementLimitConstraints, unsigned *low, unsigned *high)
  *low = 200000; *high = gpu->limit_max_mw; END
GPU_CALL(nvmlDeviceGetEccMode, int *now, int *pending) (void)gpu; *now = *pending = 1; END
GPU_CALL(nvmlDeviceGetMigMode, unsigned *now, unsigned *pending) (void)gpu; *now = *pending = 0; END
struct margin { unsigned version; int c; };
GPU_CALL(nvmlDeviceGetMarginTemperature, struct margin *m)
  if (m->version != (1u << 24 | sizeof *m)) return 25;
  m->c = gpu->margin; END
struct rates { unsigned gpu, memory; };
GPU_CALL(nvmlDeviceGetUtilizationRates, struct rates *r) r->gpu = gpu->util; r->memory = gpu->mem_util; END
struct sram { unsigned version; unsigned long long counts[11]; unsigned exceeded; };
GPU_CALL(nvmlDeviceGetSramEccErrorStatus, struct sram *s)
  if (s->version != (1u << 24 | sizeof *s)) return 25;
  s->exceeded = gpu->sram; END
struct process { unsigned pid; unsigned long long used; unsigned gi, ci; };
GPU_CALL(nvmlDeviceGetComputeRunningProcesses_v3, unsigned *count, struct process *list)
  unsigned room = *count;
  *count = gpu->processes;
  if (room < gpu->processes) return 7;
  for (unsigned i = 0; i < gpu->processes; i++) list[i].pid = 100 + i;
  END
struct fabric { unsigned version; uint8_t cluster[16]; int status; unsigned clique, state, health; };
GPU_CALL(nvmlDeviceGetGpuFabricInfoV, struct fabric *f)
  if (f->version != (2u << 24 | sizeof *f)) return 25;
  memcpy(f->cluster, gpu->cluster, 16); f->status = 0; f->clique = gpu->clique; f->state = gpu->fabric_state; END

struct value { uint32_t field, scope; int64_t stamp, latency; int32_t type, code; union { double d; unsigned u; uint64_t l; } v; };
static int field(struct gpu *gpu, struct value *out) {
  enum { UINT = 1, ULL = 3 };
  out->type = ULL;
  switch (out->field) {
    case 3: case 4: case 5: case 6: out->v.l = gpu->ecc[out->field - 3]; return OK;
    case 38: case 45: case 52: case 59: {
      int which = out->field == 38 ? 0 : out->field == 45 ? 1 : out->field == 52 ? 2 : 3;
      out->v.l = gpu->nvlink_errors[which];
      return gpu->nvlinks ? OK : NOT_SUPPORTED;
    }
    case 82: out->type = UINT; out->v.u = gpu->temp_mem; return OK;
    case 83: out->v.l = gpu->energy_mj; return OK;
    case 91: out->type = UINT; out->v.u = gpu->nvlinks; return gpu->nvlinks ? OK : NOT_SUPPORTED;
    case 186: out->type = UINT; out->v.u = gpu->instant_mw; return OK;
    case 222: out->v.l = gpu->symbol_ber; return gpu->symbol_ber && (int)out->scope < gpu->nvlinks ? OK : NOT_SUPPORTED;
    case 230: out->type = UINT; out->v.u = gpu->recovery; return OK;
    default: return NOT_SUPPORTED;
  }
}
GPU_CALL(nvmlDeviceGetFieldValues, int count, struct value *values)
  for (int i = 0; i < count; i++) values[i].code = field(gpu, &values[i]);
  END

/* GPM: a sample remembers its GPU; the metrics are what the control file says, when both samples are of one GPU. */
struct sample { int gpu; };
struct metric { unsigned id; int code; double value; const char *info[3]; };
struct request { unsigned version, count; struct sample *one, *two; struct metric metrics[]; };
struct support { unsigned version, supported; };
GPU_CALL(nvmlGpmQueryDeviceSupport, struct support *s)
  if (s->version != 1) return 25;
  s->supported = gpu->gpm; END
int nvmlGpmSampleAlloc(struct sample **sample) {
  *sample = calloc(1, sizeof **sample);
  __atomic_add_fetch(&control->gpm_samples, 1, __ATOMIC_RELAXED);
  return OK;
}
int nvmlGpmSampleFree(struct sample *sample) {
  free(sample);
  __atomic_sub_fetch(&control->gpm_samples, 1, __ATOMIC_RELAXED);
  return OK;
}
GPU_CALL(nvmlGpmSampleGet, struct sample *sample) (void)gpu; sample->gpu = index_of(device) + 1; END
int nvmlGpmMetricsGet(struct request *r) {
  int code = enter("nvmlGpmMetricsGet", r->one->gpu - 1);
  if (code) return code;
  if (r->version != 1) return 25;
  if (r->one->gpu != r->two->gpu || r->one == r->two || !r->one->gpu) return INVALID;
  struct gpu *gpu = &control->gpus[r->one->gpu - 1];
  for (unsigned i = 0; i < r->count; i++) {
    unsigned id = r->metrics[i].id;
    int has = id < GPM_METRICS && gpu->gpm_values[id] >= 0;
    r->metrics[i].code = has ? OK : NOT_SUPPORTED;
    r->metrics[i].value = has ? gpu->gpm_values[id] : 0;
  }
  return OK;
}

/* Events: one queue for all sets, as tests use one. */
struct event { void *device; unsigned long long type, data; unsigned gi, ci; };
int nvmlEventSetCreate(void **set) {
  int code = enter("nvmlEventSetCreate", -1);
  *set = code ? NULL : malloc(1);
  return code;
}
int nvmlEventSetFree(void *set) { free(set); return OK; }
GPU_CALL(nvmlDeviceRegisterEvents, unsigned long long types, void *set)
  (void)set; (void)gpu;
  if (types != 8) return INVALID;
  END
int nvmlEventSetWait_v2(void *set, struct event *out, unsigned timeout_ms) {
  (void)set;
  for (unsigned waited = 0; waited <= timeout_ms; waited += 5) {
    int code = enter("nvmlEventSetWait_v2", -1);
    if (code) return code;
    if (control->xid_tail != control->xid_head) {
      struct xid *xid = &control->xids[control->xid_tail % MAX_XIDS];
      *out = (struct event){(void *)(intptr_t)(xid->gpu + 1), 8, xid->code, 0xffffffff, 0xffffffff};
      control->xid_tail++;
      return OK;
    }
    nap(5000);
  }
  return TIMEOUT;
}
