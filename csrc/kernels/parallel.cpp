#include "parallel.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace so3krates::kernels {
namespace {

constexpr std::chrono::microseconds kStay{50};  // a helper, between two jobs

constexpr int kPauses = 2000;  // some 20 us, before the processor is given up

// Waits that are mostly shorter than a change of threads, on a machine that may be full.
class Patience {
 public:
  void wait() {
    if (++rounds_ > kPauses) return std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

 private:
  int rounds_ = 0;
};

}  // namespace

class Job {
 public:
  Job(const std::vector<Stage>& stages, int helpers) : helpers(helpers), stages_(stages) {
    for (const Stage& stage : stages) ends_.push_back(total_ += stage.count);
  }

  void work() {
    // A helper that comes late finds no task left and never touches the stages.
    for (int n, stage = 0; (n = next_.fetch_add(1)) < total_;) {
      while (n >= ends_[stage]) ++stage;
      const int begin = stage == 0 ? 0 : ends_[stage - 1];
      // Those that are not done have been taken by threads that are at work.
      for (Patience patience; done_.load(std::memory_order_acquire) < begin;) patience.wait();
      try {
        if (!has_failed_.load(std::memory_order_acquire) || failed_stage_ == stage) stages_[stage].task(n - begin);
      } catch (const std::exception& error) {  // must not leave a thread of XLA's
        keep_failure(error, stage);
      }
      done_.fetch_add(1, std::memory_order_acq_rel);
    }
  }
  void keep_failure(const std::exception& failure, int stage) {
    if (is_failing_.exchange(true)) return;
    is_out_of_memory_ = dynamic_cast<const std::bad_alloc*>(&failure) != nullptr;
    std::snprintf(failure_.data(), failure_.size(), "%s", failure.what());
    failed_stage_ = stage;
    has_failed_.store(true, std::memory_order_release);
  }
  void finish() {
    for (Patience patience; done_.load(std::memory_order_acquire) < total_;) patience.wait();
    if (has_failed_ && is_out_of_memory_) throw std::bad_alloc();
    if (has_failed_) throw std::runtime_error(failure_.data());
  }

  int helpers;  // that are wanted still; under the mutex of those who stay

 private:
  const std::vector<Stage>& stages_;
  std::vector<int> ends_;
  int total_ = 0;
  std::atomic<int> next_{0}, done_{0};
  std::atomic<bool> is_failing_{false}, has_failed_{false};
  std::atomic<int> failed_stage_{0};
  bool is_out_of_memory_ = false;
  std::array<char, 512> failure_{};  // the first; no exception_ptr, whose copies take a libstdc++ of GCC 11
};

namespace {

// Helpers between two jobs, of whatever client.
struct Waiting {
  std::mutex mutex;
  int helpers = 0;
  std::shared_ptr<Job> job;  // the newest
  std::atomic<unsigned> posted{0};
};

Waiting& waiting() {
  static Waiting* const them = new Waiting;  // helpers may outlast the statics
  return *them;
}

// Offers the job to those who wait. Returns how many more helpers it wants.
int post(const std::shared_ptr<Job>& job) {
  Waiting& w = waiting();
  const std::lock_guard<std::mutex> lock(w.mutex);
  const int missing = std::max(0, job->helpers - w.helpers);
  job->helpers -= missing;
  if (job->helpers > 0) {
    w.job = job;
    w.posted.fetch_add(1, std::memory_order_release);
  }
  return missing;
}

// The next job within `kStay`, or null.
std::shared_ptr<Job> next_job() {
  Waiting& w = waiting();
  unsigned seen;
  {
    const std::lock_guard<std::mutex> lock(w.mutex);
    ++w.helpers;
    seen = w.posted.load(std::memory_order_relaxed);
  }
  const auto end = std::chrono::steady_clock::now() + kStay;
  for (Patience patience; w.posted.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < end;)
    patience.wait();
  const std::lock_guard<std::mutex> lock(w.mutex);
  --w.helpers;
  if (w.posted.load(std::memory_order_relaxed) == seen || w.job == nullptr || w.job->helpers == 0) return nullptr;
  std::shared_ptr<Job> job = w.job;
  if (--job->helpers == 0) w.job.reset();
  return job;
}

}  // namespace

std::shared_ptr<Job> make_job(const std::vector<Stage>& stages, int helpers) {
  return std::make_shared<Job>(stages, std::max(0, helpers));
}

void help(std::shared_ptr<Job> job) {
  for (; job != nullptr; job = next_job()) job->work();
}

void run_job(const std::shared_ptr<Job>& job, const std::function<void(std::function<void()>)>& start) {
  if (job->helpers > 0) {
    try {
      for (int missing = post(job); missing > 0; --missing) start([job] { help(job); });
    } catch (const std::exception& error) {  // helpers that have begun use the stages: they are waited for
      job->keep_failure(error, -1);
    }
  }
  job->work();
  job->finish();
}

}  // namespace so3krates::kernels
