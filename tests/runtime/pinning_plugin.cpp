// The CPU plugin with the entries that pin memory: a CPU needs no pinning, so all that they do is to count what is pinned.
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstddef>
#include <map>
#include <mutex>

#include "xla/pjrt/c/pjrt_c_api.h"

namespace {

std::mutex mutex;
std::map<void*, std::size_t> sizes;
int wrong = 0;

// Whether all of it is mapped.
bool is_there(void* data, std::size_t size) {
  return msync(data, size, MS_ASYNC) == 0;
}

[[maybe_unused]] PJRT_Error* map_memory(PJRT_Client_DmaMap_Args* args) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!is_there(args->data, args->size) || !sizes.emplace(args->data, args->size).second) ++wrong;
  return nullptr;
}

[[maybe_unused]] PJRT_Error* unmap_memory(PJRT_Client_DmaUnmap_Args* args) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = sizes.find(args->data);
  if (found == sizes.end() || !is_there(found->first, found->second)) ++wrong;
  if (found != sizes.end()) sizes.erase(found);
  return nullptr;
}

#ifdef PLATFORM
// It says that it is another platform.
PJRT_Error* name_platform(PJRT_Client_PlatformName_Args* args) {
  static constexpr char name[] = PLATFORM;
  args->platform_name = name;
  args->platform_name_size = sizeof(name) - 1;
  return nullptr;
}
#endif

}  // namespace

extern "C" const PJRT_Api* GetPjrtApi() {
  static const PJRT_Api api = [] {
    void* library = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
    PJRT_Api copy = *reinterpret_cast<const PJRT_Api* (*)()>(dlsym(library, "GetPjrtApi"))();
    copy.PJRT_Client_DmaMap = PIN;
    copy.PJRT_Client_DmaUnmap = UNPIN;
#ifdef PLATFORM
    copy.PJRT_Client_PlatformName = name_platform;
#endif
    return copy;
  }();
  return &api;
}

extern "C" int pinned() {
  return static_cast<int>(sizes.size());
}

extern "C" int mistakes() {
  return wrong;
}
