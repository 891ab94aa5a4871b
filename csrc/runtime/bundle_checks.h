// What a reader of bundles asks of JSON and of schedules.
#pragma once

#include <cstdint>
#include <string>

#include "bundle.h"
#include "bundle_json.h"

namespace so3krates {

constexpr std::uint64_t kLargestHeader = 1 << 24;  // bytes

// All throw Error, without the file's name; `what` is the subject of the message.

// An object whose depth is limited, in time that grows with its length only.
json::Json parse_object(const char* begin, const char* end, const std::string& what);
// Names and strings are not too long and can be printed: no control characters.
void check_texts(const json::Json& value, const std::string& what);
// The manifest does not contradict the network's hyper-parameters.
void check_network(const json::Json& manifest);
// Every value that is read has been computed, and by the step that the manifest says: none is missing or moved.
void check_sources(const json::Json& manifest, const Bundle& bundle);

}  // namespace so3krates
