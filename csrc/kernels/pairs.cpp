#include "pairs.h"

#include <algorithm>

namespace so3krates::kernels {

void make_ranges(const std::int32_t* candidate_count, int owned, int wanted, std::int32_t* ranges) {
  constexpr int fewest_rows = 16;  // less is not worth a thread
  const int count = std::clamp(std::min(wanted, owned / fewest_rows), 1, kMostRanges);
  std::int64_t total = 0;
  for (int i = 0; i < owned; ++i) total += candidate_count[i] + 1;
  ranges[0] = count;
  ranges[1] = 0;
  std::int64_t before = 0;
  int row = 0;
  for (int k = 1; k <= count; ++k) {
    for (; row < owned && before < total * k / count; ++row) before += candidate_count[row] + 1;
    ranges[1 + k] = k == count ? owned : row;
  }
}

template <typename Real>
int list_pairs(const Candidates& c, double cutoff, Range range, int slots, Real* vectors, std::int32_t* neighbours,
               std::int32_t* counts) {
  const double square = cutoff * cutoff;
  int most = 0;
  for (int i = range.begin; i < range.end; ++i) {
    const double* own = c.positions + 3 * static_cast<std::size_t>(c.atom_of_row[i]);
    const std::int32_t* list = c.candidates + static_cast<std::size_t>(i) * c.width;
    std::int32_t* neighbour = neighbours + static_cast<std::size_t>(i) * slots;
    Real* vector = vectors + 3 * static_cast<std::size_t>(i) * slots;
    int needed = 0;
    for (int k = 0; k < c.candidate_count[i]; ++k) {
      const double* other = c.positions + 3 * static_cast<std::size_t>(list[k]);
      const double x = other[0] - own[0], y = other[1] - own[1], z = other[2] - own[2];
      if (!(x * x + y * y + z * z < square)) continue;
      const int j = c.row_of_atom[list[k]];
      const bool is_inside = j >= range.begin && j < range.end && j != i;
      if (is_inside && j < i) continue;
      if (needed < slots) {
        neighbour[needed] = is_inside ? j : ~j;
        vector[3 * needed] = static_cast<Real>(x);
        vector[3 * needed + 1] = static_cast<Real>(y);
        vector[3 * needed + 2] = static_cast<Real>(z);
      }
      ++needed;
    }
    counts[i] = std::min(needed, slots);
    most = std::max(most, needed);
  }
  return most;
}

template int list_pairs<float>(const Candidates&, double, Range, int, float*, std::int32_t*, std::int32_t*);
template int list_pairs<double>(const Candidates&, double, Range, int, double*, std::int32_t*, std::int32_t*);

}  // namespace so3krates::kernels
