// Work shared with XLA's own threads, which idle during a custom call: no threads of our own, and as many as the client
// has.
#pragma once

#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "thread_sanitizer.h"
#include "xla/ffi/api/ffi.h"

namespace so3krates::kernels {

// What a custom call returns for an exception; hosts tell a lack of memory by its code.
inline xla::ffi::Error failed(const std::exception& failure) {
  const bool is_out_of_memory = dynamic_cast<const std::bad_alloc*>(&failure) != nullptr;
  return xla::ffi::Error(
      is_out_of_memory ? xla::ffi::ErrorCode::kResourceExhausted : xla::ffi::ErrorCode::kInvalidArgument,
      std::string("so3krates kernel: ") + failure.what());
}

// task(k) for k in [0, count), in any order.
struct Stage {
  int count;
  std::function<void(int)> task;
};

// The tasks of some stages, shared by the threads that work on it. A task begins when all earlier stages are done.
class Job;
std::shared_ptr<Job> make_job(const std::vector<Stage>& stages, int helpers);

// For helpers whom `start` (below) is to bring: works on the job, and stays for a moment for the next one, since waking
// a thread takes longer than many stages of a small system.
void help(std::shared_ptr<Job> job);

// Runs the stages and returns when all are done; start(helper) runs helper() on another thread. The caller takes tasks
// too, so that nothing waits for a busy pool. Where tasks throw, later stages are left out, and what one of the tasks
// says is thrown here, as std::bad_alloc or std::runtime_error, when no task runs any more.
void run_job(const std::shared_ptr<Job>& job, const std::function<void(std::function<void()>)>& start);

// A function on its way to a thread of XLA's, which moves it once, to where it is called.
struct HandedOver {
  explicit HandedOver(std::function<void()> function) : function(std::move(function)) {}
  HandedOver(HandedOver&& other) noexcept : function(std::move(other.function)) { tsan_release(this); }
  void operator()() {
    tsan_acquire(this);
    function();
  }
  std::function<void()> function;
};

inline void run_stages(xla::ffi::ThreadPool& pool, const std::vector<Stage>& stages) {
  int most = 0;
  for (const Stage& stage : stages) most = std::max(most, stage.count);
  const int helpers = std::min<int>(most, static_cast<int>(pool.num_threads())) - 1;
  run_job(make_job(stages, helpers),
          [&](std::function<void()> helper) { pool.Schedule(HandedOver(std::move(helper))); });
}

// One stage.
template <typename Task>
void parallel(xla::ffi::ThreadPool& pool, int count, const Task& task) {
  run_stages(pool, {{count, [&task](int k) { task(k); }}});
}

}  // namespace so3krates::kernels
