// Compiled once for each instruction set; LIMBECK_ISA names the namespace.
#include <algorithm>
#include <exception>
#include <numeric>
#include <thread>
#include <type_traits>

#include "limbeck/painn.hpp"
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
    parallel([&](int thread) {
      for (std::size_t s : shares_[thread]) {
        auto &e = *evaluations_[s];
        e.run(weights_, set_->graph(chosen[s]));
        energy[s] = e.energy;
        std::copy(e.forces.begin(), e.forces.end(), forces + 3 * rows_[s]);
        std::copy(e.atom_energy.begin(), e.atom_energy.end(), atom_energy + rows_[s]);
        std::copy_n(e.virial, 9, virial + 9 * s);
      }
    });
  }

  void gradient(const double *grad_energy, const double *grad_forces, const double *grad_virial,
                const double *grad_atoms, T *gradient) override {
    const std::size_t total = weights_.layout.total;
    partial_.resize(threads_);
    parallel([&](int thread) {
      partial_[thread].assign(total, T(0));
      for (std::size_t s : shares_[thread])
        evaluations_[s]->accumulate(grad_energy[s], grad_forces + 3 * rows_[s], grad_virial + 9 * s,
                                    grad_atoms ? grad_atoms + rows_[s] : nullptr, partial_[thread].data());
    });
    // summed in the order of threads, so a run repeats bit for bit at equal thread count
    std::copy(partial_[0].begin(), partial_[0].end(), gradient);
    for (int t = 1; t < threads_; ++t)
      for (std::size_t i = 0; i < total; ++i) gradient[i] += partial_[t][i];
  }

 private:
  // Longest first onto the thread with least work: balanced, and the same each time.
  void share(const std::vector<long long> &chosen) {
    std::vector<std::size_t> order(chosen.size());
    std::iota(order.begin(), order.end(), 0);
    auto cost = [&](std::size_t s) {
      const Graph g = set_->graph(chosen[s]);
      return 2LL * g.atoms + g.pairs;
    };
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return cost(a) > cost(b); });
    shares_.assign(threads_, {});
    std::vector<long long> load(threads_, 0);
    for (std::size_t s : order) {
      const int t = int(std::min_element(load.begin(), load.end()) - load.begin());
      shares_[t].push_back(s);
      load[t] += cost(s);
    }
  }

  template <class Work>
  void parallel(Work work) {
    // an exception (memory runs out) must reach the caller, after every thread has ended
    std::vector<std::exception_ptr> failures(threads_);
    auto guarded = [&](int thread) {
      try {
        work(thread);
      } catch (...) {
        failures[thread] = std::current_exception();
      }
    };
    std::vector<std::thread> helpers;
    for (int t = 1; t < threads_; ++t) {
      if (shares_[t].empty())
        guarded(t);
      else
        helpers.emplace_back(guarded, t);
    }
    guarded(0);
    for (auto &h : helpers) h.join();
    for (auto &failure : failures)
      if (failure) std::rethrow_exception(failure);
  }

  Weights<T> weights_;
  std::shared_ptr<const TrainingSet> set_;
  int threads_;
  std::vector<std::unique_ptr<Evaluation<T, FC>>> evaluations_;
  std::vector<long long> rows_;
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
