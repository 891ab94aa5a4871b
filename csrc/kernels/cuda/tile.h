// A warp's tile of TILE neighbours in the layers after the first: degree filters as products in shared memory, and how
// lanes share features (see kernels.cu).
#pragma once

#include "edge.h"

namespace so3krates {

struct Edge {
  Geometry geometry;
  int other;
  Real harmonics[ORDERS];
  Real invariants[4];
  Quad coefficients;  // of the attention, without the cutoff function: of heads, or of degrees
};

// Sums over the features of an edge, for the adjoints.
constexpr int kFeatureSums = 4 * (1 + 2 * CHANNELS), kGeometricSums = 2 * DEGREES + 2 * CHANNELS;

// Adjoints of one edge; those of the cutoff function and of the distance, c and CHANNELS + c, before the former.
struct EdgeAdjoint {
  alignas(Quad) Real features[kFeatureSums];    // coefficients ji, lambda i with values j, lambda j with values i
  Real geometric[kGeometricSums];               // coefficients ij and ji, of_cutoff of the geometric attention
  Real of_ij[CHANNELS][4], of_ji[CHANNELS][4];  // of the geometric coefficients; of_ji about the row's atom
  Real of_cutoff[2 * CHANNELS];
  Real of_invariants[CHANNELS][4];
  Real harmonics[CHANNELS][ORDERS];

