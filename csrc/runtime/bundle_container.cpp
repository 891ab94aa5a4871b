// Reader of a bundle's container: header, tensors, checksum.
#include "bundle_container.h"

#include <algorithm>
#include <utility>

#include "bundle_checks.h"
#include "bundle_json.h"
#include "sha256.h"

namespace so3krates {
namespace {

using namespace json;

constexpr std::int64_t kLargestInteger = INT64_MAX;

Entry read_entry(const std::string& name, const Json& value) {
  const std::string where = "is damaged: the header's entry " + quoted(name);
  need(value.is_object(), where + " is not an object");
  const Json &dtype = member(value, "dtype"), &shape = member(value, "shape"), &offsets = member(value, "data_offsets");
  need(dtype.is_string() && shape.is_array() && offsets.is_array() && offsets.size() == 2, where + " is incomplete");
  Entry entry;
  entry.dtype = dtype.get<std::string>();
  for (const Json& size : shape) {
    need(is_integer(size, 0, kLargestInteger), where + " has an impossible shape");
    entry.shape.push_back(size.get<std::int64_t>());
  }
  for (const Json& offset : offsets) need(is_integer(offset, 0, kLargestInteger), where + " has impossible offsets");
  entry.begin = offsets[0].get<std::int64_t>();
  entry.end = offsets[1].get<std::int64_t>();
  std::int64_t bytes = 0;
  need(count_bytes(entry.shape, file_dtype(entry.dtype), kLargestInteger, bytes) && entry.begin <= entry.end &&
           bytes == entry.end - entry.begin,
       where + " has offsets that do not fit its shape");
  return entry;
}

// The tensors lie end to end and fill the data section.
void check_cover(const Container& container) {
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges;
  for (const auto& [name, entry] : container.entries) ranges.emplace_back(entry.begin, entry.end);
  std::sort(ranges.begin(), ranges.end());
  std::int64_t position = 0;
  for (const auto& [begin, end] : ranges) {
    need(begin == position, "is damaged: its tensors overlap or leave holes");
    position = end;
  }
  need(static_cast<std::uint64_t>(position) == container.size, "is damaged or cut short: its tensors need " +
                                                                   std::to_string(position) + " bytes and it has " +
                                                                   std::to_string(container.size));
}

}  // namespace

DType file_dtype(const std::string& name) {
  if (name == "U8") return DType::u8;
  if (name == "I32") return DType::i32;
  if (name == "F32") return DType::f32;
  if (name == "F64") return DType::f64;
  throw Error("holds a tensor of the unknown type " + name);
}

bool count_bytes(const std::vector<std::int64_t>& shape, DType dtype, std::int64_t limit, std::int64_t& bytes) {
  bytes = static_cast<std::int64_t>(size_of(dtype));
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) bytes = 0;
  for (const std::int64_t size : shape) {
    if (size != 0 && bytes > limit / size) return false;
    bytes *= size;
  }
  return true;
}

Container read_container(const std::vector<std::uint8_t>& bytes) {
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < 8 && i < bytes.size(); ++i) length |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
  need(bytes.size() >= 8 && length <= bytes.size() - 8, "is cut short, or no so3krates bundle");
  need(length <= kLargestHeader, "has a header of " + std::to_string(length) + " bytes, and at most " +
                                     std::to_string(kLargestHeader) + " are read");
  const char* head = reinterpret_cast<const char*>(bytes.data()) + 8;
  const Json header = parse_object(head, head + length, "the header");
  std::uint64_t last = length;
  while (head[last - 1] == ' ') --last;
  need(head[last - 1] == '}', "is damaged: the header is followed by other bytes");

  const Json& metadata = member(header, "__metadata__");
  need(member(metadata, "so3krates").is_string() && member(metadata, "sha256").is_string(),
       "is a safetensors file, but not a so3krates bundle");
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    check_texts(Json(name), "the header");
    check_texts(value, "the header");
  }
  Container container;
  container.manifest = metadata["so3krates"].get<std::string>();
  container.sha256 = metadata["sha256"].get<std::string>();
  container.data = bytes.data() + 8 + length;
  container.size = bytes.size() - 8 - length;
  for (const auto& [name, value] : header.items())
    if (name != "__metadata__") container.entries.emplace(name, read_entry(name, value));
  check_cover(container);
  return container;
}

std::string digest(const Container& container) {
  Sha256 hash;
  hash.update(container.manifest.data(), container.manifest.size());
  for (const auto& [name, entry] : container.entries) {
    std::string line = name + " " + entry.dtype + " ";
    for (std::size_t i = 0; i < entry.shape.size(); ++i) line += (i ? "," : "") + std::to_string(entry.shape[i]);
    line += " " + std::to_string(entry.begin) + " " + std::to_string(entry.end) + "\n";
    hash.update(line.data(), line.size());
  }
  hash.update(container.data, container.size);
  return hash.hex();
}

}  // namespace so3krates
