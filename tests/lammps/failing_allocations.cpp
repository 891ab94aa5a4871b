// Preloaded by a test: one allocation of so3krates' libraries fails, the n-th of those that are still to come. n is
// FAIL_ALLOCATION of the environment, or what a program gives fail_allocation.
#include <dlfcn.h>
#include <unwind.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

long from_environment() {
  const char* number = std::getenv("FAIL_ALLOCATION");
  return number == nullptr ? 0 : std::atol(number);
}

std::atomic<long> left{from_environment()};  // until the one that fails; 0: none

// The first caller that is neither this library nor the C++ library, through which it may have been called.
_Unwind_Reason_Code look(_Unwind_Context* context, void* result) {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(_Unwind_GetIP(context)), &info) == 0) return _URC_END_OF_STACK;
  const char* slash = std::strrchr(info.dli_fname, '/');
  const char* name = slash == nullptr ? info.dli_fname : slash + 1;
  if (std::strstr(name, "failing_allocations") != nullptr || std::strstr(name, "libstdc++") != nullptr)
    return _URC_NO_REASON;
  *static_cast<bool*>(result) = std::strstr(name, "so3krates") != nullptr;
  return _URC_END_OF_STACK;
}

bool is_ours() {
  static thread_local bool is_looking = false;
  if (is_looking) return false;
  is_looking = true;
  bool result = false;
  _Unwind_Backtrace(look, &result);
  is_looking = false;
  return result;
}

}  // namespace

extern "C" void fail_allocation(long number) {
  left = number;
}

extern "C" long allocations_left() {
  return left;
}

void* operator new(std::size_t bytes) {
  if (left > 0 && is_ours() && --left == 0) throw std::bad_alloc();
  if (void* memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept {
  std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
