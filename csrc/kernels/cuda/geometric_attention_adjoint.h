// The adjoint of the geometric attention (docs/model.md, a layer, step 3), for the edges of a tile and both of their
// directions: beta_ij = phi(d) sum of q_i w_ij k_j over a degree, dchi_i,lm = sum of beta_ij Y_lm(u_ij) over j.
#pragma once

#include "feature_attention_adjoint.h"

namespace so3krates {

// A lane's part, for one row; sums over all of the row's tiles.
struct GeometricAttentionAdjoint {
  struct Own {  // a quad of the row
    Quad query, key;
  };
  using EdgeSums = Sums<kGeometricSums, kWarp>;

  const RowAndNeighbours& rows;
  const Real* const table;  // radial filters
  const int lane;
  Own own[Geometric::most];
  Quad to_query[CHANNELS][Geometric::most], to_key[CHANNELS][Geometric::most];
  Rest<kGeometricQuads, 2 * CHANNELS> rest;

  SO3KRATES_INLINE GeometricAttentionAdjoint(const RowAndNeighbours& rows, const Real* table, int lane)
      : rows(rows), table(table), lane(lane), rest(lane) {
    for_quads<kGeometricQuads>(lane, [&](int q, int k) { own[k] = own_quad(q); });
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
      for (int k = 0; k < Geometric::most; ++k) to_query[c][k] = to_key[c][k] = zero();
  }

  SO3KRATES_INLINE Own own_quad(int q) const {
    const Real* from = rows.own + geometric_place(q);
    return Own{load(from + kGeometricQuery), load(from + kGeometricKey)};
  }

