// Messages of one interaction and their adjoints, over runs of pairs that share a centre.
//
// Everything is vectorised over features: a lane is a feature, a centre's features and sums stay in
// registers while its neighbours pass by. A pair with both directions reads its filter once.
//
// Rows: source (S = 6F: phi1 phi2 phi3 v0 v1 v2; in the first interaction S = 2F, one row a species),
// sums h (F) and v (3F), adjoint of a source (5F: phi1 phi2, then three of the carried vector phi3 v).
#pragma once

#include "limbeck/gemm.hpp"

namespace LIMBECK_ISA {

template <class V, class T>
inline V get(const T *p) {
  return *reinterpret_cast<const V *>(p);  // V may alias T and needs no more than its alignment
}
template <class V, class T>
inline void put(T *p, const V &v) {
  *reinterpret_cast<V *>(p) = v;
}
template <class V, class T>
inline void add(T *p, const V &v) {
  put<V>(p, get<V>(p) + v);
}

// Pairs [first, last) of one centre; the filters of pair `base` lie at the start of `filter`.
template <class T>
struct Run {
  std::size_t first, last, base;
  int centre;         // row of sums and adjoints
  const int *atom;    // (pairs,) row of the neighbour's source and adjoints
  const int *slot;    // (pairs,) row where what the neighbour receives is added up
  const T *unit;      // (pairs, 3) from the centre to the neighbour
  const int *source;  // (atoms,) row of an atom's source: the atom itself or its species
  const T *sources;
  T *filter;  // (run, NP F); the backward pass leaves the filter's adjoint there
  T *h, *v;   // sums, later dE/d(sums)
  T *back;    // adjoints of the sources
  T *along;   // (run, 3, lanes) partial sums of dE/d(unit)
  int F;
};

// Features f .. f + lanes of V.
template <int NP, bool BOTH, class V, class T>
inline void message(const Run<T> &run, int f) {
  const int F = run.F, S = NP == 3 ? 6 * F : 2 * F;
  T *hi = run.h + std::size_t(run.centre) * F + f, *vi = run.v + std::size_t(run.centre) * 3 * F + f;
  V sum = get<V>(hi), sum0 = get<V>(vi), sum1 = get<V>(vi + F), sum2 = get<V>(vi + 2 * F);
  V p1i{}, p2i{}, m0i{}, m1i{}, m2i{};
  if (BOTH) {
    const T *s = run.sources + std::size_t(run.source[run.centre]) * S + f;
    p1i = get<V>(s), p2i = get<V>(s + F);
    if (NP == 3) {
      const V p3i = get<V>(s + 2 * F);
      m0i = p3i * get<V>(s + 3 * F), m1i = p3i * get<V>(s + 4 * F), m2i = p3i * get<V>(s + 5 * F);
    }
  }
  for (std::size_t p = run.first; p < run.last; ++p) {
    const T *w = run.filter + (p - run.base) * NP * F + f;
    const T *s = run.sources + std::size_t(run.source[run.atom[p]]) * S + f;
    const T u0 = run.unit[3 * p], u1 = run.unit[3 * p + 1], u2 = run.unit[3 * p + 2];
    const V w1 = get<V>(w), w2 = get<V>(w + F);
    const V a = w2 * get<V>(s + F);
    sum += w1 * get<V>(s);
    sum0 += a * u0, sum1 += a * u1, sum2 += a * u2;
    V w3{};
    if (NP == 3) {
      w3 = get<V>(w + 2 * F);
      const V g = w3 * get<V>(s + 2 * F);
      sum0 += g * get<V>(s + 3 * F), sum1 += g * get<V>(s + 4 * F), sum2 += g * get<V>(s + 5 * F);
    }
    if (BOTH) {
      T *hj = run.h + std::size_t(run.slot[p]) * F + f, *vj = run.v + std::size_t(run.slot[p]) * 3 * F + f;
      const V b = w2 * p2i;
      add<V>(hj, w1 * p1i);
      V x0 = get<V>(vj) - b * u0, x1 = get<V>(vj + F) - b * u1, x2 = get<V>(vj + 2 * F) - b * u2;
      if (NP == 3) x0 += w3 * m0i, x1 += w3 * m1i, x2 += w3 * m2i;
      put<V>(vj, x0), put<V>(vj + F, x1), put<V>(vj + 2 * F, x2);
    }
  }
  put<V>(hi, sum), put<V>(vi, sum0), put<V>(vi + F, sum1), put<V>(vi + 2 * F, sum2);
}

template <int NP, bool BOTH, class V, class T>
inline void message_adjoint(const Run<T> &run, int f, int lane_stride, bool fresh) {
  const int F = run.F, S = NP == 3 ? 6 * F : 2 * F;
  const T *hi = run.h + std::size_t(run.centre) * F + f, *vi = run.v + std::size_t(run.centre) * 3 * F + f;
  const V h = get<V>(hi), v0 = get<V>(vi), v1 = get<V>(vi + F), v2 = get<V>(vi + 2 * F);
  V p1i{}, p2i{}, m0i{}, m1i{}, m2i{};
  if (BOTH) {
    const T *s = run.sources + std::size_t(run.source[run.centre]) * S + f;
    p1i = get<V>(s), p2i = get<V>(s + F);
    if (NP == 3) {
      const V p3i = get<V>(s + 2 * F);
      m0i = p3i * get<V>(s + 3 * F), m1i = p3i * get<V>(s + 4 * F), m2i = p3i * get<V>(s + 5 * F);
    }
  }
  V b1{}, b2{}, k0{}, k1{}, k2{};
  for (std::size_t p = run.first; p < run.last; ++p) {
    T *w = run.filter + (p - run.base) * NP * F + f;
    const T *s = run.sources + std::size_t(run.source[run.atom[p]]) * S + f;
    const T u0 = run.unit[3 * p], u1 = run.unit[3 * p + 1], u2 = run.unit[3 * p + 2];
    const V w1 = get<V>(w), w2 = get<V>(w + F), p2j = get<V>(s + F);
    // the message from the neighbour to the centre
    const V vu = v0 * u0 + v1 * u1 + v2 * u2;
    V wb1 = h * get<V>(s), wb2 = vu * p2j, wb3{}, w3{};
    const V a = w2 * p2j;
    V x0 = a * v0, x1 = a * v1, x2 = a * v2;
    T *bj = nullptr;
    if (NP == 3) {
      w3 = get<V>(w + 2 * F);
      wb3 = get<V>(s + 2 * F) * (v0 * get<V>(s + 3 * F) + v1 * get<V>(s + 4 * F) + v2 * get<V>(s + 5 * F));
      bj = run.back + std::size_t(run.slot[p]) * 5 * F + f;
      add<V>(bj, w1 * h);
      add<V>(bj + F, w2 * vu);
      add<V>(bj + 2 * F, w3 * v0), add<V>(bj + 3 * F, w3 * v1), add<V>(bj + 4 * F, w3 * v2);
    }
    if (BOTH) {  // and back
      const T *hj = run.h + std::size_t(run.atom[p]) * F + f,
              *vj = run.v + std::size_t(run.atom[p]) * 3 * F + f;
      const V g = get<V>(hj), y0 = get<V>(vj), y1 = get<V>(vj + F), y2 = get<V>(vj + 2 * F);
      const V yu = y0 * u0 + y1 * u1 + y2 * u2;
      wb1 += g * p1i, wb2 -= yu * p2i;
      const V b = w2 * p2i;
      x0 -= b * y0, x1 -= b * y1, x2 -= b * y2;
      if (NP == 3) {
        wb3 += y0 * m0i + y1 * m1i + y2 * m2i;
        b1 += w1 * g, b2 -= w2 * yu;
        k0 += w3 * y0, k1 += w3 * y1, k2 += w3 * y2;
      }
    }
    T *x = run.along + (p - run.base) * 3 * lane_stride;
    if (!fresh) {
      x0 += get<V>(x), x1 += get<V>(x + lane_stride), x2 += get<V>(x + 2 * lane_stride);
    }
    put<V>(x, x0), put<V>(x + lane_stride, x1), put<V>(x + 2 * lane_stride, x2);
    put<V>(w, wb1), put<V>(w + F, wb2);
    if (NP == 3) put<V>(w + 2 * F, wb3);
  }
  if (NP == 3 && BOTH) {
    T *b = run.back + std::size_t(run.centre) * 5 * F + f;
    add<V>(b, b1), add<V>(b + F, b2), add<V>(b + 2 * F, k0), add<V>(b + 3 * F, k1), add<V>(b + 4 * F, k2);
  }
}

// Vector type and lanes of a scalar; numbers that are no machine type go one at a time.
template <class T, bool = std::is_arithmetic<T>::value>
struct Lanes {
  using type = typename Vector<T>::type;
  static constexpr int width = Vector<T>::width;
};
template <class T>
struct Lanes<T, false> {
  using type = T;
  static constexpr int width = 1;
};

template <int NP, bool BOTH, class T>
inline void messages(const Run<T> &run) {
  if (run.first == run.last) return;
  using V = typename Lanes<T>::type;
  constexpr int W = Lanes<T>::width;
  int f = 0;
  for (; f + W <= run.F; f += W) message<NP, BOTH, V>(run, f);
  for (; f < run.F; ++f) message<NP, BOTH, T>(run, f);
}

// dE/d(unit) of each pair comes back in the first lane of `along`.
template <int NP, bool BOTH, class T>
inline void message_adjoints(const Run<T> &run) {
  if (run.first == run.last) return;
  using V = typename Lanes<T>::type;
  constexpr int W = Lanes<T>::width;
  int f = 0;
  if (run.F < W)
    for (std::size_t e = (run.first - run.base) * 3 * W; e < (run.last - run.base) * 3 * W; ++e)
      run.along[e] = T(0);
  for (; f + W <= run.F; f += W) message_adjoint<NP, BOTH, V>(run, f, W, f == 0);
  for (; f < run.F; ++f) message_adjoint<NP, BOTH, T>(run, f, W, false);
}

}  // namespace LIMBECK_ISA
