// The table of pairs within the cutoff, and the order in which threads visit it.
#pragma once

#include <cstdint>
#include <functional>

#include "layout.h"

namespace so3krates::kernels {

// What the host gives; see docs/bundle.md.
struct Candidates {
  const double* positions;
  const std::int32_t *row_of_atom, *atom_of_row, *candidates, *candidate_count;
  int width;  // capacity of a candidate list
};

// Owned rows stand in an order that keeps neighbours in space together, cut into two blocks for each thread with equal
// numbers of candidates. A pair of owned rows is visited once, with both directions, in one of a few rounds: no two
// tasks of a round share a block, so that no two threads write the same row, without locks and always in the same
// order. In the first round each thread takes the pairs within its two blocks, in the next ones pairs between two
// blocks, in the last one thread takes what is left.
struct Schedule {
  std::int32_t threads;
  std::int32_t bounds[kMostBlocks + 1];  // of the blocks
  std::int32_t tasks[kRounds];           // in each round
  std::int32_t block[kRounds]
                    [kMostThreads];  // a task's block: it visits the pairs that this block's rows list for the round
  std::int32_t task_count(int round) const { return tasks[round]; }
  Visit task(int round, int k) const {
    if (round == 0) return {bounds[k + k], bounds[k + k + 2], 0};
    if (round == kRounds - 1) return {0, bounds[threads + threads], round};
    return {bounds[block[round][k]], bounds[block[round][k] + 1], round};
  }
};

constexpr int kScheduleEntries = sizeof(Schedule) / sizeof(std::int32_t);

// Runs task(k) for k in [0, count), on several threads.
using Parallel = std::function<void(int count, const std::function<void(int)>& task)>;

template <typename Real>
struct PairArrays {
  Real* vectors;
  std::int32_t *neighbours, *ends, *order;  // layout.h, PairTable
  int slots;
  Schedule* schedule;
};

// Fills the table for `owned` rows. A pair with another rank's row or with an image of the same row is listed
// one-sided. Vectors are formed in float64 and cast. Returns the largest number of slots that a row needs, which may
// exceed `slots`: the surplus is left out.
template <typename Real>
int list_pairs(const Candidates& candidates, double cutoff, int owned, int threads, const Parallel& parallel,
               const PairArrays<Real>& arrays);

}  // namespace so3krates::kernels
