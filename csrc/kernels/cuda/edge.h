// What the kernels of kernels.cu share: features four at a time, sums over a warp, the geometry of an edge, what an
// edge adds to forces and virials.
#pragma once

#include "language.h"

namespace so3krates {

using Real = REAL;
template <typename V>
using ElementOf = Real;
using Size = unsigned long long;

#include "harmonics.h"

SO3KRATES_INLINE constexpr int degree_at(int k) {
  constexpr int list[] = {DEGREE_LIST};
  return list[k];
}

// Rows, as in layout.h.
constexpr int kKey = FEATURE_STRIDE, kValue = 2 * FEATURE_STRIDE, kGeometricQuery = 3 * FEATURE_STRIDE;
constexpr int kGeometricStride = DEGREES * BLOCK_STRIDE, kGeometricKey = kGeometricQuery + kGeometricStride;
constexpr int kChi = kGeometricKey + kGeometricStride, kRowStride = kChi + ORDER_STRIDE;
constexpr int kMessageStride = FEATURE_STRIDE + ORDER_STRIDE, kFilterStride = FEATURE_STRIDE + kGeometricStride;

// Features four at a time.
constexpr int kFeatureQuads = (FEATURE_WIDTH + 3) / 4, kBlockQuads = (BLOCK_WIDTH + 3) / 4;
constexpr int kGeometricQuads = DEGREES * kBlockQuads;
constexpr int kMostQuads = kFeatureQuads > kGeometricQuads ? kFeatureQuads : kGeometricQuads;
constexpr int kTileLanes = kWarp / TILE;  // lanes of an edge where its left over quads are handled
constexpr int kBatch = 4;                 // edges whose sums over the warp are taken together

// How `lanes` lanes share `items`: each has `most`, the last of them perhaps none, but for `rest` that are left over.
template <int items, int lanes, int largest_rest>
struct Share {
  static constexpr int rest = items > lanes&& items % lanes <= largest_rest ? items % lanes : 0;
  static constexpr int whole = items - rest, most = (whole + lanes - 1) / lanes;
};
template <int quads>
using WarpShare = Share<quads, kWarp, kTileLanes>;
using Features = WarpShare<kFeatureQuads>;
using Geometric = WarpShare<kGeometricQuads>;
using Hidden = Share<HIDDEN, kWarp, 1>;

struct alignas(4 * sizeof(Real)) Quad {
  Real v[4];
};
struct alignas(2 * sizeof(Real)) Pair {
  Real v[2];
};
SO3KRATES_INLINE Quad zero() {
  return Quad{{0, 0, 0, 0}};
}
SO3KRATES_INLINE Quad operator*(Quad a, Quad b) {
  return Quad{{a.v[0] * b.v[0], a.v[1] * b.v[1], a.v[2] * b.v[2], a.v[3] * b.v[3]}};
}
SO3KRATES_INLINE Quad operator*(Real s, Quad a) {
  return Quad{{s * a.v[0], s * a.v[1], s * a.v[2], s * a.v[3]}};
}
SO3KRATES_INLINE Quad operator+(Quad a, Quad b) {
  return Quad{{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2], a.v[3] + b.v[3]}};
}
SO3KRATES_INLINE Quad operator-(Quad a, Quad b) {
  return Quad{{a.v[0] - b.v[0], a.v[1] - b.v[1], a.v[2] - b.v[2], a.v[3] - b.v[3]}};
}
SO3KRATES_INLINE void operator+=(Quad& a, Quad b) {
  a = a + b;
}
SO3KRATES_INLINE Real sum(Quad a) {
  return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]);
}
SO3KRATES_INLINE Quad load(const Real* from) {
  return *reinterpret_cast<const Quad*>(from);
}
// Row `row` of rows of `stride` numbers.
template <int stride>
SO3KRATES_INLINE const Real* row_of(const Real* from, int row) {
  struct Row {
    Real values[stride];
  };
  return reinterpret_cast<const Row*>(from)[row].values;
}
SO3KRATES_INLINE void store(Real* to, Quad a) {
  *reinterpret_cast<Quad*>(to) = a;
}

template <typename T>
SO3KRATES_INLINE T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += lane_xor(value, step);
  return value;
}
SO3KRATES_INLINE Quad warp_sum(Quad a) {
  return Quad{{warp_sum(a.v[0]), warp_sum(a.v[1]), warp_sum(a.v[2]), warp_sum(a.v[3])}};
}

// Sums of n values over `lanes` lanes, `stride` from each other. Two lanes exchange halves of what they hold, so that
// in the end a lane holds the sums `place`, ..., `end` - 1, at most `kept`; one lane of those that hold the same is
// `first`.
template <int n, int lanes, int stride = 1>
struct Sums {
  static constexpr int halves(int values, int step) { return step == 0 ? values : halves((values + 1) / 2, step / 2); }
  static constexpr int kept = halves(n, lanes / 2);
  int place = 0, end = n;
  bool first = true;

