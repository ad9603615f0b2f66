// What all handlers share: XLA's threads as an Executor, operands and results with checked types and shapes, errors.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "../rasterizer/cpu/executor.h"
#include "batch.h"

namespace ipsm::binding {

// XLA's intra-op thread pool.
class XlaExecutor : public cpu::Executor {
public:
  explicit XlaExecutor(ffi::ThreadPool &pool) : pool_(pool), threads_(static_cast<int>(pool.num_threads())) {}
  int threads() const override { return threads_ > 1 ? threads_ : 1; }
  void spawn(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

private:
  ffi::ThreadPool &pool_;
  int threads_;
};

// Operands by position, with their element type checked by XLA's own accessor.
class Operands {
public:
  Operands(ffi::RemainingArgs args, BatchShape &shape) : args_(args), shape_(shape) {}
  template <ffi::DataType kType> auto next(const char *name, std::initializer_list<int64_t> core) {
    require(name, position_, args_.size());
    auto buffer = args_.get<ffi::Buffer<kType>>(position_++);
    if (!buffer.has_value()) throw std::invalid_argument(std::string(name) + ": " + buffer.error().message());
    return shape_.add(name, const_cast<const ffi::NativeType<kType> *>(buffer->typed_data()), buffer->dimensions(),
                      core);
  }
  // Size of an axis of the operand at `position`, before its turn.
  int64_t size_of(const char *name, size_t position, size_t axis_from_end) const {
    require(name, position, args_.size());
    auto buffer = args_.get<ffi::AnyBuffer>(position);
    if (!buffer.has_value()) throw std::invalid_argument(std::string(name) + ": " + buffer.error().message());
    const auto dims = buffer->dimensions();
    if (dims.size() < axis_from_end)
      throw std::invalid_argument(std::string(name) + " has shape " + to_string(dims) + ", too few axes");
    return dims[dims.size() - axis_from_end];
  }
  // Throws when there are more than have been taken.
  void finish() const { refuse_more("operands", position_, args_.size()); }

  static void require(const char *name, size_t position, size_t size) {
    if (position >= size)
      throw std::invalid_argument(std::string(name) + ", number " + std::to_string(position + 1) +
                                  ", is missing: got only " + std::to_string(size));
  }
  static void refuse_more(const char *what, size_t taken, size_t size) {
    if (taken != size)
      throw std::invalid_argument("got " + std::to_string(size) + " " + what + ", want " + std::to_string(taken));
  }

private:
  ffi::RemainingArgs args_;
  BatchShape &shape_;
  size_t position_ = 0;
};

// Results by position, after all operands: each has the whole batch.
class Results {
public:
  Results(ffi::RemainingRets rets, BatchShape &shape) : rets_(rets), shape_(shape) {}
  template <ffi::DataType kType> auto next(const char *name, std::initializer_list<int64_t> core) {
    Operands::require(name, position_, rets_.size());
    auto buffer = rets_.get<ffi::Buffer<kType>>(position_++);
    if (!buffer.has_value()) throw std::invalid_argument(std::string(name) + ": " + buffer.error().message());
    return shape_.add_result(name, (*buffer)->typed_data(), (*buffer)->dimensions(), core);
  }
  // Throws when there are more than have been taken.
  void finish() const { Operands::refuse_more("results", position_, rets_.size()); }

private:
  ffi::RemainingRets rets_;
  BatchShape &shape_;
  size_t position_ = 0;
};

// Runs `work` and turns its exceptions into XLA's errors, which start with `who`.
template <typename Work> ffi::Error translate_errors(const char *who, const Work &work) {
  try {
    work();
    return ffi::Error::Success();
  } catch (const std::invalid_argument &e) {
    return ffi::Error::InvalidArgument(std::string(who) + ": " + e.what());
  } catch (const std::bad_alloc &) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, std::string(who) + ": out of memory for working lists");
  } catch (const std::exception &e) {
    return ffi::Error::Internal(std::string(who) + ": " + e.what());
  }
}

} // namespace ipsm::binding
