// Attention along a list of pairs and its derivatives of first and second order, for training (docs/training.md). A
// pair (i, j) is visited once for both of its directions; coefficient 0 is that of i <- j, coefficient 1 that of j <-
// i.
//
//   attend:  a0 = sum_f q_i w k_j,  a1 = sum_f q_j w k_i   (f within a head)
//   gather:  m_i += a0 v_j,  m_j += a1 v_i
#pragma once

#include "body.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

// Rows of the two atoms of a pair, and where it stands.
struct PairEnds {
  std::size_t i, j, pair;
};

template <typename Visit>
void for_each_pair(const AttentionShape& s, Range range, const Visit& visit) {
  const std::size_t features = static_cast<std::size_t>(s.heads) * s.width;
  for (int p = range.begin; p < range.end; ++p)
    visit(PairEnds{s.first[p] * features, s.second[p] * features, p * features}, static_cast<std::size_t>(p) * s.heads);
}

template <typename Real>
void attend(const AttentionShape& s, Range range, const AttentionArrays<Real>& a) {
  const std::size_t other_way = static_cast<std::size_t>(s.pairs) * s.heads;
  for_each_pair(s, range, [&](PairEnds at, std::size_t coefficient) {
    const Real* __restrict qi = a.query + at.i;
    const Real* __restrict qj = a.query + at.j;
    const Real* __restrict ki = a.key + at.i;
    const Real* __restrict kj = a.key + at.j;
    const Real* __restrict w = a.filter + at.pair;
    for (int h = 0, f = 0; h < s.heads; ++h) {
      Real sum0 = 0, sum1 = 0;
      const int begin = f, end = f + s.width;
#pragma omp simd reduction(+ : sum0, sum1)
      for (f = begin; f < end; ++f) {
        sum0 += qi[f] * w[f] * kj[f];
        sum1 += qj[f] * w[f] * ki[f];
      }
      a.coefficient_out[coefficient + h] = sum0;
      a.coefficient_out[other_way + coefficient + h] = sum1;
    }
  });
}

template <typename Real>
void attend_adjoint(const AttentionShape& s, Range range, const AttentionArrays<Real>& a) {
  const std::size_t other_way = static_cast<std::size_t>(s.pairs) * s.heads;
  for_each_pair(s, range, [&](PairEnds at, std::size_t coefficient) {
    const Real* __restrict qi = a.query + at.i;
    const Real* __restrict qj = a.query + at.j;
    const Real* __restrict ki = a.key + at.i;
    const Real* __restrict kj = a.key + at.j;
    const Real* __restrict w = a.filter + at.pair;
    // An atom may be its own neighbour: rows i and j may be the same, so they are added to in turn.
    Real* q_out_i = a.query_out + at.i;
    Real* q_out_j = a.query_out + at.j;
    Real* k_out_i = a.key_out + at.i;
    Real* k_out_j = a.key_out + at.j;
    Real* __restrict w_out = a.filter_out + at.pair;
    for (int h = 0, f = 0; h < s.heads; ++h) {
      const Real c0 = a.coefficient[coefficient + h], c1 = a.coefficient[other_way + coefficient + h];
      const int begin = f, end = f + s.width;
#pragma omp simd
      for (f = begin; f < end; ++f) {
        w_out[f] = c0 * qi[f] * kj[f] + c1 * qj[f] * ki[f];
        q_out_i[f] += c0 * w[f] * kj[f];
        k_out_i[f] += c1 * w[f] * qj[f];
      }
#pragma omp simd
      for (f = begin; f < end; ++f) {
        q_out_j[f] += c1 * w[f] * ki[f];
        k_out_j[f] += c0 * w[f] * qi[f];
      }
    }
  });
}

// Derivative of attend_adjoint's results, contracted with (query_t, filter_t, key_t), with respect to its arguments.
template <typename Real>
void attend_second(const AttentionShape& s, Range range, const AttentionArrays<Real>& a) {
  const std::size_t other_way = static_cast<std::size_t>(s.pairs) * s.heads;
  for_each_pair(s, range, [&](PairEnds at, std::size_t coefficient) {
    const Real* __restrict qi = a.query + at.i;
    const Real* __restrict qj = a.query + at.j;
    const Real* __restrict ki = a.key + at.i;
    const Real* __restrict kj = a.key + at.j;
    const Real* __restrict w = a.filter + at.pair;
    const Real* __restrict qti = a.query_t + at.i;
    const Real* __restrict qtj = a.query_t + at.j;
    const Real* __restrict kti = a.key_t + at.i;
    const Real* __restrict ktj = a.key_t + at.j;
    const Real* __restrict wt = a.filter_t + at.pair;
    Real* q_out_i = a.query_out + at.i;
    Real* q_out_j = a.query_out + at.j;
    Real* k_out_i = a.key_out + at.i;
    Real* k_out_j = a.key_out + at.j;
    Real* __restrict w_out = a.filter_out + at.pair;
    for (int h = 0, f = 0; h < s.heads; ++h) {
      const Real c0 = a.coefficient[coefficient + h], c1 = a.coefficient[other_way + coefficient + h];
      const int begin = f, end = f + s.width;
      Real sum0 = 0, sum1 = 0;
#pragma omp simd reduction(+ : sum0, sum1)
      for (f = begin; f < end; ++f) {
        const Real qk0 = qti[f] * kj[f] + qi[f] * ktj[f], qk1 = qtj[f] * ki[f] + qj[f] * kti[f];
        sum0 += w[f] * qk0 + wt[f] * qi[f] * kj[f];
        sum1 += w[f] * qk1 + wt[f] * qj[f] * ki[f];
        w_out[f] = c0 * qk0 + c1 * qk1;
        q_out_i[f] += c0 * (w[f] * ktj[f] + wt[f] * kj[f]);
        k_out_i[f] += c1 * (w[f] * qtj[f] + wt[f] * qj[f]);
      }
#pragma omp simd
      for (f = begin; f < end; ++f) {
        q_out_j[f] += c1 * (w[f] * kti[f] + wt[f] * ki[f]);
        k_out_j[f] += c0 * (w[f] * qti[f] + wt[f] * qi[f]);
      }
      a.coefficient_out[coefficient + h] = sum0;
      a.coefficient_out[other_way + coefficient + h] = sum1;
    }
  });
}

