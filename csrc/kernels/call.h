// A custom call of the fused kernels: its attributes, and its arguments and results in turn.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "body.h"
#include "data_type.h"
#include "pairs.h"
#include "parallel.h"

namespace so3krates::kernels {

namespace ffi = xla::ffi;

// An attribute. Throws std::invalid_argument where there is none of this name and type.
std::int64_t integer(const ffi::Dictionary& attributes, const char* name);
// Throws std::invalid_argument where the attributes are not those of a network that the kernels compute.
Layout layout_from(const ffi::Dictionary& attributes);

constexpr std::int64_t kAny = -1;

// One custom call: its arguments and results in turn, checked.
class Call {
 public:
  Call(ffi::ThreadPool pool, ffi::RemainingArgs arguments, ffi::RemainingRets results,
       const ffi::Dictionary& attributes)
      : layout(layout_from(attributes)),
        attributes_(attributes),
        pool_(pool),
        arguments_(arguments),
        results_(results),
        threads_(static_cast<int>(integer(attributes, "threads"))) {}

  template <typename T>
  const T* in(std::initializer_list<std::int64_t> shape, std::int64_t* extents = nullptr) {
    const auto buffer = arguments_.get<ffi::AnyBuffer>(argument_);
    if (!buffer.has_value())
      throw std::invalid_argument("there are only " + std::to_string(arguments_.size()) + " arguments");
    check<T>(*buffer, shape, extents, "argument " + std::to_string(argument_++));
    return static_cast<const T*>(buffer->untyped_data());
  }
  template <typename T>
  T* out(std::initializer_list<std::int64_t> shape, std::int64_t* extents = nullptr) {
    auto buffer = results_.get<ffi::AnyBuffer>(result_);
    if (!buffer.has_value())
      throw std::invalid_argument("there are only " + std::to_string(results_.size()) + " results");
    check<T>(**buffer, shape, extents, "result " + std::to_string(result_++));
    return static_cast<T*>((*buffer)->untyped_data());
  }
  int count() { return *in<std::int32_t>({}); }
  // An attribute of this call alone.
  template <typename T>
  T attribute(const char* name) const {
    const auto value = attributes_.get<T>(name);
    if (!value.has_value()) throw std::invalid_argument(std::string("no attribute '") + name + "' of its type");
    return *value;
  }
  bool has_more_results() const { return result_ < results_.size(); }
  int threads() const {
    return threads_ > 0 ? threads_ : static_cast<int>(std::max<std::int64_t>(1, pool_.num_threads()));
  }

  // start(rows of the order) for all of them, then task(k, visit) for all pairs, round by round.
  template <typename Start, typename Task>
  static void add_pairs(std::vector<Stage>& stages, const Schedule& schedule, const Start& start, const Task& task) {
    for (int round = 0; round < kRounds; ++round)
      if (schedule.task_count(round) > 0)
        stages.push_back({schedule.task_count(round), [&schedule, start, task, round](int k) {
                            const Visit visit = schedule.task(round, k);
                            if (round == 0) start(Range{visit.begin, visit.end});
                            task(k, visit);
                          }});
  }
  // task(range, scratch) for pieces of rows [0, rows) that may be handled in any order.
  template <typename Real, typename Task>
  void add_rows(std::vector<Stage>& stages, int rows, const Task& task) {
    constexpr int piece = 24;
    const int pieces = std::max(1, std::min(4 * threads(), rows / piece));
    stages.push_back({pieces, [this, task, rows, pieces](int k) {
                        const auto bound = [&](int n) {
                          return static_cast<int>(static_cast<std::int64_t>(rows) * n / pieces);
                        };
                        task(Range{bound(k), bound(k + 1)}, scratch<Real>(0));
                      }});
  }
  void run(const std::vector<Stage>& stages) { run_stages(pool_, stages); }
  void run(int count, const std::function<void(int)>& task) { run_stages(pool_, {{count, task}}); }
  template <typename Real, typename Task>
  void for_rows(int rows, const Task& task) {
    std::vector<Stage> stages;
    add_rows<Real>(stages, rows, task);
    run(stages);
  }
  // Scratch of this thread.
  template <typename Real>
  Real* scratch(int channels) const {
    thread_local std::unique_ptr<void, decltype(&std::free)> memory(nullptr, std::free);
    thread_local std::size_t held = 0;
    const std::size_t needed = rounded_up(static_cast<int>(body<Real>().scratch(layout, channels) * sizeof(Real)), 64);
    if (needed > held) {
      memory.reset(std::aligned_alloc(64, needed));
      held = memory == nullptr ? 0 : needed;
      if (held == 0) throw std::bad_alloc();
    }
    return static_cast<Real*>(memory.get());
  }

  const Layout layout;

 private:
  template <typename T>
  static void check(const ffi::AnyBuffer& buffer, std::initializer_list<std::int64_t> shape, std::int64_t* extents,
                    const std::string& what) {
    const auto found = buffer.dimensions();
    bool is_right = buffer.element_type() == kDataType<T> && found.size() == shape.size();
    for (std::size_t k = 0; is_right && k < shape.size(); ++k) {
      const std::int64_t expected = shape.begin()[k];
      is_right = expected == kAny || expected == found.begin()[k];
      if (extents != nullptr) extents[k] = found.begin()[k];
    }
    if (is_right) return;
    const auto list = [](const std::int64_t* begin, std::size_t size) {
      std::string text;
      for (std::size_t k = 0; k < size; ++k)
        text += (k ? ", " : "") + (begin[k] == kAny ? "any" : std::to_string(begin[k]));
      return "[" + text + "]";
    };
    throw std::invalid_argument(what + " has shape " + list(found.begin(), found.size()) + " and type " +
                                std::to_string(static_cast<int>(buffer.element_type())) + ", but the kernel expects " +
                                list(shape.begin(), shape.size()) + " and type " +
                                std::to_string(static_cast<int>(kDataType<T>)) +
                                ": the bundle was made by another version of so3krates, export the model again");
  }

  const ffi::Dictionary attributes_;
  ffi::ThreadPool pool_;
  ffi::RemainingArgs arguments_;
  ffi::RemainingRets results_;
  int threads_;
  std::size_t argument_ = 0, result_ = 0;
};

}  // namespace so3krates::kernels
