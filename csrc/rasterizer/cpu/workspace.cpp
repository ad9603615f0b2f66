#include "workspace.h"

namespace ipsm::cpu {
namespace {

struct Pool {
  std::mutex mutex;
  std::vector<std::unique_ptr<Workspace>> idle;
};

// Never destroyed: a thread may still be rendering when the process exits.
Pool &pool() {
  static Pool *instance = new Pool;
  return *instance;
}

} // namespace

void OwnedTileList::grow_list(TileList &list, size_t extra) {
  const size_t wanted = (list.size + extra) + (list.size + extra) / 2 + 1024;
  void *grown = std::realloc(list.data, wanted * sizeof(uint32_t));
  if (!grown) throw std::bad_alloc();
  list.data = static_cast<uint32_t *>(grown);
  list.capacity = wanted;
}

float *thread_scratch(size_t count) {
  struct Memory {
    void *data = nullptr;
    size_t capacity = 0;
    ~Memory() { std::free(data); }
  };
  static thread_local Memory memory;
  if (count > memory.capacity) {
    std::free(memory.data);
    memory.capacity = 0;
    memory.data = std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    if (!memory.data) throw std::bad_alloc();
    memory.capacity = count;
  }
  return static_cast<float *>(memory.data);
}

BorrowedWorkspace::BorrowedWorkspace() {
  {
    std::lock_guard<std::mutex> lock(pool().mutex);
    if (!pool().idle.empty()) {
      workspace_ = std::move(pool().idle.back());
      pool().idle.pop_back();
    }
  }
  if (!workspace_) workspace_ = std::make_unique<Workspace>();
}

BorrowedWorkspace::~BorrowedWorkspace() {
  std::lock_guard<std::mutex> lock(pool().mutex);
  pool().idle.push_back(std::move(workspace_));
}

} // namespace ipsm::cpu
