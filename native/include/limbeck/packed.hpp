// Weights as the kernels of inference read them.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "limbeck/aligned.hpp"
#include "limbeck/engine.hpp"
#include "limbeck/messages.hpp"

namespace LIMBECK_ISA {

using limbeck::Array;
using limbeck::Dual;
using limbeck::LayerOffsets;
using limbeck::Model;
using limbeck::ParameterLayout;

// Widths are rounded up to whole slices and filled with zeros, which
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

}  // namespace LIMBECK_ISA
