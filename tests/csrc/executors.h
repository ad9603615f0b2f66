// Executors for the driver: real threads, and the odd ones that the promises of Executor::for_each allow.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "../../csrc/rasterizer/cpu/executor.h"

namespace ipsm::driver {

// A pool of std::threads; several callers may use it at once.
class ThreadPool : public cpu::Executor {
public:
  explicit ThreadPool(int threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this] { work(); });
  }
  ~ThreadPool() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ends_ = true;
    }
    wake_.notify_all();
    for (std::thread &worker : workers_) worker.join();
  }
  int threads() const override { return static_cast<int>(workers_.size()) + 1; }
  void spawn(std::function<void()> task) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

private:
  void work() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return ends_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> workers_;
  bool ends_ = false;
};

// Only the calling thread ever works; what was spawned runs after everything it refers to is gone.
class LateExecutor : public cpu::Executor {
public:
  ~LateExecutor() override {
    for (const auto &task : tasks_) task();
  }
  int threads() const override { return 4; }
  void spawn(std::function<void()> task) override { tasks_.push_back(std::move(task)); }

private:
  std::vector<std::function<void()>> tasks_;
};

// Has no memory for a second task.
class StingyExecutor : public cpu::Executor {
public:
  explicit StingyExecutor(cpu::Executor &inner) : inner_(inner) {}
  int threads() const override { return 4; }
  void spawn(std::function<void()> task) override {
    if (spawned_++ % 2) throw std::bad_alloc();
    inner_.spawn(std::move(task));
  }

private:
  cpu::Executor &inner_;
  int spawned_ = 0;
};

} // namespace ipsm::driver
