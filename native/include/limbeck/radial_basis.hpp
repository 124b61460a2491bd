// The radial basis of a batch of pairs, for inference and training alike.
#pragma once

#include <algorithm>
#include <cmath>

#include "limbeck/aligned.hpp"
#include "limbeck/model.hpp"
#include "limbeck/scalar.hpp"

namespace LIMBECK_ISA {

constexpr int kBatch = 48;  // pairs whose filters are computed together: a multiple of the kernel's rows

// Buffers of one thread; `distance` and `core` (core radius, Angstrom) of each pair are set by the caller.
template <class T>
struct RadialBasis {
  limbeck::Array<T> distance, core;  // (kBatch,)
  limbeck::Array<T> basis, slope;    // (B + 1, kBatch)

  void fit(int radial) {
    for (auto *b : {&basis, &slope}) b->resize(std::size_t(radial + 1) * kBatch);
    for (auto *b : {&distance, &core, &sine, &cosine, &wave, &wave2, &envelope, &envelope2, &inverse})
      b->resize(kBatch);
  }

  // sin(n pi r / rc) / r and 1, each times the envelope 1 - 10 x^3 + 15 x^4 - 6 x^5 (C2 at the cutoff) and,
  // where there are core radii, faded within them; with SLOPE also the derivatives. Distances of the first
  // `count` pairs are within the cutoff.
  template <bool SLOPE>
  void compute(const limbeck::Hyperparameters &hp, int count) {
    const T rc = T(hp.cutoff), step = T(M_PI / hp.cutoff);
    const T *r = distance.data();
    T *sn = wave.data(), *cn = wave2.data(), *s1 = sine.data(), *c1 = cosine.data();
    T *env = envelope.data(), *denv = envelope2.data(), *inv = inverse.data();
    LIMBECK_SIMD
    for (int p = 0; p < count; ++p) {
      const T x = r[p] / rc;
      sincos_pi(x, s1[p], c1[p]);
      sn[p] = s1[p], cn[p] = c1[p];
      inv[p] = T(1) / r[p];
      env[p] = T(1) + x * x * x * (T(-10) + x * (T(15) - T(6) * x));
      denv[p] = x * x * (T(-30) + x * (T(60) - T(30) * x)) / rc;
    }
    if (!hp.core.empty())
      for (int p = 0; p < count; ++p) {
        if (!(r[p] < core[p])) continue;  // nearly always
        T left, change;
        limbeck::fade(r[p], core[p], left, change);
        denv[p] = denv[p] * left + env[p] * change;
        env[p] = env[p] * left;
      }
    for (int n = 0; n < hp.radial; ++n) {
      T *b = basis.data() + n * kBatch, *db = slope.data() + n * kBatch;
      const T k = T(n + 1) * step;
      LIMBECK_SIMD
      for (int p = 0; p < count; ++p) {
        const T f = sn[p] * inv[p];
        b[p] = f * env[p];
        if (SLOPE) db[p] = (k * cn[p] - f) * inv[p] * env[p] + f * denv[p];
        const T next = sn[p] * c1[p] + cn[p] * s1[p];
        cn[p] = cn[p] * c1[p] - sn[p] * s1[p];
        sn[p] = next;
      }
    }
    std::copy_n(env, count, basis.data() + hp.radial * kBatch);
    if (SLOPE) std::copy_n(denv, count, slope.data() + hp.radial * kBatch);
  }

 private:
  limbeck::Array<T> sine, cosine, wave, wave2, envelope, envelope2, inverse;
};

}  // namespace LIMBECK_ISA
