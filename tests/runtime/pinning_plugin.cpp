// The CPU plugin with the entries that pin memory: pages are locked, and the library counts what is.
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

PJRT_Error* map_memory(PJRT_Client_DmaMap_Args* args) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (mlock(args->data, args->size) != 0 || !sizes.emplace(args->data, args->size).second) ++wrong;
  return nullptr;
}

// Memory must still be there: munlock fails where it is not.
PJRT_Error* unmap_memory(PJRT_Client_DmaUnmap_Args* args) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = sizes.find(args->data);
  if (found == sizes.end() || munlock(found->first, found->second) != 0) ++wrong;
  if (found != sizes.end()) sizes.erase(found);
  return nullptr;
}

}  // namespace

extern "C" const PJRT_Api* GetPjrtApi() {
  static const PJRT_Api api = [] {
    void* library = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
    PJRT_Api copy = *reinterpret_cast<const PJRT_Api* (*)()>(dlsym(library, "GetPjrtApi"))();
    copy.PJRT_Client_DmaMap = map_memory;
    copy.PJRT_Client_DmaUnmap = unmap_memory;
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