  SO3KRATES_INLINE explicit Sums(int lane) {
    int left = n;
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2) {
      const int half = (left + 1) / 2;
      const bool upper = (lane & step * stride) != 0;
      if (left == 1)
        first = first && !upper;
      else if (upper)
        place += half;
      else
        end = end < place + half ? end : place + half;
      left = half;
    }
  }
  // Leaves the sums in v[0], ..., v[kept - 1].
  template <int left = n, int step = lanes / 2>
  SO3KRATES_INLINE static void add(Real (&v)[n], int lane) {
    constexpr int half = (left + 1) / 2;
    const bool upper = (lane & step * stride) != 0;
#pragma unroll
    for (int k = 0; k < half; ++k) {
      constexpr bool is_one = left == 1;
      const Real other = k + half < left ? v[k + half < n ? k + half : 0] : Real(0);
      const Real sent = is_one || upper ? v[k] : other, kept_here = is_one || !upper ? v[k] : other;
      v[k] = kept_here + lane_xor(sent, step * stride);
    }
    if constexpr (step > 1) add<half, step / 2>(v, lane);
  }
  // body(k, sum) once for each of the n sums.
  template <typename Body>
  SO3KRATES_INLINE void each(const Real* v, Body&& body) const {
#pragma unroll
    for (int k = 0; k < kept; ++k)
      if (first && place + k < end) body(place + k, v[k]);
  }
};
SO3KRATES_INLINE void put(Real* to, Quad a) {
  for (int k = 0; k < 4; ++k) to[k] = a.v[k];
}
SO3KRATES_INLINE void add_to(Real* to, Quad a) {
  for (int k = 0; k < 4; ++k) to[k] += a.v[k];
}

// Sums over a head's lanes, in each of them: lane l belongs to head l % GROUP.
SO3KRATES_INLINE Quad head_sums(Quad a) {
  if (GROUP == 4) return a;
  const Real even = a.v[0] + a.v[2], odd = a.v[1] + a.v[3];
  if (GROUP == 2) return Quad{{even, odd, even, odd}};
  const Real all = even + odd;
  return Quad{{all, all, all, all}};
}

// Index into the degrees of order m of a Euclidean variable.
SO3KRATES_INLINE int degree_of(int m) {
  int degree = 0, end = 0;
#pragma unroll
  for (int l = 0; l < DEGREES - 1; ++l) {
    end += 2 * degree_at(l) + 1;
    degree += m >= end;
  }
  return degree;
}
// body(q, each) for the quads of an edge's orders, where each(f) calls f(m, k) for the order m that is k-th of the
// quad.
template <typename Body>
SO3KRATES_INLINE void for_orders(Body&& body) {
#pragma unroll
  for (int q = 0; q < (ORDERS + 3) / 4; ++q)
    body(q, [&](auto&& f) {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (4 * q + k < ORDERS) f(4 * q + k, k);
    });
}
SO3KRATES_INLINE Real parity(int degree) {
  Real sign = 1;
#pragma unroll
  for (int l = 0; l < DEGREES; ++l)
    if (l == degree && degree_at(l) % 2 == 1) sign = -1;
  return sign;
}
// Where quad q of the geometric features lies among them.
SO3KRATES_INLINE int geometric_place(int q) {
  return q / kBlockQuads * BLOCK_STRIDE + q % kBlockQuads * 4;
}

// ---- geometry of an edge

// Functions of an edge's vector; see ../batch.h.
struct Geometry {
  Real vector[3], unit[3], inverse_distance;
  Real cutoff, cutoff_slope;
  Real spline[4], spline_slope[3];
  int node;
};

template <typename V>
SO3KRATES_INLINE Real splat(Real x) {
  return x;
}
SO3KRATES_INLINE Real at_most(Real a, Real b) {
  return a < b ? a : b;
}
SO3KRATES_INLINE Real at_least(Real a, Real b) {
  return a > b ? a : b;
}
template <typename V>
SO3KRATES_INLINE Real exponential(Real x) {
  return exp(x);
}
template <typename V>
SO3KRATES_INLINE void sine_cosine(float x, float& sine, float& cosine) {
  sincosf(x, &sine, &cosine);
}
template <typename V>
SO3KRATES_INLINE void sine_cosine(double x, double& sine, double& cosine) {
  sincos(x, &sine, &cosine);
}
template <typename V>
SO3KRATES_INLINE Real cells_below(Real x, int most, int* node) {
  const int cell = static_cast<int>(x);
  *node = cell < most ? cell : most;
  return *node;
}

