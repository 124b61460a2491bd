// Messages of one interaction and their adjoints, over runs of pairs that share a centre.
//
// A row of features is cut into slices of one cache line per quantity, and the values that a pair needs of a
// slice are contiguous:
//
//     source   phi1 phi2 phi3 v0 v1 v2   (in the first interaction phi1 phi2, one row a species)
//     sums     h v0 v1 v2                (what an atom receives; on the way back dE/d of it)
//     back     phi1 phi2 k0 k1 k2        (adjoint of a source; k: of the carried vector phi3 v)
//
// A batch of pairs is processed slice by slice: neighbours that consecutive centres share are then still in
// the first cache. A centre's own slice stays in registers over its neighbours.
#pragma once

#include "limbeck/gemm.hpp"

namespace LIMBECK_ISA {

// Values in a slice; one for numbers that are not a machine type.
template <class T>
constexpr int kSlice = std::is_arithmetic<T>::value ? int(64 / sizeof(T)) : 1;

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

// Pairs [first, last) of a batch that share a centre. The pointers to rows are those of the slice.
template <class T>
struct Run {
  int first, last;
  int centre, centre_source, centre_back;  // rows
  const int *row;                          // (batch,) where what the neighbour receives is added up
  const int *atom, *source, *back_row;     // (batch,) the neighbour's own sums, source and adjoint
  const T *unit;                           // (batch, 3) from the centre to the neighbour
  const T *filter, *slope;                 // (batch, NP slice) and its derivative with distance
  const T *sources;
  T *sums, *back;
  T *along;  // (batch, 4, lanes) partial sums of dE/dr along the filter and of dE/d(unit)
  int sources_width, sums_width, back_width;
  // (batch,) of dual numbers: from an adjoint about the neighbour to one about the centre; see
  // centroid_virial
  const T *to_centre, *to_neighbour;
};

template <int NP, bool BOTH, class V, class T>
inline void message(const Run<T> &run, int e) {
  constexpr int S = kSlice<T>;
  T *ci = run.sums + std::size_t(run.centre) * run.sums_width + e;
  V sum = get<V>(ci), sum0 = get<V>(ci + S), sum1 = get<V>(ci + 2 * S), sum2 = get<V>(ci + 3 * S);
  V p1i{}, p2i{}, m0i{}, m1i{}, m2i{};
  if (BOTH) {
    const T *s = run.sources + std::size_t(run.centre_source) * run.sources_width + e;
    p1i = get<V>(s), p2i = get<V>(s + S);
    if (NP == 3) {
      const V p3i = get<V>(s + 2 * S);
      m0i = p3i * get<V>(s + 3 * S), m1i = p3i * get<V>(s + 4 * S), m2i = p3i * get<V>(s + 5 * S);
    }
  }
  for (int p = run.first; p < run.last; ++p) {
    const T *w = run.filter + p * NP * S + e;
    const T *s = run.sources + std::size_t(run.source[p]) * run.sources_width + e;
    const T u0 = run.unit[3 * p], u1 = run.unit[3 * p + 1], u2 = run.unit[3 * p + 2];
    const V w1 = get<V>(w), w2 = get<V>(w + S);
    const V a = w2 * get<V>(s + S);
    sum += w1 * get<V>(s);
    sum0 += a * u0, sum1 += a * u1, sum2 += a * u2;
    V w3{};
    if (NP == 3) {
      w3 = get<V>(w + 2 * S);
      const V g = w3 * get<V>(s + 2 * S);
      sum0 += g * get<V>(s + 3 * S), sum1 += g * get<V>(s + 4 * S), sum2 += g * get<V>(s + 5 * S);
    }
    if (BOTH) {
      T *cj = run.sums + std::size_t(run.row[p]) * run.sums_width + e;
      const V b = w2 * p2i;
      V x0 = get<V>(cj + S) - b * u0, x1 = get<V>(cj + 2 * S) - b * u1, x2 = get<V>(cj + 3 * S) - b * u2;
      if (NP == 3) x0 += w3 * m0i, x1 += w3 * m1i, x2 += w3 * m2i;
      add<V>(cj, w1 * p1i);
      put<V>(cj + S, x0), put<V>(cj + 2 * S, x1), put<V>(cj + 3 * S, x2);
    }
  }
  put<V>(ci, sum), put<V>(ci + S, sum0), put<V>(ci + 2 * S, sum1), put<V>(ci + 3 * S, sum2);
}

// `fresh`: the first slice, for which `along` is empty.
template <int NP, bool BOTH, class V, class T>
inline void message_adjoint(const Run<T> &run, int e, bool fresh) {
  constexpr int S = kSlice<T>, W = Lanes<T>::width;
  const T *ci = run.sums + std::size_t(run.centre) * run.sums_width + e;
  const V h = get<V>(ci), v0 = get<V>(ci + S), v1 = get<V>(ci + 2 * S), v2 = get<V>(ci + 3 * S);
  V p1i{}, p2i{}, m0i{}, m1i{}, m2i{};
  if (BOTH) {
    const T *s = run.sources + std::size_t(run.centre_source) * run.sources_width + e;
    p1i = get<V>(s), p2i = get<V>(s + S);
    if (NP == 3) {
      const V p3i = get<V>(s + 2 * S);
      m0i = p3i * get<V>(s + 3 * S), m1i = p3i * get<V>(s + 4 * S), m2i = p3i * get<V>(s + 5 * S);
    }
  }
  V b1{}, b2{}, k0{}, k1{}, k2{};
  for (int p = run.first; p < run.last; ++p) {
    const T *w = run.filter + p * NP * S + e, *dw = run.slope + p * NP * S + e;
    const T *s = run.sources + std::size_t(run.source[p]) * run.sources_width + e;
    const T u0 = run.unit[3 * p], u1 = run.unit[3 * p + 1], u2 = run.unit[3 * p + 2];
    const V w1 = get<V>(w), w2 = get<V>(w + S), p2j = get<V>(s + S);
    // the message from the neighbour to the centre
    const V vu = v0 * u0 + v1 * u1 + v2 * u2;
    V wb1 = h * get<V>(s), wb2 = vu * p2j, wb3{}, w3{};
    const V a = w2 * p2j;
    V x0 = a * v0, x1 = a * v1, x2 = a * v2;
    if (NP == 3) {
      w3 = get<V>(w + 2 * S);
      wb3 = get<V>(s + 2 * S) * (v0 * get<V>(s + 3 * S) + v1 * get<V>(s + 4 * S) + v2 * get<V>(s + 5 * S));
      T *bj = run.back + std::size_t(run.back_row[p]) * run.back_width + e;
      V f1 = w1, f2 = w2, f3 = w3;
      if constexpr (!std::is_arithmetic<T>::value)
        f1 *= run.to_neighbour[p], f2 *= run.to_neighbour[p], f3 *= run.to_neighbour[p];
      add<V>(bj, f1 * h);
      add<V>(bj + S, f2 * vu);
      add<V>(bj + 2 * S, f3 * v0), add<V>(bj + 3 * S, f3 * v1), add<V>(bj + 4 * S, f3 * v2);
    }
    if (BOTH) {  // and back
      const T *cj = run.sums + std::size_t(run.atom[p]) * run.sums_width + e;
      V g = get<V>(cj), y0 = get<V>(cj + S), y1 = get<V>(cj + 2 * S), y2 = get<V>(cj + 3 * S);
      if constexpr (!std::is_arithmetic<T>::value)
        for (V *x : {&g, &y0, &y1, &y2}) *x *= run.to_centre[p];
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
    V radial = wb1 * get<V>(dw) + wb2 * get<V>(dw + S);
    if (NP == 3) radial += wb3 * get<V>(dw + 2 * S);
    T *x = run.along + p * 4 * W;
    if (!fresh) {
      radial += get<V>(x), x0 += get<V>(x + W), x1 += get<V>(x + 2 * W), x2 += get<V>(x + 3 * W);
    }
    put<V>(x, radial), put<V>(x + W, x0), put<V>(x + 2 * W, x1), put<V>(x + 3 * W, x2);
  }
  if (NP == 3 && BOTH) {
    T *b = run.back + std::size_t(run.centre_back) * run.back_width + e;
    add<V>(b, b1), add<V>(b + S, b2), add<V>(b + 2 * S, k0), add<V>(b + 3 * S, k1), add<V>(b + 4 * S, k2);
  }
}

template <int NP, bool BOTH, class T>
inline void messages(const Run<T> &run) {
  constexpr int W = Lanes<T>::width;
  for (int e = 0; e < kSlice<T>; e += W) message<NP, BOTH, typename Lanes<T>::type>(run, e);
}

template <int NP, bool BOTH, class T>
inline void message_adjoints(const Run<T> &run, bool first_slice) {
  constexpr int W = Lanes<T>::width;
  for (int e = 0; e < kSlice<T>; e += W)
    message_adjoint<NP, BOTH, typename Lanes<T>::type>(run, e, first_slice && e == 0);
}

}  // namespace LIMBECK_ISA
