// The adjoint of messages.h: what each row's projections, Euclidean variables and position get of all of its edges.
#pragma once

#include "tile.h"

namespace so3krates {

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
      __syncwarp();  // matrix units want the lanes together again
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
