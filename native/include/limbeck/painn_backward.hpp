// dE/d(vectors) of one training structure, with the adjoints kept. Included by painn.hpp.
#pragma once

namespace LIMBECK_ISA {

template <class T, int FC>
inline void Evaluation<T, FC>::backward() {
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
      read_sb_[e] = scale * at(lay.read2)[f];
      read_tb_[e] = read_sb_[e] * silu_slope(read_t_[e]);
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
    if (nU == 3)
      outputs_adjoint<3>(n, F, k.hb2.data(), k.vb2.data(), k.q.data(), k.mixed.data(), k.ab.data());
    else
      outputs_adjoint<2>(n, F, k.hb2.data(), k.vb2.data(), k.q.data(), k.mixed.data(), k.ab.data());
    fit(k.sb, std::size_t(n) * H);
    fit(k.tb, std::size_t(n) * H);
    fit(k.xb, 2 * nF);
    linear(n, nU * F, H, k.ab.data(), wt.out_t.data(), k.sb.data());
    for (std::size_t e = 0; e < std::size_t(n) * H; ++e) k.tb[e] = k.sb[e] * silu_slope(k.t[e]);
    linear(n, H, 2 * F, k.tb.data(), wt.gate_t.data(), k.xb.data());
    fit(k.mixedb, 6 * nF);
    k.hb1 = k.hb2;
    if (nU == 3)
      mixtures_adjoint<3>(n, F, k.a.data(), k.x.data(), k.xb.data(), k.mixed.data(), k.vb2.data(),
                          k.mixedb.data(), k.hb1.data());
    else
      mixtures_adjoint<2>(n, F, k.a.data(), k.x.data(), k.xb.data(), k.mixed.data(), k.vb2.data(),
                          k.mixedb.data(), k.hb1.data());
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
    if (nP == 3) carry_adjoint(k);
    hb_.assign(k.hb1.begin(), k.hb1.begin() + nF);
    linear_add(n, nP * F, F, k.phib.data(), wt.phi_t.data(), hb_.data());
  }
  collect_forces();
}

template <class T, int FC>
inline void Evaluation<T, FC>::carry_adjoint(Layer &k) {
  const int F = this->F();
  for (int i = 0; i < g_.atoms; ++i) {
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

template <class T, int FC>
template <int NP>
inline void Evaluation<T, FC>::message_adjoint(Layer &k) {
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

template <class T, int FC>
inline void Evaluation<T, FC>::collect_forces() {
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

}  // namespace LIMBECK_ISA
