// Reader of bundles: their manifest, checked. The format is described in docs/bundle.md.
#include "bundle.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include "bundle_checks.h"
#include "bundle_container.h"
#include "bundle_json.h"
#include "bundle_outputs.h"
#include "contract.h"
#include "plugin_search.h"

namespace so3krates {
namespace {

using namespace json;
using Bytes = std::vector<std::uint8_t>;
using Names = std::vector<std::string>;

constexpr std::int64_t kLargestSize = 2147483647;
constexpr std::int64_t kLargestBuffer = std::int64_t{1} << 48;  // bytes; keeps products of sizes far from overflow

bool starts_with(const std::string& text, const char* prefix) {
  return text.rfind(prefix, 0) == 0;
}

bool is_finite(const Json& value) {
  return value.is_number() && std::isfinite(value.get<double>());
}

bool is_names(const Json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const Json& name) { return name.is_string(); });
}

bool is_one_of(const Json& value, std::initializer_list<const char*> allowed) {
  return value.is_string() &&
         std::any_of(allowed.begin(), allowed.end(), [&](const char* name) { return value == name; });
}

std::string text_of(const Json& manifest, const char* key) {
  const Json& value = member(manifest, key);
  need(value.is_string(), "manifest: " + quoted(key) + " is not a string");
  return value.get<std::string>();
}

void check_version(const Json& manifest) {
  need(member(manifest, "format") == kFormat,
       std::string("is not a so3krates bundle: \"format\" is not ") + quoted(kFormat));
  const Json& version = member(manifest, "version");
  need(is_integer(version, 1, kLargestSize), "manifest: \"version\" is not a positive integer");
  need(version.get<int>() <= kFormatVersion, "was written in bundle version " + std::to_string(version.get<int>()) +
                                                 ", but this so3krates reads up to version " +
                                                 std::to_string(kFormatVersion) + ": update so3krates");
}

bool is_version(const Json& value) {
  if (!value.is_string()) return false;
  int parts = 1, digits = 0;
  for (const char c : value.get_ref<const std::string&>()) {
    if (c == '.' && digits > 0) {
      ++parts;
      digits = 0;
    } else if (c >= '0' && c <= '9') {
      ++digits;
    } else {
      return false;
    }
  }
  return parts == 3 && digits > 0;
}

void read_terms(const Json& manifest, Bundle& bundle) {
  bundle.reach = bundle.cutoff;
  if (manifest.contains("reach")) {
    const Json& reach = manifest["reach"];
    need(is_finite(reach) && reach.get<double>() >= bundle.cutoff,
         "manifest: \"reach\" is not a number from the cutoff on");
    bundle.reach = reach.get<double>();
  }
  bundle.atoms_reach = bundle.reach;
  if (manifest.contains("atoms_reach")) {
    const Json& reach = manifest["atoms_reach"];
    need(is_finite(reach) && reach.get<double>() >= bundle.reach,
         "manifest: \"atoms_reach\" is not a number from \"reach\" on");
    bundle.atoms_reach = reach.get<double>();
  }
  if (!manifest.contains("terms")) return;
  const auto is_within = [&](const Json& term) {
    const Json& cutoff = member(term, "cutoff");
    return member(term, "name").is_string() && is_finite(cutoff) && cutoff.get<double>() > 0 &&
           cutoff.get<double>() <= bundle.atoms_reach;
  };
  const Json& terms = manifest["terms"];
  need(terms.is_array() &&
           std::all_of(terms.begin(), terms.end(), [&](const Json& t) { return t.is_object() && is_within(t); }),
       "manifest: \"terms\" is not a list of terms with a name and a cutoff up to the reach");
  for (const Json& term : terms) bundle.terms.push_back(term["name"].get<std::string>());
}

