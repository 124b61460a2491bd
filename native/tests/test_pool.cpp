// Threads: each task once, whatever the helpers do, and training that does not depend on which of them
// worked.
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "limbeck/pool.hpp"
#include "limbeck/trainer.hpp"

namespace limbeck::test {

namespace {

// Something that one thread waits for. A wait that would never end is a failed check, not a hanging test.
class Signal {
 public:
  void give() {
    std::lock_guard<std::mutex> lock(mutex_);
    given_ = true;
    changed_.notify_all();
  }
  bool wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [this] { return given_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool given_ = false;
};

std::vector<int> times_done(Pool &pool, int count, int threads) {
  std::vector<std::atomic<int>> done(count);
  pool.run(count, threads, [&](int k) { ++done[k]; });
  return std::vector<int>(done.begin(), done.end());
}

// 12 structures of 3 to 8 atoms, each pair of an atom with the next two.
std::shared_ptr<const TrainingSet> chains() {
  auto set = std::make_shared<TrainingSet>();
  set->atom_offsets = set->pair_offsets = {0};
  for (int s = 0; s < 12; ++s) {
    const int atoms = 3 + s % 6;
    for (int i = 0; i < atoms; ++i) {
      set->species.push_back((s + i) % 2);
      for (int j = i + 1; j < std::min(atoms, i + 3); ++j) {
        set->first.push_back(i), set->second.push_back(j);
        for (int c = 0; c < 3; ++c) set->vectors.push_back((j - i) * (1.0 + 0.1 * std::sin(s + i + 2 * c)));
      }
    }
    set->atom_offsets.push_back(static_cast<long long>(set->species.size()));
    set->pair_offsets.push_back(static_cast<long long>(set->first.size()));
  }
  return set;
}

// Gradient of the sum of energies and of forces weighted by 0.3, on the trainer's threads.
std::vector<float> gradient_of(Trainer<float> &trainer, std::size_t parameters) {
  const auto set = chains();
  const std::size_t S = set->atom_offsets.size() - 1, N = set->species.size();
  trainer.set_structures(set);
  std::vector<float> weights(parameters), gradient(parameters);
  for (std::size_t k = 0; k < parameters; ++k) weights[k] = 0.3f * std::sin(float(k));
  trainer.set_weights(weights.data());
  std::vector<long long> chosen(S);
  std::iota(chosen.begin(), chosen.end(), 0);
  std::vector<double> energy(S), forces(3 * N), virial(9 * S), atoms(N);
  trainer.evaluate(chosen, energy.data(), forces.data(), virial.data(), atoms.data());
  const std::vector<double> by_energy(S, 1.0), by_force(3 * N, 0.3), by_virial(9 * S, 0.0);
  trainer.gradient(by_energy.data(), by_force.data(), by_virial.data(), gradient.data());
  return gradient;
}

}  // namespace

TEST(each_task_is_done_once) {
  Pool pool(7);
  for (int count : {0, 1, 2, 3, 100})
    for (int threads : {1, 2, 3, 8, 50})
      CHECK(times_done(pool, count, threads) == std::vector<int>(count, 1));
}

TEST(the_caller_does_all_where_no_helper_comes) {
  Pool none(0), pool(1);
  CHECK(times_done(none, 9, 4) == std::vector<int>(9, 1));
  // the only helper is kept busy by another thread's work
  Signal busy, enough;
  std::thread other([&] {
    pool.run(2, 2, [&](int) {
      busy.give();
      enough.wait();
    });
  });
  CHECK(busy.wait());
  const auto self = std::this_thread::get_id();
  std::vector<int> done(9);
  pool.run(9, 2, [&](int k) { done[k] += std::this_thread::get_id() == self; });
  CHECK(done == std::vector<int>(9, 1));
  enough.give();
  other.join();
}

TEST(a_helper_that_stands_still_holds_one_task) {
  Pool pool(1);
  const auto self = std::this_thread::get_id();
  Signal held, others;
  std::atomic<int> by_caller{0}, in_vain{0};
  pool.run(10, 2, [&](int) {
    if (std::this_thread::get_id() != self) {
      held.give();
      in_vain += !others.wait();
    } else {
      in_vain += !held.wait();  // the helper has begun
      if (++by_caller == 9) others.give();
    }
  });
  CHECK_EQUAL(by_caller.load(), 9);
  CHECK_EQUAL(in_vain.load(), 0);
}

TEST(no_more_helpers_than_threads_asked_for) {
  Pool pool(7);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  for (int k = 0; k < 200; ++k)
    pool.run(16, 3, [&](int) {
      std::lock_guard<std::mutex> lock(mutex);
      seen.insert(std::this_thread::get_id());
    });
  CHECK(seen.size() <= 3);
}

TEST(an_exception_reaches_the_caller_when_all_have_ended) {
  Pool pool(1);
  const auto self = std::this_thread::get_id();
  for (int k = 0; k < 50; ++k) {
    Signal held, thrown;
    std::atomic<int> begun{0}, ended{0};
    const auto work = [&](int task) {
      if (std::this_thread::get_id() == self) {
        held.wait();
        thrown.give();
        throw std::runtime_error("task " + std::to_string(task));
      }
      ++begun;
      held.give();
      thrown.wait();
      ++ended;
    };
    CHECK_EQUAL(THROWN(std::runtime_error, pool.run(20, 2, work)), "task 0");
    CHECK(begun >= 1);
    CHECK_EQUAL(ended.load(), begun.load());
  }
  int tried = 0;
  const auto fails = [&](int) { throw std::runtime_error("try " + std::to_string(++tried)); };
  CHECK_EQUAL(THROWN(std::runtime_error, pool.run(3, 1, fails)), "try 1");
  CHECK_EQUAL(tried, 1);
  CHECK(times_done(pool, 20, 2) == std::vector<int>(20, 1));
}

TEST(callers_at_once_and_work_within_work) {
  Pool pool(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int k = 0; k < 50; ++k)
        pool.run(3, 3, [&](int) { wrong += times_done(pool, 5, 2) != std::vector<int>(5, 1); });
    });
  for (auto &caller : callers) caller.join();
  CHECK_EQUAL(wrong.load(), 0);
}

TEST(gradients_repeat_bit_for_bit_whoever_works) {
  Hyperparameters hp{};
  hp.features = 8, hp.interactions = 2, hp.radial = 4, hp.gate_width = 4, hp.readout_width = 4;
  hp.elements = 2, hp.cutoff = 4.0, hp.norm_offset = 1.0, hp.energy_scale = 1.0;
  const std::size_t parameters = ParameterLayout(hp).total;
  const auto one = make_trainer<float>(hp, 1, "portable"), three = make_trainer<float>(hp, 3, "portable");
  const auto wanted = gradient_of(*one, parameters), first = gradient_of(*three, parameters);
  float largest = 0, apart = 0;
  for (std::size_t k = 0; k < parameters; ++k) {
    largest = std::max(largest, std::abs(wanted[k]));
    apart = std::max(apart, std::abs(first[k] - wanted[k]));
  }
  CHECK(largest > 1e-3f);
  CHECK(apart < 1e-5f * largest);
  // helpers come early, late or not at all, because another thread has work for them
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!over) times_done(Pool::shared(), 7, 3);
  });
  for (int k = 0; k < 100; ++k) CHECK(gradient_of(*three, parameters) == first);
  over = true;
  other.join();
}

}  // namespace limbeck::test
