// What a bundle says of its baselines.
#include <algorithm>
#include <cmath>

#include "bundle_outputs.h"

namespace so3krates {
namespace {

using namespace json;

bool is_texts(const Json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const Json& text) { return text.is_string(); });
}

bool is_coefficients(const Json& value) {
  return value.is_object() && is_texts(member(value, "pair")) && (value["pair"].empty() || value["pair"].size() == 2) &&
         member(value, "words").is_string();
}

bool is_charge(const Json& value) {
  return value.is_number() && std::isfinite(value.get<double>());
}

bool is_sound(const Json& entry) {
  const auto is_text = [&](const char* key) { return member(entry, key).is_string(); };
  if (!entry.is_object() || !is_text("section") || !is_text("meaning") || !is_text("pair_style") ||
      !is_text("kspace_style"))
    return false;
  const Json &coefficients = member(entry, "pair_coeff"), &charges = member(entry, "charges");
  return member(entry, "settings").is_object() && is_texts(member(entry, "elements")) && coefficients.is_array() &&
         std::all_of(coefficients.begin(), coefficients.end(), is_coefficients) && charges.is_object() &&
         std::all_of(charges.begin(), charges.end(), is_charge);
}

}  // namespace

void read_baselines(const Json& manifest, Bundle& bundle) {
  if (!manifest.contains("baselines")) return;
  const Json& entries = manifest["baselines"];
  need(entries.is_array() && !entries.empty() && std::all_of(entries.begin(), entries.end(), is_sound),
       "manifest: \"baselines\" is not a list of baselines with section, meaning, settings, elements, pair_style, "
       "pair_coeff, kspace_style and charges");
  bundle.baselines_text = entries.dump();
  for (const Json& entry : entries) {
    Baseline& baseline = bundle.baselines.emplace_back();
    baseline.meaning = entry["meaning"].get<std::string>();
    baseline.pair_style = entry["pair_style"].get<std::string>();
    baseline.kspace_style = entry["kspace_style"].get<std::string>();
    baseline.elements = entry["elements"].get<std::vector<std::string>>();
    for (const Json& line : entry["pair_coeff"])
      baseline.pair_coeff.push_back({line["pair"].get<std::vector<std::string>>(), line["words"].get<std::string>()});
    for (const auto& [element, charge] : entry["charges"].items()) baseline.charges[element] = charge.get<double>();
  }
}

}  // namespace so3krates
