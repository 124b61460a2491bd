// Compiled once for each instruction set; LIMBECK_ISA names the namespace.
#include <algorithm>
#include <numeric>
#include <type_traits>

#include "limbeck/painn.hpp"
#include "limbeck/pool.hpp"
#include "limbeck/trainer.hpp"

namespace LIMBECK_ISA {

using limbeck::Trainer;
using limbeck::TrainingSet;

template <class T, int FC>
class BatchTrainer final : public Trainer<T> {
 public:
  BatchTrainer(const Hyperparameters &hp, int threads) : weights_(hp), threads_(std::max(1, threads)) {}

  void set_structures(std::shared_ptr<const TrainingSet> set) override { set_ = std::move(set); }
  void set_weights(const T *weights) override { weights_.set(weights); }

  void evaluate(const std::vector<long long> &chosen, double *energy, double *forces, double *virial,
                double *atom_energy) override {
    const std::size_t count = chosen.size();
    evaluations_.resize(std::max(evaluations_.size(), count));
    rows_.assign(count + 1, 0);
    for (std::size_t s = 0; s < count; ++s) {
      if (!evaluations_[s]) evaluations_[s] = std::make_unique<Evaluation<T, FC>>();
      rows_[s + 1] = rows_[s] + set_->graph(chosen[s]).atoms;
    }
    share(chosen);
    limbeck::Pool::shared().run(int(count), threads_, [&](int k) {
      const std::size_t s = order_[k];
      auto &e = *evaluations_[s];
      e.run(weights_, set_->graph(chosen[s]));
      energy[s] = e.energy;
      std::copy(e.forces.begin(), e.forces.end(), forces + 3 * rows_[s]);
      std::copy(e.atom_energy.begin(), e.atom_energy.end(), atom_energy + rows_[s]);
      std::copy_n(e.virial, 9, virial + 9 * s);
    });
  }

  void gradient(const double *grad_energy, const double *grad_forces, const double *grad_virial,
                T *gradient) override {
    const std::size_t total = weights_.layout.total;
    const int sums = int(shares_.size());
    partial_.resize(sums);
    limbeck::Pool::shared().run(sums, threads_, [&](int k) {
      partial_[k].assign(total, T(0));
      for (std::size_t s : shares_[k])
        evaluations_[s]->accumulate(grad_energy[s], grad_forces + 3 * rows_[s], grad_virial + 9 * s,
                                    partial_[k].data());
    });
    // Which structures go into a sum, and the order of the sums, depend on the number of threads alone, not
    // on which of them worked, so a run repeats bit for bit.
    std::copy(partial_[0].begin(), partial_[0].end(), gradient);
    for (int k = 1; k < sums; ++k)
      for (std::size_t i = 0; i < total; ++i) gradient[i] += partial_[k][i];
  }

 private:
  // Longest first into the share with least work: balanced, and the same each time.
  void share(const std::vector<long long> &chosen) {
    order_.resize(chosen.size());
    std::iota(order_.begin(), order_.end(), 0);
    auto cost = [&](std::size_t s) {
      const Graph g = set_->graph(chosen[s]);
      return 2LL * g.atoms + g.pairs;
    };
    std::stable_sort(order_.begin(), order_.end(), [&](auto a, auto b) { return cost(a) > cost(b); });
    shares_.assign(std::max<std::size_t>(1, std::min<std::size_t>(threads_, chosen.size())), {});
    std::vector<long long> load(shares_.size(), 0);
    for (std::size_t s : order_) {
      const int t = int(std::min_element(load.begin(), load.end()) - load.begin());
      shares_[t].push_back(s);
      load[t] += cost(s);
    }
  }

  Weights<T> weights_;
  std::shared_ptr<const TrainingSet> set_;
  int threads_;
  std::vector<std::unique_ptr<Evaluation<T, FC>>> evaluations_;
  std::vector<long long> rows_;
  std::vector<std::size_t> order_;
  std::vector<std::vector<std::size_t>> shares_;
  std::vector<Array<T>> partial_;
};

template <class T>
std::unique_ptr<Trainer<T>> make(const Hyperparameters &hp, int threads) {
  // double is the reference: one version for any width halves the time that the build takes
  if constexpr (std::is_same_v<T, float>) {
    switch (hp.features) {
      case 32:
        return std::make_unique<BatchTrainer<T, 32>>(hp, threads);
      case 64:
        return std::make_unique<BatchTrainer<T, 64>>(hp, threads);
      case 128:
        return std::make_unique<BatchTrainer<T, 128>>(hp, threads);
    }
  }
  return std::make_unique<BatchTrainer<T, 0>>(hp, threads);
}

template std::unique_ptr<Trainer<float>> make(const Hyperparameters &, int);
template std::unique_ptr<Trainer<double>> make(const Hyperparameters &, int);

}  // namespace LIMBECK_ISA