void read_model(const Json& manifest, Bundle& bundle) {
  bundle.producer = text_of(manifest, "producer");
  need(member(manifest, "model").is_object(), "manifest: \"model\" is not an object");

  const Json &elements = member(manifest, "elements"), &shifts = member(manifest, "energy_shifts");
  if (is_names(elements)) bundle.elements = elements.get<Names>();
  const std::set<std::string> different(bundle.elements.begin(), bundle.elements.end());
  need(!different.empty() && different.size() == bundle.elements.size() && different.count("") == 0,
       "manifest: \"elements\" is not a list of different chemical symbols");
  need(shifts.is_array() && shifts.size() == bundle.elements.size() &&
           std::all_of(shifts.begin(), shifts.end(), is_finite),
       "manifest: \"energy_shifts\" is not a list of " + std::to_string(bundle.elements.size()) +
           " numbers, one per element");
  bundle.energy_shifts = shifts.get<std::vector<double>>();

  const Json &cutoff = member(manifest, "cutoff"), &steps = member(manifest, "message_passing_steps");
  need(is_finite(cutoff) && cutoff.get<double>() > 0, "manifest: \"cutoff\" is not a positive number");
  bundle.cutoff = cutoff.get<double>();
  read_terms(manifest, bundle);
  need(is_integer(steps, 1, kLargestSize), "manifest: \"message_passing_steps\" is not a positive integer");
  bundle.message_passing_steps = steps.get<int>();
  check_network(manifest);

  for (const auto& [name, value] :
       {std::pair{"kernels", &bundle.kernels}, std::pair{"kernel_shared_bytes", &bundle.kernel_shared_bytes}}) {
    if (!manifest.contains(name)) continue;
    need(is_integer(manifest[name], 1, kLargestSize),
         std::string("manifest: \"") + name + "\" is not a positive integer");
    *value = manifest[name].get<int>();
  }
  if (manifest.contains("kernel_sizes")) {
    const auto is_text = [](const Json& s) { return s.is_string(); };
    const Json& sizes = manifest["kernel_sizes"];
    need(sizes.is_array() && std::all_of(sizes.begin(), sizes.end(),
                                         [&](const Json& lines) {
                                           return lines.is_array() && std::all_of(lines.begin(), lines.end(), is_text);
                                         }),
         "manifest: \"kernel_sizes\" is not a list of lists of strings");
    for (const Json& lines : sizes) {
      std::string& text = bundle.kernel_sizes.emplace_back();
      for (const Json& line : lines) text += line.get<std::string>() + '\n';
    }
  }
  need(member(manifest, "units") == "metal", "manifest: \"units\" is not \"metal\"");
  need(is_one_of(member(manifest, "precision"), {"float32", "float64", "tf32"}),
       "manifest: \"precision\" is not \"float32\", \"float64\" or \"tf32\"");
  bundle.precision = text_of(manifest, "precision");
  need(is_one_of(member(manifest, "platform"), {"cpu", "cuda", "rocm", "oneapi"}),
       "manifest: \"platform\" is not \"cpu\", \"cuda\", \"rocm\" or \"oneapi\"");
  bundle.platform = text_of(manifest, "platform");
  need(is_version(member(manifest, "stablehlo_version")),
       "manifest: \"stablehlo_version\" is not a version such as \"1.13.7\"");
  bundle.stablehlo_version = text_of(manifest, "stablehlo_version");
  const Json& training = member(manifest, "training");
  need(training.is_object() || training.is_null(), "manifest: \"training\" is neither an object nor null");
}

void read_electrons(const Json& manifest, Bundle& bundle) {
  if (!manifest.contains("electrons")) return;
  const Json& electrons = manifest["electrons"];
  const bool is_sound = electrons.is_object() && is_integer(member(electrons, "multiplicity"), 1, kLargestSize) &&
                        is_integer(member(electrons, "charge"), -kLargestSize, kLargestSize) &&
                        member(electrons, "protons").is_array() &&
                        electrons["protons"].size() == bundle.elements.size() &&
                        std::all_of(electrons["protons"].begin(), electrons["protons"].end(),
                                    [](const Json& z) { return is_integer(z, 1, 200); });
  need(is_sound, "manifest: \"electrons\" has not a charge, a multiplicity and the protons of each element");
  bundle.electrons.charge = electrons["charge"].get<int>();
  bundle.electrons.multiplicity = electrons["multiplicity"].get<int>();
  bundle.electrons.protons = electrons["protons"].get<std::vector<int>>();
}

