// The adjoint of the feature attention (docs/model.md, a layer, step 2), for the edges of a tile and both of their
// directions: alpha_ij = phi(d) sum of q_i w_ij k_j over a head, dx_i = sum of alpha_ij v_j over j.
#pragma once

#include "tile.h"

namespace so3krates {

// A row and its neighbours in a tile: projections and lambda, the adjoints of the messages' sums.
struct RowAndNeighbours {
  const Tile& t;
  const Real *projections, *adjoints;
  const Real *own, *own_lambda;  // of the row

  SO3KRATES_INLINE RowAndNeighbours(const Tile& t, const Real* projections, const Real* adjoints, Size row)
      : t(t),
        projections(projections),
        adjoints(adjoints),
        own(projections + row * kRowStride),
        own_lambda(adjoints + row * CHANNELS * kMessageStride) {}
  // From `place` on, of the neighbour at the other end of edge e.
  SO3KRATES_INLINE const Real* other(int e, int place) const {
    return row_of<kRowStride>(projections + place, t.edge[e].other);
  }
  SO3KRATES_INLINE const Real* other_lambda(int e, int place) const {
    return row_of<CHANNELS * kMessageStride>(adjoints + place, t.edge[e].other);
  }
};

// A lane's part, for one row; sums over all of the row's tiles.
struct FeatureAttentionAdjoint {
  struct Own {  // a quad of the row
    Quad query, key, value, lambda[CHANNELS];
  };
  struct Products {  // of a quad of an edge: w, its slope, q_i k_j, q_j k_i, w q_j, w k_j; lambda_j of channel 0
    Quad w, slope, ij, ji, w_query, w_key, lambda;
  };
  using EdgeSums = Sums<kFeatureSums, kWarp>;
  using CutoffSums = Sums<2 * CHANNELS, kWarp>;

  const RowAndNeighbours& rows;
  const Real* const table;  // radial filters
  const int lane;
  Own own[Features::most];
  Quad to_query[CHANNELS][Features::most], to_key[CHANNELS][Features::most], to_value[CHANNELS][Features::most];
  Rest<kFeatureQuads, 3 * CHANNELS> rest;

  SO3KRATES_INLINE FeatureAttentionAdjoint(const RowAndNeighbours& rows, const Real* table, int lane)
      : rows(rows), table(table), lane(lane), rest(lane) {
    for_quads<kFeatureQuads>(lane, [&](int q, int k) { own[k] = own_quad(q); });
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
      for (int k = 0; k < Features::most; ++k) to_query[c][k] = to_key[c][k] = to_value[c][k] = zero();
  }

  SO3KRATES_INLINE Own own_quad(int q) const {
    Own quad{load(rows.own + 4 * q), load(rows.own + kKey + 4 * q), load(rows.own + kValue + 4 * q), {}};
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) quad.lambda[c] = load(rows.own_lambda + c * kMessageStride + 4 * q);
    return quad;
  }

