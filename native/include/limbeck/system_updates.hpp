// The update of atoms between messages, for blocks of atoms that fit in cache. Included by system.hpp.
#pragma once

namespace LIMBECK_ISA {

// The two mixtures of each vector, (n, 3, 2F), the norm of the second and their scalar product.
template <class T>
inline void mix(const Packed<T> &w, const typename Packed<T>::Layer &layer, int n, const T *v,
                Scratch<T> &k) {
  const int F = w.F;
  gemm<T, false>(3 * n, 2 * F, F, v, F, 1, layer.mix.data(), 2 * F, k.mixed.data(), 2 * F);
  const T e2 = T(w.model.hp.norm_offset * w.model.hp.norm_offset);
  norms_and_products(n, F, e2, k.mixed.data(), k.x.data(), k.q.data());
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
  outputs_adjoint<NU>(n, F, k.h.data(), k.v.data(), k.q.data(), k.mixed.data(), k.ab.data());
  gemm<T, false>(n, H, NU * F, k.ab.data(), NU * F, 1, layer.out_t.data(), H, k.sb.data(), H);
  LIMBECK_SIMD
  for (int e = 0; e < n * H; ++e) k.tb[e] = k.sb[e] * silu_slope(t[e]);
  gemm<T, false>(n, 2 * F, H, k.tb.data(), H, 1, layer.gate_t.data(), 2 * F, k.xb.data(), 2 * F);
  mixtures_adjoint<NU>(n, F, k.a.data(), k.x.data(), k.xb.data(), k.mixed.data(), k.v.data(), k.mixedb.data(),
                       k.h.data());
  gemm<T, NU == 3>(3 * n, F, 2 * F, k.mixedb.data(), 2 * F, 1, layer.mix_t.data(), F, k.v.data(), F);
}

template <class T>
inline void Structure<T>::update(int l, Worker &part, int i0, int n) {
  const Timer timer(profile_, part, kUpdates);
  if (l + 1 == w_->L)
    last_update(part, i0, n);
  else
    inner_update(l, part, i0, n);
}

template <class T>
inline void Structure<T>::inner_update(int l, Worker &part, int i0, int n) {
  Scratch<T> &k = part.scratch;
  const int F = w_->F, H = w_->H;
  const auto &layer = w_->layers[l], &next = w_->layers[l + 1];
  T *sums = &b_.sums[std::size_t(i0) * 4 * F], *source = &b_.source[l + 1][std::size_t(i0) * 6 * F];
  T *v = &b_.before[l][std::size_t(i0) * 3 * F];
  for (int i = 0; i < n; ++i) {
    copy_block<false>(sums + std::size_t(i) * 4 * F, 4, 0, &k.x[std::size_t(i) * 2 * F]);
    for (int c = 0; c < 3; ++c)
      copy_block<false>(sums + std::size_t(i) * 4 * F, 4, 1 + c, v + (std::size_t(i) * 3 + c) * F);
  }
  update_inner(*w_, layer, n, v, &b_.gate[l][std::size_t(i0) * H], k);
  update_outer<T>(layer, F, H, n, k);
  for (int i = 0; i < n; ++i) {
    const T *a = &k.a[std::size_t(i) * 3 * F], *q = &k.q[std::size_t(i) * F];
    const T *m = &k.mixed[std::size_t(i) * 6 * F], *vi = v + std::size_t(i) * 3 * F;
    T *h = &k.h[std::size_t(i) * F];
    for (int f0 = 0; f0 < F; f0 += S) {
      T *x = sums + std::size_t(i) * 4 * F + 4 * f0, *y = source + std::size_t(i) * 6 * F + 6 * f0 + 3 * S;
      LIMBECK_SIMD
      for (int e = 0; e < S; ++e) {
        const int f = f0 + e;
        x[e] += a[f] + a[F + f] * q[f];
        h[f] = x[e];
        for (int c = 0; c < 3; ++c)
          x[(1 + c) * S + e] = y[c * S + e] = vi[c * F + f] + a[2 * F + f] * m[2 * c * F + f];
      }
    }
  }
  gemm<T, false>(n, 3 * F, F, k.h.data(), F, 1, next.phi.data(), 3 * F, k.phi.data(), 3 * F);
  for (int i = 0; i < n; ++i)
    for (int f0 = 0; f0 < F; f0 += S)
      for (int block = 0; block < 3; ++block) {
        T *y = source + std::size_t(i) * 6 * F + 6 * f0 + block * S;
        const T *x = &k.phi[(std::size_t(i) * 3 + block) * F + f0], *bias = &next.phi_bias[block * F + f0];
        LIMBECK_SIMD
        for (int e = 0; e < S; ++e) y[e] = x[e] + bias[e];
      }
}

// The last update, the readout and the way back through both, a block at a time: nothing is kept.
template <class T>
inline void Structure<T>::last_update(Worker &part, int i0, int n) {
  Scratch<T> &k = part.scratch;
  const int F = w_->F, H = w_->H, R = w_->R;
  const auto &layer = w_->layers[w_->L - 1];
  const T scale = T(w_->model.hp.energy_scale);
  T *sums = &b_.sums[std::size_t(i0) * 4 * F];
  for (int i = 0; i < n; ++i) {
    copy_block<false>(sums + std::size_t(i) * 4 * F, 4, 0, &k.x[std::size_t(i) * 2 * F]);
    for (int c = 0; c < 3; ++c)
      copy_block<false>(sums + std::size_t(i) * 4 * F, 4, 1 + c, &k.v[(std::size_t(i) * 3 + c) * F]);
  }
  update_inner(*w_, layer, n, k.v.data(), k.t.data(), k);
  update_outer<T>(layer, F, H, n, k);
  for (int i = 0; i < n; ++i) {
    const T *a = &k.a[std::size_t(i) * 2 * F], *q = &k.q[std::size_t(i) * F],
            *x = &k.x[std::size_t(i) * 2 * F];
    LIMBECK_SIMD
    for (int f = 0; f < F; ++f) k.h[std::size_t(i) * F + f] = x[f] + a[f] + a[F + f] * q[f];
  }
  gemm<T, false>(n, R, F, k.h.data(), F, 1, w_->read1.data(), R, k.rt.data(), R);
  for (int i = 0; i < n; ++i) {
    T *y = &k.rt[std::size_t(i) * R];
    G sum(w_->read2_bias);
    LIMBECK_SIMD
    for (int f = 0; f < R; ++f) {
      const T x = y[f] + w_->read1_bias[f], g = sigmoid(x);
      sum += G(x * g * w_->read2[f]);
      y[f] = scale * w_->read2[f] * (g + x * g * (T(1) - g));
    }
    b_.energy[i0 + i] += sum * G(w_->model.hp.energy_scale);
  }
  gemm<T, false>(n, F, R, k.rt.data(), R, 1, w_->read1_t.data(), F, k.h.data(), F);
  update_adjoint<2>(*w_, layer, n, k.t.data(), k);
  put_sums(sums, n, k);
}

// k.h and k.v into rows of sums.
template <class T>
inline void Structure<T>::put_sums(T *sums, int n, Scratch<T> &k) const {
  const int F = w_->F;
  for (int i = 0; i < n; ++i) {
    copy_block<true>(sums + std::size_t(i) * 4 * F, 4, 0, &k.h[std::size_t(i) * F]);
    for (int c = 0; c < 3; ++c)
      copy_block<true>(sums + std::size_t(i) * 4 * F, 4, 1 + c, &k.v[(std::size_t(i) * 3 + c) * F]);
  }
}

// From the adjoints of layer l + 1's input and messages to those of layer l's input.
template <class T>
inline void Structure<T>::update_back(int l, Worker &part, int i0, int n) {
  const Timer timer(profile_, part, kUpdateAdjoints);
  Scratch<T> &k = part.scratch;
  const int F = w_->F, H = w_->H;
  const auto &layer = w_->layers[l], &next = w_->layers[l + 1];
  T *sums = &b_.sums[std::size_t(i0) * 4 * F];
  const T *gate = &b_.gate[l][std::size_t(i0) * H];
  for (int i = 0; i < n; ++i) {
    T *back = &b_.back[std::size_t(b_.back_row[i0 + i]) * 5 * F];
    T *h = &k.h[std::size_t(i) * F], *v = &k.v[std::size_t(i) * 3 * F], *phi = &k.phi[std::size_t(i) * 3 * F];
    for (int f0 = 0; f0 < F; f0 += S) {
      const T *b = back + 5 * f0, *s = &b_.source[l + 1][std::size_t(i0 + i) * 6 * F + 6 * f0];
      const T *x = sums + std::size_t(i) * 4 * F + 4 * f0;
      LIMBECK_SIMD
      for (int e = 0; e < S; ++e) {
        const int f = f0 + e;
        T sum(0);
        for (int c = 0; c < 3; ++c) {
          const T carried = b[(2 + c) * S + e];
          sum += carried * s[(3 + c) * S + e];
          v[c * F + f] = x[(1 + c) * S + e] + s[2 * S + e] * carried;
        }
        phi[f] = b[e], phi[F + f] = b[S + e], phi[2 * F + f] = sum;
        h[f] = x[e];
      }
    }
    std::fill_n(back, 5 * F, T(0));
  }
  gemm<T, true>(n, F, 3 * F, k.phi.data(), 3 * F, 1, next.phi_t.data(), F, k.h.data(), F);
  mix(*w_, layer, n, &b_.before[l][std::size_t(i0) * 3 * F], k);
  LIMBECK_SIMD
  for (int e = 0; e < n * H; ++e) k.s[e] = gate[e] * sigmoid(gate[e]);
  update_outer<T>(layer, F, H, n, k);
  update_adjoint<3>(*w_, layer, n, gate, k);
  put_sums(sums, n, k);
}

}  // namespace LIMBECK_ISA
