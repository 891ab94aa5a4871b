// PJRT plugins: opening them, making the kernels known to them, what they say of themselves; and errors of their calls.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>

#include "cuda_kernels.h"
#include "environment.h"
#include "pjrt.h"
#include "pjrt_api.h"
#include "plugin_search.h"
#include "registry.h"
#include "xla/pjrt/c/pjrt_c_api_ffi_extension.h"

namespace so3krates::pjrt {
namespace {

std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text.substr(0, text.find_last_not_of('\n') + 1)) line += c == '\n' ? ' ' : c;
  return line;
}

// Adds to the linker's message where the library that it misses comes from.
std::string with_remedy(const std::string& message, const std::string& plugin) {
  const auto is_for = [&](const char* name) { return plugin.rfind(name) != std::string::npos; };
  if (message.find("libcu") != std::string::npos || message.find("libnv") != std::string::npos)
    return message + " (" + pip_install("so3krates[cuda12]") + ")";
  if (is_for("xla_rocm"))
    return message + " (install the ROCm release that the plugin's folder names, in /opt/rocm or LD_LIBRARY_PATH)";
  if (is_for("xla_oneapi"))
    return message + " (" + pip_install("so3krates[oneapi]") +
           ", or source setvars.sh of oneAPI 2025.1; libze_loader " + "comes with the driver)";
  return message;
}

// Says before XLA's own words, which may be thousands, what they mean.
std::string explained(const std::string& message) {
  if (message.find("libdevice not found") == std::string::npos && message.find("ptxas/nvlink") == std::string::npos)
    return message;
  return "ptxas, nvlink or NVIDIA's device library is missing: " + pip_install("so3krates[cuda12]") +
         " (or [cuda13]), or set CUDA_HOME to the folder of a CUDA: " + message;
}

const PJRT_Extension_Base* extension(const PJRT_Api* api, PJRT_Extension_Type type) {
  const PJRT_Extension_Base* found = api->extension_start;
  while (found != nullptr && found->type != type) found = found->next;
  return found;
}

// Makes the fused kernels known to a plugin that takes custom calls.
void register_kernels(const PJRT_Api* api) {
  const auto* ffi = reinterpret_cast<const PJRT_FFI_Extension*>(extension(api, PJRT_Extension_Type_FFI));
  if (ffi == nullptr) return;
  const auto add = [&](const char* name, void* handler, std::string_view platform) {
    auto args = SIZED(PJRT_FFI_Register_Handler_Args);
    args.target_name = name;
    args.target_name_size = std::strlen(name);
    args.handler = handler;
    args.platform_name = platform.data();
    args.platform_name_size = platform.size();
    check(api, ffi->register_handler(&args), std::string("registering kernel ") + name);
  };
  if (is_gpu(api)) {
    add(cuda::kCall, cuda::kernel_handler(true), "CUDA");
    return;
  }
  // Those for GPUs too, with a driver that runs them on the host: their tests and rehearsals.
  add(cuda::kCall, cuda::kernel_handler(false), "Host");
  std::size_t count = 0;
  const kernels::Kernel* all = kernels::so3krates_kernels(&count);
  for (const kernels::Kernel* kernel = all; kernel != all + count; ++kernel) add(kernel->name, kernel->handler, "Host");
}

// Failures are returned; what XLA logs besides only alarms, above all that a program which it compiled itself asks for
// tuning flags that no processor lists: cached programs have the processor in their key. The level is read as the
// library is loaded; 0 asks for all, another may be JAX's, which sets it in its own process.
void* open_library(const std::string& path) {
  const char* level = std::getenv("TF_CPP_MIN_LOG_LEVEL");
  const ScopedEnvironment quiet(
      {{"TF_CPP_MIN_LOG_LEVEL", level != nullptr && std::string_view(level) == "0" ? "0" : "3"}});
  return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
}

