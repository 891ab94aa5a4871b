// One XLA FFI handler launches every kernel: the custom call's attributes name it and hold the sizes that its source is
// compiled for, and its parameters are the call's arguments and results in order. The entries of NVRTC and of the
// driver API that are called here keep their binary interface (nvrtc.h, cuda.h).
#include "cuda_kernels.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda_driver.h"
#include "cuda_kernel_source.h"  // made by CMake
#include "plugin_search.h"
#include "program_cache.h"
#include "sha256.h"
#include "xla/ffi/api/ffi.h"

namespace so3krates::cuda {
namespace {

namespace ffi = xla::ffi;

using Context = void*;
using Stream = void*;
using Function = void*;

// ---- NVRTC

struct Nvrtc {
  int (*version)(int* major, int* minor);
  const char* (*error)(int result);
  int (*create)(void** program, const char* source, const char* name, int headers, const char* const* sources,
                const char* const* names);
  int (*destroy)(void** program);
  int (*compile)(void* program, int options, const char* const* values);
  int (*log_size)(void* program, std::size_t* size);
  int (*log)(void* program, char* log);
  int (*cubin_size)(void* program, std::size_t* size);
  int (*cubin)(void* program, char* cubin);
  int major, minor;
};

struct Places {
  std::string cache, plugin;
};

Places& places() {
  static Places set;
  return set;
}

std::string install_cuda() {
  return pip_install("so3krates[cuda" + std::to_string(driver_version() / 1000) + "]");
}

// A release that the driver can run the code of; throws Error where there is none.
Nvrtc open_nvrtc() {
  std::string tried;
  for (const std::string& path : nvrtc_paths(driver_version() / 1000, places().plugin)) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      tried += (tried.empty() ? "" : ", ") + path;
      continue;
    }
    Nvrtc n{};
    const auto load = [&](const char* name, auto& function) {
      load_function(library, name, function, "NVRTC", install_cuda());
    };
    load("nvrtcVersion", n.version);
    load("nvrtcGetErrorString", n.error);
    load("nvrtcCreateProgram", n.create);
    load("nvrtcDestroyProgram", n.destroy);
    load("nvrtcCompileProgram", n.compile);
    load("nvrtcGetProgramLogSize", n.log_size);
    load("nvrtcGetProgramLog", n.log);
    load("nvrtcGetCUBINSize", n.cubin_size);
    load("nvrtcGetCUBIN", n.cubin);
    if (n.version(&n.major, &n.minor) != 0) throw Error("asking NVRTC for its version failed");
    return n;
  }
  throw Error("NVRTC, which compiles the kernels, was not found (looked for " + tried + "): " + install_cuda());
}

const Nvrtc& nvrtc() {
  static const Nvrtc opened = open_nvrtc();
  return opened;
}

// ---- driver

struct Driver {
  int (*stream_context)(Stream stream, Context* context);
  int (*current)(Context* context);
  int (*push)(Context context);
  int (*pop)(Context* context);
  int (*device)(int* device);
  int (*attribute)(int* value, int attribute, int device);
  int (*load_module)(void** module, const void* image);
  int (*function)(Function* function, void* module, const char* name);
  int (*set_attribute)(Function function, int attribute, int value);
  int (*occupancy)(int* blocks, Function function, int threads, std::size_t shared_bytes);
  int (*launch)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters,
                void** extra);
};

constexpr int kProcessors = 16, kMajor = 75, kMinor = 76, kMostShared = 97;  // CU_DEVICE_ATTRIBUTE_...
constexpr int kLeastMajor = 8;   // compute capability with the matrix units that the kernels use
constexpr int kSharedBytes = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kWarp = 32;

const Driver& driver() {
  static const Driver opened = [] {
    Driver d{};
    load_driver("cuStreamGetCtx", d.stream_context);
    load_driver("cuCtxGetCurrent", d.current);
    load_driver("cuCtxPushCurrent_v2", d.push);
    load_driver("cuCtxPopCurrent_v2", d.pop);
    load_driver("cuCtxGetDevice", d.device);
    load_driver("cuDeviceGetAttribute", d.attribute);
    load_driver("cuModuleLoadData", d.load_module);
    load_driver("cuModuleGetFunction", d.function);
    load_driver("cuFuncSetAttribute", d.set_attribute);
    load_driver("cuOccupancyMaxActiveBlocksPerMultiprocessor", d.occupancy);
    load_driver("cuLaunchKernel", d.launch);
    return d;
  }();
  return opened;
}

