// What an evaluation gives: which steps a request needs, and their results on the host.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "cuda_kernels.h"
#include "evaluator_implementation.h"

namespace so3krates {
namespace {

const std::string kNeighboursNeeded = "neighbours_needed";

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

const std::vector<std::string>& arrays_exchanged(const Step& step) {
  return step.reduce.empty() ? step.refresh : step.reduce;
}

const std::vector<std::string>& arrays_read(const Step& step) {
  return step.run.empty() ? arrays_exchanged(step) : step.inputs;
}

const std::vector<std::string>& arrays_written(const Step& step) {
  return step.run.empty() ? arrays_exchanged(step) : step.outputs;
}

// The steps that compute what is read of a schedule.
struct Sources {
  std::vector<std::vector<std::size_t>> of;    // of each step: those whose values it reads
  std::map<std::string, std::size_t> results;  // of each array: the step that computes it last
  std::size_t capacities = 0;                  // what says whether the rung is large enough, before rows are exchanged
};

// Arguments that a program fills and does not read, by program and place: in one of its calls nothing is in them yet.
std::set<std::pair<std::string, std::size_t>> filled_arguments(const std::vector<Step>& schedule) {
  std::set<std::pair<std::string, std::size_t>> filled;
  std::set<std::string> written;
  for (const Step& step : schedule) {
    for (std::size_t k = 0; k < step.inputs.size(); ++k)
      if (written.count(step.inputs[k]) == 0) filled.insert({step.run, k});
    written.insert(step.outputs.begin(), step.outputs.end());
  }
  return filled;
}

Sources sources_of(const std::vector<Step>& schedule) {
  Sources sources;
  const auto filled = filled_arguments(schedule);
  bool is_exchanged = false;
  for (std::size_t index = 0; index < schedule.size(); ++index) {
    const Step& step = schedule[index];
    sources.of.emplace_back();
    const std::vector<std::string>& read = arrays_read(step);
    for (std::size_t k = 0; k < read.size(); ++k) {
      const auto writer = sources.results.find(read[k]);
      if (writer != sources.results.end() && filled.count({step.run, k}) == 0)
        sources.of.back().push_back(writer->second);
    }
    for (const std::string& array : arrays_written(step)) sources.results[array] = index;
    is_exchanged = is_exchanged || step.run.empty();
    if (!is_exchanged && sources.results.count(kNeighboursNeeded) > 0)
      sources.capacities = sources.results.at(kNeighboursNeeded);
  }
  return sources;
}

// The steps that these outputs need, in their order.
std::vector<const Step*> steps_of(const std::vector<Step>& schedule, const std::vector<std::string>& outputs) {
  const Sources sources = sources_of(schedule);
  std::vector<bool> is_needed(schedule.size(), false);
  is_needed[sources.capacities] = true;
  for (const std::string& name : outputs) is_needed[sources.results.at(name)] = true;
  for (std::size_t index = schedule.size(); index-- > 0;)
    if (is_needed[index])
      for (const std::size_t source : sources.of[index]) is_needed[source] = true;
  std::vector<const Step*> steps;
  for (std::size_t index = 0; index < schedule.size(); ++index)
    if (is_needed[index]) steps.push_back(&schedule[index]);
  return steps;
}

bool has_all(const std::vector<Step>& schedule, const std::vector<std::string>& outputs) {
  std::set<std::string> given;
  for (const Step& step : schedule) given.insert(step.outputs.begin(), step.outputs.end());
  return std::all_of(outputs.begin(), outputs.end(), [&](const std::string& name) { return given.count(name) > 0; });
}

// Of the system, where a rank has no atoms: what does not change the other ranks'.
double neutral(Ranks ranks) {
  if (ranks == Ranks::min) return std::numeric_limits<double>::infinity();
  return ranks == Ranks::max ? -std::numeric_limits<double>::infinity() : 0.0;
}

template <typename T>
void widen(const std::vector<char>& raw, std::vector<double>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, raw.data() + i * sizeof value, sizeof value);
    values[i] = value;
  }
}

}  // namespace

const double* Results::find(const std::string& name) const {
  const auto found = std::find_if(values.begin(), values.end(), [&](const auto& value) { return value.first == name; });
  return found == values.end() ? nullptr : found->second;
}

void Evaluator::Implementation::choose_body() {
  if (schedules_.back() == "small_virials" && bundle_.schedules.count("small_virials") == 0)
    throw Error(bundle_.path +
                ": has no programs for per-atom virials in little memory: export the model again with this version of "
                "so3krates, platform cpu and body fused, or leave the option virials out");
  if (bundle_.platform == "cuda" && bundle_.kernels > 0) {
    const std::string problem =
        cuda::kernel_problem(bundle_.kernels, bundle_.kernel_shared_bytes, bundle_.kernel_sizes, device_index_);
    if (!problem.empty() && bundle_.schedules.count("portable_forces") == 0)
      throw Error(bundle_.path + ": calls GPU kernels, which cannot run here, and lacks portable programs: " + problem);
    if (!problem.empty()) {
      body_ = "portable_";
      report_.body_note = "the portable programs run in place of the GPU kernels, and more slowly: " + problem;
    }
  }
  for (const std::string& name : schedules_) {
    const auto schedule = bundle_.schedules.find(body_ + name);
    if (schedule == bundle_.schedules.end()) continue;
    for (const Step& step : schedule->second) {
      used_.insert(step.inputs.begin(), step.inputs.end());
      used_.insert(step.outputs.begin(), step.outputs.end());
    }
  }
}