// Here `key` holds the values and `query` the adjoints of the sums; the second-order arguments are those of
// gather_adjoint's results.
template <typename Real>
void gather(const AttentionShape& s, Range range, const AttentionArrays<Real>& a) {
  const std::size_t other_way = static_cast<std::size_t>(s.pairs) * s.heads;
  for_each_pair(s, range, [&](PairEnds at, std::size_t coefficient) {
    const Real* vi = a.key + at.i;
    const Real* vj = a.key + at.j;
    Real* out_i = a.query_out + at.i;
    Real* out_j = a.query_out + at.j;
    for (int h = 0, f = 0; h < s.heads; ++h) {
      const Real c0 = a.coefficient[coefficient + h], c1 = a.coefficient[other_way + coefficient + h];
      const int begin = f, end = f + s.width;
#pragma omp simd
      for (f = begin; f < end; ++f) out_i[f] += c0 * vj[f];
#pragma omp simd
      for (f = begin; f < end; ++f) out_j[f] += c1 * vi[f];
    }
  });
}

template <typename Real>
void gather_adjoint(const AttentionShape& s, Range range, const AttentionArrays<Real>& a) {
  const std::size_t other_way = static_cast<std::size_t>(s.pairs) * s.heads;
  for_each_pair(s, range, [&](PairEnds at, std::size_t coefficient) {
    const Real* mi = a.query + at.i;
    const Real* mj = a.query + at.j;
    const Real* vi = a.key + at.i;
    const Real* vj = a.key + at.j;
    Real* out_i = a.key_out + at.i;
    Real* out_j = a.key_out + at.j;
    for (int h = 0, f = 0; h < s.heads; ++h) {
      const Real c0 = a.coefficient[coefficient + h], c1 = a.coefficient[other_way + coefficient + h];
      const int begin = f, end = f + s.width;
      Real sum0 = 0, sum1 = 0;
#pragma omp simd reduction(+ : sum0, sum1)
      for (f = begin; f < end; ++f) {
        sum0 += mi[f] * vj[f];
        sum1 += mj[f] * vi[f];
        out_i[f] += c1 * mj[f];
      }
#pragma omp simd
      for (f = begin; f < end; ++f) out_j[f] += c0 * mi[f];
      a.coefficient_out[coefficient + h] = sum0;
      a.coefficient_out[other_way + coefficient + h] = sum1;
    }
  });
}

// Derivative of gather_adjoint's results, contracted with (coefficient_t, key_t), with respect to its arguments.
template <typename Real>
void gather_second(const AttentionShape& s, Range range, const AttentionArrays<Real>& a) {
  const std::size_t other_way = static_cast<std::size_t>(s.pairs) * s.heads;
  for_each_pair(s, range, [&](PairEnds at, std::size_t coefficient) {
    const Real* mi = a.query + at.i;
    const Real* mj = a.query + at.j;
    const Real* vi = a.key + at.i;
    const Real* vj = a.key + at.j;
    const Real* vti = a.key_t + at.i;
    const Real* vtj = a.key_t + at.j;
    Real* m_out_i = a.query_out + at.i;
    Real* m_out_j = a.query_out + at.j;
    Real* v_out_i = a.key_out + at.i;
    Real* v_out_j = a.key_out + at.j;
    for (int h = 0, f = 0; h < s.heads; ++h) {
      const std::size_t at0 = coefficient + h, at1 = other_way + at0;
      const Real c0 = a.coefficient[at0], c1 = a.coefficient[at1], t0 = a.coefficient_t[at0], t1 = a.coefficient_t[at1];
      const int begin = f, end = f + s.width;
      Real sum0 = 0, sum1 = 0;
#pragma omp simd reduction(+ : sum0, sum1)
      for (f = begin; f < end; ++f) {
        sum0 += vtj[f] * mi[f];
        sum1 += vti[f] * mj[f];
        m_out_i[f] += t0 * vj[f] + c0 * vtj[f];
        v_out_i[f] += t1 * mj[f];
      }
#pragma omp simd
      for (f = begin; f < end; ++f) {
        m_out_j[f] += t1 * vi[f] + c1 * vti[f];
        v_out_j[f] += t0 * mi[f];
      }
      a.coefficient_out[at0] = sum0;
      a.coefficient_out[at1] = sum1;
    }
  });
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
