// The fused edge kernels for a GPU: the operations of ../first_layer.h and ../edges.h on the arrays of ../layout.h, but
// with lists of neighbours in place of pairs. A warp computes one owned row: it gathers its neighbours' rows, keeps
// all sums in registers and writes the row once. No atomics, so results are equal to the bit from run to run.
//
// Compiled at run time for one network and one GPU (cuda_kernels.cpp in ../../runtime): its sizes are macros, given in
// so3krates_export/cuda.py. Every kernel takes the inputs of its custom call, then the results.
//
// A tile is TILE neighbours of the row. The degree filters of a tile are a product [TILE][HIDDEN] x
// [HIDDEN][features], on matrix units. What follows is done edge by edge, where lane l holds quads l, l + 32, ...;
// where a few quads are left over, lane l holds one of them, for edge l % TILE.
//
// HIP's compiler takes this source too (language.h).

#include "edge.h"
#include "messages.h"
#include "messages_adjoint.h"
#ifdef LONG_CELLS
#include "long_pairs.h"
#endif

namespace so3krates {

// ---- neighbours

// In all kernels `capacities` are the candidates and the neighbours that a row has room for; then, for
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
      const unsigned mask = ballot(inside);
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

}  // namespace so3krates
