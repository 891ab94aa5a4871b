// A warp's tile of TILE neighbours in the layers after the first: degree filters as products in shared memory, and how
// lanes share features (see kernels.cu).
#pragma once

#include "edge.h"
#include "matrix.h"

namespace so3krates {

struct Edge {
  Geometry geometry;
  int other;
  Real harmonics[ORDERS];
  union {
    Quad invariants;    // for the hidden layers
    Quad coefficients;  // then, of the attention, without the cutoff function: of heads, or of degrees
  };
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

// Of one filter: hidden units, a multiple of 32 of which the last ones need not exist, then perhaps one left over;
// features in groups of 16.
constexpr int kHalves = TILE / 8;
constexpr int kUnits = kWarp * Hidden::most, kUnitStride = kUnits + 4, kUnitSteps = kUnits / 8;
constexpr int kGroups = (kMostQuads + 3) / 4, kColumns = 16 * kGroups;
constexpr int kFilterQuads = 4 * (kGroups | 1);  // odd multiple: two rows are written without conflicts of banks

// One lane's part of eight hidden units as a factor of a product (matrix.h): units 2 t and 2 t + 1.
struct alignas(kHalves * sizeof(Real)) UnitOfEdges {
  Real half[kHalves];
};
struct alignas(2 * kHalves * sizeof(Real)) Fragment {
  Real a[2 * kHalves];

  SO3KRATES_INLINE void set(int unit, UnitOfEdges values) { reinterpret_cast<UnitOfEdges*>(a)[unit % 2] = values; }
};

extern __shared__ __align__(64) unsigned char shared_memory[];

// Of the block: the matrices behind the hidden layers.
struct Matrices {
  Quad of[2][kColumns / 2][kUnits / 2];  // for two features and two units: f0 u0, f0 u1, f1 u0, f1 u1
  Real rest[2][kColumns];                // of the unit that is left over

  // Where a pair of units lies in the row of a pair of features, so that lanes read without conflicts of banks.
  SO3KRATES_INLINE static int place(int features, int units) {
    return units ^ (features % 2 * 4 + features / 2 % 2 * 2);
  }
};

// Of a warp.
struct Tile {
  Edge edge[TILE];
  Fragment hidden[2][kUnitSteps][kWarp];
  Quad filter[TILE][kFilterQuads];
  Real rest[2][TILE];  // of the hidden layers' unit that is left over

  // Where a lane's part of hidden units lies, so that lanes write without conflicts of banks.
  SO3KRATES_INLINE static int place(int step, int lane) { return lane ^ (step % 2 * 4); }
};
struct TileAdjoint {
  EdgeAdjoint edge[TILE];
  alignas(Quad) Real slope[2][TILE][kUnitStride];  // of silu in the hidden layers
};
static_assert(sizeof(Matrices) <= MATRIX_BYTES && sizeof(Tile) <= TILE_BYTES && sizeof(TileAdjoint) <= ADJOINT_BYTES,
              "so3krates_export/cuda.py sets enough shared memory aside");

SO3KRATES_INLINE void load_matrices(Matrices& matrices, const Real* hidden_out) {
  for (int k = threadIdx.x; k < 2 * (kUnits + 1) * kColumns; k += blockDim.x) {
    const int part = k / ((kUnits + 1) * kColumns), unit = k / kColumns % (kUnits + 1), column = k % kColumns;
    const bool is_rest = unit == kUnits;
    const bool exists = (is_rest ? Hidden::rest > 0 : unit < Hidden::whole) &&
                        column / 4 < (part == 0 ? kFeatureQuads : kGeometricQuads);
    const int row = is_rest ? Hidden::whole : unit;
    const int place = part == 0 ? column : FEATURE_STRIDE + geometric_place(column / 4) + column % 4;
    const Real value = exists ? hidden_out[row * kFilterStride + place] : Real(0);
    if (is_rest)
      matrices.rest[part][column] = value;
    else
      matrices.of[part][column / 2][Matrices::place(column / 2, unit / 2)].v[column % 2 * 2 + unit % 2] = value;
  }
  __syncthreads();
}

SO3KRATES_INLINE double sigmoid(double x) {
  return 1 / (1 + exp(-x));
}
SO3KRATES_INLINE float sigmoid(float x) {
  return __fdividef(1, 1 + __expf(-x));  // 0 where the exponential is infinite
}

// A unit of the hidden layers, in the filter `part`.
struct Unit {
  Real weights[DEGREES], bias;

