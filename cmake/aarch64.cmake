# Toolchain: compiles for 64-bit Arm on another machine, with Debian's g++-aarch64-linux-gnu, and runs
# programs under qemu (qemu-user or qemu-user-static).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
find_program(WARPLOOM_QEMU NAMES qemu-aarch64 qemu-aarch64-static REQUIRED)
set(CMAKE_CROSSCOMPILING_EMULATOR ${WARPLOOM_QEMU} -L /usr/aarch64-linux-gnu)