  // The adjoints of the heads' coefficients before the cutoff function, about the row's atom.
  SO3KRATES_INLINE Quad ij(int c) const { return head_sums(load(features + 4 + 4 * c)); }
  SO3KRATES_INLINE Quad ji(int c, const Real* r) const {
    const Real* lambda_j = features + 4 + 4 * CHANNELS;
    const Quad about_j = load(lambda_j + 4 * c);
    return head_sums(c == 0 ? about_j : about_j + r[c > 0 ? c - 1 : 0] * load(lambda_j));
  }
};

// Of the block: the matrices behind the hidden layers.
struct Matrices {
  Quad of[2][HIDDEN][kQuadStride];
  Quad padding[kQuadLanes * kQuadStride];  // read for units and quads that do not exist
};

// Of a warp.
struct Tile {
  Edge edge[TILE];
  Real hidden[2][HIDDEN][TILE];
  Quad filter[TILE][kQuadStride];
};
struct TileAdjoint {
  EdgeAdjoint edge[TILE];
  Real slope[2][HIDDEN][TILE];  // of silu in the hidden layers
};
static_assert(sizeof(Matrices) <= MATRIX_BYTES && sizeof(Tile) <= TILE_BYTES && sizeof(TileAdjoint) <= ADJOINT_BYTES,
              "so3krates_export/cuda.py sets enough shared memory aside");

SO3KRATES_INLINE void load_matrices(Matrices& matrices, const Real* hidden_out) {
  Quad* all = &matrices.of[0][0][0];
  constexpr int quads = sizeof(Matrices) / sizeof(Quad);
  for (int k = threadIdx.x; k < quads; k += blockDim.x) {
    const int part = k / (HIDDEN * kQuadStride), n = k / kQuadStride % HIDDEN, q = k % kQuadStride;
    Quad value = zero();
    if (part == 0 && q < kFeatureQuads) value = load(hidden_out + n * kFilterStride + 4 * q);
    if (part == 1 && q < kGeometricQuads)
      value = load(hidden_out + n * kFilterStride + FEATURE_STRIDE + geometric_place(q));
    all[k] = value;
  }
  __syncthreads();
}

// Geometry, harmonics and hidden layers of the row's edges from `start` on.
template <bool with_slope>
SO3KRATES_INLINE void fill_tile(Tile& t, Real (*slope)[HIDDEN][TILE], int lane, Size row, int start, int count,
                                Size slots, const Real* vectors, const int* neighbours, const Real* projections,
                                const Real* hidden_in) {
  __syncwarp();
  if (lane < TILE) {
    Edge& e = t.edge[lane];
    const bool used = start + lane < count;
    const Size place = row * slots + start + lane;
    Real vector[3];
    edge_vector(vectors, place, used, vector);
    e.other = used ? neighbours[place] : static_cast<int>(row);
    e.geometry = geometry_of(vector);
    harmonics_of(e.geometry.unit[0], e.geometry.unit[1], e.geometry.unit[2],
                 [&](int m, Real y) { e.harmonics[m] = y; });
    const Real* own = projections + row * kRowStride + kChi;
    const Real* other = projections + static_cast<Size>(e.other) * kRowStride + kChi;
    Real totals[DEGREES] = {};
#pragma unroll
    for (int m = 0; m < ORDERS; ++m) totals[degree_of(m)] += (other[m] - own[m]) * (other[m] - own[m]);
#pragma unroll
    for (int l = 0; l < DEGREES; ++l) e.invariants[l] = totals[l];
  }
  __syncwarp();
  const int e = lane % TILE;
  Real invariants[DEGREES];
#pragma unroll
  for (int l = 0; l < DEGREES; ++l) invariants[l] = t.edge[e].invariants[l];
  for (int n = lane / TILE; n < 2 * HIDDEN; n += kTileLanes) {
    Real value = hidden_in[DEGREES * HIDDEN_STRIDE + n];
#pragma unroll
    for (int l = 0; l < DEGREES; ++l) value += hidden_in[l * HIDDEN_STRIDE + n] * invariants[l];
    const Real gate = 1 / (1 + exp(-value));
    (&t.hidden[0][0][0])[n * TILE + e] = value * gate;
    if (with_slope) (&slope[0][0][0])[n * TILE + e] = gate * (1 + value * (1 - gate));
  }
  __syncwarp();
}

constexpr int kUnroll = CHANNELS == 1 ? 3 : 1;  // of the products; four channels leave no registers for more

// Degree part of one filter for the edges of a tile.
template <int part, int quads>
SO3KRATES_INLINE void fill_filters(Tile& t, const Matrices& matrices, int lane) {
  using Mine = ProductShare<quads>;
  constexpr int width = 4 / kTileLanes;  // features of the quad that is left over
  const int b = lane % kQuadLanes, first = lane / kQuadLanes * kEdges;
  const int own = lane % TILE, column = lane / TILE * width;
  Quad total[kEdges][Mine::most];
  Real rest[width];
#pragma unroll
  for (int e = 0; e < kEdges; ++e)
#pragma unroll
    for (int s = 0; s < Mine::most; ++s) total[e][s] = zero();
#pragma unroll
  for (int k = 0; k < width; ++k) rest[k] = 0;
#pragma unroll kUnroll
  for (int n = 0; n < HIDDEN; ++n) {
    const Quad* row = &matrices.of[part][n][0];
    Real h[kEdges];
#pragma unroll
    for (int e = 0; e < kEdges; ++e) h[e] = t.hidden[part][n][first + e];
#pragma unroll
    for (int s = 0; s < Mine::most; ++s) {
      const Quad w = row[b + s * kQuadLanes];
#pragma unroll
      for (int e = 0; e < kEdges; ++e) total[e][s] += h[e] * w;
    }
    if (Mine::rest > 0)
#pragma unroll
      for (int k = 0; k < width; ++k) rest[k] += t.hidden[part][n][own] * row[Mine::whole].v[column + k];
  }
#pragma unroll
  for (int s = 0; s < Mine::most; ++s)
    if (b + s * kQuadLanes < Mine::whole)
#pragma unroll
      for (int e = 0; e < kEdges; ++e) t.filter[first + e][b + s * kQuadLanes] = total[e][s];
  if (Mine::rest > 0)
#pragma unroll
    for (int k = 0; k < width; ++k) t.filter[own][Mine::whole].v[column + k] = rest[k];
  __syncwarp();
}

// Radial part of four features of one edge, and (slope) its derivative with respect to the distance.
SO3KRATES_INLINE Quad radial(const Real* table, const Geometry& g, int feature, Quad* slope) {
  const Real* c = table + static_cast<Size>(g.node) * kFilterStride + feature;
  const Quad a = load(c), b = load(c + kFilterStride), d = load(c + 2 * kFilterStride), e = load(c + 3 * kFilterStride);
  if (slope != nullptr)
    *slope = g.spline_slope[0] * (b - a) + g.spline_slope[1] * (d - b) + g.spline_slope[2] * (e - d);
  return (g.spline[0] * a + g.spline[1] * b) + (g.spline[2] * d + g.spline[3] * e);
}

// body(q, k) for the quads q of this lane, k counting them.
template <int quads, typename Body>
SO3KRATES_INLINE void for_quads(int lane, Body&& body) {
#pragma unroll
  for (int k = 0; k < WarpShare<quads>::most; ++k)
    if (lane + k * kWarp < WarpShare<quads>::whole) body(lane + k * kWarp, k);
}
// body(e, q) for a quad that is left over, of edge e.
template <int quads, typename Body>
SO3KRATES_INLINE void for_rest(int lane, Body&& body) {
  if (lane < WarpShare<quads>::rest * TILE) body(lane % TILE, WarpShare<quads>::whole + lane / TILE);
}
// Sums over the lanes of an edge, of the quads that are left over.
template <int quads, typename T>
SO3KRATES_INLINE T rest_sum(T value) {
  if (WarpShare<quads>::rest > 1)
    for (int step = kWarp / 2; step >= TILE; step /= 2) value += __shfl_xor_sync(kAll, value, step);
  return value;
}
template <int quads>
SO3KRATES_INLINE Quad rest_sum(Quad a) {
  return Quad{{rest_sum<quads>(a.v[0]), rest_sum<quads>(a.v[1]), rest_sum<quads>(a.v[2]), rest_sum<quads>(a.v[3])}};
}

// Sums over edges of n quads that belong to each quad that is left over; of one lane.
template <int quads, int n>
struct Rest {
  Sums<4 * n, TILE> sums;
  Real total[Sums<4 * n, TILE>::kept];