const PJRT_Api* open_plugin(const std::string& path) {
  const std::string operation = "loading the PJRT plugin " + path;
  void* library = open_library(path);  // never closed: XLA's threads outlive every client
  if (library == nullptr) throw Error(operation + " failed: " + with_remedy(dlerror(), path));
  const auto get_api = reinterpret_cast<const PJRT_Api* (*)()>(dlsym(library, "GetPjrtApi"));
  if (get_api == nullptr) throw Error(operation + " failed: it has no symbol GetPjrtApi, so it is no PJRT plugin");
  const PJRT_Api* api = get_api();
  if (api == nullptr) throw Error(operation + " failed: it gave no table of functions");
  const PJRT_Api_Version& version = api->pjrt_api_version;
  if (version.major_version != PJRT_API_MAJOR)
    throw Error(operation + " failed: it speaks PJRT API " + std::to_string(version.major_version) + "." +
                std::to_string(version.minor_version) + ", and this program " + std::to_string(PJRT_API_MAJOR) + "." +
                std::to_string(PJRT_API_MINOR) + ": install a plugin release that matches");
  auto args = SIZED(PJRT_Plugin_Initialize_Args);
  call(api, &PJRT_Api::PJRT_Plugin_Initialize, args, operation);
  register_kernels(api);
  return api;
}

}  // namespace

void check(const PJRT_Api* api, PJRT_Error* error, const std::string& operation) {
  if (error == nullptr) return;
  auto text = SIZED(PJRT_Error_Message_Args);
  text.error = error;
  api->PJRT_Error_Message(&text);
  const std::string message = operation + " failed: " + explained(one_line({text.message, text.message_size}));
  auto code = SIZED(PJRT_Error_GetCode_Args);
  code.error = error;
  const bool has_code = api->PJRT_Error_GetCode(&code) == nullptr;
  auto destroy = SIZED(PJRT_Error_Destroy_Args);
  destroy.error = error;
  api->PJRT_Error_Destroy(&destroy);
  // What arrays tell of the program that was to make them has lost its code.
  const bool is_of_memory = has_code && code.code == PJRT_Error_Code_RESOURCE_EXHAUSTED;
  if (is_of_memory || message.find("std::bad_alloc") != std::string::npos) throw MemoryError(message);
  if (has_code && code.code == PJRT_Error_Code_INVALID_ARGUMENT) throw ArgumentError(message);
  throw Error(message);
}

bool is_gpu(const PJRT_Api* api) {
  return extension(api, PJRT_Extension_Type_Gpu_Custom_Call) != nullptr;
}

const PJRT_Api* plugin(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, const PJRT_Api*> opened;  // a plugin is initialised once
  const std::lock_guard<std::mutex> lock(mutex);
  const PJRT_Api*& api = opened[path];
  if (api == nullptr) api = open_plugin(path);
  return api;
}

std::map<std::string, std::string> attributes(const PJRT_Api* api) {
  auto args = SIZED(PJRT_Plugin_Attributes_Args);
  call(api, &PJRT_Api::PJRT_Plugin_Attributes, args, "reading the plugin's attributes");
  std::map<std::string, std::string> values;
  for (std::size_t i = 0; i < args.num_attributes; ++i) {
    const PJRT_NamedValue& item = args.attributes[i];
    std::string value;
    if (item.type == PJRT_NamedValue_kString) value.assign(item.string_value, item.value_size);
    if (item.type == PJRT_NamedValue_kInt64) value = std::to_string(item.int64_value);
    if (item.type == PJRT_NamedValue_kInt64List)
      for (std::size_t k = 0; k < item.value_size; ++k)
        value += (k ? "." : "") + std::to_string(item.int64_array_value[k]);
    values.emplace(std::string(item.name, item.name_size), value);
  }
  return values;
}

std::map<std::string, std::string> plugin_attributes(const std::string& path) {
  return attributes(plugin(path));
}

std::string api_version(const std::string& path) {
  const PJRT_Api_Version& version = plugin(path)->pjrt_api_version;
  return std::to_string(version.major_version) + "." + std::to_string(version.minor_version);
}

}  // namespace so3krates::pjrt
