// Functions of edges' vectors as the CPU's kernels compute them, or, with the macros SIZES (definitions of a network,
// so3krates_export/cuda.py) and HOST_CUDA (the path of host_cuda.h), those of a GPU; test_edge_kernels.py compares.
//
// Reads, as binary doubles: number of the cutoff function, order of the polynomial one, cutoff (A), nodes, start and
// step of the splines, edges; vectors [edges][3]; coefficients of one spline [nodes]; what the harmonics' gradient is
// contracted with [edges][24]. Writes for each edge: phi and its slope, the spline and its slope, 24 harmonics of
// degrees 1 to 4, and the gradient of phi + spline + contracted harmonics.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#ifdef HOST_CUDA
#include SIZES
#include HOST_CUDA

#include "edge.h"
#else
#include "batch.h"
#endif

constexpr int kOrders = 24, kResults = 4 + kOrders + 3;

struct Task {
  int kind, order;
  double cutoff;
  int nodes;
  double start, step;
  std::vector<double> vectors, coefficients, weights;
  std::size_t edges;
};

std::vector<double> read(std::size_t count) {
  std::vector<double> numbers(count);
  if (std::fread(numbers.data(), sizeof(double), count, stdin) != count) std::exit(2);
  return numbers;
}

// Of each node on: the spline's value and its slope from weights of coefficients and of their differences.
template <typename Real, typename Weight>
void spline(const Task& t, int node, Weight weight, Real* results) {
  Real value = 0, slope = 0;
  for (int k = 0; k < 4; ++k) value += weight(k, false) * Real(t.coefficients[node + k]);
  for (int k = 0; k < 3; ++k) slope += weight(k, true) * Real(t.coefficients[node + k + 1] - t.coefficients[node + k]);
  results[2] = value;
  results[3] = slope;
}

#ifdef HOST_CUDA
using namespace so3krates;

void compute(const Task& t, std::size_t first, std::size_t count, double* results) {
  for (std::size_t e = first; e < first + count; ++e, results += kResults) {
    Geometry g = geometry_of(&t.vectors[3 * e]);
    const double d = 1 / g.inverse_distance;
    cutoff_function<double>(static_cast<Cutoff>(t.kind), t.order, 1 / t.cutoff, d, g.cutoff, g.cutoff_slope);
    results[0] = g.cutoff;
    results[1] = g.cutoff_slope;
    spline(t, g.node, [&](int k, bool is_slope) { return is_slope ? g.spline_slope[k] : g.spline[k]; }, results);
    harmonics_of(g.unit[0], g.unit[1], g.unit[2], [&](int m, double y) { results[4 + m] = y; });
    vector_gradient(g, 1.0, results[3], [&](int m) { return t.weights[kOrders * e + m]; }, results + 4 + kOrders);
  }
}
constexpr std::size_t kAtOnce = 1;
#else
using namespace so3krates::kernels;
using namespace so3krates::kernels::SO3KRATES_KERNEL_SET;

template <typename Real>
void compute_batch(const Task& t, std::size_t first, std::size_t count, double* results) {
  Layout layout{};
  layout.degrees = 4;
  for (int l = 0; l < 4; ++l) layout.degree[l] = l + 1;
  layout.orders = kOrders;
  layout.order_stride = kMostOrders;
  layout.cutoff_function = static_cast<Cutoff>(t.kind);
  layout.polynomial_order = t.order;
  layout.cutoff = t.cutoff;
  layout.nodes = t.nodes;
  layout.spline_start = t.start;
  layout.spline_step = t.step;
  static Batch<Real> batch;
  static GeometryAdjoint<Real> adjoint;
  for (int e = 0; e < kBatch; ++e)
    for (int a = 0; a < 3; ++a) batch.vector[a][e] = Real(t.vectors[3 * (first + e % count) + a]);
  fill_geometry(layout, batch);
  std::vector<Real> found(kResults * count);
  for (std::size_t e = 0; e < count; ++e) {
    Real* of = &found[kResults * e];
    of[0] = batch.cutoff[e];
    of[1] = batch.cutoff_slope[e];
    spline(
        t, batch.node[e],
        [&](int k, bool is_slope) { return is_slope ? batch.spline_slope[k][e] : batch.spline[k][e]; }, of);
    for (int m = 0; m < kOrders; ++m) of[4 + m] = batch.harmonics[e][m];
    adjoint.cutoff[e] = 1;
    adjoint.distance[e] = of[3];
    for (int m = 0; m < kOrders; ++m) adjoint.harmonics[e][m] = Real(t.weights[kOrders * (first + e) + m]);
  }
  geometry_adjoint(layout, batch, adjoint);
  for (std::size_t e = 0; e < count; ++e)
    for (int a = 0; a < 3; ++a) found[kResults * e + 4 + kOrders + a] = adjoint.vector[a][e];
  for (std::size_t k = 0; k < found.size(); ++k) results[k] = found[k];
}

bool is_single = false;
void compute(const Task& t, std::size_t first, std::size_t count, double* results) {
  is_single ? compute_batch<float>(t, first, count, results) : compute_batch<double>(t, first, count, results);
}
constexpr std::size_t kAtOnce = kBatch;
#endif

int main(int count, char**) {
#ifndef HOST_CUDA
  is_single = count > 1;
#else
  (void)count;
#endif
  const std::vector<double> sizes = read(7);
  Task t{int(sizes[0]), int(sizes[1]), sizes[2], int(sizes[3]), sizes[4], sizes[5], {}, {}, {}, std::size_t(sizes[6])};
  t.vectors = read(3 * t.edges);
  t.coefficients = read(static_cast<std::size_t>(t.nodes));
  t.weights = read(kOrders * t.edges);
  std::vector<double> results(kResults * t.edges);
  for (std::size_t e = 0; e < t.edges; e += kAtOnce)
    compute(t, e, e + kAtOnce < t.edges ? kAtOnce : t.edges - e, &results[kResults * e]);
  std::fwrite(results.data(), sizeof(double), results.size(), stdout);
}
