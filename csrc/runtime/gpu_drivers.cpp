// The entries that are called here keep their binary interface (hip_runtime_api.h, ze_api.h; CUDA: cuda_driver.cpp).
#include "gpu_drivers.h"

#include <dlfcn.h>

#include <cstdint>
#include <vector>

#include "cuda_driver.h"
#include "environment.h"
#include "library_function.h"

namespace so3krates {
namespace {

struct Driver {
  std::string device;
  const char* variable;                // that names its library
  std::vector<const char*> libraries;  // the first that is found
  const char* what;
  const char* install;
  const char* look;  // where a GPU is not seen
};

const std::string kOrCpu = ", or choose device cpu and a potential exported for it";

const Driver& rocm() {
  static const Driver found{
      "device rocm",
      "SO3KRATES_ROCM_DRIVER",
      {"libamdhip64.so.7", "libamdhip64.so"},
      "AMD's HIP runtime",
      "install ROCm and the driver amdgpu, in a container let the devices /dev/kfd and /dev/dri in",
      "check rocminfo, ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES"};
  return found;
}

const Driver& oneapi() {
  static const Driver found{"device oneapi",
                            "SO3KRATES_ONEAPI_DRIVER",
                            {"libze_loader.so.1"},
                            "Intel's Level Zero",
                            "install its loader and the driver for GPUs (libze1, libze-intel-gpu1), in a container let "
                            "the device /dev/dri in",
                            "check sycl-ls and ZE_AFFINITY_MASK"};
  return found;
}

void* library_of(const Driver& driver) {
  const std::string named = variable(driver.variable);
  std::string problem;
  for (const char* name : named.empty() ? driver.libraries : std::vector<const char*>{named.c_str()}) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    if (problem.empty()) problem = dlerror();
  }
  throw Error(driver.device + " needs " + driver.what + ", and its library was not found (" + problem +
              "): " + driver.install + kOrCpu);
}

template <typename Function>
Function* entry(const Driver& driver, void* library, const char* name) {
  Function* function = nullptr;
  const bool is_named = !variable(driver.variable).empty();
  load_function(library, name, function, driver.device + ": " + driver.what,
                (is_named ? std::string("unset ") + driver.variable + ", or " : "") + driver.install + kOrCpu);
  return function;
}

[[noreturn]] void refuse_without_gpu(const Driver& driver, long error) {
  throw Error(driver.device + ": " + driver.what + " sees no GPU" +
              (error == 0 ? "" : " (error " + std::to_string(error) + ")") + ": " + driver.look + kOrCpu);
}

int rocm_count() {
  void* const library = library_of(rocm());
  int count = 0;
  const int error = entry<int(int*)>(rocm(), library, "hipGetDeviceCount")(&count);
  if (error != 0 || count < 1) refuse_without_gpu(rocm(), error);
  return count;
}

int oneapi_count() {
  constexpr std::uint32_t kGpusOnly = 1;  // ZE_INIT_FLAG_GPU_ONLY
  void* const library = library_of(oneapi());
  const auto initialise = entry<int(std::uint32_t)>(oneapi(), library, "zeInit");
  const auto drivers_of = entry<int(std::uint32_t*, void**)>(oneapi(), library, "zeDriverGet");
  const auto devices_of = entry<int(void*, std::uint32_t*, void**)>(oneapi(), library, "zeDeviceGet");
  std::uint32_t number = 0, count = 0;
  int error = initialise(kGpusOnly);
  if (error == 0) error = drivers_of(&number, nullptr);
  std::vector<void*> drivers(number);
  if (error == 0 && number > 0) error = drivers_of(&number, drivers.data());
  for (std::size_t k = 0; error == 0 && k < drivers.size(); ++k) {
    std::uint32_t devices = 0;
    error = devices_of(drivers[k], &devices, nullptr);
    count += devices;
  }
  if (error != 0 || count == 0) refuse_without_gpu(oneapi(), error);
  return static_cast<int>(count);
}

}  // namespace

int gpu_count(const std::string& platform) {
  if (platform == "cuda") return cuda::device_count();
  return platform == "rocm" ? rocm_count() : oneapi_count();
}

void check_gpu(const std::string& platform, int index, const std::string& plugin) {
  if (platform == "cpu")
    throw Error("device cpu: " + plugin + " is a plugin for GPUs: choose device cuda, rocm or oneapi, or leave it out");
  if (platform == "cuda") return cuda::check_device(index, plugin);
  const int count = gpu_count(platform);
  if (index >= count)
    throw Error("device " + platform + ":" + std::to_string(index) + " was asked for, but this process sees " +
                std::to_string(count) + (count == 1 ? " GPU" : " GPUs") + ", counted from 0");
}

}  // namespace so3krates
