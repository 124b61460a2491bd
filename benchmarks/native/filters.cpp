// Radial filters of a batch of pairs, two ways: the product that the engine uses, and a table.
//
// What one layer of `tiny` needs of a pair in an evaluation: its filter on the way forward, filter and
// slope on the way back. The table holds cubic Hermite pieces, values and slopes of all features at each
// knot, as close together as they can lie. Compiled by filters_worker.py.
#include <cstdlib>
#include <random>

#include "limbeck/buffers.hpp"

using namespace LIMBECK_ISA;

namespace {

constexpr int F = 64, K = 13, NP = 3, S = kSlice<float>, WIDE = NP * F;
constexpr double CUTOFF = 5.0;

Model model() {
  Model m;
  m.hp = limbeck::Hyperparameters{F, 2, K - 1, 48, 32, 1, CUTOFF, 0.1, 1.0};
  m.weights.resize(ParameterLayout(m.hp).total);
  std::mt19937 engine(1);
  std::normal_distribution<double> normal;
  for (double &w : m.weights) w = 0.1 * normal(engine);
  m.numbers = {14}, m.references = {0}, m.zbl_radius = {0};
  return m;
}

// Distances of a crystal's neighbours: shells between 2.3 Angstrom and the cutoff.
Array<float> distances(std::size_t n) {
  std::mt19937 engine(2);
  std::uniform_real_distribution<double> volume(2.3 * 2.3 * 2.3, CUTOFF * CUTOFF * CUTOFF * 0.999);
  Array<float> r(n);
  for (float &x : r) x = float(std::cbrt(volume(engine)));
  return r;
}

struct Both {
  Packed<float> weights{model()};
  Scratch<float> k;
  Array<float> r = distances(48 * 64), value = Array<float>(48 * WIDE), slope = Array<float>(48 * WIDE);
  Array<float> table;
  int knots = 0;
  Both() { k.fit(weights); }

  // (48, slices, NP S) values and, with SLOPE, derivatives
  template <bool SLOPE>
  void product(const float *distance) {
    std::copy_n(distance, kBatch, k.radial.distance.data());
    k.radial.template compute<SLOPE>(weights.model.hp, kBatch);
    for (int slice = 0; slice < F / S; ++slice) {
      const float *w = &weights.layers[1].filter[std::size_t(slice) * K * NP * S];
      gemm<float, false>(kBatch, NP * S, K, k.radial.basis.data(), 1, kBatch, w, NP * S,
                         &value[slice * NP * S], WIDE);
      if (SLOPE)
        gemm<float, false>(kBatch, NP * S, K, k.radial.slope.data(), 1, kBatch, w, NP * S,
                           &slope[slice * NP * S], WIDE);
    }
  }

  void tabulate(int n) {
    if (n == knots) return;
    knots = n, table.assign(std::size_t(n + 1) * 2 * WIDE, 0.0f);
    for (int i = 0; i <= n; i += kBatch) {
      Array<float> at(kBatch);
      for (int p = 0; p < kBatch; ++p)
        at[p] = float(CUTOFF * std::max(1e-3, std::min(1.0, double(i + p) / n)));
      product<true>(at.data());
      for (int p = 0; p < kBatch && i + p <= n; ++p)
        for (int f = 0; f < WIDE; ++f) {
          table[std::size_t(i + p) * 2 * WIDE + f] = value[p * WIDE + f];
          table[std::size_t(i + p) * 2 * WIDE + WIDE + f] = slope[p * WIDE + f] * float(CUTOFF / n);
        }
    }
  }

  template <bool SLOPE>
  void look_up(const float *distance) {
    const float scale = float(knots / CUTOFF);
    for (int p = 0; p < kBatch; ++p) {
      const float x = distance[p] * scale;
      const int i = int(x);
      const float t = x - float(i), u = 1 - t;
      const float a = u * u * (1 + 2 * t), b = u * u * t, c = t * t * (3 - 2 * t), d = -t * t * u;
      const float da = -6 * t * u * scale, db = u * (1 - 3 * t) * scale, dd = t * (3 * t - 2) * scale;
      const float *row = &table[std::size_t(i) * 2 * WIDE];
      LIMBECK_SIMD
      for (int f = 0; f < WIDE; ++f) {
        const float v0 = row[f], m0 = row[WIDE + f], v1 = row[2 * WIDE + f], m1 = row[3 * WIDE + f];
        value[p * WIDE + f] = a * v0 + b * m0 + c * v1 + d * m1;
        if (SLOPE) slope[p * WIDE + f] = da * (v0 - v1) + db * m0 + dd * m1;
      }
    }
  }
};

Both &both() {
  static Both one;
  return one;
}

}  // namespace

extern "C" {

// Pairs that a call of limbeck_filters handles.
long long limbeck_pairs() { return 64 * kBatch; }

// knots: of the table, 0 for the product.
float limbeck_filters(int knots) {
  Both &b = both();
  if (knots) b.tabulate(knots);
  float sum = 0;
  for (int batch = 0; batch < 64; ++batch) {
    const float *r = &b.r[std::size_t(batch) * kBatch];
    if (knots)
      b.look_up<false>(r), sum += b.value[0], b.look_up<true>(r);
    else
      b.product<false>(r), sum += b.value[0], b.product<true>(r);
    sum += b.value[batch] + b.slope[batch];
  }
  return sum;
}

// Largest error of the table's slopes, in units of their root mean square.
double limbeck_table_error(int knots) {
  Both &b = both();
  b.tabulate(knots);
  double most = 0, square = 0;
  for (int batch = 0; batch < 64; ++batch) {
    const float *r = &b.r[std::size_t(batch) * kBatch];
    b.product<true>(r);
    const Array<float> wanted = b.slope;
    b.look_up<true>(r);
    for (std::size_t f = 0; f < wanted.size(); ++f) {
      most = std::max(most, double(std::abs(wanted[f] - b.slope[f])));
      square += double(wanted[f]) * wanted[f] / double(64 * wanted.size());
    }
  }
  return most / std::sqrt(square);
}

long long limbeck_table_bytes(int knots) { return (knots + 1LL) * 2 * WIDE * sizeof(float); }
}
