// Scratch memory that is kept between calls, because fresh pages cost more than the work done on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "kernels.h"

namespace ipsm::cpu {

// An array that grows and never shrinks or clears; its content is lost when it grows.
template <typename T> class Buffer {
public:
  Buffer() = default;
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() { std::free(data_); }
  T *reserve(size_t count) {
    if (count > capacity_ || !data_) { // never null, not even for nothing
      std::free(data_);
      data_ = nullptr;
      capacity_ = 0;
      const size_t wanted = count + count / 4 + 1;
      data_ = static_cast<T *>(std::malloc(wanted * sizeof(T)));
      if (!data_) throw std::bad_alloc();
      capacity_ = wanted;
    }
    return data_;
  }

private:
  T *data_ = nullptr;
  size_t capacity_ = 0;
};

// `count` floats of the calling thread, aligned to 64 bytes; null for none. Kept until the thread ends, replaced when
// it asks for more.
float *thread_scratch(size_t count);

// TileList with ownership.
struct OwnedTileList : TileList {
  OwnedTileList() : TileList{nullptr, 0, 0, &grow_list} {}
  OwnedTileList(const OwnedTileList &) = delete;
  OwnedTileList &operator=(const OwnedTileList &) = delete;
  ~OwnedTileList() { std::free(data); }

private:
  static void grow_list(TileList &list, size_t extra);
};

struct Workspace {
  Buffer<uint32_t> tile_count;                  // per Gaussian
  Buffer<uint32_t> keys[2], order[2];           // depth sort
  Buffer<uint32_t> histogram;                   // per run of Gaussians and digit or tile
  Buffer<int64_t> pairs_before, visible_before; // per chunk of Gaussians
  Buffer<float> sums;                           // gradient of each pair
  Buffer<uint8_t> written;                      // which of them are
  Buffer<Pair> pairs;                           // when the residuals are too small
  Buffer<Splat> splats;                         // for sorting once more in the backward pass
  Buffer<int32_t> radii, slot_start, tile_start;
  Buffer<CameraGradient> camera;                     // per chunk of Gaussians
  Buffer<double> background;                         // per band of the image, RGB
  std::vector<std::unique_ptr<OwnedTileList>> tiles; // per chunk of Gaussians
};

// Borrows a workspace for one call; calls that overlap get different ones.
class BorrowedWorkspace {
public:
  BorrowedWorkspace();
  ~BorrowedWorkspace();
  BorrowedWorkspace(const BorrowedWorkspace &) = delete;
  BorrowedWorkspace &operator=(const BorrowedWorkspace &) = delete;
  Workspace *operator->() { return workspace_.get(); }
  Workspace &operator*() { return *workspace_; }

private:
  std::unique_ptr<Workspace> workspace_;
};

} // namespace ipsm::cpu