// The context of a stream is this thread's as long as this lives.
class Current {
 public:
  explicit Current(Stream stream) {
    if (stream != nullptr)
      check(driver().stream_context(stream, &context_), "asking for a stream's context");
    else
      check(driver().current(&context_), "asking for the context");
    check(driver().push(context_), "entering a context");
  }
  ~Current() {
    Context left;
    driver().pop(&left);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  Context get() const { return context_; }

 private:
  Context context_ = nullptr;
};

int device_attribute(int which) {
  int device = 0, value = 0;
  check(driver().device(&device), "asking for the device");
  check(driver().attribute(&value, which, device), "asking for the device's properties");
  return value;
}

// ---- kernels

// What a call asks for: at most that many warps to a block, as its shared memory allows.
struct Block {
  int warps, block_bytes, warp_bytes;
};

struct Kernel {
  Function function;
  unsigned blocks;  // that the GPU holds at once
  unsigned threads, shared_bytes;
};

void* load_module(const std::string& sizes) {
  const std::string architecture =
      "sm_" + std::to_string(device_attribute(kMajor)) + std::to_string(device_attribute(kMinor));
  ProgramCache cache(places().cache);
  std::string text = architecture + " " + std::to_string(nvrtc().major) + "." + std::to_string(nvrtc().minor) + "\n" +
                     sizes + kKernelSource;
  for (const char* header : kHeaderSources) text += header;
  const std::string key = sha256_hex(text.data(), text.size());
  std::optional<std::string> cubin = cache.find(key);
  if (!cubin) {
    cubin = compile_kernels(sizes, architecture);
    cache.store(key, *cubin);
  }
  void* module = nullptr;
  check(driver().load_module(&module, cubin->data()), "loading the GPU kernels");
  return module;
}

// Compiled, or taken from the cache, and loaded once for each context, which must be this thread's.
void* module_of(Context context, const std::string& sizes) {
  static std::mutex mutex;
  static std::map<std::pair<Context, std::string>, void*> modules;
  const std::lock_guard<std::mutex> lock(mutex);
  void*& module = modules[{context, sizes}];
  if (module == nullptr) module = load_module(sizes);
  return module;
}

// Loaded once for each context.
const Kernel& kernel_of(Context context, const std::string& name, const std::string& sizes, const Block& block) {
  static std::mutex mutex;
  static std::map<std::tuple<Context, std::string, std::string>, Kernel> kernels;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_tuple(context, name, sizes);
  const auto found = kernels.find(key);
  if (found != kernels.end()) return found->second;
  Kernel kernel{};
  check(driver().function(&kernel.function, module_of(context, sizes), name.c_str()), "finding the kernel " + name);
  int warps = block.warps;
  if (block.warp_bytes > 0)
    warps = std::min(warps, (device_attribute(kMostShared) - block.block_bytes) / block.warp_bytes);
  const int shared_bytes = block.block_bytes + warps * block.warp_bytes;
  kernel.threads = static_cast<unsigned>(kWarp * warps);
  kernel.shared_bytes = static_cast<unsigned>(shared_bytes);
  check(driver().set_attribute(kernel.function, kSharedBytes, shared_bytes),
        "taking " + std::to_string(shared_bytes) + " bytes of shared memory for the kernel " + name);
  int blocks = 0;
  check(driver().occupancy(&blocks, kernel.function, kWarp * warps, kernel.shared_bytes), "placing the kernel " + name);
  if (blocks < 1) throw Error("the kernel " + name + " does not fit this GPU: export the model with body 'xla'");
  kernel.blocks = static_cast<unsigned>(blocks * device_attribute(kProcessors));
  return kernels.emplace(key, kernel).first->second;
}

template <typename T>
T attribute(const ffi::Dictionary& attributes, const char* name) {
  const auto value = attributes.get<T>(name);
  if (!value.has_value())
    throw Error(std::string("a kernel's call has no attribute '") + name + "': export the model again");
  return *value;
}

ffi::Error launch(Stream stream, ffi::RemainingArgs arguments, ffi::RemainingRets results, ffi::Dictionary attributes) {
  try {
    const std::string name(attribute<std::string_view>(attributes, "kernel"));
    const auto number = [&](const char* key) { return static_cast<int>(attribute<std::int64_t>(attributes, key)); };
    const Block block{number("warps"), number("block_bytes"), number("warp_bytes")};
    const std::string sizes(attribute<std::string_view>(attributes, "sizes"));
    std::vector<void*> pointers;
    for (std::size_t k = 0; k < arguments.size(); ++k)
      pointers.push_back(arguments.get<ffi::AnyBuffer>(k)->untyped_data());
    for (std::size_t k = 0; k < results.size(); ++k)
      pointers.push_back((*results.get<ffi::AnyBuffer>(k))->untyped_data());
    std::vector<void*> parameters;
    for (void*& pointer : pointers) parameters.push_back(&pointer);
    const Current context(stream);
    const Kernel& kernel = kernel_of(context.get(), name, sizes, block);
    check(driver().launch(kernel.function, kernel.blocks, 1, 1, kernel.threads, 1, 1, kernel.shared_bytes, stream,
                          parameters.data(), nullptr),
          "starting the kernel " + name);
  } catch (const std::exception& error) {
    const bool is_out_of_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
    return ffi::Error(is_out_of_memory ? ffi::ErrorCode::kResourceExhausted : ffi::ErrorCode::kInternal,
                      std::string("so3krates kernel: ") + error.what());
  }
  return ffi::Error::Success();
}

ffi::Error launch_without_stream(ffi::RemainingArgs arguments, ffi::RemainingRets results, ffi::Dictionary attributes) {
  return launch(nullptr, arguments, results, attributes);
}

XLA_FFI_Error* on_stream(XLA_FFI_CallFrame* frame) {
  static auto* handler =
      ffi::Ffi::Bind().Ctx<ffi::PlatformStream<Stream>>().RemainingArgs().RemainingRets().Attrs().To(launch).release();
  return handler->Call(frame);
}

XLA_FFI_Error* on_host(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs().To(launch_without_stream).release();
  return handler->Call(frame);
}

}  // namespace

