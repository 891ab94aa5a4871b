// Work shared with XLA's own threads, which idle during a custom call: no threads of our own, and as many as the client
// has.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace so3krates::kernels {

// Runs task(k) for k in [0, count) and returns when all are done. The caller takes tasks too, so that nothing waits for
// a busy pool. Where tasks throw, what one of them says is thrown here as std::runtime_error, when all are done.
template <typename Task>
void parallel(xla::ffi::ThreadPool& pool, int count, const Task& task) {
  struct Job {
    std::atomic<int> next{0}, done{0};
    std::atomic<bool> has_failed{false};
    std::array<char, 512> failure{};  // the first; no exception_ptr, whose copies take a libstdc++ of GCC 11
    void keep_failure(const char* what) {
      if (!has_failed.exchange(true)) std::snprintf(failure.data(), failure.size(), "%s", what);
    }
  };
  const auto job = std::make_shared<Job>();
  const auto work = [job, count, &task] {
    // A helper that comes late finds no task left and never touches `task`.
    for (int k; (k = job->next.fetch_add(1)) < count;) {
      try {
        task(k);
      } catch (const std::exception& error) {  // must not leave a thread of XLA's
        job->keep_failure(error.what());
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
  } catch (const std::exception& error) {  // helpers that have begun use `task`: they are waited for
    job->keep_failure(error.what());
  }
  work();
  while (job->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
  if (job->has_failed) throw std::runtime_error(job->failure.data());
}

}  // namespace so3krates::kernels
