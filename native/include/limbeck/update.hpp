// The update of n atoms, value by value: what training and inference do between their matrix products.
//
// Letters: F features, H width of the gate; mixed (n, 3, 2F) the two mixtures u, w of each vector, x (n, 2F)
// the gate's input (h, |w|), q (n, F) = u . w, a (n, NU F) the outputs; "b" the adjoint.
#pragma once

#include <cstddef>

#include "limbeck/scalar.hpp"

namespace LIMBECK_ISA {

template <class T>
inline T silu_slope(T t) {
  const T g = sigmoid(t);
  return g + t * g * (T(1) - g);
}

template <class T>
inline T silu_curvature(T t) {
  const T g = sigmoid(t);
  return g * (T(1) - g) * (T(2) + t * (T(1) - T(2) * g));
}

// Norms of the second mixtures into the second half of x, e2 under the root, and q.
template <class T>
inline void norms_and_products(int n, int F, T e2, const T *mixed, T *x, T *q) {
  for (int i = 0; i < n; ++i, mixed += 6 * F, x += 2 * F, q += F) {
    LIMBECK_SIMD
    for (int f = 0; f < F; ++f) {
      const T w0 = mixed[F + f], w1 = mixed[3 * F + f], w2 = mixed[5 * F + f];
      x[F + f] = root(w0 * w0 + w1 * w1 + w2 * w2 + e2);
      q[f] = mixed[f] * w0 + mixed[2 * F + f] * w1 + mixed[4 * F + f] * w2;
    }
  }
}

// ab from dE/d(output), hb (n, F) and, where NU is 3, vb (n, 3, F).
template <int NU, class T>
inline void outputs_adjoint(int n, int F, const T *hb, const T *vb, const T *q, const T *mixed, T *ab) {
  for (int i = 0; i < n; ++i, hb += F, vb += 3 * F, q += F, mixed += 6 * F, ab += NU * F) {
    LIMBECK_SIMD
    for (int f = 0; f < F; ++f) {
      ab[f] = hb[f];
      ab[F + f] = hb[f] * q[f];
      if (NU == 3)
        ab[2 * F + f] = vb[f] * mixed[f] + vb[F + f] * mixed[2 * F + f] + vb[2 * F + f] * mixed[4 * F + f];
    }
  }
}

// mixedb, and h from dE/d(output) to dE/d(sums), in place.
template <int NU, class T>
inline void mixtures_adjoint(int n, int F, const T *a, const T *x, const T *xb, const T *mixed, const T *vb,
                             T *mixedb, T *h) {
  for (int i = 0; i < n; ++i, a += NU * F, x += 2 * F, xb += 2 * F) {
    LIMBECK_SIMD
    for (int f = 0; f < F; ++f) {
      const T hb = h[f], qb = hb * a[F + f], wb = xb[F + f] / x[F + f];
      h[f] = hb + xb[f];
      for (int c = 0; c < 3; ++c) {
        const T u = mixed[2 * c * F + f], w = mixed[(2 * c + 1) * F + f];
        T ub = qb * w;
        if (NU == 3) ub += a[2 * F + f] * vb[c * F + f];
        mixedb[2 * c * F + f] = ub;
        mixedb[(2 * c + 1) * F + f] = qb * u + wb * w;
      }
    }
    mixed += 6 * F, vb += 3 * F, mixedb += 6 * F, h += F;
  }
}

}  // namespace LIMBECK_ISA
