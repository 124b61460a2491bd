// PaiNN (Schuett, Unke, Gastegger 2021, arXiv:2102.03150) for one structure: energy, forces, and
// the gradient of any loss on them with respect to the weights.
//
// Three passes, all derived by hand:
//   forward   E and everything its derivative needs;
//   backward  dE/d(vectors), with the adjoints kept;
//   tangent   for a direction x' of the positions (and a strain), the tangent of both passes,
//             which yields d/dw of (x' . grad E + sum_i c_i e_i): with x' = -dL/dF and
//             c_i = dL/dE + dL/de_i this is dL/dw, at about three times the cost of one energy and
//             force (no graph, no tape).
//
// A pair is visited once for both directions: the filter depends on r alone, so it serves both,
// and one thread owns one structure, so no write is shared.
//
// Symbols: F features, nP/nU blocks of message/update, u unit vector from i to j,
//   W filter, dW its derivative in r, "b" suffix the adjoint, "_t" suffix the tangent.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "limbeck/aligned.hpp"
#include "limbeck/gemm.hpp"
#include "limbeck/model.hpp"
#include "limbeck/scalar.hpp"

namespace LIMBECK_ISA {

using limbeck::Array;
using limbeck::Graph;
using limbeck::Hyperparameters;
using limbeck::LayerOffsets;
using limbeck::ParameterLayout;

// Weights of one model with the transposes that the backward passes read.
template <class T>
struct Weights {
  Hyperparameters hp;
  ParameterLayout layout;
  Array<T> flat;
  struct Layer {
    Array<T> phi_t, mix_t, gate_t, out_t;
  };
  std::vector<Layer> layers;
  Array<T> read1_t;

  explicit Weights(const Hyperparameters &h) : hp(h), layout(h), flat(layout.total), layers(h.interactions) {}

  void set(const T *values) {
    flat.assign(values, values + layout.total);
    const int F = hp.features, H = hp.gate_width;
    for (int l = 0; l < hp.interactions; ++l) {
      const LayerOffsets &o = layout.layers[l];
      transpose(o.phi, F, o.message_blocks * F, layers[l].phi_t);
      transpose(o.mix, F, 2 * F, layers[l].mix_t);
      transpose(o.gate, 2 * F, H, layers[l].gate_t);
      transpose(o.out, H, o.update_blocks * F, layers[l].out_t);
    }
    transpose(layout.read1, F, hp.readout_width, read1_t);
  }

 private:
  void transpose(std::size_t at, int rows, int cols, Array<T> &to) {
    to.resize(std::size_t(rows) * cols);
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < cols; ++j) to[std::size_t(j) * rows + i] = flat[at + std::size_t(i) * cols + j];
  }
};

template <class T>
inline void linear(int rows, int in, int out, const T *x, const T *w, T *y) {
  gemm<T, false>(rows, out, in, x, in, 1, w, out, y, out);
}
template <class T>
inline void linear_add(int rows, int in, int out, const T *x, const T *w, T *y) {
  gemm<T, true>(rows, out, in, x, in, 1, w, out, y, out);
}
// gradient of a weight: g (in, out) += x (rows, in)^T y (rows, out)
template <class T>
inline void outer_add(int rows, int in, int out, const T *x, const T *y, T *g) {
  gemm<T, true>(in, out, rows, x, 1, in, y, out, g, out);
}
template <class T>
inline void add_bias(int rows, int width, const T *bias, T *y) {
  for (int i = 0; i < rows; ++i)
    for (int f = 0; f < width; ++f) y[std::size_t(i) * width + f] += bias[f];
}
template <class T>
inline void sum_rows(int rows, int width, const T *y, T *g) {
  for (int i = 0; i < rows; ++i)
    for (int f = 0; f < width; ++f) g[f] += y[std::size_t(i) * width + f];
}

// Everything one structure keeps between the passes. FC is F at compile time, or 0 for any F.
template <class T, int FC>
class Evaluation {
 public:
  double energy = 0;
  Array<double> atom_energy;  // (n,)
  Array<double> forces;       // (n, 3)
  double virial[9] = {};      // dE/d(strain), symmetric

  void run(const Weights<T> &w, const Graph &graph) {
    weights_ = &w;
    g_ = graph;
    geometry();
    forward();
    backward();
  }

  // Adds dL/dw to grad for a loss with dL/dE, dL/dF (n, 3), dL/d(virial) (3, 3) and, unless it is
  // null, dL/d(atomic energies) (n,).
  void accumulate(double grad_energy, const double *grad_forces, const double *grad_virial,
                  const double *grad_atoms, T *grad) {
    tangent_geometry(grad_forces, grad_virial);
    tangent_forward();
    tangent_backward(grad_energy, grad_atoms, grad);
  }

 private:
  struct Layer {
    Array<T> h, v, phi, m, W, dW, h1, v1, mixed, x, t, s, a, q;                   // forward
    Array<T> hb2, vb2, ab, sb, tb, xb, mixedb, hb1, vb1, kk, phib, Wb;            // adjoints
    Array<T> h_t, v_t, phi_t, m_t, h1_t, v1_t, mixed_t, x_t, t_t, s_t, a_t, q_t;  // tangents
  };

  const Weights<T> *weights_ = nullptr;
  Graph g_{};
  std::vector<Layer> layers_;
  int basis_ = 0;                   // B + 1
  Array<T> r_, unit_, rbf_, drbf_;  // (P,), (P, 3), (P, B+1) twice
  Array<T> r_t_, unit_t_, rbf_t_;   // tangents
  Array<T> h_, v_, hb_, vb_, h_t_, v_t_, hb_t_, vb_t_;
  Array<T> read_t_, read_s_, read_sb_, read_tb_, read_t_t_, read_s_t_, scratch_, scratch2_;
  Array<double> radial_b_, unit_b_;  // (P,), (P, 3)
  // scratch of the tangent backward pass, shared by the layers
  Array<T> ab_t_, sb_t_, tb_t_, xb_t_, mixedb_t_, kk_t_, phib_t_, Wb_t_, Wb_scaled_;