  SO3KRATES_INLINE explicit Rest(int lane) : sums(lane), total() {}
  SO3KRATES_INLINE void add(Real (&v)[4 * n], int lane) {
    sums.add(v, lane);
#pragma unroll
    for (int k = 0; k < Sums<4 * n, TILE>::kept; ++k) total[k] += v[k];
  }
  // place(k): where features begin that the k-th of the n quads belongs to; feature(q): a quad's place among them.
  template <typename Place, typename Feature>
  SO3KRATES_INLINE void store(int lane, Place&& place, Feature&& feature) const {
    for_rest<quads>(lane, [&](int, int q) {
      sums.each(total, [&](int k, Real value) { place(k / 4)[feature(q) + k % 4] = value; });
    });
  }
};

// Writes a lane's quads of a row's features and zeros between them and the next part.
SO3KRATES_INLINE void store_features(Real* row, const Quad* quads, int lane) {
  for_quads<kFeatureQuads>(lane, [&](int q, int k) { store(row + 4 * q, quads[k]); });
  for (int q = kFeatureQuads + lane; q < FEATURE_STRIDE / 4; q += kWarp) store(row + 4 * q, zero());
}
SO3KRATES_INLINE void store_geometric(Real* row, const Quad* quads, int lane) {
  for (int f = lane; f < kGeometricStride / 4; f += kWarp)
    if (f % (BLOCK_STRIDE / 4) >= kBlockQuads) store(row + 4 * f, zero());
  for_quads<kGeometricQuads>(lane, [&](int q, int k) { store(row + geometric_place(q), quads[k]); });
}
SO3KRATES_INLINE int feature_place(int q) {
  return 4 * q;
}

// From the adjoints of one filter's features, in t.filter, to those of the invariants, which are added up.
template <int part, int quads>
SO3KRATES_INLINE void filters_adjoint(Tile& t, TileAdjoint& adjoint, const Matrices& matrices, int channel, int lane,
                                      const Real* hidden_in) {
  const int b = lane % kQuadLanes, first = lane / kQuadLanes * kEdges;
  const auto through = [&](Real of[DEGREES], int n, int e, Real value) {
    value *= adjoint.slope[part][n][e];
#pragma unroll
    for (int l = 0; l < DEGREES; ++l) of[l] += value * hidden_in[l * HIDDEN_STRIDE + part * HIDDEN + n];
  };
  Quad total[kEdges][Hidden::most];
#pragma unroll
  for (int e = 0; e < kEdges; ++e)
#pragma unroll
    for (int s = 0; s < Hidden::most; ++s) total[e][s] = zero();
#pragma unroll kUnroll
  for (int q = 0; q < quads; ++q) {
    Quad of_edge[kEdges];
#pragma unroll
    for (int e = 0; e < kEdges; ++e) of_edge[e] = t.filter[first + e][q];
#pragma unroll
    for (int s = 0; s < Hidden::most; ++s) {
      const Quad w = (&matrices.of[part][0][0])[(b + s * kQuadLanes) * kQuadStride + q];
#pragma unroll
      for (int e = 0; e < kEdges; ++e) total[e][s] += of_edge[e] * w;
    }
  }
#pragma unroll
  for (int e = 0; e < kEdges; ++e) {
    Real of[DEGREES] = {};
#pragma unroll
    for (int s = 0; s < Hidden::most; ++s) {
      const int n = b + s * kQuadLanes;
      if (n < Hidden::whole) through(of, n, first + e, sum(total[e][s]));
    }
#pragma unroll
    for (int l = 0; l < DEGREES; ++l) {
      for (int step = kQuadLanes / 2; step > 0; step /= 2) of[l] += __shfl_xor_sync(kAll, of[l], step);
      if (b == 0) adjoint.edge[first + e].of_invariants[channel][l] += 2 * of[l];
    }
  }
  __syncwarp();
  if (Hidden::rest > 0) {
    const int e = lane % TILE;
    Quad value = zero();
    for (int q = lane / TILE; q < quads; q += kTileLanes) value += t.filter[e][q] * matrices.of[part][Hidden::whole][q];
    Real both = sum(value), of[DEGREES] = {};
    for (int step = kWarp / 2; step >= TILE; step /= 2) both += __shfl_xor_sync(kAll, both, step);
    through(of, Hidden::whole, e, both);
    if (lane < TILE)
#pragma unroll
      for (int l = 0; l < DEGREES; ++l) adjoint.edge[e].of_invariants[channel][l] += 2 * of[l];
    __syncwarp();
  }
}

}  // namespace so3krates
