// Threads of the core, shared by training and inference.
//
// Threads that wait in a busy loop can occupy the core of the thread they wait for; on a busy machine each
// wait then lasts until the scheduler intervenes. Here a wait is a short loop followed by sleep, and no
// thread waits for a helper that has not started: the caller does the task itself.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <type_traits>

namespace limbeck {

class Pool {
 public:
  // The one of this process. It is never destroyed, because its threads may still wait when the process
  // ends; the child of a fork, which has no threads but its own, gets another.
  static Pool &shared();

  explicit Pool(int most_helpers) : most_helpers_(most_helpers) {}
  ~Pool();  // after the last run()
  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  // Calls work(k) once for each k below `count`, on the caller's thread and at most `threads` - 1 helpers.
  // The caller starts with 0 and each helper with its own fixed number, to reuse its core's cache; then any
  // free thread takes the next k. Returns when all are done. After an exception no further task starts, and
  // the caller receives it (of several, that of the smallest k). May be called by several threads at once,
  // and from within work.
  template <class Work>
  void run(int count, int threads, Work &&work) {
    using Plain = std::remove_reference_t<Work>;
    run_tasks(
        count, threads, [](void *given, int k) { (*static_cast<Plain *>(given))(k); },
        const_cast<void *>(static_cast<const void *>(&work)));
  }

 private:
  using Call = void (*)(void *, int);

  struct Job;

  void run_tasks(int count, int threads, Call call, void *work);
  void offer(const std::shared_ptr<Job> &job);
  void withdraw(const std::shared_ptr<Job> &job, int helpers);
  void help(int number);

  const int most_helpers_;
  std::atomic<int> offered_{0};  // places in all jobs; written under the mutex
  std::mutex mutex_;
  std::condition_variable called_, gone_;
  std::deque<std::shared_ptr<Job>> jobs_;  // with places left
  int helpers_ = 0, asleep_ = 0, wanted_ = 0;
  bool closing_ = false;
};

}  // namespace limbeck
