// The adjoint of messages.h: what each row's projections, Euclidean variables and position get of all of its edges.
#pragma once

#include "geometric_attention_adjoint.h"

namespace so3krates {

SO3KRATES_INLINE void clear_invariants(TileAdjoint& adjoint, int lane) {
  for (int k = lane; k < TILE * CHANNELS * 4; k += kWarp)
    adjoint.edge[k % TILE].of_invariants[k / TILE / 4][k / TILE % 4] = 0;
  sync_warp();
}

// Invariants of chi_j - chi_i: what the row's Euclidean variables get, a lane for each order.
SO3KRATES_INLINE void invariants_adjoint(const TileAdjoint& adjoint, const RowAndNeighbours& rows, int lane,
                                         Real (&to_order)[CHANNELS]) {
  if (lane >= ORDERS) return;
  const int degree = degree_of(lane);
  for (int e = 0; e < TILE; ++e) {
    const Real difference = *rows.other(e, kChi + lane) - rows.own[kChi + lane];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) to_order[c] -= difference * adjoint.edge[e].of_invariants[c][degree];
  }
}

// Cutoff function, distance and harmonics of one edge: what its vector gets.
SO3KRATES_INLINE void edge_adjoint(const Geometry g, const EdgeAdjoint& of, Gradients& gradients) {
#pragma unroll
  for (int c = 0; c < CHANNELS; ++c) {
    Real gradient[3];
    const Real cutoff = of.of_cutoff[c] + of.geometric[2 * DEGREES + c];
    const Real distance = g.cutoff * (of.of_cutoff[CHANNELS + c] + of.geometric[2 * DEGREES + CHANNELS + c]);
    vector_gradient(g, cutoff, distance, [&](int m) { return of.harmonics[c][m]; }, gradient);
    gradients.add(c, g.vector, gradient);
  }
}

// filter table, hidden layers' matrix, matrices behind them, projections, adjoints of the messages' sums
// [rows][CHANNELS] [kMessageStride], vectors, neighbours, counts, capacities, owned; forces, [virials] -> adjoints of
// projections [rows][CHANNELS][kRowStride], strain gradients by row, forces, [virials]
extern "C" __global__ void __launch_bounds__(ADJOINT_WARPS* kWarp)
    messages_adjoint(const Real* table, const Real* hidden_in, const Real* hidden_out, const Real* projections,
                     const Real* adjoints, const Real* vectors, const int* neighbours, const int* counts,
                     const long long* capacities, const int* owned, const double*,
#if CHANNELS == 4
                     const double*, Real* row_gradients, double* strains, double* forces, double* virials) {
#else
                     Real* row_gradients, double* strains, double* forces) {
  double* const virials = nullptr;
#endif
  Matrices& matrices = *reinterpret_cast<Matrices*>(shared_memory);
  unsigned char* memory = shared_memory + MATRIX_BYTES + threadIdx.x / kWarp * (TILE_BYTES + ADJOINT_BYTES);
  Tile& t = *reinterpret_cast<Tile*>(memory);
  TileAdjoint& adjoint = *reinterpret_cast<TileAdjoint*>(memory + TILE_BYTES);
  const int lane = lane_of_thread();
  const Size slots = capacities[1];
  const FeatureAttentionAdjoint::EdgeSums feature_sums(lane);
  const FeatureAttentionAdjoint::CutoffSums cutoff_sums(lane);
  const GeometricAttentionAdjoint::EdgeSums geometric_sums(lane);
  load_matrices(matrices, hidden_out);
  const int first = static_cast<int>(capacities[2]), end = first + static_cast<int>(capacities[3]);
  for_rows(first, end < *owned ? end : *owned, [&](Size row) {
    const int count = counts[row] < static_cast<int>(slots) ? counts[row] : static_cast<int>(slots);
    const RowAndNeighbours rows(t, projections, adjoints, row);
    FeatureAttentionAdjoint features(rows, table, lane);
    GeometricAttentionAdjoint geometric(rows, table, lane);
    Real to_order[CHANNELS] = {};
    Gradients gradients;
    for (int start = 0; start < count; start += TILE) {
      fill_tile<true>(t, adjoint.slope, lane, row, start, count, slots, vectors, neighbours, projections, hidden_in);
      fill_filters<0, kFeatureQuads>(t, matrices, lane);
      features.add_tile(t, adjoint, feature_sums, cutoff_sums);
      clear_invariants(adjoint, lane);
      for (int c = 0; c < CHANNELS; ++c) {
        features.filters(t, adjoint, c);
        filters_adjoint<0, kFeatureQuads>(t, adjoint, matrices, c, lane, hidden_in);
      }
      geometric.coefficients_adjoint(t, adjoint);
      fill_filters<1, kGeometricQuads>(t, matrices, lane);
      geometric.add_tile(t, adjoint, geometric_sums);
      geometric.harmonics_adjoint(t, adjoint);
      for (int c = 0; c < CHANNELS; ++c) {
        geometric.filters(t, adjoint, c);
        filters_adjoint<1, kGeometricQuads>(t, adjoint, matrices, c, lane, hidden_in);
      }
      invariants_adjoint(adjoint, rows, lane, to_order);
      if (lane < TILE && start + lane < count) edge_adjoint(t.edge[lane].geometry, adjoint.edge[lane], gradients);
    }
    Real* const to = row_gradients + (row - first) * CHANNELS * kRowStride;
    features.store(to);
    geometric.store(to);
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
      if (lane < ORDER_STRIDE) to[c * kRowStride + kChi + lane] = lane < ORDERS ? to_order[c] : Real(0);
    gradients.store(row, lane, forces, strains + 9 * (row - first), virials);
  });
}

}  // namespace so3krates