  int F() const { return FC > 0 ? FC : weights_->hp.features; }
  const T *at(std::size_t offset) const { return weights_->flat.data() + offset; }
  static void fit(Array<T> &a, std::size_t n) {
    if (a.size() < n) a.resize(n);
  }
  static void zero(Array<T> &a, std::size_t n) {
    if (a.size() < n) a.resize(n);
    std::fill_n(a.begin(), n, T(0));
  }

  void geometry() {
    const Hyperparameters &hp = weights_->hp;
    const int P = g_.pairs, B = hp.radial;
    basis_ = B + 1;
    fit(r_, P);
    fit(unit_, 3 * std::size_t(P));
    fit(rbf_, std::size_t(P) * basis_);
    fit(drbf_, std::size_t(P) * basis_);
    const double rc = hp.cutoff;
    for (int p = 0; p < P; ++p) {
      const double *d = g_.vectors + 3 * std::size_t(p);
      const double r = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
      r_[p] = T(r);
      for (int c = 0; c < 3; ++c) unit_[3 * p + c] = T(d[c] / r);
      // sin(n pi r / rc) / r times the envelope 1 - 10 x^3 + 15 x^4 - 6 x^5 (C2 at the cutoff)
      const double x = r / rc;
      double env = x < 1 ? 1 + x * x * x * (-10 + x * (15 - 6 * x)) : 0;
      double denv = x < 1 ? x * x * (-30 + x * (60 - 30 * x)) / rc : 0;
      const double core = hp.core_of(g_.species[g_.first[p]], g_.species[g_.second[p]]);
      if (r < core) {
        double left, slope;
        limbeck::fade(r, core, left, slope);
        denv = denv * left + env * slope;
        env *= left;
      }
      const double angle = M_PI * x, s1 = std::sin(angle), c1 = std::cos(angle), k = M_PI / rc;
      double sn = s1, cn = c1;
      T *b = &rbf_[std::size_t(p) * basis_], *db = &drbf_[std::size_t(p) * basis_];
      for (int n = 1; n <= B; ++n) {
        const double f = sn / r, df = (n * k * cn - f) / r;
        b[n - 1] = T(f * env);
        db[n - 1] = T(df * env + f * denv);
        const double next = sn * c1 + cn * s1;
        cn = cn * c1 - sn * s1;
        sn = next;
      }
      b[B] = T(env);
      db[B] = T(denv);
    }
  }

  void forward() {
    const Hyperparameters &hp = weights_->hp;
    const ParameterLayout &lay = weights_->layout;
    const int n = g_.atoms, F = this->F(), H = hp.gate_width, L = hp.interactions, R = hp.readout_width;
    const std::size_t nF = std::size_t(n) * F;
    layers_.resize(L);
    fit(h_, nF);
    zero(v_, 3 * nF);
    for (int i = 0; i < n; ++i)
      std::copy_n(at(lay.embedding) + std::size_t(g_.species[i]) * F, F, &h_[std::size_t(i) * F]);
    for (int l = 0; l < L; ++l) {
      Layer &k = layers_[l];
      const LayerOffsets &o = lay.layers[l];
      const int nP = o.message_blocks, nU = o.update_blocks;
      const std::size_t P = g_.pairs;
      k.h.assign(h_.begin(), h_.begin() + nF);
      k.v.assign(v_.begin(), v_.begin() + 3 * nF);
      fit(k.phi, nP * nF);
      linear(n, F, nP * F, k.h.data(), at(o.phi), k.phi.data());
      add_bias(n, nP * F, at(o.phi_bias), k.phi.data());
      fit(k.W, P * nP * F);
      fit(k.dW, P * nP * F);
      linear(int(P), basis_, nP * F, rbf_.data(), at(o.filter), k.W.data());
      linear(int(P), basis_, nP * F, drbf_.data(), at(o.filter), k.dW.data());
      fit(k.m, 3 * nF);
      if (nP == 3) carry(n, F, k.phi.data(), k.v.data(), k.m.data());
      k.h1 = k.h;
      k.v1 = k.v;
      if (nP == 3)
        messages<3>(k);
      else
        messages<2>(k);
      // update
      fit(k.mixed, 6 * nF);
      linear(3 * n, F, 2 * F, k.v1.data(), at(o.mix), k.mixed.data());
      fit(k.x, 2 * nF);
      fit(k.q, nF);
      const T e2 = T(hp.norm_offset * hp.norm_offset);
      for (int i = 0; i < n; ++i) {
        const T *m = &k.mixed[std::size_t(i) * 6 * F];
        T *x = &k.x[std::size_t(i) * 2 * F], *q = &k.q[std::size_t(i) * F];
        const T *h1 = &k.h1[std::size_t(i) * F];
        for (int f = 0; f < F; ++f) {
          const T u0 = m[f], u1 = m[2 * F + f], u2 = m[4 * F + f];
          const T w0 = m[F + f], w1 = m[3 * F + f], w2 = m[5 * F + f];
          x[f] = h1[f];
          x[F + f] = std::sqrt(w0 * w0 + w1 * w1 + w2 * w2 + e2);
          q[f] = u0 * w0 + u1 * w1 + u2 * w2;
        }
      }
      fit(k.t, std::size_t(n) * H);
      fit(k.s, std::size_t(n) * H);
      linear(n, 2 * F, H, k.x.data(), at(o.gate), k.t.data());
      add_bias(n, H, at(o.gate_bias), k.t.data());
      for (std::size_t i = 0; i < std::size_t(n) * H; ++i) k.s[i] = k.t[i] * sigmoid(k.t[i]);
      fit(k.a, nU * nF);
      linear(n, H, nU * F, k.s.data(), at(o.out), k.a.data());
      add_bias(n, nU * F, at(o.out_bias), k.a.data());
      for (int i = 0; i < n; ++i) {
        const T *a = &k.a[std::size_t(i) * nU * F], *q = &k.q[std::size_t(i) * F],
                *h1 = &k.h1[std::size_t(i) * F];
        T *h = &h_[std::size_t(i) * F];
        for (int f = 0; f < F; ++f) h[f] = h1[f] + a[f] + a[F + f] * q[f];
        if (nU == 3)
          for (int c = 0; c < 3; ++c) {
            const T *u = &k.mixed[(std::size_t(i) * 3 + c) * 2 * F],
                    *v1 = &k.v1[(std::size_t(i) * 3 + c) * F];
            T *v = &v_[(std::size_t(i) * 3 + c) * F];
            for (int f = 0; f < F; ++f) v[f] = v1[f] + a[2 * F + f] * u[f];
          }
      }
    }
    fit(read_t_, std::size_t(n) * R);
    fit(read_s_, std::size_t(n) * R);
    linear(n, F, R, h_.data(), at(lay.read1), read_t_.data());
    add_bias(n, R, at(lay.read1_bias), read_t_.data());
    atom_energy.assign(n, 0);
    energy = 0;
    for (int i = 0; i < n; ++i) {
      double out = *at(lay.read2_bias);
      for (int f = 0; f < R; ++f) {
        const T t = read_t_[std::size_t(i) * R + f], s = t * sigmoid(t);
        read_s_[std::size_t(i) * R + f] = s;
        out += double(s) * at(lay.read2)[f];
      }
      atom_energy[i] = out * hp.energy_scale;
      energy += atom_energy[i];
    }
  }

