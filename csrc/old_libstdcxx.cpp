// Linked where SO3KRATES_OLD_SYSTEMS is on, with the parts of libstdc++.a that GCC 8 did not have (CMakeLists.txt):
// what those parts ask of newer systems. A wheel for manylinux_2_28 has it.
#include <cstdlib>
#include <exception>
#include <ios>

#define HIDDEN __attribute__((visibility("hidden")))

struct stat;

// glibc 2.33 made these functions of their own; before, and ever since, they were calls of others.
extern "C" {
int old_xstat(int, const char*, struct stat*);
int old_lxstat(int, const char*, struct stat*);
int old_fxstat(int, int, struct stat*);
int old_fxstatat(int, int, const char*, struct stat*, int);
__asm__(".symver old_xstat,__xstat@GLIBC_2.2.5");
__asm__(".symver old_lxstat,__lxstat@GLIBC_2.2.5");
__asm__(".symver old_fxstat,__fxstat@GLIBC_2.2.5");
__asm__(".symver old_fxstatat,__fxstatat@GLIBC_2.4");

HIDDEN int stat(const char* path, struct stat* found) {
  return old_xstat(1, path, found);
}
HIDDEN int lstat(const char* path, struct stat* found) {
  return old_lxstat(1, path, found);
}
HIDDEN int fstat(int file, struct stat* found) {
  return old_fxstat(1, file, found);
}
HIDDEN int fstatat(int folder, const char* path, struct stat* found, int flags) {
  return old_fxstatat(1, folder, path, found, flags);
}
}

// GCC 13's headers leave to its library what each file did before: to make std::cout and its like.
static const std::ios_base::Init streams;
extern "C" HIDDEN void made_streams() __asm__("_ZSt21ios_base_library_initv");
extern "C" void made_streams() {}

// GCC 14 ends a function that must not throw by this one.
extern "C" void* __cxa_begin_catch(void*) noexcept;
extern "C" HIDDEN void call_terminate(void* thrown) noexcept __asm__("__cxa_call_terminate");
extern "C" void call_terminate(void* thrown) noexcept {
  if (thrown) __cxa_begin_catch(thrown);
  std::terminate();
}

// libstdc++ keeps this one to itself: what std::terminate calls.
namespace __cxxabiv1 {
HIDDEN void __terminate(void (*handler)()) noexcept;
void __terminate(void (*handler)()) noexcept {
  handler();
  std::abort();
}
}  // namespace __cxxabiv1
