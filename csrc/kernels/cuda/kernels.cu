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

#include "edge.h"
#include "tile.h"

namespace so3krates {

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
      __syncwarp();
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
        __syncwarp();
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
      __syncwarp();

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
      __syncwarp();
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
        __syncwarp();
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
  const Sums<kFeatureSums, kWarp> feature_sums(lane);
  const Sums<2 * CHANNELS, kWarp> cutoff_sums(lane);
  const Sums<kGeometricSums, kWarp> geometric_sums(lane);
  load_matrices(matrices, hidden_out);
  const int first = static_cast<int>(capacities[2]), end = first + static_cast<int>(capacities[3]);
  for_rows(first, end < *owned ? end : *owned, [&](Size row) {
    const int count = counts[row] < static_cast<int>(slots) ? counts[row] : static_cast<int>(slots);
    const Real* own = projections + row * kRowStride;
    const Real* lambda_i = adjoints + row * CHANNELS * kMessageStride;
    struct Own {
      Quad query, key, value, lambda[CHANNELS];
    };
    const auto own_quad = [&](int q) {
      Own quad{load(own + 4 * q), load(own + kKey + 4 * q), load(own + kValue + 4 * q), {}};
#pragma unroll
      for (int c = 0; c < CHANNELS; ++c) quad.lambda[c] = load(lambda_i + c * kMessageStride + 4 * q);
      return quad;
    };
    struct OwnOfDegrees {
      Quad query, key;
    };
    const auto own_quad_of_degrees = [&](int q) {
      const Real* from = own + geometric_place(q);
      return OwnOfDegrees{load(from + kGeometricQuery), load(from + kGeometricKey)};
    };
    Own own_quads[Features::most];
    OwnOfDegrees own_quads_of_degrees[Geometric::most];
    for_quads<kFeatureQuads>(lane, [&](int q, int k) { own_quads[k] = own_quad(q); });
    for_quads<kGeometricQuads>(lane, [&](int q, int k) { own_quads_of_degrees[k] = own_quad_of_degrees(q); });
    Quad to_query[CHANNELS][Features::most], to_key[CHANNELS][Features::most], to_value[CHANNELS][Features::most];
    Quad to_geometric_query[CHANNELS][Geometric::most], to_geometric_key[CHANNELS][Geometric::most];
    Rest<kFeatureQuads, 3 * CHANNELS> rest(lane);
    Rest<kGeometricQuads, 2 * CHANNELS> geometric_rest(lane);
    Real to_order[CHANNELS];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      to_order[c] = 0;
#pragma unroll
      for (int k = 0; k < Features::most; ++k) to_query[c][k] = to_key[c][k] = to_value[c][k] = zero();
#pragma unroll
      for (int k = 0; k < Geometric::most; ++k) to_geometric_query[c][k] = to_geometric_key[c][k] = zero();
    }
    Gradients gradients;
    for (int start = 0; start < count; start += TILE) {
      fill_tile<true>(t, adjoint.slope, lane, row, start, count, slots, vectors, neighbours, projections, hidden_in);
      const auto neighbour = [&](int e, int place) { return row_of<kRowStride>(projections + place, t.edge[e].other); };
      const auto lambda_of = [&](int e, int place) {
        return row_of<CHANNELS * kMessageStride>(adjoints + place, t.edge[e].other);
      };

      // Feature attention: its coefficients towards the neighbour and lambda with values, in both directions.
      fill_filters<0, kFeatureQuads>(t, matrices, lane);
      struct Read {  // a quad of an edge
        Quad w, slope, ij, ji, w_query, w_key, lambda;
      };
      const auto coefficients = [&](int e, int q, const Own& i, Real* to) {
        Read r;
        r.w = filter_of(t, e, q, table + 4 * q, &r.slope);
        const Quad q_j = load(neighbour(e, 4 * q)), k_j = load(neighbour(e, kKey + 4 * q));
        const Quad v_j = load(neighbour(e, kValue + 4 * q));
        r.ij = i.query * k_j;
        r.ji = q_j * i.key;
        const Quad w = t.edge[e].geometry.cutoff * r.w;
        r.w_query = w * q_j;
        r.w_key = w * k_j;
        add_to(to, r.w * r.ji);
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
          add_to(to + 4 + 4 * c, i.lambda[c] * v_j);
          const Quad lambda = load(lambda_of(e, c * kMessageStride + 4 * q));
          add_to(to + 4 + 4 * (CHANNELS + c), lambda * i.value);
          if (c == 0) r.lambda = lambda;
        }
        return r;
      };
      // What they give: the adjoint of the filter, but for the cutoff function, in place of the filter, then what the
      // row's own features get.
      const auto gradients_of = [&](int e, int q, const Read& r, Real* by_cutoff, auto&& add) {
        const Geometry& g = t.edge[e].geometry;
        const EdgeAdjoint& of = adjoint.edge[e];
        const Quad alpha_ji = g.cutoff * head_sums(load(of.features));
        Quad lambda[CHANNELS];
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c)
          lambda[c] = kKeepsOwn ? r.lambda : load(lambda_of(e, c * kMessageStride + 4 * q));
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
          const Quad p_ij = of.ij(c), p_ji = of.ji(c, g.vector);
          const Quad through = p_ij * r.ij + p_ji * r.ji;
          by_cutoff[c] += sum(r.w * through);
          by_cutoff[CHANNELS + c] += sum(r.slope * through);
          if (CHANNELS == 1) t.filter[e][q] = through;
          add(c, p_ij * r.w_key, p_ji * r.w_query, alpha_ji * moved(lambda, c, g.vector));
        }
      };
      {
        Real a[kFeatureSums] = {};
        for_rest<kFeatureQuads>(lane, [&](int e, int q) { coefficients(e, q, own_quad(q), a); });
#pragma unroll
        for (int k = 0; k < kFeatureSums; ++k) {
          a[k] = rest_sum<kFeatureQuads>(a[k]);
          if (lane < TILE) adjoint.edge[lane].features[k] = a[k];
        }
      }
      __syncwarp();
      for (int e = 0; e < TILE; ++e) {
        EdgeAdjoint& of = adjoint.edge[e];
        Real a[kFeatureSums] = {};
        Read read[Features::most];
        for_quads<kFeatureQuads>(
            lane, [&](int q, int k) { read[k] = coefficients(e, q, kKeepsOwn ? own_quads[k] : own_quad(q), a); });
        feature_sums.add(a, lane);
        feature_sums.each(a, [&](int k, Real value) { of.features[k] += value; });
        __syncwarp();
        Real by_cutoff[2 * CHANNELS] = {};
        for_quads<kFeatureQuads>(lane, [&](int q, int k) {
          gradients_of(e, q, read[k], by_cutoff, [&](int c, Quad query, Quad key, Quad value) {
            to_query[c][k] += query;
            to_key[c][k] += key;
            to_value[c][k] += value;
          });
        });
        cutoff_sums.add(by_cutoff, lane);
        cutoff_sums.each(by_cutoff, [&](int k, Real value) { of.of_cutoff[k] = value; });
      }
      __syncwarp();
      if (Features::rest > 0) {
        Real by_cutoff[2 * CHANNELS] = {}, to_rest[12 * CHANNELS] = {};
        for_rest<kFeatureQuads>(lane, [&](int e, int q) {
          Real a[kFeatureSums] = {};
          const Read read = coefficients(e, q, own_quad(q), a);
          gradients_of(e, q, read, by_cutoff, [&](int c, Quad query, Quad key, Quad value) {
            put(to_rest + 12 * c, query);
            put(to_rest + 12 * c + 4, key);
            put(to_rest + 12 * c + 8, value);
          });
        });
        rest.add(to_rest, lane);
#pragma unroll
        for (int k = 0; k < 2 * CHANNELS; ++k) {
          const Real value = rest_sum<kFeatureQuads>(by_cutoff[k]);
          if (lane < TILE) adjoint.edge[lane].of_cutoff[k] += value;
        }
      }
      for (int k = lane; k < TILE * CHANNELS * 4; k += kWarp)
        adjoint.edge[k % TILE].of_invariants[k / TILE / 4][k / TILE % 4] = 0;
      __syncwarp();
      for (int c = 0; c < CHANNELS; ++c) {
        const auto through = [&](int e, int q) {
          const EdgeAdjoint& of = adjoint.edge[e];
          const Quad ij = load(own + 4 * q) * load(neighbour(e, kKey + 4 * q));
          const Quad ji = load(neighbour(e, 4 * q)) * load(own + kKey + 4 * q);
          t.filter[e][q] = of.ij(c) * ij + of.ji(c, t.edge[e].geometry.vector) * ji;
        };
        if (CHANNELS > 1) {
          for (int e = 0; e < TILE; ++e) for_quads<kFeatureQuads>(lane, [&](int q, int) { through(e, q); });
          for_rest<kFeatureQuads>(lane, through);
          __syncwarp();
        }
        filters_adjoint<0, kFeatureQuads>(t, adjoint, matrices, c, lane, hidden_in);
      }

      // Geometric attention, the same way; its lambda are contracted with the harmonics first.
      for (int k = lane; k < TILE * CHANNELS; k += kWarp) {
        const int e = k % TILE, c = k / TILE;
        const Real *lambda_j = lambda_of(e, FEATURE_STRIDE),
                   *own_lambda = lambda_i + c * kMessageStride + FEATURE_STRIDE;
        const Real moved_by = c > 0 ? t.edge[e].geometry.vector[c > 0 ? c - 1 : 0] : Real(0);
        Real ij[DEGREES] = {}, ji[DEGREES] = {};
        for_orders([&](int q, auto&& each) {
          const Quad to_i = load(own_lambda + 4 * q);
          const Quad to_j = load(lambda_j + c * kMessageStride + 4 * q) + moved_by * load(lambda_j + 4 * q);
          each([&](int m, int k) {
            const Real y = t.edge[e].harmonics[m];
            ij[degree_of(m)] += y * to_i.v[k];
            ji[degree_of(m)] += y * to_j.v[k];
          });
        });
#pragma unroll
        for (int l = 0; l < DEGREES; ++l) {
          adjoint.edge[e].of_ij[c][l] = ij[l];
          adjoint.edge[e].of_ji[c][l] = parity(l) * ji[l];
        }
      }
      __syncwarp();
      fill_filters<1, kGeometricQuads>(t, matrices, lane);
      const auto geometric_gradients = [&](int e, int q, const OwnOfDegrees& i, Real* sums, auto&& add) {
        const int f = geometric_place(q), degree = q / kBlockQuads;
        const Geometry& g = t.edge[e].geometry;
        const EdgeAdjoint& of = adjoint.edge[e];
        Quad slope;
        const Quad w = filter_of(t, e, q, table + FEATURE_STRIDE + f, &slope);
        const Quad q_j = load(neighbour(e, kGeometricQuery + f)), k_j = load(neighbour(e, kGeometricKey + f));
        const Quad ij = i.query * k_j, ji = q_j * i.key;
        const Real b_ij = sum(w * ij), b_ji = sum(w * ji), slope_ij = sum(slope * ij), slope_ji = sum(slope * ji);
#pragma unroll
        for (int l = 0; l < DEGREES; ++l) {
          sums[l] += l == degree ? b_ij : Real(0);
          sums[DEGREES + l] += l == degree ? b_ji : Real(0);
        }
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
          const Real of_ij = of.of_ij[c][degree], of_ji = of.of_ji[c][degree];
          sums[2 * DEGREES + c] += of_ij * b_ij + of_ji * b_ji;
          sums[2 * DEGREES + CHANNELS + c] += of_ij * slope_ij + of_ji * slope_ji;
          if (CHANNELS == 1) t.filter[e][q] = of_ij * ij + of_ji * ji;
          add(c, (g.cutoff * of_ij) * (w * k_j), (g.cutoff * of_ji) * (w * q_j));
        }
      };
      {
        Real sums[kGeometricSums] = {}, to_rest[8 * CHANNELS] = {};
        for_rest<kGeometricQuads>(lane, [&](int e, int q) {
          geometric_gradients(e, q, own_quad_of_degrees(q), sums, [&](int c, Quad query, Quad key) {
            put(to_rest + 8 * c, query);
            put(to_rest + 8 * c + 4, key);
          });
        });
        if (Geometric::rest > 0) geometric_rest.add(to_rest, lane);
#pragma unroll
        for (int k = 0; k < kGeometricSums; ++k) {
          sums[k] = rest_sum<kGeometricQuads>(sums[k]);
          if (lane < TILE) adjoint.edge[lane].geometric[k] = sums[k];
        }
      }
      __syncwarp();
      for (int e = 0; e < TILE; ++e) {
        EdgeAdjoint& of = adjoint.edge[e];
        Real sums[kGeometricSums] = {};
        for_quads<kGeometricQuads>(lane, [&](int q, int k) {
          geometric_gradients(e, q, kKeepsOwn ? own_quads_of_degrees[k] : own_quad_of_degrees(q), sums,
                              [&](int c, Quad query, Quad key) {
                                to_geometric_query[c][k] += query;
                                to_geometric_key[c][k] += key;
                              });
        });
        geometric_sums.add(sums, lane);
        geometric_sums.each(sums, [&](int k, Real value) { of.geometric[k] += value; });
      }
      __syncwarp();
      if (lane < ORDERS) {
        const int degree = degree_of(lane);
        const Real sign = parity(degree);
        for (int e = 0; e < TILE; ++e) {
          const Geometry& g = t.edge[e].geometry;
          EdgeAdjoint& of = adjoint.edge[e];
          const Real* lambda_j = lambda_of(e, 0);
          const Real along_ij = g.cutoff * of.geometric[degree];
          const Real along_ji = g.cutoff * of.geometric[DEGREES + degree] * sign;
#pragma unroll
          for (int c = 0; c < CHANNELS; ++c) {
            Real lambda = lambda_j[c * kMessageStride + FEATURE_STRIDE + lane];
            if (c > 0) lambda += g.vector[c > 0 ? c - 1 : 0] * lambda_j[FEATURE_STRIDE + lane];
            of.harmonics[c][lane] = along_ij * lambda_i[c * kMessageStride + FEATURE_STRIDE + lane] + along_ji * lambda;
          }
        }
      }
      for (int c = 0; c < CHANNELS; ++c) {
        const auto through = [&](int e, int q) {
          const EdgeAdjoint& of = adjoint.edge[e];
          const int f = geometric_place(q), degree = q / kBlockQuads;
          const Quad ij = load(own + kGeometricQuery + f) * load(neighbour(e, kGeometricKey + f));
          const Quad ji = load(neighbour(e, kGeometricQuery + f)) * load(own + kGeometricKey + f);
          t.filter[e][q] = of.of_ij[c][degree] * ij + of.of_ji[c][degree] * ji;
        };
        if (CHANNELS > 1) {
          for (int e = 0; e < TILE; ++e) for_quads<kGeometricQuads>(lane, [&](int q, int) { through(e, q); });
          for_rest<kGeometricQuads>(lane, through);
          __syncwarp();
        }
        filters_adjoint<1, kGeometricQuads>(t, adjoint, matrices, c, lane, hidden_in);
      }

      // Euclidean variables through the invariants; vectors.
      if (lane < ORDERS) {
        const int degree = degree_of(lane);
        for (int e = 0; e < TILE; ++e) {
          const Real difference = *neighbour(e, kChi + lane) - own[kChi + lane];
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
          const Real cutoff = of.of_cutoff[c] + of.geometric[2 * DEGREES + c];
          const Real distance = g.cutoff * (of.of_cutoff[CHANNELS + c] + of.geometric[2 * DEGREES + CHANNELS + c]);
          vector_gradient(g, cutoff, distance, [&](int m) { return of.harmonics[c][m]; }, gradient);
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
    Real* const to = row_gradients + (row - first) * CHANNELS * kRowStride;
    rest.store(lane, [&](int k) { return to + k / 3 * kRowStride + k % 3 * kKey; }, feature_place);
    geometric_rest.store(
        lane, [&](int k) { return to + k / 2 * kRowStride + (k % 2 == 0 ? kGeometricQuery : kGeometricKey); },
        geometric_place);
    gradients.store(row, lane, forces, strains + 9 * (row - first), virials);
  });
}

}  // namespace so3krates