  // m = phi_block2 * v, the vector a neighbour hands on
  static void carry(int n, int F, const T *phi, const T *v, T *m) {
    for (int i = 0; i < n; ++i)
      for (int c = 0; c < 3; ++c) {
        const T *p = phi + std::size_t(i) * 3 * F + 2 * F, *x = v + (std::size_t(i) * 3 + c) * F;
        T *y = m + (std::size_t(i) * 3 + c) * F;
        for (int f = 0; f < F; ++f) y[f] = p[f] * x[f];
      }
  }

  template <int NP>
  void messages(Layer &k) {
    const int F = this->F();
    for (int p = 0; p < g_.pairs; ++p) {
      const std::size_t i = g_.first[p], j = g_.second[p];
      const T *LIMBECK_RESTRICT W = &k.W[std::size_t(p) * NP * F];
      const T *pi = &k.phi[i * NP * F], *pj = &k.phi[j * NP * F];
      const T *mi = &k.m[i * 3 * F], *mj = &k.m[j * 3 * F];
      T *hi = &k.h1[i * F], *hj = &k.h1[j * F], *vi = &k.v1[i * 3 * F], *vj = &k.v1[j * 3 * F];
      const T u[3] = {unit_[3 * p], unit_[3 * p + 1], unit_[3 * p + 2]};
      if (i == j) {  // an atom and its own image: the two directions add up, the vectors cancel
        for (int f = 0; f < F; ++f) hi[f] += 2 * W[f] * pi[f];
        if (NP == 3)
          for (int c = 0; c < 3; ++c)
            for (int f = 0; f < F; ++f) vi[c * F + f] += 2 * W[2 * F + f] * mi[c * F + f];
        continue;
      }
      LIMBECK_SIMD
      for (int f = 0; f < F; ++f) {
        hi[f] += W[f] * pj[f];
        hj[f] += W[f] * pi[f];
        const T a = W[F + f] * pj[F + f], b = W[F + f] * pi[F + f];
        for (int c = 0; c < 3; ++c) {
          T x = vi[c * F + f] + a * u[c], y = vj[c * F + f] - b * u[c];
          if (NP == 3) {
            x += W[2 * F + f] * mj[c * F + f];
            y += W[2 * F + f] * mi[c * F + f];
          }
          vi[c * F + f] = x;
          vj[c * F + f] = y;
        }
      }
    }
  }

