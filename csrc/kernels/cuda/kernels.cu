// The fused edge kernels for a GPU: the operations of ../first_layer.h and ../edges.h on the arrays of ../layout.h, but
// with lists of neighbours in place of pairs. A warp computes one owned row: it gathers its neighbours' rows, keeps
// all sums in registers and writes the row once. No atomics, so results are equal to the bit from run to run.
//
// Compiled at run time for one network and one GPU (cuda_kernels.cpp in ../../runtime): its sizes are macros, given in
// so3krates_export/cuda.py. Every kernel takes the inputs of its custom call, then the results.
//
// A tile is TILE neighbours of the row. The degree filters of a tile are a product [TILE][HIDDEN] x
// [HIDDEN][features]: lane l holds the features of quads l % 8, l % 8 + 8, ... for the edges of group l / 8. What
// follows is done edge by edge, where lane l holds quads l, l + 32, ....

#define SO3KRATES_INLINE __device__ __forceinline__

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
constexpr unsigned kAll = 0xffffffffu;
constexpr int kWarp = 32;

// Rows, as in layout.h.
constexpr int kKey = FEATURE_STRIDE, kValue = 2 * FEATURE_STRIDE, kGeometricQuery = 3 * FEATURE_STRIDE;
constexpr int kGeometricStride = DEGREES * BLOCK_STRIDE, kGeometricKey = kGeometricQuery + kGeometricStride;
constexpr int kChi = kGeometricKey + kGeometricStride, kRowStride = kChi + ORDER_STRIDE;
constexpr int kMessageStride = FEATURE_STRIDE + ORDER_STRIDE, kFilterStride = FEATURE_STRIDE + kGeometricStride;

// Features four at a time.
constexpr int kFeatureQuads = (FEATURE_WIDTH + 3) / 4, kBlockQuads = (BLOCK_WIDTH + 3) / 4;
constexpr int kGeometricQuads = DEGREES * kBlockQuads;
constexpr int kMostQuads = kFeatureQuads > kGeometricQuads ? kFeatureQuads : kGeometricQuads;
constexpr int kQuadStride = kMostQuads | 1;  // odd: eight rows are read without conflicts of banks
constexpr int kQuadLanes = 8, kEdgeLanes = kWarp / kQuadLanes, kEdges = TILE / kEdgeLanes;
constexpr int kLaneQuads = (kMostQuads + kQuadLanes - 1) / kQuadLanes;
constexpr int kLaneHidden = (HIDDEN + kQuadLanes - 1) / kQuadLanes;
constexpr int kPasses = (kMostQuads + kWarp - 1) / kWarp;
static_assert(TILE % kEdgeLanes == 0 && TILE <= kWarp, "a tile is a few edges for each group of lanes");

struct alignas(4 * sizeof(Real)) Quad {
  Real v[4];
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
SO3KRATES_INLINE void store(Real* to, Quad a) {
  *reinterpret_cast<Quad*>(to) = a;
}

template <typename T>
SO3KRATES_INLINE T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
  return value;
}
SO3KRATES_INLINE Quad warp_sum(Quad a) {
  return Quad{{warp_sum(a.v[0]), warp_sum(a.v[1]), warp_sum(a.v[2]), warp_sum(a.v[3])}};
}
// Sums over a head's lanes, in each of them: lane l belongs to head l % GROUP.
SO3KRATES_INLINE Quad head_sums(Quad a) {
  if (GROUP == 4) return a;
  const Real even = a.v[0] + a.v[2], odd = a.v[1] + a.v[3];
  if (GROUP == 2) return Quad{{even, odd, even, odd}};
  const Real all = even + odd;
  return Quad{{all, all, all, all}};
}

// Index into the degrees of order m of a Euclidean variable, and the first order of a degree.
SO3KRATES_INLINE int degree_of(int m) {
  int degree = 0, end = 0;
#pragma unroll
  for (int l = 0; l < DEGREES - 1; ++l) {
    end += 2 * degree_at(l) + 1;
    degree += m >= end;
  }
  return degree;
}
SO3KRATES_INLINE int first_order(int degree) {
  int first = 0;
#pragma unroll
  for (int l = 0; l < DEGREES; ++l) first += l < degree ? 2 * degree_at(l) + 1 : 0;
  return first;
}
SO3KRATES_INLINE Real parity(int degree) {
  Real sign = 1;
#pragma unroll
  for (int l = 0; l < DEGREES; ++l)
    if (l == degree && degree_at(l) % 2 == 1) sign = -1;
  return sign;
}
SO3KRATES_INLINE int last_order(int degree) {
  return first_order(degree) + 2 * degree_at(degree) + 1;
}

