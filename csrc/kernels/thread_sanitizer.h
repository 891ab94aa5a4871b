// What ThreadSanitizer is told of XLA, which was built without it and in which memory passes from thread to thread.
#pragma once

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace so3krates {

// What a thread did before tsan_release(place) comes before what another one does after tsan_acquire(place).
inline void tsan_release([[maybe_unused]] void* place) {
#ifdef __SANITIZE_THREAD__
  __tsan_release(place);
#endif
}
inline void tsan_acquire([[maybe_unused]] void* place) {
#ifdef __SANITIZE_THREAD__
  __tsan_acquire(place);
#endif
}

// XLA orders custom calls, and programs and what the host does before and after, by the buffers that they share. This
// is the place of them all: what has ended comes before what begins, and what runs at one time is in no order.
inline char xla_order = 0;

// Lives as long as a custom call.
struct CallOrder {
  CallOrder() { tsan_acquire(&xla_order); }
  ~CallOrder() { tsan_release(&xla_order); }
  CallOrder(const CallOrder&) = delete;
  CallOrder& operator=(const CallOrder&) = delete;
};

}  // namespace so3krates