// What a host may change them by.
void check_electrons_weights(const Bundle& bundle) {
  if (bundle.electrons.protons.empty()) return;
  for (const char* name : {Electrons::kCharge, Electrons::kUnpaired}) {
    const auto tensor = bundle.tensors.find(name);
    need(tensor != bundle.tensors.end() && tensor->second.shape.empty() &&
             (tensor->second.dtype == DType::f32 || tensor->second.dtype == DType::f64),
         "weight " + quoted(name) + " is not one number, as \"electrons\" needs");
  }
}

void read_tensors(const Container& container, Bundle& bundle) {
  for (const auto& [name, entry] : container.entries) {
    const DType dtype = file_dtype(entry.dtype);
    if (starts_with(name, "weights/")) {
      need(dtype != DType::u8, "weight " + quoted(name) + " is of the type uint8");
    } else {
      need(starts_with(name, "programs/"), "tensor " + quoted(name) + " is neither a weight nor a program");
      need(dtype == DType::u8 && entry.shape.size() == 1 && entry.end > entry.begin,
           "tensor " + quoted(name) + " does not hold a program");
    }
    bundle.tensors[name] = {dtype, entry.shape, container.data + entry.begin,
                            static_cast<std::size_t>(entry.end - entry.begin)};
  }
}

void read_ladder(const Json& manifest, Bundle& bundle) {
  const Json& ladder = member(manifest, "ladder");
  need(ladder.is_array() && !ladder.empty(), "manifest: \"ladder\" is not a list of rungs");
  for (const Json& rung : ladder) {
    std::int64_t sizes[4];
    int found = 0;
    for (const char* key : {"rows", "atoms", "candidates", "neighbours"}) {
      const Json& size = member(rung, key);
      if (is_integer(size, 1, kLargestSize)) sizes[found++] = size.get<std::int64_t>();
    }
    need(found == 4, "manifest: rung " + std::to_string(bundle.ladder.size()) +
                         " of the ladder has not the positive integers rows, atoms, candidates, neighbours");
    const Rung next{sizes[0], sizes[1], sizes[2], sizes[3]};
    const auto larger = std::find_if(bundle.ladder.begin(), bundle.ladder.end(),
                                     [&](const Rung& before) { return fits(next, before); });
    need(larger == bundle.ladder.end(),
         "manifest: rung " + std::to_string(bundle.ladder.size()) + " of the ladder holds no more than rung " +
             std::to_string(larger - bundle.ladder.begin()) + ", which is tried before it: small rungs come first");
    bundle.ladder.push_back(next);
  }
}

BufferSpec read_buffer(const std::string& name, const Json& value) {
  const std::string where = "manifest: buffer " + quoted(name);
  need(!name.empty() && !starts_with(name, "weights/"), "manifest: a buffer must not be named " + quoted(name));
  need(value.is_object(), where + " is not an object");
  BufferSpec spec;
  const Json& dtype = member(value, "dtype");
  need(is_one_of(dtype, {"float32", "float64", "int32", "uint8"}), where + " has an unknown dtype");
  spec.dtype = dtype == "float32"   ? DType::f32
               : dtype == "float64" ? DType::f64
               : dtype == "int32"   ? DType::i32
                                    : DType::u8;

  const Json& shape = member(value, "shape");
  need(shape.is_array(), where + " has an unknown shape");
  for (const Json& size : shape) {
    if (is_integer(size, 0, kLargestSize)) {
      spec.shape.push_back(std::to_string(size.get<std::int64_t>()));
    } else {
      need(is_one_of(size, {"rows", "atoms", "candidates", "neighbours"}), where + " has an unknown shape");
      spec.shape.push_back(size.get<std::string>());
    }
  }

  const Json& role = member(value, "role");
  need(is_one_of(role, {"input", "state", "output"}), where + " has an unknown role");
  spec.role = role == "input" ? Role::input : role == "state" ? Role::state : Role::output;
  return spec;
}

