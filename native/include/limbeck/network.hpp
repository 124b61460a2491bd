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

#include "limbeck/dual.hpp"
#include "limbeck/engine.hpp"
#include "limbeck/gemm.hpp"
#include "limbeck/scalar.hpp"

namespace LIMBECK_ISA {

using limbeck::Dual;
using limbeck::LayerOffsets;
using limbeck::Model;
using limbeck::ParameterLayout;

template <class T>
using Array = std::vector<T>;

constexpr int kBlock = 32;     // atoms handled together between messages
constexpr int kBatch = 48;     // pairs whose filters are computed together: a multiple of the kernel's rows
constexpr int kBasisPad = 16;  // the basis is padded to whole vectors where it is the inner width

template <class T>
struct Packed {
  Model model;
  int F, L, K, pad, H, R, Z;
  struct Layer {
    int nP, nU;
    Array<T> phi, phi_bias, filter, mix, gate, gate_bias, out, out_bias;
    Array<T> phi_t, filter_t, mix_t, gate_t, out_t;
  };
  std::vector<Layer> layers;
  Array<T> embedding, first_source, read1, read1_bias, read1_t, read2;
  double read2_bias;

  explicit Packed(const Model &m) : model(m) {
    const auto &hp = m.hp;
    F = hp.features, L = hp.interactions, K = hp.radial + 1, H = hp.gate_width, R = hp.readout_width;
    Z = hp.elements, pad = (K + kBasisPad - 1) / kBasisPad * kBasisPad;
    const ParameterLayout at(hp);
    take(embedding, at.embedding, Z * F);
    for (const LayerOffsets &o : at.layers) {
      Layer k;
      k.nP = o.message_blocks, k.nU = o.update_blocks;
      take(k.phi, o.phi, F * k.nP * F);
      take(k.phi_bias, o.phi_bias, k.nP * F);
      take(k.filter, o.filter, K * k.nP * F);
      take(k.mix, o.mix, F * 2 * F);
      take(k.gate, o.gate, 2 * F * H);
      take(k.gate_bias, o.gate_bias, H);
      take(k.out, o.out, H * k.nU * F);
      take(k.out_bias, o.out_bias, k.nU * F);
      transpose(k.phi, F, k.nP * F, F, k.phi_t);
      transpose(k.filter, K, k.nP * F, pad, k.filter_t);
      transpose(k.mix, F, 2 * F, F, k.mix_t);
      transpose(k.gate, 2 * F, H, 2 * F, k.gate_t);
      transpose(k.out, H, k.nU * F, H, k.out_t);
      layers.push_back(std::move(k));
    }
    take(read1, at.read1, F * R);
    take(read1_bias, at.read1_bias, R);
    take(read2, at.read2, R);
    transpose(read1, F, R, F, read1_t);
    read2_bias = m.weights[at.read2_bias];
    // in the first interaction what an atom sends depends on its element alone
    const Layer &k = layers[0];
    first_source.resize(std::size_t(Z) * 2 * F);
    for (int z = 0; z < Z; ++z)
      for (int g = 0; g < 2 * F; ++g) {
        double sum = double(k.phi_bias[g]);
        for (int f = 0; f < F; ++f) sum += double(embedding[z * F + f]) * double(k.phi[f * 2 * F + g]);
        first_source[z * 2 * F + g] = T(sum);
      }
  }

 private:
  void take(Array<T> &to, std::size_t at, int count) const {
    to.assign(model.weights.begin() + at, model.weights.begin() + at + count);
  }
  // (rows, cols) -> (cols, width >= rows), padded with zeros
  static void transpose(const Array<T> &from, int rows, int cols, int width, Array<T> &to) {
    to.assign(std::size_t(cols) * width, T(0));
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < cols; ++j) to[std::size_t(j) * width + i] = from[std::size_t(i) * cols + j];
  }
};

// Buffers of one thread.
template <class T>
struct Scratch {
  Array<T> mixed, x, q, t, s, a, rt, rs, ab, sb, tb, xb, mixedb, h, v, phib;  // a block of atoms
  Array<T> basis, slope, filter, along, pulled, distance, sine, cosine, wave, wave2, envelope, envelope2;
  void fit(const Packed<T> &w, int lanes) {
    const std::size_t n = kBlock, F = w.F, H = w.H, R = w.R, B = kBatch;
    for (Array<T> *b : {&mixed, &mixedb}) b->resize(6 * n * F);
    for (Array<T> *b : {&x, &xb}) b->resize(2 * n * F);
    for (Array<T> *b : {&q, &h}) b->resize(n * F);
    for (Array<T> *b : {&t, &s, &sb, &tb}) b->resize(n * H);
    for (Array<T> *b : {&rt, &rs}) b->resize(n * R);
    for (Array<T> *b : {&a, &ab, &phib, &v}) b->resize(3 * n * F);
    basis.resize(w.K * B), slope.resize(w.pad * B), pulled.resize(w.pad * B);
    filter.resize(3 * F * B), along.resize(3 * lanes * B);
    for (Array<T> *b : {&distance, &sine, &cosine, &wave, &wave2, &envelope, &envelope2}) b->resize(B);
  }
};

