// Switching stacks. Compiled without sanitizers even where the kernels have them; CUDA_ON_HOST_ADDRESS or
// CUDA_ON_HOST_THREAD says which one the rest of the program runs under.
#include "fiber.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <new>

#ifdef CUDA_ON_HOST_ADDRESS
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CUDA_ON_HOST_THREAD
#include <sanitizer/tsan_interface.h>

// Of the interface for virtual machines, which has no header: memory that is given out anew has no past.
extern "C" void __tsan_java_init(unsigned long heap_begin, unsigned long heap_size);
extern "C" void __tsan_java_alloc(unsigned long begin, unsigned long size);
extern "C" void __tsan_java_free(unsigned long begin, unsigned long size);
#endif

// switch_stack(&mine, next): pushes the registers that a called function must preserve, leaves the stack pointer in
// `mine`, takes the stack `next` and pops there. swapcontext would also ask the system for the signal mask, which takes
// far longer than the rest.
#if defined(__x86_64__) && !defined(CUDA_ON_HOST_UCONTEXT)
extern "C" void cuda_on_host_switch_stack(void **mine, void *next);
asm(R"(
.text
.p2align 4
.local cuda_on_host_switch_stack
.type cuda_on_host_switch_stack, @function
cuda_on_host_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size cuda_on_host_switch_stack, .-cuda_on_host_switch_stack
)");
constexpr int kFrameWords = 8; // with a return address that nobody uses, which aligns the stack as after a call
constexpr int kEntryWord = 6;
#elif defined(__aarch64__) && !defined(CUDA_ON_HOST_UCONTEXT)
extern "C" void cuda_on_host_switch_stack(void **mine, void *next);
asm(R"(
.text
.p2align 4
.local cuda_on_host_switch_stack
.type cuda_on_host_switch_stack, %function
cuda_on_host_switch_stack:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
.size cuda_on_host_switch_stack, .-cuda_on_host_switch_stack
)");
constexpr int kFrameWords = 20;
constexpr int kEntryWord = 1; // x30, where `ret` goes
#else
#ifndef CUDA_ON_HOST_UCONTEXT
#define CUDA_ON_HOST_UCONTEXT
#endif
#endif

namespace cuda_on_host {
namespace {

Fiber *g_running = nullptr;  // across a switch: who is switched to,
Fiber *g_previous = nullptr; // and from

} // namespace

Fiber::Fiber() {
#ifdef CUDA_ON_HOST_UCONTEXT
  stack_pointer_ = new ucontext_t;
#endif
#ifdef CUDA_ON_HOST_THREAD
  shadow_ = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(std::size_t stack_bytes, Entry entry) : entry_(entry) {
  const std::size_t page = (std::size_t)sysconf(_SC_PAGESIZE);
  stack_bytes_ = (stack_bytes + page - 1) / page * page;
  mapping_bytes_ = stack_bytes_ + page;
  mapping_ = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
  if (mprotect(mapping_, page, PROT_NONE) != 0) {
    munmap(mapping_, mapping_bytes_);
    throw std::bad_alloc();
  }
  char *stack = (char *)mapping_ + page;
  stack_ = stack;
#ifdef CUDA_ON_HOST_UCONTEXT
  ucontext_t *context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack, context->uc_stack.ss_size = stack_bytes_, context->uc_link = nullptr;
  makecontext(context, &Fiber::enter, 0);
  stack_pointer_ = context;
#else
  void **frame = (void **)(stack + stack_bytes_) - kFrameWords; // a fresh mapping is zero
  frame[kEntryWord] = (void *)&Fiber::enter;
  stack_pointer_ = frame;
#endif
#ifdef CUDA_ON_HOST_THREAD
  shadow_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#ifdef CUDA_ON_HOST_UCONTEXT
  delete (ucontext_t *)stack_pointer_;
#endif
  if (mapping_ == nullptr) return; // the caller's own thread
#ifdef CUDA_ON_HOST_THREAD
  __tsan_destroy_fiber(shadow_);
#endif
  munmap(mapping_, mapping_bytes_);
}

void Fiber::switch_to(Fiber &next) {
  g_previous = this, g_running = &next;
#ifdef CUDA_ON_HOST_ADDRESS
  __sanitizer_start_switch_fiber(&fake_stack_, next.stack_, next.stack_bytes_);
#endif
#ifdef CUDA_ON_HOST_THREAD
  __tsan_switch_to_fiber(next.shadow_, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef CUDA_ON_HOST_UCONTEXT
  swapcontext((ucontext_t *)stack_pointer_, (const ucontext_t *)next.stack_pointer_);
#else
  cuda_on_host_switch_stack(&stack_pointer_, next.stack_pointer_);
#endif
  finish_switch();
}

void Fiber::finish_switch() {
#ifdef CUDA_ON_HOST_ADDRESS
  // The only way to learn about the stack that the caller's own thread has.
  __sanitizer_finish_switch_fiber(g_running->fake_stack_, &g_previous->stack_, &g_previous->stack_bytes_);
#endif
}

void Fiber::enter() {
  finish_switch();
  g_running->entry_(*g_running);
  __builtin_trap(); // it returned
}

#ifdef CUDA_ON_HOST_THREAD
void Fiber::release(void *token) {
  void *const running = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(shadow_, __tsan_switch_to_fiber_no_sync);
  __tsan_release(token);
  __tsan_switch_to_fiber(running, __tsan_switch_to_fiber_no_sync);
}

void Fiber::acquire(void *token) {
  void *const running = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(shadow_, __tsan_switch_to_fiber_no_sync);
  __tsan_acquire(token);
  __tsan_switch_to_fiber(running, __tsan_switch_to_fiber_no_sync);
}

void forget_accesses(void *begin, void *end) {
  static_assert(sizeof(unsigned long) == sizeof(void *));
  const unsigned long address = (unsigned long)begin, size = (unsigned long)end - address;
  if (size == 0) return;
  static bool known = false;
  if (!known) __tsan_java_init(address, size);
  known = true;
  __tsan_java_alloc(address, size);
  __tsan_java_free(address, size); // else reports would take the variables for parts of this allocation
}
#endif

} // namespace cuda_on_host