std::string describe(const Contract& contract) {
  std::string shape;
  for (const std::string& size : contract.shape) shape += (shape.empty() ? "" : ", ") + size;
  return std::string(contract.role == Role::input ? "input" : "output") + " of type " + name_of(contract.dtype) +
         " and shape [" + shape + "]";
}

void read_buffers(const Json& manifest, Bundle& bundle) {
  const Json& buffers = member(manifest, "buffers");
  need(buffers.is_object(), "manifest: \"buffers\" is not an object");
  for (const auto& [name, value] : buffers.items()) {
    const BufferSpec spec = read_buffer(name, value);
    std::int64_t bytes = 0;
    for (const Rung& rung : bundle.ladder)
      need(count_bytes(bundle.shape_of(spec, rung), spec.dtype, kLargestBuffer, bytes),
           "manifest: buffer " + quoted(name) + " is too large");
    need(spec.role != Role::input ||
             std::any_of(contracts().begin(), contracts().end(),
                         [&own = name](const Contract& contract) { return own == contract.name; }),
         "manifest: no host fills an input named " + quoted(name));
    bundle.buffers[name] = spec;
  }
  const int version = manifest["version"].get<int>();
  for (const Contract& contract : contracts()) {
    const auto found = bundle.buffers.find(contract.name);
    const bool may_lack = contract.is_of_virials() || (contract.name == kAtomCount && version < 5);
    if (may_lack && found == bundle.buffers.end()) continue;
    need(found != bundle.buffers.end() && found->second.role == contract.role &&
             found->second.dtype == contract.dtype && found->second.shape == contract.shape,
         "manifest: buffer " + quoted(contract.name) + " is not an " + describe(contract));
  }
}

void read_programs(const Json& manifest, Bundle& bundle) {
  const Json& programs = member(manifest, "programs");
  need(programs.is_object(), "manifest: \"programs\" is not an object");
  for (const auto& [name, artifacts] : programs.items()) {
    need(!name.empty() && is_names(artifacts) && artifacts.size() == bundle.ladder.size(),
         "manifest: program " + quoted(name) + " has not one tensor for each of the " +
             std::to_string(bundle.ladder.size()) + " rungs");
    bundle.programs[name] = artifacts.get<Names>();
    for (const std::string& tensor : bundle.programs[name])
      need(starts_with(tensor, "programs/") && bundle.tensors.count(tensor) > 0,
           "manifest: program " + quoted(name) + " names the tensor " + quoted(tensor) +
               ", which the file does not hold");
  }
}

bool is_computed(const Bundle& bundle, const std::string& name) {
  const auto found = bundle.buffers.find(name);
  return found != bundle.buffers.end() && found->second.role != Role::input;
}

bool is_of_fixed_size(const BufferSpec& buffer) {
  return std::all_of(buffer.shape.begin(), buffer.shape.end(),
                     [](const std::string& size) { return size[0] >= '0' && size[0] <= '9'; });
}