// Each once, in ascending order; none asked for: the standard ones.
std::vector<std::string> Evaluator::Implementation::names_of(const std::vector<std::string>& outputs) const {
  std::set<std::string> names(outputs.begin(), outputs.end());
  for (const std::string& name : names) {
    const auto found = bundle_.outputs.find(name);
    if (found == bundle_.outputs.end() && name == "atom_virials")
      throw Error(bundle_.path + ": has no per-atom virials: export the model again with this version of so3krates");
    if (found == bundle_.outputs.end()) {
      std::vector<std::string> known;
      for (const auto& [own, output] : bundle_.outputs)
        if (output.problem.empty()) known.push_back(own);
      throw Error(bundle_.path + ": has no output \"" + name + "\": it has " + joined(known));
    }
    if (!found->second.problem.empty())
      throw Error(bundle_.path + ": output \"" + name + "\" " + found->second.problem);
  }
  if (names.empty())
    for (const auto& [name, output] : bundle_.outputs)
      if (output.standard && output.problem.empty()) names.insert(name);
  return {names.begin(), names.end()};
}

const std::vector<Step>& Evaluator::Implementation::schedule_of(const std::vector<std::string>& names) const {
  for (const std::string& kind : schedules_) {
    const auto schedule = bundle_.schedules.find(body_ + kind);
    if (schedule != bundle_.schedules.end() && has_all(schedule->second, names)) return schedule->second;
  }
  throw Error(bundle_.path + ": no schedule computes " + joined(names) + " together: ask for them one by one");
}

Selection& Evaluator::Implementation::selection(const std::vector<std::string>& outputs) {
  const auto known = selections_.find(outputs);
  if (known != selections_.end()) return known->second;
  const std::vector<std::string> names = names_of(outputs);
  std::vector<std::string> computed;
  Selection made;
  made.with_guard = has_guard_;
  for (const std::string& name : names) {
    const Output& output = bundle_.outputs.at(name);
    made.with_guard = made.with_guard || output.by_host;
    if (!output.by_host) computed.push_back(name);
    made.wanted.push_back({name, &output, output.by_host ? DType::f64 : bundle_.buffers.at(name).dtype, {}, {}});
  }
  made.steps = steps_of(schedule_of(computed), computed);
  return selections_.emplace(outputs, std::move(made)).first->second;
}

// Copies the results to the host.
void Evaluator::Implementation::collect(Selection& selection) {
  for (Wanted& wanted : selection.wanted) {
    const std::size_t rows = wanted.output->per_atom ? static_cast<std::size_t>(owned_) : 1;
    wanted.values.resize(rows * static_cast<std::size_t>(wanted.output->width));
    if (wanted.dtype != DType::f64) wanted.raw.resize(wanted.values.size() * size_of(wanted.dtype));
  }
  if (owned_ == 0) {
    for (Wanted& wanted : selection.wanted)
      std::fill(wanted.values.begin(), wanted.values.end(), neutral(wanted.output->ranks));
    show(selection);
    return;
  }
  {
    const Stopwatch watch(report_.program_seconds), waiting(report_.wait_seconds);
    for (const Wanted& wanted : selection.wanted)
      if (!wanted.output->by_host) buffer(wanted.name).wait();
  }
  const Stopwatch watch(report_.result_seconds);
  std::vector<pjrt::Pending> downloads;
  for (Wanted& wanted : selection.wanted) {
    if (wanted.output->by_host) continue;
    const bool is_double = wanted.dtype == DType::f64;
    void* to = is_double ? static_cast<void*>(wanted.values.data()) : wanted.raw.data();
    downloads.push_back(buffer(wanted.name).start_download(to, wanted.values.size() * size_of(wanted.dtype)));
  }
  for (pjrt::Pending& download : downloads) download.wait();
  for (Wanted& wanted : selection.wanted) {
    if (wanted.dtype == DType::f32) widen<float>(wanted.raw, wanted.values);
    if (wanted.dtype == DType::i32) widen<std::int32_t>(wanted.raw, wanted.values);
  }
  if (has_shifts_) add_shifts(selection.wanted);
  show(selection);
}

void Evaluator::Implementation::add_shifts(std::vector<Wanted>& wanted) const {
  const auto* species = static_cast<const int*>(input_memory_.at("species").get());
  const auto owned = static_cast<std::size_t>(owned_);
  for (Wanted& one : wanted) {
    if (one.name == "atom_energies")
      for (std::size_t i = 0; i < owned; ++i) one.values[i] += bundle_.energy_shifts[species[i]];
    if (one.name != "energy") continue;
    std::vector<double> counts(bundle_.elements.size());
    for (std::size_t i = 0; i < owned; ++i) ++counts[species[i]];
    for (std::size_t s = 0; s < counts.size(); ++s) one.values[0] += counts[s] * bundle_.energy_shifts[s];
  }
}

// In `results_`.
void Evaluator::Implementation::show(Selection& selection) {
  for (Wanted& one : selection.wanted) {
    if (one.name == kClosePairs) one.values[0] = sighting_.close_pairs;
    if (one.name == kClosestRatio) one.values[0] = sighting_.closest_ratio;
    results_.values.emplace_back(one.name, one.values.data());
  }
  if (selection.with_guard) results_.sighting = &sighting_;
  results_.atom_energies = results_.find("atom_energies");
  results_.forces = results_.find("forces");
  results_.atom_virials = results_.find("atom_virials");
  if (const double* energy = results_.find("energy")) results_.energy = *energy;
  if (const double* strain = results_.find("strain_gradient")) std::copy_n(strain, 9, &results_.strain_gradient[0][0]);
}

}  // namespace so3krates
