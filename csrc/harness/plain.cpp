// The runtime as C functions, for callers of any Python or none (bench/gpu_kit/harness.py): one library for all.
// A function that can fail returns null or a negative number, and so3k_error() then says why. Handles are freed by the
// function of their kind. Text lives until the thread's next call.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bundle.h"
#include "cuda_driver.h"
#include "cuda_kernels.h"
#include "evaluator.h"
#include "pjrt.h"
#include "plugin_search.h"
#include "program_cache.h"

using so3krates::Bundle;
using so3krates::DType;
using so3krates::Error;
using so3krates::Evaluator;
using so3krates::pjrt::Buffer;
using so3krates::pjrt::Client;
using so3krates::pjrt::Executable;

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

thread_local std::string text, problem;

// What `call` returns, or `otherwise` where it throws.
template <typename Call, typename Value>
Value guarded(Value otherwise, Call call) {
  try {
    return call();
  } catch (const std::exception& failure) {
    problem = failure.what();
    return otherwise;
  }
}

const char* kept(std::string value) {
  text = std::move(value);
  return text.c_str();
}

struct Opened {
  std::shared_ptr<Client> client;
};

struct Running {
  Running(const std::string& path, const so3krates::EvaluatorOptions& options)
      : bundle(Bundle::read(path)), evaluator(bundle, options) {}
  Bundle bundle;
  Evaluator evaluator;
};

}  // namespace

EXPORT const char* so3k_error() {
  return problem.c_str();
}

// What a plugin says of itself, "name value" lines. Needs no device.
EXPORT const char* so3k_plugin_attributes(const char* plugin) {
  return guarded<>(static_cast<const char*>(nullptr), [&] {
    std::string lines;
    for (const auto& [name, value] : so3krates::pjrt::plugin_attributes(plugin)) lines += name + " " + value + "\n";
    return kept(lines);
  });
}

EXPORT const char* so3k_find_plugin(const char* device) {
  return guarded<>(static_cast<const char*>(nullptr), [&] { return kept(so3krates::find_plugin(device).path); });
}

// Why GPU kernels of that version cannot run on the device; empty where they can.
EXPORT const char* so3k_kernel_problem(int version, int shared_bytes, int device) {
  return guarded<>(static_cast<const char*>(nullptr),
                   [&] { return kept(so3krates::cuda::kernel_problem(version, shared_bytes, {}, device)); });
}

// Machine code of the kernels; its size, or a negative number. `code` is the thread's own.
EXPORT std::int64_t so3k_compile_kernels(const char* sizes, const char* architecture, const char** code) {
  return guarded<>(std::int64_t{-1}, [&] {
    *code = kept(so3krates::cuda::compile_kernels(sizes, architecture));
    return static_cast<std::int64_t>(text.size());
  });
}

// ---- programs

EXPORT Opened* so3k_open(const char* device, const char* plugin, int threads, double memory) {
  return guarded<>(static_cast<Opened*>(nullptr), [&] {
    const auto [path, index, platform] = so3krates::find_plugin(device, plugin);
    so3krates::pjrt::ClientOptions options;
    options.plugin = path;
    options.device_index = index;
    options.platform = platform;
    options.threads = threads;
    options.memory_fraction = memory;
    return new Opened{Client::create(options)};
  });
}

EXPORT void so3k_close(Opened* opened) {
  delete opened;
}

EXPORT const char* so3k_device_kind(Opened* opened) {
  return guarded<>(static_cast<const char*>(nullptr), [&] { return kept(opened->client->device_kind()); });
}

// dtype: 0 to 3 for uint8, int32, float32, float64. The values must stay as long as the buffer.
EXPORT Buffer* so3k_borrow(Opened* opened, const void* values, int dtype, const std::int64_t* shape, int rank) {
  return guarded<>(static_cast<Buffer*>(nullptr), [&] {
    return new Buffer(opened->client->borrow(values, static_cast<DType>(dtype), {shape, shape + rank}));
  });
}

EXPORT Buffer* so3k_allocate(Opened* opened, int dtype, const std::int64_t* shape, int rank) {
  return guarded<>(static_cast<Buffer*>(nullptr), [&] {
    return new Buffer(opened->client->allocate(static_cast<DType>(dtype), {shape, shape + rank}));
  });
}

EXPORT int so3k_wait(Buffer* buffer) {
  return guarded<>(-1, [&] {
    buffer->wait();
    return 0;
  });
}

EXPORT int so3k_download(Buffer* buffer, void* values, std::int64_t bytes) {
  return guarded<>(-1, [&] {
    buffer->download(values, static_cast<std::size_t>(bytes));
    return 0;
  });
}

EXPORT void so3k_free_buffer(Buffer* buffer) {
  delete buffer;
}

