// What the readers of a bundle's header and of its manifest ask of JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "error.h"

namespace so3krates::json {

using Json = nlohmann_lmp::json;

inline void need(bool condition, const std::string& message) {
  if (!condition) throw Error(message);
}

inline std::string quoted(const std::string& name) {
  return "\"" + name + "\"";
}

// The member of an object, or null.
inline const Json& member(const Json& object, const char* key) {
  static const Json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

inline bool is_integer(const Json& value, std::int64_t low, std::int64_t high) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(high)) return false;
  const auto number = value.get<std::int64_t>();
  return low <= number && number <= high;
}

}  // namespace so3krates::json