#include "cutoffs.h"
#include "edge_functions.h"

// Vector of a slot; of an unused one, a vector beyond the cutoff.
SO3KRATES_INLINE void edge_vector(const Real* vectors, Size place, bool used, Real* vector) {
  for (int a = 0; a < 3; ++a) vector[a] = used ? vectors[3 * place + a] : a == 0 ? Real(2 * CUTOFF) : Real(0);
}

SO3KRATES_INLINE Geometry geometry_of(const Real* vector) {
  Geometry g;
  for (int a = 0; a < 3; ++a) g.vector[a] = vector[a];
  const Real d = sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
  g.inverse_distance = 1 / d;
  for (int a = 0; a < 3; ++a) g.unit[a] = vector[a] * g.inverse_distance;
  cutoff_function<Real>(static_cast<Cutoff>(CUTOFF_FUNCTION), POLYNOMIAL_ORDER, Real(1.0 / CUTOFF), d, g.cutoff,
                        g.cutoff_slope);
  spline_weights<Real>(Real(SPLINE_START), Real(1.0 / SPLINE_STEP), NODES, d, g.spline, g.spline_slope, &g.node);
  return g;
}

// emit(m, Y_m) for all orders.
template <typename T, typename Emit>
SO3KRATES_INLINE void harmonics_of(T x, T y, T z, Emit&& emit) {
  int first = 0;
#pragma unroll
  for (int l = 0; l < DEGREES; ++l) {
    harmonics_of_degree(degree_at(l), x, y, z, Real(), [&](int m, T value) { emit(first + m, value); });
    first += 2 * degree_at(l) + 1;
  }
}

// Derivative with respect to the vector from those with respect to the cutoff function, to the splines' distance and to
// the harmonics.
template <typename Adjoint>
SO3KRATES_INLINE void vector_gradient(const Geometry& g, Real cutoff, Real distance, Adjoint&& harmonics,
                                      Real* gradient) {
  Dual<Real> u[3];
  for (int a = 0; a < 3; ++a)
    u[a] = Dual<Real>{g.unit[a], {a == 0 ? Real(1) : 0, a == 1 ? Real(1) : 0, a == 2 ? Real(1) : 0}};
  Real along[3] = {0, 0, 0};
  harmonics_of(u[0], u[1], u[2], [&](int m, const Dual<Real>& y) {
    const Real weight = harmonics(m);
    for (int a = 0; a < 3; ++a) along[a] += weight * y.slope[a];
  });
  vector_gradient<Real>(along, g.unit, g.inverse_distance, cutoff * g.cutoff_slope + distance, gradient);
}

// What the edges of a row add to its forces, strain gradient and virials, in one lane.
struct Gradients {
  double force[3], strain[9], virial[CHANNELS == 4 ? 9 : 1];

  SO3KRATES_INLINE Gradients() : force(), strain(), virial() {}
  // gradient: of channel c with respect to the vector r, about the row's atom.
  SO3KRATES_INLINE void add(int c, const Real* r, const Real* gradient) {
    for (int b = 0; b < 3; ++b) {
      const double g = gradient[b];
      if (c == 0) {
        force[b] += g;
        for (int a = 0; a < 3; ++a) strain[3 * a + b] += 0.5 * r[a] * g;  // the other row visits the pair too
      } else if (CHANNELS == 4) {
        virial[3 * (c - 1) + b] -= g;
      }
    }
  }
  SO3KRATES_INLINE void store(Size row, int lane, double* forces, double* strains, double* virials) {
#pragma unroll
    for (int k = 0; k < 3; ++k) force[k] = warp_sum(force[k]);
#pragma unroll
    for (int k = 0; k < 9; ++k) strain[k] = warp_sum(strain[k]);
    if (CHANNELS == 4)
#pragma unroll
      for (int k = 0; k < 9; ++k) virial[CHANNELS == 4 ? k : 0] = warp_sum(virial[CHANNELS == 4 ? k : 0]);
    if (lane != 0) return;
    for (int k = 0; k < 3; ++k) forces[3 * row + k] += force[k];
    for (int k = 0; k < 9; ++k) strains[k] = strain[k];
    if (CHANNELS == 4)
      for (int k = 0; k < 9; ++k) virials[9 * row + k] += virial[CHANNELS == 4 ? k : 0];
  }
};

// body(row) for rows first, ..., end - 1, one warp each.
template <typename Body>
SO3KRATES_INLINE void for_rows(int first, int end, Body&& body) {
  const int warps = blockDim.x / kWarp;
  for (int row = first + blockIdx.x * warps + threadIdx.x / kWarp; row < end; row += gridDim.x * warps)
    body(static_cast<Size>(row));
}

}  // namespace so3krates