  // Adds a quad's part of the sums of an edge: the coefficient towards the neighbour, and lambda with values, which are
  // the adjoints of the coefficients in both directions.
  SO3KRATES_INLINE Products coefficients(const Tile& t, int e, int q, const Own& i, Real* sums) const {
    Products p;
    p.w = filter_of(t, e, q, table + 4 * q, &p.slope);
    const Quad q_j = load(rows.other(e, 4 * q)), k_j = load(rows.other(e, kKey + 4 * q));
    const Quad v_j = load(rows.other(e, kValue + 4 * q));
    p.ij = i.query * k_j;
    p.ji = q_j * i.key;
    const Quad w = t.edge[e].geometry.cutoff * p.w;
    p.w_query = w * q_j;
    p.w_key = w * k_j;
    add_to(sums, p.w * p.ji);
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      add_to(sums + 4 + 4 * c, i.lambda[c] * v_j);
      const Quad lambda = load(rows.other_lambda(e, c * kMessageStride + 4 * q));
      add_to(sums + 4 + 4 * (CHANNELS + c), lambda * i.value);
      if (c == 0) p.lambda = lambda;
    }
    return p;
  }

  // What the coefficients' adjoints give: that of the filter, but for the cutoff function, in place of the filter, then
  // add(c, ...) what the row's own query, key and value get.
  template <typename Add>
  SO3KRATES_INLINE void gradients(Tile& t, const EdgeAdjoint& of, int e, int q, const Products& p, Real* by_cutoff,
                                  Add&& add) const {
    const Geometry& g = t.edge[e].geometry;
    const Quad alpha_ji = g.cutoff * head_sums(load(of.features));
    Quad lambda[CHANNELS];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
      lambda[c] = kKeepsOwn ? p.lambda : load(rows.other_lambda(e, c * kMessageStride + 4 * q));
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      const Quad p_ij = of.ij(c), p_ji = of.ji(c, g.vector);
      const Quad through = p_ij * p.ij + p_ji * p.ji;
      by_cutoff[c] += sum(p.w * through);
      by_cutoff[CHANNELS + c] += sum(p.slope * through);
      if (CHANNELS == 1) t.filter[e][q] = through;
      add(c, p_ij * p.w_key, p_ji * p.w_query, alpha_ji * moved(lambda, c, g.vector));
    }
  }

  SO3KRATES_INLINE void rest_coefficients(const Tile& t, TileAdjoint& adjoint) const {
    Real sums[kFeatureSums] = {};
    for_rest<kFeatureQuads>(lane, [&](int e, int q) { coefficients(t, e, q, own_quad(q), sums); });
#pragma unroll
    for (int k = 0; k < kFeatureSums; ++k) {
      sums[k] = rest_sum<kFeatureQuads>(sums[k]);
      if (lane < TILE) adjoint.edge[lane].features[k] = sums[k];
    }
  }
  SO3KRATES_INLINE void rest_gradients(Tile& t, TileAdjoint& adjoint) {
    if (Features::rest == 0) return;
    Real by_cutoff[2 * CHANNELS] = {}, to_rest[12 * CHANNELS] = {};
    for_rest<kFeatureQuads>(lane, [&](int e, int q) {
      Real sums[kFeatureSums] = {};
      const Products p = coefficients(t, e, q, own_quad(q), sums);
      gradients(t, adjoint.edge[e], e, q, p, by_cutoff, [&](int c, Quad query, Quad key, Quad value) {
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
  SO3KRATES_INLINE void edge(Tile& t, EdgeAdjoint& of, int e, const EdgeSums& edge_sums,
                             const CutoffSums& cutoff_sums) {
    Real sums[kFeatureSums] = {};
    Products products[Features::most];
    for_quads<kFeatureQuads>(
        lane, [&](int q, int k) { products[k] = coefficients(t, e, q, kKeepsOwn ? own[k] : own_quad(q), sums); });
    edge_sums.add(sums, lane);
    edge_sums.each(sums, [&](int k, Real value) { of.features[k] += value; });
    sync_warp();
    Real by_cutoff[2 * CHANNELS] = {};
    for_quads<kFeatureQuads>(lane, [&](int q, int k) {
      gradients(t, of, e, q, products[k], by_cutoff, [&](int c, Quad query, Quad key, Quad value) {
        to_query[c][k] += query;
        to_key[c][k] += key;
        to_value[c][k] += value;
      });
    });
    cutoff_sums.add(by_cutoff, lane);
    cutoff_sums.each(by_cutoff, [&](int k, Real value) { of.of_cutoff[k] = value; });
  }
  // All edges of a tile, whose filters are in t.filter.
  SO3KRATES_INLINE void add_tile(Tile& t, TileAdjoint& adjoint, const EdgeSums& edge_sums,
                                 const CutoffSums& cutoff_sums) {
    rest_coefficients(t, adjoint);
    sync_warp();
    for (int e = 0; e < TILE; ++e) edge(t, adjoint.edge[e], e, edge_sums, cutoff_sums);
    sync_warp();
    rest_gradients(t, adjoint);
  }

  // Adjoint of the filters, but for the cutoff function, of channel c; with one channel `gradients` has left it.
  SO3KRATES_INLINE void filters(Tile& t, const TileAdjoint& adjoint, int c) const {
    if (CHANNELS == 1) return;
    const auto through = [&](int e, int q) {
      const EdgeAdjoint& of = adjoint.edge[e];
      const Quad ij = load(rows.own + 4 * q) * load(rows.other(e, kKey + 4 * q));
      const Quad ji = load(rows.other(e, 4 * q)) * load(rows.own + kKey + 4 * q);
      t.filter[e][q] = of.ij(c) * ij + of.ji(c, t.edge[e].geometry.vector) * ji;
    };
    for (int e = 0; e < TILE; ++e) for_quads<kFeatureQuads>(lane, [&](int q, int) { through(e, q); });
    for_rest<kFeatureQuads>(lane, through);
    sync_warp();
  }

  // to: the row's adjoints of channel 0; the others' follow.
  SO3KRATES_INLINE void store(Real* to) const {
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      store_features(to + c * kRowStride, to_query[c], lane);
      store_features(to + c * kRowStride + kKey, to_key[c], lane);
      store_features(to + c * kRowStride + kValue, to_value[c], lane);
    }
    rest.store(lane, [&](int k) { return to + k / 3 * kRowStride + k % 3 * kKey; }, feature_place);
  }
};

}  // namespace so3krates