Step read_step(const Json& value, const std::string& where, const Bundle& bundle) {
  need(value.is_object() && value.contains("run") + value.contains("refresh") + value.contains("reduce") == 1,
       where + " is neither a \"run\" nor a \"refresh\" nor a \"reduce\"");
  Step step;
  if (value.contains("reduce")) {
    need(is_names(value["reduce"]), where + " does not list the sums to reduce");
    step.reduce = value["reduce"].get<Names>();
    for (const std::string& name : step.reduce) {
      const bool is_sum = is_computed(bundle, name) && bundle.buffers.at(name).dtype == DType::f64 &&
                          is_of_fixed_size(bundle.buffers.at(name));
      need(is_sum, where + " reduces " + quoted(name) + ", which is not a computed float64 buffer of a fixed size");
    }
    return step;
  }
  if (value.contains("refresh")) {
    need(is_names(value["refresh"]), where + " does not list the buffers to refresh");
    step.refresh = value["refresh"].get<Names>();
    for (const std::string& name : step.refresh) {
      const bool is_rows = is_computed(bundle, name) && !bundle.buffers.at(name).shape.empty() &&
                           bundle.buffers.at(name).shape[0] == "rows";
      need(is_rows, where + " refreshes " + quoted(name) + ", which is not a computed buffer of rows");
    }
    return step;
  }
  need(value["run"].is_string() && bundle.programs.count(value["run"].get<std::string>()) > 0,
       where + " runs an unknown program");
  step.run = value["run"].get<std::string>();
  const Json &inputs = member(value, "inputs"), &outputs = member(value, "outputs");
  need(is_names(inputs) && is_names(outputs), where + " does not list its inputs and outputs");
  step.inputs = inputs.get<Names>();
  step.outputs = outputs.get<Names>();
  need(std::set<std::string>(step.outputs.begin(), step.outputs.end()).size() == step.outputs.size(),
       where + " computes a buffer twice");
  for (const std::string& name : step.inputs) {
    const bool is_weight = starts_with(name, "weights/") && bundle.tensors.count(name) > 0;
    need(is_weight || bundle.buffers.count(name) > 0,
         where + " reads " + quoted(name) + ", which is neither a buffer nor a weight");
  }
  for (const std::string& name : step.outputs) {
    need(is_computed(bundle, name), where + " computes " + quoted(name) + ", which is not a state or an output");
    need(std::count(step.inputs.begin(), step.inputs.end(), name) < 2,
         where + " updates " + quoted(name) + " in place, but reads it twice");
  }
  return step;
}

void read_moves(const Json& manifest, Bundle& bundle) {
  if (!manifest.contains("moves")) return;
  const Json& moves = manifest["moves"];
  need(moves.is_object() && is_integer(member(moves, "rows"), 1, kLargestSize) && member(moves, "programs").is_object(),
       "manifest: \"moves\" has not a number of rows and programs");
  bundle.moves.rows = moves["rows"].get<std::int64_t>();
  for (const auto& [name, programs] : moves["programs"].items()) {
    const Names known = is_names(programs) ? programs.get<Names>() : Names();
    need(known.size() == 2 && bundle.programs.count(known[0]) > 0 && bundle.programs.count(known[1]) > 0,
         "manifest: \"moves\" has not two programs for " + quoted(name));
    bundle.moves.of[name] = {known[0], known[1]};
  }
  for (const auto& [schedule, steps] : bundle.schedules)
    for (const Step& step : steps)
      for (const std::string& name : step.refresh)
        need(bundle.moves.of.count(name) > 0,
             "manifest: \"moves\" lacks " + quoted(name) + ", which " + quoted(schedule) + " refreshes");
}

