#include "bundle_outputs.h"

#include <algorithm>
#include <string>

#include "contract.h"

namespace so3krates {
namespace {

using namespace json;

constexpr int kVersionOfOutputs = 4;
constexpr std::size_t kMostDimensions = 3;
// What the buffer and the entry together make of it.
Output output_of(const std::string& unit, const std::string& ranks, bool standard, const std::string& meaning,
                 const BufferSpec& buffer) {
  Output output;
  output.unit = unit;
  output.meaning = meaning;
  output.standard = standard;
  output.per_atom = !buffer.shape.empty() && buffer.shape[0] == "rows";
  bool is_known = buffer.shape.size() <= kMostDimensions && buffer.dtype != DType::u8;
  for (std::size_t k = output.per_atom ? 1 : 0; k < buffer.shape.size() && is_known; ++k) {
    is_known = buffer.shape[k].find_first_not_of("0123456789") == std::string::npos && buffer.shape[k] != "0";
    if (!is_known) break;
    output.shape.push_back(std::stoll(buffer.shape[k]));
    output.width *= output.shape.back();
  }
  if (ranks == "sum")
    output.ranks = Ranks::sum;
  else if (ranks == "min")
    output.ranks = Ranks::min;
  else if (ranks == "max")
    output.ranks = Ranks::max;
  else
    is_known = is_known && ranks == "none";
  is_known = is_known && output.per_atom == (output.ranks == Ranks::none);
  if (is_known) return output;
  std::string shape;
  for (const std::string& size : buffer.shape) shape += (shape.empty() ? "" : ", ") + size;
  output.problem = std::string("is of type ") + name_of(buffer.dtype) + ", shape [" + shape + "] and ranks " +
                   quoted(ranks) + ", which this so3krates cannot interpret: update so3krates";
  return output;
}

bool is_result(const Bundle& bundle, const std::string& name) {
  const auto found = bundle.buffers.find(name);
  const auto is_hosts = [&](const Contract& contract) { return contract.name == name && contract.unit.empty(); };
  return found != bundle.buffers.end() && found->second.role == Role::output &&
         std::none_of(contracts().begin(), contracts().end(), is_hosts);
}

bool is_computed(const Bundle& bundle, const std::string& name) {
  for (const char* schedule : {"forces", "virials"}) {
    const auto found = bundle.schedules.find(schedule);
    if (found == bundle.schedules.end()) continue;
    for (const Step& step : found->second)
      if (std::count(step.outputs.begin(), step.outputs.end(), name) > 0) return true;
  }
  return false;
}

}  // namespace

void read_outputs(const Json& manifest, Bundle& bundle) {
  if (manifest["version"].get<int>() < kVersionOfOutputs) {
    for (const Contract& known : contracts())
      if (!known.unit.empty() && bundle.buffers.count(known.name) > 0)
        bundle.outputs[known.name] =
            output_of(known.unit, known.ranks, known.standard, known.meaning, bundle.buffers.at(known.name));
    return;
  }
  const Json& outputs = member(manifest, "outputs");
  need(outputs.is_object(), "manifest: \"outputs\" is not an object");
  for (const auto& [name, buffer] : bundle.buffers)
    need(!is_result(bundle, name) || outputs.contains(name), "manifest: \"outputs\" does not declare " + quoted(name));
  for (const auto& [name, entry] : outputs.items()) {
    need(is_result(bundle, name),
         "manifest: \"outputs\" declares " + quoted(name) + ", which is not a buffer of role output");
    const std::string where = "manifest: output " + quoted(name);
    need(entry.is_object() && member(entry, "unit").is_string() && member(entry, "ranks").is_string() &&
             member(entry, "meaning").is_string() && member(entry, "standard").is_boolean(),
         where + " has not the strings unit, ranks and meaning, and standard, true or false");
    for (const Contract& known : contracts())
      need(known.name != name ||
               (entry["unit"] == known.unit && entry["ranks"] == known.ranks && entry["standard"] == known.standard),
           where + " has not the unit, ranks and standard that all potentials have");
    need(is_computed(bundle, name), "manifest: neither \"forces\" nor \"virials\" computes the output " + quoted(name));
    bundle.outputs[name] =
        output_of(entry["unit"].get<std::string>(), entry["ranks"].get<std::string>(), entry["standard"].get<bool>(),
                  entry["meaning"].get<std::string>(), bundle.buffers.at(name));
  }
}

}  // namespace so3krates
