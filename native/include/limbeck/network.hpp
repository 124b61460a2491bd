// What happens to atoms between messages, for blocks of atoms that fit in cache: packed weights, the
// update and the readout, their adjoints, and the radial basis of a batch of pairs.
//
// Equations: PaiNN (Schuett, Unke, Gastegger 2021, arXiv:2102.03150) as limbeck.students.painn states
// it; painn.hpp holds the same network with everything that training needs besides.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "limbeck/aligned.hpp"
#include "limbeck/dual.hpp"
#include "limbeck/engine.hpp"
#include "limbeck/messages.hpp"
#include "limbeck/scalar.hpp"

namespace LIMBECK_ISA {

using limbeck::Array;
using limbeck::Dual;
using limbeck::LayerOffsets;
using limbeck::Model;
using limbeck::ParameterLayout;

constexpr int kBlock = 32;  // atoms handled together between messages
constexpr int kBatch = 48;  // pairs whose filters are computed together: a multiple of the kernel's rows

// Weights as the kernels read them. Widths are rounded up to whole slices and filled with zeros, which
// changes nothing: a feature without weights receives nothing and passes nothing on.
template <class T>
struct Packed {
  Model model;
  int F, L, K, H, R, Z;  // F, H, R: rounded up
  struct Layer {
    int nP, nU;
    Array<T> phi, phi_bias, mix, gate, gate_bias, out, out_bias;
    Array<T> phi_t, mix_t, gate_t, out_t;
    Array<T> filter;  // (F / slice, K, nP slice)
  };
  std::vector<Layer> layers;
  Array<T> embedding, first_source, read1, read1_bias, read1_t, read2;  // first_source: see messages.hpp
  double read2_bias;

  explicit Packed(const Model &m) : model(m) {
    const auto &hp = m.hp;
    constexpr int S = kSlice<T>;
    F = whole(hp.features), H = whole(hp.gate_width), R = whole(hp.readout_width);
    L = hp.interactions, K = hp.radial + 1, Z = hp.elements;
    const Blocks one{1, 1, 1}, f{1, hp.features, F}, h{1, hp.gate_width, H}, r{1, hp.readout_width, R};
    const auto times = [&f](int n) { return Blocks{n, f.size, f.padded}; };
    const ParameterLayout at(hp);
    embedding = take(at.embedding, {Z, 1, 1}, f);
    for (const LayerOffsets &o : at.layers) {
      Layer k;
      k.nP = o.message_blocks, k.nU = o.update_blocks;
      k.phi = take(o.phi, f, times(k.nP)), k.phi_t = transposed(k.phi, F);
      k.phi_bias = take(o.phi_bias, one, times(k.nP));
      k.mix = take(o.mix, f, times(2)), k.mix_t = transposed(k.mix, F);
      k.gate = take(o.gate, times(2), h), k.gate_t = transposed(k.gate, 2 * F);
      k.gate_bias = take(o.gate_bias, one, h);
      k.out = take(o.out, h, times(k.nU)), k.out_t = transposed(k.out, H);
      k.out_bias = take(o.out_bias, one, times(k.nU));
      const Array<T> filter = take(o.filter, {K, 1, 1}, times(k.nP));
      for (int f0 = 0; f0 < F; f0 += S)
        for (int n = 0; n < K; ++n)
          for (int block = 0; block < k.nP; ++block)
            for (int e = 0; e < S; ++e) k.filter.push_back(filter[(n * k.nP + block) * F + f0 + e]);
      layers.push_back(std::move(k));
    }
    read1 = take(at.read1, f, r), read1_t = transposed(read1, F);
    read1_bias = take(at.read1_bias, one, r);
    read2 = take(at.read2, one, r);
    read2_bias = m.weights[at.read2_bias];
    // in the first interaction what an atom sends depends on its element alone
    const Layer &k = layers[0];
    first_source.resize(std::size_t(Z) * 2 * F);
    for (int z = 0; z < Z; ++z)
      for (int g = 0; g < 2 * F; ++g) {
        double sum = double(k.phi_bias[g]);
        for (int e = 0; e < F; ++e) sum += double(embedding[z * F + e]) * double(k.phi[e * 2 * F + g]);
        const int block = g / F, e = g % F;
        first_source[std::size_t(z) * 2 * F + e / S * 2 * S + block * S + e % S] = T(sum);
      }
  }

