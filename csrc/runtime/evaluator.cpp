// Runs the schedules of a bundle on one device. Knows docs/bundle.md and nothing of the network behind it.
#include "evaluator.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <sstream>
#include <utility>
#include <vector>

#include "body.h"
#include "contract.h"
#include "cuda_kernels.h"
#include "environment.h"
#include "evaluator_implementation.h"
#include "gpu_drivers.h"
#include "host_cpu.h"
#include "neighbourhood.h"
#include "pieces.h"
#include "plugin_search.h"
#include "xla_flags.h"

namespace so3krates {
namespace {

std::string describe(const Rung& rung) {
  std::string text = std::to_string(rung.rows) + " rows, " + std::to_string(rung.atoms) + " atoms and " +
                     std::to_string(rung.candidates) + " candidates";
  if (rung.neighbours > 0) text += " or " + std::to_string(rung.neighbours) + " neighbours";
  return text + " per atom";
}

void check_platform(const Bundle& bundle, const std::string& platform) {
  if (platform != bundle.platform)
    throw Error(bundle.path + ": was exported for " + bundle.platform + ", but the device is " + platform +
                ": export the model again with `so3krates export --platform " + platform + "`, or choose device " +
                bundle.platform);
}

// GPU kernels of another version are replaced by the portable programs; of those for the CPU there are none.
void check_cpu_kernels(const Bundle& bundle) {
  if (bundle.platform != "cpu") return;
  try {
    kernels::instruction_set();
  } catch (const std::runtime_error& problem) {
    throw Error(problem.what());
  }
  const bool calls_kernels = std::any_of(bundle.tensors.begin(), bundle.tensors.end(), [](const auto& tensor) {
    return tensor.first.rfind("weights/fused/", 0) == 0;
  });
  const int oldest = bundle.electrons.protons.empty() ? kernels::kOldestVersion : kernels::kVersion;
  if ((!calls_kernels && bundle.kernels == 0) || (oldest <= bundle.kernels && bundle.kernels <= kernels::kVersion))
    return;
  throw Error(bundle.path + ": calls " +
              (bundle.kernels == 0 ? "CPU kernels that had no version yet"
                                   : "version " + std::to_string(bundle.kernels) + " of the CPU kernels") +
              ", and this so3krates has version " + std::to_string(kCpuKernelVersion) +
              ": export the model again with `so3krates export`");
}

// 1.13.7 -> {1, 13}: releases that differ in the last number read each other's programs.
std::pair<int, int> version_of(const std::string& text) {
  std::pair<int, int> version;
  char dot = 0;
  std::istringstream(text) >> version.first >> dot >> version.second;
  return version;
}

// Here, not when the first program is compiled: there XLA says neither number.
void check_stablehlo(const Bundle& bundle, const std::string& plugin) {
  const std::map<std::string, std::string> attributes = pjrt::plugin_attributes(plugin);
  const auto newest = attributes.find("stablehlo_current_version"),
             oldest = attributes.find("stablehlo_minimum_version");
  if (newest == attributes.end() || oldest == attributes.end()) return;  // it does not say
  const std::string& ours = bundle.stablehlo_version;
  const bool is_old = version_of(newest->second) < version_of(ours);
  if (!is_old && version_of(oldest->second) <= version_of(ours)) return;
  throw Error(bundle.path + ": holds programs in StableHLO " + ours + ", but the plugin " + plugin + " reads " +
              oldest->second + " to " + newest->second + ": " +
              (is_old ? "install a newer plugin (jax 0.9 or later)" : "export the model again with a newer so3krates"));
}

// gpus: set to those from which ranks take one in turn.
std::shared_ptr<pjrt::Client> open_device(const Bundle& bundle, const EvaluatorOptions& options, int& index,
                                          int& gpus) {
  if (!(options.memory > 0.0 && options.memory <= 1.0))
    throw Error("memory is " + std::to_string(options.memory) +
                ": give the share of the GPU's memory that may be taken, above 0 and at most 1");
  // Before the plugin is looked for, so that nobody installs one in vain.
  if (const std::string asked = platform_of(options.device); !asked.empty()) check_platform(bundle, asked);
  check_threads(options.threads);
  check_cpu_kernels(bundle);
  PluginChoice choice = find_plugin(options.device, options.plugin);
  if (bundle.platform == "cuda" && bundle.kernels > 0) cuda::set_places(options.cache, choice.path);
  check_xla_flags(choice.path);
  check_stablehlo(bundle, choice.path);
  // A launcher may show each rank a GPU of its own, the only one that it counts.
  if (options.device == choice.platform && choice.platform != "cpu" && options.local_rank > 0) {
    gpus = gpu_count(choice.platform);
    choice.device_index = options.local_rank % gpus;
  }
  index = choice.device_index;
  std::shared_ptr<pjrt::Client> client =
      pjrt::Client::create({choice.path, choice.device_index, options.threads, choice.platform, options.memory,
                            options.preallocate, options.deterministic});
  check_platform(bundle, client->platform());
  return client;
}

}  // namespace

const int kCpuKernelVersion = kernels::kVersion;

std::size_t bytes_of(const std::vector<std::int64_t>& shape, DType dtype) {
  std::size_t bytes = size_of(dtype);
  for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
  return bytes;
}

std::size_t padded(std::size_t bytes) {
  constexpr std::size_t kAlignment = 64;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

Evaluator::Implementation::Implementation(const Bundle& bundle, const EvaluatorOptions& options)
    : bundle_(bundle),
      has_shifts_(options.shifts),
      has_guard_(options.guard && !bundle.limits.distances.empty()),
      schedules_{"forces", options.small_virials ? "small_virials" : "virials"},
      cache_(options.cache),
      client_(open_device(bundle, options, device_index_, report_.gpus)),
      rung_(bundle.ladder.size()),
      guard_(bundle) {
  report_.platform = client_->platform() + ": " + client_->device_kind();
  report_.unread_variables = unread_variables();
  if (client_->platform() == "cpu") {
    const Cores cores = cores_of_process();
    const int threads = threads_ = options.threads > 0 ? options.threads : cores.usable();
    report_.platform += ", " + std::to_string(threads) + (threads == 1 ? " thread" : " threads");
    const bool is_default = options.threads == 0 || options.has_default_threads;
    if (!cores.limits().empty() && (is_default || threads > cores.usable()))
      report_.platform += " (" + cores.limits() + ")";
    if (bundle.kernels > 0 && threads > kernels::kMostThreads)
      report_.platform += ", of which " + std::to_string(kernels::kMostThreads) + " share pairs";
  }
  choose_body();
  upload_weights();
}

// The bundle's tensors may lie at any address: they are copied once to where a CPU needs no second copy.
void Evaluator::Implementation::upload_weights() {
  for (const auto& [name, tensor] : bundle_.tensors)
    if (name.rfind("weights/", 0) == 0 && is_used(name)) weight_bytes_ += padded(tensor.bytes);
  weight_memory_ = allocate_host(weight_bytes_);
  auto* position = static_cast<std::uint8_t*>(weight_memory_.get());
  for (const auto& [name, tensor] : bundle_.tensors) {
    if (name.rfind("weights/", 0) != 0 || !is_used(name)) continue;
    std::memcpy(position, tensor.data, tensor.bytes);
    weights_.emplace(name, client_->borrow(position, tensor.dtype, tensor.shape));
    position += padded(tensor.bytes);
  }
  upload_electrons();
}

// In place of what the file holds: numbers of a system, which a host may choose.
void Evaluator::Implementation::upload_electrons() {
  if (bundle_.electrons.protons.empty()) return;
  const std::pair<const char*, double> values[] = {{Electrons::kCharge, bundle_.electrons.charge},
                                                   {Electrons::kUnpaired, bundle_.electrons.multiplicity - 1}};
  for (const auto& [name, value] : values) {
    if (!is_used(name)) continue;
    const Tensor& tensor = bundle_.tensors.at(name);
    weights_.erase(name);  // before the memory that it borrows
    HostMemory& memory = electrons_memory_[name];
    memory = allocate_host(tensor.bytes);
    if (tensor.dtype == DType::f64)
      *static_cast<double*>(memory.get()) = value;
    else
      *static_cast<float*>(memory.get()) = static_cast<float>(value);
    weights_.emplace(name, client_->borrow(memory.get(), tensor.dtype, tensor.shape));
  }
}

void Evaluator::Implementation::set_electrons(int charge, int multiplicity) {
  const Electrons before = bundle_.electrons;
  bundle_.set_electrons(charge, multiplicity);
  if (before.charge == charge && before.multiplicity == multiplicity) return;
  upload_electrons();
  has_checked_electrons_ = false;
}

// ---- capacities

std::size_t Evaluator::Implementation::first_fit(const Rung& demand) const {
  const auto found =
      std::find_if(bundle_.ladder.begin(), bundle_.ladder.end(), [&](const Rung& rung) { return fits(demand, rung); });
  return static_cast<std::size_t>(found - bundle_.ladder.begin());
}

void Evaluator::Implementation::refuse(const Rung& demand) const {
  throw Error(bundle_.path + ": the system needs " + describe(demand) + ", but the last rung of the ladder holds " +
              describe(bundle_.ladder.back()) + ": export the model again with a larger ladder");
}

void Evaluator::Implementation::set_neighbourhood(const Neighbourhood& n) {
  const Stopwatch watch(report_.list_seconds);
  ready_ = false;
  const int candidates = check_neighbourhood(n, static_cast<int>(bundle_.elements.size()));
  // What was needed once will be needed again; but it must not keep out another system.
  // Moves to the device are whole: the last one needs room behind the rows.
  const std::int64_t room = n.rows > n.owned ? bundle_.moves.rows : 0;
  candidates_ = candidates;
  demand_ = {n.rows + room, n.atoms, std::max(candidates_, demand_.candidates), demand_.neighbours};
  if (first_fit(demand_) == bundle_.ladder.size()) {
    demand_.candidates = candidates_;
    demand_.neighbours = 0;
  }
  const std::size_t rung = first_fit(demand_);
  if (rung == bundle_.ladder.size()) refuse(demand_);
  const bool is_first = rung_ == bundle_.ladder.size();
  if (!is_first && rung > rung_) ++report_.climbs;
  owned_ = n.owned;
  rows_ = n.rows;
  atoms_ = n.atoms;
  skin_ = n.skin;
  if (rung == rung_) {
    pack(n);
  } else {
    move_to(rung, n);
  }
  has_checked_electrons_ = false;
  lists_are_new_ = true;  // for the checks; a climb keeps the pairs that they look at
}

// Gives up all arrays and takes those of another rung. `n` may lie in the memory of the present one.
void Evaluator::Implementation::move_to(std::size_t rung, const Neighbourhood& n) {
  std::map<std::string, HostMemory> memory;
  std::size_t buffer_bytes = weight_bytes_;
  for (const auto& [name, spec] : bundle_.buffers) {
    const std::size_t bytes = bytes_of(bundle_.shape_of(spec, bundle_.ladder[rung]), spec.dtype);
    if (is_used(name)) buffer_bytes += bytes;
    if (spec.role == Role::input) memory.emplace(name, allocate_host(bytes));
  }
  ready_ = false;
  buffers_.clear();
  sound_.clear();
  positions_pin_ = {};
  input_memory_.swap(memory);
  rung_ = rung;
  positions_pin_ = pinned(input_memory_.at("positions").get(), bytes_of(shape_of("positions"), DType::f64));
  report_.buffer_bytes = buffer_bytes;
  report_.rung_rows = static_cast<std::size_t>(this->rung().rows);
  report_.rung_atoms = static_cast<std::size_t>(this->rung().atoms);
  report_.rung_candidates = static_cast<std::size_t>(this->rung().candidates);
  report_.rung_neighbours = static_cast<std::size_t>(this->rung().neighbours);
  report_.temporary_bytes = 0;
  pack(n);
}

// What the inputs' memory holds. lists: of candidates, filled here; the result points into it.
Neighbourhood Evaluator::Implementation::packed(std::vector<const int*>& lists) const {
  const auto values = [&](const char* name) { return static_cast<const int*>(input_memory_.at(name).get()); };
  lists.resize(static_cast<std::size_t>(owned_));
  for (int i = 0; i < owned_; ++i) lists[i] = values("candidates") + i * rung().candidates;
  Neighbourhood n;
  n.owned = owned_;
  n.rows = rows_;
  n.atoms = atoms_;
  n.row_of_atom = values("row_of_atom");
  n.atom_of_row = values("atom_of_row");
  n.species = values("species");
  n.candidate_count = values("candidate_count");
  n.candidates = lists.data();
  n.peers = peers_.data();
  n.peer_count = static_cast<int>(peers_.size());
  n.skin = skin_;
  return n;
}

void Evaluator::Implementation::climb(int neighbours) {
  demand_.neighbours = neighbours;
  if (first_fit(demand_) == bundle_.ladder.size()) demand_.candidates = candidates_;
  const std::size_t rung = first_fit(demand_);
  if (rung == bundle_.ladder.size()) refuse(demand_);
  ++report_.climbs;
  std::vector<const int*> lists;
  move_to(rung, packed(lists));
}

// ---- from the host

// Memory of an input, which the device does not read from now on.
void* Evaluator::Implementation::take_back(const std::string& name) {
  buffers_.erase(name);
  return input_memory_.at(name).get();
}

void Evaluator::Implementation::lend(const std::string& name) {
  buffers_[name] = client_->borrow(input_memory_.at(name).get(), bundle_.buffers.at(name).dtype, shape_of(name));
}

// Replaces the first values of an input.
template <typename T>
void Evaluator::Implementation::send(const std::string& name, const T* values, std::size_t count) {
  std::copy_n(values, count, static_cast<T*>(take_back(name)));
  lend(name);
}

void Evaluator::Implementation::pack(const Neighbourhood& n) {
  send("row_of_atom", n.row_of_atom, n.atoms);
  send("atom_of_row", n.atom_of_row, n.rows);
  send("species", n.species, n.rows);
  send("candidate_count", n.candidate_count, n.owned);
  send("owned_count", &n.owned, 1);
  send("row_count", &n.rows, 1);
  if (bundle_.buffers.count(kAtomCount) > 0) send(kAtomCount, &n.atoms, 1);
  auto* candidates = static_cast<int*>(take_back("candidates"));
  for_pieces(n.owned, pieces_of(n.owned, kListTime, threads_), [&](int, int begin, int end) {
    for (int i = begin; i < end; ++i)
      std::copy_n(n.candidates[i], n.candidate_count[i], candidates + i * rung().candidates);
  });
  lend("candidates");
  keep_peers(n);
  ready_ = true;
}

// ---- on the device

pjrt::Buffer& Evaluator::Implementation::buffer(const std::string& name) {
  const auto weight = weights_.find(name);
  if (weight != weights_.end()) return weight->second;
  pjrt::Buffer& found = buffers_[name];
  if (!found) found = client_->allocate(bundle_.buffers.at(name).dtype, shape_of(name));
  return found;
}

const pjrt::Executable& Evaluator::Implementation::program(const std::string& name) {
  const std::string& tensor = bundle_.programs.at(name)[rung_];
  auto found = programs_.find(tensor);
  if (found == programs_.end()) {
    const Tensor& artifact = bundle_.tensors.at(tensor);
    const Stopwatch watch(report_.compile_seconds);
    bool is_loaded = false;
    pjrt::Executable executable = compile_or_load(*client_, cache_, artifact.data, artifact.bytes, name, &is_loaded);
    ++(is_loaded ? report_.programs_loaded : report_.programs_compiled);
    report_.cache_warning = cache_.warning();
    found = programs_.emplace(tensor, std::move(executable)).first;
  }
  return found->second;
}

void Evaluator::Implementation::run_program(const Step& step) {
  const pjrt::Executable& executable = program(step.run);
  const Stopwatch watch(report_.program_seconds);
  // A result that is not an update in place comes in new memory: the old one goes first.
  for (const std::string& name : step.outputs)
    if (std::find(step.inputs.begin(), step.inputs.end(), name) == step.inputs.end()) buffers_.erase(name);
  std::vector<const pjrt::Buffer*> arguments;
  for (const std::string& name : step.inputs) arguments.push_back(&buffer(name));
  std::vector<pjrt::Buffer> results = executable.run(arguments);
  report_.temporary_bytes = std::max(report_.temporary_bytes, executable.temporary_bytes());
  if (results.size() != step.outputs.size())
    refuse_program("program '" + step.run + "' gives " + std::to_string(results.size()) +
                   " results, but its step names " + std::to_string(step.outputs.size()));
  if (sound_.insert(&step).second)
    for (std::size_t i = 0; i < results.size(); ++i)
      require(results[i], step.run, step.outputs[i], shape_of(step.outputs[i]));
  for (std::size_t i = 0; i < results.size(); ++i) buffers_[step.outputs[i]] = std::move(results[i]);
}

// Throws where a program has not computed the rows of the buffer `name`, or all of it.
void Evaluator::Implementation::require(const pjrt::Buffer& result, const std::string& program, const std::string& name,
                                        const std::vector<std::int64_t>& shape) const {
  if (!result.is(bundle_.buffers.at(name).dtype, shape))
    refuse_program("program '" + program + "' gives another type or size of array than its step needs for \"" + name +
                   "\"");
}

void Evaluator::Implementation::refuse_program(const std::string& problem) const {
  throw Error(bundle_.path + ": the file has the programs of other steps or rungs in the places of its own (" +
              problem + "): export the model again");
}

int Evaluator::Implementation::neighbours_needed() {
  int neighbours = 0;
  // With one thread all programs come first.
  const Stopwatch watch(report_.program_seconds), waiting(report_.wait_seconds);
  if (owned_ > 0) buffer("neighbours_needed").download(&neighbours, sizeof(neighbours));
  return neighbours;
}

// Runs to the end and returns true, or returns false as soon as the rung is known to be too small. That is known before
// the first rows are exchanged, so that no rank exchanges more often than the others. Without owned rows nothing is
// computed, but other ranks may wait for this one.
bool Evaluator::Implementation::run(const std::vector<const Step*>& steps, Halo* halo) {
  bool is_large_enough = false;
  for (const Step* step : steps) {
    if (!step->run.empty()) {
      if (owned_ > 0) run_program(*step);
    } else if (halo != nullptr) {
      is_large_enough = is_large_enough || neighbours_needed() <= rung().neighbours;
      if (!is_large_enough) return false;
      if (step->refresh.empty())
        reduce(step->reduce, *halo);
      else
        refresh(step->refresh, *halo);
    }
  }
  return is_large_enough || neighbours_needed() <= rung().neighbours;
}

// ---- an evaluation

const Results& Evaluator::Implementation::evaluate(const double* positions, Halo* halo,
                                                   const std::vector<std::string>& outputs) {
  const Stopwatch watch(report_.evaluation_seconds);
  if (!ready_) throw Error("evaluate was called without a neighbourhood: call set_neighbourhood first");
  if (positions == nullptr && atoms_ > 0) throw Error("evaluate was called with a null pointer for positions");
  if (rows_ > owned_ && halo == nullptr)
    throw Error(std::to_string(rows_ - owned_) + " rows belong to other ranks, but evaluate was given no halo");
  Selection& selection = this->selection(outputs);
  results_ = Results();
  if (halo == nullptr && !has_checked_electrons_) check_electrons();
  check_structure(positions);
  sighting_ = {};
  try {
    send("positions", positions, 3 * static_cast<std::size_t>(atoms_));
    while (!run(selection.steps, halo)) {
      climb(neighbours_needed());
      send("positions", positions, 3 * static_cast<std::size_t>(atoms_));
    }
    // While a device computes.
    if (selection.with_guard) {
      const Stopwatch looking(report_.guard_seconds);
      sighting_ = guard_.look(positions, threads_);
    }
    collect(selection);
  } catch (const ArgumentError& error) {
    forget_computed();
    refuse_program(error.what());
  } catch (...) {
    forget_computed();
    if (ready_) check_all_distances(positions);  // the likely reason, and one that the host can name
    throw;
  }
  check_computed(positions);
  ++report_.evaluations;
  if (results_.atom_virials != nullptr) ++report_.virial_evaluations;
  return results_;
}

// A failed run has consumed the arrays that it was to update.
void Evaluator::Implementation::forget_computed() {
  for (const auto& [name, spec] : bundle_.buffers)
    if (spec.role != Role::input) buffers_.erase(name);
}

// ---- the face

Evaluator::Evaluator(const Bundle& bundle, const EvaluatorOptions& options)
    : implementation_(std::make_unique<Implementation>(bundle, options)) {}
Evaluator::~Evaluator() = default;
void Evaluator::set_electrons(int charge, int multiplicity) {
  implementation_->set_electrons(charge, multiplicity);
}

void Evaluator::set_neighbourhood(const Neighbourhood& neighbourhood) {
  implementation_->set_neighbourhood(neighbourhood);
}
const Results& Evaluator::evaluate(const double* positions, Halo* halo, const std::vector<std::string>& outputs) {
  return implementation_->evaluate(positions, halo, outputs);
}
const std::map<std::string, Output>& Evaluator::outputs() const {
  return implementation_->outputs();
}
std::string Evaluator::name_of(int atom) const {
  return implementation_->name_of(atom);
}
const Report& Evaluator::report() const {
  return implementation_->report();
}

}  // namespace so3krates
