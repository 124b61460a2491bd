// The tangent of both passes along a direction: gradients of a loss. Included by painn.hpp.
#pragma once

namespace LIMBECK_ISA {

// Direction of the positions -dL/dF and of the strain dL/d(virial): tangents of r, u, basis.
template <class T, int FC>
inline void Evaluation<T, FC>::tangent_geometry(const double *grad_forces, const double *grad_virial) {
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

template <class T, int FC>
inline void Evaluation<T, FC>::tangent_forward() {
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
      k.s_t[e] = k.t_t[e] * silu_slope(k.t[e]);
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
    read_s_t_[e] = read_t_t_[e] * silu_slope(read_t_[e]);
  }
}

template <class T, int FC>
template <int NP>
inline void Evaluation<T, FC>::messages_tangent(Layer &k) {
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

template <class T, int FC>
inline void Evaluation<T, FC>::tangent_backward(double grad_energy, T *grad) {
  const Hyperparameters &hp = weights_->hp;
  const ParameterLayout &lay = weights_->layout;
  const int n = g_.atoms, F = this->F(), H = hp.gate_width, L = hp.interactions, R = hp.readout_width;
  const std::size_t nF = std::size_t(n) * F, nR = std::size_t(n) * R, P = g_.pairs;
  const T scale = T(hp.energy_scale), seed = scale * T(grad_energy);
  fit(scratch_, nR);
  for (int i = 0; i < n; ++i) {
    for (int f = 0; f < R; ++f) {
      const std::size_t e = std::size_t(i) * R + f;
      const T d1 = silu_slope(read_t_[e]), d2 = silu_curvature(read_t_[e]);
      scratch_[e] = seed * at(lay.read2)[f] * d1 + read_sb_[e] * d2 * read_t_t_[e];
      grad[lay.read2 + f] += scale * read_s_t_[e] + seed * read_s_[e];
    }
  }
  grad[lay.read2_bias] += seed * T(n);
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
      const T d1 = silu_slope(k.t[e]), d2 = silu_curvature(k.t[e]);
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

template <class T, int FC>
template <int NP>
inline void Evaluation<T, FC>::message_adjoint_tangent(Layer &k) {
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

}  // namespace LIMBECK_ISA