 private:
  struct Blocks {
    int count, size, padded;
  };
  static int whole(int width) { return (width + kSlice<T> - 1) / kSlice<T> * kSlice<T>; }
  // The matrix (in, out) that begins at `at`, each block of rows and of columns padded.
  Array<T> take(std::size_t at, Blocks in, Blocks out) const {
    const std::size_t cols = std::size_t(out.count) * out.padded;
    Array<T> to(std::size_t(in.count) * in.padded * cols, T(0));
    for (int a = 0; a < in.count; ++a)
      for (int i = 0; i < in.size; ++i)
        for (int b = 0; b < out.count; ++b)
          for (int j = 0; j < out.size; ++j)
            to[(std::size_t(a) * in.padded + i) * cols + std::size_t(b) * out.padded + j] =
                T(model.weights[at++]);
    return to;
  }
  static Array<T> transposed(const Array<T> &from, int rows) {
    const std::size_t cols = from.size() / rows;
    Array<T> to(from.size());
    for (std::size_t i = 0; i < std::size_t(rows); ++i)
      for (std::size_t j = 0; j < cols; ++j) to[j * rows + i] = from[i * cols + j];
    return to;
  }
};

// Buffers of one thread.
template <class T>
struct Scratch {
  Array<T> mixed, x, q, t, s, a, rt, ab, sb, tb, xb, mixedb, h, v, phi;   // a block of atoms
  Array<T> basis, slope, filter, dfilter, along, unit, vector, distance;  // a batch of pairs
  Array<T> sine, cosine, wave, wave2, envelope, envelope2, inverse, core;
  std::vector<int> row, atom, source, back_row;
  void fit(const Packed<T> &w) {
    const std::size_t n = kBlock, F = w.F, H = w.H, R = w.R, B = kBatch;
    for (Array<T> *b : {&mixed, &mixedb}) b->resize(6 * n * F);
    for (Array<T> *b : {&x, &xb}) b->resize(2 * n * F);
    for (Array<T> *b : {&q, &h}) b->resize(n * F);
    for (Array<T> *b : {&t, &s, &sb, &tb}) b->resize(n * H);
    rt.resize(n * R);
    for (Array<T> *b : {&a, &ab, &phi, &v}) b->resize(3 * n * F);
    for (Array<T> *b : {&basis, &slope}) b->resize(w.K * B);
    for (Array<T> *b : {&filter, &dfilter}) b->resize(3 * kSlice<T> * B);
    along.resize(4 * Lanes<T>::width * B), unit.resize(3 * B), vector.resize(3 * B);
    for (Array<T> *b : {&distance, &sine, &cosine, &wave, &wave2, &envelope, &envelope2, &inverse, &core})
      b->resize(B);
    for (std::vector<int> *b : {&row, &atom, &source, &back_row}) b->resize(B);
  }
};

// Radial basis of `count` <= kBatch distances: basis (K, kBatch); with SLOPE also its derivative.
// sin(n pi r / rc) / r and 1, each times the envelope 1 - 10 x^3 + 15 x^4 - 6 x^5 (C2 at the cutoff) and,
// where there are core radii, faded within them.
template <bool SLOPE, class T>
inline void radial_basis(const Packed<T> &w, int count, Scratch<T> &k) {
  const T rc = T(w.model.hp.cutoff), step = T(M_PI / w.model.hp.cutoff);
  const T *distance = k.distance.data();
  T *sn = k.wave.data(), *cn = k.wave2.data(), *s1 = k.sine.data(), *c1 = k.cosine.data();
  T *env = k.envelope.data(), *denv = k.envelope2.data(), *inv = k.inverse.data();
  LIMBECK_SIMD
  for (int p = 0; p < count; ++p) {
    const T r = distance[p], x = r / rc;
    sincos_pi(x, s1[p], c1[p]);
    sn[p] = s1[p], cn[p] = c1[p];
    inv[p] = T(1) / r;
    env[p] = T(1) + x * x * x * (T(-10) + x * (T(15) - T(6) * x));
    denv[p] = x * x * (T(-30) + x * (T(60) - T(30) * x)) / rc;
  }
  if (!w.model.hp.core.empty())
    for (int p = 0; p < count; ++p) {
      if (!(distance[p] < k.core[p])) continue;  // nearly always
      T left, slope;
      limbeck::fade(distance[p], k.core[p], left, slope);
      denv[p] = denv[p] * left + env[p] * slope;
      env[p] = env[p] * left;
    }
  const int B = w.K - 1;
  for (int n = 0; n < B; ++n) {
    T *b = k.basis.data() + n * kBatch, *db = k.slope.data() + n * kBatch;
    const T wave = T(n + 1) * step;
    LIMBECK_SIMD
    for (int p = 0; p < count; ++p) {
      const T f = sn[p] * inv[p];
      b[p] = f * env[p];
      if (SLOPE) db[p] = (wave * cn[p] - f) * inv[p] * env[p] + f * denv[p];
      const T next = sn[p] * c1[p] + cn[p] * s1[p];
      cn[p] = cn[p] * c1[p] - sn[p] * s1[p];
      sn[p] = next;
    }
  }
  std::copy_n(env, count, k.basis.data() + B * kBatch);
  if (SLOPE) std::copy_n(denv, count, k.slope.data() + B * kBatch);
}

// The two mixtures of each vector, (n, 3, 2F), the norm of the second and their scalar product.
template <class T>
inline void mix(const Packed<T> &w, const typename Packed<T>::Layer &layer, int n, const T *v,
                Scratch<T> &k) {
  const int F = w.F;
  gemm<T, false>(3 * n, 2 * F, F, v, F, 1, layer.mix.data(), 2 * F, k.mixed.data(), 2 * F);
  const T e2 = T(w.model.hp.norm_offset * w.model.hp.norm_offset);
  for (int i = 0; i < n; ++i) {
    const T *m = k.mixed.data() + std::size_t(i) * 6 * F;
    T *norm = k.x.data() + std::size_t(i) * 2 * F + F, *q = k.q.data() + std::size_t(i) * F;
    LIMBECK_SIMD
    for (int f = 0; f < F; ++f) {
      const T w0 = m[F + f], w1 = m[3 * F + f], w2 = m[5 * F + f];
      norm[f] = root(w0 * w0 + w1 * w1 + w2 * w2 + e2);
      q[f] = m[f] * w0 + m[2 * F + f] * w1 + m[4 * F + f] * w2;
    }
  }
}

// The update of n atoms from the sums of messages, h in the first half of k.x (n, 2F) and v (n, 3F): fills
// k.mixed (n, 6F), t (n, H) and the scratch q, s and the other half of x.
template <class T>
inline void update_inner(const Packed<T> &w, const typename Packed<T>::Layer &layer, int n, const T *v, T *t,
                         Scratch<T> &k) {
  const int F = w.F, H = w.H;
  mix(w, layer, n, v, k);
  gemm<T, false>(n, H, 2 * F, k.x.data(), 2 * F, 1, layer.gate.data(), H, t, H);
  for (int i = 0; i < n; ++i) LIMBECK_SIMD
  for (int f = 0; f < H; ++f) {
    const T y = t[i * H + f] + layer.gate_bias[f];
    t[i * H + f] = y;
    k.s[i * H + f] = y * sigmoid(y);
  }
}

template <class T>
inline void update_outer(const typename Packed<T>::Layer &layer, int F, int H, int n, Scratch<T> &k) {
  const int width = layer.nU * F;
  gemm<T, false>(n, width, H, k.s.data(), H, 1, layer.out.data(), width, k.a.data(), width);
  for (int i = 0; i < n; ++i) LIMBECK_SIMD
  for (int f = 0; f < width; ++f) k.a[std::size_t(i) * width + f] += layer.out_bias[f];
}

// Adjoint of the update: k.h (n, F) and k.v (n, 3F) hold dE/d(output) on entry (k.v only where NU is 3) and
// dE/d(sums) on return. t is the forward pass's; k.mixed, k.a (n, NU F), k.x and k.q are filled.
template <int NU, class T>
inline void update_adjoint(const Packed<T> &w, const typename Packed<T>::Layer &layer, int n, const T *t,
                           Scratch<T> &k) {
  const int F = w.F, H = w.H;
  for (int i = 0; i < n; ++i) {
    const T *m = k.mixed.data() + std::size_t(i) * 6 * F, *hb = k.h.data() + std::size_t(i) * F;
    const T *vb = k.v.data() + std::size_t(i) * 3 * F, *q = k.q.data() + std::size_t(i) * F;
    T *ab = k.ab.data() + std::size_t(i) * NU * F;
    LIMBECK_SIMD
    for (int f = 0; f < F; ++f) {
      ab[f] = hb[f];
      ab[F + f] = hb[f] * q[f];
      if (NU == 3) ab[2 * F + f] = vb[f] * m[f] + vb[F + f] * m[2 * F + f] + vb[2 * F + f] * m[4 * F + f];
    }
  }
  gemm<T, false>(n, H, NU * F, k.ab.data(), NU * F, 1, layer.out_t.data(), H, k.sb.data(), H);
  LIMBECK_SIMD
  for (int e = 0; e < n * H; ++e) {
    const T g = sigmoid(t[e]);
    k.tb[e] = k.sb[e] * (g + t[e] * g * (T(1) - g));
  }
  gemm<T, false>(n, 2 * F, H, k.tb.data(), H, 1, layer.gate_t.data(), 2 * F, k.xb.data(), 2 * F);
  for (int i = 0; i < n; ++i) {
    const T *m = k.mixed.data() + std::size_t(i) * 6 * F, *a = k.a.data() + std::size_t(i) * NU * F;
    const T *x = k.x.data() + std::size_t(i) * 2 * F, *xb = k.xb.data() + std::size_t(i) * 2 * F;
    const T *vb = k.v.data() + std::size_t(i) * 3 * F;
    T *mb = k.mixedb.data() + std::size_t(i) * 6 * F, *h = k.h.data() + std::size_t(i) * F;
    LIMBECK_SIMD
    for (int f = 0; f < F; ++f) {
      const T hb = h[f], qb = hb * a[F + f], wb = xb[F + f] / x[F + f];
      h[f] = hb + xb[f];
      for (int c = 0; c < 3; ++c) {
        const T u = m[2 * c * F + f], y = m[(2 * c + 1) * F + f];
        T ub = qb * y;
        if (NU == 3) ub += a[2 * F + f] * vb[c * F + f];
        mb[2 * c * F + f] = ub;
        mb[(2 * c + 1) * F + f] = qb * u + wb * y;
      }
    }
  }
  gemm<T, NU == 3>(3 * n, F, 2 * F, k.mixedb.data(), 2 * F, 1, layer.mix_t.data(), F, k.v.data(), F);
}

}  // namespace LIMBECK_ISA