void read_schedules(const Json& manifest, Bundle& bundle) {
  const Json& schedules = member(manifest, "schedules");
  need(schedules.is_object(), "manifest: \"schedules\" is not an object");
  need(schedules.contains("forces"), "manifest: the schedule \"forces\" is missing");
  const bool may_lack = bundle.kernels == 0 || bundle.platform == "cpu" || !bundle.electrons.protons.empty();
  need(may_lack || schedules.contains("portable_forces"), "manifest: the schedule \"portable_forces\" is missing");
  for (const auto& [name, steps] : schedules.items()) {
    need(steps.is_array(), "manifest: schedule " + quoted(name) + " is not a list of steps");
    std::vector<Step>& schedule = bundle.schedules[name];
    for (const Json& step : steps) {
      const std::string where = "manifest: step " + std::to_string(schedule.size()) + " of schedule " + quoted(name);
      schedule.push_back(read_step(step, where, bundle));
    }
  }
  read_moves(manifest, bundle);
  for (const char* name : {"forces", "virials", "small_virials", "portable_forces", "portable_virials"}) {
    const auto schedule = bundle.schedules.find(name);
    if (schedule == bundle.schedules.end()) continue;
    const std::string where = std::string("manifest: the schedule ") + quoted(name);
    std::set<std::string> written;
    for (const Step& step : schedule->second) {
      written.insert(step.outputs.begin(), step.outputs.end());
      need(!step.run.empty() || written.count("neighbours_needed") > 0,
           where + " exchanges between ranks before it computes \"neighbours_needed\"");
    }
    for (const Contract& contract : contracts())
      need(contract.role == Role::input ||
               (contract.is_of_virials() && schedule->first.find("forces") != std::string::npos) ||
               written.count(contract.name) > 0,
           where + " never computes " + quoted(contract.name));
  }
}

}  // namespace

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return 1;
    case DType::i32:
    case DType::f32:
      return 4;
    case DType::f64:
      return 8;
  }
  throw Error("unknown dtype");
}

bool fits(const Rung& demand, const Rung& rung) {
  return demand.rows <= rung.rows && demand.atoms <= rung.atoms && demand.candidates <= rung.candidates &&
         demand.neighbours <= rung.neighbours;
}

std::vector<std::int64_t> Bundle::shape_of(const BufferSpec& buffer, const Rung& rung) const {
  std::vector<std::int64_t> shape;
  for (const std::string& size : buffer.shape) {
    if (size == "rows") {
      shape.push_back(rung.rows);
    } else if (size == "atoms") {
      shape.push_back(rung.atoms);
    } else if (size == "candidates") {
      shape.push_back(rung.candidates);
    } else if (size == "neighbours") {
      shape.push_back(rung.neighbours);
    } else {
      shape.push_back(std::stoll(size));
    }
  }
  return shape;
}

Bundle Bundle::read(const std::string& given) {
  std::error_code error;
  const std::string shipped = std::filesystem::exists(given, error) ? "" : shipped_potential(given);
  const std::string& path = shipped.empty() ? given : shipped;
  if (std::filesystem::is_directory(path, error))
    throw Error(path + ": cannot be read: Is a directory; of a model folder `so3krates export " + path +
                "` makes a bundle");
  const auto size = std::filesystem::file_size(path, error);
  if (error) throw Error(path + ": cannot be read: " + error.message() + looked_for(path));
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Error(path + ": cannot be read: " + std::strerror(errno));
  Bytes bytes(size);
  stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (!stream) throw Error(path + ": cannot be read to its end");
  return parse(std::move(bytes), path);
}

Bundle Bundle::parse(std::vector<std::uint8_t> bytes, const std::string& name) {
  Bundle bundle;
  bundle.path = name;
  bundle.bytes_ = std::make_shared<const Bytes>(std::move(bytes));
  try {
    const Container container = read_container(*bundle.bytes_);
    const char* text = container.manifest.data();
    const Json manifest = parse_object(text, text + container.manifest.size(), "the manifest");
    check_version(manifest);
    need(container.sha256 == digest(container),
         "is damaged: its content does not match its checksum; copy or export it again");
    bundle.sha256 = container.sha256;
    check_texts(manifest, "the manifest");
    read_model(manifest, bundle);
    read_electrons(manifest, bundle);
    read_tensors(container, bundle);
    check_electrons_weights(bundle);
    read_ladder(manifest, bundle);
    read_buffers(manifest, bundle);
    read_programs(manifest, bundle);
    read_schedules(manifest, bundle);
    check_sources(manifest, bundle);
    read_outputs(manifest, bundle);
    read_guard(manifest, bundle);
    read_baselines(manifest, bundle);
  } catch (const Error& error) {
    throw Error(name + ": " + error.what());
  } catch (const Json::exception& error) {
    throw Error(name + ": is damaged, or no so3krates bundle (" + error.what() + ")");
  }
  return bundle;
}

}  // namespace so3krates
