// NVIDIA's driver and NVRTC for tests, in one library: "devices" as the environment says, kernels compiled by c++ with
// host_cuda.h (macro HOST_CUDA: its path) and run on host memory.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

int number(const char* name, int otherwise = 0) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

std::string folder() {
  std::string path = std::filesystem::temp_directory_path() / "fake_cuda_XXXXXX";
  return mkdtemp(path.data()) == nullptr ? "" : path;
}

char contexts[16];  // a device's is the address of its entry
thread_local void* current = nullptr;

struct Program {
  std::string source, log, image;
  std::vector<std::pair<std::string, std::string>> headers;  // name and content
};

struct Module {
  void* library;
};
struct Function {
  void (*launch)(void (*)(void**), unsigned, unsigned, void**);
  void (*run)(void**);
};

const char* const kKernels[] = {"neighbours", "first_messages", "first_messages_adjoint", "messages",
                                "messages_adjoint"};
const char* const kLongKernels[] = {"cell_begins", "long_pairs"};  // of sources with pairs of long range

}  // namespace

extern "C" {

// ---- driver

int cuInit(unsigned) {
  return number("FAKE_CUDA_ERROR");
}
int cuDriverGetVersion(int* version) {
  *version = number("FAKE_CUDA_VERSION", 12080);
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = number("FAKE_CUDA_DEVICES", 1);
  return 0;
}
int cuGetErrorName(int error, const char** name) {
  *name = error == 999 ? "CUDA_ERROR_UNKNOWN" : nullptr;
  return error == 999 ? 0 : 1;
}
int cuStreamGetCtx(void*, void** context) {
  *context = nullptr;
  return 0;
}
int cuCtxGetCurrent(void** context) {
  *context = current;
  return 0;
}
int cuCtxSetCurrent(void* context) {
  current = context;
  return 0;
}
int cuDeviceGet(int* device, int index) {
  *device = index;
  return index < number("FAKE_CUDA_DEVICES", 1) ? 0 : 101;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = contexts + device;
  return 0;
}
// Device of this thread's context, -1 where it has none; no part of the driver.
int current_device() {
  return current == nullptr ? -1 : static_cast<int>(static_cast<char*>(current) - contexts);
}
int cuCtxPushCurrent_v2(void*) {
  return 0;
}
int cuCtxPopCurrent_v2(void** context) {
  *context = nullptr;
  return 0;
}
int cuCtxGetDevice(int* device) {
  *device = 0;
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  const int shared = number("FAKE_CUDA_SHARED", 227 * 1024);
  const int major = number("FAKE_CUDA_MAJOR", 9);
  *value = attribute == 75 ? major : attribute == 76 ? 0 : attribute == 16 ? 2 : attribute == 97 ? shared : -1;
  return 0;
}
// Whether another process can open that memory.
int cuPointerGetAttribute(void* value, int attribute, unsigned long long) {
  if (attribute != 10) return 1;
  const bool is_capable = number("FAKE_CUDA_IPC", 1) != 0;
  std::memcpy(value, &is_capable, sizeof(is_capable));
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  std::size_t size;
  std::memcpy(&size, image, sizeof(size));
  const std::string path = folder() + "/kernels.so";
  std::ofstream(path, std::ios::binary).write(static_cast<const char*>(image) + sizeof(size), size);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return 200;
  *module = new Module{library};
  return 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  void* library = static_cast<Module*>(module)->library;
  auto* found = new Function;
  found->launch = reinterpret_cast<decltype(found->launch)>(dlsym(library, "launch"));
  found->run = reinterpret_cast<decltype(found->run)>(dlsym(library, (std::string("run_") + name).c_str()));
  *function = found;
  return found->run == nullptr ? 500 : 0;
}
int cuFuncSetAttribute(void*, int attribute, int bytes) {
  return attribute == 8 && bytes <= number("FAKE_CUDA_SHARED", 227 * 1024) ? 0 : 1;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int threads, std::size_t) {
  *blocks = threads % 32 == 0 && threads <= 1024 ? 1 : 0;
  return 0;
}
int cuLaunchKernel(void* function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned,
                   void*, void** parameters, void**) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto* f = static_cast<Function*>(function);
  f->launch(f->run, blocks, threads, parameters);
  return 0;
}

// ---- NVRTC

int nvrtcVersion(int* major, int* minor) {
  *major = 12;
  *minor = 8;
  return 0;
}
const char* nvrtcGetErrorString(int) {
  return "NVRTC_ERROR_COMPILATION";
}
int nvrtcCreateProgram(void** program, const char* source, const char*, int headers, const char* const* sources,
                       const char* const* names) {
  auto* made = new Program{source, "", "", {}};
  for (int k = 0; k < headers; ++k) made->headers.emplace_back(names[k], sources[k]);
  *program = made;
  return 0;
}
int nvrtcDestroyProgram(void** program) {
  delete static_cast<Program*>(*program);
  return 0;
}
int nvrtcCompileProgram(void* program, int count, const char* const* options) {
  auto& p = *static_cast<Program*>(program);
  if (count != 4 || std::strcmp(options[0], "--gpu-architecture=sm_90") != 0) return 5;
  const std::string here = folder();
  for (const auto& [name, content] : p.headers) std::ofstream(here + "/" + name) << content;
  std::ofstream source(here + "/kernels.cpp");
  source << "#include \"" HOST_CUDA "\"\n" << p.source;
  source << "\nnamespace so3krates { unsigned char shared_memory[227 * 1024]; }\n";
  std::vector<std::string> names(std::begin(kKernels), std::end(kKernels));
  if (p.source.find("#define LONG_CELLS ") != std::string::npos)
    names.insert(names.end(), std::begin(kLongKernels), std::end(kLongKernels));
  for (const std::string& name : names)
    source << "extern \"C\" void run_" << name << "(void** p) { host_cuda::call(so3krates::" << name << ", p); }\n";
  source << "extern \"C\" void launch(void (*kernel)(void**), unsigned blocks, unsigned threads, void** values) { "
            "host_cuda::launch(kernel, blocks, threads, values); }\n";
  source.close();
  const std::string command = "cd " + here +
                              " && c++ -std=c++17 -O1 -w -U_FORTIFY_SOURCE -shared -fPIC -I. kernels.cpp -o kernels.so "
                              "> log 2>&1";
  const int failed = std::system(command.c_str());
  std::stringstream log, image;
  log << std::ifstream(here + "/log").rdbuf();
  p.log = log.str();
  if (failed != 0) return 6;
  image << std::ifstream(here + "/kernels.so", std::ios::binary).rdbuf();
  const std::string code = image.str();
  const std::size_t size = code.size();
  p.image = std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + code;
  return 0;
}
int nvrtcGetProgramLogSize(void* program, std::size_t* size) {
  *size = static_cast<Program*>(program)->log.size() + 1;
  return 0;
}
int nvrtcGetProgramLog(void* program, char* log) {
  std::strcpy(log, static_cast<Program*>(program)->log.c_str());
  return 0;
}
int nvrtcGetCUBINSize(void* program, std::size_t* size) {
  *size = static_cast<Program*>(program)->image.size();
  return 0;
}
int nvrtcGetCUBIN(void* program, char* cubin) {
  const std::string& image = static_cast<Program*>(program)->image;
  std::memcpy(cubin, image.data(), image.size());
  return 0;
}
}
