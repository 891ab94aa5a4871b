// The container of a bundle: tensors end to end, a manifest and a checksum, as a safetensors file (docs/bundle.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bundle.h"

namespace so3krates {

struct Entry {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0, end = 0;  // in the data section
};

struct Container {
  std::string manifest, sha256;
  std::map<std::string, Entry> entries;
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;
};

// Throws Error, without the file's name, when the container is damaged or cut short. It points into `bytes`.
Container read_container(const std::vector<std::uint8_t>& bytes);
// Of manifest, header and data: what the file's own checksum is to be.
std::string digest(const Container& container);

DType file_dtype(const std::string& name);
// Bytes of a dense array; false when they pass `limit`.
bool count_bytes(const std::vector<std::int64_t>& shape, DType dtype, std::int64_t limit, std::int64_t& bytes);

}  // namespace so3krates