  SO3KRATES_INLINE Unit(const Real* hidden_in, int part, int unit) {
    const bool exists = kUnits <= HIDDEN || unit < HIDDEN;
#pragma unroll
    for (int l = 0; l < DEGREES; ++l)
      weights[l] = exists ? hidden_in[l * HIDDEN_STRIDE + part * HIDDEN + unit] : Real(0);
    bias = exists ? hidden_in[DEGREES * HIDDEN_STRIDE + part * HIDDEN + unit] : Real(0);
  }
  // slope: of silu, written where it is not null.
  SO3KRATES_INLINE Real activation(Quad invariants, Real* slope) const {
    Real value = bias;
#pragma unroll
    for (int l = 0; l < DEGREES; ++l) value += weights[l] * invariants.v[l];
    const Real gate = sigmoid(value);
    if (slope != nullptr) *slope = gate * (1 + value * (1 - gate));
    return value * gate;
  }
};

// Geometry, harmonics and hidden layers of the row's edges from `start` on.
template <bool with_slope>
SO3KRATES_INLINE void fill_tile(Tile& t, Real (*slope)[TILE][kUnitStride], int lane, Size row, int start, int count,
                                Size slots, const Real* vectors, const int* neighbours, const Real* projections,
                                const Real* hidden_in) {
  sync_warp();
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
    Quad totals = zero();
    for_orders([&](int q, auto&& each) {
      const Quad difference = load(other + 4 * q) - load(own + 4 * q);
      each([&](int m, int k) { totals.v[degree_of(m)] += difference.v[k] * difference.v[k]; });
    });
    e.invariants = totals;
  }
  sync_warp();
  const auto slope_at = [&](int part, int e, int u) { return with_slope ? &slope[part][e][u] : nullptr; };
  for (int u = lane; u < kUnits; u += kWarp) {
    const Unit units[2] = {{hidden_in, 0, u}, {hidden_in, 1, u}};
#pragma unroll 2
    for (int e = 0; e < 8; ++e)
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        UnitOfEdges values;
#pragma unroll
        for (int half = 0; half < kHalves; ++half)
          values.half[half] = units[part].activation(t.edge[e + 8 * half].invariants, slope_at(part, e + 8 * half, u));
        t.hidden[part][u / 8][Tile::place(u / 8, 4 * e + u % 8 / 2)].set(u, values);
      }
  }
  if (Hidden::rest > 0)
    for (int k = lane; k < 2 * TILE; k += kWarp) {
      const int part = k / TILE, e = k % TILE;
      const Unit unit(hidden_in, part, Hidden::whole);
      t.rest[part][e] = unit.activation(t.edge[e].invariants, slope_at(part, e, kUnits));
    }
  sync_warp();
}

constexpr bool kKeepsOwn = CHANNELS == 1;       // rows' features in registers; four channels leave none for more
constexpr int kUnroll = CHANNELS == 1 ? 3 : 1;  // of the products, likewise

// Degree part of one filter for the edges of a tile: [TILE][units] x [units][features].
template <int part, int quads>
SO3KRATES_INLINE void fill_filters(Tile& t, const Matrices& matrices, int lane) {
  const int group = lane / 4, own = lane % 4;
  Fragment hidden[kUnitSteps];
#pragma unroll
  for (int s = 0; s < kUnitSteps; ++s) hidden[s] = t.hidden[part][s][Tile::place(s, lane)];
  Real rest[kHalves];
#pragma unroll
  for (int half = 0; half < kHalves; ++half) rest[half] = Hidden::rest > 0 ? t.rest[part][group + 8 * half] : Real(0);
#pragma unroll kUnroll
  for (int j = 0; j < (quads + 3) / 4; ++j) {  // features 16 j + 2 n and 16 j + 2 n + 1 are columns n of two products
    const Quad* row = matrices.of[part][8 * j + group];
    Real even[2 * kHalves] = {}, odd[2 * kHalves] = {};
    Quad w[kUnitSteps];
#pragma unroll
    for (int s = 0; s < kUnitSteps; ++s) {
      w[s] = row[Matrices::place(group, 4 * s + own)];
      multiply_rests(even, hidden[s].a, w[s].v[0], w[s].v[1]);
      multiply_rests(odd, hidden[s].a, w[s].v[2], w[s].v[3]);
    }
#pragma unroll
    for (int s = 0; s < kUnitSteps; ++s) {
      multiply_leading(even, hidden[s].a, w[s].v[0], w[s].v[1]);
      multiply_leading(odd, hidden[s].a, w[s].v[2], w[s].v[3]);
    }
    const int q = 4 * j + own;
    const Quad w_rest = load(matrices.rest[part] + 4 * q);
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const Quad sum{{even[2 * half], odd[2 * half], even[2 * half + 1], odd[2 * half + 1]}};
      t.filter[group + 8 * half][q] = sum + rest[half] * w_rest;
    }
  }
  sync_warp();
}

