// Included before everything else (CMakeLists.txt): what is built here also runs on systems that are some years older.
// tests/runtime/test_portable.py asks the libraries which versions they need.
#pragma once

#if defined(__x86_64__) && __has_include(<gnu/libc-version.h>)

// In glibc 2.34 these moved to libc.so; under their first version they are found on both sides.
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");
__asm__(".symver dlerror,dlerror@GLIBC_2.2.5");
__asm__(".symver dladdr,dladdr@GLIBC_2.2.5");
__asm__(".symver dlinfo,dlinfo@GLIBC_2.3.3");

// glibc 2.29: without the wrapper that sets errno.
__asm__(".symver exp,exp@GLIBC_2.2.5");

// glibc 2.32: whether a process has one thread yet; "no" is always true enough.
extern "C" {
__attribute__((weak, visibility("hidden"))) char __libc_single_threaded = 0;
}

// GCC 11: thrown where a container would be larger than memory can be.
namespace std {
void __throw_bad_alloc() __attribute__((noreturn));
__attribute__((weak, visibility("hidden"), noreturn)) void __throw_bad_array_new_length() {
  __throw_bad_alloc();
}
}  // namespace std

#endif
