// The evaluator's parts, for evaluator.cpp and the files evaluator_*.cpp.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "evaluator.h"
#include "guard.h"
#include "host_memory.h"
#include "pjrt.h"
#include "program_cache.h"
#include "structure_checks.h"

namespace so3krates {

std::size_t bytes_of(const std::vector<std::int64_t>& shape, DType dtype);
// Up to the next place from which a CPU reads an array where it is.
std::size_t padded(std::size_t bytes);

// Adds the time of its life to `seconds`.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Host memory, pinned where that can be.
struct Staging {
  std::size_t bytes = 0;
  HostMemory memory;
  pjrt::Pin pin;
};

// An output that a request names.
struct Wanted {
  std::string name;
  const Output* output;
  DType dtype;                 // of the device's array
  std::vector<char> raw;       // of another dtype than float64
  std::vector<double> values;  // [owned][width], or [width]
};

// A request: the steps that it needs, in their order, and its outputs.
struct Selection {
  std::vector<const Step*> steps;
  bool with_guard = false;
  std::vector<Wanted> wanted;
};

class Evaluator::Implementation {
 public:
  Implementation(const Bundle& bundle, const EvaluatorOptions& options);
  Implementation(const Implementation&) = delete;
  Implementation& operator=(const Implementation&) = delete;

  void set_electrons(int charge, int multiplicity);
  void set_neighbourhood(const Neighbourhood& neighbourhood);
  const Results& evaluate(const double* positions, Halo* halo, const std::vector<std::string>& outputs);
  const std::map<std::string, Output>& outputs() const { return bundle_.outputs; }
  std::string name_of(int atom) const;
  const Report& report() const { return report_; }

 private:
  const Rung& rung() const { return bundle_.ladder[rung_]; }
  std::vector<std::int64_t> shape_of(const std::string& name) const {
    return bundle_.shape_of(bundle_.buffers.at(name), rung());
  }
  void choose_body();
  void upload_weights();
  void upload_electrons();
  bool is_used(const std::string& name) const { return used_.count(name) > 0; }
  std::size_t first_fit(const Rung& demand) const;
  [[noreturn]] void refuse(const Rung& demand) const;
  void move_to(std::size_t rung, const Neighbourhood& neighbourhood);
  void pack(const Neighbourhood& neighbourhood);
  Neighbourhood packed(std::vector<const int*>& lists) const;
  void climb(int neighbours);
  void check_all_distances(const double* positions);
  void check_electrons();
  void check_structure(const double* positions);
  void check_computed(const double* positions);
  void* take_back(const std::string& name);
  void lend(const std::string& name);
  template <typename T>
  void send(const std::string& name, const T* values, std::size_t count);
  pjrt::Buffer& buffer(const std::string& name);
  const pjrt::Executable& program(const std::string& name);
  int neighbours_needed();
  bool run(const std::vector<const Step*>& steps, Halo* halo);
  void run_program(const Step& step);
  void require(const pjrt::Buffer& result, const std::string& program, const std::string& name,
               const std::vector<std::int64_t>& shape) const;
  [[noreturn]] void refuse_program(const std::string& problem) const;
  std::size_t row_bytes_of(const std::string& name) const;
  std::vector<std::int64_t> chunk_shape(const std::string& name) const;
  void keep_peers(const Neighbourhood& neighbourhood);
  void refresh(const std::vector<std::string>& names, Halo& halo);
  void reduce(const std::vector<std::string>& names, Halo& halo);
  void refresh_in_place(const std::vector<std::string>& names, Halo& halo);
  bool is_direct(const std::vector<std::string>& names, const Halo& halo);
  void refresh_by_moves(const std::vector<std::string>& names, Halo& halo);
  std::vector<pjrt::Buffer*> chunks_to_receive(const std::vector<std::string>& names);
  std::vector<char*> chunks_of(Staging& staging, const std::vector<std::string>& names, std::size_t count);
  std::vector<char*> download(const std::vector<std::string>& names, const std::vector<pjrt::Buffer>& taken);
  pjrt::Pin pinned(void* data, std::size_t bytes);
  Selection& selection(const std::vector<std::string>& outputs);
  std::vector<std::string> names_of(const std::vector<std::string>& outputs) const;
  const std::vector<Step>& schedule_of(const std::vector<std::string>& names) const;
  void collect(Selection& selection);
  void add_shifts(std::vector<Wanted>& wanted) const;
  void show(Selection& selection);
  void forget_computed();

  Bundle bundle_;  // changes in its electrons alone
  const bool has_shifts_, has_guard_;
  const std::vector<std::string> schedules_;  // the first that has all outputs is run
  int device_index_ = 0;
  std::string body_;            // what the names of its schedules begin with
  std::set<std::string> used_;  // weights and buffers that they name
  ProgramCache cache_;
  Report report_;
  std::shared_ptr<pjrt::Client> client_;

  // Host memory stands before the device arrays that borrow it, so that it outlives them.
  HostMemory weight_memory_;
  std::map<std::string, HostMemory> electrons_memory_;
  std::map<std::string, HostMemory> input_memory_;
  pjrt::Pin positions_pin_;
  Staging sent_staging_, received_staging_;
  std::vector<Peer> peers_;
  std::vector<int> sent_rows_, start_rows_;  // for all peers, padded to whole chunks; of the chunks that are received
  std::size_t sent_ = 0;                     // of sent_rows_, without the padding
  std::vector<char> gathered_;               // these rows, where arrays lie in host memory
  std::map<std::string, std::vector<double>> sums_;  // over ranks
  std::map<std::string, pjrt::Buffer> weights_, buffers_;
  std::vector<pjrt::Buffer> row_lists_, starts_, uploads_;  // the same by chunks; what the device may still read
  std::map<std::pair<std::string, std::size_t>, pjrt::Buffer> chunks_;  // to receive, by the program that puts them
  std::vector<pjrt::Pending> puts_;                                     // their ends
  std::optional<bool> is_shareable_;                                    // the device's memory
  std::map<std::string, pjrt::Executable> programs_;                    // by tensor, which rungs may share
  std::set<const Step*> sound_;  // whose program has given what the step names, on this rung
  std::size_t weight_bytes_ = 0;

  bool ready_ = false;
  bool lists_are_new_ = false;          // no evaluation has used them
  bool has_checked_electrons_ = false;  // whether those of these atoms can be paired
  int threads_ = 1;                     // of the CPU client
  AtomPairs near_pairs_;                // when they were new
  int owned_ = 0, rows_ = 0, atoms_ = 0;
  double skin_ = 0.0;
  Rung demand_{0, 0, 0, 0};
  std::int64_t candidates_ = 0;  // that the present lists need; demand_ remembers larger ones
  std::size_t rung_;             // the ladder's length: none yet

  std::map<std::vector<std::string>, Selection> selections_;  // by request
  Results results_;
  Guard guard_;
  Sighting sighting_;
};

}  // namespace so3krates
