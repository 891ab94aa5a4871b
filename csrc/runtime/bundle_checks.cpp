#include "bundle_checks.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace so3krates {
namespace {

using namespace json;

constexpr int kDeepest = 64;                 // objects and lists within each other
constexpr std::size_t kLongestText = 65536;  // bytes of a name or a string of the manifest
constexpr int kShown = 24;                   // characters of a text in a message
constexpr int kNoStep = -1;                  // in "from": no step of the schedule has computed it

bool depth_is_sound(const char* begin, const char* end) {
  int depth = 0;
  bool is_text = false;
  for (const char* c = begin; c < end; ++c) {
    if (is_text) {
      if (*c == '\\')
        ++c;
      else if (*c == '"')
        is_text = false;
    } else if (*c == '"') {
      is_text = true;
    } else if (*c == '[' || *c == '{') {
      if (++depth > kDeepest) return false;
    } else if (*c == ']' || *c == '}') {
      --depth;
    }
  }
  return true;
}

// What moves a terminal's cursor, hides text or turns its direction: C0, DEL, C1, separators, marks of direction. The
// text is UTF-8.
bool has_controls(const std::string& text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = [&](std::size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u; };
    if (byte(0) < 0x20 || byte(0) == 0x7f) return true;
    if (byte(0) == 0xc2 && byte(1) >= 0x80 && byte(1) <= 0x9f) return true;
    if (byte(0) != 0xe2) continue;
    if (byte(1) == 0x80 && byte(2) >= 0xa8 && byte(2) <= 0xae) return true;
    if (byte(1) == 0x81 && byte(2) >= 0xa6 && byte(2) <= 0xa9) return true;
  }
  return false;
}

void check_text(const std::string& text, const std::string& what) {
  need(text.size() <= kLongestText, what + " holds a text of " + std::to_string(text.size()) + " bytes, and at most " +
                                        std::to_string(kLongestText) + " are read");
  if (!has_controls(text)) return;
  std::size_t end = 0;
  for (int characters = 0; end < text.size(); ++end)
    if ((static_cast<unsigned char>(text[end]) & 0xc0) != 0x80 && ++characters > kShown) break;
  throw Error(what + " holds control characters in a text: " + Json(text.substr(0, end)).dump(-1, ' ', true));
}

std::string short_number(const Json& value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value.get<double>());
  return text;
}

std::vector<std::string> names(const Json& step, const char* key) {
  return step.contains(key) ? step[key].get<std::vector<std::string>>() : std::vector<std::string>();
}

std::string moved(const std::string& where) {
  return where + ": steps are missing or in another order";
}

// The step that computes each array last. Of a schedule that has been read.
std::map<std::string, int> check_steps(const Json& steps, const std::string& schedule, bool must_say,
                                       const Bundle& bundle) {
  std::map<std::string, int> writers;
  for (int index = 0; index < static_cast<int>(steps.size()); ++index) {
    const Json& step = steps[index];
    const std::string where = "manifest: step " + std::to_string(index) + " of schedule " + quoted(schedule);
    const bool is_run = step.contains("run");
    const char* exchanged = step.contains("reduce") ? "reduce" : "refresh";
    const auto read = names(step, is_run ? "inputs" : exchanged), written = names(step, is_run ? "outputs" : exchanged);
    Json sources = Json::array();
    for (const std::string& array : read) {
      const auto buffer = bundle.buffers.find(array);
      const auto writer = writers.find(array);
      const bool is_computed = buffer != bundle.buffers.end() && buffer->second.role != Role::input;
      const bool is_filled_here = is_run && std::count(written.begin(), written.end(), array) > 0;
      need(!is_computed || is_filled_here || writer != writers.end(),
           where + " reads " + quoted(array) + ", which no step before it computes");
      sources.push_back(writer == writers.end() ? kNoStep : writer->second);
    }
    if (must_say || step.contains("from")) {
      const Json& from = member(step, "from");
      const bool is_integers =
          from.is_array() && std::all_of(from.begin(), from.end(), [](const Json& n) { return n.is_number_integer(); });
      need(is_integers && from == sources, moved(where + " does not read what its \"from\" says"));
    }
    for (const std::string& array : written) writers[array] = index;
  }
  return writers;
}

}  // namespace

Json parse_object(const char* begin, const char* end, const std::string& what) {
  const std::string damaged = "is damaged, or no so3krates bundle: " + what;
  need(depth_is_sound(begin, end),
       damaged + " is not JSON of at most " + std::to_string(kDeepest) + " objects and lists within each other");
  // Readers differ in which of two entries they take: neither is.
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::string twice;
  const auto watch = [&](int, Json::parse_event_t event, const Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      twice = parsed.get<std::string>();
    return true;
  };
  Json value = Json::parse(begin, end, watch, /*allow_exceptions=*/false);
  need(!value.is_discarded(), damaged + " is not JSON");
  check_text(twice, what);
  need(twice.empty(), damaged + " has " + json::quoted(twice) + " twice");
  need(value.is_object(), damaged + " is not a JSON object");
  return value;
}

void check_texts(const Json& value, const std::string& what) {
  if (value.is_string()) check_text(value.get_ref<const std::string&>(), what);
  if (!value.is_structured()) return;
  for (const auto& [name, entry] : value.items()) {
    if (value.is_object()) check_text(name, what);
    check_texts(entry, what);
  }
}

void check_network(const Json& manifest) {
  const Json& model = manifest["model"];
  for (const auto& [name, key] : {std::pair{"cutoff", "cutoff"}, std::pair{"message_passing_steps", "layers"}}) {
    const Json &own = manifest[name], &network = member(model, key);
    if (network.is_null()) continue;
    const std::string where = "manifest: the network's " + quoted(key);
    need(network.is_number(), where + " is not a number");
    need(network.get<double>() == own.get<double>(),
         where + " is " + short_number(network) + ", but " + quoted(name) + " is " + short_number(own));
  }
}

void check_sources(const Json& manifest, const Bundle& bundle) {
  const bool has_results = !member(manifest, "results").is_null();
  need(has_results || manifest["version"].get<int>() < 3, "manifest: \"results\" is missing");
  need(!has_results || manifest["results"].is_object(), "manifest: \"results\" is not an object");
  for (const auto& [name, steps] : manifest["schedules"].items()) {
    const std::map<std::string, int> writers = check_steps(steps, name, has_results, bundle);
    if (!has_results) continue;
    Json given = Json::object();
    for (const auto& [array, index] : writers)
      if (bundle.buffers.at(array).role == Role::output) given[array] = index;
    const Json& declared = member(manifest["results"], name.c_str());
    const bool is_integers = declared.is_object() && std::all_of(declared.begin(), declared.end(),
                                                                 [](const Json& n) { return n.is_number_integer(); });
    need(is_integers && declared == given,
         moved("manifest: the schedule " + quoted(name) + " does not end as \"results\" says"));
  }
}

}  // namespace so3krates
