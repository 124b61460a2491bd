// PaiNN (Schuett, Unke, Gastegger 2021, arXiv:2102.03150) for one structure: energy, forces, and
// the gradient of any loss on them with respect to the weights.
//
// Three passes, all derived by hand:
//   forward   E and everything its derivative needs;
//   backward  dE/d(vectors), with the adjoints kept;
//   tangent   for a direction x' of the positions (and a strain), the tangent of both passes,
//             which yields d/dw of (x' . grad E + c E): with x' = -dL/dF and c = dL/dE this is
//             dL/dw, at about three times the cost of one energy and force (no graph, no tape).
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
#include "limbeck/radial_basis.hpp"
#include "limbeck/scalar.hpp"
#include "limbeck/update.hpp"

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

  // Adds dL/dw to grad for a loss with dL/dE, dL/dF (n, 3), dL/d(virial) (3, 3).
  void accumulate(double grad_energy, const double *grad_forces, const double *grad_virial, T *grad) {
    tangent_geometry(grad_forces, grad_virial);
    tangent_forward();
    tangent_backward(grad_energy, grad);
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
  RadialBasis<double> radial_;
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

  // painn_forward.hpp
  void geometry();
  void forward();
  void carry(Layer &k) const;
  template <int NP>
  void messages(Layer &k);
  // painn_backward.hpp
  void backward();
  void carry_adjoint(Layer &k);
  template <int NP>
  void message_adjoint(Layer &k);
  void collect_forces();
  // painn_tangent.hpp
  void tangent_geometry(const double *grad_forces, const double *grad_virial);
  void tangent_forward();
  template <int NP>
  void messages_tangent(Layer &k);
  void tangent_backward(double grad_energy, T *grad);
  template <int NP>
  void message_adjoint_tangent(Layer &k);
};

}  // namespace LIMBECK_ISA

#include "limbeck/painn_backward.hpp"
#include "limbeck/painn_forward.hpp"
#include "limbeck/painn_tangent.hpp"