  void backward() {
    const Hyperparameters &hp = weights_->hp;
    const ParameterLayout &lay = weights_->layout;
    const int n = g_.atoms, F = this->F(), H = hp.gate_width, L = hp.interactions, R = hp.readout_width;
    const std::size_t nF = std::size_t(n) * F;
    const T scale = T(hp.energy_scale);
    fit(read_sb_, std::size_t(n) * R);
    fit(read_tb_, std::size_t(n) * R);
    for (int i = 0; i < n; ++i)
      for (int f = 0; f < R; ++f) {
        const std::size_t e = std::size_t(i) * R + f;
        const T t = read_t_[e], g = sigmoid(t);
        read_sb_[e] = scale * at(lay.read2)[f];
        read_tb_[e] = read_sb_[e] * (g + t * g * (1 - g));
      }
    fit(hb_, nF);
    zero(vb_, 3 * nF);
    linear(n, R, F, read_tb_.data(), weights_->read1_t.data(), hb_.data());
    radial_b_.assign(g_.pairs, 0.0);
    unit_b_.assign(3 * std::size_t(g_.pairs), 0.0);
    for (int l = L - 1; l >= 0; --l) {
      Layer &k = layers_[l];
      const LayerOffsets &o = lay.layers[l];
      const int nP = o.message_blocks, nU = o.update_blocks;
      const auto &wt = weights_->layers[l];
      k.hb2.assign(hb_.begin(), hb_.begin() + nF);
      k.vb2.assign(vb_.begin(), vb_.begin() + 3 * nF);
      fit(k.ab, nU * nF);
      for (int i = 0; i < n; ++i) {
        const T *hb = &k.hb2[std::size_t(i) * F], *q = &k.q[std::size_t(i) * F];
        T *ab = &k.ab[std::size_t(i) * nU * F];
        const T *vb = &k.vb2[std::size_t(i) * 3 * F], *mx = &k.mixed[std::size_t(i) * 6 * F];
        for (int f = 0; f < F; ++f) {
          ab[f] = hb[f];
          ab[F + f] = hb[f] * q[f];
        }
        if (nU == 3)
          for (int f = 0; f < F; ++f)
            ab[2 * F + f] = vb[f] * mx[f] + vb[F + f] * mx[2 * F + f] + vb[2 * F + f] * mx[4 * F + f];
      }
      fit(k.sb, std::size_t(n) * H);
      fit(k.tb, std::size_t(n) * H);
      fit(k.xb, 2 * nF);
      linear(n, nU * F, H, k.ab.data(), wt.out_t.data(), k.sb.data());
      for (std::size_t e = 0; e < std::size_t(n) * H; ++e) {
        const T t = k.t[e], g = sigmoid(t);
        k.tb[e] = k.sb[e] * (g + t * g * (1 - g));
      }
      linear(n, H, 2 * F, k.tb.data(), wt.gate_t.data(), k.xb.data());
      fit(k.mixedb, 6 * nF);
      k.hb1 = k.hb2;
      for (int i = 0; i < n; ++i) {
        const T *hb = &k.hb2[std::size_t(i) * F], *a = &k.a[std::size_t(i) * nU * F];
        const T *x = &k.x[std::size_t(i) * 2 * F], *xb = &k.xb[std::size_t(i) * 2 * F];
        T *h1 = &k.hb1[std::size_t(i) * F];
        for (int f = 0; f < F; ++f) h1[f] += xb[f];
        for (int c = 0; c < 3; ++c) {
          const T *mx = &k.mixed[(std::size_t(i) * 3 + c) * 2 * F],
                  *vb = &k.vb2[(std::size_t(i) * 3 + c) * F];
          T *mb = &k.mixedb[(std::size_t(i) * 3 + c) * 2 * F];
          for (int f = 0; f < F; ++f) {
            const T qb = hb[f] * a[F + f];
            mb[f] = qb * mx[F + f] + (nU == 3 ? a[2 * F + f] * vb[f] : T(0));
            mb[F + f] = qb * mx[f] + xb[F + f] / x[F + f] * mx[F + f];
          }
        }
      }
      k.vb1 = k.vb2;
      linear_add(3 * n, 2 * F, F, k.mixedb.data(), wt.mix_t.data(), k.vb1.data());
      zero(k.phib, nP * nF);
      zero(k.kk, 3 * nF);
      fit(k.Wb, std::size_t(g_.pairs) * nP * F);
      if (nP == 3)
        message_adjoint<3>(k);
      else
        message_adjoint<2>(k);
      vb_.assign(k.vb1.begin(), k.vb1.begin() + 3 * nF);
      if (nP == 3) carry_adjoint(n, F, k);
      hb_.assign(k.hb1.begin(), k.hb1.begin() + nF);
      linear_add(n, nP * F, F, k.phib.data(), wt.phi_t.data(), hb_.data());
    }
    collect_forces();
  }

  void carry_adjoint(int n, int F, Layer &k) {
    for (int i = 0; i < n; ++i) {
      T *pb = &k.phib[std::size_t(i) * 3 * F + 2 * F];
      const T *ph = &k.phi[std::size_t(i) * 3 * F + 2 * F];
      for (int c = 0; c < 3; ++c) {
        const T *kk = &k.kk[(std::size_t(i) * 3 + c) * F], *v = &k.v[(std::size_t(i) * 3 + c) * F];
        T *vb = &vb_[(std::size_t(i) * 3 + c) * F];
        for (int f = 0; f < F; ++f) {
          pb[f] += v[f] * kk[f];
          vb[f] += ph[f] * kk[f];
        }
      }
    }
  }

  template <int NP>
  void message_adjoint(Layer &k) {
    const int F = this->F();
    for (int p = 0; p < g_.pairs; ++p) {
      const std::size_t i = g_.first[p], j = g_.second[p];
      const T *LIMBECK_RESTRICT W = &k.W[std::size_t(p) * NP * F];
      const T *LIMBECK_RESTRICT dW = &k.dW[std::size_t(p) * NP * F];
      T *LIMBECK_RESTRICT Wb = &k.Wb[std::size_t(p) * NP * F];
      const T *pi = &k.phi[i * NP * F], *pj = &k.phi[j * NP * F];
      const T *mi = &k.m[i * 3 * F], *mj = &k.m[j * 3 * F];
      const T *gi = &k.hb1[i * F], *gj = &k.hb1[j * F], *ki = &k.vb1[i * 3 * F], *kj = &k.vb1[j * 3 * F];
      T *bi = &k.phib[i * NP * F], *bj = &k.phib[j * NP * F];
      T *kki = &k.kk[i * 3 * F], *kkj = &k.kk[j * 3 * F];
      const T u[3] = {unit_[3 * p], unit_[3 * p + 1], unit_[3 * p + 2]};
      if (i == j) {
        double rb = 0;
        for (int f = 0; f < F; ++f) {
          Wb[f] = 2 * gi[f] * pi[f];
          Wb[F + f] = 0;
          rb += double(Wb[f] * dW[f]);
          bi[f] += 2 * W[f] * gi[f];
          if (NP == 3) {
            T dot = 0;
            for (int c = 0; c < 3; ++c) {
              dot += ki[c * F + f] * mi[c * F + f];
              kki[c * F + f] += 2 * W[2 * F + f] * ki[c * F + f];
            }
            Wb[2 * F + f] = 2 * dot;
            rb += double(Wb[2 * F + f] * dW[2 * F + f]);
          }
        }
        radial_b_[p] += rb;
        continue;
      }
      T rb = 0, ub0 = 0, ub1 = 0, ub2 = 0;
      LIMBECK_SIMD
      for (int f = 0; f < F; ++f) {
        const T wb1 = gi[f] * pj[f] + gj[f] * pi[f];
        bi[f] += W[f] * gj[f];
        bj[f] += W[f] * gi[f];
        const T kiu = ki[f] * u[0] + ki[F + f] * u[1] + ki[2 * F + f] * u[2];
        const T kju = kj[f] * u[0] + kj[F + f] * u[1] + kj[2 * F + f] * u[2];
        const T w = W[F + f], qi = pi[F + f], qj = pj[F + f];
        bi[F + f] -= w * kju;
        bj[F + f] += w * kiu;
        const T wb2 = kiu * qj - kju * qi;
        ub0 += w * (ki[f] * qj - kj[f] * qi);
        ub1 += w * (ki[F + f] * qj - kj[F + f] * qi);
        ub2 += w * (ki[2 * F + f] * qj - kj[2 * F + f] * qi);
        Wb[f] = wb1;
        Wb[F + f] = wb2;
        rb += wb1 * dW[f] + wb2 * dW[F + f];
        if (NP == 3) {
          T dot = 0;
          const T w3 = W[2 * F + f];
          for (int c = 0; c < 3; ++c) {
            dot += ki[c * F + f] * mj[c * F + f] + kj[c * F + f] * mi[c * F + f];
            kki[c * F + f] += w3 * kj[c * F + f];
            kkj[c * F + f] += w3 * ki[c * F + f];
          }
          Wb[2 * F + f] = dot;
          rb += dot * dW[2 * F + f];
        }
      }
      radial_b_[p] += double(rb);
      unit_b_[3 * p] += double(ub0);
      unit_b_[3 * p + 1] += double(ub1);
      unit_b_[3 * p + 2] += double(ub2);
    }
  }

