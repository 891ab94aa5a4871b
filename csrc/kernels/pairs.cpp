#include "pairs.h"

#include <algorithm>
#include <array>
#include <vector>

namespace so3krates::kernels {
namespace {

// Bits of x, 10 of them, at every third place.
std::uint32_t spread_bits(std::uint32_t x) {
  x = (x | x << 16) & 0x030000ff;
  x = (x | x << 8) & 0x0300f00f;
  x = (x | x << 4) & 0x030c30c3;
  return (x | x << 2) & 0x09249249;
}

constexpr int kFewestRows = 1024;  // of a piece: less is not worth a thread

// Pieces [begin, end) of `count` for `threads`, in turn.
struct Pieces {
  int count, pieces;
  Pieces(int count, int threads) : count(count), pieces(std::clamp(count / kFewestRows, 1, threads)) {}
  int begin(int k) const { return static_cast<int>(static_cast<std::int64_t>(count) * k / pieces); }
  int end(int k) const { return begin(k + 1); }
};

struct Box {
  double low[3], high[3];
};

Box box_of(const Candidates& c, const Pieces& pieces, const Parallel& parallel) {
  const auto position = [&](int row) { return c.positions + 3 * static_cast<std::size_t>(c.atom_of_row[row]); };
  std::vector<Box> boxes(pieces.pieces);
  parallel(pieces.pieces, [&](int k) {
    Box box;
    std::copy_n(position(pieces.begin(k)), 3, box.low);
    std::copy_n(position(pieces.begin(k)), 3, box.high);
    for (int i = pieces.begin(k); i < pieces.end(k); ++i)
      for (int a = 0; a < 3; ++a) {
        box.low[a] = std::min(box.low[a], position(i)[a]);
        box.high[a] = std::max(box.high[a], position(i)[a]);
      }
    boxes[k] = box;
  });
  for (const Box& box : boxes)
    for (int a = 0; a < 3; ++a) {
      boxes[0].low[a] = std::min(boxes[0].low[a], box.low[a]);
      boxes[0].high[a] = std::max(boxes[0].high[a], box.high[a]);
    }
  return boxes[0];
}

using Key = std::pair<std::uint32_t, std::int32_t>;  // place along the curve, row

// Sorts by buckets between quantiles of a sample: the pieces count what goes where, and each bucket is sorted by
// itself.
void sort_keys(std::vector<Key>& keys, const Pieces& pieces, const Parallel& parallel) {
  const int n = pieces.pieces;
  if (n == 1) return std::sort(keys.begin(), keys.end());
  constexpr std::size_t kSample = 32;  // of each bucket
  const auto buckets = static_cast<std::size_t>(n);
  std::vector<Key> sample;
  for (std::size_t k = 0; k < buckets * kSample; ++k)
    sample.push_back(keys[static_cast<std::size_t>(pieces.count) * k / (buckets * kSample)]);
  std::sort(sample.begin(), sample.end());
  std::vector<Key> least;  // of each bucket but the first
  for (std::size_t k = 1; k < buckets; ++k) least.push_back(sample[k * kSample]);
  const auto bucket_of = [&](const Key& key) {
    return static_cast<int>(std::upper_bound(least.begin(), least.end(), key) - least.begin());
  };
  std::vector<int> places(static_cast<std::size_t>(n) * n + 1, 0);  // [bucket][piece], then where they begin
  parallel(n, [&](int k) {
    for (int i = pieces.begin(k); i < pieces.end(k); ++i) ++places[bucket_of(keys[i]) * n + k + 1];
  });
  for (std::size_t k = 1; k < places.size(); ++k) places[k] += places[k - 1];
  std::vector<int> bounds(n + 1, pieces.count);
  for (int k = 0; k < n; ++k) bounds[k] = places[static_cast<std::size_t>(k) * n];
  std::vector<Key> sorted(keys.size());
  parallel(n, [&](int k) {
    for (int i = pieces.begin(k); i < pieces.end(k); ++i) sorted[places[bucket_of(keys[i]) * n + k]++] = keys[i];
  });
  parallel(n, [&](int k) { std::sort(sorted.begin() + bounds[k], sorted.begin() + bounds[k + 1]); });
  keys.swap(sorted);
}

// Rows along a Morton curve through cells of the cutoff's size.
void sort_rows(const Candidates& c, double cutoff, const Pieces& pieces, const Parallel& parallel,
               std::int32_t* order) {
  if (pieces.count == 0) return;
  const Box box = box_of(c, pieces, parallel);
  constexpr double most_cells = 1023;
  double scale[3];
  for (int a = 0; a < 3; ++a) scale[a] = 1.0 / std::max(cutoff, (box.high[a] - box.low[a]) / most_cells);
  std::vector<Key> keys(pieces.count);
  parallel(pieces.pieces, [&](int k) {
    for (int i = pieces.begin(k); i < pieces.end(k); ++i) {
      const double* position = c.positions + 3 * static_cast<std::size_t>(c.atom_of_row[i]);
      std::uint32_t key = 0;
      for (int a = 0; a < 3; ++a) {
        // Positions that are not finite are the host's to report: they must not lead outside the curve.
        const double cell = (position[a] - box.low[a]) * scale[a];
        key |= spread_bits(cell >= 0 && cell <= most_cells ? static_cast<std::uint32_t>(cell) : 0) << a;
      }
      keys[i] = {key, i};
    }
  });
  sort_keys(keys, pieces, parallel);
  parallel(pieces.pieces, [&](int k) {
    for (int i = pieces.begin(k); i < pieces.end(k); ++i) order[i] = keys[i].second;
  });
}

void cut_blocks(const Candidates& c, int threads, const Pieces& pieces, const Parallel& parallel,
                const std::int32_t* order, Schedule& s) {
  constexpr int fewest_rows = 32;  // less is not worth a thread
  const int owned = pieces.count;
  s.threads = std::clamp(std::min(threads, owned / fewest_rows), 1, kMostThreads);
  const int blocks = 2 * s.threads;
  const auto weight = [&](int p) { return c.candidate_count[order[p]] + std::int64_t{1}; };
  std::vector<std::int64_t> before(pieces.pieces + 1, 0);  // candidates before each piece
  parallel(pieces.pieces, [&](int k) {
    for (int p = pieces.begin(k); p < pieces.end(k); ++p) before[k + 1] += weight(p);
  });
  for (int k = 0; k < pieces.pieces; ++k) before[k + 1] += before[k];
  const std::int64_t total = before.back();
  std::fill_n(s.bounds, blocks, 0);
  parallel(pieces.pieces, [&](int k) {
    // A block begins at the first place before which there is its share.
    std::int64_t sum = before[k];
    int b = 1;
    while (b < blocks && total * b / blocks <= sum) ++b;
    for (int p = pieces.begin(k); p < pieces.end(k); ++p) {
      sum += weight(p);
      for (; b < blocks && total * b / blocks <= sum; ++b) s.bounds[b] = p + 1;
    }
  });
  s.bounds[blocks] = owned;
}

// Gives each pair of blocks that have pairs in common a round in which neither is busy, those with many first.
// shared: numbers of pairs, [blocks][blocks], lower block first. Returns rounds in the same place.
std::vector<int> assign_rounds(const std::vector<std::int64_t>& shared, Schedule& s) {
  const int blocks = 2 * s.threads;
  std::fill_n(s.tasks, kRounds, 0);
  s.tasks[0] = s.threads;
  std::vector<int> rounds(shared.size(), 0), pairs;
  for (int a = 0; a < blocks; ++a)
    for (int b = a + 1; b < blocks; ++b)
      if (a / 2 != b / 2 && shared[a * blocks + b] > 0) pairs.push_back(a * blocks + b);
  std::sort(pairs.begin(), pairs.end(),
            [&](int p, int q) { return shared[p] != shared[q] ? shared[p] > shared[q] : p < q; });
  std::array<std::array<bool, kMostBlocks>, kRounds> is_busy{};
  for (const int pair : pairs) {
    const int a = pair / blocks, b = pair % blocks;
    int round = 1;
    while (round < kRounds - 1 && (is_busy[round][a] || is_busy[round][b])) ++round;
    rounds[pair] = round;
    if (round == kRounds - 1) {
      s.tasks[round] = 1;
    } else {
      is_busy[round][a] = is_busy[round][b] = true;
      s.block[round][s.tasks[round]++] = a;
    }
  }
  return rounds;
}

}  // namespace

template <typename Real>
int list_pairs(const Candidates& c, double cutoff, int owned, int threads, const Parallel& parallel,
               const PairArrays<Real>& arrays) {
  Schedule& s = *arrays.schedule;
  const Pieces pieces(owned, threads);
  sort_rows(c, cutoff, pieces, parallel, arrays.order);
  cut_blocks(c, threads, pieces, parallel, arrays.order, s);
  const int blocks = 2 * s.threads;
  std::vector<std::int32_t> place(owned);  // in the order
  std::vector<std::uint16_t> block_of(owned);
  parallel(blocks, [&](int b) {
    for (int p = s.bounds[b]; p < s.bounds[b + 1]; ++p) {
      place[arrays.order[p]] = p;
      block_of[arrays.order[p]] = static_cast<std::uint16_t>(b);
    }
  });
  std::vector<std::int64_t> shared(static_cast<std::size_t>(blocks) * blocks,
                                   0);  // each thread counts for its own two blocks
  std::vector<int> most(s.threads, 0);
  const double square = cutoff * cutoff;

  parallel(s.threads, [&](int thread) {
    const Visit own_rows = s.task(0, thread);
    for (int p = own_rows.begin; p < own_rows.end; ++p) {
      const int i = arrays.order[p];
      const double* own = c.positions + 3 * static_cast<std::size_t>(c.atom_of_row[i]);
      const std::int32_t* list = c.candidates + static_cast<std::size_t>(i) * c.width;
      const std::size_t start = static_cast<std::size_t>(i) * arrays.slots;
      int needed = 0;
      for (int k = 0; k < c.candidate_count[i]; ++k) {
        const double* other = c.positions + 3 * static_cast<std::size_t>(list[k]);
        const double x = other[0] - own[0], y = other[1] - own[1], z = other[2] - own[2];
        if (!(x * x + y * y + z * z < square)) continue;
        const int j = c.row_of_atom[list[k]];
        const bool is_two_sided = j < owned && j != i;
        if (is_two_sided && place[j] < p) continue;  // the other row lists it
        if (needed < arrays.slots) {
          arrays.neighbours[start + needed] = is_two_sided ? j : ~j;
          Real* vector = arrays.vectors + 3 * (start + needed);
          vector[0] = static_cast<Real>(x);
          vector[1] = static_cast<Real>(y);
          vector[2] = static_cast<Real>(z);
          if (is_two_sided) ++shared[block_of[i] * blocks + block_of[j]];
        }
        ++needed;
      }
      std::fill_n(arrays.ends + static_cast<std::size_t>(i) * kRounds, kRounds, std::min(needed, arrays.slots));
      most[thread] = std::max(most[thread], needed);
    }
  });

  const std::vector<int> rounds = assign_rounds(shared, s);
  if (s.threads > 1) {
    parallel(s.threads, [&](int thread) {  // each row's slots by round
      std::vector<std::int32_t> neighbours(arrays.slots);
      std::vector<Real> vectors(3 * static_cast<std::size_t>(arrays.slots));
      const Visit own_rows = s.task(0, thread);
      for (int p = own_rows.begin; p < own_rows.end; ++p) {
        const int i = arrays.order[p];
        std::int32_t* ends = arrays.ends + static_cast<std::size_t>(i) * kRounds;
        const int count = ends[0];
        std::int32_t* own = arrays.neighbours + static_cast<std::size_t>(i) * arrays.slots;
        Real* own_vectors = arrays.vectors + 3 * static_cast<std::size_t>(i) * arrays.slots;
        std::copy_n(own, count, neighbours.begin());
        std::copy_n(own_vectors, 3 * count, vectors.begin());
        const auto round_of = [&](int slot) {
          const int j = neighbours[slot];
          return j < 0 ? 0 : rounds[block_of[i] * blocks + block_of[j]];
        };
        std::int32_t next[kRounds + 1] = {};
        for (int k = 0; k < count; ++k) ++next[round_of(k) + 1];
        for (int r = 0; r < kRounds; ++r) ends[r] = next[r + 1] += next[r];
        for (int k = 0; k < count; ++k) {
          const int to = next[round_of(k)]++;
          own[to] = neighbours[k];
          std::copy_n(&vectors[3 * k], 3, own_vectors + 3 * to);
        }
      }
    });
  }
  return *std::max_element(most.begin(), most.end());
}

template int list_pairs<float>(const Candidates&, double, int, int, const Parallel&, const PairArrays<float>&);
template int list_pairs<double>(const Candidates&, double, int, int, const Parallel&, const PairArrays<double>&);

}  // namespace so3krates::kernels
