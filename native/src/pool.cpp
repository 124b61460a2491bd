#include "limbeck/pool.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <thread>

namespace limbeck {

namespace {

// Longer than waking a thread takes and than parts of a structure differ, so that waits on free cores end
// within it; far shorter than a time slice, so that on a busy machine a wait costs little.
constexpr std::chrono::microseconds kLoop{100};

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Whether the condition became true during the loop.
template <class Condition>
bool came_true(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kLoop;
  do {
    for (int k = 0; k < 16; ++k) {
      if (condition()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

std::atomic<Pool *> of_process{nullptr};

constexpr int kMostHelpers = 4096;

}  // namespace

// Held by the helpers too, so that one that comes late finds it done, not gone.
struct Pool::Job {
  Call call;
  void *work;
  int count;
  int places;                                  // for helpers that have not come; under the pool's mutex
  std::unique_ptr<std::atomic<bool>[]> taken;  // each task
  std::atomic<int> next{0};                    // below it all are taken
  std::atomic<int> left;                       // tasks that are not done
  std::atomic<bool> stopped{false};
  std::mutex mutex;  // of what follows, and of the end
  std::condition_variable ended;
  std::exception_ptr failure;
  int failed;

  Job(Call called, void *given, int tasks, int helpers)
      : call(called),
        work(given),
        count(tasks),
        places(helpers),
        taken(new std::atomic<bool>[tasks]),
        left(tasks),
        failed(tasks) {
    for (int k = 0; k < count; ++k) taken[k].store(false, std::memory_order_relaxed);
  }

  void take_tasks(int own) {
    if (own < count) take(own);
    for (int k; (k = next.fetch_add(1)) < count;) take(k);
  }

  void take(int k) {
    if (taken[k].exchange(true)) return;
    try {
      if (!stopped) call(work, k);
    } catch (...) {
      stopped = true;
      std::lock_guard<std::mutex> lock(mutex);
      if (k < failed) failed = k, failure = std::current_exception();
    }
    if (--left == 0) {
      std::lock_guard<std::mutex> lock(mutex);
      ended.notify_one();
    }
  }

  void wait() {
    const auto all_done = [this] { return left == 0; };
    if (came_true(all_done)) return;
    std::unique_lock<std::mutex> lock(mutex);
    ended.wait(lock, all_done);
  }
};

Pool &Pool::shared() {
#if defined(__unix__) || defined(__APPLE__)
  static const int watched = pthread_atfork(nullptr, nullptr, [] { of_process = nullptr; });
  (void)watched;
#endif
  Pool *pool = of_process.load();
  if (!pool) {
    auto fresh = std::make_unique<Pool>(kMostHelpers);
    if (of_process.compare_exchange_strong(pool, fresh.get())) pool = fresh.release();
  }
  return *pool;
}

Pool::~Pool() {
  std::unique_lock<std::mutex> lock(mutex_);
  closing_ = true;
  called_.notify_all();
  gone_.wait(lock, [&] { return helpers_ == 0; });
}

void Pool::run_tasks(int count, int threads, Call call, void *work) {
  const int helpers = std::min({threads, count, most_helpers_ + 1}) - 1;
  if (helpers <= 0) {
    for (int k = 0; k < count; ++k) call(work, k);
    return;
  }
  const auto job = std::make_shared<Job>(call, work, count, helpers);
  offer(job);
  job->take_tasks(0);
  withdraw(job, helpers);
  job->wait();
  if (job->failure) std::rethrow_exception(job->failure);
}

void Pool::offer(const std::shared_ptr<Job> &job) {
  int sleepers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(job);
    offered_ += job->places;
    wanted_ += job->places;
    while (helpers_ < std::min(wanted_, most_helpers_)) {
      try {
        std::thread([this, number = helpers_ + 1] { help(number); }).detach();
        ++helpers_;
      } catch (const std::exception &) {
        break;  // no more threads to be had: those that run do all of the work
      }
    }
    sleepers = std::min(asleep_, job->places);
  }
  for (; sleepers > 0; --sleepers) called_.notify_one();
}

void Pool::withdraw(const std::shared_ptr<Job> &job, int helpers) {
  std::lock_guard<std::mutex> lock(mutex_);
  wanted_ -= helpers;
  offered_ -= job->places;
  if (job->places) jobs_.erase(std::find(jobs_.begin(), jobs_.end(), job));
}

void Pool::help(int number) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto called = [this] { return !jobs_.empty() || closing_; };
  while (true) {
    if (!called()) {
      lock.unlock();
      came_true([this] { return offered_.load(std::memory_order_relaxed) > 0; });
      lock.lock();
      ++asleep_;
      called_.wait(lock, called);
      --asleep_;
    }
    if (jobs_.empty()) break;
    const auto job = jobs_.front();
    --offered_;
    if (--job->places == 0) jobs_.pop_front();
    lock.unlock();
    job->take_tasks(number);
    lock.lock();
  }
  --helpers_;
  gone_.notify_all();
}

}  // namespace limbeck