  void collect_forces() {
    forces.assign(3 * std::size_t(g_.atoms), 0.0);
    std::fill_n(virial, 9, 0.0);
    for (int p = 0; p < g_.pairs; ++p) {
      const double *d = g_.vectors + 3 * std::size_t(p);
      const double r = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
      double u[3], gp[3], along = 0;
      for (int c = 0; c < 3; ++c) {
        u[c] = d[c] / r;
        along += unit_b_[3 * p + c] * u[c];
      }
      for (int c = 0; c < 3; ++c) gp[c] = radial_b_[p] * u[c] + (unit_b_[3 * p + c] - along * u[c]) / r;
      for (int c = 0; c < 3; ++c) {
        forces[3 * g_.first[p] + c] += gp[c];
        forces[3 * g_.second[p] + c] -= gp[c];
        for (int b = 0; b < 3; ++b) virial[3 * c + b] += 0.5 * (gp[c] * d[b] + gp[b] * d[c]);
      }
    }
  }

  // Direction of the positions -dL/dF and of the strain dL/d(virial): tangents of r, u, basis.
  void tangent_geometry(const double *grad_forces, const double *grad_virial) {
    const int P = g_.pairs;
    fit(r_t_, P);
    fit(unit_t_, 3 * std::size_t(P));
    fit(rbf_t_, std::size_t(P) * basis_);
    for (int p = 0; p < P; ++p) {
      const int i = g_.first[p], j = g_.second[p];
      const double *d = g_.vectors + 3 * std::size_t(p);
      const double r = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
      double dt[3], rt = 0;
      for (int c = 0; c < 3; ++c) {
        dt[c] = grad_forces[3 * i + c] - grad_forces[3 * j + c];
        for (int b = 0; b < 3; ++b) dt[c] += 0.5 * (grad_virial[3 * c + b] + grad_virial[3 * b + c]) * d[b];
        rt += dt[c] * d[c] / r;
      }
      r_t_[p] = T(rt);
      for (int c = 0; c < 3; ++c) unit_t_[3 * p + c] = T((dt[c] - d[c] / r * rt) / r);
      for (int b = 0; b < basis_; ++b)
        rbf_t_[std::size_t(p) * basis_ + b] = T(rt) * drbf_[std::size_t(p) * basis_ + b];
    }
  }