// Quad q of an edge's filter, whose radial part begins at `table`, and (slope) its derivative with respect to the
// distance.
SO3KRATES_INLINE Quad filter_of(const Tile& t, int edge, int q, const Real* table, Quad* slope) {
  const Geometry& g = t.edge[edge].geometry;
  const Real* c = row_of<kFilterStride>(table, g.node);
  const Quad a = load(c), b = load(c + kFilterStride), d = load(c + 2 * kFilterStride), e = load(c + 3 * kFilterStride);
  if (slope != nullptr)
    *slope = g.spline_slope[0] * (b - a) + g.spline_slope[1] * (d - b) + g.spline_slope[2] * (e - d);
  return t.filter[edge][q] + g.spline[0] * a + g.spline[1] * b + g.spline[2] * d + g.spline[3] * e;
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
    for (int step = kWarp / 2; step >= TILE; step /= 2) value += lane_xor(value, step);
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

// From the adjoints of one filter's features, in t.filter but for the cutoff function, to those of the invariants,
// which are added up: [units][features] x [features][TILE], then through the hidden layers.
template <int part, int quads>
SO3KRATES_INLINE void filters_adjoint(const Tile& t, TileAdjoint& adjoint, const Matrices& matrices, int channel,
                                      int lane, const Real* hidden_in) {
  constexpr int units = kUnits / 16;
  const int group = lane / 4, own = lane % 4;
  Real sums[units][kHalves][4] = {}, rests[units][kHalves][4] = {}, left[kHalves] = {};
#pragma unroll kUnroll
  for (int j = 0; j < (quads + 1) / 2; ++j) {  // features 8 j, ...
    const int column = 8 * j + 2 * own;
    const Pair of_left = *reinterpret_cast<const Pair*>(matrices.rest[part] + column);
    Pair of[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      of[half] = *reinterpret_cast<const Pair*>(t.filter[group + 8 * half][2 * j + own / 2].v + own % 2 * 2);
      if (Hidden::rest > 0) left[half] = left[half] + of[half].v[0] * of_left.v[0] + of[half].v[1] * of_left.v[1];
    }
#pragma unroll
    for (int u = 0; u < units; ++u) {  // rows n and n + 8 are units 16 u + 2 n and 16 u + 2 n + 1
      const Quad w = matrices.of[part][4 * j + own][Matrices::place(own, 8 * u + group)];
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        multiply_rests(rests[u][half], w.v, of[half].v[0], of[half].v[1]);
        multiply_leading(sums[u][half], w.v, of[half].v[0], of[half].v[1]);
      }
    }
  }
  const auto factor = [&](int l, int unit) {
    return kUnits <= HIDDEN || unit < HIDDEN ? hidden_in[l * HIDDEN_STRIDE + part * HIDDEN + unit] : Real(0);
  };
  Real of[2 * kHalves * DEGREES] = {};  // of two edges of each half
#pragma unroll
  for (int u = 0; u < units; ++u)
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int unit = 16 * u + 2 * group + k;
      Real factors[DEGREES];
#pragma unroll
      for (int l = 0; l < DEGREES; ++l) factors[l] = factor(l, unit);
#pragma unroll
      for (int e = 0; e < 2 * kHalves; ++e) {
        const int half = e / 2, d = 2 * k + e % 2;
        const Real value =
            (sums[u][half][d] + rests[u][half][d]) * adjoint.slope[part][8 * half + 2 * own + e % 2][unit];
#pragma unroll
        for (int l = 0; l < DEGREES; ++l) of[e * DEGREES + l] += value * factors[l];
      }
    }
  const Sums<2 * kHalves * DEGREES, 8, 4> all(lane);
  all.add(of, lane);
  all.each(of, [&](int k, Real value) {
    const int e = k / DEGREES / 2 * 8 + 2 * own + k / DEGREES % 2;
    adjoint.edge[e].of_invariants[channel][k % DEGREES] += 2 * t.edge[e].geometry.cutoff * value;
  });
  sync_warp();
  if (Hidden::rest > 0) {
    const Sums<kHalves, 4> both(lane);
    both.add(left, lane);
    both.each(left, [&](int half, Real value) {
      const int e = group + 8 * half;
      value *= 2 * t.edge[e].geometry.cutoff * adjoint.slope[part][e][kUnits];
#pragma unroll
      for (int l = 0; l < DEGREES; ++l)
        adjoint.edge[e].of_invariants[channel][l] +=
            value * hidden_in[l * HIDDEN_STRIDE + part * HIDDEN + Hidden::whole];
    });
    sync_warp();
  }
}

}  // namespace so3krates