  // Adjoints of the coefficients in both directions: lambda contracted with the harmonics.
  SO3KRATES_INLINE void coefficients_adjoint(const Tile& t, TileAdjoint& adjoint) const {
    for (int k = lane; k < TILE * CHANNELS; k += kWarp) {
      const int e = k % TILE, c = k / TILE;
      const Real *lambda_j = rows.other_lambda(e, FEATURE_STRIDE),
                 *lambda_i = rows.own_lambda + c * kMessageStride + FEATURE_STRIDE;
      const Real moved_by = c > 0 ? t.edge[e].geometry.vector[c > 0 ? c - 1 : 0] : Real(0);
      Real ij[DEGREES] = {}, ji[DEGREES] = {};
      for_orders([&](int q, auto&& each) {
        const Quad to_i = load(lambda_i + 4 * q);
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
    sync_warp();
  }

  // Adds a quad's part of the sums of an edge: the coefficients and what the cutoff function and the distance get;
  // leaves the filter's adjoint, but for the cutoff function, in place of the filter; add(c, ...) what the row's own
  // query and key get.
  template <typename Add>
  SO3KRATES_INLINE void gradients(Tile& t, const EdgeAdjoint& of, int e, int q, const Own& i, Real* sums,
                                  Add&& add) const {
    const int f = geometric_place(q), degree = q / kBlockQuads;
    const Geometry& g = t.edge[e].geometry;
    Quad slope;
    const Quad w = filter_of(t, e, q, table + FEATURE_STRIDE + f, &slope);
    const Quad q_j = load(rows.other(e, kGeometricQuery + f)), k_j = load(rows.other(e, kGeometricKey + f));
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
  }

  SO3KRATES_INLINE void rest_gradients(Tile& t, TileAdjoint& adjoint) {
    Real sums[kGeometricSums] = {}, to_rest[8 * CHANNELS] = {};
    for_rest<kGeometricQuads>(lane, [&](int e, int q) {
      gradients(t, adjoint.edge[e], e, q, own_quad(q), sums, [&](int c, Quad query, Quad key) {
        put(to_rest + 8 * c, query);
        put(to_rest + 8 * c + 4, key);
      });
    });
    if (Geometric::rest > 0) rest.add(to_rest, lane);
#pragma unroll
    for (int k = 0; k < kGeometricSums; ++k) {
      sums[k] = rest_sum<kGeometricQuads>(sums[k]);
      if (lane < TILE) adjoint.edge[lane].geometric[k] = sums[k];
    }
  }
  SO3KRATES_INLINE void edge(Tile& t, EdgeAdjoint& of, int e, const EdgeSums& edge_sums) {
    Real sums[kGeometricSums] = {};
    for_quads<kGeometricQuads>(lane, [&](int q, int k) {
      gradients(t, of, e, q, kKeepsOwn ? own[k] : own_quad(q), sums, [&](int c, Quad query, Quad key) {
        to_query[c][k] += query;
        to_key[c][k] += key;
      });
    });
    edge_sums.add(sums, lane);
    edge_sums.each(sums, [&](int k, Real value) { of.geometric[k] += value; });
  }
  // All edges of a tile, whose filters are in t.filter.
  SO3KRATES_INLINE void add_tile(Tile& t, TileAdjoint& adjoint, const EdgeSums& edge_sums) {
    rest_gradients(t, adjoint);
    sync_warp();
    for (int e = 0; e < TILE; ++e) edge(t, adjoint.edge[e], e, edge_sums);
    sync_warp();
  }

  // Adjoints of the harmonics, a lane for each order.
  SO3KRATES_INLINE void harmonics_adjoint(const Tile& t, TileAdjoint& adjoint) const {
    if (lane < ORDERS) {
      const int degree = degree_of(lane);
      const Real sign = parity(degree);
      for (int e = 0; e < TILE; ++e) {
        const Geometry& g = t.edge[e].geometry;
        EdgeAdjoint& of = adjoint.edge[e];
        const Real* lambda_j = rows.other_lambda(e, 0);
        const Real along_ij = g.cutoff * of.geometric[degree];
        const Real along_ji = g.cutoff * of.geometric[DEGREES + degree] * sign;
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
          Real lambda = lambda_j[c * kMessageStride + FEATURE_STRIDE + lane];
          if (c > 0) lambda += g.vector[c > 0 ? c - 1 : 0] * lambda_j[FEATURE_STRIDE + lane];
          of.harmonics[c][lane] =
              along_ij * rows.own_lambda[c * kMessageStride + FEATURE_STRIDE + lane] + along_ji * lambda;
        }
      }
    }
    sync_warp();  // matrix units want the lanes together again
  }

  // Adjoint of the filters, but for the cutoff function, of channel c; with one channel `gradients` has left it.
  SO3KRATES_INLINE void filters(Tile& t, const TileAdjoint& adjoint, int c) const {
    if (CHANNELS == 1) return;
    const auto through = [&](int e, int q) {
      const EdgeAdjoint& of = adjoint.edge[e];
      const int f = geometric_place(q), degree = q / kBlockQuads;
      const Quad ij = load(rows.own + kGeometricQuery + f) * load(rows.other(e, kGeometricKey + f));
      const Quad ji = load(rows.other(e, kGeometricQuery + f)) * load(rows.own + kGeometricKey + f);
      t.filter[e][q] = of.of_ij[c][degree] * ij + of.of_ji[c][degree] * ji;
    };
    for (int e = 0; e < TILE; ++e) for_quads<kGeometricQuads>(lane, [&](int q, int) { through(e, q); });
    for_rest<kGeometricQuads>(lane, through);
    sync_warp();
  }

  // to: the row's adjoints of channel 0; the others' follow.
  SO3KRATES_INLINE void store(Real* to) const {
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      store_geometric(to + c * kRowStride + kGeometricQuery, to_query[c], lane);
      store_geometric(to + c * kRowStride + kGeometricKey, to_key[c], lane);
    }
    rest.store(
        lane, [&](int k) { return to + k / 2 * kRowStride + (k % 2 == 0 ? kGeometricQuery : kGeometricKey); },
        geometric_place);
  }
};

}  // namespace so3krates