// cache: folder of compiled programs, "off" for none; loaded: whether it had this one.
EXPORT Executable* so3k_compile(Opened* opened, const void* artifact, std::int64_t bytes, const char* name,
                                const char* cache, int* loaded) {
  return guarded<>(static_cast<Executable*>(nullptr), [&] {
    so3krates::ProgramCache programs(cache);
    bool is_loaded = false;
    auto* made =
        new Executable(so3krates::compile_or_load(*opened->client, programs, static_cast<const std::uint8_t*>(artifact),
                                                  static_cast<std::size_t>(bytes), name, &is_loaded));
    *loaded = is_loaded;
    return made;
  });
}

// Number of results, of which the first `most` are put into `results`.
EXPORT int so3k_run(Executable* program, Buffer* const* arguments, int count, Buffer** results, int most) {
  return guarded<>(-1, [&] {
    std::vector<Buffer> found = program->run({arguments, arguments + count});
    const int total = static_cast<int>(found.size());
    for (int k = 0; k < total && k < most; ++k) results[k] = new Buffer(std::move(found[k]));
    return total;
  });
}

EXPORT std::int64_t so3k_scratch_bytes(Executable* program) {
  return guarded<>(std::int64_t{-1}, [&] { return static_cast<std::int64_t>(program->temporary_bytes()); });
}

EXPORT void so3k_free_program(Executable* program) {
  delete program;
}

// ---- bundles

EXPORT Running* so3k_start(const char* bundle, const char* device, const char* plugin, const char* cache, int threads,
                           double memory) {
  return guarded<>(static_cast<Running*>(nullptr), [&] {
    so3krates::EvaluatorOptions options;
    options.device = device;
    options.plugin = plugin;
    options.cache = cache;
    options.threads = threads;
    options.memory = memory;
    options.shifts = false;
    options.guard = false;
    return new Running(bundle, options);
  });
}

EXPORT void so3k_stop(Running* running) {
  delete running;
}

// candidates: those of all rows, one row after the other.
EXPORT int so3k_set_lists(Running* running, int rows, int atoms, const int* row_of_atom, const int* atom_of_row,
                          const int* species, const int* candidate_count, const int* candidates) {
  return guarded<>(-1, [&] {
    std::vector<const int*> lists;
    for (int i = 0; i < rows; candidates += candidate_count[i++]) lists.push_back(candidates);
    so3krates::Neighbourhood n;
    n.owned = n.rows = rows;
    n.atoms = atoms;
    n.row_of_atom = row_of_atom;
    n.atom_of_row = atom_of_row;
    n.species = species;
    n.candidate_count = candidate_count;
    n.candidates = lists.data();
    running->evaluator.set_neighbourhood(n);
    return 0;
  });
}

// Sizes of an output of the bundle, with "rows" for those of atoms: "rows 3 3"; of the system: "3 3", or nothing.
EXPORT const char* so3k_output_shape(Running* running, const char* name) {
  return guarded<>(static_cast<const char*>(nullptr), [&] {
    const auto& outputs = running->evaluator.outputs();
    const auto found = outputs.find(name);
    if (found == outputs.end()) throw Error(running->bundle.path + ": has no output \"" + name + "\"");
    std::string sizes = found->second.per_atom ? "rows" : "";
    for (const std::int64_t size : found->second.shape) sizes += (sizes.empty() ? "" : " ") + std::to_string(size);
    return kept(sizes);
  });
}

// names: of outputs, a line each; values: for each, room for as many numbers as its shape has.
EXPORT int so3k_evaluate(Running* running, const double* positions, const char* names, int rows,
                         double* const* values) {
  return guarded<>(-1, [&] {
    std::vector<std::string> outputs;
    std::istringstream lines(names);
    for (std::string name; std::getline(lines, name);) outputs.push_back(name);
    const so3krates::Results& found = running->evaluator.evaluate(positions, nullptr, outputs);
    for (std::size_t k = 0; k < outputs.size(); ++k) {
      const so3krates::Output& output = running->evaluator.outputs().at(outputs[k]);
      std::copy_n(found.find(outputs[k]), (output.per_atom ? rows : 1) * output.width, values[k]);
    }
    return 0;
  });
}

// "name value" lines, as in evaluator.h.
EXPORT const char* so3k_report(Running* running) {
  return guarded<>(static_cast<const char*>(nullptr), [&] {
    const so3krates::Report& r = running->evaluator.report();
    std::string lines;
    const auto line = [&lines](const char* name, const std::string& value) {
      lines += std::string(name) + " " + value + "\n";
    };
    line("platform", r.platform);
    line("body_note", r.body_note);
    line("pin_problem", r.pin_problem);
    line("cache_warning", r.cache_warning);
    line("unread_variables", r.unread_variables);
    line("rung_rows", std::to_string(r.rung_rows));
    line("buffer_bytes", std::to_string(r.buffer_bytes));
    line("temporary_bytes", std::to_string(r.temporary_bytes));
    line("programs_compiled", std::to_string(r.programs_compiled));
    line("programs_loaded", std::to_string(r.programs_loaded));
    line("compile_seconds", std::to_string(r.compile_seconds));
    return kept(lines);
  });
}