std::string compile_kernels(const std::string& sizes, const std::string& architecture, std::string* resources) {
  const Nvrtc& n = nvrtc();
  const std::string source = sizes + kKernelSource;
  void* program = nullptr;
  if (const int error = n.create(&program, source.c_str(), "kernels.cu", kHeaders, kHeaderSources, kHeaderNames))
    throw Error(std::string("compiling the GPU kernels failed: ") + n.error(error));
  const std::unique_ptr<void, void (*)(void*)> owner(program, [](void* p) { nvrtc().destroy(&p); });
  const std::string target = "--gpu-architecture=" + architecture;
  // Numbers below 1e-38 count as zero; the last option is for generic lambdas, which cannot be marked as functions of
  // the device.
  const char* options[] = {target.c_str(), "--std=c++17", "--ftz=true", "--device-as-default-execution-space",
                           "--ptxas-options=-v"};
  const int error = n.compile(program, resources == nullptr ? 4 : 5, options);
  std::size_t log_size = 0;
  n.log_size(program, &log_size);
  std::string log(log_size, '\0');
  n.log(program, log.data());
  log.resize(std::strlen(log.c_str()));
  if (error != 0)
    throw Error("compiling the GPU kernels for " + architecture + " with NVRTC " + std::to_string(n.major) + "." +
                std::to_string(n.minor) + " failed: " + n.error(error) + ": " +
                log.substr(0, std::min<std::size_t>(log.find('\n'), 500)));
  if (resources != nullptr) *resources = log;
  std::size_t size = 0;
  n.cubin_size(program, &size);
  std::string cubin(size, '\0');
  n.cubin(program, cubin.data());
  return cubin;
}

std::string kernel_problem(int version, int shared_bytes, const std::vector<std::string>& sizes, int device) {
  if (version < kOldestKernelVersion || version > kKernelVersion)
    return "the bundle calls version " + std::to_string(version) +
           " of the GPU kernels, and this so3krates has version " + std::to_string(kKernelVersion) +
           ": export the model again";
  try {
    if (device >= device_count()) return "there is no device cuda:" + std::to_string(device);
    const auto property = [device](int which) {
      int value = 0;
      check(driver().attribute(&value, which, device), "asking for the device's properties");
      return value;
    };
    if (property(kMajor) < kLeastMajor)
      return "they need a GPU of compute capability " + std::to_string(kLeastMajor) + ".0 or newer, and this one has " +
             std::to_string(property(kMajor)) + "." + std::to_string(property(kMinor));
    if (property(kMostShared) < shared_bytes)
      return "they take at least " + std::to_string(shared_bytes) + " bytes of shared memory, and this GPU has " +
             std::to_string(property(kMostShared)) + " for a block";
    nvrtc();
    if (sizes.empty()) return "";
    make_current(device);
    Context context = nullptr;
    check(driver().current(&context), "asking for the context");
    for (const std::string& set : sizes) module_of(context, set);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void set_places(const std::string& cache, const std::string& plugin) {
  places() = {cache, plugin};
}

void* kernel_handler(bool has_streams) {
  return reinterpret_cast<void*>(has_streams ? on_stream : on_host);
}

}  // namespace so3krates::cuda
