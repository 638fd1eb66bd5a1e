// Scratch memory of the CPU loops: one block per calling thread, kept for its next call, so that a
// call costs neither an allocation nor first-touch page faults.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace warploom {

// At least `bytes`, aligned to a cache line, valid until this thread's next call; nullptr when
// memory ran out.
inline char* thread_scratch(size_t bytes) {
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<char, Free> block;
  thread_local size_t size = 0;
  if (!block || bytes > size) {  // a first call may ask for nothing: that is no failure
    block.reset();
    size = 0;
    const size_t rounded = (bytes / 4096 + 1) * 4096;
    block.reset(static_cast<char*>(std::aligned_alloc(64, rounded)));
    if (!block) return nullptr;
    size = rounded;
  }
  return block.get();
}

// Hands out aligned parts of a block. With a null block it only counts.
class Parts {
 public:
  explicit Parts(char* block) : block_(block) {}

  template <class T>
  T* take(int64_t count) {
    char* part = block_ ? block_ + used_ : nullptr;
    used_ += (size_t(count) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(part);
  }
  size_t used() const { return used_; }

 private:
  char* block_;
  size_t used_ = 0;
};

}  // namespace warploom
