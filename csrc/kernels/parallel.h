// Work shared with XLA's own threads, which idle during a custom call: no threads of our own, and as many as the client
// has.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <thread>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace so3krates::kernels {

// Runs task(k) for k in [0, count) and returns when all are done. The caller takes tasks too, so that nothing waits for
// a busy pool. Where tasks throw, one of their exceptions is thrown here, when all are done.
template <typename Task>
void parallel(xla::ffi::ThreadPool& pool, int count, const Task& task) {
  struct Job {
    std::atomic<int> next{0}, done{0};
    std::atomic<bool> has_failed{false};
    std::exception_ptr failure;  // the first
    void keep_failure() {
      if (!has_failed.exchange(true)) failure = std::current_exception();
    }
  };
  const auto job = std::make_shared<Job>();
  const auto work = [job, count, &task] {
    // A helper that comes late finds no task left and never touches `task`.
    for (int k; (k = job->next.fetch_add(1)) < count;) {
      try {
        task(k);
      } catch (...) {  // must not leave a thread of XLA's
        job->keep_failure();
      }
      job->done.fetch_add(1, std::memory_order_release);
    }
  };
  const int helpers = std::min<int>(count, static_cast<int>(pool.num_threads())) - 1;
  try {
    for (int k = 0; k < helpers; ++k) {
      auto helper = work;
      pool.Schedule(std::move(helper));
    }
  } catch (...) {  // helpers that have begun use `task`: they are waited for
    job->keep_failure();
  }
  work();
  while (job->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
  if (job->failure) std::rethrow_exception(job->failure);
}

}  // namespace so3krates::kernels