  void tangent_forward() {
    const Hyperparameters &hp = weights_->hp;
    const ParameterLayout &lay = weights_->layout;
    const int n = g_.atoms, F = this->F(), H = hp.gate_width, L = hp.interactions, R = hp.readout_width;
    const std::size_t nF = std::size_t(n) * F;
    zero(h_t_, nF);
    zero(v_t_, 3 * nF);
    for (int l = 0; l < L; ++l) {
      Layer &k = layers_[l];
      const LayerOffsets &o = lay.layers[l];
      const int nP = o.message_blocks, nU = o.update_blocks;
      k.h_t.assign(h_t_.begin(), h_t_.begin() + nF);
      k.v_t.assign(v_t_.begin(), v_t_.begin() + 3 * nF);
      fit(k.phi_t, nP * nF);
      linear(n, F, nP * F, k.h_t.data(), at(o.phi), k.phi_t.data());
      fit(k.m_t, 3 * nF);
      if (nP == 3)
        for (int i = 0; i < n; ++i)
          for (int c = 0; c < 3; ++c) {
            const T *ph = &k.phi[std::size_t(i) * 3 * F + 2 * F],
                    *pt = &k.phi_t[std::size_t(i) * 3 * F + 2 * F];
            const std::size_t row = (std::size_t(i) * 3 + c) * F;
            for (int f = 0; f < F; ++f) k.m_t[row + f] = pt[f] * k.v[row + f] + ph[f] * k.v_t[row + f];
          }
      k.h1_t = k.h_t;
      k.v1_t = k.v_t;
      if (nP == 3)
        messages_tangent<3>(k);
      else
        messages_tangent<2>(k);
      fit(k.mixed_t, 6 * nF);
      linear(3 * n, F, 2 * F, k.v1_t.data(), at(o.mix), k.mixed_t.data());
      fit(k.x_t, 2 * nF);
      fit(k.q_t, nF);
      for (int i = 0; i < n; ++i) {
        const T *m = &k.mixed[std::size_t(i) * 6 * F], *mt = &k.mixed_t[std::size_t(i) * 6 * F];
        const T *x = &k.x[std::size_t(i) * 2 * F], *h1 = &k.h1_t[std::size_t(i) * F];
        T *xt = &k.x_t[std::size_t(i) * 2 * F], *qt = &k.q_t[std::size_t(i) * F];
        for (int f = 0; f < F; ++f) {
          T dot = 0, q = 0;
          for (int c = 0; c < 3; ++c) {
            const int u = 2 * c * F + f, w = u + F;
            dot += m[w] * mt[w];
            q += mt[u] * m[w] + m[u] * mt[w];
          }
          xt[f] = h1[f];
          xt[F + f] = dot / x[F + f];
          qt[f] = q;
        }
      }
      fit(k.t_t, std::size_t(n) * H);
      fit(k.s_t, std::size_t(n) * H);
      fit(k.a_t, nU * nF);
      linear(n, 2 * F, H, k.x_t.data(), at(o.gate), k.t_t.data());
      for (std::size_t e = 0; e < std::size_t(n) * H; ++e) {
        const T t = k.t[e], g = sigmoid(t);
        k.s_t[e] = k.t_t[e] * (g + t * g * (1 - g));
      }
      linear(n, H, nU * F, k.s_t.data(), at(o.out), k.a_t.data());
      for (int i = 0; i < n; ++i) {
        const T *a = &k.a[std::size_t(i) * nU * F], *att = &k.a_t[std::size_t(i) * nU * F];
        const std::size_t row = std::size_t(i) * F;
        for (int f = 0; f < F; ++f)
          h_t_[row + f] = k.h1_t[row + f] + att[f] + att[F + f] * k.q[row + f] + a[F + f] * k.q_t[row + f];
        if (nU == 3)
          for (int c = 0; c < 3; ++c) {
            const std::size_t e = (std::size_t(i) * 3 + c) * F;
            const T *u = &k.mixed[2 * e], *ut = &k.mixed_t[2 * e];
            for (int f = 0; f < F; ++f)
              v_t_[e + f] = k.v1_t[e + f] + att[2 * F + f] * u[f] + a[2 * F + f] * ut[f];
          }
      }
    }
    fit(read_t_t_, std::size_t(n) * R);
    fit(read_s_t_, std::size_t(n) * R);
    linear(n, F, R, h_t_.data(), at(lay.read1), read_t_t_.data());
    for (std::size_t e = 0; e < std::size_t(n) * R; ++e) {
      const T t = read_t_[e], g = sigmoid(t);
      read_s_t_[e] = read_t_t_[e] * (g + t * g * (1 - g));
    }
  }

  template <int NP>
  void messages_tangent(Layer &k) {
    const int F = this->F();
    for (int p = 0; p < g_.pairs; ++p) {
      const std::size_t i = g_.first[p], j = g_.second[p];
      const T *LIMBECK_RESTRICT W = &k.W[std::size_t(p) * NP * F];
      const T *LIMBECK_RESTRICT dW = &k.dW[std::size_t(p) * NP * F];
      const T *pi = &k.phi[i * NP * F], *pj = &k.phi[j * NP * F];
      const T *qi = &k.phi_t[i * NP * F], *qj = &k.phi_t[j * NP * F];
      const T *mi = &k.m[i * 3 * F], *mj = &k.m[j * 3 * F], *ni = &k.m_t[i * 3 * F], *nj = &k.m_t[j * 3 * F];
      T *hi = &k.h1_t[i * F], *hj = &k.h1_t[j * F], *vi = &k.v1_t[i * 3 * F], *vj = &k.v1_t[j * 3 * F];
      const T u[3] = {unit_[3 * p], unit_[3 * p + 1], unit_[3 * p + 2]};
      const T du[3] = {unit_t_[3 * p], unit_t_[3 * p + 1], unit_t_[3 * p + 2]};
      const T rt = r_t_[p];
      if (i == j) {
        for (int f = 0; f < F; ++f) hi[f] += 2 * (rt * dW[f] * pi[f] + W[f] * qi[f]);
        if (NP == 3)
          for (int c = 0; c < 3; ++c)
            for (int f = 0; f < F; ++f)
              vi[c * F + f] += 2 * (rt * dW[2 * F + f] * mi[c * F + f] + W[2 * F + f] * ni[c * F + f]);
        continue;
      }
      LIMBECK_SIMD
      for (int f = 0; f < F; ++f) {
        const T w1 = W[f], w1t = rt * dW[f], w2 = W[F + f], w2t = rt * dW[F + f];
        hi[f] += w1t * pj[f] + w1 * qj[f];
        hj[f] += w1t * pi[f] + w1 * qi[f];
        const T a = w2 * pj[F + f], b = w2 * pi[F + f];
        const T at = w2t * pj[F + f] + w2 * qj[F + f], bt = w2t * pi[F + f] + w2 * qi[F + f];
        for (int c = 0; c < 3; ++c) {
          T x = vi[c * F + f] + at * u[c] + a * du[c], y = vj[c * F + f] - bt * u[c] - b * du[c];
          if (NP == 3) {
            const T w3 = W[2 * F + f], w3t = rt * dW[2 * F + f];
            x += w3t * mj[c * F + f] + w3 * nj[c * F + f];
            y += w3t * mi[c * F + f] + w3 * ni[c * F + f];
          }
          vi[c * F + f] = x;
          vj[c * F + f] = y;
        }
      }
    }
  }

