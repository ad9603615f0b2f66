// Leading batch axes of FFI buffers. vmap (method "expand_dims") gives every operand the same number of leading axes,
// each either 1 or the batch's size; results always have the full size. Nothing is copied: an axis of size 1 is read
// again for each batch item.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ipsm::binding {

namespace ffi = xla::ffi;

// An operand or result: base pointer and the stride, in elements, of each batch axis (0 where the axis has size 1).
template <typename T> struct Batched {
  T *data;
  std::vector<int64_t> strides;
  T *at(const std::vector<int64_t> &index) const {
    int64_t offset = 0;
    for (size_t i = 0; i < strides.size(); i++) offset += strides[i] * index[i];
    return data + offset;
  }
};

using Dimensions = ffi::Span<const int64_t>;

inline std::string to_string(Dimensions dims) {
  std::string text = "(";
  for (size_t i = 0; i < dims.size(); i++) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + ")";
}

// Collects the batch shape over all operands and checks every shape on the way.
class BatchShape {
public:
  // `core` is the shape without batch axes; -1 accepts any size. Throws std::invalid_argument that names the operand.
  template <typename T>
  Batched<T> add(const char *name, T *data, Dimensions dims, std::initializer_list<int64_t> core) {
    const size_t rank = core.size();
    bool fits = dims.size() >= rank;
    int64_t elements = 1;
    if (fits) {
      size_t axis = dims.size() - rank;
      for (int64_t wanted : core) {
        fits &= wanted < 0 || dims[axis] == wanted;
        elements *= dims[axis++];
      }
    }
    const size_t leading = fits ? dims.size() - rank : 0;
    if (fits && !known_) {
      sizes_.assign(leading, 1);
      known_ = true;
    }
    fits = fits && leading == sizes_.size();
    if (!fits)
      throw std::invalid_argument(std::string(name) + " has shape " + to_string(dims) + ", want " + describe(core));
    Batched<T> result{data, std::vector<int64_t>(leading)};
    for (size_t i = leading; i-- > 0;) {
      result.strides[i] = dims[i] == 1 ? 0 : elements;
      elements *= dims[i];
      if (dims[i] == 1) continue;
      if (sizes_[i] != 1 && sizes_[i] != dims[i])
        throw std::invalid_argument(std::string(name) + " has batch size " + std::to_string(dims[i]) +
                                    " where another operand has " + std::to_string(sizes_[i]));
      sizes_[i] = dims[i];
    }
    return result;
  }

  // The same for a result, which has to have every batch axis in full: a smaller one would be written several times.
  template <typename T>
  Batched<T> add_result(const char *name, T *data, Dimensions dims, std::initializer_list<int64_t> core) {
    const std::vector<int64_t> batch = sizes_;
    const Batched<T> result = add(name, data, dims, core);
    for (size_t i = 0; i < batch.size(); i++)
      if (dims[i] != batch[i])
        throw std::invalid_argument(std::string(name) + " has batch size " + std::to_string(dims[i]) +
                                    " where the operands have " + std::to_string(batch[i]));
    return result;
  }

  // Calls work(index) for every item of the batch.
  template <typename Work> void for_each(const Work &work) const {
    std::vector<int64_t> index(sizes_.size(), 0);
    for (int64_t size : sizes_)
      if (size == 0) return;
    for (;;) {
      work(index);
      size_t axis = sizes_.size();
      while (axis > 0 && ++index[axis - 1] == sizes_[axis - 1]) index[--axis] = 0;
      if (axis == 0) return;
    }
  }

  // Sizes of the batch axes.
  const std::vector<int64_t> &sizes() const { return sizes_; }

private:
  static std::string describe(std::initializer_list<int64_t> core) {
    std::string text = "(...";
    for (int64_t size : core) text += ", " + (size < 0 ? std::string("any") : std::to_string(size));
    return text + ") with the batch axes of the other operands";
  }
  std::vector<int64_t> sizes_;
  bool known_ = false;
};

} // namespace ipsm::binding
