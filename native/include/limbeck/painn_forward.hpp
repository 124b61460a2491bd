// Energies of one training structure, with all that the other passes need. Included by painn.hpp.
#pragma once

namespace LIMBECK_ISA {

template <class T, int FC>
inline void Evaluation<T, FC>::geometry() {
  const Hyperparameters &hp = weights_->hp;
  const int P = g_.pairs, B = hp.radial;
  basis_ = B + 1;
  fit(r_, P);
  fit(unit_, 3 * std::size_t(P));
  fit(rbf_, std::size_t(P) * basis_);
  fit(drbf_, std::size_t(P) * basis_);
  radial_.fit(B);
  for (int base = 0; base < P; base += kBatch) {
    const int count = std::min(kBatch, P - base);
    for (int k = 0; k < count; ++k) {
      const int p = base + k;
      const double *d = g_.vectors + 3 * std::size_t(p);
      const double r = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
      r_[p] = T(r);
      for (int c = 0; c < 3; ++c) unit_[3 * p + c] = T(d[c] / r);
      radial_.distance[k] = r;
      radial_.core[k] = hp.core_of(g_.species[g_.first[p]], g_.species[g_.second[p]]);
    }
    radial_.template compute<true>(hp, count);
    for (int k = 0; k < count; ++k) {
      const bool within = radial_.distance[k] < hp.cutoff;
      T *b = &rbf_[std::size_t(base + k) * basis_], *db = &drbf_[std::size_t(base + k) * basis_];
      for (int n = 0; n < basis_; ++n) {
        b[n] = within ? T(radial_.basis[n * kBatch + k]) : T(0);
        db[n] = within ? T(radial_.slope[n * kBatch + k]) : T(0);
      }
    }
  }
}

template <class T, int FC>
inline void Evaluation<T, FC>::forward() {
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
    if (nP == 3) carry(k);
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
    for (int i = 0; i < n; ++i) std::copy_n(&k.h1[std::size_t(i) * F], F, &k.x[std::size_t(i) * 2 * F]);
    norms_and_products(n, F, T(hp.norm_offset * hp.norm_offset), k.mixed.data(), k.x.data(), k.q.data());
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
          const T *u = &k.mixed[(std::size_t(i) * 3 + c) * 2 * F], *v1 = &k.v1[(std::size_t(i) * 3 + c) * F];
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

// m = phi_block2 * v, the vector a neighbour sends
template <class T, int FC>
inline void Evaluation<T, FC>::carry(Layer &k) const {
  const int F = this->F();
  for (int i = 0; i < g_.atoms; ++i)
    for (int c = 0; c < 3; ++c) {
      const T *p = &k.phi[std::size_t(i) * 3 * F + 2 * F], *v = &k.v[(std::size_t(i) * 3 + c) * F];
      T *m = &k.m[(std::size_t(i) * 3 + c) * F];
      for (int f = 0; f < F; ++f) m[f] = p[f] * v[f];
    }
}

template <class T, int FC>
template <int NP>
inline void Evaluation<T, FC>::messages(Layer &k) {
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

}  // namespace LIMBECK_ISA
