// Messages of the layers after the first (see kernels.cu).
#pragma once

#include "tile.h"

namespace so3krates {

// filter table, hidden layers' matrix, matrices behind them, x, chi, projections, vectors, neighbours, counts,
// capacities, owned -> features and Euclidean variables after the attention
extern "C" __global__ void __launch_bounds__(MESSAGES_WARPS* kWarp)
    messages(const Real* table, const Real* hidden_in, const Real* hidden_out, const Real* x, const Real* chi,
             const Real* projections, const Real* vectors, const int* neighbours, const int* counts,
             const long long* capacities, const int* owned, Real* next_x, Real* attended) {
  Matrices& matrices = *reinterpret_cast<Matrices*>(shared_memory);
  Tile& t = *reinterpret_cast<Tile*>(shared_memory + MATRIX_BYTES + threadIdx.x / kWarp * TILE_BYTES);
  const int lane = lane_of_thread();
  const Size slots = capacities[1];
  const Sums<4 * kBatch, kWarp> batch(lane);
  const Sums<DEGREES * kBatch, kWarp> geometric_batch(lane);
  load_matrices(matrices, hidden_out);
  for_rows(0, *owned, [&](Size row) {
    const int count = counts[row] < static_cast<int>(slots) ? counts[row] : static_cast<int>(slots);
    const Real* own = projections + row * kRowStride;
    const auto geometric_query = [&](int q) { return load(own + kGeometricQuery + geometric_place(q)); };
    Quad query[Features::most], query_of_degrees[Geometric::most];
    for_quads<kFeatureQuads>(lane, [&](int q, int k) { query[k] = load(own + 4 * q); });
    for_quads<kGeometricQuads>(lane, [&](int q, int k) { query_of_degrees[k] = geometric_query(q); });
    Quad sums[Features::most];
    Rest<kFeatureQuads, 1> rest(lane);
    Real order = 0;
#pragma unroll
    for (int k = 0; k < Features::most; ++k) sums[k] = zero();
    for (int start = 0; start < count; start += TILE) {
      fill_tile<false>(t, nullptr, lane, row, start, count, slots, vectors, neighbours, projections, hidden_in);
      fill_filters<0, kFeatureQuads>(t, matrices, lane);
      const auto neighbour = [&](int e, int place) { return row_of<kRowStride>(projections + place, t.edge[e].other); };
      const auto product = [&](int e, int q, Quad of_row) {
        return filter_of(t, e, q, table + 4 * q, nullptr) * (of_row * load(neighbour(e, kKey + 4 * q)));
      };
      {
        Quad a = zero();
        for_rest<kFeatureQuads>(lane, [&](int e, int q) { a = product(e, q, load(own + 4 * q)); });
        a = rest_sum<kFeatureQuads>(a);
        if (lane < TILE) t.edge[lane].coefficients = a;
      }
      sync_warp();
      for (int e = 0; e < TILE; e += kBatch) {
        Real a[4 * kBatch];
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          Quad of_edge = zero();
          for_quads<kFeatureQuads>(lane, [&](int q, int n) { of_edge += product(e + k, q, query[n]); });
          put(a + 4 * k, of_edge);
        }
        batch.add(a, lane);
        batch.each(a, [&](int k, Real value) { t.edge[e + k / 4].coefficients.v[k % 4] += value; });
        sync_warp();
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          const Quad alpha = t.edge[e + k].geometry.cutoff * head_sums(t.edge[e + k].coefficients);
          for_quads<kFeatureQuads>(lane,
                                   [&](int q, int n) { sums[n] += alpha * load(neighbour(e + k, kValue + 4 * q)); });
        }
      }
      if (Features::rest > 0) {
        Real sent[4] = {};
        for_rest<kFeatureQuads>(lane, [&](int e, int q) {
          const Quad alpha = t.edge[e].geometry.cutoff * head_sums(t.edge[e].coefficients);
          put(sent, alpha * load(neighbour(e, kValue + 4 * q)));
        });
        rest.add(sent, lane);
      }
      sync_warp();

      fill_filters<1, kGeometricQuads>(t, matrices, lane);
      const auto geometric_product = [&](int e, int q, Quad of_row) {
        const int f = geometric_place(q);
        return sum(filter_of(t, e, q, table + FEATURE_STRIDE + f, nullptr) *
                   (of_row * load(neighbour(e, kGeometricKey + f))));
      };
      {
        Quad b = zero();
        for_rest<kGeometricQuads>(lane, [&](int e, int q) {
          const Real value = geometric_product(e, q, geometric_query(q));
#pragma unroll
          for (int l = 0; l < DEGREES; ++l) b.v[l] = l == q / kBlockQuads ? value : Real(0);
        });
        b = rest_sum<kGeometricQuads>(b);
        if (lane < TILE) t.edge[lane].coefficients = b;
      }
      sync_warp();
      const int degree = degree_of(lane);
      for (int e = 0; e < TILE; e += kBatch) {
        Real b[DEGREES * kBatch] = {};
#pragma unroll
        for (int k = 0; k < kBatch; ++k)
          for_quads<kGeometricQuads>(lane, [&](int q, int n) {
            const Real value = geometric_product(e + k, q, query_of_degrees[n]);
#pragma unroll
            for (int l = 0; l < DEGREES; ++l) b[DEGREES * k + l] += l == q / kBlockQuads ? value : Real(0);
          });
        geometric_batch.add(b, lane);
        geometric_batch.each(b,
                             [&](int k, Real value) { t.edge[e + k / DEGREES].coefficients.v[k % DEGREES] += value; });
        sync_warp();
        if (lane < ORDERS)
#pragma unroll
          for (int k = 0; k < kBatch; ++k) {
            const Edge& of = t.edge[e + k];
            order += of.coefficients.v[degree] * of.geometry.cutoff * of.harmonics[lane];
          }
      }
    }
    for_quads<kFeatureQuads>(lane, [&](int q, int k) { sums[k] += load(x + row * FEATURE_STRIDE + 4 * q); });
    store_features(next_x + row * FEATURE_STRIDE, sums, lane);
    for_rest<kFeatureQuads>(lane, [&](int, int q) {
      rest.sums.each(rest.total, [&](int k, Real value) {
        const Size place = row * FEATURE_STRIDE + 4 * q + k;
        next_x[place] = x[place] + value;
      });
    });
    if (lane < ORDER_STRIDE)
      attended[row * ORDER_STRIDE + lane] = lane < ORDERS ? chi[row * ORDER_STRIDE + lane] + order : Real(0);
  });
}

}  // namespace so3krates
