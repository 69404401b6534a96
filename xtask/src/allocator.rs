//! Memory that is kept instead of given back.

/// Tells glibc to keep freed memory.
///
/// Tensors of some megabytes come and go with every operation. By default each is given back to the system and every page of the
/// next one is faulted in again, which costs more than most elementwise operations themselves (three quarters of a GELU with its
/// gradient). Elsewhere this does nothing.
pub fn tune() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let settings = [
            // The largest value that glibc accepts; one above it is refused and leaves the default of 128 KiB.
            (libc::M_MMAP_THRESHOLD, 32 << 20),
            (libc::M_TRIM_THRESHOLD, 1 << 30),
            (libc::M_TOP_PAD, 64 << 20),
        ];
        for (parameter, value) in settings {
            // SAFETY: mallopt takes two integers, touches only the allocator's own settings, and is called before any other
            // thread exists. A refused setting leaves the default, which is slower and as correct.
            unsafe { libc::mallopt(parameter, value) };
        }
    }
}
