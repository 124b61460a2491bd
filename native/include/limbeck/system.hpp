// One evolving structure: its neighbour table, buffers, and the passes over atoms and pairs.
#pragma once

#include <limits>
#include <memory>
#include <stdexcept>

#include "limbeck/buffers.hpp"
#include "limbeck/pool.hpp"
#include "limbeck/update.hpp"
#include "limbeck/zbl.hpp"

namespace LIMBECK_ISA {

using limbeck::Exchange;
using limbeck::NeighbourList;
using limbeck::Results;

template <class T>
class Structure {
 public:
  using G = Real<T>;

  Structure(std::shared_ptr<const Packed<T>> weights, int threads)
      : w_(std::move(weights)), threads_(std::max(1, threads)) {}

  void set_exchange(Exchange *exchange) { exchange_ = exchange, listed_ = false; }

  void set_list(const NeighbourList &list) {
    ready_ = listed_ = false;  // should this fail half way
    table_.build(list, w_->model.hp.cutoff, threads_);
    workers_.resize(table_.parts.size());
    for (std::size_t t = 0; t < workers_.size(); ++t) {
      static_cast<limbeck::Part &>(workers_[t]) = table_.parts[t];
      workers_[t].scratch.fit(*w_);
      workers_[t].shortest.reserve(std::size_t(w_->Z) * w_->Z);
    }
    listed_ = true;
  }

  bool covers(const double *positions, const double *cell) const {
    return listed_ && table_.covers(positions, cell);
  }

  // Releases all memory; set_list() must follow.
  void release() {
    ready_ = listed_ = false;
    table_.release();
    b_.release();
  }

  // Of dual numbers alone: the slopes of the forces on atom i become sum_k (r_i - r_k)_axis dU_k/dr_i, over
  // the atomic energies U_k; -1: what the caller's slopes give.
  void set_axis(int axis) { axis_ = axis; }

  // positions (total, 3) and cell (3, 3) as G.
  void evaluate(const G *positions, const G *cell, Results &out);

  const Array<G> &forces() const { return b_.force; }  // sorted order, see place()
  std::size_t place(int atom) const { return table_.place(atom); }
  int total() const { return table_.total; }
  std::size_t bytes() const { return table_.bytes() + b_.bytes(); }

 private:
  static constexpr int S = kSlice<T>;
  using Worker = LIMBECK_ISA::Worker<T>;

  std::shared_ptr<const Packed<T>> w_;
  int threads_, axis_ = -1;
  bool listed_ = false, ready_ = false, dirty_ = false, profile_ = false;
  Exchange *exchange_ = nullptr;
  limbeck::NeighbourTable table_;
  Buffers<T> b_;
  std::vector<Worker> workers_;
  Results *out_ = nullptr;  // of this evaluation
  const G *positions_ = nullptr;

  // Calls work(worker) for each part, on threads where there are several.
  template <class Work>
  void each(Work work) {
    const int count = int(workers_.size());
    limbeck::Pool::shared().run(count, count, [&](int t) { work(workers_[t]); });
  }
  void collect();

  // From atom i to an image of atom j, Angstrom.
  void vector(int i, int j, int image, G *d) const {
    const G *xi = positions_ + 3 * table_.given(i), *xj = positions_ + 3 * table_.given(j);
    const G *shift = &b_.offset[3 * std::size_t(image)];
    for (int c = 0; c < 3; ++c) d[c] = xj[c] - xi[c] + shift[c];
  }

  // Place in its batch of the at-th of all pairs.
  static int within(std::size_t at, std::size_t base, int count) {
    return at <= base ? 0 : int(std::min<std::size_t>(at - base, count));
  }

  std::size_t last_of(const Worker &part, int i) const {
    return i + 1 == part.end ? part.active : std::size_t(b_.first_active[i + 1]);
  }

  // Adds the foreign rows that belong to this part and leaves them at zero.
  template <class A>
  void gather(const Worker &part, A &rows, int width) {
    for (const auto &[to, from] : part.incoming) add_row(rows, to, from, width);
  }
  template <class A>
  static void add_row(A &rows, int to, int from, int width) {
    auto *x = rows.data() + std::size_t(to) * width, *y = rows.data() + std::size_t(from) * width;
    LIMBECK_SIMD
    for (int f = 0; f < width; ++f) x[f] += y[f], y[f] = 0;
  }

  // Between a row in slices, of which one quantity is `block`, and plain (F,): into the row, or out of it.
  template <bool INTO>
  void copy_block(T *row, int blocks, int block, T *plain) const {
    for (int f0 = 0; f0 < w_->F; f0 += S) {
      T *x = row + f0 * blocks + block * S, *y = plain + f0;
      LIMBECK_SIMD
      for (int e = 0; e < S; ++e) {
        if (INTO)
          x[e] = y[e];
        else
          y[e] = x[e];
      }
    }
  }

  // system_passes.hpp
  void geometry(Worker &part);
  void repel(Worker &part, int i, int e, const G *d, const G &r2);
  void push(Worker &part, int i, int row, const G *g, const G *d, const G &to_neighbour);
  template <int NP, bool BACK>
  void over_pairs(int l, Worker &part, int i0, int n);
  template <int NP, bool BACK>
  void prepare(const Worker &part, int centre, std::size_t base, int count, Scratch<T> &k);
  void pull(Worker &part, int i0, std::size_t base, int count, Scratch<T> &k);
  template <bool BACK>
  void pairs(int l, Worker &part, int i0, int n);
  void forward(int l, Worker &part);
  void forward_late(int l, Worker &part);
  void backward(int l, Worker &part);
  void backward_late(int l, Worker &part);
  void gather_back(Worker &part);

