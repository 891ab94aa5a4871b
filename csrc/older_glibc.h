// Included before everything else where SO3KRATES_OLD_SYSTEMS is on (CMakeLists.txt): names that newer headers ask for,
// under versions that glibc 2.28 has.
#pragma once

#if defined(__x86_64__) && __has_include(<gnu/libc-version.h>)

// In glibc 2.34 it moved to libc.so.
__asm__(".symver pthread_once,pthread_once@GLIBC_2.2.5");

// glibc 2.38: the same functions for C23, which read 0b101 too.
__asm__(".symver __isoc23_strtol,strtol@GLIBC_2.2.5");
__asm__(".symver __isoc23_strtoll,strtoll@GLIBC_2.2.5");
__asm__(".symver __isoc23_strtoull,strtoull@GLIBC_2.2.5");

#endif
