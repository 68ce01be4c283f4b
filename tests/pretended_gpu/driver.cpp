// As much of a CUDA driver as autograd asks for, for tests/pretended_gpu/device.py.
// Built as libcuda.so.1 and preloaded: PyTorch opens a library of that name, and finds this one.

static signed char devices = 0;  // none while PyTorch is imported: it would start the driver

extern "C" void pretend_devices(signed char count) { devices = count; }

extern "C" int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 0;
  return 0;
}

namespace c10::cuda {
signed char device_count() noexcept { return devices; }
}  // namespace c10::cuda