  // system_updates.hpp
  void update(int l, Worker &part, int i0, int n);
  void inner_update(int l, Worker &part, int i0, int n);
  void last_update(Worker &part, int i0, int n);
  void put_sums(T *sums, int n, Scratch<T> &k) const;
  void update_back(int l, Worker &part, int i0, int n);
};

template <class T>
inline void Structure<T>::evaluate(const G *positions, const G *cell, Results &out) {
  if (!listed_) throw std::logic_error("set_list() comes before evaluate()");
  if (!ready_) {  // not before, so that the caller's list is gone by then
    b_.fit(table_, *w_, exchange_ != nullptr);
    ready_ = true, dirty_ = false;
  }
  if (dirty_) b_.clear_foreign(table_.total, w_->F);
  dirty_ = true;  // until the end: an exception leaves sums that the next call must not find
  out_ = &out, positions_ = positions;
  profile_ = out.want_seconds;
  if (out.want_atom_virial) {
    const std::size_t values = 9 * std::size_t(table_.rows());
    if (b_.atom_virial.size() < values) b_.atom_virial.resize(values, G(0));
  }
  for (std::size_t k = 0; k < table_.images.size(); ++k) {
    const auto &n = table_.images[k];
    for (int c = 0; c < 3; ++c)
      b_.offset[3 * k + c] = G(n[0]) * cell[c] + G(n[1]) * cell[3 + c] + G(n[2]) * cell[6 + c];
  }
  const int L = w_->L, F = w_->F;
  const bool shared = workers_.size() > 1;
  each([&](Worker &part) { geometry(part); });
  for (const Worker &part : workers_)
    if (part.closest < 1e-6) throw std::invalid_argument("two atoms are at the same place");
  for (int l = 0; l < L; ++l) {
    each([&](Worker &part) { forward(l, part); });
    if (shared) each([&](Worker &part) { forward_late(l, part); });
    if (exchange_ && l + 1 < L) exchange_->forward(b_.source[l + 1].data(), sizeof(T), 6 * F, 6 * F);
  }
  for (int l = L - 1; l > 0; --l) {
    each([&](Worker &part) { backward(l, part); });
    if (exchange_) {
      each([&](Worker &part) { gather_back(part); });
      exchange_->reverse(b_.back.data(), sizeof(T), 5 * F, 5 * F);
      std::fill(b_.back.begin() + std::size_t(table_.owned) * 5 * F,
                b_.back.begin() + std::size_t(table_.total) * 5 * F, T(0));
    }
    if (shared || exchange_) each([&](Worker &part) { backward_late(l, part); });
  }
  each([&](Worker &part) { backward(0, part); });
  if (shared)
    each([&](Worker &part) {
      const Timer timer(profile_, part, kForces);
      gather(part, b_.force, 3);
      if (out_->want_atom_virial) gather(part, b_.atom_virial, 9);
    });
  collect();
  dirty_ = false;
}

template <class T>
inline void Structure<T>::collect() {
  Results &out = *out_;
  const int total = table_.total, owned = table_.owned, Z = w_->Z;
  out.forces.resize(3 * std::size_t(total)), out.atom_energy.resize(owned);
  out.shortest.assign(std::size_t(Z) * Z, std::numeric_limits<double>::infinity());
  double virial[9] = {};
  for (const Worker &part : workers_) {
    for (int e = 0; e < 9; ++e) virial[e] += double(part.virial[e]);
    for (int a = 0; a < Z; ++a)
      for (int b = 0; b < Z; ++b) {
        double &x = out.shortest[std::size_t(a) * Z + b];
        x = std::min({x, double(part.shortest[a * Z + b]), double(part.shortest[b * Z + a])});
      }
  }
  for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b) out.virial[3 * a + b] = 0.5 * (virial[3 * a + b] + virial[3 * b + a]);
  out.energy = 0;
  for (int k = 0; k < total; ++k) {
    const std::size_t i = table_.given(k);
    for (int c = 0; c < 3; ++c) out.forces[3 * i + c] = double(b_.force[3 * std::size_t(k) + c]);
    if (k < owned) {
      out.atom_energy[i] = double(b_.energy[k]);
      out.energy += out.atom_energy[i];
    }
  }
  if (out.want_atom_virial) {
    out.atom_virial.resize(9 * std::size_t(total));
    for (int k = 0; k < total; ++k) {
      const G *x = &b_.atom_virial[9 * std::size_t(k)];
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b)
          out.atom_virial[9 * table_.given(k) + 3 * a + b] =
              0.5 * (double(x[3 * a + b]) + double(x[3 * b + a]));
    }
    std::fill(b_.atom_virial.begin(), b_.atom_virial.end(), G(0));
  }
  if (profile_) {  // the mean over threads
    out.seconds.assign(kPhaseCount, 0);
    for (const Worker &part : workers_)
      for (int k = 0; k < kPhaseCount; ++k) out.seconds[k] += part.seconds[k] / double(workers_.size());
  }
}

}  // namespace LIMBECK_ISA

#include "limbeck/system_passes.hpp"
#include "limbeck/system_updates.hpp"
