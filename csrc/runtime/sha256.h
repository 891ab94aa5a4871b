// SHA-256 (FIPS 180-4), for checksums and cache keys.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace so3krates {

class Sha256 {
 public:
  void update(const void* data, std::size_t bytes);
  // The digest of everything so far, 64 lower-case hexadecimal digits. Call once.
  std::string hex();

 private:
  void compress(const std::uint8_t* block);
  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> block_{};
  std::uint64_t total_ = 0;  // bytes
};

std::string sha256_hex(const void* data, std::size_t bytes);

}  // namespace so3krates