// Radial basis of `count` <= kBatch distances: basis (K, kBatch); with SLOPE also d/dr, (count, pad).
// sin(n pi r / rc) / r and 1, each times the envelope 1 - 10 x^3 + 15 x^4 - 6 x^5 (C2 at the cutoff).
template <bool SLOPE, class T>
inline void radial_basis(const Packed<T> &w, int count, const T *distance, Scratch<T> &k) {
  const T rc = T(w.model.hp.cutoff), step = T(M_PI / w.model.hp.cutoff);
  T *sn = k.wave.data(), *cn = k.wave2.data(), *s1 = k.sine.data(), *c1 = k.cosine.data();
  T *env = k.envelope.data(), *denv = k.envelope2.data(), *inv = k.distance.data();
  LIMBECK_SIMD
  for (int p = 0; p < count; ++p) {
    const T r = distance[p], x = r / rc;
    sincos_pi(x, s1[p], c1[p]);
    sn[p] = s1[p], cn[p] = c1[p];
    inv[p] = T(1) / r;
    env[p] = T(1) + x * x * x * (T(-10) + x * (T(15) - T(6) * x));
    denv[p] = x * x * (T(-30) + x * (T(60) - T(30) * x)) / rc;
  }
  const int B = w.K - 1;
  for (int n = 0; n < B; ++n) {
    T *b = k.basis.data() + n * kBatch, *db = k.slope.data() + n;
    const T wave = T(n + 1) * step;
    LIMBECK_SIMD
    for (int p = 0; p < count; ++p) b[p] = sn[p] * inv[p] * env[p];
    if (SLOPE)
      for (int p = 0; p < count; ++p) {
        const T f = sn[p] * inv[p];
        db[std::size_t(p) * w.pad] = (wave * cn[p] - f) * inv[p] * env[p] + f * denv[p];
      }
    LIMBECK_SIMD
    for (int p = 0; p < count; ++p) {
      const T next = sn[p] * c1[p] + cn[p] * s1[p];
      cn[p] = cn[p] * c1[p] - sn[p] * s1[p];
      sn[p] = next;
    }
  }
  std::copy_n(env, count, k.basis.data() + B * kBatch);
  if (SLOPE)
    for (int p = 0; p < count; ++p) k.slope[std::size_t(p) * w.pad + B] = denv[p];
}

// The update from the sums of messages h (n, F), v (n, 3F): fills mixed (n, 6F), t (n, H), and the
// scratch x, q, s.
template <class T>
inline void update_inner(const Packed<T> &w, const typename Packed<T>::Layer &layer, int n, const T *h,
                         const T *v, T *mixed, T *t, Scratch<T> &k) {
  const int F = w.F, H = w.H;
  gemm<T, false>(3 * n, 2 * F, F, v, F, 1, layer.mix.data(), 2 * F, mixed, 2 * F);
  const T e2 = T(w.model.hp.norm_offset * w.model.hp.norm_offset);
  for (int i = 0; i < n; ++i) {
    const T *m = mixed + std::size_t(i) * 6 * F, *hi = h + std::size_t(i) * F;
    T *x = k.x.data() + std::size_t(i) * 2 * F, *q = k.q.data() + std::size_t(i) * F;
    LIMBECK_SIMD
    for (int f = 0; f < F; ++f) {
      const T w0 = m[F + f], w1 = m[3 * F + f], w2 = m[5 * F + f];
      x[f] = hi[f];
      x[F + f] = root(w0 * w0 + w1 * w1 + w2 * w2 + e2);
      q[f] = m[f] * w0 + m[2 * F + f] * w1 + m[4 * F + f] * w2;
    }
  }
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

// Adjoint of the update: k.h (n, F) and k.v (n, 3F) hold dE/d(output) on entry (k.v only where NU is 3); h
// and v receive dE/d(sums). mixed and t are the forward pass's, k.a (n, NU F), k.x and k.q are filled.
template <int NU, class T>
inline void update_adjoint(const Packed<T> &w, const typename Packed<T>::Layer &layer, int n, const T *mixed,
                           const T *t, T *h, T *v, Scratch<T> &k) {
  const int F = w.F, H = w.H;
  for (int i = 0; i < n; ++i) {
    const T *m = mixed + std::size_t(i) * 6 * F, *hb = k.h.data() + std::size_t(i) * F;
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
    const T *m = mixed + std::size_t(i) * 6 * F, *hb = k.h.data() + std::size_t(i) * F;
    const T *vb = k.v.data() + std::size_t(i) * 3 * F, *a = k.a.data() + std::size_t(i) * NU * F;
    const T *x = k.x.data() + std::size_t(i) * 2 * F, *xb = k.xb.data() + std::size_t(i) * 2 * F;
    T *mb = k.mixedb.data() + std::size_t(i) * 6 * F, *hi = h + std::size_t(i) * F;
    T *vi = v + std::size_t(i) * 3 * F;
    LIMBECK_SIMD
    for (int f = 0; f < F; ++f) {
      hi[f] = hb[f] + xb[f];
      const T qb = hb[f] * a[F + f], wb = xb[F + f] / x[F + f];
      for (int c = 0; c < 3; ++c) {
        const T u = m[2 * c * F + f], y = m[(2 * c + 1) * F + f];
        T ub = qb * y;
        if (NU == 3) {
          ub += a[2 * F + f] * vb[c * F + f];
          vi[c * F + f] = vb[c * F + f];
        }
        mb[2 * c * F + f] = ub;
        mb[(2 * c + 1) * F + f] = qb * u + wb * y;
      }
    }
  }
  gemm<T, NU == 3>(3 * n, F, 2 * F, k.mixedb.data(), 2 * F, 1, layer.mix_t.data(), F, v, F);
}

}  // namespace LIMBECK_ISA