// Channels 1 to 3 are moments about an atom: moving the origin by r adds r_a times channel 0.
template <typename T>
SO3KRATES_INLINE T moved(const T* channel, int c, const Real* r) {
  return c == 0 ? channel[0] : channel[c] + r[c - 1] * channel[0];
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

SO3KRATES_INLINE void cutoff_function(Real d, Real& value, Real& slope) {
  constexpr Real inverse = Real(1.0 / CUTOFF);
  const Real x = d * inverse;
  value = slope = 0;
  if (x >= 1) return;
  if (CUTOFF_FUNCTION == 0) {  // cosine
    constexpr Real pi = Real(3.14159265358979323846);
    Real sine, cosine;
    sincos(x * (pi / 2), &sine, &cosine);
    value = cosine * cosine;
    slope = sine * cosine * (-pi * inverse);
  } else if (CUTOFF_FUNCTION == 3) {  // exponential
    Real room = 1 - x * x;
    room = room > Real(1e-6) ? room : Real(1e-6);
    value = exp(-x * x / room);
    slope = value * x / (room * room) * (-2 * inverse);
  } else {  // polynomial; phys is that of order 3
    constexpr int p = CUTOFF_FUNCTION == 1 ? 3 : POLYNOMIAL_ORDER;
    constexpr Real a = Real(0.5) * (p + 1) * (p + 2), b = Real(p) * (p + 2), c = Real(0.5) * p * (p + 1);
    Real power = 1;  // x^(p - 1)
    for (int k = 1; k < p; ++k) power *= x;
    value = 1 - power * x * (a - x * (b - c * x));
    slope = power * (-a * p + x * (b * (p + 1) - x * (c * (p + 2)))) * inverse;
  }
}

SO3KRATES_INLINE Geometry geometry_of(const Real* vector) {
  Geometry g;
  for (int a = 0; a < 3; ++a) g.vector[a] = vector[a];
  const Real d = sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
  g.inverse_distance = 1 / d;
  for (int a = 0; a < 3; ++a) g.unit[a] = vector[a] * g.inverse_distance;
  cutoff_function(d, g.cutoff, g.cutoff_slope);

  constexpr Real last = NODES - 3, sixth = Real(1) / 6;
  const Real decay = exp(-d);
  const Real t = (decay - Real(SPLINE_START)) * Real(1.0 / SPLINE_STEP);
  const Real inside = t < 0 ? 0 : t > last ? last : t;
  const int cell = static_cast<int>(inside);
  g.node = cell < NODES - 4 ? cell : NODES - 4;
  const Real f = inside - g.node, o = 1 - f;
  g.spline[0] = o * o * o * sixth;
  g.spline[1] = (f * f * (3 * f - 6) + 4) * sixth;
  g.spline[2] = (o * o * (3 * o - 6) + 4) * sixth;
  g.spline[3] = f * f * f * sixth;
  const Real rate = t > 0 && t < last ? decay * Real(-1.0 / SPLINE_STEP) : Real(0);
  g.spline_slope[0] = o * o * Real(0.5) * rate;
  g.spline_slope[1] = (Real(0.5) + f * o) * rate;
  g.spline_slope[2] = f * f * Real(0.5) * rate;
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
  const Real radial = along[0] * g.unit[0] + along[1] * g.unit[1] + along[2] * g.unit[2];
  const Real by_distance = cutoff * g.cutoff_slope + distance;
  for (int a = 0; a < 3; ++a)
    gradient[a] = (along[a] - radial * g.unit[a]) * g.inverse_distance + by_distance * g.unit[a];
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
SO3KRATES_INLINE int lane_of_thread() {
  return threadIdx.x % kWarp;
}

// ---- neighbours

// In all that follows `capacities` are the candidates and the neighbours that a row has room for; then, for
// `messages_adjoint`, the first row and the number of rows that it visits, by which its results by row count.

// positions [atoms][3], row of each atom, atom of each row, candidates, their counts, capacities, owned; vectors,
// neighbours, counts -> vectors, neighbours, true counts, which may exceed the room
extern "C" __global__ void neighbours(const double* positions, const int* row_of_atom, const int* atom_of_row,
                                      const int* candidates, const int* candidate_counts, const long long* capacities,
                                      const int* owned, const Real*, const int*, const int*, Real* vectors, int* rows,
                                      int* counts) {
  const int lane = lane_of_thread();
  const Size width = capacities[0], slots = capacities[1];
  for_rows(0, *owned, [&](Size row) {
    const double* centre = positions + 3 * static_cast<Size>(atom_of_row[row]);
    const double x = centre[0], y = centre[1], z = centre[2];
    const int listed = candidate_counts[row];
    Size found = 0;
    for (int start = 0; start < listed; start += kWarp) {
      const int k = start + lane;
      const int atom = k < listed ? candidates[row * width + k] : 0;
      const double* other = positions + 3 * static_cast<Size>(atom);
      const double dx = other[0] - x, dy = other[1] - y, dz = other[2] - z;
      const bool inside = k < listed && dx * dx + dy * dy + dz * dz < CUTOFF * CUTOFF;
      const unsigned mask = __ballot_sync(kAll, inside);
      const Size slot = found + __popc(mask & ((1u << lane) - 1));
      if (inside && slot < slots) {
        const Size place = row * slots + slot;
        vectors[3 * place] = static_cast<Real>(dx);
        vectors[3 * place + 1] = static_cast<Real>(dy);
        vectors[3 * place + 2] = static_cast<Real>(dz);
        rows[place] = row_of_atom[atom];
      }
      found += __popc(mask);
    }
    if (lane == 0) counts[row] = static_cast<int>(found);
  });
}

// ---- first layer: a lane for each edge

struct FirstCoefficients {
  Quad heads, degrees;
};

// Coefficients before the cutoff function, or (slope) their derivatives with respect to the distance.
template <bool slope>
SO3KRATES_INLINE FirstCoefficients first_coefficients(const Real* table, int centre, int other, const Geometry& g) {
  const Real* c = table + (static_cast<Size>(centre * ELEMENTS + other) * NODES + g.node) * 8;
  FirstCoefficients result{zero(), zero()};
  for (int k = 0; k < (slope ? 3 : 4); ++k, c += 8) {
    if (slope) {
      result.heads += g.spline_slope[k % 3] * (load(c + 8) - load(c));
      result.degrees += g.spline_slope[k % 3] * (load(c + 12) - load(c + 4));
    } else {
      result.heads += g.spline[k] * load(c);
      result.degrees += g.spline[k] * load(c + 4);
    }
  }
  return result;
}

SO3KRATES_INLINE Real at(Quad q, int k) {
  return k == 0 ? q.v[0] : k == 1 ? q.v[1] : k == 2 ? q.v[2] : q.v[3];
}

// Vector of a slot; of an unused one, a vector beyond the cutoff.
SO3KRATES_INLINE void edge_vector(const Real* vectors, Size place, bool used, Real* vector) {
  for (int a = 0; a < 3; ++a) vector[a] = used ? vectors[3 * place + a] : a == 0 ? Real(2 * CUTOFF) : Real(0);
}

// table, species, vectors, neighbours, counts, capacities, owned -> coefficients, sums of geometric messages
extern "C" __global__ void first_messages(const Real* table, const int* species, const Real* vectors,
                                          const int* neighbours, const int* counts, const long long* capacities,
                                          const int* owned, Real* coefficients, Real* chi) {
  const int lane = lane_of_thread();
  const Size slots = capacities[1];
  for_rows(0, *owned, [&](Size row) {
    const int own = species[row], count = counts[row] < static_cast<int>(slots) ? counts[row] : static_cast<int>(slots);
    Quad heads[ELEMENTS];
    Real sums[ORDERS];
#pragma unroll
    for (int s = 0; s < ELEMENTS; ++s) heads[s] = zero();
#pragma unroll
    for (int m = 0; m < ORDERS; ++m) sums[m] = 0;
    for (int start = 0; start < count; start += kWarp) {
      const bool used = start + lane < count;
      const Size place = row * slots + start + lane;
      Real vector[3];
      edge_vector(vectors, place, used, vector);
      const int kind = used ? species[neighbours[place]] : 0;
      const Geometry g = geometry_of(vector);
      const FirstCoefficients c = first_coefficients<false>(table, own, kind, g);
#pragma unroll
      for (int s = 0; s < ELEMENTS; ++s) heads[s] += (s == kind ? g.cutoff : Real(0)) * c.heads;
      harmonics_of(g.unit[0], g.unit[1], g.unit[2],
                   [&](int m, Real y) { sums[m] += at(c.degrees, degree_of(m)) * g.cutoff * y; });
    }
#pragma unroll
    for (int s = 0; s < ELEMENTS; ++s) {
      const Quad total = warp_sum(heads[s]);
      if (lane == 0) store(coefficients + (row * ELEMENTS + s) * 4, total);
    }
#pragma unroll
    for (int m = 0; m < ORDERS; ++m) {
      const Real total = warp_sum(sums[m]);
      if (lane == 0) chi[row * ORDER_STRIDE + m] = total;
    }
    for (int m = ORDERS + lane; m < ORDER_STRIDE; m += kWarp) chi[row * ORDER_STRIDE + m] = 0;
  });
}

// table, species, adjoints [rows][CHANNELS][kMessageStride], adjoints of the coefficients
// [rows][CHANNELS][ELEMENTS][4], vectors, neighbours, counts, capacities, owned; forces, [virials] -> strain gradients
// by row, forces, [virials]
extern "C" __global__ void first_messages_adjoint(const Real* table, const int* species, const Real* adjoints,
                                                  const Real* coefficients, const Real* vectors, const int* neighbours,
                                                  const int* counts, const long long* capacities, const int* owned,
                                                  const double*,
#if CHANNELS == 4
                                                  const double*, double* strains, double* forces, double* virials) {
#else
                                                  double* strains, double* forces) {
  double* const virials = nullptr;
#endif
  const int lane = lane_of_thread();
  const Size slots = capacities[1];
  for_rows(0, *owned, [&](Size row) {
    const int own = species[row], count = counts[row] < static_cast<int>(slots) ? counts[row] : static_cast<int>(slots);
    Gradients gradients;
    for (int start = 0; start < count; start += kWarp) {
      const bool used = start + lane < count;
      const Size place = row * slots + start + lane;
      const Size other = used ? neighbours[place] : row;
      Real vector[3];
      edge_vector(vectors, place, used, vector);
      const int kind = species[other];
      const Geometry g = geometry_of(vector);
      const FirstCoefficients ij = first_coefficients<false>(table, own, kind, g),
                              ji = first_coefficients<false>(table, kind, own, g),
                              slope_ij = first_coefficients<true>(table, own, kind, g),
                              slope_ji = first_coefficients<true>(table, kind, own, g);
      const Real* from_i = adjoints + row * CHANNELS * kMessageStride + FEATURE_STRIDE;
      const Real* from_j = adjoints + other * CHANNELS * kMessageStride + FEATURE_STRIDE;
      Quad heads_ij[CHANNELS], heads_ji[CHANNELS];
      Quad degrees_ij[CHANNELS], degrees_ji[CHANNELS];
#pragma unroll
      for (int c = 0; c < CHANNELS; ++c) {
        heads_ij[c] = load(coefficients + ((row * CHANNELS + c) * ELEMENTS + kind) * 4);
        heads_ji[c] = load(coefficients + ((other * CHANNELS + c) * ELEMENTS + own) * 4);
        degrees_ij[c] = degrees_ji[c] = zero();
        harmonics_of(g.unit[0], g.unit[1], g.unit[2], [&](int m, Real y) {
          const int l = degree_of(m);
          const Real to_i = y * from_i[c * kMessageStride + m], to_j = parity(l) * y * from_j[c * kMessageStride + m];
#pragma unroll
          for (int k = 0; k < DEGREES; ++k) {
            degrees_ij[c].v[k] += k == l ? to_i : Real(0);
            degrees_ji[c].v[k] += k == l ? to_j : Real(0);
          }
        });
      }
#pragma unroll
      for (int c = 0; c < CHANNELS; ++c) {
        const Quad to_heads = moved(heads_ji, c, vector), to_degrees = moved(degrees_ji, c, vector);
        const Real cutoff = sum(heads_ij[c] * ij.heads + degrees_ij[c] * ij.degrees) +
                            sum(to_heads * ji.heads + to_degrees * ji.degrees);
        const Real distance = g.cutoff * (sum(heads_ij[c] * slope_ij.heads + degrees_ij[c] * slope_ij.degrees) +
                                          sum(to_heads * slope_ji.heads + to_degrees * slope_ji.degrees));
        Real gradient[3];
        vector_gradient(
            g, cutoff, distance,
            [&](int m) {
              const int l = degree_of(m);
              Real lambda = from_j[c * kMessageStride + m];
              if (c > 0) lambda += vector[c > 0 ? c - 1 : 0] * from_j[m];
              return g.cutoff *
                     (at(ij.degrees, l) * from_i[c * kMessageStride + m] + parity(l) * at(ji.degrees, l) * lambda);
            },
            gradient);
        if (used) gradients.add(c, vector, gradient);
      }
    }
    gradients.store(row, lane, forces, strains + 9 * row, virials);
  });
}

// ---- the other layers

struct Edge {
  Geometry geometry;
  int other;
  Real harmonics[ORDERS];
  Real invariants[4];
};

// Adjoints of one edge.
struct EdgeAdjoint {
  Real of_ij[CHANNELS][4], of_ji[CHANNELS][4];  // of the geometric coefficients; of_ji about the row's atom
  Quad s_ij[CHANNELS], s_ji[CHANNELS];          // of the feature attention's, with the cutoff function
  Real cutoff[CHANNELS], distance[CHANNELS];
  Real of_invariants[CHANNELS][4];
  Real harmonics[CHANNELS][ORDERS];
};

// Of the block: the matrices behind the hidden layers.
struct Matrices {
  Quad of[2][HIDDEN][kQuadStride];
  Quad padding[(kQuadLanes * kLaneHidden - HIDDEN + 2) * kQuadStride];  // read for units and quads that do not exist
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
  }
  __syncwarp();
  for (int k = lane; k < TILE * DEGREES; k += kWarp) {
    Edge& e = t.edge[k % TILE];
    const int l = k / TILE;
    const Real* own = projections + row * kRowStride + kChi;
    const Real* other = projections + static_cast<Size>(e.other) * kRowStride + kChi;
    Real total = 0;
    for (int m = first_order(l); m < last_order(l); ++m) total += (other[m] - own[m]) * (other[m] - own[m]);
    e.invariants[l] = total;
  }
  __syncwarp();
  for (int k = lane; k < 2 * HIDDEN * TILE; k += kWarp) {
    const int e = k % TILE, n = k / TILE;
    Real value = hidden_in[DEGREES * HIDDEN_STRIDE + n];
#pragma unroll
    for (int l = 0; l < DEGREES; ++l) value += hidden_in[l * HIDDEN_STRIDE + n] * t.edge[e].invariants[l];
    const Real gate = 1 / (1 + exp(-value));
    const int part = n >= HIDDEN, unit = n - part * HIDDEN;
    t.hidden[part][unit][e] = value * gate;
    if (with_slope) slope[part][unit][e] = gate * (1 + value * (1 - gate));
  }
  __syncwarp();
}

// Degree part of one filter for the edges of a tile.
SO3KRATES_INLINE void fill_filters(Tile& t, const Matrices& matrices, int part, int lane, int quads) {
  const int b = lane % kQuadLanes, first = lane / kQuadLanes * kEdges;
  Quad total[kEdges][kLaneQuads];
#pragma unroll
  for (int e = 0; e < kEdges; ++e)
#pragma unroll
    for (int s = 0; s < kLaneQuads; ++s) total[e][s] = zero();
  for (int n = 0; n < HIDDEN; ++n) {
    Real h[kEdges];
#pragma unroll
    for (int e = 0; e < kEdges; ++e) h[e] = t.hidden[part][n][first + e];
#pragma unroll
    for (int s = 0; s < kLaneQuads; ++s) {
      const Quad w = (&matrices.of[part][n][0])[b + s * kQuadLanes];
#pragma unroll
      for (int e = 0; e < kEdges; ++e) total[e][s] += h[e] * w;
    }
  }
#pragma unroll
  for (int s = 0; s < kLaneQuads; ++s)
    if (b + s * kQuadLanes < quads)
#pragma unroll
      for (int e = 0; e < kEdges; ++e) t.filter[first + e][b + s * kQuadLanes] = total[e][s];
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
template <typename Body>
SO3KRATES_INLINE void for_quads(int lane, int quads, Body&& body) {
#pragma unroll
  for (int k = 0; k < kPasses; ++k)
    if (lane + k * kWarp < quads) body(lane + k * kWarp, k);
}

// Writes a lane's quads of a row's features and zeros between them and the next part.
SO3KRATES_INLINE void store_features(Real* row, const Quad* quads, int lane) {
#pragma unroll
  for (int k = 0; k < (FEATURE_STRIDE / 4 + kWarp - 1) / kWarp; ++k) {
    const int q = lane + k * kWarp;
    if (q < FEATURE_STRIDE / 4) store(row + 4 * q, q < kFeatureQuads ? quads[k < kPasses ? k : 0] : zero());
  }
}
SO3KRATES_INLINE void store_geometric(Real* row, const Quad* quads, int lane) {
  for (int f = lane; f < kGeometricStride / 4; f += kWarp)
    if (f % (BLOCK_STRIDE / 4) >= kBlockQuads) store(row + 4 * f, zero());
  for_quads(lane, kGeometricQuads, [&](int q, int k) { store(row + geometric_place(q), quads[k]); });
}

extern __shared__ __align__(64) unsigned char shared_memory[];

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
  load_matrices(matrices, hidden_out);
  for_rows(0, *owned, [&](Size row) {
    const int count = counts[row] < static_cast<int>(slots) ? counts[row] : static_cast<int>(slots);
    const Real* own = projections + row * kRowStride;
    Quad sums[kPasses];
    Real order = 0;
#pragma unroll
    for (int k = 0; k < kPasses; ++k) sums[k] = zero();
    for (int start = 0; start < count; start += TILE) {
      fill_tile<false>(t, nullptr, lane, row, start, count, slots, vectors, neighbours, projections, hidden_in);
      fill_filters(t, matrices, 0, lane, kFeatureQuads);
#pragma unroll 2
      for (int e = 0; e < TILE; ++e) {
        const Geometry& g = t.edge[e].geometry;
        const Real* other = projections + static_cast<Size>(t.edge[e].other) * kRowStride;
        Quad a = zero();
        for_quads(lane, kFeatureQuads, [&](int q, int) {
          const Quad w = t.filter[e][q] + radial(table, g, 4 * q, nullptr);
          a += w * (load(own + 4 * q) * load(other + kKey + 4 * q));
        });
        const Quad alpha = g.cutoff * head_sums(warp_sum(a));
        for_quads(lane, kFeatureQuads, [&](int q, int k) { sums[k] += alpha * load(other + kValue + 4 * q); });
      }
      __syncwarp();
      fill_filters(t, matrices, 1, lane, kGeometricQuads);
#pragma unroll 2
      for (int e = 0; e < TILE; ++e) {
        const Geometry& g = t.edge[e].geometry;
        const Real* other = projections + static_cast<Size>(t.edge[e].other) * kRowStride;
        Real b[DEGREES] = {};
        for_quads(lane, kGeometricQuads, [&](int q, int) {
          const int f = geometric_place(q);
          const Quad w = t.filter[e][q] + radial(table, g, FEATURE_STRIDE + f, nullptr);
          const Real product = sum(w * (load(own + kGeometricQuery + f) * load(other + kGeometricKey + f)));
#pragma unroll
          for (int l = 0; l < DEGREES; ++l) b[l] += l == q / kBlockQuads ? product : Real(0);
        });
        Real beta = 0;
        const int degree = degree_of(lane);
#pragma unroll
        for (int l = 0; l < DEGREES; ++l) {
          const Real total = warp_sum(b[l]);
          beta = l == degree ? total : beta;
        }
        if (lane < ORDERS) order += beta * g.cutoff * t.edge[e].harmonics[lane];
      }
    }
    for_quads(lane, kFeatureQuads, [&](int q, int k) { sums[k] += load(x + row * FEATURE_STRIDE + 4 * q); });
    store_features(next_x + row * FEATURE_STRIDE, sums, lane);
    if (lane < ORDER_STRIDE)
      attended[row * ORDER_STRIDE + lane] = lane < ORDERS ? chi[row * ORDER_STRIDE + lane] + order : Real(0);
  });
}

// From the adjoints of one filter's features, in t.filter, to those of the invariants, which are added up.
SO3KRATES_INLINE void filters_adjoint(Tile& t, TileAdjoint& adjoint, const Matrices& matrices, int part, int channel,
                                      int lane, int quads, const Real* hidden_in) {
  const int b = lane % kQuadLanes, first = lane / kQuadLanes * kEdges;
  Quad total[kEdges][kLaneHidden];
#pragma unroll
  for (int e = 0; e < kEdges; ++e)
#pragma unroll
    for (int s = 0; s < kLaneHidden; ++s) total[e][s] = zero();
  for (int q = 0; q < quads; ++q) {
    Quad of_edge[kEdges];
#pragma unroll
    for (int e = 0; e < kEdges; ++e) of_edge[e] = t.filter[first + e][q];
#pragma unroll
    for (int s = 0; s < kLaneHidden; ++s) {
      const Quad w = (&matrices.of[part][0][0])[(b + s * kQuadLanes) * kQuadStride + q];
#pragma unroll
      for (int e = 0; e < kEdges; ++e) total[e][s] += of_edge[e] * w;
    }
  }
#pragma unroll
  for (int e = 0; e < kEdges; ++e) {
    Real of[DEGREES] = {};
#pragma unroll
    for (int s = 0; s < kLaneHidden; ++s) {
      const int n = b + s * kQuadLanes;
      if (n < HIDDEN) {
        const Real through = sum(total[e][s]) * adjoint.slope[part][n][first + e];
#pragma unroll
        for (int l = 0; l < DEGREES; ++l) of[l] += through * hidden_in[l * HIDDEN_STRIDE + part * HIDDEN + n];
      }
    }
#pragma unroll
    for (int l = 0; l < DEGREES; ++l) {
      for (int step = kQuadLanes / 2; step > 0; step /= 2) of[l] += __shfl_xor_sync(kAll, of[l], step);
      if (b == 0) adjoint.edge[first + e].of_invariants[channel][l] += 2 * of[l];
    }
  }
  __syncwarp();
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
  load_matrices(matrices, hidden_out);
  const int first = static_cast<int>(capacities[2]), end = first + static_cast<int>(capacities[3]);
  for_rows(first, end < *owned ? end : *owned, [&](Size row) {
    const int count = counts[row] < static_cast<int>(slots) ? counts[row] : static_cast<int>(slots);
    const Real* own = projections + row * kRowStride;
    const Real* lambda_i = adjoints + row * CHANNELS * kMessageStride;
    Quad to_query[CHANNELS][kPasses], to_key[CHANNELS][kPasses], to_value[CHANNELS][kPasses];
    Quad to_geometric_query[CHANNELS][kPasses], to_geometric_key[CHANNELS][kPasses];
    Real to_order[CHANNELS];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      to_order[c] = 0;
#pragma unroll
      for (int k = 0; k < kPasses; ++k)
        to_query[c][k] = to_key[c][k] = to_value[c][k] = to_geometric_query[c][k] = to_geometric_key[c][k] = zero();
    }
    Gradients gradients;
    for (int start = 0; start < count; start += TILE) {
      fill_tile<true>(t, adjoint.slope, lane, row, start, count, slots, vectors, neighbours, projections, hidden_in);

      // Feature attention: coefficients in both directions, their slopes, their adjoints.
      fill_filters(t, matrices, 0, lane, kFeatureQuads);
      for (int e = 0; e < TILE; ++e) {
        const Geometry& g = t.edge[e].geometry;
        const Size j = t.edge[e].other;
        const Real *other = projections + j * kRowStride, *lambda_j = adjoints + j * CHANNELS * kMessageStride;
        Quad a_ij = zero(), a_ji = zero(), slope_ij = zero(), slope_ji = zero(), p_ij[CHANNELS], p_ji[CHANNELS];
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) p_ij[c] = p_ji[c] = zero();
        for_quads(lane, kFeatureQuads, [&](int q, int) {
          Quad slope;
          const Quad w = t.filter[e][q] + radial(table, g, 4 * q, &slope);
          t.filter[e][q] = w;
          const Quad ij = load(own + 4 * q) * load(other + kKey + 4 * q);
          const Quad ji = load(other + 4 * q) * load(own + kKey + 4 * q);
          a_ij += w * ij;
          a_ji += w * ji;
          slope_ij += slope * ij;
          slope_ji += slope * ji;
          const Quad v_i = load(own + kValue + 4 * q), v_j = load(other + kValue + 4 * q);
#pragma unroll
          for (int c = 0; c < CHANNELS; ++c) {
            p_ij[c] += load(lambda_i + c * kMessageStride + 4 * q) * v_j;
            p_ji[c] += load(lambda_j + c * kMessageStride + 4 * q) * v_i;
          }
        });
        a_ij = warp_sum(a_ij);
        a_ji = warp_sum(a_ji);
        slope_ij = warp_sum(slope_ij);
        slope_ji = warp_sum(slope_ji);
        const Quad alpha_ji = g.cutoff * head_sums(a_ji);
        Quad s_ij[CHANNELS], s_ji[CHANNELS];
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
          p_ij[c] = head_sums(warp_sum(p_ij[c]));
          p_ji[c] = head_sums(warp_sum(p_ji[c]));
          const Quad of_ji = moved(p_ji, c, g.vector);
          s_ij[c] = g.cutoff * p_ij[c];
          s_ji[c] = g.cutoff * of_ji;
          if (lane == 0) {
            // The lanes of a head hold parts of its coefficient: the sums complete them.
            adjoint.edge[e].cutoff[c] = sum(p_ij[c] * a_ij + of_ji * a_ji);
            adjoint.edge[e].distance[c] = sum(s_ij[c] * slope_ij + s_ji[c] * slope_ji);
            adjoint.edge[e].s_ij[c] = s_ij[c];
            adjoint.edge[e].s_ji[c] = s_ji[c];
          }
        }
        for_quads(lane, kFeatureQuads, [&](int q, int k) {
          const Quad w = t.filter[e][q];
          const Quad q_j = load(other + 4 * q), k_j = load(other + kKey + 4 * q);
          Quad lambda[CHANNELS];
#pragma unroll
          for (int c = 0; c < CHANNELS; ++c) lambda[c] = load(lambda_j + c * kMessageStride + 4 * q);
#pragma unroll
          for (int c = 0; c < CHANNELS; ++c) {
            to_query[c][k] += s_ij[c] * (w * k_j);
            to_key[c][k] += s_ji[c] * (w * q_j);
            to_value[c][k] += alpha_ji * moved(lambda, c, g.vector);
          }
        });
      }
      for (int k = lane; k < TILE * CHANNELS * 4; k += kWarp)
        adjoint.edge[k % TILE].of_invariants[k / TILE / 4][k / TILE % 4] = 0;
      __syncwarp();
      for (int c = 0; c < CHANNELS; ++c) {
        for (int e = 0; e < TILE; ++e) {
          const Real* other = projections + static_cast<Size>(t.edge[e].other) * kRowStride;
          const Quad s_ij = adjoint.edge[e].s_ij[c], s_ji = adjoint.edge[e].s_ji[c];
          for_quads(lane, kFeatureQuads, [&](int q, int) {
            t.filter[e][q] = s_ij * (load(own + 4 * q) * load(other + kKey + 4 * q)) +
                             s_ji * (load(other + 4 * q) * load(own + kKey + 4 * q));
          });
        }
        __syncwarp();
        filters_adjoint(t, adjoint, matrices, 0, c, lane, kFeatureQuads, hidden_in);
      }

      // Geometric attention, the same way; its lambda are contracted with the harmonics first.
      for (int k = lane; k < TILE * CHANNELS * DEGREES; k += kWarp) {
        const int e = k % TILE, l = k / TILE % DEGREES, c = k / TILE / DEGREES;
        const Real* lambda_j = adjoints + static_cast<Size>(t.edge[e].other) * CHANNELS * kMessageStride;
        const Real* r = t.edge[e].geometry.vector;
        Real ij = 0, ji = 0;
        for (int m = first_order(l); m < last_order(l); ++m) {
          const Real y = t.edge[e].harmonics[m];
          Real lambda = lambda_j[c * kMessageStride + FEATURE_STRIDE + m];
          if (c > 0) lambda += r[c - 1] * lambda_j[FEATURE_STRIDE + m];
          ij += y * lambda_i[c * kMessageStride + FEATURE_STRIDE + m];
          ji += y * lambda;
        }
        adjoint.edge[e].of_ij[c][l] = ij;
        adjoint.edge[e].of_ji[c][l] = ji * parity(l);
      }
      __syncwarp();
      fill_filters(t, matrices, 1, lane, kGeometricQuads);
      for (int e = 0; e < TILE; ++e) {
        const Geometry& g = t.edge[e].geometry;
        EdgeAdjoint& of = adjoint.edge[e];
        const Size j = t.edge[e].other;
        const Real *other = projections + j * kRowStride, *lambda_j = adjoints + j * CHANNELS * kMessageStride;
        Real b_ij[DEGREES] = {}, b_ji[DEGREES] = {}, slope_ij[DEGREES] = {}, slope_ji[DEGREES] = {};
        for_quads(lane, kGeometricQuads, [&](int q, int k) {
          const int f = geometric_place(q), degree = q / kBlockQuads;
          Quad slope;
          const Quad w = t.filter[e][q] + radial(table, g, FEATURE_STRIDE + f, &slope);
          const Quad q_j = load(other + kGeometricQuery + f), k_j = load(other + kGeometricKey + f);
          const Quad ij = load(own + kGeometricQuery + f) * k_j, ji = q_j * load(own + kGeometricKey + f);
          const Real products[4] = {sum(w * ij), sum(w * ji), sum(slope * ij), sum(slope * ji)};
#pragma unroll
          for (int l = 0; l < DEGREES; ++l) {
            b_ij[l] += l == degree ? products[0] : Real(0);
            b_ji[l] += l == degree ? products[1] : Real(0);
            slope_ij[l] += l == degree ? products[2] : Real(0);
            slope_ji[l] += l == degree ? products[3] : Real(0);
          }
#pragma unroll
          for (int c = 0; c < CHANNELS; ++c) {
            to_geometric_query[c][k] += (g.cutoff * of.of_ij[c][degree]) * (w * k_j);
            to_geometric_key[c][k] += (g.cutoff * of.of_ji[c][degree]) * (w * q_j);
          }
        });
#pragma unroll
        for (int l = 0; l < DEGREES; ++l) {
          b_ij[l] = warp_sum(b_ij[l]);
          b_ji[l] = warp_sum(b_ji[l]);
          slope_ij[l] = warp_sum(slope_ij[l]);
          slope_ji[l] = warp_sum(slope_ji[l]);
        }
        if (lane == 0)
          for (int c = 0; c < CHANNELS; ++c)
            for (int l = 0; l < DEGREES; ++l) {
              of.cutoff[c] += of.of_ij[c][l] * b_ij[l] + of.of_ji[c][l] * b_ji[l];
              of.distance[c] += g.cutoff * (of.of_ij[c][l] * slope_ij[l] + of.of_ji[c][l] * slope_ji[l]);
            }
        if (lane < ORDERS) {
          const int degree = degree_of(lane);
          Real along_ij = 0, along_ji = 0;
#pragma unroll
          for (int l = 0; l < DEGREES; ++l) {
            along_ij = l == degree ? g.cutoff * b_ij[l] : along_ij;
            along_ji = l == degree ? g.cutoff * b_ji[l] * parity(l) : along_ji;
          }
#pragma unroll
          for (int c = 0; c < CHANNELS; ++c) {
            Real lambda = lambda_j[c * kMessageStride + FEATURE_STRIDE + lane];
            if (c > 0) lambda += g.vector[c > 0 ? c - 1 : 0] * lambda_j[FEATURE_STRIDE + lane];
            of.harmonics[c][lane] = along_ij * lambda_i[c * kMessageStride + FEATURE_STRIDE + lane] + along_ji * lambda;
          }
        }
      }
      __syncwarp();
      for (int c = 0; c < CHANNELS; ++c) {
        for (int e = 0; e < TILE; ++e) {
          const EdgeAdjoint& of = adjoint.edge[e];
          const Real cutoff = t.edge[e].geometry.cutoff;
          const Real* other = projections + static_cast<Size>(t.edge[e].other) * kRowStride;
          for_quads(lane, kGeometricQuads, [&](int q, int) {
            const int f = geometric_place(q), degree = q / kBlockQuads;
            const Quad ij = load(own + kGeometricQuery + f) * load(other + kGeometricKey + f);
            const Quad ji = load(other + kGeometricQuery + f) * load(own + kGeometricKey + f);
            t.filter[e][q] = (cutoff * of.of_ij[c][degree]) * ij + (cutoff * of.of_ji[c][degree]) * ji;
          });
        }
        __syncwarp();
        filters_adjoint(t, adjoint, matrices, 1, c, lane, kGeometricQuads, hidden_in);
      }

      // Euclidean variables through the invariants; vectors.
      if (lane < ORDERS) {
        const int degree = degree_of(lane);
        for (int e = 0; e < TILE; ++e) {
          const Real difference =
              projections[static_cast<Size>(t.edge[e].other) * kRowStride + kChi + lane] - own[kChi + lane];
#pragma unroll
          for (int c = 0; c < CHANNELS; ++c) to_order[c] -= difference * adjoint.edge[e].of_invariants[c][degree];
        }
      }
      if (lane < TILE && start + lane < count) {
        const Geometry g = t.edge[lane].geometry;
        const EdgeAdjoint& of = adjoint.edge[lane];
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
          Real gradient[3];
          vector_gradient(g, of.cutoff[c], of.distance[c], [&](int m) { return of.harmonics[c][m]; }, gradient);
          gradients.add(c, g.vector, gradient);
        }
      }
    }
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      Real* to = row_gradients + ((row - first) * CHANNELS + c) * kRowStride;
      store_features(to, to_query[c], lane);
      store_features(to + kKey, to_key[c], lane);
      store_features(to + kValue, to_value[c], lane);
      store_geometric(to + kGeometricQuery, to_geometric_query[c], lane);
      store_geometric(to + kGeometricKey, to_geometric_key[c], lane);
      if (lane < ORDER_STRIDE) to[kChi + lane] = lane < ORDERS ? to_order[c] : Real(0);
    }
    gradients.store(row, lane, forces, strains + 9 * (row - first), virials);
  });
}

}  // namespace so3krates
