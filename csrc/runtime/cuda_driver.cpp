// The entries of the driver API that are called here keep their binary interface (CUDA C driver API, cuda.h).
#include "cuda_driver.h"

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>

#include "environment.h"
#include "plugin_search.h"

namespace so3krates::cuda {
namespace {

constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE
const char* const kVariable = "SO3KRATES_CUDA_DRIVER";
const char* const kOrCpu = ", or choose device cpu and a potential exported for it";

struct Driver {
  int (*initialise)(unsigned flags);
  int (*version)(int* version);
  int (*count)(int* count);
  int (*name)(int error, const char** name);
};

void* open_library() {
  const std::string named = variable(kVariable);
  const std::string name = named.empty() ? "libcuda.so.1" : named;
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw Error(std::string("device cuda needs NVIDIA's driver, and its library was not found (") + dlerror() +
                "): install the driver, in a container let it in (docker --gpus all, apptainer --nv)" + kOrCpu);
  return library;
}

Driver open_driver() {
  Driver driver{};
  load_driver("cuInit", driver.initialise);
  load_driver("cuDriverGetVersion", driver.version);
  load_driver("cuDeviceGetCount", driver.count);
  load_driver("cuGetErrorName", driver.name);
  return driver;
}

const Driver& driver() {
  static const Driver opened = open_driver();
  return opened;
}

}  // namespace

void* driver_library() {
  static void* const opened = open_library();
  return opened;
}

std::string newer_driver() {
  return (variable(kVariable).empty() ? "" : std::string("unset ") + kVariable + ", or ") + "update the driver" +
         kOrCpu;
}

void check(int error, const std::string& operation) {
  if (error == 0) return;
  if (error == kNoDevice)
    throw Error(std::string("device cuda: the driver sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES") + kOrCpu);
  const char* name = nullptr;
  driver().name(error, &name);
  throw Error("device cuda: " + operation + " failed: " + (name == nullptr ? std::to_string(error) : name) +
              ": check that nvidia-smi runs" + kOrCpu);
}

int driver_version() {
  int version = 0;
  check(driver().version(&version), "reading the driver's version");
  return version;
}

int device_count() {
  check(driver().initialise(0), "starting the driver");
  int count = 0;
  check(driver().count(&count), "counting devices");
  if (count == 0) check(kNoDevice, "");
  return count;
}

void check_device(int index, const std::string& plugin) {
  const int count = device_count();
  if (index >= count)
    throw Error("device cuda:" + std::to_string(index) + " was asked for, but this process sees " +
                std::to_string(count) + (count == 1 ? " GPU" : " GPUs") + ", counted from 0");
  const int version = driver_version();
  const int release = cuda_release_of(plugin);
  if (version / 1000 < release)
    throw Error("the driver is made for CUDA " + std::to_string(version / 1000) + "." +
                std::to_string(version % 1000 / 10) + ", but the PJRT plugin " + plugin + " for CUDA " +
                std::to_string(release) + ": update the driver, or " +
                pip_install("so3krates[cuda" + std::to_string(version / 1000) + "]") + " and remove this one");
}

void make_current(int index) {
  int (*current)(void** context);
  int (*find)(int* device, int index);
  int (*retain)(void** context, int device);
  int (*set)(void* context);
  load_driver("cuCtxGetCurrent", current);
  void* context = nullptr;
  check(current(&context), "asking for a context");
  if (context != nullptr) return;
  load_driver("cuDeviceGet", find);
  load_driver("cuDevicePrimaryCtxRetain", retain);
  load_driver("cuCtxSetCurrent", set);
  int device = 0;
  check(find(&device, index), "asking for device " + std::to_string(index));
  check(retain(&context, device), "taking the context of device " + std::to_string(index));
  check(set(context), "setting a context");
}

bool is_shareable(const void* data) {
  constexpr int kLegacyIpc = 10;  // CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
  int (*attribute)(void* value, int attribute, std::uintptr_t pointer);
  load_driver("cuPointerGetAttribute", attribute);
  std::uint64_t value = 0;  // the driver writes an int or a bool
  check(attribute(&value, kLegacyIpc, reinterpret_cast<std::uintptr_t>(data)), "asking for the kind of GPU memory");
  return value != 0;
}

}  // namespace so3krates::cuda