  void tangent_backward(double grad_energy, const double *grad_atoms, T *grad) {
    const Hyperparameters &hp = weights_->hp;
    const ParameterLayout &lay = weights_->layout;
    const int n = g_.atoms, F = this->F(), H = hp.gate_width, L = hp.interactions, R = hp.readout_width;
    const std::size_t nF = std::size_t(n) * F, nR = std::size_t(n) * R, P = g_.pairs;
    const T scale = T(hp.energy_scale), whole = scale * T(grad_energy);
    fit(scratch_, nR);
    double atoms = 0;  // sum of dL/de_i
    for (int i = 0; i < n; ++i) {
      const T seed = grad_atoms ? scale * T(grad_energy + grad_atoms[i]) : whole;
      if (grad_atoms) atoms += grad_atoms[i];
      for (int f = 0; f < R; ++f) {
        const std::size_t e = std::size_t(i) * R + f;
        const T t = read_t_[e], g = sigmoid(t), d1 = g + t * g * (1 - g);
        const T d2 = g * (1 - g) * (2 + t * (1 - 2 * g));
        scratch_[e] = seed * at(lay.read2)[f] * d1 + read_sb_[e] * d2 * read_t_t_[e];
        grad[lay.read2 + f] += scale * read_s_t_[e] + seed * read_s_[e];
      }
    }
    grad[lay.read2_bias] += whole * T(n);
    if (grad_atoms) grad[lay.read2_bias] += scale * T(atoms);
    outer_add(n, F, R, h_t_.data(), read_tb_.data(), grad + lay.read1);
    outer_add(n, F, R, h_.data(), scratch_.data(), grad + lay.read1);
    sum_rows(n, R, scratch_.data(), grad + lay.read1_bias);
    fit(hb_t_, nF);
    zero(vb_t_, 3 * nF);
    linear(n, R, F, scratch_.data(), weights_->read1_t.data(), hb_t_.data());
    for (int l = L - 1; l >= 0; --l) {
      Layer &k = layers_[l];
      const LayerOffsets &o = lay.layers[l];
      const int nP = o.message_blocks, nU = o.update_blocks;
      const auto &wt = weights_->layers[l];
      fit(ab_t_, nU * nF);
      fit(sb_t_, std::size_t(n) * H);
      fit(tb_t_, std::size_t(n) * H);
      fit(xb_t_, 2 * nF);
      fit(mixedb_t_, 6 * nF);
      for (int i = 0; i < n; ++i) {
        const std::size_t row = std::size_t(i) * F;
        T *abt = &ab_t_[std::size_t(i) * nU * F];
        for (int f = 0; f < F; ++f) {
          abt[f] = hb_t_[row + f];
          abt[F + f] = hb_t_[row + f] * k.q[row + f] + k.hb2[row + f] * k.q_t[row + f];
        }
        if (nU == 3)
          for (int f = 0; f < F; ++f) {
            T sum = 0;
            for (int c = 0; c < 3; ++c) {
              const std::size_t e = (std::size_t(i) * 3 + c) * F;
              sum += vb_t_[e + f] * k.mixed[2 * e + f] + k.vb2[e + f] * k.mixed_t[2 * e + f];
            }
            abt[2 * F + f] = sum;
          }
      }
      linear(n, nU * F, H, ab_t_.data(), wt.out_t.data(), sb_t_.data());
      for (std::size_t e = 0; e < std::size_t(n) * H; ++e) {
        const T t = k.t[e], g = sigmoid(t), d1 = g + t * g * (1 - g);
        const T d2 = g * (1 - g) * (2 + t * (1 - 2 * g));
        tb_t_[e] = sb_t_[e] * d1 + k.sb[e] * d2 * k.t_t[e];
      }
      linear(n, H, 2 * F, tb_t_.data(), wt.gate_t.data(), xb_t_.data());
      for (int i = 0; i < n; ++i) {
        const std::size_t row = std::size_t(i) * F;
        const T *a = &k.a[std::size_t(i) * nU * F], *aa = &k.a_t[std::size_t(i) * nU * F];
        const T *x = &k.x[2 * row], *xt = &k.x_t[2 * row], *xb = &k.xb[2 * row], *xbt = &xb_t_[2 * row];
        for (int c = 0; c < 3; ++c) {
          const std::size_t e = (std::size_t(i) * 3 + c) * F;
          const T *m = &k.mixed[2 * e], *mt = &k.mixed_t[2 * e], *vb = &k.vb2[e], *vbt = &vb_t_[e];
          T *out = &mixedb_t_[2 * e];
          for (int f = 0; f < F; ++f) {
            const T hb = k.hb2[row + f], hbt = hb_t_[row + f];
            const T qb = hb * a[F + f], qbt = hbt * a[F + f] + hb * aa[F + f];
            const T inv = 1 / x[F + f], w = xb[F + f] * inv;
            const T w_t = (xbt[F + f] - w * xt[F + f]) * inv;
            T first = qbt * m[F + f] + qb * mt[F + f];
            if (nU == 3) first += aa[2 * F + f] * vb[f] + a[2 * F + f] * vbt[f];
            out[f] = first;
            out[F + f] = qbt * m[f] + qb * mt[f] + w_t * m[F + f] + w * mt[F + f];
          }
        }
        for (int f = 0; f < F; ++f) hb_t_[row + f] += xbt[f];
      }
      // weight gradients of the update
      outer_add(n, H, nU * F, k.s_t.data(), k.ab.data(), grad + o.out);
      outer_add(n, H, nU * F, k.s.data(), ab_t_.data(), grad + o.out);
      sum_rows(n, nU * F, ab_t_.data(), grad + o.out_bias);
      outer_add(n, 2 * F, H, k.x_t.data(), k.tb.data(), grad + o.gate);
      outer_add(n, 2 * F, H, k.x.data(), tb_t_.data(), grad + o.gate);
      sum_rows(n, H, tb_t_.data(), grad + o.gate_bias);
      outer_add(3 * n, F, 2 * F, k.v1_t.data(), k.mixedb.data(), grad + o.mix);
      outer_add(3 * n, F, 2 * F, k.v1.data(), mixedb_t_.data(), grad + o.mix);
      linear_add(3 * n, 2 * F, F, mixedb_t_.data(), wt.mix_t.data(), vb_t_.data());
      // messages
      zero(phib_t_, nP * nF);
      zero(kk_t_, 3 * nF);
      fit(Wb_t_, P * nP * F);
      if (nP == 3)
        message_adjoint_tangent<3>(k);
      else
        message_adjoint_tangent<2>(k);
      if (nP == 3)
        for (int i = 0; i < n; ++i) {
          const std::size_t at3 = std::size_t(i) * 3 * F + 2 * F;
          for (int c = 0; c < 3; ++c) {
            const std::size_t e = (std::size_t(i) * 3 + c) * F;
            for (int f = 0; f < F; ++f) {
              phib_t_[at3 + f] += k.v_t[e + f] * k.kk[e + f] + k.v[e + f] * kk_t_[e + f];
              vb_t_[e + f] += k.phi_t[at3 + f] * k.kk[e + f] + k.phi[at3 + f] * kk_t_[e + f];
            }
          }
        }
      outer_add(int(P), basis_, nP * F, rbf_t_.data(), k.Wb.data(), grad + o.filter);
      outer_add(int(P), basis_, nP * F, rbf_.data(), Wb_t_.data(), grad + o.filter);
      outer_add(n, F, nP * F, k.h_t.data(), k.phib.data(), grad + o.phi);
      outer_add(n, F, nP * F, k.h.data(), phib_t_.data(), grad + o.phi);
      sum_rows(n, nP * F, phib_t_.data(), grad + o.phi_bias);
      linear_add(n, nP * F, F, phib_t_.data(), wt.phi_t.data(), hb_t_.data());
    }
    for (int i = 0; i < n; ++i)
      for (int f = 0; f < F; ++f)
        grad[lay.embedding + std::size_t(g_.species[i]) * F + f] += hb_t_[std::size_t(i) * F + f];
  }

