#include "pieces.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace so3krates {

int pieces_of(std::size_t count, double nanoseconds, int threads) {
  constexpr double kShortest = 1e5;  // ns; some 10 times the start of a thread
  const double pieces = static_cast<double>(count) * nanoseconds / kShortest;
  return static_cast<int>(std::clamp(pieces, 1.0, std::max(1.0, static_cast<double>(threads))));
}

void for_pieces(int count, int pieces, const std::function<void(int, int, int)>& work) {
  std::atomic<bool> has_failed{false};
  const auto bound = [&](int k) { return static_cast<int>(static_cast<std::int64_t>(count) * k / pieces); };
  const auto run = [&](int piece) {
    try {
      work(piece, bound(piece), bound(piece + 1));
    } catch (const std::bad_alloc&) {  // must not leave a thread
      has_failed = true;
    }
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<std::size_t>(pieces));
  try {
    for (int piece = 1; piece < pieces; ++piece) others.emplace_back(run, piece);
  } catch (const std::system_error&) {  // no more threads here: the rest is done below
  }
  run(0);
  for (std::thread& other : others) other.join();
  for (int piece = 1 + static_cast<int>(others.size()); piece < pieces; ++piece) run(piece);
  if (has_failed) throw std::bad_alloc();
}

}  // namespace so3krates
