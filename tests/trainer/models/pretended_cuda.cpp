// Lets PyTorch's autograd take fake tensors on cuda:0 where there is no GPU and no driver: guards that do nothing, and
// answers of a machine that has cuDNN. Compiled and loaded by channels_last_on_cuda.py, in a process of its own.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace {

const c10::Device kDevice(c10::DeviceType::CUDA, 0);

struct Guard final : public c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }

  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
};

Guard guard;

bool yes(const void*) { return true; }
bool yes_for(const void*, c10::DeviceIndex) { return true; }

// Puts another function in the place of a virtual one. GCC's and Clang's ABI: a pointer to a virtual member function
// is its offset in the table, plus one.
template <class Member>
void replace(const at::CUDAHooksInterface& hooks, Member member, void* function) {
  std::ptrdiff_t offset;
  std::memcpy(&offset, &member, sizeof offset);
  void** slot = reinterpret_cast<void**>(*reinterpret_cast<char* const*>(&hooks) + offset - 1);
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  void* start = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(slot) & ~(page - 1));
  mprotect(start, 2 * page, PROT_READ | PROT_WRITE);
  *slot = function;
}

}  // namespace

extern "C" void pretend_cuda() {
  const auto& hooks = at::detail::getCUDAHooks();
  replace(hooks, &at::CUDAHooksInterface::hasCuDNN, reinterpret_cast<void*>(&yes));
  replace(hooks, &at::CUDAHooksInterface::supportsBFloat16ConvolutionWithCuDNNv8, reinterpret_cast<void*>(&yes));
  replace(hooks, &at::CUDAHooksInterface::hasPrimaryContext, reinterpret_cast<void*>(&yes_for));
  c10::impl::device_guard_impl_registry[static_cast<std::size_t>(c10::DeviceType::CUDA)].store(&guard);
}