  template <int NP>
  void message_adjoint_tangent(Layer &k) {
    const int F = this->F();
    for (int p = 0; p < g_.pairs; ++p) {
      const std::size_t i = g_.first[p], j = g_.second[p];
      const T *LIMBECK_RESTRICT W = &k.W[std::size_t(p) * NP * F];
      const T *LIMBECK_RESTRICT dW = &k.dW[std::size_t(p) * NP * F];
      T *LIMBECK_RESTRICT Wb = &Wb_t_[std::size_t(p) * NP * F];
      const T *pi = &k.phi[i * NP * F], *pj = &k.phi[j * NP * F];
      const T *qi = &k.phi_t[i * NP * F], *qj = &k.phi_t[j * NP * F];
      const T *mi = &k.m[i * 3 * F], *mj = &k.m[j * 3 * F], *ni = &k.m_t[i * 3 * F], *nj = &k.m_t[j * 3 * F];
      const T *gi = &k.hb1[i * F], *gj = &k.hb1[j * F], *ki = &k.vb1[i * 3 * F], *kj = &k.vb1[j * 3 * F];
      const T *hi = &hb_t_[i * F], *hj = &hb_t_[j * F], *li = &vb_t_[i * 3 * F], *lj = &vb_t_[j * 3 * F];
      T *bi = &phib_t_[i * NP * F], *bj = &phib_t_[j * NP * F];
      T *kki = &kk_t_[i * 3 * F], *kkj = &kk_t_[j * 3 * F];
      const T u[3] = {unit_[3 * p], unit_[3 * p + 1], unit_[3 * p + 2]};
      const T du[3] = {unit_t_[3 * p], unit_t_[3 * p + 1], unit_t_[3 * p + 2]};
      const T rt = r_t_[p];
      if (i == j) {
        for (int f = 0; f < F; ++f) {
          Wb[f] = 2 * (hi[f] * pi[f] + gi[f] * qi[f]);
          Wb[F + f] = 0;
          bi[f] += 2 * (rt * dW[f] * gi[f] + W[f] * hi[f]);
          if (NP == 3) {
            T dot = 0;
            for (int c = 0; c < 3; ++c) {
              const int e = c * F + f;
              dot += li[e] * mi[e] + ki[e] * ni[e];
              kki[e] += 2 * (rt * dW[2 * F + f] * ki[e] + W[2 * F + f] * li[e]);
            }
            Wb[2 * F + f] = 2 * dot;
          }
        }
        continue;
      }
      LIMBECK_SIMD
      for (int f = 0; f < F; ++f) {
        const T w1 = W[f], w1t = rt * dW[f], w2 = W[F + f], w2t = rt * dW[F + f];
        Wb[f] = hi[f] * pj[f] + gi[f] * qj[f] + hj[f] * pi[f] + gj[f] * qi[f];
        bi[f] += w1t * gj[f] + w1 * hj[f];
        bj[f] += w1t * gi[f] + w1 * hi[f];
        T kiu = 0, kju = 0, kiut = 0, kjut = 0;
        for (int c = 0; c < 3; ++c) {
          const int e = c * F + f;
          kiu += ki[e] * u[c];
          kju += kj[e] * u[c];
          kiut += li[e] * u[c] + ki[e] * du[c];
          kjut += lj[e] * u[c] + kj[e] * du[c];
        }
        bi[F + f] -= w2t * kju + w2 * kjut;
        bj[F + f] += w2t * kiu + w2 * kiut;
        Wb[F + f] = kiut * pj[F + f] + kiu * qj[F + f] - kjut * pi[F + f] - kju * qi[F + f];
        if (NP == 3) {
          T dot = 0;
          const T w3 = W[2 * F + f], w3t = rt * dW[2 * F + f];
          for (int c = 0; c < 3; ++c) {
            const int e = c * F + f;
            dot += li[e] * mj[e] + ki[e] * nj[e] + lj[e] * mi[e] + kj[e] * ni[e];
            kki[e] += w3t * kj[e] + w3 * lj[e];
            kkj[e] += w3t * ki[e] + w3 * li[e];
          }
          Wb[2 * F + f] = dot;
        }
      }
    }
  }
};

}  // namespace LIMBECK_ISA
