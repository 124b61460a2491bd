// Hyperparameters and the order of the weights in the flat parameter array.
//
// The order is the contract with limbeck.students.painn: embedding; then per interaction
// phi.weight, phi.bias, filter.weight, mix.weight, gate.weight, gate.bias, out.weight, out.bias;
// then readout. Matrices are (inputs, outputs), row-major.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <vector>

namespace limbeck {

struct Hyperparameters {
  int features;         // F
  int interactions;     // L
  int radial;           // B, radial basis functions; the filter has B + 1 rows (the envelope itself)
  int gate_width;       // H, hidden width of the update
  int readout_width;    // R
  int elements;         // Z
  double cutoff;        // Angstrom
  double norm_offset;   // e in sqrt(|V v|^2 + e^2)
  double energy_scale;  // eV per unit of network output
  // (Z, Z) Angstrom, or empty: a pair fades from the network below it and is gone at half of it
  std::vector<double> core{};

  double core_of(int a, int b) const { return core.empty() ? 0 : core[std::size_t(a) * elements + b]; }
};

// What is left of a pair at distance r, 10 y^3 - 15 y^4 + 6 y^5 between half its core radius and the
// radius, and the derivative.
template <class T>
inline void fade(const T &r, const T &core, T &left, T &slope) {
  const T half = T(0.5) * core;
  if (!(r < core)) {
    left = T(1), slope = T(0);
  } else if (!(half < r)) {
    left = T(0), slope = T(0);
  } else {
    const T y = (r - half) / half;
    left = y * y * y * (T(10) + y * (T(-15) + T(6) * y));
    slope = y * y * (T(30) + y * (T(-60) + T(30) * y)) / half;
  }
}

struct LayerOffsets {
  int message_blocks;  // 2 in the first layer (no incoming vectors), else 3
  int update_blocks;   // 2 in the last layer (no outgoing vectors), else 3
  std::size_t phi, phi_bias, filter, mix, gate, gate_bias, out, out_bias;
};

struct ParameterLayout {
  std::size_t embedding = 0;
  std::vector<LayerOffsets> layers;
  std::size_t read1 = 0, read1_bias = 0, read2 = 0, read2_bias = 0, total = 0;

  explicit ParameterLayout(const Hyperparameters &hp) {
    const std::size_t F = hp.features, B = hp.radial, H = hp.gate_width, R = hp.readout_width;
    if (hp.features < 1 || hp.interactions < 1 || hp.radial < 1 || hp.gate_width < 1 ||
        hp.readout_width < 1 || hp.elements < 1 || !(hp.cutoff > 0) || !(hp.norm_offset > 0))
      throw std::invalid_argument("hyperparameters must be positive");
    if (!hp.core.empty() && hp.core.size() != std::size_t(hp.elements) * hp.elements)
      throw std::invalid_argument("core radii must be one for each pair of elements");
    std::size_t at = 0;
    auto take = [&at](std::size_t count) {
      std::size_t start = at;
      at += count;
      return start;
    };
    embedding = take(std::size_t(hp.elements) * F);
    for (int l = 0; l < hp.interactions; ++l) {
      LayerOffsets o{};
      o.message_blocks = l == 0 ? 2 : 3;
      o.update_blocks = l == hp.interactions - 1 ? 2 : 3;
      o.phi = take(F * o.message_blocks * F);
      o.phi_bias = take(o.message_blocks * F);
      o.filter = take((B + 1) * o.message_blocks * F);
      o.mix = take(F * 2 * F);
      o.gate = take(2 * F * H);
      o.gate_bias = take(H);
      o.out = take(H * o.update_blocks * F);
      o.out_bias = take(o.update_blocks * F);
      layers.push_back(o);
    }
    read1 = take(F * R);
    read1_bias = take(R);
    read2 = take(R);
    read2_bias = take(1);
    total = at;
  }
};

// One structure: species index per atom and undirected pairs (i, j) with vector x_j + shift - x_i.
struct Graph {
  int atoms = 0, pairs = 0;
  const int *species = nullptr;     // (atoms,)
  const int *first = nullptr;       // (pairs,) i
  const int *second = nullptr;      // (pairs,) j
  const double *vectors = nullptr;  // (pairs, 3), Angstrom
};

}  // namespace limbeck
