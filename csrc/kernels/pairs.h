// The table of pairs within the cutoff, and how rows are shared out among threads.
#pragma once

#include <cstdint>

#include "layout.h"

namespace so3krates::kernels {

constexpr int kMostRanges = 256;
constexpr int kRangeEntries = kMostRanges + 2;  // how many, then their bounds

// What the host gives; see docs/bundle.md.
struct Candidates {
  const double* positions;
  const std::int32_t *row_of_atom, *atom_of_row, *candidates, *candidate_count;
  int width;  // capacity of a candidate list
};

// Splits the owned rows into at most `wanted` contiguous ranges with equal numbers of candidates.
void make_ranges(const std::int32_t* candidate_count, int owned, int wanted, std::int32_t* ranges);

// Lists the pairs of one range's rows: a pair of two of its rows once, with both directions; a pair with another range's row, another
// rank's row or an image of the same row for this row alone (layout.h, PairTable). Vectors are formed in float64 and cast.
// Returns the largest number of slots that a row needs, which may exceed `slots`: the surplus is left out.
template <typename Real>
int list_pairs(const Candidates& candidates, double cutoff, Range range, int slots, Real* vectors, std::int32_t* neighbours,
               std::int32_t* counts);

}  // namespace so3krates::kernels
