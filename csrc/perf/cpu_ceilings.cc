// The ceilings of one CPU target. Every loop ends in an empty asm statement that takes its results,
// so that no compiler can drop or shorten it.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/backend.h"
#include "base/status.h"
#include "base/threads.h"
#include "base/vec.h"
#include "warploom/perf.h"

namespace warploom::perf {
namespace {

// Enough independent chains to hide the latency of an operation, few enough for the registers.
#if defined(__AVX512F__)
constexpr int kChains = 24;
#define WL_VECTOR_REGISTER "v"
#elif defined(__aarch64__)
constexpr int kChains = 24;
#define WL_VECTOR_REGISTER "w"
#else
constexpr int kChains = 12;
#define WL_VECTOR_REGISTER "x"
#endif

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// All threads run `unit(thread, threads)`, which returns the work it did, until the time is over;
// work per second. A core that others use lowers the result: nothing waits for it.
template <class Unit>
wl_status measure(const wl_perf_ceiling_params& p, int threads, const Unit& unit) {
  double work = 0, elapsed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : work) reduction(max : elapsed)
  {
    const int thread = omp_get_thread_num(), team = omp_get_num_threads();
    unit(thread, team);  // reaches the clock it will run at, and touches what it reads
#pragma omp barrier
    const Clock::time_point start = Clock::now();
    do {
      work += unit(thread, team);
      elapsed = seconds_since(start);
    } while (elapsed < p.seconds);
  }
  *p.value = work / elapsed;
  return WL_OK;
}

template <class Step>
wl_status measure_chains(const wl_perf_ceiling_params& p, double work_per_step, const Step& step) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  return measure(p, threads, [&](int, int) {
    constexpr int kSteps = 4096;
    Floats chain[kChains] = {};
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) asm volatile("" : "+" WL_VECTOR_REGISTER(chain[i]));
    for (int n = 0; n < kSteps; ++n) {
#pragma GCC unroll 32
      for (int i = 0; i < kChains; ++i) step(chain[i]);
    }
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) asm volatile("" ::WL_VECTOR_REGISTER(chain[i]));
    return kSteps * kChains * work_per_step;
  });
}

// Two instructions where the target has none that multiplies and adds.
wl_status f32_fma(const wl_perf_ceiling_params& p) {
  const Floats a = broadcast(0.5f), b = broadcast(1.0f);
  return measure_chains(p, 2.0 * kLanes,
                        [a, b](Floats& chain) { chain = multiply_add(chain, a, b); });
}

#if defined(__AVX512BF16__)
wl_status bf16_dot(const wl_perf_ceiling_params& p) {
  const Words halves = broadcast(0x3f003f00u);  // two of 0.5
  return measure_chains(p, 4.0 * kLanes,
                        [halves](Floats& chain) { chain = multiply_add(halves, halves, chain); });
}
#endif

constexpr size_t kPiece = size_t{1} << 20;  // what a thread reads between two looks at the clock

// Memory that the caches cannot hold: the caller's, or taken here. Not in large pages: a system
// that has none ready spends seconds making them, and tensors rarely have them.
class Buffer {
 public:
  explicit Buffer(const wl_exec& exec) : data_(exec.workspace), bytes_(exec.workspace_bytes) {
    if (data_) return;
    const long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    bytes_ = std::max<size_t>(WL_PERF_CEILING_WORKSPACE, 4 * size_t(std::max(l3, 0l)));
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    owned_ = data_ != MAP_FAILED;
    if (owned_) std::memset(data_, 1, bytes_);
  }
  ~Buffer() {
    if (owned_) munmap(data_, bytes_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  bool failed() const { return data_ == MAP_FAILED; }
  size_t bytes() const { return bytes_; }
  size_t pieces() const { return bytes_ / kPiece; }
  char* piece(size_t index) const { return static_cast<char*>(data_) + index * kPiece; }

 private:
  void* data_;
  size_t bytes_;
  bool owned_ = false;
};

// Each thread goes round its own share of `pieces`.
class Rounds {
 public:
  Rounds(size_t pieces, int threads) : pieces_(pieces), next_(threads) {}
  size_t next(int thread, int threads) {
    const size_t first = pieces_ * thread / threads, last = pieces_ * (thread + 1) / threads;
    return first + next_[thread].index++ % std::max<size_t>(last - first, 1);
  }

 private:
  struct alignas(64) Position {
    size_t index = 0;
  };
  size_t pieces_;
  std::vector<Position> next_;
};

// Two streams at once: measured faster than one on processors whose prefetchers stop at a page.
void read_piece(const char* data) {
  constexpr size_t kHalf = kPiece / 2, kVector = sizeof(Words);
  for (size_t at = 0; at < kHalf; at += 4 * kVector) {
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) {
      const char* from = data + i / 4 * kHalf + at + i % 4 * kVector;
      const Words loaded = load(reinterpret_cast<const uint32_t*>(from));
      asm volatile("" ::WL_VECTOR_REGISTER(loaded));
    }
  }
}

wl_status read(const wl_perf_ceiling_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  const Buffer buffer(p.exec);
  if (buffer.failed()) return fail(WL_MEMORY, "no memory for %zu bytes to read", buffer.bytes());
  Rounds rounds(buffer.pieces(), threads);
  return measure(p, threads, [&](int thread, int team) {
    read_piece(buffer.piece(rounds.next(thread, team)));
    return double(kPiece);
  });
}

wl_status copy(const wl_perf_ceiling_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  const Buffer buffer(p.exec);
  if (buffer.failed()) return fail(WL_MEMORY, "no memory for %zu bytes to copy", buffer.bytes());
  const size_t half = buffer.pieces() / 2;
  Rounds rounds(half, threads);
  return measure(p, threads, [&](int thread, int team) {
    const size_t from = rounds.next(thread, team);
    std::memcpy(buffer.piece(half + from), buffer.piece(from), kPiece);
    asm volatile("" ::: "memory");
    return 2.0 * kPiece;
  });
}

// The op's function behind the table's untyped signature; null where the target has none.
template <wl_status (*function)(const wl_perf_ceiling_params&)>
constexpr KernelFunction entry = [](const void* params) {
  return function(*static_cast<const wl_perf_ceiling_params*>(params));
};
constexpr KernelFunction f32_fma_entry = entry<f32_fma>, read_entry = entry<read>,
                         copy_entry = entry<copy>;
#if defined(__AVX512BF16__)
constexpr KernelFunction bf16_dot_entry = entry<bf16_dot>;
#else
constexpr KernelFunction bf16_dot_entry = nullptr;
#endif

constexpr KernelFunction kFunctions[] = {
#define KERNEL(name, op, target, score) Target::target == Target::WL_TARGET ? op##_entry : nullptr,
#include "perf/kernels.def"
#undef KERNEL
};

}  // namespace

KernelTable cpu_table() { return {kFunctions, int(std::size(kFunctions))}; }

}  // namespace warploom::perf
